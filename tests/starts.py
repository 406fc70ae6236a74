"""Starts of eval.py in forked processes, which cost no imports, and what they evaluate.

The model reads its labels off the image and takes its time, so that a kill can hit anything.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import torch
from conftest import PROJECT
from mmengine.model import BaseModel
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from PIL import Image

from itaclip.evaluation.command import evaluate
from itaclip.runtime.tool import run_tool

STOPS = (signal.SIGINT, signal.SIGTERM)
CLASSES = ["sky", "cat", "dog"]
CONFIG = """
_base_ = ["{project}/configs/_base_/runtime.py"]
model = dict(type="LabelsFromRed", seconds={seconds})
custom_hooks = [dict(type="OverlayHook", sheet=3)]
test_dataloader = dict(
    batch_size={batch_size},
    num_workers={workers},
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="BaseSegDataset",
        data_root="data",
        data_prefix=dict(img_path="images", seg_map_path="masks"),
        img_suffix=".png",
        seg_map_suffix=".png",
        metainfo=dict(classes={classes}, palette=[[0, 0, 0], [255, 0, 0], [0, 0, 255]]),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="PackSegInputs"),
        ],
    ),
)
test_evaluator = [dict(type="IoUMetric", iou_metrics=["mIoU"]), dict(type="SaveLabels")]
"""


@MODELS.register_module(force=True)
class LabelsFromRed(BaseModel):
    """Labels are the red channel modulo the classes."""

    def __init__(self, seconds=0.0, die_at=None, fail_at=None, hang_at=None, shift=0):
        super().__init__()
        self.seconds, self.shift = seconds, shift
        self.die_at, self.fail_at, self.hang_at = die_at, fail_at, hang_at

    def forward(self, inputs, data_samples, mode="predict"):
        for image, sample in zip(inputs, data_samples, strict=True):
            time.sleep(self.seconds)
            name = Path(sample.img_path).stem
            if name == self.die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if name == self.hang_at:
                time.sleep(600)
            if name == self.fail_at:
                raise RuntimeError(f"no memory for {name}")
            labels = ((image[2] + self.shift) % len(CLASSES)).long()[None]
            sample.set_data({"pred_sem_seg": PixelData(data=labels)})
        return data_samples


def write_data(folder, images, seconds=0.0, workers=0, batch_size=1):
    """Images of several sizes, masks with ignored pixels, and ``cfg.py``."""
    rng = np.random.default_rng(5)
    for kind in ("images", "masks"):
        (folder / "data" / kind).mkdir(parents=True)
    for number in range(images):
        size = (7 + number % 3, 11)
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        mask = np.where(rng.random(size) < 0.6, image[..., 0] % 3, rng.integers(0, 3, size))
        mask[rng.random(size) < 0.1] = 255
        Image.fromarray(image).save(folder / f"data/images/p{number:02d}.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / f"data/masks/p{number:02d}.png")
    text = CONFIG.format(
        project=PROJECT, seconds=seconds, workers=workers, batch_size=batch_size, classes=CLASSES
    )
    (folder / "cfg.py").write_text(text)


class Start:
    """One or more processes that run ``eval.py`` with some options in a folder.

    Args:
        folder: current folder; the output of process N goes to ``out-N.txt`` there.
        options: of the command line, beside ``--config cfg.py``.
        size: number of processes; above 1 they find one another as under a launcher.
    """

    def __init__(self, folder, *options, size=1, launcher="pytorch", variables=None):
        self.folder = folder
        context = multiprocessing.get_context("fork")
        port = _free_port()
        self.processes = []
        for rank in range(size):
            environment = dict(variables(rank, size, port)) if variables else {}
            if size > 1 and not variables:
                environment = dict(RANK=rank, WORLD_SIZE=size, LOCAL_RANK=rank)
                environment |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            given = ["--config", "cfg.py", *map(str, options)]
            if environment:
                given += ["--launcher", launcher]
            process = context.Process(target=_run, args=(folder, rank, given, environment))
            # A child is killable from the moment on when it does what eval.py does first.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
            process.start()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
            self.processes.append(process)

    def kill(self, number, rank=0):
        os.kill(self.processes[rank].pid, number)

    def wait(self, timeout=60):
        """Exit codes of all processes, as of ``subprocess``."""
        end = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        hanging = [process for process in self.processes if process.exitcode is None]
        for process in hanging:
            process.kill()
            process.join()
        assert not hanging, f"{len(hanging)} processes hang; {self.output()}"
        return [process.exitcode for process in self.processes]

    def output(self):
        """Everything that was written, the log (on stderr) included."""
        paths = sorted([*self.folder.glob("out-*.txt"), *self.folder.glob("err-*.txt")])
        return "".join(path.read_text() for path in paths)

    def errors(self):
        """What was written to stderr but logs and warnings: the messages to the user."""
        paths = sorted(self.folder.glob("err-*.txt"))
        lines = "".join(path.read_text() for path in paths).splitlines()
        return [line for line in lines if line.startswith(("error:", "stopped")) or "kept" in line]


def _run(folder, rank, given, environment):
    """In the child: as eval.py does it."""
    for number in STOPS:
        signal.signal(number, lambda number, frame: os._exit(128 + number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    os.chdir(folder)
    os.environ.update({key: str(value) for key, value in environment.items()})
    with open(f"out-{rank}.txt", "w") as out, open(f"err-{rank}.txt", "w") as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        torch.set_num_threads(1)
        code = 1
        try:
            code = run_tool(lambda: evaluate(given))
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def record(folder, place="work_dirs/cfg"):
    return json.loads((folder / place / "record.json").read_text())


def comparable(found):
    """A record without times, places and what tells how often and by whom it was computed."""
    left_out = (
        "time",
        "seconds",
        "seconds_per_image",
        "peak_memory",
        "starts",
        "command",
        "sha256",
    )
    kept = {key: value for key, value in found.items() if key not in left_out}
    kept["hardware"] = {k: v for k, v in found["hardware"].items() if k != "processes"}
    kept["config"] = {key: found["config"][key] for key in ("path", "shipped", "changes")}
    return kept


def pictures(folder):
    """Content of all label maps and overlays by path."""
    paths = [*folder.glob("labels/*"), *folder.glob("overlays/*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(paths)}
