"""The benchmarks' tools: the yardstick is exact, tables render, commands run. Nothing is timed."""

import json
from pathlib import Path

import pytest
import torch
from conftest import bgr_image
from mmseg.structures import SegDataSample

from benchmarks import gpu, grid, label, long_run, precision, report, scaling, stages, startup
from benchmarks.case import Case
from benchmarks.memory import PeakRecorder, in_child
from benchmarks.published_style import PublishedStyle, text_features
from itaclip import InputError, ITACLIPSegmentor, Vocabulary
from itaclip.runtime.stages import stage
from itaclip.text_encoder import imagenet_templates

NAMES = [["sky", "wall", "tree"], ["cat"], ["dog", "puppy"], ["boat"]]
AUX = {"cat": "small furry animal", "dog": "loyal pet", "boat": "vessel on water"}
ALL_ON = dict(
    image_engineering_weight=0.75,
    logit_scale=60,
    prob_thd=0.3,
    area_thd=0.1,
    label_closing=3,
    pamr=dict(num_iter=10, dilations=(8, 16)),
)
SLIDE = dict(mode="slide", crop_size=(64, 48), stride=(28, 20))


def build(path, **settings):
    vocabulary = Vocabulary.from_lists(NAMES, AUX, background=True)
    return ITACLIPSegmentor(
        clip_model=path, vocabulary=vocabulary, aux_text_weight=0.15, **settings
    ).eval()


@pytest.mark.parametrize(
    "settings",
    [
        dict(attention="itaclip", test_cfg=SLIDE) | ALL_ON,
        dict(attention="itaclip_gaussian", test_cfg=dict(mode="whole"), pamr={}),
        dict(attention="naclip_n_only", test_cfg=SLIDE, image_engineering_weight=0.5),
        dict(attention="maskclip_original", test_cfg=SLIDE),
    ],
)
def test_the_yardstick_computes_the_same(settings, tiny_clip, tiny_clip_path):
    model = build(tiny_clip_path, **settings)
    data = dict(
        inputs=[bgr_image(79, 97)],
        data_samples=[SegDataSample(metainfo=dict(ori_shape=(113, 127)))],
    )
    data = model.data_preprocessor(data)
    ours = model.predict(data["inputs"], data["data_samples"])[0]
    scores, labels = PublishedStyle(tiny_clip, model).segment(data["inputs"][0], (113, 127))
    assert (scores.std(dim=(1, 2)) > 1e-3).sum() >= 2, "the case is trivial"
    torch.testing.assert_close(ours.seg_logits.data, scores, atol=1e-4, rtol=0)
    assert (ours.pred_sem_seg.data[0] == labels).float().mean() > 0.99


def test_the_yardstick_encodes_the_same_texts(tiny_clip, tiny_clip_path):
    texts = ["cat", "vessel on water"]
    model = build(tiny_clip_path)
    ours = model.text_encoder.template_features(texts, imagenet_templates())
    padded = text_features(tiny_clip, texts, imagenet_templates())
    torch.testing.assert_close(ours, padded, atol=1e-5, rtol=0)


def test_peaks_belong_to_their_stages():
    with PeakRecorder("cpu") as recorder:
        with stage("small"):
            torch.ones(10 << 20)
        with stage("large"):
            torch.ones(50 << 20)
        with stage("small"):
            pass
    result = recorder.result()
    if result["peak_bytes"] is None or "upper bound" in result["method"]:
        pytest.skip(result["method"])
    assert 30e6 < result["stage_peaks"]["small"] < 100e6
    assert 190e6 < result["stage_peaks"]["large"] <= result["peak_bytes"] < 300e6


def test_operations_of_the_encoder_are_counted(tiny_clip_path):
    from torch.utils.flop_counter import FlopCounterMode

    model = build(tiny_clip_path, test_cfg=dict(mode="whole"), image_engineering_weight=0.7)
    image = torch.randn(3, 80, 96)
    with FlopCounterMode(display=False) as counter:
        model.image_encoder(torch.stack([image] * 5))
    counted = counter.get_total_flops()
    assert stages.encoder_operations(model, image) == pytest.approx(counted, rel=0.1)


@pytest.fixture
def config(tmp_path):
    """A small config: two classes, every module on, pictures of 72 pixels on the short side."""
    names = tmp_path / "names.txt"
    names.write_text("sky, wall\ncat\n")
    resize = dict(type="Resize", scale=(2048, 72), keep_ratio=True)
    pipeline = [dict(type="LoadImageFromFile"), resize, dict(type="PackSegInputs")]
    model = dict(type="ITACLIPSegmentor", name_path=str(names), background=True) | ALL_ON
    path = tmp_path / "config.py"
    path.write_text(
        "custom_imports = dict(imports=['itaclip'])\n"
        f"model = {model | dict(test_cfg=dict(mode='slide', crop_size=72, stride=72))!r}\n"
        f"test_dataloader = dict(dataset=dict(pipeline={pipeline!r}))\n"
    )
    return str(path)


