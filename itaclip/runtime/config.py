"""What mistakes in a config are turned into: one sentence that names the config and the place."""

import difflib
import inspect
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checks import is_integer
from ..errors import InputError
from .files import one_line
from .tool import ProcessLostError, explanation


def raised_at(error: BaseException) -> str:
    """``Type at file.py:line: message`` of an error that only a developer can read."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}: {one_line(error)}"


@contextmanager
def building(path: Path) -> Iterator[None]:
    """Whatever building what a config names raises is said of the config: it is a program.

    Raises:
        InputError: in the place of every error but those that are a sentence already.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ProcessLostError) or explanation(error):
            raise
        raise InputError(f"{path}: {_explanation(error)}") from error


def _explanation(error: Exception) -> str:
    text = str(error.args[0]) if error.args else ""
    unknown_key = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword .*?'(\w+)'", text)
    if isinstance(error, TypeError) and unknown_key:
        return f"{unknown_key[1]} takes no key {unknown_key[2]!r}; correct or remove it."
    unknown_type = re.match(r"(\S+) is not in the (.+?) registry", text)
    if isinstance(error, KeyError) and unknown_type:
        return (
            f"type {unknown_type[1]!r} is not known (registry {unknown_type[2]}); correct it, or "
            "name the module that registers it in custom_imports."
        )
    return f"the config cannot be used ({raised_at(error)}); correct the value that this is about."


def check_parts(config: Mapping[str, Any], path: Path) -> None:
    """Refuses a config whose parts are of other kinds than a run can do anything with.

    Raises:
        InputError: naming the key.
    """

    def expect(value: Any, kind: type | tuple, key: str, words: str) -> None:
        if not isinstance(value, kind):
            raise InputError(f"{path}: {key}: expected {words}, but got {value!r}.")

    for key in ("model", "test_dataloader"):
        expect(config[key], Mapping, key, "a dict")
    expect(config["test_evaluator"], Mapping | list | tuple, "test_evaluator", "a dict or a list")
    evaluators = config["test_evaluator"]
    for evaluator in [evaluators] if isinstance(evaluators, Mapping) else evaluators:
        if not isinstance(evaluator, Mapping) or "type" not in evaluator:
            raise InputError(
                f"{path}: test_evaluator: expected a dict with a 'type', or a list of them, but "
                f"got {evaluator!r}."
            )
    loader = config["test_dataloader"]
    dataset = loader.get("dataset")
    if dataset is None:
        raise InputError(
            f"{path}: expected the key 'test_dataloader.dataset', but it is missing; see configs/ "
            "for examples."
        )
    expect(dataset, Mapping, "test_dataloader.dataset", "a dict")
    for key, low in (("batch_size", 1), ("num_workers", 0)):
        value = loader.get(key, low)
        if not is_integer(value, low):
            raise InputError(
                f"{path}: test_dataloader.{key}: expected an integer from {low}, but got {value!r}."
            )
    place = "test_dataloader.dataset"
    expect(dataset.get("data_root") or "", str, f"{place}.data_root", "a path")
    expect(dataset.get("ann_file") or "", str, f"{place}.ann_file", "a path")
    prefix = dataset.get("data_prefix") or {}
    expect(prefix, Mapping, f"{place}.data_prefix", "a dict of folders")
    for key, value in prefix.items():
        expect(value or "", str, f"{place}.data_prefix.{key}", "a folder")
    for key in ("img_suffix", "seg_map_suffix"):
        expect(dataset.get(key, ""), str | tuple | list, f"{place}.{key}", "a file's ending")
    for key in ("env_cfg", "test_cfg"):
        expect(config.get(key) or {}, Mapping, key, "a dict")
    expect(loader.get("sampler") or {}, Mapping, "test_dataloader.sampler", "a dict")
    hooks = config.get("custom_hooks") or []
    expect(hooks, list | tuple, "custom_hooks", "a list of dicts")
    for index, hook in enumerate(hooks):
        if not isinstance(hook, Mapping) or "type" not in hook:
            raise InputError(
                f"{path}: custom_hooks.{index}: expected a dict with a 'type', but got {hook!r}."
            )


def check_folder(folder: str | Path, option: str) -> None:
    """Makes a folder for results.

    Raises:
        InputError: it cannot be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        shown = str(folder) if len(str(folder)) <= 200 else str(folder)[:199] + "…"
        raise InputError(
            f"{option}: the folder {shown!r} cannot be made ({reason}); give another one."
        ) from error


def check_model_keys(model: Mapping[str, Any], path: Path) -> None:
    """Names a misspelt key of the model before anything is loaded."""
    from mmseg.registry import MODELS  # a single picture does without mmseg

    kind = MODELS.get(model["type"]) if isinstance(model.get("type"), str) else None
    if kind is None:
        raise InputError(
            f"{path}: model.type: expected a registered segmentor, such as 'ITACLIPSegmentor', but "
            f"got {model.get('type')!r}."
        )
    parameters = inspect.signature(kind).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for key in model:
        if key != "type" and key not in parameters:
            similar = difflib.get_close_matches(key, parameters, n=1)
            hint = f"; did you mean {similar[0]!r}?" if similar else "; remove it."
            raise InputError(f"{path}: model.{key}: {model['type']} has no such key{hint}")
