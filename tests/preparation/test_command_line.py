"""The scripts as a user runs them: output, exit codes, one-line errors, Ctrl-C."""

import importlib
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import mini_datasets as mini
import pytest

from itaclip.data.preparation import context


@pytest.fixture
def run(capsys):
    """Runs a script in this process: starting another takes seconds."""

    def run_script(script, *args):
        try:
            code = importlib.import_module(script.removesuffix(".py")).main([*map(str, args)])
        except SystemExit as error:
            code = error.code
        out = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=out.out, stderr=out.err)

    return run_script


def assert_one_line_error(result, *words):
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def test_prepare_twice(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = mini.make_coco(tmp_path / "raw")
    args = ("coco_object", "coco_stuff", "--raw", raw, "--no-download", "--workers", 2)
    first = run("prepare.py", *args)
    assert first.returncode == 0, first.stderr
    assert "coco_object val: 3 masks, 3 written\n" in first.stdout
    before = mini.snapshot(tmp_path / "data")
    second = run("prepare.py", *args)
    assert "coco_stuff val: 3 masks, 3 unchanged\n" in second.stdout
    assert second.stdout.endswith(
        "evaluate with python eval.py --config configs/cfg_coco_stuff.py\n"
    )
    assert mini.snapshot(tmp_path / "data") == before


def test_prepare_context_with_options(run, tmp_path):
    raw = mini.make_context(tmp_path / "raw")
    options = ("--context-json", raw / "trainval_merged.json", "--data-root", tmp_path / "d")
    result = run("prepare.py", "context60", "--raw", raw, *options)
    assert_one_line_error(result, "was expected", "--context-json-sha1")
    options += ("--context-json-sha1", mini.context_json_sha1(raw))
    assert run("prepare.py", "context60", "--raw", raw, *options).returncode == 0


def test_prepare_needs_no_heavy_package(tmp_path):
    """Torch, mmseg and SciPy are not imported."""
    raw = mini.make_all(tmp_path / "raw")
    code = (
        "import sys, prepare; code = prepare.main(sys.argv[1:]);"
        "heavy = {'torch', 'mmseg', 'mmengine', 'mmcv', 'cv2', 'scipy'};"
        "print(heavy & {name.partition('.')[0] for name in sys.modules}); sys.exit(code)"
    )
    args = ["all", "--raw", raw, "--no-download", "--data-root", tmp_path / "data"]
    args += ["--context-json-sha1", mini.context_json_sha1(raw), "--workers", 1]
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        cwd=mini.DATASETS_FOLDER,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("set()\n")


def test_prepare_errors_are_one_line(run, tmp_path):
    data = ("--data-root", tmp_path / "data")
    result = run("prepare.py", "voc21", "--no-download", *data)
    assert_one_line_error(result, "VOCtrainval_11-May-2012.tar", "--no-download")
    result = run("prepare.py", "cityscapes", *data)
    assert_one_line_error(result, "cityscapes-dataset.com", "leftImg8bit_trainvaltest.zip")
    result = run("prepare.py", "voc21", "--raw", tmp_path / "nowhere", *data)
    assert_one_line_error(result, "nowhere", "--raw")
    result = run("prepare.py", "voc22", *data)
    assert result.returncode == 2
    assert "voc21" in result.stderr


def test_the_setting_to_evaluate_with_is_printed(run, tmp_path):
    """Where the configs do not find the data by themselves."""
    raw, data = mini.make_ade(tmp_path / "raw"), tmp_path / "my data"
    result = run("prepare.py", "ade20k", "--raw", raw, "--data-root", data, "--workers", 1)
    tree = data / "ade/ADEChallengeData2016"
    assert result.stdout.endswith(
        "ade20k: evaluate with python eval.py --config configs/cfg_ade20k.py --cfg-options "
        f"'test_dataloader.dataset.data_root={tree}'\n"
    )


def test_another_place_is_named_for_the_annotations_of_context(run, tmp_path):
    """Their host is at times said to be gone; the checksum makes any copy as good."""
    raw = mini.make_context(tmp_path / "raw")
    (raw / "trainval_merged.json").unlink()
    options = ("--no-download", "--data-root", tmp_path / "d")
    result = run("prepare.py", "context60", "--raw", raw, *options)
    assert_one_line_error(result, "https://web.archive.org/web/2020id_/https://codalabuser.blob")
    assert context.ANNOTATIONS.others
    assert context.ANNOTATIONS.checksum
    assert context.ARCHIVE.size is None  # no public source tells it: the md5 alone decides
    assert context.ARCHIVE.checksum.startswith("md5:")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_no_annotation_file(run, tmp_path):
    raw = mini.make_context(tmp_path / "raw")
    (raw / "trainval_merged.json").unlink()
    os.mkfifo(raw / "trainval_merged.json")
    options = ("--context-json", raw / "trainval_merged.json", "--data-root", tmp_path / "d")
    result = run("prepare.py", "context60", "--raw", raw, "--no-download", *options)
    assert_one_line_error(result, "trainval_merged.json: cannot be read (it is a pipe")


def test_nothing_goes_to_the_root_of_the_file_system(run, monkeypatch):
    monkeypatch.chdir("/")
    result = run("prepare.py", "voc21", "--no-download")
    assert_one_line_error(result, "--data-root: data would lie in the root of the file system")


def test_help_explains_links(run):
    result = run("prepare.py", "--help")
    assert result.returncode == 0
    assert "never copied" in result.stdout
    assert "coco_stuff164k" in result.stdout


def test_cvt_coco_object_with_its_old_command_line(run, tmp_path):
    path, out = mini.make_coco(tmp_path / "raw", extracted=True), tmp_path / "out"
    result = run("cvt_coco_object.py", path, "-o", out)
    assert result.returncode == 0, result.stderr
    for name, mask in mini.COCO_OBJECT_MASKS.items():
        found = mini.read(out / f"annotations/val2017/{name}_instanceTrainIds.png")
        assert found.tolist() == mask.tolist()
    assert (out / "images/val2017").is_symlink()
    # Without -o the masks go beside the raw ones; then the other conversion.
    assert run("cvt_coco_object.py", path).returncode == 0
    assert run("cvt_coco_stuff.py", path, "--nproc", 1).returncode == 0
    assert len(list((path / "annotations/val2017").iterdir())) == 9
    assert_one_line_error(run("cvt_coco_object.py", tmp_path / "no"), "expected the folder")


def test_cvt_cityscapes_and_context(run, tmp_path):
    city = mini.make_cityscapes(tmp_path / "city", extracted=True)
    assert run("cvt_cityscapes.py", city).returncode == 0
    for name, mask in mini.CITYSCAPES_MASKS.items():
        found = mini.read(city / f"gtFine/val/{name}_gtFine_labelTrainIds.png")
        assert found.tolist() == mask.tolist()
    raw = mini.make_context(tmp_path / "context", extracted=True)
    json, sha1 = raw / "trainval_merged.json", mini.context_json_sha1(raw)
    tree = raw / "VOCdevkit/VOC2010"
    assert_one_line_error(run("cvt_context.py", tree, json), "was expected")
    result = run("cvt_context.py", tree, json, "--json-sha1", sha1)
    assert result.returncode == 0, result.stderr
    for name, mask in mini.CONTEXT_MASKS.items():
        found = mini.read(tree / f"SegmentationClassContext/{name}.png")
        assert found.tolist() == mask.tolist()


_MASKS = 600  # so many that a busy machine is not done before it is interrupted


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_ctrl_c_leaves_nothing_half_written(tmp_path):
    raw = tmp_path / "raw"
    rng = mini.np.random.default_rng(0)
    for number in range(_MASKS):
        mask = rng.integers(0, 11, (97, 101)).astype(mini.np.uint8)
        name = f"{number:012d}"
        files = {
            f"images/val2017/{name}.jpg": b"never opened",
            f"annotations/val2017/{name}.png": mini.label_png(mask),
        }
        mini.write_files(raw, files, None)
    command = [sys.executable, str(mini.DATASETS_FOLDER / "prepare.py"), "coco_stuff"]
    command += ["--raw", str(raw), "--data-root", str(tmp_path / "data"), "--workers", "2"]
    folder = tmp_path / "data/coco_stuff164k/annotations/val2017"
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests in the background of a shell have SIGINT ignored, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (folder.exists() and any(folder.iterdir())):
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to every process
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "run the same command again" in errors
    done = sorted(folder.iterdir())
    assert 0 < len(done) < _MASKS
    assert all(path.name.endswith("_labelTrainIds.png") for path in done)
    times = {path: path.stat().st_mtime_ns for path in done}
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert f"{_MASKS - len(done)} written, {len(done)} unchanged" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in done} == times
