"""Pictures larger than memory, labelled tile by tile into a GeoTIFF.

A tile is labelled within a region around it that holds every window that the tile's pixels see, and
every pixel from which refinement and closing can reach them. The windows lie where they would lie
in the whole picture, so the labels are those of the whole picture, but for rounding.

Finished tiles are files of their own beside the result until all are done: the same command goes on
after the last one.

Shapes: H, W pixels of the picture; heights first.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..checks import integer
from ..errors import InputError
from ..runtime.batches import trim_memory
from ..runtime.files import atomic_write, write_whole
from ..runtime.outputs import check_outputs
from ..runtime.palette import palette_of
from ..runtime.pictures import save_picture
from ..segmentor import Segmentor
from .audit.measure import class_names
from .outputs.rasters import created, describe, label_profile, quiet
from .segmenter import Background, Classes, Segmenter

_CACHE = 256  # MB of blocks that GDAL keeps; its default grows with the machine's memory
_BLOCK = 256  # side of a GeoTIFF's own tiles; a multiple writes whole ones


@dataclass(frozen=True)
class Tile:
    """A part of the picture and the region that it is labelled in: (top, left, bottom, right)."""

    row: int
    column: int
    core: tuple[int, int, int, int]
    region: tuple[int, int, int, int]


def segment_large(
    model: Segmenter,
    path: str | Path,
    out: str | Path,
    classes: Classes | None = None,
    *,
    background: Background = None,
    auxiliary_texts: Mapping[str, str] | None = None,
    prob_thd: float | None = None,
    tile: int = 2048,
    on_tile: Callable[[int, int], object] = lambda done, of: None,
) -> Path:
    """Labels a picture of any size at its own resolution, in bounded memory.

    Args:
        model: a loaded model; its limits of a picture's size do not count here.
        path: any raster that GDAL reads, such as GeoTIFF, of 8 bits, with one or at least three
            bands (red, green, blue). Files that can be read from any place, such as tiled GeoTIFF,
            are fastest.
        out: the GeoTIFF of class indices; it keeps the picture's place on Earth.
        classes, background, auxiliary_texts, prob_thd: as for :meth:`Segmenter.segment`.
        tile: side of the tiles in pixels, a multiple of 256.
        on_tile: told the number of finished tiles and of all.

    Returns:
        ``out``.

    Raises:
        InputError: a picture that cannot be read, or settings that look at the whole picture.
    """
    import importlib.util

    if importlib.util.find_spec("rasterio") is None:
        raise InputError("large pictures need rasterio; run pip install 'itaclip[outputs]'.")
    import rasterio
    from rasterio.errors import RasterioError

    path, out = Path(path).expanduser(), Path(out).expanduser()
    integer(tile, "tile", _BLOCK)
    if tile % _BLOCK:
        raise InputError(f"tile: expected a multiple of {_BLOCK}, but got {tile}.")
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise InputError(f"{out}: expected a file name that ends in .tif; change it.")
    parts = out.with_name(f"{out.name}.tiles")
    check_outputs([out], [path])
    segmentor = model.segmentor_for(
        classes, background=background, auxiliary_texts=auxiliary_texts, prob_thd=prob_thd
    ).variant(return_scores=False)
    check_local(segmentor)
    try:
        with quiet(), rasterio.Env(GDAL_CACHEMAX=_CACHE), rasterio.open(path) as picture:
            _check_picture(picture, path, segmentor)
            tiles = list(plan_tiles(picture.shape, segmentor, tile))
            _open_folder(parts, _identity(path, segmentor, tile))
            for done, one in enumerate(tiles):
                on_tile(done, len(tiles))
                target = parts / f"{one.row:04d}-{one.column:04d}.png"
                if not target.is_file():
                    save_picture(target, _labels(model, segmentor, picture, one, path))
                    trim_memory()
            on_tile(len(tiles), len(tiles))
    except RasterioError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: the picture cannot be read ({reason}).") from error
    _assemble(out, parts, tiles, path, segmentor)
    shutil.rmtree(parts)
    return out


# ---- what may be labelled by parts --------------------------------------------------------------


def check_local(segmentor: Segmentor) -> None:
    """Refuses settings under which a pixel's label depends on the whole picture (InputError)."""
    settings = segmentor.settings
    for key in ("area_thd", "regions", "class_pruning", "propagation"):
        if getattr(settings, key, None) is not None:
            raise InputError(
                f"{key}: it looks at the whole picture, which is labelled tile by tile here; turn "
                "it off."
            )
    recipe = segmentor.image_encoder.recipe
    if recipe.joint or recipe.needs_stitch or recipe.needs_regions or recipe.reads_cls == "picture":
        raise InputError(
            f"attention: the recipe {recipe.name!r} looks at the whole picture, which is labelled "
            "tile by tile here; take another one."
        )
    windows = settings.windows
    if windows.whole or windows.merge != "average":
        raise InputError(
            "test_cfg: a picture that is labelled tile by tile needs windows whose maps are "
            "averaged: mode='slide', merge='average'."
        )


