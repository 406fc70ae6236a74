"""What an evaluation says where the model reads the ground truth, and boundary IoU in a run."""

import json

import pytest
from conftest import PROJECT
from PIL import Image

from itaclip.evaluation.command import evaluate
from itaclip.evaluation.published import uses_oracle
from itaclip.storybook import CLASSES
from itaclip.storybook.benchmark import evaluation_scene

CONFIG = f"""
_base_ = ["{PROJECT}/configs/_base_/runtime.py"]
test_evaluator = [dict(type="BoundaryIoUMetric"), dict(type="IoUMetric", iou_metrics=["mIoU"])]
custom_hooks = []
model = dict(
    type="ITACLIPSegmentor",
    clip_model="storybook-tiny",
    name_path="{PROJECT}/configs/cls_storybook.txt",
    test_cfg=dict(mode="whole"),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    dataset=dict(
        type="BaseSegDataset",
        data_root="data",
        data_prefix=dict(img_path="images", seg_map_path="masks"),
        img_suffix=".png",
        seg_map_suffix=".png",
        metainfo=dict(classes={list(CLASSES)!r}),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="PackSegInputs"),
        ],
    ),
)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for index in range(2):
        scene = evaluation_scene("test", index)
        Image.fromarray(scene.image).save(f"data/images/{index}.png")
        Image.fromarray(scene.mask).save(f"data/masks/{index}.png")
    (tmp_path / "cfg.py").write_text(CONFIG)
    return tmp_path


def run(*options):
    return evaluate(["--config", "cfg.py", "--work-dir", "work", *options])


def test_boundary_iou_stands_beside_miou_and_an_oracle_is_labelled(folder, capsys):
    plain = run()
    record = json.loads((folder / "work" / "record.json").read_text())
    assert record["results"]["mIoU"] == plain["mIoU"]
    assert record["results"]["mBoundaryIoU"] == plain["mBoundaryIoU"] < plain["mIoU"]
    oracle = run("--cfg-options", "model.class_pruning.rule=oracle")
    assert {*oracle} == {f"oracle/{key}" for key in plain}
    assert oracle["oracle/mIoU"] > plain["mIoU"]
    assert "- ORACLE" in capsys.readouterr().out
    record = json.loads((folder / "work" / "record.json").read_text())
    assert uses_oracle(record["config"]["resolved"]["model"])
    assert not record["comparison"]["comparable"]
    assert any("oracle" in reason for reason in record["comparison"]["reasons"])
