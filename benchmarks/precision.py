"""What a precision, and how work is batched, change in the results, beside fp32.

    python benchmarks/precision.py --out benchmarks/results/precision-cpu.json
    python benchmarks/precision.py --render benchmarks/results/precision-cpu.json

Segments the first images of a config's test data with every variant and compares class scores and
labels with those of fp32 in default batches. mIoU is of these images alone: variants may be
compared with each other, but with nothing else.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.evaluation import IoUMetric
from mmseg.registry import DATASETS, MODELS
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout without installation

import itaclip  # noqa: F401  (registers the segmentor)
from itaclip.errors import InputError
from itaclip.evaluation.inputs import hardware, versions
from itaclip.runtime.files import resolve_path
from itaclip.runtime.tool import run_tool

# Name of the variant -> changes of the model's settings. The first one is what others are held to.
VARIANTS: dict[str, dict[str, Any]] = {
    "fp32": dict(precision="fp32"),
    "fp32 again": dict(precision="fp32"),
    "fp32, one window at a time": dict(precision="fp32", window_batch=1),
    "fp32, labels in strips": dict(precision="fp32", return_scores=False),
    "bf16": dict(precision="bf16"),
    "bf16, one window at a time": dict(precision="bf16", window_batch=1),
    "fp16": dict(precision="fp16"),
}


def segment(model: Any, sample: dict) -> tuple[Tensor | None, Tensor]:
    """Class scores (C, H, W), None where the model gives none, and labels (H, W)."""
    data = {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"].clone()]}
    result = model.test_step(data)[0]
    scores = result.seg_logits.data.cpu() if "seg_logits" in result else None
    return scores, result.pred_sem_seg.data[0].cpu()


def measure(path: str, images: int, variants: Sequence[str], device: str) -> dict[str, Any]:
    """Runs all variants on each image in turn.

    Raises:
        InputError: the config or one of its files cannot be used.
    """
    config = Config.fromfile(resolve_path(path, "--config"))
    init_default_scope(config.get("default_scope", "mmseg"))
    dataset = DATASETS.build(config.test_dataloader.dataset)
    if not 1 <= images <= len(dataset):
        raise InputError(f"--images: expected 1 to {len(dataset)}, but got {images}.")
    models = {
        name: MODELS.build({**config.model, **VARIANTS[name]}).to(device).eval()
        for name in variants
    }
    classes = len(dataset.metainfo["classes"])
    sums = {name: torch.zeros(2, classes, dtype=torch.float64) for name in variants}
    largest = dict.fromkeys(variants, 0.0)
    total, changed, pixels = dict.fromkeys(variants, 0.0), dict.fromkeys(variants, 0), 0
    for index in tqdm(range(images), unit="image"):
        sample = dataset[index]
        truth = sample["data_samples"].gt_sem_seg.data[0].long()
        pixels += truth.numel()
        expected = None
        for name, model in models.items():
            scores, labels = segment(model, sample)
            expected = expected or (scores, labels)
            if scores is not None:
                difference = (scores - expected[0]).abs()
                largest[name] = max(largest[name], float(difference.max()))
                total[name] += float(difference.double().mean()) * truth.numel()
            changed[name] += int((labels != expected[1]).sum())
            areas = IoUMetric.intersect_and_union(labels, truth, classes, 255)
            sums[name] += torch.stack(areas[:2]).double()
    return {
        "config": path,
        "images": images,
        "device": device,
        "variants": {
            name: {
                "largest_difference": largest[name] if model.settings.return_scores else None,
                "mean_difference": total[name] / pixels if model.settings.return_scores else None,
                "labels_changed": changed[name] / pixels,
                "miou": _miou(sums[name]),
            }
            for name, model in models.items()
        },
        "versions": versions(),
        "hardware": hardware(),
    }


def _miou(sums: Tensor) -> float:
    intersection, union = sums
    return round(100 * float((intersection[union > 0] / union[union > 0]).mean()), 3)


def table(found: dict[str, Any]) -> list[str]:
    """The figures as Markdown."""
    lines = [
        "| variant | largest difference of a class score | mean | labels changed | mIoU |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in found["variants"].items():
        scores = [row["largest_difference"], row["mean_difference"]]
        cells = ["–" if value is None else f"{value:.1e}" if value else "0" for value in scores]
        labels = f"{100 * row['labels_changed']:.3f} %" if row["labels_changed"] else "none"
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {labels} | {row['miou']:.2f} |")
    machine = (found["hardware"]["gpus"] or [found["hardware"]["processor"]])[0]
    lines.append("")
    lines.append(
        f"{found['images']} images of `{found['config']}` on {machine}, PyTorch "
        f"{found['versions']['torch']}, {found['hardware']['threads']} threads."
    )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/cfg_storybook.py")
    parser.add_argument("--images", type=int, default=50, metavar="N")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--variants", nargs="+", choices=[*VARIANTS][1:], default=[*VARIANTS][1:], metavar="NAME"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the figures")
    parser.add_argument(
        "--render", type=Path, metavar="FILE", help="show figures of an earlier run"
    )
    args = parser.parse_args(arguments)
    if args.render is not None:
        try:
            found = json.loads(resolve_path(args.render, "--render").read_text())
            print("\n".join(table(found)))
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{args.render}: no figures of this script; run it again.") from error
        return
    found = measure(args.config, args.images, [*VARIANTS][:1] + args.variants, args.device)
    print("\n".join(table(found)))
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(run_tool(main))
