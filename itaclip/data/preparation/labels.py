"""Look-up tables from raw label values to class indices.

A table is a uint8 array with one entry per raw value (256, or 460 for Pascal Context). Raw values
that a benchmark does not define hold :data:`POISON`, so that an unlisted value is refused with its
file's name instead of passing through as some other class.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import InputError
from ...runtime.files import open_regular, stand_in_for_file

IGNORE = 255
MAX_PIXELS = 100_000_000
# What Pillow raises on damaged files.
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
POISON = 254  # not a class of any benchmark, and not IGNORE

# Gaps in the official COCO ids (street sign, hat, shoe, eye glasses, plate, mirror, window, desk,
# door, blender, hair brush), as stored in the masks: official id minus one. They never occur.
COCO_UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
COCO_LAST_THING = 89
COCO_LAST_STUFF = 181

CITYSCAPES_TRAIN_IDS = {
    7: 0,  # road
    8: 1,  # sidewalk
    11: 2,  # building
    12: 3,  # wall
    13: 4,  # fence
    17: 5,  # pole
    19: 6,  # traffic light
    20: 7,  # traffic sign
    21: 8,  # vegetation
    22: 9,  # terrain
    23: 10,  # sky
    24: 11,  # person
    25: 12,  # rider
    26: 13,  # car
    27: 14,  # truck
    28: 15,  # bus
    31: 16,  # train
    32: 17,  # motorcycle
    33: 18,  # bicycle
}
CITYSCAPES_LAST_ID = 33

# The 59 classes (and 0, everything else) among the 459 names of Pascal Context: the class index is
# the position in this list.
CONTEXT_RAW_IDS = (
    *(0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85),
    *(98, 104, 105, 113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295),
    *(296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440),
    *(445, 454, 458),
)
CONTEXT_LAST_ID = 459


def lookup_table(mapping: Mapping[int, int], size: int = 256, default: int = POISON) -> np.ndarray:
    """Return a uint8 table of ``size`` entries holding ``mapping`` and ``default`` elsewhere."""
    table = np.full(size, default, dtype=np.uint8)
    for raw, label in mapping.items():
        table[raw] = label
    return table


def identity_table(labels: Iterable[int]) -> np.ndarray:
    """Return a table that keeps ``labels`` and refuses everything else."""
    return lookup_table({label: label for label in labels})


def voc_table() -> np.ndarray:
    """VOC masks are ready: 0..20, and 255 along object borders."""
    return identity_table([*range(21), IGNORE])


def ade_table() -> np.ndarray:
    """ADE masks are ready: 0 is "other", 1..150 are the classes (``reduce_zero_label=True``)."""
    return identity_table(range(151))


def coco_stuff_table() -> np.ndarray:
    """Raw COCO-Stuff masks to 171 classes: close the gaps, keep 255 ignored."""
    mapping = {IGNORE: IGNORE}
    for raw in range(COCO_LAST_STUFF + 1):
        if raw not in COCO_UNUSED:
            mapping[raw] = raw - sum(unused < raw for unused in COCO_UNUSED)
    return lookup_table(mapping)


def coco_object_table() -> np.ndarray:
    """Raw COCO-Stuff masks to 80 things, 1..80, and background 0.

    Unlabelled pixels (255) become background by the benchmark's protocol: nothing is ignored.
    """
    stuff = coco_stuff_table()
    mapping = {IGNORE: 0}
    for raw in range(COCO_LAST_STUFF + 1):
        if stuff[raw] != POISON:
            mapping[raw] = int(stuff[raw]) + 1 if raw <= COCO_LAST_THING else 0
    return lookup_table(mapping)


def coco_object_from_stuff_table() -> np.ndarray:
    """COCO-Stuff class indices (``*_labelTrainIds.png``) to COCO-Object ones."""
    things = {label: label + 1 for label in range(80)}
    stuff = {label: 0 for label in range(80, 171)}
    return lookup_table({**things, **stuff, IGNORE: 0})


def cityscapes_table() -> np.ndarray:
    """Cityscapes label ids 0..33 to 19 classes; the other ids are ignored in evaluation."""
    ids = range(CITYSCAPES_LAST_ID + 1)
    return lookup_table({raw: CITYSCAPES_TRAIN_IDS.get(raw, IGNORE) for raw in ids})


def context_table() -> np.ndarray:
    """Pascal Context's ``trainval_merged.json`` ids to 60 classes; other ids are refused."""
    mapping = {raw: label for label, raw in enumerate(CONTEXT_RAW_IDS)}
    return lookup_table(mapping, size=CONTEXT_LAST_ID + 1)


def context_mat_table() -> np.ndarray:
    """Pascal Context's ``.mat`` values to 60 classes; here the other 400 ids are background."""
    mapping = {raw: label for label, raw in enumerate(CONTEXT_RAW_IDS)}
    return lookup_table(mapping, size=CONTEXT_LAST_ID + 1, default=0)


def apply_table(table: np.ndarray, raw: np.ndarray, name: object) -> np.ndarray:
    """Map raw labels (H, W), of any unsigned type, to class indices (H, W) uint8.

    Raises:
        InputError: a value is not listed in the table; names the file and the values.
    """
    if raw.size and int(raw.max()) >= len(table):
        unlisted = np.unique(raw[raw >= len(table)])
    else:
        labels = table[raw]
        wrong = labels == POISON
        if not wrong.any():
            return labels
        unlisted = np.unique(raw[wrong])
    values = ", ".join(str(value) for value in unlisted[:10]) + (
        f" and {len(unlisted) - 10} more" if len(unlisted) > 10 else ""
    )
    allowed = _ranges(np.flatnonzero(table != POISON))
    raise InputError(
        f"{name}: label values {values} are not defined for this benchmark (expected {allowed}); "
        "check that this is the official download, unconverted"
    )


def read_labels(path: Path) -> np.ndarray:
    """Read a label image as indices (H, W) uint8; palette images keep their indices.

    Raises:
        InputError: the file is missing, damaged, or not an 8-bit one-channel image.
    """
    if not path.exists():
        raise InputError(f"{path}: this mask does not exist; extract the download again")
    try:
        with open_regular(path) as file:
            if stand_in := stand_in_for_file(file.read(1024)):
                raise InputError(f"{path}: {stand_in}")
            file.seek(0)
            with Image.open(file) as image:
                if image.mode not in ("L", "P"):
                    raise InputError(
                        f"{path}: expected an 8-bit one-channel mask (mode L or P), but it has "
                        f"mode {image.mode}; use the original label image, not a coloured or "
                        "16-bit copy"
                    )
                return np.asarray(image)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(
            f"{path}: cannot be read as an image ({error}); delete it and extract it again"
        ) from None


def read_and_map(path: Path, table: np.ndarray) -> np.ndarray:
    """Read a label image and map it through ``table``; see the two functions for errors."""
    return apply_table(table, read_labels(path), path)


def _ranges(values: np.ndarray) -> str:
    """Write sorted integers compactly: ``0-10, 12-24, 255``."""
    groups = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(str(g[0]) if len(g) == 1 else f"{g[0]}-{g[-1]}" for g in groups)
