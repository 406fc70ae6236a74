"""Results on disk: one JSON file a setting, so that a killed run goes on where it stopped."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ..record import write_json
from .plan import Row

FORMAT = 1


class Store:
    """Areas of every setting, summed over the pictures done so far.

    A file is named by its setting's key, and holds the checksums of the inputs that it was made
    with. Files made with other inputs are named and made anew.

    Args:
        folder: where; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def load(self, row: Row | None) -> tuple[int, tuple[Tensor, ...] | None, float]:
        """Pictures done, the sums of the four areas (C,) over them, and the seconds they took.

        Raises:
            InputError: the file is there but damaged.
        """
        if self.folder is None or row is None or not self._path(row).is_file():
            return 0, None, 0.0
        path = self._path(row)
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            changed = [key for key in row.inputs if entry["inputs"].get(key) != row.inputs[key]]
            if entry["format"] != FORMAT:
                changed.append("format")
            # fp32, as mmseg sums them; JSON keeps them exactly.
            sums = tuple(torch.tensor(values, dtype=torch.float32) for values in entry["areas"])
            done, seconds = int(entry["images"]), float(entry["seconds"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: the stored result cannot be read ({type(error).__name__}: {error}); "
                "remove the file, and its row is evaluated again."
            ) from error
        if changed:
            print(f"{path}: made with other {', '.join(changed)}; evaluated anew", file=sys.stderr)
            return 0, None, 0.0
        return done, sums, seconds

    def save(self, row: Row, done: int, sums: tuple[Tensor, ...], seconds: float) -> None:
        """Writes aside, then renames."""
        if self.folder is None:
            return
        entry: dict[str, Any] = {
            "format": FORMAT,
            "images": done,
            "seconds": round(seconds, 3),
            "areas": [area.tolist() for area in sums],
            "inputs": row.inputs,
            "settings": row.settings,
        }
        write_json(self._path(row), entry)

    def _path(self, row: Row) -> Path:
        return self.folder / f"{row.key}.json"
