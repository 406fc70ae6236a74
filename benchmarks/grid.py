"""Many methods in one pass beside the same methods one by one.

    python benchmarks/grid.py --out benchmarks/results/grid-cpu.json

All recipes that need CLIP alone, without views and refinement, on drawn pictures with the tiny
model: seconds of one method, of all in one grid, and of all one after the other, in one process and
in turns; and the most memory that one method and the grid hold, each in a process of its own.
Models are built before the clock starts.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout without installation

from benchmarks.memory import in_child
from itaclip.runtime.tool import run_tool

METHODS = (
    *("clip", "maskclip", "sclip", "clearclip", "naclip", "itaclip", "itaclip_gaussian", "clipseg"),
    *("clip_surgery", "gem", "resclip", "scclip", "pearl", "rfclip"),
)


def plan(methods: Sequence[str], images: int) -> Any:
    """A plan of methods on the first drawn pictures, its models built."""
    from itaclip import plugin  # noqa: F401
    from itaclip.evaluation.arguments import parse_arguments
    from itaclip.evaluation.command import load_config
    from itaclip.evaluation.grid import Study, make_plan

    path = Path(__file__).resolve().parents[1] / "configs" / "cfg_storybook.py"
    config = load_config(parse_arguments(["--config", str(path)]))
    own = {"rfclip": dict(recipe="rfclip", channels=())}
    rows = {name: {"model.attention": own.get(name, name)} for name in methods}
    base = {"model.pamr": None, "model.image_engineering_weight": None}
    return make_plan(config, path, {"methods": Study("Methods", rows, base=base)}, limit=images)


def seconds(methods: Sequence[str], images: int) -> float:
    """Of an evaluation in one grid, without building."""
    from itaclip.evaluation.grid import evaluate_plan

    made = plan(methods, images)
    start = time.perf_counter()
    evaluate_plan(made)
    return time.perf_counter() - start


def peak(methods: Sequence[str], images: int) -> int:
    """Most bytes that this process ever held."""
    import resource

    seconds(methods, images)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(images: int, repeats: int) -> dict[str, Any]:
    """Seconds of every turn, and peaks."""
    found: dict[str, Any] = {"images": images, "one": [], "grid": [], "apart": []}
    seconds(METHODS[:1], 2)  # warm-up
    for _ in range(repeats):
        found["one"].append(seconds(["itaclip"], images))
        found["grid"].append(seconds(METHODS, images))
        found["apart"].append(sum(seconds([method], images) for method in METHODS))
    each = {method: in_child(peak, [method], images) for method in METHODS}
    found["peak_of_most_demanding"] = max(each.values())
    found["peak_of_grid"] = in_child(peak, METHODS, images)
    return found


def lines(found: Mapping[str, Any]) -> list[str]:
    """The figures in words."""
    one, grid, apart = (median(found[key]) for key in ("one", "grid", "apart"))
    most, all_of_them = found["peak_of_most_demanding"], found["peak_of_grid"]
    return [
        f"{len(METHODS)} methods on {found['images']} drawn pictures, medians:",
        f"  one method {one:.1f} s; all one by one {apart:.1f} s ({apart / one:.1f} times)",
        f"  all in one grid {grid:.1f} s ({grid / one:.1f} times one)",
        f"  peak memory: the most demanding method {most / 1e6:.0f} MB, the grid "
        f"{all_of_them / 1e6:.0f} MB ({all_of_them / most:.2f} times)",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=40, metavar="N")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the figures")
    args = parser.parse_args(arguments)
    found = measure(args.images, args.repeats)
    print("\n".join(lines(found)))
    if args.out is not None:
        from itaclip.evaluation.inputs import hardware, versions

        record = found | {"versions": versions(), "hardware": hardware()}
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_tool(main))
