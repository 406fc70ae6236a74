"""Segmenter: a loaded model that turns pictures into a Segmentation, and is not changed by it."""

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import BadSampleError, InputError
from ..features import DenseFeatures
from ..recipes import RECIPES, Recipe
from ..recipes.base import keys_of
from ..regions import Picture
from ..runtime.batches import trim_memory
from ..runtime.palette import palette_of
from ..segmentor import Segmentor
from .images import enlarged, find_images, fit, read_image, resized_shape, source_of
from .segmentation import Segmentation
from .words import BACKGROUND, make_vocabulary

if TYPE_CHECKING:
    from .pipeline import ConfigPipeline

ImageLike = str | Path | Image.Image | np.ndarray
Classes = str | Sequence[str | Sequence[str]]
Background = bool | str | Sequence[str] | None
_MAX_VOCABULARIES = 16  # kept with their text features

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """A picture and its features, for any number of questions about it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        inputs: (3, h, w), resized and CLIP-normalised.
        features: those of the recipe that made it; None where they depend on words or regions.
        source: the file's path or ``'image'``.
    """

    image: np.ndarray = field(repr=False)
    inputs: Tensor = field(repr=False)
    features: DenseFeatures | None = field(repr=False)
    source: str
    made_by: tuple = field(repr=False)


