"""The console program ``itaclip``, also ``python -m itaclip``; see :mod:`itaclip.commands`."""

import os
import sys
from collections.abc import Sequence

from .runtime.tool import run_tool


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; None takes the process's own. Returns the exit code."""
    # libgomp's threads spin while they wait, which collapses beside other work. It reads this when
    # torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")

    from .commands import main as run_command

    return run_tool(lambda: run_command(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
