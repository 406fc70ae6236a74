"""The ablations of ITACLIP and NACLIP, or your own, on any config that eval.py can run.

    python tools/ablate.py --config configs/cfg_storybook.py
    python tools/ablate.py --config configs/cfg_voc21.py --study terms stride --limit 50
    python tools/ablate.py --config configs/cfg_voc21.py --clip-model ViT-B/16 ViT-B/32 ViT-L/14

Tables (README.md), all figures (ablations.json) and a plot per study go to --out. Every result is
kept in its folder rows/: a run that was stopped goes on where it was, and what has changed since
(weights, data, texts, code, settings) is evaluated anew.

A study of your own is a Python file with a dictionary STUDIES, or the same as JSON:

    {"scales": {"title": "Logit scale", "row_name": "scale",
                "rows": {"20": {"model.logit_scale": 20}, "40": {"model.logit_scale": 40}}}}
"""

import argparse
import json
import runpy
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout without installation

from itaclip.errors import InputError
from itaclip.evaluation.arguments import parse_arguments
from itaclip.evaluation.command import load_config
from itaclip.evaluation.grid import STUDIES, Store, Study, evaluate_plan, make_plan
from itaclip.evaluation.grid.report import sharing, sharing_line, write_report
from itaclip.evaluation.grid.studies import backbone_studies
from itaclip.runtime.files import resolve_path
from itaclip.runtime.tool import run_tool


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="config file, such as configs/cfg_voc21.py")
    parser.add_argument(
        "--study", nargs="+", metavar="NAME", help=f"default: all of {', '.join(STUDIES)}"
    )
    parser.add_argument("--study-file", type=Path, help="studies of your own, .py or .json")
    parser.add_argument(
        "--clip-model", nargs="+", default=[], help="adds the study of these backbones"
    )
    parser.add_argument(
        "--out", type=Path, help="default: work_dirs/ablations/<name of the config>"
    )
    parser.add_argument("--limit", type=int, help="first pictures only; the figures say so")
    parser.add_argument("--cfg-options", nargs="+", default=[], help="as in eval.py")
    parser.add_argument("--no-plots", action="store_true", help="tables and JSON alone")
    parser.add_argument(
        "--no-sharing",
        action="store_true",
        help="every cell on its own: slow, to check and to measure what sharing saves",
    )
    args = parser.parse_args(arguments)
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit: expected a number of pictures from 1, but got {args.limit}")
    return args


def read_studies(path: Path) -> dict[str, Study]:
    """Studies of a user's file.

    Raises:
        InputError: the file, or a study in it, has another form.
    """
    path = resolve_path(path, "--study-file")
    try:
        if path.suffix == ".json":
            found = json.loads(path.read_text(encoding="utf-8"))
        else:
            found = runpy.run_path(str(path)).get("STUDIES")
    except Exception as error:  # a study file is code: whatever it raises is the user's to mend
        raise InputError(
            f"{path}: cannot be read as studies ({type(error).__name__}: {error})."
        ) from error
    if not isinstance(found, Mapping) or not found:
        raise InputError(f"{path}: expected a dictionary STUDIES, name → study, but got {found!r}.")
    return {str(name): _study(study, f"{path}: study {name!r}") for name, study in found.items()}


def _study(given: Any, where: str) -> Study:
    if isinstance(given, Study):
        return given
    known = {"title", "rows", "columns", "base", "row_name", "column_name"}
    if not isinstance(given, Mapping) or not given.get("rows"):
        raise InputError(f"{where}: expected a dictionary with 'rows', but got {given!r}.")
    unknown = sorted(set(given) - known)
    if unknown:
        raise InputError(
            f"{where}: unknown key {unknown[0]!r}; expected one of {', '.join(sorted(known))}."
        )
    groups = [given["rows"], given.get("columns", {}), {"base": given.get("base", {})}]
    for changes in groups:
        wrong = [k for k, v in changes.items() if not isinstance(v, Mapping)]
        if wrong:
            raise InputError(
                f"{where}, {wrong[0]!r}: expected changes such as {{'model.logit_scale': 40}}, but "
                f"got {changes[wrong[0]]!r}."
            )
    return Study(**{"title": where.rpartition("study ")[2].strip("'"), **given})


def choose_studies(args: argparse.Namespace) -> tuple[dict[str, Study], set[str]]:
    """The studies to run, and those of them that may be left out where they do not fit."""
    own = read_studies(args.study_file) if args.study_file else {}
    backbones = backbone_studies(args.clip_model) if args.clip_model else {}
    known = {**STUDIES, **backbones, **own}
    if args.study:
        unknown = [name for name in args.study if name not in known]
        if unknown:
            hint = " (give --clip-model)" if unknown[0].endswith("backbone") else ""
            raise InputError(
                f"--study: unknown study {unknown[0]!r}{hint}; expected some of {', '.join(known)}."
            )
        return {name: known[name] for name in args.study}, set()
    if own or backbones:
        return {**backbones, **own}, set()
    return dict(STUDIES), set(STUDIES)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    path = resolve_path(args.config, "--config")
    out = args.out or Path("work_dirs/ablations") / path.stem
    options = ["--cfg-options", *args.cfg_options] if args.cfg_options else []
    config = load_config(parse_arguments(["--config", str(path), *options]))
    studies, may_fail = choose_studies(args)
    plan = make_plan(config, path, studies, may_fail, args.limit)
    for name, reason in plan.left_out.items():
        print(f"left out: {name}: {reason}", file=sys.stderr)
    print(sharing_line(sharing(plan)), file=sys.stderr)

    begun = time.perf_counter()
    store = Store(out / "rows")

    def after_group(results: dict) -> None:
        write_report(out, plan, results, plots=False)

    results, done = evaluate_plan(plan, store, not args.no_sharing, after_group)
    text = write_report(out, plan, results, plots=not args.no_plots)
    print(text)
    print(
        f"now: {done['segmented']} segmentations of pictures from {done['blocks']} passes through "
        f"the encoder's blocks and {done['last_block']} through its last, {done['decoded']} "
        f"pictures decoded, {time.perf_counter() - begun:.0f} s\n{out / 'README.md'}"
    )


if __name__ == "__main__":
    sys.exit(run_tool(main))
