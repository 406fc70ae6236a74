"""Checkpoint files: tensors by name, and no code run, whatever the file holds.

A file is opened in two steps. The first reads its table, names, shapes and types, and takes no
more memory than the table; the second reads one tensor (:meth:`StoredTensor.read`). So what is not
the model that it should be is refused before anything large is allocated.

What a file is, is told by its content:

* state dicts that PyTorch saved (zip archives, or its older layout), read as data by
  :mod:`.pickles`;
* TorchScript archives, as OpenAI publishes CLIP: programs, of which only the attributes are read;
* ``.safetensors`` and ``.npz`` files.

Archives carry checksums of their parts, which PyTorch does not look at: they are compared here.
"""

import ast
import json
import math
import mmap
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..runtime.files import open_regular, stand_in_for_file
from .pickles import Call, PickleError, read_pickle

# Bounds far above every CLIP (bigG has 1,500 tensors and a table of 200 KB), far below an attack.
_MAX_TENSORS = 20_000
MAX_TABLE = 4 << 20
_MAX_DIRECTORY = 8 << 20
# What unpacks to more is a bomb: weights hardly compress.
_MAX_RATIO, _SLACK = 8, 1 << 20


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        shape, dtype: of the tensor.
        read: reads it, contiguous and on the CPU.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


Table = dict[str, StoredTensor]


class _Refused(Exception):
    """Why a file cannot be read."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint; see :func:`read_table`."""
    return read_tensors(read_table(path), path)


def read_tensors(table: Mapping[str, StoredTensor], source: str | Path) -> dict[str, Tensor]:
    """The tensors of a table.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return {key: stored.read() for key, stored in table.items()}
    except Exception as error:
        raise InputError(_unreadable(source, reason_of_refusal(error))) from error


def read_table(path: str | Path) -> Table:
    """The tensors of a checkpoint by name, without their values.

    Wrappings that training code writes are taken off: a dict under ``state_dict``, ``model`` or
    ``model_state_dict``, and a common prefix ``module.``, ``model.`` or ``_orig_mod.``.

    Raises:
        InputError: the file is damaged, holds more than tensors, is none of the accepted kinds, is
            no regular file, or claims more than it holds.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise _Refused("it is empty")
        table = _without_prefix(_table_of(path, size))
        if len(table) > _MAX_TENSORS:
            raise _Refused(f"it has {len(table)} tensors")
        claimed = sum(stored.nbytes for stored in table.values())
        if claimed > _MAX_RATIO * size + _SLACK:
            raise _Refused(f"its tensors claim {claimed} bytes in {size}")
        return table
    except InputError:
        raise
    except Exception as error:  # whatever a crafted file may raise
        raise InputError(_unreadable(path, reason_of_refusal(error))) from error


def _table_of(path: Path, size: int) -> Table:
    with open(path, "rb") as file:
        head = file.read(1024)
    if head.startswith(b"PK"):
        return _read_archive(path)
    if stand_in := stand_in_for_file(head):
        raise InputError(f"{path}: {stand_in}")
    if len(head) >= 10 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < size:
        return _read_safetensors(path, size)
    if head.startswith(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."):
        return _read_old_layout(path)
    raise _Refused("it is none of these")


def reason_of_refusal(error: Exception) -> str:
    if isinstance(error, PickleError):
        return f"it is damaged, or holds more than tensors: {error}; nothing in it was run"
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__


def _unreadable(path: str | Path, reason: str) -> str:
    return (
        f"{path}: cannot be read as a CLIP checkpoint ({reason}); expected a TorchScript archive, "
        "a state dict of tensors, a .safetensors or a .npz file; fetch or save it again."
    )


# ---- wrappings ----------------------------------------------------------------------------------

# What OpenAI's archives and pickled models carry beside the weights.
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "model.", "_orig_mod.")


def _unwrapped(loaded: object) -> Table:
    for _ in range(3):
        inner = next(
            (loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), dict)), None
        ) if isinstance(loaded, dict) else None  # fmt: skip
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, dict) or not all(
        isinstance(key, str) and isinstance(value, StoredTensor) for key, value in loaded.items()
    ):
        raise _Refused("it holds something else than a dict of tensors")
    return {key: value for key, value in loaded.items() if key not in _NOT_WEIGHTS}


def _without_prefix(table: Table) -> Table:
    for _ in range(3):
        prefix = next((p for p in _PREFIXES if all(key.startswith(p) for key in table)), None)
        if prefix is None or not table:
            break
        table = {key.removeprefix(prefix): value for key, value in table.items()}
    return table


# ---- safetensors --------------------------------------------------------------------------------

