"""Run records: what was evaluated, with what, where, and what came out, as one JSON file.

``record.json`` lies in the work dir (the last run) and in the run's own folder below it.
"""

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric

from ..clip_model import openai_twin, weights_identity
from ..data.coverage import unseen_classes
from ..errors import InputError
from ..runtime.files import PROJECT_ROOT, resolve_path
from .journal import seconds_of, write_through
from .published import (
    benchmark_of,
    compare,
    comparison_lines,
    expected_images,
    project_path,
    settings_changes,
    shipped_config,
)
from .record_format import CHECKSUM, check_record, checksum

FORMAT = 1
FILE_NAME = "record.json"
# Parts of a config that say where and how a run works, not what it computes.
PLACE_KEYS = (
    "custom_hooks",
    "default_hooks",
    "env_cfg",
    "launcher",
    "log_level",
    "log_processor",
    "work_dir",
)
_PACKAGES = (
    *("torch", "mmengine", "mmcv", "mmcv-lite", "mmsegmentation", "onedl-mmsegmentation"),
    *("openai-clip", "numpy"),
)


class RecordHook(Hook):
    """Completes a run's record, writes it at the end, and says how it compares with the paper.

    Args:
        inputs: what :func:`known_inputs` gave before the run.
        run: the run (:class:`itaclip.evaluation.runs.Run`).
    """

    def __init__(self, inputs: Mapping[str, Any], run: Any) -> None:
        self.inputs, self.run = inputs, run
        self.summary: list[str] = []
        self._areas: _Areas | None = None

    def before_test(self, runner: Runner) -> None:
        """Starts the clock and listens to the metric."""
        metrics = [m for m in runner.test_loop.evaluator.metrics if isinstance(m, IoUMetric)]
        self._areas = _Areas(metrics[0]) if metrics else None
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._clock = time.perf_counter()

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Writes the record."""
        if not is_main_process():
            return
        run = self.run
        entries = list(run.entries.values())
        earlier = seconds_of(entry for entry in entries if entry.start != run.start)
        seconds = earlier + time.perf_counter() - self._clock
        images = len(entries) - len(run.skipped)
        starts = Counter(entry.start for entry in entries)
        record = {
            **self.inputs,
            "partial": run.partial_reasons,
            "data": {
                **self.inputs["data"],
                "images_evaluated": images,
                "images_skipped": run.skipped,
            },
            "results": self._results(metrics or {}),
            "seconds": round(seconds, 3),
            "seconds_per_image": round(seconds / images, 4) if images else None,
            "starts": [{"start": start, "images": starts[start]} for start in sorted(starts)],
            "peak_memory": peak_memory(),
        }
        comparison = compare(record)
        record["comparison"] = comparison.as_dict()
        record = plain(record)
        record[CHECKSUM] = checksum(record)
        for folder in (run.folder, Path(runner.work_dir)):
            path = write_record(folder / FILE_NAME, record)
        unseen = [] if record["partial"] else self._unseen(runner, record["results"]["classes"])
        self.summary = [*comparison_lines(comparison, record), *unseen, f"record: {path}"]

    def _unseen(self, runner: Runner, classes: Sequence[Mapping[str, Any]]) -> list[str]:
        """Lines on classes that no mask holds."""
        dataset = runner.test_dataloader.dataset
        seen = {index for index, entry in enumerate(classes) if entry["pixels"]}
        where = str(getattr(dataset, "data_prefix", {}).get("seg_map_path"))
        reduced = bool(getattr(dataset, "reduce_zero_label", False))
        names = [entry["name"] for entry in classes]
        return [str(problem) for problem in unseen_classes(names, seen, where, reduced)]

    def _results(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        overall = {key.rpartition("/")[2]: round(float(value), 4) for key, value in metrics.items()}
        results = {"mIoU": None, "aAcc": None, "mAcc": None, **overall}
        classes = self._areas.per_class() if self._areas is not None else []
        valid = sum(entry["union"] > 0 for entry in classes)
        return {**results, "valid_classes": valid, "classes": classes}


def known_inputs(
    runner: Runner,
    settings: Mapping[str, Any],
    path: Path,
    command: str,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The part of a record that is known beforehand: hours later, files may be others.

    Args:
        runner: with its model and test data built.
        settings: the resolved config, as a plain dict.
        path: the file it came from.
        command: the command line.
        options: what ``--cfg-options`` changed.
    """
    model = getattr(runner.model, "module", runner.model)
    return {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "config": config_entry(settings, path, options),
        "paper": settings.get("paper"),
        "weights": weights_entry(settings["model"]),
        "texts": {
            "names": file_entry(settings["model"].get("name_path")),
            "auxiliary": file_entry(settings["model"].get("auxiliary_text_path")),
        },
        "data": data_manifest(runner.test_dataloader.dataset),
        "versions": versions(),
        "hardware": hardware(),
        "precision": precision_entry(settings["model"], model),
    }


