"""Meters: a scope's limits hold for all who share it, and those who wait for it have their turns."""

from collections import Counter

import pytest

from relayd.queue.meter import NEVER, Meter
from relayd.shaping.limits import Limits, rate, volume

NOW = 1_800_000_000.0


class Way:
    """Of which all lanes wait."""

    idle = 0

    def waits(self, lane: str) -> bool:
        return True


T1 = Way()


def wait(meter: Meter, now: float = NOW, *, urgent: bool = False) -> float:
    return meter.wait(now, urgent=urgent)


def test_without_limits_nothing_waits() -> None:
    meter = Meter("source t1", Limits())
    assert wait(meter) == 0 and meter.wait_to_open(NOW, in_line=True) == 0
    assert meter.refusal(NOW) == "" and meter.knows_nothing(NOW)


def test_the_tightest_limit_sets_the_wait_and_says_its_name() -> None:
    meter = Meter("source t1 in [egress]", Limits(rate=rate("60/min"), bytes=volume("1K/s")))
    meter.spend(NOW, 10_240, urgent=False)
    assert wait(meter) == pytest.approx(9.0, abs=0.01)
    assert meter.refusal(NOW) == "the rate 60/m of source t1 in [egress]"
    assert meter.refusal(NOW + 2) == "the volume 1K/s of source t1 in [egress]"
    assert meter.refusal(NOW + 20) == "" and not meter.knows_nothing(NOW) and meter.knows_nothing(NOW + 20)


def test_outside_its_hours_a_scope_waits_for_them() -> None:
    meter = Meter("account crm", Limits(hours="09:00-10:00"))
    closed = 1_800_000_000 - 1_800_000_000 % 86400 + 8 * 3600.0
    assert wait(meter, closed) == 3600 and meter.refusal(closed) == "the hours of account crm, 09:00-10:00"
    assert wait(meter, closed + 3600) == 0


def test_where_deliveries_count_as_many_are_under_way_as_may_be() -> None:
    meter = Meter("account crm", Limits(connections=2), "deliveries")
    meter.used = 2
    assert wait(meter) == NEVER and meter.refusal(NOW) == "all 2 connections of account crm are in use"
    meter.used = 1
    assert wait(meter) == 0


def test_the_last_of_several_sessions_is_for_priority_mail() -> None:
    meter = Meter("pool bulk", Limits(connections=2))
    meter.opened(NOW)
    assert meter.wait_to_open(NOW, in_line=True) == NEVER and meter.wait_to_open(NOW, in_line=False) == 0
    meter.opened(NOW)
    assert meter.wait_to_open(NOW, in_line=False) == NEVER


def test_sessions_are_opened_at_their_rate() -> None:
    meter = Meter("x by source t1", Limits(connection_rate=rate("20/min")))
    meter.opened(NOW)
    assert meter.wait_to_open(NOW, in_line=False) == pytest.approx(3.0)
    assert meter.refusal(NOW) == "the connection rate 20/m of x by source t1"


def test_a_rate_that_stays_the_same_is_not_begun_anew_by_other_limits() -> None:
    meter = Meter("source t1", Limits(rate=rate("1/min")))
    meter.spend(NOW, 1, urgent=False)
    meter.limit(Limits(connections=5, rate=rate("1/min")), NOW)
    assert wait(meter) == pytest.approx(60)


def test_a_rate_that_changes_gives_no_more_at_once_to_who_has_had_his() -> None:
    meter = Meter("source t1", Limits(rate=rate("1/min")))
    meter.spend(NOW, 1, urgent=False)
    meter.limit(Limits(rate=rate("2/min")), NOW)
    assert wait(meter) == pytest.approx(30)
    meter.limit(Limits(), NOW)
    assert wait(meter) == 0


def test_those_in_line_are_called_as_accounts_by_weight_and_priority_mail_first() -> None:
    meter = Meter("source t1", Limits(rate=rate("1000/s burst 1000")))
    for n in range(40):
        meter.line.join("large", 3.0, (T1, f"large/{n}"), urgent=False)
        meter.line.join("small", 1.0, (T1, f"small/{n}"), urgent=False)
    meter.line.join("late", 1.0, (T1, "late/urgent"), urgent=True)
    for _ in range(859):
        meter.spend(NOW, 1, urgent=False)
    called = [lane for _, lane in meter.call(NOW)[0]]
    assert called[0] == "late/urgent" and len(called) == 41
    assert Counter(lane.partition("/")[0] for lane in called[1:]) == {"large": 30, "small": 10}
    assert called[1:5] == ["large/0", "small/0", "large/1", "large/2"]


def test_nobody_is_called_before_one_may_go() -> None:
    meter = Meter("source t1", Limits(rate=rate("1/min")))
    meter.spend(NOW, 1, urgent=False)
    meter.line.join("crm", 1.0, (T1, "crm/news"), urgent=False)
    assert meter.call(NOW + 59) == ([], []) and meter.line
    assert meter.call(NOW + 61) == ([(T1, "crm/news")], []) and not meter.line


def test_priority_mail_does_not_wait_for_a_turn_that_is_not_used() -> None:
    meter, way = Meter("source t1", Limits(rate=rate("10/s"))), Way()
    way.idle = 1
    meter.line.join("crm", 1.0, (way, "crm/news"), urgent=False)
    assert meter.call(NOW)[0] == [(way, "crm/news")]
    meter.line.join("crm", 1.0, (way, "crm/news2"), urgent=False)
    meter.line.join("crm", 1.0, (way, "crm/urgent"), urgent=True)
    assert meter.call(NOW + 0.2)[0] == [(way, "crm/urgent")]
