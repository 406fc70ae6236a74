"""Regions: pieces of a picture that know no class, and what they make of labels and scores.

A region map R (H, W) gives every pixel the number of its region; 0 means none. Regions come from
files beside the pictures, from superpixels (SLIC), or from SAM's automatic masks. Rules:

* ``vote``: all pixels of a region take the most frequent of their labels (CorrCLIP's "map
  correction"). It is the last step of all; scores stay as they are.
* ``mean``: all pixels of a region take the mean of their scores. It comes after refinement and
  before the area rule and the threshold.
* ``sam_refine``: SAM's decoder redraws what was found (Trident); see :mod:`itaclip.sam`.

Under ``vote`` and ``mean``, pixels of region 0 stay as they are.

Shapes: H, W pixels; C classes (last); R regions.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .checks import integer, number
from .errors import BadSampleError, InputError
from .sam import SamSource, sam_refine

RULES = ("vote", "mean", "sam_refine")
_STRIP_ELEMENTS = 1 << 22
# Scores are summed as integers of this unit: sums are then the same in any order, also on a GPU.
_UNIT = 1 << 32
# Pillow's names of pictures with one number per pixel; a palette's numbers are its indices.
_LABEL_MODES = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class Picture:
    """What is known of a picture beside what the network sees of it.

    Attributes:
        size: (H, W).
        path: the picture's file; None where it has none.
        pixels: gives (H, W, 3) uint8 RGB, for sources that look at them.
        device: where SAM runs.
        flip: axes along which the network sees it flipped.
        truth: labels (H, W) of the ground truth, where there is one.
    """

    size: tuple[int, int]
    path: str | None
    pixels: Callable[[], np.ndarray]
    device: torch.device | str = "cpu"
    flip: tuple[int, ...] = ()
    truth: Tensor | None = None

    def seen_pixels(self) -> np.ndarray:
        """:attr:`pixels` as the network sees them."""
        return np.flip(self.pixels(), self.flip) if self.flip else self.pixels()


# ---- rules --------------------------------------------------------------------------------------


def vote(labels: Tensor, regions: Tensor) -> Tensor:
    """Gives every region the most frequent of its labels, the smallest of equals.

    Args:
        labels: (H, W) int64.
        regions: (H, W) int64 from 0; where it is 0, labels stay.

    Returns:
        (H, W) int64.
    """
    inside = regions > 0
    ids, own = regions[inside].unique(return_inverse=True)
    if not len(ids):
        return labels.clone()
    span = int(labels.max()) + 1
    pairs, counts = (own * span + labels[inside]).unique(return_counts=True)
    region, label = pairs // span, pairs % span
    most = counts.new_zeros(len(ids)).scatter_reduce(0, region, counts, "amax")
    label = label.masked_fill(counts < most[region], span)
    winners = label.new_full((len(ids),), span).scatter_reduce(0, region, label, "amin")
    voted = labels.clone()
    voted[inside] = winners[own]
    return voted


def pool(scores: Tensor, regions: Tensor) -> Tensor:
    """Gives every pixel of a region the mean of the region's scores.

    Args:
        scores: (H, W, C) in [0, 1]; overwritten.
        regions: (H, W) int64 from 0; where it is 0, scores stay.
    """
    ids, own = regions.unique(return_inverse=True)
    sums = torch.zeros(len(ids), scores.shape[-1], dtype=torch.int64, device=scores.device)
    step = max(1, _STRIP_ELEMENTS // max(1, scores[0].numel()))
    for strip, rows in zip(scores.split(step), own.split(step), strict=True):
        whole = (strip.double() * _UNIT).round().long()
        sums.index_add_(0, rows.flatten(), whole.flatten(0, 1))
    counts = own.flatten().bincount(minlength=len(ids))
    means = (sums.double() / _UNIT / counts[:, None]).to(scores.dtype)
    for strip, rows, numbers in zip(
        scores.split(step), own.split(step), regions.split(step), strict=True
    ):
        inside = numbers > 0
        strip[inside] = means[rows[inside]]
    return scores


# ---- sources ------------------------------------------------------------------------------------


class Source(Protocol):
    """Where region maps come from: a frozen dataclass whose fields are its keys in a config."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __call__(self, picture: Picture) -> np.ndarray:
        """The region map of a picture, (H, W) integers from 0."""


