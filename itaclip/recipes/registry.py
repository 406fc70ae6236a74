"""Every recipe by name: registered where it is written, listed and filtered here."""

import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .base import Recipe, keys_of


class _Table(dict):
    """Names → recipes; a name is given once."""

    def __setitem__(self, name: str, recipe: Recipe) -> None:
        if name in self:
            raise InputError(
                f"recipes: the name {name!r} is taken by {self[name].source or type(self[name])}; "
                "choose another one."
            )
        super().__setitem__(name, recipe)


RECIPES: dict[str, Recipe] = _Table()


def register(
    name: str,
    *,
    source: str = "",
    exact: str = "",
    left_out: str = "",
    depth: int | None = 12,
    **values: Any,
) -> Callable[[type[Recipe]], type[Recipe]]:
    """Registers a recipe's class, with these values of its fields, under a name.

    One class may be registered under several names, with other values.

    Args:
        name: what configs call it.
        source: the publication.
        exact: what of it is computed as published.
        left_out: what is inferred or left out.
        depth: number of blocks that the block numbers were chosen for; None where there are none.
        values: of the class's fields.

    Raises:
        InputError: the name is taken.

    Example:
        >>> @register("mine", source="me, 2026")
        ... @dataclass(frozen=True, kw_only=True)
        ... class Mine(Recipe): ...
    """

    def add(kind: type[Recipe]) -> type[Recipe]:
        about: dict[str, Any] = dict(
            name=name, source=source, exact=exact, left_out=left_out, depth=depth
        )
        RECIPES[name] = kind(**about, **values)
        return kind

    return add


@dataclass(frozen=True)
class RecipeEntry:
    """A line of :func:`list_recipes`.

    Attributes:
        name: what configs call it.
        source: the publication.
        exact: what of it is computed as published.
        left_out: what is inferred or left out.
        needs: what it needs beyond CLIP and an image, out of ``'text'``, ``'guide'``,
            ``'regions'``.
        keys: what configs can vary, with the published values.
    """

    name: str
    source: str
    exact: str
    left_out: str
    needs: tuple[str, ...]
    keys: dict[str, Any]


def list_recipes(
    pattern: str = "*", *, needs: str | None = None, without: str | None = None
) -> list[RecipeEntry]:
    """The registered recipes, in the order of registration.

    Args:
        pattern: of the name or of the source, such as ``'naclip*'`` or ``'*WACV*'``.
        needs: only those that need it: ``'text'``, ``'guide'`` or ``'regions'``.
        without: only those that do not.

    Raises:
        InputError: a need that is none.
    """
    for given in (needs, without):
        if given not in (None, *Recipe.NEEDS):
            raise InputError(
                f"list_recipes: expected one of {', '.join(map(repr, Recipe.NEEDS))}, but got "
                f"{given!r}."
            )
    return [
        entry
        for entry in _entries()
        if any(fnmatch.fnmatchcase(text, pattern) for text in (entry.name, entry.source))
        and (needs is None or needs in entry.needs)
        and (without is None or without not in entry.needs)
    ]


def _entries() -> Iterator[RecipeEntry]:
    for name, recipe in RECIPES.items():
        keys = {key: getattr(recipe, key) for key in keys_of(recipe)}
        needs = tuple(need for need in Recipe.NEEDS if getattr(recipe, f"needs_{need}"))
        yield RecipeEntry(name, recipe.source, recipe.exact, recipe.left_out, needs, keys)
