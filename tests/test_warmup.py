"""Warm-up at work: caps that nothing exceeds, grants before use, and what comes back after a crash."""

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relayd.errors import InputError
from relayd.warmup import DAY, Plan, Warmup
from relayd.warmup.warmup import AGAIN, SAVE
from tests.warmup_kit import NOON, TODAY, Disk, at, send

PLAN = Plan(caps=(50, 100, 400))
MIDNIGHT = (TODAY + 1) * DAY
WAIT = PLAN.longest_wait


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def warmup(disk: Disk) -> Warmup:
    return disk.restart(PLAN)


# Caps.


def test_a_source_without_a_plan_sends_what_it_likes_and_nothing_is_kept_of_it(warmup, disk):
    for _ in range(1000):
        assert warmup.may("t1", "gmail", NOON, NOON) == 0.0
        warmup.spend("t1", "gmail", NOON)
        warmup.outcome("t1", "gmail", "blocked", NOON)
        warmup.give_back("t1", "gmail", NOON)
    assert warmup.words("t1", "gmail", NOON) == "" and not disk.under_way and not warmup.standings("t1", NOON)


def test_the_cap_goes_and_not_one_more_to_each_group_by_itself(warmup, disk):
    assert send(warmup, disk, NOON) == send(warmup, disk, NOON, "yahoo") == 50
    assert warmup.may("t9", "gmail", NOON, NOON) == NOON + WAIT
    late = MIDNIGHT - 60
    assert warmup.may("t9", "gmail", late, late) == MIDNIGHT


def test_after_a_sending_day_the_next_cap_holds_and_after_the_last_none(warmup, disk):
    assert [send(warmup, disk, NOON + day * DAY, most=1000) for day in range(5)] == [50, 100, 400, 1000, 1000]
    assert warmup.words("t9", "gmail", NOON + 4 * DAY) == ""


def test_the_first_delivery_of_a_day_waits_for_the_disk_and_is_told_when_it_may_go(warmup, disk):
    woken: list[tuple[str, str]] = []
    warmup.woken = woken.extend
    assert warmup.may("t9", "gmail", NOON, NOON) == NOON + AGAIN
    assert not woken and len(disk.under_way) == 1
    disk.write()
    assert woken == [("t9", "gmail")] and warmup.may("t9", "gmail", NOON, NOON) == 0.0
    warmup.spend("t9", "gmail", NOON)
    disk.write()
    assert len(woken) == 1, "nobody waited for that"


def test_more_is_granted_ahead_of_use_so_that_nobody_waits(warmup, disk):
    warmup.put("t9", "gmail", 3, NOON)
    disk.finish()
    warmup.may("t9", "gmail", NOON, NOON)
    for _ in range(400):
        disk.finish()
        assert warmup.may("t9", "gmail", NOON, NOON) == 0.0
        warmup.spend("t9", "gmail", NOON)
    assert warmup.may("t9", "gmail", NOON, NOON) > NOON


def test_no_more_is_granted_than_the_cap(disk):
    assert send(disk.restart(Plan(caps=(1,))), disk, NOON) == 1 == disk.rows["t9", "gmail"].used


def test_what_is_wanted_while_a_write_is_under_way_goes_together_with_the_next(warmup, disk):
    for group in map(str, range(20)):
        warmup.may("t9", group, NOON, NOON)
    assert [len(rows) for rows, _, _ in disk.under_way] == [1]
    disk.write()
    assert [len(rows) for rows, _, _ in disk.under_way] == [19]


def test_what_is_given_back_can_go_again_on_the_same_day_only(warmup, disk):
    send(warmup, disk, NOON)
    warmup.give_back("t9", "gmail", NOON)
    assert send(warmup, disk, NOON) == 1
    tomorrow = NOON + DAY
    send(warmup, disk, tomorrow)
    warmup.give_back("t9", "gmail", NOON)
    assert send(warmup, disk, tomorrow) == 0


def test_a_clock_that_is_set_back_gives_no_second_cap(warmup, disk):
    send(warmup, disk, NOON)
    for earlier in (NOON - 60, NOON - DAY, NOON - 30 * DAY):
        assert send(warmup, disk, earlier) == 0
        assert warmup.may("t9", "gmail", earlier, earlier) > earlier
    assert send(disk.restart(PLAN), disk, NOON - DAY) == 0


