"""Records, the comparison with the papers, and the table made of them."""

import copy
import hashlib
import json
import runpy

import pytest
import torch
from conftest import CLIP_CONFIG, PROJECT
from mmengine.config import Config
from mmseg.registry import DATASETS
from test_evaluation import folder  # noqa: F401  (a fixture)

import itaclip
from itaclip import InputError
from itaclip.clip_model import OPENAI_MODELS
from itaclip.evaluation.command import evaluate
from itaclip.evaluation.inputs import config_entry, data_manifest, file_entry
from itaclip.evaluation.published import (
    BENCHMARKS,
    PUBLISHED,
    benchmark_of,
    compare_with_paper,
    comparison_lines,
    expected_images,
)
from itaclip.evaluation.record import read_record, write_json, write_record
from itaclip.evaluation.settings import settings_sha256

CONFIGS = sorted((PROJECT / "configs").rglob("cfg_*.py"))


# ---- what a run leaves --------------------------------------------------------------------------


def test_record_is_complete(folder, capsys):  # noqa: F811
    evaluate(["--config", "cfg.py", "--cfg-options", "test_dataloader.batch_size=2"])
    text = (folder / "work_dirs/cfg/record.json").read_text()
    record = json.loads(text, parse_constant=pytest.fail)  # NaN is no JSON
    copies = list((folder / "work_dirs/cfg").glob("*/record.json"))
    assert [path.read_text() for path in copies] == [text]
    assert record["command"] == (
        "python eval.py --config cfg.py --cfg-options test_dataloader.batch_size=2"
    )
    config = record["config"]
    assert config["path"] == str(folder / "cfg.py")
    assert config["options"] == {"test_dataloader.batch_size": 2}
    assert config["resolved"]["test_dataloader"]["dataset"]["data_root"] == "data"
    assert len(config["sha256"]) == 64
    assert record["paper"] is None
    assert record["weights"] is None
    data = record["data"]
    assert (data["dataset"], data["benchmark"], data["root"]) == ("BaseSegDataset", None, "data")
    assert (data["images_found"], data["images_evaluated"], data["files"]) == (2, 2, 4)
    assert data["images_expected"] is None
    assert record["versions"]["itaclip"] == itaclip.__version__
    assert {"python", "torch", "mmengine"} <= record["versions"].keys()
    assert any("mmsegmentation" in package for package in record["versions"])
    assert record["hardware"]["cores"] >= 1
    assert record["peak_memory"]["process"] > 50e6
    assert 0 < record["seconds_per_image"] < record["seconds"] < 60
    assert record["time"].endswith("+00:00")
    assert read_record(folder / "work_dirs/cfg/record.json") == record


def test_record_of_the_model(tiny_clip, folder):  # noqa: F811
    """Weights, texts and the precision that was really used."""
    (folder / "names.txt").write_text("sky\ncat\ndog\n")
    text = (folder / "cfg.py").read_text()
    model = 'type="ITACLIPSegmentor", clip_model="tiny.pt", name_path="names.txt"'
    torch.save(tiny_clip.state_dict(), folder / "tiny.pt")
    model += f", clip_config={CLIP_CONFIG}"
    model += ', attention="clip", precision="fp32", test_cfg=dict(mode="whole")'
    old = 'type="PredictionsFromFiles", folder="predictions"'
    resize = 'dict(type="LoadImageFromFile"), dict(type="Resize", scale=(48, 32)),'
    text = text.replace(old, model).replace('dict(type="LoadImageFromFile"),', resize)
    (folder / "cfg.py").write_text(text)
    evaluate(["--config", "cfg.py"])
    record = read_record(folder / "work_dirs/cfg/record.json")
    sha256 = hashlib.sha256((folder / "tiny.pt").read_bytes()).hexdigest()
    assert record["weights"] == {"name": "tiny.pt", "sha256": sha256}
    assert record["precision"] == {"asked": "fp32", "used": "float32"}
    names = hashlib.sha256(b"sky\ncat\ndog\n").hexdigest()
    content = hashlib.sha256(b"sky\ncat\ndog").hexdigest()
    assert record["texts"] == {
        "names": {"path": "names.txt", "sha256": names, "content": content},
        "auxiliary": None,
    }


