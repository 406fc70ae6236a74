"""Evaluations by several processes: the figures of one, every image once, and an end for all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PROJECT
from PIL import Image
from starts import Start, comparable, pictures, record, write_data
from test_resume import finished, journals, slow, wait_for_images

from itaclip.evaluation.journal import read_journal
from itaclip.storybook import CLASSES, PALETTE
from itaclip.storybook.benchmark import evaluation_scene

VARIABLES = {
    "pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
}


def variables_of(launcher):
    """What a launcher sets for each of its processes."""

    def variables(rank, size, port):
        found = dict(zip(VARIABLES[launcher], (rank, size, rank), strict=True))
        return found | dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)

    return variables


# ---- figures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "size", "launcher", "workers"),
    [(7, 2, "pytorch", 1), (7, 3, "slurm", 0), (2, 3, "mpi", 0)],
)
def test_same_result_as_one_process(tmp_path, images, size, launcher, workers):
    """Uneven shares, and processes without any image."""
    write_data(tmp_path, images, workers=workers, batch_size=2)
    one = Start(tmp_path, "--work-dir", "one")
    assert one.wait() == [0], one.output()
    variables = variables_of(launcher)
    many = Start(tmp_path, "--work-dir", "many", size=size, launcher=launcher, variables=variables)
    assert many.wait() == [0] * size, many.output()
    found = record(tmp_path, "many")
    assert found["hardware"]["processes"] == size
    assert found["data"]["images_evaluated"] == images
    assert comparable(found) == comparable(record(tmp_path, "one"))
    files = pictures(tmp_path / "many")
    assert files == pictures(tmp_path / "one")
    assert len(files) == 2 * images + 2, "label maps, overlays, class names and the sheet"
    by_process = [
        len(path.read_bytes().splitlines())
        for path in sorted(journals(tmp_path, "many")[0].glob("*.jsonl"))
    ]
    shares = [len(range(rank, images, size)) for rank in range(size)]
    assert by_process == [share for share in shares if share], "no image twice"


@slow
def test_torchrun(tmp_path):
    """The command as users give it, with the model that ships with the project."""
    folder = drawn_scenes(tmp_path / "data", 5)
    config = STORYBOOK.format(project=PROJECT, folder=folder, classes=CLASSES, palette=PALETTE)
    (tmp_path / "cfg.py").write_text(config)
    found = []
    for size in (1, 2):
        start, options = [sys.executable], []
        if size > 1:
            start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
            options = ["--launcher", "pytorch"]
        command = ["eval.py", "--config", str(tmp_path / "cfg.py"), "--limit", "4"]
        done = subprocess.run(
            [*start, *command, "--work-dir", str(tmp_path / str(size)), *options],
            cwd=PROJECT,
            env=os.environ | dict(OMP_NUM_THREADS="1"),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("PARTIAL RESULT\n") == 1, "one process speaks"
        found.append(record(tmp_path, str(size)))
        assert found[-1]["hardware"]["processes"] == size
    assert found[0]["results"] == found[1]["results"]
    assert found[0]["data"] == found[1]["data"]
    assert found[0]["results"]["mIoU"] > 30, "the model sees something"
    sheets = [(tmp_path / f"{size}/overlays/sheet.png").read_bytes() for size in (1, 2)]
    assert sheets[0] == sheets[1]


STORYBOOK = """
_base_ = ["{project}/configs/cfg_storybook.py"]
test_dataloader = dict(
    num_workers=0,
    dataset=dict(
        _delete_=True,
        type="BaseSegDataset",
        data_root="{folder}",
        data_prefix=dict(img_path="images", seg_map_path="masks"),
        img_suffix=".png",
        seg_map_suffix=".png",
        metainfo=dict(classes={classes}, palette={palette}),
        pipeline={{{{_base_.test_pipeline}}}},
    ),
)
"""


def drawn_scenes(folder, count):
    """The first scenes of Storybook, without drawing a whole split."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for index in range(count):
        scene = evaluation_scene("val", index)
        Image.fromarray(scene.image).save(folder / f"images/{index}.png")
        Image.fromarray(scene.mask).save(folder / f"masks/{index}.png")
    return folder


def test_continued_by_another_number_of_processes(tmp_path):
    write_data(tmp_path, 15, seconds=0.1)
    whole = Start(tmp_path, "--work-dir", "whole")
    assert whole.wait() == [0]
    start = Start(tmp_path, size=3)
    wait_for_images(start, tmp_path, 4)
    for rank in range(3):
        start.kill(signal.SIGKILL, rank)
    start.wait()
    before = finished(tmp_path)
    assert 4 <= before < 15
    start = Start(tmp_path, "--resume", size=2)
    assert start.wait() == [0, 0], start.output()
    assert f"{before} of 15 images done" in start.output()
    assert comparable(record(tmp_path)) == comparable(record(tmp_path, "whole"))
    assert pictures(tmp_path / "work_dirs/cfg") == pictures(tmp_path / "whole")
    assert sum(start["images"] for start in record(tmp_path)["starts"]) == 15


# ---- a process that ends early ------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 2])
def test_killed_process(tmp_path, rank):
    """Without a launcher that cleans up: the others learn of it at the next exchange.

    Rank 0 may hold the store in which it is agreed on who speaks.
    """
    write_data(tmp_path, 24, seconds=0.02)
    start = Start(tmp_path, "--cfg-options", f"model.die_at=p{12 + rank}", size=3)
    codes = [1, 1, 1]
    codes[rank] = -signal.SIGKILL
    assert start.wait(60) == codes
    messages = start.errors()
    assert any("another process of the run ended" in line for line in messages)
    assert any("of 24 images are kept" in line and "--resume" in line for line in messages)
    assert len(messages) <= (4 if rank == 0 else 2)


