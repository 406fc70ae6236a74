"""A second, frozen image backbone beside CLIP: it says which patches belong together.

``names`` knows the backbones by name, ``load`` turns a name or a folder into verified weights, and
``backbone`` gives features of CLIP's windows on the guide's own grid.
"""

from .backbone import Guide, GuideFeatures, GuideReads
from .load import load_guide, parse_guide
from .names import GUIDES

__all__ = ["GUIDES", "Guide", "GuideFeatures", "GuideReads", "load_guide", "parse_guide"]
