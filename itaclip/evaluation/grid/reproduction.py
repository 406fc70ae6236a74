"""The report of a reproduction: measured beside published, a verdict for every figure, pictures."""

import html
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmcv import imread
from PIL import Image

from ...runtime.files import write_whole
from ...runtime.pictures import overlay
from ..elsewhere import ELSEWHERE
from ..published import BENCHMARKS, PUBLISHED
from ..record import Record, write_bundle, write_record
from .plan import Cell, Plan
from .store import Store

CLOSE = 0.3
"""Points of mIoU within which a comparable figure is called reproduced."""
_HEIGHT = 160  # pixels of a picture in the report
_MAX_METHODS = 6  # beside one another in a picture
_SUSPECTS = (
    ("weights", "weights"),
    ("texts", "auxiliary texts"),
    ("name_path", "word list"),
    ("precision", "precision"),
    ("images were evaluated", "pictures that are missing"),
    ("protocol", "protocol"),
)


@dataclass(frozen=True)
class Verdict:
    """What a figure says of the paper's.

    Attributes:
        word: ``'reproduced'``, ``'differs'``, ``'partial'``, ``'not comparable'``, ``'no figure'``.
        sentence: for a reader.
    """

    word: str
    sentence: str


def verdict(record: Record) -> Verdict:
    """Holds a record's figure against the paper's."""
    comparison = record["comparison"]
    published, difference = comparison["published"], comparison.get("difference")
    if record.get("partial"):
        return Verdict("partial", f"partial: {'; '.join(record['partial'])}")
    if published is None or difference is None:
        return Verdict("no figure", "the paper has no such figure")
    if comparison["comparable"]:
        if abs(difference) <= CLOSE:
            return Verdict("reproduced", f"reproduced: within {CLOSE} of the paper's")
        return Verdict(
            "differs",
            f"{difference:+.2f} from the paper's, with its settings, weights and words; look first "
            "at the preparation of the masks, then at the precision (--precision fp32 fp16)",
        )
    reasons = comparison["reasons"]
    suspects = [name for word, name in _SUSPECTS if any(word in reason for reason in reasons)]
    first = f"; first suspects: {', '.join(suspects)}" if suspects else ""
    return Verdict("not comparable", f"{difference:+.2f}, not comparable{first}")


def write_reproduction(
    folder: Path,
    plan: Plan,
    found: Sequence[Record],
    lines: Sequence[str] = (),
    pictures: Mapping[str, Sequence[Path]] | None = None,
) -> Path:
    """Writes ``README.md``, ``index.html``, ``results.json`` and a record for every figure.

    Args:
        folder: of the report.
        plan: what was evaluated.
        found: a record for each of the plan's cells, in their order.
        lines: the plan in words, with its cost.
        pictures: by benchmark, as :func:`draw_pictures` made them.

    Returns:
        The page.
    """
    for cell, record in zip(plan.cells, found, strict=True):
        name = "_".join(filter(None, (cell.study, cell.row, cell.column))).replace("/", "-")
        write_record(folder / "records" / f"{name}.json", record)
    write_bundle(folder / "results.json", found)
    write_whole(folder / "README.md", _markdown(plan, found, lines))
    return write_whole(folder / "index.html", _page(folder, plan, found, lines, pictures or {}))


# ---- figures ------------------------------------------------------------------------------------


def _rows(plan: Plan, found: Sequence[Record]) -> Iterator[list[str]]:
    for cell, record in zip(plan.cells, found, strict=True):
        comparison, miou = record["comparison"], record["results"]["mIoU"]
        difference = comparison.get("difference")
        yield [
            cell.study,
            _name(cell),
            "–" if miou is None else f"{miou:.2f}",
            "–" if comparison["published"] is None else f"{comparison['published']:.2f}",
            "–" if difference is None else f"{difference:+.2f}",
            str(record["precision"]["used"]),
            f"{record['seconds_per_image']:.3g}",
            verdict(record).sentence,
        ]


_HEAD = ("benchmark", "method", "mIoU", "published", "difference", "precision", "s/picture")


