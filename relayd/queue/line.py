"""A line: the lanes that wait for a limit which several paths or accounts share, and whose turn it is.

Enter: places, each a lane of a path's ready queue, how many may start.  Leave: the places that may, and those whose
time comes soon, so that a session is open by then.  Priority mail goes first.  Then accounts take turns in virtual time
by their weights, the places of each in the order in which they came; one that has no session yet keeps its turn and
lets others go meanwhile.
"""

from collections import deque
from heapq import heappop, heappush
from itertools import islice
from typing import Generic, Protocol, TypeVar


class Way(Protocol):
    """A path; ``idle``: how many of its sessions are; ``waits``: whether a lane does still, or is called or gone."""

    idle: int

    def waits(self, lane: str) -> bool: ...


W = TypeVar("W", bound=Way)
PATIENCE = 2.0  # seconds for which a turn is kept for who has it
LOOKED_AT = 8  # accounts, and places of each, of which one is sought that has a session


class _Member(Generic[W]):
    """An account's places."""

    __slots__ = ("name", "step", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.step = 1.0
        self.waiting: deque[tuple[W, str]] = deque()

    def take(self, *, ready: bool) -> tuple[W, str] | None:
        """The next place, or the next one that has an idle session."""
        if not ready:
            return self.waiting.popleft()
        for place in islice(self.waiting, LOOKED_AT):
            if place[0].idle and _waits(place):
                self.waiting.remove(place)
                return place
        return None

    def forget_gone(self) -> int:
        """Drops those in front who wait no more: gives how many those were."""
        before = len(self.waiting)
        while self.waiting and not _waits(self.waiting[0]):
            self.waiting.popleft()
        return before - len(self.waiting)


class Line(Generic[W]):
    """See the module."""

    __slots__ = ("_called", "_clock", "_count", "_members", "_order", "_turn", "_urgent")

    def __init__(self) -> None:
        self._urgent: deque[tuple[W, str]] = deque()
        self._members: dict[str, _Member[W]] = {}
        self._order: list[tuple[float, int, _Member[W]]] = []
        self._clock = 0.0
        self._turn = 0
        self._count = 0
        self._called: dict[tuple[W, str], float] = {}  # those who may start and have not yet, since when

    def __len__(self) -> int:
        return len(self._urgent) + self._count

    @property
    def urgent(self) -> bool:
        """Whether priority mail waits."""
        return bool(self._urgent)

    def join(self, account: str, weight: float, place: tuple[W, str], *, urgent: bool) -> None:
        """A lane waits from now on until it is called."""
        if urgent:
            self._urgent.append(place)
            return
        member = self._members.get(account)
        if member is None:
            member = self._members[account] = _Member(account)
            self._back(self._clock, member)
        member.step = 1.0 / weight
        member.waiting.append(place)
        self._count += 1

    def call(self, now: float, most: int, soon: int) -> tuple[list[tuple[W, str]], list[tuple[W, str]]]:
        """Those who may start now, so many with those whose turn it is already and who have a session to use it; and of
        the next ones, so many, those who have no session."""
        self._called = {place: since for place, since in self._called.items() if now < since + PATIENCE}
        found: list[tuple[W, str]] = []
        while len(found) < most and self._urgent:
            if _waits(place := self._urgent.popleft()):
                found.append(place)
        most -= sum(1 for place in self._called if place[0].idle)
        while len(found) < most and (head := self._head()):
            found.append(self._in_turn(*head))
        self._called |= dict.fromkeys(found, now)
        return found, self._next(soon)

    def lets(self, place: tuple[W, str], *, called: bool) -> bool:
        """Whether a lane may start that comes now: it has its turn, nobody waits, or it was ``called`` elsewhere."""
        return called or not self or place in self._called

    def started(self, place: tuple[W, str]) -> None:
        """One who was called has started, or waits for something else."""
        self._called.pop(place, None)

    def _in_turn(self, clock: float, member: _Member[W]) -> tuple[W, str]:
        """The place whose turn it is: of this account, which is furthest behind, and those after it, the first that has
        a session."""
        passed = [(clock, member)]
        found = member.take(ready=True)
        while found is None and len(passed) < LOOKED_AT and (head := self._head()):
            passed.append(head)
            found = head[1].take(ready=True)
        if found is None:  # then who is furthest behind has one opened
            found = member.take(ready=False)
            passed.append(passed.pop(0))
        assert found
        self._count -= 1
        self._clock = min(clock for clock, _ in passed)
        clock, member = passed.pop()
        self._back(clock + member.step, member)
        for clock, member in passed:
            self._back(clock, member)
        return found

    def _next(self, many: int) -> list[tuple[W, str]]:
        """The places of the next so many turns that have no idle session."""
        found: list[tuple[W, str]] = []
        turns: dict[str, int] = {}
        order = self._order.copy()
        while len(found) < many and order:
            clock, turn, member = heappop(order)
            nth = turns[member.name] = turns.get(member.name, -1) + 1
            if nth < len(member.waiting):
                found.append(member.waiting[nth])
                heappush(order, (clock + member.step, turn, member))
        return [place for place in found if not place[0].idle and _waits(place)]

    def _head(self) -> tuple[float, _Member[W]] | None:
        """Takes the account that is furthest behind out of the order."""
        while self._order:
            clock, _, member = heappop(self._order)
            self._count -= member.forget_gone()
            if member.waiting:
                return clock, member
            del self._members[member.name]
        return None

    def _back(self, clock: float, member: _Member[W]) -> None:
        self._turn += 1
        heappush(self._order, (clock, self._turn, member))


def _waits(place: tuple[Way, str]) -> bool:
    return place[0].waits(place[1])
