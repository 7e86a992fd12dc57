"""A ready queue: the deliveries due now for one path, in memory, fair between those who wait.

Virtual-time fairness on two levels.  Accounts (customers: a client goes with its own) take turns by their weights, and
every delivery taken moves the account's clock on by the inverse of its weight; the one furthest behind is next.  So one
account's flood delays only itself.  Within an account priority mail goes first, but never more than so many in a row
while the rest waits; streams of either kind take turns as accounts do, by the weight of their priority.  What a path
keeps for priority mail is asked for apart: there the accounts that have some go round.
"""

from collections import OrderedDict, deque
from collections.abc import Collection, Sized
from heapq import heappop, heappush, heapreplace
from typing import Generic, NamedTuple, Protocol, TypeVar

from relayd.envelope import Delivery

PRIORITY = 80  # a stream of at least this priority is priority mail
ROW = 15  # deliveries of priority mail in a row, after which an account's other mail has one
AFRESH = 100  # turns after which an empty queue forgets its accounts, as no turn comes that would
STEPS = tuple(2.0 ** (-priority / 10) for priority in range(101))  # a lane's, by priority: 10 more is twice the share


class Member(Protocol):
    """Who takes turns.  ``step``: how far a turn moves its clock; ``waiting``: true while it has something."""

    name: str
    step: float

    @property
    def waiting(self) -> Sized | int: ...


M = TypeVar("M", bound=Member)


class Turns(Generic[M]):
    """Members by virtual time.  One that has nothing left is forgotten when its turn has come: sooner, and one that is
    refilled after each delivery would always be the furthest behind."""

    __slots__ = ("_clock", "_order", "members", "turn")

    def __init__(self) -> None:
        self.members: dict[str, M] = {}
        self._order: list[tuple[float, int, M]] = []
        self._clock = 0.0
        self.turn = 0

    def join(self, member: M) -> M:
        self.members[member.name] = member
        self.turn += 1
        heappush(self._order, (self._clock, self.turn, member))
        return member

    def head(self) -> M:
        """The member whose turn it is.  One of them must have something."""
        order = self._order
        while True:
            self._clock, _, member = order[0]
            if member.waiting:
                return member
            heappop(order)
            del self.members[member.name]

    def next(self) -> M:
        """The member whose turn it is, which takes it."""
        member = self.head()
        self.turn += 1
        heapreplace(self._order, (self._clock + member.step, self.turn, member))
        return member


