"""ITACLIP for MMSegmentation: open-vocabulary semantic segmentation with a frozen CLIP.

Importing the package registers its segmentor, data sets and transforms with mmseg.
"""

from .runtime.mmcv_ops import import_mmseg_models

import_mmseg_models()

from .data.datasets import COCOObject164kDataset, StorybookDataset, VOC20Dataset  # noqa: E402
from .data.label_files import LoadMappedAnnotations, SaveLabels  # noqa: E402
from .data.loading import LoadCheckedAnnotations, LoadCheckedImage  # noqa: E402
from .data_preprocessor import CLIPDataPreprocessor  # noqa: E402
from .errors import BadSampleError, InputError  # noqa: E402
from .evaluation.hooks import CheckClassesHook, OverlayHook, TrimMemoryHook  # noqa: E402
from .predict.load import EncodedImage, Segmenter, load  # noqa: E402
from .predict.segmentation import Segmentation  # noqa: E402
from .segmentor import DenseFeatures, ITACLIPSegmentor  # noqa: E402
from .vocabulary import Vocabulary  # noqa: E402

__version__ = "0.1.0"
__all__ = [
    "BadSampleError",
    "CLIPDataPreprocessor",
    "COCOObject164kDataset",
    "CheckClassesHook",
    "DenseFeatures",
    "EncodedImage",
    "ITACLIPSegmentor",
    "InputError",
    "LoadCheckedAnnotations",
    "LoadCheckedImage",
    "LoadMappedAnnotations",
    "OverlayHook",
    "SaveLabels",
    "Segmentation",
    "Segmenter",
    "StorybookDataset",
    "TrimMemoryHook",
    "VOC20Dataset",
    "Vocabulary",
    "load",
]
