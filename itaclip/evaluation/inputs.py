"""What a run depends on, found out before it begins: hours later, files may be others."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.runner import Runner

from ..clip_model import openai_twin, weights_identity
from ..runtime.files import PROJECT_ROOT, resolve_path, sha256_of
from .published import (
    benchmark_of,
    content_sha256,
    expected_images,
    project_path,
    settings_changes,
    shipped_config,
)
from .settings import settings_sha256

FORMAT = 1
_PACKAGES = (
    *("torch", "mmengine", "mmcv", "mmcv-lite", "mmsegmentation", "onedl-mmsegmentation"),
    *("openai-clip", "numpy"),
)


def known_inputs(
    runner: Runner,
    settings: Mapping[str, Any],
    path: Path,
    command: str,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The part of a record that is known beforehand.

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


def file_entry(path: str | Path | None) -> dict[str, str] | None:
    """Path, as in the config, of a text file, and checksums of its bytes and of what it says."""
    if path is None:
        return None
    place = resolve_path(path, "path")
    return {"path": str(path), "sha256": sha256_of(place), "content": content_sha256(place)}


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
