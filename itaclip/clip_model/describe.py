"""Folders that describe themselves: Hugging Face's ``config.json``, open_clip's own file.

What a description says that is not understood here is refused by name: a key that changes the
computation must never be skipped.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from .checkpoints import Table
from .facts import OPENAI_MEAN, OPENAI_STD, OPENAI_VOCABULARY, colours
from .folders import read_folder, read_json
from .tokenizers import has_other_vocabulary

_HALF = (0.5, 0.5, 0.5)
SUPPORTED = "CLIP, MetaCLIP 2, SigLIP and SigLIP 2 with square pictures of one size"


def is_described(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / "open_clip_config.json").is_file()


def describe_folder(folder: Path) -> tuple[dict[str, Any], Table, Path]:
    """What a folder says of its model, its tensors, and the file that says it.

    Raises:
        InputError: no description, one of another architecture, or no weights.
    """
    own, open_clip = folder / "config.json", folder / "open_clip_config.json"
    # Repositories with both: the library's own layout, where its weights are there too.
    both = own.is_file() and open_clip.is_file()
    usable = both and "model_type" in read_json(own) and _has_weights(folder, _TRANSFORMERS_STEMS)
    if own.is_file() and (usable or not both):
        return _transformers(read_json(own), own), read_folder(folder, _TRANSFORMERS_STEMS), own
    if open_clip.is_file():
        return _open_clip(read_json(open_clip), open_clip), _open_clip_weights(folder), open_clip
    raise InputError(
        f"{folder}: expected a folder that describes its model (config.json, or "
        "open_clip_config.json), but it has neither; give the file of weights, and say what it is "
        "with clip_config."
    )


_TRANSFORMERS_STEMS = ("model", "pytorch_model")
_OPEN_CLIP_STEMS = ("open_clip_model", "open_clip_pytorch_model")


def _has_weights(folder: Path, stems: tuple[str, ...]) -> bool:
    return any((folder / f"{s}{e}").exists() for s in stems for e in (".safetensors", ".bin")) or (
        any(folder.glob(f"{stems[0]}*.index.json")) or any(folder.glob(f"{stems[-1]}*.index.json"))
    )


def _open_clip_weights(folder: Path) -> Table:
    if _has_weights(folder, _OPEN_CLIP_STEMS):
        return read_folder(folder, _OPEN_CLIP_STEMS)
    return read_folder(folder, _TRANSFORMERS_STEMS)


# ---- Hugging Face -------------------------------------------------------------------------------

_ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
# The library's own values where a config leaves a key out.
_CLIP_DEFAULTS = dict(
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
    vision=dict(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=224,
        patch_size=32,
    ),
    text=dict(
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=8,
        max_position_embeddings=77,
        vocab_size=OPENAI_VOCABULARY,
    ),
)
_SIGLIP_DEFAULTS = dict(
    hidden_act="gelu_pytorch_tanh",
    layer_norm_eps=1e-6,
    vision=_CLIP_DEFAULTS["vision"] | dict(patch_size=16),
    text=_CLIP_DEFAULTS["text"]
    | dict(
        hidden_size=768,
        intermediate_size=3072,
        num_attention_heads=12,
        max_position_embeddings=64,
        vocab_size=32000,
    ),
)
_REFUSED = {
    "siglip2": "SigLIP 2 NaFlex, whose pictures keep their shape; use a model of one size",
    "chinese_clip": "Chinese CLIP, whose text tower is a BERT",
    "altclip": "AltCLIP, whose text tower is an XLM-R",
    "clip_vision_model": "CLIP's image tower alone, without words; use the whole CLIPModel",
    "clip_text_model": "CLIP's text tower alone, without pictures; use the whole CLIPModel",
    "siglip_vision_model": "SigLIP's image tower alone; use the whole SiglipModel",
    "align": "ALIGN, whose image tower is no transformer",
    "vision-text-dual-encoder": "a pair of two other models",
}


def _transformers(config: Mapping, path: Path) -> dict[str, Any]:
    """The facts of a ``config.json`` of CLIPModel, MetaClip2Model or SiglipModel."""
    kind = config.get("model_type")
    if kind not in ("clip", "metaclip_2", "siglip"):
        what = _REFUSED.get(kind, f"a model of the type {kind!r}")
        raise InputError(f"{path}: describes {what}, which is not supported; expected {SUPPORTED}.")
    defaults = _SIGLIP_DEFAULTS if kind == "siglip" else _CLIP_DEFAULTS
    vision, text = (_part(config, tower, defaults, path) for tower in ("vision", "text"))
    told = dict(
        family="siglip" if kind == "siglip" else "clip",
        activation=_activation(vision, path, "vision_config"),
        text_activation=_activation(text, path, "text_config"),
        vision_heads=_count(vision, "num_attention_heads", path, "vision_config"),
        text_heads=_count(text, "num_attention_heads", path, "text_config"),
        vision_eps=_positive(vision, "layer_norm_eps", path, "vision_config"),
        text_eps=_positive(text, "layer_norm_eps", path, "text_config"),
        image_size=_count(vision, "image_size", path, "vision_config"),
        patch_size=_count(vision, "patch_size", path, "vision_config"),
        vision_width=_count(vision, "hidden_size", path, "vision_config"),
        vision_layers=_count(vision, "num_hidden_layers", path, "vision_config"),
        vision_hidden=_count(vision, "intermediate_size", path, "vision_config"),
        text_width=_count(text, "hidden_size", path, "text_config"),
        text_layers=_count(text, "num_hidden_layers", path, "text_config"),
        text_hidden=_count(text, "intermediate_size", path, "text_config"),
        context_length=_count(text, "max_position_embeddings", path, "text_config"),
        vocabulary_size=_count(text, "vocab_size", path, "text_config"),
    )
    if kind == "siglip":
        if vision.get("vision_use_head") is False:
            raise InputError(
                f"{path}: vision_config.vision_use_head is false: without its pooling head SigLIP "
                "has no features that words can be held against; use the whole SiglipModel."
            )
        told |= dict(causal=False, text_reads="last", mean=_HALF, std=_HALF)
    else:
        told |= dict(
            embed_dim=_count({"projection_dim": 512} | dict(config), "projection_dim", path, ""),
            end_token=_end_token(kind, text),
            mean=OPENAI_MEAN,
            std=OPENAI_STD,
        )
    return told | _normalisation(path.parent) | _tokenizer(told, path.parent)


def _end_token(kind: str, text: Mapping) -> int | None:
    """In CLIP's configs, 2 is an old error that the library reads as "the highest number"."""
    end = text.get("eos_token_id", 49407)
    return None if not isinstance(end, int) or (kind == "clip" and end == 2) else end


