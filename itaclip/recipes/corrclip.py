"""CorrCLIP (ICCV 2025): patches look inside their region, and regions have words of their own.

Shapes: B windows, h, w patches of CLIP, gh, gw of the guide, P = gh·gw, R regions of a window.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..guide import GuideReads
from .base import key
from .guided import Guided, guide_of, project_out, resize_grid, values_on_grid
from .registry import register
from .tower import Projections, Reads, Tower, add_attention, add_feed_forward, block_projections

PADDING_REGION = 1 << 30
"""The region of what was padded; no picture has so many."""
_MERGED = 1 << 31  # merged regions count from here


@register(
    "corrclip",
    source="Zhang et al., CorrCLIP, ICCV 2025",
    exact="merging, scope, three branches, padding, the smallest id as the unsegmented one",
    left_out="correction of the map: regions=dict(…, rule='vote')",
)
@dataclass(frozen=True, kw_only=True)
class CorrCLIP(Guided):
    """CorrCLIP: attention among patches of one region, and three branches that are added up.

    With d the unit sum of the guide's last queries and keys and S = d dᵀ, patches attend where they
    share a region, or where one lies in no region and S is above its mean::

        A = softmax(τ S)
        z = LNpost(O(A v(Z_{L-1}))) + a LNpost(O(A v(mean of Z_i))) + b LNpost(region's [CLS])

    A region's [CLS] runs through all blocks and sees the [CLS] and the region's patches alone.

    Args:
        sharpness: τ.
        spatial_layers: blocks whose outputs' mean gives the spatial branch its values.
        spatial_weight: a.
        semantic_weight: b.
        merge_distance: regions whose mean features' similarity is at most so much below the largest
            are merged; 0 is off.
        unsegmented: which region counts as none: ``'smallest'``: the smallest number in the window,
            as in the published code, even where it is a region; ``'zero'``: number 0.
        pad: windows are padded with zeros to multiples of so many pixels; 1 is off.
    """

    sharpness: float = key(4.0, "positive")
    spatial_layers: tuple[int, ...] = key((6, 7, 8, 9, 10), "blocks")
    spatial_weight: float = key(1.0, "not negative")
    semantic_weight: float = key(0.5, "not negative")
    merge_distance: float = key(0.2, "not negative")
    unsegmented: str = key("smallest", "choice", "smallest", "zero")
    pad: int = key(56, "count")

    guide_reads = GuideReads(("q", "k"))
    needs_regions = True

    @property
    def window_multiple(self) -> int:
        return self.pad

    def reads(self, depth: int) -> Reads:
        semantic = tuple(range(1, depth)) if self.semantic_weight else ()
        outputs = (0,) if self.semantic_weight else ()
        return Reads(semantic, (*outputs, *self.spatial_layers))

    def regions_of(self, tower: Tower, features: Tensor) -> Tensor:
        """Merged regions of the windows on the guide's grid, (B, P)."""
        regions = nearest(tower.regions, guide_of(tower).grid).flatten(1)
        if not self.merge_distance:
            return regions
        pairs = zip(regions, features, strict=True)
        return torch.stack([self._merged(own, d) for own, d in pairs])

    def _first(self, regions: Tensor) -> int:
        """The number that stands for "no region" in one window."""
        return 0 if self.unsegmented == "zero" else int(regions.min())

    def _merged(self, regions: Tensor, features: Tensor) -> Tensor:
        ids, place = regions.unique(return_inverse=True)
        if len(ids) <= 2:
            return regions
        means = features.new_zeros(len(ids), features.shape[1])
        means.index_add_(0, place, features)
        means = F.normalize(means, dim=-1)
        kept = ids != self._first(regions)
        similarity = means[kept] @ means[kept].T
        joined = similarity.max() - similarity <= self.merge_distance
        numbers = ids.clone()
        numbers[kept] = _MERGED + components(joined)
        return numbers[place]

    def scope(self, regions: Tensor, similarity: Tensor) -> Tensor:
        """Whether patch i may look at patch j, (P, P) bool, in one window."""
        none = regions == self._first(regions)
        same = (regions[:, None] == regions) & ~none[:, None]
        loose = (none[:, None] | none) & (similarity > similarity.mean())
        return same | loose

    def _attention(self, tower: Tower) -> tuple[Tensor, Tensor]:
        """A (B, P, P) and merged regions (B, P)."""
        guide = guide_of(tower)
        assert guide.q is not None and guide.k is not None
        features = F.normalize((guide.q + guide.k).transpose(1, 2).flatten(2), dim=-1)
        regions = self.regions_of(tower, features)
        maps = []
        for own, numbers in zip(features, regions, strict=True):
            similarity = own @ own.T
            allowed = self.scope(numbers, similarity)
            allowed.diagonal().fill_(True)  # a patch alone looks at itself
            logits = (self.sharpness * similarity).masked_fill_(~allowed, -torch.inf)
            maps.append(logits.softmax(-1))
        return torch.stack(maps), regions

    def spread(self, tower: Tower, values: Tensor) -> Tensor:
        attention, _ = self._attention(tower)
        return attention.to(values.dtype) @ values

    def normed(self, tower: Tower, norm: Callable[[Tensor], Tensor]) -> Tensor:
        attention, regions = self._attention(tower)
        grid = guide_of(tower).grid

        def branch(values: Tensor) -> Tensor:
            return norm(project_out(tower, attention.to(values.dtype) @ values))

        total = branch(values_on_grid(tower, grid))
        if self.spatial_layers and self.spatial_weight:
            mean = sum(tower.outputs[i] for i in self.spatial_layers) / len(self.spatial_layers)
            values = tower.project(mean).v[:, :, 1:].transpose(1, 2).flatten(2)
            total = total + self.spatial_weight * branch(resize_grid(values, tower.grid, grid))
        if self.semantic_weight:
            total = total + self.semantic_weight * norm(self._semantic(tower, regions))
        return torch.cat([norm(tower.tokens[:, :1]), total], dim=1)

    def _semantic(self, tower: Tower, regions: Tensor) -> Tensor:
        """Every patch's region's [CLS] after all blocks, (B, P, D).

        Neither [CLS] nor patches see the regions' [CLS], so their keys and values are those of the
        plain pass: only the regions' own queries are computed.
        """
        tokens = []
        for window, numbers in enumerate(regions):
            ids, place = numbers.unique(return_inverse=True)
            on_clip = nearest(numbers.view(1, *guide_of(tower).grid), tower.grid).flatten()
            seen = F.pad(ids[:, None] == on_clip, (1, 0), value=True)  # R, N
            own = tower.outputs[0][window, :1].expand(len(ids), -1)[None]  # 1, R, D
            for number, block in enumerate(tower.blocks, start=1):
                plain = tower.projections_of(number)
                keys = Projections(*(t[window : window + 1] for t in plain))
                queries = block_projections(block, own).q
                mixed = F.scaled_dot_product_attention(queries, keys.k, keys.v, attn_mask=seen)
                own = add_feed_forward(block, add_attention(block, own, mixed))
            tokens.append(own[0, place])
        return torch.stack(tokens)


def nearest(regions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Region numbers (B, H, W) on another grid, by ``F.interpolate``'s nearest pixel."""
    rows, columns = (
        (torch.arange(n, device=regions.device) * side) // n
        for n, side in zip(grid, regions.shape[-2:], strict=True)
    )
    return regions[:, rows][:, :, columns]


def components(joined: Tensor) -> Tensor:
    """Number of the connected component of every node, (R,): DBSCAN with one sample for a core.

    Args:
        joined: (R, R) bool, symmetric.
    """
    labels = torch.arange(len(joined), device=joined.device)
    while True:
        spread = torch.where(joined, labels, len(joined)).amin(1).minimum(labels)
        if torch.equal(spread, labels):
            return labels
        labels = spread
