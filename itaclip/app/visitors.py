"""Who is on the page: everyone's image and result, for as long as they stay."""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..errors import InputError
from .workbench import Visit

MOST = 200  # visitors; an image and its labels take some 6 MB each
_BUDGET = 2 << 30  # bytes of all visitors' features and scores; without, images and labels stay
_IDLE = 3600  # seconds after which a visitor without a connection makes room, should it be needed
_GRACE = 3  # seconds in which a visitor who is not connected yet counts as listening


@dataclass
class _Stay:
    visit: Visit | None = None
    seen: float = field(default_factory=time.monotonic)


class Visitors:
    """Visits by session.

    Args:
        most: visitors at once.
        budget: bytes of features and scores; those of who was idle longest go first.
        idle: seconds after which who is not connected makes room for others.
    """

    def __init__(self, most: int = MOST, budget: int = _BUDGET, idle: float = _IDLE) -> None:
        self.most, self.budget, self.idle = most, budget, idle
        self._stays: OrderedDict[str | None, _Stay] = OrderedDict()  # the latest last
        self._connections: Counter[str] = Counter()
        self._left: dict[str, float] = {}
        self._lock = threading.Lock()

    def visit(self, session: str | None) -> Visit | None:
        """A visitor's image and result; None before the first image."""
        with self._lock:
            stay = self._stays.get(session)
            if stay is None:
                return None
            stay.seen = time.monotonic()
            self._stays.move_to_end(session)
            return stay.visit

    def keep(self, session: str | None, visit: Visit, instead_of: Visit | None = None) -> bool:
        """Keeps what a visitor has now.

        Args:
            session: whose.
            visit: a new image, or one with a result.
            instead_of: what it was made from; it is kept only if the visitor has it still.

        Returns:
            Whether it is kept.

        Raises:
            InputError: there is no room for one more visitor.
        """
        with self._lock:
            stay = self._stays.get(session)
            if instead_of is not None and (
                stay is None or stay.visit.image is not instead_of.image
            ):
                return False
            if stay is None:
                self._make_room()
                stay = self._stays[session] = _Stay()
            stay.visit, stay.seen = visit, time.monotonic()
            self._stays.move_to_end(session)
            weight = 0
            for other in reversed(self._stays.values()):
                weight += other.visit.weight
                if weight > self.budget and other is not stay:
                    other.visit = other.visit.lightened()
            return True

    def _make_room(self) -> None:
        now = time.monotonic()
        if len(self._stays) >= self.most:
            for session, stay in list(self._stays.items()):
                if not self._connections[session] and now - stay.seen > self.idle:
                    del self._stays[session]
        if len(self._stays) >= self.most:
            raise InputError(
                f"The page is full: {self.most} visitors are here already. Please try again in a "
                "few minutes."
            )

    def leave(self, session: str | None) -> None:
        """Forgets a visitor who closed the page."""
        with self._lock:
            self._stays.pop(session, None)

    @contextmanager
    def connected(self, session: str) -> Iterator[None]:
        """While a visitor's browser listens."""
        with self._lock:
            self._connections[session] += 1
        try:
            yield
        finally:
            with self._lock:
                self._connections[session] -= 1
                if self._connections[session] <= 0:
                    del self._connections[session]
                    now = time.monotonic()
                    self._left = {s: t for s, t in self._left.items() if now - t < self.idle}
                    self._left[session] = now

    def listening(self, session: str | None, since: float) -> bool:
        """Whether a visitor still waits for the answer to a request.

        Args:
            session: whose.
            since: when the request came, by :func:`time.monotonic`.
        """
        with self._lock:
            if session is None or self._connections[session]:
                return True
            if self._left.get(session, since) > since:
                return False
        return time.monotonic() - since < _GRACE

    def __len__(self) -> int:
        return len(self._stays)
