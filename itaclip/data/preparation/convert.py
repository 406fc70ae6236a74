"""Run a label conversion over many masks: in parallel, atomically, resumably."""

import contextlib
import hashlib
import io
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...errors import InputError
from ...runtime.files import write_whole
from .labels import read_labels

Produce = Callable[[Any], np.ndarray]


@dataclass(frozen=True)
class MaskJob:
    """One mask to make.

    Attributes:
        name: the image's name without suffix, for the manifest.
        source: what ``produce`` needs to make the labels; often the raw mask's path.
        target: the file to write, or None to read and check only.
    """

    name: str
    source: Any
    target: Path | None = None


@dataclass
class MaskSummary:
    """What a run over masks found and did."""

    written: int = 0  # new files
    remade: int = 0  # existing files that were damaged, or differed from the conversion
    kept: int = 0  # existing files that already held the right labels
    checked: int = 0  # masks that need no conversion
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    digests: dict[str, str] = field(default_factory=dict)  # name -> sha1 of size and labels

    @property
    def total(self) -> int:
        return self.written + self.remade + self.kept + self.checked

    def describe(self) -> str:
        """Say in words what was done: ``3 written, 2 unchanged``."""
        parts = [
            (self.written, "written"),
            (self.remade, "made again (damaged or different)"),
            (self.kept, "unchanged"),
            (self.checked, "checked, no conversion needed"),
        ]
        return ", ".join(f"{count} {word}" for count, word in parts if count) or "no masks"


def write_if_changed(path: Path, data: bytes) -> bool:
    """Write ``data`` atomically unless the file already holds it; say whether it was written."""
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return False
    write_whole(path, data)
    return True


def encode_png(labels: np.ndarray) -> bytes:
    """Encode labels (H, W) uint8 as a greyscale PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(labels)).save(buffer, format="PNG")
    return buffer.getvalue()


def convert_masks(
    jobs: Sequence[MaskJob], produce: Produce, *, workers: int, force: bool, title: str
) -> MaskSummary:
    """Make every job's mask and summarise all of them.

    An existing target is kept, untouched, only if it can be read and holds exactly the labels that
    the conversion gives: a file cut off by a crash, or made by another conversion, is made again.

    Args:
        jobs: the masks; names must differ.
        produce: picklable function from a job's ``source`` to labels (H, W) uint8.
        workers: processes; 0 or 1 works in this process.
        force: write every target even if it is right already.
        title: label of the progress bar.

    Raises:
        InputError: the first problem met. Masks finished until then stay.
    """
    summary = MaskSummary()
    with tqdm(total=len(jobs), desc=title, unit="mask", disable=None) as bar:
        for name, status, histogram, digest in _results(jobs, produce, workers, force):
            setattr(summary, status, getattr(summary, status) + 1)
            summary.histogram += histogram
            summary.digests[name] = digest
            bar.update()
    return summary


Result = tuple[str, str, np.ndarray, str]


def _results(
    jobs: Sequence[MaskJob], produce: Produce, workers: int, force: bool
) -> Iterator[Result]:
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield _convert(job, produce, force)
        return
    chunk = max(1, min(32, len(jobs) // (4 * workers)))
    executor = ProcessPoolExecutor(min(workers, len(jobs)), initializer=_ignore_interrupts)
    try:
        pending: list[Future[list[Result]]] = [
            executor.submit(_convert_chunk, jobs[start : start + chunk], produce, force)
            for start in range(0, len(jobs), chunk)
        ]
        for future in pending:
            yield from future.result()
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed, probably for want of memory; run the same command again "
            "with a smaller --workers: it goes on where it stopped"
        ) from None
    finally:
        # Also on Ctrl-C: masks in work are finished, the others are not begun.
        executor.shutdown(wait=True, cancel_futures=True)


def _ignore_interrupts() -> None:
    # Ctrl-C reaches every process of the terminal; only the main one shall act on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _convert_chunk(jobs: Sequence[MaskJob], produce: Produce, force: bool) -> list[Result]:
    return [_convert(job, produce, force) for job in jobs]


def _convert(job: MaskJob, produce: Produce, force: bool) -> Result:
    labels = produce(job.source)
    if job.target is None:
        status = "checked"
    else:
        status = "remade" if job.target.exists() else "written"
        if status == "remade" and not force and _holds(job.target, labels):
            status = "kept"
        else:
            write_whole(job.target, encode_png(labels), durable=False)  # read again by each run
    digest = hashlib.sha1(repr(labels.shape).encode() + labels.tobytes()).hexdigest()
    return job.name, status, np.bincount(labels.reshape(-1), minlength=256), digest


def _holds(path: Path, labels: np.ndarray) -> bool:
    try:
        return np.array_equal(read_labels(path), labels)
    except InputError:
        return False
