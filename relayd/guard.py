"""Failed logins: a guesser of passwords is slowed, then waits longer and longer, and keeps nobody out who knows his.

Enter: every login's client address, name and outcome.  Leave: how long the next try has to wait, and for how long to
hold an answer back.  Failures are counted three ways: of a login from an address, of an address, and of a login from
anywhere (many machines guess at one).  An IPv6 address counts as its /64, all of which is one client's to choose from.

So many of each are free; one more locks the key, and each after that twice as long.  A quiet window forgets as many as
are free; a lock is no quiet time.  Whoever tries during a lock is not even looked at, so that adds nothing.
An address from which a login succeeded lately is held to its own failures with that login only: neither strangers who
guess at the login nor neighbours behind the same address lock it out.
"""

import heapq
from collections import OrderedDict
from functools import lru_cache
from ipaddress import IPv6Network
from math import exp2

import msgspec

KEYS = 50_000
_LOOKS = 200  # at the oldest keys

Key = tuple[str, str]  # address and login, "" for any


class Settings(msgspec.Struct, frozen=True):
    """Failures that are free in a ``window``, the first and longest lock, the first and longest delay of an answer, and
    for how long a success is remembered.  Times in seconds."""

    failures: int = 5
    failures_per_ip: int = 20
    failures_per_login: int = 100
    window: float = 3600.0
    lock: float = 30.0
    longest_lock: float = 3600.0
    delay: float = 0.5
    longest_delay: float = 10.0
    remember: float = 30 * 86400.0


class Failures(msgspec.Struct, frozen=True):
    """Of one key, "" for any address or login.  ``until``: the end of its lock, None without one."""

    ip: str
    login: str
    failures: int
    until: float | None


class _Tally:
    """Failures that were not forgotten at the last one, and for how long that locked."""

    __slots__ = ("count", "last", "lock")

    def __init__(self, now: float) -> None:
        self.count = 0.0
        self.last = now
        self.lock = 0.0

    def wait(self, now: float) -> float:
        # Never longer than the lock: the clock may have been set back.
        return max(0.0, self.lock - max(0.0, now - self.last))


class Guard:
    """Counts failures for at most ``keys`` keys.  For one more, the oldest that locks nobody goes: strangers who come
    and go push each other out, and a lock only where the oldest hundreds are locks."""

    def __init__(self, settings: Settings | None = None, keys: int = KEYS) -> None:
        self.settings = settings or Settings()
        self._most = keys
        self._tallies: OrderedDict[Key, _Tally] = OrderedDict()
        self._succeeded: OrderedDict[Key, float] = OrderedDict()
        self.totals = {"succeeded": 0, "failed": 0, "locked": 0}  # logins, since the start

    def refuse(self, ip: str, login: str, now: float) -> float:
        """Seconds until the login may be tried from the address, 0 if it may be now."""
        if not self._tallies:
            return 0.0
        own, *others = _keys(ip, login)
        last = self._succeeded.get(own)
        keys = (own, *others) if last is None or now - last > self.settings.remember else (own,)
        wait = max(tally.wait(now) if (tally := self._tallies.get(key)) else 0.0 for key in keys)
        self.totals["locked"] += wait > 0
        return wait

    def locked(self, ip: str, login: str, now: float) -> float:
        """Seconds until the login's own failures from the address lock it no more, whatever others did."""
        tally = self._tallies.get(_keys(ip, login)[0])
        return tally.wait(now) if tally else 0.0

    def failed(self, ip: str, login: str, now: float) -> float:
        """Counts a failure; gives the seconds for which to hold its answer back."""
        self.totals["failed"] += 1
        most = max(self._count(key, now) for key in _keys(ip, login))
        return _doubled(self.settings.delay, most - 1, self.settings.longest_delay)

    def succeeded(self, ip: str, login: str, now: float) -> None:
        """Forgets the login's failures from this address.  Those of the address and of the login from anywhere stay:
        a guesser may know one password, and the owner's success says nothing of others."""
        self.totals["succeeded"] += 1
        own = _keys(ip, login)[0]
        self._tallies.pop(own, None)
        self._succeeded[own] = now
        self._succeeded.move_to_end(own)
        if len(self._succeeded) > self._most:
            self._succeeded.popitem(last=False)

    @property
    def remembered(self) -> int:
        """Addresses and logins of which failures are remembered."""
        return len(self._tallies)

    def failures(self, now: float, limit: int) -> list[Failures]:
        """The worst: those locked longest, then those with the most failures that are not forgotten."""
        rows = ((tally.wait(now), self._left(key, tally, now), key) for key, tally in self._tallies.items())
        worst = heapq.nlargest(limit, (row for row in rows if row[1] > 0.5))
        return [Failures(*key, round(count), now + wait if wait else None) for wait, count, key in worst]

    def forgive(self, who: str) -> int:
        """Forgets all failures of an address (and its /64) or of a login; gives how many keys they were."""
        names = {who, counted_as(who)}
        found = [key for key in self._tallies if who and not names.isdisjoint(key)]
        for key in found:
            del self._tallies[key]
        return len(found)

    def _count(self, key: Key, now: float) -> float:
        """One more failure; gives how many there are."""
        tally = self._tallies.get(key)
        if tally is None:
            self._make_room(now)
            tally = self._tallies[key] = _Tally(now)
        elif tally.wait(now):
            return tally.count  # it was under way when the lock began: many at once do not lock for hours
        self._tallies.move_to_end(key)
        known = self.settings
        tally.count = self._left(key, tally, now) + 1
        over = tally.count - self._free(key)
        tally.last = now
        tally.lock = _doubled(known.lock, over - 1, known.longest_lock) if over > 0 else 0.0
        return tally.count

    def _left(self, key: Key, tally: _Tally, now: float) -> float:
        """How many are not forgotten by now."""
        quiet = max(0.0, now - tally.last - tally.lock)
        return max(0.0, tally.count - quiet * self._free(key) / self.settings.window)

    def _free(self, key: Key) -> int:
        ip, login = key
        known = self.settings
        return (known.failures if ip else known.failures_per_login) if login else known.failures_per_ip

    def _make_room(self, now: float) -> None:
        if len(self._tallies) < self._most:
            return
        for _ in range(_LOOKS):
            oldest = next(iter(self._tallies))
            if not self._tallies[oldest].wait(now):
                break
            self._tallies.move_to_end(oldest)
        self._tallies.popitem(last=False)


def _keys(ip: str, login: str) -> tuple[Key, Key, Key]:
    ip = counted_as(ip)
    return (ip, login), (ip, ""), ("", login)


def _doubled(first: float, times: float, longest: float) -> float:
    return min(longest, first * exp2(min(max(times, 0.0), 40.0)))


@lru_cache(maxsize=4096)
def counted_as(ip: str) -> str:
    """An IPv6 address as its /64; what is none as it is."""
    try:
        return str(IPv6Network((ip.partition("%")[0], 64), strict=False))
    except ValueError:
        return ip
