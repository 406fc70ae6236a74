"""Pieces of label maps as boxes, points and polygons.

Polygons run along the edges of pixels: pixel (row, column) is the square from (column, row) to
(column + 1, row + 1). Drawn again, an unsimplified polygon gives exactly its pixels.

Shapes: H, W pixels; points are (x, y).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from ..segmentation import Segmentation


Ring = np.ndarray
"""A closed line (N, 2) of points (x, y), N ≥ 3; the last is joined to the first."""


@dataclass(frozen=True, eq=False)
class Piece:
    """An 8-connected piece of one class.

    Attributes:
        label: class index.
        top, left: of its box.
        mask: (h, w) bool within its box.
        score: mean score of the class over its pixels; None without scores.
        surest: (row, column) of its pixel with the best score, or without scores of the one that
            lies deepest inside.
    """

    label: int
    top: int
    left: int
    mask: np.ndarray
    score: float | None
    surest: tuple[int, int]

    @property
    def area(self) -> int:
        return int(self.mask.sum())

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, width, height)."""
        return self.left, self.top, self.mask.shape[1], self.mask.shape[0]

    def full_mask(self, size: tuple[int, int]) -> np.ndarray:
        """(H, W) bool."""
        full = np.zeros(size, dtype=bool)
        height, width = self.mask.shape
        full[self.top : self.top + height, self.left : self.left + width] = self.mask
        return full


def has_background(result: "Segmentation") -> bool:
    """Whether class 0 is "everything else"."""
    return result.classes[0] == "background"


def pieces(result: "Segmentation", min_area: int = 0) -> Iterator[Piece]:
    """The pieces of every class but the background, class by class, from top to bottom.

    Args:
        min_area: smaller ones are left out, in pixels.
    """
    for label in range(int(has_background(result)), len(result.classes)):
        mask = (result.labels == label).view(np.uint8)
        if not mask.any():
            continue
        count, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        for number in range(1, count):
            left, top, width, height, area = (int(v) for v in stats[number])
            if area < min_area:
                continue
            here = (slice(top, top + height), slice(left, left + width))
            own = parts[here] == number
            score = None
            if result.scores is not None:
                values = result.scores[here][..., label]
                score = float(values[own].mean())
                depth = np.where(own, values, -1)
            else:
                depth = cv2.distanceTransform(np.pad(own, 1).view(np.uint8), cv2.DIST_L2, 3)
                depth = depth[1:-1, 1:-1]
            row, column = np.unravel_index(int(depth.argmax()), own.shape)
            yield Piece(label, top, left, own, score, (int(row) + top, int(column) + left))


def rings(piece: Piece, tolerance: float = 0.0) -> tuple[list[Ring], list[list[Ring]]]:
    """Outlines of a piece, and the holes of each.

    Args:
        tolerance: how far a simplified line may leave the edge, in pixels; 0 is exact.

    Returns:
        Outer rings and, for each, its holes: float64 points in the picture.
    """
    # In a picture of twice the size, the contour's pixels v lie beside the edge (v + 1) // 2, and
    # the diagonal steps that OpenCV takes at inner corners fall onto single points.
    double = np.kron(piece.mask.view(np.uint8), np.ones((2, 2), np.uint8))
    contours, tree = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outer: list[Ring] = []
    holes: list[list[Ring]] = []
    place: dict[int, int] = {}
    for index, contour in enumerate(contours):
        if tree[0][index][3] < 0:
            ring = _ring(contour, piece, tolerance)
            if ring is not None:
                place[index] = len(outer)
                outer.append(ring)
                holes.append([])
    for index, contour in enumerate(contours):
        parent = int(tree[0][index][3])
        if parent in place:
            ring = _ring(contour, piece, tolerance)
            if ring is not None:
                holes[place[parent]].append(ring)
    return outer, holes


def _ring(contour: np.ndarray, piece: Piece, tolerance: float) -> Ring | None:
    """A contour of the doubled mask as a ring in the picture; None if nothing is left of it."""
    points = (contour[:, 0].astype(np.int64) + 1) // 2
    points = points[(points != np.roll(points, 1, axis=0)).any(1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    points = points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]  # corners
    if tolerance > 0 and len(points) > 4:
        points = cv2.approxPolyDP(points.astype(np.float32)[:, None], tolerance, True)[:, 0]
    if len(points) < 3:
        return None
    return points.astype(np.float64) + (piece.left, piece.top)


def polygons(piece: Piece, tolerance: float = 0.0) -> list[Ring]:
    """A piece as rings without holes, for formats that know none.

    A hole is joined to its outline by a line that is walked twice, which fills right under both
    rules of filling.

    Args:
        tolerance: see :func:`rings`.
    """
    joined = []
    for ring, holes in zip(*rings(piece, tolerance), strict=True):
        for hole in sorted(holes, key=lambda ring: ring[:, 0].min()):
            ring = _bridged(ring, hole)
        joined.append(ring)
    return joined


def _bridged(ring: Ring, hole: Ring) -> Ring:
    """One ring that walks to the hole's nearest corner, around the hole, and back."""
    if (_area(ring) > 0) == (_area(hole) > 0):
        hole = hole[::-1]  # against the outline's turn
    distance = ((ring[:, None] - hole[None]) ** 2).sum(-1)
    i, j = np.unravel_index(int(distance.argmin()), distance.shape)
    around = np.concatenate([hole[j:], hole[: j + 1]])
    return np.concatenate([ring[: i + 1], around, ring[i:]])


def _area(ring: Ring) -> float:
    """Twice the signed area."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1))