def _part(config: Mapping, tower: str, defaults: Mapping, path: Path) -> dict[str, Any]:
    """A tower's settings; old configs say them twice, and then the second ones count."""
    part = config.get(f"{tower}_config") or {}
    old = config.get(f"{tower}_config_dict") or {}
    if not isinstance(part, Mapping) or not isinstance(old, Mapping):
        raise InputError(f"{path}: {tower}_config: expected an object of settings.")
    common = {key: defaults[key] for key in ("hidden_act", "layer_norm_eps")}
    return common | defaults[tower] | dict(part) | dict(old)


def _activation(part: Mapping, path: Path, place: str) -> str:
    name = part["hidden_act"]
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise InputError(
            f"{path}: {place}.hidden_act is {name!r}, but supported are {', '.join(_ACTIVATIONS)}."
        )
    return _ACTIVATIONS[name]


def _count(part: Mapping, key: str, path: Path, place: str) -> int:
    value = part[key]
    if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        key = f"{place}.{key}".lstrip(".")
        raise InputError(f"{path}: {key}: expected an integer from 1, but got {value!r}.")
    return value


def _positive(part: Mapping, key: str, path: Path, place: str) -> float:
    value = part[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise InputError(
            f"{path}: {place}.{key}: expected a number from 0 to 1, but got {value!r}."
        )
    return float(value)


def _normalisation(folder: Path) -> dict[str, Any]:
    """mean and std of ``preprocessor_config.json``, where there is one."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return {}
    config = read_json(path)
    if config.get("do_normalize") is False:
        return dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return {
        ours: colours(config[theirs], f"{path}: {theirs}", positive=ours == "std")
        for ours, theirs in (("mean", "image_mean"), ("std", "image_std"))
        if theirs in config
    }


def _tokenizer(told: Mapping, folder: Path) -> dict[str, Any]:
    """OpenAI's own for models of CLIP's kind that have its vocabulary; else the folder's."""
    clips = told["family"] == "clip" and told["vocabulary_size"] == OPENAI_VOCABULARY
    own = clips and not has_other_vocabulary(folder)
    return {"tokenizer": "openai" if own else str(folder)}


# ---- open_clip ----------------------------------------------------------------------------------

# Keys that change nothing in a frozen model, by their place.
_IGNORED = {
    "": ("init_logit_scale", "init_logit_bias", "custom_text", "nonscalar_logit_scale"),
    "vision_cfg": ("patch_dropout", "output_tokens", "timm_model_pretrained", "timm_drop",
                   "timm_drop_path", "attn_pooler_queries", "attn_pooler_heads"),
    "text_cfg": ("output_tokens", "pad_id", "eos_id", "tokenizer_mode", "hf_model_pretrained"),
}  # fmt: skip
_READ = {
    "": ("embed_dim", "quick_gelu", "vision_cfg", "text_cfg"),
    "vision_cfg": ("image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio",
                   "ls_init_value", "norm_kwargs", "act_kwargs", "timm_model_name", "timm_pool",
                   "timm_proj", "timm_proj_bias", "pos_embed_type", "final_ln_after_pool"),
    "text_cfg": ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio",
                 "ls_init_value", "norm_kwargs", "act_kwargs", "hf_tokenizer_name",
                 "tokenizer_kwargs", "no_causal_mask", "pool_type", "proj_bias", "proj_type",
                 "final_ln_after_pool"),
}  # fmt: skip
# Keys whose value must be the one that changes nothing.
_PLAIN = {
    "vision_cfg": dict(attentional_pool=False, no_ln_pre=False, pool_type="tok"),
    "text_cfg": dict(embed_cls=False, hf_model_name=None),
}
_OPEN_CLIP_REFUSED = {
    "multimodal_cfg": "CoCa, which has a third tower",
    "hf_model_name": "a text tower of another library ({})",
    "timm_model_name": "the image tower {} of timm",
    "pool_type": "an image tower without [CLS] whose patches are averaged (CLIPA)",
    "no_ln_pre": "an image tower without its first norm (CLIPA)",
    "attentional_pool": "CoCa's pooling",
    "embed_cls": "CoCa's text tower",
}
_TIMM_REFUSED = {
    "eva": " (EVA-CLIP: rotary positions, gated MLPs)",
    "vit_pe_core": " (PE-Core: rotary positions)",
    "vit_base_mci": " (MobileCLIP-B: convolutions before the blocks)",
    "fastvit": " (MobileCLIP-S: convolutional)",
    "convnext": " (convolutional)",
    "vitamin": " (ViTamin: convolutional stages)",
}
# timm's SigLIP towers: (width, layers, heads, hidden) by the size in the name. Most have the exact
# GELU there, though they were trained with the approximate one, which others of them have.
_SIGLIP_SIZES = {
    "vit_base": (768, 12, 12, 3072),
    "vit_large": (1024, 24, 16, 4096),
    "vit_so400m": (1152, 27, 16, 4304),
    "vit_giantopt": (1536, 40, 16, 6144),
}
_SIGLIP_TANH = (
    *("vit_base_patch32_", "vit_so400m_patch16_", "vit_giantopt_"),
    "vit_large_patch16_siglip_512",
)


