"""Where configs' relative paths are looked up; files that are whole or not there at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError

PROJECT_ROOT = Path(__file__).resolve().parents[1]


def resolve_path(path: str | Path, key: str) -> Path:
    """An existing file: absolute, relative to the current folder, or to the project's root.

    Args:
        path: as written in the config.
        key: the config's key, for the message.

    Raises:
        InputError: no such file; the message names both places.
    """
    path = Path(path).expanduser()
    places = [path] if path.is_absolute() else [Path.cwd() / path, PROJECT_ROOT / path]
    for place in places:
        if place.is_file():
            return place
    where = " nor ".join(str(place) for place in dict.fromkeys(places))
    raise InputError(f"{key}: expected an existing file, but there is none at {where}.")


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields a path to write to, which is renamed to ``path`` when that went well.

    Raises:
        InputError: the file or its folder cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path}: cannot be written ({reason}); choose another place.") from error
