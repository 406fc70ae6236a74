"""Checks of a data set before any model runs.

mmseg pairs images and masks by name without looking, reads masks of any mode and cuts 16-bit ones
to eight bits; labels outside the classes only lower the score. So every such thing is looked for
here, in two parts:

* :func:`check_cheap` reads no pixel: names, counts, pairing. Well below a second for 5000 images.
* :func:`check_full` opens every mask, and the header of every image.

Both give a list of :class:`Problem`; an empty list means that nothing was found.
"""

import bisect
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

EXAMPLES = 20  # problems of one kind that are printed
# Pillow's names of images with one number per pixel, which a loader with a look-up takes.
_LABEL_MODES = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L", "I;16N")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

# Data set class -> name for datasets/prepare.py, number of images in its val split.
BENCHMARKS = {
    "PascalVOCDataset": ("voc21", 1449),
    "VOC20Dataset": ("voc20", 1449),
    "PascalContextDataset": ("context60", 5104),
    "PascalContextDataset59": ("context59", 5104),
    "COCOObject164kDataset": ("coco_object", 5000),
    "COCOStuffDataset": ("coco_stuff", 5000),
    "CityscapesDataset": ("cityscapes", 500),
    "ADE20KDataset": ("ade20k", 2000),
}
LabelLookup = Mapping[int, int] | Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        severity: ``"error"`` (scores would be wrong, or the run would stop) or ``"warning"``.
        file: the file or folder it is about.
        message: what is wrong and how to mend it.
        kind: problems of a kind are printed together.
    """

    severity: str
    file: str
    message: str
    kind: str = ""

    def __str__(self) -> str:
        return f"{self.severity}: {self.file}: {self.message}"


def has_errors(problems: Iterable[Problem]) -> bool:
    """Say whether any problem is more than a warning."""
    return any(problem.severity == "error" for problem in problems)


def format_problems(problems: Sequence[Problem], examples: int = EXAMPLES) -> list[str]:
    """Return one line per problem, grouped by kind; at most ``examples`` of a kind."""
    groups: dict[tuple[str, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[problem.severity, problem.kind or problem.message].append(problem)
    lines = []
    for (severity, _), group in groups.items():
        lines += [str(problem) for problem in group[:examples]]
        if len(group) > examples:
            lines.append(f"{severity}: … and {len(group) - examples} more of this kind")
    return lines


def check_places(dataset_cfg: Mapping[str, Any]) -> list[Problem]:
    """Check that the folders and the list that a data set's config names exist.

    For use before the data set is built: mmseg's classes stop there with bare assertions.
    """
    root = dataset_cfg.get("data_root") or ""
    name = BENCHMARKS.get(str(dataset_cfg.get("type")), (None,))[0]
    mend = f"run `python datasets/prepare.py {name}`, or correct" if name else "correct"
    prefix = dataset_cfg.get("data_prefix") or {}
    wanted = [
        ("folder", os.path.isdir, f"data_prefix.{key}", prefix[key])
        for key in prefix
        if prefix[key]
    ]
    if dataset_cfg.get("ann_file"):
        wanted.append(("file", os.path.exists, "ann_file", dataset_cfg["ann_file"]))
    problems = []
    for what, exists, key, value in wanted:
        path = os.path.join(root, value)
        if not exists(path):
            message = f"expected a {what} here ({key}); {mend} data_root and {key} in the config"
            problems.append(Problem("error", path, message, "places"))
    return problems


def build_dataset(dataset_cfg: Mapping[str, Any]) -> Any:
    """Build a data set from its config without reading its entries.

    mmengine's own initialisation stops without a reason at a data set that has no images.
    """
    from mmengine.registry import DefaultScope
    from mmseg.registry import DATASETS

    with DefaultScope.overwrite_default_scope("mmseg"):
        return DATASETS.build({**dataset_cfg, "lazy_init": True})


# ----------------------------------------------------------------------------------- cheap part


def check_cheap(dataset: Any) -> list[Problem]:
    """Check names, counts and pairing of a data set without reading a pixel.

    Args:
        dataset: a ``BaseSegDataset``, fully initialised or not (an empty one cannot be).
    """
    if hasattr(dataset, "datasets"):  # a concatenation
        return [problem for part in dataset.datasets for problem in check_cheap(part)]
    try:
        samples = load_samples(dataset)
    except (OSError, AssertionError) as error:
        where = str(dataset.data_prefix.get("img_path"))
        return [Problem("error", where, f"{error}; correct the config's data_root and data_prefix")]
    if not samples:
        return [_no_images(dataset)]
    problems = _check_list(dataset)
    if problems:
        samples = [sample for sample in samples if _stem(sample, dataset)]
    problems += _check_settings(dataset)
    problems += _check_pairs(dataset, samples)
    problems += _check_count(dataset, len(samples))
    return problems


def load_samples(dataset: Any) -> list[dict[str, Any]]:
    """Return the data set's entries: ``img_path``, and ``seg_map_path`` if there are masks."""
    if hasattr(dataset, "datasets"):
        return [sample for part in dataset.datasets for sample in load_samples(part)]
    if getattr(dataset, "_fully_initialized", True):
        return [dataset.get_data_info(index) for index in range(len(dataset))]
    samples = dataset.load_data_list()
    indices = dataset._indices
    if isinstance(indices, int):
        return samples[:indices] if indices >= 0 else samples[indices:]
    return samples if indices is None else [samples[index] for index in indices]


