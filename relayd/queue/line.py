"""A line: the lanes that wait for a limit which several paths or accounts share, and whose turn it is.

Enter: places, each a lane of a path's ready queue, how many may start.  Leave: the places that are called.  Priority
mail goes first; then accounts take turns by their weights, the places of each in the order in which they came.  Some
are called ahead of their time, so that a session is open when it comes; who finds that it has not come is the next.
"""

from collections import deque
from typing import TYPE_CHECKING

from relayd.queue.ready import Turns

if TYPE_CHECKING:
    from relayd.queue.state import Path

Place = tuple["Path", str]  # a lane of a path's ready queue
PATIENCE = 2.0  # seconds for which a turn is kept for who has it


class _Member:
    """An account's places."""

    __slots__ = ("name", "step", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.step = 1.0
        self.waiting: deque[Place] = deque()


class Line:
    """See the module."""

    __slots__ = ("_again", "_ahead", "_called", "_in_turn", "_turns", "_urgent")

    def __init__(self) -> None:
        self._urgent: deque[Place] = deque()
        self._again: deque[Place] = deque()  # called ahead, and too early
        self._turns: Turns[_Member] = Turns()
        self._in_turn = 0
        self._called: dict[Place, float] = {}  # those who have not started yet, since when
        self._ahead: dict[Place, float] = {}

    def __len__(self) -> int:
        return len(self._urgent) + len(self._again) + self._in_turn

    @property
    def urgent(self) -> bool:
        """Whether priority mail waits."""
        return bool(self._urgent)

    def join(self, account: str, weight: float, place: Place, *, urgent: bool, called: bool) -> None:
        """A lane waits from now on until it is called; ``called``: it has been, and it was not its time."""
        self.started(place)
        if urgent:
            self._urgent.append(place)
        elif called:
            self._again.append(place)
        else:
            member = self._turns.members.get(account) or self._turns.join(_Member(account))
            member.step = 1.0 / weight
            member.waiting.append(place)
            self._in_turn += 1

    def call(self, now: float, most: int, ahead: int) -> list[Place]:
        """Those whose turn it is: so many may start now, and so many more soon, who have had their turns in between
        included."""
        self._called = {place: since for place, since in self._called.items() if now < since + PATIENCE}
        self._ahead = {place: since for place, since in self._ahead.items() if now < since + PATIENCE}
        found = []
        while self and len(self._called) < most:
            found.append(self._next())
            self._called[found[-1]] = now
        unready = [place for place in self._again if not place[0].idle]
        for place in unready:  # its session has ended meanwhile
            self._again.remove(place)
        while self._in_turn and len(self._ahead) + len(self._again) + len(unready) < ahead:
            unready.append(self._in_its_turn())
        self._ahead |= dict.fromkeys(unready, now)
        return found + unready

    def lets(self, place: Place, *, called: bool) -> bool:
        """Whether a lane may start that comes now: it has its turn, nobody else waits, or it waited elsewhere until it
        was ``called``.  Who was called ahead lets those go whose time it is."""
        if place in self._called:
            return True
        if place in self._ahead:
            return not (self._called or self._again or self._urgent)
        return called or not self

    def started(self, place: Place) -> None:
        """One who was called has started, or waits again."""
        self._called.pop(place, None)
        self._ahead.pop(place, None)

    def _next(self) -> Place:
        if self._urgent:
            return self._urgent.popleft()
        if not self._again:
            return self._in_its_turn()
        ready = next((place for place in self._again if place[0].idle), self._again[0])
        self._again.remove(ready)
        return ready

    def _in_its_turn(self) -> Place:
        self._in_turn -= 1
        return self._turns.next().waiting.popleft()
