"""The papers' tables: which configs they take, what these need, and a record of every run.

All methods of a benchmark are one grid: a picture is loaded once, and what methods have in common
is computed once (see :mod:`itaclip.evaluation.grid.shared`). Every figure is the one of the
method's own config, as ``eval.py`` would measure it.
"""

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_world_size

from ...clip_model import OPENAI_MODELS, cache_folder
from ...data.benchmarks import BENCHMARKS, by_label
from ...errors import InputError
from ...runtime.files import PROJECT_ROOT, one_line
from ..arguments import parse_arguments
from ..command import check_data, load_config
from ..inputs import (
    FORMAT,
    config_entry,
    data_manifest,
    file_entry,
    hardware,
    precision_entry,
    versions,
    weights_entry,
)
from ..published import compare_with_paper
from ..record import Record
from ..settings import plain
from .evaluate import Result, evaluate_plan
from .plan import Entry, Plan, Row, plan_of_configs
from .store import Store


@dataclass
class Choice:
    """What was asked for, and what of it can run.

    Attributes:
        entries: configs that can run.
        missing: benchmark or weights → what is missing, in a sentence.
        left_out: methods whose configs lie there, but that were not asked for, and why.
        skipped: benchmarks that were left out since they lack something.
    """

    entries: list[Entry] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def without_missing(self) -> "Choice":
        """The choice without benchmarks that lack their data; missing weights stay missing."""
        skipped = {name: why for name, why in self.missing.items() if name in BENCHMARKS}
        kept = [entry for entry in self.entries if entry.benchmark not in skipped]
        if not kept:
            raise InputError(f"--skip-missing: nothing is left: {'; '.join(skipped.values())}")
        missing = {name: why for name, why in self.missing.items() if name not in skipped}
        return Choice(kept, missing, self.left_out, skipped)


def shipped_configs() -> dict[tuple[str, str], Path]:
    """(method, benchmark) → config; methods are named by their folder, ``itaclip`` has none."""
    folder = PROJECT_ROOT / "configs"
    found = {}
    for benchmark in BENCHMARKS:
        for path in sorted(folder.rglob(f"cfg_{benchmark}.py")):
            inside = path.relative_to(folder).parent.as_posix()
            found["itaclip" if inside == "." else inside, benchmark] = path
    return found


