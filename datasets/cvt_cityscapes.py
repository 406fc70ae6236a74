"""Makes the masks of Cityscapes in an extracted tree, as ``prepare.py cityscapes`` does.

python datasets/cvt_cityscapes.py data/cityscapes -o data/cityscapes
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout without installation

from itaclip.data.preparation.command import convert_tree


def main(arguments: list[str] | None = None) -> int:
    return convert_tree("cityscapes", arguments)


if __name__ == "__main__":
    sys.exit(main())
