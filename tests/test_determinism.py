"""Same inputs, same answer: between runs, processes, batches, workers and states.

What precisions change is measured by benchmarks/precision.py; here its figures are bounds.
"""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import PROJECT, bgr_image, normalised
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from mmseg.structures import SegDataSample
from PIL import Image

from itaclip import ITACLIPSegmentor, Vocabulary
from itaclip.evaluation.command import evaluate
from itaclip.runtime.text_cache import TextCache
from itaclip.text_encoder import TextEncoder, imagenet_templates

NAMES = [["sky", "wall"], ["cat"], ["dog", "puppy"]]
SIZE = (71, 83)


def build(**changes):
    """The whole method with the shipped model: views, windows, refinement, closing."""
    settings = dict(
        clip_model="storybook-tiny",
        vocabulary=Vocabulary.from_lists(NAMES),
        image_engineering_weight=0.7,
        pamr=dict(num_iter=3, dilations=(2, 4)),
        area_thd=0.01,
        label_closing=3,
        test_cfg=dict(mode="slide", crop_size=(64, 64), stride=(28, 28)),
    )
    return ITACLIPSegmentor(**(settings | changes)).eval()


def scores_of(model, image):
    sample = SegDataSample(metainfo=dict(ori_shape=tuple(image.shape[1:])))
    return model.test_step(dict(inputs=[image], data_samples=[sample]))[0].seg_logits.data


def fingerprint():
    """A checksum of all bits of one image's class scores."""
    torch.set_num_threads(1)
    scores = scores_of(build(precision="fp32"), bgr_image(*SIZE))
    return hashlib.sha256(scores.contiguous().numpy().tobytes()).hexdigest()


def test_another_process_gives_the_same_bits(tmp_path):
    """With other hash seeds and an empty text cache."""
    code = "from test_determinism import fingerprint; print(fingerprint())"
    paths = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "PYTHONHASHSEED": "7",
        "ITACLIP_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=True,
    )
    threads = torch.get_num_threads()
    try:
        assert done.stdout.split()[-1] == fingerprint()
    finally:
        torch.set_num_threads(threads)


def test_an_image_does_not_depend_on_those_before():
    model = build()
    first, other = bgr_image(*SIZE), bgr_image(61, 83, seed=1)
    alone = scores_of(model, first)
    scores_of(model, other)
    assert torch.equal(scores_of(model, first), alone)
    model.set_vocabulary(Vocabulary.from_lists(["boat", "sea"]))
    scores_of(model, other)
    model.set_vocabulary(Vocabulary.from_lists(NAMES))
    assert torch.equal(scores_of(model, first), alone)


def test_texts_are_the_same_whatever_is_encoded_beside_them(tiny_clip, tmp_path):
    encoder = TextEncoder(tiny_clip)
    templates = imagenet_templates()[:5]
    cache = TextCache(tmp_path)
    fresh = encoder.template_features(["cat", "a dog"], templates, cache)
    assert torch.equal(encoder.template_features(["cat", "a dog"], templates, cache), fresh)
    many = encoder.template_features(
        ["a dog", *(f"thing {i}" for i in range(40)), "cat"], templates
    )
    torch.testing.assert_close(many[[-1, 0]], fresh, atol=1e-6, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_batches_of_windows_change_rounding_alone(precision):
    """Measured: none at all in fp32 on one thread; the bound leaves room for other libraries."""
    image = bgr_image(*SIZE)
    whole, *others = (
        scores_of(build(precision=precision, window_batch=batch), image) for batch in (None, 1, 4)
    )
    bound = {"fp32": 1e-5, "bf16": 1e-2}[precision]
    for other in others:
        assert (other - whole).abs().max() <= bound


def test_precisions_differ_by_no_more_than_was_measured():
    found = json.loads((PROJECT / "benchmarks/results/precision-cpu.json").read_text())
    model, image = build(precision="fp32", area_thd=None), bgr_image(*SIZE)
    exact = scores_of(model, image)
    assert torch.equal(scores_of(model, image), exact)
    for precision in ("bf16", "fp16"):
        measured = found["variants"][precision]
        difference = (scores_of(build(precision=precision, area_thd=None), image) - exact).abs()
        assert 0 < difference.max() <= 2 * measured["largest_difference"]
        assert measured["labels_changed"] < 0.01


# ---- through eval.py ----------------------------------------------------------------------------

CONFIG = """
_base_ = ["{project}/configs/_base_/runtime.py"]
model = dict(
    type="ITACLIPSegmentor",
    clip_model="storybook-tiny",
    name_path="names.txt",
    attention="itaclip",
    pamr=dict(num_iter=2, dilations=(2, 4)),
    test_cfg=dict(mode="slide", crop_size=(64, 64), stride=(32, 32)),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
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
test_evaluator = [dict(type="IoUMetric", iou_metrics=["mIoU"]), dict(type="SaveLabels")]
"""
SIZES = [(64, 80), (64, 80), (71, 67), (53, 97), (64, 80)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for index, size in enumerate(SIZES):
        image = bgr_image(*size, seed=index).numpy().transpose(1, 2, 0)
        Image.fromarray(image).save(tmp_path / f"data/images/{index}.png")
        labels = (np.arange(size[0] * size[1]).reshape(size) // 500 % 3).astype(np.uint8)
        Image.fromarray(labels).save(tmp_path / f"data/masks/{index}.png")
    (tmp_path / "names.txt").write_text("sky\ncat\ndog\n")
    (tmp_path / "cfg.py").write_text(CONFIG.format(project=PROJECT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outcome(folder, name, batch, workers):
    """Figures with all digits, pixels counted, and label files of a run."""
    for kind in (MMLogger, MessageHub, Visualizer, DefaultScope):
        kind._instance_dict.clear()
    options = [f"test_dataloader.batch_size={batch}", f"test_dataloader.num_workers={workers}"]
    metrics = evaluate(["--config", "cfg.py", "--work-dir", name, "--cfg-options", *options])
    record = json.loads((folder / name / "record.json").read_text())
    files = {path.name: path.read_bytes() for path in (folder / name / "labels").glob("*.png")}
    return metrics, record["results"], files


def test_batches_and_workers_change_nothing(folder):
    expected = outcome(folder, "first", 1, 0)
    assert len(expected[2]) == len(SIZES)
    for batch, workers in ((1, 0), (3, 2)):
        assert outcome(folder, f"run{batch}{workers}", batch, workers) == expected


def test_the_network_input_is_what_the_formula_says():
    """Normalisation rounds once: the same image in any batch gives the same bits."""
    image = bgr_image(*SIZE)
    model = build()
    one = model.data_preprocessor(dict(inputs=[image]))["inputs"][0]
    for other in (image, bgr_image(61, 83)):
        both = model.data_preprocessor(dict(inputs=[image, other]))["inputs"]
        assert torch.equal(both[0], one)
    torch.testing.assert_close(one, normalised(image), atol=1e-6, rtol=0)
