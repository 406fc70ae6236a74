"""ITACLIP for MMSegmentation: open-vocabulary semantic segmentation with a frozen CLIP.

Importing the package registers its segmentor, data sets, transforms, metrics and hooks with mmseg,
at the moment that mmseg first looks for them. The names below are imported when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .runtime.mmseg_hook import register_with_mmseg

if TYPE_CHECKING:
    from .data.datasets import COCOObject164kDataset, StorybookDataset, VOC20Dataset
    from .data.label_files import LoadMappedAnnotations, SaveLabels
    from .data.loading import LoadCheckedAnnotations, LoadCheckedImage
    from .data_preprocessor import CLIPDataPreprocessor
    from .errors import BadSampleError, InputError
    from .evaluation.hooks import CheckClassesHook, OverlayHook, TrimMemoryHook
    from .predict.load import EncodedImage, Segmenter, load
    from .predict.segmentation import Segmentation
    from .segmentor import DenseFeatures, ITACLIPSegmentor
    from .vocabulary import Vocabulary

__version__ = "0.2.0"

_HOMES = {
    "data.datasets": ("COCOObject164kDataset", "StorybookDataset", "VOC20Dataset"),
    "data.label_files": ("LoadMappedAnnotations", "SaveLabels"),
    "data.loading": ("LoadCheckedAnnotations", "LoadCheckedImage"),
    "data_preprocessor": ("CLIPDataPreprocessor",),
    "errors": ("BadSampleError", "InputError"),
    "evaluation.hooks": ("CheckClassesHook", "OverlayHook", "TrimMemoryHook"),
    "predict.load": ("EncodedImage", "Segmenter", "load"),
    "predict.segmentation": ("Segmentation",),
    "segmentor": ("DenseFeatures", "ITACLIPSegmentor"),
    "vocabulary": ("Vocabulary",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)  # noqa: PLE0605

register_with_mmseg()


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOME_OF[name]
    if home.startswith(("data.", "data_preprocessor", "evaluation.")):
        import_module(".plugin", __name__)  # mmseg's parts come in one order
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
