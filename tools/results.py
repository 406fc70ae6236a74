"""Make the benchmark table from run records and the published figures.

    python tools/results.py work_dirs docs/results
    python tools/results.py docs/results --update docs/benchmarks.md

Every figure says whether it was measured (bold, with a note on its run) or quoted. Records of runs
over part of a split, or over data of one's own, have no place in the table and are named.
"""

import argparse
import csv
import io
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout without installation

from itaclip.errors import InputError
from itaclip.evaluation.elsewhere import ELSEWHERE
from itaclip.evaluation.published import (
    BENCHMARKS,
    ORACLE,
    PAPER_WEIGHTS,
    PUBLISHED,
    expected_images,
    uses_oracle,
)
from itaclip.evaluation.record import FILE_NAME, Record, read_records
from itaclip.runtime.files import read_text, write_whole
from itaclip.runtime.tool import run_tool

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
_OWN_WEIGHTS = {"Storybook": "storybook-tiny"}  # benchmarks that are run with other weights


@dataclass(frozen=True)
class Figure:
    """One mIoU of the table.

    Attributes:
        method, setting: the row.
        source: where it was read, or ``'measured'``.
        benchmark: the column.
        miou: in percent.
        date: of the run; empty if quoted.
        note: about the run; empty if quoted.
        comparable: whether a measured figure may be held against the paper's.
    """

    method: str
    setting: str
    source: str
    benchmark: str
    miou: float
    date: str = ""
    note: str = ""
    comparable: bool = False

    @property
    def row(self) -> tuple[str, str, str]:
        return self.method, self.setting, self.source

    @property
    def measured(self) -> bool:
        return bool(self.date)


def quoted_figures() -> list[Figure]:
    """All published figures, row by row."""
    return [
        Figure(row.method, row.setting, row.source, benchmark, miou)
        for row in PUBLISHED
        for benchmark, miou in row.miou.items()
    ]


def find_records(places: Sequence[Path]) -> list[tuple[Path, Record]]:
    """Records that are named, or lie anywhere in the folders named, in bundles too; copies of one
    run count once.

    Raises:
        InputError: a place does not exist, or a file is no record.
    """
    found: dict[str, tuple[Path, Record]] = {}
    for place in places:
        if not place.exists():
            raise InputError(f"{place}: no such file or folder; give records, or folders of them.")
        for path in sorted(place.rglob("*.json")) if place.is_dir() else [place]:
            try:
                records = read_records(path)
            except InputError:
                if place.is_dir() and path.name != FILE_NAME:
                    continue  # another tool's file
                raise
            for record in records:
                found.setdefault(f"{record['time']} {record['config']['sha256']}", (path, record))
    return list(found.values())


def why_left_out(record: Record) -> str | None:
    """Why a record has no place in the table, or None."""
    benchmark = record["comparison"]["benchmark"]
    if benchmark not in BENCHMARKS:
        return "its data set is none of the benchmarks"
    if record["results"]["mIoU"] is None:
        return "it has no score"
    if record.get("partial"):
        return f"it is a partial result: {'; '.join(record['partial'])}"
    if uses_oracle(record["config"]["resolved"].get("model")):
        return f"it is no result: {ORACLE}"
    evaluated, expected = record["data"]["images_evaluated"], expected_images(benchmark)
    if evaluated != expected:
        return f"it covers {evaluated} of {expected} images"
    return None


def measured_figure(record: Record) -> Figure:
    """A record's place in the table."""
    comparison, model = record["comparison"], record["config"]["resolved"]["model"]
    benchmark, weights = comparison["benchmark"], (record["weights"] or {}).get("name")
    setting = ["PAMR"] if model.get("pamr") else []
    # Without a row of the paper, the recipe is the method's name already.
    told = [] if comparison["method"] else [f"model.attention={model.get('attention')!r}"]
    if not comparison["method"] and record["config"]["shipped"] is None:
        setting.append(f"config {Path(record['config']['path']).name}")  # nobody knows its settings
    if weights != _OWN_WEIGHTS.get(benchmark, PAPER_WEIGHTS):
        setting.append(f"weights {weights}")
    setting += [
        change.removeprefix("model.")
        for change in record["config"]["changes"]
        if change != "model.pamr=None" and change not in told
    ]
    return Figure(
        method=comparison["method"] or _recipe(model),
        setting=", ".join(setting),
        source="measured",
        benchmark=benchmark,
        miou=float(record["results"]["mIoU"]),
        date=record["time"][:10],
        note=_note(record),
        comparable=comparison["comparable"],
    )


def _recipe(model: Mapping[str, Any]) -> str:
    attention = model.get("attention", "itaclip")
    name = str(attention.get("recipe") if isinstance(attention, Mapping) else attention)

    def letters(text: str) -> str:
        return re.sub("[^a-z]", "", text.lower())  # 'SC-CLIP' is the recipe 'scclip'

    known = (row.method for row in PUBLISHED if letters(row.method) == letters(name))
    return next(known, name)


def _note(record: Record) -> str:
    comparison = record["comparison"]
    images = f"{record['data']['images_evaluated']} images"
    device = (record["hardware"]["gpus"] or [record["hardware"]["processor"]])[0]
    seconds = record["seconds_per_image"]
    facts = [images, f"{device}, {record['precision']['used']}, {seconds:.3g} s per image"]
    if comparison["comparable"]:
        facts.append("comparable")
    elif comparison["published"] is not None:
        facts.append("not comparable: " + "; ".join(comparison["reasons"]))
    return ", ".join(facts)


