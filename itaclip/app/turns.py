"""Whose turn it is at the model: what is short does not wait for what is long.

Every piece of work is due at the time of its arrival plus what it is thought to take; who is due
first, goes first. Long work lets others in between its batches, so that a click waits for a batch
and not for another visitor's thousand windows; and since time passes, long work's turn comes too.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..runtime.pauses import between_batches

_LOOK = 0.5  # seconds between two looks whether a waiting visitor is still there


class GoneError(Exception):
    """Nobody listens for the result any more, so the work ended."""


class Turns:
    """One piece of work at a time; see the module."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[_Turn] = []
        self._working: _Turn | None = None
        self._number = itertools.count()

    @contextmanager
    def turn(self, seconds: float, listening: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Waits for a turn; the work within gives way between its batches.

        Args:
            seconds: what it is thought to take.
            listening: whether somebody still waits for the result.

        Raises:
            GoneError: nobody does, at the beginning or between two batches.
        """
        own = _Turn(time.monotonic() + seconds, next(self._number))
        self._take(own, listening)
        try:
            with between_batches(lambda: self._give_way(own, listening)):
                yield
        finally:
            self._leave(own)

    def _take(self, own: "_Turn", listening: Callable[[], bool]) -> None:
        with self._changed:
            self._waiting.append(own)
            try:
                while self._working is not None or min(self._waiting) != own:
                    if not listening():
                        raise GoneError
                    self._changed.wait(_LOOK)
                self._working = own
            finally:
                self._waiting.remove(own)
                self._changed.notify_all()

    def _leave(self, own: "_Turn") -> None:
        with self._changed:
            if self._working is own:
                self._working = None
                self._changed.notify_all()

    def _give_way(self, own: "_Turn", listening: Callable[[], bool]) -> None:
        if not listening():
            raise GoneError
        with self._changed:
            if not self._waiting or min(self._waiting) > own:
                return
        self._leave(own)
        self._take(own, listening)


@dataclass(order=True)
class _Turn:
    """Ordered by when it is due; ``number`` is that of its arrival."""

    due: float
    number: int
