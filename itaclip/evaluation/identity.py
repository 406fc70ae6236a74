"""What an evaluation's result depends on, and how two evaluations differ in it."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .published import LOADING
from .records import PLACE_KEYS, file_sha256, plain
from .selection import Selection

# Settings that change no figure, or whose files are told apart by their content.
_FREE = LOADING | {
    "model.auxiliary_text_path",
    "model.clip_model",
    "model.name_path",
    "model.text_cache",
    "resume",
}
_FREE_PARTS = ("vis_backends", "visualizer", *(set(PLACE_KEYS) - {"custom_hooks"}))
_MAX_NAMED = 4  # differences named in one message


def identity(
    settings: Mapping[str, Any],
    inputs: Mapping[str, Any],
    selection: Selection,
    model: Any,
    **more: Any,
) -> dict[str, Any]:
    """All that decides an evaluation's result and the files it writes, as plain data.

    Args:
        settings: the resolved config.
        inputs: checksums of weights, texts and data, as
        :func:`itaclip.evaluation.records.known_inputs`
            gives them.
        selection: the images.
        model: the built model: its device counts.
        more: further options that decide the result.
    """
    folder = str(settings.get("work_dir", ""))
    kept = {key: value for key, value in settings.items() if key not in _FREE_PARTS}
    kept["custom_hooks"] = _by_type(settings.get("custom_hooks") or ())
    found = {
        key: value.replace(folder, "<work dir>", 1) if isinstance(value, str) and folder else value
        for key, value in _leaves(plain(kept), "")
        if key not in _FREE
    }
    texts = inputs["texts"]
    device = next((tensor.device.type for tensor in _tensors(model)), "cpu")
    return plain(
        {
            "settings": found,
            "weights": (inputs["weights"] or {}).get("sha256"),
            "class names": (texts["names"] or {}).get("sha256"),
            "auxiliary texts": (texts["auxiliary"] or {}).get("sha256"),
            "data": f"{inputs['data']['images_found']} images {inputs['data']['sha256']}",
            "images chosen": selection.option if selection.partial else "all",
            "precision": f"{inputs['precision']['used']} on {device}",
            "code of itaclip": code_sha256(),
            "torch": torch.__version__,
            **more,
        }
    )


def _by_type(hooks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Hooks under their types, since their order in a config matters less than their names."""
    named: dict[str, Any] = {}
    for hook in hooks:
        kind = str(hook["type"])
        while kind in named:
            kind += "'"
        named[kind] = hook
    return named


def _tensors(model: Any) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything; lists of plain values are values."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{key}.{index}")
    else:
        yield key, value


@cache
def code_sha256(apart: tuple[str, ...] = ()) -> str:
    """Checksum of this package's source files, but for those of some of its subpackages."""
    folder = Path(__file__).parents[1]
    lines = [
        f"{path.relative_to(folder).as_posix()} {file_sha256(path)}"
        for path in sorted(folder.rglob("*.py"))
        if not path.relative_to(folder).as_posix().startswith(apart)
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """A clause that names what differs between two identities; None if they are the same."""
    if old == new:
        return None
    before, after = old.get("settings") or {}, new.get("settings") or {}
    clauses = [
        f"{key} was {_shown(before, key)}, now {_shown(after, key)}"
        for key in sorted({*before, *after})
        if before.get(key, ...) != after.get(key, ...)
    ]
    for key in sorted({*old, *new} - {"settings"}):
        if old.get(key) != new.get(key):
            is_checksum = key in ("weights", "class names", "auxiliary texts", "code of itaclip")
            clauses.append(
                f"the {key} changed"
                if is_checksum or key == "data"
                else f"{key} was {old.get(key)}, now {new.get(key)}"
            )
    more = len(clauses) - _MAX_NAMED
    return "; ".join(clauses[:_MAX_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "not set"
