"""Pictures of label maps: overlays, legends, contact sheets. Images are uint8 RGB (H, W, 3)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError
from .files import atomic_write
from .lettering import lettering

_MARGIN, _FONT_SIZE, _IGNORED = 8, 13, 255
_MAX_LEGEND = 24
_FONT_SHARE = 50  # of a large picture's long side
PICTURE_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def overlay(
    image: np.ndarray, labels: np.ndarray, palette: Sequence[Sequence[int]], opacity: float = 0.6
) -> np.ndarray:
    """Blends a label map's colours over an image; the ignored label 255 stays uncoloured.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) integer class indices.
        palette: RGB colours of the classes, 0-255.
        opacity: 0 shows the image alone, 1 the colours alone.
    """
    colours = np.asarray(palette, dtype=np.float32)
    known = labels < len(colours)
    blended = image.astype(np.float32)
    blended[known] += opacity * (colours[labels[known]] - blended[known])
    return blended.round().astype(np.uint8)


def overlay_with_legend(
    image: np.ndarray,
    prediction: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    ground_truth: np.ndarray | None = None,
    opacity: float = 0.6,
) -> np.ndarray:
    """Image, prediction and, if given, ground truth side by side; below, the classes by area."""
    panels = [("image", image), ("prediction", overlay(image, prediction, palette, opacity))]
    shown = [prediction.ravel()]
    if ground_truth is not None:
        panels.append(("ground truth", overlay(image, ground_truth, palette, opacity)))
        shown.append(ground_truth.ravel())
    area = np.bincount(np.concatenate(shown).astype(np.int64), minlength=len(classes))
    found = [c for c in np.argsort(-area[: len(classes)], kind="stable") if area[c] > 0]
    return _with_captions(panels, [(classes[c], tuple(palette[c])) for c in found[:_MAX_LEGEND]])


def _with_captions(
    panels: Sequence[tuple[str, np.ndarray]], legend: Sequence[tuple[str, tuple[int, ...]]]
) -> np.ndarray:
    height, width = panels[0][1].shape[:2]
    size = max(_FONT_SIZE, max(height, width) // _FONT_SHARE)
    font = ImageFont.load_default(size)
    line, box, space = size + 6, size - 2, size + 3
    drawn = [lettering(name, size) for name, _ in legend]
    steps = [space + int(own.getlength(name)) + size for own, name in drawn]
    total_width = max(len(panels) * (width + _MARGIN) + _MARGIN, _MARGIN + max(steps, default=0))
    rows, x = [[]], _MARGIN
    for (own, name), (_, colour), step in zip(drawn, legend, steps, strict=True):
        if x + step > total_width and rows[-1]:
            rows.append([])
            x = _MARGIN
        rows[-1].append((x, name, own, colour))
        x += step
    total_height = line + height + _MARGIN // 2 + line * len(rows) + _MARGIN // 2
    canvas = Image.new("RGB", (total_width, total_height), "white")
    draw = ImageDraw.Draw(canvas)
    for index, (caption, picture) in enumerate(panels):
        left = _MARGIN + index * (width + _MARGIN)
        draw.text((left, 2), caption, fill="black", font=font)
        canvas.paste(Image.fromarray(picture), (left, line))
    for number, row in enumerate(rows):
        y = line + height + _MARGIN // 2 + number * line
        for x, name, own, colour in row:
            draw.rectangle((x, y + 3, x + box, y + 3 + box), fill=colour, outline="black")
            draw.text((x + space, y), name, fill="black", font=own)
    return np.asarray(canvas)


def contact_sheet(pictures: Sequence[np.ndarray], columns: int = 2) -> np.ndarray:
    """Pictures of any sizes on a grid, left to right."""
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    widths = [max(r[c].shape[1] for r in rows if c < len(r)) for c in range(len(rows[0]))]
    strips = []
    for row in rows:
        height = max(picture.shape[0] for picture in row)
        strip = np.full((height, sum(widths), 3), 255, dtype=np.uint8)
        x = 0
        for picture, width in zip(row, widths, strict=False):
            strip[: picture.shape[0], x : x + picture.shape[1]] = picture
            x += width
        strips.append(strip)
    return np.concatenate(strips)


def picture_format(path: Path) -> str:
    """The format that a file's suffix asks for.

    Raises:
        InputError: the suffix is none of :data:`PICTURE_SUFFIXES`.
    """
    found = PICTURE_SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise InputError(
            f"{path}: expected a file name that ends in {', '.join(PICTURE_SUFFIXES)}; change it."
        )
    return found


def save_picture(path: Path, picture: np.ndarray | Image.Image, format: str = "PNG") -> Path:
    """Writes a picture, also of labels (H, W), aside and then renames it; returns its path."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    with atomic_write(path) as aside:
        image.save(aside, format=format, quality=90)  # PNG has no quality and ignores it
    return path
