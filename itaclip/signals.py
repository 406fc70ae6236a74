"""SIGINT and SIGTERM as an exception, so that an evaluation ends where it can be continued."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_received: list[int] = []


class Stopped(KeyboardInterrupt):
    """The user or the system asked to stop; ``exit_code`` is the shell's, 128 and the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


@contextmanager
def stop_signals() -> Iterator[None]:
    """Raises :class:`Stopped` at the first SIGINT or SIGTERM; those after it are ignored.

    Launchers send a second one soon after, which must not cut the clean end short. Outside the main
    thread, where Python allows no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


def check_stop() -> None:
    """Raises :class:`Stopped` if a signal came whose exception was lost, as within ``__del__``."""
    if _received:
        raise Stopped(_received[0])


def _stop(number: int, frame: object) -> None:
    first = not _received
    _received.append(number)
    if first:
        raise Stopped(number)