def test_manifest_follows_names_and_sizes(folder):  # noqa: F811
    settings = dict(type="BaseSegDataset", data_root="data", img_suffix=".png")
    settings["data_prefix"] = dict(img_path="images", seg_map_path="masks")
    settings["metainfo"] = dict(classes=["a"])

    def checksum(**changes):
        return data_manifest(DATASETS.build({**settings, **changes}))["sha256"]

    first = checksum()
    (folder / "data").rename(folder / "elsewhere")
    assert checksum(data_root="elsewhere") == first, "the place does not matter"
    (folder / "elsewhere").rename(folder / "data")
    with open(folder / "data/masks/b.png", "ab") as file:
        file.write(b"x")
    second = checksum()
    (folder / "data/masks/b.png").rename(folder / "data/masks/c.png")
    (folder / "data/images/b.png").rename(folder / "data/images/c.png")
    assert len({first, second, checksum()}) == 3


def test_checksum_of_settings():
    config = {"model": {"stride": (28, 28)}, "work_dir": "a"}
    assert settings_sha256(config) == settings_sha256({**config, "work_dir": "b", "launcher": "x"})
    assert settings_sha256(config) != settings_sha256({"model": {"stride": (28, 29)}})


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 0}', '{"format": 1}'])
def test_damaged_records(tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(InputError, match=r"record\.json: "):
        read_record(tmp_path / "record.json")


def test_record_is_written_aside(tmp_path, monkeypatch):
    path = write_json(tmp_path / "record.json", {"value": float("nan")})
    assert json.loads(path.read_text()) == {"value": None}

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"value": 2})
    assert json.loads(path.read_text()) == {"value": None}
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


# ---- comparison ---------------------------------------------------------------------------------


def made_up(config, miou=60.0, date="2026-03-01", images=None, changes=None, place=None):
    """The record of a full run of a shipped config, with settings changed."""
    cfg = Config.fromfile(PROJECT / "configs" / config)
    cfg.merge_from_dict(changes or {})
    settings = cfg.to_dict()
    name = settings["test_dataloader"]["dataset"]["type"]
    benchmark, model = benchmark_of(name), settings["model"]
    expected = expected_images(benchmark)
    sha256 = OPENAI_MODELS.get(model["clip_model"], ("0" * 64,))[0]
    record = {
        "format": 1,
        "time": f"{date}T10:00:00+00:00",
        "config": config_entry(settings, place or PROJECT / "configs" / config),
        "paper": settings.get("paper"),
        "weights": {"name": model["clip_model"], "sha256": sha256},
        "texts": {"auxiliary": file_entry(model.get("auxiliary_text_path"))},
        "data": {
            "dataset": name,
            "benchmark": benchmark,
            "images_evaluated": expected if images is None else images,
        },
        "versions": {"changed_files": []},
        "hardware": {"gpus": [], "processor": "a processor"},
        "precision": {"asked": "auto", "used": "float32"},
        "results": {"mIoU": miou, "valid_classes": 2, "classes": [{}, {}, {}]},
        "seconds_per_image": 1.234567,
    }
    record["comparison"] = compare_with_paper(record).as_dict()
    return record


def verdict(record):
    comparison = compare_with_paper(record)
    return comparison, "\n".join(comparison_lines(comparison, record))


def test_comparable_run():
    record = made_up("naclip/cfg_voc21.py", miou=63.9)
    comparison, text = verdict(record)
    assert comparison.comparable
    assert comparison.difference == -0.17
    assert "VOC21, NACLIP" in text
    assert "this run: 63.90 mIoU over 2 of 3 classes, 1449 images" in text
    assert "published: 64.07 mIoU (authors' repository); difference -0.17" in text
    assert "comparable: same settings" in text
    assert "NOT" not in text


