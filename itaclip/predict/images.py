"""Pictures from files, Pillow and numpy as 8-bit RGB, and their way into the network.

An image is an array (H, W, 3) uint8, RGB. Evaluations read their images with mmcv instead.
"""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import InputError
from ..runtime.decoding import (
    MAX_PIXELS,
    UNREADABLE,
    bits_of,
    check_bits,
    open_picture,
    to_eight_bits,
    white_of,
    wide_values,
)
from ..runtime.files import open_regular

# Suffixes that folders are searched for; a single file may have any.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
# What EXIF's orientation 2 to 8 asks for: the axes swapped, then rows and columns from their end.
_ORIENTATIONS = {
    2: (False, 1, -1), 3: (False, -1, -1), 4: (False, -1, 1), 5: (True, 1, 1),
    6: (True, 1, -1), 7: (True, -1, -1), 8: (True, -1, 1),
}  # fmt: skip
_EXIF_ORIENTATION = 0x0112
_STRIP = 1 << 22  # pixels that are converted at a time


def read_image(
    source: object,
    name: str | None = None,
    bits: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Any kind of picture as 8-bit RGB.

    * Files and Pillow images are turned as their EXIF orientation says; of several frames the first
      is taken; palettes are looked up.
    * What is transparent is laid on white.
    * Wider integers are brought to 8 bits, 16 of them divided by 257; floats from 0 to 1 are
      multiplied by 255; both are rounded.
    * Arrays are (H, W) or (H, W, 1) grey, (H, W, 2) grey with alpha, (H, W, 3) RGB or (H, W, 4)
      RGBA, of uint8, uint16, bool or float; OpenCV's BGR is for the caller to turn:
      ``image[..., ::-1]``.

    Args:
        source: a path, the bytes of a file, a Pillow image or an array.
        name: what messages call it; None takes the path, or ``'image'``.
        bits: that values of more than 8 bits really have, 8 to 16, such as 12 for a camera's in a
            file of 16; None takes 16, and refuses values that stay below a quarter of that.
        max_pixels: files with more are refused before they are decoded.

    Returns:
        (H, W, 3) uint8.

    Raises:
        InputError: no such file, not a picture, a damaged one, or values that mean nothing.
    """
    check_bits(bits)
    if isinstance(source, str | Path):
        name = name or str(source)
        refuse_address(source)
        path = Path(source).expanduser()
        if os.path.isdir(path):  # Path.is_dir raises at names that are too long
            raise InputError(f"{name}: expected an image file, but this is a folder.")
        with _readable(name), open_regular(path, name) as file:
            return _from_pillow(open_picture(file), name, bits, file, max_pixels)
    name = name or "image"
    if isinstance(source, bytes):
        with _readable(name), io.BytesIO(source) as file:
            return _from_pillow(open_picture(file), name, bits, file, max_pixels)
    if isinstance(source, Image.Image):
        with _readable(name):
            return _from_pillow(source, name, bits)
    if isinstance(source, np.ndarray):
        return _from_array(source, name, bits)
    raise InputError(
        f"{name}: expected a path, bytes, a Pillow image or a numpy array, but got "
        f"{type(source).__name__}; convert it first."
    )


def refuse_address(path: str | Path) -> None:
    """Says of an address of the web that it is one.

    Raises:
        InputError: it is.
    """
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", str(path)):
        raise InputError(
            f"{path}: this is an address, and nothing is fetched from the web; download the "
            "picture and give its path."
        )


def source_of(image: object) -> str:
    """What a picture is called in results and messages: its path, or ``'image'``."""
    return str(image) if isinstance(image, str | Path) else getattr(image, "source", "image")


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turns what Pillow raises into a sentence about the file."""
    try:
        yield
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(
            f"{name}: this is no picture that can be read; save it as PNG or JPEG."
        ) from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: the picture is too large ({error}); shrink it.") from None
    except MemoryError:
        raise InputError(f"{name}: the picture is too large for this memory; shrink it.") from None
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{name}: the picture is damaged or incomplete ({reason}); save or fetch it again."
        ) from error


