"""Every shipped config through the whole Runner, on miniature data in the benchmarks' formats."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT
from guides import guide_folder
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.registry import DATASETS

from itaclip.data.benchmarks import by_label
from itaclip.evaluation.arguments import parse_arguments
from itaclip.evaluation.command import load_config
from itaclip.evaluation.grid.evaluate import evaluate_plan
from itaclip.evaluation.grid.plan import Entry, plan_of_configs
from itaclip.sliding_window import parse_test_cfg, sliding_windows
from itaclip.vocabulary import load_vocabulary

BENCHMARKS = (
    "voc21", "voc20", "context60", "context59", "coco_object", "coco_stuff", "cityscapes", "ade20k",
)  # fmt: skip
CONFIGS = [
    f"configs/{folder}cfg_{name}.py" for folder in ("", "naclip/", "sclip/") for name in BENCHMARKS
]
RIVALS = ("clip_surgery", "gem", "resclip", "scclip", "rfclip", "pearl", "clipseg")
GUIDED = ("proxyclip", "lposs", "glaclip", "trident", "cass", "corrclip")
CONFIGS += [
    f"configs/{rival}/cfg_{name}.py"
    for rival in (*RIVALS, *GUIDED)
    for name in ("voc21", "coco_stuff")
]
# Configs that differ from others in data and thresholds alone do not run.
ALL_CONFIGS = CONFIGS + [
    f"configs/{rival}/cfg_{name}.py"
    for rival in ("proxyclip", "lposs")
    for name in BENCHMARKS
    if name not in ("voc21", "coco_stuff")
]


def config_of(path, *options):
    return load_config(parse_arguments(["--config", str(PROJECT / path), *options]))


@pytest.fixture(scope="module")
def two_templates():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("itaclip.model.imagenet_templates", lambda: ("a {}.", "the {}."))
        yield


def small(path, mini_benchmarks, *options):
    """A shipped config on miniature data, with small pictures and windows and the tiny model."""
    config = config_of(path, *options)
    dataset = config.test_dataloader.dataset
    dataset.data_root = dataset.data_root.replace("data/", f"{mini_benchmarks}/", 1)
    config.test_dataloader.num_workers = 0
    config.test_dataloader.persistent_workers = False
    config.model.clip_model = "storybook-tiny"
    dataset.indices = 2
    dataset.pipeline[1].scale = (2048, 64) if dataset.pipeline[1].keep_ratio else (64, 64)
    if config.model.attention == "rfclip":  # its channels are those of ViT-B/16
        config.model.attention = dict(recipe="rfclip", channels=(3, 40))
    if "guide" in config.model:
        config.model.guide = str(guide_folder("vit"))
        if isinstance(config.model.attention, str) and config.model.attention == "trident":
            config.model.guide = dict(model=str(guide_folder("vit")), sam=str(guide_folder("sam")))
    if "regions" in config.model:  # SAM's masks have tests of their own
        config.model.regions = dict(source="slic", rule="vote")
    if config.model.test_cfg.mode == "slide":
        config.model.test_cfg.update(crop_size=(56, 56), stride=(56, 56))
    return config


@pytest.fixture(scope="module")
def grid(mini_benchmarks, two_templates):
    """mIoU of every config out of one grid that shares what it can."""
    entries = [Entry(Path(p), small(p, mini_benchmarks), p, "") for p in CONFIGS]
    plan = plan_of_configs(entries)
    assert len(plan.groups(plan.rows)) < len(CONFIGS)
    results, _ = evaluate_plan(plan)
    return {cell.row: results[cell.key]["mIoU"] for cell in plan.cells}


@pytest.mark.parametrize("path", CONFIGS)
def test_the_whole_runner(path, mini_benchmarks, grid, tmp_path):
    config = config_of(path)
    dataset = config.test_dataloader.dataset
    dataset.data_root = dataset.data_root.replace("data/", f"{mini_benchmarks}/", 1)
    loaded = DATASETS.build(dict(dataset, _scope_="mmseg"))
    assert len(loaded) >= 2
    sample = loaded[0]
    height, width = sample["data_samples"].ori_shape
    assert sample["data_samples"].gt_sem_seg.shape == (height, width), "masks stay at full size"
    assert min(sample["inputs"].shape[1:]) == dataset.pipeline[1].scale[1]
    labels = np.unique(sample["data_samples"].gt_sem_seg.data)
    assert set(labels) <= {*range(len(loaded.metainfo["classes"])), 255}
    assert len(set(labels) - {255}) > 1
    metrics = Runner.from_cfg(small(path, mini_benchmarks, "--work-dir", str(tmp_path))).test()
    assert 0 <= metrics["mIoU"] <= 100
    assert round(float(metrics["mIoU"]), 2) == grid[path], "one pass for all gives other figures"


@pytest.mark.parametrize("path", ALL_CONFIGS)
def test_the_head_tells_the_cost(path):
    text = (PROJECT / path).read_text()
    passes, height, width = map(
        int, re.search(r"Cost: (\d+) encoder pass\w* for (\d+)x(\d+) network", text).groups()
    )
    config = Config.fromfile(PROJECT / path)
    layout = parse_test_cfg(dict(config.model.test_cfg))
    views = 5 if config.model.get("image_engineering_weight") else 1
    windows = len(layout.over((height, width)))
    assert passes == windows * views
    if views == 5:
        (cheaper,) = re.findall(r"; (\d+) with", text)
        assert int(cheaper) == 5 * len(sliding_windows((height, width), layout.crop_size, (56, 56)))
    assert f"python eval.py --config {path}" in text


@pytest.mark.parametrize("path", ALL_CONFIGS)
def test_thresholds_go_with_a_background(path):
    model = Config.fromfile(PROJECT / path).model
    if "propagation" not in model:  # LPOSS has no threshold
        assert (model.get("prob_thd", 0) > 0) == model.get("background", False)
    vocabulary = load_vocabulary(
        PROJECT / model.name_path,
        model.get("auxiliary_text_path") and PROJECT / model.auxiliary_text_path,
        model.get("background", False),
    )
    assert (vocabulary.auxiliary_texts[0] is None) == (
        vocabulary.background or "auxiliary_text_path" not in model
    )


# DATASETS: stride, logit_scale, prob_thd, area_thd, α, λ of the five rows of ITACLIP's paper.
PAPER = {
    "coco_stuff": (28, 40, 0.0, None, 0.20, 0.75, "definitions", 448),
    "coco_object": (28, 50, 0.1, None, 0.10, 0.75, "synonyms", 336),
    "voc21": (28, 60, 0.1, 0.1, 0.05, 0.70, "definitions", 336),
    "context60": (28, 55, 0.1, None, 0.15, 0.75, "definitions", 336),
    "cityscapes": (28, 40, 0.0, None, 0.05, 0.70, "synonyms", 560),
}


@pytest.mark.parametrize("name", PAPER)
def test_itaclip_settings_are_the_paper_s(name):
    config = Config.fromfile(PROJECT / f"configs/cfg_{name}.py")
    model = config.model
    assert (
        model.test_cfg.stride[0],
        model.logit_scale,
        model.get("prob_thd", 0.0),
        model.get("area_thd"),
        model.aux_text_weight,
        model.image_engineering_weight,
        model.auxiliary_text_path.split("_")[-1].removesuffix(".txt"),
        config.test_dataloader.dataset.pipeline[1].scale[1],
    ) == PAPER[name]
    assert model.label_closing == 3
    assert model.pamr == dict(num_iter=10, dilations=(8, 16))
    assert (model.clip_model, model.attention) == ("ViT-B/16", "itaclip")


@pytest.mark.parametrize("path", sorted((PROJECT / "configs").rglob("cfg_*.py")))
def test_the_table_knows_where_a_row_s_config_lies(path):
    paper = Config.fromfile(path).get("paper")
    if paper is None:
        return
    known = by_label(paper.benchmark)
    assert PROJECT / known.config(paper.method) == path
    assert Config.fromfile(path).test_dataloader.dataset.type == known.dataset
