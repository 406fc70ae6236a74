"""The record of a run, ``record.json``: what was evaluated, with what, where, what came out.

It lies in the work dir (the last run) and in the run's own folder below it. :class:`Record` is its
format, for who writes, reads and checks it.
"""

import hashlib
import json
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, Union, get_args, get_origin, get_type_hints

import torch

from ..errors import InputError
from ..runtime.files import read_text, write_whole
from .journal import Entry, seconds_of
from .published import compare_with_paper
from .runs import Run
from .settings import plain

FORMAT = 1
FILE_NAME = "record.json"
_CHECKSUM = "sha256"
_MAX_BYTES = 64 << 20


class Resolved(TypedDict):
    """The whole config."""

    model: dict


class ConfigEntry(TypedDict):
    path: str
    sha256: str
    options: NotRequired[dict]  # of --cfg-options
    shipped: str | None  # the project's config that it stands for
    changes: list[str]  # settings that differ from it
    resolved: Resolved


class FileEntry(TypedDict):
    path: str
    sha256: str
    content: NotRequired[str]  # checksum of what is said, whatever its line ends and spaces


class Texts(TypedDict):
    names: NotRequired[FileEntry | None]
    auxiliary: FileEntry | None


class Weights(TypedDict):
    name: str
    sha256: str
    same_as: NotRequired[str]  # the OpenAI model that they are, in other files


class Data(TypedDict):
    dataset: str
    benchmark: str | None
    root: NotRequired[str]
    images_found: NotRequired[int]
    images_evaluated: int
    images_expected: NotRequired[int | None]
    images_skipped: NotRequired[list]
    files: NotRequired[int]
    sha256: NotRequired[str]


class Hardware(TypedDict):
    gpus: list[str]
    processor: str


class Precision(TypedDict):
    asked: NotRequired[str | None]
    used: str | None


class Results(TypedDict):
    mIoU: float | None  # in percent, as are all other figures
    classes: list[dict]


class ComparisonEntry(TypedDict):
    method: str | None
    benchmark: str | None
    published: float | None
    comparable: bool
    reasons: list[str]


class Record(TypedDict):
    """What a record holds at least; unknown keys are kept."""

    format: int
    time: str  # ISO 8601, UTC
    command: NotRequired[str]
    config: ConfigEntry
    paper: NotRequired[dict | None]
    weights: Weights | None
    texts: NotRequired[Texts]
    data: Data
    versions: NotRequired[dict]
    hardware: Hardware
    precision: Precision
    partial: NotRequired[list[str]]
    results: Results
    seconds: NotRequired[float]
    seconds_per_image: float
    starts: NotRequired[list[dict]]
    peak_memory: NotRequired[dict]
    comparison: ComparisonEntry


def make_record(
    inputs: Mapping[str, Any],
    run: Run,
    metrics: Mapping[str, float],
    classes: Sequence[str],
    seconds: float,
    memory: Mapping[str, Any],
) -> Record:
    """The record of a run that is done.

    Args:
        inputs: what was known before it (:func:`itaclip.evaluation.inputs.known_inputs`).
        run: on rank 0, after its end.
        metrics: figures, as the metrics name them.
        classes: names.
        seconds: of this start.
        memory: most bytes held.
    """
    entries = [entry for _, entry in sorted(run.entries.items())]
    seconds += seconds_of(entry for entry in entries if entry.start != run.start)
    images = len(entries) - len(run.skipped)
    starts = Counter(entry.start for entry in entries)
    overall = {key.rpartition("/")[2]: round(float(value), 4) for key, value in metrics.items()}
    found = per_class(entries, classes)
    valid = sum(entry["union"] > 0 for entry in found)
    record = {
        **inputs,
        "partial": run.partial_reasons,
        "data": {**inputs["data"], "images_evaluated": images, "images_skipped": run.skipped},
        "results": {
            **dict.fromkeys(("mIoU", "aAcc", "mAcc")),
            **overall,
            "valid_classes": valid,
            "classes": found,
        },
        "seconds": round(seconds, 3),
        "seconds_per_image": round(seconds / images, 4) if images else None,
        "starts": [{"start": start, "images": starts[start]} for start in sorted(starts)],
        "peak_memory": memory,
    }
    record["comparison"] = compare_with_paper(record).as_dict()
    return plain(record)


