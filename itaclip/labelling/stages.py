"""The stages before and after the model, on CPUs: pictures decoded and resized, labels packed.

Each stage takes and gives a row, a ``dict``; the one between is :mod:`itaclip.labelling.labeller`.
A picture that cannot be used gets a sentence as ``error`` and passes through. PyTorch is not
imported.

Shapes: H, W picture; h, w network input; h', w' where labels are made (at most the largest result
side).
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError
from ..predict.images import enlarged, fit, read_image

Row = dict[str, Any]
DECIMALS = 4  # of scores, so that rounding on other hardware seldom shows


@dataclass(frozen=True)
class Spec:
    """All that decoding and packing need to know of the model and its words.

    Attributes:
        classes: their first names.
        palette: a colour for each, RGB 0-255.
        short_side, max_long_side: pictures are resized to; None = not.
        max_result_side: labels are made at, at most; None = no limit.
        patch: the least side of the network's input.
        labels: ``'png'`` or ``'rle'``.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    short_side: int | None
    max_long_side: int | None
    max_result_side: int | None
    patch: int
    labels: str = "png"


def decode(row: Row, spec: Spec) -> Row:
    """``image`` (bytes, a path or an array) → ``pixels`` (h·w·3 bytes, RGB), ``input_size``,
    ``height``, ``width``.
    """
    made = {key: value for key, value in row.items() if key != "image"}
    made |= dict(pixels=None, input_size=[0, 0], height=None, width=None)
    if row.get("error") is not None:
        return made
    made["error"] = None
    name = str(row.get("key") or "image")
    try:
        pixels = read_image(row["image"], name)
        resized = fit(pixels, spec.short_side, spec.max_long_side, spec.patch, name)
    except InputError as error:
        return made | {"error": str(error)}
    except MemoryError:
        return made | {"error": f"{name}: there is not enough memory to decode it; shrink it."}
    height, width = pixels.shape[:2]
    made["pixels"], made["input_size"] = resized.tobytes(), list(resized.shape[:2])
    return made | {"height": height, "width": width}


def pack(row: Row, spec: Spec) -> Row:
    """``small`` → ``labels`` (PNG bytes at the picture's size, or None) and ``found``.

    ``found`` lists the classes in the picture, the largest first: index, name, pixels, area (share
    of the picture), score, and with ``'rle'`` its mask in COCO's compressed run-length code.
    """
    left = ("small", "small_size", "score_of")
    made = {key: value for key, value in row.items() if key not in left}
    made |= dict(labels=None, found=[])
    if row["error"] is not None:
        return made
    small = np.frombuffer(row["small"], np.uint16).reshape(row["small_size"])
    labels = enlarged(small, (row["height"], row["width"]))
    pixels = np.bincount(labels.ravel(), minlength=len(spec.classes))
    for index in np.argsort(-pixels, kind="stable"):
        if not pixels[index]:
            break
        made["found"].append(
            {
                "index": int(index),
                "name": spec.classes[index],
                "pixels": int(pixels[index]),
                "area": round(float(pixels[index] / labels.size), 6),
                "score": round(row["score_of"][index], DECIMALS),
                "rle": _rle(labels == index) if spec.labels == "rle" else None,
            }
        )
    if spec.labels == "png":
        made["labels"] = encode_png(labels, spec.palette)
    return made


def encode_png(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> bytes:
    """A PNG whose values are class numbers, as :meth:`itaclip.Segmentation.save_mask` writes it.

    Up to 256 classes it has 8 bits and the palette, else 16 bits.
    """
    if len(palette) > 256:
        picture = Image.fromarray(labels.astype(np.uint16))
    else:
        indices = labels.astype(np.uint8)
        picture = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
        picture.putpalette(np.asarray(palette, dtype=np.uint8).tobytes())
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def _rle(mask: np.ndarray) -> bytes:
    from pycocotools.mask import encode

    return encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
