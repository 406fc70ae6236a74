"""Names the stages of the computation in traces.

A stage is ``torch.profiler.record_function``: any profile of PyTorch shows it, nothing waits for a
device, and without a profiler it costs microseconds.
"""

from typing import Protocol

from torch.profiler import record_function


class Observer(Protocol):
    """What a benchmark registers in :attr:`stage.observers`."""

    def begins(self, name: str) -> None: ...

    def ends(self, name: str) -> None: ...


class stage(record_function):
    """Marks the enclosed work as one stage; stages do not nest.

    Attributes:
        observers: of the whole process, told of every stage's begin and end; for benchmarks.
    """

    observers: list[Observer] = []

    def __enter__(self) -> "stage":
        for observer in self.observers:
            observer.begins(self.name)
        super().__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        for observer in self.observers:
            observer.ends(self.name)
