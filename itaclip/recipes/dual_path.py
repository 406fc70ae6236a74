"""Methods with a second path beside CLIP's own: it starts several blocks before the end.

From the input of block L - n + 1 on, the new path only adds up the blocks' new attention outputs,
made of queries, keys and values of the *unchanged* path. It has no feed-forward.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import attend, self_self
from .base import Recipe, key
from .registry import register
from .tower import Reads, Tower


@dataclass(frozen=True, kw_only=True)
class DualPath(Recipe):
    """The path; what its blocks attend to is the methods' own.

    Args:
        path_blocks: n, blocks of the new path, counted from the end.
    """

    path_blocks: int = key(6, "count")

    needs_cls = False

    def reads(self, depth: int) -> Reads:
        blocks = tuple(range(max(1, depth - self.path_blocks + 1), depth))
        first = blocks[0] if blocks else depth
        return Reads(blocks, tuple(range(first - 1, depth - 1)))

    def attention(self, tower: Tower, block: int, values: Tensor) -> Tensor:
        """The new attention of one block applied to values (B, M, N, c)."""
        raise NotImplementedError

    def mix(self, tower: Tower, values: Tensor) -> Tensor:
        return self.attention(tower, tower.depth, values)

    def tokens(self, tower: Tower) -> Tensor:
        blocks = (*self.reads(tower.depth).projections, tower.depth)
        tokens = tower.input_of(blocks[0])
        for block in blocks:
            values = tower.projections_of(block).v
            tokens = tokens + tower.out(self.attention(tower, block, values), block)
        return tokens


@register(
    "clip_surgery",
    source="Li et al., CLIP Surgery, Pattern Recognition 2025 (arXiv 2304.05653)",
    exact="value-value path over the last 6 blocks",
    left_out="feature surgery (its subtracted term is the same for all classes); the authors' "
    "segmentation protocol was not published",
)
@dataclass(frozen=True, kw_only=True)
class ClipSurgery(DualPath):
    """CLIP Surgery: value-value attention; [CLS] is CLIP's own."""

    def attention(self, tower: Tower, block: int, values: Tensor) -> Tensor:
        return attend("vv", tower.projections_of(block), values)

    def tokens(self, tower: Tower) -> Tensor:
        cls, patches = tower.final_tokens()[:, : tower.prefix], super().tokens(tower)
        return torch.cat([cls, patches[:, tower.prefix :]], dim=1)


@register(
    "gem",
    source="Bousselham et al., GEM, CVPR 2024",
    exact="q-q, k-k, v-v, one iteration, adaptive temperature, last 6 blocks",
    left_out="one prompt template in the original, 80 here",
)
@dataclass(frozen=True, kw_only=True)
class GEM(DualPath):
    """GEM: mean of the self-self attentions of values, keys and queries.

    Args:
        iterations: clustering steps of each.
        inverse_temperature: of the normalised tokens' products; None takes s · mean over tokens of
            ‖LN1(x)‖, for every image and block.
    """

    iterations: int = key(1, "count or 0")
    inverse_temperature: float | None = key(None, "positive or None")

    def attention(self, tower: Tower, block: int, values: Tensor) -> Tensor:
        projections = tower.projections_of(block)
        if self.inverse_temperature is None:
            normed = tower.blocks[block - 1].ln_1(tower.input_of(block))  # B, N, D
            scale = normed.norm(dim=-1).mean(-1) * projections.v.shape[-1] ** -0.5
        else:
            scale = projections.v.new_full((len(values),), self.inverse_temperature)
        scale = scale.to(values.dtype).view(-1, 1, 1, 1)
        parts = [self_self(t, values, scale, self.iterations) for t in projections]
        return sum(parts) / len(parts)