@pytest.mark.parametrize(
    ("path", "changes", "images", "reason"),
    [
        ("naclip/cfg_voc21.py", {}, 50, "50 images were evaluated, the full split has 1449"),
        ("naclip/cfg_voc21.py", {"model.logit_scale": 41}, None, "model.logit_scale=41"),
        ("naclip/cfg_voc21.py", {"model.pamr": None}, None, "model.pamr=None"),
        ("naclip/cfg_voc21.py", {"model.area_thd": 0.1}, None, "model.area_thd=0.1"),
        (
            "naclip/cfg_voc21.py",
            {"test_dataloader.dataset.pipeline.1.scale": (2048, 448)},
            None,
            "pipeline.1.scale=(2048, 448)",
        ),
        (
            "naclip/cfg_voc21.py",
            {"model.name_path": "configs/cls_voc21.txt"},
            None,
            "model.name_path='configs/cls_voc21.txt'",
        ),
        (
            "naclip/cfg_voc21.py",
            {"model.clip_model": "mine.pt"},
            None,
            "the weights are mine.pt, not OpenAI's ViT-B/16",
        ),
        (
            "cfg_voc21.py",
            {},
            None,
            "(aux_texts/voc21_definitions.txt) are this project's voc21_definitions.txt, not the",
        ),
        ("gem/cfg_voc21.py", {}, None, "departs from the published protocol: 80 prompt templates"),
    ],
)
def test_run_that_is_not_comparable(path, changes, images, reason):
    """One change, one reason."""
    record = made_up(path, changes=changes, images=images)
    comparison, text = verdict(record)
    assert not comparison.comparable
    assert len(comparison.reasons) == 1
    assert reason in comparison.reasons[0]
    assert f"NOT comparable:\n    - {comparison.reasons[0]}" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"test_dataloader.dataset.data_root": "/datasets/voc"},
        {"test_dataloader.num_workers": 7, "model.window_batch": 3, "work_dir": "x"},
        {"model.precision": "fp32"},
        {"model.name_path": str(PROJECT / "configs/cls_voc21_sclip.txt")},
        {"log_level": "DEBUG"},
    ],
)
def test_changes_that_do_not_matter(changes):
    record = made_up("naclip/cfg_voc21.py", changes=changes)
    assert record["comparison"]["comparable"], record["comparison"]["reasons"]


def files_of_authors(place):
    """As the published class names and texts come: other spaces, line ends, place."""
    names = (PROJECT / "configs/cls_voc21.txt").read_text()
    (place / "cls_voc21.txt").write_text(names.replace(", ", " ,").replace("\n", " \r\n"))
    lines = (PROJECT / "aux_texts/voc21_definitions.txt").read_text().splitlines()
    keys = [line.partition(">=")[0] for line in lines]
    (place / "texts.txt").write_text("".join(f"{key}>= a text of theirs\n" for key in keys))
    return {
        "model.name_path": str(place / "cls_voc21.txt"),
        "model.auxiliary_text_path": str(place / "texts.txt"),
    }


def test_words_and_texts_are_compared_by_content(tmp_path):
    """Comparable needs the published words and the authors' texts, wherever their files lie."""
    changes = files_of_authors(tmp_path) | {"paper.texts": "authors"}
    record = made_up("cfg_voc21.py", changes=changes)
    path = changes["model.auxiliary_text_path"]
    assert record["config"]["changes"] == [f"model.auxiliary_text_path={path!r}"]
    assert record["comparison"]["comparable"], record["comparison"]["reasons"]
    _, text = verdict(record)
    assert "auxiliary texts: the authors', by the config's word (sha256 " in text

    said = {key: value for key, value in changes.items() if key != "paper.texts"}
    (reason,) = made_up("cfg_voc21.py", changes=said)["comparison"]["reasons"]
    assert "not known to be the paper's" in reason
    own = {"paper.texts": "authors"}  # said of this project's texts
    (reason,) = made_up("cfg_voc21.py", changes=own)["comparison"]["reasons"]
    assert "are this project's voc21_definitions.txt" in reason

    names = tmp_path / "cls_voc21.txt"
    names.write_bytes(names.read_bytes().replace(b"aeroplane", b"airplane"))
    (reason,) = made_up("cfg_voc21.py", changes=changes)["comparison"]["reasons"]
    assert "model.name_path=" in reason


def test_copy_of_a_shipped_config(tmp_path):
    place, changes = tmp_path / "mine.py", {"model.logit_scale": 41}
    record = made_up("naclip/cfg_voc21.py", changes=changes, place=place)
    assert compare_with_paper(record).reasons == [
        "other settings than configs/naclip/cfg_voc21.py: model.logit_scale=41"
    ]
    record = made_up("naclip/cfg_voc21.py", changes={"paper.method": "MyCLIP"}, place=place)
    assert "no shipped config" in compare_with_paper(record).reasons[0]


