"""What one visitor has on the page, and the one model that works for all visitors.

An image is an array (H, W, 3) uint8, RGB; a pixel is (row, column).
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch

from ..checks import flag, number
from ..errors import InputError
from ..predict.images import read_image, resize
from ..predict.inspection import attention_at
from ..predict.load import EncodedImage, Segmenter
from ..predict.segmentation import Segmentation
from ..predict.words import make_vocabulary
from ..recipes import RECIPES
from ..runtime.pauses import pause
from ..vocabulary import Vocabulary
from .turns import Turns

# Larger images are shrunk to this long side, which bounds a visitor's time and memory.
LONG_SIDE = 1024
_SHOWN_SIDE = 640
_MAX_PIXELS = 64_000_000  # of an uploaded file
_MAX_NAMES, _MAX_LETTERS = 200, 5000  # of classes and background together
_LEARNT = 8  # names that are encoded between two looks at who else waits
# What work is thought to take, in seconds: only who goes first depends on it.
_PER_NAME, _PER_PASS, _PER_CLICK = 0.05, 0.02, 0.1
WHOLE = "the whole image at once"
_ENCODINGS = 3  # kept for each visitor, so that recipes can be compared
_WEIGHT_OF_VIEWS = 0.75
_PAMR = dict(num_iter=10, dilations=(8, 16))
Listening = Callable[[], bool]
_NO_IMAGE = "There is no image yet: upload one or choose an example."
_decoding = threading.Semaphore(2)  # of pictures at once: some take 600 MB meanwhile
OWN_RECIPE = "as loaded"  # a config's recipe that has no name


def _always() -> bool:
    return True


@dataclass(frozen=True)
class Choices:
    """What a visitor may choose about the method.

    Attributes:
        recipe: a name of :data:`itaclip.recipes.RECIPES`, or :data:`OWN_RECIPE`.
        stride: of the windows, a key of :attr:`Workbench.strides`.
        views: image engineering.
        refined: PAMR.
        logit_scale: factor before the softmax.
        prob_thd: pixels whose best score is below become background, where there is one.
        margin_thd: so do pixels whose best score is ahead of the second by less.
        regions: one label for a region: superpixels, or what the model was loaded with.
    """

    recipe: str
    stride: str
    views: bool
    refined: bool
    logit_scale: float
    prob_thd: float
    margin_thd: float = 0.0
    regions: bool = False

    @property
    def of_features(self) -> tuple:
        """The settings that an image's features depend on."""
        return (self.recipe, self.stride, self.views)


