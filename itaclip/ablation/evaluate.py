"""Evaluates a plan: groups of rows that share features, image by image."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmseg.evaluation import IoUMetric
from mmseg.registry import MODELS
from torch import Tensor
from tqdm import tqdm

from ..evaluation import CheckLabelsHook
from ..hooks import CheckClassesHook, TrimMemoryHook
from .plan import Plan, Row
from .store import Store

Result = dict[str, Any]
# Decoded pictures are kept for the next group up to about this many bytes.
_KEPT_BYTES = 1 << 30
# Results of a group are stored this often while it runs.
_STORE_SECONDS = 60.0


class SharedFeatures:
    """Stands in for :meth:`ITACLIPSegmentor.view_features` of all rows of a group.

    The first row of a picture computes; the others, which ask for the same windows in the same
    order, get what it computed.
    """

    def __init__(self, compute: Callable[[Sequence[Tensor]], Tensor]) -> None:
        self._compute = compute
        self.next_image()

    def next_image(self) -> None:
        self._kept: list[Tensor] = []  # (V, B, h, w, E) of one batch of windows each
        self.rewind()

    def rewind(self) -> None:
        """The next call is about the picture's first windows."""
        self._batch, self._window = 0, 0

    def __call__(self, crops: Sequence[Tensor]) -> Tensor:
        """(V, B, h, w, E) for at most ``len(crops)`` windows: a kept batch may be smaller."""
        if self._batch == len(self._kept):
            self._kept.append(self._compute(crops))
        batch = self._kept[self._batch]
        part = batch[:, self._window : self._window + len(crops)]
        self._window += part.shape[1]
        if self._window == batch.shape[1]:
            self._batch, self._window = self._batch + 1, 0
        return part


class Pictures:
    """Decoded samples of a data set; the first ones are kept in memory."""

    def __init__(self, dataset: Any, keep: bool = True) -> None:
        self.dataset, self.decoded = dataset, 0
        self._room, self._kept = _KEPT_BYTES * keep, {}

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index in self._kept:
            return self._kept[index]
        sample = self.dataset[index]
        self.decoded += 1
        size = sample["inputs"].nbytes
        if "gt_sem_seg" in sample["data_samples"]:
            size += sample["data_samples"].gt_sem_seg.data.nbytes
        if size <= self._room:
            self._room -= size
            self._kept[index] = sample
        return sample


def evaluate_plan(
    plan: Plan,
    store: Store | None = None,
    share: bool = True,
    after_group: Callable[[dict[str, Result]], None] | None = None,
) -> tuple[dict[str, Result], dict[str, int]]:
    """Evaluates what the store does not have yet.

    Args:
        plan: rows and pictures.
        store: keeps results; None keeps none.
        share: False evaluates every cell on its own, with a model, weights and pictures of its
            own: as slow as it is simple, it shows what sharing saves, and that it changes nothing.
        after_group: called with the results so far, by the rows' keys.

    Returns:
        Results by the rows' keys, and what was done: ``encoder_passes`` over a picture,
        ``decoded`` pictures, ``models`` whose weights were read.
    """
    store = store or Store(None)
    results: dict[str, Result] = {}
    done = {"encoder_passes": 0, "decoded": 0, "models": 0}
    started = {key: store.load(row) for key, row in plan.rows.items()}
    for key, row in plan.rows.items():
        if started[key][0] >= plan.images(row):
            results[key] = result_of(row, started[key][1], started[key][2])
    if share:
        groups = [[row for row in group if row.key not in results] for group in plan.groups()]
        names = {row.settings["model"].get("clip_model") for group in groups for row in group}
        done["models"] = len(names)
        pictures = {key: Pictures(dataset) for key, dataset in plan.datasets.items()}
    else:
        groups = [[plan.rows[cell.key]] for cell in plan.cells if cell.key not in results]
        done["models"] = len(groups)
    groups = [group for group in groups if group]
    for number, group in enumerate(groups, start=1):
        if share:
            source = pictures[group[0].dataset_key]
        else:
            group = [_with_own_model(group[0])]
            source = Pictures(plan.datasets[group[0].dataset_key], keep=False)
        before = source.decoded
        title = f"{number}/{len(groups)}: {_names(plan, group)}"
        found = _evaluate_group(plan, group, source, store, started, title)
        results |= found["results"]
        done["encoder_passes"] += found["encoder_passes"]
        done["decoded"] += source.decoded - before
        if after_group:
            after_group(results)
    return results, done


def _with_own_model(row: Row) -> Row:
    device = next((p.device for p in row.model.parameters()), torch.device("cpu"))
    model = MODELS.build(copy.deepcopy(row.settings["model"])).eval().to(device)
    return Row(**{**vars(row), "model": model})


def _names(plan: Plan, group: Sequence[Row]) -> str:
    """The cells of a group, as far as a line goes."""
    keys = {row.key for row in group}
    cells = [cell for cell in plan.cells if cell.key in keys]
    first = f"{cells[0].study} {cells[0].row} {cells[0].column}".strip()
    return first + (f" and {len(cells) - 1} more" if len(cells) > 1 else "")


