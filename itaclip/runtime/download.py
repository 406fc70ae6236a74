"""Fetches files: says from where and how large, with progress, checksum and resume.

Repositories of the Hugging Face Hub: :mod:`itaclip.runtime.hub`.
"""

import errno
import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

from ..errors import InputError
from .files import digest_of, open_regular

try:
    import fcntl
except ImportError:  # Windows: two processes that fetch the same file are not kept apart
    fcntl = None

_BLOCK = 1 << 20
ATTEMPTS = 4  # without a new byte, at each address
PAUSE_SECONDS = 0.2  # before the next attempt; four times as long after each
_TIMEOUT_SECONDS = 60


class DownloadError(InputError):
    """A file could not be fetched; the message says what to do instead."""


@dataclass(frozen=True)
class Download:
    """A file on the net.

    Attributes:
        file_name: its name on disk.
        url: where it lies, or None if it cannot be fetched without registering.
        others: further addresses of the same bytes, tried in turn; only with a checksum.
        size: exact number of bytes, or None if not known beforehand.
        about: the size in words, for the message before the download starts.
        checksum: ``md5:…``, ``sha1:…`` or ``sha256:…``, or None if none was published.
        how_to_get: for files behind a registration: one clause that says where to get them.
    """

    file_name: str
    url: str | None = None
    others: tuple[str, ...] = ()
    size: int | None = None
    about: str = "of unknown size"
    checksum: str | None = None
    how_to_get: str = ""


class _Restart(Exception):
    """What lies in the ``.part`` file cannot be continued."""


def say_on_stderr(line: str) -> None:
    """The usual way to tell the user."""
    print(line, file=sys.stderr, flush=True)


def human_size(size: float) -> str:
    """Write a number of bytes for people: ``1.9 GB``."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{size:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def verify_checksum(path: Path, checksum: str, mend: str) -> None:
    """Compare a file with a checksum ``algorithm:hex``.

    Raises:
        DownloadError: they differ; the message ends with ``mend``.
    """
    algorithm, expected = checksum.split(":")
    with open_regular(path) as file:
        actual = hashlib.file_digest(file, algorithm).hexdigest()
    if actual != expected.lower():
        raise DownloadError(
            f"{path}: {algorithm} is {actual}, but {expected.lower()} was expected; {mend}"
        )


def check_free_space(folder: Path, needed: int | None, mend: str) -> None:
    """Look whether a folder's disk has room.

    Raises:
        DownloadError: it has less than ``needed`` bytes; the message ends with ``mend``.
    """
    free = shutil.disk_usage(folder).free
    if needed is not None and needed > free:
        raise DownloadError(
            f"{folder}: {human_size(needed)} are needed, but only {human_size(free)} are free; "
            f"{mend}"
        )


def fetch(
    download: Download,
    folder: Path,
    *,
    mirror: str | None = None,
    verify: bool = False,
    otherwise: str = "",
    elsewhere: str = "choose another folder",
    say: Callable[[str], None] = say_on_stderr,
) -> Path:
    """Download into ``folder`` unless the file is there; return its path.

    Bytes arrive in ``<name>.part``, which a later call continues (HTTP Range) if the server can,
    and which becomes ``<name>`` only when size and checksum are right. Another process that fetches
    the same file is waited for.

    Args:
        download: what to fetch; its ``url`` is set.
        folder: made if missing.
        mirror: a URL prefix that replaces everything before the file's name.
        verify: hold a file that is there against the checksum. One that differs stays, under
            another name, when the right one has arrived and is verified.
        otherwise: clause that says what to do where no download works: "put the file at …".
        elsewhere: clause on what to do where the disk is full, after "free some space or".
        say: tells the user a line.

    Raises:
        DownloadError: the server fails, the disk is full, or size or checksum are wrong.
    """
    target = folder / download.file_name
    if target.exists() and not (verify and _differs(download, target)):
        return target
    urls = [url for url in (download.url, *download.others) if url is not None]
    if not urls:
        raise ValueError(f"{download.file_name} has no URL")
    if mirror:
        urls = [f"{mirror.rstrip('/')}/{download.file_name}"]
    otherwise = otherwise or f"put the right file at {target}"
    room = f"free some space or {elsewhere}"
    transfer = _Transfer(download, folder, urls, otherwise, room, say)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        with _locked(part) as file:
            if target.exists() and not (verify and _differs(download, target)):
                part.unlink(missing_ok=True)  # another process was quicker
                return target
            size = human_size(download.size) if download.size else download.about
            say(f"downloading {urls[0]} ({size}) to {target}")
            if download.checksum is None:
                say(
                    f"note: no checksum is published for {download.file_name}; its contents are "
                    "checked"
                )
            transfer.run(file, part)
            if target.exists():
                kept = _free_name(target)
                os.replace(target, kept)
                say(f"note: {target} was another file; it is kept as {kept.name}")
            os.replace(part, target)
    except OSError as error:
        raise DownloadError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}); "
            f"free some space or {elsewhere}"
        ) from error
    return target


def _differs(download: Download, path: Path) -> bool:
    if download.checksum is None:
        return download.size is not None and path.stat().st_size != download.size
    algorithm, expected = download.checksum.split(":")
    return digest_of(path, algorithm) != expected.lower()


def _free_name(path: Path) -> Path:
    number = 1
    while (kept := path.with_name(f"{path.name}.other{number}")).exists():
        number += 1
    return kept


@contextmanager
def _locked(part: Path):
    """The open ``.part`` file, held by one process at a time; links are not followed."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    while True:
        file = os.fdopen(os.open(part, flags, 0o644), "r+b")
        try:
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
                if not _is_at(file, part):  # finished or thrown away while this process waited
                    continue
            yield file
            return
        finally:
            if _is_at(file, part) and file.seek(0, os.SEEK_END) == 0:
                part.unlink(missing_ok=True)  # nothing to continue
            file.close()


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except OSError:
        return False


