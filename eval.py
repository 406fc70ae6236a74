"""Evaluates a config: ``python eval.py --config configs/cfg_storybook.py``."""

import sys

from itaclip.commands.eval import main
from itaclip.runtime.tool import run_tool

if __name__ == "__main__":
    sys.exit(run_tool(main))
