"""Files: where relative paths are looked up, small ones read with care, whole ones written at once.

Nothing heavy is imported here, so that every door may use it.
"""

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_PACKAGE = Path(__file__).resolve().parents[1]
PROJECT_ROOT = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent
"""Where configs/ and aux_texts/ lie: inside the package in a wheel, beside it in a checkout."""
MAX_TEXT = 64 << 20
"""Bytes of a text file; the names of a million classes are less."""
_MAX_CHARACTERS = 300  # of another library's message
_ASIDE = re.compile(r"\..+\.[0-9a-f]{16}\.part")
_BINARY = getattr(os, "O_BINARY", 0)  # of Windows
_tidied: set[Path] = set()  # folders in which this process has looked for left-overs


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


def shipped_file(path: str | Path) -> str:
    """The absolute path of a file that ships with the project, for a config that inherits it.

    ``_base_ = __import__("itaclip").shipped_file("configs/cfg_voc21.py")`` in a config of your own.

    Args:
        path: relative to the project's root, such as ``configs/cfg_voc21.py``.

    Raises:
        InputError: no such file ships.
    """
    place = PROJECT_ROOT / path
    if not place.is_file():
        raise InputError(f"{path}: no such file ships with the project, in {PROJECT_ROOT}.")
    return str(place)


# ---- messages -----------------------------------------------------------------------------------


def one_line(error: BaseException) -> str:
    """An error's message without line breaks, or its type where it has none."""
    # OpenCV's own text begins with the path of its source file.
    opencv = type(error).__module__ == "cv2" and hasattr(error, "err")
    text = f"{error.func}: {error.err}" if opencv else str(error)
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 1] + "…"


