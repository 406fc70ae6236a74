"""openai-clip's own modules.

``import clip`` needs torchvision, so the package's two files that matter are loaded by location.
"""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from ..errors import InputError


@cache
def clip_module(name: str) -> ModuleType:
    """openai-clip's ``clip/<name>.py`` (``'model'`` or ``'simple_tokenizer'``), as a module."""
    package = importlib.util.find_spec("clip")
    if package is None or not package.submodule_search_locations:
        raise InputError("clip: openai-clip is not installed; run `pip install openai-clip`.")
    for folder in package.submodule_search_locations:
        path = Path(folder) / f"{name}.py"
        if path.is_file():
            full_name = f"_openai_clip_{name}"
            spec = importlib.util.spec_from_file_location(full_name, path)
            module = importlib.util.module_from_spec(spec)
            sys.modules[full_name] = module
            spec.loader.exec_module(module)
            return module
    raise InputError(
        f"clip: the installed package 'clip' has no {name}.py, so it is not OpenAI's; run "
        "`pip install openai-clip`."
    )
