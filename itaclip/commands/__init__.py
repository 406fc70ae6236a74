"""The program ``itaclip``: a module for each command, imported when it is asked for."""

import argparse
import logging
from collections.abc import Sequence
from importlib import import_module

from .. import __version__

# A command is a module with ``add_to(subparsers)``, which sets ``run(arguments)`` as its default.
COMMANDS = {
    "segment": "segments pictures into any words",
    "compare": "shows what recipes make of one picture, side by side",
    "inspect": "shows where patches look, and how sure the labels are",
    "words": "audits a list of words on your own pictures",
    "app": "serves a web page that segments images into any words",
    "label": "labels collections of any size, on one machine or many",
    "eval": "evaluates a config on a benchmark, as eval.py does",
    "reproduce": "evaluates many methods in one pass and holds them beside the papers",
    "prepare": "prepares benchmarks from raw downloads or from nothing",
    "check": "checks a config's data set before any model runs",
    "texts": "writes auxiliary texts for classes with a language model",
    "models": "lists the CLIP models that can be named",
    "cache": "shows or empties the cache of text features",
}

_EPILOG = """exit codes: 0 done; 1 something was left out, as listed; 2 bad input, in one sentence;
130 interrupted. `itaclip COMMAND --help` has examples; --traceback shows where errors come from."""


def main(arguments: Sequence[str]) -> int | None:
    """Runs a command line and gives its exit code; None is 0."""
    parser = argparse.ArgumentParser(
        prog="itaclip",
        description="Segments pictures into any words with a frozen CLIP.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"itaclip {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    asked = next((word for word in arguments if not word.startswith("-")), None)
    for name, purpose in COMMANDS.items():
        if name == asked:
            import_module(f".{name}", __name__).add_to(subparsers)
        else:
            subparsers.add_parser(name, help=purpose)
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # on stderr
    return args.run(args)
