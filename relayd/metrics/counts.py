"""Counts of events: what the records tell, by event, provider and source.

Enter: one call for each event, from the thread that reads the records.  Leave: a copy, whenever it is asked for.  There
are at most so many providers, sources and series: what is more is counted as "other".
"""

from collections import Counter
from threading import Lock

from relayd.classify import CLASSES
from relayd.histogram import Histogram

EVENTS, PROVIDERS, SOURCES = 50, 100, 200
SERIES = 5000
OTHER = "other"
# Seconds from reception to delivery: 0.1 s to 3 days.
WAITS = (
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 86400.0, 2 * 86400.0, 3 * 86400.0,
)  # fmt: skip


class Counted:
    """What was counted so far: events by (name, provider, source), refusals by (name, class), seconds of deliveries."""

    def __init__(self) -> None:
        self.events: Counter[tuple[str, str, str]] = Counter()
        self.classes: Counter[tuple[str, str]] = Counter()
        self.waits = Histogram(WAITS)


class EventCounts:
    """See the module.  ``count`` is for one thread, ``read`` for any."""

    def __init__(self) -> None:
        self._counted = Counted()
        self._names: set[str] = set()
        self._providers: set[str] = set()
        self._sources: set[str] = set()
        self._lock = Lock()

    def count(self, name: str, provider: str, source: str, cls: str, seconds: float | None) -> None:
        """One event.  ``provider``: a named one, or "" ; ``cls``: of a refusal (``classify.Class``), or "";
        ``seconds``: since its message came in, of a delivery."""
        name = _bound(name, self._names, EVENTS)
        key = name, _bound(provider, self._providers, PROVIDERS), _bound(source, self._sources, SOURCES)
        with self._lock:
            counted = self._counted
            if key not in counted.events and len(counted.events) >= SERIES:
                key = name, OTHER, OTHER
            counted.events[key] += 1
            if cls:
                counted.classes[name, cls if cls in CLASSES else OTHER] += 1
            if seconds is not None:
                counted.waits.add(seconds)

    def read(self) -> Counted:
        """A copy."""
        found = Counted()
        with self._lock:
            found.events = self._counted.events.copy()
            found.classes = self._counted.classes.copy()
            found.waits = self._counted.waits.copy()
        return found


def _bound(value: str, known: set[str], most: int) -> str:
    """The value, if it is one of the first so many."""
    if not value or (value not in known and len(known) >= most):
        return OTHER
    known.add(value)
    return value
