"""Checkpoint files: tensors by name, and no code run, whatever the file holds.

* State dicts (``.pt``) go through PyTorch's own ``weights_only`` reader.
* TorchScript archives, as OpenAI publishes CLIP, are programs: ``torch.jit.load`` would accept any.
  Here only their table of attributes and their tensors are read (:class:`_AttributeReader`).
* ``.safetensors`` and ``.npz`` are data by design.

Archives carry checksums of their parts, which PyTorch does not look at: they are compared here.
"""

import math
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import InputError

# What OpenAI's archives and pickled models carry beside the weights.
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
_MAX_RATIO = 100  # an archive that unpacks to more is a bomb; weights never compress like that
_MAX_ATTRIBUTES = 100_000


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Reads a checkpoint by its content, whatever its suffix; see ``load_clip``.

    Raises:
        InputError: the file is damaged, holds more than tensors, or is none of the accepted kinds.
    """
    try:
        if path.stat().st_size == 0:
            raise InputError(_unreadable(path, "it is empty"))
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if zipfile.is_zipfile(path):
            return _read_archive(path)
        with open(path, "rb") as file:
            if file.read(2) == b"PK":
                raise InputError(_unreadable(path, "its end is missing"))
        return _unwrapped(_loaded(path), path)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        reason = "it is damaged, or holds more than tensors; nothing in it was run"
        raise InputError(_unreadable(path, reason)) from error
    except (OSError, SafetensorError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise InputError(_unreadable(path, reason)) from e
    except Exception as error:  # whatever else a crafted file may raise
        raise InputError(_unreadable(path, type(error).__name__)) from error


def _read_archive(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if sum(e.file_size for e in entries) > _MAX_RATIO * path.stat().st_size:
            raise InputError(_unreadable(path, f"it unpacks to more than {_MAX_RATIO} times"))
        damaged = archive.testzip()
        if damaged is not None:
            raise InputError(_unreadable(path, f"the checksum of {damaged} in it differs"))
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            return _weights(_read_torchscript(archive))
    if all(name.endswith(".npy") for name in names):
        with np.load(path, allow_pickle=False) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    return _unwrapped(_loaded(path), path)


def _loaded(path: Path) -> object:
    with warnings.catch_warnings():  # of odd pickle versions: what is read is checked anyway
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _unreadable(path: Path, reason: str) -> str:
    return (
        f"{path}: cannot be read as a CLIP checkpoint ({reason}); expected a TorchScript archive, "
        "a state dict of tensors, a .safetensors or a .npz file; fetch or save it again."
    )


def _unwrapped(loaded: object, path: Path) -> dict[str, Tensor]:
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in loaded.items()
    ):
        raise InputError(_unreadable(path, "it holds something else than a dict of tensors"))
    return _weights(loaded)


def _weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key not in _NOT_WEIGHTS}


# ---- TorchScript --------------------------------------------------------------------------------

_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _AttributeReader(pickle.Unpickler):
    """Unpickles a TorchScript module's attributes; modules become plain objects without methods.

    Only the names below can be reached, and none of them runs anything that the file brings along.
    """

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}/data.pkl"))
        self._archive, self._root = archive, root
        self._storages: dict[str, Tensor] = {}
        self._module = type("Module", (), {})  # of its own: a file may try to change it

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "__torch__":
            return self._module
        if module == "torch" and name in _STORAGES:
            return name
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *parts: _tensor(*parts)
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle":  # of attributes that are lists: none holds weights
            return lambda *values: values
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a module's attributes")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, storage, key, _, count = pid
        if kind != "storage" or storage not in _STORAGES:
            raise pickle.UnpicklingError(f"unknown storage {pid!r}")
        if key not in self._storages:
            content = bytearray(self._archive.read(f"{self._root}/data/{key}"))
            dtype = _STORAGES[storage]
            if len(content) != count * dtype.itemsize:
                raise pickle.UnpicklingError(f"the storage {key} holds {len(content)} bytes")
            values = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0)
            self._storages[key] = values.to(dtype)
        return self._storages[key]


def _tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: object) -> Tensor:
    if math.prod(size) > len(storage):  # repeated values would be a bomb
        raise pickle.UnpicklingError(f"a tensor of {size} in {len(storage)} values")
    return storage.as_strided(size, stride, offset).clone()


def _read_torchscript(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """Parameters and buffers of an archive's module, as ``torch.jit.load(…).state_dict()``."""
    root = next(n for n in archive.namelist() if n.endswith("/constants.pkl")).rpartition("/")[0]
    if f"{root}/byteorder" in archive.namelist():
        order = archive.read(f"{root}/byteorder")
        if order != b"little" or struct.pack("=H", 1) != b"\1\0":
            raise InputError(f"{archive.filename}: its numbers have the other byte order.")
    state: dict[str, Tensor] = {}
    waiting = [("", _AttributeReader(archive, root).load())]
    for _ in range(_MAX_ATTRIBUTES):
        if not waiting:
            return state
        prefix, module = waiting.pop()
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                if name != "attn_mask":  # a constant of CLIP's text tower
                    state[prefix + name] = value
            elif type(value) is type(module):
                waiting.append((f"{prefix}{name}.", value))
    raise pickle.UnpicklingError("modules without end")
