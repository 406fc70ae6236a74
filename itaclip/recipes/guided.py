"""Attention that a second backbone guides: what ProxyCLIP and its descendants share.

Shapes: B windows, P = gh·gw patches of the guide, N = 1 + h·w tokens of CLIP, M heads, d head
width, D = M·d, G width of the guide's features.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..guide import GuideFeatures
from .base import Recipe
from .tower import Tower

# Rows of one block of an attention map that is made row by row.
_BLOCK_ELEMENTS = dict(cpu=1 << 22, cuda=1 << 27)


@dataclass(frozen=True, kw_only=True)
class Guided(Recipe):
    """A method whose last block attends among the guide's patches, on the guide's grid.

    The last block is reduced to ``OutProj(A V)``: neither residual nor MLP, [CLS] takes no part.
    """

    needs_guide = True

    def spread(self, tower: Tower, values: Tensor) -> Tensor:
        """A applied to values (B, P, c) on the guide's grid; the same for all heads."""
        raise NotImplementedError

    def output_grid(self, tower: Tower) -> tuple[int, int]:
        return guide_of(tower).grid

    def mix(self, tower: Tower, values: Tensor) -> Tensor:
        """As everywhere, on CLIP's own grid: for drawing attention."""
        patches = values[:, :, 1:].transpose(1, 2)  # B, N - 1, M, c
        heads = patches.shape[2:]
        grid = guide_of(tower).grid
        on_guide = resize_grid(patches.flatten(2), tower.grid, grid)
        mixed = resize_grid(self.spread(tower, on_guide), grid, tower.grid)
        mixed = mixed.unflatten(2, heads).transpose(1, 2).to(values.dtype)
        return F.pad(mixed, (0, 0, 1, 0))  # [CLS] takes no part

    def tokens(self, tower: Tower) -> Tensor:
        values = values_on_grid(tower, guide_of(tower).grid)
        return tower.with_cls(project_out(tower, self.spread(tower, values)))


def guide_of(tower: Tower) -> GuideFeatures:
    """What the guide sees: a method with ``needs_guide`` never runs without."""
    assert tower.guide is not None
    return tower.guide


def values_on_grid(tower: Tower, grid: tuple[int, int]) -> Tensor:
    """V of the last block without [CLS], heads side by side, on another grid: (B, P, D)."""
    values = tower.last.v[:, :, 1:].transpose(1, 2).flatten(2)
    return resize_grid(values, tower.grid, grid)


def project_out(tower: Tower, mixed: Tensor) -> Tensor:
    """OutProj of the last block, (B, P, D) → (B, P, D) fp32."""
    weight = tower.blocks[-1].attn.out_proj.weight
    return tower.out(mixed.to(weight.dtype).unsqueeze(1))


def resize_grid(patches: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Patches (B, h·w, c) on another grid, bilinear, ``align_corners=False``."""
    if tuple(grid) == tuple(target):
        return patches
    maps = patches.transpose(1, 2).unflatten(2, tuple(grid)).contiguous()
    maps = F.interpolate(maps.float(), size=tuple(target), mode="bilinear", align_corners=False)
    return maps.flatten(2).transpose(1, 2).to(patches.dtype)


def row_blocks(rows: int, columns: int, device: torch.device) -> Iterator[slice]:
    """Slices of rows of a map that is too large to be held."""
    limit = _BLOCK_ELEMENTS["cuda" if device.type == "cuda" else "cpu"]
    step = max(1, limit // max(1, columns))
    return (slice(first, min(first + step, rows)) for first in range(0, rows, step))


def unit_tokens(guide: GuideFeatures) -> Tensor:
    """The guide's patch tokens of length 1, (B, P, G) fp32."""
    assert guide.tokens is not None
    return F.normalize(guide.tokens.float(), dim=-1)


def mean_similarity(unit: Tensor) -> Tensor:
    """Mean of all cosines of a window's patches with each other, (B, P, G) → (B,).

    It is the squared length of the mean vector: the P×P map is not needed for it.
    """
    return unit.double().mean(1).square().sum(-1).float()


def proxy_attention(
    unit: Tensor, values: Tensor, mean: Tensor, shift: float, sharpness: float
) -> Tensor:
    """softmax(γ (S - β·mean)) V, with what is below 0 left out (ProxyCLIP, ECCV 2024, eq. 5-7).

    Args:
        unit: (B, P, G) of length 1; S is their cosine.
        values: (B, P, c).
        mean: (B,), what β is a multiple of.
        shift: β.
        sharpness: γ.

    Returns:
        (B, P, c), the data type of the values. A row with nothing above 0 keeps its largest.
    """
    out = torch.empty_like(values)
    for window in range(len(unit)):
        own = unit[window]
        for rows in row_blocks(len(own), len(own), own.device):
            logits = sharpness * (own[rows] @ own.T - shift * mean[window])
            least = logits.amax(-1, keepdim=True).clamp_max(0)
            weights = logits.masked_fill_(logits < least, -torch.inf).softmax(-1)
            out[window, rows] = weights.to(values.dtype) @ values[window]
    return out
