"""``python -m itaclip``: its commands, what they write, and how they end."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT, bgr_image
from PIL import Image

from itaclip.commands import COMMANDS, main
from itaclip.commands.options import outputs
from itaclip.runtime.tool import run_tool

CLASSES = "sky; sea, ocean; boat"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two pictures, another of the same name in a folder, and a damaged one."""
    for number, name in enumerate(("one.png", "two.jpg", "in/one.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture = bgr_image(40 + number, 50, number).permute(1, 2, 0).numpy()
        Image.fromarray(picture).save(tmp_path / name)
    (tmp_path / "bad.png").write_bytes((tmp_path / "one.png").read_bytes()[:200])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(capsys, *arguments):
    """Runs a command as the console would: (exit code, stdout, stderr)."""
    try:
        code = run_tool(lambda: main([str(a) for a in arguments]))
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


@pytest.fixture
def segment(capsys, tiny_clip_path):
    settings = ["--model", tiny_clip_path, "--short-side", "64", "--device", "cpu"]
    return lambda *arguments: command(capsys, "segment", *settings, *arguments)


def test_one_picture_to_a_file(segment, folder, caplog):
    with caplog.at_level("INFO"):
        code, out, err = segment("one.png", "--classes", CLASSES, "--out", "out/result.jpg")
    assert code == 0, err
    assert out.startswith("one.png: ") and "-> out/result.jpg" in out and "%" in out
    assert Image.open("out/result.jpg").format == "JPEG"
    assert "windows of 64x64" in caplog.text
    assert sorted(p.name for p in folder.iterdir()) == [
        "bad.png",
        "in",
        "one.png",
        "out",
        "two.jpg",
    ]


def test_a_second_run_replaces_the_result_of_the_first(segment, folder):
    for _ in range(2):
        code, _, err = segment("two.jpg", "--classes", CLASSES, "--out", "result.png")
        assert code == 0, err


def test_without_a_target_it_says_where(segment, folder):
    code, out, _ = segment("two.jpg", "--classes", CLASSES)
    assert code == 0 and "-> two_segmented.png" in out
    assert Image.open("two_segmented.png").width > 100


def test_folders_patterns_masks_and_json(segment, folder):
    code, _, err = segment(
        ".", "in/*", "one.png", "--classes", CLASSES, "--out", "o", "--mask", "m",
        "--json", "areas.json", "--opacity", "1", "--background", "wall",
    )  # fmt: skip
    assert code == 1
    assert sorted(p.name for p in (folder / "o").iterdir()) == ["one-2.png", "one.png", "two.png"]
    assert "left out: bad.png: the picture is damaged" in err
    assert err.strip().endswith("1 of 4 pictures were left out: bad.png")
    entries = {entry["image"]: entry for entry in json.loads((folder / "areas.json").read_text())}
    assert list(entries) == ["bad.png", "one.png", "two.jpg", "in/one.png"]
    assert "damaged" in entries["bad.png"]["error"]
    two = entries["two.jpg"]
    assert two["classes"] == ["background", "sky", "sea", "boat"]
    mask = np.asarray(Image.open("m/two.png"))
    assert mask.shape == (41, 50) == (two["height"], two["width"])
    assert {one["index"]: one["pixels"] for one in two["found"]} == dict(
        zip(*(v.tolist() for v in np.unique(mask, return_counts=True)), strict=True)
    )


def test_a_picture_of_twelve_bits_is_asked_for_and_taken(segment, folder):
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save("wide.png")
    code, _, err = segment("wide.png", "--classes", CLASSES, "--mask", "m.png")
    assert code == 2 and "--bits 12 on the command line" in err
    code, _, err = segment("wide.png", "--classes", CLASSES, "--mask", "m.png", "--bits", "12")
    assert code == 0, err
    assert Image.open("m.png").size == (64, 64)


def test_json_alone_on_stdout(segment, folder):
    code, out, err = segment("one.png", "--classes", CLASSES, "--json")
    assert code == 0
    (entry,) = json.loads(out)
    assert entry["image"] == "one.png"
    assert "one.png: " in err
    assert not (folder / "one_segmented.png").exists()


def test_an_interrupted_run_keeps_what_was_found(segment, folder, monkeypatch):
    from itaclip import Segmenter

    whole = Segmenter.segment
    count = iter(range(9))

    def interrupted(*args, **kwargs):
        if next(count) == 1:
            raise KeyboardInterrupt
        return whole(*args, **kwargs)

    monkeypatch.setattr(Segmenter, "segment", interrupted)
    code, _, err = segment("*.*g", "--classes", CLASSES, "--json", "areas.json")
    assert code == 130 and "interrupted" in err
    entries = json.loads((folder / "areas.json").read_text())
    assert [entry["image"] for entry in entries] == ["bad.png", "one.png"]


def test_words_from_a_file_and_common_surroundings(segment, folder):
    (folder / "names.txt").write_text("cat, kitten\nboat\n")
    arguments = ["one.png", "--class-file", "names.txt", "--surroundings", "--json"]
    code, out, err = segment(*arguments)
    assert code == 0, err
    assert json.loads(out)[0]["classes"] == ["background", "cat", "boat"]


def test_a_config_brings_its_classes(capsys, folder):
    config = PROJECT / "configs/cfg_storybook.py"
    code, out, err = command(
        capsys, "segment", PROJECT / "docs/scene.png", "--config", config, "--json"
    )
    assert code == 0, err
    assert {"sky", "sea"} <= {one["name"] for one in json.loads(out)[0]["found"]}
    code, _, err = command(capsys, "segment", "one.png", "--config", config, "--background", "sky")
    assert code == 2 and "--background: it goes with --classes" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["one.png"], "--classes: expected words"),
        (["none.png", "--classes", CLASSES], "1 of 1 pictures were left out: none.png"),
        (["none*.png", "--classes", CLASSES], "none*.png: no file fits"),
        (["one.png", "two.jpg", "--classes", CLASSES, "--out", "a.png"], "a folder for 2"),
        (["one.png", "--classes", CLASSES, "--out", "one.png"], "would replace the picture"),
        ([".", "--classes", CLASSES, "--mask", "."], "would replace the picture"),
        (["one.png", "--classes", CLASSES, "--out", "a.bmp"], "ends in .png"),
        (["one.png", "--classes", CLASSES, "--out", "two.jpg/a.png"], "two.jpg/a.png: cannot be"),
        (["one.png", "--classes", CLASSES, "--mask", "a.jpg"], "--mask: a.jpg"),
        (
            ["one.png", "--classes", CLASSES, "--out", "a.png", "--mask", "a.png"],
            "two results would go there",
        ),
        (["--classes", CLASSES, "two.jpg", "--json", "one.png"], "ends in .json"),
        (["one.png", "--classes", "names.txt"], "is the name of a file, not of classes"),
        (["https://a.example/b.jpg", "--classes", CLASSES], "nothing is fetched from the web"),
        (["one.png", "--classes", CLASSES, "--bits", "3"], "--bits: expected None or an integer"),
        (["one.png", "--classes", CLASSES, "--margin-thd", "0.2"], "margin_thd: 0.2 turns unsure"),
        (
            ["two.jpg", "--classes", CLASSES, "--class-file", "a"],
            "not allowed with argument --classes",
        ),
        (["one.png", "--classes", "a, b"], "separate classes by ';'"),
        (["one.png", "--classes", "a; a"], "also belongs"),
        (["one.png", "--classes", CLASSES, "--opacity", "7"], "--opacity"),
        (["one.png", "--classes", CLASSES, "--prob-thd", "0.1"], "there is none"),
        (["one.png", "--classes", CLASSES, "--recipe", "x"], "unknown recipe 'x'"),
        (["one.png", "--classes", CLASSES, "--stride", "-3"], "number of pixels from 1"),
        (["one.png", "--classes", CLASSES, "--device", "gpu"], "device: "),
        (["one.png", "--class-file", "none.txt"], "none.txt: no such file"),
        (["--classes", CLASSES], "IMAGE"),
    ],
)
def test_bad_input_ends_in_a_sentence(arguments, words, segment, folder):
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    code, out, err = segment(*arguments)
    assert code == 2
    assert words in err.strip().splitlines()[-1]
    assert out == ""
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before, "nothing is written"


