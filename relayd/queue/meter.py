"""Meters: what keeps the limits of one scope, and who waits for it.

Enter: limits, starts of deliveries, sessions opened and closed.  Leave: how long the next has to wait and for which
limit, and who is called where several paths or accounts share one.
"""

from typing import Generic, Literal, TypeVar

from relayd.message.window import Window, stored
from relayd.queue.line import Line, W
from relayd.shaping.limits import Bucket, Limits, Pace, show_volume

B = TypeVar("B", bound=Bucket)
Counts = Literal["sessions", "deliveries"]
NEVER = float("inf")  # until something else happens: a session ends, a delivery is done
AGAIN = 0.05  # seconds after which those in line are called again, if those called did not go
LEAD = 0.5  # seconds before its time that one is called: a session may have to be opened


class Meter(Generic[W]):
    """One scope of one layer.  ``name`` says which, as in "source t1 in [provider.gmail]"; ``counts``: what takes one
    of its connections while it is there: an open session, or where a session is not the scope's own, a delivery."""

    __slots__ = (
        "__weakref__",
        "bytes",
        "counts",
        "ends_at",
        "hungry",
        "idle",
        "limits",
        "line",
        "name",
        "opens",
        "pace",
        "used",
        "wakes_at",
        "window",
    )

    def __init__(self, name: str, limits: Limits, counts: Counts = "sessions") -> None:
        self.name = name
        self.counts = counts
        self.used = 0
        self.hungry: tuple[dict[W, None], ...] = ({}, {})  # paths that want a session, for priority mail, others ...
        self.idle: dict[W, None] = {}  # ... and those that have one to spare
        self.wakes_at = NEVER
        self.ends_at = NEVER  # from when on it limits nothing
        self.line: Line[W] = Line()
        self.limits = Limits()
        self.pace: Pace | None = None
        self.opens: Bucket | None = None
        self.bytes: Bucket | None = None
        self.window: Window | None = None
        self.limit(limits, 0.0)

    def limit(self, limits: Limits, now: float) -> None:
        """Limits from now on.  A rate that stays the same goes on where it is, and who has to wait by one that changes
        has no more at once by the new one."""
        old, self.limits = self.limits, limits
        if limits.rate != old.rate:
            self.pace = _after(self.pace, Pace(limits.rate) if limits.rate else None, now)
        if limits.connection_rate != old.connection_rate:
            self.opens = _after(self.opens, Pace(limits.connection_rate) if limits.connection_rate else None, now)
        if limits.bytes != old.bytes:
            volume = limits.bytes
            most = volume and (volume.burst or max(1.0, volume.count / volume.period))
            self.bytes = _after(self.bytes, Bucket(volume, most) if volume and most else None, now)
        self.window = stored(limits.hours) if limits.hours else None

    def knows_nothing(self, now: float) -> bool:
        """Whether a new one would do as well."""
        buckets = (self.pace, self.opens, self.bytes)
        return not (self.used or self.line or any(bucket and bucket.fills(now) for bucket in buckets))

    def fills_at(self, now: float) -> float:
        """When all its rates are full again."""
        return now + max((bucket.fills(now) for bucket in (self.pace, self.opens, self.bytes) if bucket), default=0.0)

    # Deliveries.

    def wait(self, now: float, *, urgent: bool) -> float:
        """Seconds until a delivery may start; ``urgent``: it is priority mail.  Whatever its size, it may while any of
        the volume is left, and the next ones wait until it is paid for: or large ones would wait until there are no
        small ones."""
        wait = 0.0
        if now >= self.ends_at:
            return wait
        if self.pace:
            wait = self.pace.wait_in_line(now)
            if wait and urgent:
                wait = min(wait, self.pace.wait_to_pass(now))
        if self.bytes:
            wait = max(wait, self.bytes.wait(now))
        if self.window:
            wait = max(wait, self.window.next_open(now) - now)
        if self.counts == "deliveries" and 0 < self.limits.connections <= self.used:
            wait = NEVER
        return min(wait, self.ends_at - now)

    def spend(self, now: float, size: int, *, urgent: bool) -> None:
        """A delivery starts."""
        if self.pace:
            if urgent and self.pace.wait_in_line(now) > 0:
                self.pace.passed(now)
            else:
                self.pace.spend(now)
        if self.bytes:
            self.bytes.spend(now, size)

    def refusal(self, now: float) -> str:
        """The limit that binds now, for an operator; "" if none does."""
        limits = self.limits
        if self.window and self.window.next_open(now) > now:
            return f"the hours of {self.name}, {limits.hours}"
        if self.pace and self.pace.wait_in_line(now) > 0:
            return f"the rate {limits.rate} of {self.name}"
        if self.bytes and limits.bytes and self.bytes.wait(now) > 0:
            return f"the volume {show_volume(limits.bytes)} of {self.name}"
        if 0 < limits.connections <= self.used:
            return f"all {limits.connections} connections of {self.name} are in use"
        if self.opens and self.opens.wait(now) > 0:
            return f"the connection rate {limits.connection_rate} of {self.name}"
        return ""

    # Sessions.

    def wait_to_open(self, now: float, *, in_line: bool) -> float:
        """Seconds until one more session may be opened; ``in_line``: for mail that is not priority mail, which has the
        last one of several for itself."""
        most = self.limits.connections
        if 0 < most <= self.used + (in_line and most > 1):
            return NEVER
        return self.opens.wait(now) if self.opens else 0.0

    @property
    def crowded(self) -> bool:
        """Whether somebody wants one of its connections that others have."""
        return any(self.hungry) and 0 < self.limits.connections <= self.used + 1

    @property
    def excessive(self) -> bool:
        """Whether more of its connections are in use than may be by now."""
        return 0 < self.limits.connections < self.used

    def opened(self, now: float) -> None:
        self.used += 1
        if self.opens:
            self.opens.spend(now)

    # The line.

    def call(self, now: float) -> tuple[list[tuple[W, str]], list[tuple[W, str]]]:
        """Those in line whose turn it is: as many as may start now, and those who need a session soon."""
        wait = self.wait(now, urgent=self.line.urgent)
        most, speed = 1, 0.0
        if self.pace:
            most, speed = self.pace.left(now), self.pace.speed
        elif self.counts == "deliveries" and self.limits.connections:
            most = self.limits.connections - self.used
        soon = 1 + int(max(0.0, LEAD - wait) * speed) if wait <= LEAD + AGAIN else 0
        return self.line.call(now, 0 if wait > 0 else max(1, most), soon)

    def calls_at(self, now: float) -> float:
        """When there may be somebody to call again."""
        wait = self.wait(now, urgent=self.line.urgent)
        early = LEAD + AGAIN < wait < NEVER
        return now + (wait - LEAD if early else wait or AGAIN)


def _after(old: Bucket | None, new: B | None, now: float) -> B | None:
    if old and new:
        new.follow(old, now)
    return new
