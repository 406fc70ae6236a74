"""Cityscapes: 19 classes from the official label-id images.

The polygons are needed only where the label-id images are missing, and then the official tools
draw them: another rasteriser would give slightly different borders.
"""

import importlib.util
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...runtime.download import Download
from .labels import apply_table, cityscapes_table, read_and_map, read_labels
from .paired import PairedSplit, Route, each_split, output_labels
from .sources import Part

REGISTER = "register at https://www.cityscapes-dataset.com, download {}"
IMAGE_ARCHIVE = Download(
    "leftImg8bit_trainvaltest.zip",
    how_to_get=REGISTER.format("leftImg8bit_trainvaltest.zip (11 GB, packageID 3)"),
)
MASK_ARCHIVE = Download(
    "gtFine_trainvaltest.zip",
    how_to_get=REGISTER.format("gtFine_trainvaltest.zip (241 MB, packageID 1)"),
)
IMAGE_SUFFIX = "_leftImg8bit.png"
RAW_SUFFIX = "_gtFine_labelIds.png"
POLYGON_SUFFIX = "_gtFine_polygons.json"
MASK_SUFFIX = "_gtFine_labelTrainIds.png"


def labels_from_polygons(path: Path, table: np.ndarray) -> np.ndarray:
    """Draw a polygon file with cityscapesscripts and map it to labels (H, W) uint8.

    Raises:
        InputError: cityscapesscripts is not installed or refuses the file.
    """
    if importlib.util.find_spec("cityscapesscripts") is None:
        raise InputError(
            f"{path}: there is no {path.name.replace(POLYGON_SUFFIX, RAW_SUFFIX)} beside it, and "
            "drawing it from the polygons needs the official tools: extract "
            f"{MASK_ARCHIVE.file_name} in full, or run `pip install cityscapesscripts`"
        )
    from cityscapesscripts.preparation.json2labelImg import json2labelImg

    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "labelIds.png"
        try:
            json2labelImg(str(path), str(drawn), "ids")
        except (Exception, SystemExit) as error:  # the tool exits on unknown labels
            raise InputError(
                f"{path}: cityscapesscripts cannot draw this file ({error}); extract it again"
            ) from None
        return apply_table(table, read_labels(drawn), path)


@each_split("cityscapes")
def prepare(split: str) -> PairedSplit:
    """Make the masks of Cityscapes: 19 classes, everything else ignored."""
    table = cityscapes_table()
    folder, tails = f"gtFine/{split}", (f"gtFine/{split}",)
    routes = (
        Route(
            Part(folder, tails, rf"[^.].*{RAW_SUFFIX}", MASK_ARCHIVE),
            RAW_SUFFIX,
            partial(read_and_map, table=table),
        ),
        Route(
            Part(folder, tails, rf"[^.].*{POLYGON_SUFFIX}", MASK_ARCHIVE),
            POLYGON_SUFFIX,
            partial(labels_from_polygons, table=table),
            note="drawn from polygons with cityscapesscripts, as label-id images are missing",
        ),
    )
    images = f"leftImg8bit/{split}"
    part = Part(images, (images,), rf"[^.].*{IMAGE_SUFFIX}", IMAGE_ARCHIVE)
    return PairedSplit(split, part, IMAGE_SUFFIX, routes, MASK_SUFFIX, output_labels(table))
