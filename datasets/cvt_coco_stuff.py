"""Make the masks of COCO-Stuff 164k in an extracted tree.

    python datasets/cvt_coco_stuff.py data/coco_stuff164k -o data/coco_stuff164k

The same as ``prepare.py coco_stuff`` for a tree that is extracted already.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout without installation

from itaclip.data.preparation.coco import prepare_stuff
from itaclip.data.preparation.command import convert_tree

if __name__ == "__main__":
    sys.exit(convert_tree(__doc__.splitlines()[0], "coco_stuff", prepare_stuff))
