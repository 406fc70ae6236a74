"""Evaluations that are stopped or killed anywhere end as if they never had been."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CLIP_CONFIG, PROJECT
from filelock import FileLock
from PIL import Image
from starts import Start, comparable, pictures, record, write_data

from itaclip.evaluation import identity
from itaclip.evaluation.journal import (
    Entry,
    JournalFile,
    NotKeptError,
    decode,
    digest_of_identity,
    encode,
    from_line,
    read_header,
    read_journal,
    to_line,
)

slow = pytest.mark.skipif(
    not os.environ.get("ITACLIP_SLOW_TESTS"), reason="takes minutes: ITACLIP_SLOW_TESTS=1 runs it"
)


def whole(folder):
    """What an uninterrupted run gives: record and pictures."""
    start = Start(folder, "--work-dir", "whole")
    assert start.wait() == [0], start.errors()
    return comparable(record(folder, "whole")), pictures(folder / "whole")


def journals(folder, place="work_dirs/cfg"):
    return sorted((folder / place).glob("*/journal"))


def finished(folder, place="work_dirs/cfg"):
    return sum(len(read_journal(journal)[0]) for journal in journals(folder, place))


def wait_for_images(start, folder, count):
    end = time.monotonic() + 30
    while finished(folder) < count:
        assert time.monotonic() < end, start.output()
        assert start.processes[0].is_alive(), start.errors()
        time.sleep(0.01)


# ---- stop and continue --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "kills", "workers"),
    [
        (1, 6, 0),
        pytest.param(1, 40, 2, marks=slow),
        pytest.param(3, 30, 0, marks=slow),
    ],
)
def test_killed_at_random_moments(tmp_path, size, kills, workers):
    """SIGKILL, SIGTERM and SIGINT at any moment, as often as one likes; then one run to the end."""
    images = 4 * kills
    write_data(tmp_path, images, seconds=0.05, workers=workers)
    begun = time.monotonic()
    expected, files = whole(tmp_path)
    usual = time.monotonic() - begun
    assert expected["data"]["images_evaluated"] == images
    rng = random.Random(size * 1000 + kills)
    progress = []
    for number in range(kills):
        sent = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[number % 3]
        start = Start(tmp_path, "--resume", size=size if number % 2 == 0 else 1)
        time.sleep(rng.uniform(0.0, usual))
        for rank in range(len(start.processes)):
            if start.processes[rank].is_alive():
                start.kill(sent, rank)
        for code in start.wait():
            assert code in (0, -sent, 128 + sent), start.errors()
        progress.append(finished(tmp_path))
        assert (tmp_path / "work_dirs/cfg/record.json").exists() <= (progress[-1] == images)
    assert progress == sorted(progress)
    assert progress[-1] > 0, "no kill came late enough"
    start = Start(tmp_path, "--resume")
    assert start.wait() == [0], start.errors()
    assert comparable(record(tmp_path)) == expected
    assert pictures(tmp_path / "work_dirs/cfg") == files
    entries, damaged = read_journal(journals(tmp_path)[0])
    assert sorted(entries) == list(range(images))
    assert damaged == []
    (journal,) = journals(tmp_path)
    lines = [
        line for path in journal.glob("*.jsonl") for line in path.read_bytes().splitlines(True)
    ]
    run = digest_of_identity(read_header(journal)["identity"])
    whole_lines = [line for line in lines if from_line(line, run) is not None]
    assert len(whole_lines) == images, "no finished image is evaluated again"


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=slow)])
def test_stop_says_how_to_continue(tmp_path, number):
    """The command as users give it; the model is mmseg's to find, through custom_imports."""
    write_data(tmp_path, 40, seconds=0.1, workers=1)
    head = 'custom_imports = dict(imports=["itaclip", "starts"])\n'
    (tmp_path / "cfg.py").write_text(head + (tmp_path / "cfg.py").read_text())
    folders = [str(PROJECT), str(PROJECT / "tests")]
    with open(tmp_path / "err.txt", "wb") as err:
        process = subprocess.Popen(
            [sys.executable, str(PROJECT / "eval.py"), "--config", "cfg.py"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=err,
            env=os.environ | dict(PYTHONPATH=os.pathsep.join(folders), OMP_NUM_THREADS="1"),
            start_new_session=True,
        )
        end = time.monotonic() + 60
        while finished(tmp_path) < 2:
            assert time.monotonic() < end
            time.sleep(0.02)
        os.killpg(process.pid, number)  # as a terminal and most schedulers do it
        assert process.wait(20) == 128 + number
    lines = (tmp_path / "err.txt").read_text().splitlines()
    assert lines[-2] == f"stopped by {number.name}"
    kept = finished(tmp_path)
    assert lines[-1].startswith(f"{kept} of 40 images are kept in ")
    assert lines[-1].endswith("give the same command with --resume to continue")
    assert "Traceback" not in "".join(lines)


def test_torn_line(tmp_path):
    """A power cut while a line is written: it is dropped, its image evaluated again."""
    write_data(tmp_path, 5)
    expected, _ = whole(tmp_path)
    assert Start(tmp_path).wait() == [0]
    (journal,) = journals(tmp_path)
    (lines,) = journal.glob("*.jsonl")
    content = lines.read_bytes()
    (journal.parent / "record.json").unlink()
    for cut in (1, len(content) // 2, len(content) - 1):
        for extra in journal.glob("*.jsonl"):
            extra.unlink()
        lines.write_bytes(content[:cut])
        (tmp_path / "work_dirs/cfg/record.json").unlink()
        start = Start(tmp_path, "--resume")
        assert start.wait() == [0], start.errors()
        assert comparable(record(tmp_path)) == expected
        assert finished(tmp_path) == 5


def test_damaged_line_is_told(tmp_path):
    write_data(tmp_path, 4)
    expected, _ = whole(tmp_path)
    assert Start(tmp_path).wait() == [0]
    (lines,) = journals(tmp_path)[0].glob("*.jsonl")
    content = lines.read_bytes()
    lines.write_bytes(content.replace(b'"areas": {"0": [', b'"areas": {"0": [1', 1))
    start = Start(tmp_path, "--resume")
    assert start.wait() == [0]
    assert f"{lines.relative_to(tmp_path)}:1: damaged line" in start.output().replace(
        str(tmp_path) + "/", ""
    )
    assert comparable(record(tmp_path)) == expected


def test_finished_run_is_given_again(tmp_path):
    """--resume in a loop, as schedulers need it: once done, nothing is evaluated any more."""
    write_data(tmp_path, 3)
    start = Start(tmp_path, "--resume")
    assert start.wait() == [0]
    assert "nothing to continue in" in start.output()
    first = record(tmp_path)
    sheet = (tmp_path / "work_dirs/cfg/overlays/sheet.png").read_bytes()
    (tmp_path / "work_dirs/cfg/overlays/sheet.png").unlink()
    start = Start(tmp_path, "--resume")
    assert start.wait() == [0]
    assert "3 of 3 images done" in start.output()
    assert comparable(record(tmp_path)) == comparable(first)
    assert record(tmp_path)["starts"] == first["starts"]
    assert (tmp_path / "work_dirs/cfg/overlays/sheet.png").read_bytes() == sheet


def test_without_resume_a_run_starts_anew(tmp_path):
    """The unfinished run is named, and stays as it is."""
    write_data(tmp_path, 20, seconds=0.05)
    start = Start(tmp_path)
    wait_for_images(start, tmp_path, 2)
    start.kill(signal.SIGKILL)
    start.wait()
    (old,) = journals(tmp_path)
    kept = {path: path.read_bytes() for path in old.glob("*.json*")}
    start = Start(tmp_path)
    assert start.wait() == [0]
    assert f"{old.parent.name} holds an unfinished evaluation with" in start.output()
    assert "--resume would have continued it" in start.output()
    assert {path: path.read_bytes() for path in old.glob("*.json*")} == kept
    assert len(read_journal(journals(tmp_path)[1])[0]) == 20


# ---- a run's outputs are its own ----------------------------------------------------------------


def edited(line, run, changes):
    """A line with other fields, whose checksum is as it should be."""
    text = line.decode().rpartition(', "crc32": "')[0] + "}"
    text = json.dumps({**json.loads(text), **changes})[:-1]
    return f'{text}, "crc32": "{zlib.crc32(f"{run}{text}".encode()):08x}"}}\n'.encode()


FIELDS = [
    dict(results=None),
    dict(results=[]),
    dict(results=[[], [], []]),
    dict(results=7),
    dict(results=[[{"tensor": [1], "dtype": "x", "shape": [3]}], []]),
    dict(index="x"),
    dict(index=77),
    dict(outputs=None),
    dict(skipped="no reason"),
]


def foreign_fields(folder):
    """Every line is sound by its checksum, and wrong in another way."""
    (journal,) = journals(folder)
    (path,) = journal.glob("*.jsonl")
    run = digest_of_identity(read_header(journal)["identity"])
    lines = path.read_bytes().splitlines(keepends=True)
    edits = [edited(line, run, change) for line, change in zip(lines, FIELDS, strict=True)]
    path.write_bytes(b"".join(edits))


def of_another_run(folder):
    """The same images with other settings, whose lines are sound."""
    options = ["--work-dir", "other", "--cfg-options", "model.shift=1"]
    assert Start(folder, *options).wait() == [0]
    (own,) = journals(folder)[0].glob("*.jsonl")
    (other,) = journals(folder, "other")[0].glob("*.jsonl")
    own.write_bytes(other.read_bytes())


def other_outputs(folder):
    """A label map and an overlay removed, others replaced, a tile of the sheet damaged."""
    work_dir = folder / "work_dirs/cfg"
    (work_dir / "labels/p01.png").unlink()
    (work_dir / "overlays/p02.png").unlink()
    for path in (work_dir / "labels/p03.png", work_dir / "overlays/p04.png"):
        Image.new("L", (11, 7)).save(path)
    (tile,) = work_dir.glob("*/sheet/00000000.png")
    tile.write_bytes(b"half a picture")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """An evaluation of some images, and what it gave."""
    folder = tmp_path_factory.mktemp("done")
    write_data(folder, len(FIELDS))
    assert Start(folder).wait() == [0]
    return folder, record(folder)["results"], pictures(folder / "work_dirs/cfg")


@pytest.mark.parametrize(
    ("spoil", "sound"), [(foreign_fields, 0), (of_another_run, 0), (other_outputs, 4)]
)
def test_what_is_not_as_it_was_left_is_done_again(tmp_path, done, spoil, sound):
    original, expected, files = done
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    spoil(tmp_path)
    start = Start(tmp_path, "--resume")
    assert start.wait() == [0], start.output()
    assert record(tmp_path)["results"] == expected
    assert pictures(tmp_path / "work_dirs/cfg") == files
    assert (f": {sound} of {len(FIELDS)} images done" in start.output()) == bool(sound)


def test_a_stopped_run_gets_its_outputs_back(tmp_path):
    """A stopped, B anew in the same work dir and stopped, A continued: all is A's."""
    write_data(tmp_path, 9, seconds=0.1)
    expected, files = whole(tmp_path)
    for options in ((), ("--cfg-options", "model.shift=1")):
        before = finished(tmp_path)
        start = Start(tmp_path, *options, "--limit", 6)
        wait_for_images(start, tmp_path, before + 2)
        start.kill(signal.SIGTERM)
        start.wait()
    start = Start(tmp_path, "--resume", "--limit", 6)
    assert start.wait() == [0], start.output()
    found = pictures(tmp_path / "work_dirs/cfg")
    assert {k: v for k, v in found.items() if "/p0" in k} == {
        k: v for k, v in files.items() if "/p0" in k and int(Path(k).stem[1:]) < 6
    }
    assert expected["data"]["images_evaluated"] == 9


def test_a_damaged_head_is_told(tmp_path, done):
    shutil.copytree(done[0], tmp_path, dirs_exist_ok=True)
    (journal,) = journals(tmp_path)
    (journal.parent / "record.json").unlink()
    for damage in ("", "{", "{}", "[]", '{"format": 2}', '{"format": 2, "number": 1}'):
        (journal / "run.json").write_text(damage)
        assert read_header(journal) is None
    message = refusal(tmp_path)
    assert "journal/run.json is missing, damaged or of another version" in message


def test_runs_are_ordered_by_more_than_the_clock(tmp_path, done):
    """The clock was set back between two runs with the same settings: the later one counts."""
    shutil.copytree(done[0], tmp_path, dirs_exist_ok=True)
    assert Start(tmp_path).wait() == [0]
    first, second = journals(tmp_path)
    assert [read_header(journal)["number"] for journal in (first, second)] == [1, 2]
    second.parent.rename(tmp_path / "work_dirs/cfg/19990101_000000")
    (tmp_path / "work_dirs/cfg/record.json").unlink()
    start = Start(tmp_path, "--resume")
    assert start.wait() == [0]
    assert "Continuing work_dirs/cfg/19990101_000000" in start.output().replace(f"{tmp_path}/", "")


@pytest.mark.parametrize("what", [".", "labels", "*/journal"])
def test_what_is_removed_midway_is_named(tmp_path, what):
    write_data(tmp_path, 12, seconds=0.05)
    start = Start(tmp_path)
    wait_for_images(start, tmp_path, 3)
    (place,) = (tmp_path / "work_dirs/cfg").glob(what) if what != "." else [tmp_path / "work_dirs"]
    shutil.rmtree(place, ignore_errors=True)
    assert start.wait() == [2], start.output()
    message, *_ = start.errors()
    assert "was removed while the evaluation" in message
    if what == "labels":
        assert Start(tmp_path, "--resume").wait() == [0]
        assert len(list((tmp_path / "work_dirs/cfg/labels").glob("*.png"))) == 12


def test_only_code_that_can_change_a_figure_counts():
    folder = PROJECT / "itaclip"
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.py")]
    counted = {name for name in names if not name.startswith(identity._NO_FIGURE)}
    assert {"segmentor.py", "refinement.py", "recipes/tower.py", "clip_model/load.py"} <= counted
    assert {"data/loading.py", "data/guard.py", "evaluation/loop.py"} <= counted
    assert {"evaluation/boundary.py", "evaluation/journal.py", "vocabulary.py"} <= counted
    free = ("app/", "commands/", "aux_text/", "predict/", "labelling/")
    assert not [name for name in counted if name.startswith(free)]


def test_weights_of_guides_count():
    """They may lie in a folder, whose content changes behind its name."""
    first, second = (
        SimpleNamespace(image_encoder=SimpleNamespace(guide=torch.nn.Linear(2, 2), sam=None))
        for _ in range(2)
    )
    assert identity._guides_sha256(first) == identity._guides_sha256(first)
    assert identity._guides_sha256(first) != identity._guides_sha256(second)
    assert identity._guides_sha256(object()) == []


# ---- what is refused ----------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path):
    """A folder with an evaluation that was stopped by SIGKILL."""
    write_data(tmp_path, 20, seconds=0.03)
    (tmp_path / "names.txt").write_text("sky\ncat\ndog\n")
    start = Start(tmp_path)
    wait_for_images(start, tmp_path, 2)
    start.kill(signal.SIGKILL)
    start.wait()
    assert 2 <= finished(tmp_path) < 20
    return tmp_path


def refusal(folder, *options):
    start = Start(folder, "--resume", *options)
    assert start.wait() == [2], start.output()
    (message,) = start.errors()
    assert message.startswith("error: --resume: ")
    return message


def test_changes_are_named(stopped):
    before = finished(stopped)
    message = refusal(stopped, "--cfg-options", "model.seconds=0.02")
    assert "model.seconds was 0.03, now 0.02" in message
    assert "leave --resume out to start anew" in message
    assert "images chosen was all, now --limit 7" in refusal(stopped, "--limit", 7)
    message = refusal(stopped, "--show-dir", "elsewhere")
    assert "custom_hooks.OverlayHook.folder was '<work dir>/overlays', now 'elsewhere'" in message
    with open(stopped / "data/masks/p11.png", "ab") as file:
        file.write(b"x")
    assert "the data changed" in refusal(stopped)
    assert finished(stopped) == before


def test_changed_content_of_the_same_size(stopped):
    """The manifest knows names and sizes; the journal knows what was in the files."""
    (path,) = (stopped / "data/images").glob("p00.png")
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert "image or mask changed after it was evaluated" in refusal(stopped)
    assert "data/images/p00.png" in refusal(stopped)


def test_changed_weights_and_texts(tmp_path, tiny_clip):
    """The same paths with other content."""
    write_data(tmp_path, 3)
    text = (tmp_path / "cfg.py").read_text()
    model = 'type="ITACLIPSegmentor", clip_model="w.pt", name_path="names.txt", text_cache=False,'
    model += f"clip_config={CLIP_CONFIG}, "
    model += 'attention="clip", precision="fp32", test_cfg=dict(mode="whole"), '
    text = text.replace('type="LabelsFromRed", seconds=0.0', model)
    resize = 'dict(type="LoadImageFromFile"), dict(type="Resize", scale=(48, 32)),'
    (tmp_path / "cfg.py").write_text(text.replace('dict(type="LoadImageFromFile"),', resize))
    state = tiny_clip.state_dict()
    torch.save(state, tmp_path / "w.pt")
    (tmp_path / "names.txt").write_text("sky\ncat\ndog\n")
    assert Start(tmp_path).wait() == [0]
    (tmp_path / "work_dirs/cfg/record.json").unlink()
    (journals(tmp_path)[0].parent / "record.json").unlink()
    (tmp_path / "names.txt").write_text("sky\ncat\nfox\n")
    assert "the class names changed" in refusal(tmp_path)
    (tmp_path / "names.txt").write_text("sky\ncat\ndog\n")
    torch.save({**state, "logit_scale": state["logit_scale"] + 1}, tmp_path / "w.pt")
    assert "the weights changed" in refusal(tmp_path)
    torch.save(state, tmp_path / "w.pt")
    assert Start(tmp_path, "--resume").wait() == [0]


def test_free_settings_may_change(stopped):
    options = ("test_dataloader.batch_size=2", "test_dataloader.num_workers=1")
    start = Start(stopped, "--resume", "--cfg-options", *options)
    assert start.wait() == [0], start.errors()
    assert record(stopped)["data"]["images_evaluated"] == 20


def test_two_at_once(tmp_path, done):
    shutil.copytree(done[0], tmp_path, dirs_exist_ok=True)
    with FileLock(journals(tmp_path)[0] / "lock"):
        assert "another process is evaluating into" in refusal(tmp_path)


def test_loops_of_ones_own_are_refused(tmp_path):
    write_data(tmp_path, 1)
    start = Start(tmp_path, "--cfg-options", "test_cfg.type=ValLoop")
    assert start.wait() == [2]
    assert "test_cfg.type: expected 'TestLoop'" in start.errors()[0]


# ---- lines --------------------------------------------------------------------------------------


def areas(*rows):
    return tuple(torch.tensor(row, dtype=torch.float32) for row in zip(*rows, strict=True))


def test_lines():
    kept = areas((3, 6, 5, 4), (0, 0, 0, 0), (2**24, 2**25 + 4, 2**24, 0))
    entry = Entry(3, "bilder/ä\n.png", 0.25, 1.5, "f" * 64, ["e" * 64])
    entry.results = [[kept], [("a.png", "b.png")]]
    line = to_line(entry)
    assert line.count(b"\n") == 1
    assert json.loads(line)["miou"] == pytest.approx(50 * (0.5 + 2**24 / (2**25 + 4)), abs=1e-3)
    assert json.loads(line)["results"][0][0]["areas"]["0"] == [3, 6, 5, 4]
    back = from_line(line)
    assert all(torch.equal(a, b) for a, b in zip(back.areas, kept, strict=True))
    assert back.results[1] == [("a.png", "b.png")]
    back.results = entry.results
    assert back == entry
    assert from_line(to_line(entry, "a run")) is None, "another run's"
    assert from_line(to_line(entry, "a run"), "a run") is not None
    for cut in range(len(line)):
        assert from_line(line[:cut]) is None
    for place in range(0, len(line) - 1, 7):
        assert from_line(line[:place] + b"#" + line[place + 1 :]) is None or line[place] == ord("#")


def test_values_come_back_as_they_were():
    value = [
        (1, 2.5, None, True, "x"),
        {"a": [float("nan"), float("-inf")], "classes": 3},
        torch.tensor([[0.1, float("inf")]], dtype=torch.float64),
        np.array([[1, 2], [3, 4]], dtype=np.uint16),
        np.float32(0.1),
        torch.arange(3),
        areas((0.5, 1, 1, 1)),
    ]
    back = decode(json.loads(json.dumps(encode(value))))
    assert str(back) == str(value)
    assert back[2].dtype == torch.float64 and back[3].dtype == np.uint16
    for bad in (object(), torch.zeros(1 << 17), {1: 2}):
        with pytest.raises(NotKeptError):
            encode([bad])


def test_journal_files(tmp_path):
    """Starts and processes write to files of their own; nothing is ever overwritten."""
    for rank in range(2):
        for _ in range(2):
            file = JournalFile(tmp_path, "20260101_000000", rank)
            file.add(Entry(rank, "a.png", 0.1, 0.1, results=[[]]))
            file.close()
    assert len(list(tmp_path.iterdir())) == 4
    entries, damaged = read_journal(tmp_path)
    assert sorted(entries) == [0, 1]
    assert entries[0].start == "20260101_000000"
    assert damaged == []


def test_metric_that_cannot_be_kept(tmp_path):
    """The run goes on, and says that it cannot be continued."""
    write_data(tmp_path, 2)
    for kind, shape in (("images", (300, 300, 3)), ("masks", (300, 300))):
        picture = Image.fromarray(np.zeros(shape, dtype=np.uint8))
        picture.save(tmp_path / f"data/{kind}/p01.png")
    options = ["test_evaluator.1.type=DumpResults", "test_evaluator.1.out_file_path=dump.pkl"]
    start = Start(tmp_path, "--cfg-options", *options)
    assert start.wait() == [0], start.output()
    assert (tmp_path / "dump.pkl").stat().st_size > 100
    start.output().index("cannot be continued after a stop")