class Segmenter:
    """A loaded model that segments pictures into words; made by :func:`load`.

    Methods leave it as it is, so that one may be shared by threads.

    Args:
        segmentor: the model.
        short_side, max_long_side: what pictures are resized to, in pixels.
        max_result_side: long side at which labels and scores are made.
        pipeline: a config's, which then resizes in the place of the sides.
    """

    def __init__(
        self,
        segmentor: Segmentor,
        short_side: int | None = None,
        max_long_side: int | None = None,
        max_result_side: int | None = None,
        pipeline: "ConfigPipeline | None" = None,
    ) -> None:
        self.segmentor, self.pipeline = segmentor, pipeline
        self.short_side, self.max_long_side = short_side, max_long_side
        self.max_result_side = max_result_side
        # The latest words last. Held while words are encoded, which threads then do only once.
        self._vocabularies: OrderedDict[tuple, Segmentor] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def device(self) -> torch.device:
        return self.segmentor.text_features.device

    @property
    def recipe(self) -> Recipe:
        return self.segmentor.image_encoder.recipe

    def describe(self) -> str:
        """Device, precision, windows and size, in a line."""
        encoder, settings = self.segmentor.image_encoder, self.segmentor.settings
        windows = "the whole picture at once"
        if not settings.windows.whole:
            (height, width), (down, right) = settings.windows.crop_size, settings.windows.stride
            windows = f"windows of {height}x{width} every {down}x{right} pixels"
        size = "its own size" if self.short_side is None else f"short side {self.short_side}"
        size = size if self.pipeline is None else "the config's size"
        views = len(settings.views)
        return f"{self.device}, {str(encoder.dtype)[6:]}, {size}, {windows}, {views} view(s) each"

    def with_recipe(self, recipe: str | Mapping | Recipe) -> "Segmenter":
        """A segmenter with another recipe that shares this one's weights.

        Raises:
            InputError: see :func:`itaclip.recipes.resolve_recipe`.
        """
        return self.variant(fitting(recipe, self.segmentor.image_encoder.depth))

    def variant(
        self, attention: str | Mapping | Recipe | None = None, **changes: Any
    ) -> "Segmenter":
        """A segmenter with other settings that shares this one's weights.

        Args:
            attention, changes: see :meth:`itaclip.segmentor.Segmentor.variant`.
        """
        variant = self.segmentor.variant(attention, **changes)
        sizes = (self.short_side, self.max_long_side, self.max_result_side)
        return Segmenter(variant, *sizes, self.pipeline)

    # ---- one picture ----------------------------------------------------------------------------

    def encode(
        self,
        image: ImageLike | EncodedImage,
        source: str | None = None,
        bits: int | None = None,
    ) -> EncodedImage:
        """Reads a picture and keeps its features, so that other words take no encoder pass.

        Args:
            image: see :func:`itaclip.predict.images.read_image`.
            source: what results and messages call it; None takes the path, or ``'image'``.
            bits: as for :func:`itaclip.predict.images.read_image`.

        Raises:
            InputError: the picture cannot be read, or is too small or too narrow.
        """
        made_by = self._made_by()
        if isinstance(image, EncodedImage) and image.made_by == made_by:
            return image
        source = source or source_of(image)
        pixels, inputs = self.read(image, source, bits)
        later = self.recipe.needs_text or self.recipe.needs_regions
        kept = None if later else self.segmentor.extract_feat(inputs)
        return EncodedImage(pixels, inputs, kept, source, made_by)

    def read(
        self,
        image: ImageLike | EncodedImage,
        source: str | None = None,
        bits: int | None = None,
    ) -> tuple[np.ndarray, Tensor]:
        """A picture (H, W, 3) uint8 RGB, and (3, h, w) as it goes into the network.

        Args, Raises: as of :meth:`encode`.
        """
        source = source or source_of(image)
        if isinstance(image, EncodedImage):
            return image.image, self.network_input(image.image, source)
        if self.pipeline is not None:
            pixels, bgr = self.pipeline(image, source, bits)
            return pixels, self._normalised(bgr)
        pixels = read_image(image, source, bits)
        return pixels, self.network_input(pixels, source)

    def network_input(self, pixels: np.ndarray, source: str = "image") -> Tensor:
        """(H, W, 3) uint8 RGB → (3, h, w), resized and normalised, on the device.

        Raises:
            InputError: a side is shorter than a patch.
        """
        if self.pipeline is not None:
            return self._normalised(self.pipeline(pixels, source)[1])
        patch = self.segmentor.image_encoder.patch_size
        resized = fit(pixels, self.short_side, self.max_long_side, patch, source)
        bgr = torch.from_numpy(np.ascontiguousarray(resized[..., ::-1].transpose(2, 0, 1)))
        return self._normalised(bgr)

    def _normalised(self, bgr: Tensor) -> Tensor:
        """(3, h, w) on the device."""
        return self.segmentor.data_preprocessor({"inputs": [bgr]})["inputs"][0]

    def _made_by(self) -> tuple:
        """Equal for segmenters that make equal features of a picture."""
        encoder, settings = self.segmentor.image_encoder, self.segmentor.settings
        views = tuple((view.name, view.weight) for view in settings.views)
        sizes = (self.short_side, self.max_long_side, self.pipeline, settings.windows)
        guide = (encoder.guide, encoder.sam, self.segmentor.joins_patches)
        return (encoder.visual, encoder.recipe, encoder.precision, views, *guide, *sizes)

    def segment(
        self,
        image: ImageLike | EncodedImage,
        classes: Classes | None = None,
        *,
        background: Background = None,
        auxiliary_texts: Mapping[str, str] | None = None,
        aux_text_weight: float | None = None,
        prob_thd: float | None = None,
        area_thd: float | None = None,
        margin_thd: float | None = None,
        scores: bool = True,
        bits: int | None = None,
    ) -> Segmentation:
        """Segments a picture into words.

        Args:
            image: a path, a Pillow image, an array (RGB; see
            :func:`itaclip.predict.images.read_image`), or
                what :meth:`encode` made: that of another recipe or model is encoded anew.
            classes: per class a name or a list of names; or a string in which ``;`` separates
                classes and ``,`` the names of one: ``"cat; sofa, couch"``. None takes the config's.
            background: words for everything else, as a list or a string with commas, or the name of
                a list (``'@generic'``; see :mod:`itaclip.background_words`), but for those that are
                classes. They are class 0, called "background", and the other classes count from 1.
                True takes ``'@surroundings'``. None: no such class, so that every pixel gets one of
                the others.
            auxiliary_texts: a text about every class, by one of its names.
            aux_text_weight: α, their share, from 0 to 1.
            prob_thd: pixels whose best score is below become background, so it needs one.
            area_thd: classes with at most this share of the area of all but class 0 go; 0 is off.
            margin_thd: pixels whose best score is ahead of the second class's by less become
                background too; 0 is off.
            scores: False leaves the scores out, which bounds the memory of large pictures.
            bits: as for :func:`itaclip.predict.images.read_image`.

        Where None, α and the thresholds are as loaded.

        Raises:
            InputError: the picture or the words cannot be used.
        """
        segmentor = self.segmentor_for(
            classes,
            background=background,
            auxiliary_texts=auxiliary_texts,
            aux_text_weight=aux_text_weight,
            prob_thd=prob_thd,
            area_thd=area_thd,
            margin_thd=margin_thd,
        )
        segmentor = segmentor.variant(return_scores=scores)
        encoded = self.encode(image, bits=bits)
        size = encoded.image.shape[:2]
        made = resized_shape(size, None, self.max_result_side)
        picture = self.picture(encoded)
        labels, values = segmentor.segment(encoded.inputs, made, encoded.features, picture)
        vocabulary = segmentor.vocabulary
        names = vocabulary.first_names
        return Segmentation(
            encoded.image,
            enlarged(labels.cpu().numpy().astype(np.int32), size),
            None if values is None else enlarged(values.float().cpu().numpy(), size),
            (BACKGROUND, *names[1:]) if vocabulary.background else names,
            palette_of(names, vocabulary.background),
            encoded.source,
        )

    def picture(self, encoded: EncodedImage) -> Picture:
        """What regions may ask about a picture."""
        return self._asked(encoded.image, encoded.source)

    def _asked(self, pixels: np.ndarray, source: str) -> Picture:
        path = source if os.path.isfile(source) else None
        return Picture(pixels.shape[:2], path, lambda: pixels, self.device)

    def region_map(self, pixels: np.ndarray, source: str, size: tuple[int, int]) -> Tensor:
        """The regions of a picture (H, W, 3) at ``size`` (h, w), for recipes that attend in them.

        Raises:
            InputError: there is no map for it.
        """
        return self.segmentor.settings.regions.map(self._asked(pixels, source), size)

    def segmentor_for(
        self,
        classes: Classes | None = None,
        *,
        background: Background = None,
        auxiliary_texts: Mapping[str, str] | None = None,
        aux_text_weight: float | None = None,
        prob_thd: float | None = None,
        area_thd: float | None = None,
        margin_thd: float | None = None,
    ) -> Segmentor:
        """The segmentor behind :meth:`segment` with these words and thresholds, on its own.

        Args, Raises: as of :meth:`segment`.
        """
        segmentor = self._with_words(classes, background, auxiliary_texts, aux_text_weight)
        thresholds = dict(prob_thd=prob_thd, margin_thd=margin_thd, area_thd=area_thd)
        return segmentor.variant(**_thresholds(segmentor, classes is None, thresholds))

    def _with_words(
        self,
        classes: Classes | None,
        background: Background,
        auxiliary_texts: Mapping[str, str] | None,
        aux_text_weight: float | None,
    ) -> Segmentor:
        """The segmentor with these words; those of the last calls are kept."""
        if classes is not None:
            vocabulary = make_vocabulary(classes, background, auxiliary_texts)
        elif background is not None or auxiliary_texts is not None:
            raise InputError(
                "classes: expected the classes along with background and auxiliary_texts."
            )
        else:
            vocabulary = self.segmentor.vocabulary
            if not vocabulary.num_classes:
                raise InputError("classes: expected words, such as 'cat; sofa, couch'; got none.")
        key = (vocabulary, aux_text_weight)
        with self._lock:
            found = self._vocabularies.pop(key, None)
            if found is None:
                weight = {} if aux_text_weight is None else {"aux_text_weight": aux_text_weight}
                found = self.segmentor.variant(vocabulary=vocabulary, **weight)
            self._vocabularies[key] = found
            while len(self._vocabularies) > _MAX_VOCABULARIES:
                self._vocabularies.popitem(last=False)
        return found

    # ---- many pictures --------------------------------------------------------------------------

    def segment_batch(
        self,
        images: Iterable[ImageLike | EncodedImage],
        classes: Classes | None = None,
        *,
        on_error: Callable[[str, InputError], object] | None = None,
        **options: Any,
    ) -> Iterator[Segmentation]:
        """Segments one picture after the other and yields each result.

        Args:
            images: as for :meth:`segment`.
            classes: as for :meth:`segment`, like the further options.
            on_error: called as ``on_error(source, error)`` for a picture that cannot be used,
                which is then left out; None raises the error. What is wrong with the words is
                always raised.

        Raises:
            InputError: ``images`` is one picture.
        """
        one = isinstance(images, str | Path | Image.Image | EncodedImage | bytes)
        if one or (isinstance(images, np.ndarray) and images.ndim < 4):
            raise InputError(
                f"images: expected a list of pictures, but got one, {source_of(images)}; give "
                "[picture], or take segment(), or segment_folder() for a folder or a pattern."
            )
        if not isinstance(images, Iterable):
            raise InputError(
                f"images: expected a list of pictures, but got {type(images).__name__}."
            )
        return self._each(images, classes, on_error, options)

    def _each(
        self,
        images: Iterable[ImageLike | EncodedImage],
        classes: Classes | None,
        on_error: Callable[[str, InputError], object] | None,
        options: dict[str, Any],
    ) -> Iterator[Segmentation]:
        bits = options.pop("bits", None)
        words = ("background", "auxiliary_texts", "aux_text_weight")
        self._with_words(classes, *(options.get(key) for key in words))
        for index, image in enumerate(images):
            named = isinstance(image, str | Path | EncodedImage)
            source = None if named else f"image {index}"
            name = source or source_of(image)
            try:
                encoded = self.encode(image, source, bits)
            except InputError as error:
                _pass_on(error, name, on_error)
                continue
            try:
                result = self.segment(encoded, classes, **options)
            except BadSampleError as error:  # its region map cannot be used
                _pass_on(error, name, on_error)
                continue
            yield result
            trim_memory()

    def segment_folder(
        self,
        folder: str | Path,
        classes: Classes | None = None,
        *,
        on_error: Callable[[str, InputError], object] | None = None,
        **options: Any,
    ) -> Iterator[Segmentation]:
        """As :meth:`segment_batch`, for the pictures of a folder or glob pattern, sorted by name.

        Raises:
            InputError: there are none.
        """
        return self.segment_batch(find_images(folder), classes, on_error=on_error, **options)