class Lane:
    """``called``: it waited for a meter that others wait for too, and has its turn."""

    __slots__ = ("called", "name", "step", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.step = 1.0
        self.called = False
        self.waiting: deque[Delivery] = deque()


class Parked(NamedTuple):
    """A lane that waits for a meter, with what it needs to come back."""

    account: str
    weight: float
    priority: int
    waiting: deque[Delivery]


class Account:
    """Counts: ``waiting`` is all it has, ``urgent`` its priority mail, ``row`` how many of that went in a row."""

    __slots__ = ("first", "name", "rest", "row", "step", "urgent", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.step = 1.0
        self.waiting = 0
        self.urgent = 0
        self.row = 0
        self.first: Turns[Lane] | None = None
        self.rest: Turns[Lane] = Turns()

    def head(self, *, urgent: bool) -> Lane:
        """The lane whose delivery is next, or of priority mail; there must be one."""
        turns = self.first if self._urgent_next(urgent) else self.rest
        assert turns
        return turns.head()

    def take(self, *, urgent: bool) -> Delivery:
        """The next delivery."""
        if self._urgent_next(urgent):
            assert self.first
            lane = self.first.next()
            self.urgent -= 1
            self.row += 1
        else:
            lane = self.rest.next()
            self.row = 0
        self.waiting -= 1
        lane.called = False
        return lane.waiting.popleft()

    def _urgent_next(self, urgent: bool) -> bool:
        return self.urgent > 0 and (urgent or self.row < ROW or self.urgent == self.waiting)


class ReadyQueue:
    """See the module."""

    __slots__ = ("_accounts", "_count", "_parked", "_urgent")

    def __init__(self) -> None:
        self._accounts: Turns[Account] = Turns()
        self._urgent: OrderedDict[str, Account] = OrderedDict()  # accounts with priority mail, the next one first
        self._count = 0
        self._parked: dict[str, Parked] = {}

    def __len__(self) -> int:
        """How many may be taken: those of parked lanes may not."""
        return self._count

    @property
    def urgent(self) -> bool:
        """Whether there is priority mail."""
        return bool(self._urgent)

    def push(
        self, account: str, weight: float, name: str, priority: int, delivery: Delivery, *, first: bool = False
    ) -> None:
        """Adds a delivery at the end of the account's lane of this name, or at its front when it was taken and handed
        back.  Weight and priority hold from the lane's next turn on."""
        if name in self._parked:
            waiting = self._parked[name].waiting
        else:
            waiting = self._lane(account, weight, name, priority, 1).waiting
        if first:
            waiting.appendleft(delivery)
        else:
            waiting.append(delivery)

    def _lane(self, account: str, weight: float, name: str, priority: int, more: int) -> Lane:
        """The lane, which is about to get so many more."""
        owner = self._accounts.members.get(account) or self._accounts.join(Account(account))
        owner.step = 1.0 / weight
        lanes = owner.rest
        if priority >= PRIORITY:
            lanes = owner.first = owner.first or Turns()
            owner.urgent += more
            self._urgent[account] = owner
        lane = lanes.members.get(name) or lanes.join(Lane(name))
        lane.step = STEPS[priority]
        owner.waiting += more
        self._count += more
        return lane

    def head(self, *, urgent: bool = False) -> tuple[Account, Lane] | None:
        """The account and the lane of the next delivery, or of priority mail; None if there is none."""
        if not (self._urgent if urgent else self._count):
            return None
        owner = next(iter(self._urgent.values())) if urgent else self._accounts.head()
        return owner, owner.head(urgent=urgent)

    def park(self, owner: Account, lane: Lane, priority: int) -> None:
        """Takes the lane aside; what is added to it meanwhile waits with it.  It comes back by ``priority``, which may
        be another than it had."""
        many = len(lane.waiting)
        if lane.name in self._parked:  # under another priority
            self._parked[lane.name].waiting.extend(lane.waiting)
        else:
            self._parked[lane.name] = Parked(owner.name, 1.0 / owner.step, priority, lane.waiting)
        lane.waiting = deque()
        owner.waiting -= many
        self._count -= many
        if owner.first and owner.first.members.get(lane.name) is lane:
            owner.urgent -= many
            if not owner.urgent:
                self._urgent.pop(owner.name, None)

    def parked(self, name: str) -> bool:
        return name in self._parked

    def drop(self, account: str, name: str) -> list[Delivery]:
        """Takes all of a lane."""
        parked = self._parked.pop(name, None)
        found = list(parked.waiting) if parked else []
        owner = self._accounts.members.get(account)
        for turns in (owner.first, owner.rest) if owner else ():
            lane = turns.members.get(name) if turns else None
            if owner and lane:
                self.park(owner, lane, 0)
                found += self._parked.pop(name).waiting
        return found

    def of_lane(self, account: str, name: str) -> list[Delivery]:
        """What a lane has."""
        parked, owner = self._parked.get(name), self._accounts.members.get(account)
        found = list(parked.waiting) if parked else []
        for turns in (owner.first, owner.rest) if owner else ():
            if turns and name in turns.members:
                found += turns.members[name].waiting
        return found

    def take_out(self, account: str, name: str, ids: Collection[int]) -> list[Delivery]:
        """Takes those of a lane that have one of these ids; the rest keeps its turn."""
        parked = self._parked.get(name)
        found = _take_out(parked.waiting, ids) if parked else []
        if parked and not parked.waiting:
            del self._parked[name]
        owner = self._accounts.members.get(account)
        for turns in (owner.first, owner.rest) if owner else ():
            lane = turns.members.get(name) if turns else None
            if owner and lane and (taken := _take_out(lane.waiting, ids)):
                found += taken
                owner.waiting -= len(taken)
                self._count -= len(taken)
                if turns is owner.first:
                    owner.urgent -= len(taken)
                    if not owner.urgent:
                        self._urgent.pop(account, None)
        return found

    def call_all(self) -> None:
        """What parked lanes waited for holds no more."""
        for name in list(self._parked):
            self.call(name)

    def call(self, name: str) -> None:
        """A parked lane has its turn, before others that wait for the same."""
        parked = self._parked.pop(name, None)
        if parked and parked.waiting:
            account, weight, priority, waiting = parked
            lane = self._lane(account, weight, name, priority, len(waiting))
            lane.waiting.extend(waiting)
            lane.called = True

    def pop(self, *, urgent: bool = False) -> Delivery | None:
        """The next delivery, or of priority mail, which costs its account no turn; None if there is none."""
        if not (self._urgent if urgent else self._count):
            return None
        owner = next(iter(self._urgent.values())) if urgent else self._accounts.next()
        delivery = owner.take(urgent=urgent)
        self._count -= 1
        if not owner.urgent:
            self._urgent.pop(owner.name, None)
        elif urgent:
            self._urgent.move_to_end(owner.name)
        if not self._count and (urgent or self._accounts.turn > AFRESH):
            self._accounts = Turns()
        return delivery

    def clear(self) -> list[Delivery]:
        """Takes all of them."""
        found = [delivery for parked in self._parked.values() for delivery in parked.waiting]
        self._parked.clear()
        while (delivery := self.pop()) is not None:
            found.append(delivery)
        return found


def _take_out(waiting: deque[Delivery], ids: Collection[int]) -> list[Delivery]:
    found = [delivery for delivery in waiting if delivery.id in ids]
    if found:
        left = [delivery for delivery in waiting if delivery.id not in ids]
        waiting.clear()
        waiting.extend(left)
    return found
