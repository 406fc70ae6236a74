"""Tiny random second backbones in the layout of Hugging Face, for tests."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch

from itaclip.data_preprocessor import MEAN, STD
from itaclip.guide import Guide, load_guide

CLIP_MEAN, CLIP_STD = ([value / 255 for value in values] for values in (MEAN, STD))
_SIZES = dict(hidden_size=128, num_hidden_layers=3, num_attention_heads=2)


def _models():
    import transformers as t

    sam = dict(
        **_SIZES,
        mlp_dim=192,
        output_channels=32,
        image_size=128,
        patch_size=16,
        window_size=3,
        global_attn_indexes=[2],
        num_pos_feats=16,
    )
    return {
        "vit": lambda: t.ViTModel(
            t.ViTConfig(**_SIZES, intermediate_size=192, image_size=48, patch_size=8),
            add_pooling_layer=False,
        ),
        "vit16": lambda: t.ViTModel(
            t.ViTConfig(**_SIZES, intermediate_size=192, image_size=64, patch_size=16),
            add_pooling_layer=False,
        ),
        "dinov2": lambda: t.Dinov2Model(
            t.Dinov2Config(**_SIZES, mlp_ratio=2, image_size=56, patch_size=14)
        ),
        "registers": lambda: t.Dinov2WithRegistersModel(
            t.Dinov2WithRegistersConfig(**_SIZES, mlp_ratio=2, image_size=56, patch_size=14)
        ),
        "dinov3": lambda: t.DINOv3ViTModel(
            t.DINOv3ViTConfig(
                **_SIZES, intermediate_size=192, image_size=64, patch_size=16, num_register_tokens=4
            )
        ),
        "sam": lambda: t.SamVisionModel(t.SamVisionConfig(**sam)),
        # As SAM's repositories have it, with its decoder.
        "whole sam": lambda: t.SamModel(
            t.SamConfig(
                vision_config=sam,
                prompt_encoder_config=dict(hidden_size=32, image_size=128, mask_input_channels=4),
                mask_decoder_config=dict(hidden_size=32, mlp_dim=32, iou_head_hidden_dim=32),
            )
        ),
    }


@cache
def guide_folder(kind: str = "vit") -> Path:
    """A folder with a random model whose attention is far from uniform."""
    from transformers.utils import logging

    torch.manual_seed(7)
    model = _models()[kind]().eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(std=0.12 if value.ndim > 1 else 0.2)
            if "norm" in name and name.endswith("weight"):
                value.add_(1)
            if "lambda" in name or "layer_scale" in name:
                value.fill_(0.7)
    folder = Path(mkdtemp(prefix="itaclip-guide-"))
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder


@cache
def tiny_guide(kind: str = "vit") -> Guide:
    return load_guide(guide_folder(kind), CLIP_MEAN, CLIP_STD)