def _from_pillow(
    picture: Image.Image,
    name: str,
    bits: int | None,
    file: BinaryIO | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """An opened picture; ``file``: where it lies, if it is not decoded yet."""
    width, height = picture.size
    if file is not None:
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        if width * height > limit:
            raise InputError(
                f"{name}: the picture is too large: {height}x{width} pixels (height x width) are "
                f"more than {limit}; shrink it, or label it by tiles: itaclip segment --tile 2048."
            )
    wide_colours = file is not None and picture.mode in ("RGB", "RGBA") and bits_of(picture) == 16
    orientation = picture.getexif().get(_EXIF_ORIENTATION)  # decodes some formats
    if wide_colours:
        pixels = _from_array(_wide_colours(file), name, bits)
    elif picture.mode.startswith("I"):
        values = np.asarray(picture)
        low, high = int(values.min(initial=0)), int(values.max(initial=0))
        if low < 0 or high > 65535:
            raise InputError(
                f"{name}: expected values of 8 or 16 bits, but they go from {low} to "
                f"{high}; save the picture with 8 bits."
            )
        pixels = _from_array(values.astype(np.uint16), name, bits)
    elif picture.mode == "F":
        pixels = _from_array(np.asarray(picture), name, bits)
    else:
        pixels = _from_eight_bits(picture)
    swapped, down, right = _ORIENTATIONS.get(orientation, (False, 1, 1))
    turned = pixels.transpose(1, 0, 2) if swapped else pixels
    return np.ascontiguousarray(turned[::down, ::right])


def _wide_colours(file: BinaryIO) -> np.ndarray:
    """Colours of 16 bits, of which Pillow keeps 8: (H, W, 3) or (H, W, 4) uint16."""
    file.seek(0)
    values = wide_values(file.read())
    if values is None or values.ndim != 3:
        raise ValueError("colours of 16 bits in a form that is not known")
    order = cv2.COLOR_BGR2RGB if values.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return cv2.cvtColor(values, order)


def _from_eight_bits(picture: Image.Image) -> np.ndarray:
    """In strips, so that a picture takes little more than itself and its result."""
    picture.load()
    clear = picture.has_transparency_data
    width, height = picture.size
    pixels = np.empty((height, width, 3), np.uint8)
    step = max(1, _STRIP // max(width, 1))
    for top in range(0, height, step):
        box = (0, top, width, min(top + step, height))
        strip = picture.crop(box).convert("RGBA" if clear else "RGB")
        own = np.asarray(strip)
        pixels[box[1] : box[3]] = _on_white(own[..., :3], own[..., 3:]) if clear else own
    return pixels


def _from_array(array: np.ndarray, name: str, bits: int | None = None) -> np.ndarray:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = "move the channels last: image.transpose(1, 2, 0)" if first else "reshape it"
        raise InputError(
            f"{name}: expected an array of height x width, or height x width x 1 to 4 channels, "
            f"but its shape is {array.shape}; {hint}."
        )
    if array.size == 0:
        raise InputError(f"{name}: the array is empty, its shape is {array.shape}.")
    if array.ndim == 2:
        array = array[..., None]
    clear = array.shape[2] in (2, 4)
    white = _white(array[..., :-1] if clear else array, name, bits)
    height, width = array.shape[:2]
    pixels = np.empty((height, width, 3), np.uint8)
    step = max(1, _STRIP // width)
    for top in range(0, height, step):
        strip = _eight_bit(array[top : top + step], white)
        if clear:
            strip = _on_white(strip[..., :-1], strip[..., -1:])
        pixels[top : top + step] = strip
    return pixels


def _on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(…, C) and (…, 1) uint8 → (…, C) uint8."""
    missing = (255 - colour).astype(np.float32) * alpha
    return (255 - missing / 255).round().astype(np.uint8)


def _white(array: np.ndarray, name: str, bits: int | None) -> int:
    """The value that means white.

    Raises:
        InputError: values that mean nothing, or nearly nothing.
    """
    if array.dtype == np.uint8:
        return 255
    if array.dtype == bool:
        return 1
    if array.dtype == np.uint16:
        remedy = "say bits={bits} (--bits {bits} on the command line), or 16 if it is so dark."
        return white_of(array, bits, name, remedy)
    if array.dtype.kind == "f":
        low, high = array.min(), array.max()
        if not (np.isfinite(low) and np.isfinite(high) and low >= 0 and high <= 1):
            raise InputError(
                f"{name}: expected floats from 0 to 1, but they go from {low:g} to {high:g}; "
                "divide them by their full scale, or give uint8."
            )
        return 1
    raise InputError(
        f"{name}: expected uint8, uint16, bool or float values, but got {array.dtype}; for values "
        "from 0 to 255 give image.astype(np.uint8)."
    )


def _eight_bit(array: np.ndarray, white: int) -> np.ndarray:
    """Values on the scale 0-255, uint8."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return to_eight_bits(array, white)
    return (array.astype(np.float32) * 255).round().astype(np.uint8)


def resized_shape(
    size: tuple[int, int], short_side: int | None, max_long_side: int | None
) -> tuple[int, int]:
    """(H, W) of an image after :func:`resize`, rounded as mmcv does."""
    if short_side is None and max_long_side is None:
        return size
    factors = []
    if short_side is not None:
        factors.append(short_side / min(size))
    if max_long_side is not None:
        factors.append(max_long_side / max(size))
        if short_side is None:
            factors.append(1.0)  # a limit alone never enlarges
    height, width = (max(1, int(side * float(min(factors)) + 0.5)) for side in size)
    return height, width


def resize(
    image: np.ndarray, short_side: int | None = None, max_long_side: int | None = None
) -> np.ndarray:
    """Resizes to a short side, unless the long side would pass its limit; keeps the proportions.

    Bilinear like the evaluations' ``Resize``; a picture that shrinks to less than half is averaged
    over areas, since bilinear interpolation would skip most of its pixels.

    Args:
        image: (H, W, 3) uint8.
        short_side: in pixels; None leaves the size as it is.
        max_long_side: in pixels; None sets no limit.
    """
    size = image.shape[:2]
    target = resized_shape(size, short_side, max_long_side)
    if target == size:
        return image
    strongly = min(target) * 2 < min(size)
    method = cv2.INTER_AREA if strongly else cv2.INTER_LINEAR
    return cv2.resize(image, target[::-1], interpolation=method)


def enlarged(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels (h, w), by the nearest, or scores (h, w, C), bilinearly, at (H, W)."""
    if array.shape[:2] == size:
        return array
    if array.ndim == 2:
        return cv2.resize(array, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    result = np.empty((*size, array.shape[2]), np.float32)
    for index in range(array.shape[2]):  # OpenCV takes few channels at a time
        channel = np.ascontiguousarray(array[..., index])
        result[..., index] = cv2.resize(channel, size[::-1], interpolation=cv2.INTER_LINEAR)
    return result


def fit(
    image: np.ndarray,
    short_side: int | None,
    max_long_side: int | None,
    patch: int,
    source: str = "image",
) -> np.ndarray:
    """A picture at the size that the network sees; fitting it again changes nothing.

    Args:
        image: (H, W, 3) uint8.
        short_side, max_long_side: as for :func:`resize`.
        patch: side of the network's patches, in pixels.
        source: what the message calls it.

    Raises:
        InputError: a side is shorter than a patch.
    """
    resized = resize(image, short_side, max_long_side)
    if min(resized.shape[:2]) < patch:
        before, after = ("x".join(map(str, p.shape[:2])) for p in (image, resized))
        raise InputError(
            f"{source}: its {before} pixels (height x width) come to {after} in the network, "
            f"but it needs {patch} at least on each side; enlarge, crop or pad the picture."
        )
    return resized


def find_images(pattern: str | Path) -> list[Path]:
    """The pictures that a path, a folder or a glob pattern (``**`` included) means, sorted.

    Raises:
        InputError: there is none.
    """
    refuse_address(pattern)
    text = str(Path(pattern).expanduser())
    if "\0" in text:
        raise InputError(f"{text!r}: no file has a zero byte in its name; correct it.")
    path = Path(text)
    if os.path.isdir(path):
        found = [p for p in path.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES]
        if not found:
            raise InputError(
                f"{pattern}: this folder holds no picture ({', '.join(SUFFIXES)}); give another "
                "one, or a pattern such as 'folder/**/*.jpg'."
            )
        return sorted(found)
    if os.path.exists(path) or not has_magic(text):
        return [path]
    found = [Path(p) for p in glob(text, recursive=True) if Path(p).is_file()]
    if not found:
        raise InputError(f"{pattern}: no file fits this pattern; correct it.")
    return sorted(found)
