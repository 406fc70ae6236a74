"""Seeing inside: where a patch looks, class by class scores, recipes side by side.

Attention is computed on the whole resized picture at once, not window by window, so that a patch
may look anywhere. Figures are matplotlib's; they are not pyplot's, so that threads may make them.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as _Figure

from ..errors import InputError
from ..runtime.lettering import figure_lettering
from .images import read_image, source_of
from .segmentation import Segmentation
from .segmenter import EncodedImage, ImageLike, Segmenter

# Recipes that are looked at unless others are asked for.
LOOKED_AT = ("clip", "naclip", "itaclip")
COMPARED = ("clip", "sclip", "naclip", "itaclip")
_PANEL = 3.2  # inches
_HEAT = "inferno"


class Figure(_Figure):
    """A matplotlib figure that notebooks show once, as the last value of a cell."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", bbox_inches="tight")
        return buffer.getvalue()


@dataclass(frozen=True, eq=False)
class Attention:
    """Where the patch of one pixel looks in a recipe's last block.

    Attributes:
        recipe: the recipe's name.
        at: (row, column) of the pixel in the picture.
        patch: (row, column) of its patch.
        weights: (h, w) float32, mean over heads. Over all tokens they sum to the number of terms
            that the recipe sums up.
        cls: weight of [CLS]; 0 without one.
        shape: (H, W) of the picture.
        covered: (H, W) of it that the patches cover; what is left at its ends is seen by none.
    """

    recipe: str
    at: tuple[int, int]
    patch: tuple[int, int]
    weights: np.ndarray
    cls: float
    shape: tuple[int, int]
    covered: tuple[float, float]

    def heat(self) -> np.ndarray:
        """The weights over the picture's pixels, (H, W) float32; the largest patch is 1."""
        height, width = (max(1, round(side)) for side in self.covered)
        peak = self.weights.max()
        weights = self.weights / peak if peak > 0 else self.weights
        heat = cv2.resize(weights, (width, height), interpolation=cv2.INTER_LINEAR)
        below, right = (max(0, a - b) for a, b in zip(self.shape, heat.shape, strict=True))
        heat = np.pad(heat, ((0, below), (0, right)), mode="edge")
        return heat[: self.shape[0], : self.shape[1]]