def _open_clip(config: Mapping, path: Path) -> dict[str, Any]:
    """The facts of an ``open_clip_config.json``."""
    model = config.get("model_cfg", config)
    if not isinstance(model, Mapping) or not all(
        isinstance(model.get(part), Mapping) for part in ("vision_cfg", "text_cfg")
    ):
        raise InputError(f"{path}: expected model_cfg with vision_cfg and text_cfg.")
    vision, text = model["vision_cfg"], model["text_cfg"]
    if "multimodal_cfg" in model:
        raise _unsupported(path, "multimodal_cfg", None)
    for place, part in (("", model), ("vision_cfg", vision), ("text_cfg", text)):
        _check_keys(part, place, path)
    timm = vision.get("timm_model_name")
    if timm is None:
        told = _open_clip_vision(model, vision, path)
    else:
        told = _siglip_vision(str(timm), vision, path)
    told |= _open_clip_text(model, text, path)
    told |= _preprocessing(config.get("preprocess_cfg") or {}, told["family"], path)
    return told


def _unsupported(path: Path, key: str, value: Any) -> InputError:
    what = _OPEN_CLIP_REFUSED.get(key, f"{key}={value!r}").format(value)
    return InputError(f"{path}: describes {what}, which is not supported; expected {SUPPORTED}.")


def _check_keys(part: Mapping, place: str, path: Path) -> None:
    plain = _PLAIN.get(place, {})
    for key, value in part.items():
        if key in plain:
            if value != plain[key]:
                raise _unsupported(path, key, value)
        elif key not in (*_READ[place], *_IGNORED[place]) and value not in (None, False):
            raise _unsupported(path, f"{place}.{key}".lstrip("."), value)


def _open_clip_activation(model: Mapping, part: Mapping, path: Path) -> str:
    kwargs = part.get("act_kwargs") or {}
    if model.get("quick_gelu"):
        return "quick_gelu"
    if kwargs == {"approximate": "tanh"}:
        return "gelu_tanh"
    if kwargs:
        raise _unsupported(path, "act_kwargs", kwargs)
    return "gelu"


