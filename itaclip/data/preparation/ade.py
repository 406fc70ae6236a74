"""ADE20K, the scene-parsing challenge's version: the masks are ready and are verified."""

from functools import partial
from pathlib import Path

from ...runtime.download import Download
from .labels import ade_table, read_and_map
from .manifest import SplitReport
from .paired import PairedSplit, Route, prepare_split
from .settings import Settings
from .sources import Part

ARCHIVE = Download(
    # Not the "full ADE20K", whose folders and label images are different.
    file_name="ADEChallengeData2016.zip",
    url="http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    about="about 0.9 GB",
    checksum="sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
)
FOLDERS = {"val": "validation", "train": "training"}


def prepare(settings: Settings, tree: Path) -> list[SplitReport]:
    """Provide images and masks of ADE20K, and verify the masks' labels: 0..150."""
    reports = []
    for split in settings.splits:
        images = f"images/{FOLDERS[split]}"
        masks = f"annotations/{FOLDERS[split]}"
        name = rf"ADE_{split}_\d{{8}}"
        route = Route(
            Part(masks, (masks,), rf"{name}\.png", ARCHIVE),
            ".png",
            partial(read_and_map, table=ade_table()),
        )
        paired = PairedSplit(
            split=split,
            images=Part(images, (images,), rf"{name}\.jpg", ARCHIVE),
            image_suffix=".jpg",
            routes=(route,),
            masks_folder=masks,
            mask_suffix=".png",
            labels=None,
        )
        reports.append(prepare_split(settings, tree, paired, "ade20k"))
    return reports
