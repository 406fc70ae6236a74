"""``python -m itaclip.aux_text``: the same as ``itaclip texts``."""

import sys
from collections.abc import Sequence

from ..__main__ import main as itaclip


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return itaclip(["texts", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