def best_figures(figures: Sequence[Figure]) -> list[Figure]:
    """One figure for each place: a comparable one if there is any, then the latest."""
    best: dict[tuple, Figure] = {}
    for figure in figures:
        place = (*figure.row, figure.benchmark)
        rival = best.get(place)
        if rival is None or _rank(figure) > _rank(rival):
            best[place] = figure
    return list(best.values())


def _rank(figure: Figure) -> tuple:
    return figure.comparable, figure.date, figure.miou, figure.note


def sorted_figures(figures: Sequence[Figure]) -> list[Figure]:
    """Methods as in the published tables, then by name; quoted before measured."""
    methods = list(dict.fromkeys(row.method for row in PUBLISHED))
    rows = [(row.method, row.setting, row.source) for row in PUBLISHED]
    columns = list(BENCHMARKS)

    def place(figure: Figure) -> tuple:
        known = figure.method in methods
        return (
            methods.index(figure.method) if known else len(methods),
            figure.method,
            rows.index(figure.row) if figure.row in rows else len(rows),
            figure.setting,
            columns.index(figure.benchmark),
        )

    return sorted(figures, key=place)


def markdown_table(figures: Sequence[Figure]) -> str:
    """The table, and below it a note on every measured figure."""
    figures = sorted_figures(figures)
    present = {figure.benchmark for figure in figures}
    columns = [name for name in BENCHMARKS if name != "Storybook" or name in present]
    notes: list[str] = []
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for figure in figures:
        cell = (
            f"{figure.miou:.1f}" if round(figure.miou, 1) == figure.miou else f"{figure.miou:.2f}"
        )
        if figure.measured:
            notes.append(
                f"{len(notes) + 1}. {figure.method} on {figure.benchmark}, {figure.date}: "
            )
            notes[-1] += f"{figure.note}."
            cell = f"**{figure.miou:.2f}** ({len(notes)})"
        rows.setdefault(figure.row, {})[figure.benchmark] = cell
    lines = [
        "| Method | Setting | Figures | " + " | ".join(columns) + " |",
        "|---|---|---|" + "---:|" * len(columns),
    ]
    for (method, setting, source), cells in rows.items():
        origin = "**measured**" if source == "measured" else f"quoted: {source}"
        values = " | ".join(cells.get(column, "–") for column in columns)
        lines.append(f"| {method} | {setting or '–'} | {origin} | {values} |")
    lines += ["", "mIoU in percent, ViT-B/16. Quoted figures were read where the table says; "]
    lines[-1] += "bold ones were measured with this project."
    if notes:
        lines += ["", *notes]
    lines += ["", "Methods that do not run here, quoted:", "", *elsewhere_table()]
    return "\n".join(lines) + "\n"


def elsewhere_table() -> list[str]:
    """Lines of the table of methods that need what this project does not have."""
    columns = [name for name in BENCHMARKS if name != "Storybook"]
    lines = [
        "| Method | Needs beside CLIP | Of the benchmark's domain | Source | "
        + " | ".join(columns)
        + " |",
        "|---|---|---|---|" + "---:|" * len(columns),
    ]
    for row in ELSEWHERE:
        padded = [*row.miou, *[None] * (len(columns) - len(row.miou))]
        values = " | ".join("–" if value is None else f"{value:g}" for value in padded)
        about = f"{row.method} | {row.needs or 'nothing'} | {row.domain or '–'} | {row.source}"
        lines.append(f"| {about} | {values} |")
    return lines


def csv_table(figures: Sequence[Figure]) -> str:
    """One line for each figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["method", "setting", "benchmark", "miou", "source", "date", "comparable", "note"]
    )
    for figure in sorted_figures(figures):
        writer.writerow(
            [
                figure.method,
                figure.setting,
                figure.benchmark,
                f"{figure.miou:g}",
                figure.source,
                figure.date,
                ("yes" if figure.comparable else "no") if figure.measured else "",
                figure.note,
            ]
        )
    return text.getvalue()


def update_block(path: Path, table: str) -> bool:
    """Puts the table between a file's two marks; says whether that changed anything.

    Raises:
        InputError: no such file, or not exactly one pair of marks.
    """
    text = read_text(path)
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise InputError(f"{path}: expected the lines {BEGIN} and {END} once each, in this order.")
    changed = f"{before}{BEGIN}\n\n{table}\n{END}{after}"
    if changed == text:
        return False
    write_whole(path, changed)
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("records", nargs="*", type=Path, help="record.json files, or folders")
    parser.add_argument(
        "--update", type=Path, metavar="FILE", help="write the table into this file"
    )
    parser.add_argument("--format", choices=["markdown", "csv"], default="markdown")
    args = parser.parse_args(arguments)
    if args.update and args.format != "markdown":
        parser.error("--update writes markdown; leave out --format")
    measured = []
    for path, record in find_records(args.records):
        reason = why_left_out(record)
        if reason is None:
            measured.append(measured_figure(record))
        else:
            print(f"{path}: left out, since {reason}", file=sys.stderr)
    figures = [*quoted_figures(), *best_figures(measured)]
    table = csv_table(figures) if args.format == "csv" else markdown_table(figures)
    if args.update is None:
        print(table, end="")
    else:
        changed = update_block(args.update, table)
        print(f"{args.update}: {'updated' if changed else 'unchanged'}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_tool(main))
