"""A run: shards that are not done go through an engine, and its rows become parts."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from ..errors import InputError
from ..evaluation.signals import check_stop
from .cluster import cluster, cluster_rows, need_ray
from .job import Job
from .labeller import use_threads
from .manifest import Manifest
from .parts import Parts
from .places import Place, is_remote
from .read import ahead, read_shard
from .source import Shard, Source
from .stages import Row, decode, pack

ENGINES = ("auto", "ray", "local")
_MANIFEST_SECONDS = 10.0  # between two writings of the manifest
_AHEAD = 8  # pictures that are decoded while one is segmented


def choose_engine(engine: str, address: str | None) -> str:
    """``'ray'`` or ``'local'``: Ray where it is installed, unless told otherwise.

    Raises:
        InputError: Ray is asked for and not installed, or an address without Ray.
    """
    if engine == "local" and address is not None:
        raise InputError("--address: it is Ray's; leave --engine local out.")
    if engine == "auto":
        engine = "ray" if address is not None or find_spec("ray") else "local"
    if engine == "ray":
        need_ray()
    return engine


def local_rows(
    shards: Iterable[Shard], job: Job, *, device: str | None = None, threads: int | None = None
) -> Iterator[Row]:
    """The rows of shards, in order, made in this process.

    Args:
        device: such as ``'cpu'``; None takes the first GPU, else the CPU.
        threads: of PyTorch on the CPU; None leaves them.
    """
    use_threads(threads)
    labeller = job.labeller(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    read = (row for shard in shards for row in read_shard(shard))
    for row in ahead(partial(decode, spec=job.spec), read, _AHEAD):
        yield pack(labeller.segment(row), job.spec)


def run(
    source: Source,
    place: Place,
    kind: str,
    job: Job,
    *,
    engine: str,
    max_errors: int,
    settings: dict[str, Any],
    start: dict[str, Any],
    address: str | None = None,
    actors: int | None = None,
    gpus: float | None = None,
    threads: int | None = None,
    device: str | None = None,
    say=print,
) -> Manifest:
    """Labels what is left of a source.

    Args:
        source: all of it.
        place: where parts and manifest go.
        kind: ``'parquet'`` or ``'png'``.
        job: what is done to every picture.
        engine: ``'ray'`` or ``'local'``.
        max_errors: pictures without labels, in all starts, before the run ends.
        settings: further ones that decide about the parts.
        start: about this start, for the manifest.
        address, actors, gpus: of Ray.
        threads: of a model on a CPU.
        device: of the local engine.
        say: gets lines about the run.

    Returns:
        The manifest, complete.

    Raises:
        InputError: other settings than before, too many errors, or a place that cannot be used.
    """
    identity = job.identity | {
        "source": {
            "shards": len(source.shards),
            "pictures": source.pictures,
            "sha256": source.sha256,
        },
        "settings": job.identity["settings"] | settings,
    }
    with ExitStack() as stack:
        stack.enter_context(_alone(place))
        failed = 0

        def count(row: Row) -> None:
            nonlocal failed
            check_stop()
            bar.update()
            if row["error"] is not None:
                failed += 1
                if failed > max_errors:
                    raise InputError(
                        f"{failed} pictures cannot be used, more than --max-errors {max_errors}; "
                        f"the last one: {row['error']} Finished parts are kept: mend the source's "
                        "files, or go on with a larger --max-errors."
                    )

        parts = Parts(place, kind, count)
        manifest = Manifest(place, parts, identity, source, start)
        failed = manifest.failed
        left = partial(_left, manifest, source.shards)
        if not left():
            manifest.write()
            say("nothing is left to do")
            return manifest
        if manifest.done:
            say(f"{len(manifest.done)} of {len(source.shards)} parts are done already")
        manifest.write()
        bar = stack.enter_context(
            tqdm(total=source.pictures, initial=manifest.pictures, unit="picture", disable=None)
        )
        stack.callback(manifest.write)  # interrupted too
        if engine == "ray":
            size = sum(p.nbytes for p in job.segmentor.parameters())
            cpus = (actors or 1) * (threads or 1)
            say(stack.enter_context(cluster(address, size, cpus)))
            rows = cluster_rows(
                source.shards, left, job, actors=actors, gpus=gpus, threads=threads or 1
            )
        else:
            shards = (source.shards[index] for index in left())
            rows = local_rows(shards, job, device=device, threads=threads)
        written = time.monotonic()
        for row in rows:
            finished = parts.add(row)
            if finished is None:
                continue
            index, done = finished
            manifest.done[index] = done
            if time.monotonic() - written > _MANIFEST_SECONDS:
                manifest.write()
                written = time.monotonic()
    return manifest


def _left(manifest: Manifest, shards: Sequence[Shard]) -> list[int]:
    return [shard.index for shard in shards if shard.index not in manifest.done]


@contextmanager
def _alone(place: Place) -> Iterator[None]:
    """Refuses a second run in the same folder at the same time.

    Raises:
        InputError: there is one.
    """
    if place.folder is None:
        yield
        return
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(place.folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise InputError(
            f"--out: {place.where}: another run is writing there; wait for it, or choose another "
            "place."
        ) from None


def check_apart(source: str, out: str) -> None:
    """Refuses to write into the folder that is searched for pictures.

    Raises:
        InputError: it is so.
    """
    if is_remote(source) != is_remote(out):
        return
    inner, outer = (
        (out.rstrip("/"), source.rstrip("/"))
        if is_remote(out)
        else (os.path.realpath(os.path.expanduser(p)) for p in (out, source))
    )
    if inner == outer or inner.startswith(f"{outer}/".replace("//", "/")):
        raise InputError(f"--out: {out} lies within {source}; choose another place.")
