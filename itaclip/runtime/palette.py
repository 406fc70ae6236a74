"""One palette: the same vocabulary has the same colours wherever it is drawn."""

import colorsys
import math
from collections.abc import Iterator, Sequence

Colour = tuple[int, int, int]

_GOLDEN = 0.618034  # steps of the hue that never come near an earlier one
# Saturation and value; five, so that hues come near each other only with another pair.
_SHADES = ((0.75, 0.95), (0.85, 0.75), (0.5, 0.95), (0.95, 0.55), (0.5, 0.7))
_APART = 40  # generated colours keep at least this distance in RGB from those that are expected
BLACK: Colour = (0, 0, 0)

# What people expect of stuff and things that have a colour. Names are in lower case.
_EXPECTED: dict[Colour, tuple[str, ...]] = {
    (96, 190, 60): ("grass", "lawn"),
    (70, 140, 50): ("field", "meadow", "pasture"),
    (30, 105, 40): ("tree", "trees", "forest", "woods"),
    (110, 150, 30): ("plant", "vegetation", "bush", "leaves", "potted plant", "pottedplant"),
    (115, 185, 235): ("sky",),
    (205, 215, 225): ("clouds", "cloud"),
    (120, 130, 145): ("fog",),
    (30, 100, 180): ("water", "lake"),
    (20, 70, 140): ("sea", "ocean"),
    (60, 130, 190): ("river",),
    (50, 200, 210): ("swimming pool", "pool"),
    (230, 205, 140): ("sand", "beach"),
    (240, 240, 250): ("snow",),
    (120, 85, 55): ("ground", "earth", "dirt", "soil"),
    (80, 60, 45): ("mud",),
    (150, 130, 110): ("mountain", "hill", "rock", "stone"),
    (110, 110, 115): ("road", "street"),
    (185, 175, 175): ("sidewalk", "pavement"),
    (160, 155, 150): ("concrete",),
    (215, 200, 175): ("wall",),
    (170, 120, 85): ("floor", "wooden floor"),
    (178, 75, 55): ("brick", "brick wall", "bricks"),
    (165, 90, 80): ("building", "house"),
    (185, 140, 80): ("wood",),
    (250, 170, 30): ("traffic light",),
    (200, 30, 30): ("stop sign", "fire hydrant"),
    (255, 225, 50): ("banana",),
    (250, 140, 20): ("orange",),
    (240, 120, 60): ("carrot",),
    (35, 160, 75): ("broccoli",),
    (225, 50, 60): ("apple",),
    (255, 80, 20): ("fire",),
}
_COLOUR_OF = {name: colour for colour, names in _EXPECTED.items() for name in names}


def palette_of(names: Sequence[str], background: bool = False) -> tuple[Colour, ...]:
    """A colour (RGB, 0-255) for each class, all different.

    A background at 0 is black. Classes whose colour people expect have it (grass is green, the sky
    blue), also where a data set writes ``sky-other``; all others are told apart by hue.

    Args:
        names: a name of every class.
        background: class 0 is "everything else".
    """
    taken: dict[Colour, int] = {BLACK: 0} if background else {}
    for index in range(int(background), len(names)):
        colour = _expected(names[index])
        if colour is not None:
            taken.setdefault(colour, index)
    colours = dict.fromkeys(range(len(names)))
    colours.update({index: colour for colour, index in taken.items()})
    fresh = _distinct(set(taken))
    return tuple(next(fresh) if colour is None else colour for colour in colours.values())


def _expected(name: str) -> Colour | None:
    name = " ".join(name.lower().split())
    return _COLOUR_OF.get(name) or _COLOUR_OF.get(name.partition("-")[0].strip())


def _distinct(taken: set[Colour]) -> Iterator[Colour]:
    """Bright colours without end, none of them twice or near one that is taken."""
    expected, index = tuple(taken), 0
    while True:
        shade = colorsys.hsv_to_rgb(index * _GOLDEN % 1, *_SHADES[index % len(_SHADES)])
        colour = tuple(round(255 * part) for part in shade)
        index += 1
        near = any(math.dist(colour, other) < _APART for other in expected)
        # Among thousands of classes rounding repeats itself: the next ones are a step beside.
        while not near and colour in taken:
            colour = (colour[0], colour[1], (colour[2] + 1) % 256)
        if not near:
            taken.add(colour)
            yield colour
