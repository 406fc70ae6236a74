"""Batches that adapt to the memory at hand, and memory given back."""

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch

from .pauses import pause

# On a CPU, larger batches fall out of the caches and gain nothing.
_CPU_PASSES = 10
# On a GPU, the share of the card's memory that one batch may take: of all of it, and not of what is
# free at the moment, so that the same card takes the same batches, to the bit, beside other work.
_GPU_SHARE = 0.25
_GPU_PASSES = 1024
# Maps of as many elements are worth giving memory back to the system.
_MANY_ELEMENTS = 1 << 29


def run_in_batches(
    function: Callable[[Sequence], Sequence],
    items: Sequence,
    batch: int | None,
    bytes_each: int,
    passes_each: int,
    device: torch.device | None = None,
) -> Iterator:
    """Yields ``function``'s results one by one, computed in batches.

    When memory runs out, the batch is halved and the work goes on; each item's result does not
    depend on the batch it is computed in, but for rounding.

    Args:
        function: maps a list of items to as many results, or to a tensor that stacks them.
        items: inputs of one shape, on one device, or what stands for them.
        batch: items at a time; None fits the device.
        bytes_each: memory that one item is estimated to take.
        passes_each: encoder passes per item.
        device: where they are computed; None asks the first item.

    Raises:
        torch.OutOfMemoryError: a single item does not fit.
    """
    size = batch or _fitting_batch(device or items[0].device, bytes_each, passes_each)
    start = 0
    while start < len(items):
        pause()
        try:
            results = function(items[start : start + size])
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            size = max(1, size // 2)
            continue
        start += len(results)
        yield from results


def _fitting_batch(device: torch.device, bytes_each: int, passes_each: int) -> int:
    if device.type != "cuda":
        return max(1, _CPU_PASSES // passes_each)
    memory = torch.cuda.get_device_properties(device).total_memory
    fitting = int(memory * _GPU_SHARE) // bytes_each
    return max(1, min(fitting, _GPU_PASSES // passes_each))


def trim_memory(elements: int | None = None) -> None:
    """Gives freed memory back to the system, on Linux with glibc; elsewhere it does nothing.

    glibc keeps freed arenas, so that long work on a CPU grows by tens of MB a step without a leak.

    Args:
        elements: of the map that makes it worth while; a small one is left alone. None: always.
    """
    if elements is not None and elements < _MANY_ELEMENTS:
        return
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch raised for want of memory, on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )
