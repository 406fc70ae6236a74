"""The twelve kinds of things: each is a list of coloured shapes in its own unit square.

A thing's function gets its `Frame` and `Dice` and its main colour and returns parts from back to
front, each a signed distance (h, w) with an RGB colour. y points down.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .canvas import Colour, Dice, Frame, intersection, triangle, union

Part = tuple[np.ndarray, Colour]

COLOURS: dict[str, Colour] = {
    "red": (215, 45, 40),
    "orange": (240, 140, 35),
    "yellow": (245, 215, 50),
    "green": (60, 160, 65),
    "blue": (50, 90, 210),
    "purple": (145, 65, 180),
    "pink": (240, 130, 180),
    "white": (245, 245, 240),
    "gray": (150, 150, 155),
    "black": (40, 38, 42),
    "brown": (130, 80, 45),
}
"""Names of the main colours and their RGB values, 0–255."""

DARK, WHITE = (40, 35, 35), (250, 250, 245)
GREENS = [(45, 130, 50), (35, 105, 55), (85, 150, 45)]
EIGHT = [
    (1.0, 0.0),
    (0.7071, 0.7071),
    (0.0, 1.0),
    (-0.7071, 0.7071),
    (-1.0, 0.0),
    (-0.7071, -0.7071),
    (0.0, -1.0),
    (0.7071, -0.7071),
]
FIVE = [(0.0, -1.0), (0.9511, -0.309), (0.5878, 0.809), (-0.5878, 0.809), (-0.9511, -0.309)]
"""Directions of eight and of five rays, written out instead of computed with sine and cosine."""


def _darker(colour: Colour, factor: float) -> Colour:
    return tuple(part * factor for part in colour)


def sun(frame: Frame, dice: Dice, colour: Colour) -> list[Part]:
    core, length, width = dice.uniform(0.5, 0.62), dice.uniform(0.95, 1.15), dice.uniform(0.1, 0.16)
    rays = [
        frame.polygon(
            (dx * length, dy * length),
            (-dy * width * 2, dx * width * 2),
            (dy * width * 2, -dx * width * 2),
        )
        for dx, dy in EIGHT
    ]
    parts = [(union(*rays), _darker(colour, 0.93)), (frame.ellipse(0, 0, core, core), colour)]
    if dice.chance(0.3):
        eyes = union(frame.ellipse(-0.2, -0.1, 0.07, 0.1), frame.ellipse(0.2, -0.1, 0.07, 0.1))
        parts.append((union(eyes, frame.ellipse(0, 0.2, 0.2, 0.06)), (120, 70, 30)))
    return parts


def cloud(frame: Frame, dice: Dice, colour: Colour) -> list[Part]:
    puffs = [
        frame.ellipse(-0.6, 0.1, 0.42, dice.uniform(0.28, 0.38)),
        frame.ellipse(-0.15, dice.uniform(-0.25, -0.1), 0.45, 0.42),
        frame.ellipse(0.35, dice.uniform(-0.15, 0.0), 0.4, 0.38),
        frame.ellipse(0.75, 0.15, 0.35, 0.27),
        frame.ellipse(0.0, 0.28, 0.95, 0.2),
    ]
    whole = union(*puffs)
    shadow = intersection(whole, frame.box(-1.4, 0.22, 1.4, 0.6))
    return [(whole, colour), (shadow, _darker(colour, 0.86))]


def tree(frame: Frame, dice: Dice, colour: Colour) -> list[Part]:
    width = dice.uniform(0.09, 0.16)
    trunk = frame.box(-width, 0.1, width, 1.05)
    if dice.chance(0.4):
        crown = union(
            frame.polygon((0, -1.1), (0.5, -0.3), (-0.5, -0.3)),
            frame.polygon((0, -0.75), (0.65, 0.15), (-0.65, 0.15)),
            frame.polygon((0, -0.35), (0.8, 0.6), (-0.8, 0.6)),
        )
        inner = frame.polygon((0.1, -0.7), (0.55, 0.5), (0.1, 0.5))
    else:
        crown = union(
            frame.ellipse(0, -0.5, 0.6, 0.58),
            frame.ellipse(-0.42, -0.1, 0.45, 0.42),
            frame.ellipse(0.42, -0.1, 0.45, 0.42),
        )
        inner = union(frame.ellipse(0.3, -0.02, 0.3, 0.24), frame.ellipse(-0.2, -0.5, 0.25, 0.2))
    return [(trunk, (105, 70, 40)), (crown, colour), (inner, _darker(colour, 0.8))]


def house(frame: Frame, dice: Dice, colour: Colour) -> list[Part]:
    roof_colour = dice.choice([(165, 60, 45), (90, 60, 50), (70, 75, 90), (120, 45, 70)])
    body = frame.box(-0.8, -0.2, 0.8, 0.95)
    roof = frame.polygon((0, -1.05), (1.02, -0.15), (-1.02, -0.15))
    door_at = dice.uniform(-0.45, 0.05)
    door = frame.box(door_at, 0.35, door_at + 0.32, 0.95)
    glass = dice.choice([(170, 215, 240), (250, 235, 140)])
    panes = [frame.box(0.4, 0.1, 0.7, 0.42)]
    if door_at > -0.3:
        panes.append(frame.box(-0.7, 0.1, -0.4, 0.42))
    parts = [(body, colour), (roof, roof_colour)]
    if dice.chance(0.5):
        parts.insert(0, (frame.box(0.42, -0.95, 0.62, -0.3), _darker(roof_colour, 0.8)))
    return [*parts, (door, (95, 60, 40)), (union(*panes), glass)]


def car(frame: Frame, dice: Dice, colour: Colour) -> list[Part]:
    body = frame.box(-1.1, -0.08, 1.1, 0.38)
    cabin = frame.polygon((-0.5, -0.55), (0.35, -0.55), (0.7, -0.05), (-0.75, -0.05))
    glass = union(
        frame.polygon((-0.45, -0.45), (-0.08, -0.45), (-0.08, -0.08), (-0.6, -0.08)),
        frame.polygon((0.03, -0.45), (0.3, -0.45), (0.53, -0.08), (0.03, -0.08)),
    )
    tyres = union(frame.ellipse(-0.6, 0.4, 0.27, 0.27), frame.ellipse(0.6, 0.4, 0.27, 0.27))
    hubs = union(frame.ellipse(-0.6, 0.4, 0.12, 0.12), frame.ellipse(0.6, 0.4, 0.12, 0.12))
    lamp = frame.ellipse(1.0, 0.08, 0.1, 0.1)
    return [
        (union(body, cabin), colour),
        (glass, (190, 225, 240)),
        (tyres, (30, 30, 32)),
        (hubs, (190, 190, 195)),
        (lamp, (255, 240, 150)),
    ]


def boat(frame: Frame, dice: Dice, colour: Colour) -> list[Part]:
    hull = frame.polygon((-1.05, 0.35), (1.05, 0.35), (0.7, 0.85), (-0.7, 0.85))
    stripe = intersection(hull, frame.box(-1.2, 0.35, 1.2, 0.48))
    mast = frame.box(-0.06, -1.05, 0.02, 0.4)
    sail = frame.polygon((0.06, -1.0), (0.85, 0.2), (0.06, 0.2))
    jib = frame.polygon((-0.12, -0.75), (-0.12, 0.2), (-0.7, 0.2))
    cloth = dice.choice([WHITE, (250, 235, 205), (235, 90, 80), (250, 215, 110)])
    return [
        (mast, (95, 65, 40)),
        (sail, cloth),
        (jib, _darker(cloth, 0.88)),
        (hull, colour),
        (stripe, _darker(colour, 0.7)),
    ]


def fish(frame: Frame, dice: Dice, colour: Colour) -> list[Part]:
    body = frame.ellipse(0.1, 0, 0.8, dice.uniform(0.42, 0.55))
    tail = union(
        frame.polygon((-0.5, 0), (-1.1, 0.05), (-1.15, -0.5)),
        frame.polygon((-0.5, 0), (-1.15, 0.5), (-1.1, -0.05)),
    )
    fin = frame.polygon((0.1, -0.75), (0.4, -0.35), (-0.35, -0.35))
    bands = triangle(frame.x * np.float32(2.2)) - dice.uniform(0.35, 0.55)
    stripes = intersection(body, bands * (frame.unit * 0.25), frame.box(-0.6, -1, 0.5, 1))
    eye = frame.ellipse(0.58, -0.12, 0.14, 0.14)
    light = dice.choice([WHITE, _darker(colour, 0.65), (250, 220, 120)])
    return [
        (union(tail, fin), _darker(colour, 0.82)),
        (body, colour),
        (stripes, light),
        (eye, WHITE),
        (frame.ellipse(0.61, -0.12, 0.07, 0.07), DARK),
    ]


def flower(frame: Frame, dice: Dice, colour: Colour) -> list[Part]:
    petals = [
        frame.ellipse(dx * 0.38, -0.4 + dy * 0.38, 0.28, 0.28)
        for dx, dy in (FIVE if dice.chance(0.5) else EIGHT)
    ]
    centre = dice.choice([(250, 205, 50), (120, 75, 35), (250, 240, 190)])
    green = dice.choice(GREENS)
    stem = frame.box(-0.06, -0.2, 0.06, 1.1)
    leaves = union(frame.ellipse(0.3, 0.62, 0.3, 0.12), frame.ellipse(-0.3, 0.75, 0.3, 0.12))
    return [
        (union(stem, leaves), green),
        (union(*petals), colour),
        (frame.ellipse(0, -0.4, 0.23, 0.23), centre),
    ]


def balloon(frame: Frame, dice: Dice, colour: Colour) -> list[Part]:
    ball = frame.ellipse(0, -0.4, 0.62, 0.7)
    knot = frame.polygon((0, 0.22), (0.14, 0.42), (-0.14, 0.42))
    cord = frame.box(-0.03, 0.4, 0.03, 1.2)
    shine = frame.ellipse(-0.25, -0.65, 0.13, 0.22)
    pale = tuple(part + (255 - part) * 0.65 for part in colour)
    return [(cord, (225, 225, 220)), (union(ball, knot), colour), (shine, pale)]


def mushroom(frame: Frame, dice: Dice, colour: Colour) -> list[Part]:
    width = dice.uniform(0.24, 0.34)
    stem = union(frame.box(-width, 0, width, 0.9), frame.ellipse(0, 0.88, width * 1.2, 0.16))
    cap = intersection(frame.ellipse(0, 0.1, 1.0, 1.0), frame.box(-1.2, -1.2, 1.2, 0.15))
    dots = union(
        frame.ellipse(-0.5, -0.25, 0.17, 0.17),
        frame.ellipse(0.05, -0.5, 0.2, 0.2),
        frame.ellipse(0.5, -0.15, 0.18, 0.18),
        frame.ellipse(-0.08, -0.02, 0.11, 0.11),
    )
    return [(stem, (240, 228, 205)), (cap, colour), (intersection(cap, dots), WHITE)]


def umbrella(frame: Frame, dice: Dice, colour: Colour) -> list[Part]:
    dome = intersection(frame.ellipse(0, 0.05, 1.1, 1.0), frame.box(-1.2, -1.2, 1.2, 0.0))
    panel = triangle(frame.x * np.float32(1.1) + 0.5) - 0.5
    panels = intersection(dome, panel * (frame.unit * 0.5))
    other = dice.choice([WHITE, _darker(colour, 0.6), (250, 220, 110)])
    stick = union(
        frame.box(-0.05, -1.05, 0.05, 0.95),
        frame.box(0.0, 0.85, 0.35, 0.97),
        frame.box(0.25, 0.68, 0.35, 0.9),
    )
    return [(stick, (80, 60, 45)), (dome, colour), (panels, other)]


def cat(frame: Frame, dice: Dice, colour: Colour) -> list[Part]:
    body = union(frame.ellipse(0.0, 0.5, 0.55, 0.58), frame.box(-0.45, 0.6, 0.45, 1.05))
    tail = union(frame.ellipse(0.75, 0.45, 0.14, 0.5), frame.box(0.3, 0.8, 0.85, 1.02))
    head = union(
        frame.ellipse(0, -0.35, 0.55, 0.47),
        frame.polygon((-0.48, -1.1), (-0.08, -0.65), (-0.53, -0.4)),
        frame.polygon((0.48, -1.1), (0.53, -0.4), (0.08, -0.65)),
    )
    eye = dice.choice([(120, 200, 70), (245, 215, 60), (110, 190, 230)])
    eyes = union(frame.ellipse(-0.22, -0.4, 0.12, 0.13), frame.ellipse(0.22, -0.4, 0.12, 0.13))
    pupils = union(frame.ellipse(-0.22, -0.4, 0.04, 0.11), frame.ellipse(0.22, -0.4, 0.04, 0.11))
    nose = frame.polygon((-0.08, -0.2), (0.08, -0.2), (0, -0.1))
    return [
        (union(body, tail), _darker(colour, 0.85)),
        (head, colour),
        (eyes, eye),
        (union(pupils), DARK),
        (nose, (235, 140, 150)),
        (frame.ellipse(0, 0.55, 0.22, 0.32), tuple(p + (255 - p) * 0.5 for p in colour)),
    ]


Shape = Callable[[Frame, Dice, Colour], list[Part]]
THINGS: dict[str, tuple[Shape, tuple[str, ...]]] = {
    "sun": (sun, ("yellow", "orange", "yellow", "red")),
    "cloud": (cloud, ("white", "white", "gray")),
    "tree": (tree, ("green", "green", "orange", "pink")),
    "house": (house, ("white", "yellow", "red", "blue", "orange", "pink", "gray")),
    "car": (car, ("red", "blue", "yellow", "green", "white", "orange", "purple", "black")),
    "boat": (boat, ("red", "brown", "blue", "white", "green", "black")),
    "fish": (fish, ("orange", "red", "blue", "yellow", "purple", "pink", "green")),
    "flower": (flower, ("red", "pink", "yellow", "purple", "white", "blue", "orange")),
    "balloon": (balloon, ("red", "blue", "yellow", "green", "pink", "purple", "orange")),
    "mushroom": (mushroom, ("red", "red", "brown", "orange", "purple")),
    "umbrella": (umbrella, ("red", "blue", "yellow", "green", "purple", "pink", "black")),
    "cat": (cat, ("orange", "black", "gray", "white", "brown")),
}
"""Kind of thing → its function and the names of the colours it comes in."""
