import random
import time
from collections import Counter, defaultdict, deque
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relayd.egress.pools import Pools, Source
from relayd.envelope import UNSTEERED, Delivery, Steering, queue_name
from relayd.queue import loading, memory
from relayd.queue.decisions import Poll, Pull, Retire, Route, Settle, Work
from relayd.queue.reasons import why
from relayd.queue.scheduler import Scheduler
from relayd.queue.state import Path, Stream
from relayd.shaping.limits import Layer, Limits, Terms, rate
from relayd.shaping.reactions import Active, Reactions
from relayd.shaping.rules import Ceiling, On, Rule, Rules, Seen
from tests.spool_kit import NOW, Mail

NEVER = 9e15
STREAMS = {"news": Stream("p", 50), "urgent": Stream("p", 90), "other": Stream("q", 50)}


class Relay:
    """A scheduler with a disk, a resolver and sessions that do what a test says."""

    def __init__(self, limit: int = 2, sessions: int = 100_000, **weights: int) -> None:
        self.now = NOW
        weights = weights or {"s1": 1}
        self.pools = Pools({n: Source(n) for n in [*weights, "t1"]}, {"p": weights, "q": {"t1": 1}})
        self.layers: dict[str, tuple[Layer, ...]] = {}  # of accounts
        self._streams: dict[tuple[str, str], Stream] = {}
        self.reactions = Reactions(Rules())
        self.scheduler = Scheduler(self.stream, self.pools, sessions, self.reactions)
        self.limits = Limits(limit)
        self.terms: Terms | None = None
        self.mail = Mail(self.now)
        self.disk: dict[str, dict[int, Delivery]] = defaultdict(dict)
        self.next_due: dict[str, float] = {}
        self.asked: deque[Any] = deque()
        self.opening: list[Path] = []
        self.open: list[Path] = []
        self.taken: dict[int, Path] = {}
        self.gone: list[int] = []
        self.reads: list[Pull] = []
        self.sites: dict[str, str] = {}
        self.hosts: dict[str, tuple[str, ...]] = {}

    def stream(self, account: str, name: str) -> Stream:
        if account not in self.layers:
            return STREAMS[name]
        made = msgspec.structs.replace(STREAMS[name], layers=self.layers[account])
        return self._streams.setdefault((account, name), made)

    def react(self, rule: Rule, site: str = "x.example", *, source: str = "s1", account: str = "crm") -> Active:
        """The site answers a delivery with what meets the rule."""
        self.reactions.rules = Rules([rule])
        seen = Seen("", site, site, source, account, f"mx.{site}", "dot", 451, "", "too much", self.now)
        verdict = self.reactions.seen(seen)
        self.scheduler.restraints.reshaped((*verdict.began, *verdict.ended), self.now)
        self.settle_down()
        return verdict.began[0]

    def lift(self, reaction: Active) -> None:
        assert self.reactions.lift(reaction.id) == reaction
        self.scheduler.restraints.reshaped([reaction], self.now)
        self.settle_down()

    # The disk.

    def store(
        self,
        *domains: str,
        stream: str = "news",
        due: float | None = None,
        steering: Steering = UNSTEERED,
        account: str = "crm",
    ) -> list[Delivery]:
        self.mail.now = self.now
        due = self.now if due is None else due
        made = self.mail.reception(*domains, account=account, stream=stream, due=due, steering=steering).deliveries
        for d in made:
            self.disk[d.queue][d.id] = d
            self.next_due[d.queue] = min(self.next_due.get(d.queue, NEVER), d.due)
        return list(made)

    def receive(self, *domains: str, stream: str = "news", account: str = "crm") -> list[Delivery]:
        made = self.store(*domains, stream=stream, account=account)
        self.scheduler.received(made, self.now)
        self.collect()
        return made

    def due(self, pull: Pull) -> list[Delivery]:
        rows = [d for d in self.disk[pull.queue].values() if d.due <= self.now and d.id not in set(pull.but)]
        return sorted(rows, key=lambda d: (d.due, d.id))[: pull.limit]

    def collect(self) -> None:
        for decision in self.scheduler.decisions():
            if isinstance(decision, Work):
                if decision.open:
                    self.opening.append(decision.path)
            else:
                self.asked.append(decision)

    def answer(self, decision: Any) -> None:
        s = self.scheduler
        match decision:
            case Poll():
                rows = sorted((due, n) for n, due in self.next_due.items() if (due, n) > decision.after)
                found = [row for row in rows if row[0] <= self.now][: decision.limit]
                s.loading.polled(found, decision.limit, self.now)
            case Pull():
                self.reads.append(decision)
                s.loading.pulled(decision.queue, self.due(decision), decision.limit, self.now)
            case Settle():
                rows = [d.due for d in self.disk[decision.queue].values()]
                self.next_due[decision.queue] = min(rows, default=NEVER)
                if not rows:
                    del self.next_due[decision.queue]
                s.loading.settled(decision.queue, min(rows, default=NEVER), self.now)
            case Route():
                site = self.sites.get(decision.domain, decision.domain)
                hosts = self.hosts.get(decision.domain, ())
                s.routed(decision.queue, site, self.now + 300, self.now, self.terms or Terms(self.limits), hosts)
        self.collect()

    def settle_down(self) -> None:
        """Answers all that is asked, until nothing is."""
        self.collect()
        while self.asked:
            self.answer(self.asked.popleft())

    def tick(self, seconds: float = 1.0) -> None:
        self.now += seconds
        self.scheduler.tick(self.now)
        self.settle_down()

    # Sessions.

    def connect(self) -> None:
        while self.opening:
            path = self.opening.pop()
            self.scheduler.session_ready(path, self.now)
            self.open.append(path)
            self.collect()

    def fail(self, path: Path) -> list[Delivery]:
        self.opening.remove(path)
        back = self.scheduler.path_failed(path, "no answer", self.now)
        self.scheduler.session_closed(path, self.now, opening=True)
        self.collect()
        return back

    def take(self, path: Path, beside: int = 0) -> Delivery | None:
        delivery = self.scheduler.take(path, self.now, beside=beside)
        if delivery is not None:
            assert delivery.id not in self.taken, "a delivery is in two sessions at once"
            assert delivery.id in self.disk[delivery.queue], "a delivery that is gone was sent again"
            self.taken[delivery.id] = path
        return delivery

    def finish(self, delivery: Delivery, again: float | None = None) -> None:
        """The outcome is durable: the delivery is gone, or due ``again``."""
        self.taken.pop(delivery.id, None)
        if again is None:
            del self.disk[delivery.queue][delivery.id]
            self.gone.append(delivery.id)
        else:
            delivery.due = again
            self.next_due[delivery.queue] = min(self.next_due.get(delivery.queue, NEVER), again)
        self.scheduler.done(delivery, self.now)
        self.collect()

    def send(self, most: int = 10**9) -> list[Delivery]:
        """Everything that sessions would take now is delivered."""
        sent: list[Delivery] = []
        going = True
        while going and len(sent) < most:
            self.settle_down()
            self.connect()
            going = False
            for path in list(self.open):
                while len(sent) < most and (delivery := self.take(path)) is not None:
                    self.finish(delivery)
                    sent.append(delivery)
                    going = True
        return sent

    def close(self, path: Path) -> None:
        self.open.remove(path)
        self.scheduler.session_closed(path, self.now, opening=False)
        self.collect()

    def why(self, domain: str = "x.example", stream: str = "news", account: str = "crm") -> str:
        return why(self.scheduler, queue_name(account, stream, domain), self.now)


@pytest.fixture
def relay() -> Relay:
    return Relay()


def test_new_mail_goes_at_once_without_reading_the_disk(relay: Relay) -> None:
    made = relay.receive("x.example")
    assert relay.send() == made
    assert relay.reads == []


