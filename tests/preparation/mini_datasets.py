"""Miniature raw downloads of every benchmark, in their true formats and under their true names.

Each ``make_*`` writes archives (or extracted trees) into a folder and returns that folder, which
is what ``datasets/prepare.py --raw`` takes. Beside them stand the labels that the preparation
shall make of them, written by hand: label values come in vertical bands, so that a list of raw
values and a list of expected ones describe a pair of masks.
"""

import hashlib
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

DATASETS_FOLDER = Path(__file__).resolve().parents[2] / "datasets"
if str(DATASETS_FOLDER) not in sys.path:  # as when a script in it runs
    sys.path.insert(0, str(DATASETS_FOLDER))

NAMES = (
    *("voc21", "voc20", "context60", "context59"),
    *("coco_object", "coco_stuff", "cityscapes", "ade20k"),
)


def bands(height: int, values: Sequence[int], width: int = 1) -> np.ndarray:
    """Return labels (height, len(values) * width): each value a vertical band ``width`` wide."""
    return np.tile(np.repeat(np.array(values, dtype=np.uint8), width), (height, 1))


# ------------------------------------------------------------------------------------------- VOC

VOC_PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [7] * (252 * 3)
VOC_MASKS = {
    "2007_000033": bands(12, [255, 0, 1, 15, 20, 0, 255, 1], 2),
    "2007_000042": bands(14, [20, 20, 15, 0, 255], 2),
    "2007_000061": bands(10, [1, 0, 255, 20, 15, 15, 1], 3),
}
# What a data set with ``reduce_zero_label`` reads: 0 and 255 are ignored, the others go down.
VOC20_LABELS = {
    "2007_000033": bands(12, [255, 255, 0, 14, 19, 255, 255, 0], 2),
    "2007_000042": bands(14, [19, 19, 14, 255, 255], 2),
    "2007_000061": bands(10, [0, 255, 255, 19, 14, 14, 0], 3),
}

# ------------------------------------------------------------------------------------------ COCO

COCO_RAW = {
    "000000000139": bands(11, [0, 10, 12, 24, 26, 89, 91, 181, 255], 2),
    "000000000285": bands(14, [255, 181, 0, 0, 24], 2),
    "000000000632": bands(10, [91, 12, 12, 10, 89, 26], 3),
}
COCO_STUFF_MASKS = {
    "000000000139": bands(11, [0, 10, 11, 23, 24, 79, 80, 170, 255], 2),
    "000000000285": bands(14, [255, 170, 0, 0, 23], 2),
    "000000000632": bands(10, [80, 11, 11, 10, 79, 24], 3),
}
COCO_OBJECT_MASKS = {
    "000000000139": bands(11, [1, 11, 12, 24, 25, 80, 0, 0, 0], 2),
    "000000000285": bands(14, [0, 0, 1, 1, 24], 2),
    "000000000632": bands(10, [0, 12, 12, 11, 80, 25], 3),
}

# --------------------------------------------------------------------------------------- Context

CONTEXT_MASKS = {"2008_000002": np.zeros((12, 16), np.uint8), "2008_000003": bands(10, [58], 14)}
CONTEXT_MASKS["2008_000002"][1:6, 2:9] = 1  # id 2, aeroplane
CONTEXT_MASKS["2008_000002"][4:9, 5:12] = 59  # id 458, wood: listed later, so it lies above
CONTEXT_MASKS["2008_000002"][10:12, 0:3] = 2  # id 9, marked as crowd
CONTEXT_MASKS["2008_000003"][0:2, :] = 0  # covered by nothing

# ------------------------------------------------------------------------------------ Cityscapes

CITYSCAPES_IDS = list(range(34))
CITYSCAPES_CLASSES = (
    [255] * 7
    + [0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255]
    + [6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255, 255, 16, 17, 18]
)
CITYSCAPES_RAW = {
    "frankfurt/frankfurt_000000_000294": bands(10, CITYSCAPES_IDS),
    "frankfurt/frankfurt_000001_005898": bands(16, [7, 11, 26, 33, 0, 4], 4),
    "lindau/lindau_000000_000019": bands(12, CITYSCAPES_IDS[::-1]),
}
CITYSCAPES_MASKS = {
    "frankfurt/frankfurt_000000_000294": bands(10, CITYSCAPES_CLASSES),
    "frankfurt/frankfurt_000001_005898": bands(16, [0, 2, 13, 18, 255, 255], 4),
    "lindau/lindau_000000_000019": bands(12, CITYSCAPES_CLASSES[::-1]),
}

# ------------------------------------------------------------------------------------------- ADE

ADE_MASKS = {
    "ADE_val_00000001": bands(12, [0, 1, 150, 77], 4),
    "ADE_val_00000002": bands(14, [150, 0, 2, 1, 149], 2),
}
ADE_LABELS = {
    "ADE_val_00000001": bands(12, [255, 0, 149, 76], 4),
    "ADE_val_00000002": bands(14, [149, 255, 1, 0, 148], 2),
}