# Nobody waits for ever.


def test_who_has_waited_longest_wait_goes_over_the_cap_and_is_counted(warmup, disk):
    send(warmup, disk, NOON)
    assert warmup.may("t9", "gmail", NOON, NOON + WAIT - 1) == NOON + WAIT
    assert send(warmup, disk, NOON + WAIT, since=NOON, most=7) == 7
    assert (at(warmup, NOON).used, at(warmup, NOON).over) == (50, 7)
    assert warmup.words("t9", "gmail", NOON) == (
        "warm-up day 1 of 3 of source t9 at gmail: 50 of 50 sent today and 7 over it, more at Oct 05 00:00 UTC"
    )


def test_who_has_waited_long_uses_the_cap_first(warmup, disk):
    assert send(warmup, disk, NOON, since=NOON - DAY, most=60) == 60
    assert (at(warmup, NOON).used, at(warmup, NOON).over) == (50, 10)


def test_a_disk_that_cannot_be_written_stops_what_is_new_and_lets_go_who_waited_long(warmup, disk):
    warmup.may("t9", "gmail", NOON, NOON)
    disk.write("disk I/O error")
    assert warmup.fault == "the state of warm-ups cannot be written: disk I/O error"
    assert warmup.may("t9", "gmail", NOON, NOON) == NOON + AGAIN
    assert not disk.under_way, "what fails is tried again by the tick, not by each delivery"
    assert warmup.words("t9", "gmail", NOON).endswith(
        "sent today; the state of warm-ups cannot be written: disk I/O error"
    )
    assert warmup.may("t9", "gmail", NOON - WAIT, NOON) == 0.0
    warmup.spend("t9", "gmail", NOON)
    assert at(warmup, NOON).over == 1
    warmup.tick(NOON)
    disk.write()
    assert not warmup.fault and warmup.may("t9", "gmail", NOON, NOON) == 0.0


# Outcomes.


def test_too_many_blocks_stop_the_day_for_those_too_who_waited_long(warmup, disk):
    send(warmup, disk, NOON, most=30)
    disk.finish()
    for what in ["delivered"] * 17 + ["blocked"] * 3:
        assert warmup.may("t9", "gmail", NOON - DAY, NOON) == 0.0
        warmup.outcome("t9", "gmail", what, NOON)
    assert warmup.may("t9", "gmail", NOON - DAY, NOON) == MIDNIGHT
    for _ in range(500):
        warmup.outcome("t9", "gmail", "delivered", NOON)
    assert warmup.may("t9", "gmail", NOON, NOON) == MIDNIGHT
    assert warmup.words("t9", "gmail", NOON) == (
        "warm-up day 1 of 3 of source t9 at gmail is stopped: 3 of 20 were blocked, more than 2 %; "
        "more at Oct 05 00:00 UTC"
    )
    assert send(warmup, disk, MIDNIGHT) == 50


def test_the_stop_outlives_a_crash(warmup, disk):
    send(warmup, disk, NOON, most=30)
    for _ in range(20):
        warmup.outcome("t9", "gmail", "blocked", NOON)
    warmup.tick(NOON)
    disk.finish()
    assert disk.restart(PLAN).may("t9", "gmail", NOON, NOON) == MIDNIGHT


def test_a_plan_can_leave_the_day_to_end_and_go_back_then(disk):
    warmup = disk.restart(msgspec.structs.replace(PLAN, stop=False))
    send(warmup, disk, NOON)
    send(warmup, disk, NOON + DAY, most=60)
    for _ in range(60):
        warmup.outcome("t9", "gmail", "blocked", NOON + DAY)
    assert warmup.may("t9", "gmail", NOON + DAY, NOON + DAY) == 0.0
    assert send(warmup, disk, NOON + 2 * DAY) == 50


def test_a_complaint_of_where_nothing_went_changes_nothing(warmup, disk):
    warmup.outcome("t9", "gmail", "complaint", NOON)
    assert not warmup.standings("t9", NOON)


# Crashes, restarts, reloads.


def test_after_a_crash_all_that_was_granted_counts_as_sent(warmup, disk):
    send(warmup, disk, NOON, most=10)
    warmup = disk.restart(PLAN)
    assert 10 <= at(warmup, NOON).used <= 12
    assert 38 <= send(warmup, disk, NOON) <= 40