def test_what_was_on_disk_at_the_start_is_found(relay: Relay) -> None:
    made = [d for n in range(1200) for d in relay.store(f"d{n}.example")]
    relay.tick()
    assert {d.id for d in relay.send()} == {d.id for d in made}


def test_a_delivery_goes_when_it_is_due_and_not_before(relay: Relay) -> None:
    relay.store("x.example", due=NOW + 100)
    for _ in range(99):
        relay.tick()
        assert relay.send() == []
    relay.tick(2)
    assert len(relay.send()) == 1


def test_new_mail_that_is_to_go_later_waits_on_disk_for_its_time(relay: Relay) -> None:
    made = relay.store("x.example", due=NOW + 100)
    relay.scheduler.received(made, relay.now)
    assert (relay.send(), relay.scheduler.queues) == ([], {})
    for _ in range(99):
        relay.tick()
        assert relay.send() == []
    relay.tick(2)
    assert relay.send() == made


def test_new_mail_for_later_is_found_though_its_queue_is_in_memory_all_the_time(relay: Relay) -> None:
    relay.receive("x.example")
    relay.settle_down()
    made = relay.store("x.example", due=NOW + 100)
    relay.scheduler.received(made, relay.now)
    sent: list[Delivery] = []
    while made[0] not in sent:
        assert relay.now < NOW + 100 + loading.LOOK + 5
        relay.receive("x.example")
        sent += relay.send()
        relay.tick(2)
    assert relay.now > NOW + 100


def test_a_blocked_site_with_900_000_deliveries_delays_nobody_and_takes_no_memory(relay: Relay) -> None:
    blocked = queue_name("crm", "news", "blocked.example")
    pattern = relay.store("blocked.example")[0]
    backlog = 900_000

    def due(pull: Pull) -> list[Delivery]:
        if pull.queue != blocked:
            return usual(pull)
        nonlocal handed
        handed += pull.limit
        m = pattern.message
        return [
            Delivery(1 + handed + n, m, pattern.recipient, blocked, NOW)
            for n in range(min(pull.limit, backlog - handed))
        ]

    usual, handed = relay.due, 0
    relay.due = due  # type: ignore[method-assign]
    relay.tick()
    while relay.opening:
        for delivery in relay.fail(relay.opening[0]):
            relay.scheduler.done(delivery, relay.now)
        relay.settle_down()
    assert handed <= memory.PULL
    made = [d for n in range(2000) for d in relay.store(f"d{n}.example")]
    relay.tick()
    assert {d.id for d in relay.send()} == {d.id for d in made}
    assert handed <= memory.PULL
    assert "rests, next try in" in relay.why("blocked.example")
    for _ in range(600):
        relay.tick(10)
        while relay.opening:
            for delivery in relay.fail(relay.opening[0]):
                relay.scheduler.done(delivery, relay.now)
            relay.settle_down()
    assert handed <= memory.PULL + 20 * memory.PROBE
    assert relay.scheduler.memory.loaded <= memory.PULL


def test_memory_is_bounded_however_many_queues_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LOADED", 200)
    relay = Relay()
    for n in range(300):
        relay.store(*[f"d{n}.example"] * 20)
    relay.tick()
    for _ in range(50):
        relay.tick()
    assert relay.scheduler.memory.loaded <= 2 * 200 + memory.PULL
    new = relay.receive("new.example", stream="urgent")[0]
    relay.settle_down()
    assert new.id in relay.scheduler.queues[new.queue].loaded
    total = 0
    for _ in range(100):
        total += len(relay.send())
        assert relay.scheduler.memory.loaded <= 3 * 200
        relay.tick()
    assert total == 300 * 20 + 1


def test_large_messages_count_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LOADED_BYTES", 1000)
    relay = Relay()
    for n in range(200):
        relay.store(*[f"d{n}.example"] * 10)
    relay.tick(1)
    assert relay.scheduler.memory.bytes <= 2 * 1000 + memory.PULLS * memory.PULL * 24
    assert len(relay.send()) == 2000


def test_pulls_under_way_are_bounded(relay: Relay) -> None:
    for n in range(400):
        relay.store(f"d{n}.example")
    relay.now += 1
    relay.scheduler.tick(relay.now)
    relay.collect()
    relay.answer(relay.asked.popleft())
    pulls = [d for d in relay.asked if isinstance(d, Pull)]
    assert len(pulls) == memory.PULLS
    assert len(relay.send()) == 400


def test_what_is_ready_can_be_seized_when_its_domain_has_lost_its_site() -> None:
    relay = Relay(limit=2, sessions=3, s1=1)
    made = relay.receive(*["x.example"] * 4, stream="other")
    relay.settle_down()
    name, ids = made[0].queue, [delivery.id for delivery in made]
    before = relay.scheduler.loading.under_way(name, ids)
    relay.tick(700)  # the site is too old, and looked up again
    relay.scheduler.received(relay.store("x.example", stream="other"), relay.now)
    relay.collect()
    assert [asked.queue for asked in relay.asked if isinstance(asked, Route)][-1] == name
    relay.scheduler.unroutable(name, "there is no such domain", relay.now, transient=False)
    assert relay.scheduler.loading.under_way(name, ids) == before
    assert set(relay.scheduler.loading.seize(name, ids)) == set(ids) - before


def test_mail_that_came_while_a_pull_was_under_way_is_pulled_after_it(relay: Relay) -> None:
    relay.store("x.example")
    relay.now += 1
    relay.scheduler.tick(relay.now)
    relay.collect()
    relay.answer(relay.asked.popleft())
    pull = relay.asked.popleft()
    assert isinstance(pull, Pull)
    stale = relay.due(pull)
    relay.receive("x.example")
    relay.scheduler.loading.pulled(pull.queue, stale, pull.limit, relay.now)
    assert len(relay.send()) == 2


def test_mail_that_a_pull_brought_before_it_was_told_goes_once(relay: Relay) -> None:
    relay.store("x.example")
    told_late = relay.store("x.example")
    relay.tick()
    relay.scheduler.received(told_late, relay.now)
    assert len(relay.send()) == 2


def test_a_pull_that_read_a_row_just_before_it_left_does_not_bring_it_back(relay: Relay) -> None:
    (delivery,) = relay.store("x.example")
    relay.now += 1
    relay.scheduler.tick(relay.now)
    relay.collect()
    relay.answer(relay.asked.popleft())
    pull = relay.asked.popleft()
    stale = relay.due(pull)
    assert relay.scheduler.loading.hold(delivery)
    relay.finish(delivery)
    relay.scheduler.loading.pulled(pull.queue, stale, pull.limit, relay.now)
    assert relay.send() == []


def test_a_held_delivery_is_nobody_elses(relay: Relay) -> None:
    (delivery,) = relay.store("x.example")
    assert relay.scheduler.loading.hold(delivery)
    assert not relay.scheduler.loading.hold(delivery)
    relay.tick()
    assert relay.send() == []


def test_what_is_ready_can_be_taken_back_and_what_a_session_has_cannot(relay: Relay) -> None:
    first, second, third = relay.receive("x.example", "x.example", "x.example")
    relay.settle_down()
    relay.connect()
    assert relay.take(relay.open[0]) is first
    ids = [first.id, second.id, third.id]
    assert relay.scheduler.loading.under_way(first.queue, ids) == {first.id}
    assert relay.scheduler.loading.seize(first.queue, ids) == [second.id, third.id]
    assert relay.take(relay.open[0]) is None
    del relay.disk[second.queue][second.id]
    relay.scheduler.loading.let_go(second.queue, [second.id, third.id], relay.now, look=False)
    assert relay.send() == [third]


def test_one_who_wants_mail_tried_now_ends_a_rest_after_failures(relay: Relay) -> None:
    relay.receive("x.example")
    relay.settle_down()
    (path,) = relay.opening
    (back,) = relay.fail(path)
    relay.finish(back, again=relay.now)
    relay.settle_down()
    assert "rests" in relay.why()
    relay.scheduler.restraints.urge(back.queue, relay.now)
    assert relay.send() == [back]


