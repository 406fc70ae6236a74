"""PAMR, pixel-adaptive mask refinement (Araslanov and Roth, CVPR 2020, eq. 4-6).

The weights depend on the image alone, so they are built once and applied to all queries at every
iteration. One iteration is a weighted gather: pixel p becomes Σ_n w[p, n] · x[n] over its
neighbours n, which is ``torch.nn.functional.embedding_bag`` with per-sample weights.

Shapes: H, W pixels; Q queries (last); P = 8 neighbours · number of dilations.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError

# Queries are refined in chunks of about this many elements (128 MB), which bounds the copies.
_CHUNK_ELEMENTS = 1 << 25
_OFFSETS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
_NEIGHBOURS = tuple(offset for offset in _OFFSETS if offset != (0, 0))


def parse_pamr(pamr: Mapping | None) -> dict | None:
    """Validates the ``pamr`` key: None, or ``dict(num_iter=…, dilations=…)``.

    Raises:
        InputError: unknown keys or values out of range.
    """
    if pamr is None:
        return None
    if not isinstance(pamr, Mapping) or set(pamr) - {"num_iter", "dilations"}:
        raise InputError(
            f"pamr: expected None or dict(num_iter=10, dilations=(8, 16)), but got {pamr!r}."
        )
    num_iter, dilations = pamr.get("num_iter", 10), tuple(pamr.get("dilations", (8, 16)))
    if isinstance(num_iter, bool) or not isinstance(num_iter, int) or num_iter < 0:
        raise InputError(f"pamr.num_iter: expected an integer from 0, but got {num_iter!r}.")
    if not dilations or not all(
        isinstance(d, int) and not isinstance(d, bool) and d > 0 for d in dilations
    ):
        raise InputError(f"pamr.dilations: expected positive integers, but got {dilations!r}.")
    return {"num_iter": num_iter, "dilations": dilations}


def pamr(scores: Tensor, guide: Tensor, num_iter: int, dilations: Sequence[int]) -> Tensor:
    """Refines score maps along the edges of an image.

    Args:
        scores: (H, W, Q) logits.
        guide: (3, H, W) image, in the network's normalisation.
        num_iter: iterations.
        dilations: distances of the neighbours in pixels.

    Returns:
        ``scores``, overwritten.
    """
    if num_iter == 0:
        return scores
    height, width, queries = scores.shape
    weights = pamr_weights(guide, dilations).to(scores.dtype)
    index = _neighbour_index(height, width, dilations, scores.device)
    chunk = max(1, _CHUNK_ELEMENTS // (height * width))
    for start in range(0, queries, chunk):
        part = scores[..., start : start + chunk]
        flat = part.reshape(height * width, -1)
        for _ in range(num_iter):
            flat = F.embedding_bag(index, flat, mode="sum", per_sample_weights=weights)
        part.copy_(flat.view_as(part))
    return scores


def reach(num_iter: int, dilations: Sequence[int]) -> int:
    """How many rows away a pixel can influence another one through refinement."""
    return num_iter * max(dilations)


def pamr_weights(guide: Tensor, dilations: Sequence[int]) -> Tensor:
    """Affinity of every pixel with its neighbours.

    w[p] = softmax over n of mean over colours of -|x_p - x_n| / (1e-8 + 0.1 · std_p), where std_p
    (n - 1) is taken over the 3×3 windows of all dilations, their centres included; borders are
    replicated.

    Args:
        guide: (3, H, W).

    Returns:
        (H·W, P), rows sum to 1, neighbours in the order dilation, row, column.
    """
    colours, height, width = guide.shape
    radius = max(dilations)
    padded = F.pad(guide.float().unsqueeze(0), (radius,) * 4, mode="replicate")[0]

    def shifted(dy: int, dx: int) -> Tensor:
        top, left = radius + dy, radius + dx
        return padded[:, top : top + height, left : left + width]

    mean = guide.new_zeros(guide.shape, dtype=torch.float32)
    for d in dilations:
        for dy, dx in _OFFSETS:
            mean += shifted(d * dy, d * dx)
    samples = len(_OFFSETS) * len(dilations)
    mean /= samples
    variance = torch.zeros_like(mean)
    for d in dilations:
        for dy, dx in _OFFSETS:
            difference = shifted(d * dy, d * dx) - mean
            variance.addcmul_(difference, difference)
    inverse = 1 / (1e-8 + 0.1 * (variance / (samples - 1)).sqrt())  # 3, H, W

    weights = guide.new_empty((height, width, 8 * len(dilations)), dtype=torch.float32)
    neighbours = [(d * dy, d * dx) for d in dilations for dy, dx in _NEIGHBOURS]
    for n, (dy, dx) in enumerate(neighbours):
        difference = (shifted(dy, dx) - shifted(0, 0)).abs_()
        weights[..., n] = difference.mul_(inverse).sum(0).div_(-colours)
    return weights.softmax(dim=-1).view(height * width, -1)


def _neighbour_index(
    height: int, width: int, dilations: Sequence[int], device: torch.device
) -> Tensor:
    """(H·W, P) flat indices of the neighbours, clamped at the borders (replicate padding)."""
    index = torch.empty(height, width, 8 * len(dilations), dtype=torch.int32, device=device)
    rows = torch.arange(height, dtype=torch.int32, device=device)
    columns = torch.arange(width, dtype=torch.int32, device=device)
    neighbours = [(d * dy, d * dx) for d in dilations for dy, dx in _NEIGHBOURS]
    for n, (dy, dx) in enumerate(neighbours):
        row = (rows + dy).clamp_(0, height - 1) * width
        index[..., n] = row[:, None] + (columns + dx).clamp_(0, width - 1)
    return index.view(height * width, -1)
