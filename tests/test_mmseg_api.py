"""mmseg's own helpers with our configs, as its users call them."""

import copy
import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from conftest import PROJECT, bgr_image
from mmengine.config import Config
from mmseg.apis import MMSegInferencer, inference_model, init_model, show_result_pyplot
from PIL import Image

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


def test_inferencer(options, picture, tmp_path):
    config = Config.fromfile(CONFIG)
    config.merge_from_dict(options)
    inferencer = MMSegInferencer(
        model=config, classes=CLASSES, palette=PALETTE, device="cpu", scope="mmseg"
    )
    result = inferencer(picture, out_dir=str(tmp_path))
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


def test_the_visualisation_hook(options, tmp_path):
    guide = (PROJECT / "docs/mmseg.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^python (eval.py .*)$", guide, re.MULTILINE)
    changes = [f"{key}={value}" for key, value in options.items()]
    changes += ["test_dataloader.dataset.indices=2", "test_dataloader.num_workers=0"]
    changes += [f"test_dataloader.dataset.data_root={tmp_path / 'storybook'}"]
    # A process of its own: mmengine keeps one visualiser a process, with the first one's folder.
    command = [sys.executable, *command.split(), *changes, "--work-dir", str(tmp_path / "run")]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    drawn = list((tmp_path / "run").glob("*/vis_data/vis_image/*.png"))
    assert len(drawn) == 2
    assert all(Image.open(path).size[0] > 100 for path in drawn)


def test_the_console_says_one_sentence(tmp_path):
    """Bad input through the real command: exit code 2, no traceback."""
    command = [sys.executable, "eval.py", "--config", "configs/cfg_storybook.py"]
    command += ["--work-dir", str(tmp_path), "--cfg-options", "model.name_path=configs/none.txt"]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: name_path: expected")
    assert "Traceback" not in result.stderr
