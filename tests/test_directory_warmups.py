"""Where sources in warm-up stand, on a real disk; and thirty sending days in seconds."""

import sqlite3
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from relayd.directory import Directory
from relayd.directory.store import UPGRADES
from relayd.warmup import DAY, Outcome, Plan, Standing, Warmup
from relayd.warmup.plan import parse_caps
from relayd.warmup.warmup import AGAIN
from tests.warmup_kit import NOON, TODAY

ROWS = [
    Standing(
        "t9", "gmail", 3, TODAY, 120, 4, 90, 20, 3, 7, 1, TODAY, True, "went back on Oct 04: 3 of 120 were blocked"
    ),
    Standing("t9", "it's; \u00e9x\u00e4mple", date=TODAY),
]


def opened(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "directory.sqlite", lambda call: call())


def stored(tmp_path: Path) -> list[str]:
    directory = opened(tmp_path)
    directory.close()
    return sorted(map(str, directory.warmups.stored))


def test_rows_come_back_as_they_were_replaced_and_removed(tmp_path):
    directory = opened(tmp_path)
    directory.warmups.keep(ROWS, []).result(10)
    directory.close()
    assert stored(tmp_path) == sorted(map(str, ROWS))
    directory = opened(tmp_path)
    newer = Standing("t9", "gmail", 4, TODAY + 1)
    directory.warmups.keep([newer], [("t9", ROWS[1].group), ("t9", "gmail"), ("t8", "gmail")]).result(10)
    directory.close()
    assert stored(tmp_path) == [str(newer)]


def test_what_is_kept_costs_nobody_what_he_knows_of_the_directory(tmp_path):
    directory = opened(tmp_path)
    before = directory.version
    directory.warmups.keep(ROWS, []).result(10)
    assert directory.version == before
    directory.close()


def test_a_file_of_the_version_before_has_nobody_in_warm_up(tmp_path):
    before = list(UPGRADES.values()).index(next(text for text in UPGRADES.values() if "TABLE warmups" in text))
    db = sqlite3.connect(tmp_path / "directory.sqlite")
    db.executescript("; ".join(list(UPGRADES.values())[:before]) + f"; PRAGMA user_version = {before}")
    db.close()
    assert stored(tmp_path) == []


def test_a_disk_that_refuses_is_told(tmp_path):
    directory = opened(tmp_path)
    with pytest.raises(sqlite3.Error):
        directory.warmups.keep([Standing("t9", "gmail", day=2**70)], []).result(10)
    directory.close()


# Kill -9, for real.

_CHILD = """
import sys
from queue import Queue
from relayd.directory import Directory
from relayd.warmup import Plan, Warmup

posted = Queue()
directory = Directory(sys.argv[1], posted.put)
warmup = Warmup(directory.warmups.stored, directory.warmups.keep)
warmup.configure({"t9": Plan(caps=(1000,))})
while True:
    now = float(sys.argv[2])
    while warmup.may("t9", "gmail", now, now):
        posted.get()()
    warmup.spend("t9", "gmail", now)
    sys.stdout.buffer.raw.write(b".")
"""


def test_whatever_went_before_a_kill_is_counted_after_it(tmp_path):
    now, went = NOON, 0
    for dots in (1, 20, 100, 30):
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(tmp_path / "directory.sqlite"), str(now)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        went += len(child.stdout.read(dots))
        child.kill()
        went += len(child.stdout.read())
        child.wait(10)
        child.stdout.close()
        directory = opened(tmp_path)
        (row,) = directory.warmups.stored
        directory.close()
        assert went <= row.used <= 1000
    assert row.used <= went + 4 * 100, "a kill costs no more than what was granted ahead"


# Thirty sending days in seconds: mail comes in every ten minutes, goes by the new source t9, and what may not, by the
# warm one t1, or waits where there is no other.

PLAN = Plan(caps=parse_caps({"first": 20, "growth": 1.2, "days": 30}), caps_for={"weekdays": (20, 40, 80, 160, 320)})
STEP = 600
MONDAY = TODAY // 7 * 7 + 4  # 1970 began on a Thursday
DAYS = 40


class Relay:
    """A warm-up on a real directory; what its thread posts, is done when somebody waits for the disk."""

    def __init__(self, path: Path) -> None:
        self.posted: Queue[Callable[[], None]] = Queue()
        self.directory = Directory(path, self.posted.put)
        self.warmup = Warmup(self.directory.warmups.stored, self.directory.warmups.keep)
        self.warmup.configure({"t9": PLAN})

    def may(self, source: str, group: str, since: float, now: float) -> bool:
        answer = self.warmup.may(source, group, since, now)
        while 0 < answer - now <= AGAIN:
            self.posted.get(timeout=10)()
            answer = self.warmup.may(source, group, since, now)
        return not answer


