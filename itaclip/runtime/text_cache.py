"""Text features of earlier runs, on disk.

One safetensors file per list of texts, named by a hash of code version, weights, templates and
texts, so that no entry can be stale. A file holds its name and a checksum of its values, so that a
damaged or exchanged one is noticed. Folder and files are private to the user, since whoever can
write there decides about labels: what others may write is not read. Files are written whole or not
at all. The folder is bounded in size; the longest unused entries go first.

A cache that cannot be used never stops a run: this is said, once, and the features are made anew.
"""

import hashlib
import json
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from .files import write_whole

MAX_BYTES = 256 << 20
# Raise when the files' layout changes: earlier entries are then never found.
_FORMAT = 2


def default_folder() -> Path:
    """``$ITACLIP_CACHE_DIR``, else ``$XDG_CACHE_HOME/itaclip``, else ``~/.cache/itaclip``."""
    own = os.environ.get("ITACLIP_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "itaclip"


class TextCache:
    """Text features on disk.

    Args:
        folder: where; None takes :func:`default_folder`.
        max_bytes: the size that the folder is kept under.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int = MAX_BYTES) -> None:
        self.folder = (folder or default_folder()) / "text"
        self.max_bytes = max_bytes
        self._said: set[str] = set()

    @staticmethod
    def key(version: int, weights: str, templates: Sequence[str], texts: Sequence[str]) -> str:
        """The name of an entry: a sha256 of all that its features depend on."""
        content = json.dumps([_FORMAT, version, weights, list(templates), list(texts)])
        return hashlib.sha256(content.encode()).hexdigest()

    def load(self, key: str, shape: tuple[int, int]) -> Tensor | None:
        """The features under ``key``, or None. A damaged entry is named, removed and made anew."""
        path = self._path(key)
        try:
            if not self._folder_is_mine():
                return None
            problem = _not_mine(path.stat())
            if problem:
                self._warn(f"the entry {path.name} is not used, since it {problem}")
                return None
            features = self._read(path, key, shape)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(f"{path.name} cannot be read ({error.strerror or error}), so it is not used")
            return None
        except (SafetensorError, KeyError, ValueError, RuntimeError, MemoryError) as error:
            self._warn(f"the damaged entry {path.name} is made anew ({error})")
            self._remove(path)
            return None
        try:
            os.utime(path)  # used now
        except OSError:
            pass  # a read-only cache still serves
        return features

    @staticmethod
    def _read(path: Path, key: str, shape: tuple[int, int]) -> Tensor:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            features = file.get_tensor("features")
        if metadata.get("key") != key:
            raise ValueError("it belongs to other texts")
        if features.shape != shape or features.dtype != torch.float32:
            raise ValueError(f"it holds {tuple(features.shape)} values instead of {shape}")
        if metadata.get("sha256") != _sha256(features):
            raise ValueError("its checksum differs")
        return features

    def store(self, key: str, features: Tensor) -> None:
        """Keeps features under ``key``; a folder that cannot be written is named and left alone."""
        try:
            if not self._folder_is_mine(make=True):
                return
            features = features.float().cpu().contiguous()
            metadata = {"key": key, "sha256": _sha256(features)}
            content = safetensors.torch.save({"features": features}, metadata)
            write_whole(self._path(key), content, private=True)
            self._shrink()
        except (OSError, SafetensorError) as error:
            self._warn(f"features are not kept, so the next start encodes them again ({error})")

    def _folder_is_mine(self, make: bool = False) -> bool:
        """Whether nobody else can write here; where others can, this is said."""
        if make:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
        problem = _not_mine(self.folder.stat())
        if problem:
            self._warn(
                f"the folder is not used, since it {problem}; run `chmod go-w` on it if it is "
                "yours, or set ITACLIP_CACHE_DIR to a folder of your own"
            )
        return not problem

    def clear(self) -> int:
        """Removes every entry and returns their number."""
        entries = self._entries()
        for path in entries:
            self._remove(path)
        return len(entries)

    def size(self) -> tuple[int, int]:
        """Number and bytes of the entries."""
        sizes = [path.stat().st_size for path in self._entries()]
        return len(sizes), sum(sizes)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _entries(self) -> list[Path]:
        return list(self.folder.glob("*.safetensors"))

    def _shrink(self) -> None:
        stats = []
        for path in self._entries():
            try:
                stats.append((path.stat().st_mtime, path.stat().st_size, path))
            except FileNotFoundError:  # another process was faster
                continue
        excess = sum(size for _, size, _ in stats) - self.max_bytes
        for _, size, path in sorted(stats, key=lambda entry: entry[0]):
            if excess <= 0:
                break
            self._remove(path)
            excess -= size

    @staticmethod
    def _remove(path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            pass  # tidying up must not stop a run

    def _warn(self, message: str) -> None:
        if message in self._said:
            return
        self._said.add(message)
        print(f"text cache {self.folder}: {message}", file=sys.stderr)


def _not_mine(status: os.stat_result) -> str:
    """How others could have written a file or folder; empty where they could not."""
    if os.name != "posix":
        return ""
    if status.st_uid not in (os.geteuid(), 0):
        return "belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "may be written by others"
    return ""


def _sha256(features: Tensor) -> str:
    return hashlib.sha256(features.numpy().tobytes()).hexdigest()
