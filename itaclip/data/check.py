"""Checks of a data set before any model runs, without reading a pixel.

mmseg pairs images and masks by name without looking, so names, counts and pairing are looked at
here: well below a second for 5000 images. :mod:`itaclip.data.mask_check` opens the files as well.
Both give a list of :class:`~itaclip.data.problems.Problem`; an empty list means that nothing was
found.
"""

import bisect
import os
from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..runtime.files import PROJECT_ROOT, read_text
from ..runtime.tool import door
from .benchmarks import by_dataset
from .problems import Problem

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MISSING_FILES = ("no image", "no mask")
"""Kinds of problems that are about one sample's missing files."""
LabelLookup = Mapping[int, int] | Sequence[int] | np.ndarray


def settle_places(dataset_cfg: MutableMapping[str, Any]) -> None:
    """Look relative paths of a data set's config up as the README says; it takes what is found.

    A relative ``data_root``, and the file of ``metainfo.classes``, lie in the current folder or in
    the project's. What is in neither place is left as it is, for :func:`check_places`.
    """
    for part in _parts(dataset_cfg):
        _settle(part, "data_root")
        if not part.get("data_root"):
            _settle(part, "ann_file")
            for key in part.get("data_prefix") or ():
                _settle(part["data_prefix"], key)
        if isinstance(part.get("metainfo"), MutableMapping):
            _settle(part["metainfo"], "classes")


def _settle(config: MutableMapping[str, Any], key: str) -> None:
    path = config.get(key)
    if isinstance(path, str) and path and not os.path.exists(path):
        place = PROJECT_ROOT / path
        if place.exists():
            config[key] = str(place)


def _parts(dataset_cfg: MutableMapping[str, Any]) -> Iterator[MutableMapping[str, Any]]:
    """A data set's config, and those of the data sets that it joins or wraps."""
    yield dataset_cfg
    inner = dataset_cfg.get("datasets")
    for part in [*(inner if isinstance(inner, list | tuple) else ()), dataset_cfg.get("dataset")]:
        if isinstance(part, MutableMapping):
            yield from _parts(part)


def check_places(dataset_cfg: MutableMapping[str, Any]) -> list[Problem]:
    """Check that the folders and files that a data set's config names exist.

    For use before the data set is built: mmseg's classes stop there with bare assertions, and read
    whatever is named as a list of classes.
    """
    return [problem for part in _parts(dataset_cfg) for problem in _check_places_of(part)]


def _check_places_of(dataset_cfg: Mapping[str, Any]) -> list[Problem]:
    root = dataset_cfg.get("data_root") or ""
    prepare = _how_to_prepare(str(dataset_cfg.get("type")))
    mend = f"{prepare}, or correct" if prepare else "correct"
    prefix = dataset_cfg.get("data_prefix") or {}
    wanted = [
        ("folder", os.path.isdir, f"data_prefix.{key}", prefix[key])
        for key in prefix
        if prefix[key]
    ]
    if dataset_cfg.get("ann_file"):
        wanted.append(("file", os.path.isfile, "ann_file", dataset_cfg["ann_file"]))
    problems = []
    for what, exists, key, value in wanted:
        path = os.path.join(root, value)
        if not exists(path):
            places = "" if os.path.isabs(path) else f", below {os.getcwd()} or {PROJECT_ROOT}"
            message = (
                f"expected a {what} here{places} ({key}); {mend} data_root and {key} in the config"
            )
            problems.append(Problem("error", path, message, "places"))
    return problems + _check_class_file(dataset_cfg)


def _check_class_file(dataset_cfg: Mapping[str, Any]) -> list[Problem]:
    """mmengine reads any file that is named as the list of classes: also a pipe, and for ever."""
    meta = dataset_cfg.get("metainfo")
    classes = meta.get("classes") if isinstance(meta, Mapping) else None
    if not isinstance(classes, str) or not os.path.lexists(classes):
        return []
    try:
        read_text(classes)
    except InputError as error:
        message = str(error).removeprefix(f"{classes}: ").removesuffix(".")
        return [Problem("error", classes, f"metainfo.classes: {message}", "places")]
    return []


def _how_to_prepare(dataset_class: str) -> str:
    known = by_dataset(dataset_class)
    return f"run `{door('prepare')} {known.name}`" if known and known.recipe else ""


def build_dataset(dataset_cfg: Mapping[str, Any]) -> Any:
    """Build a data set from its config without reading its entries.

    mmengine's own initialisation stops without a reason at a data set that has no images.
    """
    from mmengine.registry import DefaultScope
    from mmseg.registry import DATASETS

    with DefaultScope.overwrite_default_scope("mmseg"):
        return DATASETS.build({**dataset_cfg, "lazy_init": True})


def check_cheap(dataset: Any) -> list[Problem]:
    """Check names, counts and pairing of a data set without reading a pixel.

    Args:
        dataset: a ``BaseSegDataset``, fully initialised or not (an empty one cannot be).
    """
    if hasattr(dataset, "datasets"):  # a concatenation
        return [problem for part in dataset.datasets for problem in check_cheap(part)]
    try:
        samples = load_samples(dataset)
    except UnicodeDecodeError:
        message = "is not a text file; list one image name per line"
        return [Problem("error", str(dataset.ann_file), message)]
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
        lines = read_text(path).splitlines()
    except InputError as error:
        message = str(error).removeprefix(f"{path}: ").removesuffix(".")
        return [Problem("error", path, f"{message}; list one image name per line")]
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
    classes = dataset.metainfo.get("classes")
    listed = isinstance(classes, list | tuple) and all(isinstance(c, str) for c in classes)
    if not listed or not classes:
        # A file that does not exist is taken for a name by mmengine.
        message = (
            "metainfo.classes: expected a list of names or the path of a file with a name on each "
            f"line, but got {classes!r}"
        )
        problems.append(Problem("error", name, message))
        classes = ()
    has_masks = "seg_map_path" in dataset.data_prefix
    if has_masks and len(classes) > 255 and configured_lookup(dataset) is None:
        message = f"has {len(classes)} classes, but masks of 8 bits tell at most 255 apart"
        problems.append(Problem("error", name, message))
    for transform in transforms_of(dataset):
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
    hint = _how_to_prepare(type(dataset).__name__) or "add it"
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
    known = by_dataset(type(dataset).__name__)
    expected = known.images.get("val") if known else None
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
        f"{known.name} val has {count} images instead of {expected}: scores are not comparable to "
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


def configured_lookup(dataset: Any) -> LabelLookup | None:
    """Return the ``label_lut`` of a transform in the data set's pipeline, such as
    ``LoadMappedAnnotations``.
    """
    found = (getattr(transform, "label_lut", None) for transform in transforms_of(dataset))
    return next((lut for lut in found if lut is not None), None)


def transforms_of(dataset: Any) -> list[Any]:
    """Return the steps of the data set's pipeline."""
    return list(getattr(getattr(dataset, "pipeline", None), "transforms", ()))
