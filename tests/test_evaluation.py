"""eval.py: figures counted by hand through the whole Runner, and what bad input ends in."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.visualization import SegLocalVisualizer
from PIL import Image

from itaclip import InputError
from itaclip.evaluation.arguments import parse_arguments
from itaclip.evaluation.command import evaluate
from itaclip.runtime.tool import run_tool

# Two images, three classes; 255 is not scored, and class 2 occurs under it alone.
TRUTHS = {"a": [[0, 0, 1, 255], [0, 1, 1, 255]], "b": [[1, 1, 1], [0, 255, 1]]}
PREDICTIONS = {"a": [[0, 1, 1, 2], [0, 1, 0, 0]], "b": [[1, 1, 0], [0, 2, 1]]}

CONFIG = """
_base_ = ["{project}/configs/_base_/runtime.py"]
model = dict(type="PredictionsFromFiles", folder="predictions")
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="BaseSegDataset",
        data_root="data",
        data_prefix=dict(img_path="images", seg_map_path="masks"),
        img_suffix=".png",
        seg_map_suffix=".png",
        metainfo=dict(classes=["sky", "cat", "dog"]),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="PackSegInputs"),
        ],
    ),
)
"""


@MODELS.register_module()
class PredictionsFromFiles(BaseModel):
    """A "model" whose label maps were written by hand."""

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)

    def forward(self, inputs, data_samples, mode="predict"):
        for sample in data_samples:
            labels = np.asarray(Image.open(self.folder / Path(sample.img_path).name))
            data = torch.from_numpy(labels.astype(np.int64))[None]
            sample.set_data({"pred_sem_seg": PixelData(data=data)})
        return data_samples


def write_label(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(labels, dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with data, predictions and ``cfg.py``."""
    for name, labels in TRUTHS.items():
        write_label(tmp_path / "data/masks" / f"{name}.png", labels)
        write_label(tmp_path / "data/images" / f"{name}.png", np.zeros((*np.shape(labels), 3)))
    for name, labels in PREDICTIONS.items():
        write_label(tmp_path / "predictions" / f"{name}.png", labels)
    (tmp_path / "cfg.py").write_text(CONFIG.format(project=PROJECT))
    monkeypatch.chdir(tmp_path)
    for kind in (MMLogger, DefaultScope, SegLocalVisualizer):  # they are kept by name and second
        kind._instance_dict.clear()
    return tmp_path


def change(folder, old, new):
    text = (folder / "cfg.py").read_text()
    assert old in text
    (folder / "cfg.py").write_text(text.replace(old, new))


def run(*options):
    return evaluate(["--config", "cfg.py", *options])


def failure(*options):
    with pytest.raises(InputError) as caught:
        run(*options)
    return str(caught.value)


# ---- figures ------------------------------------------------------------------------------------


def test_figures_counted_by_hand(folder, capsys):
    """Class 0: 3 of 6 pixels, class 1: 5 of 8, class 2 nowhere: it is left out of the mean."""
    metrics = run("--work-dir", "out")
    assert metrics == {"aAcc": 72.73, "mIoU": 56.25, "mAcc": 73.21}
    record = json.loads((folder / "out/record.json").read_text())
    results = record["results"]
    assert {key: results[key] for key in metrics} == metrics
    assert results["valid_classes"] == 2
    sky, cat, dog = results["classes"]
    assert sky == dict(name="sky", iou=50.0, accuracy=75.0, intersection=3, union=6, pixels=4)
    assert cat == dict(name="cat", iou=62.5, accuracy=71.4286, intersection=5, union=8, pixels=7)
    assert dog == dict(name="dog", iou=None, accuracy=None, intersection=0, union=0, pixels=0)
    assert record["data"]["images_evaluated"] == record["data"]["images_found"] == 2
    text = capsys.readouterr().out
    assert "56.25 mIoU over 2 of 3 classes, 2 images" in text
    assert f"record: {folder / 'out/record.json'}" in text


def test_batches_and_prefixes_change_nothing(folder):
    change(folder, "batch_size=1", "batch_size=2")
    metrics = run("--cfg-options", "test_evaluator.prefix=test", "test_evaluator.nan_to_num=0")
    assert metrics == {"test/aAcc": 72.73, "test/mIoU": 37.5, "test/mAcc": 48.81}
    results = json.loads((folder / "work_dirs/cfg/record.json").read_text())["results"]
    assert (results["mIoU"], results["valid_classes"]) == (37.5, 2)
    assert results["classes"][2]["iou"] is None


# ---- ground truth that mmseg would miscount ------------------------------------------------------


def test_labels_out_of_range(folder):
    write_label(folder / "data/masks/b.png", [[1, 1, 1], [0, 200, 3]])
    message = failure()
    assert "data/masks/b.png" in message
    assert "label 3, 200" in message
    assert "0 to 2, or 255" in message
    assert not (folder / "work_dirs/cfg/record.json").exists(), "no result of a refused run"


