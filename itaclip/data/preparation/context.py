"""Pascal Context: masks drawn from the annotation file ``trainval_merged.json``.

The masks that published scores use come from this file. The ``.mat`` files of the same data set
hold other borders and labels; they serve only where the file cannot be had, and are marked so.
"""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...runtime.download import Download, verify_checksum
from ...runtime.files import read_bytes
from .archives import is_archive
from .convert import MaskJob, convert_masks
from .labels import MAX_PIXELS, apply_table, context_mat_table, context_table
from .manifest import SplitReport
from .rle import decode_rle
from .settings import Settings
from .sources import Part, extract, fetch_raw, find_file, provide_folder, read_small_file
from .voc import parse_list, write_list

MASKS_FOLDER = "SegmentationClassContext"
LISTS_FOLDER = "ImageSets/SegmentationContext"
ARCHIVE = Download(
    file_name="VOCtrainval_03-May-2010.tar",
    url="http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
    about="about 1.3 GB",
    checksum="md5:da459979d0c395079b5c75ee67908abb",
)
_JSON_PLACE = "codalabuser.blob.core.windows.net/public/trainval_merged.json"
ANNOTATIONS = Download(
    file_name="trainval_merged.json",
    url=f"https://{_JSON_PLACE}",
    # The first host is at times said to be gone; the checksum makes the archive's copy as good.
    others=(f"https://web.archive.org/web/2020id_/https://{_JSON_PLACE}",),
    checksum="sha1:169325d9f7e9047537fedca7b04de4dddf10b881",
)
MAT_ARCHIVE = Download(
    file_name="trainval.tar.gz",
    url="https://roozbehm.info/pascal-context/trainval.tar.gz",
)
IMAGES = Part("JPEGImages", ("VOC2010/JPEGImages",), r"\d{4}_\d{6}\.jpg", ARCHIVE)
MAIN_LISTS = Part(
    "ImageSets/Main", ("VOC2010/ImageSets/Main",), r"(train|val|trainval)\.txt", ARCHIVE
)
MATS = Part("pascal_context_mat", ("trainval",), r"\d{4}_\d{6}\.mat", MAT_ARCHIVE)
MAT_WARNING = (
    "masks from .mat files differ from those of trainval_merged.json: scores with them are not "
    "comparable to published ones"
)


@dataclass(frozen=True)
class ContextImage:
    """One image's annotation: its name, size and regions (category id, run lengths)."""

    name: str
    height: int
    width: int
    regions: tuple[tuple[int, Any], ...]


def prepare(settings: Settings, tree: Path) -> list[SplitReport]:
    """Make masks, lists and images of Pascal Context with 60 classes (0: everything else).

    The variant with 59 classes reads the same masks with ``reduce_zero_label``.

    Raises:
        InputError: something is missing, damaged, or holds ids that are not defined.
    """
    if settings.context_mat is not None:
        return [_prepare_from_mats(settings, tree, split) for split in settings.splits]
    path = _annotation_file(settings)
    images = read_annotations(path)
    reports = []
    for split in settings.splits:
        if split not in images:
            raise InputError(
                f"{path}: expected images with phase {split!r}, but there are none; use the "
                f"official {ANNOTATIONS.file_name}"
            )
        chosen = sorted(images[split], key=lambda image: image.name)
        jobs = [MaskJob(image.name, image, _target(tree, image.name)) for image in chosen]
        produce = partial(draw_regions, table=context_table())
        reports.append(_finish(settings, tree, split, jobs, produce, {"route": "json"}))
    return reports


