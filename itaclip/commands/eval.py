"""``itaclip eval``, also ``eval.py``: evaluates a config on a benchmark."""

import argparse
import os
import shlex
import signal
import sys
import threading

from ..evaluation.arguments import DESCRIPTION, EPILOG, add_arguments, parse_arguments
from ..evaluation.signals import end_with_launcher


def add_to(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "eval",
        help="evaluates a config on a benchmark, as eval.py does",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    add_arguments(parser)
    parser.set_defaults(run=lambda args: run(args, ["itaclip", *sys.argv[1:]]))


def main() -> None:
    """``eval.py``."""
    run(parse_arguments(), ["python", "eval.py", *sys.argv[1:]])


def run(args: argparse.Namespace, words: list[str]) -> None:
    """Evaluates; a signal ends the process also while it still imports, which takes seconds."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _outside)
    end_with_launcher()
    from ..evaluation.command import evaluate

    evaluate(args, shlex.join(word for word in words if word != "--resume"))


def _outside(number: int, frame: object) -> None:
    print("stopped while no evaluation was under way", file=sys.stderr, flush=True)
    os._exit(128 + number)
