"""eval.py over a table of bad input: one sentence, exit code 2, nothing half-written.

The model's label maps are read from files, so that a run takes a fraction of a second; what
concerns CLIP itself uses a tiny random one.
"""

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT, random_clip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from mmseg.visualization import SegLocalVisualizer
from PIL import Image
from test_evaluation import PredictionsFromFiles  # noqa: F401  (registers it)

from itaclip import InputError
from itaclip.evaluation.command import evaluate
from itaclip.evaluation.record import FILE_NAME, read_record
from itaclip.runtime.tool import run_tool

CONFIG = """
_base_ = ["{project}/configs/_base_/runtime.py"]
model = dict(type="PredictionsFromFiles", folder="data/masks")
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
            dict(type="Resize", scale=(256, 64), keep_ratio=True),
            dict(type="LoadAnnotations"),
            dict(type="PackSegInputs"),
        ],
    ),
)
"""
CLIP = """type="ITACLIPSegmentor", clip_model="{weights}", name_path="names.txt",
    clip_config=dict(activation="quick_gelu", vision_heads=1, text_heads=1),
    attention="maskclip", test_cfg=dict(mode="whole"), text_cache=False"""
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
MASK = np.arange(2000, dtype=np.uint8).reshape(40, 50) % 3


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with three sound samples and ``cfg.py``."""
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for index in range(3):
        Image.fromarray(IMAGE).save(tmp_path / f"data/images/{index}.png")
        Image.fromarray(MASK).save(tmp_path / f"data/masks/{index}.png")
    (tmp_path / "names.txt").write_text("sky\ncat\ndog\n")
    (tmp_path / "cfg.py").write_text(CONFIG.format(project=PROJECT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "least.pt"
    torch.save(random_clip(layers=1, width=64, text_layers=1).state_dict(), path)
    return path


@pytest.fixture
def clip_folder(folder, weights):
    old = 'type="PredictionsFromFiles", folder="data/masks"'
    edit(old, CLIP.format(weights=weights))(folder)
    return folder


def edit(old, new):
    """A change of the config's text."""

    def change(folder):
        text = (folder / "cfg.py").read_text()
        assert old in text
        (folder / "cfg.py").write_text(text.replace(old, new))

    return change


