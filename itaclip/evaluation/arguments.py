"""The command line of an evaluation; nothing heavy is imported for ``--help``."""

import argparse
from collections.abc import Sequence

from .selection import add_options

DESCRIPTION = "Evaluates a training-free segmentor on a benchmark."
EPILOG = """How runs are spread over processes, stopped and continued: docs/long_runs.md.
Exit codes: 0 done; 2 bad input, in one sentence (--traceback: where it came from); 130 or 143
stopped."""


class _Options(argparse.Action):
    """mmengine's ``KEY=VALUE …``, with a usage message for what is not of that form."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for value in values:
            key, sign, _ = value.partition("=")
            if not sign or not all(key.split(".")):
                parser.error(
                    f"{option_string}: expected KEY=VALUE, such as model.pamr=None, but got "
                    f"{value!r}; quote values that hold spaces or brackets"
                )
        from mmengine.config import DictAction

        try:
            DictAction(self.option_strings, self.dest)(parser, namespace, values, option_string)
        except (AssertionError, RecursionError, ValueError):  # brackets it cannot make out
            parser.error(
                f"{option_string}: cannot be read: {' '.join(values)}; give one value for a key, "
                'such as model.pamr.num_iter=10 "model.test_cfg.stride=(56, 56)"'
            )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of mmseg's own test tool, and ``--resume``, ``--skip-bad``, a selection."""
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


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """``eval.py``'s command line; None takes the process's own."""
    parser = argparse.ArgumentParser(prog="eval.py", description=DESCRIPTION, epilog=EPILOG)
    add_arguments(parser)
    return parser.parse_args(arguments)
