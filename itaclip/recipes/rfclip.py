"""RF-CLIP (AAAI 2026), the encoder of its published code, which differs from its paper."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from .attention import mean_over_blocks
from .base import Recipe, key
from .patch_tokens import aggregate, cosine_similarity, mean_3x3
from .registry import register
from .tower import Reads, Tower


@register(
    "rfclip",
    source="RF-CLIP, AAAI 2026, encoder of the published code",
    exact="encoder of the published code",
    left_out="borders of the 3×3 mean; the segmentor's global term and text prototypes",
)
@dataclass(frozen=True, kw_only=True)
class RFCLIP(Recipe):
    """RF-CLIP: patches that spike in known channels are smoothed after every block; then the mean
    of all blocks' k-k maps attends twice, to aggregated patches and to the mean of all outputs.

    Args:
        channels: where distracting patches spike: found for ViT-B/16 by its authors, so another
            model needs its own; () smooths nothing.
        spike: a patch is smoothed where its share in one of these channels, after the patch's
            minimum is taken off, is above ``spike`` / D.
        smoothing: share of the 3×3 mean in smoothed patches.
        similarity_threshold: smaller similarities do not aggregate.
    """

    channels: tuple[int, ...] = key((4, 162, 189, 326, 429, 474, 633, 713), "integers")
    spike: float = key(5.0, "positive")
    smoothing: float = key(0.4, "share")
    similarity_threshold: float = key(0.4, "number")

    needs_cls = False

    def check_width(self, width: int) -> None:
        if any(not 0 <= channel < width for channel in self.channels):
            raise InputError(
                f"attention.channels: expected channels from 0 to {width - 1}, but got "
                f"{self.channels}; give those where this model's tokens spike, or () to smooth "
                "nothing."
            )

    def reads(self, depth: int) -> Reads:
        before_last = tuple(range(1, depth))
        return Reads(before_last, before_last)

    def after_block(self, number: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        if not self.channels:
            return tokens
        prefix = tokens.shape[1] - grid[0] * grid[1]
        cls, patches = tokens[:, :prefix], tokens[:, prefix:]
        shifted = patches - patches.amin(-1, keepdim=True)
        # Channel by channel: a list as index would be copied to the device in every block.
        spikes = torch.stack([shifted[..., channel] for channel in self.channels], dim=-1)
        share = spikes.amax(-1) / shifted.sum(-1)  # B, P
        spiking = (share > self.spike / tokens.shape[-1]).unsqueeze(-1)
        smooth = torch.lerp(patches, mean_3x3(patches, grid), self.smoothing)
        return torch.cat([cls, torch.where(spiking, smooth, patches)], dim=1)

    def _attention(self, tower: Tower, values: Tensor) -> Tensor:
        """Mean over all blocks of softmax(s k kᵀ) among patches, on values (B, M, P, c)."""
        blocks = [tower.projections_of(i).patches(tower.prefix) for i in range(1, tower.depth + 1)]
        return mean_over_blocks(("kk",), blocks, values)

    def mix(self, tower: Tower, values: Tensor) -> Tensor:
        prefix = tower.prefix
        return F.pad(self._attention(tower, values[:, :, prefix:]), (0, 0, prefix, 0))

    def tokens(self, tower: Tower) -> Tensor:
        final = self.after_block(tower.depth, tower.final_tokens(), tower.grid)
        outputs = [*(tower.outputs[i] for i in range(1, tower.depth)), final]
        guide = sum(outputs)[:, tower.prefix :] / len(outputs)
        similarity = cosine_similarity(guide)
        patches = aggregate(
            tower.tokens[:, tower.prefix :], similarity, self.similarity_threshold, normalise=False
        )
        # Both passes have the same attention, which is linear: their mean is that of the values.
        values = (tower.project(patches).v + tower.project(guide).v) / 2
        return tower.with_cls(tower.out(self._attention(tower, values)))
