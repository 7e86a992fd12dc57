"""Limits: rates and the buckets that keep them, and what a configuration limits in which scope.

Enter: rates as configured, the moments at which something goes.  Leave: how long the next one has to wait.
"""

import re
from typing import Any

import msgspec

from relayd import notation
from relayd.message import window

_RATE = re.compile(
    r"(\d{1,9})\s*/\s*(s|sec|second|m|min|minute|h|hour|d|day)(?:\s+burst\s+(\d{1,9}))?", re.IGNORECASE | re.ASCII
)
_PERIODS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_GRAIN = 3e-7  # seconds: unix time in a float knows no less


class Rate(msgspec.Struct, frozen=True):
    """So many in so many seconds.  ``burst``: of which so many at once, 0 for what is usual where the rate is kept."""

    count: int
    period: float
    burst: int = 0

    def part(self, share: float) -> "Rate":
        """A share of it, at least one in its period; in a longer one where that is more exact."""
        if share >= 1:
            return self
        longer = next((seconds for seconds in _PERIODS.values() if seconds > self.period), self.period)
        period = self.period if self.count * share >= 20 else longer
        burst = max(1, int(self.burst * share)) if self.burst else 0
        return Rate(max(1, int(self.count * share * period / self.period)), period, burst)

    def __str__(self) -> str:
        unit = next(unit for unit, seconds in _PERIODS.items() if seconds == self.period)
        return f"{self.count}/{unit}" + (f" burst {self.burst}" if self.burst else "")


def rate(text: object) -> Rate:
    """``"100/s"``, ``"20/min"``, ``"5000/h"``, ``"20000/d"``, ``"1000/h burst 50"``.  Raises ValueError."""
    match = _RATE.fullmatch(text) if isinstance(text, str) else None
    if not match or not int(match[1]) or not int(match[3] or 1):
        raise ValueError(
            f'{text!r} is not a rate: write "100/s", "20/min", "5000/h" or "20000/d", '
            'or "1000/h burst 50" to say how many may go at once'
        )
    return Rate(int(match[1]), _PERIODS[match[2][0].lower()], int(match[3] or 0))


_VOLUME = re.compile(r"(\d+[KMGT]?)\s*/\s*(.+)", re.ASCII)


def volume(text: object) -> Rate:
    """Bytes in a time: ``"10M/s"``, ``"500M/h"``, ``"20G/d burst 1G"``.  Raises ValueError."""
    match = _VOLUME.fullmatch(text) if isinstance(text, str) else None
    try:
        assert match
        period, burst, most = match[2].partition("burst")
        unit = rate(f"1/{period.strip()}")
        return Rate(notation.size(match[1]), unit.period, notation.size(most.strip()) if burst else 0)
    except (AssertionError, ValueError):
        raise ValueError(f'{text!r} is not a volume: write "10M/s", "500M/h" or "20G/d"') from None


def show_volume(limit: Rate) -> str:
    """As ``volume`` reads it."""
    unit = str(Rate(1, limit.period)).partition("/")[2]
    most = f" burst {_show_size(limit.burst)}" if limit.burst else ""
    return f"{_show_size(limit.count)}/{unit}{most}"


def _show_size(count: int) -> str:
    for unit, shift in (("G", 30), ("M", 20), ("K", 10)):
        if count and not count % (1 << shift):
            return f"{count >> shift}{unit}"
    return str(count)


class Bucket:
    """Keeps a rate (generic cell rate algorithm, ITU-T I.371): so many as ``burst`` at once, then evenly.

    More than the burst at once is not impossible: it goes when the bucket is full, and the next ones wait until it is
    paid for.  All the state is the moment at which the bucket is full again.  A clock that is set back takes the bucket
    back with it, so that nobody waits for the time to come again.
    """

    __slots__ = ("_deep", "_each", "_full_at", "_seen", "rate")

    def __init__(self, rate: Rate, burst: float) -> None:
        self.rate = rate
        self._each = rate.period / rate.count
        self._deep = burst * self._each  # seconds from empty to full
        self._full_at = 0.0
        self._seen = 0.0

    def wait(self, now: float, count: float = 1) -> float:
        """Seconds until so many may go, 0 if they may go now."""
        if now < self._seen:
            self._full_at -= self._seen - now
        self._seen = now
        slack = self._deep - count * self._each
        wait = self._full_at - now - (slack if slack > 0 else 0.0)
        return wait if wait > _GRAIN else 0.0

    def spend(self, now: float, count: int = 1) -> None:
        """So many go now."""
        self._full_at = (self._full_at if self._full_at > now else now) + count * self._each

    def follow(self, other: "Bucket", now: float) -> None:
        """It takes the place of another: it is full when that would be, or as soon as an empty one."""
        self._full_at = now + min(other.fills(now), self._deep)
        self._seen = now

    def give_back(self, taken: float, now: float, count: int = 1) -> None:
        """So many that went at ``taken`` did not go after all.  What has been refilled since is not given twice, so
        that the rate holds whatever is given back."""
        self._full_at -= max(0.0, count * self._each - max(0.0, now - taken))

    def left(self, now: float) -> int:
        """How many may go now."""
        return max(0, int((self._deep - self.fills(now) + _GRAIN) / self._each))

    @property
    def speed(self) -> float:
        """How many may go in a second."""
        return 1.0 / self._each

    def fills(self, now: float) -> float:
        """Seconds until it is full; a full one knows nothing that a new one does not."""
        return max(0.0, self._full_at - now)


class Limits(msgspec.Struct, frozen=True):
    """Of one scope; 0, None and "" are no limit.  ``rate`` counts deliveries, ``bytes`` their content; ``hours``: when
    it may be used at all (``message.window``)."""

    connections: int = 0
    rate: Rate | None = None
    connection_rate: Rate | None = None
    bytes: Rate | None = None
    deliveries_per_session: int = 0
    hours: str = ""

    def over(self, other: "Limits") -> "Limits":
        """These, and what they do not say from the other ones."""
        mine, theirs = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return Limits(*(own or general for own, general in zip(mine, theirs, strict=True)))

    def part(self, share: float) -> "Limits":
        """A share of the rate and of the connections, 1.0 for these themselves."""
        if share >= 1:
            return self
        slow = self.rate and self.rate.part(share)
        return msgspec.structs.replace(self, connections=max(1, int(self.connections * share)), rate=slow)


NONE = Limits()


def _hours(text: object) -> str:
    if not isinstance(text, str):
        raise ValueError(f'{text!r} are no hours: write "Mon-Fri 08:00-20:00 Europe/Moscow"')
    if text:
        window.parse(text)
    return text


_PARSE = {
    "connections": notation.whole(0),
    "rate": rate,
    "connection_rate": rate,
    "bytes": volume,
    "deliveries_per_session": notation.whole(0),
    "hours": _hours,
}
LIMITS = tuple(_PARSE)


def parse_limits(value: object, known: tuple[str, ...] = LIMITS) -> Limits:
    """``{ connections = 10, rate = "100/min" }`` and the like; "" and 0 are no limit.  Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f'{value!r} are no limits: write {{ connections = 10, rate = "100/min" }}')
    found: dict[str, Any] = {}
    for key, text in value.items():
        if key not in known:
            raise ValueError(f"{key!r} is no limit here: write {', '.join(known)}{notation.nearest(str(key), known)}")
        if text != "":
            try:
                found[key] = _PARSE[key](text)
            except ValueError as fault:
                raise ValueError(f"{key}: {fault}") from None
    return Limits(**found)


def show_limits(limits: Limits) -> dict[str, Any]:
    """As ``parse_limits`` reads them; {} for none."""
    shown = {key: value for key, value in msgspec.structs.asdict(limits).items() if value}
    return {key: show_volume(v) if key == "bytes" else str(v) if isinstance(v, Rate) else v for key, v in shown.items()}


class Layer(msgspec.Struct, frozen=True):
    """What one table limits besides single paths: everything that goes by a source, by a pool, or for an account.
    ``name`` is the table's, for those who ask what binds.  Of an account's own layer ``at`` is the provider or mail
    host towards which it holds, "" for all, and ``path`` its share of each path."""

    name: str
    source: Limits = NONE
    pool: Limits = NONE
    account: Limits = NONE
    path: Limits = NONE
    at: str = ""


SCOPES = ("account", "path", "source", "pool")
OWN = ("connections", "rate", "bytes", "hours")  # of an account: a session carries everybody's mail


def account_layers(account: str, value: object) -> tuple[Layer, ...]:
    """An account's own: ``{"gmail": {"account": {"rate": "10/s"}, "path": {"connections": 2}}}``, "" for everywhere.
    Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} are no limits of an account")
    found = []
    for at, scopes in value.items():
        limits = {scope: parse_limits(scopes[scope], OWN) for scope in scopes}
        if unknown := [scope for scope in limits if scope not in SCOPES]:
            raise ValueError(f"{unknown[0]!r} is no scope: write {', '.join(SCOPES)}")
        found.append(Layer(f"account {account}{f' at {at}' if at else ''}", **limits, at=at))
    return tuple(found)


def show_layers(layers: tuple[Layer, ...]) -> dict[str, dict[str, Any]]:
    """As ``account_layers`` reads them."""
    return {
        layer.at: {scope: shown for scope in SCOPES if (shown := show_limits(getattr(layer, scope)))}
        for layer in layers
    }


class Terms(msgspec.Struct, frozen=True):
    """What holds towards a site.  ``limits`` of each path there, and of which tables they are made, ``names``, the
    general one left out; ``group``: its provider, "" for none; ``layers`` from the general one to the nearest."""

    limits: Limits = Limits(20)
    names: tuple[str, ...] = ()
    group: str = ""
    layers: tuple[Layer, ...] = ()


KEPT = 0.1  # of a rate, for priority mail
_AT_ONCE = 0.025  # of a rate without a burst of its own, so that waking a little late costs nothing


class Pace(Bucket):
    """Keeps a rate of what goes out.  Without a burst of its own: evenly, and in no stretch of the period's length more
    than its count, not by one; with one, so many more at once.

    Of what may go at once a share, one at least, is kept for priority mail: other mail goes only where that much is
    left.  Priority mail may pass at up to that share of the rate, so that neither kind ever stops the other.  While
    there is none, the whole rate is other mail's.
    """

    __slots__ = ("_kept", "_passing")

    def __init__(self, rate: Rate) -> None:
        at_once = rate.burst or 1 + int(rate.count * _AT_ONCE)
        super().__init__(rate, at_once)
        if not rate.burst:
            self._each = rate.period / (rate.count - at_once + 1) + 2 * _GRAIN
            self._deep = at_once * self._each
        self._kept = max(1.0, KEPT * at_once)
        self._passing = Bucket(Rate(rate.count, rate.period / KEPT), self._kept)

    def wait_in_line(self, now: float) -> float:
        """Seconds until the next in line may go, whatever it is, and leave what is kept."""
        return self.wait(now, 1 + self._kept)

    def left(self, now: float) -> int:
        """How many in line may go now."""
        return max(0, int((self._deep - self.fills(now) + _GRAIN) / self._each - self._kept))

    def wait_to_pass(self, now: float) -> float:
        """Seconds until priority mail may pass what is in line."""
        return max(self.wait(now), self._passing.wait(now))

    def passed(self, now: float) -> None:
        """Priority mail goes now, past what is in line."""
        self.spend(now)
        self._passing.spend(now)
