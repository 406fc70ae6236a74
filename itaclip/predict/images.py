"""Pictures from files, Pillow and numpy as 8-bit RGB, and their way into the network.

An image is an array (H, W, 3) uint8, RGB. Evaluations read their images with mmcv instead.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InputError

# Suffixes that folders are searched for; a single file may have any.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_WHITE = 255.0


def read_image(source: object, name: str | None = None) -> np.ndarray:
    """Any kind of picture as 8-bit RGB.

    * Files and Pillow images are turned as their EXIF orientation says; of several frames the first
      is taken; palettes are looked up.
    * What is transparent is laid on white.
    * 16-bit values are divided by 257, floats from 0 to 1 multiplied by 255, and rounded.
    * Arrays are (H, W) or (H, W, 1) grey, (H, W, 2) grey with alpha, (H, W, 3) RGB or (H, W, 4)
      RGBA, of uint8, uint16, bool or float; OpenCV's BGR is for the caller to turn:
      ``image[..., ::-1]``.

    Args:
        source: a path, the bytes of a file, a Pillow image or an array.
        name: what messages call it; None takes the path, or ``'image'``.

    Returns:
        (H, W, 3) uint8.

    Raises:
        InputError: no such file, not a picture, a damaged one, or values that mean nothing.
    """
    if isinstance(source, str | Path):
        name = name or str(source)
        with _readable(name), Image.open(Path(source).expanduser()) as picture:
            return _from_pillow(picture, name)
    name = name or "image"
    if isinstance(source, bytes):
        with _readable(name), Image.open(io.BytesIO(source)) as picture:
            return _from_pillow(picture, name)
    if isinstance(source, Image.Image):
        with _readable(name):
            return _from_pillow(source, name)
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    raise InputError(
        f"{name}: expected a path, bytes, a Pillow image or a numpy array, but got "
        f"{type(source).__name__}; convert it first."
    )


def source_of(image: object) -> str:
    """What a picture is called in results and messages: its path, or ``'image'``."""
    return str(image) if isinstance(image, str | Path) else "image"


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turns what Pillow raises into a sentence about the file."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such file; correct the path.") from None
    except IsADirectoryError:
        raise InputError(f"{name}: expected an image file, but this is a folder.") from None
    except PermissionError:
        raise InputError(f"{name}: the file may not be read; change its permissions.") from None
    except UnidentifiedImageError:
        raise InputError(
            f"{name}: this is no picture that can be read; save it as PNG or JPEG."
        ) from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: the picture is too large ({error}); shrink it.") from None
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{name}: the picture is damaged or incomplete ({reason}); save or fetch it again."
        ) from error


def _from_pillow(picture: Image.Image, name: str) -> np.ndarray:
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(
                f"{name}: expected values of 8 or 16 bits, but they go from {values.min()} to "
                f"{values.max()}; save the picture with 8 bits."
            )
        return _from_array(values.astype(np.uint16), name)
    if picture.mode == "F":
        return _from_array(np.asarray(picture), name)
    if picture.has_transparency_data:
        return _from_array(np.asarray(picture.convert("RGBA")), name)
    return np.array(picture.convert("RGB"))


def _from_array(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = "move the channels last: image.transpose(1, 2, 0)" if first else "reshape it"
        raise InputError(
            f"{name}: expected an array of height x width, or height x width x 1 to 4 channels, "
            f"but its shape is {array.shape}; {hint}."
        )
    if array.size == 0:
        raise InputError(f"{name}: the array is empty, its shape is {array.shape}.")
    values = _eight_bit(array, name)
    if values.ndim == 2:
        values = values[..., None]
    colour, alpha = values, None
    if values.shape[2] in (2, 4):
        colour, alpha = values[..., :-1], values[..., -1:].astype(np.float32) / 255
    if alpha is not None:
        colour = (_WHITE + alpha * (colour - _WHITE)).round().astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(colour, (*colour.shape[:2], 3)))


def _eight_bit(array: np.ndarray, name: str) -> np.ndarray:
    """Values on the scale 0-255, uint8."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind == "f":
        low, high = array.min(), array.max()
        if not (np.isfinite(low) and np.isfinite(high) and low >= 0 and high <= 1):
            raise InputError(
                f"{name}: expected floats from 0 to 1, but they go from {low:g} to {high:g}; "
                "divide them by their full scale, or give uint8."
            )
        return (array.astype(np.float32) * 255).round().astype(np.uint8)
    raise InputError(
        f"{name}: expected uint8, uint16, bool or float values, but got {array.dtype}; for values "
        "from 0 to 255 give image.astype(np.uint8)."
    )


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
    text = str(Path(pattern).expanduser())
    path = Path(text)
    if path.is_dir():
        found = [p for p in path.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES]
        if not found:
            raise InputError(
                f"{pattern}: this folder holds no picture ({', '.join(SUFFIXES)}); give another "
                "one, or a pattern such as 'folder/**/*.jpg'."
            )
        return sorted(found)
    if path.exists() or not has_magic(text):
        return [path]
    found = [Path(p) for p in glob(text, recursive=True) if Path(p).is_file()]
    if not found:
        raise InputError(f"{pattern}: no file fits this pattern; correct it.")
    return sorted(found)
