"""COCO-Stuff 164k and COCO-Object: two conversions of the same raw masks, in one tree.

Raw masks are named by twelve digits and nothing else, so the two sets of finished masks beside
them (``*_labelTrainIds.png``, ``*_instanceTrainIds.png``) are never taken for raw ones, whichever
was made first.
"""

from functools import partial

from ...runtime.download import Download
from .labels import coco_object_from_stuff_table, coco_object_table, coco_stuff_table, read_and_map
from .paired import PairedSplit, Route, each_split, output_labels
from .sources import Part

IMAGE_ARCHIVES = {
    "val": Download(
        file_name="val2017.zip",
        url="http://images.cocodataset.org/zips/val2017.zip",
        about="about 1 GB",
        checksum="sha1:4950dc9d00dbe1c933ee0170f5797584351d2a41",
    ),
    "train": Download(
        file_name="train2017.zip",
        url="http://images.cocodataset.org/zips/train2017.zip",
        about="about 18 GB",
    ),
}
MASK_ARCHIVE = Download(
    file_name="stuffthingmaps_trainval2017.zip",
    url="http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/"
    "stuffthingmaps_trainval2017.zip",
    about="about 659 MB",
)
STUFF_SUFFIX = "_labelTrainIds.png"
OBJECT_SUFFIX = "_instanceTrainIds.png"


def image_part(split: str) -> Part:
    """Return the folder of a split's images."""
    tails = (f"{split}2017",)
    return Part(f"images/{split}2017", tails, r"\d{12}\.jpg", IMAGE_ARCHIVES[split])


def mask_part(split: str, suffix: str = ".png") -> Part:
    """Return the folder of a split's raw masks, or of masks with another suffix."""
    pattern = rf"\d{{12}}{suffix.replace('.', '[.]')}"
    return Part(f"annotations/{split}2017", (f"{split}2017",), pattern, MASK_ARCHIVE)


@each_split("coco_stuff")
def prepare_stuff(split: str) -> PairedSplit:
    """Make the masks of COCO-Stuff 164k: 171 classes, 255 ignored."""
    table = coco_stuff_table()
    route = Route(mask_part(split), ".png", partial(read_and_map, table=table))
    return PairedSplit(
        split, image_part(split), ".jpg", (route,), STUFF_SUFFIX, output_labels(table)
    )


@each_split("coco_object")
def prepare_object(split: str) -> PairedSplit:
    """Make the masks of COCO-Object: 80 things and background, nothing ignored.

    Without raw masks, finished COCO-Stuff masks serve as well: the result is the same.
    """
    table = coco_object_table()
    routes = (
        Route(mask_part(split), ".png", partial(read_and_map, table=table)),
        Route(
            mask_part(split, STUFF_SUFFIX),
            STUFF_SUFFIX,
            partial(read_and_map, table=coco_object_from_stuff_table()),
            note=f"made from the masks *{STUFF_SUFFIX}, as raw ones are not at hand",
        ),
    )
    return PairedSplit(
        split, image_part(split), ".jpg", routes, OBJECT_SUFFIX, output_labels(table)
    )
