"""What is said against addresses: counted until it is enough, once for each thing heard, taken back by success."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.identity import lower_bound
from relayd.suppression import Finding, Lesson, Suppressions, entry
from tests.test_suppression import NOW, asked, opened, wait

LIST = "account:crm/all"
DAY = 86400


@pytest.fixture
def lists(tmp_path: Path) -> Iterator[Suppressions]:
    made = opened(tmp_path)
    yield made
    made.close()


def strike(value: str = "a@x.example", need: int = 3, at: float = NOW, reason: Any = "bounce", **more: Any) -> Finding:
    expires = at + 7 * DAY if reason == "full" else 0
    made = entry(LIST, value, reason=reason, evidence="550 no", added=at, expires=expires, by="relayd")
    return Finding(made, need, 90 * DAY, **more)


def learn(lists: Suppressions, *findings: Finding) -> None:
    for one in findings:
        assert wait(lists.learn(Lesson(one), one.entry.added))


def stopped(lists: Suppressions, value: str = "a@x.example", now: float = NOW) -> bool:
    return lists.suspects((LIST,), value) and asked(lists, (LIST,), value, now) is not None


def test_one_that_is_enough_makes_the_entry_and_its_list(lists: Suppressions):
    learn(lists, strike(need=1))
    assert stopped(lists) and not stopped(lists, "b@x.example")
    (shown,) = lists.lists()
    assert (shown.list, shown.entries) == (LIST, 1)
    found = asked(lists, (LIST,), "a@x.example")
    assert found is not None and (found.reason, found.evidence, found.by) == ("bounce", "550 no", "relayd")


def test_so_many_make_an_entry_within_their_time_and_over_a_restart(tmp_path: Path, lists: Suppressions):
    learn(lists, strike(), strike(), strike("b@x.example"))
    lists.close()
    again = opened(tmp_path)
    assert again.struck == {"a@x.example", "b@x.example"} and not stopped(again)
    learn(again, strike())
    assert stopped(again) and not stopped(again, "b@x.example")
    again.close()


def test_what_is_too_old_does_not_count(lists: Suppressions):
    learn(lists, strike(), strike(), strike(at=NOW + 91 * DAY), strike(at=NOW + 91 * DAY))
    assert not stopped(lists)
    learn(lists, strike(at=NOW + 92 * DAY))
    assert stopped(lists)


def test_many_lessons_in_one_go_are_as_many_one_by_one(lists: Suppressions):
    futures = [lists.learn(Lesson(strike(f"{n % 4}@x.example")), NOW) for n in range(11)]
    assert all(wait(future) for future in futures)
    assert [stopped(lists, f"{n}@x.example") for n in range(4)] == [True, True, True, False]


def test_a_success_takes_back_what_was_said_in_sessions_and_not_what_came_later(lists: Suppressions):
    learn(lists, strike(), strike(), strike("b@x.example", late=True), strike("b@x.example", late=True))
    assert lists.struck == {"a@x.example"}
    for address in ("A@x.example", "b@x.example"):
        wait(lists.redeem(LIST, address))
    assert not lists.struck
    learn(lists, strike(), strike("b@x.example", late=True))
    assert not stopped(lists) and stopped(lists, "b@x.example")


def test_a_success_lifts_that_a_mailbox_was_full_and_no_other_entry(lists: Suppressions):
    learn(lists, strike(need=1, reason="full"), strike("b@x.example", need=1))
    assert stopped(lists) and stopped(lists, "b@x.example")
    assert wait(lists.redeem(LIST, "a@x.example")) == 1 and wait(lists.redeem(LIST, "b@x.example")) == 0
    assert not stopped(lists) and stopped(lists, "b@x.example")
    assert lists.lists()[0].entries == 1


def test_each_kind_of_thing_counts_once_of_a_delivery(tmp_path: Path, lists: Suppressions):
    identity = lower_bound(NOW) + 1
    same = [lists.learn(Lesson(strike(need=2), (identity, "bounce")), NOW) for _ in range(3)]
    assert [wait(future) for future in same] == [True, False, False]
    assert wait(lists.learn(Lesson(None, (identity, "auto-reply")), NOW))
    lists.close()
    again = opened(tmp_path)
    assert not wait(again.learn(Lesson(strike(need=2), (identity, "bounce")), NOW))
    assert not stopped(again)
    assert wait(again.learn(Lesson(strike(need=2), (identity + 1, "bounce")), NOW))
    assert stopped(again)
    again.close()


def test_what_was_heard_is_forgotten_when_it_could_not_come_any_more(lists: Suppressions):
    lists.remember = 60 * DAY
    old, new = lower_bound(NOW), lower_bound(NOW + 2 * DAY)
    for identity in (old, new):
        assert wait(lists.learn(Lesson(None, (identity, "bounce")), NOW))
    wait(lists.sweep(NOW + 61 * DAY))
    assert [wait(lists.learn(Lesson(None, (one, "bounce")), NOW)) for one in (old, new)] == [True, False]


def test_strikes_are_forgotten_after_their_time(lists: Suppressions):
    learn(lists, strike(), strike())
    wait(lists.sweep(NOW + 91 * DAY))
    learn(lists, strike(), strike())
    assert not stopped(lists)


def test_a_disk_that_refuses_is_told_and_the_next_lesson_is_tried(lists: Suppressions):
    lists._writer._db.execute("PRAGMA query_only = ON")
    failed = lists.learn(Lesson(strike(need=1)), NOW)
    with pytest.raises(Exception, match="readonly"):
        wait(failed)
    assert "readonly" in lists.fault
    lists._writer._db.execute("PRAGMA query_only = OFF")
    learn(lists, strike(need=1))
    assert stopped(lists) and not lists.fault
