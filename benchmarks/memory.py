"""Peak memory, of a whole run and of each stage.

On a CPU the peak is the process's resident set. Linux keeps its highest value (``VmHWM``), and
writing 5 to ``/proc/self/clear_refs`` sets that back to the present value, so nothing is missed
between samples. Two habits make the figure honest:

* every variant runs in a fresh child process (:func:`in_child`), since freed memory that the
  allocator keeps would make a later variant look leaner;
* the model is built first and freed memory given back; the resident set at this point - program,
  libraries and weights - is the base, and "above the weights" means peak minus base. The first
  image is measured, so weights lowered to bf16 and the library's workspaces count.

On a GPU the peak is ``torch.cuda.max_memory_allocated`` minus what the weights take.
"""

import gc
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch

from itaclip.runtime.batches import trim_memory
from itaclip.runtime.stages import stage


class StageRecorder:
    """Sums up the seconds of every stage that runs inside ``with StageRecorder() as recorder:``.

    On a GPU, each boundary waits for the device.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = 0.0

    def __enter__(self) -> "StageRecorder":
        stage.observers.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        stage.observers.remove(self)

    def begins(self, name: str) -> None:
        _synchronise()
        self._start = time.perf_counter()

    def ends(self, name: str) -> None:
        _synchronise()
        elapsed = time.perf_counter() - self._start
        self.seconds[name] = self.seconds.get(name, 0.0) + elapsed


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class PeakRecorder(StageRecorder):
    """Records the peak bytes above the base in every stage of the enclosed work.

    A stage's peak includes the work since the stage before it. ``method`` says how it was measured;
    where the system offers no way, ``total`` is None.
    """

    def __init__(self, device: torch.device | str) -> None:
        super().__init__()
        self.meter = _meter(torch.device(device))
        self.method = self.meter.method
        self.peaks: dict[str, int] = {}
        self.total: int | None = None

    def __enter__(self) -> "PeakRecorder":
        give_back_freed_memory()
        self.base = self.meter.reset()
        self._highest = 0
        return super().__enter__()

    def ends(self, name: str) -> None:
        super().ends(name)
        above = max(0, self.meter.peak() - self.base)
        self.peaks[name] = max(above, self.peaks.get(name, 0))
        self._highest = max(above, self._highest)
        self.meter.reset()

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        if self.meter.works:
            self.total = max(self._highest, self.meter.peak() - self.base)

    def result(self) -> dict:
        return dict(peak_bytes=self.total, stage_peaks=self.peaks, method=self.method)


class _ResidentSet:
    """VmHWM of this process, set back where the system permits it."""

    works = True

    def __init__(self) -> None:
        self.method = "resident set (VmHWM), set back before the run and after every stage"
        if not self._clear():
            self.method = "resident set (VmHWM) since the start of the process: an upper bound"

    @staticmethod
    def _clear() -> bool:
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        except OSError:
            return False
        return True

    def reset(self) -> int:
        self._clear()
        return _status("VmRSS")

    def peak(self) -> int:
        return _status("VmHWM")


class _CudaAllocator:
    works = True
    method = "torch.cuda.max_memory_allocated"

    def reset(self) -> int:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated()


class _Nothing:
    works = False
    method = "not measured: the system has no /proc/self/status"

    def reset(self) -> int:
        return 0

    def peak(self) -> int:
        return 0


def _meter(device: torch.device) -> _ResidentSet | _CudaAllocator | _Nothing:
    if device.type == "cuda":
        return _CudaAllocator()
    return _ResidentSet() if sys.platform == "linux" else _Nothing()


def _status(key: str) -> int:
    """A size of ``/proc/self/status`` in bytes."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(key + ":"):
                return int(line.split()[1]) << 10
    raise RuntimeError(f"/proc/self/status has no {key}")


def give_back_freed_memory() -> None:
    """Collects garbage; glibc's freed arenas go back to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim_memory()


def in_child(function: Callable, *arguments: object) -> object:
    """Calls ``function`` in a fresh process and returns what it returns."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()
