"""Names in pictures: a font that has their letters, or else their code points, never a bare box."""

import logging
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

from PIL import ImageFont

logger = logging.getLogger(__name__)

_MISSING = "\U0010ffff"  # no font has it: drawn as the box of what is missing
_LOOKED_AT = 24  # size at which letters are compared with that box
_JOINERS = "\u200c\u200d"  # unseen, but they shape their neighbours


def lettering(text: str, size: int) -> tuple[ImageFont.FreeTypeFont, str]:
    """A font, and the text as it is drawn: letters that no font has become ``U+5929``.

    The font is Pillow's own where it has all letters, else matplotlib's, else one of the system's.

    Args:
        text: a line.
        size: of the font, in pixels.
    """
    path, drawn = _chosen(text)
    if path is None:
        return ImageFont.load_default(size), drawn
    return ImageFont.truetype(path, size), drawn


def figure_lettering(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """For matplotlib: the texts as they are drawn, and the families to draw them with."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties

    families, drawn = [*rcParams["font.family"], "DejaVu Sans"], []
    for text in texts:
        path, as_drawn = _chosen(text)
        if path is not None:
            family = FontProperties(fname=path).get_name()
            if family not in families:
                families.append(family)
        drawn.append(as_drawn)
    return drawn, families


@lru_cache(maxsize=1024)
def _chosen(text: str) -> tuple[str | None, str]:
    """The first font's file, None for Pillow's own, and the text as it is drawn."""
    unseen = {c for c in text if unicodedata.category(c)[0] == "C" and c not in _JOINERS}
    wanted = {c for c in text if not c.isspace() and c not in _JOINERS} - unseen
    if all(c.isascii() for c in wanted) or _letters(None, wanted) == wanted:
        return None, _spelled(text, unseen)
    best, most = None, _letters(None, wanted)
    for path in _fonts():
        found = _letters(path, wanted)
        if len(found) > len(most):
            best, most = path, found
        if found == wanted:
            break
    missing = wanted - most
    if missing:
        logger.warning(
            "legend: no font here has the letters of %r, which are drawn as code points; install "
            "one that has them, such as Noto Sans.",
            text,
        )
    return best, _spelled(text, unseen | missing)


def _spelled(text: str, letters: Iterable[str]) -> str:
    return "".join(f"U+{ord(c):04X} " if c in letters else c for c in text).rstrip()


def _letters(path: str | None, wanted: Iterable[str]) -> set[str]:
    """Those that the font has."""
    try:
        if path is None:
            font = ImageFont.load_default(_LOOKED_AT)
        else:
            font = ImageFont.truetype(path, _LOOKED_AT)
        box = _drawn(font, _MISSING)
        return {c for c in wanted if _drawn(font, c) != box}
    except (OSError, ValueError):  # a bitmap font, or a damaged one
        return set()


def _drawn(font: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


@cache
def _fonts() -> Sequence[str]:
    """Files of fonts: matplotlib's own first, upright ones before others."""
    from matplotlib.font_manager import fontManager

    usable = [
        font
        for font in fontManager.ttflist
        if font.fname.lower().endswith((".ttf", ".otf", ".ttc")) and "Last Resort" not in font.name
    ]
    ordered = sorted(
        usable, key=lambda f: (f.name != "DejaVu Sans", f.style != "normal", str(f.weight) != "400")
    )
    return tuple(dict.fromkeys(font.fname for font in ordered))
