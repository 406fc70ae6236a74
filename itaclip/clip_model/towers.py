"""Modules without values, of the sizes that a table of tensors implies and with a model's facts.

CLIP's are openai-clip's own, with the activation, heads, norms and MLP width that the facts name.
SigLIP's towers are made of the same blocks; what differs is here: no [CLS], no first norm, an
attention-pooling head.

Shapes: B batch, N tokens, D width, E embedding.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import InputError
from .checkpoints import StoredTensor
from .facts import Facts
from .openai_clip import clip_module

_MAX_CONTEXT = 4096  # tokens; CLIP has 77, variants for long texts a few hundred
_MAX_VOCABULARY = 4 << 20


class AttentionPool(nn.Module):
    """SigLIP's head: one learned query attends to all patches; then an MLP with its residual.

    For a patch alone, the reading of its values stands for it: out_proj(W_v x + b_v), as MaskCLIP
    reads CLIP's last block, and as TextRegion reads SigLIP.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(width))
        block = clip_module("model").ResidualAttentionBlock(width, heads)
        self.attn, self.ln, self.mlp = block.attn, block.ln_2, block.mlp
        _set_hidden(self.mlp, width, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D), after the final norm → the image's feature (B, D)."""
        attn = self.attn
        query, _, _ = attn.in_proj_weight.chunk(3)
        q = F.linear(self.probe, query, attn.in_proj_bias[: len(query)])
        k, v = F.linear(
            tokens, attn.in_proj_weight[len(query) :], attn.in_proj_bias[len(query) :]
        ).chunk(2, dim=-1)
        q = q.expand(len(tokens), 1, -1)
        q, k, v = (t.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        pooled = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        pooled = attn.out_proj(pooled)[:, 0]
        return pooled + self.mlp(self.ln(pooled))

    def values(self, tokens: Tensor) -> Tensor:
        """(B, N, D), after the final norm → each token's own reading (B, N, D)."""
        attn, width = self.attn, tokens.shape[-1]
        value = F.linear(tokens, attn.in_proj_weight[2 * width :], attn.in_proj_bias[2 * width :])
        return attn.out_proj(value)


class PooledVision(nn.Module):
    """SigLIP's image tower, with the attributes of ``clip.model.VisionTransformer``."""

    class_embedding = proj = None

    def __init__(self, facts: Facts) -> None:
        super().__init__()
        self.input_resolution, self.output_dim = facts.image_size, facts.vision_width
        patch, width = facts.patch_size, facts.vision_width
        side = facts.image_size // patch
        self.conv1 = nn.Conv2d(3, width, patch, patch)
        self.positional_embedding = nn.Parameter(torch.empty(side**2, width))
        self.ln_pre = nn.Identity()
        self.transformer = clip_module("model").Transformer(
            width, facts.vision_layers, facts.vision_heads
        )
        self.ln_post = clip_module("model").LayerNorm(width)
        self.pool = AttentionPool(width, facts.vision_heads, facts.vision_hidden)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) of the native size → (B, D)."""
        tokens = self.conv1(images).flatten(2).transpose(1, 2) + self.positional_embedding
        tokens = self.transformer(tokens.transpose(0, 1)).transpose(0, 1)
        return self.pool(self.ln_post(tokens))


class TwoTowers(nn.Module):
    """An image and a text tower with the attributes of ``clip.model.CLIP``."""

    def __init__(self, facts: Facts, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.context_length, width = facts.context_length, facts.text_width
        mask = causal_mask(facts.context_length) if facts.causal else None
        self.transformer = clip_module("model").Transformer(
            width, facts.text_layers, facts.text_heads, mask
        )
        self.token_embedding = nn.Embedding(facts.vocabulary_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(facts.context_length, width))
        self.ln_final = clip_module("model").LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, facts.embed_dim))
        self.logit_scale = nn.Parameter(torch.empty([]))
        self._reads_last, self._end = facts.text_reads == "last", facts.end_token

    def encode_image(self, images: Tensor) -> Tensor:
        return self.visual(images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(P, context length) token numbers → (P, E)."""
        x = self.token_embedding(tokens) + self.positional_embedding
        x = self.ln_final(self.transformer(x.transpose(0, 1)).transpose(0, 1))
        ends = tokens if self._end is None else (tokens == self._end).int()
        read = [-1] * len(x) if self._reads_last else ends.argmax(-1)
        x = x[torch.arange(len(x)), read] @ self.text_projection
        bias = getattr(self, "text_projection_bias", None)
        return x if bias is None else x + bias


def causal_mask(length: int) -> Tensor:
    return torch.full((length, length), -torch.inf, dtype=torch.float32, device="cpu").triu_(1)