def test_a_stop_gives_back_what_was_granted_and_not_used(warmup, disk):
    send(warmup, disk, NOON, most=10)
    disk.finish()
    assert disk.rows["t9", "gmail"].used > 10
    warmup.stop()
    disk.finish()
    assert disk.rows["t9", "gmail"].used == 10
    assert warmup.may("t9", "gmail", NOON, NOON) > NOON, "nothing is granted after it"
    assert send(disk.restart(PLAN), disk, NOON) == 40


def test_a_grant_that_arrives_after_the_stop_is_not_used(warmup, disk):
    send(warmup, disk, NOON, most=10)
    assert disk.under_way
    stopped = warmup.stop()
    disk.finish()
    assert stopped.done() and warmup.may("t9", "gmail", NOON, NOON) > NOON


def test_outcomes_reach_the_disk_within_seconds(warmup, disk):
    send(warmup, disk, NOON, most=1)
    warmup.tick(NOON)
    disk.finish()
    warmup.outcome("t9", "gmail", "deferred", NOON)
    warmup.tick(NOON + SAVE - 1)
    assert not disk.under_way
    warmup.tick(NOON + SAVE)
    disk.write("disk I/O error")
    warmup.tick(NOON + SAVE)
    disk.finish()
    assert disk.rows["t9", "gmail"].deferred == 1


def test_where_a_source_is_warm_only_the_first_delivery_of_a_day_is_written_down(warmup, disk):
    warmup.put("t9", "gmail", 4, NOON)
    send(warmup, disk, NOON + DAY, most=100)
    warmup.tick(NOON + DAY)
    disk.finish()
    assert disk.rows["t9", "gmail"].sent == TODAY + 1
    send(warmup, disk, NOON + DAY, most=100)
    warmup.tick(NOON + DAY + SAVE)
    assert not disk.under_way


def test_where_a_source_stood_is_kept_while_it_has_no_plan(warmup, disk):
    send(warmup, disk, NOON)
    warmup.configure({})
    assert warmup.may("t9", "gmail", NOON, NOON) == 0.0 and warmup.plan_of("t9") is None
    warmup.configure({"t9": PLAN})
    assert send(warmup, disk, NOON) == 0
    warmup.configure({"t9": Plan(caps=(60,))})
    assert send(warmup, disk, NOON) == 10


def test_an_operator_puts_a_source_at_any_day_and_what_went_today_stays_counted(warmup, disk):
    send(warmup, disk, NOON)
    done = warmup.put("t9", "gmail", 2, NOON)
    disk.finish()
    assert done.done() and disk.rows["t9", "gmail"].day == 2
    assert send(warmup, disk, NOON) == 50
    warmup.put("t9", "gmail", 99, NOON)
    assert warmup.may("t9", "gmail", NOON, NOON) == 0.0 and warmup.words("t9", "gmail", NOON) == ""
    warmup.put("t9", "gmail", 1, NOON)
    assert warmup.may("t9", "gmail", NOON, NOON) > NOON and at(warmup, NOON).day == 1


def test_words_and_lists_begin_no_warm_up(warmup, disk):
    words = "warm-up day 1 of 3 of source t9 at gmail: 0 of 50 sent today"
    assert warmup.words("t9", "gmail", NOON) == words and not warmup.standings("t9", NOON)


# Bounds.


def test_for_a_new_group_the_one_goes_that_was_used_longest_ago(disk):
    warmup = disk.restart(PLAN, most=10)
    for day in range(10):
        send(warmup, disk, NOON + day * DAY, str(day), most=1)
    send(warmup, disk, NOON + 10 * DAY, "new", most=1)
    assert {one.group for one in warmup.standings("t9", NOON)} == {*map(str, range(1, 10)), "new"}
    assert {group for _, group in disk.rows} == {*map(str, range(1, 10)), "new"}