# -------------------------------------------------------------------------------------- builders


def photograph(height: int, width: int, format: str = "JPEG") -> bytes:
    """Encode a noise image."""
    noise = np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format=format)
    return buffer.getvalue()


def label_png(labels: np.ndarray, palette: Sequence[int] | None = None) -> bytes:
    """Encode labels as a greyscale PNG, or one with a palette."""
    image = Image.fromarray(labels)
    if palette is not None:
        image.putpalette(list(palette))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def write_files(root: Path, files: dict[str, bytes], archive: str | None) -> Path:
    """Write files into a zip or tar archive in ``root``, or as they are if there is none."""
    root.mkdir(parents=True, exist_ok=True)
    if archive is None:
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        return root
    if archive.endswith(".zip"):
        with zipfile.ZipFile(root / archive, "w") as file:
            for name, data in files.items():
                file.writestr(name, data)
        return root
    with tarfile.open(root / archive, "w:gz" if archive.endswith("gz") else "w") as file:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return root


def voc_files() -> dict[str, bytes]:
    """Return the members of the VOC 2012 archive; the list has CRLF and a blank last line."""
    base = "VOCdevkit/VOC2012"
    files = {
        f"{base}/ImageSets/Segmentation/val.txt": "\r\n".join([*VOC_MASKS, "", ""]).encode(),
        f"{base}/ImageSets/Segmentation/train.txt": b"2007_000032\n",
        f"{base}/JPEGImages/2007_000032.jpg": photograph(9, 8),
        f"{base}/SegmentationClass/2007_000032.png": label_png(bands(9, [3], 8), VOC_PALETTE),
        f"{base}/SegmentationObject/2007_000033.png": label_png(bands(12, [9], 16), VOC_PALETTE),
        f"{base}/JPEGImages/2011_000999.jpg": photograph(9, 9),  # listed nowhere
    }
    for name, mask in VOC_MASKS.items():
        files[f"{base}/JPEGImages/{name}.jpg"] = photograph(*mask.shape)
        files[f"{base}/SegmentationClass/{name}.png"] = label_png(mask, VOC_PALETTE)
    return files


def make_voc(root: Path, extracted: bool = False) -> Path:
    """Write PASCAL VOC 2012, as one tar file."""
    return write_files(root, voc_files(), None if extracted else "VOCtrainval_11-May-2012.tar")


def make_coco(root: Path, extracted: bool = False) -> Path:
    """Write COCO's val2017 images and the raw stuff-and-thing masks, as two zip files."""
    images = {f"val2017/{n}.jpg": photograph(*mask.shape) for n, mask in COCO_RAW.items()}
    masks = {"train2017/000000000009.png": label_png(bands(5, [7], 6))}
    for number, (name, mask) in enumerate(COCO_RAW.items()):
        # Copies with a palette exist; the indices count.
        palette = VOC_PALETTE if number == 1 else None
        masks[f"val2017/{name}.png"] = label_png(mask, palette)
    if extracted:
        write_files(root / "images", images, None)
        return write_files(root / "annotations", masks, None).parent
    write_files(root, images, "val2017.zip")
    return write_files(root, masks, "stuffthingmaps_trainval2017.zip")


def encode_rle(mask: np.ndarray) -> str:
    """Encode a mask (H, W) bool in COCO's compressed run-length form, the slow and plain way."""
    counts, value, run = [], False, 0
    for pixel in mask.T.reshape(-1):
        if pixel != value:
            counts.append(run)
            value, run = pixel, 0
        run += 1
    counts.append(run)
    text = ""
    for index, count in enumerate(counts):
        number = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits = number & 31
            number >>= 5
            more = number != (-1 if bits & 16 else 0)
            text += chr((bits | 32 if more else bits) + 48)
    return text


