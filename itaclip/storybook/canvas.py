"""Random numbers, noise and shapes of the Storybook pictures, equal to the bit everywhere.

Pixels come from + − × ÷, square roots, comparisons and integers alone, and random numbers from
``numpy.random.RandomState``, whose streams are frozen: no machine and no version of NumPy draws
another picture.

Legend: H, W picture height and width. Distances are signed, in pixels, negative inside a shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Colour = tuple[float, float, float]


class Dice:
    """Random numbers of one picture; every draw is a plain Python number.

    Args:
        seed: a sequence of integers in 0 … 2³² − 1, e.g. (split, index).
    """

    def __init__(self, seed: Sequence[int]):
        self._state = np.random.RandomState(list(seed))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * float(self._state.random_sample())

    def integer(self, low: int, high: int) -> int:
        """An integer in low … high, both included."""
        return low + int(float(self._state.random_sample()) * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return float(self._state.random_sample()) < probability

    def choice(self, items: Sequence):
        """One of ``items``, all equally likely."""
        return items[self.integer(0, len(items) - 1)]

    def shuffled(self, items: Sequence) -> list:
        """The items in random order, the given sequence unchanged."""
        rest, order = list(items), []
        while rest:
            order.append(rest.pop(self.integer(0, len(rest) - 1)))
        return order

    def grain(self, height: int, width: int) -> np.ndarray:
        """White noise (H, W), float32 in [0, 1]."""
        raw = np.frombuffer(self._state.bytes(height * width), dtype=np.uint8)
        return raw.reshape(height, width).astype(np.float32) * np.float32(1 / 255)

    def noise(self, height: int, width: int, cell_height: float, cell_width: float) -> np.ndarray:
        """Smooth noise (H, W), float32 in [0, 1]: random values on a grid, interpolated."""
        rows, row_part = _grid(height, cell_height)
        columns, column_part = _grid(width, cell_width)
        nodes = self.grain(int(rows[-1]) + 2, int(columns[-1]) + 2)
        row_part = row_part[:, None]
        lines = nodes[rows] * (1 - row_part) + nodes[rows + 1] * row_part  # (H, nodes)
        return lines[:, columns] * (1 - column_part) + lines[:, columns + 1] * column_part


def _grid(length: int, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Cell index and position within the cell of every pixel along one axis."""
    place = np.arange(length, dtype=np.float32) / np.float32(cell)
    index = place.astype(np.int64)
    return index, place - index.astype(np.float32)


def triangle(phase: np.ndarray) -> np.ndarray:
    """Triangle wave of period 1 in [0, 1], 0 at whole numbers."""
    return np.abs(phase - np.floor(phase + np.float32(0.5))) * 2


class Frame:
    """Coordinates of one thing on the picture: its own unit square, tilted, scaled and placed.

    Args:
        size: (H, W) of the picture.
        centre: (y, x) in pixels.
        unit: pixels of one unit; a thing spans about −1 … 1 on both axes.
        aspect: stretches the x axis.
        tilt: tangent of half the angle of rotation.
        mirror: flip left and right.

    Attributes:
        window: (rows, columns) slices of the picture that can be touched, or None if outside.
        x, y: (h, w) float32, coordinates of the window's pixels in units.
    """

    def __init__(
        self,
        size: tuple[int, int],
        centre: tuple[float, float],
        unit: float,
        aspect: float = 1.0,
        tilt: float = 0.0,
        mirror: bool = False,
    ):
        reach = unit * 1.5 * max(1.0, aspect) + 2
        top, bottom = max(0, int(centre[0] - reach)), min(size[0], int(centre[0] + reach) + 1)
        left, right = max(0, int(centre[1] - reach)), min(size[1], int(centre[1] + reach) + 1)
        self.unit = unit
        self.window = None
        if top >= bottom or left >= right:
            return
        self.window = (slice(top, bottom), slice(left, right))
        down = (np.arange(top, bottom, dtype=np.float32) - np.float32(centre[0])) / np.float32(unit)
        along = np.arange(left, right, dtype=np.float32) - np.float32(centre[1])
        along = along / np.float32(unit)
        # a rotation without sine and cosine: both are rational in the half angle's tangent
        cosine = (1 - tilt * tilt) / (1 + tilt * tilt)
        sine = 2 * tilt / (1 + tilt * tilt)
        x = (cosine * along)[None, :] + (sine * down)[:, None]
        self.y = (cosine * down)[:, None] - (sine * along)[None, :]
        self.x = x * ((-1 if mirror else 1) / aspect)

    def ellipse(self, cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        """Ellipse around (cx, cy); exact for circles, close otherwise."""
        x, y = (self.x - cx) / rx, (self.y - cy) / ry
        return (np.sqrt(x * x + y * y) - 1) * (min(rx, ry) * self.unit)

    def box(self, left: float, top: float, right: float, bottom: float) -> np.ndarray:
        """Axis-parallel box."""
        x = np.abs(self.x - (left + right) / 2) - (right - left) / 2
        y = np.abs(self.y - (top + bottom) / 2) - (bottom - top) / 2
        return np.maximum(x, y) * self.unit

    def polygon(self, *points: tuple[float, float]) -> np.ndarray:
        """Convex polygon of (x, y) corners, clockwise on the screen."""
        distance = None
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            length = math.sqrt((x1 - x0) * (x1 - x0) + (y1 - y0) * (y1 - y0))
            nx, ny = (y1 - y0) / length, (x0 - x1) / length
            side = self.x * nx + (self.y * ny - (nx * x0 + ny * y0))
            distance = side if distance is None else np.maximum(distance, side)
        return distance * self.unit


def union(*shapes: np.ndarray) -> np.ndarray:
    """Distance to the nearest of several shapes."""
    result = shapes[0]
    for shape in shapes[1:]:
        result = np.minimum(result, shape)
    return result


def intersection(*shapes: np.ndarray) -> np.ndarray:
    """Distance to what all shapes share."""
    result = shapes[0]
    for shape in shapes[1:]:
        result = np.maximum(result, shape)
    return result


def paint(picture: np.ndarray, distance: np.ndarray, colour: Colour, shade: np.ndarray) -> None:
    """Lay a colour over ``picture`` (h, w, 3) float32, 0–255, in place, with soft edges.

    Args:
        distance: (h, w) signed distance of the shape.
        colour: RGB, 0–255.
        shade: (h, w) float32, brightness around 1.
    """
    cover = np.minimum(np.maximum(np.float32(0.5) - distance, 0), 1)
    lit = cover * shade
    for channel in range(3):
        layer = picture[..., channel]
        layer += lit * np.float32(colour[channel]) - cover * layer
