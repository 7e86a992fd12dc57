"""The courier: the shell around the scheduler.

Enter: the scheduler's decisions.  Performed here: questions to the spool and to DNS, sessions opened and kept, outcomes
recorded.  Leave: every outcome as one change of the spool (remove or requeue, with its record and ledger entry), after
which, and not before, the delivery leaves memory.
"""

import random
from collections import Counter as Counts
from collections.abc import Callable, Container
from typing import Any

import msgspec
from twisted.application.service import Service
from twisted.internet import error, protocol
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from relayd.address import domain_of
from relayd.classify import Classifier, shipped
from relayd.classify import Verdict as Meaning
from relayd.delivery.generated import REPORTER
from relayd.delivery.hosts import Hosts
from relayd.delivery.outcomes import UNANSWERED, Outcomes
from relayd.delivery.outcomes import Settings as OutcomeSettings
from relayd.delivery.routing import Hop, NoFallback, Router, Site, words
from relayd.delivery.session import PeerSession, Timeouts
from relayd.delivery.transcripts import Failed, Transcripts, failed
from relayd.egress.pools import Pools, Source
from relayd.envelope import UNSTEERED, Delivery, Marks, Message
from relayd.identity import Identities, show
from relayd.outcome import Evidence, Kind, Outcome, Stage
from relayd.pulse import pulse
from relayd.queue import decisions as plan
from relayd.queue.meter import NEVER
from relayd.queue.scheduler import CAP, Scheduler
from relayd.queue.state import Path
from relayd.reply import Reply
from relayd.reputation import Counter, Reputation, Who, bearing
from relayd.resolver import ResolveError
from relayd.shaping.reactions import NOTHING, Active, Verdict
from relayd.shaping.rules import Seen
from relayd.signing import Signer
from relayd.smtp.client import ClientSettings
from relayd.spool import Spool
from relayd.suppression import Entry, Suppressions
from relayd.tls import ClientTLS
from relayd.warmup import Outcome as Bearing

HOPS = 8  # addresses tried for one session
HELD = 900.0  # seconds after which what is held for review is looked at again


class Settings(msgspec.Struct, frozen=True):
    """What the courier goes by."""

    outcomes: OutcomeSettings
    client_tls: ClientTLS
    timeouts: Timeouts
    connect: float = 30.0
    deliveries_per_session: int = 100
    drain: float = 30.0
    classifier: Classifier = msgspec.field(default_factory=shipped)


class SMTPClientFactory(protocol.ClientFactory):
    """One attempt to connect to one address.  ``failed(failure)`` if it does not come about."""

    noisy = False

    def __init__(self, session: PeerSession, failed: Callable[[Any], None]) -> None:
        self._session = session
        self._failed = failed

    def buildProtocol(self, address: Any) -> PeerSession:
        return self._session

    def clientConnectionFailed(self, connector: Any, reason: Any) -> None:
        self._failed(reason)


class Opening:
    """A session being opened: the addresses of its site one after another."""

    def __init__(self, path: Path, site: Site, source: Source, hops: list[Hop]) -> None:
        self.path = path
        self.site = site
        self.source = source
        self.hops = hops
        self.evidence: Evidence | None = None
        self.failed: Failed | None = None  # what was said in the last session that came to nothing
        self.outdated = False  # the configuration it went by is not in force any more


