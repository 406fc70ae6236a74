"""A folder's files: weights in one file or in shards, and descriptions in JSON."""

import io
import json
from pathlib import Path
from typing import Any

from ..errors import InputError
from .checkpoints import MAX_TABLE, Table, read_table, reason_of_refusal


def read_folder(folder: Path, stems: tuple[str, ...] = ("model", "pytorch_model")) -> Table:
    """The tensors of a folder's weights, in one file or in shards.

    Looked for, in this order: ``STEM.safetensors``, its shards' ``STEM.safetensors.index.json``,
    ``STEM.bin``, its shards' ``STEM.bin.index.json``, ``STEM.pt``.

    Raises:
        InputError: no weights, a shard that is missing, or a damaged file.
    """
    for stem in stems:
        for suffix in (".safetensors", ".bin", ".pt"):
            single, index = folder / f"{stem}{suffix}", folder / f"{stem}{suffix}.index.json"
            if single.exists():
                return read_table(single)
            if index.is_file():
                return _read_shards(index)
    wanted = ", ".join(f"{stem}.safetensors or {stem}.bin" for stem in stems)
    raise InputError(f"{folder}: expected a folder with weights ({wanted}), but there are none.")


def _read_shards(index: Path) -> Table:
    content = read_json(index)
    places = content.get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in places.values()
    ):
        raise InputError(f"{index}: expected a 'weight_map' of tensors to files beside it.")
    shards = {name: read_table(index.parent / name) for name in sorted({*places.values()})}
    table = {}
    for key, name in places.items():
        if key not in shards[name]:
            raise InputError(f"{index}: {key!r} should be in {name}, but it is not.")
        table[key] = shards[name][key]
    return table


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        InputError: there is no such file, it is damaged, or it holds something else.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: expected a file, but there is none.")
        with open(path, "rb") as file:
            raw = file.read(MAX_TABLE + 1)
        if len(raw) > MAX_TABLE:
            raise InputError(f"{path}: expected a short description, but it has over 4 MB.")
        content = json.load(io.BytesIO(raw))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: cannot be read as JSON ({reason_of_refusal(error)}); fetch it again."
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, but it holds something else.")
    return content
