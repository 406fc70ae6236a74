"""The tutorial on one's own data, run as it is written; label look-ups and written labels."""

import json
import re
import runpy
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import PROJECT, bgr_image
from PIL import Image

from itaclip import InputError
from itaclip.clip_model import SHIPPED_MODELS, save_clip
from itaclip.data.label_files import LoadMappedAnnotations, SaveLabels, read_labels
from itaclip.evaluation.command import evaluate

DOCUMENT = (PROJECT / "docs" / "your_own_data.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def bands(height, values, width):
    """Vertical bands of the given values."""
    return np.tile(np.repeat(values, width), (height, 1)).astype(np.uint16)


# Raw masks and, by hand, how many pixels of the classes 0, 1, 2 they hold; 200 and 300 are not
# scored.
MASKS = {
    "street_1": (bands(43, [0, 7, 8, 26, 300], 11), (473, 946, 473)),
    "street_2": (bands(59, [26, 200, 7], 17), (0, 1003, 1003)),
}


# ---- the tutorial -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_clip):
    """A folder as the tutorial describes it, beside the project's own files."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("configs", "datasets", "eval.py"):
        (folder / name).symlink_to(PROJECT / name)
    data = folder / "my_data"
    for name in ("images", "masks"):
        (data / name).mkdir(parents=True)
    for number, (name, (mask, _)) in enumerate(MASKS.items()):
        image = bgr_image(*mask.shape, seed=number).numpy().transpose(1, 2, 0)
        Image.fromarray(image).save(data / "images" / f"{name}.jpg")
        picture = Image.fromarray(mask)
        if number:  # one of 16 bits, one with a palette
            picture = Image.fromarray(mask.astype(np.uint8))
            picture.putpalette([3 * i % 256 for i in range(768)])
        picture.save(data / "masks" / f"{name}.png")
    configs, texts = blocks("python"), blocks("text")
    assert (len(configs), len(texts)) == (2, 2)
    (folder / "my_config.py").write_text(configs[0])
    (folder / "my_labels.py").write_text(configs[1])
    (data / "classes.txt").write_text(texts[0])
    (data / "texts.txt").write_text(texts[1])
    save_clip(tiny_clip, folder / "tiny")
    return folder


def small(key="test_dataloader.dataset.pipeline.1.scale"):
    """What makes the tutorial's configs quick: small pictures, and weights that are at hand."""
    shipped = SHIPPED_MODELS["storybook-tiny"].is_file()
    weights = "storybook-tiny" if shipped else "tiny"
    return [f"model.clip_model={weights}", f"{key}=(96,32)"]


def commands(start):
    """The document's command lines that begin so, without their options."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith(start)]


@pytest.fixture(scope="module")
def scored(project):
    """The record of the tutorial's first run, by its own command line."""
    command = commands("python eval.py --config my_config.py")[0]
    assert command == ["eval.py", "--config", "my_config.py"]
    done = subprocess.run(
        [sys.executable, *command, "--cfg-options", *small()],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 images" in done.stdout
    return json.loads((project / "work_dirs/my_config/record.json").read_text())


def test_tutorial_with_masks(scored):
    """Pixels counted by hand: the look-up in the config was applied, other values left out."""
    classes = scored["results"]["classes"]
    by_hand = np.sum([counts for _, counts in MASKS.values()], axis=0).tolist()
    assert [entry["pixels"] for entry in classes] == by_hand
    assert scored["data"]["images_found"] == 2
    assert scored["results"]["mIoU"] is not None


def test_masks_of_0_and_255_are_warned_of(tmp_path, monkeypatch, capfd):
    """Before and after the run, with the setting to look at; the data lie in the project's folder,
    and the command runs in another.
    """
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (project / "two/images", project / "two/masks", elsewhere):
        folder.mkdir(parents=True)
    for name in ("a", "b"):
        Image.fromarray(np.full((32, 48, 3), 90, np.uint8)).save(project / f"two/images/{name}.png")
        mask = bands(32, [0, 255, 0], 16).astype(np.uint8)
        Image.fromarray(mask).save(project / f"two/masks/{name}.png")
    (tmp_path / "classes.txt").write_text("sky\nsea\n")
    bases = PROJECT / "configs/_base_"
    (tmp_path / "cfg.py").write_text(
        f"""_base_ = ["{bases}/storybook.py", "{bases}/itaclip.py"]
model = dict(clip_model="storybook-tiny", name_path="{tmp_path}/classes.txt", pamr=None,
             test_cfg=dict(_delete_=True, mode="whole"))
test_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    _delete_=True, type="BaseSegDataset", data_root="two", img_suffix=".png",
    data_prefix=dict(img_path="images", seg_map_path="masks"),
    metainfo=dict(classes=["sky", "sea"]), pipeline={{{{_base_.test_pipeline}}}}))
"""
    )
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr("itaclip.data.check.PROJECT_ROOT", project)
    metrics = evaluate(["--config", str(tmp_path / "cfg.py")])
    assert 0 <= metrics["mIoU"] <= 100
    out, err = capfd.readouterr()
    remedy = "take dict(type='LoadMappedAnnotations', mapping={0: 0, 255: 1}) in the pipeline"
    assert (
        f"hold 0 and 255 alone, and 255 is ignored; if 255 is a class in these masks, {remedy}"
        in err
    )
    assert "class 1 (sea) occurs in no mask; if 255" in out
    assert remedy in out


def test_tutorial_without_masks(project, scored, monkeypatch):
    """The labels that come out are those that were scored."""
    monkeypatch.chdir(project)
    assert commands("python eval.py --config my_labels.py") == [
        ["eval.py", "--config", "my_labels.py"]
    ]
    (project / "my_data/masks").rename(project / "my_data/away")
    try:
        metrics = evaluate(["--config", "my_labels.py", "--cfg-options", *small()])
    finally:
        (project / "my_data/away").rename(project / "my_data/masks")
    assert metrics == {}
    written = sorted(path.name for path in (project / "my_labels").iterdir())
    assert written == ["classes.txt", "street_1.png", "street_2.png"]
    lookup = {0: 0, 7: 1, 8: 1, 26: 2, 200: 255, 300: 255}
    intersection, union = np.zeros(3, int), np.zeros(3, int)
    for name, (mask, _) in MASKS.items():
        picture = Image.open(project / "my_labels" / f"{name}.png")
        assert picture.mode == "P"
        labels, truth = np.asarray(picture), np.vectorize(lookup.get)(mask)
        assert labels.shape == truth.shape
        for index in range(3):
            one, other = (labels == index) & (truth < 255), truth == index
            intersection[index] += (one & other).sum()
            union[index] += (one | other).sum()
    classes = scored["results"]["classes"]
    assert [entry["intersection"] for entry in classes] == intersection.tolist()
    assert [entry["union"] for entry in classes] == union.tolist()
    names = (project / "my_labels/classes.txt").read_text().splitlines()
    assert names[2] == "2 car, van, truck"
    record = json.loads((project / "work_dirs/my_labels/record.json").read_text())
    assert record["results"]["mIoU"] is None
    assert record["data"]["images_evaluated"] == 2


def test_tutorial_with_auxiliary_texts(project, scored, monkeypatch):
    monkeypatch.chdir(project)
    options = commands("python eval.py --config my_config.py --cfg-options")[0]
    assert evaluate([*options[1:], *small()])["mIoU"] > 0
    record = json.loads((project / "work_dirs/my_config/record.json").read_text())
    assert record["texts"]["auxiliary"]["path"] == "my_data/texts.txt"
    assert record["config"]["resolved"]["model"]["aux_text_weight"] == 0.15
    assert record["config"]["sha256"] != scored["config"]["sha256"]


def test_tutorial_check(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    command = commands("python datasets/check.py")[0]
    main = runpy.run_path(str(PROJECT / "datasets/check.py"))["main"]
    assert main(command[1:]) == 0, capsys.readouterr().out
    mask = project / "my_data/masks/street_2.png"
    kept = mask.read_bytes()
    Image.fromarray(bands(59, [26, 200, 7], 17)[:, :50]).save(mask)
    try:
        assert main(command[1:]) == 1
    finally:
        mask.write_bytes(kept)
    assert "street_2.png" in capsys.readouterr().out


# ---- look-up of labels --------------------------------------------------------------------------

RAW = [[7, 8, 300], [0, 7, 65535]]


def load(path, **changes):
    results = {"seg_map_path": str(path), "reduce_zero_label": False, "label_map": None}
    results["seg_fields"] = []
    transform = LoadMappedAnnotations(**changes)
    transform(results)
    assert results["seg_fields"] == ["gt_seg_map"]
    return results["gt_seg_map"]


@pytest.fixture
def mask16(tmp_path):
    path = tmp_path / "m.png"
    Image.fromarray(np.array(RAW, dtype=np.uint16)).save(path)
    return path


def test_sixteen_bits(mask16):
    labels = load(mask16, mapping={7: 0, 8: 1, 300: 2}, others=255)
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[0, 1, 2], [255, 0, 255]]
    wide = load(mask16, mapping={7: 256, "8": 1, 300: 700, 0: 0, 65535: 65535})
    assert wide.dtype == np.uint16
    assert wide.tolist() == [[256, 1, 700], [0, 256, 65535]]


@pytest.mark.parametrize("mode", ["L", "P", "1", "I", "I;16"])
def test_modes(tmp_path, mode):
    raw = np.array([[0, 1, 1], [1, 0, 1]], dtype=np.uint8) * (1 if mode != "1" else 255)
    picture = Image.fromarray(raw)
    if mode == "P":
        picture.putpalette([9, 8, 7, 6, 5, 4] + [0] * 762)
    elif mode == "I;16":
        picture = Image.fromarray(raw.astype(np.uint16))
    elif mode != "L":
        picture = picture.convert(mode)
    path = tmp_path / ("m.tif" if mode == "I" else "m.png")
    picture.save(path)
    assert Image.open(path).mode == mode
    assert load(path, mapping={0: 4, 1: 2}).tolist() == [[4, 2, 2], [2, 4, 2]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_refused(tmp_path, mode):
    Image.new(mode, (5, 3), (1, 2, 1)).save(tmp_path / "street.png")
    with pytest.raises(InputError, match=rf"street.png: expected .* has colours .mode {mode}.;"):
        load(tmp_path / "street.png", mapping={0: 0})


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_the_same_number_in_all_channels_is_no_colour(tmp_path, mode):
    Image.new("L", (5, 3), 1).convert(mode).save(tmp_path / "street.png")
    with pytest.raises(InputError, match=rf"mode {mode}. that hold the same numbers; save the fi"):
        load(tmp_path / "street.png", mapping={0: 0})


def test_unlisted_values_are_named(mask16):
    with pytest.raises(InputError, match=r"m.png: the mask holds the raw value 300, 65535, which"):
        load(mask16, mapping={0: 0, 7: 1, 8: 2})


def test_values_beyond_sixteen_bits(tmp_path):
    path = tmp_path / "m.tif"
    Image.fromarray(np.array([[7, 26_001_000]], dtype=np.int32)).save(path)
    assert load(path, mapping={7: 1}, others=255).tolist() == [[1, 255]]
    with pytest.raises(InputError, match="26001000"):
        load(path, mapping={7: 1})


def test_unreadable_masks(tmp_path, mask16):
    with pytest.raises(InputError, match=r"none\.png: the mask does not exist"):
        read_labels(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.png: the mask cannot be read"):
        read_labels(tmp_path / "text.png")
    Image.fromarray(bands(61, range(50), 3)).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) - 60])
    with pytest.raises(InputError, match=r"cut\.png: the mask cannot be read"):
        read_labels(tmp_path / "cut.png")


@pytest.mark.parametrize("mapping", [{}, None, [1, 2], {-1: 0}, {0: 1.5}, {"a": 0}, {0: 70000}])
def test_bad_mapping(mapping):
    with pytest.raises(InputError, match="LoadMappedAnnotations: expected"):
        LoadMappedAnnotations(mapping)


def test_labels_are_mapped_once(mask16):
    results = {"seg_map_path": str(mask16), "reduce_zero_label": True, "seg_fields": []}
    with pytest.raises(InputError, match="reduce_zero_label"):
        LoadMappedAnnotations({0: 0}, others=1)(results)


# ---- written labels -----------------------------------------------------------------------------


def saver(folder, classes=3, **changes):
    metric = SaveLabels(folder, **changes)
    metric.dataset_meta = {"classes": [f"class {i}" for i in range(classes)]}
    return metric


def sample(path, labels):
    return {"img_path": str(path), "pred_sem_seg": {"data": torch.tensor([labels])}}


@pytest.mark.parametrize(("classes", "mode"), [(255, "P"), (256, "I;16"), (1000, "I;16")])
def test_bits_follow_the_number_of_classes(tmp_path, classes, mode):
    metric = saver(tmp_path / "out", classes)
    metric.process(None, [sample("street.one.jpg", [[0, 1], [classes - 1, 2], [3, 3]])])
    picture = Image.open(tmp_path / "out/street.one.png")
    assert picture.mode == mode
    assert np.asarray(picture).tolist() == [[0, 1], [classes - 1, 2], [3, 3]]
    assert metric.evaluate(1) == {}
    assert len((tmp_path / "out/classes.txt").read_text().splitlines()) == classes
    assert len(list((tmp_path / "out").iterdir())) == 2, "nothing temporary stays"


def test_one_row_keeps_its_shape(tmp_path):
    saver(tmp_path).process(None, [sample("a.jpg", [[1, 2, 0]])])
    assert np.asarray(Image.open(tmp_path / "a.png")).shape == (1, 3)


def test_names_that_clash(tmp_path):
    metric = saver(tmp_path / "out")
    metric.process(None, [sample(tmp_path / "in/x/1.jpg", [[0]])])
    metric.process(None, [sample(tmp_path / "in/x/1.jpg", [[0]])])  # the same image again
    with pytest.raises(InputError, match="set root to the folder above"):
        metric.process(None, [sample(tmp_path / "in/y/1.jpg", [[1]])])
    metric = saver(tmp_path / "out", root=tmp_path / "in")
    metric.process(None, [sample(tmp_path / f"in/{x}/1.jpg", [[0]]) for x in "xy"])
    assert (tmp_path / "out/x/1.png").is_file()
    assert (tmp_path / "out/y/1.png").is_file()
    with pytest.raises(InputError, match="does not lie below the folder"):
        metric.process(None, [sample(tmp_path / "elsewhere/1.jpg", [[0]])])


def test_images_are_never_overwritten(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(InputError, match="would replace the picture"):
        saver(tmp_path).process(None, [sample(tmp_path / "a.png", [[0]])])
    assert (tmp_path / "a.png").read_bytes() == before