@torch.no_grad()
def _evaluate_group(
    plan: Plan,
    group: Sequence[Row],
    pictures: Pictures,
    store: Store,
    started: dict[str, tuple],
    title: str,
) -> dict[str, Any]:
    """Runs all rows of a group over the pictures, from where each stopped."""
    images = {plan.images(row) for row in group}
    done = {row.key: started[row.key][0] for row in group}
    sums = {row.key: started[row.key][1] for row in group}
    seconds = {row.key: started[row.key][2] for row in group}
    checks = _Checks(group[0], pictures.dataset)
    shared = None
    if len(group) > 1:
        shared = SharedFeatures(group[0].model.view_features)
        for row in group:
            row.model.view_features = shared
    passes, stored, trim = 0, time.monotonic(), TrimMemoryHook()

    def keep() -> None:
        for row in group:
            if done[row.key] > started[row.key][0]:
                store.save(row, done[row.key], sums[row.key], seconds[row.key])

    try:
        first = min(done.values())
        bar = tqdm(range(first, max(images)), desc=title, initial=first, total=max(images))
        for index in bar:
            sample = pictures[index]
            checks(index, sample)
            if shared:
                shared.next_image()
            passes += 1
            for row in group:
                if done[row.key] != index:
                    continue
                if shared:
                    shared.rewind()
                clock = time.perf_counter()
                areas = _areas(row, sample)
                seconds[row.key] += time.perf_counter() - clock
                sums[row.key] = _added(sums[row.key], areas)
                done[row.key] = index + 1
            trim.after_test_iter()
            if time.monotonic() - stored > _STORE_SECONDS:
                keep()
                stored = time.monotonic()
    finally:  # whatever stops the run, what is done is kept
        keep()
        if shared:
            for row in group:
                del row.model.view_features
    results = {row.key: result_of(row, sums[row.key], seconds[row.key]) for row in group}
    return {"results": results, "encoder_passes": passes}


class _Checks:
    """What ``eval.py`` checks of classes and masks."""

    def __init__(self, row: Row, dataset: Any) -> None:
        evaluator = SimpleNamespace(metrics=[row.metric])
        self._runner = SimpleNamespace(
            model=row.model,
            test_dataloader=SimpleNamespace(dataset=dataset),
            test_loop=SimpleNamespace(evaluator=evaluator),
        )
        self._labels = CheckLabelsHook()
        for hook in (CheckClassesHook(), self._labels):
            hook.before_test(self._runner)

    def __call__(self, index: int, sample: dict[str, Any]) -> None:
        batch = {"data_samples": [sample["data_samples"]]}
        self._labels.before_test_iter(self._runner, index, batch)


def _areas(row: Row, sample: dict[str, Any]) -> tuple[Tensor, ...]:
    """Intersection, union, predicted and labelled area (C,) of one picture, as mmseg counts."""
    batch = {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"].new()]}
    (predicted,) = row.model.test_step(batch)
    row.metric.process({}, [predicted.to_dict()])
    return row.metric.results.pop()


def _added(sums: tuple[Tensor, ...] | None, areas: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """In fp32 and picture by picture, like mmseg, so that its figures come out to the bit."""
    if sums is None:
        return tuple(area.clone() for area in areas)
    return tuple(total + area for total, area in zip(sums, areas, strict=True))


# ---- figures ------------------------------------------------------------------------------------


def result_of(row: Row, sums: tuple[Tensor, ...], seconds: float) -> Result:
    """mmseg's own figures of the sums, and the IoU of every class, in percent."""
    with _quiet():
        metrics = row.metric.compute_metrics([sums])
    shares = IoUMetric.total_area_to_metrics(*sums, ["mIoU"])["IoU"]
    classes = row.metric.dataset_meta["classes"]
    per_class = {
        name: None if math.isnan(share) else round(100 * float(share), 2)
        for name, share in zip(classes, shares, strict=True)
    }
    result = {key: float(value) for key, value in metrics.items()}
    return result | {"per_class": per_class, "seconds": round(seconds, 1)} | _split(row, per_class)


def _split(row: Row, per_class: dict[str, float | None]) -> dict[str, float]:
    """mIoU of stuff and of things, for the data sets that tell them apart."""
    stuff = stuff_classes(row.settings["test_dataloader"]["dataset"]["type"], tuple(per_class))
    if not stuff:
        return {}
    return {
        "stuff": _mean(per_class[name] for name in per_class if name in stuff),
        "things": _mean(per_class[name] for name in per_class if name not in stuff),
    }


def stuff_classes(dataset: str, classes: Sequence[str]) -> frozenset[str]:
    """The classes of a data set that are stuff; empty where it makes no such distinction."""
    if dataset == "StorybookDataset":
        from ..storybook.textures import STUFF

        return frozenset(STUFF)
    if dataset == "COCOStuffDataset":
        return frozenset(classes[80:])
    return frozenset()


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 2) if known else None


@contextmanager
def _quiet():
    """mmseg prints a table for every result it computes."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)
