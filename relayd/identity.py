"""Identities of messages and deliveries: 62-bit integers that sort by time of reception.

An identity is the millisecond of reception (42 bits) followed by a counter (20 bits).  A message with n recipients
takes a block: the message is ``m``, its deliveries are ``m + 1 .. m + n``.  So the day a delivery was received, which
is the day its ledger line belongs to, can be read from its identity alone.
"""

_COUNTER_BITS = 20
_BITS = 62
DAY = 86400


class Identities:
    """Hands out blocks of identities, rising even when the clock steps back."""

    def __init__(self, last: int = 0) -> None:
        self._last = last

    def block(self, now: float, recipients: int) -> int:
        """The identity of a new message received at ``now`` (unix seconds) with so many recipients."""
        first = max(self._last + 1, int(now * 1000) << _COUNTER_BITS)
        last = first + recipients
        if first >> _COUNTER_BITS != last >> _COUNTER_BITS:  # a block is of one millisecond, hence of one day
            first = last >> _COUNTER_BITS << _COUNTER_BITS
        self._last = first + recipients
        return first


def lower_bound(moment: float) -> int:
    """The least identity that a message received at ``moment`` (unix seconds) can have."""
    return int(moment * 1000) << _COUNTER_BITS


def received_at(identity: int) -> float:
    """Unix seconds of the reception, to the millisecond."""
    return (identity >> _COUNTER_BITS) / 1000


def in_same_millisecond(identity: int) -> tuple[int, int]:
    """The least and the greatest identity of its millisecond: a message and its deliveries are all of one."""
    return identity >> _COUNTER_BITS << _COUNTER_BITS, identity | (1 << _COUNTER_BITS) - 1


def day_of(identity: int) -> int:
    """Days since 1970-01-01 (UTC) of the reception."""
    return (identity >> _COUNTER_BITS) // (DAY * 1000)


def show(identity: int) -> str:
    """The identity as users see it, in replies, records and commands: 16 hexadecimal digits."""
    return f"{identity:016x}"


def read(text: str) -> int:
    """The identity that a user typed.  Raises ValueError with a sentence for the user."""
    if not 1 <= len(text) <= 16 or any(c not in "0123456789abcdef" for c in text.lower()):
        raise ValueError(f"{text!r} is not a message or delivery id: ids are up to 16 hexadecimal digits")
    if int(text, 16) >> _BITS:
        raise ValueError(f"{text!r} is not a message or delivery id: it would be of a far future")
    return int(text, 16)
