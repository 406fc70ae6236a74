"""A guide's name, repository or folder → verified weights → :class:`Guide`."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ..clip_model.sources import is_hub_name, model_folder
from ..errors import InputError
from .backbone import Guide
from .names import GUIDES

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Kind of model in config.json → class of transformers, its arguments, rule of its positions.
_KINDS = {
    "vit": ("ViTModel", {"add_pooling_layer": False}, "offset"),
    "dinov2": ("Dinov2Model", {}, "offset"),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", {}, "antialias"),
    "dinov3_vit": ("DINOv3ViTModel", {}, "offset"),
    "sam": ("SamVisionModel", {}, "offset"),
    "sam_vision_model": ("SamVisionModel", {}, "offset"),
}
# Weights that a checkpoint may have or lack without a difference to patch features.
_IDLE = ("pooler", "mask_token", "prompt_encoder", "mask_decoder", "shared_image_embedding")
_KEYS = ("model", "sam", "positions", "mean", "std")
_POSITIONS = ("offset", "size", "antialias")


def parse_guide(guide: str | Path | Mapping | None, key: str = "guide") -> dict | None:
    """Validates the ``guide`` key: None, a name, repository or folder, or ``dict(model=…, …)``.

    Args:
        guide: ``dict`` keys: ``model``; ``sam``, a SAM encoder beside it, for methods that read
            two; ``positions``: ``'offset'`` (DINO's rule, as published figures need it), ``'size'``
            or ``'antialias'``; ``mean`` and ``std`` of RGB on the scale 0 to 1.

    Raises:
        InputError: unknown keys or values of the wrong kind.
    """
    if guide is None:
        return None
    if isinstance(guide, str | Path):
        guide = {"model": guide}
    if not isinstance(guide, Mapping) or not isinstance(guide.get("model"), str | Path):
        raise InputError(
            f"{key}: expected None, a name ({', '.join(GUIDES)}), 'hf:OWNER/NAME', a folder in "
            f"Hugging Face layout, or dict(model=…, …), but got {guide!r}."
        )
    unknown = sorted(set(guide) - set(_KEYS))
    if unknown:
        raise InputError(f"{key}: unknown key {unknown[0]!r}; expected one of {', '.join(_KEYS)}.")
    if guide.get("positions", "offset") not in _POSITIONS:
        raise InputError(
            f"{key}.positions: expected one of {', '.join(map(repr, _POSITIONS))}, but got "
            f"{guide['positions']!r}."
        )
    if guide.get("sam") is not None and not isinstance(guide["sam"], str | Path):
        raise InputError(f"{key}.sam: expected a name or a folder, but got {guide['sam']!r}.")
    for name in ("mean", "std"):
        value = guide.get(name)
        if value is not None and not _is_colour(value):
            raise InputError(
                f"{key}.{name}: expected three numbers (RGB, scale 0 to 1), but got {value!r}."
            )
    return dict(guide)


def _is_colour(value: object) -> bool:
    right = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 3
    return right and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)


def load_guide(
    source: str | Path,
    clip_mean: Sequence[float],
    clip_std: Sequence[float],
    positions: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    key: str = "guide",
) -> Guide:
    """Loads a second backbone.

    Args:
        source: a name of :data:`GUIDES`, ``hf:OWNER/NAME`` (fetched once), or a folder with
            ``config.json`` and weights.
        clip_mean, clip_std: the normalisation of the windows that it will get (RGB, 0 to 1).
        positions: None takes the published rule of the model's kind.
        mean, std: the guide's own; None reads ``preprocessor_config.json``, and takes ImageNet's
            where there is none, as all kinds that are read here were trained with.
        key: the config's key, for messages.

    Raises:
        InputError: unknown name, no such folder, a kind of model that is not known, missing or
            unknown weights, or no ``transformers``.
    """
    folder = _folder(source, key)
    transformers = _transformers(key)
    config = _read_json(folder / "config.json", key)
    kind = config.get("model_type")
    if kind not in _KINDS:
        raise InputError(
            f"{key}: {folder / 'config.json'} describes a model of type {kind!r}; expected one of "
            f"{', '.join(_KINDS)}."
        )
    name, arguments, rule = _KINDS[kind]
    model = _read_model(getattr(transformers, name), folder, arguments, key)
    found = folder / "preprocessor_config.json"
    own = _read_json(found, key) if found.is_file() else {}
    normalisation = [
        given if given is not None else own.get(f"image_{which}", default)
        for which, given, default in zip(("mean", "std"), (mean, std), _IMAGENET, strict=True)
    ]
    for which, value in zip(("mean", "std"), normalisation, strict=True):
        if not _is_colour(value):
            raise InputError(
                f"{key}: {found}: image_{which}: expected three numbers, not {value!r}."
            )
    return Guide(model, *normalisation, clip_mean, clip_std, positions or rule, str(source))


def _folder(source: str | Path, key: str) -> Path:
    name = str(source)
    name = GUIDES[name].source if name in GUIDES else name
    try:
        folder = model_folder(name, key)
    except InputError:
        if is_hub_name(name) or os.sep in name:
            raise
        raise InputError(
            f"{key}: {name!r} is no known name ({', '.join(GUIDES)}), and there is no folder of "
            "that name; give one of them, or 'hf:OWNER/NAME'."
        ) from None
    if not os.path.isfile(folder / "config.json"):
        raise InputError(
            f"{key}: {folder} has no config.json; expected a folder in Hugging Face layout "
            "(config.json and weights)."
        )
    return folder


def _transformers(key: str) -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f"{key}: a second backbone needs transformers ({error}); run "
            "`pip install 'itaclip[guide]'`."
        ) from error
    return transformers


def _read_json(path: Path, key: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{key}: {path} cannot be read ({error}); fetch the folder again."
        ) from error
    if not isinstance(found, dict):
        raise InputError(f"{key}: {path}: expected an object, but got {type(found).__name__}.")
    return found


def _read_model(model_class: type, folder: Path, arguments: dict, key: str) -> torch.nn.Module:
    """The model with every weight that matters read from the folder."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.device("cpu"), torch.autocast("cpu", enabled=False):
            model, report = model_class.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True,
                **arguments,
            )  # fmt: skip
    except Exception as error:  # whatever a damaged folder makes the library raise
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{key}: the weights in {folder} cannot be read ({reason}); fetch the folder again."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    for fault in ("missing_keys", "unexpected_keys"):
        names = sorted(n for n in report[fault] if not any(idle in n for idle in _IDLE))
        if names:
            verb = "lack" if fault == "missing_keys" else "have an unknown key"
            raise InputError(
                f"{key}: the weights in {folder} {verb} {names[0]!r} ({len(names)} such keys); "
                f"expected those of {model_class.__name__}."
            )
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise InputError(
                f"{key}: {name!r} in {folder} holds values that are not finite; fetch it again."
            )
    return model