def attention_at(
    segmenter: Segmenter,
    image: ImageLike | EncodedImage,
    at: tuple[int, int],
    recipes: Sequence[str] = LOOKED_AT,
) -> list[Attention]:
    """The attention of the last block, for the patch of a pixel, recipe by recipe.

    The weights are loaded once and shared. A recipe that reads the words shows its first pass.
    Weights are as exact as the segmenter's precision: some three digits in bf16.

    Args:
        segmenter: whose model, sizes and device are used.
        image: as for :meth:`itaclip.Segmenter.segment`.
        at: (row, column) of the pixel in the picture, counted from 0.
        recipes: names, or anything that :meth:`itaclip.Segmenter.with_recipe` takes.

    Raises:
        InputError: the pixel lies outside the picture, or there is no such recipe.
    """
    source, (pixels, inputs) = source_of(image), segmenter.read(image)
    height, width = pixels.shape[:2]
    row, column = at
    if not (0 <= row < height and 0 <= column < width):
        raise InputError(
            f"at: expected a row from 0 to {height - 1} and a column from 0 to {width - 1} of "
            f"{source}, but got {row},{column}."
        )
    patch, sizes = segmenter.segmentor.image_encoder.patch_size, inputs.shape[-2:]
    grid = segmenter.segmentor.image_encoder.grid(tuple(sizes))
    scales = [side / size for side, size in zip((height, width), sizes, strict=True)]
    covered = tuple(n * patch * scale for n, scale in zip(grid, scales, strict=True))
    at_patch = tuple(
        min(int((pixel + 0.5) / scale) // patch, n - 1)
        for pixel, scale, n in zip(at, scales, grid, strict=True)
    )
    prefix = segmenter.segmentor.image_encoder.prefix
    token = prefix + at_patch[0] * grid[1] + at_patch[1]
    found = []
    for recipe in recipes:
        own = segmenter.with_recipe(recipe)
        more = {}
        if own.recipe.needs_regions:
            more["regions"] = own.region_map(pixels, source, tuple(sizes))[None]
        encoder = own.segmentor.image_encoder
        maps = encoder.attention_maps(inputs[None], **more)[0, :, token].mean(0).cpu()  # N
        weights = maps[prefix:].unflatten(0, grid).numpy()
        found.append(
            Attention(
                _name(recipe),
                (row, column),
                at_patch,
                weights,
                float(maps[:prefix].sum()),
                (height, width),
                covered,
            )
        )
    return found


@dataclass(frozen=True, eq=False)
class Comparison:
    """One recipe's labels, and where a pixel's patch looks if that was asked for."""

    recipe: str
    segmentation: Segmentation
    attention: Attention | None = None


def compare(
    segmenter: Segmenter,
    image: ImageLike | EncodedImage,
    classes: str | Sequence | None = None,
    *,
    recipes: Sequence[str] = COMPARED,
    at: tuple[int, int] | None = None,
    **options: object,
) -> list[Comparison]:
    """Segments one picture with several recipes that share the weights.

    Args:
        at: (row, column) of a pixel whose attention is looked at too.
        options: further ones of :meth:`itaclip.Segmenter.segment`.
    """
    pixels, source = _pixels(image)
    looks = [None] * len(recipes) if at is None else attention_at(segmenter, image, at, recipes)
    found = []
    for recipe, look in zip(recipes, looks, strict=True):
        own = segmenter.with_recipe(recipe)
        encoded = own.encode(image if isinstance(image, EncodedImage) else pixels, source)
        result = own.segment(encoded, classes, **options)
        found.append(Comparison(_name(recipe), result, look))
    return found


# ---- figures ------------------------------------------------------------------------------------


def attention_figure(image: ImageLike | EncodedImage, attentions: Sequence[Attention]) -> Figure:
    """The picture with the pixel marked, and a heat map over it for every recipe."""
    pixels, _ = _pixels(image)
    figure, axes = panels(1, 1 + len(attentions), pixels.shape[:2])
    show(axes[0, 0], pixels, "pixel {},{}".format(*attentions[0].at))
    _mark(axes[0, 0], attentions[0].at)
    for ax, attention in zip(axes[0, 1:], attentions, strict=True):
        _show_attention(ax, pixels, attention)
    return figure


def score_figure(result: Segmentation, classes: Sequence[str] | None = None) -> Figure:
    """The picture, and a map of scores from 0 to 1 for every class.

    Args:
        classes: first names; None takes the classes found, the largest first.

    Raises:
        InputError: the segmentation has no scores, or there is no such class.
    """
    if result.scores is None:
        raise InputError("scores: this segmentation was made without; leave scores=False out.")
    names = list(result.areas()) if classes is None else list(classes)
    unknown = [name for name in names if name not in result.classes]
    if unknown:
        raise InputError(
            f"classes: expected first names out of {', '.join(result.classes)}, but got "
            f"{unknown[0]!r}."
        )
    columns = min(4, 1 + len(names))
    figure, axes = panels(-(-(1 + len(names)) // columns), columns, result.labels.shape)
    show(axes.flat[0], result.image, "picture")
    titles, families = figure_lettering(names)
    for ax, name, title in zip(axes.flat[1:], names, titles, strict=False):
        scores = result.scores[..., result.classes.index(name)]
        drawn = ax.imshow(scores, cmap=_HEAT, vmin=0, vmax=1)
        ax.set_title(title, fontsize=9, family=families)
    figure.colorbar(drawn, ax=list(axes.flat), shrink=0.6)
    return figure


def comparison_figure(found: Sequence[Comparison], opacity: float = 0.6) -> Figure:
    """The picture and every recipe's overlay with one legend; below, attention if there is any."""
    from matplotlib.patches import Patch

    first = found[0].segmentation
    rows = 1 if found[0].attention is None else 2
    figure, axes = panels(rows, 1 + len(found), first.labels.shape)
    show(axes[0, 0], first.image, "picture")
    for ax, one in zip(axes[0, 1:], found, strict=True):
        show(ax, one.segmentation.overlay(opacity), one.recipe)
    if rows == 2:
        show(axes[1, 0], first.image, "pixel {},{}".format(*found[0].attention.at))
        _mark(axes[1, 0], found[0].attention.at)
        for ax, one in zip(axes[1, 1:], found, strict=True):
            _show_attention(ax, first.image, one.attention)
    shares = [one.segmentation.areas() for one in found]
    seen = [n for n in first.classes if any(n in own for own in shares)]
    colours = dict(zip(first.classes, first.palette, strict=True))
    names, families = figure_lettering(seen)
    handles = [
        Patch(color=np.asarray(colours[own]) / 255, label=name)
        for own, name in zip(seen, names, strict=True)
    ]
    place = dict(loc="outside lower center", ncols=8, frameon=False)
    figure.legend(handles=handles, prop={"family": families, "size": 9}, **place)
    return figure


def panels(rows: int, columns: int, shape: tuple[int, int]) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, columns), of the picture's proportions."""
    ratio = min(max(shape[0] / shape[1], 0.3), 3)
    size = (_PANEL * columns, _PANEL * ratio * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes


def show(ax: Axes, picture: np.ndarray, title: str) -> None:
    ax.imshow(picture)
    ax.set_title(title, fontsize=9)


def _show_attention(ax: Axes, pixels: np.ndarray, attention: Attention) -> None:
    """Grey picture under the heat map; the title says the largest weight."""
    grey = np.repeat(pixels.mean(-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    ax.imshow(grey)
    ax.imshow(attention.heat(), cmap=_HEAT, alpha=0.7, vmin=0, vmax=1)
    ax.set_title(f"{attention.recipe} (max {attention.weights.max():.2g})", fontsize=9)
    _mark(ax, attention.at)


def _mark(ax: Axes, at: tuple[int, int]) -> None:
    ax.plot(at[1], at[0], marker="+", color="cyan", markersize=10, markeredgewidth=2)


def _pixels(image: ImageLike | EncodedImage) -> tuple[np.ndarray, str]:
    if isinstance(image, EncodedImage):
        return image.image, image.source
    return read_image(image), source_of(image)


def _name(recipe: object) -> str:
    if isinstance(recipe, str):
        return recipe
    return str(recipe.get("recipe")) if isinstance(recipe, dict) else type(recipe).__name__
