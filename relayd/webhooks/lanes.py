"""A webhook's lanes, and whose turn it is.

In: lanes that have something to do.  Out: those that may, first come, first served, a bounded number at once; those
whose server failed last time take no more than their share, so that hung servers hold up nobody else's.
"""

from collections import deque
from typing import Any

from twisted.internet.defer import Deferred

from relayd.directory import Webhook
from relayd.history import Hit
from relayd.webhooks.standing import Place, Standing

AT_ONCE = 64  # batches under way in all, ...
PROBES = 32  # ... of them to those that failed last time


class Lane:
    """``phase``: "idle", "ready" (waits for its turn), "busy" (reads or posts) or "resting" (after a failure);
    ``woken``: something came meanwhile; ``until``: the end of the batch that is tried; ``bounded``: there may be more
    behind what was read; ``probe``: it failed last time; ``over``: it is no more."""

    def __init__(self, endpoint: "Endpoint", place: Place, number: int, of: int, replay: bool = False) -> None:
        self.endpoint = endpoint
        self.place = place
        self.lane = (number, of)
        self.replay = replay
        self.phase = "idle"
        self.woken = False
        self.bounded = False
        self.probe = False
        self.over = False
        self.until: Hit | None = None
        self.looked = 0.0
        self.due = 0.0
        self.timer: Any = None
        self.flight: Deferred[Any] | None = None

    def sleep(self) -> None:
        """Its timer is no more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def end(self) -> None:
        """What it has under way is nobody's any more."""
        self.over = True
        self.sleep()
        if self.flight is not None:
            self.flight.cancel()


class Endpoint:
    """A webhook with where it stands, and its lanes while it is active.  ``ending``: its new state is on its way to the
    disk."""

    def __init__(self, row: Webhook, standing: Standing) -> None:
        self.row = row
        self.standing = standing
        self.lanes: list[Lane] = []
        self.ending = False

    def rebuild(self) -> list[Lane]:
        """Lanes as the row wants them; those of before are no more, and what they had under way is sent again."""
        for lane in self.lanes:
            lane.end()
        row, stands = self.row, self.standing
        self.lanes = []
        if row.state == "active":
            self.lanes = [Lane(self, place, n, row.concurrency) for n, place in enumerate(stands.places)]
            if stands.replay is not None and not stands.replay.done:
                self.lanes.append(Lane(self, stands.replay.place, 0, 1, replay=True))
        return list(self.lanes)

    def drop(self) -> None:
        for lane in self.lanes:
            lane.end()
        self.lanes = []


class Turns:
    """See the module."""

    def __init__(self) -> None:
        self._ready: deque[Lane] = deque()
        self._probes: deque[Lane] = deque()
        self._busy = 0
        self._probing = 0

    def ask(self, lane: Lane) -> None:
        lane.probe = bool(lane.place.tries)
        (self._probes if lane.probe else self._ready).append(lane)

    def next(self) -> Lane | None:
        """Whose turn it is; to be given back."""
        while self._busy < AT_ONCE:
            if self._probes and self._probing < PROBES:
                lane = self._probes.popleft()
            elif self._ready:
                lane = self._ready.popleft()
            else:
                return None
            if not lane.over:
                self._busy += 1
                self._probing += lane.probe
                return lane
        return None

    def give_back(self, lane: Lane) -> None:
        self._busy -= 1
        self._probing -= lane.probe
