"""COCO's run-length encoding of masks, decoded in NumPy.

A mask is written as the lengths of its runs of 0, 1, 0, 1, …, in column-major order. The
compressed form stores each length (from the fourth on: its difference to the one before last) as
little-endian groups of five bits, one character ``chr(48 + group)`` each; bit 32 says that more
groups follow, and bit 16 of the last group is the sign.
"""

from collections.abc import Sequence

import numpy as np


def decompress_counts(text: str | bytes) -> np.ndarray:
    """Return the run lengths (R,) int64 of a compressed string.

    Raises:
        ValueError: a character is out of range or the last length is cut off.
    """
    data = text if isinstance(text, bytes) else text.encode("ascii")
    groups = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - 48
    if groups.size == 0:
        return np.zeros(0, dtype=np.int64)
    if groups.min() < 0 or groups.max() > 63:
        raise ValueError("a character outside chr(48)..chr(111)")
    last = (groups & 32) == 0
    if not last[-1]:
        raise ValueError("the string ends inside a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(groups.size) - np.repeat(starts, ends - starts + 1)
    if place.max() > 11:
        raise ValueError("a number of more than 60 bits")
    values = np.add.reduceat((groups & 31) << (5 * place), starts)
    negative = (groups[ends] & 16) != 0
    values[negative] -= np.int64(1) << (5 * (ends - starts + 1))[negative]

    # Undo the differences: from index 3 on, counts[i] = values[i] + counts[i - 2]. Each parity is
    # a running sum that starts at index 1 or 2.
    counts = values.copy()
    counts[1::2] = np.cumsum(values[1::2])
    counts[2::2] = np.cumsum(values[2::2])
    return counts


def decode_rle(height: int, width: int, counts: str | bytes | Sequence[int]) -> np.ndarray:
    """Decode a mask to (height, width) bool from compressed (text) or plain (list) run lengths.

    Raises:
        ValueError: the runs are malformed or do not add up to ``height * width``.
    """
    if isinstance(counts, str | bytes):
        runs = decompress_counts(counts)
    else:
        runs = np.asarray(counts, dtype=np.int64).reshape(-1)
    if runs.size and runs.min() < 0:
        raise ValueError("a negative run length")
    total = int(runs.sum())
    if total != height * width:
        raise ValueError(f"the runs cover {total} pixels, but the size is {height}x{width}")
    values = np.arange(runs.size) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T
