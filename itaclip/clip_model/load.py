"""CLIP checkpoints: a name, a repository, a folder or a file becomes one tower that knows itself.

What no tensor tells (activation, heads, normalisation) comes from the source: OpenAI's files are
known by checksum, folders describe themselves, and a file of weights alone needs ``clip_config``.
Nothing is guessed, and a description that contradicts the weights is refused.
"""

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..runtime.files import PROJECT_ROOT, sha256_of
from ..runtime.torch_state import undisturbed
from .checkpoints import StoredTensor, Table, read_table, read_tensors
from .describe import describe_folder
from .facts import (
    OPENAI_MEAN,
    OPENAI_STD,
    OPENAI_VOCABULARY,
    Facts,
    check_told,
    missing_facts,
    parse_clip_config,
)
from .names import canonical, has_layer_scale
from .sources import (
    OPENAI_MODELS,
    SHIPPED_MODELS,
    cache_folder,
    fetch_openai,
    is_hub_name,
    model_folder,
)
from .towers import causal_mask, empty_model, sizes_of, with_sizes

_OPENAI = dict(activation="quick_gelu", text_activation="quick_gelu")
_BASE = _OPENAI | dict(vision_heads=12, text_heads=8)
_LARGE = _OPENAI | dict(vision_heads=16, text_heads=12)
# What is known of weights by their name.
_KNOWN: dict[str, dict[str, Any]] = {
    "ViT-B/32": _BASE,
    "ViT-B/16": _BASE,
    "ViT-L/14": _LARGE,
    "ViT-L/14@336px": _LARGE,
    "storybook-tiny": _OPENAI | dict(vision_heads=2, text_heads=1),
}


@undisturbed()
def load_clip(name_or_path: str | Path, clip_config: Mapping | None = None) -> nn.Module:
    """Builds a CLIP model with its weights.

    Args:
        name_or_path: a name of :data:`OPENAI_MODELS` (downloaded once, sha256-verified, into CLIP's
            usual cache), ``'storybook-tiny'``, ``'hf:OWNER/NAME[@REVISION]'``, a folder in the
            layout of Hugging Face's CLIPModel or SiglipModel or of open_clip, or a file of weights:
            a TorchScript archive, a state dict, a ``.safetensors`` or a ``.npz`` file with the
            tensors' names of OpenAI, open_clip or Hugging Face.
        clip_config: for weights that do not describe themselves:
            ``dict(activation='quick_gelu', vision_heads=12, text_heads=8, mean=…, std=…)``; mean
            and std default to CLIP's own.

    Returns:
        ``clip.model.CLIP``, or a module with its attributes for other families, in fp32, on the
        CPU, in eval mode, without gradients; ``.facts`` is its :class:`Facts`. Weights are taken as
        they are: fp32 checkpoints are not rounded to fp16 as ``clip.load`` does.

    Raises:
        InputError: unknown name, missing or damaged file, an architecture that is not supported or
            not described, or weights that do not fit their description.
    """
    name, given = model_path(name_or_path), parse_clip_config(clip_config)
    if name in SHIPPED_MODELS or name in OPENAI_MODELS:
        path = SHIPPED_MODELS.get(name) or fetch_openai(name)
        return _built(read_table(path), name, _KNOWN[name], given, name)
    if is_hub_name(name) or os.path.isdir(name):
        told, table, said_by = describe_folder(model_folder(name))
        return _built(table, name, told, given, str(said_by))
    path = Path(name)
    table = read_table(path)
    known = _known_by_checksum(path)
    return _built(table, name, _KNOWN.get(known), given, f"{name} ({known})")


def model_path(clip_model: str | Path) -> str:
    """The config's ``clip_model`` with a path looked up; names pass through.

    Paths are looked up like the others: absolute, in the current folder, or in the project's root.

    Raises:
        InputError: neither a known name nor a file or folder.
    """
    name = str(clip_model)
    if name in SHIPPED_MODELS or name in OPENAI_MODELS or is_hub_name(name):
        return name
    path = Path(name).expanduser()
    places = [path] if path.is_absolute() else [Path.cwd() / path, PROJECT_ROOT / path]
    for place in places:
        if name and os.path.exists(place):  # Path.exists raises at names that are too long
            return str(place)
    if name.startswith("RN"):
        raise InputError(_resnet_message(name))
    looks_like_path = bool(path.suffix) or ("/" in name and not name.lower().startswith("vit-"))
    shown = name if len(name) <= 200 else name[:199] + "…"
    if looks_like_path and name:
        raise InputError(
            "clip_model: expected an existing file or folder, but there is none at "
            f"{' nor '.join(dict.fromkeys(str(place)[:400] for place in places))}."
        )
    raise InputError(
        f"clip_model: {shown!r} is neither a file nor a folder nor a known model; expected a path, "
        f"'hf:OWNER/NAME', or one of {', '.join([*OPENAI_MODELS, *SHIPPED_MODELS])}."
    )


