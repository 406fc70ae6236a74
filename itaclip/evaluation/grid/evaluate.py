"""Evaluates a plan: groups of rows that share work, picture by picture."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.logging import MMLogger
from mmseg.evaluation import IoUMetric
from mmseg.registry import MODELS
from tqdm import tqdm

from ...data.guard import LabelRules, guard_dataset
from ...runtime.torch_state import default_device
from ..distributed import from_rank_zero, gather
from ..hooks import TrimMemoryHook
from .plan import Plan, Row
from .shared import Pictures, shared
from .store import Done, Store

Result = dict[str, Any]


def evaluate_plan(
    plan: Plan,
    store: Store | None = None,
    share: bool = True,
    after_group: Callable[[dict[str, Result]], None] | None = None,
    trial: bool = False,
) -> tuple[dict[str, Result], dict[str, int]]:
    """Evaluates what the store does not have yet, this process's share of it.

    Args:
        plan: rows and pictures.
        store: keeps results; None keeps none. Several processes need one folder.
        share: False evaluates every cell on its own, with a model, weights and pictures of its
            own: as slow as it is simple, it shows what sharing saves, and that it changes nothing.
        after_group: called with the results so far, by the rows' keys.
        trial: evaluate one picture of every group in each process, to see how long it takes.

    Returns:
        Results by the rows' keys, and what was done: passes over a picture through the image
        encoder's ``blocks`` before the last and through its ``last_block``, pictures ``segmented``
        and ``decoded``.
    """
    store = store or Store(None)
    left = from_rank_zero(lambda: {k: _left(plan, row, store) for k, row in plan.rows.items()})
    waiting = {key for key, pictures in left.items() if pictures}
    results = {k: result_of(r, store.load(r)) for k, r in plan.rows.items() if k not in waiting}
    done = dict.fromkeys(("blocks", "last_block", "segmented", "decoded"), 0)
    if share:
        groups = plan.groups(waiting)
        pictures = {key: Pictures(dataset) for key, dataset in plan.datasets.items()}
    else:
        groups = [[[plan.rows[cell.key]]] for cell in plan.cells if cell.key in waiting]
    try:
        for number, group in enumerate(groups, start=1):
            rows = [row for inner in group for row in inner]
            if share:
                source = pictures[rows[0].dataset_key]
            else:
                source = Pictures(plan.datasets[rows[0].dataset_key], keep=False)
                group = [[_with_own_model(rows[0])]]
            before = source.decoded
            title = f"{number}/{len(groups)} {_name(plan, rows)}"
            counts = _evaluate_group(group, left, source, store, title, trial)
            done = {key: value + counts.get(key, 0) for key, value in done.items()}
            done["decoded"] += source.decoded - before
            gather(None)  # all have written what is read now
            results |= {row.key: result_of(row, store.load(row)) for row in rows}
            if after_group:
                after_group(results)
    finally:
        store.close()
    return results, done


def _left(plan: Plan, row: Row, store: Store) -> list[int]:
    """The positions of the pictures that a row lacks."""
    done = store.load(row)
    return [index for index in range(plan.images(row)) if index not in done]


def _segment(sample: dict[str, Any], row: Row, model: Any) -> Done:
    """Segments one picture with a row's model, or a variant that shares work."""
    clock = time.perf_counter()
    batch = {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"].new()]}
    (predicted,) = model.test_step(batch)
    row.metric.process({}, [predicted.to_dict()])
    areas = torch.stack([area.cpu() for area in row.metric.results.pop()])
    return Done(areas, time.perf_counter() - clock)


def _with_own_model(row: Row) -> Row:
    model = MODELS.build(copy.deepcopy(row.settings["model"])).eval().to(default_device())
    return replace(row, model=model)


def _name(plan: Plan, rows: Sequence[Row]) -> str:
    """The cells of a group, as far as a line goes."""
    keys = {row.key for row in rows}
    cells = [cell for cell in plan.cells if cell.key in keys]
    first = f"{cells[0].study} {cells[0].row} {cells[0].column}".strip()
    return first + (f" and {len(cells) - 1} more" if len(cells) > 1 else "")


@torch.no_grad()
def _evaluate_group(
    group: Sequence[Sequence[Row]],
    left: Mapping[str, Sequence[int]],
    pictures: Pictures,
    store: Store,
    title: str,
    trial: bool,
) -> dict[str, int]:
    """Runs all rows of a group over the pictures that they lack."""
    rows = [row for inner in group for row in inner]
    lacks = {row.key: frozenset(left[row.key]) for row in rows}
    wanted = sorted(frozenset().union(*lacks.values()))
    own = wanted[get_rank() :: get_world_size()][: 1 if trial else None]
    classes = len(pictures.dataset.metainfo["classes"])
    guard_dataset(pictures.dataset, LabelRules.of([rows[0].metric], classes))
    counts = dict.fromkeys(("blocks", "last_block", "segmented"), 0)
    trim = TrimMemoryHook()
    turn, models = shared(group)
    for index in tqdm(own, desc=title, disable=get_rank() > 0):
        sample = pictures[index]
        turn.next_image()
        counts["blocks"] += 1
        for inner in group:
            turn.next_features()
            asking = [row for row in inner if index in lacks[row.key]]
            counts["last_block"] += bool(asking)
            counts["segmented"] += len(asking)
            for row in asking:
                turn.next_row()
                store.add(row, index, _segment(sample, row, models[row.key]))
        trim.after_test_iter()
    return counts


# ---- figures ------------------------------------------------------------------------------------


def result_of(row: Row, done: Mapping[int, Done]) -> Result:
    """mmseg's own figures, and the IoU of every class, in percent, over the pictures done."""
    if not done:
        return {"mIoU": None, "per_class": {}, "seconds": 0.0, "images": 0}
    # In fp32 and picture by picture, like mmseg, so that its figures come out to the bit.
    ordered = [done[index].areas for index in sorted(done)]
    total = torch.zeros_like(ordered[0])
    for areas in ordered:
        total = total + areas
    sums = tuple(total)
    with _quiet():
        metrics = row.metric.compute_metrics([sums])
    shares = IoUMetric.total_area_to_metrics(*sums, ["mIoU"])["IoU"]
    classes = row.metric.dataset_meta["classes"]
    per_class = {
        name: None if math.isnan(share) else round(100 * float(share), 4)
        for name, share in zip(classes, shares, strict=True)
    }
    result = {key: round(float(value), 2) for key, value in metrics.items()}
    seconds = round(sum(one.seconds for one in done.values()), 1)
    about = {"per_class": per_class, "seconds": seconds, "images": len(done)}
    return result | about | _split(row, per_class)


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
