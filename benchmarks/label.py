"""Labelling many small pictures: pictures per second, what the engine itself costs, and memory.

    python benchmarks/label.py --out benchmarks/results/label-cpu.json

Draws pictures of 168x224 pixels (JPEG), lists them as often as needed, and labels the list in one
process and on Ray with one, two and three actors: once with storybook-tiny, once with a model that
does nothing, so that what remains is reading, decoding, packing, writing and the engine. Every
variant is a process of its own, whose memory, with that of all that it starts, is sampled as the
proportional share of pages (PSS), in which shared memory counts once. Linux only: it reads /proc.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout without installation

from itaclip.data_preprocessor import CLIPDataPreprocessor
from itaclip.errors import InputError
from itaclip.evaluation.inputs import hardware, versions
from itaclip.labelling.job import Job, make_job
from itaclip.labelling.places import Place
from itaclip.labelling.run import run
from itaclip.labelling.source import find_source
from itaclip.labelling.stages import Spec
from itaclip.runtime.files import write_whole
from itaclip.runtime.tool import run_tool
from itaclip.storybook.benchmark import evaluation_scene

CLASSES = "sky; sea; grass; house; boat; tree; cat; sun"
SIZE = (168, 224)
DIFFERENT = 100  # pictures that are drawn; the list repeats them
VARIANTS = (("local", 0), ("ray", 1), ("ray", 2), ("ray", 3))
SHARD = 50
_SAMPLE_SECONDS = 2.0


class NoModel(torch.nn.Module):
    """Labels in stripes, at no cost."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("text_features", torch.zeros(classes, 1))
        self.image_encoder = SimpleNamespace(patch_size=8)
        self.data_preprocessor = CLIPDataPreprocessor()

    def variant(self, **changes: object) -> "NoModel":
        return self

    def segment(self, image: torch.Tensor, size: tuple[int, int]) -> tuple:
        classes = len(self.text_features)
        labels = (torch.arange(size[0]) // 16 % classes)[:, None].expand(size).contiguous()
        return labels, torch.full((*size, classes), 1 / classes)


def job_of(model: str) -> Job:
    """The job of storybook-tiny, or of no model at all."""
    job = make_job("storybook-tiny", CLASSES)
    if model == "none":
        spec = Spec(**{**vars(job.spec)})
        return Job(NoModel(len(spec.classes)), spec, job.identity, "no model")
    return job


def draw(folder: Path, pictures: int) -> Path:
    """The list of pictures."""
    names = []
    for number in range(DIFFERENT):
        scene = np.asarray(evaluation_scene("val", number).image)
        wide = np.concatenate([scene, scene[:, ::-1]], axis=1)[: SIZE[0], : SIZE[1]]
        Image.fromarray(wide).save(folder / f"{number}.jpg", quality=90)
        names.append(str(folder / f"{number}.jpg"))
    listed = folder / f"{pictures}.txt"
    listed.write_text("\n".join(names[i % DIFFERENT] for i in range(pictures)) + "\n")
    return listed


def one(engine: str, actors: int, model: str, listed: str) -> dict[str, Any]:
    """Runs a variant in this process."""
    times: list[float] = []
    processor: list[float] = []
    own: list[float] = []
    job = job_of(model)
    clock = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        place = Place(out)
        write = place.write

        def timed(name: str, data: bytes) -> None:
            write(name, data)
            if name.startswith("part-"):
                times.append(time.perf_counter() - clock)
                processor.append(family_cpu(os.getpid()))
                own.append(time.process_time())

        place.write = timed
        manifest = run(
            find_source(listed, SHARD),
            place,
            "parquet",
            job,
            engine=engine,
            max_errors=0,
            settings={},
            start={},
            actors=actors or None,
            threads=1,
            say=lambda line: None,
        )
    # The first parts hold the start of Ray and of the actors.
    first = len(times) // 5
    pictures = (len(times) - 1 - first) * SHARD
    return {
        "seconds": round(times[-1], 2),
        "pictures_per_second": round(pictures / (times[-1] - times[first]), 2),
        "cpu_ms_per_picture": round(1000 * (processor[-1] - processor[first]) / pictures, 3),
        "of_which_starting_process": round(1000 * (own[-1] - own[first]) / pictures, 3),
        "failed": manifest.failed,
    }


def measure(engine: str, actors: int, model: str, listed: Path, pictures: int) -> dict[str, Any]:
    """Runs a variant in a process of its own and samples the memory of its family."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", engine, str(actors), model]
    load = os.getloadavg()[0]
    child = subprocess.Popen(
        [*command, str(listed)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    samples = []
    clock = time.perf_counter()
    while child.poll() is None:
        time.sleep(_SAMPLE_SECONDS)
        samples.append([round(time.perf_counter() - clock, 1), round(family_memory(child.pid))])
    if child.returncode:
        raise InputError(f"{engine} with {actors} actors ended with code {child.returncode}.")
    found = json.loads(child.stdout.read().splitlines()[-1])
    samples = [sample for sample in samples if sample[1]] or [[0, 0]]  # the last may see nobody
    settled = [memory for _, memory in samples[len(samples) // 2 :]]
    return {
        "engine": engine,
        "actors": actors,
        "model": model,
        "pictures": pictures,
        **found,
        "peak_memory_mb": max(memory for _, memory in samples),
        "second_half_memory_mb": [min(settled), max(settled)],
        "load_before": round(load, 1),
        "load_after": round(os.getloadavg()[0], 1),
        "memory_samples": samples[:: max(1, len(samples) // 50)],
    }


def family(process: int) -> Iterator[Path]:
    """What /proc holds of a process and of all that it started."""
    waiting = [Path(f"/proc/{process}")]
    while waiting:
        folder = waiting.pop()
        try:
            for task in os.listdir(folder / "task"):
                children = (folder / "task" / task / "children").read_text()
                waiting += [Path(f"/proc/{child}") for child in children.split()]
        except OSError:  # it has just ended
            continue
        yield folder


def family_memory(process: int) -> float:
    """PSS in MB of a process and of all that it started."""
    total = 0.0
    for folder in family(process):
        try:
            lines_ = (folder / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) / 1000 for line in lines_ if line.startswith("Pss:"))
    return total


def family_cpu(process: int) -> float:
    """Seconds of processors that a process and all that it started have taken."""
    total = 0.0
    for folder in family(process):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def lines(found: dict[str, Any]) -> list[str]:
    """The figures as a table."""
    rows = [
        "| model | engine | pictures | seconds | pictures/s | CPU ms a picture | of it in the "
        "process that was started | peak memory, MB | memory in the second half, MB | load of the "
        "machine |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one_ in found["runs"]:
        engine = one_["engine"] if not one_["actors"] else f"Ray, {one_['actors']} actor(s)"
        settled = "–".join(map(str, one_["second_half_memory_mb"] or []))
        started = one_.get("of_which_starting_process", "")
        rows.append(
            f"| {one_['model']} | {engine} | {one_['pictures']} | {one_['seconds']:g} | "
            f"{one_['pictures_per_second']:g} | {one_['cpu_ms_per_picture']:g} | "
            f"{started} | {one_['peak_memory_mb']} | {settled} | {one_['load_before']} → "
            f"{one_['load_after']} |"
        )
    return rows


def keep(path: Path, run_: dict[str, Any]) -> None:
    """Adds a run to a file of figures; an earlier one of the same variant gives way."""
    key = ("engine", "actors", "model")
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    runs = [one_ for one_ in runs if any(one_[k] != run_[k] for k in key)] + [run_]
    found = {"size": list(SIZE), "runs": runs, "versions": versions(), "hardware": hardware()}
    write_whole(path, json.dumps(found, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=10_000, metavar="N", help="with a model")
    parser.add_argument("--many", type=int, default=100_000, metavar="N", help="without one")
    parser.add_argument("--variants", nargs="+", default=["all"], help="such as local ray-1 ray-3")
    parser.add_argument("--models", nargs="+", default=["none", "storybook-tiny"])
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file, which is added to")
    parser.add_argument("--render", type=Path, metavar="FILE", help="the table of a JSON file")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.one:
        engine, actors, model, listed = args.one
        print(json.dumps(one(engine, int(actors), model, listed)))
        return
    if args.render:
        print("\n".join(lines(json.loads(args.render.read_text()))))
        return
    if not Path("/proc/self/smaps_rollup").exists():
        raise InputError("label.py: expected Linux, whose /proc it reads.")
    runs = []
    with tempfile.TemporaryDirectory() as name:
        for model in args.models:
            pictures = args.many if model == "none" else args.pictures
            listed = draw(Path(name), pictures)
            for engine, actors in VARIANTS:
                if (
                    args.variants != ["all"]
                    and f"{engine}-{actors}".replace("local-0", "local") not in args.variants
                ):
                    continue
                runs.append(measure(engine, actors, model, listed, pictures))
                print(lines({"runs": runs})[-1], flush=True)
                if args.out is not None:
                    keep(args.out, runs[-1])


if __name__ == "__main__":
    sys.exit(run_tool(main))