def test_other_value_for_ignored_pixels(folder):
    write_label(folder / "data/masks/b.png", [[1, 1, 1], [0, 77, 1]])
    assert "label 77" in failure()
    for name in "ab":
        mask = np.array(Image.open(folder / f"data/masks/{name}.png"))
        mask[mask == 255] = 77
        write_label(folder / f"data/masks/{name}.png", mask)
    assert run("--cfg-options", "test_evaluator.ignore_index=77")["mIoU"] == 56.25


def test_mask_of_another_size(folder):
    write_label(folder / "data/masks/a.png", [[0, 1], [1, 0], [0, 0]])
    message = failure()
    assert "data/masks/a.png: expected a mask of 2x4" in message
    assert "3x2" in message


def test_metric_without_masks(folder):
    change(folder, 'dict(type="LoadAnnotations"),', "")
    assert "SaveLabels" in failure()


# ---- configs and options ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("model = dict(", "model = dict((", "cfg.py: the config cannot be read (SyntaxError"),
        ('folder="predictions"', 'foldre="x"', "model.foldre: PredictionsFromFiles has no such"),
        ("PredictionsFromFiles", "ITACLIPSegmenter", "model.type: expected a registered"),
        ("test_dataloader", "val_dataloader", "expected the key 'test_dataloader'"),
        ("dataset=", "data=", "expected the key 'test_dataloader.dataset'"),
        ("seg_map_suffix", "mask_suffix", "BaseSegDataset takes no key 'mask_suffix'"),
        ('"PackSegInputs"', '"PackInputz"', "type 'PackInputz' is not known"),
        ('"BaseSegDataset"', '"VOC22"', "type 'VOC22' is not known"),
        ('data_root="data"', 'data_root="nowhere"', "nowhere/images: expected a folder here"),
        ('img_suffix=".png"', 'img_suffix=".jpg"', "no image ends in '.jpg'; 2 files end in"),
        ('seg_map_suffix=".png"', 'seg_map_suffix="_m.png"', "a_m.png: mask does not exist"),
    ],
)
def test_config_that_cannot_run(folder, old, new, expected):
    change(folder, old, new)
    message = failure()
    assert expected in message
    assert "cfg.py" in message


def test_misspelt_key_of_the_model(folder):
    change(folder, 'type="PredictionsFromFiles", folder="predictions"', 'type="ITACLIPSegmentor"')
    assert "did you mean 'prob_thd'?" in failure("--cfg-options", "model.prob_thr=0.1")
    assert "the config cannot be read" in failure("--cfg-options", "test_evaluator.type.x.y=1")


def test_problems_of_the_data_name_the_check(folder):
    (folder / "data/masks/b.png").unlink()
    message = failure()
    assert "data/masks/b.png: mask does not exist" in message
    assert f"python datasets/check.py --config {folder / 'cfg.py'}" in message


def test_warnings_of_the_data_are_printed(folder, capsys):
    write_label(folder / "data/masks/c.png", [[0]])
    assert run()["mIoU"] == 56.25
    assert "data/masks/c.png: no image belongs to this mask" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["model.pamr", "=3", "model..pamr=1", "a=(1, 2"])
def test_bad_options(option, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(["--config", "cfg.py", "--cfg-options", option])
    assert stop.value.code == 2
    assert "--cfg-options" in capsys.readouterr().err


# ---- the tool -----------------------------------------------------------------------------------


def test_message_of_a_worker_process(folder, capsys):
    """A data loader's process sends its traceback along; the user gets the sentence alone."""
    change(folder, '"LoadAnnotations"', '"LoadMappedAnnotations", mapping={0: 0, 255: 255}')
    change(folder, "num_workers=0", "num_workers=1")
    assert run_tool(lambda: run()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: data/masks/a.png: the mask holds the raw value 1, which")
    assert error.count("\n") == 1


def test_programming_errors_are_not_hidden():
    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_tool(broken)


def test_class_file_that_does_not_fit(folder, tiny_clip_path):
    (folder / "names.txt").write_text("sky\ncat\n")
    model = f'type="ITACLIPSegmentor", clip_model="{tiny_clip_path}", name_path="names.txt"'
    change(folder, 'type="PredictionsFromFiles", folder="predictions"', model)
    message = failure()
    assert "model.name_path: the file has 2 classes" in message
    assert "has 3" in message


def test_missing_config(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_tool(lambda: evaluate(["--config", "configs/cfg_voc12.py"])) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --config: expected an existing file")
    assert str(tmp_path) in error
    assert str(PROJECT) in error


def test_shipped_config_without_data(tmp_path):
    """The command as users give it, from another folder."""
    command = [sys.executable, str(PROJECT / "eval.py"), "--config", "configs/cfg_voc21.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr + done.stdout
    assert "error: data/VOCdevkit/VOC2012/JPEGImages: expected a folder here" in done.stderr
    assert "python datasets/prepare.py voc21" in done.stderr
    assert "python datasets/check.py --config" in done.stderr
