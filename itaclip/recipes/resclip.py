"""ResCLIP (Yang et al., CVPR 2025): attention of middle blocks, and feedback of a first labelling.

Residual cross-correlation attention (RCS) mixes the last block's map with the mean of middle
blocks' own q-k maps. Semantic feedback refinement (SFR) labels the patches with a first pass, and
in a second pass attends more to patches of the same label.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..refinement import pamr
from .attention import SIMILARITY_TERMS, gaussian_neighbourhood, mean_over_blocks
from .base import Recipe, key
from .registry import register
from .tower import Reads, Tower

# The labelling of the first pass, and the blur along a row of the map, as published.
_LABEL_SCALE = 40
_LABEL_PAMR = dict(num_iter=10, dilations=(8, 16))
_BLUR_STD, _BLUR_RADIUS = 5.0, 15


@register(
    "resclip",
    source="Yang et al., ResCLIP, CVPR 2025, with the values for VOC21",
    exact="both modules with the values for VOC21; others by keys",
    left_out="borders of the blur (zeros), ties of a patch's label (smallest)",
)
@dataclass(frozen=True, kw_only=True)
class ResCLIP(Recipe):
    """ResCLIP's two modules over a base attention, NACLIP's by default.

    First pass:  A = ρ · ((1 - λr) · Σ softmax(s · term + ω) + λr · mean of softmax(s q kᵀ)_i)
    Second pass: the same with logits τs · ((1 - λs) · s · term + λs · M) + ω.

    Args:
        terms, residual, feed_forward, gaussian_std: the base method's last block.
        rcs_layers: blocks whose q-k maps are averaged.
        rcs_weight: λr.
        rcs_scale: ρ; it only weighs the output projection's bias.
        sfr_weight: λs; None leaves the second pass out.
        sfr_scale: τs.
        feedback_thd: pixels whose best score is below take label 0 in the first pass.
    """

    terms: tuple[str, ...] = key(("kk",), "terms", *SIMILARITY_TERMS)
    residual: bool = key(False, "flag")
    feed_forward: bool = key(False, "flag")
    gaussian_std: float | None = key(5.0, "positive or None")
    rcs_layers: tuple[int, ...] | str = key((6, 7, 8, 9), "blocks")
    rcs_weight: float = key(0.3, "share")
    rcs_scale: float = key(2.0, "positive")
    sfr_weight: float | None = key(0.7, "share or None")
    sfr_scale: float = key(2.2, "positive")
    feedback_thd: float = key(0.5, "share")

    needs_cls = False

    @property
    def needs_text(self) -> bool:
        return self.sfr_weight is not None

    def reads(self, depth: int) -> Reads:
        return Reads(self.rcs_layers)

    def mix(self, tower: Tower, values: Tensor, feedback: Tensor | None = None) -> Tensor:
        """As everywhere; ``feedback`` is M, (B, N, N)."""
        scale, bias = 1.0, None
        if self.gaussian_std is not None:
            bias = gaussian_neighbourhood(
                tower.grid, self.gaussian_std, values.device, tower.prefix
            )
        if feedback is not None:
            scale = self.sfr_scale * (1 - self.sfr_weight)
            feedback = self.sfr_scale * self.sfr_weight * feedback.unsqueeze(1)  # B, 1, N, N
            bias = feedback if bias is None else feedback + bias
        bias = None if bias is None else bias.to(values.dtype)
        out = 0
        for term in self.terms:
            left, right = (getattr(tower.last, letter) for letter in term)
            out = out + F.scaled_dot_product_attention(left * scale, right, values, attn_mask=bias)
        if self.rcs_layers:
            blocks = [tower.projections[i] for i in self.rcs_layers]
            fused = mean_over_blocks(("qk",), blocks, values)
            out = torch.lerp(out, fused, self.rcs_weight)
        return self.rcs_scale * out

    def tokens(self, tower: Tower) -> Tensor:
        mixed = self.mix(tower, tower.last.v)
        return tower.finish(mixed, self.residual, self.feed_forward)

    def tokens_again(self, tower: Tower, images: Tensor, similarities: Tensor) -> Tensor:
        maps = []
        for image, similarity in zip(images, similarities, strict=True):
            labels = label_patches(similarity, image, tower.patch_size, self.feedback_thd)
            maps.append(feedback_map(labels))
        prefix = tower.prefix  # [CLS] takes no part
        feedback = F.pad(torch.stack(maps), (prefix, 0, prefix, 0))
        mixed = self.mix(tower, tower.last.v, feedback)
        return tower.finish(mixed, self.residual, self.feed_forward)


def label_patches(similarities: Tensor, image: Tensor, patch_size: int, threshold: float) -> Tensor:
    """Labels of a window's patches, by refined pixels.

    Args:
        similarities: (h, w, Q) cosines with the queries.
        image: (3, H, W), CLIP-normalised.
        patch_size: side of a patch in pixels.
        threshold: pixels whose best score is below take label 0.

    Returns:
        (h, w) query indices: the most frequent one of a patch's pixels, the smallest of several.
    """
    h, w, queries = similarities.shape
    maps = similarities.permute(2, 0, 1).unsqueeze(0)
    maps = F.interpolate(maps, size=image.shape[-2:], mode="bilinear")[0]
    refined = pamr(maps.permute(1, 2, 0).contiguous(), image, **_LABEL_PAMR)  # H, W, Q
    best, labels = (refined * _LABEL_SCALE).softmax(-1).max(-1)
    labels = labels.masked_fill(best < threshold, 0)[: h * patch_size, : w * patch_size]
    labels = labels.unflatten(0, (h, patch_size)).unflatten(2, (w, patch_size))
    labels = labels.permute(0, 2, 1, 3).reshape(h * w, -1)  # patches, pixels
    counts = labels.new_zeros(h * w, queries).scatter_add_(1, labels, torch.ones_like(labels))
    return counts.argmax(-1).view(h, w)


def feedback_map(labels: Tensor) -> Tensor:
    """M of the second pass: how much patches of the same label are to attend to each other.

    1 for two patches of one label; times exp(-c / max c), with c their chessboard distance, where
    the straight line between them leaves the label. Each row is then blurred as one sequence,
    divided by its sum, and the whole by its largest value.

    Args:
        labels: (h, w).

    Returns:
        (P, P) fp32 with P = h·w, values in [0, 1].
    """
    h, w = labels.shape
    rows = torch.arange(h, device=labels.device).repeat_interleave(w)  # P
    columns = torch.arange(w, device=labels.device).repeat(h)
    distance = torch.maximum(
        (rows[:, None] - rows).abs(), (columns[:, None] - columns).abs()
    ).float()  # P, P
    flat = labels.flatten()
    same = flat[:, None] == flat
    decay = torch.exp(-distance / max(h - 1, w - 1, 1))
    raw = torch.where(_line_leaves_label(labels, rows, columns, same, distance), decay, 1.0) * same
    kernel = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, device=labels.device)
    kernel = torch.exp(-0.5 * (kernel / _BLUR_STD) ** 2)
    kernel = kernel / kernel.sum()
    blurred = F.conv1d(raw.unsqueeze(1), kernel.view(1, 1, -1), padding=_BLUR_RADIUS).squeeze(1)
    blurred = blurred / blurred.sum(-1, keepdim=True)
    return blurred / blurred.max()


def _line_leaves_label(
    labels: Tensor, rows: Tensor, columns: Tensor, same: Tensor, distance: Tensor
) -> Tensor:
    """(P, P) bool: pairs of the same label with another one on the straight line between them.

    The line has a cell per chessboard step, each coordinate rounded, halves to even. It is the same
    in both directions, so half of the pairs are walked, each until it is left or at its end.
    """
    flat, left = labels.flatten(), torch.zeros_like(same)
    start, end = same.triu(1).nonzero(as_tuple=True)
    number = 1
    while len(start):
        length = distance[start, end]
        unfinished = length > number
        start, end, length = start[unfinished], end[unfinished], length[unfinished]
        # One division, last: halves are exact.
        row, column = (
            ((at[start] * (length - number) + at[end] * number) / length).round().long()
            for at in (rows, columns)
        )
        leaves = flat[row * labels.shape[1] + column] != flat[start]
        left[start[leaves], end[leaves]] = True
        start, end = start[~leaves], end[~leaves]
        number += 1
    return left | left.T
