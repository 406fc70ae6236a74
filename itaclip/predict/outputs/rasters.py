"""Formats with a value for every pixel: overlays, masks, scores, GeoTIFF."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...runtime.files import atomic_write, write_whole
from .base import Writer

if TYPE_CHECKING:
    from ..segmentation import Segmentation


class OverlayWriter(Writer):
    """Picture and overlay side by side, with a legend."""

    name, folder, suffix = "overlay", "overlays", ".png"

    def write(self, result: "Segmentation") -> list[Path]:
        return [result.save(self.own[result.source], self.options.opacity)]


class MaskWriter(Writer):
    """PNG whose values are class indices, with the classes' palette; names in ``classes.txt``."""

    name, folder, suffix = "mask", "masks", ".png"
    _classes: tuple[str, ...] = ()

    def shared(self) -> list[Path]:
        return [self.root / self.folder / "classes.txt"]

    def write(self, result: "Segmentation") -> list[Path]:
        self._classes = result.classes
        return [result.save_mask(self.own[result.source])]

    def finish(self) -> list[Path]:
        lines = "".join(f"{index} {name}\n" for index, name in enumerate(self._classes))
        return [write_whole(path, lines) for path in self.shared()] if lines else []


class ScoreWriter(Writer):
    """Compressed NPZ: ``scores`` (H, W, C) float16, ``labels`` (H, W), ``classes`` (C,)."""

    name, folder, suffix = "scores", "scores", ".npz"
    needs_scores = True

    def write(self, result: "Segmentation") -> list[Path]:
        path = self.own[result.source]
        with atomic_write(path) as aside, open(aside, "wb") as file:
            np.savez_compressed(
                file,
                scores=result.scores.astype(np.float16),
                labels=result.labels,
                classes=np.array(result.classes),
            )
        return [path]


class GeoTiffWriter(Writer):
    """GeoTIFF of class indices with the place on Earth of its picture, where that has one."""

    name, folder, suffix = "geotiff", "geotiff", ".tif"
    package = ("rasterio", "outputs")

    def write(self, result: "Segmentation") -> list[Path]:
        path = self.own[result.source]
        profile = label_profile(result.source, result.labels.shape, len(result.classes))
        with atomic_write(path) as aside, created(aside, profile) as target:
            describe(target, result.classes, result.palette)  # before the values: GDAL's order
            target.write(result.labels.astype(profile["dtype"]), 1)
        return [path]


@contextmanager
def quiet() -> Iterator[None]:
    """Without rasterio's warning that a picture has no place on Earth."""
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def created(path: Path, profile: Mapping[str, Any]) -> Iterator[Any]:
    """A new raster, open for writing."""
    import rasterio

    with quiet(), rasterio.open(path, "w", **profile) as target:
        yield target


def label_profile(source: str, size: tuple[int, int], classes: int) -> dict:
    """rasterio's settings for a label map, with the georeference of ``source`` if it has one.

    Raises:
        InputError: more classes than 16 bits hold.
    """
    if classes > 1 << 16:
        raise InputError(f"{source}: a GeoTIFF of labels holds at most 65536 classes.")
    height, width = size
    return {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": "uint8" if classes <= 256 else "uint16",
        **({"photometric": "palette"} if classes <= 256 else {}),
        "compress": "deflate",
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        **georeference(source, size),
    }


def georeference(source: str, size: tuple[int, int]) -> dict:
    """``crs`` and ``transform`` of a picture's file; empty if it has none."""
    import rasterio
    from rasterio.errors import RasterioError

    if not Path(source).is_file():
        return {}
    try:
        with quiet(), rasterio.open(source) as picture:
            if picture.shape != tuple(size):
                return {}  # turned by EXIF: no GeoTIFF
            found = {} if picture.crs is None else {"crs": picture.crs}
            if not picture.transform.is_identity:
                found["transform"] = picture.transform
            return found
    except RasterioError:  # a kind of picture that GDAL does not read has no georeference
        return {}


def describe(target: Any, classes: Sequence[str], palette: Sequence[Sequence[int]]) -> None:
    """Names and colours of the classes into an open GeoTIFF."""
    target.update_tags(classes=json.dumps(list(classes), ensure_ascii=False))
    target.set_band_description(1, "class index")
    if len(classes) <= 256:
        target.write_colormap(1, {index: (*colour, 255) for index, colour in enumerate(palette)})
