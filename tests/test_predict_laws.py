"""Laws of single pictures: an evaluation's labels, whatever surrounds the call; abstaining."""

import itertools
import threading

import numpy as np
import pytest
import torch
from conftest import PROJECT, bgr_image
from PIL import Image

import itaclip
from itaclip import InputError
from itaclip.evaluation.command import evaluate
from itaclip.predict.segmenter import Segmenter
from itaclip.runtime.tool import run_tool

WORDS = "sky; sea, ocean; tree; wooden floor"
SCENE = PROJECT / "docs/scene.png"
# As docs/your_own_data.md teaches it: the pipeline inside the data set.
CONFIG = """
_base_ = ["{project}/configs/_base_/runtime.py"]
model = dict(
    type="ITACLIPSegmentor", clip_model="storybook-tiny", name_path="classes.txt",
    pamr=dict(num_iter=2, dilations=(2, 4)), label_closing=3, precision="fp32",
    test_cfg=dict(mode="slide", crop_size=(112, 112), stride=(56, 56)))
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="BaseSegDataset", data_root=".", data_prefix=dict(img_path="images"),
        img_suffix="{suffix}", metainfo=dict(classes="classes.txt"),
        pipeline=[dict(type="LoadImageFromFile"), {steps} dict(type="PackSegInputs")]))
test_evaluator = dict(_delete_=True, type="SaveLabels", folder="labels")
"""
RESIZED = "dict(type='Resize', scale=(2048, 112), keep_ratio=True),"


@pytest.fixture(scope="module")
def model():
    return itaclip.load("storybook-tiny", precision="fp32", device="cpu", pamr=None)


@pytest.fixture
def scene():
    return np.asarray(Image.open(SCENE).convert("RGB"))[:120, :160].copy()


# ---- a config's pipeline ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "suffix"),
    [
        (RESIZED, ".jpg"),
        ("dict(type='Resize', scale=(400, 112), keep_ratio=True, backend='pillow'),", ".png"),
        ("dict(type='ResizeShortestEdge', scale=112, max_size=300),", ".png"),
    ],
)
def test_a_config_gives_the_labels_of_its_evaluation(steps, suffix, tmp_path, monkeypatch, scene):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    large = Image.fromarray(scene).resize((480, 360))  # it shrinks to less than a third
    (large if suffix == ".jpg" else Image.fromarray(scene)).save(f"images/a{suffix}")
    (tmp_path / "classes.txt").write_text("sky\nsea, ocean\ntree\nwooden floor\n")
    (tmp_path / "cfg.py").write_text(CONFIG.format(project=PROJECT, steps=steps, suffix=suffix))
    assert run_tool(lambda: evaluate(["--config", "cfg.py"])) == 0
    expected = np.asarray(Image.open("labels/a.png"))
    model = itaclip.load(config="cfg.py")
    path = f"images/a{suffix}"
    assert (model.segment(path).labels == expected).all()
    pixels = np.asarray(Image.open(path))
    if suffix == ".png":  # arrays and Pillow's pictures go the same way
        assert (model.segment(pixels).labels == expected).all()
        assert (model.segment(Image.open(path), scores=False).labels == expected).all()
    other = model.with_recipe("clip")
    assert other.encode(path).inputs.shape == model.encode(path).inputs.shape


