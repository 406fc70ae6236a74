"""Results in the formats of other tools: :class:`Exporter` writes several of them at once.

A format is a :class:`Writer`, a row of :data:`FORMATS`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError
from ...runtime.outputs import check_outputs
from .base import Options, Writer
from .coco import CocoWriter, PanopticWriter
from .labelling import LabelMeWriter, LabelStudioWriter, PromptWriter, YoloWriter
from .rasters import GeoTiffWriter, MaskWriter, OverlayWriter, ScoreWriter

if TYPE_CHECKING:
    from ..segmentation import Segmentation

__all__ = ["FORMATS", "Exporter", "Options", "Writer"]

FORMATS: dict[str, type[Writer]] = {
    writer.name: writer
    for writer in (
        OverlayWriter,
        MaskWriter,
        ScoreWriter,
        GeoTiffWriter,
        CocoWriter,
        PanopticWriter,
        LabelMeWriter,
        LabelStudioWriter,
        YoloWriter,
        PromptWriter,
    )
}


class Exporter:
    """Writes results in several formats below one folder.

    Everything is planned before the first picture is segmented: no file has two results, and none
    replaces a picture.

    Args:
        formats: names out of :data:`FORMATS`.
        images: all the pictures whose results will come.
        folder: below it each format has a folder or file of its own.
        options: see :class:`Options`.

    Raises:
        InputError: an unknown format, a missing package, or files that would collide.
    """

    def __init__(
        self,
        formats: Sequence[str],
        images: Sequence[str | Path],
        folder: str | Path,
        options: Options | None = None,
    ) -> None:
        for name in formats:
            if name not in FORMATS:
                raise InputError(
                    f"format: expected names out of {', '.join(FORMATS)}, but got {name!r}."
                )
        folder = Path(folder).expanduser()
        if formats and folder.is_file():
            raise InputError(f"{folder}: expected a folder, but this is a file; give another name.")
        self.writers = [
            FORMATS[name](folder, [str(image) for image in images], options or Options())
            for name in dict.fromkeys(formats)
        ]
        self.planned = [path for writer in self.writers for path in writer.planned()]
        check_outputs(self.planned, images)

    @property
    def needs_scores(self) -> bool:
        return any(writer.needs_scores for writer in self.writers)

    def write(self, result: "Segmentation") -> list[Path]:
        """Writes one picture's result; returns the files that are its own."""
        return [path for writer in self.writers for path in writer.write(result)]

    def finish(self) -> list[Path]:
        """Writes the files that hold all pictures; returns them."""
        return [path for writer in self.writers for path in writer.finish()]
