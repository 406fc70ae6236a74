"""Picture files, opened without a look at more than their heads.

Pillow's own limit on pixels belongs to the whole process; here a caller looks at ``size`` before he
decodes, so that threads may have limits of their own.
"""

import struct
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

from ..checks import integer
from ..errors import InputError

# 10,000 x 10,000 pixels: three colours take 300 MB.
MAX_PIXELS = 100_000_000
# What Pillow raises at damaged files of its many formats.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError,
              TypeError, struct.error, Image.DecompressionBombError)  # fmt: skip
_NO_PIXELS = {"EPS"}  # programs that another program would have to run
_DEPTHS = (8, 10, 12, 14, 16)
_SMALL_PART = 4  # values that stay below this part of 16 bits are taken for narrower ones


def open_picture(file: BinaryIO) -> Image.Image:
    """A picture that is not decoded yet, of any size.

    Args:
        file: at its beginning; it must stay open until the picture is loaded.

    Raises:
        PIL.UnidentifiedImageError: no picture of a known format.
    """
    head, tried = file.read(16), set(_NO_PIXELS)
    for prepare in (Image.preinit, Image.init):  # the common formats, then all
        prepare()
        for name in [name for name in Image.ID if name not in tried]:
            tried.add(name)
            factory, accept = Image.OPEN[name]
            try:
                fits = accept is None or accept(head)
                if fits and not isinstance(fits, str):
                    file.seek(0)
                    return factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue  # another format's
    raise Image.UnidentifiedImageError("no picture of a known format")


def bits_of(picture: Image.Image) -> int:
    """Bits of each value in the file of a picture that is not decoded yet: 16, or at most 8.

    Pillow reads colours of 16 bits as their upper 8, and says so nowhere else.
    """
    raw = " ".join(str(tile[3]) for tile in getattr(picture, "tile", ()))
    return 16 if ";16" in raw or picture.mode.startswith("I") else 8


def wide_values(content: bytes) -> np.ndarray | None:
    """The values of a file of 16 bits, (H, W) or BGR(A) (H, W, C) uint16; None in unknown forms."""
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    return values if values is not None and values.dtype == np.uint16 else None


def check_bits(bits: int | None, key: str = "bits") -> None:
    """Refuses what is no depth of values."""
    integer(bits, key, 8, 16, optional=True)


def white_of(values: np.ndarray, bits: int | None, name: str, remedy: str) -> int:
    """The value that means white in unsigned integers of 16 bits.

    Values that stay below a quarter of 16 bits are most likely those of 8, 10, 12 or 14 bits in a
    wider file, and would come out nearly black; so that is for the caller to say.

    Args:
        values: of any shape.
        bits: that they really have; None takes 16 where that is likely.
        name: what messages begin with.
        remedy: how to say the bits, with ``{bits}`` in the place of the likely ones.

    Raises:
        InputError: it is unlikely, or the values have more bits than is said.
    """
    top = int(values.max(initial=0))
    if bits is None:
        if 0 < top < (1 << 16) // _SMALL_PART:
            likely = next(bits for bits in _DEPTHS if top < 1 << bits)
            raise InputError(
                f"{name}: its values of 16 bits go to {top} of 65535 only, as those of {likely} "
                f"bits in a wider file do, and would be nearly black; {remedy.format(bits=likely)}"
            )
        return 65535
    white = (1 << int(bits)) - 1
    if top > white:
        raise InputError(
            f"{name}: expected values of {bits} bits, from 0 to {white}, but they go to {top}; "
            "correct bits."
        )
    return white


def to_eight_bits(values: np.ndarray, white: int) -> np.ndarray:
    """Integers from 0 to ``white`` as uint8, rounded."""
    return ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
