"""``eval.py``: checks, mmengine's Runner on a config, a record, and the paper's row beside it.

How runs are spread over processes, stopped and continued: docs/long_runs.md.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric
from mmseg.registry import DATASETS

from ..data.guard import LabelRules, guard_loading
from ..data.label_files import SaveLabels
from ..errors import InputError
from ..runtime.config import (
    building,
    check_folder,
    check_model_keys,
    check_parts,
)
from ..runtime.files import one_line, resolve_path
from ..runtime.tool import ProcessLostError, Stopped, run_tool
from .boundary import BoundaryIoUMetric
from .distributed import Processes, main_first, processes
from .hooks import OverlayHook
from .identity import identity
from .loop import EvaluationRunner
from .records import RecordHook, known_inputs
from .runs import Run, open_run, tidy
from .selection import add_options, select
from .signals import stop_behind, stop_signals

__all__ = ["evaluate", "load_config", "parse_arguments", "run_tool"]
_MAX_LISTED = 20  # left-out samples that are printed


class _Options(DictAction):
    """mmengine's ``KEY=VALUE …``, with a usage message for what is not of that form."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for value in values:
            key, sign, _ = value.partition("=")
            if not sign or not all(key.split(".")):
                parser.error(
                    f"{option_string}: expected KEY=VALUE, such as model.pamr=None, but got "
                    f"{value!r}; quote values that hold spaces or brackets"
                )
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, RecursionError, ValueError):  # brackets it cannot make out
            parser.error(
                f"{option_string}: cannot be read: {' '.join(values)}; give one value for a key, "
                'such as model.pamr.num_iter=10 "model.test_cfg.stride=(56, 56)"'
            )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, as in mmseg's own test tool."""
    parser = argparse.ArgumentParser(
        prog="eval.py", description="Evaluates a training-free segmentor on a benchmark."
    )
    parser.add_argument("--config", required=True, help="config file, such as configs/cfg_voc21.py")
    parser.add_argument(
        "--work-dir", help="folder of logs and records; default: work_dirs/<name of the config>"
    )
    parser.add_argument("--show-dir", help="folder for overlays, prediction beside ground truth")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the unfinished evaluation in the work dir after its last finished image",
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave images and masks that cannot be used out, list them in the record, and call "
        "the result partial, instead of stopping at the first one",
    )
    add_options(parser)
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=_Options,
        default={},
        help='changes of the config, such as model.pamr=None model.test_cfg.stride="(56, 56)"',
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="job launcher",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


# ---- config -------------------------------------------------------------------------------------


def load_config(args: argparse.Namespace) -> Config:
    """Reads the config and applies the command line to it.

    Raises:
        InputError: the file is missing, cannot be read as a config, or has no model or test data.
    """
    path = resolve_path(args.config, "--config")
    try:
        config = Config.fromfile(path)
        config.merge_from_dict(args.cfg_options)
    except InputError:
        raise
    except Exception as error:  # a config is code: whatever it raises is the user's to mend
        raise InputError(
            f"{path}: the config cannot be read ({type(error).__name__}: {one_line(error)}); "
            "correct it, or the --cfg-options."
        ) from error
    for key in ("model", "test_dataloader", "test_evaluator"):
        if config.get(key) is None:
            raise InputError(
                f"{path}: expected the key {key!r}, but it is missing; see configs/ for examples."
            )
    check_parts(config, path)
    check_model_keys(config.model, path)
    config.setdefault("default_scope", "mmseg")
    config.setdefault("test_cfg", ConfigDict(type="TestLoop"))
    if config.test_dataloader.get("num_workers") == 0:  # torch refuses both together
        config.test_dataloader.persistent_workers = False
    config.launcher = args.launcher
    config.work_dir = args.work_dir or str(Path("work_dirs") / path.stem)
    hooks = list(config.get("custom_hooks") or [])
    hooks.append(ConfigDict(type="CheckClassesHook", priority="VERY_HIGH"))
    if args.show_dir:
        hooks = [hook for hook in hooks if hook["type"] != "OverlayHook"]
        hooks.append(ConfigDict(type="OverlayHook", folder=args.show_dir))
    for hook in hooks:
        if hook["type"] == "OverlayHook":
            hook.setdefault("folder", str(Path(config.work_dir) / "overlays"))
    config.custom_hooks = hooks
    evaluators = config.test_evaluator
    for evaluator in evaluators if isinstance(evaluators, list | tuple) else [evaluators]:
        if evaluator.get("type") == "SaveLabels":
            evaluator.setdefault("folder", str(Path(config.work_dir) / "labels"))
    return config


# ---- checks before and during a run -------------------------------------------------------------


def check_data(config: Config, path: Path, quiet: bool = False, skip_bad: bool = False) -> None:
    """Checks folders, names, counts and pairing of the test data; warnings are printed.

    Args:
        config: as :func:`load_config` gives it.
        path: its file, for messages.
        quiet: print no warnings.
        skip_bad: files that are missing stop nothing: their samples will be left out.

    Raises:
        InputError: listing all that is wrong, and the command that checks the rest.
    """
    from ..data.check import MISSING_FILES, check_cheap, check_places, settle_places
    from ..data.coverage import peek_at_masks
    from ..data.problems import format_problems, has_errors

    settings = config.test_dataloader.dataset
    with building(path), DefaultScope.overwrite_default_scope(config.default_scope):
        settle_places(settings)
        problems = check_places(settings)
        if not problems:
            # Lazily: an empty data set cannot be initialised.
            dataset = DATASETS.build({**settings, "lazy_init": True})
            problems = check_cheap(dataset)
            problems += [] if has_errors(problems) else peek_at_masks(dataset)
    if skip_bad:
        problems = [problem for problem in problems if problem.kind not in MISSING_FILES]
    lines = format_problems(problems)
    if has_errors(problems):
        raise InputError(
            "\n".join(
                [
                    "the test data cannot be evaluated:",
                    *(f"  {line}" for line in lines),
                    f"  after mending, check it all: python datasets/check.py --config {path}",
                ]
            )
        )
    for line in [] if quiet else lines:
        print(line, file=sys.stderr)