@pytest.fixture
def in_process(monkeypatch):
    """Children take seconds to start; one test below uses a real one."""
    for module in (stages, scaling):
        monkeypatch.setattr(module, "in_child", lambda function, *given: function(*given))
    monkeypatch.setattr(stages, "_PRODUCT_SIDE", dict(cpu=64))


def test_other_methods_are_refused(config, tiny_clip_path):
    case = Case(config, tiny_clip_path, "cpu", changes=dict(attention="gem"))
    with pytest.raises(InputError, match="last block"):
        case.segmentor("fp32")


def test_children_measure_too(config, tiny_clip_path):
    case = Case(config, tiny_clip_path, "cpu", size=(40, 50))
    result = in_child(stages.peak_memory, case, "fp32", "fp32", False)
    assert result["peak_bytes"] is None or 0 < result["peak_bytes"] < 500e6
    assert "encoder" in result["stage_peaks"]


def test_stages_run_and_render(config, tiny_clip_path, tmp_path, capsys, in_process):
    out = tmp_path / "results" / "stages.json"
    common = ["--config", config, "--clip-model", tiny_clip_path, "--size", "90", "110"]
    stages.main([*common, "--repeats", "1", "--text-sample", "1", "--out", str(out)])
    results = json.loads(out.read_text())
    published, fp32, auto = results["variants"]
    assert fp32["difference"]["scores_max"] < 1e-4
    assert auto["difference"]["labels_changed"] < 0.5
    assert all(len(variant["images"]) == 1 for variant in results["variants"])
    assert published["text_note"].startswith("extrapolated from 80 of 240")
    printed = capsys.readouterr().out
    assert "upsampling and accumulation" in printed
    stages.main(["--render", str(out)])
    assert capsys.readouterr().out == printed
    widths = {line.count("|") for line in printed.splitlines() if line.startswith("|")}
    assert widths == {5}


def test_scaling_runs_renders_and_plots(config, tiny_clip_path, tmp_path, capsys, in_process):
    out = tmp_path / "scaling.json"
    common = ["--config", config, "--clip-model", tiny_clip_path, "--small", "--repeats", "1"]
    scaling.main([*common, "--out", str(out)])
    results = json.loads(out.read_text())
    assert results["axes"]["queries"][0]["growth"]["encoder"] == 1
    assert results["axes"]["area"][1]["windows"] >= results["axes"]["area"][0]["windows"]
    assert out.with_suffix(".png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    scaling.main(["--render", str(out)])
    assert capsys.readouterr().out == printed


def test_the_large_picture_with_and_without_scores(config, tiny_clip_path, tmp_path, in_process):
    out = tmp_path / "large.json"
    common = ["--config", config, "--clip-model", tiny_clip_path, "--large", "--small"]
    scaling.main([*common, "--out", str(out)])
    scores, labels = json.loads(out.read_text())["large"]
    assert scores["result_bytes"] == 4 * 200 * 300 * 7
    assert labels["result_bytes"] == 0
    assert "refinement" in labels["stages"]


def test_committed_results_render():
    folder = Path(report.__file__).parent / "results"
    renders = {
        "cpu": report.stages_markdown,
        "scaling": report.scaling_markdown,
        "large": report.scaling_markdown,
        "precision": precision.table,
        "long-run": long_run.lines,
        "label": label.lines,
        "startup": lambda found: startup.lines(found["seconds"]),
        "cpu-check": gpu.render,
        "grid": grid.lines,
    }
    for path in folder.glob("*.json"):
        render = renders[path.stem.removesuffix("-cpu")]
        assert len(render(json.loads(path.read_text()))) > 3, path


def test_the_check_of_devices_runs_and_names_what_falls_short(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(gpu.PARTS, "tests", lambda *args: dict(selected="", passed=True, end=""))
    monkeypatch.delitem(gpu.SETTINGS, "COCO-Stuff")
    gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "cpu-check.json").read_text())
    page = (tmp_path / "cpu-check.md").read_text()
    assert found["stages"]["VOC21"]["bit_equal"]
    exact = [row for row in found["agreement"] if row["precision"] == "fp32"]
    assert exact and all(row["largest"] == 0 for row in exact)
    assert (tmp_path / found["trace"]["file"]).stat().st_size > 1000
    assert "## What falls short" in page and page.strip() in capsys.readouterr().out
    found["stages"]["VOC21"] |= dict(bit_equal=False, peak_bytes=5 << 30, encoder_share=0.1)
    found["speed"][0]["images_per_second"] = 3.0
    short = " ".join(gpu.falls_short(found))
    for words in ("two runs differ", "5.4 GB above", "reaches 10%", "3 images a second"):
        assert words in short
