"""Formats of labelling tools and of what is prompted or trained next.

LabelMe, Label Studio (pre-annotations, which a person corrects), YOLO's segmentation text, and
points and boxes as prompts for SAM. Holes of polygons: see :func:`shapes.polygons`.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from ...runtime.files import write_whole
from .base import Options, Writer, write_json
from .shapes import has_background, pieces, polygons

if TYPE_CHECKING:
    from ..segmentation import Segmentation


class LabelMeWriter(Writer):
    """``labelme/NAME.json``: polygons, beside a relative path of the picture."""

    name, folder, suffix = "labelme", "labelme", ".json"

    def write(self, result: "Segmentation") -> list[Path]:
        path = self.own[result.source]
        height, width = result.labels.shape
        shapes = [
            {
                "label": result.classes[piece.label],
                "points": ring.tolist(),
                "group_id": None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
            }
            for piece in pieces(result, self.options.min_area)
            for ring in polygons(piece, self.options.tolerance)
        ]
        content = {
            "version": "5.4.1",
            "flags": {},
            "shapes": shapes,
            "imagePath": os.path.relpath(result.source, path.parent),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        return [write_json(path, content)]


class LabelStudioWriter(Writer):
    """``label_studio.json``, tasks with predictions, and the labelling set-up that they need.

    The tasks name pictures below Label Studio's local storage; its document root must be the folder
    above all pictures.
    """

    name, folder = "label-studio", ""

    def __init__(self, folder: Path, images: Sequence[str], options: Options) -> None:
        super().__init__(folder, images, options)
        self._tasks: list[dict] = []
        self._labels: list[tuple[str, tuple[int, int, int]]] = []
        places = [os.path.abspath(image) for image in self.images]
        self._above = os.path.commonpath([os.path.dirname(p) for p in places]) if places else ""

    def shared(self) -> list[Path]:
        return [self.root / "label_studio.json", self.root / "label_studio.xml"]

    def write(self, result: "Segmentation") -> list[Path]:
        height, width = result.labels.shape
        first = int(has_background(result))
        self._labels = list(zip(result.classes, result.palette, strict=True))[first:]
        found = []
        for piece in pieces(result, self.options.min_area):
            for ring in polygons(piece, self.options.tolerance):
                entry = {
                    "id": f"{len(self._tasks)}-{len(found)}",
                    "type": "polygonlabels",
                    "from_name": "label",
                    "to_name": "image",
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "value": {
                        "points": (ring * (100 / width, 100 / height)).tolist(),
                        "closed": True,
                        "polygonlabels": [result.classes[piece.label]],
                    },
                }
                if piece.score is not None:
                    entry["score"] = round(piece.score, 4)
                found.append(entry)
        below = os.path.relpath(os.path.abspath(result.source), self._above)
        address = "/data/local-files/?d=" + quote(below.replace(os.sep, "/"))
        prediction = {"model_version": "itaclip", "result": found}
        self._tasks.append({"data": {"image": address}, "predictions": [prediction]})
        return []

    def finish(self) -> list[Path]:
        if not self._tasks:
            return []
        tasks, view = self.shared()
        labels = "\n".join(
            f'    <Label value={quoteattr(name)} background="#{r:02x}{g:02x}{b:02x}"/>'
            for name, (r, g, b) in self._labels
        )
        xml = f"""<View>
  <Image name="image" value="$image" zoom="true"/>
  <PolygonLabels name="label" toName="image">
{labels}
  </PolygonLabels>
</View>
"""
        return [write_json(tasks, self._tasks), write_whole(view, xml)]


class YoloWriter(Writer):
    """``yolo/labels/NAME.txt``: a line ``class x y x y …`` for each polygon, and ``data.yaml``.

    Coordinates are shares of width and height; the background is no class.
    """

    name, folder, suffix = "yolo", "yolo/labels", ".txt"
    _classes: tuple[str, ...] = ()

    def shared(self) -> list[Path]:
        return [self.root / "yolo" / "data.yaml"]

    def write(self, result: "Segmentation") -> list[Path]:
        path = self.own[result.source]
        height, width = result.labels.shape
        first = int(has_background(result))
        self._classes = result.classes[first:]
        lines = []
        for piece in pieces(result, self.options.min_area):
            for ring in polygons(piece, self.options.tolerance):
                shares = (ring / (width, height)).ravel()
                points = " ".join(f"{v:.6f}" for v in shares)
                lines.append(f"{piece.label - first} {points}\n")
        return [write_whole(path, "".join(lines))]

    def finish(self) -> list[Path]:
        if not self._classes:
            return []
        names = "".join(f"  {i}: {_yaml(name)}\n" for i, name in enumerate(self._classes))
        return [write_whole(self.shared()[0], f"names:\n{names}")]


def _yaml(text: str) -> str:
    """A text in YAML's single quotes."""
    return "'" + text.replace("'", "''") + "'"


class PromptWriter(Writer):
    """``sam_prompts/NAME.json``: per class the boxes of its pieces and a sure point in each.

    ``points`` are pixels (x, y), ``boxes`` (left, top, right, bottom), as SAM takes them.
    """

    name, folder, suffix = "sam-prompts", "sam_prompts", ".json"

    def write(self, result: "Segmentation") -> list[Path]:
        height, width = result.labels.shape
        classes: dict[str, dict[str, list]] = {}
        for piece in pieces(result, self.options.min_area):
            own = classes.setdefault(
                result.classes[piece.label], {"points": [], "boxes": [], "scores": []}
            )
            left, top, wide, high = piece.box
            row, column = piece.surest
            own["points"].append([column, row])
            own["boxes"].append([left, top, left + wide, top + high])
            own["scores"].append(None if piece.score is None else round(piece.score, 4))
        content = {"image": result.source, "height": height, "width": width, "classes": classes}
        return [write_json(self.own[result.source], content)]
