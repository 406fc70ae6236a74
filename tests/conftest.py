"""Shared fixtures: tiny random CLIPs, vocabularies, images. Everything offline and seeded."""

import os
import sys
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are shared; read when torch is loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")
from types import SimpleNamespace

import mmengine.config.config
import mmengine.dataset.base_dataset
import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.visualization import Visualizer

import itaclip  # noqa: F401  (lets mmseg import without compiled operators)

sys.path.insert(0, str(Path(__file__).parent))
PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """No test reads or fills the user's text cache."""
    os.environ["ITACLIP_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def quick_runners():
    """What takes half of a small run's time and changes nothing: pretty configs, tidy memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmengine.config.config, "FormatCode", lambda code, **kwargs: (code, True))
        patch.setattr(mmengine.dataset.base_dataset, "gc", SimpleNamespace(collect=lambda: 0))
        yield


@pytest.fixture(autouse=True)
def fresh_loggers():
    """Runners that start in the same second would otherwise share a closed logger."""
    yield
    for manager in (MMLogger, MessageHub, Visualizer):
        manager._instance_dict.clear()


def random_clip(seed=0, patch=16, resolution=64, layers=12, width=128, text_layers=2, embed=32):
    """A ``clip.model.CLIP`` with random weights whose attention and maps are far from uniform."""
    from itaclip.clip_model import clip_module

    torch.manual_seed(seed)
    model = clip_module("model").CLIP(
        embed, resolution, layers, width, patch, 77, 49408, 64, 1, text_layers
    )
    with torch.no_grad():
        for block in [*model.visual.transformer.resblocks, *model.transformer.resblocks]:
            block.attn.in_proj_weight.mul_(2)
            block.attn.in_proj_bias.normal_(std=0.3)
            block.attn.out_proj.bias.normal_(std=0.1)
            for norm in (block.ln_1, block.ln_2):
                norm.weight.normal_(1, 0.2)
                norm.bias.normal_(0, 0.2)
        model.positional_embedding.normal_(std=0.05)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_clip():
    return random_clip()


CLIP_CONFIG = dict(activation="quick_gelu", vision_heads=2, text_heads=1)
"""What files of :func:`random_clip`'s weights alone need; other widths have other heads."""


@pytest.fixture(scope="session")
def tiny_clip_path(tiny_clip, tmp_path_factory):
    from itaclip.clip_model import save_clip

    return str(save_clip(tiny_clip, tmp_path_factory.mktemp("weights") / "tiny"))


@pytest.fixture(scope="session")
def mini_benchmarks(tmp_path_factory):
    """The data root of all eight benchmarks, prepared from miniature raw downloads in their true
    formats: two or three images each. A config finds its data below it by its ``data_root`` without
    the leading ``data/``.
    """
    sys.path.insert(0, str(PROJECT / "tests" / "preparation"))
    import mini_datasets as mini

    root = tmp_path_factory.mktemp("benchmarks")
    mini.prepare(mini.NAMES, mini.make_all(root / "raw"), root / "data")
    return root / "data"


def bgr_image(height, width, seed=0):
    """A structured uint8 image (3, H, W): gradients, a disc and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    disc = ((y - height / 2) ** 2 + (x - width / 3) ** 2 < (min(height, width) / 4) ** 2) * 120
    planes = [255 * y / height, 255 * x / width, np.full((height, width), 60.0)]
    image = np.stack(planes) + disc + rng.normal(0, 12, (3, height, width))
    return torch.from_numpy(image.clip(0, 255).astype(np.uint8))


def normalised(bgr):
    """CLIP's normalisation of a BGR uint8 image, written out."""
    mean = torch.tensor([122.771, 116.746, 104.094])[:, None, None]
    std = torch.tensor([68.501, 66.632, 70.323])[:, None, None]
    return (bgr.flip(0).float() - mean) / std
