"""PASCAL VOC 2012: the masks are ready; the listed files are provided and verified."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ...errors import InputError
from ...runtime.download import Download
from .convert import MaskJob, convert_masks, write_if_changed
from .labels import read_and_map, voc_table
from .manifest import SplitReport
from .settings import Settings
from .sources import Part, provide_folder, read_small_file

ARCHIVE = Download(
    file_name="VOCtrainval_11-May-2012.tar",
    url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    size=1_999_639_040,
    checksum="md5:6cd6e144f989b92b3379bac3b3de84fd",
)
IMAGES = Part("JPEGImages", ("VOC2012/JPEGImages",), r"\d{4}_\d{6}\.jpg", ARCHIVE)
MASKS = Part("SegmentationClass", ("VOC2012/SegmentationClass",), r"\d{4}_\d{6}\.png", ARCHIVE)
LISTS = Part(
    "ImageSets/Segmentation",
    ("VOC2012/ImageSets/Segmentation",),
    r"(train|val|trainval)\.txt",
    ARCHIVE,
)


def parse_list(data: bytes, origin: object) -> list[str]:
    """Return the image names of a split list; blank lines and CRLF ends are taken in stride.

    Raises:
        InputError: a line holds more than one word, or repeats an earlier one.
    """
    names: dict[str, int] = {}
    for number, line in enumerate(data.decode("utf-8-sig", errors="replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) > 1:
            raise InputError(
                f"{origin}, line {number}: expected one image name, but got {line.strip()!r}; use "
                "the official list of the segmentation task"
            )
        if words[0] in names:
            raise InputError(
                f"{origin}, line {number}: {words[0]} is listed in line {names[words[0]]} "
                "already; remove one of the two lines"
            )
        names[words[0]] = number
    if not names:
        raise InputError(f"{origin}: expected image names, but the list is empty")
    return list(names)


def write_list(path: Path, names: Sequence[str]) -> bool:
    """Write a split list, one name per line and no blank one; say whether the file changed.

    MMSegmentation would take a blank line for an image without a name.
    """
    return write_if_changed(path, ("\n".join(names) + "\n").encode())


def prepare(settings: Settings, tree: Path) -> list[SplitReport]:
    """Provide images, masks and lists of VOC 2012, and verify the masks' labels.

    Raises:
        InputError: something is missing, or a mask holds labels other than 0..20 and 255.
    """
    reports = []
    for split in settings.splits:
        data, origin = read_small_file(settings, tree, LISTS, f"{split}.txt")
        names = parse_list(data, f"{origin} ({split}.txt)")
        target = tree / LISTS.folder / f"{split}.txt"
        existed = target.exists()
        if write_list(target, names) and existed:
            settings.say(f"{target}: removed blank lines and line ends that mmseg misreads")
        provide_folder(settings, tree, IMAGES, [f"{name}.jpg" for name in names])
        masks = provide_folder(settings, tree, MASKS, [f"{name}.png" for name in names])
        summary = convert_masks(
            [MaskJob(name, masks / f"{name}.png") for name in names],
            partial(read_and_map, table=voc_table()),
            workers=settings.workers,
            force=settings.force,
            title=f"VOC 2012 {split}",
        )
        reports.append(SplitReport(split, tree, len(names), summary))
    return reports
