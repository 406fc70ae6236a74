"""Time and memory of every stage, beside the method as published code computes it.

    python benchmarks/stages.py --config configs/cfg_voc21.py --out benchmarks/results/cpu.json
    python benchmarks/stages.py --render benchmarks/results/cpu.json

All variants run on the same picture in the same process, in turns; medians and ranges are printed.
The peak memory of each is measured in a process of its own (see ``memory.py``).
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import published_style
from benchmarks.case import Case, check_device, environment, find_weights
from benchmarks.memory import PeakRecorder, StageRecorder, in_child
from benchmarks.report import stages_markdown
from itaclip.clip_model import load_clip
from itaclip.errors import InputError
from itaclip.runtime.stages import stage
from itaclip.runtime.tool import run_tool
from itaclip.sliding_window import WindowGrid
from itaclip.text_encoder import imagenet_templates

PUBLISHED = "published style"
# Windows that --quick computes of the published-style encoder; the rest is extrapolated.
_QUICK_WINDOWS = 4
# Side of the square matrices whose product shows what the device can do.
_PRODUCT_SIDE = dict(cpu=2048, cuda=8192)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/stages.py", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--config", default="configs/cfg_voc21.py", help="config (default: %(default)s)")
    add("--device", default="cpu", help="'cpu' or 'cuda' (default: %(default)s)")
    add("--precision", nargs="+", default=["fp32", "auto"], help="(default: fp32 auto)")
    add("--image", help="a picture; by default one is drawn")
    add("--size", nargs=2, type=int, default=[586, 640], metavar=("H", "W"), help="of that picture")
    add("--repeats", type=int, default=3, help="timed images per variant (default: %(default)s)")
    flag = argparse.BooleanOptionalAction
    add("--reference", action=flag, default=True, help="run the published-style implementation")
    add("--quick", action="store_true", help="extrapolate its encoder from a few windows")
    add("--text", action=flag, default=True, help="time the text set-up, in an empty cache")
    add(
        "--text-sample", type=int, default=3, metavar="N", help="texts that its text set-up encodes"
    )
    add("--stride", type=int, help="another stride than the config's")
    add("--clip-model", help="another checkpoint than the config's")
    add("--out", help="JSON file for the results")
    add("--render", metavar="JSON", help="only print the table of an earlier run")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict:
    """Measures, prints the table, writes the JSON file; returns what it holds."""
    args = parse_arguments(arguments)
    if args.render:
        results = json.loads(Path(args.render).read_text())
        print(stages_markdown(results))
        return results
    if args.repeats < 1 or args.text_sample < 1:
        raise InputError("--repeats, --text-sample: expected at least 1.")
    with tempfile.TemporaryDirectory() as folder:
        weights, described = find_weights(args.clip_model, args.config, Path(folder))
        changes = {}
        if args.stride:
            changes["test_cfg"] = dict(mode="slide", crop_size=224, stride=args.stride)
        case = Case(
            args.config, weights, check_device(args.device), args.image, tuple(args.size), changes
        )
        kept = os.environ.get("ITACLIP_CACHE_DIR")
        if args.text:
            os.environ["ITACLIP_CACHE_DIR"] = folder
        try:
            results = measure(case, args)
        finally:
            if args.text:
                os.environ.pop("ITACLIP_CACHE_DIR")
                os.environ |= {} if kept is None else dict(ITACLIP_CACHE_DIR=kept)
    results["settings"]["weights"] = described
    print(stages_markdown(results))
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(json.dumps(results, indent=1) + "\n")
        print(f"written to {args.out}", file=sys.stderr)
    return results


def measure(case: Case, args: argparse.Namespace) -> dict:
    """All measurements of one case, as plain data."""
    text_first, segmentors, text_later = _build(case, args)
    any_segmentor = segmentors[args.precision[0]]
    inputs, samples = case.inputs(any_segmentor)
    output_size = tuple(samples[0].ori_shape[:2])
    variants = {precision: _ours(segmentors[precision]) for precision in args.precision}
    published_text = {}
    if args.reference:
        clip = load_clip(case.clip_model).to(case.device)
        if args.text:
            _say("text set-up, published style")
            published_text = _published_text(clip, any_segmentor, args.text_sample)
        windows = _QUICK_WINDOWS if args.quick else None
        variants = {PUBLISHED: _published(clip, any_segmentor, windows)} | variants

    times = {name: [] for name in variants}
    for run in variants.values():  # warm-up on one window
        run([inputs[0][:, :224, :224]], [type(samples[0])()])
    outputs = {}
    for repeat in range(args.repeats):
        for name, run in variants.items():
            _say(f"image {repeat + 1} of {args.repeats}, {name}")
            with StageRecorder() as recorder:
                start = time.perf_counter()
                outputs[name] = [part.cpu() for part in run(inputs, samples)]
                total = time.perf_counter() - start
            times[name].append(dict(recorder.seconds) | dict(total=total))

    count = len(window_grid(any_segmentor, inputs[0]))
    rows = []
    for name in variants:
        row = dict(name=name, images=times[name], text_later=text_later.get(name, []))
        row |= dict(text_first=text_first.get(name, []))
        if name == PUBLISHED:
            row |= dict(precision="fp32", text_first=published_text.get("seconds", []))
            row["text_note"] = published_text.get("note")
            if args.quick and count > _QUICK_WINDOWS:
                _extrapolate(row, count / _QUICK_WINDOWS)
        else:
            dtype = str(segmentors[name].image_encoder.dtype).removeprefix("torch.")
            row |= dict(precision=dtype, encoder=_rates(segmentors[name], inputs[0], times[name]))
            if args.reference and not args.quick:
                row["difference"] = _difference(outputs[PUBLISHED], outputs[name])
        rows.append(row)
    settings = dict(
        config=case.config, device=case.device, picture=list(output_size),
        network_input=list(inputs[0].shape[1:]), windows=count,
        views=len(any_segmentor.settings.views),
        queries=len(any_segmentor.text_features), classes=any_segmentor.vocabulary.num_classes,
        stride=case.changes.get("test_cfg", {}).get("stride"), repeats=args.repeats,
        text_difference=published_text.get("difference"), date=date.today().isoformat(),
    )  # fmt: skip
    if settings["stride"] is None and not any_segmentor.settings.windows.whole:
        settings["stride"] = list(any_segmentor.settings.windows.stride)
    del variants, segmentors, any_segmentor, outputs
    for row in rows:
        _say(f"memory, {row['name']}")
        row["memory"] = in_child(peak_memory, case, row["name"], args.precision[0], args.quick)
    return dict(settings=settings, variants=rows, environment=environment(case.device))


def _build(case: Case, args: argparse.Namespace) -> tuple[dict, dict, dict]:
    """Seconds of the first text set-up, the segmentors, and seconds of later set-ups.

    The text tower always runs in fp32, so that the first start is measured once, for all.
    """
    _say("text set-up")
    with StageRecorder() as recorder:
        case.segmentor(args.precision[0])
    first = {name: [recorder.seconds["text"]] for name in args.precision if args.text}
    segmentors, later = {}, {name: [] for name in args.precision}
    for name in args.precision:
        for _ in range(args.repeats if args.text else 1):
            with StageRecorder() as recorder:
                segmentors[name] = case.segmentor(name)
            later[name].append(recorder.seconds["text"])
    return first, segmentors, later


def _ours(segmentor: nn.Module):
    def run(inputs, samples):
        sample = segmentor.predict(inputs, samples)[0]
        return sample.seg_logits.data, sample.pred_sem_seg.data[0]

    return run


def _published(clip: nn.Module, segmentor: nn.Module, max_windows: int | None):
    model = published_style.PublishedStyle(clip, segmentor)

    def run(inputs, samples):
        size = tuple(samples[0].metainfo.get("ori_shape", inputs[0].shape[1:])[:2])
        return model.segment(inputs[0], size, max_windows)

    return run


def _published_text(clip: nn.Module, segmentor: nn.Module, sample: int) -> dict:
    """Seconds for all texts, extrapolated from some: each takes 80 prompts of 77 tokens."""
    vocabulary, templates = segmentor.vocabulary, imagenet_templates()
    auxiliary = [text for text in vocabulary.auxiliary_texts if text is not None]
    texts = [*vocabulary.queries, *auxiliary]
    chosen = texts[:: max(1, len(texts) // sample)][:sample]
    with StageRecorder() as recorder, stage("text"):
        features = published_style.text_features(clip, chosen, templates)
    seconds = recorder.seconds["text"] * len(texts) / len(chosen)
    ours = segmentor.text_encoder.template_features(chosen, templates)
    prompts = [len(group) * len(templates) for group in (chosen, texts)]
    note = f"extrapolated from {prompts[0]} of {prompts[1]} prompts" if chosen != texts else None
    return dict(seconds=[seconds], note=note, difference=float((features - ours).abs().max()))


def _extrapolate(row: dict, factor: float) -> None:
    """Scales the stages that grow with the windows."""
    for times in row["images"]:
        for name in ("views", "encoder", "upsampling"):
            added = times.get(name, 0.0) * (factor - 1)
            times["total"] += added
            times[name] = times.get(name, 0.0) + added
    row["image_note"] = f"views, encoder, upsampling extrapolated from {_QUICK_WINDOWS} windows"


def _difference(published: list, ours: list) -> dict:
    scores = (published[0] - ours[0]).abs()
    return dict(
        scores_max=float(scores.max()),
        scores_mean=float(scores.mean()),
        labels_changed=float((published[1] != ours[1]).float().mean()),
    )


def peak_memory(case: Case, variant: str, precision: str, quick: bool) -> dict:
    """Peak memory of one image; to be called in a fresh process."""
    own = variant != PUBLISHED
    segmentor = case.segmentor(variant if own else precision)
    inputs, samples = case.inputs(segmentor)
    if own:
        run = _ours(segmentor)
    else:
        run = _published(
            load_clip(case.clip_model).to(case.device), segmentor, 1 if quick else None
        )
    with PeakRecorder(case.device) as recorder:
        run(inputs, samples)
    return recorder.result()


def window_grid(segmentor: nn.Module, image: torch.Tensor) -> WindowGrid:
    size = tuple(image.shape[-2:])
    return segmentor.settings.windows.over(size)


def _rates(segmentor: nn.Module, image: torch.Tensor, times: list[dict]) -> dict:
    """The encoder's matrix arithmetic per second, and what one large product reaches."""
    operations = encoder_operations(segmentor, image)
    device, dtype = image.device, segmentor.image_encoder.dtype
    seconds = sorted(run["encoder"] for run in times)[len(times) // 2]
    return dict(
        operations=operations,
        per_second=operations / seconds,
        large_product_per_second=matrix_rate(device, dtype),
    )


def encoder_operations(segmentor: nn.Module, image: torch.Tensor) -> int:
    """Multiplications and additions of the encoder's matrix products for one image.

    Counted as the method needs them: 12·N·D² weights' products a block, two N×N products per
    attention; the last block has no feed-forward part unless the recipe keeps it.
    """
    windows, encoder = window_grid(segmentor, image), segmentor.image_encoder
    h, w = encoder.grid(windows.window)
    visual, recipe = encoder.visual, encoder.recipe
    tokens, width, blocks = 1 + h * w, encoder.width, encoder.depth
    linear = 12 * (blocks - 1) + (12 if recipe.feed_forward else 4)
    products = [term for term in recipe.terms if term not in ("identity", "window")]
    attentions = blocks - 1 + len(products) * (1 + len(recipe.middle_layers))
    one_pass = 2 * tokens * width**2 * linear + 4 * tokens**2 * width * attentions
    one_pass += 2 * h * w * width * 3 * encoder.patch_size**2  # patch embedding
    one_pass += 2 * tokens * width * visual.proj.shape[1]
    return one_pass * len(windows) * len(segmentor.settings.views)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the best of five large square matrix products."""
    size = _PRODUCT_SIDE[device.type]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for attempt in range(6):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        if attempt:
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _say(what: str) -> None:
    print(f"… {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_tool(main))