_SAFETENSORS_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def _read_safetensors(path: Path, size: int) -> Table:
    """The header (https://github.com/huggingface/safetensors): 8 bytes length, JSON, values."""
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        if length > MAX_TABLE:
            raise _Refused(f"its table of tensors has {length} bytes")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    start, room, table = 8 + length, size - 8 - length, {}
    if len(header) > _MAX_TENSORS:
        raise _Refused(f"it has {len(header)} tensors")
    ends = 0
    for key, entry in header.items():
        dtype = _SAFETENSORS_TYPES.get(entry["dtype"])
        if dtype is None:
            raise _Refused(f"{key[:100]!r} has the type {str(entry['dtype'])[:20]}")
        shape, (begin, end) = _shape(entry["shape"]), entry["data_offsets"]
        if not 0 <= begin <= end or end - begin != math.prod(shape) * dtype.itemsize:
            raise _Refused(f"{key[:100]!r} has a wrong place or length")
        ends = max(ends, end)
        table[key] = StoredTensor(
            shape, dtype, partial(_values_at, path, start + begin, shape, dtype)
        )
    if ends != room:
        raise _Refused(f"it should hold {ends} bytes of values, but has {room}")
    return table


def _shape(sizes: Any) -> tuple[int, ...]:
    sizes = tuple(sizes)
    if len(sizes) > 8 or not all(type(n) is int and 0 <= n < 1 << 40 for n in sizes):
        raise _Refused("a tensor's shape is no shape")
    return sizes


