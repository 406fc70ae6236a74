"""All that is registered with mmseg: the segmentor, data sets, transforms, metrics, hooks.

mmseg's registries import this module when they first look something up (see
:mod:`itaclip.runtime.mmseg_hook`), so that ``custom_imports = dict(imports=['itaclip'])`` in a
config is enough.
"""

import importlib.util
import warnings

from .errors import InputError

for _name in ("mmcv", "mmseg"):
    if importlib.util.find_spec(_name) is None:
        raise InputError(
            f"evaluations and mmseg's own tools need {_name}, which is not installed; run "
            "`pip install 'itaclip[mmseg]'`, or install your own mmsegmentation and mmcv."
        )

with warnings.catch_warnings():  # of a layer that is not used here
    warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformable")
    import mmseg.datasets
    import mmseg.models  # noqa: F401

from mmengine.runner import CheckpointLoader  # noqa: E402

from .data import datasets, label_files, loading  # noqa: E402, F401
from .evaluation import boundary, hooks  # noqa: E402, F401
from .mmseg_segmentor import ITACLIPSegmentor  # noqa: E402, F401


@CheckpointLoader.register_scheme(prefixes="none$")
def _no_checkpoint(*args: object, **kwargs: object) -> dict:
    """mmseg's test tool wants a checkpoint: ``none`` leaves the weights as ``clip_model`` says."""
    return {}
