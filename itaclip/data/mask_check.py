"""Opens every image and mask of a data set and checks what the names cannot tell.

Images are loaded as an evaluation loads them (:mod:`itaclip.data.loading`). Masks are held against
what
mmseg does with them: it reads any mode, cuts labels to eight bits, and labels outside the classes
only lower the score.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import BadSampleError, InputError
from ..runtime.files import open_regular
from .check import LabelLookup, configured_lookup, load_samples, transforms_of
from .loading import LABEL_MODES, MAX_PIXELS, check_image, opened
from .problems import Problem


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
    """Open every mask and every image, and check mode, size, labels and completeness.

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
        label_lut = configured_lookup(dataset)
    rules = _Rules.of(dataset, label_lut)
    pairs = [
        (sample["img_path"], sample.get("seg_map_path"))
        for sample in load_samples(dataset)
        if os.path.isfile(sample["img_path"])
    ]
    problems: list[Problem] = []
    seen = np.zeros(len(rules.final), dtype=bool)
    limits = [getattr(transform, "max_pixels", None) for transform in transforms_of(dataset)]
    max_pixels = next((limit for limit in limits if limit is not None), MAX_PIXELS)
    check = partial(_check_chunk, rules=rules, max_pixels=max_pixels)
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
    pairs: Sequence[tuple[str, str | None]], rules: _Rules, max_pixels: int
) -> tuple[list[Problem], np.ndarray]:
    problems: list[Problem] = []
    seen = np.zeros(len(rules.final), dtype=bool)
    for image, mask in pairs:
        size, problem = _image_size(image, max_pixels)
        if problem:
            problems.append(problem)
        if mask is not None and os.path.isfile(mask):
            values, found = _check_mask(mask, size, rules)
            problems += found
            seen |= values
    return problems, seen


def _image_size(path: str, max_pixels: int) -> tuple[tuple[int, int] | None, Problem | None]:
    """Return (height, width) as mmcv will load the image, or what is wrong with it."""
    try:
        return check_image(_content(path), path, max_pixels), None
    except BadSampleError as error:
        return None, _problem(path, error, "damaged image")


def _content(path: str) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except InputError as error:
        raise BadSampleError(str(error), path) from error


def _problem(path: str, error: BadSampleError, kind: str) -> Problem:
    message = str(error).removeprefix(f"{path}: ").removeprefix("the ").removesuffix(".")
    return Problem("error", path, message, kind)


def _check_mask(
    path: str, size: tuple[int, int] | None, rules: _Rules
) -> tuple[np.ndarray, list[Problem]]:
    """Check one mask; also return which raw values it holds, (len(rules.final),) bool."""
    nothing = np.zeros(len(rules.final), dtype=bool)
    modes = LABEL_MODES if rules.wide else ("L", "P")

    def wrong(message: str, kind: str) -> tuple[np.ndarray, list[Problem]]:
        return nothing, [Problem("error", path, message, kind)]

    try:
        with opened(_content(path), path, "mask") as image:
            if image.mode not in modes:
                return wrong(_mode_message(image.mode), f"mode {image.mode}")
            if image.format == "JPEG":
                return wrong("mask is a JPEG, which blurs labels; use a PNG", "JPEG mask")
            labels = np.asarray(image)
    except BadSampleError as error:
        return nothing, [_problem(path, error, "damaged mask")]

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
