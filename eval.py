"""Evaluates a config: ``python eval.py --config configs/cfg_storybook.py``."""

import os
import signal
import sys


def _outside(number: int, frame: object) -> None:
    print("stopped while no evaluation was under way", file=sys.stderr, flush=True)
    os._exit(128 + number)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # importing takes seconds
        signal.signal(number, _outside)
    from itaclip.evaluation.command import evaluate
    from itaclip.runtime.tool import run_tool

    sys.exit(run_tool(evaluate))
