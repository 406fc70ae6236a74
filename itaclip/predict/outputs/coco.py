"""COCO's two formats: instances with RLE masks, and panoptic segments."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...runtime.pictures import save_picture
from .base import Options, Writer, write_json
from .shapes import has_background, pieces

if TYPE_CHECKING:
    from ..segmentation import Segmentation


def categories(result: "Segmentation") -> list[dict]:
    """COCO's list of classes: numbers from 1, without the background."""
    first = int(has_background(result))
    return [
        {"id": index - first + 1, "name": result.classes[index], "supercategory": ""}
        for index in range(first, len(result.classes))
    ]


class CocoWriter(Writer):
    """``coco.json``: every connected piece of a class as an instance with an RLE mask."""

    name, folder = "coco", ""
    package = ("pycocotools", "outputs")

    def __init__(self, folder: Path, images: Sequence[str], options: Options) -> None:
        super().__init__(folder, images, options)
        self._images: list[dict] = []
        self._annotations: list[dict] = []
        self._categories: list[dict] = []

    def shared(self) -> list[Path]:
        return [self.root / "coco.json"]

    def write(self, result: "Segmentation") -> list[Path]:
        from pycocotools import mask as rle

        height, width = result.labels.shape
        number = len(self._images) + 1
        self._categories = categories(result)
        image = {"id": number, "file_name": result.source, "height": height, "width": width}
        self._images.append(image)
        first = int(has_background(result))
        for piece in pieces(result, self.options.min_area):
            full = np.asfortranarray(piece.full_mask((height, width)), dtype=np.uint8)
            encoded = rle.encode(full)
            entry = {
                "id": len(self._annotations) + 1,
                "image_id": number,
                "category_id": piece.label - first + 1,
                "segmentation": {
                    "size": [height, width],
                    "counts": encoded["counts"].decode("ascii"),
                },
                "area": piece.area,
                "bbox": list(piece.box),
                "iscrowd": 0,
            }
            if piece.score is not None:
                entry["score"] = round(piece.score, 4)
            self._annotations.append(entry)
        return []

    def finish(self) -> list[Path]:
        if not self._images:
            return []
        content = {
            "images": self._images,
            "annotations": self._annotations,
            "categories": self._categories,
        }
        return [write_json(self.shared()[0], content)]


class PanopticWriter(Writer):
    """``panoptic.json`` and ``panoptic/NAME.png``: every class of a picture as one segment.

    A segment's number is its pixels' red + 256 green + 65536 blue; 0 is background.
    """

    name, folder, suffix = "coco-panoptic", "panoptic", ".png"

    def __init__(self, folder: Path, images: Sequence[str], options: Options) -> None:
        super().__init__(folder, images, options)
        self._images: list[dict] = []
        self._annotations: list[dict] = []
        self._categories: list[dict] = []

    def shared(self) -> list[Path]:
        return [self.root / "panoptic.json"]

    def write(self, result: "Segmentation") -> list[Path]:
        path = self.own[result.source]
        height, width = result.labels.shape
        first = int(has_background(result))
        self._categories = [{**c, "isthing": 0} for c in categories(result)]
        number = len(self._images) + 1
        ids = np.zeros((height, width), dtype=np.int64)
        segments = []
        for label in range(first, len(result.classes)):
            inside = result.labels == label
            if not inside.any():
                continue
            segment = label - first + 1
            ids[inside] = segment
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            top, left = int(rows[0]), int(columns[0])
            box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
            segments.append(
                {
                    "id": segment,
                    "category_id": segment,
                    "area": int(inside.sum()),
                    "bbox": box,
                    "iscrowd": 0,
                }
            )
        colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1)
        save_picture(path, colours.astype(np.uint8))
        self._images.append(
            {"id": number, "file_name": result.source, "height": height, "width": width}
        )
        self._annotations.append(
            {"image_id": number, "file_name": path.name, "segments_info": segments}
        )
        return [path]

    def finish(self) -> list[Path]:
        if not self._images:
            return []
        content = {
            "images": self._images,
            "annotations": self._annotations,
            "categories": self._categories,
        }
        return [write_json(self.shared()[0], content)]