def test_weights_that_cannot_be_had(capsys, folder, monkeypatch, tmp_path):
    """Without a connection: one sentence that says from where and where to."""
    from itaclip.clip_model import sources
    from itaclip.runtime import download

    monkeypatch.setattr(sources, "cache_folder", lambda: tmp_path / "clip")
    monkeypatch.setattr(sources, "_HOSTS", ("http://127.0.0.1:9/x", "http://127.0.0.1:9/y"))
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0)
    code, _, err = command(capsys, "segment", "one.png", "--classes", CLASSES)
    assert code == 2
    assert "http://127.0.0.1:9/x" in err and "http://127.0.0.1:9/y" in err
    assert str(tmp_path / "clip" / "ViT-B-16.pt") in err


# ---- looking inside -----------------------------------------------------------------------------


def test_inspect_writes_a_figure(capsys, folder, tiny_clip_path):
    settings = ["--model", tiny_clip_path, "--short-side", "64"]
    code, out, err = command(
        capsys, "inspect", "one.png", "--at", "30,9", "--recipes", "clip, naclip", *settings
    )
    assert code == 0, err
    assert out.splitlines()[0].startswith("clip: patch 3,0 of 4x5 looks most at ")
    assert out.splitlines()[1].startswith("naclip: ")
    assert out.splitlines()[-1] == "attention.png"
    assert Image.open("attention.png").width > 600