@dataclass(frozen=True)
class FileSource:
    """Maps in files beside the pictures: integers as PNG (8 or 16 bits) or NPY.

    The map of ``photos/cat.jpg`` is ``folder/cat.png``.

    Args:
        folder: of the maps.
        suffix: what follows the picture's name without its ending, such as ``'_regions.npy'``.
        root: folder of the pictures; the path below it is kept. None keeps the name alone.
    """

    folder: str
    suffix: str = ".png"
    root: str | None = None

    def __post_init__(self) -> None:
        for name in ("folder", "suffix", "root"):
            value = getattr(self, name)
            if not isinstance(value, str | Path) and not (name == "root" and value is None):
                raise InputError(f"regions.{name}: expected a text, but got {value!r}.")
        if Path(f"x{self.suffix}").suffix.lower() not in (".png", ".npy"):
            raise InputError(
                f"regions.suffix: expected an ending in .png or .npy, but got {self.suffix!r}."
            )

    def path_of(self, picture: str | None) -> Path:
        """The file of a picture's map.

        Raises:
            InputError: the picture has no file, or lies outside ``root``.
        """
        if not picture or not Path(picture).stem:
            raise InputError(
                "regions: maps from files need a picture's file name, but this picture has none; "
                "give its path, or take source='slic' or 'sam'."
            )
        below = Path(Path(picture).name)
        if self.root is not None:
            root = Path(self.root).expanduser().resolve()
            try:
                below = Path(picture).expanduser().resolve().relative_to(root)
            except ValueError:
                raise InputError(
                    f"regions.root: {picture} does not lie below {self.root}; give the folder that "
                    "holds all pictures."
                ) from None
        return Path(self.folder).expanduser() / below.with_name(below.stem + self.suffix)

    def __call__(self, picture: Picture) -> np.ndarray:
        return read_region_map(self.path_of(picture.path), picture.size)