def _no_images(dataset: Any) -> Problem:
    if dataset.ann_file and os.path.isfile(dataset.ann_file):
        return Problem("error", dataset.ann_file, "lists no image; list one name per line")
    folder = str(dataset.data_prefix.get("img_path"))
    others = Counter(
        Path(name).suffix for _, _, names in os.walk(folder) for name in names if "." in name
    )
    hint = "".join(f"; {n} files end in {s!r}" for s, n in others.most_common(2))
    return Problem(
        "error",
        folder,
        f"no image ends in {dataset.img_suffix!r}{hint}; correct img_suffix or "
        "data_prefix.img_path in the config",
    )


def _stem(sample: Mapping[str, Any], dataset: Any) -> str:
    name, suffixes = os.path.basename(sample["img_path"]), dataset.img_suffix
    for suffix in (suffixes,) if isinstance(suffixes, str) else suffixes:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def _check_list(dataset: Any) -> list[Problem]:
    """Find blank and repeated lines in the list of images: mmseg takes both as images."""
    path = dataset.ann_file
    if not path or not os.path.isfile(path):
        return []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return [Problem("error", path, "is not a text file; list one image name per line")]
    problems, first = [], {}
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name:
            message = f"line {number} is blank and stands for an image without a name; remove it"
            problems.append(Problem("error", path, message, "blank line"))
        elif name in first:
            message = f"line {number} repeats {name!r} of line {first[name]}; remove one of them"
            problems.append(Problem("error", path, message, "repeated line"))
        else:
            first[name] = number
    return problems


def _check_settings(dataset: Any) -> list[Problem]:
    problems = []
    name = type(dataset).__name__
    classes = dataset.metainfo.get("classes") or ()
    has_masks = "seg_map_path" in dataset.data_prefix
    if has_masks and len(classes) > 255 and _configured_lookup(dataset) is None:
        message = f"has {len(classes)} classes, but masks of 8 bits tell at most 255 apart"
        problems.append(Problem("error", name, message))
    for transform in _transforms(dataset):
        value = getattr(transform, "reduce_zero_label", None)
        if value is not None and value != dataset.reduce_zero_label:
            problems.append(
                Problem(
                    "error",
                    name,
                    f"LoadAnnotations has reduce_zero_label={value}, but the data set has "
                    f"{dataset.reduce_zero_label}; set it on the data set only",
                )
            )
    return problems