def test_answers_that_come_twice_or_for_forgotten_queues_do_no_harm(relay: Relay) -> None:
    s = relay.scheduler
    s.loading.pulled("crm/news/x.example", [], 64, NOW)
    s.loading.pull_failed("crm/news/x.example", 64, NOW)
    s.routed("crm/news/x.example", "x", NOW + 9, NOW)
    assert s.unroutable("crm/news/x.example", "no", NOW, transient=True) == []
    s.loading.settled("crm/news/x.example", NOW, NOW)
    (delivery,) = relay.receive("x.example")
    relay.send()
    s.done(delivery, relay.now)
    relay.tick(loading.LINGER + 1)
    s.done(delivery, relay.now)
    assert (s.memory.loaded, s.memory.bytes, s.queues) == (0, 0, {})
    made = relay.receive("x.example")
    assert relay.send() == made


def test_a_pull_that_fails_is_tried_again(relay: Relay) -> None:
    relay.store("x.example")
    relay.now += 1
    relay.scheduler.tick(relay.now)
    relay.collect()
    relay.answer(relay.asked.popleft())
    pull = relay.asked.popleft()
    relay.scheduler.loading.pull_failed(pull.queue, pull.limit, relay.now)
    assert relay.send() == []
    relay.tick(loading.RECHECK + 1)
    assert len(relay.send()) == 1


def test_a_clock_that_steps_back_loses_nothing(relay: Relay) -> None:
    relay.store("x.example")
    relay.tick(5000)
    relay.send()
    relay.now -= 4000
    relay.store("y.example")
    relay.tick()
    assert len(relay.send()) == 1


def test_a_retry_is_found_though_the_clock_stepped_back_since_its_queue_was_last_empty(relay: Relay) -> None:
    relay.receive("x.example")
    relay.send()
    relay.tick()
    relay.now -= 4000
    relay.receive("x.example")
    relay.settle_down()
    retry = relay.take(relay.open[0])
    assert retry is not None
    relay.tick()
    relay.finish(retry, again=relay.now + 1)
    for _ in range(9):
        relay.tick()
    assert relay.send() == [retry]


def test_what_the_walk_missed_is_found_by_the_next_one(relay: Relay) -> None:
    relay.store("x.example")
    relay.tick()
    relay.send()
    relay.store("y.example", due=NOW - 100)
    relay.tick()
    assert relay.send() == []
    relay.tick(loading.RESCAN)
    assert len(relay.send()) == 1


def test_a_walk_under_way_does_not_undo_the_start_of_the_next(relay: Relay) -> None:
    relay.store("x.example")
    relay.tick()
    relay.send()
    relay.store("y.example", due=NOW - 100)
    relay.store("z.example", due=relay.now + 600)
    relay.now += 700
    relay.scheduler.tick(relay.now)
    relay.collect()
    relay.now += 1
    relay.scheduler.tick(relay.now)
    relay.settle_down()
    relay.tick()
    relay.tick()
    assert len(relay.send()) == 2


def test_a_requeue_whose_time_has_passed_is_taken_up_again(relay: Relay) -> None:
    relay.receive("x.example")
    relay.settle_down()
    relay.connect()
    delivery = relay.take(relay.open[0])
    assert delivery is not None
    relay.finish(delivery, again=relay.now - 1)
    for _ in range(8):
        relay.tick()
    assert relay.send() == [delivery]


def test_a_retry_in_a_queue_that_never_empties_is_not_forgotten(relay: Relay) -> None:
    relay.receive("x.example")
    relay.settle_down()
    relay.connect()
    retry = relay.take(relay.open[0])
    assert retry is not None
    old, newer = relay.receive("x.example")[0], relay.receive("x.example")[0]
    relay.finish(retry, again=relay.now + 100)
    sent = []
    for _ in range(200):  # always one in memory
        relay.receive("x.example")
        sent += relay.send(1)
        relay.tick()
    assert retry.id in {d.id for d in sent}
    assert {old.id, newer.id} <= {d.id for d in sent}


def test_sessions_of_a_path_are_limited_and_never_more_than_its_mail() -> None:
    relay = Relay(limit=3)
    relay.receive("x.example")
    relay.settle_down()
    assert len(relay.opening) == 1
    relay.receive(*["x.example"] * 9)
    relay.settle_down()
    assert len(relay.opening) == 2
    relay.connect()
    busy = "all 2 sessions of x.example by source s1 are busy; one more is kept for priority mail"
    assert relay.why() == busy
    relay.close(relay.open[0])
    assert len(relay.opening) == 1


def test_sessions_of_all_paths_are_limited_and_the_hungry_come_next() -> None:
    relay = Relay(sessions=1)
    relay.receive("x.example", "y.example")
    relay.settle_down()
    assert len(relay.opening) == 1
    first = relay.opening[0]
    assert len(relay.send()) == 1
    relay.close(first)
    assert len(relay.opening) == 1
    assert len(relay.send()) == 1


def test_an_idle_session_is_used_before_another_is_opened(relay: Relay) -> None:
    relay.receive("x.example")
    relay.send()
    path = relay.open[0]
    path.idle = 1
    relay.scheduler.received(relay.store("x.example"), relay.now)
    assert relay.scheduler.decisions() == [Work(path, False)]


def test_a_path_that_failed_rests_longer_each_time_and_is_probed_by_few() -> None:
    relay = Relay(limit=1)
    relay.store(*["x.example"] * 200)
    relay.tick()
    rests = []
    for _ in range(4):
        back = relay.fail(relay.opening[0])
        rests.append(back)
        for delivery in back:
            relay.finish(delivery, again=relay.now + 9000)
        began = relay.now
        while not relay.opening:
            relay.tick()
        assert len(relay.opening) == 1
        rests.append(relay.now - began)
    assert rests[1::2] == [60, 120, 300, 600]
    assert [len(back) for back in rests[::2]] == [64, 4, 4, 4]
    assert len(relay.send()) == 200 - 64 - 3 * 4


def test_the_site_that_wants_no_more_sessions_keeps_those_it_has() -> None:
    relay = Relay(limit=3)
    relay.receive(*["x.example"] * 9)
    relay.settle_down()
    path = relay.opening.pop()
    relay.scheduler.session_ready(path, relay.now)
    relay.open.append(path)
    assert relay.fail(path) == []
    assert relay.opening == []
    assert len(relay.send()) == 9


def test_a_resting_path_is_not_taken_from_and_others_of_the_pool_go_on() -> None:
    relay = Relay(s1=1, s2=1)
    relay.receive(*["x.example"] * 4)
    relay.settle_down()
    bad = next(p for p in relay.opening if p.source == "s1")
    while bad in relay.opening:
        for delivery in relay.fail(bad):
            relay.finish(delivery, again=relay.now + 900)
    relay.receive(*["x.example"] * 4)
    assert relay.scheduler.take(bad, relay.now) is None
    assert {p.source for p in relay.opening} == {"s2"}
    assert len(relay.send()) == 6


# Priority mail.


def test_the_last_session_a_path_may_have_is_kept_for_priority_mail() -> None:
    relay = Relay(limit=3)
    relay.receive(*["x.example"] * 9)
    relay.settle_down()
    relay.connect()
    bulk = [relay.take(path) for path in relay.open]
    assert len(bulk) == 2 and None not in bulk
    (first, second) = relay.receive("x.example", "x.example", stream="urgent")
    relay.settle_down()
    assert len(relay.opening) == 1
    relay.connect()
    path = relay.open[-1]
    assert relay.scheduler.take(path, relay.now, beside=2) is first
    assert relay.scheduler.take(path, relay.now, beside=2) is second
    assert relay.scheduler.take(path, relay.now, beside=2) is None  # there is other mail, but not for this session
    assert relay.scheduler.take(path, relay.now, beside=1) is not None
    assert relay.why(stream="urgent") == "all 3 sessions of x.example by source s1 are busy"