def read_region_map(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """The region map (H, W) int64 of a PNG or NPY file.

    Args:
        path: the file.
        size: (H, W) that it must have; None takes any.

    Raises:
        BadSampleError: missing, damaged, of another size, or with anything but integers from 0.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".npy":
            values = np.load(path, allow_pickle=False)
            what = f"values of type {values.dtype}"
        else:
            with Image.open(path) as picture:
                what = f"a picture of mode {picture.mode}"
                known = picture.mode in _LABEL_MODES
                values = np.asarray(picture) if known else np.zeros((0, 0), np.float32)
    except FileNotFoundError:
        raise BadSampleError(
            f"{path}: the region map does not exist; add it, or correct regions.folder, suffix or "
            "root.",
            str(path),
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadSampleError(
            f"{path}: the region map cannot be read ({reason[:200]}); write it again.", str(path)
        ) from error
    if values.dtype.kind not in "iub":
        raise BadSampleError(
            f"{path}: expected a region map with one integer per pixel, but it has {what}; save "
            "the regions' numbers.",
            str(path),
        )
    if values.ndim != 2 or (size is not None and values.shape != tuple(size)):
        expected = "height x width" if size is None else f"{size[0]}x{size[1]} (height x width)"
        raise BadSampleError(
            f"{path}: expected a region map of {expected} like its picture, but it has "
            f"{'x'.join(map(str, values.shape))}; make it again.",
            str(path),
        )
    if values.size and (values.min() < 0 or values.max() > np.iinfo(np.int64).max):
        raise BadSampleError(
            f"{path}: expected region numbers from 0 (in no region), but it has "
            f"{values.min() if values.min() < 0 else values.max()}; number them from 1.",
            str(path),
        )
    return values.astype(np.int64)


@dataclass(frozen=True)
class SlicSource:
    """Superpixels (SLIC, Achanta et al., TPAMI 2012) of scikit-image: no weights, no class.

    Args:
        segments: about how many.
        compactness: weight of nearness against likeness of colour; larger is squarer.
        sigma: blur before, in pixels.
    """

    segments: int = 300
    compactness: float = 10.0
    sigma: float = 0.0

    def __post_init__(self) -> None:
        integer(self.segments, "regions.segments", 1)
        number(self.compactness, "regions.compactness", 1e-6)
        number(self.sigma, "regions.sigma", 0)

    def __call__(self, picture: Picture) -> np.ndarray:
        try:
            from skimage.segmentation import slic
        except ImportError as error:
            raise InputError(
                "regions: superpixels need scikit-image; run pip install 'itaclip[regions]'."
            ) from error
        found = slic(
            picture.pixels(),
            n_segments=self.segments,
            compactness=self.compactness,
            sigma=self.sigma,
            start_label=1,
            channel_axis=-1,
        )
        return found.astype(np.int64)


SOURCES: dict[str, type[Source]] = {"files": FileSource, "slic": SlicSource, "sam": SamSource}


# ---- the key `regions` --------------------------------------------------------------------------


@dataclass(frozen=True)
class Regions:
    """The key ``regions`` of a model, checked.

    Attributes:
        source: gives region maps; for the rule ``sam_refine`` it is the SAM that redraws.
        rule: one of :data:`RULES`.
    """

    source: Source
    rule: str = "vote"

    def relabel(self, labels: Tensor, scores: Tensor | None, picture: Picture) -> Tensor:
        """Labels (H, W) under the rules that are about labels.

        Args:
            labels: (H, W) int64.
            scores: (H, W, C), which ``sam_refine`` reads.
            picture: the picture.
        """
        if self.rule == "vote":
            return vote(labels, self.map(picture, tuple(labels.shape)))
        if self.rule == "sam_refine":
            sam = cast(SamSource, self.source)  # as parse_regions saw to
            return sam_refine(scores, labels, picture.seen_pixels(), sam)
        return labels

    def map(self, picture: Picture, output_size: tuple[int, int] | None = None) -> Tensor:
        """The region map of a picture at ``output_size`` (H, W), None for its own: int64.

        Raises:
            BadSampleError: this picture's map cannot be used.
            InputError: no picture's map can be had.
        """
        found = torch.from_numpy(np.ascontiguousarray(self.source(picture)))
        found = found.flip(picture.flip) if picture.flip else found
        return resize_map(found, output_size or picture.size).to(picture.device)


def resize_map(regions: Tensor, size: tuple[int, int]) -> Tensor:
    """A region map (H, W) int64 at another size, by the nearest."""
    if tuple(regions.shape) == tuple(size):
        return regions
    axes = (
        ((torch.arange(new) + 0.5) * old / new).long().clamp(max=old - 1)
        for old, new in zip(regions.shape, size, strict=True)
    )
    rows, columns = axes
    return regions[rows][:, columns]


def parse_regions(value: Mapping | Regions | None) -> Regions | None:
    """Validates the key ``regions``; None stays None.

    Raises:
        InputError: an unknown source, rule or key, or a value out of range.
    """
    if value is None or isinstance(value, Regions):
        return value
    names = ", ".join(f"'{name}'" for name in SOURCES)
    if not isinstance(value, Mapping):
        raise InputError(
            f"regions: expected None or dict(source=…, rule=…) with a source out of {names}, but "
            f"got {value!r}."
        )
    given = dict(value)
    source, rule = given.pop("source", None), given.pop("rule", "vote")
    kind = SOURCES.get(source) if isinstance(source, str) else None
    if kind is None:
        raise InputError(f"regions.source: expected one of {names}, but got {source!r}.")
    if rule not in RULES:
        raise InputError(f"regions.rule: expected one of {', '.join(RULES)}, but got {rule!r}.")
    if rule == "sam_refine" and source != "sam":
        raise InputError(
            f"regions.rule: 'sam_refine' needs source='sam', but the source is {source!r}."
        )
    keys = {field.name: field.default for field in fields(kind) if field.init}
    for key in given:
        if key not in keys:
            raise InputError(
                f"regions.{key}: source {source!r} has no such key; expected one of "
                f"{', '.join([*keys, 'rule'])}."
            )
    for key, default in keys.items():
        if default is MISSING and key not in given:
            raise InputError(f"regions.{key}: source {source!r} needs it, but it is missing.")
    return Regions(kind(**given), rule)