class _Unfilled(TorchFunctionMode):
    """Makes parameters without drawing values for them.

    On the device ``meta`` that would draw nothing either, but import torch's compiler: over a
    second at every start.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        if func is torch.randn:
            func = torch.empty
        elif func in (Tensor.mul, Tensor.__rmul__):
            return next(value for value in args if isinstance(value, Tensor))
        elif getattr(func, "__name__", "") in ("normal_", "uniform_"):
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))


def empty_model(facts: Facts, table: Mapping[str, StoredTensor]) -> nn.Module:
    """A model on the device ``meta``, whose state dict names what the table must hold."""
    own = clip_module("model")
    with torch.device("meta"), _Unfilled():
        if facts.family == "siglip":
            model = TwoTowers(facts, PooledVision(facts))
        else:
            visual = own.VisionTransformer(
                facts.image_size,
                facts.patch_size,
                facts.vision_width,
                facts.vision_layers,
                facts.vision_heads,
                facts.embed_dim,
            )
            model = TwoTowers(facts, visual)
            if facts.causal and facts.text_reads == "end" and facts.tokenizer == "openai":
                model = _as_openai(model, facts)
        for key in ("text_projection_bias", "logit_bias"):
            if key in table:
                size = [facts.embed_dim] if key == "text_projection_bias" else []
                model.register_parameter(key, nn.Parameter(torch.empty(size)))
        towers = (
            (model.visual, facts.activation, facts.vision_eps, facts.vision_hidden),
            (model, facts.text_activation, facts.text_eps, facts.text_hidden),
        )
        for tower, activation, eps, hidden in towers:
            for block in tower.transformer.resblocks:
                _set_hidden(block.mlp, block.ln_1.weight.shape[0], hidden)
                block.mlp.gelu = _activation(activation)
            for name, module in tower.named_modules():
                if isinstance(module, nn.LayerNorm) and not name.startswith("visual."):
                    module.eps = eps
        if facts.family == "siglip":
            model.visual.pool.mlp.gelu = _activation(facts.activation)
    return model


def _as_openai(towers: TwoTowers, facts: Facts) -> nn.Module:
    """The same modules as a ``clip.model.CLIP``."""
    model = clip_module("model").CLIP.__new__(clip_module("model").CLIP)
    nn.Module.__init__(model)
    model.__dict__.update(towers.__dict__)
    del model.__dict__["_reads_last"], model.__dict__["_end"]
    model.vocab_size = facts.vocabulary_size
    return model


def _activation(name: str) -> nn.Module:
    if name == "quick_gelu":
        return clip_module("model").QuickGELU()
    return nn.GELU(approximate="tanh" if name == "gelu_tanh" else "none")


def _set_hidden(mlp: nn.Module, width: int, hidden: int) -> None:
    if mlp.c_fc.out_features != hidden:
        mlp.c_fc, mlp.c_proj = nn.Linear(width, hidden), nn.Linear(hidden, width)


# ---- sizes --------------------------------------------------------------------------------------


def sizes_of(table: Mapping[str, StoredTensor], family: str, source: str) -> dict[str, int]:
    """The facts that the tensors' shapes tell.

    Raises:
        InputError: a tensor without which there is no CLIP is missing or has another shape.
    """

    def depth(prefix: str) -> int:
        suffix = ".attn.in_proj_weight"
        return sum(key.startswith(prefix) and key.endswith(suffix) for key in table)

    def shape(key: str, dimensions: int) -> tuple[int, ...]:
        if key not in table or len(table[key].shape) != dimensions or 0 in table[key].shape:
            raise InputError(
                f"{source}: the checkpoint lacks or misshapes {key!r}; expected the key names of "
                "OpenAI's CLIP, or of open_clip or Hugging Face."
            )
        return table[key].shape

    def hidden(prefix: str) -> int:
        return shape(f"{prefix}transformer.resblocks.0.mlp.c_fc.weight", 2)[0]

    vision_width, _, _, patch = shape("visual.conv1.weight", 4)
    positions, _ = shape("visual.positional_embedding", 2)
    text_width, embed_dim = shape("text_projection", 2)
    side = round((positions - (family == "clip")) ** 0.5)
    sizes = dict(
        image_size=patch * side,
        patch_size=patch,
        vision_width=vision_width,
        vision_layers=depth("visual.transformer.resblocks."),
        text_width=text_width,
        text_layers=depth("transformer.resblocks."),
        embed_dim=embed_dim,
        context_length=shape("positional_embedding", 2)[0],
        vocabulary_size=shape("token_embedding.weight", 2)[0],
    )
    for key, low, high in (
        ("vision_layers", 1, len(table)),
        ("text_layers", 1, len(table)),
        ("image_size", patch, patch << 10),
        ("context_length", 2, _MAX_CONTEXT),
        ("vocabulary_size", 3, _MAX_VOCABULARY),
    ):
        if not low <= sizes[key] <= high:
            raise InputError(
                f"{source}: {key} is {sizes[key]}, read off the checkpoint's shapes, but expected "
                f"{low} to {high}; the file is not one CLIP model."
            )
    return sizes | dict(vision_hidden=hidden("visual."), text_hidden=hidden(""))


def with_sizes(
    told: Mapping[str, Any], sizes: Mapping[str, int], source: str, said_by: str
) -> Facts:
    """The facts that were told and those of the shapes, which must not contradict each other.

    Raises:
        InputError: they do.
    """
    for key, value in told.items():
        if key in sizes and sizes[key] != value:
            raise InputError(
                f"{said_by}: {key} is {value}, but the weights have {sizes[key]}; description and "
                "weights are not of one model."
            )
    facts = Facts(**{**told, **sizes, "source": source})
    for tower in ("vision", "text"):
        width, heads = getattr(facts, f"{tower}_width"), getattr(facts, f"{tower}_heads")
        if width % heads:
            raise InputError(
                f"{said_by}: {tower}_heads is {heads}, but the {tower} tower is {width} wide; "
                "expected a divisor of its width."
            )
    return replace(facts)
