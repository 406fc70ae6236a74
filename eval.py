"""Evaluates a config: ``python eval.py --config configs/cfg_storybook.py``."""

import sys

from itaclip.evaluation import evaluate, run_tool

if __name__ == "__main__":
    sys.exit(run_tool(evaluate))
