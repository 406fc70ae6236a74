"""``eval.py``: mmengine's Runner on a config, with clear errors and pictures."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.runner import Runner

from .errors import InputError
from .paths import resolve_path


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
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        help='changes of the config, such as model.pamr=None model.test_cfg.stride="(56, 56)"',
    )
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="job launcher"
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


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
            f"{path}: the config cannot be read ({type(error).__name__}: {error}); correct it, or "
            "the --cfg-options."
        ) from error
    for key in ("model", "test_dataloader", "test_evaluator"):
        if key not in config:
            raise InputError(
                f"{path}: expected the key {key!r}, but it is missing; see configs/ for examples."
            )
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
    return config


def evaluate(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Runs an evaluation and returns its metrics."""
    args = parse_arguments(arguments)
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return Runner.from_cfg(load_config(args)).test()


def run_tool(main: Callable[[], object]) -> int:
    """Runs a command-line tool: bad input ends in one sentence on stderr and exit code 2."""
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:  # mmengine's registry wraps what a constructor raises
            if isinstance(cause, (InputError, FileNotFoundError)):
                print(f"error: {cause}", file=sys.stderr)
                return 2
            cause = cause.__cause__ or cause.__context__
        raise
    return 0