class World:
    """What is mailed, what the providers make of it, and what went, by group and day of the simulation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.relay = Relay(path)
        self.within: Counter[tuple[str, int]] = Counter()
        self.over: Counter[tuple[str, int]] = Counter()
        self.elsewhere: Counter[str] = Counter()
        self.arrived: Counter[str] = Counter()
        self.waiting: dict[str, deque[float]] = {"alone": deque()}
        self.longest = 0.0
        self.days: dict[tuple[str, int], int] = {}  # of the plan

    def run(self, demand: Callable[[str, int], int], answer: Callable[[str, int, int], Outcome], crash: float) -> None:
        for tick in range(DAYS * DAY // STEP):
            now = MONDAY * DAY + tick * STEP + 1.0
            day = tick * STEP // DAY + 1
            if now - STEP < crash <= now:
                self.relay.directory.close()  # and nothing was written down for it
                self.relay = Relay(self.path)
            for group in ("gmail", "outlook", "yahoo", "weekdays", "alone"):
                for _ in range(self._arrivals(group, demand(group, day), tick % (DAY // STEP))):
                    self._deliver(group, day, now, answer)
                self._deliver_waiting(group, day, now, answer)
                for at in self.relay.warmup.standings("t9", now):
                    self.days[at.group, day] = at.day
            self.relay.warmup.tick(now)

    def _arrivals(self, group: str, a_day: int, step: int) -> int:
        steps = DAY // STEP
        count = a_day * (step + 1) // steps - a_day * step // steps
        self.arrived[group] += count
        return count

    def _deliver(self, group: str, day: int, now: float, answer: Callable[[str, int, int], Outcome]) -> None:
        if self.relay.may("t9", group, now, now):
            self._go(self.within, group, day, now, answer)
        elif group in self.waiting:
            self.waiting[group].append(now)
        else:
            assert self.relay.may("t1", group, now, now)
            self.relay.warmup.spend("t1", group, now)
            self.elsewhere[group] += 1

    def _deliver_waiting(self, group: str, day: int, now: float, answer: Callable[[str, int, int], Outcome]) -> None:
        queue = self.waiting.get(group, deque())
        while queue:
            within = self.relay.may("t9", group, now, now)
            if not within and not self.relay.may("t9", group, queue[0], now):
                break
            self.longest = max(self.longest, now - queue.popleft())
            self._go(self.within if within else self.over, group, day, now, answer)

    def _go(
        self, count: Counter[tuple[str, int]], group: str, day: int, now: float, answer: Callable[..., Any]
    ) -> None:
        self.relay.warmup.spend("t9", group, now)
        count[group, day] += 1
        attempt = self.within[group, day] + self.over[group, day]
        self.relay.warmup.outcome("t9", group, answer(group, day, attempt), now)


def demand(group: str, day: int) -> int:
    if group == "weekdays":
        return 400 if (day - 1) % 7 < 5 else 3
    return 100 if group == "alone" else 6000


def answer(group: str, day: int, attempt: int) -> Outcome:
    if group == "outlook" and 6 <= day <= 8 and attempt % 4 == 0:
        return "blocked"
    if group == "yahoo" and 10 <= day <= 12 and attempt % 5 == 0:
        return "deferred"
    return "deferred" if attempt % 20 == 0 else "delivered"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world") / "directory.sqlite")
    made.run(demand, answer, crash=(MONDAY + 11) * DAY + DAY / 4)  # on the 12th day, in the morning
    yield made
    made.relay.directory.close()


def test_no_cap_is_exceeded_by_even_one_on_any_day_and_those_that_can_be_are_used(world):
    for (group, day), plan_day in world.days.items():
        sent, cap = world.within[group, day], PLAN.cap(group, plan_day)
        assert sent <= cap, (group, day)
        stopped = group == "outlook" and 6 <= day <= 8
        if group in ("gmail", "outlook", "yahoo") and not stopped and day != 12:
            assert sent == min(cap, demand(group, day)), (group, day)


def test_a_crash_in_the_middle_of_a_day_costs_a_twentieth_of_its_cap_at_most(world):
    cap = PLAN.cap("gmail", world.days["gmail", 12])
    assert cap - cap // 20 - 1 <= world.within["gmail", 12] <= cap


def test_where_all_goes_well_the_plan_takes_thirty_days(world):
    assert [world.days["gmail", day] for day in range(1, DAYS + 1)] == [min(day, 31) for day in range(1, DAYS + 1)]


def test_a_provider_that_blocks_is_left_alone_for_the_day_and_the_plan_goes_back_and_recovers(world):
    assert [world.days["outlook", day] for day in range(5, 12)] == [5, 6, 5, 4, 3, 4, 5]
    assert all(world.within["outlook", day] == PLAN.samples for day in (6, 7, 8))
    assert world.days["outlook", DAYS] == 31


def test_a_provider_that_defers_has_the_day_repeated(world):
    assert [world.days["yahoo", day] for day in range(9, 16)] == [9, 10, 10, 10, 10, 11, 12]


def test_weekends_with_little_mail_do_not_count(world):
    found = [world.days["weekdays", day] for day in range(1, 11)]
    assert found == [1, 2, 3, 4, 5, 6, 6, 6, 6, 6]
    assert PLAN.cap("weekdays", 6) == inf
    assert [world.days["alone", day] for day in range(1, 8)] == [1, 2, 3, 4, 5, 6, 7]


def test_nothing_waits_longer_than_longest_wait_and_what_goes_over_is_counted(world):
    assert world.over["alone", 1] and PLAN.longest_wait <= world.longest <= PLAN.longest_wait + STEP
    gone = sum(count for (group, _), count in (world.within + world.over).items() if group == "alone")
    assert world.arrived["alone"] == gone + len(world.waiting["alone"])


def test_what_may_not_go_by_the_new_source_goes_by_the_warm_one(world):
    for group in ("gmail", "outlook", "yahoo", "weekdays"):
        sent = sum(count for (name, _), count in world.within.items() if name == group)
        assert sent + world.elsewhere[group] == world.arrived[group]
    assert not any(name != "alone" for name, _ in world.over)
