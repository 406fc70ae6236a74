"""``itaclip reproduce``: many methods in one pass, held beside the papers."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..evaluation.grid.reproduce import Choice

_EPILOG = """examples:
  itaclip reproduce --benchmarks voc21 --limit 20
  itaclip reproduce --benchmarks voc21 coco_stuff --methods itaclip naclip sclip --fetch
  itaclip reproduce --benchmarks voc21 --raw ~/Downloads
  itaclip reproduce --methods all --data-root /datasets --out work_dirs/papers
  torchrun --nproc-per-node 4 -m itaclip reproduce --launcher pytorch

It prints first what will run, what it shares and how long it takes, and begins then. Whatever is
finished is on the disk: the same command goes on where it was stopped, also with another number of
processes. The report is OUT/index.html; OUT/results.json is what one sends in (docs/results)."""


def add_to(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "reproduce",
        help="evaluates many methods in one pass and holds them beside the papers",
        description="Evaluates many methods in one pass and holds them beside the papers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--benchmarks", nargs="+", metavar="NAME", help="default: the papers' eight"
    )
    parser.add_argument(
        "--methods", nargs="+", default=["all"], metavar="NAME", help="folders of configs/, or all"
    )
    parser.add_argument(
        "--guides", action="store_true", help="methods that need a second backbone, too"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="first pictures only; says so")
    parser.add_argument(
        "--precision",
        nargs="+",
        default=[],
        choices=["auto", "fp32", "bf16", "fp16"],
        help="evaluate in each of these, side by side; default: as the configs say",
    )
    parser.add_argument(
        "--data-root", type=Path, metavar="DIR", help="where `itaclip prepare` put the data"
    )
    parser.add_argument(
        "--raw",
        nargs="+",
        type=Path,
        default=[],
        metavar="PATH",
        help="archives or folders that missing benchmarks are prepared from",
    )
    parser.add_argument(
        "--fetch", action="store_true", help="fetch and prepare what is missing, as it says"
    )
    parser.add_argument(
        "--skip-missing", action="store_true", help="leave benchmarks without data out"
    )
    parser.add_argument(
        "--plan", action="store_true", help="say what would run and how long it takes; run no more"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("work_dirs/reproduce"), metavar="DIR",
        help="default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--no-pictures", action="store_true", help="no pictures in the report")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="as in eval.py"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Plans, evaluates, reports.

    Raises:
        InputError: an unknown name, or something that is missing.
    """
    from .. import plugin  # noqa: F401  (mmseg's parts)
    from ..errors import InputError
    from ..evaluation.distributed import process_group

    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit: expected a number of pictures from 1, but got {args.limit}.")
    with process_group(args.launcher):
        _run(args)


def _run(args: argparse.Namespace) -> None:
    from mmengine.dist import is_main_process

    from ..data.benchmarks import PREPARED
    from ..evaluation.distributed import rank_zero_first
    from ..evaluation.grid.evaluate import evaluate_plan
    from ..evaluation.grid.reproduce import (
        choose,
        groups,
        make_plan_of,
        plan_lines,
        records,
        run_trial,
    )
    from ..evaluation.grid.reproduction import draw_pictures, verdict, write_reproduction
    from ..evaluation.grid.store import Store

    benchmarks = args.benchmarks or list(PREPARED)
    asked = (benchmarks, args.methods, args.guides, args.data_root, args.precision)
    with rank_zero_first():
        choice = choose(*asked, args.cfg_options)
        if choice.missing and (args.fetch or args.raw):
            _prepare(choice, args)
            choice = choose(*asked, args.cfg_options)
        if args.skip_missing:
            choice = choice.without_missing()
        plan = make_plan_of(choice, args.limit)
    main, store = is_main_process(), Store(args.out / "rows")

    def say(text: str) -> None:
        if main:
            print(text, file=sys.stderr, flush=True)

    for name, why in {**choice.left_out, **choice.skipped}.items():
        say(f"left out: {name}: {why}")
    shared = groups(plan)
    say("\n".join(plan_lines(shared)))
    lines = plan_lines(shared, run_trial(plan, store))
    say("After one picture of each group:\n" + "\n".join(lines))
    if args.plan:
        return
    results, _ = evaluate_plan(plan, store)
    if not main:
        return
    found = records(plan, choice.entries, results)
    pictures = {} if args.no_pictures else draw_pictures(args.out, plan, store)
    page = write_reproduction(args.out, plan, found, lines, pictures)
    for cell, record in zip(plan.cells, found, strict=True):
        miou = record["results"]["mIoU"]
        name = " ".join(filter(None, (cell.study, cell.row, cell.column)))
        print(f"{name}: {miou:.2f} mIoU; {verdict(record).sentence}")
    print(page)


def _prepare(choice: "Choice", args: argparse.Namespace) -> None:
    """Fetches weights and prepares benchmarks, each saying from where and how large."""
    from ..clip_model import OPENAI_MODELS, fetch_openai
    from ..data.benchmarks import PREPARED
    from ..data.preparation.command import prepare_benchmarks
    from ..data.preparation.settings import Settings

    for name in choice.missing if args.fetch else ():
        if name in OPENAI_MODELS:
            fetch_openai(name)
    names = [name for name in choice.missing if name in PREPARED]
    if names:
        root = args.data_root or Path("data")
        made = Settings(root, raw=tuple(args.raw), workers=2, may_download=args.fetch)
        prepare_benchmarks(names, made)
