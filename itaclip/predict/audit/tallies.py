"""What is counted while the pictures of an audit go by.

Shapes: H, W pixels; Q queries; C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...postprocess import class_scores

CLOSE = 0.1  # a pixel is unsure where the two best classes are nearer than this


@dataclass
class Crop:
    """Where two classes are nearly equal: a part of a picture.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        source: the picture.
        unsure: number of unsure pixels between the two in the picture.
    """

    pixels: np.ndarray
    source: str
    unsure: int


@dataclass
class Tally:
    """Sums over pictures for one word list; pixels are those of the audit's maps."""

    query_classes: Sequence[int]
    logit_scale: float
    pixels: int = 0
    wins: Tensor = field(init=False)  # Q: pixels where the query is the best of all
    areas: Tensor = field(init=False)  # C
    margins: Tensor = field(init=False)  # C: sum over own pixels of best minus second score
    unsure: Tensor = field(init=False)  # C, C: unsure pixels of a class by the second best
    without: Tensor = field(init=False)  # Q, C: where a query's pixels go without it
    crops: dict[tuple[int, int], Crop] = field(default_factory=dict)

    def __post_init__(self) -> None:
        queries, classes = len(self.query_classes), self.query_classes[-1] + 1
        self.wins = torch.zeros(queries, dtype=torch.int64)
        self.areas = torch.zeros(classes, dtype=torch.int64)
        self.margins = torch.zeros(classes, dtype=torch.float64)
        self.unsure = torch.zeros(classes, classes, dtype=torch.int64)
        self.without = torch.zeros(queries, classes, dtype=torch.int64)

    def add(self, logits: Tensor, image: np.ndarray, source: str) -> Tensor:
        """Adds a picture's logits (h, w, Q); returns its labels (h, w)."""
        shape = logits.shape[:2]
        owners = torch.tensor(self.query_classes, device=logits.device)
        classes = len(self.areas)
        scores = class_scores(logits.clone(), self.query_classes, self.logit_scale)
        best, order = scores.flatten(0, 1).topk(min(2, classes), dim=-1)
        first, second = order[:, 0], order[:, -1]
        margin = best[:, 0] - best[:, -1] if classes > 1 else best[:, 0]
        flat = logits.flatten(0, 1)
        top = flat.argmax(dim=-1)
        self.pixels += len(flat)
        self.wins += top.bincount(minlength=len(owners)).cpu()
        self.areas += first.bincount(minlength=classes).cpu()
        self.margins += first.bincount(margin.double(), minlength=classes).cpu()
        self._add_without(flat, top, owners)
        if classes > 1:
            near = margin < CLOSE
            pairs = (first * classes + second)[near]
            self.unsure += pairs.bincount(minlength=classes**2).view(classes, classes).cpu()
            self._keep_crops(near.view(shape), first.view(shape), second.view(shape), image, source)
        return first.view(shape)

    def _add_without(self, flat: Tensor, top: Tensor, owners: Tensor) -> None:
        """A pixel's class changes with a query only where that query wins."""
        rest = flat.clone()
        rest.scatter_(1, top[:, None], -torch.inf)
        if rest.shape[1] > 1:
            classes = self.without.shape[1]
            then = owners[rest.argmax(dim=-1)]
            moves = (top * classes + then).bincount(minlength=self.without.numel())
            self.without += moves.view_as(self.without).cpu()

    def _keep_crops(
        self, near: Tensor, first: Tensor, second: Tensor, image: np.ndarray, source: str
    ) -> None:
        """For each pair of classes, the picture with the most unsure pixels between them."""
        low, high = torch.minimum(first, second), torch.maximum(first, second)
        pairs = torch.where(near, low * len(self.areas) + high, -1)
        for number, count in zip(*pairs[near].unique(return_counts=True), strict=True):
            pair = divmod(int(number), len(self.areas))
            if pair in self.crops and self.crops[pair].unsure >= int(count):
                continue
            rows, columns = (pairs == number).nonzero(as_tuple=True)
            middle = tuple(float(axis.float().median()) for axis in (rows, columns))
            self.crops[pair] = Crop(_around(image, near.shape, middle), source, int(count))


def _around(image: np.ndarray, shape: Sequence[int], middle: Sequence[float]) -> np.ndarray:
    """A third of a picture (H, W, 3) around a pixel (row, column) of a map of ``shape`` (h, w)."""
    part = []
    for at, small, side in zip(middle, shape, image.shape[:2], strict=True):
        length = max(1, min(side, max(64, side // 3)))
        start = int((at + 0.5) * side / small - length / 2)
        start = max(0, min(side - length, start))
        part.append(slice(start, start + length))
    return image[tuple(part)].copy()
