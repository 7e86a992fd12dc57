"""Outcomes: what becomes of a delivery after an attempt, as one change of the spool.

Enter: a delivery and its outcome.  Leave: its departure or requeue with its record and ledger entry, and with the
report that its sender wants (RFC 3461, 3464): all in one transaction, so that neither can be without the other.
"""

import random
from collections.abc import Callable, Container, Iterable
from functools import partial
from typing import Any, Literal

import msgspec
from twisted.logger import Logger

from relayd.address import domain_of
from relayd.classify import Verdict as Meaning
from relayd.delivery.generated import generated, message_id_of
from relayd.delivery.routing import words
from relayd.echoes import Event, of_delivery
from relayd.echoes import Kind as EventKind
from relayd.envelope import FALLBACK, Delivery, queue_name, queue_parts
from relayd.identity import Identities, day_of, show
from relayd.lease import Charge
from relayd.message import dsn
from relayd.message.render import render
from relayd.message.steering import ends, starts
from relayd.message.window import stored
from relayd.outcome import Evidence, Outcome
from relayd.queue.retry import Schedule, next_try
from relayd.queue.scheduler import Scheduler
from relayd.records import TERM_OF, Entry, RecordKind, encode, of_message
from relayd.reply import printable
from relayd.shaping.reactions import NOTHING, Verdict
from relayd.spool import Departure, Reception, Requeue, Spool
from relayd.spool.writer import BATCH

_RECORD_OF: dict[str, RecordKind] = {
    "delivered": "Delivery",
    "transient": "TransientFailure",
    "permanent": "Bounce",
    "expired": "Expiration",
    "cancelled": "Cancellation",
    "suppressed": "Suppression",
    "unknown": "Unknown",
}
_EVENT_OF: dict[str, EventKind] = {"transient": "deferred", "permanent": "bounced", "expired": "expired"}
_REPORT_OF: dict[str, dsn.Kind] = {"delivered": "delivered", "permanent": "failed", "expired": "expired"}
EXPIRY = 30.0  # seconds between looks for expired deliveries that wait on disk
_EXPIRE_AT_ONCE = 500
_SOON = 5.0  # seconds until the first try by another next hop: what is due before it is on disk would be found late
Look = Callable[[int, Callable[[Any], None]], None]  # for deliveries whose life is over: (limit, answered)
UNANSWERED = BATCH  # outcomes that may wait for the disk before no more deliveries are begun: what a crash can repeat


class Rules(msgspec.Struct, frozen=True):
    """What a stream wants: when its deliveries are tried again, whether their senders are told, and by which fallback
    those go that have failed so many times ("": none)."""

    schedule: Schedule = Schedule()
    reports: Literal["sender", "none"] = "sender"
    fallback: str = ""
    fallback_after: int = 5


class Life(msgspec.Struct, frozen=True):
    """Seconds that the mail of a stream lives, of an account or of all ("*")."""

    account: str
    stream: str
    expire: float


class Settings(msgspec.Struct, frozen=True):
    """``rules`` of an (account, stream); ``lives`` of all there are; ``delay_report``: seconds after which a sender is
    told that mail is late; ``fallbacks``: the names of those there are."""

    node: str
    rules: Callable[[str, str], Rules]
    lives: Callable[[], Iterable[Life]]
    delay_report: float = 4 * 3600.0
    fallbacks: Container[str] = ()