def test_an_idle_session_that_is_kept_is_not_called_for_other_mail() -> None:
    relay = Relay(limit=3)
    relay.receive(*["x.example"] * 9)
    relay.receive("x.example", stream="urgent")
    relay.settle_down()
    relay.connect()
    path = relay.open[0]
    assert path.sessions == 3
    for _ in range(3):
        assert relay.take(path) is not None
    path.idle = 1
    relay.scheduler.received(relay.store("x.example"), relay.now)
    assert relay.scheduler.decisions() == []
    relay.scheduler.received(relay.store("x.example", stream="urgent"), relay.now)
    assert relay.scheduler.decisions() == [Work(path, False)]
    relay.take(path)
    path.idle = 2
    relay.scheduler.look(path, relay.now)
    assert relay.scheduler.decisions() == [Work(path, False)]


def test_a_path_with_one_session_keeps_none() -> None:
    relay = Relay(limit=1)
    relay.receive(*["x.example"] * 3)
    relay.settle_down()
    assert len(relay.opening) == 1
    assert len(relay.send()) == 3


def test_priority_mail_waits_behind_no_other_delivery_while_the_path_may_have_another_session(relay: Relay) -> None:
    relay.receive(*["x.example"] * 5)
    relay.settle_down()
    relay.connect()
    (path,) = relay.open
    assert relay.take(path) is not None
    (urgent,) = relay.receive("x.example", stream="urgent")
    relay.settle_down()
    assert relay.scheduler.take(path, relay.now, busy=True) is None
    assert len(relay.opening) == 1
    relay.connect()
    assert relay.scheduler.take(path, relay.now, beside=1, busy=True) is urgent  # all there may be are open and busy


def test_priority_mail_has_the_next_turn_behind_a_backlog_that_waits_for_the_rate_and_wastes_nothing_of_it() -> None:
    relay = Relay()
    relay.limits = Limits(20, rate("10/s"))
    relay.receive(*["x.example"] * 400)
    bulk = 0
    for _ in range(20):
        bulk += len(relay.send())
        urgent = relay.receive("x.example", stream="urgent")
        assert relay.send() == []
        relay.tick(0.10001)  # a little late, as clocks are
        assert relay.send() == urgent
        for _ in range(9):
            relay.tick(0.10001)  # a little late, as clocks are
            bulk += len(relay.send())
    assert bulk == 20 * 9 + 1


def test_a_flood_of_priority_mail_does_not_stop_other_accounts_on_a_path_with_a_rate() -> None:
    relay = Relay()
    relay.limits = Limits(20, rate("10/s"))
    relay.receive(*["x.example"] * 500, stream="urgent")
    relay.receive(*["x.example"] * 300, account="other")
    sent: list[Delivery] = []
    for _ in range(300):
        sent += relay.send()
        relay.tick(0.10001)  # a little late, as clocks are
    shares = Counter(d.message.account for d in sent)
    assert shares["crm"] + shares["other"] == pytest.approx(300, abs=2)
    assert shares["other"] == pytest.approx(30 * 9 / 2, rel=0.1)  # half of what is not kept


# Limits that several paths or accounts share.


def shared(relay: Relay, name: str = "[egress]", **scopes: Limits) -> None:
    relay.terms = Terms(relay.limits, layers=(Layer(name, **scopes),))


def went(relay: Relay, seconds: float, step: float = 0.10001) -> list[Delivery]:
    sent = []
    for _ in range(round(seconds / step)):
        sent += relay.send()
        relay.tick(step)
    return sent


def test_a_session_that_ends_where_all_are_in_use_is_for_priority_mail_first() -> None:
    relay = Relay(2)
    shared(relay, source=Limits(connections=2))
    relay.receive(*[f"u{n}.example" for n in range(2)], stream="urgent")
    relay.settle_down()
    relay.receive(*[f"d{n}.example" for n in range(3)])
    relay.settle_down()
    relay.receive("late.example", stream="urgent")
    assert len(relay.send()) == 2
    relay.close(relay.open[0])
    assert [path.site for path in relay.opening] == ["late.example"]


def test_what_goes_by_a_source_keeps_its_rate_whatever_number_of_sites_it_goes_to() -> None:
    relay = Relay(2)
    shared(relay, source=Limits(rate=rate("10/s")))
    relay.store(*[f"d{n % 40}.example" for n in range(400)])
    sent = went(relay, 20)
    assert 195 <= len(sent) <= 201
    by_site = Counter(d.queue for d in sent)
    assert len(by_site) == 40 and max(by_site.values()) <= 6


def test_on_a_source_at_its_rate_accounts_share_alike_though_one_has_mail_for_many_more_sites() -> None:
    relay = Relay(2)
    shared(relay, source=Limits(rate=rate("10/s")))
    relay.store(*[f"d{n % 40}.example" for n in range(800)], account="wide")
    relay.store(*["d1.example"] * 200, account="narrow")
    shares = Counter(d.message.account for d in went(relay, 20))
    assert shares["narrow"] == pytest.approx(100, abs=10) and shares["wide"] == pytest.approx(100, abs=10)


def test_priority_mail_passes_what_waits_for_the_rate_of_a_source() -> None:
    relay = Relay(2)
    shared(relay, source=Limits(rate=rate("10/s")))
    relay.store(*[f"d{n}.example" for n in range(400)])
    went(relay, 2)
    (urgent,) = relay.receive("other.example", stream="urgent")
    assert urgent in went(relay, 0.3)


def test_an_account_at_its_own_limit_holds_back_nobody_else_on_the_same_path() -> None:
    relay = Relay()
    relay.layers["slow"] = (Layer("account slow", account=Limits(rate=rate("1/s"))),)
    relay.store(*["x.example"] * 100, account="slow")
    relay.store(*["x.example"] * 300, account="other")
    shares = Counter(d.message.account for d in went(relay, 10))
    assert shares["other"] == 300 and 9 <= shares["slow"] <= 11
    assert relay.why(account="slow").startswith("the rate 1/s of account slow: the next in")


def test_an_account_has_no_more_deliveries_under_way_than_it_may_and_another_as_soon_as_one_is_done() -> None:
    relay = Relay()
    relay.layers["slow"] = (Layer("account slow", account=Limits(connections=3)),)
    relay.store(*[f"d{n}.example" for n in range(10)], account="slow")
    relay.tick()
    relay.connect()
    taken = list(filter(None, map(relay.take, list(relay.open))))
    assert len(taken) == 3 and "all 3 connections of account slow are in use" in relay.why("d9.example", account="slow")
    relay.finish(taken[0])
    relay.settle_down()
    relay.connect()
    assert len(list(filter(None, map(relay.take, list(relay.open))))) == 1


def test_sessions_of_one_source_are_limited_over_all_sites() -> None:
    relay = Relay(2)
    shared(relay, source=Limits(connections=4))
    relay.store(*[f"d{n}.example" for n in range(10)], stream="urgent")
    relay.tick()
    assert len(relay.opening) == 4
    assert "all 4 connections of source s1 in [egress] are in use" in relay.why("d9.example", "urgent")
    relay.connect()
    gone = relay.send()
    while relay.open:
        path = relay.open[0]
        path.idle = 1
        relay.scheduler.idle(path, relay.now)
        if Retire(path) not in relay.scheduler.decisions():
            break
        path.idle = 0
        relay.close(path)
        assert relay.scheduler.sessions <= 4
        gone += relay.send()
    assert len(gone) == 10


