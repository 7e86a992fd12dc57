"""A disk that writes when the test says so, for tests of warm-up."""

from collections import deque
from concurrent.futures import Future

import msgspec

from relayd.warmup import DAY, Plan, Standing, Warmup

TODAY = 20_000  # a date, in days since 1970
NOON = TODAY * DAY + DAY / 2


class Disk:
    """``rows``: what is on it."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Standing] = {}
        self.under_way: deque[tuple[list[Standing], list[tuple[str, str]], Future[None]]] = deque()

    def keep(self, rows: list[Standing], gone: list[tuple[str, str]]) -> "Future[None]":
        future: Future[None] = Future()
        self.under_way.append((list(map(msgspec.structs.replace, rows)), gone, future))
        return future

    def write(self, fault: str = "") -> None:
        """Ends the write that has waited longest."""
        rows, gone, future = self.under_way.popleft()
        if fault:
            future.set_exception(OSError(fault))
            return
        for key in gone:
            self.rows.pop(key, None)
        self.rows |= {(row.source, row.group): row for row in rows}
        future.set_result(None)

    def finish(self) -> None:
        while self.under_way:
            self.write()

    def restart(self, plan: Plan, **more: int) -> Warmup:
        """What a process finds that starts now, after a kill."""
        self.under_way.clear()
        warmup = Warmup(list(map(msgspec.structs.replace, self.rows.values())), self.keep, **more)
        warmup.configure({"t9": plan})
        return warmup


def send(warmup: Warmup, disk: Disk, now: float, group: str = "gmail", most: int = 10**6, since: float = 0.0) -> int:
    """Sends as many as may go; gives how many those were.  ``since``: of each of them, 0 is now."""
    for sent in range(most):
        if warmup.may("t9", group, since or now, now):
            disk.finish()
            if warmup.may("t9", group, since or now, now):
                return sent
        warmup.spend("t9", group, now)
    return most


def at(warmup: Warmup, now: float, group: str = "gmail") -> Standing:
    return next(standing for standing in warmup.standings("t9", now) if standing.group == group)
