"""An audit as plain tables, and as one HTML page that holds its own pictures."""

import base64
import html
import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from ...runtime.palette import palette_of
from ...runtime.pictures import overlay
from .measure import Audit

_THUMBNAIL = 320  # long side of the page's pictures

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { text-align: left; padding: .15rem .8rem .15rem 0; border-bottom: 1px solid #ddd; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
p.note { color: #555; max-width: 50rem; }
figure { display: inline-block; margin: .4rem .8rem .4rem 0; vertical-align: top; }
figcaption { font-size: .85rem; color: #555; max-width: 20rem; overflow-wrap: anywhere; }
i.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em; }
"""

# Heading, what it says, columns (title, key, kind) and the attribute that holds the rows.
_SECTIONS = (
    ("Word lists", "Share of pixels whose class differs from the first list's, before refinement; "
     "with masks, mIoU in percent with all the model's settings.",
     (("list", "list", "text"), ("changed", "changed", "share"), ("mIoU", "miou", "points")),
     "lists"),
    ("Classes", "Area: share of all pixels. Margin: mean distance of the best score from the "
     "second. Unsure: share of the class's pixels where it is below 0.1. Rival: the class that is "
     "second there.",
     (("class", "class", "text"), ("area", "area", "share"), ("margin", "margin", "score"),
      ("unsure", "unsure", "share"), ("rival", "rival", "text")),
     "classes"),
    ("Classes confused most", "Pairs with the most unsure pixels between them, as shares of all.",
     (("class", "class", "text"), ("with", "other", "text"), ("pixels", "share", "share")),
     "confused"),
    ("Names", "Wins: share of all pixels where the name is the best of all. Without it: share of "
     "all pixels that would change class, and where most of them would go.",
     (("name", "name", "text"), ("class", "class", "text"), ("tokens", "tokens", "count"),
      ("wins", "wins", "share"), ("without it", "without", "share"), ("to", "goes_to", "text")),
     "names"),
    ("Names that are alike as texts", "The highest cosines between names of different classes.",
     (("name", "name", "text"), ("other", "other", "text"), ("cosine", "cosine", "score")),
     "similar"),
    ("Names that are too long", "They do not fit into what the model reads, and took no part.",
     (("name", "name", "text"), ("class", "class", "text"), ("tokens", "tokens", "count")),
     "too_long"),
)  # fmt: skip


def _cell(value: object, kind: str) -> str:
    if value is None:
        return "–"
    if kind == "share":
        return f"{100 * float(value):.2f} %"
    if kind == "score":
        return f"{float(value):.3f}"
    if kind == "points":
        return f"{float(value):.2f}"
    return str(value)


def _sections(found: Audit) -> Iterator[tuple[str, str, list[tuple[str, str]], list[list[str]]]]:
    """Heading, note, (title, kind) of the columns and the cells of every table that has rows."""
    for heading, note, columns, attribute in _SECTIONS:
        rows = getattr(found, attribute)
        shown = [c for c in columns if any(c[1] in row for row in rows)]
        if rows and (attribute != "lists" or len(rows) > 1 or "miou" in rows[0]):
            cells = [[_cell(row.get(key), kind) for _, key, kind in shown] for row in rows]
            yield heading, note, [(title, kind) for title, _, kind in shown], cells


def tables(found: Audit) -> str:
    """Plain text."""
    lines = [f"{found.pictures} pictures"]
    for heading, note, columns, cells in _sections(found):
        titles = [title for title, _ in columns]
        widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
        lines += ["", heading, f"  {note}"]
        for row in (titles, *cells):
            parts = (
                cell.ljust(width) if kind == "text" else cell.rjust(width)
                for cell, width, (_, kind) in zip(row, widths, columns, strict=True)
            )
            lines.append("  " + "  ".join(parts).rstrip())
    if found.never:
        lines += ["", f"Names that never win: {', '.join(found.never)}"]
    return "\n".join(lines) + "\n"


def html_page(found: Audit, title: str) -> str:
    """One page without any other file."""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
        *_examples(found),
    ]
    for heading, note, columns, cells in _sections(found):
        parts += [f"<h2>{html.escape(heading)}</h2>", f'<p class="note">{html.escape(note)}</p>']
        parts += _table(columns, cells)
        if heading == "Classes confused most":
            parts += [
                _figure(crop.pixels, f"{a} or {b}? ({crop.source})") for a, b, crop in found.crops
            ]
        if heading == "Names" and found.never:
            names = html.escape(", ".join(found.never))
            parts.append(f"<p><b>Never the best:</b> {names}.</p>")
    return "\n".join([*parts, "</body></html>", ""])


def _table(columns: Sequence[tuple[str, str]], cells: Sequence[Sequence[str]]) -> Iterator[str]:
    kinds = ["" if kind == "text" else ' class="number"' for _, kind in columns]
    head = zip(kinds, columns, strict=True)
    yield "<table><tr>" + "".join(f"<th{k}>{html.escape(t)}</th>" for k, (t, _) in head) + "</tr>"
    for row in cells:
        inner = "".join(f"<td{k}>{html.escape(c)}</td>" for k, c in zip(kinds, row, strict=True))
        yield f"<tr>{inner}</tr>"
    yield "</table>"


def _examples(found: Audit) -> Iterator[str]:
    """The first pictures with their labels, and the colours of what was found."""
    names = [row["class"] for row in found.classes]
    palette = palette_of(names, bool(names) and names[0] == "background")
    shown = [index for index, row in enumerate(found.classes) if row["area"] > 0]
    swatches = "".join(
        f'<span><i class="swatch" style="background:rgb{palette[index]}"></i>'
        f"{html.escape(names[index])}</span> &nbsp; "
        for index in shown
    )
    yield f"<p>{swatches}</p>"
    for source, image, labels in found.examples:
        height, width = labels.shape
        small = np.asarray(Image.fromarray(image).resize((width, height)))
        yield _figure(overlay(small, labels, palette), source)


def _figure(pixels: np.ndarray, caption: str) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    text = html.escape(caption)
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{text}">'
        f"<figcaption>{text}</figcaption></figure>"
    )
