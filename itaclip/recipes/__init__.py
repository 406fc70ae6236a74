"""Recipes: every training-free method, by name. This is the only place that knows methods."""

from collections.abc import Mapping

from ..errors import InputError
from .base import Recipe, key, varied
from .dual_path import DUAL_PATH_RECIPES
from .last_block import LAST_BLOCK_RECIPES, LastBlock
from .pearl import PEARL_RECIPES
from .resclip import RESCLIP_RECIPES
from .rfclip import RFCLIP_RECIPES
from .scclip import SCCLIP_RECIPES

__all__ = ["RECIPES", "LastBlock", "Recipe", "key", "resolve_recipe"]

RECIPES: dict[str, Recipe] = {
    **LAST_BLOCK_RECIPES,
    **DUAL_PATH_RECIPES,
    **RESCLIP_RECIPES,
    **SCCLIP_RECIPES,
    **RFCLIP_RECIPES,
    **PEARL_RECIPES,
}


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
