"""``python -m itaclip``; see :mod:`itaclip.commands`."""

import sys

from .commands import main
from .runtime.tool import run_tool

if __name__ == "__main__":
    sys.exit(run_tool(main))