def content(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def cut(name, length):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def image_of(height, width):
    def change(folder):
        Image.new("RGB", (width, height)).save(folder / "data/images/1.png")
        Image.new("L", (width, height)).save(folder / "data/masks/1.png")

    return change


def mask_of(array):
    return lambda folder: Image.fromarray(array).save(folder / "data/masks/1.png")


def evaluated(*options):
    """The exit code of a run on ``cfg.py``."""
    for kind in (MMLogger, MessageHub, Visualizer, DefaultScope, SegLocalVisualizer):
        kind._instance_dict.clear()
    options = [*options] if options and options[0].startswith("--") else ["--cfg-options", *options]
    options = [] if options == ["--cfg-options"] else options
    return run_tool(lambda: evaluate(["--config", "cfg.py", *options]))


def refused(capsys, *options):
    """What a run on ``cfg.py`` says on stderr; it must be refused and leave no record."""
    code = evaluated(*options)
    message = capsys.readouterr().err
    assert code == 2, message
    assert not list(Path.cwd().rglob(FILE_NAME))
    assert not list(Path.cwd().rglob("*.part"))
    assert "Traceback" not in message
    (start,) = re.finditer(r"^error: ", message, re.MULTILINE)
    return message[start.end() :].rstrip("\n")


def test_sound_input_passes(folder):
    assert evaluated() == 0


# ---- files of the data set ----------------------------------------------------------------------

SAMPLES = {
    "half an image": (cut("data/images/1.png", 400), "data/images/1.png: the image cannot be read"),
    "empty image": (cut("data/images/1.png", 0), "data/images/1.png: the image .* empty"),
    "a web page": (content("data/images/1.png", b"<html>"), "data/images/1.png: .* is a web page"),
    "1x5000": (image_of(1, 5000), "data/images/1.png: Resize cannot use this file of 1x5000"),
    "half a mask": (cut("data/masks/1.png", 60), "data/masks/1.png: the mask cannot be read"),
    "colours": (mask_of(IMAGE), "data/masks/1.png: expected a mask .*RGB"),
    "size": (mask_of(MASK[:7]), "data/masks/1.png: expected a mask of 40x50 .* 7x50"),
    "label 3": (mask_of(MASK + 1), "data/masks/1.png: the mask holds the label 3, but"),
    "label 300": (mask_of(MASK.astype(np.uint16) + 298), "1.png: the mask holds the value 300"),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_bad_samples(name, folder, capsys):
    change, words = SAMPLES[name]
    change(folder)
    (message,) = refused(capsys).splitlines()
    assert re.search(words, message)


def test_images_smaller_than_a_patch(clip_folder, capsys):
    image_of(1000, 7)(clip_folder)
    assert "data/images/1.png: the image is 256x2 pixels" in refused(capsys)


DATA = {
    "no images": (
        lambda folder: [path.unlink() for path in (folder / "data/images").iterdir()],
        "no image ends in",
    ),
    "binary list": (
        lambda folder: (
            content("data/list.txt", b"\xff\xfe\0")(folder),
            edit('data_root="data"', 'data_root="data", ann_file="list.txt"')(folder),
        ),
        "data/list.txt: is not a text file",
    ),
    "no list": (
        edit('data_root="data"', 'data_root="data", ann_file="x"'),
        "data/x: expected a fi",
    ),
    "root": (edit('data_root="data"', "data_root=3"), "dataset.data_root: expected a path"),
    "prefix": (edit('img_path="images"', "img_path=7"), "data_prefix.img_path: expected a folder"),
    "suffix": (edit('img_suffix=".png"', "img_suffix=3"), "img_suffix: expected a file's ending"),
    "classes": (edit('["sky", "cat", "dog"]', '"none.txt"'), "metainfo.classes: .* 'none.txt'"),
    "number": (edit('classes=["sky", "cat", "dog"]', "classes=3"), "cfg.py: "),
    "none": (edit('classes=["sky", "cat", "dog"]', ""), "metainfo.classes: .* None"),
}


@pytest.mark.parametrize("name", DATA)
def test_bad_data_sets(name, folder, capsys):
    change, words = DATA[name]
    change(folder)
    assert re.search(words, refused(capsys))


# ---- the config ---------------------------------------------------------------------------------

CONFIGS = {
    "bytes": (content("cfg.py", bytes(range(256))), "the config cannot be read"),
    "syntax": (content("cfg.py", b"model = dict(("), "SyntaxError"),
    "empty": (content("cfg.py", b""), "expected the key 'model'"),
    "no steps": (edit("pipeline=[", "pipeline=[], unused=["), "takes no key|PackSegInputs"),
    "no packing": (
        edit('dict(type="PackSegInputs"),', ""),
        "expected it to end with .*PackSegInputs",
    ),
    "step": (edit('"LoadAnnotations"', '"LoadAnotations"'), "'LoadAnotations' is not known"),
    "scale": (edit("(256, 64)", '"x"'), "pipeline: Resize fails at data/images/0.png .TypeError"),
    "no scale": (edit("(256, 64)", "(0, 0)"), "Resize cannot use"),
    "batch": (edit("batch_size=1", "batch_size=0"), "batch_size: expected an integer from 1"),
    "workers": (edit("num_workers=0", "num_workers=-1"), "num_workers: expected an integer from 0"),
    "sampler": (edit("DefaultSampler", "Sampler2"), "test_dataloader.sampler.type"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_bad_configs(name, folder, capsys):
    change, words = CONFIGS[name]
    change(folder)
    message = refused(capsys)
    assert re.search(words, message)
    assert "\n" not in message


OPTIONS = {
    "test_evaluator=None": "'test_evaluator'",
    "test_evaluator.type=Foo": "'Foo' is not known",
    "test_evaluator.iou_metrics=[foo]": "test_evaluator.iou_metrics: 'foo'",
    "test_evaluator.ignore_index=x": "test_evaluator.ignore_index",
    "test_dataloader=3": "test_dataloader: expected a dict",
    "test_dataloader.dataset=3": "test_dataloader.dataset: expected a dict",
    "test_dataloader.dataset.type=Foo": "'Foo' is not known",
    "test_dataloader.dataset.foo=1": "takes no key 'foo'",
    "test_dataloader.foo=1": "takes no key 'foo'",
    "model=3": "model: expected a dict",
    "model.type=Foo": "model.type: expected a registered segmentor",
    "custom_hooks=3": "custom_hooks: expected a list of dicts",
    "custom_hooks.0.type=Foo": "'Foo' is not known",
    "env_cfg=3": "env_cfg: expected a dict",
    "log_level=FOO": "FOO",
    "load_from=none.pth": "none.pth",
    "test_cfg.type=Foo": "test_cfg.type: expected 'TestLoop'",
    "visualizer.type=Foo": "'Foo' is not known",
    "default_scope=foo": "is not known",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_bad_options(option, folder, capsys):
    message = refused(capsys, option)
    assert OPTIONS[option] in message
    assert "\n" not in message


MODEL_OPTIONS = {
    "clip_model=none.pt": "clip_model: expected an existing file",
    "clip_model=3": "clip_model: '3'",
    "clip_model=data": "data: expected a folder that describes its model",
    "clip_model=names.txt": "names.txt: cannot be read as a CLIP checkpoint",
    "name_path=3": "name_path: expected the path of a file",
    "name_path=none.txt": "name_path: expected an existing file",
    "name_path=data/images/0.png": "0.png:",
    "auxiliary_text_path=none.txt": "auxiliary_text_path",
    "auxiliary_text_path=names.txt": "names.txt:1: expected 'name >= text'",
    "aux_text_weight=x": "aux_text_weight",
    "attention=foo": "attention: unknown recipe 'foo'",
    "attention=3": "attention",
    "image_engineering_weight=7": "image_engineering_weight",
    "logit_scale=nan": "logit_scale",
    "prob_thd=-1": "prob_thd",
    "area_thd=x": "area_thd",
    "label_closing=2": "label_closing",
    "pamr=3": "pamr",
    "pamr.num_iter=-1": "pamr",
    "pamr.dilations=[]": "pamr",
    "precision=fp8": "precision",
    "test_cfg=3": "",
    "test_cfg.mode=foo": "test_cfg",
    "test_cfg.foo=1": "test_cfg: unknown key 'foo'",
    "window_batch=0": "window_batch",
    "data_preprocessor=3": "data_preprocessor",
    "data_preprocessor.type=Foo": "'Foo' is not known",
    "pretrained=x": "pretrained",
    "prob_thr=0.1": "model.prob_thr",
}


@pytest.mark.parametrize("option", MODEL_OPTIONS)
def test_bad_models(option, clip_folder, capsys):
    message = refused(capsys, f"model.{option}")
    assert MODEL_OPTIONS[option] in message
    assert "\n" not in message


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.integers(-2, 300), max_size=3),
    st.dictionaries(st.sampled_from(["mode", "recipe", "num_iter", "type"]), st.integers(-2, 2)),
)
MODEL_KEYS = [
    "clip_model",
    "background",
    "name_path",
    "auxiliary_text_path",
    "aux_text_weight",
    "attention",
    "image_engineering_weight",
    "logit_scale",
    "prob_thd",
    "area_thd",
    "label_closing",
    "pamr",
    "precision",
    "test_cfg",
    "window_batch",
    "pretrained",
    "train_cfg",
    "init_cfg",
]


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(key=st.sampled_from(MODEL_KEYS), value=VALUES)
def test_any_value_of_the_model_builds_or_is_a_sentence(key, value, clip_folder, weights):
    from mmengine.config import ConfigDict
    from mmseg.registry import MODELS

    from itaclip.runtime.config import building

    settings = dict(
        type="ITACLIPSegmentor",
        clip_model=str(weights),
        name_path="names.txt",
        attention="maskclip",
        text_cache=False,
    )

    def build():
        with building(Path("cfg.py")):
            MODELS.build(ConfigDict({**settings, key: value}))

    assert run_tool(build) in (0, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"sky\nc\0t\ndog", "names.txt:2: .* U.0000"),
        (b"sky\ncat\x1b[2J\ndog", "names.txt:2: .* U.001B"),
        (b"sky\n\xff\xfecat\ndog", "names.txt:2: expected UTF-8"),
        ("sky\ncat\ndog".encode("utf-16"), "looks like UTF-16"),
        (b"sky\ncat\nCat", "names.txt:3: the name 'Cat' also belongs to class 1"),
        ("sky\ncaf\u00e9\ncafe\u0301".encode(), "names.txt:3: .* also belongs to class 1"),
        (b"sky\ncat,,kitten\ndog", "names.txt:2: name 2 of 3 is empty"),
        (b"sky\n\ndog", "names.txt:2: this line is blank"),
        (b"", "no class found"),
        ("sky\ncat\n\u202egod".encode(), "names.txt:3: .*RIGHT-TO-LEFT OVERRIDE"),
        (b"sky\ncat\n" + b"dog " * 80, "names.txt:3: the name .* tokens in the template"),
        (b"sky\ncat\n" + b"dog" * 10**6, "names.txt:3: .* has 3000000 characters"),
        (b"sky\ncat\n<|endoftext|> dog", "names.txt:3: .* start or end"),
        (b"sky\ncat\n&nbsp;", "names.txt:3: nothing is left of the name"),
        (b"sky\ncat", "the file has 2 classes"),
    ],
)
def test_bad_names(text, words, clip_folder, capsys):
    content("names.txt", text)(clip_folder)
    message = refused(capsys)
    assert re.search(words, message)
    assert "\n" not in message and len(message) < 600


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfsky\r\ncat\r\ndog\r\n",
        b"sky\rcat\rdog",
        "sky\n🐱\n狗".encode(),
        "سماء\nقطة\nكلب".encode(),
        b"sky\n{cat}\n{}",
        b"sky\n%s\n{0.__class__}",
    ],
)
def test_odd_names_that_work(text, clip_folder):
    content("names.txt", text)(clip_folder)
    assert evaluated() == 0


