"""Finished answers on disk: one JSON line each, so that an interrupted run continues.

The journal lies beside the output file as ``<output>.partial``. Its first line holds the run's
settings; each further line, written through to the disk, one class's answer. A last line that was
cut off is dropped. The output file itself appears at once, when all is done.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..errors import InputError
from ..runtime.files import write_whole
from ..vocabulary import SEPARATOR


class Journal:
    """Answers of one run, by class name.

    Args:
        out: The output file; the journal lies beside it.
        settings: What the answers depend on. An older journal must agree with it.

    Raises:
        InputError: If an older journal belongs to other settings or is damaged.
    """

    def __init__(self, out: Path, settings: dict[str, object]) -> None:
        self.path = out.with_name(out.name + ".partial")
        self.answers: dict[str, str] = {}
        try:
            raw = self.path.read_bytes() if self.path.exists() else b""
            kept = self._read(raw, settings)
            self._file = open(self.path, "r+b" if raw else "wb")  # noqa: SIM115
            self._file.truncate(kept)
            self._file.seek(kept)
        except OSError as error:
            raise InputError(
                f"--out: {self.path} cannot be opened ({error.strerror}); "
                "expected a path in an existing folder that may be written to."
            ) from None
        if kept == 0:
            self._append({"settings": settings})

    def _read(self, raw: bytes, settings: dict[str, object]) -> int:
        """Take over complete lines; return how many bytes they fill."""
        kept = 0
        old: object = None
        for number, line in enumerate(raw.splitlines(keepends=True), start=1):
            entry = _parsed(line)
            if entry is None:
                if kept + len(line) == len(raw):
                    break  # cut off while it was written: done again
                raise InputError(
                    f"{self.path}:{number}: this line is damaged. "
                    "Delete the file to start anew, or the line to redo its class."
                )
            if number == 1:
                old = entry.get("settings")
            elif isinstance(entry.get("name"), str) and isinstance(entry.get("text"), str):
                self.answers[entry["name"]] = entry["text"]
            else:
                raise InputError(
                    f"{self.path}:{number}: expected a line with 'name' and 'text'. "
                    "Delete the file to start anew, or the line to redo its class."
                )
            kept += len(line)
        if not self.answers:
            return 0  # nothing to keep: start anew with these settings
        self._check_settings(old, settings)
        return kept

    def _check_settings(self, old: object, new: dict[str, object]) -> None:
        if not isinstance(old, dict):
            raise InputError(
                f"{self.path}:1: expected the settings of the interrupted run. "
                "Delete the file to start anew."
            )
        differing = [key for key in new if old.get(key) != new[key]]
        if differing:
            changes = ", ".join(f"{k} was {old.get(k)!r}, now {new[k]!r}" for k in differing)
            raise InputError(
                f"{self.path}: an interrupted run with other settings ({changes}). "
                "Repeat it with its settings, delete the file to start anew, or choose "
                "another --out."
            )

    def add(self, name: str, text: str) -> None:
        """Keep one answer; it is on the disk when this returns."""
        self._append({"name": name, "text": text})
        self.answers[name] = text

    def _append(self, entry: dict[str, object]) -> None:
        self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file and leave it for a later run; without an answer it is deleted."""
        self._file.close()
        if not self.answers:
            self.path.unlink(missing_ok=True)

    def finish(self, out: Path, names: list[str]) -> None:
        """Write the output file in the given order, in one step, and delete the journal."""
        lines = [f"{name} {SEPARATOR} {self.answers[name]}\n" for name in names]
        write_whole(out, "".join(lines))
        self._file.close()
        self.path.unlink()


def _parsed(line: bytes) -> dict | None:
    """The JSON object of a complete line, else None."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:  # bad JSON or bad UTF-8
        return None
    return entry if isinstance(entry, dict) else None
