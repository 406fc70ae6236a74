"""``python -m itaclip cache``: shows or empties the cache of text features."""

import argparse

from ..runtime.text_cache import TextCache


def add_to(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("cache", help="shows or empties the cache of text features")
    parser.add_argument("--clear", action="store_true", help="remove every entry")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    store = TextCache()
    count, size = store.size()
    if args.clear:
        print(f"{store.folder}: removed {store.clear()} entries ({size / 1e6:.1f} MB)")
    else:
        limit = store.max_bytes / 1e6
        print(f"{store.folder}: {count} entries, {size / 1e6:.1f} MB of {limit:.0f}")