# ---- --skip-bad ---------------------------------------------------------------------------------


def spoiled(folder):
    """Of eight samples those numbered 1, 4, 5 and 6 are bad, and 7 has no mask."""
    for index in range(3, 8):
        Image.fromarray(IMAGE).save(folder / f"data/images/{index}.png")
        Image.fromarray(MASK).save(folder / f"data/masks/{index}.png")
    cut("data/images/1.png", 400)(folder)
    cut("data/masks/4.png", 60)(folder)
    Image.fromarray(MASK[:7]).save(folder / "data/masks/5.png")
    Image.fromarray(MASK + 1).save(folder / "data/masks/6.png")
    (folder / "data/masks/7.png").unlink()
    return {
        "1": "images/1.png: the image cannot be read",
        "4": "masks/4.png: the mask cannot be read",
        "5": "masks/5.png: expected a mask of 40x50",
        "6": "masks/6.png: the mask holds the label 3",
        "7": "masks/7.png: the mask does not exist",
    }


@pytest.mark.parametrize(("workers", "batch"), [(0, 1), (0, 3), (2, 2)])
def test_bad_samples_are_left_out_listed_and_the_result_called_partial(
    workers, batch, folder, capsys
):
    reasons = spoiled(folder)
    edit("num_workers=0", f"num_workers={workers}")(folder)
    edit("batch_size=1", f"batch_size={batch}")(folder)
    assert evaluated("--skip-bad", "--work-dir", "out") == 0
    record = json.loads((folder / "out" / FILE_NAME).read_text())
    assert record["data"]["images_evaluated"] == 3
    skipped = record["data"]["images_skipped"]
    assert [Path(sample["path"]).stem for sample in skipped] == list(reasons)
    for sample, words in zip(skipped, reasons.values(), strict=True):
        assert words in sample["reason"]
    assert record["results"]["mIoU"] == 100  # of what is left
    assert record["results"]["classes"][0]["pixels"] == 3 * int((MASK == 0).sum())
    assert record["partial"] and not record["comparison"]["comparable"]
    assert "5 images were left out as unusable (--skip-bad)" in capsys.readouterr().out


