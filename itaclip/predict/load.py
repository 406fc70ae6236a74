"""``load()``: a model in one line, with defaults for photographs, or with a config's settings."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from ..checks import integer
from ..clip_model import SHIPPED_MODELS, load_clip
from ..errors import InputError
from ..recipes import Recipe
from ..runtime.config import check_model_keys
from ..runtime.files import one_line, resolve_path
from ..runtime.torch_state import default_device, undisturbed
from ..segmentor import Segmentor
from ..vocabulary import Vocabulary
from .segmenter import EncodedImage, Segmenter, fitting

__all__ = ["DEFAULT", "DEFAULT_MODEL", "EncodedImage", "Segmenter", "load"]

DEFAULT_MODEL = "ViT-B/16"
# Stands for "not given" where None means "off".
DEFAULT: Any = "default"

# For photographs. The stride, a quarter of the window, is twice the papers': a third of the cost.
_PHOTOGRAPHS = dict(
    short_side=336,
    max_long_side=2048,
    max_result_side=1024,
    image_engineering_weight=0.75,
    pamr=dict(num_iter=10, dilations=(8, 16)),
)
# Drawn pictures at their own size, as in configs/cfg_storybook.py.
_STORYBOOK = dict(
    short_side=None,
    max_long_side=2048,
    max_result_side=1024,
    image_engineering_weight=None,
    pamr=dict(num_iter=10, dilations=(4, 8)),
    stride=(56, 56),
)
_ALL = dict(aux_text_weight=0.1, logit_scale=40, label_closing=0, precision="auto")

logger = logging.getLogger(__name__)


@undisturbed()
def load(
    clip_model: str | Path | None = None,
    *,
    clip_config: Mapping | None = None,
    config: str | Path | None = None,
    recipe: str | Mapping | Recipe | None = None,
    device: str | torch.device | None = None,
    precision: str = DEFAULT,
    short_side: int | None = DEFAULT,
    max_long_side: int | None = DEFAULT,
    max_result_side: int | None = DEFAULT,
    crop_size: int | tuple[int, int] | None = DEFAULT,
    stride: int | tuple[int, int] = DEFAULT,
    image_engineering_weight: float | None = DEFAULT,
    pamr: Mapping | None = DEFAULT,
    regions: Mapping | None = DEFAULT,
    class_pruning: Mapping | None = DEFAULT,
    guide: str | Path | Mapping | None = DEFAULT,
    propagation: str | Mapping | None = DEFAULT,
    merge: str = DEFAULT,
    logit_scale: float = DEFAULT,
    label_closing: int = DEFAULT,
    prob_thd: float = DEFAULT,
    area_thd: float | None = DEFAULT,
    aux_text_weight: float = DEFAULT,
    window_batch: int | None = DEFAULT,
    text_cache: bool = DEFAULT,
) -> Segmenter:
    """Loads a model; OpenAI's weights are fetched at the first use, which is said.

    What is not given comes from the config, or without one from the defaults below.

    Args:
        clip_model: OpenAI's name, ``'storybook-tiny'`` (ships with the project),
            ``'hf:OWNER/NAME'``, a folder that describes its model, or the path of a checkpoint;
            default: ViT-B/16.
        clip_config: what a checkpoint that does not describe itself is computed with:
            ``dict(activation='quick_gelu' or 'gelu', vision_heads=…, text_heads=…)``.
        config: a config file, for its model, classes and pipeline: pictures are then loaded and
            resized as its evaluation does it, and labels are those of the evaluation. Without one,
            a picture that shrinks to less than half is averaged over areas, where an evaluation
            interpolates between its nearest pixels.
        recipe: a recipe's name, or ``dict(recipe=name, …)``; default: ``'itaclip'``. A named recipe
            whose blocks were chosen for a tower of another depth takes those of the same relative
            depth.
        device: default: what an evaluation takes, the first GPU or else the CPU.
        precision: ``'auto'``, ``'fp32'``, ``'bf16'`` or ``'fp16'``; default: auto.
        short_side: pictures are resized to it, in pixels; None keeps their size. Default: 336;
            storybook-tiny: None. Either side takes the place of a config's pipeline.
        max_long_side: limit of the long side, in pixels; default: 2048.
        max_result_side: labels and scores of larger pictures are made with this long side and then
            enlarged to the picture's, since refining ten million pixels takes most of a minute;
            None makes them at full size, as with a config. Default: 1024.
        crop_size: side of the windows, or (height, width); None takes the whole picture at once.
            Default: the size that the model was trained with (ViT-B/16: 224).
        stride: step of the windows; default: a quarter of the model's size (56), a third of the
            cost of the papers' 28, which gain at most 0.1 mIoU; 112 is about three times as fast
            again and loses up to 0.8 (ITACLIP, Table 7). storybook-tiny: 56.
        image_engineering_weight: λ of the views of every window; None is off, and five times as
            fast. Default: 0.75; storybook-tiny: None.
        pamr: refinement, None = off; default: ``dict(num_iter=10, dilations=(8, 16))``;
            storybook-tiny: dilations (4, 8).
        regions: one label for a region, such as ``dict(source='slic', rule='vote')``; default:
            None, off. See docs/regions.md.
        class_pruning: classes that take no part in a picture, such as ``dict(rule='max_score')``;
            default: None, off.
        guide: a second backbone, for recipes and propagation that need one: a name such as
            ``'dino-vitb8'``, ``'hf:OWNER/NAME'`` or a folder; default: None. See docs/recipes.md.
        propagation: ``'lposs'``, ``'lposs_plus'``, ``'pearl'`` or ``dict(method=…, …)``; default:
            None, off.
        merge: ``'average'`` or ``'stitch'``: how windows meet; default: average.
        logit_scale: factor before the softmax; default: 40.
        label_closing: closing of the label map in pixels, which depends on the classes' order;
            default: 0, off.
        prob_thd, area_thd: as for :meth:`Segmenter.segment`; default: 0 and None, off.
        aux_text_weight: α of auxiliary texts; default: 0.1.
        window_batch: windows in one batch; default: None, what fits.
        text_cache: keep text features on disk; default: True.

    Raises:
        InputError: a value that cannot be used, or weights that cannot be had.
    """
    given = {
        key: value
        for key, value in locals().items()
        if key not in ("clip_model", "clip_config", "config", "recipe", "device")
        and value is not DEFAULT
    }
    sized = "short_side" in given or "max_long_side" in given  # instead of the pipeline
    settings, steps = ({}, []) if config is None else _read_config(config, sized)
    name = clip_model if clip_model is not None else settings.pop("clip_model", DEFAULT_MODEL)
    settings.pop("clip_model", None)
    told = settings.pop("clip_config", None) if clip_config is None else clip_config
    where = _device(device)
    logger.info("loading %s", name)
    clip = load_clip(name, told)
    clip.source = str(name)
    if config is None:
        side = clip.visual.input_resolution
        own = _STORYBOOK if str(name) in SHIPPED_MODELS else _PHOTOGRAPHS
        settings = {"crop_size": side, "stride": max(1, side // 4)} | _ALL | own
        settings["vocabulary"] = Vocabulary.empty()
    settings |= given
    attention = recipe if recipe is not None else settings.pop("attention", "itaclip")
    settings.pop("attention", None)
    depth = len(clip.visual.transformer.resblocks)
    limits = ("short_side", "max_long_side", "max_result_side")
    sizes = [
        integer(settings.pop(key, None), key, 1, optional=True, what="a number of pixels")
        for key in limits
    ]
    settings["test_cfg"] = _windows(settings)
    segmentor = Segmentor(clip, attention=fitting(attention, depth), **settings).eval()
    segmentor.text_encoder.remember = True
    try:
        segmentor.to(where)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"device: {where} cannot be used ({reason}); give another one.") from error
    pipeline = None
    if steps:
        from .pipeline import ConfigPipeline

        patch = segmentor.image_encoder.patch_size
        pipeline = ConfigPipeline(steps, resolve_path(config, "config"), patch)
    segmenter = Segmenter(segmentor, *sizes, pipeline)
    logger.info("%s: %s", name, segmenter.describe())
    return segmenter


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return default_device()
    try:
        return torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(
            f"device: expected a device such as 'cpu' or 'cuda:0', but got {device!r}."
        ) from None


def _windows(settings: dict) -> dict:
    """``test_cfg`` from ``crop_size``, ``stride`` and ``merge``, which leave the settings."""
    found = dict(settings.get("test_cfg") or {"mode": "slide"})
    if "merge" in settings:
        found["merge"] = settings.pop("merge")
    for key in ("crop_size", "stride"):
        if key in settings:
            found[key] = settings.pop(key)
            if key == "crop_size":
                found["mode"] = "whole" if found[key] is None else "slide"
    if found["mode"] == "whole":
        return {key: found[key] for key in ("mode", "merge") if key in found}
    return found


def _read_config(path: str | Path, sized: bool) -> tuple[dict, list]:
    """The settings of a config, and the steps of its pipeline, none if ``sized`` otherwise."""
    from .pipeline import pipeline_steps

    path = resolve_path(path, "config")
    try:
        config = Config.fromfile(path)
    except Exception as error:  # a config is code: whatever it raises is the user's to mend
        raise InputError(
            f"{path}: the config cannot be read ({one_line(error)}); correct it."
        ) from error
    model = dict(config.get("model") or {})
    if model.get("type") != "ITACLIPSegmentor":
        raise InputError(f"{path}: model.type: expected 'ITACLIPSegmentor'.")
    check_model_keys(model, path)
    del model["type"]
    return model, [] if sized else pipeline_steps(config, path)
