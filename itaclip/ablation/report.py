"""Tables, plots and comparisons of a plan's results."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..paper import project_path
from ..records import hardware, versions, write_record
from .evaluate import Result
from .plan import Plan
from .published import Figures, Series
from .studies import Study

BEGIN, END = "<!-- ablations:begin -->", "<!-- ablations:end -->"
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
                figures = result and {k: v for k, v in result.items() if k != "per_class"}
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
    """How much less there is to do than one evaluation for every cell; passes are per picture."""
    groups = plan.groups(plan.rows)
    pictures = {row.dataset_key: plan.images(row) for row in plan.rows.values()}
    alone = sum(plan.images(plan.rows[cell.key]) for cell in plan.cells)
    return {
        "studies": len(plan.studies),
        "cells": len(plan.cells),
        "settings": len(plan.rows),
        "passes_through_blocks": sum(plan.images(group[0][0]) for group in groups),
        "passes_through_last_block": sum(plan.images(i[0]) for group in groups for i in group),
        "segmented": sum(map(plan.images, plan.rows.values())),
        "decoded": sum(pictures.values()),
        "models": len({row.settings["model"].get("clip_model") for row in plan.rows.values()}),
        "alone": alone,
    }


def sharing_line(shared: Mapping[str, int]) -> str:
    """Two sentences."""
    return (
        f"{shared['cells']} cells of {shared['studies']} studies are {shared['settings']} "
        f"different settings. Pictures pass {shared['passes_through_blocks']} times through the "
        f"image encoder's blocks, {shared['passes_through_last_block']} times through its last "
        f"block and {shared['segmented']} times through what follows, instead of "
        f"{shared['alone']} times through all; they are decoded {shared['decoded']} times instead "
        f"of {shared['alone']}, and weights are read {shared['models']} times instead of "
        f"{shared['cells']}."
    )


# ---- this run beside the papers -----------------------------------------------------------------


class Agreement:
    """Whether a study orders its rows as a published table does.

    Attributes:
        source, data: of the table.
        pairs, same: pairs of cells that the table orders, and those that stand the same way here.
        best, best_there: the rows with the best cell.
    """

    def __init__(self, series: Series, pairs: int, same: int, best: str, best_there: str) -> None:
        self.source, self.data = series.source, series.data
        self.pairs, self.same, self.best, self.best_there = pairs, same, best, best_there

    def __str__(self) -> str:
        order = f"{self.same} of {self.pairs} pairs stand in the same order"
        if self.best == self.best_there:
            return f"{self.source}, {self.data}: {order}; best there and here: {self.best}."
        return (
            f"{self.source}, {self.data}: {order}; **best there: {self.best_there}, "
            f"here: {self.best}**."
        )


def agreements(study: Study, cells: Mapping[str, Mapping[str, Any]]) -> Iterator[Agreement]:
    """One per published series of which at least two cells were evaluated."""
    columns = list(study.columns)
    for series in study.published:
        both = []  # row, column, published, here
        for row, published in series.figures.items():
            for column, figure in zip(columns, _tuple(published), strict=False):
                here = cells.get(row, {}).get(column, {}).get("figures")
                if figure is not None and here:
                    both.append((row, column, figure, here["mIoU"]))
        pairs = [
            (one, other)
            for one, other in itertools.combinations(both, 2)
            if abs(one[2] - other[2]) >= _SAME
        ]
        if pairs:
            same = sum((a[2] - b[2]) * (a[3] - b[3]) > 0 for a, b in pairs)
            best, there = (max(both, key=lambda cell, at=at: cell[at]) for at in (3, 2))
            names = (_cell_name(study, *cell[:2]) for cell in (best, there))
            yield Agreement(series, len(pairs), same, *names)


def _cell_name(study: Study, row: str, column: str) -> str:
    name = f"{study.row_name} {row}" if _numeric([row]) else row
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
        lines += [f"* {a}" for a in agreements(study, entry["cells"])]
        if plots:
            lines += ["", f"![{study.title}]({name}.png)"]
        lines += [""]
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
    header += [f"{s.data}: {s.source}" for s in study.published]
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
    settings = dict.fromkeys(s.setting for s in study.published if s.setting)
    note = [f"Papers' setting: {'; '.join(settings)}; ViT-B/16."] if settings else []
    return [*lines, *(["", *note] if note else [])]


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


def plot(study: Study, entry: Mapping[str, Any], data: Mapping[str, Any], path: Path) -> None:
    """This run on the left, the papers' figures on the right: lines over numbers, else bars."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    published = list(study.published)
    figure, panels = plt.subplots(
        1, 2 if published else 1, figsize=(9 if published else 4.8, 3.4), squeeze=False
    )
    here = {
        column: [(cell[column]["figures"] or {}).get("mIoU") for cell in entry["cells"].values()]
        for column in study.columns
    }
    label = partial_label(data)
    title = f"here: {Path(data['config']).stem}" + (f"\n{label}" if label else "")
    _draw(panels[0][0], study, list(study.rows), here, title)
    if published:
        there = {}
        rows = [row for row in study.rows if any(row in s.figures for s in published)]
        for series in published:
            several = enumerate(study.columns) if len(study.columns) > 1 else [(0, "")]
            for index, column in several:
                figures = [_tuple(series.figures.get(row, (None,))) for row in rows]
                values = [f[index] if index < len(f) else None for f in figures]
                there[f"{series.data} {column}".strip()] = values
        _draw(panels[0][1], study, rows, there, published[0].source)
    figure.suptitle(study.title, fontsize=10)
    figure.tight_layout()
    aside = path.with_name(f".{path.name}.part")
    figure.savefig(aside, dpi=80, format="png")
    aside.replace(path)
    plt.close(figure)


def _draw(axes: Any, study: Study, rows: Sequence[str], series: Mapping, title: str) -> None:
    numeric, count = _numeric(rows), max(1, len(series))
    at = [float(row) for row in rows] if numeric else list(range(len(rows)))
    lowest = [v for values in series.values() for v in values if v is not None]
    for index, (name, values) in enumerate(series.items()):
        known = [(x, v) for x, v in zip(at, values, strict=True) if v is not None]
        label = f"{study.column_name} {name}" if name in study.columns and name else name
        if not known:
            continue
        if numeric:
            axes.plot(*zip(*known, strict=True), marker="o", markersize=3, label=label)
        else:
            shift = (index - (count - 1) / 2) * 0.8 / count
            axes.barh([x + shift for x, _ in known], [v for _, v in known], 0.8 / count,
                      label=label)  # fmt: skip
    if numeric:
        axes.set_xlabel(study.row_name)
        axes.set_ylabel("mIoU (%)")
        axes.grid(alpha=0.3)
    else:
        axes.set_yticks(at, rows, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("mIoU (%)")
        axes.grid(axis="x", alpha=0.3)
        if lowest and min(lowest) > 0.5 * max(lowest):  # show differences; the axis says where
            axes.set_xlim(left=max(0, min(lowest) - 0.5 * (max(lowest) - min(lowest)) - 1))
    axes.set_title(title, fontsize=9)
    if any(series) and len(series) > 0 and axes.get_legend_handles_labels()[1] != [""]:
        axes.legend(fontsize=7)


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
    write_record(folder / "ablations.json", data)
    if plots:
        for name, study in plan.studies.items():
            plot(study, data["studies"][name], data, folder / f"{name}.png")
    aside = folder / ".README.md.part"
    aside.write_text(f"{around[0]}{BEGIN}\n\n{text}\n{END}{around[1]}", encoding="utf-8")
    aside.replace(readme)
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
