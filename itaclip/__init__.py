"""ITACLIP for MMSegmentation: open-vocabulary semantic segmentation with a frozen CLIP.

Importing the package registers its segmentor, data sets, transforms, metrics and hooks with mmseg,
at the moment that mmseg first looks for them. Public names, listed in ``__init__.pyi``, are
imported when they are used.
"""

import lazy_loader

from .runtime.mmseg_hook import register_with_mmseg

__version__ = "0.2.0"

register_with_mmseg()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
