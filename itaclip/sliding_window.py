"""Windows over an image, and their similarity maps put together at the output's size.

The published steps - upsample each window bilinearly to its pixels, sum, divide by the count,
resize bilinearly to the original size - are linear and separate into rows and columns. For window
(i, j) with patch map S they equal ``A_i S B_jᵀ``, where A_i (H_out × h) and B_j (W_out × w) hold
the interpolation weights. So no map at window or network resolution is ever made, and one row of
windows after the other is added into the output: the cost grows linearly with the image's area.

Shapes: H, W pixels; h, w patches of a window; R, K rows and columns of windows; Q channels (last).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import is_integer
from .errors import InputError
from .runtime.stages import stage


@dataclass(frozen=True)
class WindowGrid:
    """Windows of one size over an image; the last row and column are moved inside.

    Attributes:
        image_size: (H, W) of the image in pixels.
        window: (H, W) of every window: the crop, or the image's side where that is shorter.
        tops, lefts: the windows' first rows and columns.
        frame: (H, W) to which windows are padded for the encoder, half of it (floor) above and on
            the left; None: they are not.
        straight: their maps are resized to the output at once, not by way of the image's pixels.
    """

    image_size: tuple[int, int]
    window: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    frame: tuple[int, int] | None = None
    straight: bool = False

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def crops(self, image: Tensor) -> Iterator[Tensor]:
        """The windows of an image (3, H, W), row by row, as views (3, *window)."""
        for top in self.tops:
            for left in self.lefts:
                yield image[:, top : top + self.window[0], left : left + self.window[1]]

    def padded_to(self, multiple: int) -> "WindowGrid":
        """The same windows, padded to multiples of so many pixels."""
        height, width = (-(-side // multiple) * multiple for side in self.window)
        frame = (height, width)
        return self if frame == self.window else replace(self, frame=frame)

    @property
    def encoded(self) -> tuple[int, int]:
        """(H, W) of what the encoder gets of a window."""
        return self.frame or self.window

    def pad(self, windows: Tensor, value: float = 0) -> Tensor:
        """Windows (…, *window) → (…, *encoded)."""
        if self.frame is None:
            return windows
        sides = []
        for side, total in zip(self.window[::-1], self.frame[::-1], strict=True):
            before = (total - side) // 2
            sides += [before, total - side - before]
        return F.pad(windows, sides, value=value)

    def centres(self, patches: tuple[int, int]) -> Tensor:
        """Centres of all windows' patches in pixels of the image, (R·K·h·w, 2), rows first."""
        places = []
        for starts, side, total, n in zip(
            (self.tops, self.lefts), self.window, self.encoded, patches, strict=True
        ):
            own = (torch.arange(n, dtype=torch.float64) + 0.5) * total / n - (total - side) // 2
            places.append(torch.tensor(starts, dtype=torch.float64)[:, None] + own)  # R, h
        (rows, h), (columns, w) = places[0].shape, places[1].shape
        shape = (rows, columns, h, w)
        y = places[0][:, None, :, None].expand(shape)
        x = places[1][None, :, None, :].expand(shape)
        return torch.stack([y.flatten(), x.flatten()], dim=1).float()


