"""Prepares benchmarks for evaluation; the same as ``itaclip prepare``.

python datasets/prepare.py voc21
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout without installation

from itaclip.__main__ import main as itaclip


def main(arguments: list[str] | None = None) -> int:
    return itaclip(["prepare", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
