"""What is measured: a config's model, one picture, and the machine they meet.

Weights: those of the config, or of ``--clip-model``. Where a config names OpenAI weights that are
not in CLIP's cache, weights of the same sizes are drawn at random (seeded) and said to be so: speed
and memory do not depend on the values.
"""

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from mmcv import imread
from mmengine.config import Config
from mmseg.registry import MODELS, TRANSFORMS
from torch import Tensor, nn

import itaclip  # noqa: F401  (registers the segmentor)
from itaclip.clip_model import OPENAI_MODELS, cache_folder, clip_module, save_clip
from itaclip.errors import InputError
from itaclip.evaluation.inputs import versions
from itaclip.recipes import LastBlock
from itaclip.runtime.files import resolve_path

# Embedding, resolution, blocks, width and patch of the image tower; width, heads of the text tower.
_SIZES = {
    "ViT-B/32": (512, 224, 12, 768, 32, 512, 8),
    "ViT-B/16": (512, 224, 12, 768, 16, 512, 8),
    "ViT-L/14": (768, 224, 24, 1024, 14, 768, 12),
    "ViT-L/14@336px": (768, 336, 24, 1024, 14, 768, 12),
}


@dataclass(frozen=True)
class Case:
    """One configuration on one picture; small enough to be sent to a child process.

    Attributes:
        config: path of the config.
        clip_model: the checkpoint's name or path.
        device: ``'cpu'`` or ``'cuda'``.
        image: path of a picture; None draws one of ``size``.
        size: (H, W) of the drawn picture.
        changes: keys of the config's model that are set otherwise.
    """

    config: str
    clip_model: str
    device: str
    image: str | None = None
    size: tuple[int, int] = (586, 640)
    changes: Mapping = field(default_factory=dict)

    def segmentor(self, precision: str) -> nn.Module:
        """The config's model; texts come from the cache when an earlier call encoded them."""
        settings = dict(load_config(self.config).model)
        settings |= dict(self.changes) | dict(clip_model=self.clip_model, precision=precision)
        segmentor = MODELS.build(settings).to(self.device).eval()
        recipe = segmentor.image_encoder.recipe
        if not isinstance(recipe, LastBlock) or recipe.coherence_layers or recipe.value_layers:
            raise InputError(
                f"{self.config}: the benchmarks count and imitate methods that change the last "
                "block alone, such as 'itaclip' or 'naclip'; choose a config of one of them."
            )
        return segmentor

    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8, BGR."""
        if self.image is None:
            return drawn_picture(*self.size)
        return imread(str(resolve_path(self.image, "--image")))

    def inputs(self, segmentor: nn.Module) -> tuple[list[Tensor], list]:
        """The picture as the config's pipeline and the preprocessor give it to ``predict``."""
        picture = self.picture()
        packed = dict(img=picture, img_shape=picture.shape[:2], ori_shape=picture.shape[:2])
        for transform in load_config(self.config).test_dataloader.dataset.pipeline:
            if transform["type"] in ("Resize", "PackSegInputs"):
                packed = TRANSFORMS.build(transform)(packed)
        data = dict(inputs=[packed["inputs"]], data_samples=[packed["data_samples"]])
        data = segmentor.data_preprocessor(data)
        return data["inputs"], data["data_samples"]


def load_config(path: str) -> Config:
    config = Config.fromfile(resolve_path(path, "--config"))
    for key in ("model", "test_dataloader"):
        if key not in config:
            raise InputError(f"{path}: expected the key {key!r}, but it is missing.")
    return config


def check_device(device: str) -> str:
    """Refuses a GPU that is not there; on a GPU, fp32 means fp32, not TF32."""
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise InputError(f"--device: expected a device of this machine, but got {device!r}.")
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    return device


def find_weights(given: str | None, config: str, folder: Path) -> tuple[str, str]:
    """The checkpoint to use and its description; random weights are written into ``folder``."""
    name = given or str(load_config(config).model.get("clip_model", "ViT-B/16"))
    if name not in OPENAI_MODELS:
        return name, Path(name).name
    if (cache_folder() / OPENAI_MODELS[name][1]).is_file():
        return name, name
    path = save_clip(random_clip(name), folder / "random")
    note = f"{name}, random weights (seed 0): OpenAI's are not in {cache_folder()}"
    print(note, file=sys.stderr)
    return str(path), f"{name}, random weights (seed 0)"


def random_clip(name: str, seed: int = 0) -> nn.Module:
    """A model of an OpenAI model's sizes, whose attention is far from uniform."""
    embed, resolution, blocks, width, patch, text_width, heads = _SIZES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = clip_module("model").CLIP(
            embed, resolution, blocks, width, patch, 77, 49408, text_width, heads, 12
        )
        with torch.no_grad():
            for block in [*clip.visual.transformer.resblocks, *clip.transformer.resblocks]:
                block.attn.in_proj_weight.mul_(2)
                block.attn.in_proj_bias.normal_(std=0.3)
    return clip


def drawn_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Flat shapes on a gradient with noise; (H, W, 3) uint8, the same on every machine."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    picture = np.stack([255 * y / height, 255 * x / width, 128 + 0 * x], axis=-1)
    for _ in range(24):
        centre_y, centre_x = rng.uniform(0, height), rng.uniform(0, width)
        radius_y, radius_x = rng.uniform(0.03, 0.25, 2) * (height, width)
        inside = ((y - centre_y) / radius_y) ** 2 + ((x - centre_x) / radius_x) ** 2 < 1
        picture[inside] = rng.uniform(0, 255, 3)
    picture += rng.normal(0, 8, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def environment(device: str) -> dict:
    """Hardware and versions, as far as the system tells."""
    cpu = _first_value("/proc/cpuinfo", "model name") or platform.processor()
    memory = _first_value("/proc/meminfo", "MemTotal")
    capable = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    wanted = ("avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")
    found = dict(
        cpu=cpu,
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        instructions=[name for name in wanted if capable.get(name)],
        memory_gb=round(int(memory.split()[0]) / 1e6, 1) if memory else None,
        system=f"{platform.system()} {platform.release()}",
    )
    if device.startswith("cuda"):
        found |= dict(gpu=torch.cuda.get_device_name(device), cuda=torch.version.cuda)
    return found | versions()


def environment_line(found: Mapping) -> str:
    """The environment in one sentence."""
    machine = f"{found['cpu']}, {found['cores']} cores ({', '.join(found['instructions'])})"
    if found.get("gpu"):
        machine = f"{found['gpu']} (CUDA {found['cuda']}); {machine}"
    mmseg = next(name for name in ("mmsegmentation", "onedl-mmsegmentation") if found.get(name))
    return (
        f"{machine}, {found['memory_gb']} GB RAM, {found['threads']} threads, {found['system']}; "
        f"Python {found['python']}, torch {found['torch']}, {mmseg} {found[mmseg]}."
    )


def _first_value(path: str, key: str) -> str | None:
    try:
        with open(path) as file:
            return next(line.split(":", 1)[1].strip() for line in file if line[: len(key)] == key)
    except (OSError, StopIteration):
        return None