def _open_clip_eps(part: Mapping, path: Path) -> float:
    kwargs = {"eps": 1e-5} | dict(part.get("norm_kwargs") or {})
    if kwargs.keys() != {"eps"}:
        raise _unsupported(path, "norm_kwargs", kwargs)
    return _positive(kwargs, "eps", path, "norm_kwargs")


def _open_clip_text(model: Mapping, text: Mapping, path: Path) -> dict[str, Any]:
    text = dict(width=512, heads=8, layers=12, context_length=77, vocab_size=49408) | dict(text)
    reads = text.get("pool_type", "argmax")
    if reads not in ("argmax", "eos", "last"):
        raise _unsupported(path, "text_cfg.pool_type", reads)
    if text.get("proj_type", "linear") != "linear":
        raise _unsupported(path, "text_cfg.proj_type", text["proj_type"])
    causal = not text.get("no_causal_mask", False)
    kwargs = dict(text.get("tokenizer_kwargs") or {})
    lower = kwargs.pop("clean", None)
    if kwargs or lower not in (None, "canonicalize") or (causal != (reads != "last")):
        raise _unsupported(path, "text_cfg", "a text tower that is read in another way")
    told = {
        ours: _count(text, theirs, path, "text_cfg")
        for ours, theirs in dict(
            text_width="width",
            text_heads="heads",
            text_layers="layers",
            context_length="context_length",
            vocabulary_size="vocab_size",
        ).items()
    }
    openai = text.get("hf_tokenizer_name") is None
    return told | dict(
        text_activation=_open_clip_activation(model, text, path),
        text_eps=_open_clip_eps(text, path),
        text_hidden=_hidden(told["text_width"], text, path, "text_cfg"),
        embed_dim=_count(model, "embed_dim", path, "model_cfg"),
        causal=causal,
        text_reads="last" if reads == "last" else "end",
        end_token=text.get("eos_id", 2) if reads == "eos" else None,
        tokenizer="openai" if openai else str(path.parent),
        cleaning="none" if openai else lower or "whitespace",
    )


def _hidden(width: int, part: Mapping, path: Path, place: str) -> int:
    ratio = part.get("mlp_ratio", 4.0)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 100:
        raise InputError(f"{path}: {place}.mlp_ratio: expected a number, but got {ratio!r}.")
    return int(width * ratio + 1e-6)  # as the library cuts it


def _open_clip_vision(model: Mapping, vision: Mapping, path: Path) -> dict[str, Any]:
    defaults = dict(layers=12, width=768, head_width=64, patch_size=16, image_size=224)
    vision = defaults | dict(vision)
    if isinstance(vision["layers"], list | tuple):
        raise InputError(
            f"{path}: describes a ResNet, whose attention pooling has no transformer blocks to "
            f"change; expected {SUPPORTED}."
        )
    width = _count(vision, "width", path, "vision_cfg")
    return dict(
        family="clip",
        activation=_open_clip_activation(model, vision, path),
        vision_eps=_open_clip_eps(vision, path),
        vision_heads=width // _count(vision, "head_width", path, "vision_cfg"),
        vision_width=width,
        vision_layers=_count(vision, "layers", path, "vision_cfg"),
        vision_hidden=_hidden(width, vision, path, "vision_cfg"),
        image_size=_count(vision, "image_size", path, "vision_cfg"),
        patch_size=_count(vision, "patch_size", path, "vision_cfg"),
    )


def _siglip_vision(name: str, vision: Mapping, path: Path) -> dict[str, Any]:
    size, _, rest = name.partition("_patch")
    kind = (vision.get("timm_pool"), vision.get("timm_proj") or "none")
    if "_siglip_" not in name or size not in _SIGLIP_SIZES or kind != ("map", "none"):
        known = next((what for start, what in _TIMM_REFUSED.items() if name.startswith(start)), "")
        raise _unsupported(path, "timm_model_name", f"{name}{known}")
    width, layers, heads, hidden = _SIGLIP_SIZES[size]
    return dict(
        family="siglip",
        activation="gelu_tanh" if name.startswith(_SIGLIP_TANH) else "gelu",
        vision_eps=1e-6,
        vision_heads=heads,
        vision_width=width,
        vision_layers=layers,
        vision_hidden=hidden,
        image_size=_count(vision, "image_size", path, "vision_cfg"),
        patch_size=int(rest.partition("_")[0]),
    )


def _preprocessing(config: Mapping, family: str, path: Path) -> dict[str, Any]:
    usual = (_HALF, _HALF) if family == "siglip" else (OPENAI_MEAN, OPENAI_STD)
    return {
        key: colours(config.get(key, default), f"{path}: preprocess_cfg.{key}", key == "std")
        for key, default in zip(("mean", "std"), usual, strict=True)
    }
