"""Tensors' names: those of OpenAI's CLIP from those of open_clip, Hugging Face and timm.

Every layout is the same computation under other names: queries, keys and values in one matrix or
in three, projections turned, LayerScale beside a matrix or within it. What is told apart is told by
the names themselves.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .checkpoints import StoredTensor, Table

# Buffers that some versions of the libraries save; they hold no weights.
_BUFFERS = re.compile(r"(^|\.)(position_ids|attn_mask)$")


def layout_of(table: Table) -> str:
    """``'openai'`` (open_clip's plain one too), ``'open_clip'`` (text tower of its own),
    ``'open_clip_timm'``, ``'transformers'`` or ``'unknown'``.
    """
    if any(key.startswith("vision_model.") for key in table):
        return "transformers"
    if any(key.startswith("visual.trunk.") for key in table):
        return "open_clip_timm"
    if any(key.startswith("text.transformer.") for key in table):
        return "open_clip"
    if any(key.startswith(("visual.", "transformer.resblocks.")) for key in table):
        return "openai"
    return "unknown"


def canonical(table: Table) -> Table:
    """The table under OpenAI's names; what has no such name keeps its own."""
    table = {key: value for key, value in table.items() if not _BUFFERS.search(key)}
    layout = layout_of(table)
    if layout == "transformers":
        table = _from_transformers(table)
    elif layout == "open_clip_timm":
        table = _from_timm(_without_text_prefix(table))
    elif layout == "open_clip":
        table = _without_text_prefix(table)
    table = _with_scale_folded(table)
    for key in ("logit_scale", "logit_bias"):
        if key in table and table[key].shape == (1,):
            table[key] = changed(table[key], (), lambda t: t.reshape(()))
    return table


def has_layer_scale(table: Table) -> bool:
    return any(".ls_1.gamma" in key for key in table)


# ---- changes of stored tensors ------------------------------------------------------------------


def changed(
    stored: StoredTensor, shape: tuple[int, ...], change: Callable[[Tensor], Tensor]
) -> StoredTensor:
    """A stored tensor that is changed when it is read."""
    return replace(stored, shape=shape, read=lambda: change(stored.read()))


def transposed(stored: StoredTensor) -> StoredTensor:
    return changed(stored, stored.shape[::-1], lambda t: t.T.contiguous())


def stacked(parts: Sequence[StoredTensor]) -> StoredTensor:
    """Parts below one another; shapes that differ are left for the check of shapes to name."""
    rows = sum(part.shape[0] if part.shape else 1 for part in parts)
    shape = (rows, *parts[0].shape[1:])
    return StoredTensor(shape, parts[0].dtype, lambda: torch.cat([part.read() for part in parts]))


# ---- open_clip ----------------------------------------------------------------------------------


def _without_text_prefix(table: Table) -> Table:
    """open_clip's text tower as a module of its own."""
    found = {key.removeprefix("text."): value for key, value in table.items()}
    if "text_projection.weight" in found:  # a linear layer instead of a matrix
        weight = found.pop("text_projection.weight")
        found["text_projection"] = transposed(weight) if len(weight.shape) == 2 else weight
        if "text_projection.bias" in found:
            found["text_projection_bias"] = found.pop("text_projection.bias")
    return found


def _with_scale_folded(table: Table) -> Table:
    """LayerScale, γ · (W x + b), folded into γW and γb."""
    folded = dict(table)
    for key in table:
        match = re.fullmatch(r"(.*)\.(ls_[12])\.gamma", key)
        if match is None:
            continue
        block, which = match.groups()
        layer = f"{block}.attn.out_proj" if which == "ls_1" else f"{block}.mlp.c_proj"
        gamma = folded[key]
        targets = [folded.get(f"{layer}.{part}") for part in ("weight", "bias")]
        if any(t is None or t.shape[:1] != gamma.shape for t in targets):
            continue  # named as unknown later
        del folded[key]
        for part, target in zip(("weight", "bias"), targets, strict=True):
            folded[f"{layer}.{part}"] = _scaled(target, gamma)
    return folded


def _scaled(target: StoredTensor, gamma: StoredTensor) -> StoredTensor:
    def scale(values: Tensor) -> Tensor:
        factor = gamma.read().float()
        return values.float() * factor.view(-1, *[1] * (values.ndim - 1))

    return replace(target, dtype=torch.float32, read=lambda: scale(target.read()))


# ---- Hugging Face -------------------------------------------------------------------------------

_TRANSFORMERS_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_TRANSFORMERS = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_model.head.bias": "text_projection_bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.patch_embedding.bias": "visual.conv1.bias",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # the library's spelling
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    **{
        f"vision_model.head.{theirs}.{part}": f"visual.pool.{ours}.{part}"
        for theirs, ours in {
            "attention.out_proj": "attn.out_proj",
            "layernorm": "ln",
            "mlp.fc1": "mlp.c_fc",
            "mlp.fc2": "mlp.c_proj",
        }.items()
        for part in ("weight", "bias")
    },
    "vision_model.head.attention.in_proj_weight": "visual.pool.attn.in_proj_weight",
    "vision_model.head.attention.in_proj_bias": "visual.pool.attn.in_proj_bias",
}
_TRANSFORMERS_TURNED = {
    "text_projection.weight": "text_projection",
    "text_model.head.weight": "text_projection",
    "visual_projection.weight": "visual.proj",
}


