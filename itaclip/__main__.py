"""``python -m itaclip``: small commands around the package."""

import argparse
import sys

from .evaluation import run_tool
from .text_cache import TextCache


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m itaclip")
    commands = parser.add_subparsers(dest="command", required=True)
    cache = commands.add_parser("cache", help="shows or empties the cache of text features")
    cache.add_argument("--clear", action="store_true", help="remove every entry")
    args = parser.parse_args()
    store = TextCache()
    count, size = store.size()
    if args.clear:
        print(f"{store.folder}: removed {store.clear()} entries ({size / 1e6:.1f} MB)")
    else:
        limit = store.max_bytes / 1e6
        print(f"{store.folder}: {count} entries, {size / 1e6:.1f} MB of {limit:.0f}")


if __name__ == "__main__":
    sys.exit(run_tool(main))
