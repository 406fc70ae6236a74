"""Image engineering: views of a window and the fusion of their features (ITACLIP eq. 10-11).

A view is a pair: ``apply`` changes windows (…, 3, H, W) before the encoder, ``undo`` brings patch
features (…, h, w, E) back into the window's frame.

Everything from normalised features to logits is linear, and flips commute with the bilinear
upsampling, so the published average of logits is an average of features:

    S = λ · mean(S_original, S_gray, S_blur) + (1 - λ) · mean(S_vflip, S_hflip)
      = (Σ_v weight_v · undo_v(features_v)) · text
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError

BLUR_KERNEL, BLUR_SIGMA = 11, 5.0
_LUMA = (0.2989, 0.587, 0.114)


@dataclass(frozen=True)
class View:
    """One augmentation, its inverse on feature maps, and its share of the fused features."""

    name: str
    apply: Callable[[Tensor], Tensor]
    undo: Callable[[Tensor], Tensor]
    weight: float


def make_views(image_engineering_weight: float | None) -> tuple[View, ...]:
    """The views of a window for λ = ``image_engineering_weight``; None gives the window alone."""
    lam = image_engineering_weight
    if lam is None:
        return (View("original", _same, _same, 1.0),)
    first, second = lam / 3, (1 - lam) / 2
    views = (
        View("original", _same, _same, first),
        View("gray", grayscale, _same, first),
        View("blur", gaussian_blur, _same, first),
        View("vflip", _flip_rows, _flip_feature_rows, second),
        View("hflip", _flip_columns, _flip_feature_columns, second),
    )
    return tuple(view for view in views if view.weight > 0)


def fuse_features(features: Tensor, views: tuple[View, ...]) -> Tensor:
    """Weighted sum of the views' normalised features, each brought back into place.

    Args:
        features: (V, B, h, w, E), in the views' order.

    Returns:
        (B, h, w, E), not renormalised.
    """
    fused = views[0].undo(features[0]) * views[0].weight
    for view, own in zip(views[1:], features[1:], strict=True):
        fused.add_(view.undo(own), alpha=view.weight)
    return fused


def _same(x: Tensor) -> Tensor:
    return x


def _flip_rows(images: Tensor) -> Tensor:
    return images.flip(-2)


def _flip_columns(images: Tensor) -> Tensor:
    return images.flip(-1)


def _flip_feature_rows(features: Tensor) -> Tensor:
    return features.flip(-3)


def _flip_feature_columns(features: Tensor) -> Tensor:
    return features.flip(-2)


def grayscale(images: Tensor) -> Tensor:
    """0.2989 R + 0.587 G + 0.114 B of normalised images, copied to three channels; (…, 3, H, W)."""
    red, green, blue = images.unbind(-3)
    gray = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    return gray.unsqueeze(-3).expand(images.shape)


def gaussian_blur(images: Tensor) -> Tensor:
    """Gaussian blur, kernel 11, σ 5, reflect padding; (…, 3, H, W).

    The kernel separates, and so does the padding: it is one matrix over rows and one over columns.

    Raises:
        InputError: a side of at most 5 pixels, which cannot be reflected.
    """
    height, width = images.shape[-2:]
    rows, columns = (blur_matrix(n, images.device).to(images.dtype) for n in (height, width))
    return rows @ images @ columns.T


def blur_matrix(size: int, device: torch.device | None = None) -> Tensor:
    """(size, size) matrix of the one-dimensional blur with reflect padding, fp32.

    It is made where it is used: that takes less time than a window, and less care than keeping one
    for every size.
    """
    half = BLUR_KERNEL // 2
    if size <= half:
        raise InputError(
            f"image_engineering_weight: the blurred view needs more than {half} pixels a side, but "
            f"a window has {size}; enlarge the image or switch image engineering off (None)."
        )
    offsets = torch.arange(-half, half + 1, dtype=torch.float64, device=device)
    kernel = torch.exp(-0.5 * (offsets / BLUR_SIGMA) ** 2)
    kernel = kernel / kernel.sum()
    at = torch.arange(size, device=device)[:, None] + offsets.long()  # size, taps
    at = at.abs()
    at = (size - 1) - ((size - 1) - at).abs()  # reflected at both ends
    matrix = torch.zeros(size, size, dtype=torch.float64, device=device)
    return matrix.scatter_add_(1, at, kernel.expand(size, -1)).float()
