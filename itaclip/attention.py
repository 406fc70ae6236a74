"""Recipes: how the last block of CLIP's image encoder turns tokens into dense features.

This is the only module that knows methods. A recipe is data (:class:`Recipe`); the arithmetic is in
pure functions below.

Shapes: B batch, M heads, N = 1 + h·w tokens (token 0 is [CLS]), d head width, D = M·d width.
Height comes before width; blocks are counted from 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError

SIMILARITY_TERMS = ("qk", "qq", "kk", "vv")
TERMS = (*SIMILARITY_TERMS, "identity", "window")


class Projections(NamedTuple):
    """Queries, keys and values of one block, each (B, M, N, d)."""

    q: Tensor
    k: Tensor
    v: Tensor


@dataclass(frozen=True)
class Recipe:
    """One training-free method, as a description of the last block.

    With attention ``Ā``, the block computes (r: residual kept, f: feed-forward kept)::

        Z_L = r · Z_{L-1} + OutProj(Ā V),    Z_L ← Z_L + f · MLP(LN2(Z_L))
        Ā   = (1 - w) · A_L + w · mean of A_i over the middle layers i
        A_i = Σ over terms of softmax(s · term_i + ω),   s = d^-½, ω only in the last block

    Args:
        terms: similarity terms that are summed: ``'qk'``, ``'qq'``, ``'kk'``, ``'vv'``, or
            ``'identity'`` (the map I), or ``'window'`` (softmax of ω alone, NACLIP eq. 14).
        residual: whether the block's input is added to its attention output (r).
        feed_forward: whether the block's MLP is applied (f).
        middle_layers: blocks whose own maps are averaged in, counted from 1; ``'scaled'`` maps the
            recipe's blocks of a 12-block tower to the same relative depth of another tower.
        middle_weight: w, the share of the middle layers' mean (ITACLIP eq. 6: ½).
        gaussian_std: σ of the Gaussian neighbourhood ω in patches (NACLIP eq. 11-15); None = off.
        depth: number of blocks that ``middle_layers`` was chosen for.
        source: the publication.
    """

    terms: tuple[str, ...] = ("qk",)
    residual: bool = True
    feed_forward: bool = True
    middle_layers: tuple[int, ...] | str = ()
    middle_weight: float = 0.5
    gaussian_std: float | None = None
    depth: int | None = None
    source: str = ""

    def for_depth(self, num_blocks: int, name: str = "") -> "Recipe":
        """Returns the recipe with block indices that are valid in a tower of ``num_blocks``.

        Raises:
            InputError: the recipe's indices were chosen for a tower of another depth, or lie
                outside 1 … ``num_blocks`` - 1.
        """
        if not self.middle_layers or self.middle_weight == 0:
            return replace(self, middle_layers=())
        if self.depth not in (None, num_blocks):
            scaled = tuple(round(i * num_blocks / self.depth) for i in self.middle_layers)
            raise InputError(
                f"attention: recipe {name!r} reads middle layers {self.middle_layers} of a "
                f"tower of {self.depth} blocks, but the image encoder has {num_blocks}; choose "
                f"them with attention=dict(recipe={name!r}, middle_layers=…), such as {scaled} or "
                "'scaled'."
            )
        wrong = [i for i in self.middle_layers if not 1 <= i < num_blocks]
        if wrong:
            raise InputError(
                f"attention.middle_layers: expected blocks from 1 to {num_blocks - 1} (the last "
                f"block is always read), but got {wrong[0]} in {self.middle_layers}."
            )
        return self


_NACLIP = "Hajimiri et al., NACLIP, WACV 2025"
_ITACLIP = "Aydın et al., ITACLIP, CVPRW 2025, eq. 3-7"

RECIPES: dict[str, Recipe] = {
    "clip": Recipe(source="Radford et al., CLIP, ICML 2021"),
    "maskclip": Recipe(
        terms=("identity",),
        residual=False,
        feed_forward=False,
        source="Zhou et al., MaskCLIP, ECCV 2022, in the reduced form of later papers",
    ),
    "maskclip_original": Recipe(
        terms=("identity",), source="Zhou et al., MaskCLIP, ECCV 2022 (residual and MLP kept)"
    ),
    "sclip": Recipe(terms=("qq", "kk"), source="Wang et al., SCLIP, ECCV 2024"),
    "clearclip": Recipe(
        terms=("qq",),
        residual=False,
        feed_forward=False,
        source="Lan et al., ClearCLIP, ECCV 2024",
    ),
    "naclip": Recipe(
        terms=("kk",), residual=False, feed_forward=False, gaussian_std=5.0, source=_NACLIP
    ),
    "naclip_vanilla": Recipe(
        terms=("kk",), gaussian_std=5.0, source=_NACLIP + ", 'Vanilla' architecture"
    ),
    "naclip_gav": Recipe(
        terms=("qk",),
        residual=False,
        feed_forward=False,
        gaussian_std=5.0,
        source=_NACLIP + ", Gaussian-augmented vanilla attention",
    ),
    "naclip_n_only": Recipe(
        terms=("window",),
        residual=False,
        feed_forward=False,
        gaussian_std=5.0,
        source=_NACLIP + ", eq. 14 without the scale that the authors' code adds",
    ),
    "itaclip": Recipe(
        terms=("qq", "kk"),
        feed_forward=False,
        middle_layers=(7, 8, 10),
        depth=12,
        source=_ITACLIP,
    ),
    "itaclip_gaussian": Recipe(
        terms=("qq", "kk"),
        feed_forward=False,
        middle_layers=(7, 8, 10),
        depth=12,
        gaussian_std=5.0,
        source=_ITACLIP + ", with NACLIP's neighbourhood in the last block",
    ),
}

_VARIABLE = tuple(f.name for f in fields(Recipe) if f.name not in ("depth", "source"))


def resolve_recipe(attention: str | Mapping | Recipe, num_blocks: int) -> Recipe:
    """Turns the ``attention`` key of a config into a validated recipe for a tower.

    Args:
        attention: a recipe's name, or ``dict(recipe=name, key=value, …)`` to vary one, or a
            :class:`Recipe`.
        num_blocks: depth L of the image encoder.

    Raises:
        InputError: unknown recipe or key, a value of the wrong kind, an impossible combination, or
            block indices that do not belong to this tower.
    """
    if isinstance(attention, Recipe):
        return _checked(attention).for_depth(num_blocks, "given")
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
    unknown = sorted(set(changes) - set(_VARIABLE))
    if unknown:
        raise InputError(
            f"attention: unknown key {unknown[0]!r} for recipe {name!r}; expected one of "
            f"{', '.join(_VARIABLE)}."
        )
    base = RECIPES[name]
    layers = changes.get("middle_layers")
    if layers == "scaled":
        if base.depth is None:
            raise InputError(
                f"attention.middle_layers: 'scaled' needs a recipe with middle layers of its own, "
                f"but {name!r} has none; give block numbers."
            )
        blocks = {round(i * num_blocks / base.depth) for i in base.middle_layers}
        changes |= {"middle_layers": tuple(sorted(blocks)), "depth": num_blocks}
    elif "middle_layers" in changes:
        changes["depth"] = num_blocks
    for key in ("terms", "middle_layers"):
        value = changes.get(key)
        if value is not None and not isinstance(value, str) and isinstance(value, Sequence):
            changes[key] = tuple(value)
    return _checked(replace(base, **changes)).for_depth(num_blocks, name)


def _checked(recipe: Recipe) -> Recipe:
    """Validates kinds, ranges and combinations of a recipe's values."""

    def expect(condition: bool, key: str, expected: str) -> None:
        if not condition:
            raise InputError(
                f"attention.{key}: expected {expected}, but got {getattr(recipe, key)!r}."
            )

    terms, layers, std = recipe.terms, recipe.middle_layers, recipe.gaussian_std
    expect(
        isinstance(terms, tuple) and len(terms) > 0 and all(t in TERMS for t in terms),
        "terms",
        f"a non-empty tuple out of {', '.join(TERMS)}",
    )
    for key in ("residual", "feed_forward"):
        expect(isinstance(getattr(recipe, key), bool), key, "True or False")
    expect(
        isinstance(layers, tuple)
        and all(isinstance(i, int) and not isinstance(i, bool) for i in layers)
        and len(set(layers)) == len(layers),
        "middle_layers",
        "different block numbers, counted from 1, or 'scaled'",
    )
    expect(_is_number(recipe.middle_weight) and 0 <= recipe.middle_weight <= 1, "middle_weight",
           "a number from 0 to 1")  # fmt: skip
    expect(std is None or (_is_number(std) and std > 0), "gaussian_std",
           "None or a number above 0, in patches")  # fmt: skip
    similarity = any(t in SIMILARITY_TERMS for t in terms)
    if "window" in terms and std is None:
        raise InputError(
            "attention: the term 'window' is made of the Gaussian neighbourhood, so gaussian_std "
            "must be a number above 0, but it is None."
        )
    if std is not None and not similarity and "window" not in terms:
        raise InputError(
            f"attention: gaussian_std={std} has no logits to be added to with terms={terms}; "
            "use a term such as 'kk' or 'window', or set gaussian_std=None."
        )
    if layers and recipe.middle_weight and not all(t in SIMILARITY_TERMS for t in terms):
        raise InputError(
            f"attention: middle_layers={layers} have no maps of their own for terms={terms}; use "
            f"only terms out of {', '.join(SIMILARITY_TERMS)}, or set middle_layers=()."
        )
    return recipe


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def gaussian_neighbourhood(
    grid: tuple[int, int], std: float, device: torch.device | None = None
) -> Tensor:
    """The logits' bias ω of NACLIP (eq. 11-13): an unnormalised Gaussian around every patch.

    ω[p, m] = exp(-‖p - m‖² / 2σ²) for patches; the row and the column of [CLS] are 0. The kernel
    separates, so ω is the Kronecker product of a table over rows and one over columns.

    Args:
        grid: (h, w) patches.
        std: σ in patches.

    Returns:
        (N, N) float32 with N = 1 + h·w, values in [0, 1].
    """

    def table(size: int) -> Tensor:
        at = torch.arange(size, dtype=torch.float32, device=device)
        return torch.exp(-((at[:, None] - at[None, :]) ** 2) / (2 * std**2))

    return F.pad(torch.kron(table(grid[0]), table(grid[1])), (1, 0, 1, 0))


