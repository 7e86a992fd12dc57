"""What was said in attempts that failed: of the last so many, in memory, for who inspects a delivery.

In: a session's log at the moment of a failure.  Out: its lines about the one delivery, without secrets.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, NamedTuple

from relayd.delivery.session import PeerSession
from relayd.smtp.watched import Item, lines, own

KEPT = 500  # failed attempts, ...
_OF_ONE = 5  # ... and of one delivery


class Failed(NamedTuple):
    """Of a session: its name, with whom, when it began on the clock of the log, and what was noted."""

    time: float
    session: str
    mx: str
    since: float
    items: tuple[Item, ...]


class Transcripts:
    """See the module."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, float], Failed] = OrderedDict()
        self._of: dict[int, list[tuple[int, float]]] = {}

    def keep(self, delivery: int, failed: Failed) -> None:
        """An attempt at the delivery has failed just now."""
        key = (delivery, failed.time)
        mine = self._of.setdefault(delivery, [])
        if key not in self._kept:
            mine.append(key)
        self._kept[key] = failed
        if len(mine) > _OF_ONE:
            del self._kept[mine.pop(0)]
        if len(self._kept) > KEPT:
            (oldest, _), _ = self._kept.popitem(last=False)
            self._of[oldest].pop(0)
            if not self._of[oldest]:
                del self._of[oldest]

    def of(self, delivery: int, recipient: str) -> list[dict[str, Any]]:
        """The last ones of a delivery, the oldest first."""
        return [
            {
                "time": found.time,
                "session": found.session,
                "with": found.mx,
                "lines": lines(own(found.items, recipient), found.since),
            }
            for found in (self._kept[key] for key in self._of.get(delivery, ()))
        ]


def failed(session: PeerSession, now: float, items: Iterable[Item] | None = None) -> Failed:
    """What there is to keep of a session."""
    noted = tuple(session.machine.log if items is None else items)
    return Failed(now, f"o{session.name}", session.hop.mx, session.since, noted)
