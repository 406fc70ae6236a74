"""Fetch files with size, progress, checksum and resume."""

import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from .errors import PreparationError

BLOCK = 1 << 20
ATTEMPTS = 4
TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Download:
    """A file on the net.

    Attributes:
        file_name: its name on disk.
        url: where it lies, or None if it cannot be fetched without registering.
        size: exact number of bytes, or None if not known beforehand.
        about: the size in words, for the message before the download starts.
        checksum: ``md5:…`` or ``sha1:…``, or None if none was published.
        how_to_get: for files behind a registration: one clause that says where to get them.
    """

    file_name: str
    url: str | None = None
    size: int | None = None
    about: str = "of unknown size"
    checksum: str | None = None
    how_to_get: str = ""


class _Restart(Exception):
    """What lies in the ``.part`` file cannot be continued."""


def human_size(size: int) -> str:
    """Write a number of bytes for people: ``1.9 GB``."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"


def file_checksum(path: Path, algorithm: str) -> str:
    """Return the hexadecimal digest of a file."""
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def verify_checksum(path: Path, checksum: str, mend: str) -> None:
    """Compare a file with a checksum ``algorithm:hex``.

    Raises:
        PreparationError: they differ; the message ends with ``mend``.
    """
    algorithm, expected = checksum.split(":")
    actual = file_checksum(path, algorithm)
    if actual != expected.lower():
        raise PreparationError(
            f"{path}: {algorithm} is {actual}, but {expected.lower()} was expected; {mend}"
        )


def fetch(
    download: Download, folder: Path, *, mirror: str | None = None, say: Callable[[str], None]
) -> Path:
    """Download into ``folder`` unless it is there; return the file's path.

    Bytes arrive in ``<name>.part``, which a later call continues (HTTP Range) if the server can,
    and which becomes ``<name>`` only when size and checksum are right.

    Args:
        download: what to fetch; its ``url`` is set.
        folder: made if missing.
        mirror: a URL prefix that replaces everything before the file's name.
        say: prints a line for the user.

    Raises:
        PreparationError: the server fails, the disk is full, or size or checksum are wrong.
    """
    target = folder / download.file_name
    if target.exists():
        return target
    if download.url is None:
        raise ValueError(f"{download.file_name} has no URL")
    url = f"{mirror.rstrip('/')}/{download.file_name}" if mirror else download.url
    size = human_size(download.size) if download.size else download.about
    say(f"downloading {url} ({size}) to {target}")
    if download.checksum is None:
        say(f"note: no checksum is published for {download.file_name}; its contents are checked")
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")

    resumed = part.exists() and part.stat().st_size > 0
    _transfer(download, url, part)
    try:
        _verify(download, url, part)
    except PreparationError:
        part.unlink(missing_ok=True)
        if not resumed:
            raise
        # The older bytes may be the damaged ones: once more from the start.
        say(f"{download.file_name}: the continued download is damaged, starting again")
        _transfer(download, url, part)
        try:
            _verify(download, url, part)
        except PreparationError:
            part.unlink(missing_ok=True)
            raise
    os.replace(part, target)
    return target


def _verify(download: Download, url: str, part: Path) -> None:
    size = part.stat().st_size
    if download.size is not None and size != download.size:
        raise PreparationError(
            f"{url}: expected {download.size} bytes, but got {size}; the file there is another "
            "one: fetch it from elsewhere and pass it with --raw"
        )
    if download.checksum is not None:
        mend = (
            f"{url} gives a damaged or different file, which was deleted: try again, or fetch it "
            "from elsewhere and pass it with --raw"
        )
        verify_checksum(part, download.checksum, mend)


def _transfer(download: Download, url: str, part: Path) -> None:
    """Fill ``part``, going on after broken connections."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _receive(download, url, part)
            return
        except _Restart:
            part.unlink(missing_ok=True)
            failures += 1
            reason = "the partial file did not match"
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise PreparationError(
                    f"{url}: the server answers {error.code} {error.reason}; fetch "
                    f"{download.file_name} elsewhere and pass it with --raw, or name a --mirror"
                ) from None
            failures += 1
            reason = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", None) or error)
            grown = part.exists() and part.stat().st_size > before
            failures = 1 if grown else failures + 1
        if failures >= ATTEMPTS:
            raise PreparationError(
                f"{url}: the download broke off ({reason}); run the same command again to go on "
                f"from where it stopped, or fetch {download.file_name} yourself and pass it with "
                "--raw"
            )
        time.sleep(min(0.2 * 4**failures, 10))


def _receive(download: Download, url: str, part: Path) -> None:
    """Make one request and append to (or begin) ``part``."""
    offset = part.stat().st_size if part.exists() else 0
    if download.size is not None and offset == download.size:
        return
    headers = {"User-Agent": "itaclip-dataset-preparation"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
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
        else:
            offset = 0  # the server ignores Range and sends the whole file
        remaining = int(length) if length and length.isdigit() else None
        total = download.size or (offset + remaining if remaining is not None else None)
        _check_free_space(part, remaining)
        with (
            part.open("ab" if offset else "wb") as file,
            tqdm(
                total=total,
                initial=offset,
                desc=download.file_name,
                unit="B",
                unit_scale=True,
                disable=None,
            ) as bar,
        ):
            received = 0
            while block := response.read(BLOCK):
                file.write(block)
                received += len(block)
                bar.update(len(block))
        if remaining is not None and received < remaining:
            raise http.client.IncompleteRead(b"", remaining - received)


def _check_free_space(part: Path, needed: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed is not None and needed > free:
        raise PreparationError(
            f"{part.parent}: {human_size(needed)} are needed, but only {human_size(free)} are "
            "free; free some space or choose another --data-root"
        )