def test_edited_config():
    record = made_up("naclip/cfg_voc21.py")
    record["versions"]["changed_files"] = ["README.md", "configs/naclip/cfg_voc21.py"]
    comparison, _ = verdict(record)
    assert "was changed after the last commit" in comparison.reasons[0]
    record["versions"]["changed_files"] = ["configs/cls_voc21.txt", "configs/cls_voc21_sclip.txt"]
    comparison, _ = verdict(record)
    (reason,) = comparison.reasons
    assert reason == "configs/cls_voc21_sclip.txt was changed after the last commit"


def test_row_that_the_paper_lacks():
    record = made_up("cfg_ade20k.py")
    _, text = verdict(record)
    assert "published: no figure (the paper has no such row)" in text
    assert "NOT" not in text


def test_run_of_a_part_without_a_row():
    _, text = verdict(made_up("cfg_storybook.py", images=3))
    assert "no figure (the config names no paper row)" in text
    assert "NOT comparable with full runs" in text
    assert "3 images were evaluated, the full split has 200" in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(PROJECT / "configs")))
def test_configs_quote_the_published_figures(path):
    paper = Config.fromfile(path).get("paper")
    if paper is None or paper.miou is None:
        return
    rows = [row for row in PUBLISHED if (row.method, row.source) == (paper.method, paper.source)]
    assert paper.miou in [row.miou.get(paper.benchmark) for row in rows]


def test_benchmarks_are_known():
    assert expected_images("VOC21") == 1449
    assert expected_images(None) is None
    for name, dataset in BENCHMARKS.items():
        assert DATASETS.get(dataset) is not None
        assert expected_images(name)
        assert benchmark_of(dataset) == name


# ---- table --------------------------------------------------------------------------------------

results = runpy.run_path(str(PROJECT / "tools" / "results.py"))


@pytest.fixture
def records(tmp_path):
    """Records in a folder, and what else lies in work dirs."""
    place = tmp_path / "records"

    def keep(name, *args, **kwargs):
        write_record(place / name / "record.json", made_up(*args, **kwargs))

    keep("a", "naclip/cfg_voc21.py", 63.91)
    keep("a/20260301_100000", "naclip/cfg_voc21.py", 63.91)  # the copy in the run's own folder
    keep("b", "naclip/cfg_voc21.py", 61.0, "2026-02-01")
    keep("c", "cfg_voc21.py", 66.5, "2026-03-02")
    keep("d", "cfg_voc21.py", 66.0, "2026-03-03", changes={"model.test_cfg.stride": (56, 56)})
    keep("e", "cfg_voc21.py", 99.0, images=12)
    keep("f", "cfg_storybook.py", 71.25)
    keep("g", "cfg_storybook.py", 70.0, "2026-04-01", changes={"model.attention": "naclip"})
    keep("i", "cfg_storybook.py", 69.0, "2026-04-02", changes={"model.attention": "scclip"})
    (place / "c" / "vis_data").mkdir()
    (place / "c" / "vis_data" / "scalars.json").write_text('{"a": 1}\n{"a": 2}\n')
    return place


def table(*arguments):
    results["main"]([str(argument) for argument in arguments])


def cells(text):
    text = text.partition("Methods that do not run here")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {(row[0], row[1], row[2]): dict(zip(rows[0][3:], row[3:], strict=True)) for row in rows}


