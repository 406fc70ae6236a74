"""SIGINT and SIGTERM as an exception, so that an evaluation ends where it can be continued."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..runtime.tool import Stopped

_PR_SET_PDEATHSIG = 1  # of Linux' prctl
_received: list[int] = []


def end_with_launcher() -> None:
    """Under torchrun on Linux: SIGTERM when the agent is gone, so that nobody outlives it."""
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it went meanwhile
            os.kill(os.getpid(), signal.SIGTERM)


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


def stop_behind(error: BaseException) -> BaseException:
    """The stop that another error comes from, or that error.

    Libraries that catch everything raise something else in its place, and a data loader may learn
    first that its processes, which got the same signal, are gone.
    """
    if not isinstance(error, Stopped) and "DataLoader worker" in str(error):
        try:
            _ignore_children()
            time.sleep(0.3)
        except Stopped as stop:
            return stop
    return Stopped(_received[0]) if _received and not isinstance(error, Stopped) else error


def _stop(number: int, frame: object) -> None:
    first = not _received
    _received.append(number)
    if first:
        _ignore_children()
        raise Stopped(number)


def _ignore_children() -> None:
    """From now on torch's handler shall not raise, wherever, that a data loader's process ended."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
