"""Tables, plots and comparisons of a plan's results."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...runtime.files import atomic_write, write_whole
from ..inputs import hardware, versions
from ..published import project_path
from ..record import write_json
from .evaluate import Result
from .plan import Plan
from .published import Figures
from .studies import Study

BEGIN, END = "<!-- ablations:begin -->", "<!-- ablations:end -->"
_NOT_SHOWN = ("per_class", "images")
# Published figures that differ by less say nothing of the order.
_SAME = 0.05


def summary(plan: Plan, results: Mapping[str, Result]) -> dict[str, Any]:
    """All figures as one JSON object; cells that are not evaluated yet are null."""
    row = next(iter(plan.rows.values()))
    images, size = plan.images(row), len(plan.datasets[row.dataset_key])
    studies = {}
    for name, study in plan.studies.items():
        cells: dict[str, dict[str, Any]] = {label: {} for label in study.rows}
        for cell in plan.cells:
            if cell.study == name:
                result = results.get(cell.key)
                figures = result and {
                    k: v for k, v in result.items() if k not in ("per_class", "images")
                }
                cells[cell.row][cell.column] = {"changes": cell.changes, "figures": figures}
        studies[name] = {
            "title": study.title,
            "cells": cells,
            "published": [vars(series) for series in study.published],
            "agreement": [vars(a) for a in agreements(study, cells)],
        }
    return {
        "config": project_path(plan.config_path),
        "images": images,
        "of": size,
        "complete": all(key in results for key in plan.rows) and images == size,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": row.inputs,
        "versions": versions(),
        "hardware": hardware(),
        "sharing": sharing(plan),
        "left_out": plan.left_out,
        "studies": studies,
    }


def sharing(plan: Plan) -> dict[str, int]:
    """How often what is done, where every cell on its own would do all of it."""
    groups = plan.groups(plan.rows)
    return {
        "studies": len(plan.studies),
        "cells": len(plan.cells),
        "settings": len(plan.rows),
        "passes_through_blocks": len(groups),
        "passes_through_last_block": sum(map(len, groups)),
        "segmented": len(plan.rows),
        "decoded": len({row.dataset_key for row in plan.rows.values()}),
        "models": len({row.settings["model"].get("clip_model") for row in plan.rows.values()}),
    }


def sharing_line(shared: Mapping[str, int]) -> str:
    """Two sentences."""

    def times(key: str) -> str:
        return "once" if shared[key] == 1 else f"{shared[key]} times"

    return (
        f"{shared['cells']} cells of {shared['studies']} studies are {shared['settings']} "
        f"different settings. A picture passes {times('passes_through_blocks')} through the image "
        f"encoder's blocks, {times('passes_through_last_block')} through its last block and "
        f"{times('segmented')} through what follows, and is decoded {times('decoded')}, instead of "
        f"{times('cells')} each; weights are read {times('models')}."
    )


# ---- this run beside the papers -----------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Whether a study orders its cells as a published series does.

    Attributes:
        source, data: of the series.
        pairs, same: pairs of cells that the series orders, and those that stand the same way here.
        best, best_there: the names of the best cells.
    """

    source: str
    data: str
    pairs: int
    same: int
    best: str
    best_there: str


def agreements(study: Study, cells: Mapping[str, Mapping[str, Any]]) -> list[Agreement]:
    """One per published series of which at least two different figures have a cell here."""
    found = []
    for series in study.published:
        both = []  # name, published, here
        for row, published in series.figures.items():
            for column, figure in zip(study.columns, _tuple(published), strict=False):
                here = cells.get(row, {}).get(column, {}).get("figures")
                if figure is not None and here:
                    both.append((_cell_name(study, row, column), figure, here["mIoU"]))
        pairs = [
            (one, other)
            for one, other in itertools.combinations(both, 2)
            if abs(one[1] - other[1]) >= _SAME
        ]
        if pairs:
            same = sum((a[1] - b[1]) * (a[2] - b[2]) > 0 for a, b in pairs)
            best_there, best = (max(both, key=lambda cell, at=at: cell[at])[0] for at in (1, 2))
            found.append(Agreement(series.source, series.data, len(pairs), same, best, best_there))
    return found


