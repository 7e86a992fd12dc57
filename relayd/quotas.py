"""Quotas: how many messages and recipients in a time, of each scope that has a say: connection, account, stream.

Enter: what one start wants of every scope.  Leave: all of it taken, or nothing of it and the refusal with the true
seconds until it would be.  ``"1000/h"`` here means up to 1000 at once, then evenly; ``"1000/h burst 50"`` 50 at once.
A message for more recipients than may go at once is taken when the bucket is full, and what follows waits until that is
paid for: a limit slows, it never makes a message impossible.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from math import ceil

import msgspec

from relayd.notation import nearest
from relayd.shaping.limits import Bucket, Rate, rate

SCOPES = 100_000  # whose buckets are kept: beyond it the oldest are forgotten, which lets them begin anew
_MOST = 8  # rates of one kind: each costs time at every recipient


class Limits(msgspec.Struct, frozen=True):
    """Of one connection, account or stream; several rates of a kind hold all at once, none is no limit."""

    messages: tuple[Rate, ...] = ()
    recipients: tuple[Rate, ...] = ()


def parse_limits(value: object) -> Limits:
    """``{"messages": "10/s", "recipients": ["1000/h", "20000/d burst 500"]}``, both optional.  Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f'{value!r} are no limits: write {{"messages": "10/s", "recipients": ["1000/h", "20000/d"]}}')
    known = Limits.__struct_fields__
    for key in (key for key in value if key not in known):
        raise ValueError(f"{key!r} is no limit: write messages or recipients{nearest(str(key), known)}")
    return Limits(**{key: _rates(key, value[key]) for key in value})


def _rates(key: str, value: object) -> tuple[Rate, ...]:
    texts = value if isinstance(value, list) else [value]
    if len(texts) > _MOST:
        raise ValueError(f"{key}: {len(texts)} rates are too many, {_MOST} are enough")
    try:
        return tuple(dict.fromkeys(map(rate, texts)))
    except ValueError as fault:
        raise ValueError(f"{key}: {fault}") from None


def show_limits(limits: Limits) -> dict[str, list[str]]:
    """As ``parse_limits`` reads them; {} for none."""
    return {key: list(map(str, rates)) for key, rates in msgspec.structs.asdict(limits).items() if rates}


class Want(msgspec.Struct, frozen=True):
    """So many of one scope, under these rates.  A scope is named by its words, each once in a call."""

    scope: str
    rates: tuple[Rate, ...]
    count: int = 1


def wants(of: Iterable[tuple[str, Limits]], *, messages: int = 0, recipients: int = 0) -> tuple[Want, ...]:
    """What so many messages and recipients want of ("account crm", its limits) and the like; () where nothing limits
    them, so that who has no limits need not even ask."""
    return tuple(
        Want(f"{kind} of {scope}", rates, count)
        for scope, limits in of
        for kind, rates, count in (
            ("messages", limits.messages, messages),
            ("recipients", limits.recipients, recipients),
        )
        if rates and count
    )


class Refusal(msgspec.Struct, frozen=True):
    """The limit that holds longest.  ``wait``: seconds until all that was wanted would be taken."""

    scope: str
    rate: Rate
    wait: float

    @property
    def seconds(self) -> int:
        """For the reply: whole ones, so that who waits them is not refused again."""
        return max(1, ceil(self.wait))

    def __str__(self) -> str:
        return f"{self.rate} {self.scope}: the next in {self.wait:.1f} s"


class Usage(msgspec.Struct, frozen=True):
    """One rate of a scope now: ``left`` of ``burst`` could go at once, and it is full again in ``full_in`` seconds."""

    scope: str
    rate: str
    left: int
    burst: int
    full_in: float


_Buckets = tuple[tuple[Rate, ...], tuple[Bucket, ...]]
_NONE: _Buckets = ((), ())


class Quotas:
    """The buckets of all scopes.  ``now`` is the present in every call, never the moment at which something began.

    A scope's buckets are made when it is first asked for, full, and forgotten when they are full again and room is
    wanted.  A changed rate begins full; what stays the same goes on.
    """

    def __init__(self, scopes: int = SCOPES) -> None:
        self._most = scopes
        self._scopes: OrderedDict[str, _Buckets] = OrderedDict()

    def __len__(self) -> int:
        return len(self._scopes)

    def take(self, wants: Sequence[Want], now: float) -> Refusal | None:
        """Takes all that is wanted, or nothing: then the refusal says why and for how long."""
        found = [(want, self._buckets(want)) for want in wants]
        longest = 0.0
        for want, buckets in found:
            for bucket in buckets:
                wait = bucket.wait(now, want.count)
                if wait > longest:
                    longest, scope, binding = wait, want.scope, bucket.rate
        if longest:
            return Refusal(scope, binding, longest)
        for want, buckets in found:
            for bucket in buckets:
                bucket.spend(now, want.count)
            if self._scopes.get(want.scope, _NONE)[1] is not buckets:
                self._keep(want, buckets, now)
        return None

    def give_back(self, wants: Sequence[Want], taken: float, now: float) -> None:
        """What was taken at ``taken`` was not used: it was refused for another reason, or broken off."""
        for want in wants:
            for bucket in self._scopes.get(want.scope, _NONE)[1]:
                if bucket.rate in want.rates:
                    bucket.give_back(taken, now, want.count)

    def usage(self, wants: Sequence[Want], now: float) -> list[Usage]:
        """How things stand, whatever the counts of ``wants``."""
        return [
            Usage(want.scope, str(bucket.rate), bucket.left(now), _burst(bucket.rate), bucket.fills(now))
            for want in wants
            for bucket in self._buckets(want)
        ]

    def _buckets(self, want: Want) -> tuple[Bucket, ...]:
        """Those of the scope, or new ones where it has none of this rate."""
        rates, buckets = self._scopes.get(want.scope, _NONE)
        if rates is want.rates or rates == want.rates:
            return buckets
        known = {bucket.rate: bucket for bucket in buckets}
        return tuple(known.get(rate) or Bucket(rate, _burst(rate)) for rate in want.rates)

    def _keep(self, want: Want, buckets: tuple[Bucket, ...], now: float) -> None:
        """For a new scope the two oldest are looked at: a full one goes, another has its turn again later.  So there
        are never many more than are in use; and where there are too many, the oldest goes whatever it knows."""
        if want.scope not in self._scopes:
            for _ in range(min(2, len(self._scopes))):
                scope, oldest = self._scopes.popitem(last=False)
                if any(bucket.fills(now) for bucket in oldest[1]):
                    self._scopes[scope] = oldest
            if len(self._scopes) >= self._most:
                self._scopes.popitem(last=False)
        self._scopes[want.scope] = want.rates, buckets


def _burst(rate: Rate) -> int:
    return rate.burst or rate.count
