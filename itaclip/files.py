"""Result files: written aside and renamed, so that none is ever half there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError


class NotWrittenError(InputError, OSError):
    """A result that could not be written: an :class:`OSError` whose message says all."""


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields a path beside ``path`` to write to; it takes the name ``path`` where all went well.

    Raises:
        NotWrittenError: the disk is full, or the folder cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())  # whole also after a power cut
        os.replace(aside, path)
    except OSError as error:
        raise NotWrittenError(
            f"{path}: cannot be written ({error.strerror or error}); make room, make the folder "
            "writable, or give another one."
        ) from error
    finally:
        try:
            aside.unlink(missing_ok=True)
        except OSError:
            pass  # the first error says more
