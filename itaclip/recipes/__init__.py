"""Recipes: every training-free method, by name. This is the only place that knows methods."""

from collections.abc import Mapping

from ..errors import InputError
from .base import Recipe, key, varied
from .registry import RECIPES, RecipeEntry, list_recipes, register

# Each module registers its methods.
from .last_block import LastBlock  # isort: skip
from . import dual_path, resclip, scclip, rfclip, pearl  # noqa: F401  # isort: skip
from . import proxyclip, gla_clip, cass, trident, corrclip  # noqa: F401  # isort: skip

__all__ = [
    "RECIPES",
    "LastBlock",
    "Recipe",
    "RecipeEntry",
    "key",
    "list_recipes",
    "register",
    "resolve_recipe",
]


def resolve_recipe(attention: str | Mapping | Recipe, num_blocks: int) -> Recipe:
    """Turns the ``attention`` key of a config into a validated recipe for a tower.

    Args:
        attention: a recipe's name, or ``dict(recipe=name, key=value, …)`` to vary one, or a
            :class:`Recipe`.
        num_blocks: depth L of the image encoder.

    Raises:
        InputError: unknown recipe or key, a value of the wrong kind, an impossible combination, or
            block numbers that do not belong to this tower.
    """
    if isinstance(attention, Recipe):
        return varied(attention, "given", {}, num_blocks)
    if isinstance(attention, str):
        attention = {"recipe": attention}
    if not isinstance(attention, Mapping) or "recipe" not in attention:
        raise InputError(
            "attention: expected a recipe's name or dict(recipe=name, …), but got "
            f"{attention!r}; recipes: {', '.join(RECIPES)}."
        )
    changes = dict(attention)
    name = changes.pop("recipe")
    if name not in RECIPES:
        raise InputError(
            f"attention: unknown recipe {name!r}; expected one of {', '.join(RECIPES)}."
        )
    return varied(RECIPES[name], name, changes, num_blocks)
