from .data.datasets import COCOObject164kDataset, StorybookDataset, VOC20Dataset
from .data.label_files import LoadMappedAnnotations, SaveLabels
from .data.loading import LoadCheckedAnnotations, LoadCheckedImage
from .data_preprocessor import CLIPDataPreprocessor
from .errors import BadSampleError, InputError
from .evaluation.boundary import BoundaryIoUMetric
from .evaluation.hooks import CheckClassesHook, OverlayHook, TrimMemoryHook
from .features import DenseFeatures
from .labelling.cluster import label
from .mmseg_segmentor import ITACLIPSegmentor
from .predict.load import EncodedImage, Segmenter, load
from .predict.segmentation import Segmentation
from .runtime.files import shipped_file
from .segmentor import Segmentor
from .vocabulary import Vocabulary

__all__ = [
    "BadSampleError",
    "BoundaryIoUMetric",
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
    "Segmentor",
    "StorybookDataset",
    "TrimMemoryHook",
    "VOC20Dataset",
    "Vocabulary",
    "label",
    "load",
    "shipped_file",
]

__version__: str
