"""Opens every image and mask of a data set as a run does: the guarded pipeline in a loop."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..errors import BadSampleError, InputError
from .benchmarks import by_dataset
from .check import load_samples, transforms_of
from .coverage import unseen_classes
from .guard import GuardedPipeline, LabelRules
from .problems import Problem


@dataclass(frozen=True)
class _Judged:
    """Samples by number, each judged: what is wrong with it, and which labels its mask holds."""

    samples: Sequence[Mapping[str, Any]]
    pipeline: Callable

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Exception | None, list[int]]:
        try:
            sample = self.pipeline(dict(self.samples[index]))["data_samples"]
        except InputError as error:
            return error, []
        labels = np.unique(sample.gt_sem_seg.data) if "gt_sem_seg" in sample else []
        return None, [int(label) for label in labels]


def check_full(
    dataset: Any, rules: LabelRules | None = None, workers: int = 0, progress: bool = False
) -> list[Problem]:
    """Load every image and mask, and check damage, mode, size, labels and unseen classes.

    Files that do not exist are left to :func:`~itaclip.data.check.check_cheap`.

    Args:
        dataset: a ``BaseSegDataset``; without a pipeline, mmseg's usual loading is taken.
        rules: what masks must hold; by default the data set's classes, and 255 to be ignored.
        workers: processes beside this one; 0 works in this process.
        progress: show a progress bar.
    """
    if hasattr(dataset, "datasets"):
        parts = [check_full(part, rules, workers, progress) for part in dataset.datasets]
        return [problem for part in parts for problem in part]
    names = dataset.metainfo.get("classes") or ()
    samples = [
        sample
        for sample in load_samples(dataset)
        if all(os.path.exists(sample[k]) for k in ("img_path", "seg_map_path") if k in sample)
    ]
    with_masks = any("seg_map_path" in sample for sample in samples)
    if rules is None and with_masks:
        rules = LabelRules(len(names), frozenset([255]))
    usual = [LoadImageFromFile(), *[LoadAnnotations()] * with_masks, PackSegInputs()]
    steps = transforms_of(dataset) or usual
    judged = _Judged(samples, GuardedPipeline(steps, rules))
    loader = DataLoader(judged, batch_size=None, num_workers=min(workers, len(samples)))
    problems: list[Problem] = []
    seen: set[int] = set()
    for error, labels in tqdm(loader, unit="image", disable=not progress):
        if error is None:
            seen.update(labels)
            continue
        problems.append(_problem(error, type(dataset).__name__))
        if not isinstance(error, BadSampleError):  # a setting: it is the same for every sample
            return problems
    known = by_dataset(type(dataset).__name__)
    whole = known is None or len(samples) in known.images.values()
    if seen and with_masks and whole:
        where = str(dataset.data_prefix.get("seg_map_path"))
        problems += unseen_classes(names, seen, where, dataset.reduce_zero_label)
    return problems


def _problem(error: InputError, name: str) -> Problem:
    path = getattr(error, "path", "") or name
    message = str(error).removeprefix(f"{path}: ").removesuffix(".")
    # Problems that differ in numbers alone are of one kind.
    return Problem("error", path, message, re.sub(r"\d+", "#", message))
