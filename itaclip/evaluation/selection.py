"""Which images of a data set are evaluated: all, the first few, or some by number."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class Selection:
    """Images by their position in the data set.

    Attributes:
        indices: rising, each once, from 0.
        size: number of images in the data set.
        option: the command-line option that chose; empty where none did.
    """

    indices: tuple[int, ...]
    size: int
    option: str = ""

    @property
    def partial(self) -> bool:
        """Whether images of the data set are left out."""
        return len(self.indices) < self.size

    @property
    def reason(self) -> str | None:
        """One clause that says what is left out, or None."""
        if not self.partial:
            return None
        return f"{len(self.indices)} of {self.size} images were chosen ({self.option})"


def add_options(parser: argparse.ArgumentParser) -> None:
    """``--limit`` and ``--indices``."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--limit", metavar="N", help="evaluate the first N images alone")
    group.add_argument(
        "--indices",
        metavar="LIST",
        help="evaluate some images alone, such as 3,17,40-60: positions in the data set, from 0",
    )


def select(size: int, limit: str | None = None, indices: str | None = None) -> Selection:
    """The images that the options choose from ``size`` images.

    Raises:
        InputError: what is no number or list of numbers, or an image that does not exist.
    """
    if limit is not None:
        if not re.fullmatch(r"[0-9]+", limit) or int(limit) < 1:
            raise InputError(f"--limit: expected a number of images from 1, but got {limit!r}.")
        return Selection(tuple(range(min(int(limit), size))), size, f"--limit {limit}")
    if indices is None:
        return Selection(tuple(range(size)), size)
    chosen: set[int] = set()
    for part in indices.split(","):
        match = re.fullmatch(r"\s*([0-9]+)(?:-([0-9]+))?\s*", part)
        if match is None:
            raise InputError(
                f"--indices: expected numbers and ranges like 3,17,40-60, but got {part!r}."
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f"--indices: the range {part.strip()} ends before it begins.")
        if last >= size:
            raise InputError(
                f"--indices: there is no image {last}; the data set has {size} images, numbered "
                f"from 0 to {size - 1}."
            )
        chosen.update(range(first, last + 1))
    return Selection(tuple(sorted(chosen)), size, f"--indices {indices}")


def partial_reasons(selection: Selection, skipped: Sequence[object]) -> list[str]:
    """Why a result does not stand for its whole data set, one clause each; empty if it does."""
    reasons = [selection.reason] if selection.reason else []
    if skipped:
        count = len(skipped)
        images = "image was" if count == 1 else "images were"
        reasons.append(f"{count} {images} left out as unusable (--skip-bad)")
    return reasons