def test_what_went_today_is_not_forgotten_so_one_group_too_many_waits(disk):
    warmup = disk.restart(PLAN, most=2)
    send(warmup, disk, NOON, "a")
    send(warmup, disk, NOON, "b")
    assert send(warmup, disk, NOON, "c") == 0
    assert warmup.may("t9", "c", NOON, NOON) == NOON + WAIT
    assert warmup.may("t9", "c", NOON, NOON + WAIT) == 0.0
    warmup.spend("t9", "c", NOON + WAIT)
    assert send(warmup, disk, NOON, "a") == 0
    with pytest.raises(InputError, match="2 groups were mailed today"):
        warmup.put("t9", "c", 1, NOON)
    assert send(warmup, disk, NOON + DAY, "c") == 50


@pytest.mark.parametrize("late", [False, True])
def test_a_group_that_was_forgotten_and_comes_again_is_not_removed_from_the_disk(disk, late):
    warmup = disk.restart(PLAN, most=1)
    send(warmup, disk, NOON, "a")
    warmup.may("t9", "b", NOON + DAY, NOON + DAY)
    if not late:
        disk.write("disk full")
    warmup.put("t9", "a", 1, NOON + 2 * DAY)
    if late:
        disk.write("disk full")
    disk.finish()
    warmup.tick(NOON + 2 * DAY)
    disk.finish()
    assert {group for _, group in disk.rows} == {"a"}


# Whatever happens, in whatever order.


class NeverMoreThanTheCap(RuleBasedStateMachine):
    """Counts for itself what goes, by the latest date that any clock has shown."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk()
        self.warmup = self.disk.restart(PLAN)
        self.now = self.latest = NOON
        self.went: dict[int, list[float]] = {}  # by date

    def going(self) -> list[float]:
        """What went on the date that the warm-up believes in."""
        return self.went.setdefault(at(self.warmup, 0.0).date, [])

    @rule(count=st.integers(1, 60))
    def send(self, count: int) -> None:
        for _ in range(count):
            if again := self.warmup.may("t9", "gmail", self.now, self.now):
                assert again > self.now
                break
            self.warmup.spend("t9", "gmail", self.now)
            self.going().append(self.now)

    @rule(count=st.integers(1, 5))
    def send_what_waited_long(self, count: int) -> None:
        for _ in range(count):
            within = not self.warmup.may("t9", "gmail", self.now, self.now)
            if self.warmup.may("t9", "gmail", self.now - DAY, self.now):
                break
            self.warmup.spend("t9", "gmail", self.now)
            if within:
                self.going().append(self.now)

    @precondition(lambda self: any(self.went.values()))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        went = data.draw(st.sampled_from(list(filter(None, self.went.values()))))
        before = at(self.warmup, 0.0).used
        self.warmup.give_back("t9", "gmail", went[-1])
        if at(self.warmup, 0.0).used < before:
            assert went is self.going()
            went.pop()

    @rule(what=st.sampled_from(["delivered", "deferred", "blocked", "complaint", "other"]), count=st.integers(1, 30))
    def outcomes(self, what: str, count: int) -> None:
        for _ in range(count):
            self.warmup.outcome("t9", "gmail", what, self.now)  # type: ignore[arg-type]

    @rule()
    def tick(self) -> None:
        self.warmup.tick(self.now)

    @precondition(lambda self: self.disk.under_way)
    @rule(fault=st.sampled_from(["", "", "", "disk I/O error"]))
    def write(self, fault: str) -> None:
        self.disk.write(fault)

    @rule(orderly=st.booleans())
    def restart(self, orderly: bool) -> None:
        if orderly:
            self.warmup.stop()
            self.disk.finish()
        self.warmup = self.disk.restart(PLAN)

    @rule(seconds=st.sampled_from([1, 3600, DAY // 2, DAY, 3 * DAY, 20 * DAY, -1, -3600, -DAY, -9 * DAY]))
    def clock(self, seconds: int) -> None:
        self.now += seconds
        self.latest = max(self.latest, self.now)

    @invariant()
    def never_more_than_the_cap(self) -> None:
        for one in self.warmup.standings("t9", 0.0):
            assert len(self.going()) <= one.used <= PLAN.cap("gmail", one.day)
            assert all(row.used <= PLAN.cap("gmail", row.day) for row in self.disk.rows.values())
            assert max(filter(self.went.get, self.went), default=0) <= one.date <= self.latest // DAY


TestNeverMoreThanTheCap = NeverMoreThanTheCap.TestCase
TestNeverMoreThanTheCap.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
