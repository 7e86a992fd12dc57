"""Replay: rules meet recorded replies as they would have met the replies themselves."""

import time
import tracemalloc
from collections.abc import Iterator

from relayd.outcome import Evidence
from relayd.records import Record, RecordKind
from relayd.reply import Reply
from relayd.shaping.replay import FIRINGS, Replayed, replay
from relayd.shaping.rules import Rules, parse

NOW = 1_700_000_000.0
SUSPEND = {"codes": "421", "text": "slow down", "action": "suspend", "for": "10m"}


def attempt(at: float, reply: Reply | None = None, kind: RecordKind = "TransientFailure", **more: object) -> Record:
    evidence: dict[str, object] = {"stage": "rcpt", "source": "t1", "mx": "mx.a.example", "session": "1", **more}
    return Record(
        kind=kind,
        time=NOW + at,
        message="19a5c0e1d2300001",
        delivery="19a5c0e1d2300002",
        account="crm",
        recipient="ivan@a.example",
        evidence=Evidence(reply=reply, **evidence),  # type: ignore[arg-type]
    )


def delivered(at: float, **more: object) -> Record:
    return attempt(at, Reply(250, "2.0.0", "taken"), "Delivery", stage="dot", **more)


SLOW = Reply(421, "4.7.0", "slow down, please")


def replayed(*records: Record, provider: str = "", **tables: dict[str, object]) -> Replayed:
    rules = Rules(parse(name, table) for name, table in tables.items())
    return replay(rules, records, lambda mx: provider)


def test_a_rule_fires_when_it_would_have_and_what_fell_into_it_is_counted():
    found = replayed(
        delivered(0),
        attempt(10, SLOW),
        attempt(20, SLOW),  # in flight: it only counts
        delivered(30),
        delivered(40, source="t2"),
        delivered(700),
        attempt(800, Reply(550, "5.1.1", "no such user"), "Bounce"),
        x=SUSPEND,
    )
    assert (found.attempts, found.failures, found.unmet) == (7, 3, 1)
    assert (found.since, found.until) == (NOW, NOW + 800)
    (x,) = found.rules
    assert (x.rule, x.action, x.matches, x.fired, x.held, x.caught, x.delivered) == ("x", "suspend", 2, 1, 600, 2, 1)
    (firing,) = x.firings
    assert (firing.time, firing.until, firing.on) == (NOW + 10, NOW + 610, "t1 a.example")
    assert firing.reply == "421 4.7.0 slow down, please"


def test_a_provider_is_a_place_of_its_own_with_its_own_rules():
    found = replayed(attempt(0, SLOW), provider="big", own=SUSPEND | {"provider": "big"}, general=SUSPEND)
    assert [(rule.rule, rule.fired) for rule in found.rules] == [("own", 1), ("general", 0)]
    assert found.rules[0].firings[0].on == "t1 big"


def test_thresholds_and_growing_times_are_as_they_run():
    records = [attempt(60 * n, SLOW) for n in range(120)]
    (x,) = replayed(*records, x=SUSPEND | {"after": "3/h"}).rules
    times = [(firing.time - NOW, firing.until - firing.time) for firing in x.firings]
    assert times == [(120, 600), (840, 1200), (2160, 2400), (4680, 4800)] and x.held == 9000


def test_the_reply_to_a_session_counts_once_for_all_its_deliveries():
    banner = [attempt(n, SLOW, stage="banner", session="7", local="192.0.2.1:1000") for n in range(5)]
    after_a_restart = attempt(6, SLOW, stage="banner", session="7", local="192.0.2.1:2000")
    found = replayed(*banner, after_a_restart, x={"codes": "421", "action": "bounce", "after": "3/h"})
    assert (found.attempts, found.failures, found.rules[0].matches) == (6, 2, 2)


def test_rules_about_one_delivery_fire_with_each_match():
    (x,) = replayed(attempt(0, SLOW), attempt(1, SLOW), x={"codes": "421", "action": "keep", "for": "5m"}).rules
    assert (x.matches, x.fired, x.held, x.firings) == (2, 2, 0, [])


def test_what_was_no_attempt_is_passed_over():
    queued = Record(kind="Expiration", time=NOW, evidence=Evidence(stage="queue", error="not delivered in time"))
    found = replayed(Record(kind="Reception", time=NOW), queued, attempt(0, None, stage="connect"), x=SUSPEND)
    assert (found.attempts, found.failures, found.rules[0].matches) == (1, 0, 0)


def test_a_long_replay_keeps_its_memory_and_its_pace():
    def stream(count: int) -> Iterator[Record]:
        for n in range(count):
            yield attempt(n, SLOW, source=f"t{n % 50}", session=str(n), stage="banner") if n % 2 else delivered(n)

    rules = Rules([parse("x", SUSPEND | {"after": "5/h"})])
    replay(rules, stream(2_000), lambda mx: "")
    tracemalloc.start()
    found = replay(rules, stream(30_000), lambda mx: "")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.attempts == 30_000 and len(found.rules[0].firings) <= FIRINGS < found.rules[0].fired
    assert peak < 8 << 20
    begun = time.process_time()
    replay(rules, stream(10_000), lambda mx: "")
    assert time.process_time() - begun < 2  # some 20 us each, the making of the records included
