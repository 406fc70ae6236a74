"""``itaclip check``: checks a config's data set before any model runs."""

import argparse
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..errors import InputError
from ..runtime.files import one_line, resolve_path

_ABOUT = """Check a config's data set before any model runs.

Every image and mask goes through the config's own pipeline, as in an evaluation. Prints one line
per problem, with what is wrong and how to mend it."""

_EPILOG = """examples:
  itaclip check --config configs/cfg_voc21.py
  itaclip check --config configs/cfg_voc21.py --data-root /datasets

exit codes: 0 no error; 1 an error; 2 the check itself could not be run"""


def add_to(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "check",
        help="checks a config's data set before any model runs",
        description=_ABOUT,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="the config to check")
    parser.add_argument(
        "--data-root",
        type=Path,
        help="where the data are instead of the config's data_root: the folder that `itaclip "
        "prepare --data-root` filled, or the data set's own folder",
    )
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="processes (default: %(default)s)"
    )
    parser.add_argument(
        "--cheap", action="store_true", help="check names, counts and pairing only; read no pixel"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Checks and prints; 1 where there is an error.

    Raises:
        InputError: the config cannot be read, or its data set cannot be built.
    """
    warnings.simplefilter("ignore")
    from ..data.check import build_dataset, check_cheap, check_places, load_samples, settle_places
    from ..data.mask_check import check_full
    from ..data.problems import format_problems, has_errors

    config = _load(args.config)
    dataset_cfg = config.test_dataloader.dataset
    if args.data_root is not None:
        dataset_cfg.data_root = _data_root(dataset_cfg, args.data_root)
    settle_places(dataset_cfg)
    problems = check_places(dataset_cfg)
    images = 0
    if not problems:
        try:
            dataset = build_dataset(dataset_cfg)
        except Exception as error:
            raise InputError(
                f"{args.config}: the data set cannot be built: {one_line(error)}"
            ) from error
        problems = check_cheap(dataset)
        images = len(load_samples(dataset))
        if not args.cheap:
            rules = _rules(config, len(dataset.metainfo.get("classes") or ()))
            problems += check_full(dataset, rules, args.workers, progress=sys.stderr.isatty())
    for line in format_problems(problems):
        print(line)
    errors = sum(problem.severity == "error" for problem in problems)
    what = "names and pairing" if args.cheap else "everything"
    print(
        f"{Path(args.config).name}: {images} images, checked {what}: {errors} errors, "
        f"{len(problems) - errors} warnings"
    )
    return 1 if has_errors(problems) else 0


def _load(path: str) -> Any:
    from mmengine import Config

    path = resolve_path(path, "--config")
    try:
        config = Config.fromfile(path)
    except Exception as error:  # a config is a program: anything can be wrong with it
        raise InputError(f"{path}: cannot be read: {one_line(error)}; mend the config") from error
    if config.get("test_dataloader", {}).get("dataset") is None:
        raise InputError(f"{path}: expected test_dataloader.dataset; see configs/ for examples")
    return config


def _data_root(dataset_cfg: Any, given: Path) -> str:
    """The data set's folder: a benchmark's below what ``prepare`` was given, or what is given."""
    from ..data.benchmarks import by_dataset

    known = by_dataset(str(dataset_cfg.get("type")))
    below = given / known.folder if known else given
    return str(below if below.is_dir() else given)


def _rules(config: Any, classes: int) -> Any:
    """What masks must hold for the config's metrics; None leaves that to the data set."""
    from ..data.guard import LabelRules

    evaluators = config.get("test_evaluator") or []
    evaluators = evaluators if isinstance(evaluators, list | tuple) else [evaluators]
    metrics = [
        SimpleNamespace(
            metrics=one.get("iou_metrics", ["mIoU"]), ignore_index=one.get("ignore_index", 255)
        )
        for one in evaluators
        if one.get("type") in ("IoUMetric", "BoundaryIoUMetric")
    ]
    return LabelRules.of(metrics, classes) if metrics else None
