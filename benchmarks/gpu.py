"""One command for a card that nobody has tried: right, steady and fast, or what falls short.

    python benchmarks/gpu.py                        # under 8 minutes on one card
    python benchmarks/gpu.py --device cpu --quick   # under a minute, so that it cannot rot

It needs no network: speed is measured with random ViT-B/16 weights and text features, agreement
with storybook-tiny. It writes one JSON file and one page, and exits with 1 where something falls
short of the targets on a card; on a CPU the targets are shown, not judged.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.case import check_device, drawn_picture, environment, random_clip
from benchmarks.memory import PeakRecorder, StageRecorder
from benchmarks.stages import encoder_operations, matrix_rate
from itaclip.clip_model import load_clip
from itaclip.predict.images import fit
from itaclip.recipes import list_recipes
from itaclip.refinement import pamr
from itaclip.runtime.files import write_whole
from itaclip.runtime.tool import run_tool
from itaclip.segmentor import Segmentor
from itaclip.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[1]
# Encoder's share of the measured bf16 rate, images a second at stride 28, bytes above the weights.
TARGETS = dict(encoder_share=0.30, images_per_second=10.0, peak_bytes=4 << 30)
PICTURE = (375, 500)
PAMR = dict(num_iter=10, dilations=(8, 16))
# Queries and classes, the share of the views, and the input's short side, as the configs have them.
SETTINGS = {
    "VOC21": dict(queries=80, short_side=336, image_engineering_weight=0.7, pamr=PAMR),
    "COCO-Stuff": dict(queries=171, short_side=336, image_engineering_weight=0.75, pamr=PAMR),
}
# fp32 differs from the CPU's by rounding; the others by what they are.
TOLERANCE = dict(fp32=1e-3, bf16=0.2, fp16=0.05)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    device = torch.device(check_device(args.device))
    report: dict[str, Any] = dict(environment=environment(args.device), device=args.device)
    report["quick"], report["picture"] = args.quick, list(PICTURE)
    args.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    for name, part in PARTS.items():
        start = time.perf_counter()
        report[name] = part(device, args.quick, args.out)
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    report["seconds"] = time.perf_counter() - begin
    report["short"] = falls_short(report)
    kind = "cpu" if device.type == "cpu" else "gpu"
    write_whole(args.out / f"{kind}-check.json", json.dumps(report, indent=1) + "\n")
    page = render(report)
    write_whole(args.out / f"{kind}-check.md", page)
    print(page)
    if report["short"] and device.type != "cpu":
        sys.exit(1)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.py", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", help="'cuda', 'cuda:1', 'cpu' (default: cuda)")
    parser.add_argument("--quick", action="store_true", help="small models and pictures alone")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results", metavar="FOLDER")
    return parser.parse_args(argv)


# ---- models -------------------------------------------------------------------------------------


def speed_model(
    device: torch.device, quick: bool, which: str = "VOC21", **changes: Any
) -> nn.Module:
    """A model of ViT-B/16's sizes with random weights and text features; quick: storybook-tiny."""
    own = dict(SETTINGS[which]) | changes
    queries, _ = own.pop("queries"), own.pop("short_side")
    clip = load_clip("storybook-tiny") if quick else random_clip("ViT-B/16").eval()
    side = clip.visual.input_resolution
    stride = own.pop("stride", 28)
    if quick:
        own["pamr"], stride = dict(num_iter=2, dilations=(4, 8)), side // 2
    windows = dict(mode="slide", crop_size=side, stride=stride)
    model = Segmentor(
        clip,
        vocabulary=Vocabulary.empty(),
        test_cfg=windows,
        precision="auto",
        text_cache=False,
        **own,
    ).eval()
    generator = torch.Generator().manual_seed(0)
    texts = torch.randn(queries, model.text_encoder.text_projection.shape[1], generator=generator)
    model.vocabulary = Vocabulary.from_lists([f"thing {index}" for index in range(queries)])
    model.text_features = F.normalize(texts, dim=-1)
    return model.to(device)


