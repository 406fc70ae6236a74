"""The papers' tables by one command, on miniature data in the benchmarks' formats."""

import json
import subprocess
import sys

import pytest
from conftest import PROJECT

from itaclip import InputError
from itaclip.__main__ import main
from itaclip.commands import main as command
from itaclip.data.benchmarks import BENCHMARKS
from itaclip.data.preparation.command import prepare_benchmarks
from itaclip.data.preparation.settings import Settings
from itaclip.evaluation.grid import evaluate
from itaclip.evaluation.grid.reproduce import shipped_configs
from itaclip.evaluation.grid.reproduction import verdict
from itaclip.evaluation.record import read_records

sys.path.insert(0, str(PROJECT / "tests" / "preparation"))
sys.path.insert(0, str(PROJECT / "tools"))
import mini_datasets
import results as results_tool

CHEAP = [
    "model.clip_model=storybook-tiny",
    "model.test_cfg.crop_size=(56, 56)",
    "model.test_cfg.stride=(28, 28)",
    "model.auxiliary_text_path=None",
    "test_dataloader.dataset.pipeline.1.scale=(2048, 80)",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    raw = mini_datasets.make_voc(tmp_path_factory.mktemp("raw"))
    settings = Settings(root, raw=(raw,), may_download=False, say=lambda line: None)
    assert prepare_benchmarks(["voc21"], settings) == 0
    return root


@pytest.fixture(autouse=True)
def two_templates(monkeypatch):
    monkeypatch.setattr("itaclip.model.imagenet_templates", lambda: ("a {}.", "the {}."))


def reproduce(data, out, *options, methods=("sclip", "scclip")):
    arguments = ["reproduce", "--benchmarks", "voc21", "--methods", *methods, "--out", str(out)]
    command([*arguments, "--data-root", str(data), *options, "--cfg-options", *CHEAP])
    return json.loads((out / "results.json").read_text())["records"]


def test_plan_report_and_bundle(data, tmp_path, capsys):
    found = reproduce(data, tmp_path, "--precision", "fp32", "bf16")
    captured = capsys.readouterr()
    assert "2 groups of methods that share their work" in captured.err  # a precision each
    assert "6 encoder passes a picture (12 one by one)" in captured.err
    assert "on this machine" in captured.err
    assert [record["precision"]["used"] for record in found] == ["float32", "bfloat16"] * 2
    assert captured.out.count("not comparable; first suspects: weights") == 4
    page = (tmp_path / "index.html").read_text()
    for text in ("sclip (bf16)", "boat", "paper", "worst picture", "ITACLIP, PAMR"):
        assert text in page
    assert len(list((tmp_path / "pictures").iterdir())) == 3
    assert read_records(tmp_path / "results.json") == found
    assert len(list((tmp_path / "records").iterdir())) == 4
    pictures = [value for value in json.dumps(found).split('"') if value.endswith((".jpg", ".png"))]
    assert pictures == [], "no pictures leave the folder"
    assert results_tool.find_records([tmp_path / "results.json"])[0][1] == found[0]


def test_from_raw_downloads_in_an_empty_folder(tmp_path, monkeypatch, capsys):
    raw = mini_datasets.make_voc(tmp_path / "raw")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    arguments = ["reproduce", "--benchmarks", "voc21", "--methods", "sclip", "--raw", str(raw)]
    assert main([*arguments, "--no-pictures", "--cfg-options", *CHEAP]) == 0
    assert "voc21 val: 3 masks" in capsys.readouterr().out
    assert (tmp_path / "empty/work_dirs/reproduce/index.html").is_file()


def test_killed_and_resumed_it_ends_in_the_same(data, tmp_path, monkeypatch):
    whole = reproduce(data, tmp_path / "whole", "--no-pictures")
    segment, calls = evaluate._segment, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return segment(*arguments)

    monkeypatch.setattr(evaluate, "_segment", killed)
    with pytest.raises(KeyboardInterrupt):
        reproduce(data, tmp_path / "killed", "--no-pictures")
    again = reproduce(data, tmp_path / "killed", "--no-pictures")
    assert len(calls) == 1 + len(whole) * 3, "what was done is not done again"
    for one, other in zip(whole, again, strict=True):
        assert one["results"] == other["results"]
        assert one["config"] == other["config"]


def test_two_processes_end_in_the_same(data, tmp_path):
    whole = reproduce(data, tmp_path / "one", "--no-pictures", methods=["sclip"])
    arguments = ["reproduce", "--benchmarks", "voc21", "--methods", "sclip", "--no-pictures"]
    arguments += ["--out", str(tmp_path / "two"), "--data-root", str(data), "--launcher", "pytorch"]
    code = (
        "import itaclip.model as s\ns.imagenet_templates = lambda: ('a {}.', 'the {}.')\n"
        "from itaclip.__main__ import main\n"
        f"raise SystemExit(main({[*arguments, '--cfg-options', *CHEAP]!r}))"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(launch, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (spread,) = json.loads((tmp_path / "two/results.json").read_text())["records"]
    assert spread["results"] == whole[0]["results"]
    files = list((tmp_path / "two/rows").iterdir())
    assert len(files) == 3, "one of each process's trial, and one picture more"


def test_what_is_missing_is_named_and_may_be_left_out(data, tmp_path, capsys):
    arguments = ["reproduce", "--benchmarks", "voc21", "ade20k", "--methods", "sclip", "--plan"]
    arguments += ["--out", str(tmp_path), "--data-root", str(data)]
    assert main([*arguments, "--cfg-options", *CHEAP]) == 2
    message = capsys.readouterr().err
    assert "ade20k: " in message and "--fetch" in message and "--skip-missing" in message
    assert main([*arguments, "--skip-missing", "--cfg-options", *CHEAP]) == 0
    assert "left out: ade20k" in capsys.readouterr().err
    assert not (tmp_path / "index.html").exists(), "--plan runs no more than the trial"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--benchmarks", "voc12"], "--benchmarks: unknown 'voc12'"),
        (["--methods", "sclap"], "--methods: unknown 'sclap'"),
        (["--limit", "0"], "--limit: expected a number of pictures from 1"),
        (["--benchmarks", "ade20k", "--methods", "gem"], "none of these methods has a config"),
    ],
)
def test_bad_requests(options, words, tmp_path):
    with pytest.raises(InputError, match=words):
        command(["reproduce", "--out", str(tmp_path), *options])


def test_every_shipped_config_is_found():
    found = shipped_configs()
    assert ("itaclip", "voc21") in found and ("clip_surgery", "coco_stuff") in found
    named = [path for name in BENCHMARKS for path in (PROJECT / "configs").rglob(f"cfg_{name}.py")]
    assert set(found.values()) == set(named)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"comparable": True, "difference": 0.3}, "reproduced"),
        ({"comparable": True, "difference": -0.31}, "differs"),
        ({"comparable": False, "difference": 0.1}, "not comparable"),
        ({"published": None, "difference": None, "comparable": False}, "no figure"),
    ],
)
def test_verdicts(changes, word):
    comparison = {"published": 50.0, "reasons": ["the weights are x, not OpenAI's"]} | changes
    assert verdict({"comparison": comparison, "partial": []}).word == word
    partial = verdict({"comparison": comparison, "partial": ["3 of 9 images were evaluated"]})
    assert partial.word == "partial"