def reach(segmentor: Segmentor) -> int:
    """How far refinement and closing look, in pixels."""
    settings = segmentor.settings
    pamr = settings.pamr
    refined = pamr.num_iter * max(pamr.dilations) if pamr else 0
    return refined + 2 * (settings.label_closing // 2)


def plan_tiles(size: tuple[int, int], segmentor: Segmentor, tile: int) -> Iterator[Tile]:
    """The tiles of a picture of ``size`` (H, W), row by row."""
    windows = segmentor.settings.windows
    grid = windows.over(size)
    halo = reach(segmentor)
    axes = zip(size, (grid.tops, grid.lefts), grid.window, strict=True)
    rows, columns = (_spans(side, starts, crop, halo, tile) for side, starts, crop in axes)
    for row, (top, bottom, above, below) in enumerate(rows):
        for column, (left, right, before, after) in enumerate(columns):
            yield Tile(row, column, (top, left, bottom, right), (above, before, below, after))


def _spans(
    side: int, starts: tuple[int, ...], crop: int, halo: int, tile: int
) -> list[tuple[int, int, int, int]]:
    """Along one axis: first, last + 1 of each tile, and of the region of the windows it needs."""
    spans = []
    for first in range(0, side, tile):
        last = min(side, first + tile)
        seen = [s for s in starts if s < last + halo and s + crop > first - halo]
        spans.append((first, last, seen[0], seen[-1] + crop))
    return spans


# ---- one tile -----------------------------------------------------------------------------------


def _labels(
    model: Segmenter, segmentor: Segmentor, picture: Any, tile: Tile, path: Path
) -> np.ndarray:
    """The labels of a tile's core, (h, w) uint8 or uint16."""
    from rasterio.windows import Window

    top, left, bottom, right = tile.region
    window = Window(left, top, right - left, bottom - top)
    bands = [1, 2, 3] if picture.count >= 3 else [1, 1, 1]
    pixels = np.ascontiguousarray(picture.read(bands, window=window).transpose(1, 2, 0))
    unlimited = Segmenter(model.segmentor)
    inputs = unlimited.network_input(pixels, str(path))
    labels, _ = segmentor.segment(inputs, pixels.shape[:2])
    first, before, last, after = tile.core
    own = labels[first - top : last - top, before - left : after - left].cpu().numpy()
    return own.astype(np.uint8 if segmentor.vocabulary.num_classes <= 256 else np.uint16)


def _check_picture(picture: Any, path: Path, segmentor: Segmentor) -> None:
    if picture.count == 2:
        raise InputError(f"{path}: expected one or at least three bands, but it has two.")
    kinds = {str(kind) for kind in picture.dtypes[:3]}
    if kinds != {"uint8"}:
        raise InputError(
            f"{path}: expected bands of 8 bits, but they are {', '.join(sorted(kinds))}; bring "
            "them to 0 … 255, for example by `gdal_translate -ot Byte -scale`."
        )
    patch = segmentor.image_encoder.patch_size
    if min(picture.shape) < patch:
        raise InputError(
            f"{path}: the model needs {patch} pixels at least on each side, but the picture has "
            f"{picture.shape[0]}x{picture.shape[1]} (height x width); enlarge it."
        )


# ---- files --------------------------------------------------------------------------------------


def _identity(path: Path, segmentor: Segmentor, tile: int) -> str:
    """All that the tiles depend on, as text."""
    stat = path.stat()
    encoder = segmentor.image_encoder
    content = {
        "picture": [str(path.resolve()), stat.st_size, stat.st_mtime_ns],
        "tile": tile,
        "words": [list(names) for names in segmentor.vocabulary.class_names],
        "texts": list(segmentor.vocabulary.auxiliary_texts),
        "background": segmentor.vocabulary.background,
        "settings": repr(segmentor.settings),
        "recipe": repr(encoder.recipe),
        "precision": encoder.precision,
        "weights": segmentor.text_encoder.digest(),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _open_folder(parts: Path, identity: str) -> None:
    """Makes the folder of tiles, or goes on with one of the same work."""
    note = parts / "work.json"
    if parts.is_dir():
        if not note.is_file() or note.read_text(encoding="utf-8") != identity:
            raise InputError(
                f"{parts}: the tiles there are of another picture, words or settings; delete the "
                "folder, or choose another place for the result."
            )
        return
    write_whole(note, identity)


def _assemble(out: Path, parts: Path, tiles: list[Tile], path: Path, segmentor: Segmentor) -> None:
    from rasterio.windows import Window

    vocabulary = segmentor.vocabulary
    names = class_names(vocabulary)
    size = (tiles[-1].core[2], tiles[-1].core[3])
    profile = label_profile(str(path), size, len(names)) | {"bigtiff": "if_safer"}
    with atomic_write(out) as aside, created(aside, profile) as target:
        describe(target, names, palette_of(names, vocabulary.background))
        for tile in tiles:
            top, left, bottom, right = tile.core
            with Image.open(parts / f"{tile.row:04d}-{tile.column:04d}.png") as kept:
                values = np.asarray(kept).astype(profile["dtype"])
            target.write(values, 1, window=Window(left, top, right - left, bottom - top))
