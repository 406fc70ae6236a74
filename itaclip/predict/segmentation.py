"""Segmentation: what comes out of one picture: labels, scores, areas, pictures, files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..checks import is_number
from ..errors import InputError
from ..runtime.lettering import figure_lettering
from ..runtime.outputs import check_outputs
from ..runtime.pictures import overlay, overlay_with_legend, picture_format, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A picture's labels.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) int32 indices into ``classes``.
        scores: (H, W, C) float32 in [0, 1], after softmax, grouping and area rule; None where they
            were not asked for.
        classes: per class its first name; a background at 0 is called ``'background'``.
        palette: per class its colour, RGB 0-255.
        source: the file's path or ``'image'``.
    """

    image: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    source: str = "image"

    def __repr__(self) -> str:
        height, width = self.labels.shape
        found = ", ".join(f"{name} {share:.1%}" for name, share in self.areas().items())
        return f"Segmentation({self.source}, {height}x{width}: {found})"

    def areas(self) -> dict[str, float]:
        """Share of the picture, from 0 to 1, of every class found; the largest first."""
        return {self.classes[c]: pixels / self.labels.size for c, pixels in self._found()}

    def _found(self) -> list[tuple[int, int]]:
        """(class, pixels) of the classes found, the largest first."""
        pixels = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        order = np.argsort(-pixels, kind="stable")
        return [(int(c), int(pixels[c])) for c in order if pixels[c]]

    def mask(self, name: str) -> np.ndarray:
        """Where a class was found, (H, W) bool.

        Raises:
            InputError: no class has this first name.
        """
        if name not in self.classes:
            raise InputError(
                f"mask: expected one of {', '.join(self.classes)}, but got {name!r}; give a "
                "class's first name."
            )
        return self.labels == self.classes.index(name)

    @property
    def margin(self) -> np.ndarray:
        """How far a pixel's best class is ahead of its second, (H, W) float32 in [0, 1].

        Raises:
            InputError: the segmentation has no scores.
        """
        if self.scores is None:
            raise InputError("scores: this segmentation was made without; leave scores=False out.")
        if self.scores.shape[2] == 1:
            return self.scores[..., 0]
        second, best = np.moveaxis(np.partition(self.scores, -2, axis=-1)[..., -2:], -1, 0)
        return best - second

    @property
    def uncertainty(self) -> np.ndarray:
        """1 - :attr:`margin`: 1 where two classes are equally likely, (H, W) float32.

        ``margin_thd=t`` turns pixels that are above 1 - t into background.

        Raises:
            InputError: as of :attr:`margin`.
        """
        return 1 - self.margin

    def as_dict(self) -> dict:
        """Size, classes found and their areas in plain types, ready for JSON.

        ``box`` is (top, left, bottom, right) around all of a class's pixels, the last two excluded.
        ``score`` is the mean score of the class over its pixels, None without scores.
        """
        height, width = self.labels.shape
        found = []
        for index, pixels in self._found():
            rows, columns = np.nonzero(self.labels == index)
            score = None
            if self.scores is not None:
                score = round(float(self.scores[rows, columns, index].mean()), 4)
            found.append(
                {
                    "name": self.classes[index],
                    "index": index,
                    "pixels": pixels,
                    "area": round(pixels / self.labels.size, 6),
                    "score": score,
                    "box": [int(v) for v in (rows.min(), columns.min(), rows.max() + 1,
                                             columns.max() + 1)],
                    "colour": list(self.palette[index]),
                }
            )  # fmt: skip
        return {
            "image": self.source,
            "height": height,
            "width": width,
            "classes": list(self.classes),
            "found": found,
        }

    # ---- pictures -------------------------------------------------------------------------------

    def overlay(self, opacity: float = 0.6) -> np.ndarray:
        """The classes' colours over the picture, (H, W, 3) uint8; 0 shows the picture alone."""
        return overlay(self.image, self.labels, self.palette, _checked_opacity(opacity))

    def plot(self, ax: Axes | None = None, opacity: float = 0.6) -> Axes:
        """Draws the overlay with a legend of the classes found, the largest first.

        Args:
            ax: matplotlib axes to draw into; None makes a figure, which notebooks show and scripts
                show by ``matplotlib.pyplot.show()``.

        Returns:
            The axes.
        """
        from matplotlib.patches import Patch

        if ax is None:
            import matplotlib.pyplot as plt

            height, width = self.labels.shape
            _, ax = plt.subplots(figsize=(8, 8 * min(max(height / width, 0.25), 2)))
        ax.imshow(self.overlay(opacity))
        ax.set_axis_off()
        found = self._found()
        names, families = figure_lettering(self.classes[index] for index, _ in found)
        handles = [
            Patch(
                color=np.asarray(self.palette[index]) / 255,
                label=f"{name} {pixels / self.labels.size:.0%}",
            )
            for name, (index, pixels) in zip(names, found, strict=True)
        ]
        place = dict(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
        ax.legend(handles=handles, prop={"family": families}, **place)
        return ax

    def save(self, path: str | Path, opacity: float = 0.6) -> Path:
        """Writes picture and overlay side by side, with the legend below, as PNG, JPEG or WebP.

        Raises:
            InputError: the suffix is none of these, or the file is the picture itself.
        """
        path = Path(path).expanduser()
        check_outputs([path], [self.source])
        kind = picture_format(path)
        picture = overlay_with_legend(
            self.image,
            self.labels,
            self.classes,
            self.palette,
            opacity=_checked_opacity(opacity),
        )
        return save_picture(path, picture, kind)

    def save_mask(self, path: str | Path) -> Path:
        """Writes the labels as a PNG whose values are class indices.

        Up to 256 classes it has 8 bits and the classes' palette, as Pascal VOC's masks; else 16.

        Raises:
            InputError: the suffix is not .png, the file is the picture itself, or there are more
                than 65536 classes.
        """
        path = Path(path).expanduser()
        check_outputs([path], [self.source])
        if path.suffix.lower() != ".png":
            raise InputError(f"{path}: masks are lossless; expected a file name that ends in .png.")
        if len(self.classes) > 1 << 16:
            raise InputError(f"{path}: a mask holds at most 65536 classes.")
        if len(self.classes) > 256:
            return save_picture(path, self.labels.astype(np.uint16))
        indices = self.labels.astype(np.uint8)
        mask = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
        mask.putpalette(np.asarray(self.palette, dtype=np.uint8).tobytes())
        return save_picture(path, mask)

    def export(
        self, formats: str | Sequence[str], folder: str | Path, **options: object
    ) -> list[Path]:
        """Writes the result in the formats of other tools.

        Args:
            formats: names out of :data:`itaclip.predict.outputs.FORMATS`, such as ``'coco'`` and
                ``'labelme'``; a list, or a string with commas.
            folder: below it each format has a folder or file of its own.
            options: see :class:`itaclip.predict.outputs.Options`.

        Returns:
            The files.

        Raises:
            InputError: an unknown format, a missing package, or a file that would replace the
                picture.
        """
        from .outputs import Exporter, Options

        names = formats.split(",") if isinstance(formats, str) else formats
        exporter = Exporter([n.strip() for n in names], [self.source], folder, Options(**options))
        return [*exporter.write(self), *exporter.finish()]


def _checked_opacity(opacity: float) -> float:
    if not is_number(opacity, 0, 1):
        raise InputError(f"opacity: expected a number from 0 to 1, but got {opacity!r}.")
    return opacity
