"""``eval.py``: checks, mmengine's Runner on a config, a record, and the paper's row beside it.

How runs are spread over processes, stopped and continued: docs/long_runs.md.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric
from mmseg.registry import DATASETS

from ..data.coverage import unseen_classes
from ..data.guard import LabelRules, guard_loading
from ..errors import InputError
from ..runtime.config import building, check_folder, check_model_keys, check_parts
from ..runtime.files import one_line, printable, resolve_path
from ..runtime.tool import ProcessLostError, Stopped, door
from .arguments import parse_arguments
from .boundary import BoundaryIoUMetric
from .distributed import process_group, rank_zero_first
from .identity import identity
from .inputs import known_inputs, peak_memory
from .loop import EvaluationRunner
from .published import compare_with_paper, comparison_lines
from .record import FILE_NAME, make_record, write_record
from .runs import Run, open_run
from .selection import select
from .signals import stop_behind, stop_signals

_MAX_LISTED = 20  # left-out samples that are printed


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
                    f"  after mending, check it all: {door('check')} --config {path}",
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


def evaluate(
    arguments: Sequence[str] | argparse.Namespace | None = None, command: str = ""
) -> dict[str, float]:
    """Runs an evaluation, writes its record, prints the comparison, and returns its metrics.

    Metrics of a part of the data set are named ``partial/…``.

    Args:
        arguments: of the command line, parsed or not; None takes the process's own.
        command: the whole command line, for the record.

    Raises:
        InputError: whatever the user can mend.
        Stopped: SIGINT or SIGTERM came; what is done is kept.
        ProcessLostError: another process of a spread run ended; what is done is kept.
    """
    args = arguments
    if not isinstance(args, argparse.Namespace):
        words = sys.argv[1:] if arguments is None else arguments
        args = parse_arguments(words)
        command = shlex.join(["python", "eval.py", *(word for word in words if word != "--resume")])
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    config = load_config(args)
    path = resolve_path(args.config, "--config")
    settings = config.to_dict()
    check_folder(config.work_dir, "--work-dir")
    spread = (config.get("env_cfg") or {}).get("dist_cfg")
    with stop_signals(), process_group(args.launcher, spread):
        with rank_zero_first():
            check_data(config, path, quiet=not is_main_process(), skip_bad=args.skip_bad)
        _take_over_loop(config, path)
        with building(path):
            runner = EvaluationRunner.from_cfg(config)
            with rank_zero_first():
                loop = runner.test_loop  # builds the data
        inputs = known_inputs(runner, settings, path, command, args.cfg_options)
        run = _open_run(runner, settings, inputs, args)
        loop.begin(run)
        runner.register_hook(CheckLabelsHook(args.skip_bad), priority="VERY_HIGH")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        clock = time.perf_counter()
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
        if is_main_process():
            classes = loop.dataloader.dataset.metainfo["classes"]
            seconds = time.perf_counter() - clock
            record = make_record(inputs, run, metrics, classes, seconds, peak_memory())
            for folder in (run.folder, Path(runner.work_dir)):
                place = write_record(folder / FILE_NAME, record)
            comparison = compare_with_paper(record)
            lines = [*comparison_lines(comparison, record), *_unseen(loop, record)]
            print(printable("\n".join([*lines, f"record: {place}", *_left_out(run)])))
    return metrics


def _unseen(loop: Any, record: Mapping[str, Any]) -> list[str]:
    """Lines on classes that no mask holds."""
    classes, dataset = record["results"]["classes"], loop.dataloader.dataset
    if record["partial"]:
        return []
    seen = {index for index, entry in enumerate(classes) if entry["pixels"]}
    where = str(getattr(dataset, "data_prefix", {}).get("seg_map_path", type(dataset).__name__))
    reduced = bool(getattr(dataset, "reduce_zero_label", False))
    names = [entry["name"] for entry in classes]
    return [str(problem) for problem in unseen_classes(names, seen, where, reduced)]


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


def _open_run(runner: Runner, settings: dict, inputs: dict, args: argparse.Namespace) -> Run:
    """The new run, or with ``--resume`` the one to continue."""
    loop = runner.test_loop
    selection = select(len(loop.dataloader.dataset), args.limit, args.indices)
    log_dir = Path(runner.log_dir)
    loop.plan(selection.indices, log_dir)  # before anything is written: whether it may be
    options = {"--skip-bad": args.skip_bad}
    return open_run(
        work_dir=Path(runner.work_dir),
        log_dir=log_dir,
        identity=identity(settings, inputs, selection, runner.model, **options),
        selection=selection,
        loop=loop,
        resume=args.resume,
    )