def per_class(entries: Sequence[Entry], classes: Sequence[str]) -> list[dict[str, Any]]:
    """IoU and accuracy in percent, and numbers of pixels, of every class; empty without a score."""
    areas = [torch.stack(entry.areas) for entry in entries if entry.areas is not None]
    if not areas:
        return []
    # mmseg adds in fp32, which is exact up to 16 million pixels; fp64 is, up to 10^15.
    sums = torch.stack(areas).double().sum(dim=0).long()  # (4, C)
    return [
        {
            "name": name,
            "iou": _percent(intersection, union),
            "accuracy": _percent(intersection, label),
            "intersection": intersection,
            "union": union,
            "pixels": label,
        }
        for name, (intersection, union, _, label) in zip(classes, sums.T.tolist(), strict=True)
    ]


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 4) if whole else None


# ---- files --------------------------------------------------------------------------------------


def write_record(path: Path, record: Mapping[str, Any]) -> Path:
    """Writes a record as a whole, with a checksum of itself."""
    return write_json(path, _sealed(record))


def _sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    content = {key: value for key, value in plain(record).items() if key != _CHECKSUM}
    return {**content, _CHECKSUM: _checksum(content)}


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Writes plain data as a whole."""
    text = json.dumps(plain(content), indent=1, ensure_ascii=False, allow_nan=False)
    return write_whole(path, text + "\n")


def write_bundle(path: Path, records: Sequence[Record]) -> Path:
    """Writes several records as one file, each with a checksum of itself; no pictures."""
    return write_json(path, {"format": FORMAT, "records": [_sealed(record) for record in records]})


def read_record(path: Path) -> Record:
    """Reads a record; older ones carry no checksum.

    Raises:
        InputError: no such file, no record, or one that is damaged or was changed.
    """
    return _checked(_read(path), path)


def read_records(path: Path) -> list[Record]:
    """Reads a record, or all those of a bundle (:func:`write_bundle`).

    Raises:
        InputError: as for :func:`read_record`.
    """
    content = _read(path)
    inside = content.get("records") if isinstance(content, dict) else None
    return [_checked(entry, path) for entry in (inside if isinstance(inside, list) else [content])]


def _read(path: Path) -> Any:
    try:
        return json.loads(read_text(path, _MAX_BYTES))
    except InputError as error:
        raise InputError(f"{error} Give a record.json or its folder.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the record cannot be read ({error}); run again.") from error


def _checked(record: Any, path: Path) -> Record:
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{path}: expected a record of format {FORMAT}, as eval.py writes it.")
    if (fault := _fault(record, Record)) is not None:
        raise InputError(f"{path}: the record's {fault}; run again.")
    content = {key: value for key, value in record.items() if key != _CHECKSUM}
    if _CHECKSUM in record and record[_CHECKSUM] != _checksum(content):
        raise InputError(
            f"{path}: the record was changed after it was written (its checksum differs); take "
            "the original, or run again."
        )
    return record


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _fault(value: Any, kind: Any, key: str = "") -> str | None:
    """Where plain data is of another kind than a type says, and how; None if it fits."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        faults = [_fault(value, option, key) for option in inner]
        return None if None in faults else faults[0]
    if hasattr(kind, "__required_keys__"):
        if not isinstance(value, dict):
            return f"{key!r} is damaged"
        for name, hint in get_type_hints(kind).items():
            place = f"{key}.{name}" if key else name
            if name in value:
                if fault := _fault(value[name], hint, place):
                    return fault
            elif name in kind.__required_keys__:
                return f"{place!r} is missing"
        return None
    if origin is list:
        faults = (_fault(item, inner[0], key) for item in value) if isinstance(value, list) else [1]
        return f"{key!r} is damaged" if any(faults) else None
    expected = (int, float) if kind is float else kind
    sound = isinstance(value, expected) and (kind is bool or not isinstance(value, bool))
    return None if sound else f"{key!r} is damaged"
