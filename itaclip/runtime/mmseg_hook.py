"""What happens when mmseg is imported, by whomever and whenever.

* This package registers with it, and not before: mmseg and mmengine's Runner take seconds to
  import, and single pictures need neither. mmseg's registries import the modules at their locations
  when something is first looked up; :mod:`itaclip.plugin` becomes the first of them.
* mmsegmentation 1.2.2 imports with mmcv-lite, which has no compiled operators. Four of its modules
  import one operator each unguarded, for heads that this project never uses; they find a stand-in,
  in their own import alone, so that ``mmcv_full_available()`` and ``collect_env()`` keep telling
  the truth. A compiled mmcv, and the fork that guards its imports, never meet it.
"""

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.machinery import ModuleSpec
from types import ModuleType

_REGISTRIES = "mmseg.registry"
_PLUGIN = "itaclip.plugin"
# mmsegmentation's modules and the operator that each asks for.
_UNGUARDED = {
    "mmseg.utils.mask_classification": "point_sample",
    "mmseg.models.utils.point_sample": "point_sample",
    "mmseg.models.decode_heads.san_head": "point_sample",
    "mmseg.models.losses.focal_loss": "sigmoid_focal_loss",
}
# Modules of the fork that print which optional package they did not find.
_TALKATIVE = ("mmseg.datasets", "mmseg.datasets.transforms")


def register_with_mmseg() -> None:
    """Adds the plugin to mmseg's registries: now if they exist, else once they are imported."""
    if _REGISTRIES in sys.modules:
        _add_plugin(sys.modules[_REGISTRIES])
    if not any(isinstance(finder, _MmsegFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MmsegFinder())


class _MmsegFinder(importlib.abc.MetaPathFinder):
    """Leaves finding to the others, and adds to the execution of the modules that it knows."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name == _REGISTRIES:
            around = _with_plugin
        elif name in _TALKATIVE:
            around = _silently
        elif name in _UNGUARDED and importlib.util.find_spec("mmcv._ext") is None:
            around = _with_stand_in
        else:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                _execute_in(spec, around)
                return spec
        return None


def _execute_in(spec: ModuleSpec, around: Callable) -> None:
    execute = spec.loader.exec_module

    def exec_module(module: ModuleType) -> None:
        with around(module):
            execute(module)

    spec.loader.exec_module = exec_module


@contextmanager
def _silently(module: ModuleType) -> Iterator[None]:
    with redirect_stdout(None):
        yield


@contextmanager
def _with_plugin(registries: ModuleType) -> Iterator[None]:
    yield
    _add_plugin(registries)


def _add_plugin(registries: ModuleType) -> None:
    for registry in vars(registries).values():
        locations = getattr(registry, "_locations", None)
        if isinstance(locations, list) and _PLUGIN not in locations:
            locations.insert(0, _PLUGIN)
            registry._imported = False


@contextmanager
def _with_stand_in(module: ModuleType) -> Iterator[None]:
    name = _UNGUARDED[module.__name__]

    def missing(*args: object, **kwargs: object) -> None:
        raise RuntimeError(
            f"mmcv.ops.{name} needs the compiled mmcv, but mmcv-lite is installed; install mmcv to "
            "use mmseg's own heads that call it."
        )

    before = sys.modules.get("mmcv.ops")
    stand_in = sys.modules["mmcv.ops"] = ModuleType("mmcv.ops")
    setattr(stand_in, name, missing)
    try:
        yield
    finally:
        if before is None:
            del sys.modules["mmcv.ops"]
        else:
            sys.modules["mmcv.ops"] = before