def weights_identity(clip_model: str | Path) -> dict[str, str]:
    """Name and checksum of weights, for records.

    The checksum is that of OpenAI's or another single file; of a folder, that of the names and
    checksums of its weights and descriptions.
    """
    name = str(clip_model)
    if name in OPENAI_MODELS:
        return {"name": name, "sha256": OPENAI_MODELS[name][0]}
    found = model_path(name)
    if is_hub_name(found) or os.path.isdir(found):
        folder = model_folder(found)
        files = sorted(p for p in folder.iterdir() if p.suffix in _FOLDER_FILES and p.is_file())
        lines = [f"{path.name} {sha256_of(path)}" for path in files]
        return {"name": name, "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest()}
    return {"name": name, "sha256": sha256_of(SHIPPED_MODELS.get(name) or found)}


_FOLDER_FILES = (".json", ".safetensors", ".bin", ".pt", ".txt", ".model")


def _resnet_message(name: str) -> str:
    return (
        f"clip_model: {name!r} is a ResNet, whose attention pooling has no transformer blocks to "
        f"change; use a vision transformer ({', '.join(OPENAI_MODELS)})."
    )


def _known_by_checksum(path: Path) -> str | None:
    """The name of a file whose content is that of a known one, wherever it lies."""
    sizes = {SHIPPED_MODELS[name].stat().st_size: name for name in SHIPPED_MODELS}
    size = path.stat().st_size
    if size < 100_000_000 and size not in sizes:  # OpenAI's are larger
        return None
    sha256 = sha256_of(path)
    for name, path_of_it in SHIPPED_MODELS.items():
        if sizes.get(size) == name and sha256_of(path_of_it) == sha256:
            return name
    return next((name for name, (known, _) in OPENAI_MODELS.items() if known == sha256), None)


# ---- table and description → model --------------------------------------------------------------


def build_clip(
    state: Mapping[str, Tensor], source: str, clip_config: Mapping | None = None
) -> nn.Module:
    """A model from tensors in memory; see :func:`load_clip`."""
    for key, value in state.items():
        _check_tensor(key, value, source)
    table = {
        key: StoredTensor(tuple(value.shape), value.dtype, lambda value=value: value)
        for key, value in state.items()
    }
    return _built(table, source, None, parse_clip_config(clip_config), source)


def _check_tensor(key: str, value: Tensor, source: str) -> None:
    """Refuses what is no plain array of numbers, or claims more numbers than there are."""
    dense = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    if not dense:
        raise InputError(
            f"{source}: {key!r} is a tensor of {value.dtype} ({value.layout}, {value.device}); "
            "expected plain floating-point weights."
        )
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise InputError(
            f"{source}: {key!r} claims {value.numel()} values, more than the file holds; fetch or "
            "save it again."
        )


def _built(
    table: Table,
    source: str,
    told: Mapping[str, Any] | None,
    given: Mapping[str, Any] | None,
    said_by: str,
) -> nn.Module:
    """The model of a table of tensors.

    Args:
        source: what messages call it.
        told: what the source says of itself; None where it says nothing.
        given: the checked ``clip_config``.
        said_by: what said ``told``, for messages.
    """
    if any(key.startswith("visual.layer") for key in table):
        raise InputError(_resnet_message(source))
    _check_architecture(table, source)
    layer_scale = has_layer_scale(table)
    table = canonical(table)
    family = "siglip" if "visual.pool.probe" in table else "clip"
    if told is None:
        told, said_by = _from_clip_config(table, family, source, given), "clip_config"
    else:
        check_told(told, given, said_by)
        told = {**told, **({} if given is None else given)}
    if told.get("family", "clip") != family:
        raise InputError(
            f"{said_by}: describes the family {told['family']!r}, but the weights are of "
            f"{family!r}; description and weights are not of one model."
        )
    sizes = sizes_of(table, family, source)
    if family == "siglip":
        told = {"embed_dim": sizes["vision_width"]} | dict(told)
    facts = with_sizes(told, sizes, source, said_by)
    model = empty_model(facts, table)
    _check_table(model, table, source)
    state = _read(table, source)
    for key in ("logit_scale", "logit_bias"):
        if key in state:
            value = float(state[key])
            facts = replace(facts, **{key: math.exp(min(value, 100.0))
                                      if key == "logit_scale" else value})  # fmt: skip
    state.setdefault("logit_scale", torch.tensor(math.log(1 / 0.07), dtype=torch.float32))
    model.load_state_dict(state, assign=True)
    mask = causal_mask(facts.context_length) if facts.causal else None
    for block in model.transformer.resblocks:  # a plain attribute, so it was left on 'meta'
        block.attn_mask = mask
    model.facts = replace(facts, layer_scale=layer_scale)
    return model.requires_grad_(False).eval()


# Names that only other architectures have, and what these are called.
_FOREIGN = {
    "visual.trunk.blocks.0.attn.q_proj.weight": "EVA02-CLIP, whose blocks turn queries and keys by "
    "position and have a gated MLP",
    "visual.trunk.blocks.0.mlp.fc1_g.weight": "EVA02-CLIP, whose MLP is gated",
    "visual.trunk.attn_pool.latent": "PE-Core, whose blocks turn queries and keys by position",
    "visual.trunk.patch_embed.backbone.stem.0.conv.weight": "MobileCLIP",
    "visual.trunk.stem.0.conv_kxk.0.conv.weight": "MobileCLIP-S, whose image tower is "
    "convolutional",
    "text.transformer.embeddings.word_embeddings.weight": "a CLIP with a BERT as its text tower",
    "visual.attn_pool.query": "CoCa",
    "image_encoder.model.patch_embed.0.block.conv.weight": "MobileCLIP in Apple's layout",
}


def _check_architecture(table: Table, source: str) -> None:
    """Names the architectures that are known and not supported."""
    for key, what in _FOREIGN.items():
        if key == "visual.trunk.attn_pool.latent" and "visual.trunk.cls_token" not in table:
            continue  # SigLIP
        if key in table:
            raise InputError(
                f"{source}: holds {what}, which is not supported; see docs/backbones.md for what "
                "is."
            )


def _from_clip_config(
    table: Table, family: str, source: str, given: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What ``clip_config`` says of weights that say nothing of themselves."""
    folder = Path(source).expanduser().parent
    beside = next(
        (n for n in ("config.json", "open_clip_config.json") if os.path.isfile(folder / n)), None
    )
    hint = f"; {beside} lies beside it: name the folder {folder} instead" if beside else ""
    if family == "siglip":
        raise InputError(
            f"{source}: holds SigLIP's weights alone, which say nothing of its heads and its "
            f"tokenizer{hint or '; name the whole folder with config.json instead'}."
        )
    missing = missing_facts(given)
    if missing:
        raise InputError(
            f"{source}: weights alone do not say how they are computed, and these are none of the "
            f"known files; missing {', '.join(missing)}{hint}; say it with "
            "clip_config=dict(activation='quick_gelu' or 'gelu', vision_heads=…, text_heads=…, "
            "mean=…, std=…): OpenAI's, MetaCLIP's and DFN's are 'quick_gelu', LAION's and "
            "DataComp's 'gelu'."
        )
    words = table.get("token_embedding.weight")
    if words is not None and words.shape[:1] != (OPENAI_VOCABULARY,):
        raise InputError(
            f"{source}: vocabulary_size is {words.shape[0] if words.shape else 0}, read off the "
            f"checkpoint's shapes, but expected {OPENAI_VOCABULARY}; a model with a tokenizer of "
            "its own needs its whole folder."
        )
    return dict(given) | dict(text_activation=given["activation"])


def _check_table(model: nn.Module, table: Table, source: str) -> None:
    """Holds names, shapes and types against the model's, before any value is read."""
    expected = model.state_dict()
    missing = sorted(expected.keys() - table.keys() - {"logit_scale"})
    unknown = sorted(table.keys() - expected.keys())
    if missing or unknown:
        fault = f"lacks {missing[0]!r}" if missing else f"has an unknown key {unknown[0][:100]!r}"
        raise InputError(
            f"{source}: the checkpoint {fault} ({len(missing)} missing, {len(unknown)} unknown "
            "keys); expected the key names of OpenAI's CLIP, or of open_clip or Hugging Face."
        )
    for key, stored in table.items():
        if stored.shape != tuple(expected[key].shape):
            raise InputError(
                f"{source}: {key!r} has shape {stored.shape}, but the rest of the checkpoint "
                f"asks for {tuple(expected[key].shape)}; the file is not one CLIP model."
            )
        if not stored.dtype.is_floating_point:
            raise InputError(
                f"{source}: {key!r} is a tensor of {stored.dtype}; expected plain floating-point "
                "weights."
            )


def _read(table: Table, source: str) -> dict[str, Tensor]:
    """All values in fp32, finite."""
    state = {}
    for key, stored in table.items():
        value = read_tensors({key: stored}, source)[key].float()
        # A sum is not finite where a value is not, and takes a tenth of the time.
        if not math.isfinite(value.sum()) and not torch.isfinite(value).all():
            raise InputError(
                f"{source}: {key!r} holds values that are not finite; fetch or save the file again."
            )
        state[key] = value
    return state


# ---- what a loaded model is ---------------------------------------------------------------------


def facts_of(model: nn.Module) -> Facts:
    """A model's facts; those of a ``clip.model.CLIP`` from elsewhere are read off its modules."""
    found = getattr(model, "facts", None)
    if isinstance(found, Facts):
        return found
    visual, towers = model.visual, (model.visual, model)
    blocks = [tower.transformer.resblocks[0] for tower in towers]
    activations = [_name_of(block.mlp.gelu) for block in blocks]
    return Facts(
        source=type(model).__name__,
        activation=activations[0],
        text_activation=activations[1],
        vision_heads=blocks[0].attn.num_heads,
        text_heads=blocks[1].attn.num_heads,
        vision_eps=blocks[0].ln_1.eps,
        text_eps=blocks[1].ln_1.eps,
        image_size=visual.input_resolution,
        patch_size=visual.conv1.kernel_size[0],
        vision_width=visual.conv1.out_channels,
        vision_layers=len(visual.transformer.resblocks),
        vision_hidden=blocks[0].mlp.c_fc.out_features,
        text_width=model.positional_embedding.shape[1],
        text_layers=len(model.transformer.resblocks),
        text_hidden=blocks[1].mlp.c_fc.out_features,
        embed_dim=model.text_projection.shape[1],
        vocabulary_size=model.token_embedding.num_embeddings,
        context_length=len(model.positional_embedding),
        logit_scale=float(model.logit_scale.detach().exp()),
    )


def _name_of(activation: nn.Module) -> str:
    if isinstance(activation, nn.GELU):
        return "gelu_tanh" if activation.approximate == "tanh" else "gelu"
    return "quick_gelu"


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """A checksum of a model's weights themselves, whatever file they came from.

    Values are rounded to fp16, in which OpenAI published them, so that copies in fp32 agree.
    """
    sha = hashlib.sha256()
    for key in sorted(state.keys() - {"logit_scale", "logit_bias"}):
        sha.update(f"{key} {tuple(state[key].shape)}".encode())
        sha.update(state[key].detach().cpu().half().contiguous().numpy())
    return sha.hexdigest()


def openai_twin(clip_model: str | Path, clip_config: Mapping | None = None) -> str | None:
    """The OpenAI model that this one is, though it comes from another place or library.

    OpenAI's own file must lie in CLIP's cache: the checksum of its tensors is published nowhere.
    Without it the answer is None, and also where the description differs.
    """
    name = model_path(clip_model)
    candidates = [
        (openai, cache_folder() / file_name)
        for openai, (sha256, file_name) in OPENAI_MODELS.items()
        if (cache_folder() / file_name).is_file()
        and sha256_of(cache_folder() / file_name) == sha256
    ]
    if not candidates or name in OPENAI_MODELS:
        return None
    if is_hub_name(name) or os.path.isdir(name):
        told, table, _ = describe_folder(model_folder(name))
    else:
        path = SHIPPED_MODELS.get(name) or Path(name)
        told, table = parse_clip_config(clip_config) or {}, read_table(path)
        if (known := _known_by_checksum(path)) in OPENAI_MODELS:
            return known
    own, digest = canonical(table), None
    for openai, path in candidates:
        usual = _KNOWN[openai] | dict(mean=OPENAI_MEAN, std=OPENAI_STD)
        theirs = canonical(read_table(path))
        if _shapes(theirs) == _shapes(own) and all(told.get(k, v) == v for k, v in usual.items()):
            digest = digest or tensors_sha256(read_tensors(own, name))
            if tensors_sha256(read_tensors(theirs, path)) == digest:
                return openai
    return None


def _shapes(table: Table) -> dict[str, tuple[int, ...]]:
    return {key: stored.shape for key, stored in table.items() if key != "logit_scale"}
