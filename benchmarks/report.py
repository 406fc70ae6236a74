"""Results as Markdown tables."""

from collections.abc import Mapping, Sequence
from statistics import median

from benchmarks.case import environment_line

STAGES = ("views", "encoder", "upsampling", "refinement", "post-processing")
_TITLES = dict(upsampling="upsampling and accumulation")


def stages_markdown(results: Mapping) -> str:
    """The table of ``benchmarks/stages.py``: a column per variant, a row per stage."""
    settings, variants = results["settings"], results["variants"]
    first = variants[0]
    rows = [
        ["", *(_heading(v) for v in variants)],
        ["---", *("---:" for _ in variants)],
    ]

    def row(title: str, cells: Sequence[str]) -> None:
        if any(cell not in ("", "–") for cell in cells):
            rows.append([title, *cells])

    row("text, first start", [_seconds(v["text_first"]) for v in variants])
    row("text, from the cache", [_seconds(v["text_later"]) for v in variants])
    totals = [[run["total"] for run in v["images"]] for v in variants]
    for stage in STAGES:
        cells = []
        for v, total in zip(variants, totals, strict=True):
            spent = [run.get(stage, 0.0) for run in v["images"]]
            peak = v["memory"]["stage_peaks"].get(stage)
            share = f", {100 * median(spent) / median(total):.0f} %"
            cells.append(_seconds(spent) + share + (f", {_megabytes(peak)}" if peak else ""))
        row(_TITLES.get(stage, stage), cells)
    row("**image, total**", [f"**{_seconds(total)}**" for total in totals])
    rest = [[run["total"] - run.get("encoder", 0.0) for run in v["images"]] for v in variants]
    row("all but the encoder", [_seconds(spent) for spent in rest])
    row("images/s", [f"{1 / median(total):.3g}" for total in totals])
    peaks = [v["memory"]["peak_bytes"] for v in variants]
    row("peak memory above the weights", [_megabytes(peak) for peak in peaks])
    if len(variants) > 1:
        base = median(totals[0])
        row(f"image, faster than {first['name']}", [f"{base / median(t):.1f}×" for t in totals])
        others = [f"{median(rest[0]) / median(spent):.1f}×" for spent in rest]
        row("all but the encoder, faster", others)
        if all(peaks):
            row("memory, less", [f"{peaks[0] / peak:.1f}×" for peak in peaks])
    differences = [v.get("difference") for v in variants]
    for title, key, form in (
        ("class scores, largest difference", "scores_max", "{:.1e}"),
        ("class scores, mean difference", "scores_mean", "{:.1e}"),
        ("labels changed", "labels_changed", "{:.3%}"),
    ):
        row(title, [form.format(d[key]) if d else "–" for d in differences])
    rates = [v.get("encoder") for v in variants]
    row(
        "encoder's matrix products per second",
        [f"{r['per_second'] / 1e12:.3g} Tflop/s" if r else "–" for r in rates],
    )
    row(
        "… as a share of one large product's",
        [f"{r['per_second'] / r['large_product_per_second']:.0%}" if r else "–" for r in rates],
    )
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
    return "\n\n".join([table, _stages_notes(settings, variants, results["environment"])])


def _stages_notes(settings: Mapping, variants: Sequence[Mapping], found: Mapping) -> str:
    height, width = settings["picture"]
    net_height, net_width = settings["network_input"]
    stride = settings["stride"]
    notes = [
        f"`{settings['config']}` on {settings['device']}, {settings['weights']}; one picture of "
        f"{height}×{width} (network input {net_height}×{net_width}; height first), "
        f"{settings['windows']} windows (stride {stride}) × {settings['views']} views, "
        f"{settings['queries']} queries, {settings['classes']} classes. Medians of "
        f"{settings['repeats']} (lowest–highest); shares of the image's total; peak memory in the "
        "stage.",
        environment_line(found),
        f"Memory: {variants[0]['memory']['method']}. Measured on {settings['date']}.",
    ]
    for variant in variants:
        for key in ("text_note", "image_note"):
            if variant.get(key):
                notes.append(f"{variant['name']}: {key.split('_')[0]} {variant[key]}.")
    if settings.get("text_difference") is not None:
        notes.append(f"Text features differ by at most {settings['text_difference']:.1e}.")
    return " ".join(notes)


def scaling_markdown(results: Mapping) -> str:
    """The tables of ``benchmarks/scaling.py``: one per axis."""
    parts = []
    for axis, points in results["axes"].items():
        lines = [
            f"| {axis} | windows | time | encoder, per window | the rest, per pixel and query "
            "| peak memory | to linear growth: encoder, rest, memory |",
            "|" + "---:|" * 7,
        ]
        for point in points:
            growth = ", ".join(f"{point['growth'][key]:.2f}" for key in ("encoder", "rest", "peak"))
            lines.append(
                f"| {point['label']} | {point['windows']} | {_seconds(point['total'])} | "
                f"{1e3 * point['encoder_per_window']:.1f} ms | "
                f"{1e9 * point['rest_per_element']:.2f} ns | {_megabytes(point['peak_bytes'])} | "
                f"{growth} |"
            )
        parts.append("\n".join(lines))
    large = results.get("large") or []
    parts += map(large_sentence, [large] if isinstance(large, Mapping) else large)
    settings = results["settings"]
    parts.append(
        f"{settings['weights']} on {settings['device']}, precision {settings['precision']}. "
        "'To linear growth' divides the growth since the axis's first row by the growth of the "
        "windows (encoder), of pixels × queries (rest, memory): 1 is linear, below is better. "
        f"{environment_line(results['environment'])} Measured on {settings['date']}."
    )
    return "\n\n".join(parts)


def large_sentence(point: Mapping) -> str:
    """What the large picture took."""
    peaks = ", ".join(
        f"{stage} {_megabytes(peak)}" for stage, peak in point["memory"]["stage_peaks"].items()
    )
    spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in point["stages"].items())
    result = point["result_bytes"]
    held = f"{_megabytes(result)} of it are the scores" if result else "labels only, no scores"
    limit = "under" if point["peak_bytes"] < 4e9 else "not under"
    return (
        f"Large picture, {point['label']}: {point['total'][0]:.1f} s ({spent}); peak memory above "
        f"the weights {_megabytes(point['peak_bytes'])}, {limit} 4 GB ({peaks}); {held}."
    )


def _heading(variant: Mapping) -> str:
    name, precision = variant["name"], variant["precision"]
    if name == "published style":
        return f"{name}, {precision}"
    short = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}.get(precision, precision)
    return f"ours, `{name}`" + (f" ({short})" if short != name else "")


def _seconds(values: Sequence[float]) -> str:
    """Median and range; nothing for nothing."""
    if not values:
        return "–"
    middle = median(values)
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 2 if middle >= 0.1 else 4
    text = f"{middle:.{digits}f} s"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f}–{max(values):.{digits}f})"
    return text


def _megabytes(size: int | None) -> str:
    if size is None:
        return "–"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