def printable(text: str) -> str:
    """Text for a terminal: what is no visible character, but for line breaks, is shown escaped.

    Names of files and archives' members come from anywhere, and a terminal obeys some of them.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def reason_of(error: Exception) -> str:
    """Why the system refused a file, in its own words, without number and path."""
    return getattr(error, "strerror", None) or one_line(error)


# ---- reading ------------------------------------------------------------------------------------


def open_regular(path: str | Path, name: str | None = None) -> BinaryIO:
    """Opens a file of a disk for reading; a pipe is never waited for, a device never read.

    Args:
        path: the file.
        name: what messages call it; None takes the path.

    Raises:
        InputError: no such file, not a regular one, or not readable.
    """
    name = path if name is None else name
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file.") from None
    except (OSError, ValueError) as error:
        if os.path.isdir(path):  # Windows opens no folder
            raise InputError(
                f"{name}: cannot be read (it is a folder, but expected a file); give a file."
            ) from None
        raise InputError(f"{name}: cannot be read ({reason_of(error)}).") from None
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device"
    raise InputError(f"{name}: cannot be read (it is {kind}, but expected a file); give a file.")


def read_bytes(path: str | Path, max_bytes: int = MAX_TEXT) -> bytes:
    """The content of a small file.

    Args:
        path: as it shall stand in messages.
        max_bytes: a larger file is refused before it is read.

    Raises:
        InputError: as :func:`open_regular`, or too large.
    """
    with open_regular(path) as file:
        try:
            content = file.read(max_bytes + 1)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({reason_of(error)}).") from None
    if len(content) > max_bytes:
        size = max(os.path.getsize(path), len(content))
        raise InputError(
            f"{path}: has {size / 1e6:,.1f} MB, but such a file has at most "
            f"{max_bytes / 1e6:,.1f} MB; give another file."
        )
    return content


def read_text(path: str | Path, max_bytes: int = MAX_TEXT) -> str:
    r"""The text of a small UTF-8 file, without byte order mark, lines ended by ``\n``.

    Args:
        path: as it shall stand in messages.
        max_bytes: a larger file is refused before it is read.

    Raises:
        InputError: as :func:`read_bytes`, a stand-in for the file, or not UTF-8.
    """
    raw = read_bytes(path, max_bytes)
    if stand_in := stand_in_for_file(raw):
        raise InputError(f"{path}: {stand_in}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        guess = " (it looks like UTF-16)" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise InputError(
            f"{path}:{line}: expected UTF-8 text, but byte 0x{raw[error.start]:02x} is not{guess}. "
            "Save the file as UTF-8."
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def stand_in_for_file(head: bytes) -> str | None:
    """What a file's first bytes say lies in its place, and the remedy; None for a file itself."""
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return (
            "is a pointer of Git LFS, not the file itself; run 'git lfs pull' in its repository, "
            "or download the file."
        )
    begin = head[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if begin.startswith((b"<!doctype html", b"<html")):
        return (
            "is a web page (HTML), not the file itself: the download met a page for people; "
            "download the file again from its direct address."
        )
    return None


def digest_of(path: str | Path, algorithm: str = "sha256") -> str:
    """The hexadecimal digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def sha256_of(path: str | Path) -> str:
    """The hexadecimal sha256 of a file's content."""
    return digest_of(path)


# ---- writing ------------------------------------------------------------------------------------


class NotWrittenError(InputError, OSError):
    """A file that could not be written: an :class:`OSError` whose message says all."""


@contextmanager
def atomic_write(path: str | Path, private: bool = False, durable: bool = True) -> Iterator[Path]:
    """Yields the path of a new, empty file, which becomes ``path`` when all went well.

    At every moment ``path`` is the old file or the new one as a whole, also after a power cut, and
    of several writers the last one counts. The new file lies in the same folder under a name that
    nobody can foresee and is created there, never opened through a link; a link at ``path`` is
    replaced, not followed. What killed processes left in the folder is removed first.

    Args:
        path: of the result; its folder is made.
        private: readable by the user alone.
        durable: whole also after a power cut, which costs milliseconds; False is for files that
            are looked at before they are trusted.

    Raises:
        NotWrittenError: the disk is full, or the file or its folder cannot be written.
    """
    path = Path(path)
    aside = handle = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent not in _tidied:
            _tidied.add(path.parent)
            tidy(path.parent)
        aside, handle = _create(path, 0o600 if private else 0o666)
        yield aside
        if durable:
            with open(aside, "rb+") as file:
                os.fsync(file.fileno())
        if fcntl is None:  # Windows renames no open file
            os.close(handle)
            handle = None
        os.replace(aside, path)
        sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, InputError):
            raise
        raise NotWrittenError(
            f"{path}: cannot be written ({reason_of(error)}); make room, or choose another place."
        ) from error
    finally:
        if handle is not None:
            os.close(handle)
        try:
            if aside is not None:
                aside.unlink(missing_ok=True)
        except OSError:
            pass  # the first error says more


def write_whole(
    path: str | Path, content: str | bytes, private: bool = False, durable: bool = True
) -> Path:
    r"""Writes text (UTF-8, ``\n``) or bytes by :func:`atomic_write`; returns the path."""
    with atomic_write(path, private, durable) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)


def sync_folder(folder: Path) -> None:
    """Makes new names in a folder outlast a power cut, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(handle)
    except OSError:  # some network file systems
        pass
    finally:
        os.close(handle)


def tidy(folder: Path) -> None:
    """Removes what writers that were killed left half-written in a folder.

    A living writer, of this process or another, holds a lock on its file.
    """
    if fcntl is None:
        return
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if _ASIDE.fullmatch(entry.name)]
    except OSError:
        return
    for name in names:
        try:
            handle = os.open(folder / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # it is gone, another user's, or a link
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / name).unlink(missing_ok=True)
        except OSError:
            pass
        finally:
            os.close(handle)


def _create(path: Path, mode: int) -> tuple[Path, int]:
    """A new file beside ``path`` and its handle, which holds the lock of a living writer."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | _BINARY
    while True:
        # A long name leaves room for the rest: file systems take 255 bytes.
        name = os.fsdecode(os.fsencode(path.name)[:200])
        aside = path.with_name(f".{name}.{secrets.token_hex(8)}.part")
        try:
            handle = os.open(aside, flags, mode)
        except FileExistsError:
            continue
        if fcntl is None:
            return aside, handle
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: left-overs are recognised by nobody
            return aside, handle
        if os.fstat(handle).st_nlink:
            return aside, handle
        os.close(handle)  # somebody tidied between the two calls
