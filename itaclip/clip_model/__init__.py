"""Name, repository, folder or file → verified weights → one tower that knows itself."""

from .facts import Facts
from .load import (
    build_clip,
    facts_of,
    load_clip,
    model_path,
    openai_twin,
    weights_identity,
)
from .openai_clip import clip_module
from .save import save_clip
from .sources import OPENAI_MODELS, SHIPPED_MODELS, cache_folder, fetch_openai, model_folder

__all__ = [
    "OPENAI_MODELS",
    "SHIPPED_MODELS",
    "Facts",
    "build_clip",
    "cache_folder",
    "clip_module",
    "facts_of",
    "fetch_openai",
    "load_clip",
    "model_folder",
    "model_path",
    "openai_twin",
    "save_clip",
    "weights_identity",
]