class Courier(Service):
    """See the module."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        spool: Spool,
        scheduler: Scheduler,
        pools: Pools,
        router: Router,
        identities: Identities,
        settings: Settings,
        rng: random.Random,
        wall: Callable[[], float],
        signer: Signer | None = None,
        suppressions: Suppressions | None = None,
        lists_of: Callable[[Message], tuple[str, ...]] = lambda message: (),
    ) -> None:
        """``lists_of``: the suppression lists that stop a message."""
        self.setName("courier")
        self.suppressions = suppressions
        self.lists_of = lists_of
        self.struck: Container[str] = suppressions.struck if suppressions else ()
        self.delivered: Callable[[Delivery], None] = lambda delivery: None  # to one of those that are struck
        self._cleared: set[int] = set()  # looked up, and on no list: good for one attempt
        self.signer = signer or Signer()
        self.marks: Callable[[Delivery], Marks] = lambda delivery: Marks(delivery.message.envelope.sender)
        self.reactor = reactor
        self.spool = spool
        self.bodies = spool.bodies
        self.scheduler = scheduler
        self.reacted: Callable[[tuple[Active, ...], tuple[Active, ...]], None] = lambda began, ended: None
        self.reputation = Reputation()
        self.stopped: Callable[[Delivery], str] = lambda delivery: ""  # why one does not go out now
        self.pools = pools
        self.router = router
        self.outcomes = Outcomes(
            spool, scheduler, identities, settings.outcomes, rng, wall, self._durable, self.received
        )
        self.configure(settings)
        self.wall = wall
        self.now: Callable[[], float] = reactor.seconds
        self.sessions: dict[PeerSession, Opening | None] = {}
        self.transcripts = Transcripts()
        self.watch: Callable[[PeerSession], None] | None = None  # called with each new one, while somebody watches
        self.hosts = Hosts(rng, self.now)
        self._idle: dict[Path, list[PeerSession]] = {}
        self._closing: list[PeerSession] = []  # over, but the peer has not let go
        self._sites: dict[str, Site] = {}
        self._sessions_made = 0
        self.opened = 0  # sessions that became ready,
        self.failed: Counts[Stage] = Counts()  # attempts at one that did not, by how far they came,
        self.unroutable = 0  # and look-ups of a domain that found no site
        self._drained: Deferred[None] | None = None
        self._performing = False
        self._alarm: Any = None
        self._alarm_at = NEVER
        self._ticker = pulse(reactor, self._tick)

    def reconfigure(self, pools: Pools, router: Router, settings: Settings) -> None:
        """What holds from now on.  ``renew`` once the scheduler knows it too."""
        self.pools = pools
        self.router = router
        self.configure(settings)

    def renew(self) -> None:
        """Ends the sessions that were made by an older configuration: their source, or what their peer was to prove,
        may not hold any more."""
        self.end(lambda session: True)

    def end(self, which: Callable[[PeerSession], bool]) -> None:
        """Ends these sessions, each after what it has under way.  Performs what that leads to."""
        ending = [session for session in self.sessions if which(session)]
        for session in ending:
            session.machine.quit()
            if (opening := self.sessions[session]) is not None:
                opening.outdated = True
        for session in [s for s in ending if s.transport is not None]:
            session.work()
        self.perform()

    def drop(self, session: PeerSession, why: str) -> None:
        """Breaks one off: what it has under way is tried again."""
        if session not in self.sessions:
            return
        if session.transport is None:  # still connecting: it ends when that does
            session.machine.quit()
            if (opening := self.sessions[session]) is not None:
                opening.outdated = True
            return
        session.machine.abort(why)
        session.work()
        session.transport.abortConnection()

    def configure(self, settings: Settings) -> None:
        self.settings = settings
        self.outcomes.settings = settings.outcomes
        self.timeouts = settings.timeouts
        self.deliveries_per_session = settings.deliveries_per_session
        self.client_tls = settings.client_tls
        self.classifier = settings.classifier

    def startService(self) -> None:
        super().startService()
        self._ticker.start(1.0)

    def stopService(self) -> "Deferred[None]":
        """Begins no more deliveries, lets those under way end, and ends the rest when the drain time is over."""
        super().stopService()
        self.scheduler.stopping = True
        if self._ticker.running:
            self._ticker.stop()
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        drained = self._drained = Deferred()
        for session in list(self.sessions):
            session.quit()
        limit = self.reactor.callLater(self.settings.drain, self._cut_short)
        self._drained.addCallback(lambda _: limit.cancel() if limit.active() else None)
        self._check_drained()
        return drained

    def _cut_short(self) -> None:
        for session in [s for s in self.sessions if s.transport is not None]:
            session.machine.abort("relayd is stopping")
            session.work()
            session.transport.abortConnection()
        self.sessions.clear()
        self._check_drained()

    def _check_drained(self) -> None:
        if self._drained is not None and not self.sessions:
            drained, self._drained = self._drained, None
            drained.callback(None)

    # The scheduler's decisions.

    def received(self, deliveries: tuple[Delivery, ...]) -> None:
        """New deliveries that are on disk."""
        self.scheduler.received(deliveries, self.wall())
        self.perform()

    def perform(self) -> None:
        """Performs what has been decided, and what that leads to."""
        if self._performing:
            return
        self._performing = True
        try:
            while decisions := self.scheduler.decisions():
                for decision in decisions:
                    _PERFORM[type(decision)](self, decision)
        finally:
            self._performing = False
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Has the scheduler woken when it has something to do, if that is before the next tick."""
        when = self.scheduler.restraints.wakes_at
        if when < self._alarm_at:
            now = self.wall()
            if when < now + 1.0 and self.running:
                if self._alarm is not None and self._alarm.active():
                    self._alarm.cancel()
                self._alarm_at = when
                self._alarm = self.reactor.callLater(max(0.0, when - now), self._wake)

    def _wake(self) -> None:
        self._alarm_at = NEVER
        self.scheduler.restraints.wake(self.wall())
        self.perform()

    def _tick(self) -> None:
        now = self.wall()
        self._cleared.clear()  # who did not go at once may be on a list by now
        self.scheduler.tick(now)
        self.perform()
        self._forget_sites()
        reactor_now = self.now()
        self._closing = [s for s in self._closing if not s.lost]
        for session in [s for s in (*self.sessions, *self._closing) if s.deadline and s.deadline < reactor_now]:
            session.time_out()
        self.outcomes.tick()

    def _forget_sites(self) -> None:
        """Sites that no queue in memory goes to are routed anew when they are needed."""
        if len(self._sites) > 2 * len(self.scheduler.sites) + 1000:
            self._sites = {name: site for name, site in self._sites.items() if name in self.scheduler.sites}

    def _poll(self, poll: plan.Poll) -> None:
        now = self.wall()

        def answered(found: Any) -> None:
            if isinstance(found, Exception):
                self.log.error("The spool cannot be read: {fault}", fault=words(found))
                found = []
            self.scheduler.loading.polled(found, poll.limit, now)
            self.perform()

        self.spool.due_queues(poll.after, now, poll.limit, answered)

    def _pull(self, pull: plan.Pull) -> None:
        def answered(found: Any) -> None:
            if isinstance(found, Exception):
                self.log.error("Queue {queue} cannot be read: {fault}", queue=pull.queue, fault=words(found))
                self.scheduler.loading.pull_failed(pull.queue, pull.limit, self.wall())
            else:
                self.scheduler.loading.pulled(pull.queue, found, pull.limit, self.wall())
            self.perform()

        self.spool.due_deliveries(pull.queue, self.wall(), pull.limit, pull.but, answered)

    def _settle(self, settle: plan.Settle) -> None:
        def answered(due: Any) -> None:
            if isinstance(due, Exception):
                self.log.error("Queue {queue} cannot be settled: {fault}", queue=settle.queue, fault=words(due))
            else:
                self.scheduler.loading.settled(settle.queue, due, self.wall())
                self.perform()

        self.spool.settle(settle.queue, answered)

    def _route(self, route: plan.Route) -> None:
        site = self.router.known(route.domain)
        if site is not None:
            self._routed(route.queue, site)
        else:
            Deferred.fromCoroutine(self._look_up(route)).addErrback(self._broken, route)

    async def _look_up(self, route: plan.Route) -> None:
        try:
            site = await self.router.site(route.domain)
        except ResolveError as fault:
            self._unroutable(route.queue, fault.reply, rest=not isinstance(fault, NoFallback))
        else:
            self._routed(route.queue, site)
        self.perform()

    def _broken(self, failure: Any, route: plan.Route) -> None:
        """A fault of ours in a look-up must not leave the queue waiting for ever."""
        self.log.failure("Looking up {domain} failed", failure, domain=route.domain)
        self._unroutable(route.queue, Reply(451, "4.4.3", f"Internal error while looking up {route.domain}"))
        self.perform()

    def _routed(self, queue: str, site: Site) -> None:
        self._sites[site.name] = site
        left = max(1.0, site.until - self.now())
        hosts = tuple(dict.fromkeys(hop.mx for hop in site.hops))
        self.scheduler.routed(queue, site.name, self.wall() + left, self.wall(), site.policy.terms, hosts)

    def _unroutable(self, queue: str, reply: Reply, *, rest: bool = True) -> None:
        self.unroutable += 1
        evidence = Evidence(stage="dns", reply=reply)
        outcome, meaning = self._meant(Outcome("permanent" if reply.permanent else "transient", evidence))
        waiting = self.scheduler.unroutable(queue, str(reply), self.wall(), transient=reply.transient and rest)
        for delivery in waiting:
            self.outcomes.finished(delivery, outcome, meaning=meaning)

    def _work(self, work: plan.Work) -> None:
        path = work.path
        if work.open:
            self._open(path)
            return
        idle = self._idle.get(path)
        if idle:
            idle[-1].work()

    def _put_off(self, put_off: plan.PutOff) -> None:
        self.outcomes.put_off(put_off.delivery, put_off.due)

    def _retire(self, retire: plan.Retire) -> None:
        for session in self._idle.get(retire.path, [])[-1:]:
            session.quit()

    # Sessions.

    def _open(self, path: Path) -> None:
        site = self._sites[path.site]
        source = self.pools.sources.get(path.source)
        if source is None:  # a reload took it away
            self.scheduler.reassign(path, self.wall())
            self.scheduler.session_closed(path, self.wall(), opening=True)
            return
        reachable = [hop for hop in site.hops if source.address(hop.address) is not None]
        now, reactions = self.wall(), self.scheduler.restraints.reactions
        hops = self.hosts.order(hop for hop in reachable if reactions.skips(hop.mx, now) is None)[:HOPS]
        opening = Opening(path, site, source, hops)
        if reachable and not hops:
            left = next(filter(None, (reactions.skips(hop.mx, now) for hop in reachable)))
            opening.evidence = Evidence(stage="connect", source=source.name, error=left.words(now))
        elif not hops:
            opening.evidence = Evidence(
                stage="connect",
                source=source.name,
                error=f"no address of {path.site} is of a family that source {source.name} has",
            )
        self._next_hop(opening)

    def _next_hop(self, opening: Opening) -> None:
        if not opening.hops or opening.outdated or self.scheduler.stopping:
            self._not_opened(opening)
            return
        hop = opening.hops.pop(0)
        source = opening.source
        self._sessions_made += 1
        session = PeerSession(
            self,
            f"{self._sessions_made:x}",
            opening.path,
            opening.site,
            hop,
            ClientSettings(
                ehlo=source.ehlo,
                secure=opening.site.implicit,
                starttls=self.hosts.tls(opening.site.policy, hop),
                login=opening.site.login,
                password=opening.site.password,
            ),
        )
        self.sessions[session] = opening
        if self.watch is not None:
            self.watch(session)
        bind = source.address(hop.address)
        self.reactor.connectTCP(
            hop.address,
            hop.port,
            SMTPClientFactory(session, lambda failure: self._not_connected(session, opening, failure.value)),
            timeout=self.settings.connect,
            bindAddress=(bind, 0) if bind else None,
        )

    def _not_connected(self, session: PeerSession, opening: Opening, fault: Exception) -> None:
        self.sessions.pop(session, None)
        hop, source = session.hop, opening.path.source
        self.hosts.silent(hop)
        self.failed["connect"] += 1
        if isinstance(fault, error.ConnectBindError):
            self._source_gone(source, fault)
            opening.hops.clear()
        opening.failed = None
        opening.evidence = Evidence(
            stage="connect",
            error=words(fault),
            source=source,
            mx=hop.mx,
            peer=f"[{hop.address}]:{hop.port}" if ":" in hop.address else f"{hop.address}:{hop.port}",
        )
        self._next_hop(opening)
        self.perform()
        self._check_drained()

    def _source_gone(self, name: str, fault: Exception) -> None:
        """The source's address is not on this machine: out of use until it is."""
        if name not in self.pools.out_of_use:
            self.log.error(
                "Source {source} is out of use: {fault}. Add its address to the machine or correct [source.{source}]",
                source=name,
                fault=words(fault),
            )
        self.pools.out_of_use[name] = words(fault)

    def _not_opened(self, opening: Opening) -> None:
        """No address of the site would have us: the path rests, and what was ready for it has met this."""
        path, now = opening.path, self.wall()
        if path.source in self.pools.out_of_use:
            self.scheduler.reassign(path, now)
        elif not (self.scheduler.stopping or opening.outdated) and opening.evidence is not None:
            self._path_failed(path, opening.evidence, opening.site.group, now, opening.failed)
        self.scheduler.session_closed(path, now, opening=True)

    def _path_failed(
        self, path: Path, evidence: Evidence, group: str, now: float, failed: Failed | None = None
    ) -> None:
        """Whatever was said to the session, no delivery has been refused."""
        reason = f"{evidence.mx} {evidence.peer}: {evidence.words()}" if evidence.mx else evidence.words()
        judged, meaning = self._meant(Outcome("transient", evidence))
        outcome = Outcome("transient", msgspec.structs.replace(judged.evidence, site=group))
        for delivery in self.scheduler.path_failed(path, reason, now):
            if failed is not None:
                self.transcripts.keep(delivery.id, failed)
            self.outcomes.finished(delivery, outcome, meaning=meaning, group=group)

    # What sessions ask and tell (session.Owner).

    def take(self, session: PeerSession) -> Delivery | None:
        if self.outcomes.unanswered >= UNANSWERED:
            return None
        path = session.path
        return self.scheduler.take(
            path,
            self.wall(),
            lambda delivery, now: self._may_go(path, delivery, now),
            beside=path.at_work - session.at_work,
            busy=session.busy,
        )

    def _may_go(self, path: Path, delivery: Delivery, now: float) -> bool:
        """Whether a delivery may be attempted now, by its sender's reputation and times and by the stop-lists; if not
        it is seen to."""
        if why := self.reputation.held(_who(delivery.message)) or self.stopped(delivery):
            self.outcomes.put_off(delivery, now + HELD, why)
            return False
        if delivery.message.steering is not UNSTEERED and not self.outcomes.timely(delivery, now):
            return False
        if delivery.id in self._cleared:
            self._cleared.discard(delivery.id)
            return True
        lists = self.lists_of(delivery.message)
        if not self.suppressions or not self.suppressions.suspects(lists, delivery.recipient.address):
            return True

        def looked_up(found: Entry | Exception | None) -> None:
            if found is None:
                self._cleared.add(delivery.id)
                self.scheduler.give_back(path, delivery, self.wall())
            elif isinstance(found, Exception):
                evidence = Evidence(stage="queue", error=f"the suppression lists cannot be read: {words(found)}")
                self.outcomes.finished(delivery, Outcome("transient", evidence))
            else:
                self.outcomes.suppressed(delivery, f"{found.value} is on the list {found.list}: {found.reason}")
            self.perform()

        self.suppressions.look_up(lists, delivery.recipient.address, now, looked_up)
        return False

    def _take_up(self) -> None:
        """The disk has caught up: sessions that were given nothing meanwhile ask again."""
        for session in [session for sessions in self._idle.values() for session in sessions]:
            session.work()

    def ready(self, session: PeerSession) -> None:
        self.sessions[session] = None
        self.opened += 1
        self.hosts.answered(session.hop)
        self.scheduler.session_ready(session.path, self.wall())
        self.perform()

    def idle(self, session: PeerSession, idle: bool) -> None:
        known = self._idle.setdefault(session.path, [])
        if idle:
            known.append(session)
            session.path.idle += 1
        elif session in known:
            known.remove(session)
            session.path.idle -= 1
        if not known:
            del self._idle[session.path]
        tell = self.scheduler.idle if idle else self.scheduler.look
        tell(session.path, self.wall())
        self.perform()

    def ended(self, session: PeerSession, evidence: Evidence) -> None:
        opening = self.sessions.pop(session, None)
        if not session.lost:
            self._closing.append(session)
        if opening is None:
            self.scheduler.session_closed(session.path, self.wall(), opening=False)
        else:
            opening.evidence = evidence
            self.failed[evidence.stage] += 1
            opening.failed = failed(session, self.wall())
            if evidence.reply is not None and evidence.reply.code >= 400:
                self._react(session, evidence.reply, evidence.stage)
            if evidence.stage == "tls" and opening.site.policy.tls == "may":
                self.hosts.broke_tls(session.hop)
                opening.hops.insert(0, session.hop)
            else:
                self.hosts.silent(session.hop)
            self._next_hop(opening)
        self.perform()
        self._check_drained()

    def returned(self, path: Path, delivery: Delivery) -> None:
        self.scheduler.give_back(path, delivery, self.wall())
        self.perform()

    def carrying(self, identity: int) -> str:
        """The session that has this delivery, in words; "" if none."""
        return next((s.words() for s in self.sessions if s.carries(identity)), "")

    def finished(
        self, session: PeerSession, delivery: Delivery, outcome: Outcome, *, dsn_passed_on: bool = False
    ) -> None:
        """One attempt is over."""
        if outcome.kind != "delivered":
            self._failed(session, delivery, outcome)
            return
        path = session.path
        if path.window < path.meter.limits.connections:
            path.taken(self.wall())
        if delivery.recipient.address in self.struck:
            self.delivered(delivery)
        warmup = self.scheduler.restraints.warmup
        if warmup is not None and warmup.plan_of(path.source):
            warmup.outcome(path.source, session.site.group, "delivered", self.wall())
        self._count(delivery, path.source, session.site.group, "delivered")
        self.outcomes.finished(delivery, outcome, dsn_passed_on=dsn_passed_on)

    def _failed(self, session: PeerSession, delivery: Delivery, outcome: Outcome) -> None:
        """What follows by the rules of reactions goes before what follows from what the reply means."""
        path, reply, group, now = session.path, outcome.evidence.reply, session.site.group, self.wall()
        self.transcripts.keep(delivery.id, failed(session, now))
        verdict, meaning = NOTHING, None
        if reply is not None and reply.code >= 400:
            verdict = self._react(session, reply, outcome.evidence.stage, delivery)
            outcome, meaning = self._meant(outcome)
        if reply is None or reply.code == 421 or (meaning is not None and meaning.decision.hold):
            path.pushed_back(path.at_work - 1, now + CAP)
        warmup = self.scheduler.restraints.warmup
        if warmup is not None and warmup.plan_of(path.source):
            warmup.outcome(path.source, group, _bearing(reply, verdict, meaning), now)
        if reply is not None and meaning is not None:
            what = bearing(meaning.cls, reply.permanent, meaning.decision.blame)
            self._count(delivery, path.source, group, what)
        self.outcomes.finished(delivery, outcome, verdict=verdict, meaning=meaning, group=group)

    def _count(self, delivery: Delivery, source: str, group: str, what: Counter | None) -> None:
        """For the reputation of everybody who is behind a delivery; our own reports are nobody's."""
        message = delivery.message
        if what and message.connection != REPORTER:
            self.reputation.event(_who(message, source, group), what, self.wall())

    def _meant(self, outcome: Outcome) -> tuple[Outcome, Meaning | None]:
        """A failed outcome by what its reply means: its class stands with the evidence, and the decision that follows
        says whether the delivery stays, whatever the reply's first digit."""
        evidence = outcome.evidence
        if evidence.reply is None or evidence.reply.code < 400:
            return outcome, None
        meaning = self.classifier.classify(evidence.reply, evidence.mx, evidence.stage)
        kind: Kind = "transient" if meaning.decision.retry else "permanent"
        return Outcome(kind, msgspec.structs.replace(evidence, cls=meaning.cls)), meaning

    def _react(self, session: PeerSession, reply: Reply, stage: str, delivery: Delivery | None = None) -> Verdict:
        """What follows from a failed reply, by the rules for it."""
        seen = Seen(
            provider=session.site.policy.terms.group,
            group=session.site.group,
            domain=domain_of(delivery.recipient.address) if delivery else "",
            source=session.path.source,
            account=delivery.message.account if delivery else "",
            mx=session.hop.mx,
            stage=stage,
            code=reply.code,
            enhanced=reply.enhanced,
            text=reply.text,
            time=self.wall(),
            delivery=show(delivery.id) if delivery else "",
        )
        verdict = self.scheduler.restraints.reactions.seen(seen)
        if verdict.began or verdict.ended:
            self.reacted(verdict.began, verdict.ended)
        return verdict

    def _durable(self, delivery: Delivery) -> None:
        """Its outcome is on disk."""
        self._cleared.discard(delivery.id)
        self.scheduler.done(delivery, self.wall())
        if self.outcomes.unanswered == UNANSWERED - 1:
            self._take_up()
        self.perform()


def _who(message: Message, source: str = "", group: str = "") -> Who:
    return source, group, message.account, message.client, message.connection, message.envelope.sender


def _bearing(reply: Reply | None, verdict: Verdict, meaning: Meaning | None) -> Bearing:
    """What a failure says of the source: a refusal because of who sends, a deferral for that reason, or nothing."""
    if reply is None or meaning is None or meaning.cls == "greylist":
        return "other"
    if meaning.decision.blame != "ip" and not (verdict.rule or verdict.began):
        return "other"
    return "blocked" if reply.permanent else "deferred"


_PERFORM: dict[type, Callable[[Courier, Any], None]] = {
    plan.Poll: Courier._poll,
    plan.Pull: Courier._pull,
    plan.Settle: Courier._settle,
    plan.Route: Courier._route,
    plan.Work: Courier._work,
    plan.PutOff: Courier._put_off,
    plan.Retire: Courier._retire,
}