def read_annotations(path: Path) -> dict[str, list[ContextImage]]:
    """Read the annotation file: the images of each phase, with their regions in file order.

    Raises:
        InputError: the file is not JSON, or lacks a key; names the key.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file)
        regions: dict[int, list[tuple[int, Any]]] = defaultdict(list)
        for region in content["annos_segmentation"]:
            counts = region["segmentation"]["counts"]
            regions[region["image_id"]].append((int(region["category_id"]), counts))
        phases: dict[str, list[ContextImage]] = defaultdict(list)
        for image in content["images"]:
            own = tuple(regions.get(image["image_id"], ()))
            size = int(image["height"]), int(image["width"])
            name = Path(image["file_name"]).stem
            phases[image["phase"]].append(ContextImage(name, *size, own))
    except ValueError as error:
        raise InputError(
            f"{path}: is not complete JSON ({error}); delete it and download it again"
        ) from None
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: is not laid out like {ANNOTATIONS.file_name} (at {error}); use the official "
            "file"
        ) from None
    return dict(phases)


def draw_regions(image: ContextImage, table: np.ndarray) -> np.ndarray:
    """Draw an image's regions in file order, later over earlier, and map to labels (H, W) uint8.

    Regions marked as crowd count like the others.

    Raises:
        InputError: a category id is not among the 59, or a region is malformed.
    """
    if not 0 < image.height * image.width <= MAX_PIXELS:
        raise InputError(
            f"{ANNOTATIONS.file_name}: image {image.name} is said to have {image.height}x"
            f"{image.width} pixels; download the file again"
        )
    ids = np.zeros((image.height, image.width), dtype=np.uint16)
    for category, counts in image.regions:
        try:
            region = decode_rle(image.height, image.width, counts)
            if not 0 < category < 2**16:
                raise ValueError(f"category id {category}")
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{ANNOTATIONS.file_name}: a region of image {image.name} (category {category}) "
                f"cannot be decoded: {error}; download the file again"
            ) from None
        ids[region] = category
    return apply_table(table, ids, f"{ANNOTATIONS.file_name}, image {image.name}")


def read_mat(path: Path, table: np.ndarray) -> np.ndarray:
    """Read a ``.mat`` mask (``LabelMap``, uint16, 1..459) and map it to labels (H, W) uint8."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise InputError(
            f"{path}: reading .mat files needs SciPy; run `pip install scipy`"
        ) from None
    try:
        ids = np.asarray(loadmat(path)["LabelMap"])
    except FileNotFoundError:
        raise InputError(
            f"{path}: this mask does not exist; extract {MAT_ARCHIVE.file_name} again"
        ) from None
    except KeyError:
        raise InputError(f"{path}: expected a variable LabelMap; extract it again") from None
    except Exception as error:  # SciPy raises many kinds on damaged files
        raise InputError(
            f"{path}: cannot be read as a .mat file ({error}); extract it again"
        ) from None
    # The ids reach 459: they are mapped before anything is cut to eight bits.
    return apply_table(table, ids.astype(np.int64), path)


def _annotation_file(settings: Settings) -> Path:
    """Find or fetch the annotation file and verify its checksum."""
    expected = ANNOTATIONS.checksum
    if settings.context_json_sha1 is not None:
        expected = f"sha1:{settings.context_json_sha1}"
    path = settings.context_json or find_file(settings, ANNOTATIONS.file_name)
    if path is not None:
        mend = (
            "download it again, or pass --context-json-sha1 if you mean this file (published "
            "scores use the official one)"
        )
        verify_checksum(path, expected, mend)
        return path
    way_out = (
        f"get {ANNOTATIONS.file_name} elsewhere, such as from {ANNOTATIONS.others[0]}, and pass it "
        "with --context-json, or use "
        f"--context-mat ({MAT_WARNING})"
    )
    if not settings.may_download:
        raise InputError(
            f"expected {ANNOTATIONS.file_name} in {settings.data_root} or with "
            f"--context-json; it is published at {ANNOTATIONS.url}: leave out --no-download, or "
            f"{way_out}"
        )
    try:
        download = dataclasses.replace(ANNOTATIONS, checksum=expected)
        return fetch_raw(settings, download)
    except InputError as error:
        raise InputError(f"{error}; if that place is gone, {way_out}") from None


def _prepare_from_mats(settings: Settings, tree: Path, split: str) -> SplitReport:
    given = settings.context_mat
    settings.say(f"warning: {MAT_WARNING}")
    if split == "val" and settings.context_val_list is not None:
        data, origin = read_bytes(settings.context_val_list), settings.context_val_list
    else:
        data, origin = read_small_file(settings, tree, MAIN_LISTS, f"{split}.txt")
    names = sorted(parse_list(data, origin))
    folder = given
    if is_archive(given):
        folder = settings.downloads / MATS.folder
        extract(given, MATS, folder, [f"{name}.mat" for name in names])
    elif (given / "trainval").is_dir():
        folder = given / "trainval"
    jobs = [MaskJob(name, folder / f"{name}.mat", _target(tree, name)) for name in names]
    produce = partial(read_mat, table=context_mat_table())
    notes = {"route": "mat", "warning": MAT_WARNING}
    return _finish(settings, tree, split, jobs, produce, notes)


def _finish(
    settings: Settings,
    tree: Path,
    split: str,
    jobs: Sequence[MaskJob],
    produce: Any,
    notes: dict[str, Any],
) -> SplitReport:
    """Provide the images, make the masks, and write the list last: it means that all is there."""
    names = [job.name for job in jobs]
    provide_folder(settings, tree, IMAGES, [f"{name}.jpg" for name in names])
    summary = convert_masks(
        jobs,
        produce,
        workers=settings.workers,
        force=settings.force,
        title=f"Pascal Context {split}",
    )
    write_list(tree / LISTS_FOLDER / f"{split}.txt", names)
    return SplitReport(split, tree, len(names), summary, notes=notes)


def _target(tree: Path, name: str) -> Path:
    return tree / MASKS_FOLDER / f"{name}.png"
