"""What a format is."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...checks import integer, number
from ...errors import InputError
from ...runtime.files import write_whole
from ...runtime.outputs import plan_outputs

if TYPE_CHECKING:
    from ..segmentation import Segmentation


@dataclass(frozen=True)
class Options:
    """What formats may be told.

    Attributes:
        min_area: smaller pieces are left out of shapes and instances, in pixels.
        tolerance: how far polygons may leave the edge, in pixels; 0 follows every pixel.
        opacity: of the colours in overlays.
    """

    min_area: int = 0
    tolerance: float = 1.0
    opacity: float = 0.6

    def __post_init__(self) -> None:
        integer(self.min_area, "min_area")
        number(self.tolerance, "tolerance")


class Writer:
    """Writes results in one format.

    Args:
        folder: below it lie the format's files.
        images: all pictures whose results will come, in any order.
        options: see :class:`Options`.

    Attributes:
        name: of the format.
        suffix: of each picture's own file; None where there is none.
        package: what it needs beside the project, as (import name, extra); None for nothing.
        needs_scores: whether results must have scores.
    """

    name: ClassVar[str]
    folder: ClassVar[str]
    suffix: ClassVar[str | None] = None
    package: ClassVar[tuple[str, str] | None] = None
    needs_scores: ClassVar[bool] = False

    def __init__(self, folder: Path, images: Sequence[str], options: Options) -> None:
        if self.package is not None and importlib.util.find_spec(self.package[0]) is None:
            module, extra = self.package
            raise InputError(
                f"format {self.name}: it needs {module}; run pip install 'itaclip[{extra}]'."
            )
        self.options, self.root = options, folder
        self.own: dict[str, Path] = {}
        if self.suffix is not None:
            targets = plan_outputs(images, folder / self.folder, self.suffix)
            self.own = dict(zip(images, targets, strict=True))
        self.images = list(images)

    def planned(self) -> list[Path]:
        """Every file that may be written."""
        return [*self.own.values(), *self.shared()]

    def shared(self) -> list[Path]:
        """The files that hold all pictures."""
        return []

    def write(self, result: "Segmentation") -> list[Path]:
        """Writes or gathers one picture's result."""
        raise NotImplementedError

    def finish(self) -> list[Path]:
        """Writes :meth:`shared`."""
        return []


def write_json(path: Path, content: Any) -> Path:
    """Writes JSON aside and then renames it."""
    return write_whole(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
