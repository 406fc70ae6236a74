"""A long evaluation: does memory, open files or processes grow with the number of images?

    python benchmarks/long_run.py --out benchmarks/results/long-run-cpu.json

Draws small images into a temporary folder, evaluates them with eval.py's code, and samples every
few images what the process and its children hold. Growth is the slope after the first quarter,
in which caches fill. Linux only: it reads /proc.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout without installation

from itaclip.errors import InputError
from itaclip.evaluation.command import evaluate
from itaclip.evaluation.inputs import hardware, versions
from itaclip.runtime.files import PROJECT_ROOT
from itaclip.runtime.tool import run_tool

_CONFIG = """
_base_ = ["{project}/configs/_base_/runtime.py"]
custom_hooks = [
    dict(type="TrimMemoryHook"),
    dict(type="SampleProcessHook", every={every}),
]
model = dict(
    type="ITACLIPSegmentor",
    clip_model="storybook-tiny",
    name_path="{project}/configs/cls_storybook.txt",
    attention="clip",
    precision="fp32",
    test_cfg=dict(mode="whole"),
)
test_dataloader = dict(
    batch_size=1,
    num_workers={workers},
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="BaseSegDataset",
        data_root="{data}",
        data_prefix=dict(img_path="images", seg_map_path="masks"),
        img_suffix=".png",
        seg_map_suffix=".png",
        metainfo=dict(classes="{project}/configs/cls_storybook.txt"),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="PackSegInputs"),
        ],
    ),
)
"""


@HOOKS.register_module()
class SampleProcessHook(Hook):
    """Notes every ``every`` images what this process holds, in :attr:`samples`."""

    samples: list[dict[str, float]] = []

    def __init__(self, every: int) -> None:
        self.every = every
        self._images = 0

    def before_test(self, runner: Any) -> None:
        self.samples.clear()
        self._clock = time.perf_counter()

    def after_test_iter(self, runner: Any, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        self._images += 1
        if self._images % self.every == 0:
            seconds = round(time.perf_counter() - self._clock, 3)
            self.samples.append({"images": self._images, "seconds": seconds, **holdings()})


def holdings() -> dict[str, float]:
    """Resident memory in MB, open files, threads and child processes, and the children's memory."""
    children = _children(os.getpid())
    return {
        "memory": _memory(os.getpid()),
        "open_files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "children": len(children),
        "children_memory": round(sum(_memory(child) for child in children), 2),
    }


def _children(process: int) -> list[int]:
    found = []
    for task in os.listdir(f"/proc/{process}/task"):
        found += map(int, Path(f"/proc/{process}/task/{task}/children").read_text().split())
    return found


def _memory(process: int) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except FileNotFoundError:  # it has just ended
        return 0.0
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 2)


def draw_data(folder: Path, images: int, size: int, classes: int) -> None:
    """Coloured discs on gradients, and random masks; seeded."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(images):
        centre, radius = rng.uniform(0, size, 2), rng.uniform(size / 8, size / 2)
        disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        picture = np.stack([255 * y / size, 255 * x / size, np.full(y.shape, 90.0)], axis=-1)
        picture[disc] = rng.uniform(0, 255, 3)
        Image.fromarray(picture.astype(np.uint8)).save(folder / "images" / f"{index:06}.png")
        labels = np.where(disc, *rng.integers(0, classes, 2)).astype(np.uint8)
        Image.fromarray(labels).save(folder / "masks" / f"{index:06}.png")


def growth(samples: Sequence[dict[str, float]], key: str) -> float:
    """Growth per 1000 images after the first quarter: slope of the least squares line."""
    settled = samples[len(samples) // 4 :]
    images = [sample["images"] for sample in settled]
    slope, _ = np.polyfit(images, [sample[key] for sample in settled], 1)
    return round(1000 * float(slope), 3)


def measure(images: int, size: int, workers: int, every: int) -> dict[str, Any]:
    """Runs the evaluation and returns its samples and what follows from them."""
    names = (PROJECT_ROOT / "configs" / "cls_storybook.txt").read_text().splitlines()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_data(folder / "data", images, size, len(names))
        (folder / "config.py").write_text(
            _CONFIG.format(project=PROJECT_ROOT, data=folder / "data", workers=workers, every=every)
        )
        before = holdings()
        work_dir = str(folder / "work")
        evaluate(["--config", str(folder / "config.py"), "--work-dir", work_dir])
        samples = list(SampleProcessHook.samples)
    keys = ("memory", "open_files", "threads", "children", "children_memory")
    return {
        "images": images,
        "size": [size, size],
        "workers": workers,
        "seconds_per_image": round(samples[-1]["seconds"] / images, 5),
        "growth_per_1000_images": {key: growth(samples, key) for key in keys},
        "before": before,
        "after": holdings(),
        "samples": samples,
        "versions": versions(),
        "hardware": hardware(),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The figures in words: after the first quarter, at the end, and growth between."""
    first, last = found["samples"][len(found["samples"]) // 4], found["samples"][-1]
    return [f"{found['images']} images, {found['seconds_per_image']:.4f} s an image"] + [
        f"  {key}: {first[key]:g} -> {last[key]:g}, {slope:+g} per 1000 images"
        for key, slope in found["growth_per_1000_images"].items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000, metavar="N")
    parser.add_argument("--size", type=int, default=64, metavar="PIXELS", help="side of an image")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="loading processes")
    parser.add_argument("--every", type=int, default=50, metavar="N", help="images per sample")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the figures")
    args = parser.parse_args(arguments)
    if not Path("/proc/self/statm").exists():
        raise InputError("long_run.py: expected Linux, whose /proc it reads.")
    if args.images < 8 * args.every or min(args.every, args.size) < 1 or args.workers < 0:
        raise InputError("--images: expected at least eight times --every, all of them from 1.")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    found = measure(args.images, args.size, args.workers, args.every)
    print("\n".join(lines(found)))
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(run_tool(main))
