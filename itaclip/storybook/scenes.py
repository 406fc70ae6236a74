"""Storybook scenes: things drawn over one to three kinds of stuff, with every pixel labelled.

Legend: H, W picture height and width, height always first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .canvas import Dice, Frame, paint, triangle, union
from .textures import STUFF
from .things import COLOURS, THINGS

CLASSES: tuple[str, ...] = (*STUFF, *THINGS)
"""Class names; a class's label is its position. The stuff comes first."""

PALETTE: list[list[int]] = [
    [135, 190, 250],
    [20, 90, 160],
    [70, 160, 50],
    [235, 205, 140],
    [170, 75, 55],
    [90, 90, 95],
    [225, 235, 250],
    [150, 100, 55],
    [255, 200, 0],
    [200, 205, 215],
    [20, 100, 60],
    [190, 60, 120],
    [230, 30, 30],
    [130, 40, 20],
    [255, 130, 50],
    [240, 120, 200],
    [120, 50, 200],
    [255, 90, 110],
    [60, 60, 230],
    [40, 35, 40],
]
"""One RGB colour a class."""

UPPER = ("sky", "sky", "sky", "brick wall", "brick wall", "sea", "snow", "grass")
LOWER = tuple(name for name in STUFF if name != "sky")
BEFORE_WALL = ("wooden floor", "wooden floor", "grass", "road", "snow", "sand")


@dataclass
class Scene:
    """A picture, its labels and what is to be seen.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        mask: (H, W) uint8, labels into `CLASSES`.
        shares: class name → visible share of the picture in (0, 1], largest first.
        colours: names of things → the colour's name of the first one drawn.
        counts: names of things → how many were drawn.
    """

    image: np.ndarray
    mask: np.ndarray
    shares: dict[str, float]
    colours: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


def draw_scene(
    seed: Sequence[int],
    size: tuple[int, int] = (112, 112),
    things: tuple[int, int] = (1, 4),
    unit: tuple[float, float] = (11.0, 30.0),
    layers: tuple[int, int] = (1, 2),
    margin: tuple[float, float] = (0.12, 0.1),
) -> Scene:
    """Draw a scene; equal arguments give equal pixels on every machine.

    Args:
        seed: integers in 0 … 2³² − 1.
        size: (H, W) of the picture.
        things: smallest and largest number of things.
        unit: smallest and largest half width of a thing, in pixels.
        layers: smallest and largest number of kinds of stuff, at most 3.
        margin: shares of height and width, on each side, in which no thing has its centre.
    """
    dice = Dice(seed)
    height, width = size
    picture, mask = _background(dice, height, width, dice.integer(*layers))
    scene = Scene(picture, mask, {})
    for name in _cast(dice, dice.integer(*things)):
        reach = dice.uniform()
        _add_thing(scene, dice, name, unit[0] + (unit[1] - unit[0]) * reach, margin)
    _light(scene, dice)
    areas = np.bincount(mask.ravel(), minlength=len(CLASSES)).tolist()
    order = sorted(range(len(CLASSES)), key=lambda label: -areas[label])
    scene.shares = {CLASSES[k]: areas[k] / mask.size for k in order if areas[k]}
    return scene


def _cast(dice: Dice, count: int) -> list[str]:
    """Names of the things to draw; now and then one comes twice."""
    names = dice.shuffled(tuple(THINGS))[:count]
    if count > 1 and dice.chance(0.15):
        names[-1] = names[0]
    return names


def _background(dice: Dice, height: int, width: int, layers: int):
    """Stuff as (H, W, 3) float32 colours and (H, W) uint8 labels."""
    if layers == 1:
        kinds = [dice.choice(tuple(STUFF))]
    else:
        upper = dice.choice(UPPER)
        choices = BEFORE_WALL if upper == "brick wall" else LOWER
        kinds = [upper, dice.choice([name for name in choices if name != upper])]
        if layers > 2:
            last = [name for name in LOWER if name not in kinds and name != "brick wall"]
            kinds.append(dice.choice(last))
    picture = STUFF[kinds[0]](dice, height, width)
    mask = np.full((height, width), CLASSES.index(kinds[0]), dtype=np.uint8)
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)
    for place, name in enumerate(kinds[1:], start=1):
        level = height * (place + dice.uniform(-0.28, 0.28)) / len(kinds)
        slope = dice.uniform(-0.12, 0.12)
        edge = (columns - width / 2) * np.float32(slope) + np.float32(level)
        if name != "wooden floor" and dice.chance(0.6):
            bend = triangle(columns * np.float32(1 / dice.uniform(60, 140)) + dice.uniform())
            bend = bend * bend * (3 - bend * 2) - np.float32(0.5)
            edge = edge + bend * np.float32(dice.uniform(4, 14))
        below = rows > edge[None, :]  # (H, W)
        texture = STUFF[name](dice, height, width)
        picture = np.where(below[..., None], texture, picture)
        mask[below] = CLASSES.index(name)
    return picture, mask


def _add_thing(
    scene: Scene, dice: Dice, name: str, unit: float, margin: tuple[float, float]
) -> None:
    """Draw one thing over the scene; its centre lies inside the picture's margin."""
    height, width = scene.mask.shape
    shape, colours = THINGS[name]
    colour = dice.choice(colours)
    tint = tuple(part + dice.uniform(-18, 18) for part in COLOURS[colour])
    centre = (
        height * dice.uniform(margin[0], 1 - margin[0]),
        width * dice.uniform(margin[1], 1 - margin[1]),
    )
    frame = Frame(
        (height, width),
        centre,
        unit,
        dice.uniform(0.85, 1.15),
        dice.uniform(-0.12, 0.12),
        dice.chance(0.5),
    )
    if frame.window is None:
        return
    parts = shape(frame, dice, tint)
    window = scene.image[frame.window]
    whole = union(*[distance for distance, _ in parts])
    shade = np.float32(1) - frame.y * np.float32(dice.uniform(0.03, 0.16))
    outline = dice.uniform(0.6, 1.4) if dice.chance(0.7) else 0.0
    if outline:
        whole = whole - np.float32(outline)
        paint(window, whole, tuple(part * 0.35 for part in tint), shade)
    for distance, part_colour in parts:
        paint(window, distance, part_colour, shade)
    scene.mask[frame.window][whole < 0] = CLASSES.index(name)
    scene.colours.setdefault(name, colour)
    scene.counts[name] = scene.counts.get(name, 0) + 1


def _light(scene: Scene, dice: Dice) -> None:
    """Give the picture its light, tint and grain, and turn it into uint8."""
    height, width = scene.mask.shape
    gain, shift = dice.uniform(0.85, 1.1), dice.uniform(-12, 12)
    speckle = (dice.grain(height, width) - np.float32(0.5)) * np.float32(dice.uniform(2, 14))
    speckle = speckle + np.float32(shift + 0.5)
    picture = scene.image
    for channel in range(3):
        picture[..., channel] *= np.float32(gain * dice.uniform(0.95, 1.05))
        picture[..., channel] += speckle
    scene.image = np.minimum(np.maximum(picture, 0), 255).astype(np.uint8)
