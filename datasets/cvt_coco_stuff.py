"""Makes the masks of COCO-Stuff 164k in an extracted tree, as ``prepare.py coco_stuff`` does.

python datasets/cvt_coco_stuff.py data/coco_stuff164k -o data/coco_stuff164k
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout without installation

from itaclip.data.preparation.command import convert_tree


def main(arguments: list[str] | None = None) -> int:
    return convert_tree("coco_stuff", arguments)


if __name__ == "__main__":
    sys.exit(main())