def test_sessions_are_opened_at_the_rate_of_their_path() -> None:
    relay = Relay()
    relay.limits = Limits(20, connection_rate=rate("20/min"))
    relay.store(*["x.example"] * 10)
    relay.tick()
    assert len(relay.opening) == 1
    relay.tick(2.9)
    assert len(relay.opening) == 1
    relay.tick(0.2)
    assert len(relay.opening) == 2


def test_outside_its_hours_a_site_is_not_read_and_says_when_they_begin() -> None:
    relay = Relay()
    relay.limits = Limits(20, hours="00:00-24:00 UTC")
    relay.store("x.example")
    relay.tick()
    assert len(relay.send()) == 1
    shut = time.strftime("%H:%M", time.gmtime(relay.now + 3600)), time.strftime("%H:%M", time.gmtime(relay.now + 7200))
    relay.terms = Terms(Limits(20, hours=f"{shut[0]}-{shut[1]}"))
    relay.scheduler.reconfigure(relay.stream, relay.pools, 2000, relay.now)
    made = relay.receive(*["x.example"] * 100)
    relay.tick()
    assert relay.send() == []
    assert "it is outside the hours" in relay.why()
    reads = len(relay.reads)
    relay.tick(100)
    assert len(relay.reads) == reads
    relay.tick(3600)
    assert len(relay.send()) == len(made)


def test_hours_that_a_reload_takes_away_hold_back_nothing_more() -> None:
    relay = Relay()
    relay.limits = Limits(20, hours=time.strftime("%H:%M-24:00", time.gmtime(relay.now + 3600)))
    relay.sites = {"x.example": "big", "y.example": "big"}
    relay.receive("x.example", "y.example", "x.example")
    assert relay.send() == []
    relay.limits = Limits(20)
    del relay.sites["x.example"]
    relay.scheduler.reconfigure(relay.stream, relay.pools, 2000, relay.now)
    assert len(relay.send()) == 3


def test_a_rate_is_not_begun_anew_when_a_site_was_forgotten_meanwhile() -> None:
    relay = Relay()
    relay.limits = Limits(20, rate("1/h"))
    relay.receive("x.example")
    assert len(relay.send()) == 1
    for path in list(relay.open):
        relay.close(path)
    relay.tick(60)
    relay.tick(60)
    relay.receive("x.example")
    assert relay.send() == []
    relay.tick(3600)
    assert len(relay.send()) == 1


def test_a_blocked_site_with_very_many_queues_keeps_only_its_share_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LOADED", 400)
    monkeypatch.setattr(memory, "PULLS", 2)
    relay = Relay()
    relay.sites = {f"d{n}.example": "slow" for n in range(300)}
    relay.store(*[f"d{n}.example" for n in range(300) for _ in range(4)])
    for _ in range(3):
        relay.tick()
    assert relay.scheduler.sites["slow"].share.loaded <= 100 + 2 * memory.PULL + 4
    other = relay.store(*["other.example"] * 50, account="late")
    relay.tick()
    relay.connect()
    gone = [d for _ in range(50) for path in relay.open if path.site == "other.example" and (d := relay.take(path))]
    assert gone == other


def test_fifty_accounts_of_very_different_backlog_share_a_path_within_a_tenth() -> None:
    relay = Relay()
    for n in range(50):
        relay.store(*["x.example"] * (120 + 12 * n), account=f"a{n}")
    relay.tick()
    shares = Counter(d.message.account for d in relay.send(50 * 100))
    assert len(shares) == 50
    assert min(shares.values()) >= 90 and max(shares.values()) <= 110


def test_the_clients_of_a_customer_share_its_turn() -> None:
    relay = Relay()
    streams = {"shop1": Stream("p", account="crm"), "shop2": Stream("p", account="crm"), "big": Stream("p", weight=2)}
    relay.scheduler.streams = lambda account, name: streams[account]
    for account in streams:
        relay.receive(*["x.example"] * 60, account=account)
    assert Counter(d.message.account for d in relay.send(60)) == {"big": 40, "shop1": 10, "shop2": 10}


# Reactions.


def suspends(on: On = "path", duration: float = 3600.0, *, move: bool = True) -> Rule:
    return Rule(name="stop", action="suspend", codes=("4xx",), on=on, duration=duration, move=move)


def limits(on: On = "path", duration: float = 3600.0, **most: Any) -> Rule:
    return Rule(name="slow", action="limit", codes=("4xx",), on=on, duration=duration, limits=Ceiling(**most))


def test_mail_for_another_site_of_a_suspended_account_waits_too(relay: Relay) -> None:
    relay.terms = Terms(relay.limits, group="big")
    relay.receive("x.example")
    assert len(relay.send()) == 1
    reaction = relay.react(suspends("account"), "big")
    made = relay.receive("new.example", "x.example")
    assert went(relay, 20, 1.0) == []
    assert "account crm at big is suspended" in relay.why("new.example")
    relay.lift(reaction)
    assert sorted(d.id for d in relay.send()) == [d.id for d in made]


def test_what_a_suspended_account_is_handed_back_waits(relay: Relay) -> None:
    (delivery,) = relay.receive("x.example")
    relay.settle_down()
    relay.connect()
    (path,) = relay.open
    assert relay.take(path) is delivery
    reaction = relay.react(suspends("account"))
    del relay.taken[delivery.id]
    relay.scheduler.give_back(path, delivery, relay.now)
    assert relay.send() == []
    relay.lift(reaction)
    assert relay.send() == [delivery]


def test_what_leaves_memory_while_its_queue_is_read_is_read_again(relay: Relay) -> None:
    made = relay.receive("x.example")
    relay.settle_down()
    queue = relay.scheduler.queues[made[0].queue]
    queue.more = True
    relay.scheduler.source_back(relay.now)
    relay.collect()
    (pull,) = relay.asked
    assert isinstance(pull, Pull) and pull.but == [made[0].id]
    relay.asked.clear()
    reaction = relay.react(suspends("account"))
    relay.scheduler.loading.pulled(pull.queue, [], pull.limit, relay.now)
    relay.lift(reaction)
    assert relay.send() == made


def test_a_limit_on_an_account_that_is_lifted_holds_no_more(relay: Relay) -> None:
    relay.store(*["x.example"] * 20)
    relay.tick()
    reaction = relay.react(limits("account", rate=rate("1/h")))
    assert len(relay.send()) <= 1
    relay.lift(reaction)
    went(relay, 5, 1.0)
    assert len(relay.gone) == 20


def test_a_limit_on_an_account_holds_at_a_site_that_is_seen_only_now(relay: Relay) -> None:
    relay.react(limits("account", rate=rate("1/h")))
    relay.receive(*["x.example"] * 20)
    assert len(relay.send()) == 1


def test_the_rate_of_an_account_is_not_begun_anew_by_a_reaction_on_its_path_or_a_reload(relay: Relay) -> None:
    relay.layers["slow"] = (Layer("account slow", account=Limits(rate=rate("1/h"))),)
    relay.receive("x.example", account="slow")
    assert len(relay.send()) == 1
    relay.react(limits("path", rate=rate("100/s")))
    relay.scheduler.reconfigure(relay.stream, relay.pools, 2000, relay.now)
    relay.receive("x.example", account="slow")
    assert went(relay, 3, 1.0) == []


def test_where_a_source_is_suspended_a_new_site_s_mail_goes_by_another_of_its_pool() -> None:
    relay = Relay(s1=1, s2=1)
    relay.react(suspends("source"))
    relay.receive(*["new.example"] * 4)
    assert {path.source for path in relay.opening + relay.open} <= {"s2"}
    assert len(relay.send()) == 4


def test_a_path_that_had_failed_and_is_suspended_goes_on_when_that_is_lifted(relay: Relay) -> None:
    relay.receive("x.example")
    relay.settle_down()
    for delivery in relay.fail(relay.opening[0]):
        relay.finish(delivery, again=relay.now + 1)
    reaction = relay.react(suspends(duration=86400.0))
    relay.tick(120)
    assert relay.send() == []
    relay.lift(reaction)
    relay.tick(61)
    relay.tick(1)
    assert len(relay.send()) == 1