def test_table(records, capsys):
    table(records)
    text, left_out = capsys.readouterr()
    found = cells(text)
    assert found["ITACLIP", "PAMR", "quoted: paper, Table 1"]["Context60"] == "37.5"
    assert found["ITACLIP", "PAMR", "quoted: paper, Table 1"]["ADE20K"] == "–"
    assert found["NACLIP", "PAMR", "quoted: paper, first version"]["Context60"] == "35.0"
    measured = found["NACLIP", "PAMR", "**measured**"]
    assert measured["VOC21"] == "**63.91** (1)", "the later of two runs"
    assert measured["ADE20K"] == "–"
    assert found["ITACLIP", "PAMR", "**measured**"]["VOC21"] == "**66.50** (4)"
    assert found["ITACLIP", "PAMR", "**measured**"]["Storybook"] == "**71.25** (5)"
    assert measured["Storybook"] == "**70.00** (2)", "the recipe is the method's name"
    assert found["SC-CLIP", "PAMR", "**measured**"]["Storybook"].startswith("**69.00**")
    other = found["ITACLIP", "PAMR, test_cfg.stride=(56, 56)", "**measured**"]
    assert other["VOC21"] == "**66.00** (6)"
    assert "1. NACLIP on VOC21, 2026-03-01: 1449 images, a processor, float32, 1.23 s" in text
    assert "comparable." in text
    assert "are this project's voc21_definitions.txt, not the paper's" in text
    assert "**99" not in text, "a part of a split has no place in the table"
    assert left_out.count("\n") == 1
    assert "it covers 12 of 1449 images" in left_out


def test_config_of_ones_own_has_its_own_row(records, capsys):
    record = read_record(records / "f/record.json")
    record["config"] |= {"path": "/home/me/mine.py", "shipped": None}
    write_record(records / "h/record.json", {**record, "time": "2026-05-01T10:00:00+00:00"})
    table(records)
    found = cells(capsys.readouterr().out)
    assert found["ITACLIP", "PAMR, config mine.py", "**measured**"]["Storybook"].startswith(
        "**71.25"
    )


def test_table_is_the_same_every_time(records, capsys):
    places = sorted(records.iterdir())
    table(*places)
    first = capsys.readouterr().out
    table(*reversed(places))
    assert capsys.readouterr().out == first


def test_table_without_records(capsys):
    table()
    text = capsys.readouterr().out
    assert "Storybook" not in text
    assert "**" not in text.replace("bold", "")
    assert len(cells(text)) == 1 + len(PUBLISHED)


def test_csv(records, capsys):
    table(records, "--format", "csv")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "method,setting,benchmark,miou,source,date,comparable,note"
    assert "NACLIP,PAMR,VOC21,64.07,authors' repository,,," in lines
    assert any(
        line.startswith("NACLIP,PAMR,VOC21,63.91,measured,2026-03-01,yes,") for line in lines
    )
    assert any(line.startswith("ITACLIP,PAMR,VOC21,66.5,measured,2026-03-02,no,") for line in lines)


def test_update(records, tmp_path, capsys):
    page = tmp_path / "page.md"
    before, after = "# Title\n\n<!-- results:begin -->", "<!-- results:end -->\n\nMore.\n"
    page.write_text(f"{before}\nold\n{after}")
    table(records, "--update", page)
    text = page.read_text()
    assert text.startswith(before)
    assert text.endswith(after)
    assert "\nold\n" not in text
    assert "**63.91**" in text
    stamp = page.stat().st_mtime_ns
    table(records, "--update", page)
    assert page.stat().st_mtime_ns == stamp
    assert "unchanged" in capsys.readouterr().err


def test_readme_shows_the_kept_records(tmp_path):
    """After a change: python tools/results.py docs/results --update docs/benchmarks.md"""
    text = (PROJECT / "docs/benchmarks.md").read_text(encoding="utf-8")
    block = text.partition("<!-- results:begin -->")[2].partition("<!-- results:end -->")[0]
    if not block.strip():
        pytest.skip("the README has no table yet")
    (tmp_path / "benchmarks.md").write_text(text, encoding="utf-8")
    table(PROJECT / "docs" / "results", "--update", tmp_path / "benchmarks.md")
    assert (tmp_path / "benchmarks.md").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    "text", ["", "<!-- results:begin -->", "<!-- results:end -->\n<!-- results:begin -->"]
)
def test_update_without_marks(tmp_path, text):
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(InputError, match="results:begin"):
        table("--update", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == text


def test_records_that_cannot_be_read(records, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        table(tmp_path / "nothing")
    (records / "a/record.json").write_text("{")
    with pytest.raises(InputError, match=r"a.record\.json: the record cannot be read"):
        table(records)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InputError, match="expected a record"):
        table(tmp_path / "other.json")


def test_records_are_not_changed_by_comparing():
    record = made_up("cfg_voc21.py")
    kept = copy.deepcopy(record)
    compare_with_paper(record)
    assert record == kept
