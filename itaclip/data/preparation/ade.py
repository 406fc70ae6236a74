"""ADE20K, the scene-parsing challenge's version: the masks are ready and are verified."""

from functools import partial

from ...runtime.download import Download
from .labels import ade_table, read_and_map
from .paired import PairedSplit, Route, each_split
from .sources import Part

ARCHIVE = Download(
    # Not the "full ADE20K", whose folders and label images are different.
    file_name="ADEChallengeData2016.zip",
    url="http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    about="about 0.9 GB",
    checksum="sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
)
FOLDERS = {"val": "validation", "train": "training"}


@each_split("ade20k")
def prepare(split: str) -> PairedSplit:
    """Provide images and masks of ADE20K, and verify the masks' labels: 0..150."""
    images, masks = f"images/{FOLDERS[split]}", f"annotations/{FOLDERS[split]}"
    name = rf"ADE_{split}_\d{{8}}"
    route = Route(
        Part(masks, (masks,), rf"{name}\.png", ARCHIVE),
        ".png",
        partial(read_and_map, table=ade_table()),
    )
    return PairedSplit(
        split, Part(images, (images,), rf"{name}\.jpg", ARCHIVE), ".jpg", (route,), ".png", None
    )