def test_nobody_waits_beyond_the_timeout(tmp_path):
    """A process that hangs closes no connection."""
    write_data(tmp_path, 16, seconds=0.02)
    options = ["--cfg-options", "model.hang_at=p03", "env_cfg.dist_cfg.timeout=3"]
    start = Start(tmp_path, *options, size=2)
    start.processes[0].join(60)
    assert start.processes[0].exitcode == 1
    assert "did not come within the timeout" in start.errors()[0]
    start.kill(signal.SIGKILL, 1)
    start.wait()


def test_error_in_one_process(tmp_path):
    """The others end at once, and say why."""
    write_data(tmp_path, 8, seconds=0.05)
    begun = time.monotonic()
    start = Start(tmp_path, "--cfg-options", "model.fail_at=p04", size=2)
    assert start.wait(40) == [1, 1]
    assert time.monotonic() - begun < 30
    assert "RuntimeError: no memory for p04" in start.output()
    (tmp_path / "cfg.py").write_text((tmp_path / "cfg.py").read_text().replace("IoUMetric", "IoU"))
    start = Start(tmp_path, size=2)
    assert 2 in start.wait(40)
    (message,) = start.errors()
    assert "type 'IoU' is not known" in message, "said once"


def test_stopped_together(tmp_path):
    write_data(tmp_path, 60, seconds=0.1)
    start = Start(tmp_path, size=2)
    wait_for_images(start, tmp_path, 4)
    start.kill(signal.SIGTERM, 1)  # as torchrun and others do it, one after the other
    start.kill(signal.SIGTERM, 0)
    assert start.wait(20) == [143, 143]
    message, hint = start.errors()
    assert message == "stopped by SIGTERM"
    assert f"{finished(tmp_path)} of 60 images are kept" in hint


# ---- torchrun -----------------------------------------------------------------------------------

HEAD = 'custom_imports = dict(imports=["itaclip", "starts"])\n'


def torchrun(folder, *options):
    """eval.py under torchrun, with the model of ``starts``."""
    text = (folder / "cfg.py").read_text()
    if not text.startswith(HEAD):
        (folder / "cfg.py").write_text(HEAD + text)
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        + [*options, str(PROJECT / "eval.py"), "--config", "cfg.py", "--launcher", "pytorch"]
        + ["--resume"],
        cwd=folder,
        env=os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=path),
        stdout=open(folder / "out-0.txt", "w"),
        stderr=subprocess.STDOUT,
    )


def workers_of(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_torchrun_restarts_what_was_killed(tmp_path):
    """Elastic: a killed worker is started again, and the run goes on by itself."""
    write_data(tmp_path, 30, seconds=0.1)
    process = torchrun(tmp_path, "--max-restarts=1")
    until(lambda: finished(tmp_path) >= 4)
    os.kill(workers_of(process)[1], signal.SIGKILL)
    assert process.wait(120) == 0, (tmp_path / "out-0.txt").read_text()
    found = record(tmp_path)
    assert found["data"]["images_evaluated"] == 30
    assert len(found["starts"]) == 2 and found["hardware"]["processes"] == 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the group's timeout counts")
@pytest.mark.parametrize("moment", ["start", pytest.param("run", marks=slow)])
def test_nobody_outlives_torchrun(tmp_path, moment):
    write_data(tmp_path, 200, seconds=0.1)
    process = torchrun(tmp_path)
    until(lambda: len(workers_of(process)) == 2)
    if moment == "start":
        time.sleep(1.5)  # while the workers still import
    else:
        until(lambda: finished(tmp_path) >= 2)
    workers = workers_of(process)
    process.kill()
    until(lambda: not any(alive(pid) for pid in workers), 20)


# ---- start --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("launcher", "variable", "starter"),
    [
        ("pytorch", "RANK", "torchrun"),
        ("slurm", "SLURM_PROCID", "srun"),
        ("mpi", "OMPI_", "mpirun"),
    ],
)
def test_launcher_that_did_not_start_it(tmp_path, launcher, variable, starter):
    write_data(tmp_path, 1)
    start = Start(tmp_path, "--launcher", launcher)
    assert start.wait() == [2]
    (message,) = start.errors()
    assert variable in message
    assert starter in message


def test_machines_that_differ(tmp_path):
    """Here by a config that reads the environment."""
    write_data(tmp_path, 2)
    text = (tmp_path / "cfg.py").read_text()
    seconds = 'seconds=0.01 * int(__import__("os").environ["RANK"])'
    (tmp_path / "cfg.py").write_text(text.replace("seconds=0.0", seconds))
    start = Start(tmp_path, size=2)
    assert start.wait() in ([2, 2], [1, 2], [2, 1])
    (message,) = start.errors()
    assert "would evaluate something else than process 0" in message
    assert "model.seconds was 0.0, now 0.01" in message


def test_rank_0_draws_the_data(tmp_path):
    """Storybook is drawn by one process; the other waits and finds it."""
    write_data(tmp_path, 1)
    text = (tmp_path / "cfg.py").read_text()
    first = text.index("    dataset=dict(")
    last = text.index("test_evaluator")
    data = '    dataset=dict(type="StorybookDataset", data_root="drawn", split="val", '
    data += 'pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), '
    data += 'dict(type="PackSegInputs")]),\n)\n'
    (tmp_path / "cfg.py").write_text(text[:first] + data + text[last:])
    start = Start(tmp_path, "--limit", 2, size=2)
    assert start.wait() == [0, 0], start.output()
    output = start.output()
    assert output.count("Storybook: drawing the 100 pictures") == 1
    entries, _ = read_journal(journals(tmp_path)[0])
    assert sorted(entries) == [0, 1]
