"""Trident (ICCV 2025): ProxyCLIP's attention, windows that meet, and SAM's correlation.

Windows meet before the final layer norm (``test_cfg`` ``merge='stitch'``); the picture's one map is
then smoothed by the attention of SAM's last block.

Shapes: S side of SAM's grid, with padding; hs, ws its valid part; M heads, d head width.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..guide import Guide, GuideReads
from .base import key
from .guided import (
    Guided,
    guide_of,
    mean_similarity,
    proxy_attention,
    resize_grid,
    row_blocks,
    unit_tokens,
)
from .registry import register
from .tower import Tower


@register(
    "trident",
    source="Shi et al., Trident, ICCV 2025",
    exact="attention with one mean for the picture, sizes, splice, SAM's correlation",
    left_out="SAM sees the network's picture, not the file's; refinement of masks: regions",
    depth=None,
)
@dataclass(frozen=True, kw_only=True)
class Trident(Guided):
    """Trident: A as ProxyCLIP's, with the mean over all windows; then SAM's correlation.

    With q, k, v of SAM's last block, a its softmax attention with relative positions, and s the
    cosine of the values, head by head::

        t_i = c · mean over heads and j of s_ij;   t_i < 0 → 0.6 without ``negative``;   at most 0.9
        a_ij ← a_ij where s_ij > t_i, else 0;   Ā = mean over heads, rows divided by their sums

    Args:
        shift: β.
        sharpness: γ.
        correlation: c; None leaves the step out, and needs no SAM.
        negative: whether thresholds below 0 stay (``refine_neg_cos``).
        halves: the picture goes through SAM in a left and a right half (Cityscapes).
        multiple: sides of the network's picture are brought to multiples of so many pixels, and to
            the window's at least; 1 is off.
    """

    shift: float = key(1.2, "number")
    sharpness: float = key(3.0, "positive")
    correlation: float | None = key(1.2, "number or None")
    negative: bool = key(True, "flag")
    halves: bool = key(False, "flag")
    multiple: int = key(16, "count")

    joint = True
    meets = "tokens"

    @property
    def needs_sam(self) -> bool:
        return self.correlation is not None

    @property
    def needs_stitch(self) -> bool:
        return self.correlation is not None

    def picture_size(self, size: tuple[int, int], least: tuple[int, int]) -> tuple[int, int]:
        """Size of the network's picture; see :func:`trident_size`."""
        return size if self.multiple == 1 else trident_size(size, least, self.multiple)

    def spread(self, tower: Tower, values: Tensor) -> Tensor:
        unit = unit_tokens(guide_of(tower))
        mean = mean_similarity(unit).mean().expand(len(unit))
        return proxy_attention(unit, values, mean, self.shift, self.sharpness)

    def on_picture(
        self,
        patches: Tensor,
        grid: tuple[int, int],
        image: Tensor,
        sam: Guide | None,
        dtype: torch.dtype,
    ) -> tuple[Tensor, tuple[int, int]]:
        """SAM's correlation of the picture's patches (1, P, D); also the grid of the result."""
        if self.correlation is None:
            return patches, grid
        assert sam is not None
        if not self.halves:
            return sam_correlation(
                patches, grid, image, sam, self.correlation, self.negative, dtype
            )
        # As published: halves of the picture, and of the map, side by side again afterwards.
        maps, middle = patches.unflatten(1, grid), grid[1] // 2
        cut = image.shape[-1] // 2
        parts = []
        for own, pixels in (
            (maps[:, :, :middle], image[..., :cut]),
            (maps[:, :, middle:], image[..., cut:]),
        ):
            half, (hs, ws) = sam_correlation(
                own.flatten(1, 2), tuple(own.shape[1:3]), pixels, sam, self.correlation,
                self.negative, dtype,
            )  # fmt: skip
            parts.append(half.unflatten(1, (hs, ws)))
        joined = torch.cat(parts, dim=2)
        return joined.flatten(1, 2), tuple(joined.shape[1:3])


def trident_size(
    size: tuple[int, int], least: tuple[int, int], multiple: int = 16
) -> tuple[int, int]:
    """The size to which Trident brings a picture.

    A picture whose sides are multiples of 16 stays. Else the longer side goes up to a multiple, the
    other follows in proportion and up to a multiple, and both are raised to the window's.

    Args:
        size: (H, W).
        least: the window's (H, W).
    """
    if not any(side % multiple for side in size):
        height, width = size
        return height, width
    long = max(size)
    wanted = -(-long // multiple) * multiple
    sides = [-(-(side * wanted) // (long * multiple)) * multiple for side in size]
    height, width = (max(side, low) for side, low in zip(sides, least, strict=True))
    return height, width


def sam_correlation(
    patches: Tensor,
    grid: tuple[int, int],
    image: Tensor,
    sam: Guide,
    factor: float,
    negative: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, tuple[int, int]]:
    """Patches (1, P, D) on SAM's grid, each the mean of those it is correlated with."""
    found = sam(image[None], GuideReads(("q", "k", "v"), padding=True), dtype)
    side, (hs, ws) = found.grid[0], sam.grid(tuple(image.shape[-2:]))
    patches = resize_grid(patches, grid, (hs, ws))[0]
    valid = torch.arange(side * side, device=image.device).view(side, side)[:hs, :ws].flatten()
    q, k, v = (t[0] for t in (found.q, found.k, found.v))  # M, S², d
    unit = F.normalize(v[:, valid], dim=-1)
    threshold = factor * torch.einsum("mid,md->i", unit, unit.mean(1)) / len(unit)
    if not negative:
        threshold = threshold.masked_fill(threshold < 0, 0.6)
    threshold = threshold.clamp_max(0.9)[:, None]
    tables = sam.relative_positions()
    out = torch.empty_like(patches)
    for rows in row_blocks(len(valid), len(k[0]), image.device):
        own = valid[rows]
        total: Any = 0
        for head in range(len(q)):
            logits = q[head, own] @ k[head].T * q.shape[-1] ** -0.5
            logits = logits + relative_logits(q[head, own], own, side, tables)
            weights = logits.softmax(-1)[:, valid]
            similar = unit[head, rows] @ unit[head].T
            total = total + weights.masked_fill_(similar <= threshold[rows], 0)
        sums = total.sum(-1, keepdim=True)
        mixed = total @ patches / sums.clamp_min(torch.finfo(sums.dtype).tiny)
        out[rows] = torch.where(sums > 0, mixed, patches[rows])  # nothing above: it stays itself
    return out[None], (hs, ws)


def relative_logits(
    queries: Tensor, places: Tensor, side: int, tables: tuple[Tensor, Tensor] | None
) -> Tensor:
    """SAM's relative positions: q · (R_row[y - y'] + R_column[x - x']), (R, S²).

    Args:
        queries: (R, d), not scaled.
        places: (R,) their places in the S×S grid.
        tables: (2S - 1, d) for rows and for columns; None where the model has none.
    """
    if tables is None:
        return queries.new_zeros(())
    at = torch.arange(side, device=queries.device)
    parts = []
    for own, table in zip((places // side, places % side), tables, strict=True):
        offsets = own[:, None] - at + side - 1  # R, S
        parts.append(torch.einsum("rd,rsd->rs", queries, table[offsets]))
    return (parts[0][:, :, None] + parts[1][:, None, :]).flatten(1)
