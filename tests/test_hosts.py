"""What is remembered of hosts: who did not answer is tried last, whose TLS broke is talked to in clear."""

from random import Random

from relayd.delivery.hosts import CLEAR, DEAD, Hosts
from relayd.delivery.routing import Hop, Policy

FIRST = Hop("mx1.x.example", "203.0.113.1", 25, 10)
SECOND = Hop("mx2.x.example", "203.0.113.2", 25, 20)
EQUAL = Hop("mx3.x.example", "203.0.113.3", 25, 10)


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def seconds(self) -> float:
        return self.now


def hosts() -> tuple[Hosts, Time]:
    time = Time()
    return Hosts(Random(1), time.seconds), time


def test_hosts_are_tried_by_preference() -> None:
    made, _ = hosts()
    assert made.order([SECOND, FIRST]) == [FIRST, SECOND]


def test_equal_preferences_are_tried_by_lot() -> None:
    made, _ = hosts()
    firsts = {made.order([FIRST, EQUAL])[0].mx for _ in range(50)}
    assert firsts == {"mx1.x.example", "mx3.x.example"}


def test_a_host_that_did_not_answer_is_tried_last_for_a_while() -> None:
    made, time = hosts()
    made.silent(FIRST)
    assert made.order([FIRST, SECOND]) == [SECOND, FIRST]
    time.now += DEAD + 1
    assert made.order([FIRST, SECOND]) == [FIRST, SECOND]


def test_a_host_that_answers_again_is_forgiven_at_once() -> None:
    made, _ = hosts()
    made.silent(FIRST)
    made.answered(FIRST)
    assert made.order([SECOND, FIRST]) == [FIRST, SECOND]


def test_broken_tls_means_clear_for_a_while_where_policy_is_may() -> None:
    made, time = hosts()
    made.broke_tls(FIRST)
    assert made.tls(Policy("may"), FIRST) == "off"
    assert made.tls(Policy("may"), SECOND) == "may"
    time.now += CLEAR + 1
    assert made.tls(Policy("may"), FIRST) == "may"


def test_broken_tls_never_means_clear_where_policy_demands_tls() -> None:
    made, _ = hosts()
    made.broke_tls(FIRST)
    assert made.tls(Policy("encrypt"), FIRST) == "encrypt"
    assert made.tls(Policy("verify"), FIRST) == "verify"


def test_memory_of_hosts_is_bounded() -> None:
    made, _ = hosts()
    for n in range(25_000):
        made.silent(Hop("mx", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 25))
    assert len(made._dead) == 20_000
