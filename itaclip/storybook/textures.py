"""The eight kinds of stuff: each fills a whole picture with a texture known from a small patch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .canvas import Colour, Dice, triangle


def _mix(tone: np.ndarray, dark: Colour, light: Colour) -> np.ndarray:
    """Tone (H, W), 0 dark and 1 light, as colours (H, W, 3) float32."""
    picture = np.empty((*tone.shape, 3), dtype=np.float32)
    for channel in range(3):
        picture[..., channel] = tone * (light[channel] - dark[channel]) + dark[channel]
    return picture


def _vary(dice: Dice, colour: Colour, by: float) -> Colour:
    return tuple(part + dice.uniform(-by, by) for part in colour)


def _axes(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns of row numbers (H, 1) and rows of column numbers (1, W), float32."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    return rows, np.arange(width, dtype=np.float32)[None, :]


def sky(dice: Dice, height: int, width: int) -> np.ndarray:
    top, bottom = dice.choice(
        [
            ((80, 150, 235), (190, 220, 250)),
            ((110, 175, 245), (170, 210, 250)),
            ((60, 125, 215), (150, 195, 245)),
            ((120, 150, 225), (245, 200, 190)),
        ]
    )
    rows, _ = _axes(height, width)
    veil = dice.noise(height, width, 26, 48) * np.float32(0.3)
    tone = np.minimum(veil + rows * np.float32(0.75 / height), 1)
    return _mix(tone, _vary(dice, top, 10), _vary(dice, bottom, 8))


def sea(dice: Dice, height: int, width: int) -> np.ndarray:
    dark, light = dice.choice(
        [
            ((15, 60, 130), (90, 165, 200)),
            ((10, 85, 120), (100, 190, 190)),
            ((25, 50, 105), (110, 150, 195)),
        ]
    )
    rows, _ = _axes(height, width)
    period = dice.uniform(5, 8)
    bend = dice.noise(height, width, 10, 14) * np.float32(dice.uniform(1.2, 2.0))
    crest = triangle(rows * np.float32(1 / period) + bend)
    tone = crest * crest * np.float32(0.7) + dice.noise(height, width, 3, 9) * np.float32(0.3)
    return _mix(tone, _vary(dice, dark, 10), _vary(dice, light, 10))


def grass(dice: Dice, height: int, width: int) -> np.ndarray:
    dark, light = dice.choice(
        [
            ((20, 90, 20), (120, 190, 60)),
            ((40, 100, 25), (150, 200, 70)),
            ((25, 75, 35), (100, 165, 75)),
        ]
    )
    blades = dice.noise(height, width, 6, 1.3)
    tone = blades * np.float32(0.75) + dice.noise(height, width, 22, 22) * np.float32(0.25)
    return _mix(tone, _vary(dice, dark, 10), _vary(dice, light, 10))


def sand(dice: Dice, height: int, width: int) -> np.ndarray:
    dark, light = dice.choice(
        [
            ((205, 170, 105), (245, 220, 165)),
            ((195, 165, 120), (240, 215, 170)),
            ((215, 180, 90), (250, 230, 150)),
        ]
    )
    grains = dice.grain(height, width)
    tone = grains * np.float32(0.55) + dice.noise(height, width, 5, 18) * np.float32(0.45)
    return _mix(tone, _vary(dice, dark, 8), _vary(dice, light, 5))


def brick_wall(dice: Dice, height: int, width: int) -> np.ndarray:
    dark, light = dice.choice(
        [
            ((130, 45, 35), (190, 90, 65)),
            ((150, 75, 50), (205, 125, 90)),
            ((115, 60, 60), (175, 105, 95)),
        ]
    )
    brick_height = dice.integer(6, 9)
    brick_width = 2 * brick_height + dice.integer(0, 4)
    rows = np.arange(height) + dice.integer(0, 9)
    row = rows // brick_height
    shifted = np.arange(width)[None, :] + (row % 2)[:, None] * (brick_width // 2)  # (H, W)
    column = shifted // brick_width
    tints = dice.grain(int(row[-1]) + 1, int(column.max()) + 1)
    tone = tints[row[:, None], column] * np.float32(0.7)
    picture = _mix(
        tone + dice.grain(height, width) * np.float32(0.3),
        _vary(dice, dark, 8),
        _vary(dice, light, 8),
    )
    joint = (rows % brick_height == 0)[:, None] | (shifted % brick_width == 0)
    picture[joint] = np.array(_vary(dice, (205, 195, 185), 20), dtype=np.float32)
    return picture


def road(dice: Dice, height: int, width: int) -> np.ndarray:
    level = dice.uniform(60, 95)
    tone = dice.grain(height, width) * np.float32(0.6)
    tone = tone + dice.noise(height, width, 14, 30) * np.float32(0.4)
    picture = _mix(tone, (level - 25, level - 25, level - 20), (level + 35, level + 35, level + 40))
    rows, columns = _axes(height, width)
    spacing, dash = dice.uniform(30, 46), dice.uniform(16, 26)
    line = triangle(rows * np.float32(1 / spacing) + dice.uniform()) < np.float32(4.0 / spacing)
    broken = triangle(columns * np.float32(1 / dash) + dice.uniform()) < np.float32(0.6)
    paint = dice.choice([(230, 230, 225), (235, 200, 70)])
    picture[line & broken] = np.array(paint, dtype=np.float32)
    return picture


def snow(dice: Dice, height: int, width: int) -> np.ndarray:
    dark, light = dice.choice(
        [
            ((205, 215, 235), (250, 252, 255)),
            ((215, 220, 232), (252, 252, 255)),
            ((200, 215, 230), (245, 250, 255)),
        ]
    )
    drifts = dice.noise(height, width, 9, 20)
    sparkle = dice.grain(height, width)
    tone = drifts * np.float32(0.7) + sparkle * sparkle * np.float32(0.4)
    return _mix(np.minimum(tone, 1), _vary(dice, dark, 6), _vary(dice, light, 3))


def wooden_floor(dice: Dice, height: int, width: int) -> np.ndarray:
    dark, light = dice.choice(
        [
            ((115, 70, 35), (185, 125, 70)),
            ((140, 90, 50), (210, 155, 100)),
            ((90, 55, 35), (150, 100, 65)),
        ]
    )
    plank, length = dice.integer(9, 14), dice.integer(45, 70)
    row = (np.arange(height) + dice.integer(0, 8)) // plank
    shifted = np.arange(width)[None, :] + ((row * 29) % length)[:, None]  # (H, W)
    tints = dice.grain(int(row[-1]) + 1, int(shifted.max()) // length + 1)
    tone = tints[row[:, None], shifted // length] * np.float32(0.5)
    tone = tone + dice.noise(height, width, 1.2, 16) * np.float32(0.5)
    joint = np.empty(height, dtype=bool)
    joint[0], joint[1:] = False, row[1:] != row[:-1]
    tone[joint[:, None] | (shifted % length == 0)] = -0.35
    return _mix(tone, _vary(dice, dark, 8), _vary(dice, light, 8))


Texture = Callable[[Dice, int, int], np.ndarray]
STUFF: dict[str, Texture] = {
    "sky": sky,
    "sea": sea,
    "grass": grass,
    "sand": sand,
    "brick wall": brick_wall,
    "road": road,
    "snow": snow,
    "wooden floor": wooden_floor,
}
"""Kind of stuff → function (dice, H, W) giving colours (H, W, 3) float32, about 0–255."""
