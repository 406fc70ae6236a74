"""Configs as plain data: flat keys, and which of them change no figure."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

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
NOT_COUNTED = frozenset(
    {
        "model.auxiliary_text_path",
        "model.clip_model",
        "model.name_path",
        "model.text_cache",
        "model.window_batch",
        "resume",
        "test_dataloader.batch_size",
        "test_dataloader.dataset.data_root",
        "test_dataloader.num_workers",
        "test_dataloader.persistent_workers",
        "test_dataloader.pin_memory",
        "test_dataloader.prefetch_factor",
        "test_evaluator.collect_device",
    }
)
"""Keys that say how data is loaded or memory used; or name files, whose content counts."""


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


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything; lists of plain values are values, as tuples."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from leaves(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple) and any(isinstance(inner, Mapping) for inner in value):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{key}.{index}")
    else:
        yield key, tuple(value) if isinstance(value, list) else value


def settings_sha256(config: Mapping[str, Any]) -> str:
    """Checksum of a resolved config without work dir, launcher, logs and hooks."""
    settings = {key: value for key, value in config.items() if key not in PLACE_KEYS}
    text = json.dumps(plain(settings), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
