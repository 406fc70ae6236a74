"""Makes the masks of Pascal Context in an extracted tree, as ``prepare.py context60`` does.

python datasets/cvt_context.py data/VOCdevkit/VOC2010 trainval_merged.json
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout without installation

from itaclip.data.preparation.command import convert_tree


def main(arguments: list[str] | None = None) -> int:
    return convert_tree("context60", arguments)


if __name__ == "__main__":
    sys.exit(main())
