"""Pieces of HTML on the page: pure functions. All words come from users and are escaped."""

from collections.abc import Mapping, Sequence
from html import escape

Colour = Sequence[int]  # RGB, 0-255

_MOST_BARS = 12


def heading(title: str, about: str) -> str:
    """The page's title and a line below it."""
    return f"<h1>{escape(title)}</h1>{note(about)}"


def notice(message: str) -> str:
    """A sentence that asks for something to be mended."""
    return f'<div class="notice" role="alert">{escape(message)}</div>'


def note(message: str) -> str:
    """A quiet line of text."""
    return f'<div class="note">{escape(message)}</div>'


def legend(classes: Sequence[str], palette: Sequence[Colour], areas: Mapping[str, float]) -> str:
    """The classes found, the largest first, with their colours and shares of the image.

    Args:
        classes: C names.
        palette: C colours.
        areas: name → share of the image's pixels, the largest first, of the classes found.
    """
    colours = dict(zip(classes, palette, strict=True))
    items = "".join(
        f"<li>{_swatch(colours[name])}<span>{escape(name)}</span><b>{_percent(area)}</b></li>"
        for name, area in areas.items()
    )
    missing = ", ".join(name for name in classes if name not in areas)
    rest = note(f"Not found: {missing}.") if missing else ""
    return f'<ul class="legend" aria-label="Classes found">{items}</ul>{rest}'


def score_bars(
    pixel: tuple[int, int],
    label: int,
    classes: Sequence[str],
    palette: Sequence[Colour],
    scores: Sequence[float],
) -> str:
    """A pixel's scores as bars, the highest first.

    Args:
        pixel: (row, column).
        label: the class that the pixel was given, which thresholds can make another than the best.
        classes, palette, scores: C each; scores in [0, 1].
    """
    order = sorted(range(len(classes)), key=lambda c: -scores[c])
    rows = "".join(
        f"<tr><th>{_swatch(palette[c])}<span>{escape(classes[c])}</span></th>"
        f'<td><i style="width:{100 * scores[c]:.1f}%;background:{_css(palette[c])}"></i></td>'
        f"<td>{scores[c]:.3f}</td></tr>"
        for c in order[:_MOST_BARS]
    )
    left = len(order) - _MOST_BARS
    more = note(f"and {left} more below {scores[order[_MOST_BARS - 1]]:.3f}") if left > 0 else ""
    title = f"Row {pixel[0]}, column {pixel[1]}: {classes[label]}"
    return f'<div class="scores"><h4>{escape(title)}</h4><table>{rows}</table>{more}</div>'


def _swatch(colour: Colour) -> str:
    return f'<i class="swatch" style="background:{_css(colour)}"></i>'


def _css(colour: Colour) -> str:
    return f"rgb({', '.join(str(int(part)) for part in colour)})"


def _percent(share: float) -> str:
    return "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"
