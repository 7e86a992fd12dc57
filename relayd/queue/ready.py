"""A ready queue: the deliveries due now for one path, in memory, fair between those who wait.

Virtual-time fairness: each (account, stream) has a lane, and every delivery taken moves its lane's clock on by the
inverse of the stream's weight; the lane furthest behind is next.  So one account's flood delays only itself, and a
transactional stream passes a marketing backlog without ever stopping it.
"""

import math
from collections import deque
from heapq import heappop, heappush

from relayd.envelope import Delivery


def weight_of(priority: int) -> float:
    """How many deliveries a stream of this priority (0-100) may send for each one of priority 0: 10 more is double."""
    return math.exp2(priority / 10)


class Lane:
    __slots__ = ("deliveries", "moment", "step")

    def __init__(self, step: float) -> None:
        self.deliveries: deque[Delivery] = deque()
        self.moment = 0.0
        self.step = step


class ReadyQueue:
    """Deliveries in lanes.  An empty lane is forgotten when its turn has come: sooner, and one that is refilled after
    each delivery would always be the furthest behind."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._order: list[tuple[float, int, str]] = []
        self._clock = 0.0
        self._turn = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, lane: str, weight: float, delivery: Delivery, *, first: bool = False) -> None:
        """Adds a delivery at the end of its lane, or at its front when it was taken and handed back."""
        known = self._lanes.get(lane)
        if known is None:
            known = self._lanes[lane] = Lane(1.0 / weight)
            known.moment = self._clock
            self._line_up(lane, known)
        if first:
            known.deliveries.appendleft(delivery)
        else:
            known.deliveries.append(delivery)
        self._count += 1

    def pop(self) -> Delivery | None:
        """The next delivery, or None."""
        if not self._count:
            return None
        while True:
            self._clock, _, name = heappop(self._order)
            lane = self._lanes[name]
            if lane.deliveries:
                break
            del self._lanes[name]
        self._count -= 1
        lane.moment = self._clock + lane.step
        self._line_up(name, lane)
        return lane.deliveries.popleft()

    def clear(self) -> list[Delivery]:
        """Takes all of them."""
        found = []
        while (delivery := self.pop()) is not None:
            found.append(delivery)
        self._lanes.clear()
        self._order.clear()
        return found

    def _line_up(self, name: str, lane: Lane) -> None:
        self._turn += 1
        heappush(self._order, (lane.moment, self._turn, name))