def agreement_lines(found: Sequence[Agreement]) -> Iterator[str]:
    """A sentence per published table; disagreement on the best row is set in bold."""
    for source, group in itertools.groupby(found, key=lambda a: a.source):
        several = list(group)
        shares = ", ".join(f"{a.data} {a.same} of {a.pairs}" for a in several)
        best = several[0].best  # may differ where series cover different rows
        others: dict[str, list[str]] = {}
        for a in several:
            if a.best_there != a.best:
                others.setdefault(a.best_there, []).append(a.data)
        line = f"{source}, pairs of cells that stand in the same order here: {shares}. Best here: "
        there = "; ".join(f"**{name} on {', '.join(data)}**" for name, data in others.items())
        yield line + best + (f"; there: {there}." if there else ", as there.")


def _cell_name(study: Study, row: str, column: str) -> str:
    name = f"{study.row_name} {row}" if _numeric(list(study.rows)) else row
    return f"{name}, {study.column_name} {column}" if column else name


def _tuple(figures: Figures) -> tuple[float | None, ...]:
    return figures if isinstance(figures, tuple) else (figures,)


# ---- Markdown -----------------------------------------------------------------------------------


def markdown(data: Mapping[str, Any], plan: Plan, plots: bool = True) -> str:
    """All tables, with a line on each study's agreement with the papers."""
    label = partial_label(data)
    lines = [f"`{data['config']}`, {data['images']} pictures, mIoU in percent."]
    lines += [f"**{label}**"] if label else []
    lines += ["", sharing_line(data["sharing"]), ""]
    for name, study in plan.studies.items():
        entry = data["studies"][name]
        lines += [f"### {study.title}", "", *_table(study, entry["cells"]), ""]
        for sentence in agreement_lines(agreements(study, entry["cells"])):
            lines += [sentence, ""]
        if plots:
            lines += [f"![{study.title}]({name}.png)", ""]
    for name, reason in data["left_out"].items():
        lines += [f"* Left out: `{name}`: {reason}."]
    return "\n".join(lines).rstrip() + "\n"


def partial_label(data: Mapping[str, Any]) -> str:
    """Why the figures must not be compared; empty where they may."""
    if data["images"] < data["of"]:
        return f"First {data['images']} of {data['of']} pictures: not comparable."
    return "" if data["complete"] else "Not all cells are evaluated yet."


