"""How time and memory grow with image area, queries, stride and batch; and one large picture.

    python benchmarks/scaling.py --out benchmarks/results/scaling-cpu.json
    python benchmarks/scaling.py --large --out benchmarks/results/large-cpu.json

Every point runs in a fresh process: the first image gives the peak memory and warms up, the next
ones the time. Queries are numbered names with random text features, since encoding thousands of
prompts is not what is measured here. With ``--out x.json`` the plot is written to ``x.png``.
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
import torch.nn.functional as F
from mmseg.structures import SegDataSample

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.case import Case, check_device, drawn_picture, environment, find_weights
from benchmarks.memory import PeakRecorder, StageRecorder, in_child
from benchmarks.report import large_sentence, scaling_markdown
from itaclip.runtime.tool import run_tool
from itaclip.vocabulary import Vocabulary

# The network's input, the output, queries, stride and batch that the axes vary one of.
_BASE = dict(network=(336, 448), output=(588, 784), queries=80, stride=56, batch=1)
AXES = {
    "area": [
        dict(network=(h, w), output=(h * 7 // 4, w * 7 // 4))
        for h, w in ((224, 298), (336, 448), (476, 634), (672, 896))
    ],
    "queries": [dict(queries=q) for q in (20, 80, 160, 320)],
    "stride": [dict(stride=s) for s in (224, 112, 56, 28)],
    "batch": [dict(batch=b) for b in (1, 2, 4)],
}
# 3000×2000 pixels (width × height), as VOC's pipeline hands them to the network.
LARGE = dict(network=(336, 504), output=(2000, 3000), queries=150, stride=28, batch=1)
# For trials: every size a fraction.
_SMALL = dict(network=(64, 80), output=(96, 120), queries=5, stride=32, batch=1)
_SMALL_AXES = {
    "area": [{}, dict(network=(128, 160), output=(192, 240))],
    "queries": [{}, dict(queries=10)],
}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/scaling.py", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--config", default="configs/cfg_voc21.py", help="the method (default: %(default)s)")
    add("--device", default="cpu", help="'cpu' or 'cuda' (default: %(default)s)")
    add("--precision", default="auto", help="(default: %(default)s)")
    add("--axes", nargs="+", choices=AXES, default=list(AXES), help="(default: all)")
    add("--large", action="store_true", help="one 3000×2000 picture, 150 classes, stride 28")
    add("--small", action="store_true", help="tiny sizes, to try the command")
    add("--repeats", type=int, default=3, help="timed images per point (default: %(default)s)")
    add("--clip-model", help="another checkpoint than the config's")
    add("--out", help="JSON file for the results; the plot lies beside it")
    add("--render", metavar="JSON", help="only print the tables of an earlier run")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict:
    """Measures, prints the tables, writes JSON and plot; returns what the JSON holds."""
    args = parse_arguments(arguments)
    if args.render:
        results = json.loads(Path(args.render).read_text())
        print(scaling_markdown(results))
        return results
    kept = os.environ.get("ITACLIP_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        weights, described = find_weights(args.clip_model, args.config, Path(folder))
        case = Case(args.config, weights, check_device(args.device))
        os.environ["ITACLIP_CACHE_DIR"] = folder  # handed on to the children
        try:
            results = measure(case, args)
        finally:
            os.environ.pop("ITACLIP_CACHE_DIR")
            os.environ |= {} if kept is None else dict(ITACLIP_CACHE_DIR=kept)
    results["settings"]["weights"] = described
    print(scaling_markdown(results))
    if args.out:
        path = Path(args.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
        if results["axes"]:
            plot(results, path.with_suffix(".png"))
        print(f"written to {path}", file=sys.stderr)
    return results


def measure(case: Case, args: argparse.Namespace) -> dict:
    """All points, as plain data."""
    results = dict(axes={}, large=[])
    base = _SMALL if args.small else _BASE
    if args.large:
        small = dict(network=(64, 80), output=(200, 300), queries=7) if args.small else {}
        results["large"] = []
        for scores in (True, False):
            what = "scores and labels" if scores else "labels"
            print(f"… the large picture, {what}", file=sys.stderr, flush=True)
            point = LARGE | small | dict(return_scores=scores)
            measured = in_child(measure_point, case, args.precision, point, 0)
            results["large"].append(measured)
            print(large_sentence(measured), file=sys.stderr)
    else:
        axes = _SMALL_AXES if args.small else {axis: AXES[axis] for axis in args.axes}
        for axis, changes in axes.items():
            points = []
            for change in changes:
                point = base | change
                print(f"… {axis}: {point}", file=sys.stderr, flush=True)
                measured = in_child(measure_point, case, args.precision, point, args.repeats)
                points.append(measured | dict(label=_label(axis, point)))
            results["axes"][axis] = [_growth(point, points[0]) for point in points]
    results["settings"] = dict(
        config=case.config, device=case.device, precision=args.precision, repeats=args.repeats,
        date=date.today().isoformat(),
    )  # fmt: skip
    return results | dict(environment=environment(case.device))


def measure_point(case: Case, precision: str, point: dict, repeats: int) -> dict:
    """Time and peak memory of one point; to be called in a fresh process.

    With ``repeats`` 0, the first image gives the time as well.
    """
    stride = point["stride"]
    changes = dict(
        vocabulary=Vocabulary.from_lists(["thing"]),
        name_path=None,
        auxiliary_text_path=None,
        aux_text_weight=0.0,
        prob_thd=0.0,
        test_cfg=dict(mode="slide", crop_size=224, stride=stride),
    )
    case = Case(case.config, case.clip_model, case.device, changes=changes)
    segmentor = case.segmentor(precision).variant(return_scores=point.get("return_scores", True))
    queries = point["queries"]
    segmentor.vocabulary = Vocabulary.from_lists([f"thing {i}" for i in range(queries)])
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(queries, segmentor.text_features.shape[1], generator=generator)
    segmentor.text_features = F.normalize(random, dim=-1).to(case.device)

    picture = torch.from_numpy(drawn_picture(*point["network"])).permute(2, 0, 1)
    samples = [SegDataSample(metainfo=dict(ori_shape=point["output"]))] * point["batch"]
    data = dict(inputs=[picture] * point["batch"], data_samples=samples)
    data = segmentor.data_preprocessor(data)

    def run() -> None:
        segmentor.predict(data["inputs"], data["data_samples"])
        for sample in data["data_samples"]:
            del sample.seg_logits, sample.pred_sem_seg

    start = time.perf_counter()
    with PeakRecorder(case.device) as peak:
        segmentor.predict(data["inputs"], [SegDataSample(metainfo=s.metainfo) for s in samples])
    totals, stages = [time.perf_counter() - start], [dict(peak.seconds)]
    for repeat in range(repeats):
        if repeat == 0:
            totals, stages = [], []
        start = time.perf_counter()
        with StageRecorder() as recorder:
            run()
        totals.append(time.perf_counter() - start)
        stages.append(dict(recorder.seconds))
    order = sorted(range(len(totals)), key=totals.__getitem__)
    middle = order[len(order) // 2]
    encoder, rest = stages[middle]["encoder"], totals[middle] - stages[middle]["encoder"]
    windows = point["batch"] * len(segmentor.settings.windows.over(tuple(point["network"])))
    elements = point["batch"] * point["output"][0] * point["output"][1] * queries
    return dict(
        **point, label=_label("all", point), windows=windows, total=totals,
        stages=stages[middle], memory=peak.result(), peak_bytes=peak.total, elements=elements,
        encoder=encoder, rest=rest, encoder_per_window=encoder / windows,
        rest_per_element=rest / elements,
        result_bytes=4 * elements * segmentor.settings.return_scores,
    )  # fmt: skip


def _growth(point: dict, first: dict) -> dict:
    """Growth since the axis's first point over that of what it should be linear in."""
    units = dict(encoder="windows", rest="elements", peak="elements")
    values = dict(encoder="encoder", rest="rest", peak="peak_bytes")
    growth = {}
    for key, unit in units.items():
        now, before = point[values[key]], first[values[key]]
        growth[key] = (now / before) / (point[unit] / first[unit]) if now and before else None
    return point | dict(growth=growth)


