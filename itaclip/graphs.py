"""Sparse graphs of patches and of pixels that are never stored whole, and the solver on them.

Shapes: N nodes, Q columns (last); H, W pixels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of one block of similarities or of one gather.
_BLOCK_ELEMENTS = dict(cpu=1 << 22, cuda=1 << 26)


def block_limit(device: torch.device) -> int:
    """Elements that one block may have."""
    return _BLOCK_ELEMENTS["cuda" if device.type == "cuda" else "cpu"]


class SymmetricGraph:
    """D^-½ (W + Wᵀ) D^-½ for a matrix W with k entries in every row.

    Args:
        index: (N, k) int32, columns of the entries.
        weights: (N, k).
    """

    def __init__(self, index: Tensor, weights: Tensor) -> None:
        count, k = index.shape
        self.index, self.weights = index, weights
        # Wᵀ: entries sorted by column; `starts` says where each column's begin.
        order = index.flatten().argsort(stable=True)
        self.sources = (order // k).to(index.dtype)
        self.reverse = weights.flatten()[order]
        per_column = index.flatten().bincount(minlength=count)
        self.starts = F.pad(per_column.cumsum(0), (1, 0))[:-1].to(index.dtype)
        self.scale = torch.ones(count, 1, device=index.device)
        degrees = self._sum(self.scale)
        self.scale = torch.where(degrees > 0, degrees, 1).rsqrt()

    def _sum(self, x: Tensor) -> Tensor:
        """(W + Wᵀ) x, (N, Q)."""
        forward = F.embedding_bag(self.index, x, mode="sum", per_sample_weights=self.weights)
        backward = F.embedding_bag(
            self.sources, x, self.starts, mode="sum", per_sample_weights=self.reverse
        )
        return forward.add_(backward)

    def normalised(self, x: Tensor) -> Tensor:
        """D^-½ (W + Wᵀ) D^-½ x, (N, Q)."""
        return self._sum(x * self.scale).mul_(self.scale)


class ColourStencil:
    """D^-½ W D^-½ of pixels joined to those around them by colour, as a sum of shifted products.

    W is never stored: a strip of rows makes the weights of one shift after the other, which costs
    little beside the products.

    Args:
        image: (3, H, W) RGB, 0 to 1.
        reach: m; the neighbours of a pixel are the (2m + 1)² - 1 others of the square around it.
        colour: τ.
    """

    def __init__(self, image: Tensor, reach: int, colour: float) -> None:
        self.reach = reach
        self.height, self.width = image.shape[1:]
        scale = image.new_tensor([100.0, 128.0, 128.0])[:, None, None] * colour
        # Beyond the border every colour is infinitely far away.
        self.lab = F.pad(rgb_to_lab(image) / scale, (reach,) * 4, value=torch.inf)
        steps = range(-reach, reach + 1)
        self.shifts = [(dy, dx) for dy in steps for dx in steps if (dy, dx) != (0, 0)]
        ones = image.new_ones(1, self.height, self.width)
        degrees = self._sum(ones)
        self.scale = torch.where(degrees > 0, degrees, 1).rsqrt()  # 1, H, W

    def _sum(self, x: Tensor) -> Tensor:
        """W x, (Q, H, W)."""
        out = torch.zeros_like(x)
        rows = max(1, block_limit(x.device) // (16 * self.width * len(x)))
        for top in range(0, self.height, rows):
            self._add_strip(out, x, top, min(top + rows, self.height))
        return out

    def _add_strip(self, out: Tensor, x: Tensor, top: int, bottom: int) -> None:
        m, width = self.reach, self.width
        own = out[:, top:bottom]
        first, last = max(0, top - m), min(self.height, bottom + m)
        missing = (first - (top - m), bottom + m - last)
        near = F.pad(x[:, first:last], (m, m, *missing))  # Q, rows + 2m, W + 2m
        lab = self.lab[:, top : bottom + 2 * m]
        here = lab[:, m : m + bottom - top, m : m + width]
        difference, weight = torch.empty_like(here), here.new_empty(bottom - top, width)
        for dy, dx in self.shifts:
            there = (slice(m + dy, m + dy + bottom - top), slice(m + dx, m + dx + width))
            torch.sub(lab[:, there[0], there[1]], here, out=difference)
            difference.square_()
            torch.sum(difference, dim=0, out=weight)
            # Far colours: a normal number, since denormal ones are slow.
            weight.sqrt_().neg_().clamp_min_(-80).exp_()
            own.addcmul_(near[:, there[0], there[1]], weight)

    def normalised(self, x: Tensor) -> Tensor:
        """D^-½ W D^-½ x, (H·W, Q) with the pixels contiguous."""
        maps = x.T.unflatten(1, (self.height, self.width))
        return self._sum(maps * self.scale).mul_(self.scale).flatten(1).T


def rgb_to_lab(image: Tensor) -> Tensor:
    """sRGB, 0 to 1, → CIE L*a*b* (D65; L 0 to 100), (3, H, W)."""
    linear = torch.where(
        image > 0.04045, ((image.clamp_min(0) + 0.055) / 1.055) ** 2.4, image / 12.92
    )
    matrix = image.new_tensor(
        [
            [0.412453, 0.357580, 0.180423],
            [0.212671, 0.715160, 0.072169],
            [0.019334, 0.119193, 0.950227],
        ]
    )
    white = image.new_tensor([0.95047, 1.0, 1.08883])
    xyz = torch.einsum("ij,jhw->ihw", matrix, linear) / white[:, None, None]
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp_min(0.008856) ** (1 / 3), 7.787 * xyz + 4 / 29)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# ---- the solver ---------------------------------------------------------------------------------


def conjugate_gradients(
    system: Callable[[Tensor], Tensor],
    right: Tensor,
    steps: int,
    tolerance: float,
    start: Tensor | None = None,
) -> Tensor:
    """Solves ``system(x) = right`` column by column, all columns at once.

    Args:
        system: a symmetric positive definite matrix applied to (N, Q).
        right: (N, Q).
        steps: at most; a column that reaches its tolerance stays as it is.
        tolerance: residual's length as a share of the right-hand side's.
        start: (N, Q); None is 0.

    Returns:
        (N, Q).
    """
    if start is None:
        x, residual = torch.zeros_like(right), right.clone()
    else:
        x, residual = start.clone(), right - system(start)
    limit = (tolerance * _dot(right, right).sqrt()) ** 2
    direction, length = residual.clone(), _dot(residual, residual)
    for _ in range(steps):
        active = length > limit
        if not bool(active.any()):
            break
        moved = system(direction)
        curvature = _dot(direction, moved)
        step = torch.where(active & (curvature > 0), length / curvature, 0).to(x.dtype)
        x.addcmul_(direction, step)
        residual.addcmul_(moved, -step)
        new = _dot(residual, residual)
        ratio = torch.where(active, new / length, 0).to(x.dtype)
        direction.mul_(ratio).add_(residual)
        length = torch.where(active, new, length)
    return x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of every column, (Q,), summed up in double precision."""
    return torch.einsum("nq,nq->q", a, b).double() if a.is_cuda else _exact_dot(a, b)


def _exact_dot(a: Tensor, b: Tensor) -> Tensor:
    total, step = 0.0, 1 << 14
    for first in range(0, len(a), step):
        total = total + (a[first : first + step] * b[first : first + step]).sum(0).double()
    return total
