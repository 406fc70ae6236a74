"""``python -m itaclip``: the commands, a module each."""

import argparse
import logging
from collections.abc import Sequence

from . import app, cache, compare, inspect, segment

# A command is a module with ``add_to(subparsers)``, which sets ``run(arguments)`` as its default.
COMMANDS = (segment, compare, inspect, app, cache)

_EPILOG = """exit codes: 0 done; 1 some pictures were left out, as listed; 2 bad input, in one
sentence; 130 interrupted. `python -m itaclip COMMAND --help` has examples."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command line; None takes the process's own."""
    parser = argparse.ArgumentParser(
        prog="python -m itaclip",
        description="Segments pictures into any words with a frozen CLIP.",
        epilog=_EPILOG,
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(subparsers)
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # on stderr
    args.run(args)