def _table(study: Study, cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    columns = [column for column in study.columns if column]
    several = f" ({study.column_name} {' / '.join(columns)})" if columns else ""
    split = any(
        cell["figures"] and "stuff" in cell["figures"] for row in cells.values() for cell in
        row.values()
    )  # fmt: skip
    header = [study.row_name or "row", f"**here**{several}"]
    header += [f"stuff{several and ' …'}", f"things{several and ' …'}"] if split else []
    header += [s.data for s in study.published]
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    labels = list(study.rows)
    for series in study.published:  # rows that only the paper has
        labels += [label for label in series.figures if label not in labels]
    for label in labels:
        row = cells.get(label, {})
        line = [_label(label, row), f"**{_joined(study, row, 'mIoU')}**"]
        line += [_joined(study, row, key) for key in ("stuff", "things")] if split else []
        for series in study.published:
            figures = _tuple(series.figures.get(label, (None,) * len(study.columns)))
            line.append(" / ".join(_figure(figure) for figure in figures))
        lines.append("| " + " | ".join(line) + " |")
    quoted = dict.fromkeys(f"{s.source} ({s.setting})" for s in study.published)
    note = f"The other columns are quoted, OpenAI's weights: {'; '.join(quoted)}."
    return [*lines, "", *([note] if quoted else ["The papers give no figures for these rows."])]


def _label(label: str, row: Mapping[str, Any]) -> str:
    """The row's label; a stride that depends on the crop is written out."""
    for cell in row.values():
        stride = cell["changes"].get("model.test_cfg.stride")
        if stride:
            return f"{label} = {stride[0] if len({*stride}) == 1 else tuple(stride)}"
    return label


def _joined(study: Study, row: Mapping[str, Any], key: str) -> str:
    figures = ((row.get(column) or {}).get("figures") or {} for column in study.columns)
    return " / ".join(_figure(figure.get(key)) for figure in figures)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


# ---- plots --------------------------------------------------------------------------------------

# A panel's lines: (name in the legend, column, values by row).
_Lines = list[tuple[str, str, dict[str, float]]]


def plot(study: Study, entry: Mapping[str, Any], data: Mapping[str, Any], path: Path) -> None:
    """This run on the left, the papers' figures for the same rows on the right."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    here, there = _lines_here(study, entry["cells"]), _lines_there(study)
    several = len({name for name, _, _ in there}) > 1
    if several:  # data sets differ too much for one axis
        there = [
            (
                name,
                column,
                {row: value - next(iter(values.values())) for row, value in values.items()},
            )
            for name, column, values in there
        ]
    figure, panels = plt.subplots(
        1, 2 if there else 1, figsize=(9.5 if there else 5.2, 3.2), squeeze=False
    )
    label = partial_label(data)
    title = f"here: {Path(data['config']).stem}" + (f"\n{label}" if label else "")
    _draw(panels[0][0], study, here, title, "mIoU (%)")
    if there:
        source = " and ".join(dict.fromkeys(series.source for series in study.published))
        _draw(panels[0][1], study, there, source,
              "mIoU against the first row (points)" if several else "mIoU (%)")  # fmt: skip
    figure.suptitle(study.title, fontsize=10)
    figure.tight_layout()
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=72, format="png")
    plt.close(figure)


def _lines_here(study: Study, cells: Mapping[str, Mapping[str, Any]]) -> _Lines:
    return [
        (
            f"{study.column_name} {column}".strip(),
            column,
            {
                row: cells[row][column]["figures"]["mIoU"]
                for row in study.rows
                if cells[row][column]["figures"]
            },
        )
        for column in study.columns
    ]


def _lines_there(study: Study) -> _Lines:
    lines = []
    for series in study.published:
        for index, column in enumerate(study.columns):
            values = {row: _tuple(f)[index] for row, f in series.figures.items()}
            known = {row: v for row, v in values.items() if v is not None and row in study.rows}
            lines.append((series.data, column, known))
    return [line for line in lines if line[2]]


def _draw(axes: Any, study: Study, lines: _Lines, title: str, unit: str) -> None:
    """Rows that are numbers lie on the x axis; others are listed on the y axis."""
    rows = [row for row in study.rows if any(row in values for _, _, values in lines)]
    numeric, columns = _numeric(rows), list(study.columns)
    names = list(dict.fromkeys(name for name, _, _ in lines))
    named = set()
    for name, column, values in lines:
        style = dict(marker="o", markersize=3.5, color=f"C{names.index(name)}")
        style |= dict(linewidth=1, linestyle=("-", "--", ":")[columns.index(column) % 3])
        if len(names) == len(lines) > 1 or name not in named:
            style["label"] = name
            named.add(name)
        if numeric:
            axes.plot([float(row) for row in values], list(values.values()), **style)
        else:
            axes.plot(list(values.values()), [rows.index(row) for row in values], **style)
    if numeric:
        axes.set_xlabel(study.row_name, fontsize=8)
        axes.set_ylabel(unit, fontsize=8)
    else:
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(unit, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.set_title(title, fontsize=9)
    if any(names):
        axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _numeric(labels: Sequence[str]) -> bool:
    try:
        return [float(label) for label in labels] != []
    except ValueError:
        return False


# ---- files --------------------------------------------------------------------------------------


def write_report(
    folder: Path, plan: Plan, results: Mapping[str, Result], plots: bool = True
) -> str:
    """Writes ``ablations.json``, a PNG per study and ``README.md``; returns the Markdown.

    A ``README.md`` that is there keeps what stands outside the two marks.

    Raises:
        InputError: a ``README.md`` that is there has no marks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = summary(plan, results)
    text = markdown(data, plan, plots)
    readme = folder / "README.md"
    around = _around(readme)
    write_json(folder / "ablations.json", data)
    if plots:
        for name, study in plan.studies.items():
            plot(study, data["studies"][name], data, folder / f"{name}.png")
    write_whole(readme, f"{around[0]}{BEGIN}\n\n{text}\n{END}{around[1]}")
    return text


def _around(readme: Path) -> tuple[str, str]:
    """What stands before and after the marks of the file that is there."""
    if not readme.is_file():
        return "# Ablations\n\n", "\n"
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(
            f"{readme}: expected the lines {BEGIN} and {END}, between which the tables go; add "
            "them, or give another folder."
        )
    return before, after