def pixels(quick: bool, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    return drawn_picture(*((96, 128) if quick else PICTURE), seed)


def once(model: nn.Module, picture: np.ndarray, quick: bool) -> tuple[torch.Tensor, Any]:
    """From pixels to labels on the host, as an evaluation does."""
    size = picture.shape[:2]
    resized = fit(picture, None if quick else 336, 2048, model.image_encoder.patch_size, "picture")
    bgr = torch.from_numpy(np.ascontiguousarray(resized[..., ::-1].transpose(2, 0, 1)))
    inputs = model.data_preprocessor({"inputs": [bgr]})["inputs"][0]
    labels, scores = model.segment(inputs, size)
    return labels.cpu(), scores


def network_input(model: nn.Module, quick: bool) -> torch.Tensor:
    resized = fit(pixels(quick), None if quick else 336, 2048, model.image_encoder.patch_size, "")
    bgr = torch.from_numpy(np.ascontiguousarray(resized[..., ::-1].transpose(2, 0, 1)))
    return model.data_preprocessor({"inputs": [bgr]})["inputs"][0]


# ---- parts --------------------------------------------------------------------------------------


def tests(device: torch.device, quick: bool, out: Path) -> dict:
    """The tests of devices; those of CUDA on a card."""
    chosen = "mixing or precision" if quick or device.type == "cpu" else "cuda"
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_devices.py", "-k", chosen]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    passed = found.returncode == 0
    return dict(selected=chosen, passed=passed, end="" if passed else found.stdout[-2000:])


def agreement(device: torch.device, quick: bool, out: Path) -> list[dict]:
    """Scores and labels beside the CPU's in fp32, for each recipe and precision."""
    scene = np.asarray(Image.open(ROOT / "docs/scene.png").convert("RGB"))
    scene = scene[:96, :128] if quick else scene
    words = Vocabulary.from_lists(["sky", "sea", "grass", "sand", "house", "tree", "boat", "cloud"])
    windows = dict(mode="slide", crop_size=112, stride=56)
    make = dict(vocabulary=words, test_cfg=windows, text_cache=False, attention="clip")
    models = {
        precision: Segmentor(load_clip("storybook-tiny"), precision=precision, **make).eval()
        for precision in TOLERANCE
    }
    exact = models["fp32"] if device.type == "cpu" else Segmentor(
        load_clip("storybook-tiny"), **make).eval()  # fmt: skip
    rows = []
    for entry in list_recipes(without="guide"):
        if quick and entry.name not in ("clip", "itaclip", "resclip"):
            continue
        scaled = {key: "scaled" for key, value in entry.keys.items() if "layer" in key and value}
        attention = dict(recipe=entry.name, **scaled)
        if entry.name == "rfclip":
            attention["channels"] = ()  # those published are of another model
        labels, scores = once(exact.variant(attention), scene, True)
        for precision, model in models.items():
            own, found = once(model.to(device).variant(attention), scene, True)
            rows.append(
                dict(
                    recipe=entry.name,
                    precision=precision,
                    largest=float((found.cpu() - scores).abs().max()),
                    labels_changed=float((own != labels).float().mean()),
                )
            )
    return rows


def stages(device: torch.device, quick: bool, out: Path) -> dict:
    """Seconds of every stage, the encoder's rate, peak memory, and whether two runs are equal."""
    found = {}
    for which in SETTINGS:
        model = speed_model(device, quick, which)
        image, size = network_input(model, quick), pixels(quick).shape[:2]
        model.segment(image, size)  # warm-up
        with PeakRecorder(device) as peak:
            first = model.segment(image, size)
        with StageRecorder() as recorder:
            second = model.segment(image, size)
        rate = matrix_rate(device, model.image_encoder.dtype)
        operations = encoder_operations(model, image)
        found[which] = dict(
            seconds=recorder.seconds,
            passes=len(model.settings.windows.over(tuple(image.shape[-2:]))) * 5,
            precision=str(model.image_encoder.dtype)[6:],
            operations=operations,
            matrix_rate=rate,
            encoder_share=operations / recorder.seconds["encoder"] / rate,
            peak_bytes=peak.total,
            bit_equal=all(torch.equal(a, b) for a, b in zip(first, second, strict=True)),
        )
        del model, first, second
    return found


def speed(device: torch.device, quick: bool, out: Path) -> list[dict]:
    """Pictures a second, from pixels to labels on the host, at three strides."""
    rows = []
    for stride in (28, 56, 112):
        model = speed_model(device, quick, stride=stride)
        count = 2 if quick or device.type == "cpu" else 12
        once(model, pixels(quick), quick)
        times = []
        for seed in range(count):
            picture = pixels(quick, seed)
            start = time.perf_counter()
            once(model, picture, quick)
            times.append(time.perf_counter() - start)
        median = statistics.median(times)
        step = model.settings.windows.stride[0]
        rows.append(dict(stride=step, seconds=times, images_per_second=1 / median))
        if quick or (device.type == "cpu" and stride == 28):
            break  # on a CPU one stride takes minutes
    return rows


def growth(device: torch.device, quick: bool, out: Path) -> list[dict]:
    """Seconds and peak memory with the windows of a batch."""
    rows = []
    for batch in (1, 4) if quick or device.type == "cpu" else (1, 4, 16, 64, None):
        model = speed_model(device, quick, stride=112, window_batch=batch, pamr=None)
        image, size = network_input(model, quick), pixels(quick).shape[:2]
        model.segment(image, size)
        with PeakRecorder(device) as peak:
            start = time.perf_counter()
            model.segment(image, size)
            _wait(device)
            seconds = time.perf_counter() - start
        rows.append(dict(window_batch=batch, seconds=seconds, peak_bytes=peak.total))
    return rows


def refinement(device: torch.device, quick: bool, out: Path) -> dict:
    """PAMR alone."""
    size, queries = ((96, 128), 8) if quick else (PICTURE, 80)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*size, queries, generator=generator).to(device)
    guide = torch.randn(3, *size, generator=generator).to(device)
    times = []
    for _ in range(4):
        own = logits.clone()
        _wait(device)
        start = time.perf_counter()
        pamr(own, guide, **PAMR)
        _wait(device)
        times.append(time.perf_counter() - start)
    return dict(size=list(size), queries=queries, seconds=times[1:])


