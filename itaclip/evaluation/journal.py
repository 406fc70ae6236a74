"""Finished images on disk, so that an evaluation can be stopped anywhere and continued.

A process appends one JSON line for each image to a file of its own; a line is on the disk before
the next image begins. Each ends in a checksum of itself and its run's identity, so that a torn or
damaged line is noticed, and one of another run:

    {"index": 3, "path": "images/0003.png", "seconds": 0.41, "elapsed": 1.93, "files": "<sha256>",
     "outputs": ["<sha256>", …], "miou": 43.2,
     "results": [[{"classes": 21, "areas": {"0": [i, u, p, l], …}}]], "crc32": "…"}

    index    position in the data set, from 0
    seconds  this image took; elapsed: since this start's first image began
    files    checksum of the image's and the mask's content
    outputs  checksums of the files that were written for it (label map, overlay)
    miou     of this image alone, in percent, over the classes that occur in it
    results  what each metric keeps of this image. For mmseg's IoUMetric, numbers of pixels of the
             classes that occur: intersection, union, prediction, label
    skipped  instead of miou and results: why the image was left out
"""

import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..runtime.files import digest_of, one_line, read_bytes, read_text, sync_folder

HEADER, FORMAT = "run.json", 2
_CHECK = ', "crc32": "'
_MAX_BYTES = 4 << 30  # of one process's lines
_MAX_NUMBERS = 1 << 16  # numbers of one tensor; more are pictures, not figures


@dataclass
class Entry:
    """One finished image; the fields are those of a line.

    Attributes:
        results: for each metric the list of what it keeps of this image; None if skipped.
        start: name of the start that finished it.
    """

    index: int
    path: str
    seconds: float
    elapsed: float
    files: str | None = None
    outputs: list[str] = field(default_factory=list)
    results: list[list[Any]] | None = None
    skipped: str | None = None
    start: str = ""

    @property
    def areas(self) -> tuple[Tensor, ...] | None:
        """Intersection, union, prediction and label (C,) of the first metric that has them."""
        found = (kept for results in self.results or () for kept in results if _are_areas(kept))
        return next(found, None)


class NotKeptError(TypeError):
    """A metric's result is nothing that a line can hold."""


# ---- lines --------------------------------------------------------------------------------------


def to_line(entry: Entry, run: str = "") -> bytes:
    """The line of an entry.

    Args:
        entry: a finished image.
        run: what the run's result depends on, as a digest: the line counts in no other run.

    Raises:
        NotKeptError: a metric keeps something else than numbers, texts and small tensors.
    """
    fields: dict[str, Any] = {
        "index": entry.index,
        "path": entry.path,
        "seconds": round(entry.seconds, 4),
        "elapsed": round(entry.elapsed, 4),
        "files": entry.files,
        "outputs": entry.outputs,
    }
    if entry.skipped is not None:
        fields["skipped"] = entry.skipped
    else:
        areas = entry.areas
        fields["miou"] = None if areas is None else mean_iou(areas[0], areas[1])
        fields["results"] = [[encode(kept) for kept in results] for results in entry.results]
    text = json.dumps(fields, ensure_ascii=False, allow_nan=False)[:-1]
    return f'{text}{_CHECK}{_checksum(text, run)}"}}\n'.encode()


def from_line(line: bytes, run: str = "") -> Entry | None:
    """The entry of a line; None if the line is torn, damaged, or another run's."""
    try:
        text, mark, check = line.decode().rpartition(_CHECK)
        if not mark or check != f'{_checksum(text, run)}"}}\n':
            return None
        fields = json.loads(text + "}")
        results, skipped = fields.get("results"), fields.get("skipped")
        if (results is None) == (skipped is None):
            return None
        return Entry(
            index=int(fields["index"]),
            path=str(fields["path"]),
            seconds=float(fields["seconds"]),
            elapsed=float(fields["elapsed"]),
            files=fields["files"],
            outputs=[str(output) for output in fields["outputs"]],
            results=results and [[decode(kept) for kept in metric] for metric in results],
            skipped=skipped,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError):
        return None


def _checksum(text: str, run: str) -> str:
    return f"{zlib.crc32(f'{run}{text}'.encode()):08x}"


def mean_iou(intersection: Tensor, union: Tensor) -> float | None:
    """Mean IoU in percent over the classes with a union above 0; None if there is none."""
    known = union > 0
    if not known.any():
        return None
    return round(100 * float((intersection[known].double() / union[known].double()).mean()), 4)


# ---- values -------------------------------------------------------------------------------------