def choose(
    benchmarks: Sequence[str],
    methods: Sequence[str],
    guides: bool = False,
    data_root: Path | None = None,
    precisions: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Choice:
    """The configs of the methods asked for, on the benchmarks asked for.

    Args:
        benchmarks: names of :data:`BENCHMARKS`.
        methods: folders of ``configs/``, or ``('all',)``.
        guides: take methods that need a second backbone, too.
        data_root: where ``itaclip prepare`` put the data, instead of the configs' folders.
        precisions: evaluate each method in each of them; empty takes the configs' own.
        options: changes of every config, ``KEY=VALUE``, as for ``eval.py --cfg-options``.

    Raises:
        InputError: an unknown benchmark or method, or nothing that could run.
    """
    shipped = shipped_configs()
    known = sorted({method for method, _ in shipped})
    for kind, asked, names in (
        ("--benchmarks", benchmarks, list(BENCHMARKS)),
        ("--methods", methods, [*known, "all"]),
    ):
        for name in asked:
            if name not in names:
                raise InputError(f"{kind}: unknown {name!r}; expected some of {', '.join(names)}.")
    choice = Choice()
    for (method, benchmark), path in shipped.items():
        if benchmark not in benchmarks or (method not in methods and "all" not in methods):
            continue
        config = _load(path, data_root, options)
        if config.model.get("guide") is not None and not guides:
            choice.left_out[method] = "it needs a second backbone: ask for it with --guides"
            continue
        if benchmark not in choice.missing and (fault := _data_fault(config, path)):
            choice.missing[benchmark] = fault
        if (weights := _missing_weights(config)) is not None:
            choice.missing[weights] = f"{weights}: its weights are not on this machine"
        for precision in precisions or ("",):
            choice.entries.append(_entry(path, method, benchmark, precision, config))
    if not choice.entries:
        raise InputError(
            "reproduce: none of these methods has a config for these benchmarks; methods: "
            f"{', '.join(known)}."
        )
    return choice


def _load(path: Path, data_root: Path | None, options: Sequence[str]) -> Config:
    arguments = ["--config", str(path)]
    if options:
        arguments += ["--cfg-options", *options]
    config = load_config(parse_arguments(arguments))
    known = by_label((config.get("paper") or {}).get("benchmark"))
    if data_root is not None and known is not None:
        config.test_dataloader.dataset.data_root = str(data_root / known.folder)
    return config


def _entry(path: Path, method: str, benchmark: str, precision: str, config: Config) -> Entry:
    own = Config(config.to_dict())
    if precision:
        own.model.precision = precision
    return Entry(path, own, method, benchmark, precision)


def _data_fault(config: Config, path: Path) -> str | None:
    try:
        check_data(Config(config.to_dict()), path, quiet=True)
    except InputError as error:
        return one_line(error)
    return None


def _missing_weights(config: Config) -> str | None:
    name = config.model.get("clip_model", "ViT-B/16")
    if name in OPENAI_MODELS and not (cache_folder() / OPENAI_MODELS[name][1]).is_file():
        return name
    return None


# ---- what it will cost --------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Methods that share the encoder's blocks.

    Attributes:
        names: methods, with their benchmark.
        pictures: how many.
        passes: of the image encoder's blocks for the first picture; None for models from elsewhere.
        apart: the passes that these methods would make one by one.
    """

    names: tuple[str, ...]
    pictures: int
    passes: int | None
    apart: int | None


def groups(plan: Plan) -> list[Group]:
    """The plan's groups, in the order in which they run."""
    found = []
    for inner in plan.groups(plan.rows):
        rows = [row for own in inner for row in own]
        keys = {row.key for row in rows}
        cells = [cell for cell in plan.cells if cell.key in keys]
        names = tuple(f"{c.row}{f' ({c.column})' * bool(c.column)}" for c in cells)
        shown = (f"{cells[0].study}: {names[0]}", *names[1:])
        each = _passes(plan, rows[0])
        apart = None if each is None else each * len(rows)
        found.append(Group(shown, plan.images(rows[0]), each, apart))
    return found


def _passes(plan: Plan, row: Row) -> int | None:
    settings = getattr(row.model, "settings", None)
    if settings is None:
        return None
    size = tuple(plan.datasets[row.dataset_key][0]["inputs"].shape[-2:])
    return len(settings.windows.over(size)) * len(settings.views)


def plan_lines(found: Sequence[Group], seconds: Sequence[float] = ()) -> list[str]:
    """What will run, a line for each group, and in all.

    Args:
        found: :func:`groups`.
        seconds: what one picture of each took in the trial.
    """
    lines = []
    for number, group in enumerate(found):
        names = ", ".join(group.names)
        cost = "" if group.passes is None else f", {group.passes} encoder passes a picture"
        if group.passes and group.apart and group.apart > group.passes:
            cost += f" ({group.apart} one by one)"
        if number < len(seconds):
            cost += f", {_hours(seconds[number] * group.pictures)}"
        lines.append(f"  {number + 1}. {names}: {group.pictures} pictures{cost}")
    results = sum(len(group.names) * group.pictures for group in found)
    total = f"{results} results, about {max(1, results // 1500)} MB of disk"
    if seconds:
        spent = sum(s * group.pictures for s, group in zip(seconds, found, strict=True))
        total += f", about {_hours(spent)} on this machine"
    return [f"{len(found)} groups of methods that share their work:", *lines, total]


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def run_trial(plan: Plan, store: Store) -> list[float]:
    """Evaluates a picture that is left of every group in each process; the results are kept.

    Returns:
        Seconds for a picture of each group of :func:`groups` that has anything left, with all
        processes at work; 0 for the others.
    """
    order = [{row.key for own in inner for row in own} for inner in plan.groups(plan.rows)]
    seconds, clock, seen = [0.0] * len(order), time.perf_counter(), set()

    def after(results: Mapping[str, Result]) -> None:
        nonlocal clock, seen
        now = time.perf_counter()
        new = set(results) - seen
        for number, keys in enumerate(order):
            if keys & new:
                seconds[number] = (now - clock) / get_world_size()
        clock, seen = now, set(results)

    left = {key for key, row in plan.rows.items() if len(store.load(row)) >= plan.images(row)}
    seen = left
    evaluate_plan(plan, store, after_group=after, trial=True)
    return seconds


# ---- records ------------------------------------------------------------------------------------


def records(plan: Plan, entries: Sequence[Entry], results: Mapping[str, Result]) -> list[Record]:
    """A record of every entry, as ``eval.py`` leaves one, in the entries' order.

    Args:
        plan: of the entries.
        entries: as they were given to :func:`plan_of_configs`.
        results: what :func:`evaluate_plan` returned.
    """
    shared = {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "versions": versions(),
        "hardware": hardware(),
    }
    manifests = {key: data_manifest(dataset) for key, dataset in plan.datasets.items()}
    return [
        _record(plan, entry, plan.rows[cell.key], results[cell.key], manifests, shared)
        for cell, entry in zip(plan.cells, entries, strict=True)
    ]


def _record(
    plan: Plan,
    entry: Entry,
    row: Row,
    result: Result,
    manifests: Mapping[str, Mapping[str, Any]],
    shared: Mapping[str, Any],
) -> Record:
    settings = plain(entry.config.to_dict())
    size, done = len(plan.datasets[row.dataset_key]), result["images"]
    partial = [f"{done} of {size} images were evaluated"] if done < size else []
    options = {"model.precision": entry.variant} if entry.variant else {}
    record: dict[str, Any] = {
        **shared,
        "config": config_entry(settings, entry.path, options),
        "paper": settings.get("paper"),
        "weights": weights_entry(row.settings["model"]),
        "texts": {
            "names": file_entry(settings["model"].get("name_path")),
            "auxiliary": file_entry(settings["model"].get("auxiliary_text_path")),
        },
        "data": {**manifests[row.dataset_key], "images_evaluated": done, "images_skipped": []},
        "precision": precision_entry(settings["model"], row.model),
        "partial": partial,
        "results": {
            **{key: result.get(key) for key in ("mIoU", "aAcc", "mAcc")},
            "valid_classes": sum(iou is not None for iou in result["per_class"].values()),
            "classes": [{"name": k, "iou": v} for k, v in result["per_class"].items()],
        },
        "seconds": result["seconds"],
        "seconds_per_image": round(result["seconds"] / done, 4) if done else 0.0,
    }
    record["comparison"] = compare_with_paper(record).as_dict()
    return plain(record)


def make_plan_of(choice: Choice, limit: int | None) -> Plan:
    """The plan of a choice that lacks nothing.

    Raises:
        InputError: naming what is missing and how to get it.
    """
    if choice.missing:
        lines = "".join(f"\n  {name}: {fault}" for name, fault in choice.missing.items())
        raise InputError(
            f"reproduce: this is missing:{lines}\n  --fetch gets what may be fetched; `itaclip "
            "prepare NAME --raw FOLDER` takes what you have; --skip-missing leaves it out"
        )
    return plan_of_configs(choice.entries, limit)
