"""Anything may happen to limits, reactions and warm-up in any order, while sessions do only what they are told."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relayd.envelope import Delivery
from relayd.queue import loading
from relayd.queue.decisions import PutOff, Retire, Work
from relayd.queue.meter import Meter
from relayd.queue.reasons import why
from relayd.queue.scheduler import Scheduler
from relayd.queue.state import Path
from relayd.shaping.limits import Layer, Limits, Terms, rate, volume
from relayd.shaping.rules import Ceiling, Rule
from relayd.warmup import Plan, Warmup
from tests.simulation.providers import densest
from tests.test_scheduler import Relay
from tests.warmup_kit import Disk

PLAN = Plan(caps=(2, 4), samples=1000, longest_wait=3600.0)
DAY = 86400.0


class Session:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.carries: Delivery | None = None
        self.idle = False
        self.since = 0.0


class Strict(Relay):
    """Sessions ask for mail when they are ready, when they have done with one, and when they are called; not else."""

    def __init__(self) -> None:
        super().__init__(limit=3, sessions=6, s1=1, s2=2)
        self.pools.overflow["p"] = "q"
        self.disk_of_warmup = Disk()
        self.warmup = Warmup([], self.disk_of_warmup.keep)
        self.warmup.woken = lambda places: self.scheduler.restraints.warmed(places, self.now)
        self.scheduler = Scheduler(self.stream, self.pools, 6, self.reactions, self.warmup)
        self.sessions: list[Session] = []
        self.starts: dict[str, list[float]] = defaultdict(list)

    def collect(self) -> None:
        for decision in self.scheduler.decisions():
            match decision:
                case Work(path, True):
                    self.opening.append(path)
                    assert all(_kept(meter) for meter in path.meters)
                case Work(path, False):
                    for session in [s for s in self.sessions if s.path is path and s.idle][-1:]:
                        self.run(session)
                case Retire(path):
                    for session in [s for s in self.sessions if s.path is path and s.idle][-1:]:
                        self.end(session)
                case PutOff(delivery, due):
                    self.finish(delivery, again=due)
                case _:
                    self.asked.append(decision)

    def ready(self, path: Path) -> None:
        self.opening.remove(path)
        session = Session(path)
        self.sessions.append(session)
        self.scheduler.session_ready(path, self.now)
        self.run(session)
        self.settle_down()

    def run(self, session: Session) -> None:
        path = session.path
        if session.carries is None:
            session.carries = self.take(path, beside=path.at_work - (not session.idle))
        if session.carries is not None and session.idle:
            session.idle = False
            path.idle -= 1
            self.scheduler.look(path, self.now)
        elif session.carries is None and not session.idle:
            session.idle = True
            session.since = self.now
            path.idle += 1
            self.scheduler.idle(path, self.now)
        self.collect()

    def take(self, path: Path, beside: int = 0) -> Delivery | None:
        delivery = super().take(path, beside)
        if delivery is not None:
            assert all(_kept(meter) for meter in self.scheduler.restraints.limiter._held.get(delivery.id, ()))
            self.starts[f"source {path.source}"].append(self.now)
            self.starts[f"account {delivery.message.account}"].append(self.now)
            self.starts[f"{path.site} {path.source}"].append(self.now)
        return delivery

    def done(self, session: Session, again: float | None = None) -> None:
        delivery, session.carries = session.carries, None
        assert delivery is not None
        self.finish(delivery, again)
        if session in self.sessions:
            self.run(session)
        self.settle_down()

    def hand_back(self, session: Session) -> None:
        delivery, session.carries = session.carries, None
        assert delivery is not None
        del self.taken[delivery.id]
        self.scheduler.give_back(session.path, delivery, self.now)
        self.collect()

    def end(self, session: Session) -> None:
        if session.carries is not None:
            self.hand_back(session)
        self.sessions.remove(session)
        if session.idle:
            session.path.idle -= 1
            self.scheduler.look(session.path, self.now)
        self.scheduler.session_closed(session.path, self.now, opening=False)
        self.collect()

    def wait(self, seconds: float, step: float = 1.0) -> None:
        """Time passes, and the scheduler is woken when it wants to be."""
        end = self.now + seconds
        turns = 0
        while True:
            self.scheduler.restraints.wake(self.now)
            self.settle_down()
            self.quick()
            following = min(self.scheduler.restraints.wakes_at, (self.now // step + 1) * step)
            turns = turns + 1 if following <= self.now else 0
            assert turns < 50, "it is woken again and again, and nothing comes of it"
            if following > end:
                break
            self.now = max(self.now, following)
            if self.now % step == 0:
                for session in [s for s in self.sessions if s.idle and not s.since <= self.now < s.since + 5]:
                    if session in self.sessions:
                        self.end(session)
                self.tick(0)
                self.disk_of_warmup.finish()
                self.warmup.tick(self.now)
                self.reactions.tick(self.now)
        self.now = end

    at_once = False

    def quick(self) -> None:
        """All sessions open and carry at once, if they do."""
        while self.at_once:
            if self.opening:
                self.ready(self.opening[0])
            elif carrying := [s for s in self.sessions if s.carries]:
                for session in carrying:
                    if session.carries:
                        self.done(session)
            else:
                break

    def turn(self) -> None:
        """What is under way is done, a tenth of a second later, and sessions wanted are there."""
        for path in list(self.opening):
            self.ready(path)
        for session in [s for s in self.sessions if s.carries]:
            self.done(session)
        self.wait(0.1)

    def meters(self) -> Iterator[Meter[Path]]:
        paths = [p for site in self.scheduler.sites.values() for p in site.paths.values()]
        yield from {id(m): m for p in paths for m in p.meters}.values()


def _kept(meter: Meter[Path]) -> bool:
    return not meter.limits.connections or meter.used <= meter.limits.connections


sources = st.sampled_from(["s1", "s2", "t1"])
domains = st.sampled_from(["x.example", "y.example", "z.example", "w.example"])
rates = st.sampled_from([None, None, "6/min", "2/s", "100/min", "30/min burst 10"]).map(lambda r: r and rate(r))
some = st.sampled_from([0, 0, 1, 2, 3])
HOURS = st.sampled_from(["", "", "", "00:00-16:05 UTC", "00:00-16:30 UTC"])
volumes = st.sampled_from([None, None, "200/min", "10/s"]).map(lambda v: v and volume(v))
path_limits = st.builds(
    Limits,
    st.sampled_from([1, 2, 3]),
    rates,
    rates.map(lambda r: r and msgspec.structs.replace(r, burst=0)),
    volumes,
    st.just(0),
    HOURS,
)
shared_limits = st.builds(Limits, some, rates, rates, volumes)
own_limits = st.builds(Limits, some, rates, st.none(), volumes, st.just(0), HOURS)


@pytest.mark.parametrize(
    ("path", "source"), [(Limits(3, rate("10/s")), Limits()), (Limits(3), Limits(rate=rate("10/s")))]
)
def test_a_clock_that_is_set_back_keeps_nobody_waiting_for_a_rate(path: Limits, source: Limits) -> None:
    relay = Strict()
    relay.at_once = True
    relay.terms = Terms(path, layers=(Layer("[egress]", source=source),))
    relay.store(*["x.example"] * 300, due=relay.now - 7200, stream="other")
    relay.wait(3)
    before = len(relay.gone)
    relay.now -= 3600
    relay.wait(20)
    assert 190 <= len(relay.gone) - before <= 201


def test_a_large_message_waits_for_a_volume_no_longer_than_small_ones() -> None:
    relay = Strict()
    relay.at_once = True
    relay.terms = Terms(Limits(3), layers=(Layer("[egress]", source=Limits(bytes=volume("100/s burst 200"))),))
    for domain in ("x.example", "y.example", "z.example"):
        relay.receive(*[domain] * 60, stream="other")  # of 24 bytes
    relay.wait(5)
    (made,) = relay.store("w.example", stream="other")
    large = msgspec.structs.replace(made, message=msgspec.structs.replace(made.message, size=150))
    relay.disk[large.queue][large.id] = large
    relay.scheduler.received([large], relay.now)
    relay.wait(5)
    assert large.id in relay.gone
    relay.wait(20)
    assert 24 * len(relay.gone) <= 200 + 30 * 100


def test_mail_of_an_account_at_its_connections_goes_to_a_new_site_though_others_have_sessions_and_more() -> None:
    relay = Strict()
    relay.layers["crm"] = (Layer("account crm", account=Limits(connections=1)),)
    for domain in ("x.example", "y.example"):
        relay.receive(*[domain] * 60, stream="other")
    for _ in range(10):
        relay.turn()
    (late,) = relay.receive("w.example", stream="other")
    for _ in range(10):
        relay.turn()
    assert late.id in relay.gone and len(relay.gone) < 30


def test_sessions_that_a_reaction_allows_no_more_end_after_what_they_carry() -> None:
    relay = Strict()
    relay.limits = Limits(6)
    relay.receive(*["x.example"] * 60, stream="other")
    for _ in range(3):
        relay.turn()
    assert len(relay.sessions) == 4
    relay.react(Rule(name="few", action="limit", codes=("4xx",), duration=60.0, limits=Ceiling(None, 2)), source="t1")
    relay.turn()
    relay.turn()
    assert len(relay.sessions) <= 2
    for _ in range(40):
        relay.turn()
        assert len(relay.sessions) <= 2
    assert len(relay.gone) == 60


def test_sessions_of_all_paths_count_for_a_reaction_on_a_source_before_another_is_opened() -> None:
    relay = Strict()
    relay.scheduler.sessions_limit = 4
    relay.limits = Limits(6)
    for domains in (["a.example"], ["b.example"] * 9, ["a.example"] * 9):
        relay.receive(*domains, stream="other")
        relay.settle_down()
    assert Counter(path.site for path in relay.opening) == {"a.example": 1, "b.example": 3}
    relay.scheduler.sessions_limit = 10
    few = Rule(name="few", action="limit", on="source", codes=("4xx",), duration=60.0, limits=Ceiling(None, 4))
    relay.react(few, source="t1")
    assert len(relay.opening) == 4


class Shaped(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.relay = Strict()
        self.made: set[int] = set()
        self.rates: dict[str, Any] = {}

    @initialize(lifted=st.booleans())
    def ends(self, lifted: bool) -> None:
        """In the end everything goes by itself, or at once when all limits are lifted."""
        self.lifted = lifted

    @rule(
        domain=domains,
        copies=st.integers(1, 12),
        stream=st.sampled_from(["news", "urgent", "other"]),
        account=st.sampled_from(["a", "b", "c"]),
    )
    def receive(self, domain: str, copies: int, stream: str, account: str) -> None:
        made = self.relay.receive(*[domain] * copies, stream=stream, account=account)
        self.made |= {d.id for d in made}
        self.relay.settle_down()

    @precondition(lambda self: self.relay.opening)
    @rule(fails=st.sampled_from([False, False, False, True]))
    def session(self, fails: bool) -> None:
        if not fails:
            self.relay.ready(self.relay.opening[0])
            return
        for delivery in self.relay.fail(self.relay.opening[0]):
            self.relay.finish(delivery, again=self.relay.now + 60)
        self.relay.settle_down()

    @precondition(lambda self: any(s.carries for s in self.relay.sessions))
    @rule(what=st.sampled_from(["gone", "gone", "again", "back", "lost"]), many=st.integers(1, 20), data=st.data())
    def outcome(self, what: str, many: int, data: st.DataObject) -> None:
        for _ in range(many):
            carrying = [s for s in self.relay.sessions if s.carries]
            if not carrying:
                break
            session = data.draw(st.sampled_from(carrying)) if what != "gone" else carrying[0]
            if what == "back":
                self.relay.hand_back(session)
                self.relay.run(session)
                self.relay.settle_down()
                break
            if what == "lost":
                self.relay.end(session)
                self.relay.settle_down()
                break
            self.relay.done(session, self.relay.now + 30 if what == "again" else None)

    @precondition(lambda self: any(s.idle for s in self.relay.sessions))
    @rule()
    def idles_out(self) -> None:
        self.relay.end(next(s for s in self.relay.sessions if s.idle))
        self.relay.settle_down()

    @rule(seconds=st.sampled_from([0.05, 1, 3, 10, 70, 400]), at_once=st.booleans())
    def time(self, seconds: float, at_once: bool) -> None:
        self.relay.at_once = at_once
        self.relay.wait(seconds)
        self.relay.at_once = False

    @rule(seconds=st.sampled_from([0.5, 40, 4000]))
    def clock_set_back(self, seconds: float) -> None:
        self.relay.now -= seconds
        self.relay.starts.clear()
        self.relay.tick(0)

    @rule(on=st.booleans(), source=sources)
    def source(self, on: bool, source: str) -> None:
        if on and self.relay.pools.drained.pop(source, ""):
            self.relay.scheduler.source_back(self.relay.now)
        elif not on:
            self.relay.pools.drained[source] = "gone"
            self.relay.scheduler.source_gone(source, self.relay.now)
        self.relay.settle_down()

    @rule(
        path=path_limits,
        source=shared_limits,
        pool=shared_limits,
        account=own_limits,
        group=st.sampled_from(["", "big"]),
    )
    def reload(self, path: Limits, source: Limits, pool: Limits, account: Limits, group: str) -> None:
        layers = (Layer("[egress]", source, pool, account),)
        self.relay.terms = Terms(path, group=group, layers=layers)
        self.relay.starts.clear()
        for domain in ("x.example", "y.example", "z.example", "w.example"):
            for s in ("s1", "s2", "t1"):
                self.rates[f"{domain} {s}"] = path.rate
        for s in ("s1", "s2", "t1"):
            self.rates[f"source {s}"] = source.rate
        self.relay.scheduler.reconfigure(self.relay.stream, self.relay.pools, 6, self.relay.now)
        self.relay.settle_down()

    @rule(account=st.sampled_from(["a", "b"]), own=own_limits, path=own_limits)
    def shape(self, account: str, own: Limits, path: Limits) -> None:
        self.relay.layers[account] = (Layer(f"account {account}", account=own, path=path),)
        self.relay._streams.clear()
        self.relay.starts.clear()
        self.rates[f"account {account}"] = own.rate
        self.relay.scheduler.restraints.relimited(self.relay.now)
        self.relay.settle_down()

    @rule(domain=domains, site=st.sampled_from(["x.example", "m.example"]))
    def moves(self, domain: str, site: str) -> None:
        self.relay.sites[domain] = site

    @rule(
        action=st.sampled_from(["suspend", "limit"]),
        on=st.sampled_from(["path", "site", "source", "account"]),
        duration=st.sampled_from([5.0, 100.0, 600.0]),
        move=st.booleans(),
        pace=st.sampled_from(["6/min", "1/s"]),
        connections=some,
        domain=domains,
        source=sources,
        account=st.sampled_from(["a", "b"]),
    )
    def reacts(
        self, action: Any, on: Any, duration: float, move: bool, pace: str, connections: int, **seen: str
    ) -> None:
        domain = seen.pop("domain")
        site = self.relay.sites.get(domain, domain)
        group = self.relay.terms.group if self.relay.terms and self.relay.terms.group else site
        ceiling = Ceiling(rate(pace), connections)
        one = Rule(
            name=f"{action} {on}", action=action, codes=("4xx",), on=on, duration=duration, limits=ceiling, move=move
        )
        if all(a.rule != one.name or a.until <= self.relay.now for a in self.relay.reactions.all()):
            self.relay.react(one, group, **seen)

    @precondition(lambda self: self.relay.reactions.all())
    @rule(data=st.data())
    def lifts(self, data: st.DataObject) -> None:
        self.relay.lift(data.draw(st.sampled_from(self.relay.reactions.all())))

    @rule(on=st.booleans())
    def warms_up(self, on: bool) -> None:
        self.relay.warmup.configure({"s2": PLAN} if on else {})
        self.relay.starts.clear()
        self.relay.scheduler.reconfigure(self.relay.stream, self.relay.pools, 6, self.relay.now)
        self.relay.settle_down()

    @invariant()
    def counts_hold(self) -> None:
        relay, s = self.relay, self.relay.scheduler
        assert s.memory.loaded == sum(len(q.loaded) for q in s.queues.values())
        assert s.sessions == len(relay.opening) + len(relay.sessions) <= 6
        here = Counter(map(id, relay.opening)) + Counter(id(session.path) for session in relay.sessions)
        for site in s.sites.values():
            for path in site.paths.values():
                assert path.sessions == here[id(path)]
                assert path.idle == sum(session.idle for session in relay.sessions if session.path is path)
        for meter in relay.meters():
            counted = sum(
                p.sessions
                for site in s.sites.values()
                for p in site.paths.values()
                if any(m is meter for m in p.meters)
            )
            assert meter.used >= counted or meter.counts != "sessions"
        under_way = {session.carries.id for session in relay.sessions if session.carries}
        assert set(s.restraints.limiter._held) <= under_way and set(s.restraints._warm) <= under_way
        held = Counter(id(m) for meters in s.restraints.limiter._held.values() for m in meters)
        for meter in s.restraints.limiter._meters.values():
            assert meter.used >= 0
            if meter.counts == "deliveries":
                assert meter.used == held[id(meter)]
        for queue in s.queues.values():
            assert queue.loaded <= set(relay.disk[queue.name])
        assert set(s.groups) == {site.group for site in s.sites.values()}

    @invariant()
    def rates_hold(self) -> None:
        for scope, limit in self.rates.items():
            if limit:
                most = limit.count + limit.burst
                assert densest(self.relay.starts[scope], limit.period) <= most, scope

    def lift_all(self) -> None:
        relay, s = self.relay, self.relay.scheduler
        relay.terms, relay.layers = None, {}
        relay.limits = Limits(20)
        relay._streams.clear()
        relay.warmup.configure({})
        for reaction in relay.reactions.all():
            relay.lift(reaction)
        s.reconfigure(relay.stream, relay.pools, 6, relay.now)
        relay.settle_down()
        rests = [p.rest_until for site in s.sites.values() for p in site.paths.values() if p.failures]
        dues = [delivery.due for queue in relay.disk.values() for delivery in queue.values()]
        relay.wait(max([relay.now, *rests, *dues]) - relay.now + loading.RECHECK + loading.LINGER + 5)
        left = {n: (list(q)[:3], why(s, n, relay.now)) for n, q in relay.disk.items() if q}
        assert left == {}

    def teardown(self) -> None:
        relay = self.relay
        relay.pools.drained.clear()
        relay.scheduler.source_back(relay.now)
        relay.settle_down()
        relay.at_once = True
        if self.lifted:
            self.lift_all()
        for _ in range(600):
            if not any(relay.disk.values()):
                break
            relay.wait(120, 60.0)
            for session in list(relay.sessions):
                relay.end(session)
            relay.settle_down()
        left = {n: (list(q)[:3], why(relay.scheduler, n, relay.now)) for n, q in relay.disk.items() if q}
        assert left == {}
        assert sorted(relay.gone) == sorted(self.made)
        relay.wait(2 * DAY, 3600.0)
        for session in list(relay.sessions):
            relay.end(session)
        relay.wait(2 * DAY, 3600.0)
        s, held = relay.scheduler, relay.scheduler.restraints
        assert (s.memory.loaded, s.queues, s.sites, s.groups) == (0, {}, {}, {})
        assert (held.limiter._held, held._warm, held._waking, held.resting) == ({}, {}, {}, [])


TestShaped = Shaped.TestCase
TestShaped.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
