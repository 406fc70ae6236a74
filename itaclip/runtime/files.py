"""Where configs' relative paths are looked up; files that are whole or not there at all."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def resolve_path(path: str | Path, key: str) -> Path:
    """An existing file: absolute, relative to the current folder, or to the project's root.

    Args:
        path: as written in the config.
        key: the config's key, for the message.

    Raises:
        InputError: no such file; the message names both places.
    """
    if not isinstance(path, str | Path):
        raise InputError(f"{key}: expected the path of a file, but got {path!r}.")
    path = Path(path).expanduser()
    places = [path] if path.is_absolute() else [Path.cwd() / path, PROJECT_ROOT / path]
    for place in places:
        if os.path.isfile(place):  # Path.is_file raises at names that are too long
            return place
    where = " nor ".join(str(place) for place in dict.fromkeys(places))
    raise InputError(f"{key}: expected an existing file, but there is none at {where}.")


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a regular file to read: a pipe would wait for ever, a device never end.

    Raises:
        InputError: it is something else.
        OSError: it cannot be opened; a folder raises :class:`IsADirectoryError`.
    """
    waits_for_nobody = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, os.O_RDONLY | waits_for_nobody)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise InputError(
        f"{path}: expected a file, but this is a pipe, a socket or a device; save its content in a "
        "file first."
    )


class NotWrittenError(InputError, OSError):
    """A file that could not be written: an :class:`OSError` whose message says all."""


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields a path to write to, which is renamed to ``path`` when that went well.

    Raises:
        NotWrittenError: the disk is full, or the file or its folder cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())  # whole also after a power cut
        os.replace(aside, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise NotWrittenError(
            f"{path}: cannot be written ({reason}); make room, or choose another place."
        ) from error
    finally:
        try:
            aside.unlink(missing_ok=True)
        except OSError:
            pass  # the first error says more
