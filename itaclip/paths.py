"""Where configs' relative paths are looked up."""

import os
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
    if not isinstance(path, str | Path):
        raise InputError(f"{key}: expected the path of a file, but got {path!r}.")
    path = Path(path).expanduser()
    places = [path] if path.is_absolute() else [Path.cwd() / path, PROJECT_ROOT / path]
    for place in places:
        if os.path.isfile(place):  # Path.is_file raises at names that are too long
            return place
    where = " nor ".join(str(place) for place in dict.fromkeys(places))
    raise InputError(f"{key}: expected an existing file, but there is none at {where}.")