def test_compare_writes_a_figure(capsys, folder, tiny_clip_path):
    settings = ["--model", tiny_clip_path, "--short-side", "64"]
    code, out, err = command(
        capsys, "compare", "one.png", "--classes", CLASSES, "--recipes", "clip,itaclip",
        "--at", "3,4", "--out", "c.jpg", *settings,
    )  # fmt: skip
    assert code == 0, err
    assert [line.split(":")[0] for line in out.splitlines()] == ["clip", "itaclip", "c.jpg"]
    assert Image.open("c.jpg").format == "JPEG"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--at", "40,3"], "expected a row from 0 to 39"),
        (["--at", "3"], "expected ROW,COL"),
        (["--at", "3,-1"], "expected ROW,COL"),
        (["--at", "3,3", "--recipes", "clip,clop"], "but got 'clop'"),
        (["--at", "3,3", "--recipes", ","], "but got ','"),
        (["--at", "3,3", "--out", "a.txt"], "ends in .png"),
    ],
)
def test_bad_places_and_recipes(arguments, words, capsys, folder, tiny_clip_path):
    settings = ["--model", tiny_clip_path, "--short-side", "64"]
    code, _, err = command(capsys, "inspect", "one.png", *arguments, *settings)
    assert code == 2
    assert words in err.strip().splitlines()[-1]


# ---- the console itself -------------------------------------------------------------------------


def test_every_command_has_help_with_examples(capsys):
    for name in COMMANDS:
        if importlib.util.find_spec(f"itaclip.commands.{name}") is None:
            continue
        code, out, _ = command(capsys, name, "--help")
        assert code == 0
        assert name == "cache" or f"itaclip {name}" in out


def test_cache(capsys):
    code, out, _ = command(capsys, "cache")
    assert code == 0 and "entries" in out
    assert "removed" in command(capsys, "cache", "--clear")[1]


def test_the_console(folder):
    """The real process: the exit code and a single sentence."""
    run = [sys.executable, "-m", "itaclip", "segment", "one.png", "--classes", "a; a"]
    run += ["--model", "storybook-tiny"]
    result = subprocess.run(
        run, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(PROJECT)}
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.strip().splitlines()[-1].startswith("error: class_names[1]: the name 'a'")


def test_a_name_that_ends_in_a_slash_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert outputs([Path("in/a.jpg")], "results.v2/") == [Path("results.v2/a.png")]
    assert outputs([Path("in/a.jpg")], "b.png") == [Path("b.png")]
