"""Benchmarks whose images and masks are paired by name: COCO, Cityscapes, ADE20K."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from .convert import MaskJob, convert_masks
from .labels import POISON, identity_table, read_and_map
from .manifest import SplitReport
from .settings import Settings
from .sources import Part, files_in, find_folder, provide_folder


@dataclass(frozen=True)
class Route:
    """One way to the masks of a split.

    Attributes:
        part: the folder of files to convert.
        suffix: what follows the image's name in these files' names.
        produce: picklable function from a file's path to labels (H, W) uint8.
        note: facts for the manifest, if the route is not the usual one.
    """

    part: Part
    suffix: str
    produce: Callable[[Path], np.ndarray]
    note: str = ""


@dataclass(frozen=True)
class PairedSplit:
    """A split with one mask per image.

    Attributes:
        split: ``"val"`` or ``"train"``.
        images: the folder of images.
        image_suffix: what follows an image's name.
        routes: ways to the masks, the usual one first; the first that is at hand is taken. The
            finished masks lie in the usual one's folder.
        mask_suffix: what follows the image's name in finished masks.
        labels: table of the finished masks' allowed values; None if they are the raw ones.
    """

    split: str
    images: Part
    image_suffix: str
    routes: tuple[Route, ...]
    mask_suffix: str
    labels: np.ndarray | None


def output_labels(table: np.ndarray) -> np.ndarray:
    """Return the table that keeps every value another table can give, and refuses the others."""
    return identity_table(int(value) for value in np.unique(table) if value != POISON)


def each_split(
    benchmark: str,
) -> Callable[[Callable[[str], PairedSplit]], Callable[[Settings, Path], list[SplitReport]]]:
    """Turn a description of one split into the preparation of all splits asked for."""

    def around(describe: Callable[[str], PairedSplit]) -> Callable:
        @wraps(describe)
        def prepare(settings: Settings, tree: Path) -> list[SplitReport]:
            return [
                prepare_split(settings, tree, describe(split), benchmark)
                for split in settings.splits
            ]

        return prepare

    return around


def prepare_split(
    settings: Settings, tree: Path, split: PairedSplit, benchmark: str
) -> SplitReport:
    """Provide the images, make or verify the masks, and report.

    Args:
        settings: what the user asked for.
        tree: the benchmark's tree.
        split: what to prepare.
        benchmark: its name, for messages and the progress bar.

    Raises:
        InputError: something is missing, damaged, or holds labels that are not defined.
    """
    names: list[str] = []
    if settings.need_images or find_folder(settings, tree, split.images) is not None:
        images = provide_folder(settings, tree, split.images)
        names = _names(images, split.images, split.image_suffix)
    targets = tree / split.routes[0].part.folder

    route, raw = _choose_route(settings, tree, split)
    if raw is None and split.labels is not None and names:
        done = [targets / f"{name}{split.mask_suffix}" for name in names]
        if all(path.is_file() for path in done):
            jobs = [MaskJob(name, path) for name, path in zip(names, done, strict=True)]
            settings.say(f"{benchmark}: raw masks are not at hand; verifying the finished ones")
            return _run(
                settings,
                tree,
                split,
                benchmark,
                jobs,
                partial(read_and_map, table=split.labels),
            )
    if raw is None or (split.labels is None and raw != targets):
        raw = provide_folder(settings, tree, route.part)
    sources = set(files_in(raw, route.part.regex))
    missing = [name for name in names if name + route.suffix not in sources]
    if missing:
        raise InputError(
            f"{raw}: {len(missing)} of {len(names)} images have no mask; the first expected is "
            f"{missing[0]}{route.suffix}; extract {route.part.download.file_name} again"
        )
    if not names:
        names = [source.removesuffix(route.suffix) for source in sorted(sources)]
    jobs = [
        MaskJob(
            name,
            raw / f"{name}{route.suffix}",
            None if split.labels is None else targets / f"{name}{split.mask_suffix}",
        )
        for name in names
    ]
    report = _run(settings, tree, split, benchmark, jobs, route.produce)
    if raw != targets:
        report.raw = raw.resolve()
    if route.note:
        settings.say(f"{benchmark}: {route.note}")
        report.notes["route"] = route.note
    return report


def _choose_route(settings: Settings, tree: Path, split: PairedSplit) -> tuple[Route, Path | None]:
    for route in split.routes:
        raw = find_folder(settings, tree, route.part)
        if raw is not None:
            return route, raw
    return split.routes[0], None


def _names(folder: Path, part: Part, suffix: str) -> list[str]:
    return [name.removesuffix(suffix) for name in files_in(folder, part.regex)]


def _run(
    settings: Settings,
    tree: Path,
    split: PairedSplit,
    benchmark: str,
    jobs: Sequence[MaskJob],
    produce: Callable[[Any], np.ndarray],
) -> SplitReport:
    summary = convert_masks(
        jobs,
        produce,
        workers=settings.workers,
        force=settings.force,
        title=f"{benchmark} {split.split}",
    )
    return SplitReport(split.split, tree, len(jobs), summary)