class Outcomes:
    """Has the spool record outcomes.  ``durable(delivery)`` is called when one is on disk, ``generated(deliveries)``
    when a report is.  ``refunds(payer, term, attempts)``: whether a delivery that leaves so gives its unit back;
    ``heard(event)``: of every attempt that failed and is on disk, what was said."""

    log = Logger()

    def __init__(
        self,
        spool: Spool,
        scheduler: Scheduler,
        identities: Identities,
        settings: Settings,
        rng: random.Random,
        wall: Callable[[], float],
        durable: Callable[[Delivery], None],
        generated: Callable[[tuple[Delivery, ...]], None],
    ) -> None:
        self.spool = spool
        self.scheduler = scheduler
        self.identities = identities
        self.settings = settings
        self.rng = rng
        self.wall = wall
        self.durable = durable
        self.generated = generated
        self.refunds: Callable[[str, str, int], bool] = lambda payer, term, attempts: False
        self.heard: Callable[[Event], None] = lambda event: None
        self.unanswered = 0
        self.totals: dict[str, int] = dict.fromkeys(_RECORD_OF, 0)
        self.secured = 0  # deliveries that went by TLS
        self._expiring = False
        self._next_expiry = 0.0

    def _rules(self, delivery: Delivery) -> Rules:
        return self.settings.rules(delivery.message.account, delivery.message.stream)

    def finished(
        self,
        delivery: Delivery,
        outcome: Outcome,
        *,
        dsn_passed_on: bool = False,
        verdict: Verdict = NOTHING,
        meaning: Meaning | None = None,
        group: str = "",
    ) -> None:
        """One attempt is over.  ``dsn_passed_on``: the peer offers DSN, so it reports success itself; ``verdict``: what
        the rules of reactions make of its reply, which go first; ``meaning``: what it was taken for; ``group``: of the
        destination."""
        now = self.wall()
        attempts = delivery.attempts + 1
        kind: str = verdict.kind or outcome.kind
        due: float | None = None
        queue = ""
        if kind in ("transient", "unknown"):
            said = outcome.evidence.reply.text if outcome.evidence.reply else ""
            schedule, message = self._rules(delivery).schedule, delivery.message
            due = next_try(schedule, attempts, message.received, now, self.rng, said, message.steering, verdict.wait)
            queue = self._queue(delivery, attempts)
            if due and queue != delivery.queue:
                due = min(due, now + _SOON)
            kind = kind if due else "expired"
        if kind == "delivered" and (dsn_passed_on or not delivery.recipient.notify):
            report = None  # the hot path
        elif due:
            report = self._delay_report(delivery, outcome.evidence, attempts, now)
        else:
            report = self.report(_REPORT_OF.get(kind), delivery, outcome.evidence, attempts, now)
        source = outcome.evidence.source
        if due and verdict.move is not None:
            source = self.scheduler.another_source(delivery, source, verdict.move) or source
        note = f"by the reaction {verdict.rule}" if verdict.rule else ""
        event = None
        if kind in _EVENT_OF:
            event = _event(_EVENT_OF[kind], delivery, outcome.evidence, meaning, group, now)
        self._keep(delivery, kind, outcome.evidence, attempts, due, now, report, queue, source, note, event)

    def _keep(
        self,
        delivery: Delivery,
        kind: str,
        evidence: Evidence,
        attempts: int,
        due: float | None,
        now: float,
        report: Reception | None,
        queue: str = "",
        source: str = "",
        note: str = "",
        event: Event | None = None,
    ) -> None:
        message = delivery.message
        name = _RECORD_OF[kind]
        self.totals[kind] += 1
        if kind == "delivered" and evidence.tls:
            self.secured += 1
        record = of_message(
            name,
            message,
            now,
            delivery=show(delivery.id),
            recipient=delivery.recipient.address,
            received=message.received,
            attempts=attempts,
            due=due or 0.0,
            evidence=evidence,
            note="; ".join(filter(None, (note, f"reported by {show(report.message.id)}" if report else ""))),
        )
        line = encode(record)
        entries = (Entry(day_of(message.id), message.account, message.stream, TERM_OF[name]),)
        self.unanswered += 1

        def done(fault: Exception | None) -> None:
            self.unanswered -= 1
            self.durable(delivery)
            if report and fault is None:
                self.generated(report.deliveries)
            if event and fault is None:
                self.heard(event)  # not before: what is learnt must have its record

        if due:
            told = delivery.told or report is not None
            last = f"{evidence.stage}: {evidence.words()}"
            self.spool.requeue(Requeue(delivery, due, attempts, source, last, line, entries, told, report, queue), done)
        else:
            paid_back = message.payer and self.refunds(message.payer, TERM_OF[name], attempts)
            refund = Charge(message.payer, 1) if paid_back else None
            self.spool.depart(Departure(delivery, line, entries, report, refund), done)

    def _queue(self, delivery: Delivery, attempts: int) -> str:
        """Where it waits after so many attempts."""
        message, rules = delivery.message, self._rules(delivery)
        _, _, domain, pool = queue_parts(delivery.queue)
        if domain.removeprefix(FALLBACK) in self.settings.fallbacks and domain.startswith(FALLBACK):
            return delivery.queue  # sent there by whomever, it stays there
        if rules.fallback and attempts >= rules.fallback_after:
            return queue_name(message.account, message.stream, FALLBACK + rules.fallback)
        return queue_name(message.account, message.stream, domain_of(delivery.recipient.address), pool)

    # Times that senders set.

    def timely(self, delivery: Delivery, now: float) -> bool:
        """Whether a delivery that is about to go may go now.  If not it is seen to here: it expires, or goes back to
        wait for its window.  (What was due when the window closed comes by once more, and its row is written once.)"""
        message = delivery.message
        steering = message.steering
        if steering.expire and now >= steering.expire:
            self._give_up(delivery, now)
            return False
        opens = stored(steering.window).next_open(now) if steering.window else now
        if opens > now:
            if opens > ends(steering, message.received, self._rules(delivery).schedule.expire):
                self._give_up(delivery, now)
            else:
                self.put_off(delivery, opens)
        return opens <= now

    def suppressed(self, delivery: Delivery, why: str) -> None:
        """A recipient who is on a stop-list by now gets nothing, and this is no attempt."""
        now = self.wall()
        evidence = Evidence(stage="queue", error=why)
        report = self.report("failed", delivery, evidence, delivery.attempts, now)
        self._keep(delivery, "suppressed", evidence, delivery.attempts, None, now, report)

    def put_off(self, delivery: Delivery, due: float, why: str = "") -> None:
        """Back to the disk without an attempt."""
        last = why or delivery.last
        later = Requeue(delivery, due, delivery.attempts, delivery.source, last, b"", (), delivery.told)
        self.unanswered += 1

        def done(fault: Exception | None) -> None:
            self.unanswered -= 1
            self.durable(delivery)

        self.spool.requeue(later, done)

    def _give_up(self, delivery: Delivery, now: float) -> None:
        """Its life is over, and no attempt of now is the reason."""
        last = delivery.last or "it was never tried"
        evidence = Evidence(stage="queue", error=f"not delivered in time; last: {printable(last)}")
        report = self.report("expired", delivery, evidence, delivery.attempts, now)
        self._keep(delivery, "expired", evidence, delivery.attempts, None, now, report)

    # Reports to senders.

    def _delay_report(self, delivery: Delivery, evidence: Evidence, attempts: int, now: float) -> Reception | None:
        message = delivery.message
        if delivery.told or now - starts(message.steering, message.received) < self.settings.delay_report:
            return None
        return self.report("delayed", delivery, evidence, attempts, now)

    def report(
        self, kind: dsn.Kind | None, delivery: Delivery, evidence: Evidence, attempts: int, now: float
    ) -> Reception | None:
        """The report of an outcome as a message to its sender, if one is wanted."""
        original = delivery.message
        envelope = original.envelope
        rules = self._rules(delivery)
        if kind is None or not dsn.wanted(kind, envelope, delivery.recipient, rules.reports):
            return None
        if not domain_of(envelope.sender):
            return None
        identity = self.identities.block(now, 1)
        message_id = message_id_of(identity, self.settings.node)
        head = render(original, delivery)
        content = dsn.report(
            kind,
            node=self.settings.node,
            message_id=message_id,
            now=now,
            envelope=envelope,
            recipient=delivery.recipient,
            original_head=head,
            original_body=original.body,
            evidence=evidence,
            received=original.received,
            attempts=attempts,
            until=ends(original.steering, original.received, rules.schedule.expire),
            track_id=original.steering.track_id,
        )
        return generated(
            content,
            identity=identity,
            message_id=message_id,
            now=now,
            account=original.account,
            stream=original.stream,
            to=envelope.sender,
            note=f"report: {show(delivery.id)} {kind}",
            client=original.client,
            smtputf8=dsn.needs_smtputf8(envelope, delivery.recipient, head),
        )

    # Deliveries whose life ends while they wait on disk behind something that rests.

    def tick(self) -> None:
        """Call about once a second."""
        now = self.wall()
        if now >= self._next_expiry and not self._expiring:
            self._next_expiry = now + EXPIRY
            looks: list[Look] = [partial(self.spool.ended_deliveries, now)]
            for life in self.settings.lives():
                # A delivery gets its last try at the end of its life: leave it the time for that.
                before = now - life.expire - 2 * EXPIRY
                looks.append(partial(self.spool.old_deliveries, life.account, life.stream, before))
            self._expire(now, looks)

    def _expire(self, now: float, looks: list[Look]) -> None:
        """One look after another: what is too old and in nobody's hands leaves as expired."""
        if not looks or self.scheduler.stopping:
            self._expiring = False
            return
        self._expiring = True

        def answered(found: Any) -> None:
            self._expiring = False  # whatever goes wrong here, the next look comes
            if isinstance(found, Exception):
                self.log.error("Looking for expired deliveries failed: {fault}", fault=words(found))
                found = []
            fresh = [d for d in found if self.scheduler.loading.hold(d)]
            for delivery in fresh:
                self._give_up(delivery, now)
            again = len(found) >= _EXPIRE_AT_ONCE and fresh
            self._expire(now, looks if again else looks[1:])

        looks[0](_EXPIRE_AT_ONCE, answered)


def _event(
    kind: EventKind, delivery: Delivery, evidence: Evidence, meaning: Meaning | None, group: str, now: float
) -> Event:
    event = of_delivery(kind, delivery.message, delivery.id, delivery.recipient.address, now)
    told: dict[str, Any] = {"source": evidence.source, "group": group, "words": evidence.words()}
    if meaning is not None:
        told |= {"cls": meaning.cls, "decision": meaning.decision}
    return msgspec.structs.replace(event, **told)
