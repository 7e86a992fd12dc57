"""What the DNS said, for as long as it holds, and one look-up for all who ask the same at the same time.

Time is an argument here, and entries are bounded: the one unused for longest goes first.
"""

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

V = TypeVar("V")


class Cache(Generic[V]):
    """At most ``size`` values, each until its own moment."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[Hashable, tuple[V, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, now: float) -> tuple[V, float] | None:
        """The value and the seconds it still holds, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        left = entry[1] - now
        if left <= 0:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry[0], left

    def put(self, key: Hashable, value: V, until: float) -> None:
        self._entries[key] = value, until
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)


class Shared(Generic[V]):
    """Runs that are under way, by key.  Who joins gets a Deferred of his own; cancelling that leaves the run alone."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[Deferred[V]]] = {}
        self._runs: dict[Hashable, Deferred[V]] = {}

    def join(self, key: Hashable, start: Callable[[], Coroutine[Deferred[Any], Any, V]]) -> Deferred[V]:
        """Fires with what the run for ``key`` returns or raises; starts one if there is none."""
        mine: Deferred[V] = Deferred()
        if key in self._waiting:
            self._waiting[key].append(mine)
            return mine
        self._waiting[key] = [mine]
        run = Deferred.fromCoroutine(start())
        self._runs[key] = run
        run.addBoth(self._finish, key)
        return mine

    def cancel(self) -> None:
        """Cancel every run; those who wait get what it then raises."""
        for run in list(self._runs.values()):
            run.cancel()

    def _finish(self, result: V | Failure, key: Hashable) -> None:
        del self._runs[key]
        for waiter in self._waiting.pop(key):
            if not waiter.called:  # a cancelled one has fired already
                waiter.callback(result)