class CheckLabelsHook(Hook):
    """Refuses files that mmseg would load or count wrongly; see :mod:`itaclip.data.guard`.

    Args:
        skip: leave them out instead.
    """

    def __init__(self, skip: bool = False) -> None:
        self.skip = skip

    def before_test(self, runner: Runner) -> None:
        kinds = IoUMetric | BoundaryIoUMetric
        metrics = [m for m in runner.test_loop.evaluator.metrics if isinstance(m, kinds)]
        rules = None
        if any(not getattr(metric, "format_only", False) for metric in metrics):
            classes = len(runner.test_dataloader.dataset.metainfo["classes"])
            rules = LabelRules.of(metrics, classes)
        model = getattr(runner.model, "module", runner.model)
        encoder = getattr(model, "image_encoder", None)
        patch = getattr(encoder, "patch_size", 1)
        guard_loading(runner.test_dataloader, rules, patch, self.skip)


# ---- the tool -----------------------------------------------------------------------------------


def evaluate(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Runs an evaluation, writes its record, prints the comparison, and returns its metrics.

    Metrics of a part of the data set are named ``partial/…``.

    Raises:
        InputError: whatever the user can mend.
        Stopped: SIGINT or SIGTERM came; what is done is kept.
        ProcessLostError: another process of a spread run ended; what is done is kept.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parse_arguments(given)
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    config = load_config(args)
    path = resolve_path(args.config, "--config")
    settings = config.to_dict()
    check_folder(config.work_dir, "--work-dir")
    spread = (config.get("env_cfg") or {}).get("dist_cfg")
    with stop_signals(), processes(args.launcher, spread) as group:
        with main_first():
            check_data(config, path, quiet=not group.main, skip_bad=args.skip_bad)
        _take_over_loop(config, path)
        with building(path):
            runner = EvaluationRunner.from_cfg(config)
            with main_first():
                _ = runner.test_loop  # builds the data
        command = shlex.join(["python", "eval.py", *(word for word in given if word != "--resume")])
        inputs = known_inputs(runner, settings, path, command, args.cfg_options)
        run = _open_run(runner, settings, inputs, args, group)
        record = RecordHook(inputs, run)
        runner.register_hook(CheckLabelsHook(args.skip_bad), priority="VERY_HIGH")
        runner.register_hook(record, priority="LOWEST")
        try:
            metrics = runner.test()
        except BaseException as raised:
            error = stop_behind(raised)
            if isinstance(error, InputError):  # mended data or settings make another run
                raise error from error.__cause__
            if hint := run.hint():
                error.add_note(hint)
            elif isinstance(error, Stopped | ProcessLostError):
                error.add_note("no image is kept; start again with the same command")
            raise error from error.__cause__
        finally:
            run.close()
        if group.main:
            print("\n".join([*record.summary, *_left_out(run)]))
    return metrics


def _left_out(run: Run) -> list[str]:
    """Lines on the samples that were left out."""
    lines = [f"left out: {sample['reason']}" for sample in run.skipped]
    more = len(lines) - _MAX_LISTED
    return lines[:_MAX_LISTED] + ([f"left out: {more} more, see the record"] if more > 0 else [])


def _take_over_loop(config: Config, path: Path) -> None:
    """Puts the loop in that spreads and keeps images; settings that it cannot follow are refused.

    Raises:
        InputError: a loop, sampler or batch sampler of the user's own.
    """
    loader = config.test_dataloader
    chosen = {
        "test_cfg.type": (config.test_cfg.get("type", "TestLoop"), "TestLoop"),
        "test_dataloader.sampler.type": (
            (loader.get("sampler") or {}).get("type", "DefaultSampler"),
            "DefaultSampler",
        ),
        "test_dataloader.batch_sampler": (loader.get("batch_sampler"), None),
    }
    for key, (value, expected) in chosen.items():
        if value != expected:
            raise InputError(
                f"{path}: {key}: expected {expected!r}, since eval.py itself gives every image to "
                f"one process once, but got {value!r}; remove it."
            )
    config.test_cfg = ConfigDict({**config.test_cfg, "type": "EvaluationLoop"})
    loader.sampler = ConfigDict(type="ShareSampler")
    config.model_wrapper_cfg = ConfigDict(type="PlainModelWrapper")


def _open_run(
    runner: Runner,
    settings: dict,
    inputs: dict,
    args: argparse.Namespace,
    group: Processes,
) -> Run:
    """The new run, or with ``--resume`` the one to continue; the loop takes it over."""
    loop = runner.test_loop
    selection = select(len(loop.dataloader.dataset), args.limit, args.indices)
    run = open_run(
        work_dir=Path(runner.work_dir),
        log_dir=Path(runner.log_dir),
        identity=identity(
            settings, inputs, selection, runner.model, **{"--skip-bad": args.skip_bad}
        ),
        selection=selection,
        processes=group,
        paths={index: loop.paths(index) for index in selection.indices},
        resume=args.resume,
    )
    if run.earlier and group.main:
        writers = [*runner.hooks, *loop.evaluator.metrics]
        folders = [
            writer.folder for writer in writers if isinstance(writer, OverlayHook | SaveLabels)
        ]
        tidy([run.folder, *folders])
    loop.begin(run)
    return run
