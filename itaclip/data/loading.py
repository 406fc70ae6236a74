"""Loading of images and masks that looks at what it loads.

mmseg's own transforms end in tracebacks at damaged files, take whatever an image library makes of a
truncated one, open pictures of any size, and cut label values to eight bits. Those here give the
same arrays for sound files and a :class:`BadSampleError` for others:

* Images: any format that both Pillow and OpenCV read. Grey, palette, CMYK and transparent pictures
  become three colours, 16 bits become the upper 8, and EXIF's orientation is applied, as in mmseg.
* Masks: one number per pixel. They are taken as they lie in the file, without EXIF's orientation.

The shipped configs name mmseg's transforms, since mmseg's helpers look for them by name; eval.py
puts those here in their place (:mod:`itaclip.data.guard`).

H, W: height and width in pixels.
"""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS
from PIL import Image

from ..checks import is_integer
from ..errors import BadSampleError, InputError
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
from ..runtime.files import one_line, open_regular, stand_in_for_file

# Pillow's names of pictures with one number per pixel; a palette's numbers are its indices.
LABEL_MODES = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L", "I;16N")
_ZEROS = 512  # bytes; a shorter run at the end of a file may be padding


@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` for files that may be damaged or far too large.

    Args:
        max_pixels: images with more pixels (H·W) are refused before they are decoded.
        bits: that images of 16 bits really have, 8 to 16; None takes 16, and refuses images whose
            values stay below a quarter of that.
        kwargs: as in mmcv; the backend is always OpenCV.

    Raises:
        InputError: a limit that is no integer from 1, or another backend.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS, bits: int | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        check_bits(bits, "LoadCheckedImage.bits")
        if not is_integer(max_pixels, 1):
            raise InputError(
                "LoadCheckedImage: expected max_pixels to be an integer from 1, but got "
                f"{max_pixels!r}."
            )
        if self.imdecode_backend != "cv2":
            raise InputError(
                "LoadCheckedImage: expected imdecode_backend='cv2', but got "
                f"{self.imdecode_backend!r}; take LoadImageFromFile for other backends."
            )
        self.max_pixels, self.bits = max_pixels, bits

    def transform(self, results: dict) -> dict:
        """Adds ``img`` (H, W, 3) BGR uint8, ``img_shape`` and ``ori_shape``."""
        path = results["img_path"]
        content = _content(path, "image", "img_suffix", self.backend_args, self.file_client_args)
        check_image(content, path, self.max_pixels, self.bits)
        try:
            image = self._decoded(content)
        except Exception as error:  # cv2.error and what mmcv makes of it
            raise _damaged(path, "image", error) from error
        if image is None:
            raise _damaged(path, "image", "OpenCV cannot decode it")
        results["img"] = image.astype(np.float32) if self.to_float32 else image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results

    def _decoded(self, content: bytes) -> np.ndarray | None:
        if self.bits is not None:
            flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
            image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
            if image is not None and image.dtype == np.uint16:
                return to_eight_bits(image, (1 << int(self.bits)) - 1)
        return mmcv.imfrombytes(content, flag=self.color_type, backend="cv2")


@TRANSFORMS.register_module()
class LoadCheckedAnnotations(LoadAnnotations):
    """mmseg's ``LoadAnnotations`` without its cutting to eight bits: refuses what is no label map.

    Args:
        reduce_zero_label, backend_args: as in mmseg.
    """

    def __init__(
        self, reduce_zero_label: bool | None = None, backend_args: dict | None = None
    ) -> None:
        with warnings.catch_warnings():  # of reduce_zero_label; the data check compares the two
            warnings.simplefilter("ignore")
            super().__init__(reduce_zero_label=reduce_zero_label, backend_args=backend_args)

    def _load_seg_map(self, results: dict) -> None:
        """Adds ``gt_seg_map`` (H, W) uint8."""
        path = results["seg_map_path"]
        raw = read_labels(path, self.backend_args, mask_limit(results))
        if raw.size and not 0 <= raw.min() <= raw.max() <= 255:
            raise BadSampleError(
                f"{path}: the mask holds the value {raw.max() if raw.max() > 255 else raw.min()}, "
                "but LoadAnnotations takes 0 to 255; say with LoadMappedAnnotations which value "
                "means which class.",
                str(path),
            )
        reduce = results["reduce_zero_label"]
        if self.reduce_zero_label not in (None, reduce):
            raise InputError(
                f"LoadAnnotations: reduce_zero_label is {self.reduce_zero_label} here, but "
                f"{reduce} in the data set; set it on the data set only."
            )
        table = np.arange(256, dtype=np.uint8)
        if reduce:  # 0 becomes ignored (255), the others go down by one, 255 stays
            table = np.array([255, *range(254), 255], dtype=np.uint8)
        before = table.copy()
        for old, new in (results.get("label_map") or {}).items():
            table[before == old] = new
        results["gt_seg_map"] = table[raw]
        results["seg_fields"].append("gt_seg_map")


def check_image(
    content: bytes, path: str | Path, max_pixels: int = MAX_PIXELS, bits: int | None = None
) -> tuple[int, int]:
    """Decodes a picture as cheaply as possible and returns its (H, W), as EXIF says it is seen.

    Raises:
        BadSampleError: empty, no picture, cut off, damaged, more than ``max_pixels`` pixels, or 16
            bits of which only the lower ones are used (see :func:`white_of`).
    """
    with opened(content, path, "image", max_pixels) as picture:
        width, height = picture.size
        wide = bits_of(picture) == 16
        picture.draft("L", (1, 1))  # a JPEG is decoded at an eighth of its size
        picture.load()
        turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    filled = content.rstrip(b"\0")  # as downloads are that reserve their room and then stop
    cut = len(content) - len(filled) >= _ZEROS and b"\xff\xd9" not in filled[-64:]
    if picture.format == "JPEG" and cut:
        raise _damaged(path, "image", "its end is filled with zeros")
    values = wide_values(content) if wide else None
    if values is not None:
        remedy = (
            "take dict(type='LoadCheckedImage', bits={bits}) in the pipeline, or bits=16 if it is "
            "so dark."
        )
        colours = values[..., :3] if values.ndim == 3 else values
        try:
            white_of(colours, bits, str(path), remedy)
        except InputError as error:
            raise BadSampleError(str(error), str(path)) from None
    return (width, height) if turned else (height, width)


def mask_limit(results: dict) -> int:
    """Pixels that a mask may have, given its sample: at least as many as its image has."""
    height, width = results.get("ori_shape", (0, 0))
    return max(MAX_PIXELS, height * width)


def read_labels(
    path: str | Path, backend_args: dict | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """The numbers (H, W) of a mask file, of any integer width, as int64; a bit is 0 or 1.

    Raises:
        BadSampleError: no such file, no readable picture, one that blurs its numbers, or several
            numbers a pixel.
    """
    content = _content(path, "mask", "seg_map_suffix", backend_args)
    with opened(content, path, "mask", max_pixels) as picture:
        if picture.mode not in LABEL_MODES:
            raise BadSampleError(f"{path}: {_no_labels(picture)}", str(path))
        labels = np.asarray(picture)
        if picture.format == "JPEG":
            raise BadSampleError(
                f"{path}: the mask is a JPEG, which blurs numbers; save it as PNG.", str(path)
            )
    return labels.astype(np.int64)


def _no_labels(picture: Image.Image) -> str:
    """Why a picture is no label map, and the remedy."""
    expected = "expected a mask with one number per pixel (grey or palette, 8 or 16 bits), but"
    mode = picture.mode
    if mode == "F":
        return f"{expected} it has fractions (mode F); save the class numbers instead."
    count, bands = len(picture.getbands()), np.asarray(picture)
    alike = bands[..., : 3 if count >= 3 else 1]  # beside them, opacity
    if count > 1 and (alike == alike[..., :1]).all():
        return (
            f"{expected} it has {count} channels (mode {mode}) that hold the same numbers; save "
            "the first alone, such as by Image.open(mask).getchannel(0).save(mask)."
        )
    return f"{expected} it has colours (mode {mode}); save the class numbers instead."


def _content(
    path: str | Path,
    what: str,
    suffix_key: str,
    backend_args: dict | None,
    file_client_args: dict | None = None,
) -> bytes:
    """The bytes of a file, from wherever mmengine's back ends read; on a disk, of files alone."""
    try:
        if file_client_args is not None:
            content = fileio.FileClient.infer_client(file_client_args, path).get(path)
        elif backend_args is not None or "://" in str(path):
            content = fileio.get(str(path), backend_args=backend_args)
        else:
            content = _local_content(path, what, suffix_key)
    except OSError as error:
        raise BadSampleError(
            f"{path}: the {what} cannot be read ({error.strerror or error}); make it readable.",
            str(path),
        ) from error
    if stand_in := stand_in_for_file(content[:1024]):
        raise BadSampleError(f"{path}: the {what} {stand_in}", str(path))
    return content


def _local_content(path: str | Path, what: str, suffix_key: str) -> bytes:
    if not os.path.lexists(path):
        raise BadSampleError(
            f"{path}: the {what} does not exist; add it, or correct {suffix_key} or data_prefix.",
            str(path),
        )
    try:
        with open_regular(path) as file:
            return file.read()
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise BadSampleError(f"{path}: the {what} {reason}", str(path)) from None


@contextmanager
def opened(
    content: bytes, path: str | Path, what: str, max_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image]:
    """Opens a picture with Pillow.

    Args:
        path: of the file, for messages.
        what: ``'image'`` or ``'mask'``.

    Raises:
        BadSampleError: empty, no picture, more than ``max_pixels`` pixels, or any damage that shows
            when the picture is decoded within the ``with`` block.
    """
    if not content:
        raise _damaged(path, what, "it is empty")
    try:
        with open_picture(io.BytesIO(content)) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise BadSampleError(
                    f"{path}: the {what} has {height}x{width} pixels (height x width), more than "
                    f"the limit of {max_pixels}; make it smaller, or take "
                    "dict(type='LoadCheckedImage', max_pixels=…) in the pipeline.",
                    str(path),
                )
            yield picture
    except BadSampleError:
        raise
    except Image.UnidentifiedImageError as error:
        raise _damaged(path, what, "it is no picture of a known format") from error
    except UNREADABLE as error:
        raise _damaged(path, what, error) from error


def _damaged(path: str | Path, what: str, reason: BaseException | str) -> BadSampleError:
    text = reason if isinstance(reason, str) else one_line(reason)
    again = "get it again" if what == "image" else "write it again"
    return BadSampleError(f"{path}: the {what} cannot be read ({text}); {again}.", str(path))