def _values_at(path: Path, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    count = math.prod(shape) * dtype.itemsize
    with open(path, "rb") as file:
        file.seek(offset)
        content = bytearray(count)
        if file.readinto(content) != count:
            raise _Refused("its end is missing")
    return _from_bytes(content, dtype).view(shape)


def _from_bytes(content: bytearray, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


# ---- zip archives: state dicts, TorchScript and npz ---------------------------------------------


def _read_archive(path: Path) -> Table:
    _check_directory(path)
    archive = zipfile.ZipFile(path)  # stays open for the values
    entries = archive.infolist()
    if sum(e.file_size for e in entries) > _MAX_RATIO * path.stat().st_size + _SLACK:
        raise _Refused(f"it unpacks to more than {_MAX_RATIO} times its size")
    names = [entry.filename for entry in entries]
    if names and all(name.endswith(".npy") for name in names):
        return {name.removesuffix(".npy"): _stored_array(archive, name) for name in names}
    pickled = [name for name in names if name.endswith("/data.pkl")]
    if len(pickled) != 1:
        raise _Refused("it is an archive of another kind")
    root = pickled[0].rpartition("/")[0]
    if f"{root}/byteorder" in names:
        order = archive.read(f"{root}/byteorder")
        if order != b"little" or struct.pack("=H", 1) != b"\1\0":
            raise _Refused("its numbers have the other byte order")
    if archive.getinfo(pickled[0]).file_size > MAX_TABLE:
        raise _Refused("its table of tensors is too long")
    storages: dict[str, _Storage] = {}

    def persistent(pid: Any) -> _Storage:
        dtype, key, count = _storage_id(pid)
        if key not in storages:
            size = archive.getinfo(f"{root}/data/{key}").file_size
            if size != count * dtype.itemsize:
                raise PickleError(f"the storage {key[:100]} holds {size} bytes")
            read = partial(_part_of, archive, f"{root}/data/{key}")
            storages[key] = _Storage(dtype, count, read)
        return storages[key]

    loaded = read_pickle(archive.read(pickled[0]), _rebuild, persistent)
    if f"{root}/constants.pkl" in names:
        loaded = dict(_attributes(loaded))
    return _unwrapped(loaded)


def _check_directory(path: Path) -> None:
    """Refuses an archive without an end, or whose directory alone would fill the memory."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 66_000))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + 22:
        raise _Refused("its end is missing")
    length = struct.unpack("<I", tail[at + 12 : at + 16])[0]
    wide = tail.rfind(b"PK\6\6", 0, at)  # zip64: the same in 64 bits
    if wide >= 0 and len(tail) >= wide + 48:
        length = struct.unpack("<Q", tail[wide + 40 : wide + 48])[0]
    if length > _MAX_DIRECTORY:
        raise _Refused(f"its directory has {length} bytes")


def _part_of(archive: zipfile.ZipFile, name: str) -> bytearray:
    return bytearray(archive.read(name))  # compares the checksum


def _stored_array(archive: zipfile.ZipFile, name: str) -> StoredTensor:
    """An array of an ``.npz`` file; the format is NumPy's, its header a literal dict."""
    with archive.open(name) as file:
        magic = file.read(8)
        if not magic.startswith(b"\x93NUMPY"):
            raise _Refused(f"{name[:100]} in it is no array")
        wide = magic[6] > 1
        length = int.from_bytes(file.read(4 if wide else 2), "little")
        if length > 10_000:
            raise _Refused(f"the header of {name[:100]} is too long")
        header = ast.literal_eval(file.read(length).decode("latin1"))
    offset = (12 if wide else 10) + length
    shape, kind = _shape(header["shape"]), np.dtype(str(header["descr"]))
    if kind.hasobject or (not kind.isnative and kind.itemsize > 1):
        raise _Refused(f"{name[:100]} in it has the type {kind}")
    dtype = torch.from_numpy(np.empty(0, kind)).dtype
    if archive.getinfo(name).file_size != offset + math.prod(shape) * dtype.itemsize:
        raise _Refused(f"{name[:100]} in it has a wrong length")

    def read() -> Tensor:
        values = _from_bytes(_part_of(archive, name)[offset:], dtype)
        if header["fortran_order"]:
            return values.view(shape[::-1]).permute(*range(len(shape))[::-1]).contiguous()
        return values.view(shape)

    return StoredTensor(shape, dtype, read)


# ---- tensors in pickles -------------------------------------------------------------------------

_STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}


@dataclass
class _Storage:
    """A run of values that tensors are made of; one that several share is read once."""

    dtype: torch.dtype
    count: int
    bytes_of: Callable[[], bytearray]
    users: int = 0
    kept: Tensor | None = None

    def values(self) -> Tensor:
        if self.kept is not None:
            return self.kept
        values = _from_bytes(self.bytes_of(), self.dtype)
        if self.users > 1:
            self.kept = values
        return values


def _storage_id(pid: Any) -> tuple[torch.dtype, str, int]:
    kind, storage, key, _, count = pid[:5]
    dtype = _STORAGES.get(storage.name) if isinstance(storage, Call) else None
    if kind != "storage" or dtype is None or not isinstance(key, str) or type(count) is not int:
        raise PickleError(f"an unknown storage {storage!r}"[:100])
    return dtype, key, count


def _rebuild(name: str, arguments: tuple) -> Any:
    if name == "torch._utils._rebuild_tensor_v2":
        return _stored(*arguments[:4])
    if name == "torch._utils._rebuild_parameter":
        return arguments[0]
    return Call(name, arguments)


def _stored(storage: Any, offset: Any, size: Any, stride: Any) -> StoredTensor:
    if not isinstance(storage, _Storage) or type(offset) is not int or offset < 0:
        raise PickleError("a tensor without values")
    shape, stride = _shape(size), _shape(stride)
    if len(shape) != len(stride):
        raise PickleError("a tensor without a layout")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if math.prod(shape) and (math.prod(shape) > storage.count or last >= storage.count):
        raise PickleError(f"a tensor of {shape} in {storage.count} values")

    def read() -> Tensor:
        whole = storage.values()
        part = whole.as_strided(shape, stride, offset)
        if storage.users == 1 and part.is_contiguous() and part.numel() == whole.numel():
            return part
        return part.clone(memory_format=torch.contiguous_format)

    storage.users += 1
    return StoredTensor(shape, storage.dtype, read)


def _attributes(module: Any) -> Iterator[tuple[str, StoredTensor]]:
    """Parameters and buffers of a TorchScript module, as ``torch.jit.load(…).state_dict()``."""
    waiting, found = [("", module)], 0
    while waiting:
        prefix, module = waiting.pop()
        state = module.state if isinstance(module, Call) else None
        if not isinstance(module, Call) or not module.name.startswith("__torch__."):
            raise PickleError("something else than a module")
        for name, value in (state if isinstance(state, dict) else {}).items():
            if isinstance(value, StoredTensor):
                if name != "attn_mask":  # a constant of CLIP's text tower
                    yield f"{prefix}{name}", value
            elif isinstance(value, Call) and value.name.startswith("__torch__."):
                waiting.append((f"{prefix}{name}.", value))
            found += 1
            if found > 5 * _MAX_TENSORS:
                raise PickleError("modules without end")


# ---- PyTorch's older layout ---------------------------------------------------------------------


def _read_old_layout(path: Path) -> Table:
    """Pickles one after another (magic number, version, machine, table, keys), then the values."""
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        storages: dict[str, _Storage] = {}
        places: dict[str, int] = {}

        def values(key: str) -> bytearray:
            count = storages[key].count * storages[key].dtype.itemsize
            with open(path, "rb") as own:
                own.seek(places[key])
                found = bytearray(own.read(count))
            if len(found) != count:
                raise _Refused("its end is missing")
            return found

        def persistent(pid: Any) -> _Storage:
            dtype, key, count = _storage_id(pid)
            if len(pid) > 5 and pid[5] is not None:
                raise PickleError("a storage that is part of another")
            if key not in storages:
                storages[key] = _Storage(dtype, count, partial(values, key))
            return storages[key]

        for _ in range(2):
            read_pickle(content)
        machine = read_pickle(content)
        if not machine.get("little_endian", True):
            raise _Refused("its numbers have the other byte order")
        loaded = read_pickle(content, _rebuild, persistent)
        keys, at = read_pickle(content), content.tell()
        for key in keys:
            count = int.from_bytes(content[at : at + 8], "little")
            storage = storages.get(key)
            if storage is None or storage.count != count:
                raise _Refused("its table and its values differ")
            places[key] = at + 8
            at += 8 + count * storage.dtype.itemsize
        if at != len(content) or len(places) != len(storages):
            raise _Refused("its end is missing")
    return _unwrapped(loaded)
