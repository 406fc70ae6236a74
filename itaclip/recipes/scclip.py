"""SC-CLIP (Bai et al., IEEE TIP 2025, arXiv 2411.15869): self-calibration by middle features."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .attention import attend
from .base import Recipe, key
from .patch_tokens import (
    above_mean,
    aggregate,
    cosine_similarity,
    local_outliers,
    replace_by_neighbours,
)
from .registry import register
from .tower import Reads, Tower


@register(
    "scclip",
    source="Bai et al., SC-CLIP, IEEE TIP 2025 (arXiv 2411.15869)",
    exact="repair, aggregation, two passes",
    left_out="block numbers for other depths",
)
@dataclass(frozen=True, kw_only=True)
class SCCLIP(Recipe):
    """SC-CLIP: repaired outliers, similarity of middle features, two passes of the last block.

    1. Outliers (local outlier factor) among the patches that enter the last block are replaced by
       the mean of their neighbours, there and in the similarity layer's output.
    2. Patches are aggregated by that layer's similarity Sim; the last block attends among patches
       alone with ½ (softmax(s k kᵀ) + softmax(g (Sim - mean) where above)); κ times [CLS] is added;
       the result is aggregated by an early layer's similarity.
    3. The same attention with keys and values of the sum of middle layers; both results are added.

    Args:
        neighbours: of the outlier factor.
        outlier_quantile: factors above it are outliers.
        similarity_layer: block whose output gives Sim.
        early_layer: block whose output gives the last aggregation's similarity.
        similarity_threshold: smaller similarities do not aggregate.
        sharpness: g.
        second_pass_layers: blocks whose outputs are added up; () leaves the second pass out.
        cls_weight: κ.
    """

    neighbours: int = key(30, "count")
    outlier_quantile: float = key(0.95, "share")
    similarity_layer: int = key(9, "block")
    early_layer: int = key(4, "block")
    similarity_threshold: float = key(0.4, "number")
    sharpness: float = key(3.0, "positive")
    second_pass_layers: tuple[int, ...] = key((4, 5, 6, 7, 8, 9, 10), "blocks")
    cls_weight: float = key(0.3, "not negative")

    needs_cls = True  # κ · [CLS] is added to every patch

    def reads(self, depth: int) -> Reads:
        return Reads(outputs=(self.similarity_layer, self.early_layer, *self.second_pass_layers))

    def _repair(self, tower: Tower) -> tuple[Tensor, Tensor]:
        """Repaired patches (B, P, D) that enter the last block, and Sim (B, P, P)."""
        patches = tower.tokens[:, 1:]
        outliers = local_outliers(patches, self.neighbours, self.outlier_quantile)
        middle = tower.outputs[self.similarity_layer][:, 1:]
        patches, middle = (
            replace_by_neighbours(t, outliers, tower.grid) for t in (patches, middle)
        )
        return patches, cosine_similarity(middle)

    def _attention(
        self, tower: Tower, patches: Tensor, similarity: Tensor, values: Tensor | None = None
    ) -> Tensor:
        """The last block's attention among patches, (B, M, P, c); values default to its own."""
        projections = tower.project(patches)
        values = projections.v if values is None else values
        alike = above_mean(similarity, self.sharpness).unsqueeze(1).to(values.dtype)
        return (attend("kk", projections, values) + alike @ values) / 2

    def mix(self, tower: Tower, values: Tensor) -> Tensor:
        patches, similarity = self._repair(tower)
        patches = aggregate(patches, similarity, self.similarity_threshold)
        mixed = self._attention(tower, patches, similarity, values[:, :, 1:])
        return F.pad(mixed, (0, 0, 1, 0))  # [CLS] takes no part

    def tokens(self, tower: Tower) -> Tensor:
        patches, similarity = self._repair(tower)
        early = cosine_similarity(tower.outputs[self.early_layer][:, 1:])

        def one_pass(patches: Tensor, cls: Tensor) -> Tensor:
            out = tower.out(self._attention(tower, patches, similarity))
            return aggregate(out + self.cls_weight * cls, early, self.similarity_threshold)

        patches = aggregate(patches, similarity, self.similarity_threshold)
        out = one_pass(patches, tower.tokens[:, :1])
        if self.second_pass_layers:
            total: Tensor = sum(tower.outputs[i] for i in self.second_pass_layers)
            out = out + one_pass(total[:, 1:], total[:, :1])
        return tower.with_cls(out)
