"""One progress bar for one image, over all its stages.

``with progress(total, shown):`` around the work, ``advance(done)`` inside it, in the same unit: the
elements (pixels times queries) of one iteration of refinement, or what takes about as long.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tqdm import tqdm

_bar: ContextVar[tqdm | None] = ContextVar("progress_bar", default=None)


@contextmanager
def progress(total: float, shown: bool) -> Iterator[None]:
    """Shows a bar that goes when the work is done; inside another one, only that is shown."""
    if not shown or _bar.get() is not None:
        yield
        return
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=total, desc="image", leave=False, bar_format=form) as bar:
        token = _bar.set(bar)
        try:
            yield
        finally:
            _bar.reset(token)


def advance(done: float) -> None:
    """Moves the bar on, if there is one."""
    bar = _bar.get()
    if bar is not None:
        bar.update(done)


def extend(more: float) -> None:
    """Adds work that was not foreseen."""
    bar = _bar.get()
    if bar is not None:
        bar.total += more
