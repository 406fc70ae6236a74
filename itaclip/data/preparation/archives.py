"""Take the wanted members out of zip and tar files, and nothing else."""

import contextlib
import gzip
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from ...errors import InputError
from ...runtime.download import human_size

DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # an unknown compression method
    RuntimeError,  # an encrypted member
)


# What archives hold here (JPEG, PNG, compressed .mat) hardly shrinks: so much more is a trap.
_MAX_RATIO = 100
_ALWAYS_ALLOWED = 50_000_000  # bytes


@dataclass(frozen=True)
class Member:
    """A regular file in an archive.

    Attributes:
        path: the member's full name in the archive.
        relative: its path below the folder that was looked for; safe to join to a folder.
        size: number of bytes.
        open: opens it for reading.
    """

    path: str
    relative: PurePosixPath
    size: int
    open: Callable[[], IO[bytes]]


def is_archive(path: Path) -> bool:
    """Say whether a path looks like an archive that can be read here."""
    return path.is_file() and path.name.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz"))


def relative_below(path: str, tails: tuple[str, ...], pattern: re.Pattern[str]) -> str | None:
    """Return what follows one of the folders ``tails`` in ``path``, or None.

    ``tails`` are endings of a folder's path, such as ``gtFine/val``; the file's own name must
    match ``pattern`` in full.
    """
    anchored = "/" + path.replace("\\", "/")
    for tail in tails:
        _, found, rest = anchored.rpartition(f"/{tail}/")
        if found and pattern.fullmatch(rest.rpartition("/")[2]):
            return rest
    return None


@contextlib.contextmanager
def open_members(
    archive: Path, tails: tuple[str, ...], pattern: re.Pattern[str]
) -> Iterator[list[Member]]:
    """Give the members of an archive that lie below one of ``tails`` and match ``pattern``.

    The members can be opened inside the ``with`` block.

    Raises:
        InputError: the archive is damaged or a member would lead outside its folder. Damage
            met while members are read inside the block is reported in the same way.
    """
    try:
        with contextlib.ExitStack() as stack:
            if zipfile.is_zipfile(archive):
                members = _zip_members(stack.enter_context(zipfile.ZipFile(archive)))
            elif archive.name.lower().endswith(".zip"):
                raise zipfile.BadZipFile("no zip directory at its end")
            else:
                members = _tar_members(stack.enter_context(tarfile.open(archive)))
            wanted = []
            for path, size, opener in members:
                relative = relative_below(path, tails, pattern)
                if relative is not None:
                    wanted.append(Member(path, _safe(relative, path, archive), size, opener))
            yield wanted  # in the archive's order: going back in a .tar.gz is slow
    except DAMAGE as error:
        raise InputError(
            f"{archive}: this archive is damaged or incomplete ({error}); delete it and download "
            "it again"
        ) from None
    except FileNotFoundError:
        raise InputError(
            f"{archive}: this archive does not exist; check the path given with --raw"
        ) from None


def check_size(archive: Path, total: int) -> None:
    """Refuse an archive that would grow beyond all measure.

    Raises:
        InputError: its members have more than a hundred times the archive's own size.
    """
    size = archive.stat().st_size
    if total > max(_ALWAYS_ALLOWED, _MAX_RATIO * size):
        raise InputError(
            f"{archive}: its {human_size(size)} claim to hold {human_size(total)}, as no official "
            "download does; do not trust this archive and download it from the official place"
        )


def _zip_members(file: zipfile.ZipFile) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    for info in file.infolist():
        if not info.is_dir():
            yield info.filename, info.file_size, lambda info=info: file.open(info)


def _tar_members(file: tarfile.TarFile) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    total = 0
    for info in file:
        total += info.size
        check_size(Path(file.name), total)  # before the next one is looked for: that unpacks this
        # Links and devices are never followed: the benchmarks' archives have none.
        if info.isreg():
            yield info.name, info.size, lambda info=info: _open_in_tar(file, info)


def _open_in_tar(file: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    opened = file.extractfile(info)
    if opened is None:
        raise tarfile.ReadError(f"member {info.name} cannot be opened")
    return opened


def _safe(relative: str, path: str, archive: Path) -> PurePosixPath:
    parts = PurePosixPath(relative).parts
    outside = not parts or any(part in ("..", "/", "") or ":" in part for part in parts)
    if outside or not path.isprintable():
        fault = "leads outside its folder" if outside else "has invisible characters in its name"
        raise InputError(
            f"{archive}: member {path!r} {fault}; do not trust this archive and download it from "
            "the official place"
        )
    return PurePosixPath(*parts)