def test_a_session_that_was_being_opened_ends_no_suspension(relay: Relay) -> None:
    relay.receive("x.example")
    relay.settle_down()
    for delivery in relay.fail(relay.opening[0]):
        relay.finish(delivery, again=relay.now + 1)
    relay.tick(61)
    assert len(relay.opening) == 1
    relay.react(suspends())
    relay.connect()
    relay.receive("x.example")
    assert relay.send() == []


def test_what_a_suspended_account_has_goes_when_a_reload_ends_the_reaction(relay: Relay) -> None:
    made = relay.receive("x.example")
    relay.settle_down()
    reaction = relay.react(suspends("account"))
    assert relay.send() == []
    assert relay.reactions.reconfigure(Rules()) == (reaction,)
    relay.scheduler.reconfigure(relay.stream, relay.pools, 2000, relay.now)
    assert relay.send() == made


def test_a_site_that_comes_to_belong_to_a_provider_is_forgotten_like_any(relay: Relay) -> None:
    relay.receive("x.example")
    assert len(relay.send()) == 1
    relay.terms = Terms(relay.limits, group="big")
    relay.scheduler.reconfigure(relay.stream, relay.pools, 2000, relay.now)
    relay.receive("x.example")
    assert len(relay.send()) == 1
    relay.react(suspends("site"), "big")
    assert "suspended" in relay.scheduler.sites["x.example"].paths["s1"].reason
    relay.tick(3700)
    for path in list(relay.open):
        relay.close(path)
    relay.tick(loading.LINGER + 1)
    relay.tick(3600)
    assert relay.scheduler.sites == {}


def test_a_lane_whose_stream_came_to_be_priority_mail_meanwhile_loses_nothing(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared(relay, source=Limits(rate=rate("10/s")))
    relay.store(*["x.example"] * 5, *["y.example"] * 5, stream="urgent")
    relay.tick()
    monkeypatch.setitem(STREAMS, "urgent", Stream("p", 50))
    relay.receive(*["x.example"] * 5, stream="urgent")
    went(relay, 1)
    monkeypatch.setitem(STREAMS, "urgent", Stream("p", 90))
    relay.receive(*["x.example"] * 5, stream="urgent")
    went(relay, 3)
    assert len(relay.gone) == 20


def test_turns_of_those_who_are_gone_cost_nothing_of_a_rate() -> None:
    relay = Relay(2)
    shared(relay, source=Limits(rate=rate("10/s")))
    relay.store(*[f"d{n}.example" for n in range(40)] * 4)
    went(relay, 1)
    for n in range(0, 39):
        relay.react(suspends(), f"d{n}.example")
    relay.store(*["other.example"] * 200)
    before = len(relay.gone)
    went(relay, 10)
    assert len(relay.gone) - before >= 78  # one may have had its turn, which is kept for two seconds


def test_sessions_of_two_sources_that_wait_for_their_connection_rate_cost_no_more_with_time() -> None:
    relay = Relay(20, s1=1, s2=1)
    relay.limits = Limits(20, connection_rate=rate("20/min"))
    relay.store(*["x.example"] * 64)
    for _ in range(12):
        relay.receive("x.example")
        relay.tick(1)
    assert len(relay.scheduler.restraints.resting) < 20


def test_sessions_at_a_source_s_connection_rate_are_opened_in_the_order_in_which_they_were_wanted() -> None:
    relay = Relay(20)
    shared(relay, source=Limits(connection_rate=rate("1/s")))
    relay.receive("m.example")
    relay.settle_down()
    relay.receive(*["z.example"] * 5)
    relay.settle_down()
    relay.receive(*["a.example"] * 5)
    relay.settle_down()
    opened = []
    for _ in range(4):
        relay.tick(1.01)
        opened = [path.site for path in relay.opening]
    assert opened[:3] == ["m.example", "z.example", "a.example"]


def test_mail_whose_domain_moves_to_another_site_while_it_waits_for_a_rate_goes(relay: Relay) -> None:
    shared(relay, source=Limits(rate=rate("1/h")))
    relay.store(*["x.example"] * 3)
    relay.tick()
    assert len(relay.send()) == 1
    for path in list(relay.open):
        relay.close(path)
    relay.sites["x.example"] = "moved"
    relay.tick(301)
    relay.receive("x.example")
    relay.settle_down()
    went(relay, 4 * 3600, 10.0)
    assert len(relay.gone) == 4


def test_the_rate_of_a_path_is_not_begun_anew_by_each_step_in_which_it_comes_back(relay: Relay) -> None:
    relay.limits = Limits(20, rate("100/h burst 50"))
    relay.store(*["x.example"] * 400)
    relay.tick()
    assert len(relay.send()) <= 50
    relay.react(suspends(duration=10.0))
    went(relay, 100, 1.0)
    assert len(relay.gone) <= 50 + 3


def test_limits_of_an_account_that_are_taken_away_hold_no_more(relay: Relay) -> None:
    relay.layers["slow"] = (Layer("account slow", account=Limits(rate=rate("1/d"))),)
    relay.store(*["x.example"] * 5, account="slow")
    went(relay, 3, 1.0)
    assert len(relay.gone) == 1
    relay.layers["slow"] = ()
    relay._streams.clear()
    relay.scheduler.restraints.relimited(relay.now)
    went(relay, 3, 1.0)
    assert len(relay.gone) == 5


# Pools by domain.


def test_a_stream_chooses_its_pool_by_the_longest_match_on_the_domain_then_on_the_hosts() -> None:
    pools = {"*.ru": "russia", "*.mail.ru": "mail", "mail.ru": "exact", "*.google.com": "google"}
    stream = Stream("general", pools=pools)
    cases = {
        ("mail.ru", ()): "exact",
        ("a.mail.ru", ()): "mail",
        ("a.b.mail.ru", ()): "mail",
        ("x.ru", ("mx.google.com",)): "russia",
        ("ru", ()): "general",
        ("shop.example", ("mx.other.example", "alt1.google.com")): "google",
        ("shop.example", ("mx.other.example",)): "general",
        ("google.com", ()): "general",
    }
    assert {case: stream.pool_for(*case) for case in cases} == cases
    assert stream.all_pools() == {"general", "russia", "mail", "exact", "google"}


def test_mail_goes_by_the_pool_of_its_domain_or_its_site_s_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STREAMS, "abroad", Stream("p", pools={"*.ru": "q", "mx.big.example": "q"}))
    relay = Relay()
    relay.hosts = {"y.example": ("mx.big.example",)}
    relay.receive("x.example", "x.ru", "y.example", stream="abroad")
    relay.settle_down()
    assert {(p.site, p.source) for p in relay.opening} == {("x.example", "s1"), ("x.ru", "t1"), ("y.example", "t1")}
    relay.pools.out_of_use["t1"] = "gone"
    relay.receive("z.ru", stream="abroad")
    relay.settle_down()
    assert relay.why("z.ru", stream="abroad") == "no source of pool 'q' can be used: t1: gone"


# Handed back.


def test_what_was_handed_back_goes_first(relay: Relay) -> None:
    relay.receive(*["x.example"] * 3)
    relay.settle_down()
    relay.connect()
    path = relay.open[0]
    first = relay.take(path)
    assert first is not None
    del relay.taken[first.id]
    relay.scheduler.give_back(path, first, relay.now)
    assert relay.take(path) is first


def test_what_is_handed_back_to_a_path_that_is_gone_finds_another(relay: Relay) -> None:
    (delivery,) = relay.receive("x.example")
    relay.settle_down()
    relay.connect()
    path = relay.open[0]
    taken = relay.take(path)
    assert taken is delivery
    relay.sites["x.example"] = "moved"
    relay.now += 400
    relay.receive("x.example")
    relay.settle_down()
    relay.close(path)
    del relay.taken[delivery.id]
    relay.scheduler.give_back(path, delivery, relay.now)
    assert len(relay.send()) == 2


