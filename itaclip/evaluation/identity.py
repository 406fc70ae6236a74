"""What an evaluation's result depends on, and how two evaluations differ in it."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..clip_model.load import tensors_sha256
from ..runtime.files import sha256_of
from .selection import Selection
from .settings import NOT_COUNTED, PLACE_KEYS, leaves, plain

_FREE_PARTS = ("vis_backends", "visualizer", *(set(PLACE_KEYS) - {"custom_hooks"}))
# Code that changes no figure: doors, what prepares data and texts, and what writes results down.
_NO_FIGURE = (
    *("aux_text/", "app/", "commands/", "labelling/", "predict/", "data/preparation/"),
    *("data/benchmarks.py", "data/check.py", "data/coverage.py", "data/mask_check.py"),
    "data/problems.py",
    *("evaluation/grid/", "evaluation/arguments.py", "evaluation/command.py"),
    "evaluation/distributed.py",
    "evaluation/elsewhere.py",
    *("evaluation/hooks.py", "evaluation/identity.py", "evaluation/inputs.py"),
    *("evaluation/published.py", "evaluation/record.py", "evaluation/runs.py"),
    *("evaluation/selection.py", "evaluation/settings.py", "evaluation/signals.py"),
    *("runtime/config.py", "runtime/download.py", "runtime/files.py", "runtime/hub.py"),
    *("runtime/mmseg_hook.py", "runtime/outputs.py", "runtime/palette.py"),
    *("runtime/pictures.py", "runtime/progress.py", "runtime/tool.py"),
    *("__init__.py", "__main__.py", "errors.py", "plugin.py"),
)
_CHECKSUMS = ("weights", "weights of guides", "class names", "auxiliary texts", "code", "data")
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
        inputs: checksums of weights, texts and data
            (:func:`itaclip.evaluation.inputs.known_inputs`).
        selection: the images.
        model: the built model: its device counts.
        more: further options that decide the result.
    """
    folder = str(settings.get("work_dir", ""))
    kept = {key: value for key, value in settings.items() if key not in _FREE_PARTS}
    kept["custom_hooks"] = _by_type(settings.get("custom_hooks") or ())
    found = {
        key: value.replace(folder, "<work dir>", 1) if isinstance(value, str) and folder else value
        for key, value in leaves(plain(kept))
        if key not in NOT_COUNTED
    }
    texts = inputs["texts"]
    device = next((tensor.device.type for tensor in _tensors(model)), "cpu")
    return plain(
        {
            "settings": found,
            "weights": (inputs["weights"] or {}).get("sha256"),
            "weights of guides": _guides_sha256(model),
            "class names": (texts["names"] or {}).get("sha256"),
            "auxiliary texts": (texts["auxiliary"] or {}).get("sha256"),
            "data": f"{inputs['data']['images_found']} images {inputs['data']['sha256']}",
            "images chosen": selection.option if selection.partial else "all",
            "precision": f"{inputs['precision']['used']} on {device}",
            "code": code_sha256(),
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


def _guides_sha256(model: Any) -> list[str]:
    """Checksums of the further backbones that a method reads."""
    encoder = getattr(model, "image_encoder", None)
    guides = [getattr(encoder, name, None) for name in ("guide", "sam")]
    return [tensors_sha256(guide.state_dict()) for guide in guides if guide is not None]


def _tensors(model: Any) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()


@cache
def code_sha256() -> str:
    """Checksum of those of this package's source files that can change a figure."""
    folder = Path(__file__).parents[1]
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.py"))}
    lines = [
        f"{name} {sha256_of(path)}"
        for name, path in paths.items()
        if not name.startswith(_NO_FIGURE)
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
            clauses.append(
                f"the {key} changed"
                if key in _CHECKSUMS
                else f"{key} was {old.get(key)}, now {new.get(key)}"
            )
    more = len(clauses) - _MAX_NAMED
    return "; ".join(clauses[:_MAX_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "not set"
