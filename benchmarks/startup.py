"""What it costs to start, and what waiting threads cost beside other work.

    python benchmarks/startup.py --out benchmarks/results/startup-cpu.json
    python benchmarks/startup.py --beside 6

Whole processes, in turns after one that is not counted: seconds by the clock, the median and the
range, and the ratio to ``import torch``. ``--beside N`` runs the drawn benchmark instead, next to N
processes that keep the cores busy, with libgomp's threads spinning (its own default) and waiting
passively (what this project's programs ask for).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout without installation

from itaclip.runtime.tool import run_tool

PROJECT = Path(__file__).resolve().parents[1]
PYTHON = [sys.executable, "-W", "ignore"]
SEGMENT = ["-m", "itaclip", "segment", "docs/scene.png", "--model", "storybook-tiny"]
SEGMENT += ["--classes", "sky; sea; tree", "--out", "{folder}/scene.png"]
STARTS = {
    "import torch": ["-c", "import torch"],
    "import itaclip": ["-c", "import itaclip"],
    "import itaclip; itaclip.load": ["-c", "import itaclip; itaclip.load"],
    "itaclip --help": ["-m", "itaclip", "--help"],
    "eval.py --help": ["eval.py", "--help"],
    "itaclip segment, one drawn scene": SEGMENT,
}
EVALUATION = ["eval.py", "--config", "configs/cfg_storybook.py", "--work-dir", "{folder}"]
POLICIES = {
    "spinning": {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": ""},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"},
}


def seconds(command: Sequence[str], folder: str, environment: Mapping[str, str] = {}) -> float:
    """Of one process, from its start to its end.

    Raises:
        CalledProcessError: it failed.
    """
    filled = [part.format(folder=folder) for part in command]
    kept = {key: value for key, value in (os.environ | environment).items() if value}
    start = time.perf_counter()
    subprocess.run([*PYTHON, *filled], cwd=PROJECT, env=kept, check=True, capture_output=True)
    return time.perf_counter() - start


def starts(repeats: int) -> dict[str, list[float]]:
    """Command → seconds of each run."""
    found: dict[str, list[float]] = {name: [] for name in STARTS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats + 1):
            for name, command in STARTS.items():
                spent = seconds(command, folder)
                if turn:
                    found[name].append(spent)
    return found


def beside(busy: int, images: int) -> dict[str, float]:
    """Wait policy → seconds of an evaluation beside ``busy`` processes."""
    found = {}
    others = [subprocess.Popen([*PYTHON, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        for name, policy in POLICIES.items():
            with tempfile.TemporaryDirectory() as folder:
                command = [*EVALUATION, "--limit", str(images)]
                found[name] = seconds(command, folder, policy)
    finally:
        for other in others:
            other.kill()
            other.wait()
    return found


def lines(found: Mapping[str, Sequence[float]]) -> list[str]:
    """A Markdown table."""
    base = median(found["import torch"])
    rows = ["| | seconds | range | of `import torch` |", "|---|---:|---:|---:|"]
    for name, spent in found.items():
        middle = median(spent)
        rows.append(
            f"| `{name}` | {middle:.2f} | {min(spent):.2f}-{max(spent):.2f} | {middle / base:.2f} |"
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    parser.add_argument("--beside", type=int, default=0, metavar="N", help="busy processes")
    parser.add_argument("--images", type=int, default=30, metavar="N", help="with --beside")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the figures")
    args = parser.parse_args(arguments)
    if args.beside:
        found: dict = beside(args.beside, args.images)
        print(f"{args.images} drawn pictures beside {args.beside} busy processes")
        print("\n".join(f"  {name}: {spent:.0f} s" for name, spent in found.items()))
    else:
        found = starts(args.repeats)
        print("\n".join(lines(found)))
    if args.out is not None:
        from itaclip.evaluation.inputs import hardware, versions

        record = {"seconds": found, "versions": versions(), "hardware": hardware()}
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_tool(main))
