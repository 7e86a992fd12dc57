"""What is counted, and the windows it is counted in.

Enter: counts and the moment they are of.  Leave: the sums of a window's last buckets, exactly.
"""

from array import array
from typing import Literal, get_args

# Of recipients: an attempt's outcome (the first six), a complaint; at submission, taken in, kept from mail (by a stop-
# list, or for a faulty address), refused for another reason, or a trap.  ``spam`` is what the sender is to blame for,
# ``blocked`` what the source is: a source that a provider blocks says nothing of the accounts that send by it.  Their
# order is that on disk: a new one goes to the end.
Counter = Literal[
    "delivered",
    "deferred",
    "unknown",
    "spam",
    "blocked",
    "failed",
    "complaint",
    "received",
    "suppressed",
    "refused",
    "trap",
]
COUNTERS: tuple[Counter, ...] = get_args(Counter)
INDEX: dict[str, int] = {name: place for place, name in enumerate(COUNTERS)}
N = len(COUNTERS)

# For whom something was sent: source and its group of sites ("" at submission), account, client, connection, and the
# envelope sender's address, whose domain counts.
Who = tuple[str, str, str, str, str, str]

HOUR, DAY = 3600, 86400  # seconds: the windows ...
BUCKETS = {HOUR: 300, DAY: 3600}  # ... and their buckets

_SPAM = ("content_spam", "content_virus")
_BLOCKS = ("ip_blocked", "reputation")
_NOBODY = ("recipient_unknown", "mailbox_disabled", "domain_unknown", "domain_no_mail")


def bearing(cls: str, permanent: bool, blame: str = "") -> Counter | None:
    """What a refusal counts as, by its class and whom it is to blame on, where that is known better than by the class;
    None for a greylister's, which says nothing of anybody."""
    if cls in _SPAM or (cls in _BLOCKS and blame in ("content", "sender")):
        return "spam"
    if cls in _BLOCKS:
        return "blocked"
    if cls == "greylist":
        return None
    if not permanent:
        return "deferred"
    return "unknown" if cls in _NOBODY else "failed"


class Window:
    """Counts of the last so many seconds: those of the bucket that ``now`` lies in, and of the full ones before it."""

    __slots__ = ("_cells", "_last", "_wide", "span")

    def __init__(self, seconds: int) -> None:
        self._wide = BUCKETS[seconds]
        self.span = seconds // self._wide
        self._cells = array("I", bytes(4 * N * self.span))
        self._last = 0  # the bucket that was counted in last

    def add(self, counts: list[tuple[int, int]], now: float) -> None:
        """So many of each counter (by its place).  A clock that is set back counts into the last bucket."""
        bucket = int(now // self._wide)
        for passed in range(max(self._last + 1, bucket - self.span + 1), bucket + 1):
            at = passed % self.span * N
            self._cells[at : at + N] = _NOTHING
        self._last = max(self._last, bucket)
        at = self._last % self.span * N
        for counter, count in counts:
            self._cells[at + counter] += count

    def sums(self, now: float, since: float = 0.0) -> list[int]:
        """By counter; what came in the bucket of ``since`` or before does not count."""
        first = max(int(now // self._wide), self._last) - self.span + 1
        if since:
            first = max(first, int(since // self._wide) + 1)
        if first > self._last:
            return [0] * N
        at, end = first % self.span * N, (self._last % self.span + 1) * N
        cells = self._cells[at:end] if at < end else self._cells[at:] + self._cells[:end]
        return [sum(cells[counter::N]) for counter in range(N)]


_NOTHING = array("I", bytes(4 * N))
