"""What a second backbone costs beside CLIP, and what all the rest costs beside the two.

    python benchmarks/second_backbone.py --out benchmarks/results/second_backbone.json

Random weights of ViT-B's sizes: CLIP ViT-B/16 and a guide with patches of 8 or 16 pixels, each
method at its published windows, 21 classes with a background (46 queries). Times are CPU seconds of
this process, medians; memory is the peak above what the loaded networks take, in a process of its
own.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from itaclip.clip_model import clip_module, save_clip
from itaclip.predict.load import load
from itaclip.predict.segmenter import Segmenter

PROXY = dict(crop_size=(336, 336), stride=(112, 112), short_side=336)
SMALL = dict(crop_size=(224, 224), stride=(112, 112), short_side=336)
METHODS = {
    "proxyclip": (8, dict(recipe="proxyclip", **PROXY)),
    "gla_clip": (8, dict(recipe="gla_clip", **SMALL)),
    "cass": (8, dict(recipe="cass", **SMALL)),
    "trident, no SAM": (
        16,
        dict(
            recipe=dict(recipe="trident", correlation=None), crop_size=(336, 336),
            stride=(224, 224), short_side=448, merge="stitch",
        ),
    ),
    "lposs": (
        16,
        dict(
            recipe="maskclip_original", crop_size=(224, 224), stride=(112, 112), short_side=448,
            propagation="lposs",
        ),
    ),
    "lposs_plus": (
        16,
        dict(
            recipe="maskclip_original", crop_size=(224, 224), stride=(112, 112), short_side=448,
            propagation="lposs_plus",
        ),
    ),
    "proxyclip, stitched": (8, dict(recipe="proxyclip", merge="stitch", **PROXY)),
}  # fmt: skip


def models(patch: int, folder: Path) -> tuple[Path, Path]:
    """Files of random weights: CLIP ViT-B/16 and a guide of ViT-B with patches of ``patch``."""
    clip_path, guide_path = folder / "clip", folder / f"guide{patch}"
    if not clip_path.is_dir():
        torch.manual_seed(0)  # one text block: words are encoded once and not measured
        clip = clip_module("model").CLIP(512, 224, 12, 768, 16, 77, 49408, 512, 8, 1)
        save_clip(clip.eval(), clip_path)
    if not guide_path.is_dir():
        from transformers import ViTConfig, ViTModel

        torch.manual_seed(1)
        sizes = ViTConfig(image_size=224, patch_size=patch, layer_norm_eps=1e-6)
        ViTModel(sizes, add_pooling_layer=False).save_pretrained(guide_path)
    return clip_path, guide_path


def segmenter(name: str, folder: Path) -> Segmenter:
    patch, settings = METHODS[name]
    clip, guide = models(patch, folder)
    return load(
        clip, guide=guide, device="cpu", precision="fp32", pamr=None, max_result_side=None,
        image_engineering_weight=None, text_cache=False, **settings,
    )  # fmt: skip


WORDS = "; ".join(f"thing{n}" for n in range(20))
BACKGROUND = ", ".join(f"surrounding{n}" for n in range(26))


def picture(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (height // 25, width // 25, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((25, 25, 1), np.uint8))


def measure(name: str, folder: Path, size: tuple[int, int], repeats: int) -> dict[str, float]:
    """CPU seconds of one picture: CLIP's blocks but the last, the guide, and the rest."""
    model = segmenter(name, folder)
    encoder, spent = model.segmentor.image_encoder, {"clip": 0.0, "guide": 0.0}

    def timed(part: str, function: Callable) -> Callable:
        def run(*args: object, **more: object) -> object:
            start = time.process_time()
            try:
                return function(*args, **more)
            finally:
                spent[part] += time.process_time() - start

        return run

    encoder._clip_tower = timed("clip", encoder._clip_tower)
    encoder.guide.forward = types.MethodType(
        lambda self, *a, **k: timed("guide", type(self).forward)(self, *a, **k), encoder.guide
    )
    pixels, runs = picture(*size), []
    for turn in range(repeats + 1):
        spent.update(clip=0.0, guide=0.0)
        start = time.process_time()
        model.segment(pixels, WORDS, background=BACKGROUND, scores=False)
        total = time.process_time() - start
        if turn:  # the first encodes the words
            runs.append({**spent, "rest": total - sum(spent.values())})
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def _peak(name: str, folder: Path, size: tuple[int, int], out: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    model = segmenter(name, folder)
    model.segment(picture(100, 100), WORDS, background=BACKGROUND, scores=False)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    model.segment(picture(*size), WORDS, background=BACKGROUND, scores=False)
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    out.put((peak - resident) / 1e9)


def peak_memory(name: str, folder: Path, size: tuple[int, int]) -> float:
    """GB above the loaded networks, in a process of its own (Linux)."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    child = context.Process(target=_peak, args=(name, folder, size, out))
    child.start()
    child.join()
    return out.get(timeout=5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--size", nargs=2, type=int, default=[375, 500], metavar=("H", "W"))
    parser.add_argument("--large", nargs=2, type=int, default=[1500, 2000], metavar=("H", "W"))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", help="JSON file for the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("method | CLIP s | guide s | rest s | rest / both | GB at large")
        for method in args.methods:
            row = measure(method, folder, tuple(args.size), args.repeats)
            row["share"] = row["rest"] / (row["clip"] + row["guide"])
            if args.memory:
                row["gb"] = peak_memory(method, folder, tuple(args.large))
            found[method] = row
            print(" | ".join([method, *(f"{value:.3g}" for value in row.values())]), flush=True)
    if args.out:
        about = dict(size=args.size, large=args.large, torch=torch.__version__, threads=1)
        Path(args.out).write_text(json.dumps({**about, "methods": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