class _Areas:
    """Reads the areas that mmseg's metric has gathered, whose means are all it gives back.

    The metric itself, its printed table and its figures stay as they are.
    """

    def __init__(self, metric: IoUMetric) -> None:
        self._metric, self._areas = metric, None
        compute = metric.compute_metrics

        def compute_metrics(results: list) -> dict:
            if results:
                self._areas = list(zip(*results, strict=True))
            return compute(results)

        metric.compute_metrics = compute_metrics

    def per_class(self) -> list[dict[str, Any]]:
        """IoU and accuracy in percent, and numbers of pixels, of every class."""
        if self._areas is None:  # the metric only wrote files
            return []
        # mmseg adds in fp32, which is exact up to 16 million pixels; pixels are counted in fp64.
        sums = [sum(areas) for areas in self._areas]
        shares = self._metric.total_area_to_metrics(*sums, ["mIoU"])
        intersection, union, _, label = (
            sum(area.double() for area in areas).long().tolist() for areas in self._areas
        )
        return [
            {
                "name": name,
                "iou": _percent(shares["IoU"][index]),
                "accuracy": _percent(shares["Acc"][index]),
                "intersection": intersection[index],
                "union": union[index],
                "pixels": label[index],
            }
            for index, name in enumerate(self._metric.dataset_meta["classes"])
        ]


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else round(100 * float(share), 4)


# ---- the parts of a record ----------------------------------------------------------------------


def config_entry(
    config: Mapping[str, Any], path: Path, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A resolved config, and how it differs from the shipped one that it stands for."""
    shipped = shipped_config(path, config.get("paper"))
    return {
        "path": project_path(path),
        "sha256": settings_sha256(config),
        "options": dict(options or {}),
        "shipped": shipped and project_path(shipped),
        "changes": settings_changes(config, Config.fromfile(shipped)) if shipped else [],
        "resolved": config,
    }


def settings_sha256(config: Mapping[str, Any]) -> str:
    """Checksum of a resolved config without work dir, launcher, logs and hooks."""
    settings = {key: value for key, value in config.items() if key not in PLACE_KEYS}
    text = json.dumps(plain(settings), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Checksum of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def file_entry(path: str | Path | None) -> dict[str, str] | None:
    """Path, as in the config, and checksum of a text file."""
    if path is None:
        return None
    return {"path": str(path), "sha256": file_sha256(resolve_path(path, "path"))}


def weights_entry(model: Mapping[str, Any]) -> dict[str, str] | None:
    """Name and checksum of the weights' file; OpenAI's were verified when they were loaded.

    None for a model from elsewhere, whose config names no ``clip_model``.
    """
    name = model.get("clip_model", "ViT-B/16" if model["type"] == "ITACLIPSegmentor" else None)
    if name is None:
        return None
    entry = weights_identity(name)
    # The same weights from another library's files count as OpenAI's.
    twin = openai_twin(name, model.get("clip_config"))
    return entry if twin is None else entry | {"same_as": twin}


def data_manifest(dataset: Any) -> dict[str, Any]:
    """Which files a data set consists of: number, names and sizes.

    The checksum covers the sorted names, relative to ``data_root``, and sizes of all images and
    masks; it reads no file's content.
    """
    name = type(dataset).__name__
    benchmark = benchmark_of(name)
    root = getattr(dataset, "data_root", None) or ""
    paths: set[str] = set()
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        paths.update(info[key] for key in ("img_path", "seg_map_path") if info.get(key))
    lines = sorted(f"{os.path.relpath(path, root or '.')} {_size(path)}" for path in paths)
    return {
        "dataset": name,
        "benchmark": benchmark,
        "root": str(root),
        "images_found": len(dataset),
        "images_evaluated": None,
        "images_expected": expected_images(benchmark),
        "files": len(paths),
        "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
    }


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def versions() -> dict[str, Any]:
    """Versions of Python, of the packages that matter, and of this project."""
    from .. import __version__

    found = {"python": platform.python_version(), "itaclip": __version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _git("rev-parse", "HEAD")
    if commit is not None:
        found["commit"] = commit
        found["changed_files"] = (_git("diff", "--name-only", "HEAD") or "").splitlines()
    return found


def _git(*arguments: str) -> str | None:
    """A line from git about this project; None outside a checkout."""
    if not (PROJECT_ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(PROJECT_ROOT), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def hardware() -> dict[str, Any]:
    """The machine: processor, memory, accelerators, processes."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = None
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory": memory,
        "gpus": gpus,
        "processes": get_world_size(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def precision_entry(settings: Mapping[str, Any], model: Any) -> dict[str, str | None]:
    """The precision asked for, and the one that the encoder's blocks really used."""
    encoder = getattr(model, "image_encoder", None)
    used = str(encoder.dtype).removeprefix("torch.") if encoder is not None else None
    return {"asked": settings.get("precision"), "used": used}


def peak_memory() -> dict[str, int | None]:
    """Most bytes held so far: by this process, and of the accelerator since the run began."""
    try:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        process = peak if sys.platform == "darwin" else peak * 1024
    except ImportError:  # Windows
        process = None
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {"process": process, "gpu": gpu}


# ---- files --------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """The value as JSON has it: string keys, lists, no NaN, and text for what is no data."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def write_record(path: Path, record: Mapping[str, Any]) -> Path:
    """Writes a record aside, then renames it."""
    text = json.dumps(plain(record), indent=1, ensure_ascii=False, allow_nan=False)
    return write_through(path, (text + "\n").encode())


def read_record(path: Path) -> dict[str, Any]:
    """Reads a record.

    Raises:
        InputError: no such file, no record, or one that is damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such record; give a record.json or its folder.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: the record cannot be read ({error}); run again.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{path}: expected a record of format {FORMAT}, as eval.py writes it.")
    check_record(record, path)
    return record
