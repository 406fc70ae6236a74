"""ResCLIP (Yang et al., CVPR 2025): attention of middle blocks, and feedback of a first labelling.

Residual cross-correlation attention (RCS) mixes the last block's map with the mean of middle
blocks' own q-k maps. Semantic feedback refinement (SFR) labels the patches with a first pass, and
in a second pass attends more to patches of the same label.
"""

from dataclasses import dataclass
from typing import Any

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
_LABEL_PAMR: dict[str, Any] = dict(num_iter=10, dilations=(8, 16))
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
    rcs_layers: tuple[int, ...] = key((6, 7, 8, 9), "blocks")
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
            assert self.sfr_weight is not None  # else there is no second pass
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
        labels = [
            label_patches(similarity, image, tower.patch_size, self.feedback_thd)
            for image, similarity in zip(images, similarities, strict=True)
        ]
        prefix = tower.prefix  # [CLS] takes no part
        feedback = F.pad(feedback_maps(torch.stack(labels)), (prefix, 0, prefix, 0))
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


def feedback_maps(labels: Tensor) -> Tensor:
    """M of the second pass: how much patches of the same label are to attend to each other.

    1 for two patches of one label; times exp(-c / max c), with c their chessboard distance, where
    the straight line between them leaves the label. Each row is then blurred as one sequence,
    divided by its sum, and the whole by its largest value.

    Args:
        labels: (B, h, w).

    Returns:
        (B, P, P) fp32 with P = h·w, values in [0, 1].
    """
    h, w = labels.shape[1:]
    device = labels.device
    rows = torch.arange(h, device=device).repeat_interleave(w, output_size=h * w)  # P
    columns = torch.arange(w, device=device).repeat(h)
    distance = torch.maximum((rows[:, None] - rows).abs(), (columns[:, None] - columns).abs())
    flat = labels.flatten(1)  # B, P
    same = flat[:, :, None] == flat[:, None]  # B, P, P
    left = torch.zeros_like(same)
    for step in range(1, max(h, w) - 1):
        at = _on_the_line(rows, columns, distance, step, w)  # P, P
        # Where a line is over, it is at its end, whose label is the pair's own.
        left |= flat[:, at.flatten()].view_as(same) != flat[:, :, None]
    decay = torch.exp(-distance.float() / max(h - 1, w - 1, 1))
    raw = torch.where(left, decay, 1.0) * same
    blurred = raw @ _blur_along(h * w, device)
    blurred = blurred / blurred.sum(-1, keepdim=True)
    return blurred / blurred.amax((1, 2), keepdim=True)


def _on_the_line(rows: Tensor, columns: Tensor, distance: Tensor, step: int, width: int) -> Tensor:
    """The patch (P, P) that the straight line of every pair has come to after some steps.

    The line has a cell per chessboard step, each coordinate rounded, halves to even. It is the same
    in both directions.
    """
    length = distance.clamp_min(1).float()
    done = distance.clamp_max(step).float()

    def between(at: Tensor) -> Tensor:
        start, end = at[:, None], at[None]
        # One division, last: halves are exact.
        return ((start * (length - done) + end * done) / length).round().long()

    return between(rows) * width + between(columns)


def _blur_along(count: int, device: torch.device) -> Tensor:
    """(count, count): a row times it is the row blurred, zeros beyond its ends; symmetric.

    A matrix, since convolutions on a GPU are rounded to TF32 unasked.
    """
    at = torch.arange(count, dtype=torch.float32, device=device)
    apart = (at[:, None] - at).abs()
    kernel = torch.exp(-0.5 * (apart / _BLUR_STD) ** 2).masked_fill_(apart > _BLUR_RADIUS, 0)
    taps = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, dtype=torch.float32, device=device)
    return kernel / torch.exp(-0.5 * (taps / _BLUR_STD) ** 2).sum()