def _from_transformers(table: Table) -> Table:
    found: Table = {}
    projections: dict[tuple[str, str], dict[str, StoredTensor]] = {}
    for key, value in table.items():
        block = re.fullmatch(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(\w+)", key)
        if key in _TRANSFORMERS_TURNED and len(value.shape) == 2:
            found[_TRANSFORMERS_TURNED[key]] = transposed(value)
        elif key == "vision_model.head.probe":
            found["visual.pool.probe"] = _flat(value)
        elif block is not None:
            tower, number, layer, part = block.groups()
            prefix = "visual." if tower == "vision" else ""
            ours = f"{prefix}transformer.resblocks.{number}"
            letter = re.fullmatch(r"self_attn\.([qkv])_proj", layer)
            if letter is not None:
                projections.setdefault((ours, part), {})[letter[1]] = value
            elif layer in _TRANSFORMERS_BLOCK:
                found[f"{ours}.{_TRANSFORMERS_BLOCK[layer]}.{part}"] = value
            else:
                found[key] = value
        else:
            found[_TRANSFORMERS.get(key, key)] = value
    for (ours, part), letters in projections.items():
        if letters.keys() == {"q", "k", "v"}:
            found[f"{ours}.attn.in_proj_{part}"] = stacked([letters[x] for x in "qkv"])
    return found


def _flat(stored: StoredTensor) -> StoredTensor:
    """(1, 1, D) → (D,)."""
    shape = stored.shape[-1:]
    return changed(stored, shape, lambda t: t.reshape(shape))


# ---- timm ---------------------------------------------------------------------------------------

_TIMM_BLOCK = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attn.qkv": "attn.in_proj",
    "attn.proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_TIMM_POOL = {
    "proj": "attn.out_proj",
    "norm": "ln",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def _from_timm(table: Table) -> Table:
    """SigLIP's image tower as timm names it."""
    found: Table = {}
    pool: dict[str, StoredTensor] = {}
    for key, value in table.items():
        if not key.startswith("visual.trunk."):
            found[key] = value
            continue
        name = key.removeprefix("visual.trunk.")
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(\w+)", name)
        head = re.fullmatch(r"attn_pool\.(.+)\.(\w+)", name)
        if name == "pos_embed":
            shape = value.shape[1:]
            found["visual.positional_embedding"] = changed(
                value, shape, lambda t: t.reshape(t.shape[1:])
            )
        elif name.startswith("patch_embed.proj."):
            found["visual.conv1." + name.rpartition(".")[2]] = value
        elif name.startswith("norm."):
            found["visual.ln_post." + name.rpartition(".")[2]] = value
        elif name == "attn_pool.latent":
            found["visual.pool.probe"] = _flat(value)
        elif head is not None and head[1] in ("q", "kv"):
            pool[f"{head[1]}.{head[2]}"] = value
        elif head is not None and head[1] in _TIMM_POOL:
            found[f"visual.pool.{_TIMM_POOL[head[1]]}.{head[2]}"] = value
        elif block is not None and block[2] in _TIMM_BLOCK:
            number, layer, part = block.groups()
            ours = f"visual.transformer.resblocks.{number}.{_TIMM_BLOCK[layer]}"
            found[f"{ours}_{part}" if layer == "attn.qkv" else f"{ours}.{part}"] = value
        else:
            found[key] = value
    for part in ("weight", "bias"):
        if f"q.{part}" in pool and f"kv.{part}" in pool:
            both = [pool[f"q.{part}"], pool[f"kv.{part}"]]
            found[f"visual.pool.attn.in_proj_{part}"] = stacked(both)
    return found