def _check_pairs(dataset: Any, samples: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """Look every image and mask up in the listing of its folder."""
    listing = _Listing()
    problems = []
    counts = Counter(sample["img_path"] for sample in samples)
    for path, count in counts.items():
        if count > 1 and not os.path.isfile(dataset.ann_file or ""):
            message = f"occurs {count} times; every image counts once, remove the others"
            problems.append(Problem("error", path, message, "repeated image"))
    for sample in samples:
        image, mask = sample["img_path"], sample.get("seg_map_path")
        if not listing.holds(image):
            hint = "; correct data_prefix.img_path, img_suffix or the list of images"
            if _stem(sample, dataset).lower().endswith(SUFFIXES):
                hint = "; the list shall name images without their suffix"
            problems.append(Problem("error", image, f"image does not exist{hint}", "no image"))
        if mask is not None and not listing.holds(mask):
            problems.append(_missing_mask(dataset, mask, listing))
    problems += _unpaired_masks(dataset, samples, listing)
    return problems


def _missing_mask(dataset: Any, mask: str, listing: "_Listing") -> Problem:
    prepare = BENCHMARKS.get(type(dataset).__name__, (None,))[0]
    hint = f"run `python datasets/prepare.py {prepare}`" if prepare else "add it"
    stem = os.path.basename(mask).removesuffix(dataset.seg_map_suffix)
    similar = listing.starting_with(os.path.dirname(mask), stem)
    if similar:
        hint = f"there is {similar}: correct seg_map_suffix, or {hint}"
    elif not os.path.isdir(os.path.dirname(mask)):
        hint = f"its folder is missing too: correct data_prefix.seg_map_path, or {hint}"
    return Problem("error", mask, f"mask does not exist; {hint}", "no mask")


def _unpaired_masks(
    dataset: Any, samples: Sequence[Mapping[str, Any]], listing: "_Listing"
) -> list[Problem]:
    """Find masks whose image is missing; with a list of images that is as it should be."""
    whole = not dataset.ann_file and getattr(dataset, "_indices", None) is None
    used = {os.path.normpath(s["seg_map_path"]) for s in samples if s.get("seg_map_path")}
    if not whole or not used:
        return []
    problems = []
    for folder in sorted({os.path.dirname(path) for path in used}):
        for name in sorted(listing.names(folder)):
            path = os.path.normpath(os.path.join(folder, name))
            if name.endswith(dataset.seg_map_suffix) and path not in used:
                message = f"no image belongs to this mask (images end in {dataset.img_suffix!r})"
                problems.append(Problem("warning", path, message, "no image for mask"))
    return problems


def _check_count(dataset: Any, count: int) -> list[Problem]:
    name = type(dataset).__name__
    benchmark, expected = BENCHMARKS.get(name, (None, None))
    folders = Path(str(dataset.data_prefix.get("img_path"))).parts[-2:]
    is_val = (
        Path(dataset.ann_file).stem == "val"
        if dataset.ann_file
        else any(part.startswith("val") for part in folders)
    )
    if expected is None or not is_val or count == expected:
        return []
    where = dataset.ann_file or str(dataset.data_prefix.get("img_path"))
    message = (
        f"{benchmark} val has {count} images instead of {expected}: scores are not comparable to "
        "published ones"
    )
    return [Problem("warning", where, message)]


class _Listing:
    """Names of files per folder; each folder is read once."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}
        self._sorted: dict[str, list[str]] = {}

    def names(self, folder: str) -> set[str]:
        if folder not in self._names:
            try:
                self._names[folder] = set(os.listdir(folder or "."))
            except OSError:
                self._names[folder] = set()
        return self._names[folder]

    def holds(self, path: str) -> bool:
        folder, name = os.path.split(path)
        return name in self.names(folder)

    def starting_with(self, folder: str, stem: str) -> str | None:
        if folder not in self._sorted:
            self._sorted[folder] = sorted(self.names(folder))
        names = self._sorted[folder]
        index = bisect.bisect_left(names, stem)
        if stem and index < len(names) and names[index].startswith(stem):
            return names[index]
        return None


# ------------------------------------------------------------------------------------ full part


@dataclass(frozen=True)
class _Rules:
    """What a mask's labels go through."""

    classes: int
    final: np.ndarray  # (256,) or longer: raw value -> class, ignored, or -1 for neither
    wide: bool  # whether the loader takes masks of other than 8 bits
    shown: str  # words on what was applied

    @classmethod
    def of(cls, dataset: Any, label_lut: LabelLookup | None) -> "_Rules":
        classes = len(dataset.metainfo.get("classes") or ())
        values = np.arange(256, dtype=np.int32)
        shown = []
        if label_lut is not None:
            values = _lookup_array(label_lut)
            shown.append("the look-up of labels")
        if dataset.reduce_zero_label:
            # 0 becomes ignored, the others go down by one, and ignored stays ignored.
            values = np.where(np.isin(values, (0, 255)), 255, np.where(values > 0, values - 1, -1))
            shown.append("reduce_zero_label=True")
        if dataset.label_map:
            before = values.copy()
            for old, new in dataset.label_map.items():
                values[before == int(old)] = int(new)
            shown.append("label_map")
        legal = (values >= 0) & (values < classes) | (values == dataset.ignore_index)
        final = np.where(legal, values, -1).astype(np.int32)
        return cls(classes, final, label_lut is not None, " and ".join(shown))


def _lookup_array(label_lut: LabelLookup) -> np.ndarray:
    """Return a look-up as an array of at least 256 entries, with -1 for unlisted values."""
    if isinstance(label_lut, Mapping):
        table = np.full(max(256, 1 + max(map(int, label_lut), default=0)), -1, dtype=np.int32)
        for raw, label in label_lut.items():
            table[int(raw)] = int(label)
        return table
    table = np.asarray(label_lut, dtype=np.int32)
    return np.pad(table, (0, max(0, 256 - len(table))), constant_values=-1)


def check_full(
    dataset: Any,
    label_lut: LabelLookup | None = None,
    workers: int = 1,
    progress: bool = False,
) -> list[Problem]:
    """Open every mask and every image's header, and check mode, size, labels and completeness.

    Files that do not exist are left to :func:`check_cheap`.

    Args:
        dataset: a ``BaseSegDataset``.
        label_lut: class of each raw label value, applied before ``reduce_zero_label`` and
            ``label_map``; by default the ``label_lut`` of a transform in the data set's pipeline.
        workers: processes; 0 or 1 works in this process.
        progress: show a progress bar.
    """
    if hasattr(dataset, "datasets"):
        parts = [check_full(part, label_lut, workers, progress) for part in dataset.datasets]
        return [problem for part in parts for problem in part]
    if label_lut is None:
        label_lut = _configured_lookup(dataset)
    rules = _Rules.of(dataset, label_lut)
    pairs = [
        (sample["img_path"], sample.get("seg_map_path"))
        for sample in load_samples(dataset)
        if os.path.isfile(sample["img_path"])
    ]
    problems: list[Problem] = []
    seen = np.zeros(len(rules.final), dtype=bool)
    check = partial(_check_chunk, rules=rules)
    chunks = [pairs[start : start + 32] for start in range(0, len(pairs), 32)]
    with tqdm(total=len(pairs), unit="image", disable=not progress) as bar:
        for chunk, (chunk_problems, chunk_seen) in zip(
            chunks, _map(check, chunks, workers), strict=True
        ):
            problems += chunk_problems
            seen |= chunk_seen
            bar.update(len(chunk))
    return problems + _check_last_class(dataset, rules, seen)


def _map(function: Callable[[Any], Any], items: Sequence[Any], workers: int) -> Iterator[Any]:
    if workers <= 1 or len(items) <= 1:
        yield from map(function, items)
        return
    executor = ProcessPoolExecutor(min(workers, len(items)))
    try:
        yield from executor.map(function, items)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _check_chunk(
    pairs: Sequence[tuple[str, str | None]], rules: _Rules
) -> tuple[list[Problem], np.ndarray]:
    problems: list[Problem] = []
    seen = np.zeros(len(rules.final), dtype=bool)
    for image, mask in pairs:
        size, problem = _image_size(image)
        if problem:
            problems.append(problem)
        if mask is not None and os.path.isfile(mask):
            values, found = _check_mask(mask, size, rules)
            problems += found
            seen |= values
    return problems, seen


def _image_size(path: str) -> tuple[tuple[int, int] | None, Problem | None]:
    """Return (height, width) as mmcv will load the image, or what is wrong with it."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.getexif().get(0x0112, 1) >= 5:  # turned by the camera; OpenCV turns it back
                width, height = height, width
            if not _has_end_marker(path, image.format):
                image.load()
    except (OSError, SyntaxError, ValueError) as error:
        message = f"image cannot be read ({error}); get this file again"
        return None, Problem("error", path, message, "damaged image")
    return (height, width), None


def _has_end_marker(path: str, image_format: str | None) -> bool:
    """Say whether a file ends as its format should: then it need not be decoded."""
    markers = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
    if image_format not in markers:
        return False
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 64))
        return markers[image_format] in file.read()


def _check_mask(
    path: str, size: tuple[int, int] | None, rules: _Rules
) -> tuple[np.ndarray, list[Problem]]:
    """Check one mask; also return which raw values it holds, (len(rules.final),) bool."""
    nothing = np.zeros(len(rules.final), dtype=bool)
    modes = _LABEL_MODES if rules.wide else ("L", "P")

    def wrong(message: str, kind: str) -> tuple[np.ndarray, list[Problem]]:
        return nothing, [Problem("error", path, message, kind)]

    try:
        with Image.open(path) as image:
            if image.mode not in modes:
                return wrong(_mode_message(image.mode), f"mode {image.mode}")
            if image.format == "JPEG":
                return wrong("mask is a JPEG, which blurs labels; use a PNG", "JPEG mask")
            labels = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        return wrong(f"mask cannot be read ({error}); make this file again", "damaged mask")

    problems = []
    if size is not None and labels.shape != size:
        (h, w), (ih, iw) = labels.shape, size
        turned = "; the image is turned by its EXIF data" if (w, h) == (ih, iw) else ""
        message = (
            f"mask is {h}x{w} (height x width), but its image is {ih}x{iw}{turned}; a mask has "
            "its image's size"
        )
        problems.append(Problem("error", path, message, "size"))
    labels = labels.astype(np.int64)
    inside = (labels >= 0) & (labels < len(rules.final))
    present = np.bincount(labels[inside], minlength=len(rules.final)) > 0
    bad = np.flatnonzero(present & (rules.final < 0))
    if not inside.all():
        bad = np.union1d(bad, labels[~inside])
    if bad.size:
        values = ", ".join(map(str, bad[:8])) + (
            f" and {bad.size - 8} more" if bad.size > 8 else ""
        )
        after = f" after {rules.shown}" if rules.shown else ""
        message = (
            f"label values {values} give no class 0..{rules.classes - 1} and are not "
            f"ignored (255){after}; convert the masks or map these values"
        )
        problems.append(Problem("error", path, message, "labels"))
    return present, problems


def _mode_message(mode: str) -> str:
    if mode.startswith("I") or mode == "F":
        return (
            f"mask has mode {mode} (more than 8 bits), which mmseg cuts to 8 bits (300 becomes "
            "44); store class indices in an 8-bit one-channel PNG"
        )
    if mode == "1":
        return "mask has one bit per pixel; store class indices in an 8-bit one-channel PNG"
    return (
        f"mask has mode {mode} (colours), but class indices are expected; store them in an 8-bit "
        "one-channel PNG"
    )


def _check_last_class(dataset: Any, rules: _Rules, seen: np.ndarray) -> list[Problem]:
    """Warn where reduce_zero_label leaves the last class without a pixel: it is set wrongly."""
    if not dataset.reduce_zero_label or not seen.any():
        return []
    if rules.classes - 1 in rules.final[seen]:
        return []
    name = dataset.metainfo["classes"][-1]
    message = (
        f"class {rules.classes - 1} ({name}) occurs in no mask; if label 0 is a class here, "
        "reduce_zero_label must be False"
    )
    where = str(dataset.data_prefix.get("seg_map_path"))
    return [Problem("warning", where, message)]


def _configured_lookup(dataset: Any) -> LabelLookup | None:
    """Return the ``label_lut`` of a transform in the data set's pipeline, such as
    ``LoadMappedAnnotations``.
    """
    found = (getattr(transform, "label_lut", None) for transform in _transforms(dataset))
    return next((lut for lut in found if lut is not None), None)


def _transforms(dataset: Any) -> list[Any]:
    return list(getattr(getattr(dataset, "pipeline", None), "transforms", ()))
