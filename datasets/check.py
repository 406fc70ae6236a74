"""Checks a config's data set before any model runs; the same as ``itaclip check``.

python datasets/check.py --config configs/cfg_voc21.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout without installation

from itaclip.__main__ import main as itaclip


def main(arguments: list[str] | None = None) -> int:
    return itaclip(["check", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
