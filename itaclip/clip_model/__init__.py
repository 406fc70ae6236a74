"""Name, folder or file → verified weights → one tower."""

from .load import (
    OPENAI_MODELS,
    SHIPPED_MODELS,
    build_clip,
    cache_folder,
    clip_module,
    fetch_openai,
    load_clip,
    model_path,
)

__all__ = [
    "OPENAI_MODELS",
    "SHIPPED_MODELS",
    "build_clip",
    "cache_folder",
    "clip_module",
    "fetch_openai",
    "load_clip",
    "model_path",
]