def _pass_on(
    error: InputError, source: str, on_error: Callable[[str, InputError], object] | None
) -> None:
    """Tells what is wrong with a picture, or raises it."""
    if on_error is None:
        raise error
    on_error(source, error)


def _thresholds(
    segmentor: Segmentor, own_words: bool, given: Mapping[str, float | None]
) -> dict[str, float | None]:
    """The thresholds that one call changes; ``own_words``: the classes it was loaded with."""
    background = segmentor.vocabulary.background
    changes = {key: value for key, value in given.items() if value is not None}
    if "area_thd" in changes:
        changes["area_thd"] = changes["area_thd"] or None
    changed = segmentor.settings.changed(changes)
    for key in ("prob_thd", "margin_thd"):
        if background:
            break
        if changes.get(key):
            raise InputError(
                f"{key}: {getattr(changed, key)} turns unsure pixels into background, but there is "
                "none; give background=True, or its words."
            )
        if not own_words:
            changes[key] = 0.0  # class 0 is like the others
    return changes


def fitting(recipe: str | Mapping | Recipe, depth: int) -> str | Mapping | Recipe:
    """A named recipe for a tower of another depth: its blocks at the same relative depth."""
    base = RECIPES.get(recipe) if isinstance(recipe, str) else None
    if base is None or base.depth in (None, depth):
        return recipe
    blocks = [
        key
        for key, metadata in keys_of(base).items()
        if metadata["kind"] in ("block", "blocks") and getattr(base, key) != ()
    ]
    if not blocks:
        return recipe
    logger.info("recipe %s: %s scaled to a tower of %d blocks", recipe, ", ".join(blocks), depth)
    return {"recipe": recipe, **dict.fromkeys(blocks, "scaled")}