def encode(value: Any) -> Any:
    """A metric's result as JSON that :func:`decode` turns back without any difference.

    Raises:
        NotKeptError: what is neither number, text, small tensor or array, nor made of these.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if _are_areas(value):
        areas = torch.stack(value).T
        present = areas.any(dim=1).nonzero().flatten().tolist()
        return {
            "classes": len(areas),
            "areas": {str(c): [int(number) for number in areas[c].tolist()] for c in present},
        }
    if isinstance(value, list):
        return [encode(inner) for inner in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(inner) for inner in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: encode(inner) for key, inner in value.items()}}
    if isinstance(value, Tensor | np.ndarray | np.generic):
        tensor = isinstance(value, Tensor)
        array = value.detach().cpu() if tensor else np.asarray(value)
        dtype = str(array.dtype).removeprefix("torch.")
        numbers = array.numel() if tensor else array.size
        plain = dtype in ("bool", "float16", "float32", "float64") or "int" in dtype
        if plain and numbers <= _MAX_NUMBERS:
            flat = [encode(number) for number in array.reshape(-1).tolist()]
            kind = "tensor" if tensor else "array"
            return {kind: flat, "dtype": dtype, "shape": list(array.shape)}
    raise NotKeptError(f"{type(value).__name__} is no number, text or small tensor")


def decode(value: Any) -> Any:
    """The result that :func:`encode` was given; tensors are on the CPU."""
    if isinstance(value, list):
        return [decode(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float(value["float"])
    if "areas" in value:
        areas = torch.zeros(4, value["classes"])
        for index, numbers in value["areas"].items():
            areas[:, int(index)] = torch.tensor(numbers, dtype=torch.float64).float()
        return tuple(areas)
    if "tuple" in value:
        return tuple(decode(inner) for inner in value["tuple"])
    if "dict" in value:
        return {key: decode(inner) for key, inner in value["dict"].items()}
    numbers = decode(value.get("tensor", value.get("array")))
    if "tensor" in value:
        dtype = getattr(torch, value["dtype"])
        return torch.tensor(numbers, dtype=dtype).reshape(value["shape"])
    return np.array(numbers, dtype=value["dtype"]).reshape(value["shape"])[()]


def _are_areas(value: Any) -> bool:
    """Whether a result is IoUMetric's: four numbers of pixels, whole, for every class."""
    return (
        isinstance(value, tuple)
        and len(value) == 4
        and all(isinstance(v, Tensor) and v.dtype == torch.float32 and v.ndim == 1 for v in value)
        and len({len(v) for v in value}) == 1
        and all(bool((v == v.floor()).all()) and bool(v.isfinite().all()) for v in value)
    )


# ---- files --------------------------------------------------------------------------------------


class JournalFile:
    """The lines of one process; the file is made with the first one.

    Args:
        folder: of the run's journal.
        start: name of this start.
        rank: of this process.
        run: as of :func:`to_line`.
    """

    def __init__(self, folder: Path, start: str, rank: int, run: str = "") -> None:
        self.folder, self._name, self._run = folder, f"{start}-rank{rank}", run
        self._file: Any = None

    def add(self, entry: Entry) -> None:
        """Keeps an entry; it is on the disk when this returns.

        Raises:
            InputError: the file was removed.
        """
        line = to_line(entry, self._run)
        if self._file is None:
            self._file = self._create()
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())
        if not os.path.exists(self._file.name):
            raise InputError(
                f"{self._file.name}: was removed while the evaluation wrote there; its finished "
                "images are lost, start again."
            )

    def _create(self) -> Any:
        for number in range(1, 1000):  # two starts within one second
            suffix = f"-{number}" if number > 1 else ""
            try:
                file = open(self.folder / f"{self._name}{suffix}.jsonl", "xb")  # noqa: SIM115
            except FileExistsError:
                continue
            except FileNotFoundError:
                raise InputError(
                    f"{self.folder}: was removed while the evaluation ran; start again."
                ) from None
            sync_folder(self.folder)
            return file
        raise FileExistsError(f"{self.folder}: no free name for {self._name}")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def digest_of_identity(identity: Mapping[str, Any]) -> str:
    """What lines of a run carry, so that those of another one are told apart."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def read_header(folder: Path) -> dict[str, Any] | None:
    """``number`` and ``identity`` of a journal's run; None if its head is missing or damaged."""
    try:
        header = json.loads(read_text(folder / HEADER))
        sound = header["format"] == FORMAT and isinstance(header["identity"], dict)
        return header if sound and isinstance(header["number"], int) else None
    except (ValueError, KeyError, TypeError, RecursionError):  # an InputError is a ValueError
        return None


def read_journal(folder: Path) -> tuple[dict[int, Entry], list[str]]:
    """All finished images of a journal, by index, and a sentence for each damaged line.

    The last line of a file may be torn, since a process can end while it writes: it is dropped
    without a word. Of lines of one image the latest start's counts.
    """
    header = read_header(folder)
    run = digest_of_identity(header["identity"]) if header else ""
    entries: dict[int, Entry] = {}
    damaged: list[str] = []
    for path in sorted(folder.glob("*.jsonl")):
        start = path.stem.partition("-rank")[0]
        try:
            lines = read_bytes(path, _MAX_BYTES).splitlines(keepends=True)
        except InputError as error:
            damaged.append(f"{one_line(error)} Its images are evaluated again")
            continue
        for number, line in enumerate(lines, start=1):
            entry = from_line(line, run)
            if entry is not None:
                entry.start = start
                entries[entry.index] = entry
            elif number < len(lines) or line.endswith(b"\n"):
                damaged.append(
                    f"{path}:{number}: damaged line, or another run's; its image is evaluated again"
                )
    return entries, damaged


def seconds_of(entries: Iterable[Entry]) -> float:
    """Seconds that the starts behind some entries took, one after the other."""
    longest: dict[str, float] = {}
    for entry in entries:
        longest[entry.start] = max(longest.get(entry.start, 0.0), entry.elapsed)
    return sum(longest.values())


def checksum_of(paths: Sequence[str]) -> str | None:
    """One checksum of some files; None if one lies somewhere else than on a disk."""
    try:
        return hashlib.sha256("".join(digest_of(path) for path in paths).encode()).hexdigest()
    except OSError:
        return None
