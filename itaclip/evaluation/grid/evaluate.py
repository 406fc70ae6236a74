"""Evaluates a plan: groups of rows that share work, picture by picture."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmseg.evaluation import IoUMetric
from mmseg.registry import MODELS
from torch import Tensor
from tqdm import tqdm

from ...data.guard import LabelRules, guard_dataset
from ..hooks import TrimMemoryHook
from .plan import Plan, Row
from .shared import Pictures, shared
from .store import Store

Result = dict[str, Any]
# Results of a group are stored this often while it runs.
_STORE_SECONDS = 60.0


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
        Results by the rows' keys, and what was done: passes over a picture through the image
        encoder's ``blocks`` before the last and through its ``last_block``, pictures ``segmented``
        and ``decoded``.
    """
    store = store or Store(None)
    progress = {key: _Progress(row, *store.load(row)) for key, row in plan.rows.items()}
    left = {key for key, row in plan.rows.items() if progress[key].images < plan.images(row)}
    results = {key: progress[key].result() for key in plan.rows if key not in left}
    done = dict.fromkeys(("blocks", "last_block", "segmented", "decoded"), 0)
    if share:
        groups = plan.groups(left)
        pictures = {key: Pictures(dataset) for key, dataset in plan.datasets.items()}
    else:
        groups = [[[plan.rows[cell.key]]] for cell in plan.cells if cell.key in left]
    for number, group in enumerate(groups, start=1):
        rows = [row for inner in group for row in inner]
        dataset = plan.datasets[rows[0].dataset_key]
        if share:
            source = pictures[rows[0].dataset_key]
            own = [progress[row.key] for row in rows]
        else:
            source = Pictures(dataset, keep=False)
            own = [_Progress(_with_own_model(rows[0]), *store.load(None))]
            group = [[own[0].row]]
        before = source.decoded
        title = f"{number}/{len(groups)} {_name(plan, rows)}"
        counts = _evaluate_group(plan, group, own, source, store, title)
        done = {key: value + counts.get(key, 0) for key, value in done.items()}
        done["decoded"] += source.decoded - before
        results |= {part.row.key: part.result() for part in own}
        if after_group:
            after_group(results)
    return results, done


@dataclass
class _Progress:
    """How far a row has come: pictures done, sums of their four areas (C,), seconds."""

    row: Row
    images: int
    sums: tuple[Tensor, ...] | None
    seconds: float

    def add(self, sample: dict[str, Any], model: Any) -> None:
        """Segments one more picture with the row's model, or a variant that shares work."""
        clock = time.perf_counter()
        batch = {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"].new()]}
        (predicted,) = model.test_step(batch)
        self.row.metric.process({}, [predicted.to_dict()])
        areas = self.row.metric.results.pop()
        # In fp32 and picture by picture, like mmseg, so that its figures come out to the bit.
        sums = self.sums or [torch.zeros_like(area) for area in areas]
        self.sums = tuple(total + area for total, area in zip(sums, areas, strict=True))
        self.images += 1
        self.seconds += time.perf_counter() - clock

    def result(self) -> Result:
        return result_of(self.row, self.sums, self.seconds)


def _with_own_model(row: Row) -> Row:
    model = MODELS.build(copy.deepcopy(row.settings["model"])).eval().to(get_device())
    return replace(row, model=model)


def _name(plan: Plan, rows: Sequence[Row]) -> str:
    """The cells of a group, as far as a line goes."""
    keys = {row.key for row in rows}
    cells = [cell for cell in plan.cells if cell.key in keys]
    first = f"{cells[0].study} {cells[0].row} {cells[0].column}".strip()
    return first + (f" and {len(cells) - 1} more" if len(cells) > 1 else "")


@torch.no_grad()
def _evaluate_group(
    plan: Plan,
    group: Sequence[Sequence[Row]],
    progress: Sequence[_Progress],
    pictures: Pictures,
    store: Store,
    title: str,
) -> dict[str, int]:
    """Runs all rows of a group over the pictures, from where each stopped."""
    at = {part.row.key: part for part in progress}
    begun = {part.row.key: part.images for part in progress}
    first, last = min(begun.values()), max(plan.images(part.row) for part in progress)
    metric, classes = progress[0].row.metric, len(pictures.dataset.metainfo["classes"])
    guard_dataset(pictures.dataset, LabelRules.of([metric], classes))
    counts = dict.fromkeys(("blocks", "last_block", "segmented"), 0)
    stored, trim = time.monotonic(), TrimMemoryHook()

    def keep() -> None:
        for part in progress:
            if part.images > begun[part.row.key]:
                store.save(part.row, part.images, part.sums, part.seconds)

    try:
        turn, models = shared(group)
        for index in tqdm(range(first, last), desc=title, initial=first, total=last):
            sample = pictures[index]
            turn.next_image()
            counts["blocks"] += 1
            for inner in group:
                turn.next_features()
                waiting = [at[row.key] for row in inner if at[row.key].images == index]
                counts["last_block"] += bool(waiting)
                counts["segmented"] += len(waiting)
                for part in waiting:
                    turn.next_row()
                    part.add(sample, models[part.row.key])
            trim.after_test_iter()
            if time.monotonic() - stored > _STORE_SECONDS:
                keep()
                stored = time.monotonic()
    finally:  # whatever stops the run, what is done is kept
        keep()
    return counts


# ---- figures ------------------------------------------------------------------------------------


def result_of(row: Row, sums: tuple[Tensor, ...], seconds: float) -> Result:
    """mmseg's own figures of the sums, and the IoU of every class, in percent."""
    with _quiet():
        metrics = row.metric.compute_metrics([sums])
    shares = IoUMetric.total_area_to_metrics(*sums, ["mIoU"])["IoU"]
    classes = row.metric.dataset_meta["classes"]
    per_class = {
        name: None if math.isnan(share) else round(100 * float(share), 4)
        for name, share in zip(classes, shares, strict=True)
    }
    result = {key: round(float(value), 2) for key, value in metrics.items()}
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
        from ...storybook.textures import STUFF

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