def test_a_source_out_of_use_gives_its_mail_to_others() -> None:
    relay = Relay(s1=1, s2=1)
    relay.receive(*["x.example"] * 4)
    relay.settle_down()
    path = next(p for p in relay.opening if p.source == "s1")
    relay.pools.out_of_use["s1"] = "gone"
    relay.opening = [p for p in relay.opening if p is not path]
    relay.scheduler.reassign(path, relay.now)
    assert len(relay.send()) == 4


def test_without_a_source_mail_waits_says_so_and_goes_when_there_is_one(relay: Relay) -> None:
    relay.pools.out_of_use["s1"] = "gone"
    relay.receive("x.example")
    relay.settle_down()
    assert relay.why() == "no source of pool 'p' can be used: s1: gone"
    del relay.pools.out_of_use["s1"]
    for _ in range(12):
        relay.tick()
    assert len(relay.send()) == 1


def test_a_source_that_comes_back_is_used_at_once_where_the_others_rest() -> None:
    relay = Relay(s1=1, s2=1)
    relay.pools.drained["s2"] = "moving (anna)"
    relay.receive("x.example")
    relay.settle_down()
    relay.fail(relay.opening[0])
    relay.receive("x.example")
    relay.settle_down()
    assert not relay.opening
    relay.pools.drained.clear()
    relay.scheduler.source_back(relay.now)
    relay.settle_down()
    assert [path.source for path in relay.opening] == ["s2"]


def test_mail_goes_by_the_overflow_where_all_sources_of_its_pool_rest_and_says_so() -> None:
    relay = Relay(limit=1)
    relay.pools.overflow["p"] = "q"
    relay.receive("x.example")
    relay.settle_down()
    relay.fail(relay.opening[0])
    relay.receive("x.example", "x.example")
    relay.settle_down()
    (path,) = relay.opening
    assert path.source == "t1"
    sessions = "all 1 sessions of x.example by source t1, of 'q', the overflow of pool 'p'"
    assert relay.why() == f"{sessions} are busy or being opened"
    relay.receive("y.example")
    relay.settle_down()
    assert {(path.site, path.source) for path in relay.opening} == {("x.example", "t1"), ("y.example", "s1")}


def test_mail_returns_from_the_overflow_when_a_source_of_its_pool_can_be_used() -> None:
    relay = Relay()
    relay.pools.overflow["p"] = "q"
    relay.pools.drained["s1"] = "moving (anna)"
    relay.receive("x.example")
    relay.settle_down()
    assert [path.source for path in relay.opening] == ["t1"]
    relay.pools.drained.clear()
    relay.scheduler.source_back(relay.now)
    relay.receive("x.example")
    relay.settle_down()
    assert [path.source for path in relay.opening] == ["t1", "s1"]


def test_where_the_overflow_rests_too_why_names_what_is_tried_first() -> None:
    relay = Relay()
    relay.pools.overflow["p"] = "q"
    for _ in range(2):
        relay.receive("x.example")
        relay.settle_down()
        relay.fail(relay.opening[0])
    relay.receive("x.example")
    relay.settle_down()
    assert not relay.opening and relay.why().startswith("x.example by source s1 rests, next try in")


def test_a_domain_that_cannot_be_looked_up_rests_and_its_mail_is_given_to_the_shell(relay: Relay) -> None:
    (delivery,) = relay.receive("x.example")
    relay.scheduler.decisions()
    assert isinstance(relay.asked.popleft(), Route)
    assert relay.why() == "the look-up of its domain is under way"
    back = relay.scheduler.unroutable(delivery.queue, "no answer", relay.now, transient=True)
    assert back == [delivery]
    assert relay.scheduler.unroutable(delivery.queue, "no answer", relay.now, transient=True) == []
    relay.finish(delivery, again=relay.now + 300)
    relay.receive("x.example")
    assert relay.reads == []
    assert relay.why() == "its domain cannot be looked up, next try in 60 s: no answer"
    for _ in range(70):
        relay.tick()
    assert len(relay.send()) == 1