def sliding_windows(
    image_size: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int]
) -> WindowGrid:
    """Lays windows of ``crop`` pixels every ``stride`` pixels over an image (heights first)."""
    window, starts = [], []
    for side, length, step in zip(image_size, crop, stride, strict=True):
        length = min(side, length)
        count = -(-(side - length) // step) + 1
        starts.append(tuple(min(i * step, side - length) for i in range(count)))
        window.append(length)
    (height, width), (rows, columns), (tops, lefts) = image_size, window, starts
    return WindowGrid((height, width), (rows, columns), tops, lefts)


def whole_image(image_size: tuple[int, int]) -> WindowGrid:
    """The one window that is the image itself."""
    height, width = image_size
    return WindowGrid((height, width), (height, width), (0,), (0,))


# How the windows meet in the output. A further way is a name here and a branch where the segmentor
# makes similarities.
MERGES = ("average", "stitch")


@dataclass(frozen=True)
class Windows:
    """The ``test_cfg`` key, validated: how windows lie over an image, and how they meet.

    Attributes:
        crop_size, stride: (height, width) in pixels; None takes the whole image at once.
        merge: ``'average'``: the mean of the similarity maps of the windows at a pixel;
            ``'stitch'``: windows meet on one grid of patches before the recipe's last step.
    """

    crop_size: tuple[int, int] | None = (224, 224)
    stride: tuple[int, int] | None = (28, 28)
    merge: str = "average"

    @property
    def whole(self) -> bool:
        """Whether images are taken at once."""
        return self.crop_size is None

    def over(self, image_size: tuple[int, int]) -> WindowGrid:
        """The windows of an image of (H, W) pixels."""
        if self.crop_size is None:
            return whole_image(image_size)
        assert self.stride is not None
        return sliding_windows(image_size, self.crop_size, self.stride)


def parse_test_cfg(test_cfg: Mapping | Windows | None) -> Windows:
    """Validates ``test_cfg``; None gives its defaults.

    Raises:
        InputError: an unknown mode or key, or sizes that are not positive integers.
    """
    if isinstance(test_cfg, Windows):
        return test_cfg
    given = {"mode": "slide"} if test_cfg is None else test_cfg
    if not isinstance(given, Mapping) or given.get("mode") not in ("slide", "whole"):
        raise InputError(
            "test_cfg: expected dict(mode='slide', crop_size=…, stride=…) or dict(mode='whole'), "
            f"but got {given!r}."
        )
    allowed = {"mode", "merge"} | ({"crop_size", "stride"} if given["mode"] == "slide" else set())
    unknown = sorted(set(given) - allowed)
    if unknown:
        raise InputError(
            f"test_cfg: unknown key {unknown[0]!r} for mode {given['mode']!r}; expected "
            f"{', '.join(sorted(allowed))}."
        )
    merge = given.get("merge", "average")
    if merge not in MERGES:
        raise InputError(
            f"test_cfg.merge: expected {' or '.join(map(repr, MERGES))}, but got {merge!r}."
        )
    if given["mode"] == "whole":
        return Windows(None, None, merge)
    crop = _pair(given.get("crop_size", (224, 224)), "crop_size")
    stride = _pair(given.get("stride", (28, 28)), "stride")
    if any(s > c for s, c in zip(stride, crop, strict=True)):
        raise InputError(
            f"test_cfg.stride: expected at most the crop {crop}, but got {stride}: pixels between "
            "the windows would never be seen."
        )
    return Windows(crop, stride, merge)


def _pair(value: object, key: str) -> tuple[int, int]:
    """An int or a (height, width) pair of positive ints."""
    pair = (value, value) if is_integer(value) else value
    if isinstance(pair, tuple | list) and len(pair) == 2 and all(is_integer(v, 1) for v in pair):
        return int(pair[0]), int(pair[1])
    raise InputError(
        f"test_cfg.{key}: expected one or two (height, width) positive integers, got {value!r}."
    )


# First, last + 1, and weights (last + 1 - first, patches) of the rows that a window reaches.
Operator = tuple[int, int, Tensor]


class WindowAssembler:
    """Puts the similarity maps of windows together at the output's size.

    Args:
        grid: the windows.
        patches: (h, w) patches of a window.
        output_size: (H, W) of the whole result.
    """

    def __init__(
        self,
        grid: WindowGrid,
        patches: tuple[int, int],
        output_size: tuple[int, int],
        device: torch.device | None = None,
    ) -> None:
        self.output_size = output_size
        starts = (grid.tops, grid.lefts)
        axes = zip(
            starts, grid.window, grid.encoded, patches, grid.image_size, output_size, strict=True
        )
        how = _straight_operators if grid.straight else _axis_operators
        self._rows, self._columns = (_on_device(how(*axis), device) for axis in axes)

    @classmethod
    def onto_grid(
        cls,
        grid: WindowGrid,
        patches: tuple[int, int],
        target: tuple[int, int],
        device: torch.device | None = None,
    ) -> "WindowAssembler":
        """Puts maps of windows together on the whole image's grid of patches.

        A cell of the target takes from each window around its centre the value there, linear
        between patches, and their mean. Where windows lie on the target's grid, that is the patch
        itself.

        Args:
            grid: the windows.
            patches: (h, w) of a window.
            target: (h', w') patches of the image.
        """
        made = cls.__new__(cls)
        height, width = target
        made.output_size = (height, width)
        axes = zip(
            (grid.tops, grid.lefts),
            grid.window,
            grid.encoded,
            patches,
            grid.image_size,
            target,
            strict=True,
        )
        made._rows, made._columns = (_on_device(_cell_operators(*axis), device) for axis in axes)
        return made

    def __call__(self, maps: Iterable[Tensor]) -> Tensor:
        """The assembled map (H, W, Q).

        Args:
            maps: for each row of windows, in order, the maps (K, h, w, Q) of its windows.
        """
        result = None
        for operator, own in zip(self._rows, maps, strict=True):
            if result is None:
                result = own.new_zeros(*self.output_size, own.shape[-1])
            self._add(result, 0, operator, self._over_columns(own))
        return result

    def strips(self, maps: Sequence[Tensor]) -> Callable[[int, int], Tensor]:
        """The assembled map in strips, to be asked for from top to bottom.

        The rows of windows that reach into a strip are kept, upsampled to the output's columns, for
        the next one.

        Args:
            maps: for each row of windows, in order, the maps (K, h, w, Q) of its windows.

        Returns:
            A function of a first row and a last row + 1 that gives (rows, W, Q).
        """
        kept: dict[int, Tensor] = {}

        def strip(first: int, last: int) -> Tensor:
            result = maps[0].new_zeros(last - first, self.output_size[1], maps[0].shape[-1])
            for i, operator in enumerate(self._rows):
                start, stop, _ = operator
                if stop <= first:
                    kept.pop(i, None)
                elif start < last:
                    if i not in kept:
                        kept[i] = self._over_columns(maps[i])
                    self._add(result, first, operator, kept[i])
            return result

        return strip

    def _over_columns(self, own: Tensor) -> Tensor:
        """One row of windows (K, h, w, Q), put together along the columns: (h, W, Q)."""
        with stage("upsampling"):
            spread = own.new_zeros(own.shape[1], self.output_size[1], own.shape[-1])
            for (left, right, columns), window in zip(self._columns, own, strict=True):
                spread[:, left:right] += columns @ window  # (W', w) @ (h, w, Q)
        return spread

    def _add(
        self, result: Tensor, first: int, operator: tuple[int, int, Tensor], spread: Tensor
    ) -> None:
        """Adds a row of windows (h, W, Q) to the rows of the output from ``first`` on."""
        start, stop, weights = operator
        top, bottom = max(start, first), min(stop, first + len(result))
        if top < bottom:
            with stage("upsampling"):
                target = result[top - first : bottom - first].flatten(1)
                target.addmm_(weights[top - start : bottom - start], spread.flatten(1))


def _on_device(operators: list[Operator], device: torch.device | None) -> list[Operator]:
    """The weights of all windows, (rows, patches) each, in one copy to the device."""
    firsts, lasts, weights = zip(*operators, strict=True)
    moved = torch.cat(weights).to(device).split([len(own) for own in weights])
    return list(zip(firsts, lasts, moved, strict=True))


def _straight_operators(
    starts: tuple[int, ...],
    window: int,
    encoded: int,
    patches: int,
    side: int,
    output: int,
) -> list[Operator]:
    """As :func:`_axis_operators`, for the one window that is the image: its map resized at once."""
    weights = _linear_resize(torch.eye(patches, dtype=torch.float64), output).T
    return [(0, output, weights.float())]


def _cell_operators(
    starts: tuple[int, ...],
    window: int,
    encoded: int,
    patches: int,
    side: int,
    cells: int,
) -> list[Operator]:
    """As :func:`_axis_operators`, for cells of a grid over the image instead of pixels."""
    centres = (torch.arange(cells, dtype=torch.float64) + 0.5) * side / cells
    first = torch.tensor(starts, dtype=torch.float64)[:, None]
    inside = (centres >= first) & (centres <= first + window)  # windows, cells
    operators = []
    for start, reached in zip(starts, inside, strict=True):
        at = (centres - start + (encoded - window) // 2) * patches / encoded - 0.5
        at = at.clamp(0, patches - 1)
        low = at.floor().long().clamp_max(max(0, patches - 2))
        share = at - low
        weights = torch.zeros(cells, patches, dtype=torch.float64)
        weights.scatter_(1, low[:, None], (1 - share)[:, None])
        if patches > 1:
            weights.scatter_add_(1, low[:, None] + 1, share[:, None])
        weights = weights * reached[:, None] / inside.sum(0).clamp_min(1)[:, None]
        rows = reached.nonzero()
        top, bottom = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
        operators.append((top, bottom, weights[top:bottom].float()))
    return operators


def _axis_operators(
    starts: tuple[int, ...],
    window: int,
    encoded: int,
    patches: int,
    side: int,
    output: int,
) -> list[Operator]:
    """Interpolation weights of every window along one axis.

    Returns:
        Per window (first, last + 1, matrix (last + 1 - first, patches)): the rows of the output
        that the window reaches, and their weights, divided by the number of windows at a pixel.
    """
    before = (encoded - window) // 2
    upsample = _linear_resize(torch.eye(patches, dtype=torch.float64), encoded)
    upsample = upsample[:, before : before + window]  # patches, window
    count = torch.zeros(side, dtype=torch.float64)
    for start in starts:
        count[start : start + window] += 1
    operators = []
    for start in starts:
        placed = torch.zeros(patches, side, dtype=torch.float64)
        placed[:, start : start + window] = upsample / count[start : start + window]
        weights = _linear_resize(placed, output).T  # output, patches
        reached = weights.any(dim=1).nonzero()
        # When shrinking, a window can fall between the output's samples.
        first, last = (int(reached[0]), int(reached[-1]) + 1) if len(reached) else (0, 0)
        operators.append((first, last, weights[first:last].float()))
    return operators


def _linear_resize(rows: Tensor, size: int) -> Tensor:
    """Linear interpolation along the last axis, ``align_corners=False``: one axis of bilinear."""
    return F.interpolate(rows.unsqueeze(0), size=size, mode="linear", align_corners=False)[0]