def test_without_it_the_first_bad_sample_stops(folder, capsys):
    spoiled(folder)
    assert "masks/7.png: mask does not exist" in refused(capsys)
    Image.fromarray(MASK).save(folder / "data/masks/7.png")
    assert "images/1.png: the image cannot be read" in refused(capsys)


def test_nothing_left_is_no_result(folder, capsys):
    for index in range(3):
        cut(f"data/images/{index}.png", 100)(folder)
    message = refused(capsys, "--skip-bad")
    assert message.startswith("no image could be evaluated: all 3 were left out")
    assert "data/images/0.png: the image cannot be read" in message


def test_mistakes_of_the_config_are_not_skipped(folder, capsys):
    edit("(256, 64)", '"x"')(folder)
    assert "pipeline: Resize fails" in refused(capsys, "--skip-bad")


# ---- records ------------------------------------------------------------------------------------


def test_a_record_is_read_as_it_was_written_or_not_at_all(folder, capsys):
    """Every bit counts; and without the checksum, every value's kind does."""
    assert evaluated("--work-dir", "out") == 0
    path = folder / "out" / FILE_NAME
    record = read_record(path)
    written = path.read_bytes()
    digit = written.index(b'"mIoU": ') + len(b'"mIoU": ')
    for at, bit in ((digit, 1), (digit, 7), (len(written) // 2, 0), (3, 5)):
        damaged = bytearray(written)
        damaged[at] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=re.escape(str(path))):
            read_record(path)
    for length in (0, 1, 100, len(written) - 3):
        path.write_bytes(written[:length])
        with pytest.raises(InputError, match=re.escape(str(path))):
            read_record(path)
    del record["sha256"]
    for outer, inner in (("results", "mIoU"), ("comparison", "reasons"), ("data", None)):
        for value in ("x", True, [1], {"a": 1}):
            part = {**record[outer], inner: value} if inner else value
            if isinstance(value, type(record[outer][inner] if inner else record[outer])):
                continue
            path.write_text(json.dumps({**record, outer: part}))
            with pytest.raises(InputError, match=f"'{outer}"):
                read_record(path)


# ---- disks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder_name", ["file", "file/below", "a\0b", "x" * 300, "/proc/none"])
def test_work_dirs_that_cannot_be(folder_name, folder, capsys):
    content("file", b"")(folder)
    assert refused(capsys, "--work-dir", folder_name).startswith("--work-dir: the folder ")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("name", ["record.json", "classes.txt", "1.png"])
def test_results_that_cannot_be_written_stop_the_run(name, code, folder, capsys, monkeypatch):
    """A disk that takes no file of this name: the run says so and leaves nothing half there."""
    replace = os.replace

    def full(source, target, **options):
        if Path(target).name == name:
            raise OSError(code, os.strerror(code), str(target))
        return replace(source, target, **options)

    options = ["--show-dir", "shown"]
    if name == "classes.txt":
        edit(
            "model = dict(",
            'test_evaluator = dict(_delete_=True, type="SaveLabels")\nmodel = dict(',
        )(folder)
    monkeypatch.setattr(os, "replace", full)
    message = refused(capsys, *options)
    assert name in message and os.strerror(code) in message


def test_a_full_disk_that_names_no_file(capsys):
    def main():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert run_tool(main) == 2
    assert "make room on the disk of the work dir" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: 9 bytes")])
def test_too_little_memory(error, capsys):
    def main():
        raise error

    assert run_tool(main) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: there is not enough memory (")
    assert "model.window_batch=1" in message