def _markdown(plan: Plan, found: Sequence[Record], lines: Sequence[str]) -> str:
    head = [*_HEAD, "verdict"]
    rows = [head, ["---"] * len(head), *_rows(plan, found)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"# Measured beside published\n\n{_about(found[0])}\n\n{table}\n\n" + "\n".join(
        ["```", *lines, "```", ""]
    )


def _about(record: Record) -> str:
    versions, hardware = record["versions"], record["hardware"]
    where = ", ".join(hardware["gpus"]) or hardware["processor"]
    commit = f", commit {versions['commit'][:10]}" if versions.get("commit") else ""
    return (
        f"Measured {record['time'][:10]} with itaclip {versions['itaclip']}{commit} on {where}, "
        f"torch {versions.get('torch')}. Whatever is not called comparable says why."
    )


def _name(cell: Cell) -> str:
    return cell.row + (f" ({cell.column})" if cell.column else "")


# ---- the page -----------------------------------------------------------------------------------

_STYLE = """body{font:15px/1.5 sans-serif;margin:2em auto;max-width:70em;padding:0 1em}
table{border-collapse:collapse}td,th{padding:.2em .7em;border-bottom:1px solid #ddd}
td,th{text-align:left}td.n{text-align:right}.reproduced{background:#e3f5e1}
.differs{background:#fbe3e0}.partial,.not{color:#666}img{max-width:100%}
details{margin:.5em 0}pre{background:#f5f5f5;padding:1em}"""


def _page(
    folder: Path,
    plan: Plan,
    found: Sequence[Record],
    lines: Sequence[str],
    pictures: Mapping[str, Sequence[Path]],
) -> str:
    body = [f"<p>{html.escape(_about(found[0]))}</p>", _html_table(plan, found)]
    body.append("<h2>Why figures are not comparable</h2>")
    for cell, record in zip(plan.cells, found, strict=True):
        reasons = record["comparison"]["reasons"]
        if reasons:
            items = "".join(f"<li>{html.escape(reason)}</li>" for reason in reasons)
            title = html.escape(f"{cell.study}, {_name(cell)}")
            body.append(f"<details><summary>{title}</summary><ul>{items}</ul></details>")
    body.append("<h2>Classes</h2>")
    body += [_class_table(plan, found, study) for study in _studies(plan)]
    for study, paths in pictures.items():
        body.append(f"<h2>{html.escape(study)}: best, median and worst picture</h2>")
        for path in paths:
            place = path.relative_to(folder).as_posix()
            body.append(f'<p><img src="{place}" alt="{html.escape(path.stem)}"></p>')
    body.append("<h2>All published figures</h2>" + _published_table(_studies(plan), found))
    body.append(f"<h2>What ran</h2><pre>{html.escape(chr(10).join(lines))}</pre>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Measured beside '
        f"published</title><style>{_STYLE}</style></head><body><h1>Measured beside published</h1>"
        f"{''.join(body)}</body></html>\n"
    )


def _html_table(plan: Plan, found: Sequence[Record]) -> str:
    head = "".join(f"<th>{name}</th>" for name in [*_HEAD, "verdict"])
    rows = []
    for cells, record in zip(_rows(plan, found), found, strict=True):
        word = verdict(record).word.split()[0]
        inner = "".join(
            f"<td{' class=n' if 2 <= place <= 6 else ''}>{html.escape(text)}</td>"
            for place, text in enumerate(cells)
        )
        rows.append(f'<tr class="{word}">{inner}</tr>')
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _studies(plan: Plan) -> list[str]:
    return list(dict.fromkeys(cell.study for cell in plan.cells))


def _class_table(plan: Plan, found: Sequence[Record], study: str) -> str:
    own = [(c, r) for c, r in zip(plan.cells, found, strict=True) if c.study == study]
    names = [entry["name"] for entry in own[0][1]["results"]["classes"]]
    head = "".join(f"<th>{html.escape(_name(cell))}</th>" for cell, _ in own)
    rows = []
    for place, name in enumerate(names):
        ious = (record["results"]["classes"][place]["iou"] for _, record in own)
        cells = "".join(f"<td class=n>{'–' if iou is None else f'{iou:.1f}'}</td>" for iou in ious)
        rows.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    table = f"<table><tr><th>IoU</th>{head}</tr>{''.join(rows)}</table>"
    return f"<details><summary>{html.escape(study)}</summary>{table}</details>"


def _published_table(studies: Sequence[str], found: Sequence[Record]) -> str:
    """Every published figure on these benchmarks, the methods that do not run here among them."""
    labels = list(dict.fromkeys(r["comparison"]["benchmark"] or "" for r in found))
    head = "".join(f"<th>{html.escape(label)}</th>" for label in labels)
    rows = []
    for row in PUBLISHED:
        if any(label in row.miou for label in labels):
            cells = "".join(f"<td class=n>{row.miou.get(label, '–')}</td>" for label in labels)
            title = ", ".join(filter(None, (row.method, row.setting)))
            rows.append(
                f"<tr><td>{html.escape(title)}</td>{cells}<td>{html.escape(row.source)}</td></tr>"
            )
    for other in ELSEWHERE:
        figures = dict(zip(BENCHMARKS, other.miou, strict=False))
        if any(figures.get(label) is not None for label in labels):
            shown = (figures.get(label) for label in labels)
            cells = "".join(f"<td class=n>{'–' if v is None else v}</td>" for v in shown)
            needs = "; ".join(filter(None, (other.needs, other.domain))) or "nothing beside CLIP"
            source = html.escape(f"{other.source}; does not run here; needs: {needs}")
            rows.append(f"<tr><td>{html.escape(other.method)}</td>{cells}<td>{source}</td></tr>")
    return f"<table><tr><th>method</th>{head}<th>source</th></tr>{''.join(rows)}</table>"


# ---- pictures -----------------------------------------------------------------------------------


@torch.no_grad()
def draw_pictures(folder: Path, plan: Plan, store: Store) -> dict[str, list[Path]]:
    """The first method's best, median and worst picture of every benchmark, for all methods.

    The truth stands beside; nothing of it leaves the folder with ``results.json``.
    """
    drawn = {}
    for study in _studies(plan):
        cells = [cell for cell in plan.cells if cell.study == study]
        first = plan.rows[cells[0].key]
        scores = {index: _miou(done.areas) for index, done in store.load(first).items()}
        ranked = sorted((index for index in scores if scores[index] >= 0), key=scores.get)
        if not ranked:
            continue
        chosen = dict(best=ranked[-1], median=ranked[len(ranked) // 2], worst=ranked[0])
        drawn[study] = [
            _draw(folder / "pictures" / f"{study}_{name}.jpg", plan, cells[:_MAX_METHODS], index)
            for name, index in chosen.items()
        ]
    return drawn


def _miou(areas: torch.Tensor) -> float:
    intersection, union = areas[0], areas[1]
    known = union > 0
    return float((intersection[known] / union[known]).mean()) if known.any() else -1.0


def _draw(path: Path, plan: Plan, cells: Sequence[Cell], index: int) -> Path:
    dataset = plan.datasets[plan.rows[cells[0].key].dataset_key]
    sample, palette = dataset[index], dataset.metainfo["palette"]
    image = imread(sample["data_samples"].img_path, channel_order="rgb")
    truth = sample["data_samples"].gt_sem_seg.data[0].numpy()
    panels = [image, overlay(image, truth, palette)]
    for cell in cells:
        batch = {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"].new()]}
        (predicted,) = plan.rows[cell.key].model.test_step(batch)
        labels = predicted.pred_sem_seg.data.squeeze(0).cpu().numpy()
        panels.append(overlay(image, labels, palette))
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([_scaled(panel) for panel in panels], axis=1)).save(
        buffer, "JPEG", quality=85
    )
    write_whole(path, buffer.getvalue())
    return path


def _scaled(picture: np.ndarray) -> np.ndarray:
    """The picture at the report's height, a white line at its right."""
    width = max(1, round(picture.shape[1] * _HEIGHT / picture.shape[0]))
    small = np.asarray(Image.fromarray(picture).resize((width, _HEIGHT)))
    return np.pad(small, ((0, 0), (0, 4), (0, 0)), constant_values=255)
