"""The same stages on Ray Data: pictures are read and decoded by tasks, segmented by actors.

Weights and text features lie once in the shared memory of every machine. Ray's back-pressure holds
reading back while the actors are busy, so that memory does not grow with the number of pictures.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import InputError
from ..predict.segmenter import Background, Classes
from .job import Job, make_job
from .source import Shard
from .stages import Row
from .tables import SegmentTable, decode_table, pack_table, read_table
from .weights import take_apart

if TYPE_CHECKING:
    from ray.data import Dataset

_BATCH = 16  # pictures that an actor gets at a time
_BLOCK_BYTES = 4 << 20  # of pictures on their way; some nine photographs, or many small ones
_STORE_BYTES = 768 << 20  # shared memory of a cluster of our own, beside the weights
_LIGHT = 0.5  # CPUs of a task that reads or packs
_AROUND = 1  # CPUs that actors leave to these
_MAX_STARTS = 5  # of the pipeline after losses that Ray itself could not mend


def need_ray() -> None:
    """Raises:
    InputError: Ray is not installed.
    """
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise InputError("Ray is not installed: pip install 'itaclip[ray]', or use --engine local.")


def _labelled(
    dataset: Dataset,
    job: Job,
    *,
    image: str,
    key: str,
    actors: int | tuple[int, int] | None,
    gpus: float | None,
    threads: int,
    batch_size: int,
) -> Dataset:
    import ray
    from ray.data import ActorPoolStrategy

    total = ray.cluster_resources()
    if gpus is None:
        gpus = 1.0 if total.get("GPU") else 0.0
    least, most = _pool(actors, total, gpus, threads)
    skeleton, arrays = take_apart(job.segmentor)
    constructor = (
        skeleton,
        [ray.put(arrays)],
        job.spec.max_result_side,
        bool(gpus),
        threads,
    )
    resources = dict(num_gpus=gpus, num_cpus=_LIGHT) if gpus else dict(num_cpus=threads)
    tables = dict(batch_format="pyarrow", zero_copy_batch=True)
    decoded = dataset.map_batches(
        decode_table,
        fn_kwargs=dict(spec=job.spec, image=image, key=key, version=__version__),
        batch_size=batch_size,
        num_cpus=_LIGHT,
        **tables,
    )
    segmented = decoded.map_batches(
        SegmentTable,
        fn_constructor_args=constructor,
        batch_size=batch_size,
        compute=ActorPoolStrategy(min_size=least, max_size=most),
        **resources,
        **tables,
    )
    return segmented.map_batches(
        pack_table, fn_kwargs=dict(spec=job.spec), batch_size=batch_size, num_cpus=_LIGHT, **tables
    )


def _pool(
    actors: int | tuple[int, int] | None, total: Mapping[str, float], gpus: float, threads: int
) -> tuple[int, int]:
    """The least and the greatest number of actors.

    Raises:
        InputError: the cluster could never hold them beside the tasks around them.
    """
    import ray

    each = _LIGHT if gpus else threads
    cpus = total.get("CPU", 0)
    room = max(0, int((cpus - _AROUND) / each))
    widest = max(
        (node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0
    )
    if room < 1 or widest < each:
        raise InputError(
            f"threads: an actor takes {each:g} CPUs of one machine and {_AROUND} are left to "
            f"reading and packing, but the cluster has {cpus:g} in all and {widest:g} on one "
            "machine; take fewer threads, or a larger cluster."
        )
    if actors is None:
        return 1, min(room, max(1, int(total.get("GPU", 0) / gpus))) if gpus else room
    least, most = actors if isinstance(actors, tuple) else (actors, actors)
    if most > room:
        raise InputError(
            f"actors: {most} take {most * each:g} CPUs and {_AROUND} are left to reading and "
            f"packing, but the cluster has {cpus:g}; take at most {room}."
        )
    return least, most


def label(
    dataset: Dataset,
    classes: Classes | None = None,
    *,
    model: str | None = None,
    background: Background = None,
    auxiliary_texts: Mapping[str, str] | None = None,
    prob_thd: float | None = None,
    area_thd: float | None = None,
    image_column: str = "image",
    key_column: str = "key",
    labels: str = "png",
    actors: int | tuple[int, int] | None = None,
    gpus: float | None = None,
    threads: int = 1,
    batch_size: int = _BATCH,
    **options: Any,
) -> Dataset:
    """Labels the pictures of a Ray Dataset, lazily as all of Ray Data.

    The column of pictures gives way to ``height``, ``width``, ``labels`` (a PNG whose values are
    class numbers), ``found`` (per class: index, name, pixels, area, mean score), ``uncertainty``
    (mean of 1 minus the margin between the two best classes) and ``error``: a sentence where a
    picture cannot be used, else null. Other columns stay.

    Args:
        dataset: with pictures as bytes of files, arrays (H, W, 3) uint8, or paths.
        classes: as for :meth:`itaclip.Segmenter.segment`, like ``background``,
            ``auxiliary_texts``, ``prob_thd`` and ``area_thd``; None takes the config's.
        model: as for :func:`itaclip.load`, like the further options.
        image_column: of the pictures.
        key_column: of what messages call them; it need not be there.
        labels: ``'png'``, or ``'rle'``: every class's mask in ``found``, in COCO's code.
        actors: number of models, or (least, greatest); None: as many as there are GPUs, or CPUs
            but one.
        gpus: of every actor, such as 1 or 0.5; None: 1 where the cluster has any, else 0.
        threads: of an actor on a CPU.
        batch_size: pictures that an actor gets at a time.

    Returns:
        A Dataset.

    Raises:
        InputError: a value that cannot be used, or Ray is not installed.
    """
    need_ray()
    job = make_job(
        model,
        classes,
        background=background,
        auxiliary_texts=auxiliary_texts,
        prob_thd=prob_thd,
        area_thd=area_thd,
        labels=labels,
        **options,
    )
    return _labelled(
        dataset,
        job,
        image=image_column,
        key=key_column,
        actors=actors,
        gpus=gpus,
        threads=threads,
        batch_size=batch_size,
    )


# ---- the command's engine -----------------------------------------------------------------------


@contextmanager
def cluster(address: str | None, weights_bytes: int, actor_cpus: int = 1) -> Iterator[str]:
    """Joins the cluster at an address, or starts one on this machine and ends it; says which.

    A session of Ray that is there already is used and left running. One of our own has CPUs for the
    actors that are asked for, also where the machine has fewer.

    Raises:
        InputError: there is no cluster at the address.
    """
    need_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # losses that are mended are no news
    import ray
    import ray.data

    # There may be fewer shards left than actors.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)

    if ray.is_initialized():
        yield _size()
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    own: dict[str, Any] = {}
    if address is None:
        cpus = max(os.cpu_count() or 1, actor_cpus + _AROUND)
        store = _STORE_BYTES + weights_bytes
        own = dict(include_dashboard=False, object_store_memory=store, num_cpus=cpus)
    try:
        ray.init(address or "local", logging_level="ERROR", log_to_driver=False, **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address is None:
            raise
        reason = " ".join(str(error).split())
        raise InputError(
            f"--address {address}: no cluster answers there ({reason}); start one by 'ray start "
            "--head'."
        ) from error
    try:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray's own would dump a trace and abort
                signal.signal(number, handler)
        yield _size()
    finally:
        ray.shutdown()


def _size() -> str:
    import ray

    total = ray.cluster_resources()
    nodes = len([node for node in ray.nodes() if node["Alive"]])
    return f"Ray, {nodes} machine(s), {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"


def cluster_rows(
    shards: Sequence[Shard],
    left: Callable[[], Iterable[int]],
    job: Job,
    *,
    actors: int | None,
    gpus: float | None,
    threads: int,
    batch_size: int = _BATCH,
) -> Iterator[Row]:
    """The rows of shards, in any order; after a loss some may come again.

    Ray does the work of lost workers and machines again by itself. Should that fail, what is left
    starts anew.

    Args:
        shards: of the source.
        left: the numbers of those that are not finished yet.
        job: what is done.
        actors, gpus, threads, batch_size: as for :func:`label`.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    failures = 0
    while waiting := list(left()):
        try:
            chosen = [{"shard": shards[index]} for index in waiting]
            with _quiet_context():
                rows = ray.data.from_items(chosen, override_num_blocks=len(chosen)).map_batches(
                    read_table, batch_size=1, num_cpus=_LIGHT
                )
                labelled = _labelled(
                    rows,
                    job,
                    image="image",
                    key="key",
                    actors=None if failures else actors,  # fewer may fit by now
                    gpus=gpus,
                    threads=threads,
                    batch_size=batch_size,
                )
                for batch in labelled.iter_batches(
                    batch_size=None, batch_format="pyarrow", prefetch_batches=1
                ):
                    yield from batch.to_pylist()
        except RayError as error:
            if (said := _bad_input(error)) is not None:
                raise InputError(said) from None
            failures += 1
            ours = isinstance(error, RayTaskError) or getattr(error, "actor_init_failed", False)
            if ours or failures == _MAX_STARTS:
                raise
        else:
            if list(left()) == waiting:
                raise RuntimeError(f"Ray ended without the rows of {len(waiting)} shards")


def _bad_input(error: BaseException | None) -> str | None:
    """The sentence of the bad input that a worker met; None for other errors."""
    from ray.exceptions import RayError

    while error is not None:
        # Ray's error is of the cause's class too, but its text is a traceback.
        if isinstance(error, InputError) and not isinstance(error, RayError):
            return str(error).partition("\n")[0]  # Ray adds words of its own
        error = getattr(error, "cause", None) or error.__cause__
    return None


@contextmanager
def _quiet_context() -> Iterator[None]:
    """Ray Data's settings while our pipeline runs."""
    from ray.data import DataContext

    context = DataContext.get_current()
    ours = dict(
        target_max_block_size=_BLOCK_BYTES,
        enable_progress_bars=False,
        print_on_execution_start=False,
    )
    before = {key: getattr(context, key) for key in ours}
    for key, value in ours.items():
        setattr(context, key, value)
    try:
        yield
    finally:
        for key, value in before.items():
            setattr(context, key, value)