def test_a_pipeline_in_a_wrapper_is_found_and_several_are_refused(tmp_path):
    part = "dict(type='X', pipeline=[dict(type='LoadImageFromFile'), {}dict(type='PackSegInputs')])"
    head = (
        "model = dict(type='ITACLIPSegmentor', clip_model='storybook-tiny', precision='fp32', "
        "name_path='configs/cls_storybook.txt')\ntest_dataloader = dict(dataset="
    )
    path = tmp_path / "cfg.py"
    both = [part.format(RESIZED), part.format(RESIZED)]
    path.write_text(f"{head}dict(type='R', dataset=dict(type='C', datasets=[{', '.join(both)}])))")
    assert itaclip.load(config=path).encode(SCENE).inputs.shape[1] == 112
    path.write_text(f"{head}dict(type='C', datasets=[{part.format('')}, {both[0]}]))")
    with pytest.raises(InputError, match="pipeline: its data sets have different ones"):
        itaclip.load(config=path)
    assert itaclip.load(config=path, short_side=56).encode(SCENE).inputs.shape[1] == 56


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ("dict(type='Pad', size=(9, 9)),", "it has Pad"),
        ("dict(type='RandomFlip', prob=1.0),", "it has RandomFlip"),
        ("dict(type='NoSuchStep'),", "NoSuchStep"),
        ("dict(type='Resize', scale=(9, 9), keep_ratio=True),", "patches have"),
    ],
)
def test_pipelines_that_cannot_be_followed(steps, words, tmp_path):
    (tmp_path / "cfg.py").write_text(
        "model = dict(type='ITACLIPSegmentor', clip_model='storybook-tiny', precision='fp32', "
        "name_path='configs/cls_storybook.txt')\n"
        f"test_pipeline = [dict(type='LoadImageFromFile'), {steps} dict(type='PackSegInputs')]"
    )
    with pytest.raises(InputError, match=words):
        itaclip.load(config=tmp_path / "cfg.py").encode(SCENE)


# ---- what surrounds a call ----------------------------------------------------------------------


def default_dtype(dtype):
    class Changed:
        def __enter__(self):
            torch.set_default_dtype(dtype)

        def __exit__(self, *error):
            torch.set_default_dtype(torch.float32)

    return Changed()


