"""The model in training: openai-clip's modules, run so that the backward pass is fast.

Legend: B batch, N tokens (the first is [CLS]), D width, T text tokens.
"""

import importlib.util
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itaclip.runtime.files import atomic_write


def load_by_location(package: str, file: str) -> ModuleType:
    """A module of an installed package, without running the package's own imports."""
    folder = Path(importlib.util.find_spec(package).origin).parent
    spec = importlib.util.spec_from_file_location(f"{package}_{Path(file).stem}", folder / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_model(args: Namespace, side: int) -> nn.Module:
    """A new `clip.model.CLIP`; the last block's output projection starts larger."""
    clip = load_by_location("clip", "model.py")
    torch.manual_seed(args.seed)
    model = clip.CLIP(
        embed_dim=args.embed,
        image_resolution=side,
        vision_layers=12,
        vision_width=args.width,
        vision_patch_size=args.patch,
        context_length=77,
        vocab_size=49408,
        transformer_width=args.text_width,
        transformer_heads=args.text_width // 64,
        transformer_layers=args.text_layers,
    )
    with torch.no_grad():
        last = model.visual.transformer.resblocks[-1].attn.out_proj
        last.weight *= args.last_gain
    return model.float()


def block_forward(block: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """One of openai-clip's blocks on (B, N, D), written out so that its backward pass is fast.

    QuickGELU, x · sigmoid(1.702 x), is SiLU with 1.702 moved into the weights on either side.
    """
    x = x + attend(block, F.layer_norm(x, x.shape[-1:], block.ln_1.weight, block.ln_1.bias), mask)
    return x + feed_forward(block, x)


def attend(block: nn.Module, x: Tensor, mask: Tensor | None, queries: int | None = None) -> Tensor:
    """Multi-head attention on (B, N, D); only the first `queries` tokens ask if given."""
    batch, tokens, width = x.shape
    heads = width // 64
    qkv = F.linear(x, block.attn.in_proj_weight, block.attn.in_proj_bias)
    q, k, v = qkv.view(batch, tokens, 3, heads, 64).permute(2, 0, 3, 1, 4).unbind(0)
    if queries is not None:
        q = q[:, :, :queries]
    logits = torch.matmul(q * 0.125, k.transpose(-1, -2))  # (B, heads, queries, N)
    if mask is not None:
        logits = logits + mask
    out = torch.matmul(logits.softmax(-1), v).transpose(1, 2).reshape(batch, -1, width)
    return F.linear(out, block.attn.out_proj.weight, block.attn.out_proj.bias)


def feed_forward(block: nn.Module, x: Tensor) -> Tensor:
    """The block's MLP on its normalised input."""
    x = F.layer_norm(x, x.shape[-1:], block.ln_2.weight, block.ln_2.bias)
    x = F.linear(x, block.mlp.c_fc.weight * 1.702, block.mlp.c_fc.bias * 1.702)
    return F.linear(F.silu(x), block.mlp.c_proj.weight * (1 / 1.702), block.mlp.c_proj.bias)


def embed_patches(visual: nn.Module, x: Tensor, keep: Tensor | None) -> Tensor:
    """Pictures (B, 3, H, W) → tokens (B, 1 + n, D) before the blocks, n kept patches a picture.

    Args:
        keep: (B, n) numbers of the patches to keep, None for all.
    """
    x = visual.conv1(x).flatten(2).transpose(1, 2) + visual.positional_embedding[1:]
    if keep is not None:
        x = x.gather(1, keep.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
    first = (visual.class_embedding + visual.positional_embedding[0]).expand(len(x), 1, -1)
    return visual.ln_pre(torch.cat([first.to(x.dtype), x], dim=1))


def run_blocks(visual: nn.Module, x: Tensor) -> Tensor:
    """All blocks but the last."""
    for block in visual.transformer.resblocks[:-1]:
        x = block_forward(block, x)
    return x


def read_out(
    visual: nn.Module,
    x: Tensor,
    start: Tensor,
    reset: Tensor,
    plain: Tensor,
    cells: Tensor | None = None,
) -> Tensor:
    """The last block, for [CLS] alone: (B, N, D) → image features (B, E).

    Args:
        start: (B, 1, D) [CLS] as it entered the first block.
        reset: (B, 1, 1) bool: [CLS] is put back to `start`, so that what the picture shows can
            only come from the patches' values.
        plain: (B, 1, 1) bool: the feed-forward part is left out (stochastic depth).
        cells: (B, K, N − 1) bool, the patches of K pictures in a mosaic: [CLS] reads them one by
            one, and features are (B · K, E).
    """
    block = visual.transformer.resblocks[-1]
    x = torch.cat([torch.where(reset, start, x[:, :1]), x[:, 1:]], dim=1)
    normed = F.layer_norm(x, x.shape[-1:], block.ln_1.weight, block.ln_1.bias)
    mask = None
    if cells is not None:
        mask = torch.zeros(*cells.shape[:2], x.shape[1])
        mask[..., 1:].masked_fill_(~cells, float("-inf"))
        mask = mask[:, None]  # (B, 1, K, N)
    token = x[:, :1] + attend(block, normed, mask, queries=1)
    token = token + feed_forward(block, token) * (~plain)
    return (visual.ln_post(token) @ visual.proj).flatten(0, 1)


def encode_text(model: nn.Module, rows: Tensor, embedding: Tensor, ends: Tensor) -> Tensor:
    """Captions → text features (B, E).

    Args:
        rows: (B, T) rows of `embedding`; T may be shorter than the full context.
        embedding: (R, D) the token embedding's rows that occur at all.
        ends: (B,) position of each caption's end token.
    """
    length = rows.shape[1]
    x = F.embedding(rows, embedding) + model.positional_embedding[:length]
    mask = torch.full((length, length), float("-inf")).triu(1)
    for block in model.transformer.resblocks:
        x = block_forward(block, x, mask)
    x = x[torch.arange(len(x)), ends]
    return model.ln_final(x) @ model.text_projection


def save_model(model: nn.Module, tokens: list[int], embedding: Tensor, path: Path) -> None:
    """Write the state dict under OpenAI's names, float16; token rows never trained are zero."""
    state = model.state_dict()
    table = torch.zeros_like(state["token_embedding.weight"])
    table[tokens] = embedding.detach()
    state["token_embedding.weight"] = table
    arrays = {name: value.detach().half().numpy() for name, value in state.items()}
    with atomic_write(path) as aside, open(aside, "wb") as file:
        np.savez_compressed(file, **arrays)
