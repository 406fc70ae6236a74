"""mmseg's own helpers with our configs, as its users call them."""

import copy
import re
import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib
import mmseg
import numpy as np
import pytest
import torch
from conftest import PROJECT, bgr_image
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.apis import MMSegInferencer, inference_model, init_model, show_result_pyplot
from mmseg.visualization import SegLocalVisualizer
from PIL import Image
from test_spread import STORYBOOK, drawn_scenes

from itaclip import InputError
from itaclip.storybook import CLASSES, PALETTE

CONFIG = str(PROJECT / "configs/cfg_storybook.py")
matplotlib.use("Agg")


@pytest.fixture(scope="module")
def options(tiny_clip_path):
    return {"model.clip_model": tiny_clip_path, "model.pamr": None}


@pytest.fixture(scope="module")
def model(options):
    return init_model(CONFIG, device="cpu", cfg_options=options)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    Image.fromarray(bgr_image(121, 143).permute(1, 2, 0).numpy()).save(path)
    return str(path)


def test_init_and_inference(model, picture):
    result = inference_model(model, picture)
    assert result.pred_sem_seg.data.shape == (1, 121, 143)
    assert result.pred_sem_seg.data.dtype == torch.int64
    assert result.seg_logits.data.shape == (len(CLASSES), 121, 143)
    assert 0 <= result.seg_logits.data.min() <= result.seg_logits.data.max() <= 1


def test_lists_of_differently_sized_images(model, monkeypatch):
    monkeypatch.setattr(model, "cfg", copy.deepcopy(model.cfg))  # mmseg changes it for arrays
    images = [bgr_image(*size).permute(1, 2, 0).numpy() for size in ((121, 143), (150, 117))]
    results = inference_model(model, images)
    assert [tuple(r.pred_sem_seg.data.shape) for r in results] == [(1, 121, 143), (1, 150, 117)]
    alone = inference_model(model, images[1])
    assert torch.equal(alone.seg_logits.data, results[1].seg_logits.data)


def test_show_result(model, picture, tmp_path):
    out = tmp_path / "shown.png"
    result = inference_model(model, picture)
    show_result_pyplot(model, picture, result, show=False, draw_gt=False, out_file=str(out))
    assert Image.open(out).size == (143, 121)


@pytest.mark.parametrize("named", [True, False])
def test_inferencer(named, options, picture, tmp_path):
    config = Config.fromfile(CONFIG)
    config.merge_from_dict(options)
    given = dict(classes=CLASSES, palette=PALETTE) if named else {}
    inferencer = MMSegInferencer(model=config, device="cpu", scope="mmseg", **given)
    result = inferencer(picture, out_dir=str(tmp_path))
    # What is drawn: without a checkpoint mmseg sets those of Cityscapes.
    assert tuple(inferencer.visualizer.dataset_meta["classes"]) == tuple(CLASSES)
    assert len(inferencer.visualizer.dataset_meta["palette"]) == len(CLASSES)
    assert result["predictions"].shape == (121, 143)
    assert (tmp_path / "vis" / "scene.png").is_file()
    assert np.asarray(Image.open(tmp_path / "pred" / "00000000_pred.png")).shape == (121, 143)


def test_the_guide(tmp_path, monkeypatch):
    """docs/mmseg.md, block by block, in a folder like the project's root."""
    guide = (PROJECT / "docs/mmseg.md").read_text(encoding="utf-8")
    for name in ("configs", "docs", "aux_texts"):
        (tmp_path / name).symlink_to(PROJECT / name)
    monkeypatch.chdir(tmp_path)
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL):
        exec(block, scope)
    assert scope["result"].seg_logits.data.shape[0] == 3
    assert Image.open("shown.png").size == Image.open("docs/scene.png").size
    assert Image.open("inferred/vis/scene.png").size == Image.open("docs/scene.png").size


@pytest.fixture
def tool(options, tmp_path, monkeypatch):
    """Runs one of mmseg's own tools as its users do, on two pictures, and gives the config."""
    folder = drawn_scenes(tmp_path / "data", 2)
    text = STORYBOOK.format(project=PROJECT, folder=folder, classes=CLASSES, palette=PALETTE)
    (tmp_path / "cfg.py").write_text(text)
    changes = [f"{key}={value}" for key, value in options.items()]
    changes += ["model.attention=clip", "test_dataloader.persistent_workers=False"]
    monkeypatch.chdir(tmp_path)
    for kind in (SegLocalVisualizer, DefaultScope):
        monkeypatch.setattr(kind, "_instance_dict", type(kind._instance_dict)())

    def run(name, *arguments):
        path = str(Path(mmseg.__file__).parent / ".mim/tools" / name)
        given = [path, *map(str, arguments), "--cfg-options", *changes]
        monkeypatch.setattr(sys, "argv", given)
        runpy.run_path(path, run_name="__main__")

    return run


def test_the_test_tool_draws_and_augments(tool, tmp_path):
    """A config with an OverlayHook that names no folder; --show-dir; --tta; no checkpoint."""
    tool("test.py", "cfg.py", "none", "--work-dir", "run", "--show-dir", "shown", "--tta")
    drawn = list((tmp_path / "shown").rglob("*.png"))
    assert len(drawn) == 2
    assert all(Image.open(path).size[0] > 100 for path in drawn)
    assert (tmp_path / "run/overlays/sheet.png").is_file()


def test_the_config_is_printed(tool, capsys):
    tool("misc/print_config.py", "cfg.py")
    assert "ITACLIPSegmentor" in capsys.readouterr().out


@pytest.mark.parametrize("channels", [1, 4])
def test_pictures_without_three_channels_are_refused(model, monkeypatch, channels):
    monkeypatch.setattr(model, "cfg", copy.deepcopy(model.cfg))  # mmseg changes it for arrays
    with pytest.raises(InputError, match="expected an image of 3 channels"):
        inference_model(model, np.zeros((40, 50, channels), dtype=np.uint8))


def test_the_console_says_one_sentence(tmp_path):
    """Bad input through the real command: exit code 2, no traceback."""
    command = [sys.executable, "eval.py", "--config", "configs/cfg_storybook.py"]
    command += ["--work-dir", str(tmp_path), "--cfg-options", "model.name_path=configs/none.txt"]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: name_path: expected")
    assert "Traceback" not in result.stderr
