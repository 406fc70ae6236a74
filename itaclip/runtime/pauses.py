"""A word between the batches of long work, for who has others waiting."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_between: ContextVar[Callable[[], object] | None] = ContextVar("between", default=None)


@contextmanager
def between_batches(call: Callable[[], object]) -> Iterator[None]:
    """Within, ``call`` is made before every batch of this thread's work; what it raises ends it."""
    token = _between.set(call)
    try:
        yield
    finally:
        _between.reset(token)


def pause() -> None:
    """Called before every batch."""
    call = _between.get()
    if call is not None:
        call()