def _label(axis: str, point: dict) -> str:
    if axis in ("queries", "stride", "batch"):
        return str(point[axis])
    (h, w), (out_h, out_w) = point["network"], point["output"]
    if axis == "area":
        return f"{out_h}×{out_w} (network {h}×{w})"
    return f"{out_h}×{out_w} pixels (network {h}×{w}), {point['queries']} queries, stride " + str(
        point["stride"]
    )


def plot(results: dict, path: Path) -> None:
    """One panel per axis: seconds of encoder and rest (left), peak memory (right)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axes = results["axes"]
    figure, panels = plt.subplots(1, len(axes), figsize=(4.2 * len(axes), 3.6), squeeze=False)
    for panel, (axis, points) in zip(panels[0], axes.items(), strict=True):
        if axis == "area":
            x = [point["output"][0] * point["output"][1] / 1e6 for point in points]
            panel.set_xlabel("output, megapixels")
        else:
            x = [point[axis] for point in points]
            panel.set_xlabel(f"{axis}, pixels" if axis == "stride" else axis)
        panel.plot(x, [point["encoder"] for point in points], "o-", label="encoder")
        panel.plot(x, [point["rest"] for point in points], "s-", label="the rest")
        panel.set_ylabel("seconds")
        panel.set_ylim(bottom=0)
        twin = panel.twinx()
        memory = [(point["peak_bytes"] or 0) / 1e6 for point in points]
        twin.plot(x, memory, "^--", color="gray", label="peak memory")
        twin.set_ylabel("MB above the weights")
        twin.set_ylim(bottom=0)
        handles = [*panel.get_lines(), *twin.get_lines()]
        panel.legend(handles, [line.get_label() for line in handles], fontsize=8)
        panel.set_title(axis)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(run_tool(main))
