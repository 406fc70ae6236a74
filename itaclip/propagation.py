"""Propagation: similarities spread among patches or pixels that are alike, before upsampling.

LPOSS and LPOSS+ (Stojnić et al., CVPR 2025) and the text-free part of PEARL's (CVPR 2026) second
module. All three solve a linear system with a sparse matrix by conjugate gradients, for all queries
at once; no matrix is ever stored whole.

Shapes: L windows, h, w patches, N = L·h·w nodes, D width of the guide's features, H, W pixels,
Q queries (last). Height comes before width.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import flag, integer, number
from .errors import InputError
from .graphs import ColourStencil, SymmetricGraph, block_limit, conjugate_gradients
from .runtime.stages import stage
from .sliding_window import WindowGrid

# Elements of one vector of the solver; more columns are solved one group after the other.
_VECTOR_ELEMENTS = 1 << 26


@dataclass(frozen=True, kw_only=True)
class LPOSS:
    """LPOSS: label propagation over the patches of all windows of an image.

    Nodes are patches, joined to their k nearest by the guide's features f (unit length)::

        w_ij = max(f_i · f_j, 0)^γ · exp(-σ · ‖position_i - position_j‖)
        W ← W + Wᵀ without its diagonal,   Ŵ = D^-½ W D^-½,   (I - α Ŵ) X = Y

    Args:
        neighbours: k, the node itself included; at most all.
        sharpness: γ.
        distance: σ, per pixel between the patches' centres.
        alpha: α, how far labels spread.
        steps: of the conjugate gradients, at most; the authors' limit.
        tolerance: residual's share of the right-hand side at which a column is done.
    """

    neighbours: int = 400
    sharpness: float = 3.0
    distance: float = 0.01
    alpha: float = 0.95
    steps: int = 10
    tolerance: float = 1e-6

    patches = True
    pixels = False


@dataclass(frozen=True, kw_only=True)
class LPOSSPlus(LPOSS):
    """LPOSS+: LPOSS, and then the same among the pixels of the network's image.

    Pixels are joined to those of a square around them by colour::

        w_pq = exp(-‖Lab_p - Lab_q‖ / τ),   Lab divided by (100, 128, 128)

    Args:
        side: r of the r×r square of neighbours; even ones count as the next odd one.
        colour: τ.
        patches: False leaves LPOSS out.
    """

    side: int = 13
    colour: float = 0.01
    patches: bool = True

    pixels = True


@dataclass(frozen=True, kw_only=True)
class PEARL:
    """PEARL's propagation on a coarse grid of pixels; the diagonal alone couples texts.

    With Z the pooled similarities, p = softmax(Z) and t_c the diagonal of the texts' similarity
    (softmax of cosine / temperature plus ``diagonal``·I, rows normalised)::

        W_i = max(max_c p_ic, floor)² · (1 + a_ii),   a_ij = Σ_c p_ic t_c p_jc
        edge_ij = min(exp(-5 |I_i - I_j| / mean |ΔI|) · (1 + a_ij), 1)    (4 neighbours)
        (W + Laplacian) F = W Z

    Args:
        side: cells along the longer side of the grid (Cityscapes: 224).
        contrast: the factor 5.
        floor: least confidence.
        temperature, diagonal: of the texts' similarity.
        steps: of the conjugate gradients.
    """

    side: int = 80
    contrast: float = 5.0
    floor: float = 0.05
    temperature: float = 0.5
    diagonal: float = 10.0
    steps: int = 25

    patches = False
    pixels = True


Propagation = LPOSS | PEARL
METHODS: dict[str, type[LPOSS] | type[PEARL]] = {
    "lposs": LPOSS,
    "lposs_plus": LPOSSPlus,
    "pearl": PEARL,
}
_COUNTS = {"neighbours": 1, "steps": 1, "side": 1}
_SHARES = {"alpha", "floor"}
_ABOVE_ZERO = {"colour", "temperature"}


def parse_propagation(propagation: str | Mapping | Propagation | None) -> Propagation | None:
    """Validates the ``propagation`` key: None, a method's name, or ``dict(method=…, key=value)``.

    Raises:
        InputError: unknown method or key, or a value out of range.
    """
    if propagation is None or isinstance(propagation, LPOSS | PEARL):
        return propagation
    given = {"method": propagation} if isinstance(propagation, str) else propagation
    if not isinstance(given, Mapping) or given.get("method") not in METHODS:
        raise InputError(
            f"propagation: expected None, {', '.join(map(repr, METHODS))}, or dict(method=…, …), "
            f"but got {propagation!r}."
        )
    values: dict[str, Any] = {key: value for key, value in given.items() if key != "method"}
    kind = METHODS[given["method"]]
    known = [f.name for f in fields(kind)]
    for key, value in values.items():
        name = f"propagation.{key}"
        if key not in known:
            raise InputError(
                f"{name}: no such key of {given['method']!r}; expected one of {', '.join(known)}."
            )
        if key == "patches":
            values[key] = flag(value, name)
        elif key in _COUNTS:
            values[key] = integer(value, name, _COUNTS[key])
        elif key in _SHARES:
            values[key] = number(value, name, high=1)
        else:
            values[key] = number(value, name, above=key in _ABOVE_ZERO)
    made = kind(**values)
    if isinstance(made, LPOSS) and made.alpha == 1:
        raise InputError("propagation.alpha: expected a number below 1, but got 1.")
    return made


# ---- at the segmentor's seams -------------------------------------------------------------------


def spread_over_patches(
    windows: WindowGrid, maps: Sequence[Tensor], guide: Tensor, settings: LPOSS
) -> list[Tensor]:
    """LPOSS over the patches of all windows of an image.

    Args:
        windows: R·K windows.
        maps: for each row of windows the similarities (K, h, w, Q).
        guide: (R·K, gh, gw, G); brought to h×w.

    Returns:
        As ``maps``.
    """
    joined = torch.cat(list(maps))  # R·K, h, w, Q
    patches = tuple(joined.shape[1:3])
    if tuple(guide.shape[1:3]) != patches:
        moved = F.interpolate(
            guide.permute(0, 3, 1, 2), patches, mode="bilinear", align_corners=False
        )
        guide = moved.permute(0, 2, 3, 1)
    positions = windows.centres(patches).to(joined.device)
    spread = propagate_patches(joined.flatten(0, 2), guide.flatten(0, 2), positions, settings)
    return list(spread.view_as(joined).split(len(windows.lefts)))


def spread_over_pixels(
    logits: Tensor, picture: Tensor, text: Tensor, settings: Propagation
) -> Tensor:
    """LPOSS+'s or PEARL's propagation over the pixels of the network's image.

    Args:
        logits: (H, W, Q).
        picture: (3, H, W) RGB, 0 to 1.
        text: (Q, E).
    """
    if isinstance(settings, PEARL):
        return propagate_pearl(logits, picture, text, settings)
    assert isinstance(settings, LPOSSPlus)
    return propagate_pixels(logits, picture, settings)


# ---- LPOSS: patches -----------------------------------------------------------------------------


def propagate_patches(
    similarities: Tensor, features: Tensor, positions: Tensor, settings: LPOSS
) -> Tensor:
    """LPOSS.

    Args:
        similarities: (N, Q), Y.
        features: (N, D) of the guide; their length does not matter.
        positions: (N, 2) centres of the patches in pixels of the network's image.

    Returns:
        (N, Q), X.
    """
    with stage("propagation"):
        index, weights = nearest_neighbours(features, positions, settings)
        graph = SymmetricGraph(index, weights)
        return _solve_in_groups(
            lambda x: x - settings.alpha * graph.normalised(x), similarities, settings
        )


def nearest_neighbours(
    features: Tensor, positions: Tensor, settings: LPOSS
) -> tuple[Tensor, Tensor]:
    """The k nearest of every node by inner product, and the weights of the joins.

    Returns:
        Indices (N, k) int32 and weights (N, k); a node's weight with itself is 0.
    """
    unit = F.normalize(features.float(), dim=-1)
    count = len(unit)
    k = min(settings.neighbours, count)
    rows = max(1, block_limit(unit.device) // count)
    index = torch.empty(count, k, dtype=torch.int32, device=unit.device)
    weights = unit.new_empty(count, k)
    for first in range(0, count, rows):
        own = slice(first, first + rows)
        near, at = (unit[own] @ unit.T).topk(k, dim=1)
        weight = near.clamp_min(0) ** settings.sharpness
        if settings.distance:
            apart = (positions[own, None] - positions[at]).norm(dim=-1)
            weight *= torch.exp(-settings.distance * apart)
        myself = torch.arange(first, first + len(at), device=at.device)[:, None]
        weights[own] = weight.masked_fill_(at == myself, 0)
        index[own] = at
    return index, weights


# ---- LPOSS+: pixels -----------------------------------------------------------------------------


def propagate_pixels(logits: Tensor, image: Tensor, settings: LPOSSPlus) -> Tensor:
    """LPOSS+'s second stage.

    Args:
        logits: (H, W, Q).
        image: (3, H, W) RGB, 0 to 1.

    Returns:
        (H, W, Q).
    """
    with stage("propagation"):
        stencil = ColourStencil(image, settings.side // 2, settings.colour)
        flat = logits.float().permute(2, 0, 1).flatten(1).T  # H·W, Q, the pixels contiguous
        solved = _solve_in_groups(
            lambda x: x - settings.alpha * stencil.normalised(x), flat, settings
        )
        return solved.view(*logits.shape)


# ---- PEARL --------------------------------------------------------------------------------------


def propagate_pearl(logits: Tensor, image: Tensor, text: Tensor, settings: PEARL) -> Tensor:
    """PEARL's propagation.

    Args:
        logits: (H, W, Q) cosine similarities.
        image: (3, H', W') RGB, 0 to 1.
        text: (Q, E), unit length.

    Returns:
        (H, W, Q).
    """
    with stage("propagation"):
        height, width = logits.shape[:2]
        shrink = min(1.0, settings.side / max(height, width))
        grid = tuple(max(1, round(side * shrink)) for side in (height, width))
        z = F.adaptive_avg_pool2d(logits.permute(2, 0, 1), grid).permute(1, 2, 0)  # gh, gw, Q
        picture = F.adaptive_avg_pool2d(image, grid).permute(1, 2, 0)
        p = z.softmax(-1)
        coupling = (text @ text.T / settings.temperature).softmax(-1)
        coupling = coupling + settings.diagonal * torch.eye(len(text), device=text.device)
        t = (coupling / coupling.sum(-1, keepdim=True)).diagonal()
        confidence = p.amax(-1).clamp_min(settings.floor) ** 2
        data = (confidence * (1 + (p * p * t).sum(-1))).unsqueeze(-1)  # gh, gw, 1

        contrasts = [_steps_along(picture, axis).abs().mean(-1) for axis in (0, 1)]
        mean = torch.cat([c.flatten() for c in contrasts]).mean().clamp_min(1e-8)
        edges = []
        for axis, contrast in enumerate(contrasts):
            here, there = _ends(p, axis)
            agree = (here * there * t).sum(-1)
            weight = torch.exp(-settings.contrast * contrast / mean) * (1 + agree)
            edges.append(weight.clamp_max(1).unsqueeze(-1))

        def system(f: Tensor) -> Tensor:
            f = f.view(*grid, -1)
            out = data * f
            for axis, weight in enumerate(edges):
                flow = weight * _steps_along(f, axis)
                here, there = _ends(out, axis)
                here -= flow
                there += flow
            return out.flatten(0, 1)

        start = z.flatten(0, 1)
        solved = conjugate_gradients(
            system, (data * z).flatten(0, 1), settings.steps, 1e-6, start=start
        )
        solved = solved.view(1, *grid, -1).permute(0, 3, 1, 2)
        solved = F.interpolate(solved, (height, width), mode="bilinear", align_corners=False)
        return solved[0].permute(1, 2, 0).contiguous()


def _ends(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Views of a map (gh, gw, …): the cells that have a next one along an axis, and those next."""
    length = x.shape[axis]
    return x.narrow(axis, 0, length - 1), x.narrow(axis, 1, length - 1)


def _steps_along(x: Tensor, axis: int) -> Tensor:
    here, there = _ends(x, axis)
    return there - here


def _solve_in_groups(system: Callable[[Tensor], Tensor], right: Tensor, settings: LPOSS) -> Tensor:
    """Columns in groups that bound the solver's memory."""
    right = right.float()
    groups = math.ceil(right.numel() / _VECTOR_ELEMENTS)
    columns: Sequence[Tensor] = right.tensor_split(max(1, min(groups, right.shape[1])), dim=1)
    solved = [
        conjugate_gradients(system, own, settings.steps, settings.tolerance) for own in columns
    ]
    return torch.cat(solved, dim=1).contiguous()
