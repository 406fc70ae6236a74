"""Example images: drawn scenes, made when the page starts."""

from dataclasses import dataclass

import numpy as np

from ..storybook.benchmark import evaluation_scene


@dataclass(frozen=True)
class Example:
    """An image to try, with words that fit it.

    Attributes:
        name: for the files that are downloaded.
        image: (H, W, 3) uint8, RGB.
        classes: words as a visitor would type them.
        background: words of everything else, or ``''``.
    """

    name: str
    image: np.ndarray
    classes: str
    background: str = ""


# Number of the scene in Storybook's split 'test', its name, classes and background words.
_SCENES = (
    (4, "harbour", "sky; sea, ocean; wooden floor; tree; boat, sailboat; cloud", ""),
    (70, "winter", "sun; boat, sailboat; cat; fish", "snow, sky, grass"),
    (76, "garden", "grass, lawn; wooden floor; brick wall, bricks; house; car; fish", ""),
    (59, "coast", "sea, ocean; snow; car; tree; sun; cat; fish", ""),
)


def drawn_examples() -> list[Example]:
    """The scenes; a few tens of milliseconds."""
    return [
        Example(name, evaluation_scene("test", number).image, classes, background)
        for number, name, classes, background in _SCENES
    ]
