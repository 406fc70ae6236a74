"""Results on disk: a line for every setting and picture, so that a killed run goes on."""

import base64
import json
import secrets
import sys
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ..settings import plain
from .plan import Row

FORMAT = 2


@dataclass(frozen=True)
class Done:
    """One picture: its four areas (4, C) as mmseg counts them, and the seconds it took."""

    areas: Tensor
    seconds: float


class Store:
    """Areas of every setting's pictures, appended as they come.

    A setting's files are named by its key, one for each process that worked on it; their first line
    holds the checksums of the inputs that they were made with. Files made with other inputs are
    named and replaced. A last line that a kill cut off does not count.

    Args:
        folder: where; None keeps the results in memory alone.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._done: dict[str, dict[int, Done]] = {}
        self._files: dict[str, TextIO] = {}
        self._stale: dict[str, list[Path]] = {}
        self._open = ExitStack()

    def load(self, row: Row) -> dict[int, Done]:
        """What is done, by the pictures' positions, read anew.

        Raises:
            InputError: a file is damaged.
        """
        if self.folder is None:
            return self._done.setdefault(row.key, {})
        found: dict[int, Done] = {}
        self._stale[row.key] = []
        for path in sorted(self.folder.glob(f"{row.key}.*.jsonl")):
            found |= self._read(path, row)
        return found

    def _read(self, path: Path, row: Row) -> dict[int, Done]:
        try:
            header, *lines = path.read_text(encoding="utf-8").split("\n")[:-1] or ["{}"]
            about = json.loads(header)
            if not about:  # killed before the first line was whole
                return {}
            changed = [k for k in row.inputs if about["inputs"].get(k) != row.inputs[k]]
            if about["format"] != FORMAT:
                changed.append("format")
            if changed:
                print(
                    f"{path}: made with other {', '.join(changed)}; evaluated anew", file=sys.stderr
                )
                self._stale[row.key].append(path)
                return {}
            entries = [json.loads(line) for line in lines]
            return {
                int(e["picture"]): Done(_areas(e["areas"]), float(e["seconds"])) for e in entries
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
            raise InputError(
                f"{path}: the stored result cannot be read ({type(error).__name__}: {error}); "
                "remove the file, and its pictures are evaluated again."
            ) from error

    def add(self, row: Row, picture: int, done: Done) -> None:
        """Keeps one picture's result; on disk when this returns."""
        if self.folder is None:
            self._done.setdefault(row.key, {})[picture] = done
            return
        file = self._files.get(row.key)
        if file is None:
            file = self._files[row.key] = self._begin(row)
        packed = base64.b85encode(zlib.compress(done.areas.numpy().astype(np.int64).tobytes()))
        entry = {"picture": picture, "seconds": round(done.seconds, 4), "areas": packed.decode()}
        file.write(json.dumps(entry) + "\n")
        file.flush()

    def _begin(self, row: Row) -> TextIO:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{row.key}.{secrets.token_hex(8)}.jsonl"
        opened = open(path, "x", encoding="utf-8", newline="\n")  # noqa: SIM115 (until close)
        file = self._open.enter_context(opened)
        about: dict[str, Any] = dict(format=FORMAT, inputs=row.inputs, settings=plain(row.settings))
        file.write(json.dumps(about, ensure_ascii=False) + "\n")
        for stale in self._stale.pop(row.key, ()):
            stale.unlink(missing_ok=True)
        return file

    def close(self) -> None:
        """Closes the files of this process."""
        self._open.close()
        self._files.clear()


def _areas(packed: str) -> Tensor:
    counts = np.frombuffer(zlib.decompress(base64.b85decode(packed)), dtype=np.int64)
    # fp32, as mmseg counts: every area is a number of pixels of one picture.
    return torch.from_numpy(counts.reshape(4, -1).astype(np.float32))
