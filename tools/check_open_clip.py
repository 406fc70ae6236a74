"""Holds this project's towers against open_clip's own, from files that open_clip wrote.

open_clip and timm need torchvision, which this project must do without: run it in an environment
of its own, with ``open_clip_torch`` beside this project's packages::

    python tools/check_open_clip.py

Prints, for every family, the largest difference of the final tokens, of the image's and of the
texts' features; or the sentence that refuses it. Weights are random and fill no network.
"""

import argparse
import copy
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

# A torchvision whose compiled operators do not fit this torch lacks these, which it looks for when
# it is imported; nothing here uses them.
_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import open_clip  # noqa: E402
from open_clip.push_to_hf_hub import save_config_for_hf  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from itaclip.clip_model import load_clip  # noqa: E402
from itaclip.errors import InputError  # noqa: E402
from itaclip.image_encoder import ImageEncoder  # noqa: E402
from itaclip.recipes import resolve_recipe  # noqa: E402
from itaclip.text_encoder import TextEncoder  # noqa: E402

PROMPTS = ["a photo of a cat.", "sky", "a sketch of the green sea near my house"]
_TEXT = dict(context_length=20, vocab_size=49408, width=96, heads=6, layers=2)
_VISION = dict(image_size=40, patch_size=8, width=120, layers=3, head_width=40)
_SMALL = dict(embed_dim=48, vision_cfg=_VISION, text_cfg=_TEXT)

# Named by what differs; those by a name of open_clip's have its image tower at full size.
FAMILIES = {
    "CLIP, GELU, heads of 40 (as LAION's H/14 has 80)": _SMALL,
    "CLIP, QuickGELU": _SMALL | dict(quick_gelu=True),
    "CLIP, MLP of other width (as g/14)": dict(
        embed_dim=48, vision_cfg=_VISION | dict(mlp_ratio=4.3637), text_cfg=_TEXT
    ),
    "CLIP, LayerScale": dict(
        embed_dim=48,
        vision_cfg=_VISION | dict(ls_init_value=0.5),
        text_cfg=_TEXT | dict(ls_init_value=0.5),
    ),
    "CLIP, text tower of its own": _SMALL | dict(custom_text=True),
    "CLIP, text projection with a bias": dict(
        embed_dim=48, custom_text=True, vision_cfg=_VISION, text_cfg=_TEXT | dict(proj_bias=True)
    ),
    "SigLIP (ViT-B-16-SigLIP)": "ViT-B-16-SigLIP",
    "SigLIP 2 (ViT-B-32-SigLIP2-256)": "ViT-B-32-SigLIP2-256",
    "CLIPA (ViT-L-14-CLIPA)": dict(
        embed_dim=48,
        vision_cfg=_VISION | dict(no_ln_pre=True, pool_type="avg", final_ln_after_pool=True),
        text_cfg=_TEXT | dict(pool_type="last", no_causal_mask=True),
    ),
    "EVA02 (EVA02-B-16)": "EVA02-B-16",
    "PE-Core (PE-Core-B-16)": "PE-Core-B-16",
    "MobileCLIP (MobileCLIP-B)": "MobileCLIP-B",
    "MobileCLIP (MobileCLIP-S1)": "MobileCLIP-S1",
    "ResNet (RN50)": "RN50",
    "CoCa (coca_ViT-B-32)": "coca_ViT-B-32",
    "ConvNeXt (convnext_base)": "convnext_base",
}


def config_of(family: str | dict) -> dict:
    """A model's config; text towers of full size are made small."""
    if isinstance(family, dict):
        return copy.deepcopy(family)
    config = open_clip.get_model_config(family)
    text = config["text_cfg"]
    text.update(layers=2)
    if text.get("hf_tokenizer_name"):
        text.update(vocab_size=300, context_length=16)
    return config


def built(config: dict) -> torch.nn.Module:
    """A random model of open_clip, with attention and norms far from uniform."""
    torch.manual_seed(0)
    config = copy.deepcopy(config)
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    kind = open_clip.CoCa if "multimodal_cfg" in config else kind
    model = kind(**config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 1 and name.endswith("weight"):
                value.normal_(1, 0.2)
            elif value.ndim == 1:
                value.normal_(0, 0.2)
            elif "resblocks" in name or "blocks" in name:
                value.mul_(2)
    return model.eval().requires_grad_(False)


def saved(model: torch.nn.Module, config: dict, folder: Path) -> None:
    """As open_clip's ``push_to_hf_hub`` writes a repository."""
    tensors = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    half = "siglip" in str(config["vision_cfg"].get("timm_model_name"))
    colours = [0.5] * 3 if half else list(open_clip.OPENAI_DATASET_MEAN)
    preprocessing = dict(mean=colours, std=colours, size=224, mode="RGB", interpolation="bicubic",
                         resize_mode="shortest", fill_color=0)  # fmt: skip
    open_clip.model.set_model_preprocess_cfg(model, preprocessing)
    save_config_for_hf(model, folder / "open_clip_config.json", config)


def library_tokens(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What leaves the last block of open_clip's or timm's image tower, (B, N, D)."""
    found = []
    trunk = getattr(model.visual, "trunk", None)
    block = model.visual.transformer.resblocks[-1] if trunk is None else trunk.blocks[-1]
    handle = block.register_forward_hook(lambda module, inputs, output: found.append(output))
    model.encode_image(images)
    handle.remove()
    return found[0]


@torch.no_grad()
def differences(model: torch.nn.Module, folder: Path) -> tuple[float, float, float]:
    """The largest differences of final tokens, image features (cosine scale) and text features."""
    ours = load_clip(folder)
    encoder = ImageEncoder(
        ours.visual, resolve_recipe("clip", len(ours.visual.transformer.resblocks))
    )
    size = ours.facts.image_size
    images = torch.randn(2, 3, size, size)
    tower = encoder.tower(images)
    expected = library_tokens(model, images)
    tokens = (tower.final_tokens() - expected).abs().max() / expected.abs().max()
    image = _unit(encoder(images)[1]) - _unit(model.encode_image(images))
    if ours.facts.tokenizer == "openai":
        numbers = open_clip.SimpleTokenizer(context_length=ours.facts.context_length)(PROMPTS)
        own = TextEncoder(ours).encode(PROMPTS)
    else:  # the tokenizer is not at hand: the towers are held together on numbers
        numbers = torch.randint(0, 300, (3, ours.facts.context_length))
        own = ours.encode_text(numbers)
    text = _unit(own) - _unit(model.encode_text(numbers))
    return tokens.item(), image.abs().max().item(), text.abs().max().item()


def _unit(features: torch.Tensor) -> torch.Tensor:
    return F.normalize(features, dim=-1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="families whose name holds this")
    only = parser.parse_args().only
    worst = 0.0
    for name, family in FAMILIES.items():
        if only and only not in name:
            continue
        config = config_of(family)
        with tempfile.TemporaryDirectory() as folder:
            model = built(config)
            saved(model, config, Path(folder))
            try:
                found = differences(model, Path(folder))
            except InputError as error:
                print(f"{name}: refused: {str(error).replace(folder, '…')}")
                continue
        worst = max(worst, *found)
        print(f"{name}: tokens {found[0]:.1e}, image {found[1]:.1e}, text {found[2]:.1e}")
    print(f"largest difference: {worst:.1e}")
    return int(worst > 1e-4)


if __name__ == "__main__":
    sys.exit(main())
