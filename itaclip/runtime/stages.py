"""Names the stages of the computation, so that benchmarks can measure them.

``with stage("encoder"):`` costs next to nothing unless a :class:`StageRecorder` is active.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_recorder: ContextVar["StageRecorder | None"] = ContextVar("stage_recorder", default=None)


class StageRecorder:
    """Sums up the seconds of every stage that runs inside ``with StageRecorder() as recorder:``.

    Stages do not nest. On a GPU, each boundary waits for the device.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> "StageRecorder":
        self._token = _recorder.set(self)
        return self

    def __exit__(self, *exception: object) -> None:
        _recorder.reset(self._token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Marks the enclosed work as one stage."""
    recorder = _recorder.get()
    if recorder is None:
        yield
        return
    _synchronise()
    start = time.perf_counter()
    try:
        yield
    finally:
        _synchronise()
        elapsed = time.perf_counter() - start
        recorder.seconds[name] = recorder.seconds.get(name, 0.0) + elapsed


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