def rectangle(shape: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[rows, columns] = True
    return mask


def context_annotations() -> dict:
    """Return the content of ``trainval_merged.json``: two images of val and one of train."""
    first, second, third = (12, 16), (10, 14), (9, 8)
    regions = [
        (2008000002, 2, 0, first, encode_rle(rectangle(first, slice(1, 6), slice(2, 9)))),
        (2008000003, 454, 0, second, encode_rle(rectangle(second, slice(2, 10), slice(0, 14)))),
        (2008000002, 458, 0, first, encode_rle(rectangle(first, slice(4, 9), slice(5, 12)))),
        (2008000004, 415, 0, third, [0, 72]),
        # Run lengths as a plain list: rows 10 and 11 of columns 0, 1 and 2.
        (2008000002, 9, 1, first, [10, 2, 10, 2, 10, 2, 156]),
    ]
    return {
        "images": [
            {
                "image_id": image_id,
                "file_name": f"2008_{image_id % 1000000:06d}.jpg",
                "height": height,
                "width": width,
                "phase": phase,
            }
            for image_id, (height, width), phase in (
                (2008000003, second, "val"),
                (2008000002, first, "val"),
                (2008000004, third, "train"),
            )
        ],
        "annos_segmentation": [
            {
                "id": number,
                "image_id": image_id,
                "category_id": category,
                "iscrowd": crowd,
                "segmentation": {"size": list(shape), "counts": counts},
            }
            for number, (image_id, category, crowd, shape, counts) in enumerate(regions)
        ],
        "annos_occlusion": [],
        "annos_boundary": [],
        "categories": [],
        "parts": [],
    }


def make_context(root: Path, extracted: bool = False) -> Path:
    """Write PASCAL VOC 2010 (one tar file) and ``trainval_merged.json``."""
    shapes = {**{n: mask.shape for n, mask in CONTEXT_MASKS.items()}, "2008_000004": (9, 8)}
    base = "VOCdevkit/VOC2010"
    files = {f"{base}/JPEGImages/{n}.jpg": photograph(*shape) for n, shape in shapes.items()}
    files[f"{base}/JPEGImages/2010_000999.jpg"] = photograph(9, 9)  # listed nowhere
    files[f"{base}/ImageSets/Main/val.txt"] = b"2008_000002\n2008_000003\n"
    files[f"{base}/ImageSets/Main/train.txt"] = b"2008_000004\n"
    write_files(root, files, None if extracted else "VOCtrainval_03-May-2010.tar")
    (root / "trainval_merged.json").write_text(json.dumps(context_annotations()))
    return root


def context_json_sha1(root: Path) -> str:
    """Return the checksum of the miniature annotation file, for ``--context-json-sha1``."""
    return hashlib.sha1((root / "trainval_merged.json").read_bytes()).hexdigest()


def make_cityscapes(root: Path, extracted: bool = False) -> Path:
    """Write Cityscapes, as two zip files (``labelTrainIds`` are not among the downloads)."""
    images, masks = {"README": b""}, {"license.txt": b""}
    masks["gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"] = label_png(
        bands(5, [7], 6)
    )
    for name, mask in CITYSCAPES_RAW.items():
        images[f"leftImg8bit/val/{name}_leftImg8bit.png"] = photograph(*mask.shape, "PNG")
        stem = f"gtFine/val/{name}_gtFine_"
        masks[f"{stem}labelIds.png"] = label_png(mask)
        masks[f"{stem}color.png"] = photograph(*mask.shape, "PNG")
        masks[f"{stem}instanceIds.png"] = label_png(mask)
        polygons = {"imgHeight": mask.shape[0], "imgWidth": mask.shape[1], "objects": []}
        masks[f"{stem}polygons.json"] = json.dumps(polygons).encode()
    write_files(root, images, None if extracted else "leftImg8bit_trainvaltest.zip")
    return write_files(root, masks, None if extracted else "gtFine_trainvaltest.zip")


def make_ade(root: Path, extracted: bool = False) -> Path:
    """Write ADE20K, the challenge's version, as one zip file."""
    base = "ADEChallengeData2016"
    files = {
        f"{base}/images/training/ADE_train_00000001.jpg": photograph(5, 6),
        f"{base}/annotations/training/ADE_train_00000001.png": label_png(bands(5, [3], 6)),
        f"{base}/objectInfo150.txt": b"Idx\n",
    }
    for name, mask in ADE_MASKS.items():
        files[f"{base}/images/validation/{name}.jpg"] = photograph(*mask.shape)
        files[f"{base}/annotations/validation/{name}.png"] = label_png(mask)
    return write_files(root, files, None if extracted else f"{base}.zip")


def make_all(root: Path, extracted: bool = False) -> Path:
    """Write the raw downloads of all eight benchmarks into one folder."""
    for make in (make_voc, make_coco, make_context, make_cityscapes, make_ade):
        make(root, extracted)
    return root


def prepare(
    names: Sequence[str],
    raw: Path,
    data_root: Path,
    places: Sequence[Path] | None = None,
    **settings,
) -> list[str]:
    """Run the preparation in this process, without downloads; return what it said.

    Args:
        names: benchmarks.
        raw: the folder that the ``make_*`` functions filled.
        data_root: where the data go.
        places: where to look for raw data instead of ``raw``.
        settings: further fields of ``preparation.settings.Settings``.

    Raises:
        AssertionError: a benchmark could not be prepared; the reason is on standard error.
    """
    from itaclip.data.preparation.command import prepare_benchmarks
    from itaclip.data.preparation.settings import Settings

    lines: list[str] = []
    options = {"may_download": False, "say": lines.append, **settings}
    options["raw"] = (raw,) if places is None else tuple(places)
    if (raw / "trainval_merged.json").exists():
        options.setdefault("context_json_sha1", context_json_sha1(raw))
    assert prepare_benchmarks(names, Settings(data_root=data_root, **options)) == 0
    return lines


def read(path: Path) -> np.ndarray:
    """Read a mask as it is stored."""
    with Image.open(path) as image:
        return np.asarray(image)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return every file's time of change and content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