def trace(device: torch.device, quick: bool, out: Path) -> dict:
    """A trace of one picture, with the stages' names; open it in Perfetto or chrome://tracing."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] * (device.type == "cuda")
    model = speed_model(device, quick, stride=112)
    once(model, pixels(quick), quick)
    with torch.profiler.profile(activities=kinds) as profile:
        once(model, pixels(quick), quick)
    path = out / f"trace-{device.type}.json.gz"
    profile.export_chrome_trace(str(path))
    return dict(file=path.name, bytes=path.stat().st_size)


PARTS = dict(
    tests=tests, agreement=agreement, stages=stages, speed=speed, growth=growth,
    refinement=refinement, trace=trace,
)  # fmt: skip


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---- the page -----------------------------------------------------------------------------------


def falls_short(report: dict) -> list[str]:
    """A sentence for everything that is less than promised."""
    short = [] if report["tests"]["passed"] else ["the tests of devices fail"]
    for row in report["agreement"]:
        if row["largest"] > TOLERANCE[row["precision"]]:
            short.append(
                f"{row['recipe']} in {row['precision']}: scores differ by {row['largest']:.2g} "
                f"from the CPU's in fp32 (at most {TOLERANCE[row['precision']]})"
            )
    for which, found in report["stages"].items():
        if found["encoder_share"] < TARGETS["encoder_share"]:
            short.append(
                f"{which}: the encoder reaches {found['encoder_share']:.0%} of the measured rate "
                f"(at least {TARGETS['encoder_share']:.0%})"
            )
        if (found["peak_bytes"] or 0) > TARGETS["peak_bytes"]:
            short.append(
                f"{which}: {found['peak_bytes'] / 1e9:.1f} GB above the weights (at most "
                f"{TARGETS['peak_bytes'] / 1e9:.1f})"
            )
        if not found["bit_equal"]:
            short.append(f"{which}: two runs differ")
    first = report["speed"][0]
    if first["images_per_second"] < TARGETS["images_per_second"]:
        short.append(
            f"stride {first['stride']}: {first['images_per_second']:.2g} images a second (at least "
            f"{TARGETS['images_per_second']:g})"
        )
    return short


def render(report: dict) -> str:
    """The page, in Markdown."""
    own = report["environment"]
    machine = own.get("gpu") or f"{own['cpu']} ({own['cores']} cores, {own['threads']} threads)"
    what = "pictures of 375x500, random ViT-B/16 weights and text features"
    if report["quick"]:
        what = "pictures of 96x128, storybook-tiny with random text features, windows halved"
    lines = [
        f"# Device check: {machine}", "",
        f"`benchmarks/gpu.py --device {report['device']}{' --quick' * report['quick']}`, "
        f"{report['seconds']:.0f} s, torch {own['torch']}; {what}.", "",
        "## What falls short", "",
        *([f"* {sentence}" for sentence in report["short"]] or ["Nothing."]), "",
        "## Stages of one picture, seconds", "",
    ]  # fmt: skip
    names = sorted({name for found in report["stages"].values() for name in found["seconds"]})
    lines += ["| setting | " + " | ".join(names) + " | precision | of matrix rate | peak | equal |",
              "|---" * (len(names) + 5) + "|"]  # fmt: skip
    for which, found in report["stages"].items():
        cells = [f"{found['seconds'].get(name, 0):.3f}" for name in names]
        peak = "?" if found["peak_bytes"] is None else f"{found['peak_bytes'] / 1e9:.2f} GB"
        cells += [found["precision"], f"{found['encoder_share']:.0%}", peak]
        cells += ["yes" if found["bit_equal"] else "no"]
        lines.append(f"| {which} ({found['passes']} passes) | " + " | ".join(cells) + " |")
    lines += ["", "## Pictures a second", "", "| stride | images/s |", "|---|---|"]
    lines += [f"| {r['stride']} | {r['images_per_second']:.3g} |" for r in report["speed"]]
    lines += ["", "## Windows in a batch", "", "| windows | seconds | peak |", "|---|---|---|"]
    for row in report["growth"]:
        peak = "?" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.2f} GB"
        lines.append(f"| {row['window_batch'] or 'what fits'} | {row['seconds']:.3f} | {peak} |")
    refined = report["refinement"]
    lines += [
        "", f"PAMR alone, {'x'.join(map(str, refined['size']))} with {refined['queries']} queries, "
        f"10 iterations: {statistics.median(refined['seconds']):.3f} s.", "",
        "## Agreement with the CPU in fp32", "",
        "| recipe | precision | largest difference of a score | labels changed |",
        "|---|---|---|---|",
    ]  # fmt: skip
    for row in report["agreement"]:
        lines.append(
            f"| `{row['recipe']}` | {row['precision']} | {row['largest']:.1e} | "
            f"{row['labels_changed']:.2%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_tool(main)