def test_why_says_the_right_thing(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    assert relay.why() == "nothing: it will be taken up at its due time"
    relay.receive("x.example")
    assert relay.why() == "the look-up of its domain is under way"
    relay.settle_down()
    assert relay.why() == "nothing: it is on its way"
    relay.fail(relay.opening[0])
    assert relay.why() == "x.example by source s1 rests, next try in 60 s: no answer"
    relay.scheduler.received(relay.store("x.example", stream="other"), relay.now)
    relay.settle_down()
    assert relay.why(stream="other") == "nothing: it is on its way"
    monkeypatch.setattr(memory, "LOADED", 0)
    relay.store("y.example")
    relay.tick()
    assert "memory for ready deliveries is full" in relay.why("y.example")


def test_queues_whose_mail_is_gone_leave_no_trace(relay: Relay) -> None:
    for n in range(50):
        relay.receive(f"d{n}.example")
    relay.send()
    for path in list(relay.open):
        relay.close(path)
    relay.tick(loading.LINGER + 1)
    assert (relay.scheduler.queues, relay.scheduler.sites) == ({}, {})
    for n in range(50):
        relay.receive(f"dead{n}.example")
    relay.settle_down()
    for path in list(relay.opening):
        for delivery in relay.fail(path):
            relay.finish(delivery)
    relay.tick(loading.LINGER + 1)
    relay.tick(61)
    assert (relay.scheduler.queues, relay.scheduler.sites) == ({}, {})
    assert relay.scheduler.sessions == 0


def test_a_path_that_failed_is_forgotten_though_its_mail_went_by_another() -> None:
    relay = Relay(s1=1, s2=1)
    relay.receive("x.example")
    relay.settle_down()
    for delivery in relay.fail(relay.opening[0]):
        relay.finish(delivery, again=relay.now + 1)
    relay.tick(2)
    relay.tick(60)
    assert len(relay.send()) == 1
    for path in list(relay.open):
        relay.close(path)
    relay.tick(loading.LINGER + 1)
    relay.tick(loading.LINGER + 1)
    assert relay.scheduler.sites == {}


def test_what_may_not_go_now_costs_its_path_nothing(relay: Relay) -> None:
    relay.limits = Limits(1, rate("1/min"))
    times = Steering(window="09:00-10:00")
    closed = [relay.store("x.example", steering=times)[0] for _ in range(5)]
    (plain,) = relay.store("x.example")
    relay.scheduler.received([*closed, plain], relay.now)
    relay.settle_down()
    relay.connect()
    asked: list[Delivery] = []

    def timely(delivery: Delivery, now: float) -> bool:
        asked.append(delivery)
        return delivery not in closed

    assert relay.scheduler.take(relay.open[0], relay.now, timely) is plain
    assert asked == [*closed, plain]


def test_nothing_new_begins_while_stopping(relay: Relay) -> None:
    relay.receive("x.example")
    relay.settle_down()
    relay.connect()
    relay.scheduler.stopping = True
    assert relay.take(relay.open[0]) is None
    relay.store("y.example")
    relay.tick()
    assert relay.asked == deque()


class Life(RuleBasedStateMachine):
    """Anything may happen in any order; in the end every delivery has gone once, or is still on disk and goes."""

    def __init__(self) -> None:
        super().__init__()
        self.relay = Relay(limit=2, sessions=3, s1=1, s2=2)
        self.held: list[tuple[Path, Delivery]] = []
        self.late: list[tuple[Pull, list[Delivery]]] = []
        self.made: set[int] = set()
        self.seized: list[tuple[str, list[int]]] = []

    domains = st.sampled_from(["x.example", "y.example", "z.example"])

    @rule(
        domain=domains,
        copies=st.integers(1, 90),
        told=st.booleans(),
        stream=st.sampled_from(["news", "other", "urgent"]),
        wait=st.sampled_from([0, 0, 0, 20, 900]),
    )
    def receive(self, domain: str, copies: int, told: bool, stream: str, wait: float) -> None:
        made = self.relay.store(*[domain] * copies, stream=stream, due=self.relay.now + wait)
        self.made |= {d.id for d in made}
        if told:
            self.relay.scheduler.received(made, self.relay.now)
            self.relay.collect()

    @precondition(lambda self: self.relay.asked)
    @rule(data=st.data(), late=st.booleans())
    def answer(self, data: st.DataObject, late: bool) -> None:
        asked = self.relay.asked
        asked.rotate(-data.draw(st.integers(0, len(asked) - 1)))
        decision = asked.popleft()
        if late and isinstance(decision, Pull):
            self.late.append((decision, self.relay.due(decision)))
        else:
            self.relay.answer(decision)

    @precondition(lambda self: self.late)
    @rule(fails=st.booleans())
    def answer_late(self, fails: bool) -> None:
        pull, found = self.late.pop(0)
        if fails:
            self.relay.scheduler.loading.pull_failed(pull.queue, pull.limit, self.relay.now)
        else:
            self.relay.scheduler.loading.pulled(pull.queue, found, pull.limit, self.relay.now)
        self.relay.collect()

    @precondition(lambda self: any(isinstance(d, Route) for d in self.relay.asked))
    @rule(transient=st.booleans())
    def cannot_be_looked_up(self, transient: bool) -> None:
        route = next(d for d in self.relay.asked if isinstance(d, Route))
        self.relay.asked.remove(route)
        back = self.relay.scheduler.unroutable(route.queue, "no", self.relay.now, transient=transient)
        for delivery in back:
            self.relay.finish(delivery, again=self.relay.now + 300 if transient else None)

    @precondition(lambda self: self.relay.opening)
    @rule(fails=st.booleans())
    def session(self, fails: bool) -> None:
        if fails:
            for delivery in self.relay.fail(self.relay.opening[0]):
                self.relay.finish(delivery, again=self.relay.now + 60)
            return
        path = self.relay.opening.pop(0)
        self.relay.scheduler.session_ready(path, self.relay.now)
        self.relay.open.append(path)
        self.relay.collect()

    @precondition(lambda self: self.relay.open)
    @rule(data=st.data(), most=st.integers(1, 70))
    def work(self, data: st.DataObject, most: int) -> None:
        path = data.draw(st.sampled_from(self.relay.open))
        beside = data.draw(st.integers(0, path.sessions - path.opening - 1))
        for _ in range(most):
            delivery = self.relay.take(path, beside)
            if delivery is None:
                break
            self.held.append((path, delivery))

    @precondition(lambda self: self.held)
    @rule(what=st.sampled_from(["gone", "again", "past", "back"]), most=st.integers(1, 70))
    def outcome(self, what: str, most: int) -> None:
        for path, delivery in self.held[:most]:
            if what == "back":
                del self.relay.taken[delivery.id]
                self.relay.scheduler.give_back(path, delivery, self.relay.now)
                self.relay.collect()
            else:
                again = {"gone": None, "again": self.relay.now + 30, "past": self.relay.now - 5}[what]
                self.relay.finish(delivery, again=again)
        del self.held[:most]

    @precondition(lambda self: any(self.relay.disk.values()))
    @rule(data=st.data(), most=st.integers(1, 70))
    def seize(self, data: st.DataObject, most: int) -> None:
        name = data.draw(st.sampled_from(sorted(name for name, rows in self.relay.disk.items() if rows)))
        ids = list(self.relay.disk[name])[:most]
        busy = self.relay.scheduler.loading.under_way(name, ids)
        held = {delivery.id for _, delivery in self.held}
        seized = {identity for _, got in self.seized for identity in got}
        assert busy == {identity for identity in ids if identity in held | seized}
        got = self.relay.scheduler.loading.seize(name, ids)
        assert sorted(got) == sorted(set(ids) - busy)
        self.seized.append((name, got))
        self.relay.collect()

    @precondition(lambda self: self.seized)
    @rule(what=st.sampled_from(["cancelled", "later", "now"]))
    def let_go(self, what: str) -> None:
        name, got = self.seized.pop(0)
        rows = self.relay.disk[name]
        for identity in got:
            if what == "cancelled":
                del rows[identity]
                self.made.discard(identity)
            else:
                rows[identity].due = self.relay.now + (30 if what == "later" else 0)
                self.relay.next_due[name] = min(self.relay.next_due.get(name, NEVER), rows[identity].due)
        self.relay.scheduler.loading.let_go(name, got, self.relay.now, look=what == "now")
        if what == "now":
            self.relay.scheduler.restraints.urge(name, self.relay.now)
        self.relay.collect()

    @precondition(lambda self: self.relay.open)
    @rule()
    def close(self) -> None:
        self.relay.close(self.relay.open[0])

    @rule(seconds=st.sampled_from([1, 6, 70, 700, -50]))
    def time(self, seconds: float) -> None:
        self.relay.now += seconds
        self.relay.scheduler.tick(self.relay.now)
        self.relay.collect()

    @rule(on=st.booleans())
    def source(self, on: bool) -> None:
        if on:
            self.relay.pools.out_of_use.clear()
        else:
            self.relay.pools.out_of_use["s1"] = "gone"

    @invariant()
    def counts_hold(self) -> None:
        s = self.relay.scheduler
        assert s.memory.loaded == sum(len(q.loaded) for q in s.queues.values())
        assert s.memory.bytes >= 0
        assert s.sessions == len(self.relay.opening) + len(self.relay.open) <= 3
        for queue in s.queues.values():
            assert queue.loaded <= set(self.relay.disk[queue.name])
            assert len(queue.loaded) - sum(len(got) for name, got in self.seized if name == queue.name) <= memory.PULL

    def teardown(self) -> None:
        relay = self.relay
        relay.pools.out_of_use.clear()
        while self.late:
            self.answer_late(False)
        for _, delivery in self.held:
            relay.finish(delivery)
        while self.seized:
            self.let_go("later")
        for _ in range(120):
            if not any(relay.disk.values()):
                break
            relay.tick(30)
            relay.send()
            for path in list(relay.open):
                relay.close(path)
        left = {n: (list(q)[:3], why(relay.scheduler, n, relay.now)) for n, q in relay.disk.items() if q}
        assert left == {}
        assert sorted(relay.gone) == sorted(self.made)
        relay.tick(loading.LINGER + 1)
        relay.tick(2000)
        relay.tick(loading.LINGER + 1)  # of queues that rested while all they had was cancelled
        assert (relay.scheduler.memory.loaded, relay.scheduler.queues) == (0, {})


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


def test_a_long_random_life_under_small_memory_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LOADED", 30)
    monkeypatch.setattr(loading, "QUEUES", 40)
    rng = random.Random(7)
    relay = Relay(limit=3, sessions=9)
    made: set[int] = set()
    for _ in range(1500):
        made |= {d.id for d in relay.receive(*[f"d{rng.randrange(80)}.example"] * rng.randrange(1, 9))}
        relay.settle_down()
        relay.connect()
        for path in relay.open:
            if (delivery := relay.take(path)) is not None:
                relay.finish(delivery, again=relay.now + 20 if rng.random() < 0.3 else None)
        for path in list(relay.open)[:2]:
            relay.close(path)
        assert relay.scheduler.memory.loaded <= 3 * 30 + memory.PULL
        relay.tick(rng.random())
    for _ in range(600):
        relay.tick(3)
        relay.send()
        for path in list(relay.open):
            relay.close(path)
    assert sorted(relay.gone) == sorted(made)