@dataclass
class _Transfer:
    """Fills a ``.part`` file from the first address that works."""

    download: Download
    folder: Path
    urls: Sequence[str]
    otherwise: str
    room: str  # clause on a disk without room
    say: Callable[[str], None]

    def run(self, file: IO[bytes], part: Path) -> None:
        """Fills and verifies ``file``, which is emptied where it is wrong."""
        for number, url in enumerate(self.urls, 1):
            try:
                self._from(url, file, part)
                return
            except DownloadError as error:
                if number == len(self.urls):
                    raise
                self.say(f"note: {error}; now trying {self.urls[number]}")

    def _from(self, url: str, file: IO[bytes], part: Path) -> None:
        resumed = file.seek(0, os.SEEK_END) > 0
        self._transfer(url, file)
        try:
            self._verify(url, part)
        except DownloadError:
            _empty(file)
            if not resumed:
                raise
            # The older bytes may be the damaged ones: once more from the start.
            self.say(f"{part.stem}: the continued download is damaged, starting again")
            self._transfer(url, file)
            try:
                self._verify(url, part)
            except DownloadError:
                _empty(file)
                raise

    def _verify(self, url: str, part: Path) -> None:
        size, expected = part.stat().st_size, self.download.size
        if expected is not None and size != expected:
            raise DownloadError(
                f"{url}: expected {expected} bytes, but got {size}; the file there is another one: "
                f"{self.otherwise}"
            )
        if self.download.checksum is not None:
            mend = (
                f"{url} gives a damaged or different file, which was deleted: try again, or "
                f"{self.otherwise}"
            )
            verify_checksum(part, self.download.checksum, mend)

    def _transfer(self, url: str, file: IO[bytes]) -> None:
        """Goes on after broken connections."""
        failures = 0
        while True:
            before = file.seek(0, os.SEEK_END)
            try:
                self._receive(url, file)
                return
            except _Restart:
                _empty(file)
                failures += 1
                reason = "the partial file did not match"
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise DownloadError(
                        f"{url}: the server answers {error.code} {error.reason}; {self.otherwise}"
                    ) from None
                failures += 1
                reason = f"{error.code} {error.reason}"
            except (OSError, http.client.HTTPException) as error:
                if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                    raise
                reason = str(getattr(error, "reason", None) or error)
                grown = file.seek(0, os.SEEK_END) > before
                failures = 1 if grown else failures + 1
            except ValueError as error:
                raise DownloadError(f"{url}: is no address ({error}); correct it") from None
            if failures >= ATTEMPTS:
                raise DownloadError(
                    f"{url}: the download broke off ({reason}); run the same command again to go "
                    f"on from where it stopped, or {self.otherwise}"
                )
            time.sleep(min(PAUSE_SECONDS * 4**failures, 10))

    def _receive(self, url: str, file: IO[bytes]) -> None:
        """Makes one request and appends to (or begins) the file."""
        size, offset = self.download.size, file.seek(0, os.SEEK_END)
        if size is not None and offset == size:
            return
        headers = {"User-Agent": "itaclip"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        request = urllib.request.Request(url, headers=headers)
        try:
            response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing after the offset: complete, or too long
                total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
                if total.isdigit() and int(total) == offset:
                    return
                raise _Restart from None
            raise
        with response:
            length = response.headers.get("Content-Length")
            if offset and response.status == 206:
                content_range = response.headers.get("Content-Range") or ""
                if not content_range.startswith(f"bytes {offset}-"):
                    raise _Restart
            elif offset:  # the server ignores Range and sends the whole file
                offset = 0
                _empty(file)
            remaining = int(length) if length and length.isdigit() else None
            total = size or (offset + remaining if remaining is not None else None)
            check_free_space(self.folder, remaining, self.room)
            with tqdm(
                total=total,
                initial=offset,
                desc=self.download.file_name,
                unit="B",
                unit_scale=True,
                disable=None,
            ) as bar:
                received = 0
                while block := response.read(_BLOCK):
                    file.write(block)
                    received += len(block)
                    bar.update(len(block))
                file.flush()
            if remaining is not None and received < remaining:
                raise http.client.IncompleteRead(b"", remaining - received)


def _empty(file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()