@dataclass(frozen=True, eq=False)
class Visit:
    """A visitor's image and what was made of it; never changed, only replaced.

    Attributes:
        name: of the image, for the files that are downloaded.
        image: as it is segmented.
        shrunk_from: (H, W) of a file that was too large; None where it was not.
        encodings: the image's features by the settings that they depend on, the latest last.
        choices: those of the result.
        result: the last segmentation.
        seconds: what its features took, None where they were kept, and what its labels took.
    """

    name: str
    image: np.ndarray
    shrunk_from: tuple[int, int] | None = None
    encodings: Mapping[tuple, EncodedImage] = field(default_factory=dict)
    choices: Choices | None = None
    result: Segmentation | None = None
    seconds: tuple[float | None, float] | None = None

    @property
    def weight(self) -> int:
        """Bytes of the features and scores."""
        scores = getattr(self.result, "scores", None)
        kept = [
            vars(e.features).values() for e in self.encodings.values() if e.features is not None
        ]
        tensors = [value for own in kept for value in own if isinstance(value, torch.Tensor)]
        return sum(t.nbytes for t in tensors) + (0 if scores is None else scores.nbytes)

    def lightened(self) -> "Visit":
        """Without features and scores, which can be made again."""
        result = None if self.result is None else replace(self.result, scores=None)
        return replace(self, encodings={}, result=result)

    @property
    def zoom(self) -> int:
        """Small images are shown this many times as large."""
        return max(1, round(_SHOWN_SIDE / max(self.image.shape[:2])))

    def shown(self, picture: np.ndarray) -> np.ndarray:
        """A picture of the image's size (H, W, 3) as it is shown."""
        return picture.repeat(self.zoom, axis=0).repeat(self.zoom, axis=1)

    def pixel_at(self, x: int, y: int) -> tuple[int, int]:
        """The pixel (row, column) under a point of the picture that is shown."""
        height, width = self.image.shape[:2]
        return min(y // self.zoom, height - 1), min(x // self.zoom, width - 1)

    def describe(self) -> str:
        """Size, and what the result took, in a line."""
        height, width = self.image.shape[:2]
        text = f"{width} × {height} pixels"
        if self.shrunk_from:
            text += f", shrunk from {self.shrunk_from[1]} × {self.shrunk_from[0]}"
        if self.seconds is None:
            return f"{text}."
        features, words = self.seconds
        made = self.encodings.get(self.choices.of_features)
        if made is not None and made.features is None:
            return f"{text}; image features, which depend on the words here, {words:.1f} s."
        took = "kept from before" if features is None else f"{features:.1f} s"
        return f"{text}; image features {took}, words and labels {words:.1f} s."


def open_image(path: str, name: str) -> Visit:
    """A visit to an uploaded file.

    Args:
        path: where it lies.
        name: what the visitor calls it.

    Raises:
        InputError: it is no picture, or a damaged one.
    """
    with _decoding:
        image = read_image(path, name, max_pixels=_MAX_PIXELS)
    size = image.shape[:2]
    image = resize(image, max_long_side=LONG_SIDE)
    stem = name.rpartition(".")[0] or name
    return Visit(stem, image, shrunk_from=size if image.shape[:2] != size else None)


def heat_over(image: np.ndarray, heat: np.ndarray, opacity: float) -> np.ndarray:
    """A heat map (H, W) of values in [0, 1] over the image; 0 shows the image alone."""
    colours = cv2.applyColorMap((255 * heat).round().astype(np.uint8), cv2.COLORMAP_INFERNO)
    return (image + opacity * (colours[..., ::-1] - image.astype(np.float32))).astype(np.uint8)


def heat_map(image: np.ndarray, heat: np.ndarray, pixel: tuple[int, int]) -> np.ndarray:
    """A heat map (H, W) of values in [0, 1] over the image in grey, with the pixel marked."""
    grey = image.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    picture = np.ascontiguousarray(heat_over(grey, heat, 0.7))
    size = max(5, max(image.shape[:2]) // 30)
    thickness = 1 + max(image.shape[:2]) // 400
    cv2.drawMarker(picture, pixel[::-1], (0, 255, 255), cv2.MARKER_CROSS, size, thickness)
    return picture


def words_of(vocabulary: Vocabulary) -> tuple[str, str]:
    """Classes and background words of a vocabulary, as a visitor would type them."""
    names = [", ".join(own) for own in vocabulary.class_names]
    return ("; ".join(names[1:]), names[0]) if vocabulary.background else ("; ".join(names), "")


def _words(classes: object, background: object) -> tuple[Vocabulary, str | None]:
    """The vocabulary that was typed, and the background's words, None without.

    Raises:
        InputError: words that cannot be used, or more of them than one visitor may ask for.
    """
    for text, what in ((classes, "classes"), (background, "background words")):
        if not isinstance(text, str):
            raise InputError(f"{what}: expected text, but got {type(text).__name__}.")
    if not classes.strip():
        raise InputError("There are no classes yet: type some, such as: cat; sofa, couch.")
    letters = len(classes) + len(background)
    surroundings = background.strip() or None
    vocabulary = make_vocabulary(classes, surroundings) if letters <= _MAX_LETTERS else None
    names = 0 if vocabulary is None else len(vocabulary.queries)
    if letters > _MAX_LETTERS or names > _MAX_NAMES:
        raise InputError(
            f"The page takes at most {_MAX_NAMES} names in {_MAX_LETTERS} letters, but these are "
            f"{names or 'more'}; leave some out, or use `itaclip segment`."
        )
    return vocabulary, surroundings


def result_of(visit: Visit | None) -> Segmentation:
    """The last segmentation.

    Raises:
        InputError: there is none.
    """
    if visit is None:
        raise InputError(_NO_IMAGE)
    if visit.result is None:
        raise InputError("Nothing is segmented yet: type classes and press Segment first.")
    return visit.result


def scores_of(visit: Visit | None) -> np.ndarray:
    """The scores (H, W, C) of the last segmentation.

    Raises:
        InputError: there are none any more.
    """
    scores = result_of(visit).scores
    if scores is None:
        raise InputError("The scores made room for other visitors: press Segment again.")
    return scores


class Workbench:
    """One model, used by one visitor at a time; long work gives way to short.

    Args:
        segmenter: what ``itaclip.load()`` gives; its settings are those that the page starts with.

    Attributes:
        recipes: names to choose from: those that the model can take, its own first.
        strides: what a visitor reads → (down, right) in pixels; None takes the image at once.
        defaults: the settings that it was loaded with.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self._turns = Turns()
        self._loaded = segmenter
        model = segmenter.segmentor
        side, windows = model.image_encoder.resolution, model.settings.windows
        self._window = (side, side) if windows.whole else windows.crop_size
        stride = windows.stride
        self.strides = _strides(self._window, stride)
        named = next((name for name, own in RECIPES.items() if own == segmenter.recipe), OWN_RECIPE)
        self.recipes = [named, *(n for n in RECIPES if n != named and _fits(segmenter, n))]
        self.defaults = Choices(
            recipe=named,
            stride=next(text for text, value in self.strides.items() if value == stride),
            views=len(model.settings.views) > 1,
            refined=model.settings.pamr is not None,
            logit_scale=model.settings.logit_scale,
            prob_thd=model.settings.prob_thd,
            margin_thd=model.settings.margin_thd,
            regions=model.settings.regions is not None,
        )

    @property
    def words(self) -> tuple[str, str]:
        """The classes and background words that the model was loaded with, ``''`` without."""
        return words_of(self._loaded.segmentor.vocabulary)

    def describe(self) -> str:
        """Device, precision, windows and size, in a line."""
        return self._loaded.describe()

    def segment(
        self,
        visit: Visit | None,
        classes: str,
        background: str,
        choices: Choices,
        listening: Listening = _always,
    ) -> Visit:
        """Segments the visit's image; its features are kept for the next words.

        Args:
            classes: ``'cat; sofa, couch'``.
            background: words with commas; blank for none.
            choices: how.
            listening: whether somebody still waits for the result.

        Raises:
            InputError: no image, or words or settings that cannot be used.
            GoneError: nobody listens any more.
        """
        if visit is None:
            raise InputError(_NO_IMAGE)
        self._check(choices)
        vocabulary, surroundings = _words(classes, background)
        passes = len(self.strides) * (1 + 4 * choices.views)
        if choices.of_features in visit.encodings:
            passes = 0
        estimate = _PER_NAME * len(vocabulary.queries) + _PER_PASS * passes
        with self._turns.turn(estimate, listening):
            segmenter = self._segmenter(choices)
            start = time.perf_counter()
            self._learn(segmenter, vocabulary)
            learnt = time.perf_counter()
            encodings = dict(visit.encodings)
            kept = encodings.pop(choices.of_features, None)
            encoded = segmenter.encode(visit.image if kept is None else kept, visit.name)
            middle = time.perf_counter()
            thresholds = dict(prob_thd=choices.prob_thd, margin_thd=choices.margin_thd)
            result = segmenter.segment(
                encoded, classes, background=surroundings, **(thresholds if surroundings else {})
            )
            end = time.perf_counter()
        encodings[choices.of_features] = encoded
        while len(encodings) > _ENCODINGS:
            encodings.pop(next(iter(encodings)))
        seconds = (middle - learnt if kept is None else None, end - middle + learnt - start)
        return replace(visit, encodings=encodings, choices=choices, result=result, seconds=seconds)

    def _learn(self, segmenter: Segmenter, vocabulary: Vocabulary) -> None:
        """Encodes new words a few at a time, so that others come in between."""
        queries = vocabulary.queries
        for start in range(0, len(queries), _LEARNT):
            pause()
            few = Vocabulary.from_lists(
                [[name] for name in dict.fromkeys(queries)][start:][:_LEARNT]
            )
            segmenter.segmentor.variant(vocabulary=few)

    def attention(
        self, visit: Visit | None, pixel: tuple[int, int], listening: Listening = _always
    ) -> np.ndarray:
        """Where the patch of a pixel looks in the result's recipe, over the image in grey.

        Returns:
            (H, W, 3) uint8, RGB.

        Raises:
            InputError: nothing was segmented yet, or the pixel lies outside.
            GoneError: nobody listens any more.
        """
        result_of(visit)
        with self._turns.turn(_PER_CLICK, listening):
            segmenter = self._segmenter(visit.choices)
            (found,) = attention_at(segmenter, visit.image, pixel, [segmenter.recipe])
        return heat_map(visit.image, found.heat(), pixel)

    def _check(self, choices: Choices) -> None:
        """Refuses what the page does not offer, which a request can hold all the same."""
        for key, offered in (("recipe", self.recipes), ("stride", list(self.strides))):
            value = getattr(choices, key)
            if value not in offered:
                raise InputError(f"{key}: expected one of {', '.join(offered)}, but got {value!r}.")
        flag(choices.views, "Image engineering")
        flag(choices.refined, "PAMR")
        flag(choices.regions, "Regions")
        number(choices.logit_scale, "Logit scale", high=1e6, above=True)
        number(choices.prob_thd, "Threshold", high=1)
        number(choices.margin_thd, "Margin", high=1)

    def _segmenter(self, choices: Choices) -> Segmenter:
        """A segmenter with the settings that shares the weights."""
        own, stride = choices.recipe == OWN_RECIPE, self.strides[choices.stride]
        changes = dict(logit_scale=choices.logit_scale, test_cfg={"mode": "whole"})
        if stride is not None:
            changes["test_cfg"] = dict(mode="slide", crop_size=self._window, stride=stride)
        if choices.views != self.defaults.views:
            changes["image_engineering_weight"] = _WEIGHT_OF_VIEWS if choices.views else None
        if choices.refined != self.defaults.refined:
            changes["pamr"] = _PAMR if choices.refined else None
        if choices.regions != self.defaults.regions:
            changes["regions"] = dict(source="slic") if choices.regions else None
        segmenter = self._loaded.with_recipe(self._loaded.recipe if own else choices.recipe)
        return segmenter.variant(**changes)


def _fits(segmenter: Segmenter, recipe: str) -> bool:
    try:
        segmenter.with_recipe(recipe)
    except InputError:  # such as channels that a narrower model lacks
        return False
    return True


def _strides(
    window: tuple[int, int], own: tuple[int, int] | None
) -> dict[str, tuple[int, int] | None]:
    """The window's side, its half, quarter and eighth, the model's own stride, and no windows."""
    side = min(window)
    found = {(side // part, side // part) for part in (1, 2, 4, 8)} | ({own} - {None})
    ordered = sorted(found, reverse=True)
    texts = {str(down) if down == right else f"{down} × {right}": (down, right)
             for down, right in ordered}  # fmt: skip
    return {WHOLE: None, **texts}
