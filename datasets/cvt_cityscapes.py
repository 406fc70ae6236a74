"""Make the masks of Cityscapes in an extracted tree.

    python datasets/cvt_cityscapes.py data/cityscapes -o data/cityscapes

The same as ``prepare.py cityscapes`` for a tree that is extracted already.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout without installation

from itaclip.data.preparation.cityscapes import prepare
from itaclip.data.preparation.command import convert_tree

if __name__ == "__main__":
    sys.exit(convert_tree(__doc__.splitlines()[0], "cityscapes", prepare))