def attend(
    recipe: Recipe,
    last: Projections,
    middle: Sequence[Projections],
    grid: tuple[int, int],
) -> Tensor:
    """Ā V of the recipe (ITACLIP eq. 3-6, NACLIP eq. 13).

    Ā V is linear in the attention maps, so each term is one fused attention with the values of the
    last block, and no N×N map is stored.

    Args:
        recipe: the method.
        last: projections of the last block.
        middle: projections of the recipe's middle layers, in their order.
        grid: (h, w) patches.

    Returns:
        (B, M, N, d), before the output projection.
    """
    omega = None
    if recipe.gaussian_std is not None:
        omega = gaussian_neighbourhood(grid, recipe.gaussian_std, last.v.device).to(last.v.dtype)
    out = _sum_of_terms(recipe.terms, last, last.v, omega)
    if not middle:
        return out
    fused = _sum_of_terms(recipe.terms, middle[0], last.v)
    for projections in middle[1:]:
        fused += _sum_of_terms(recipe.terms, projections, last.v)
    return out.mul_(1 - recipe.middle_weight).add_(fused, alpha=recipe.middle_weight / len(middle))


def _sum_of_terms(
    terms: Sequence[str], projections: Projections, v: Tensor, omega: Tensor | None = None
) -> Tensor:
    """Σ over terms of softmax(s · term + ω) V, (B, M, N, d)."""
    total = None
    for term in terms:
        if term == "identity":
            part = v
        elif term == "window":
            part = omega.float().softmax(-1).to(v.dtype) @ v
        else:
            left, right = (getattr(projections, letter) for letter in term)
            part = F.scaled_dot_product_attention(left, right, v, attn_mask=omega)
        total = part if total is None else total + part
    return total.clone() if total is v else total
