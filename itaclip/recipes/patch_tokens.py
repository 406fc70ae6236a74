"""Patch tokens as the methods use them: similarity, aggregation, outliers and their repair.

Shapes: B batch, P = h·w patches in row-major order ([CLS] is not among them), D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_similarity(patches: Tensor, centred: bool = False) -> Tensor:
    """Cosine of every patch with every other, (B, P, D) → (B, P, P) fp32.

    ``centred`` takes the image's mean patch off first: what all patches share says nothing.
    """
    patches = patches.float()
    if centred:
        patches = patches - patches.mean(1, keepdim=True)
    unit = F.normalize(patches, dim=-1)
    return unit @ unit.transpose(1, 2)


def above_mean(similarity: Tensor, sharpness: float) -> Tensor:
    """Attention towards patches that are more alike than the image's average.

    softmax(sharpness · (sim - mean)), with what is below the mean left out (SC-CLIP's similarity
    enhanced attention).

    Args:
        similarity: (B, P, P).

    Returns:
        (B, P, P), rows sum to 1.
    """
    logits = sharpness * (similarity - similarity.mean((1, 2), keepdim=True))
    return logits.masked_fill(logits < 0, -torch.inf).softmax(-1)


def aggregate(
    patches: Tensor, similarity: Tensor, threshold: float, normalise: bool = True
) -> Tensor:
    """Replaces every patch by the sum of those alike, weighted by their similarity.

    Args:
        patches: (B, P, D).
        similarity: (B, P, P).
        threshold: smaller similarities count as 0.
        normalise: divides by the sum of the weights.
    """
    weights = similarity.masked_fill(similarity < threshold, 0)
    if normalise:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-6)
    return weights @ patches


def local_outliers(patches: Tensor, neighbours: int, quantile: float) -> Tensor:
    """Patches whose local outlier factor is above a quantile; see :func:`outlier_factors`.

    Args:
        patches: (B, P, D).
        neighbours: k; at most P - 1 are taken.
        quantile: from 0 to 1, of the image's own factors.

    Returns:
        (B, P) bool.
    """
    factor = outlier_factors(patches, neighbours)
    return factor > torch.quantile(factor, quantile, dim=1, keepdim=True)


def outlier_factors(patches: Tensor, neighbours: int) -> Tensor:
    """The local outlier factor of every patch (Breunig et al., SIGMOD 2000), about 1 for most.

    The distance is the squared Euclidean one, as in SC-CLIP.

    Args:
        patches: (B, P, D).
        neighbours: k; at most P - 1 are taken.

    Returns:
        (B, P) fp32.
    """
    count = patches.shape[1]
    k = min(neighbours, count - 1)
    if k < 1:
        return patches.new_ones(patches.shape[:2], dtype=torch.float32)
    patches = patches.float()
    distances = torch.cdist(patches, patches, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)  # nobody is its own neighbour
    near, index = distances.topk(k, largest=False)  # B, P, k
    k_distance = near[..., -1]  # B, P

    def of_neighbours(values: Tensor) -> Tensor:
        return values.unsqueeze(1).expand(-1, count, -1).gather(2, index)

    reach = torch.maximum(near, of_neighbours(k_distance))
    density = 1 / reach.mean(-1).clamp_min(1e-10)
    return of_neighbours(density).mean(-1) / density


def replace_by_neighbours(patches: Tensor, flagged: Tensor, grid: tuple[int, int]) -> Tensor:
    """Flagged patches become the mean of their unflagged neighbours in the 3×3 window.

    A patch without such a neighbour stays.

    Args:
        patches: (B, P, D).
        flagged: (B, P) bool.
        grid: (h, w).
    """
    kept = (~flagged).to(patches.dtype).unsqueeze(-1)  # B, P, 1
    total = _sum_3x3(torch.cat([patches * kept, kept], dim=-1), grid)
    total, count = total[..., :-1], total[..., -1:]
    wanted = flagged.unsqueeze(-1) & (count > 0)
    return torch.where(wanted, total / count.clamp_min(1), patches)


def mean_3x3(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean over the 3×3 window, centre included, over what lies in the grid; (B, P, D)."""
    count = _sum_3x3(patches.new_ones(1, patches.shape[1], 1), grid)
    return _sum_3x3(patches, grid) / count


def _sum_3x3(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    maps = patches.transpose(1, 2).unflatten(2, grid)  # B, D, h, w
    maps = F.avg_pool2d(maps, 3, stride=1, padding=1, divisor_override=1)
    return maps.flatten(2).transpose(1, 2)
