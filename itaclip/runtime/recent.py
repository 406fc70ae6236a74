"""What was used last, kept in memory up to a limit; for any number of threads."""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The entries that were used last; beyond the limit, what was unused for longest goes.

    Args:
        limit: number of entries.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._entries: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> Value | None:
        """The entry, which is now the one used last; None where there is none."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key]

    def put(self, key: Hashable, value: Value) -> None:
        """Keeps an entry."""
        self.update([(key, value)])

    def update(self, entries: Iterable[tuple[Hashable, Value]]) -> None:
        """Keeps several entries."""
        with self._lock:
            for key, value in entries:
                self._entries[key] = value
                self._entries.move_to_end(key)
            while len(self._entries) > self.limit:
                self._entries.popitem(last=False)

    def __getstate__(self) -> dict:
        return {"limit": self.limit}  # a copy in another process starts empty

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["limit"])

    def __deepcopy__(self, memo: dict) -> "Recent[Value]":
        return Recent(self.limit)