AROUND = {
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("door", ["segment", "encode", "batch"])
def test_the_torch_around_a_call_changes_nothing(around, door, model, scene):
    fresh = model.with_recipe("itaclip")  # without words of earlier calls
    expected = model.segment(scene, WORDS)
    with AROUND[around]():
        if door == "segment":
            result = fresh.segment(scene, WORDS)
        elif door == "batch":
            (result,) = fresh.segment_batch([scene], WORDS)
        else:
            encoded = fresh.encode(scene)
            fresh.segment(encoded, "cat; dog")  # words that are kept from within
    if door == "encode":
        result = fresh.segment(encoded, WORDS)  # made within, used without
        fresh.segment(scene, "cat; dog")
    assert (result.labels == expected.labels).all()
    np.testing.assert_allclose(result.scores, expected.scores, atol=1e-5)
    assert torch.get_default_dtype() == torch.float32


def test_threads_share_a_model_whose_words_are_evicted(model, scene, monkeypatch):
    monkeypatch.setattr("itaclip.predict.segmenter._MAX_VOCABULARIES", 2)
    encoded = model.encode(scene)
    lists = [f"sky; sea; {name}" for name in ("tree", "cat", "boat", "house", "car")]
    expected = [model.segment(encoded, words).labels for words in lists]
    wrong, start = [], threading.Barrier(4)

    def work(number):
        start.wait()
        try:
            for turn in range(8):
                index = (turn * (number + 1)) % len(lists)
                labels = model.segment(encoded, lists[index]).labels
                if (labels != expected[index]).any():
                    wrong.append(index)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(model._vocabularies) <= 2


def test_the_words_used_longest_ago_go_first(model, monkeypatch):
    monkeypatch.setattr("itaclip.predict.segmenter._MAX_VOCABULARIES", 2)
    fresh = Segmenter(model.segmentor)
    image = bgr_image(60, 70).permute(1, 2, 0).numpy()
    for words in ("a; b", "c; d", "a; b", "e; f"):
        fresh.segment(image, words)
    kept = [key[0].first_names for key in fresh._vocabularies]
    assert kept == [("a", "b"), ("e", "f")]


def test_numpy_s_scalars_are_numbers(model, scene):
    options = dict(background="sky, sea")
    expected = model.segment(scene, "tree", prob_thd=0.5, area_thd=0.05, margin_thd=0.25, **options)
    scalars = dict(prob_thd=np.float32(0.5), area_thd=np.float64(0.05), margin_thd=np.float16(0.25))
    result = model.segment(scene, "tree", **scalars, **options)
    assert (result.labels == expected.labels).all()
    assert result.overlay(np.float32(0.5)).shape == scene.shape
    loaded = itaclip.load("storybook-tiny", device="cpu", precision="fp32", pamr=None,
                          short_side=np.int64(112), stride=np.int32(56), logit_scale=np.int8(40),
                          window_batch=np.uint8(3))  # fmt: skip
    assert loaded.encode(scene).inputs.shape[1] == 112


# ---- abstaining ---------------------------------------------------------------------------------


def test_a_margin_turns_unsure_pixels_into_background(model, scene):
    plain = model.segment(scene, "tree; wooden floor", background="sky, sea")
    margin = np.sort(plain.scores, axis=-1)
    margin = margin[..., -1] - margin[..., -2]
    np.testing.assert_allclose(plain.margin, margin, atol=1e-6)
    np.testing.assert_allclose(plain.uncertainty, 1 - margin, atol=1e-6)
    for scores in (True, False):
        result = model.segment(
            scene, "tree; wooden floor", background="sky, sea", margin_thd=0.5, scores=scores
        )
        expected = np.where(margin < 0.5, 0, plain.labels)
        assert (result.labels == expected).all()
        assert 0 < (result.labels != plain.labels).mean() < 1
    with pytest.raises(InputError, match="leave scores=False out"):
        _ = result.uncertainty
    with pytest.raises(InputError, match=r"margin_thd: 0\.5 turns unsure pixels into background"):
        model.segment(scene, WORDS, margin_thd=0.5)
    with pytest.raises(InputError, match="margin_thd: expected"):
        model.segment(scene, "tree", background=True, margin_thd=1.5)


# ---- what is no list of pictures ----------------------------------------------------------------


@pytest.mark.parametrize(
    "images",
    [str(SCENE), SCENE, b"ab", Image.new("L", (30, 30)), np.zeros((30, 30, 3), np.uint8), 7, None],
    ids=lambda value: type(value).__name__,
)
def test_a_batch_of_one_picture_is_said(images, model):
    with pytest.raises(InputError, match="images: expected a list of pictures"):
        model.segment_batch(images, WORDS)


def test_an_array_of_pictures_is_a_batch(model, scene):
    results = list(model.segment_batch(np.stack([scene, scene[::-1]]), WORDS, bits=None))
    assert [result.source for result in results] == ["image 0", "image 1"]


# ---- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("semicolon", "comma"),
    itertools.product(";；﹔؛\n", ",，、､﹐،"),
    ids=lambda sign: f"{ord(sign):04x}",
)
def test_separators_of_every_keyboard(semicolon, comma, tmp_path):
    from itaclip.predict.words import make_vocabulary
    from itaclip.vocabulary import load_class_names

    line = f"sky{semicolon} sea{comma} ocean{semicolon}tree"
    assert make_vocabulary(line).class_names == (("sky",), ("sea", "ocean"), ("tree",))
    found = make_vocabulary("cat; boat", f"sea{comma}sky").class_names[0]
    assert found == ("sea", "sky")
    (tmp_path / "names.txt").write_text(f"sky\nsea{comma} ocean\n", encoding="utf-8")
    assert load_class_names(tmp_path / "names.txt") == (("sky",), ("sea", "ocean"))


@pytest.mark.parametrize("name", ["names.txt", "data/classes.csv", "configs/cls_voc21.txt"])
def test_a_class_file_as_classes_is_said(name, model, scene):
    with pytest.raises(InputError, match="is the name of a file, not of classes"):
        model.segment(scene, name)
