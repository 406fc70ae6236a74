"""Saves a CLIP so that it describes itself: a folder in open_clip's layout."""

import json
from pathlib import Path

import torch
from torch import nn

from ..errors import InputError
from .load import facts_of


def save_clip(model: nn.Module, folder: str | Path) -> Path:
    """Writes ``open_clip_config.json`` and the weights into a folder, which ``clip_model`` takes.

    Args:
        model: a ``clip.model.CLIP`` with OpenAI's tokenizer.
        folder: made if missing.

    Returns:
        The folder.

    Raises:
        InputError: a model of another family.
    """
    facts, folder = facts_of(model), Path(folder)
    if not facts.has_cls or facts.tokenizer != "openai" or not facts.causal:
        raise InputError(f"{facts.source}: only models of CLIP's own family are saved so.")
    vision = dict(
        image_size=facts.image_size,
        patch_size=facts.patch_size,
        width=facts.vision_width,
        layers=facts.vision_layers,
        head_width=facts.vision_width // facts.vision_heads,
        mlp_ratio=facts.vision_hidden / facts.vision_width,
        norm_kwargs=dict(eps=facts.vision_eps),
    )
    text = dict(
        context_length=facts.context_length,
        vocab_size=facts.vocabulary_size,
        width=facts.text_width,
        heads=facts.text_heads,
        layers=facts.text_layers,
        mlp_ratio=facts.text_hidden / facts.text_width,
        norm_kwargs=dict(eps=facts.text_eps),
    )
    for part, activation in ((vision, facts.activation), (text, facts.text_activation)):
        if activation == "gelu_tanh":
            part["act_kwargs"] = dict(approximate="tanh")
    config = dict(
        model_cfg=dict(
            embed_dim=facts.embed_dim,
            quick_gelu=facts.activation == "quick_gelu",
            vision_cfg=vision,
            text_cfg=text,
        ),
        preprocess_cfg=dict(mean=facts.mean, std=facts.std),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder
