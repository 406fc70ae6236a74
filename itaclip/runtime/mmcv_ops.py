"""Lets mmsegmentation 1.2.2 import with mmcv-lite, which has no compiled operators.

``mmseg.models`` imports two functions of ``mmcv.ops`` unguarded, for heads that this project never
uses. While it is imported for the first time, a stand-in offers these two names and reports every
other one as missing, which mmseg catches. Afterwards the stand-in is taken out again, so that
``mmcv_full_available()`` and ``collect_env()`` keep telling the truth. A compiled mmcv, or an mmseg
that guards its imports (onedl-mmsegmentation), is left alone.
"""

import contextlib
import importlib
import importlib.util
import sys
import warnings
from types import ModuleType

_NEEDED = ("point_sample", "sigmoid_focal_loss")


class _OpsStandIn(ModuleType):
    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _NEEDED:

            def missing(*args, **kwargs):
                raise RuntimeError(
                    f"mmcv.ops.{name} needs the compiled mmcv, but mmcv-lite is installed; "
                    "install mmcv to use mmseg's own heads that call it."
                )

            return missing
        raise ModuleNotFoundError(f"mmcv.ops.{name} needs the compiled mmcv")


def import_mmseg_models() -> ModuleType:
    """Imports and returns ``mmseg.models``, with or without compiled mmcv operators.

    Standard output stays free for results: what mmseg prints while it is imported is no result.

    Raises:
        ImportError: mmcv or mmseg is not installed.
    """
    for name in ("mmcv", "mmseg"):
        if importlib.util.find_spec(name) is None:
            raise ImportError(
                f"itaclip needs {name}, which is not installed: run `pip install 'itaclip[mmseg]'` "
                "(mmsegmentation with mmcv-lite), or install your own variant of both."
            )
    # onedl-mmsegmentation prints a line about what else could be installed.
    with contextlib.redirect_stdout(sys.stderr):
        models = _import_models()
        importlib.import_module("mmseg.datasets")
        return models


def _import_models() -> ModuleType:
    has_ops = importlib.util.find_spec("mmcv._ext") is not None
    if has_ops or "mmseg.models" in sys.modules or "mmcv.ops" in sys.modules:
        return importlib.import_module("mmseg.models")
    sys.modules["mmcv.ops"] = _OpsStandIn("mmcv.ops")
    try:
        with warnings.catch_warnings():  # of an attention layer that is not used here
            warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformable")
            return importlib.import_module("mmseg.models")
    finally:
        del sys.modules["mmcv.ops"]
