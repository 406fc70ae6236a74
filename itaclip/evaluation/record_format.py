"""What a record must hold for others to read it, and whether it is as it was written."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError

CHECKSUM = "sha256"
_NUMBER = (int, float)
_TEXT_OR_NONE = (str, type(None))
# Dotted keys that tools read, and the types their values have.
_KEYS: dict[str, tuple[type, ...]] = {
    "time": (str,),
    "config": (dict,),
    "config.sha256": (str,),
    "config.shipped": _TEXT_OR_NONE,
    "config.changes": (list,),
    "config.resolved": (dict,),
    "config.resolved.model": (dict,),
    "weights": (dict, type(None)),
    "data": (dict,),
    "data.images_evaluated": (int,),
    "hardware": (dict,),
    "hardware.gpus": (list,),
    "hardware.processor": (str,),
    "precision": (dict,),
    "precision.used": _TEXT_OR_NONE,
    "results": (dict,),
    "results.mIoU": (*_NUMBER, type(None)),
    "results.classes": (list,),
    "seconds_per_image": _NUMBER,
    "comparison": (dict,),
    "comparison.benchmark": _TEXT_OR_NONE,
    "comparison.method": _TEXT_OR_NONE,
    "comparison.published": (*_NUMBER, type(None)),
    "comparison.comparable": (bool,),
    "comparison.reasons": (list,),
}


def checksum(record: Mapping[str, Any]) -> str:
    """sha256 of a record's content, without the checksum itself."""
    content = {key: value for key, value in record.items() if key != CHECKSUM}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_record(record: Mapping[str, Any], path: Path) -> None:
    """Looks at a record before anything is read from it; older ones carry no checksum.

    Raises:
        InputError: a key is missing or its value is of another kind, or the record was changed.
    """
    for key, types in _KEYS.items():
        value: Any = record
        for name in key.split("."):
            if name not in value:
                raise InputError(f"{path}: the record lacks {key!r}; run again.")
            value = value[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise InputError(f"{path}: the record's {key!r} is damaged; run again.")
    if CHECKSUM in record and record[CHECKSUM] != checksum(record):
        raise InputError(
            f"{path}: the record was changed after it was written (its checksum differs); take "
            "the original, or run again."
        )
