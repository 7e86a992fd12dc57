"""The mailroom: what becomes of mail that came back.

Enter: messages as the returns door took them, whoever wrote them.  Leave: for each delivery that one is of, what is
learnt from it (an entry of a suppression list, or a strike on the way to one), its record, an event for who else draws
conclusions, a report of ours to the sender; and then, when all of it is on disk, the word for the door's 250.

Only a token of ours says which delivery a message is of, and the delivery's own record says whose: nothing that the
message claims is believed beyond that.  Each kind of thing counts once of a delivery.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.classify import Classifier
from relayd.delivery.outcomes import Outcomes
from relayd.echoes import Event, of_delivery
from relayd.echoes import Kind as EventKind
from relayd.envelope import Delivery, Edits, Envelope, Message, Recipient
from relayd.feedback import Judged, Report, judged, read
from relayd.identity import read as read_id
from relayd.identity import received_at, show
from relayd.outcome import Evidence
from relayd.reception import Returned
from relayd.records import Feedback, Record, RecordKind, encode
from relayd.reply import Reply, printable
from relayd.returnpath import Keys, Token, Void, find
from relayd.signing import Crew
from relayd.spool import Reception, Spool
from relayd.suppression import Finding, Lesson, Suppressions
from relayd.waiting import asked, ended

NO_COMPLAINT = ("not-spam", "auth-failure")  # RFC 6430; RFC 6591: a report on DMARC, of nobody's opinion
OPT_OUT = ("opt-out", "opt-out-list")  # RFC 5965 section 7.3 had them

_CODES = re.compile(r"^[245]\d\d[ -]\s*(?:[245]\.\d{1,3}\.\d{1,3}\s+)?")

Done = Callable[[Exception | None], None]


class Opened(msgspec.Struct, frozen=True):
    """A message that was read: what it tells, what that means for each recipient it names, and the tokens that count,
    to which it was ``addressed`` or which stand within it; ``state`` is the word for that, or for why there is none."""

    report: Report
    judged: list[Judged]
    tokens: tuple[Token, ...]
    state: str
    addressed: bool = False


class Mailroom:
    """See the module.  ``keys`` and ``classifier`` give what holds now, ``finding`` what an event says against its
    recipient, ``group`` which provider's a mail host is; ``heard`` hears every event, ``generated`` of reports of ours
    that are on disk; ``post`` brings a call to the main thread."""

    log = Logger()

    def __init__(
        self,
        spool: Spool,
        suppressions: Suppressions,
        outcomes: Outcomes,
        keys: Callable[[], Keys],
        classifier: Callable[[], Classifier],
        finding: Callable[[Event], Finding | None],
        group: Callable[[str], str],
        heard: Callable[[Event], None],
        generated: Callable[[tuple[Delivery, ...]], None],
        now: Callable[[], float],
        post: Callable[..., None],
    ) -> None:
        self._spool = spool
        self._suppressions = suppressions
        self._outcomes = outcomes
        self._keys = keys
        self._classifier = classifier
        self._finding = finding
        self._group = group
        self._heard = heard
        self._generated = generated
        self._now = now
        self._post = post
        self._crew = Crew(1, "mailroom")

    def stop(self) -> None:
        """Blocks until what is being read has been."""
        self._crew.stop()

    def keep(self, returned: Returned, done: Done) -> None:
        """``done(None)`` when all that follows from it is on disk, ``done(error)`` if it cannot be."""

        def failed(failure: Failure) -> Exception:
            self.log.error("What came back as {id} cannot be kept: {fault}", id=show(returned.id), fault=failure.value)
            return failure.value if isinstance(failure.value, Exception) else RuntimeError(str(failure.value))

        Deferred.fromCoroutine(self._keep(returned)).addErrback(failed).addCallback(done)

    async def _keep(self, returned: Returned) -> None:
        keys, classifier, now = self._keys(), self._classifier(), self._now()
        opened: Opened = await self._in_crew(partial(_opened, returned, keys, classifier, now))
        for token in opened.tokens:
            original: Record | None = await asked(self._spool.find_reception, token.id)
            await self._of_delivery(returned, opened, token, original)
        if not opened.tokens:
            await self._record(_record(returned, opened, _kind(opened.report), None))

    async def _of_delivery(self, returned: Returned, opened: Opened, token: Token, original: Record | None) -> None:
        kind = _kind(opened.report, leaving=opened.addressed and token.purpose == "unsubscribe")
        if original is None:
            note = f"of delivery {show(token.id)}, of which there is no record"
            await self._record(msgspec.structs.replace(_record(returned, opened, kind, None), note=note))
            return
        delivery = _delivery(original, token.id)
        one = _named(opened.judged, delivery.recipient.address)
        event = _event(kind, opened.report, one, delivery, returned.time)
        if event and original.evidence:
            went = original.evidence
            event = msgspec.structs.replace(event, source=went.source, group=went.site or self._group(went.mx))
        once = (token.id, kind if kind != "OutOfBand" else opened.report.kind)
        lesson = Lesson(self._finding(event) if event else None, once)
        fresh = await ended(self._suppressions.learn(lesson, returned.time))
        record = _record(returned, opened, kind, one, original, delivery, repeated=not fresh)
        answer = None
        if fresh and one is not None and one.recipient.action == "failed" and record.evidence:
            answer = self._outcomes.report("failed", delivery, record.evidence, 1, returned.time)
        await self._record(record, answer)
        if fresh and event:
            self._heard(event)

    async def _record(self, record: Record, answer: Reception | None = None) -> None:
        """Keeps a record, together with the report to the sender if there is one."""
        line = encode(record)
        if answer is None:
            await asked(self._spool.keep_records, line, ())
            return
        await asked(self._spool.receive, msgspec.structs.replace(answer, line=line + answer.line))
        self._generated(answer.deliveries)

    def _in_crew(self, work: Callable[[], Opened]) -> "Deferred[Opened]":
        answer: Deferred[Opened] = Deferred()

        def run() -> None:
            try:
                result = work()
            except Exception as error:  # no message may stop the thread that reads the next one
                self._post(answer.errback, error)
            else:
                self._post(answer.callback, result)

        self._crew.submit(run)
        return answer


def _opened(returned: Returned, keys: Keys, classifier: Classifier, now: float) -> Opened:
    """On a thread of its own: a report may take a third of a second to read."""
    to = returned.envelope.recipients
    report = read(returned.content, to[0].address if to else "")
    found = judged(report, classifier.classify)
    tokens = tuple({target.id: target for target in returned.targets if isinstance(target, Token)}.values())
    if tokens:
        return Opened(report, found, tokens, "valid", True)
    clues = "\n".join(clue.value for clue in report.clues).encode()
    token = find(clues + b"\n" + returned.content, keys, now)
    if isinstance(token, Token):
        return Opened(report, found, (token,), "valid")
    return Opened(report, found, (), token.value if isinstance(token, Void) else "none")


def _kind(report: Report, *, leaving: bool = False) -> RecordKind:
    """``leaving``: it was written to an address that was given for unsubscribing, and asks for that whatever it says,
    unless a server wrote it."""
    if report.complaint:
        kind = report.complaint.type.lower()
        return "Unsubscribe" if kind in OPT_OUT else "OutOfBand" if kind in NO_COMPLAINT else "Complaint"
    if report.kind == "unsubscribe":
        return "Unsubscribe"
    return "Unsubscribe" if leaving and report.kind in ("auto-reply", "challenge", "other") else "OutOfBand"


def _delivery(original: Record, identity: int) -> Delivery:
    """What is still known of a delivery that has left."""
    message = Message(
        read_id(original.message),
        received_at(identity),
        original.account,
        original.connection,
        original.stream,
        Envelope(original.sender),
        Edits(),
        f"Message-ID: {original.message_id}\r\n\r\n".encode() if original.message_id else b"\r\n",
        b"",
        original.size,
        original.message_id,
        original.client,
    )
    address = original.recipients[identity - message.id - 1]
    notify = "NEVER" if address in original.quiet else ""
    return Delivery(identity, message, Recipient(address, notify), "", 0.0)


def _named(found: list[Judged], address: str) -> Judged | None:
    """What a report says of our recipient: of the one it names, or of the one that is called so.  Of several others it
    may be any, and is none."""
    ours = [one for one in found if address.lower() in (one.recipient.original.lower(), one.recipient.final.lower())]
    return ours[0] if ours else found[0] if len(found) == 1 else None


def _event(kind: RecordKind, report: Report, one: Judged | None, delivery: Delivery, now: float) -> Event | None:
    """What follows from it, if anything may."""
    told: dict[str, Any] = {"late": True, "words": report.subject}
    what: EventKind
    if kind == "Complaint":
        what = "complaint"
    elif kind == "Unsubscribe":
        what = "unsubscribe"
    elif one is not None and one.recipient.action == "failed":
        verdict = one.verdict
        what = "bounced" if one.status.startswith("5") else "expired"
        told |= {"cls": verdict.cls, "decision": verdict.decision, "words": _words(one)}
    else:
        return None
    event = of_delivery(what, delivery.message, delivery.id, delivery.recipient.address, now)
    return msgspec.structs.replace(event, **told)


def _words(one: Judged) -> str:
    reply = _reply(one)
    return str(reply) if reply else f"{one.status} {one.recipient.diagnostic}".replace("\n", " / ").strip()


def _reply(one: Judged) -> Reply | None:
    """What the remote server said, if the report tells: its codes stand mostly at the beginning of its words, too."""
    recipient = one.recipient
    if not recipient.code:
        return None
    return Reply(recipient.code, one.status, _CODES.sub("", recipient.diagnostic))


def _record(
    returned: Returned,
    opened: Opened,
    kind: RecordKind,
    one: Judged | None,
    original: Record | None = None,
    delivery: Delivery | None = None,
    *,
    repeated: bool = False,
) -> Record:
    report = opened.report
    first = one or (opened.judged[0] if opened.judged else None)
    named = first.recipient.address if first else next((found.address for found in report.recipients), "")
    feedback = Feedback(
        show(returned.id),
        report.kind,
        opened.state,
        report.complaint.type if report.complaint else "",
        named,
        report.reporter,
        report.subject,
        printable(returned.peer, 64),
        printable(returned.helo, 255),
        returned.size,
        repeated,
    )
    evidence = _evidence(first) if first else None
    if original is None or delivery is None:
        return Record(kind=kind, time=returned.time, evidence=evidence, feedback=feedback)
    if went := original.evidence:  # by which address of ours it had gone, and to whom
        evidence = msgspec.structs.replace(evidence or Evidence(stage="report"), source=went.source, site=went.site)
    return msgspec.structs.replace(
        original,
        kind=kind,
        time=returned.time,
        delivery=show(delivery.id),
        recipient=delivery.recipient.address,
        recipients=(),
        quiet=(),
        received=delivery.message.received,
        evidence=evidence,
        feedback=feedback,
        note="",
    )


def _evidence(one: Judged) -> Evidence:
    recipient = one.recipient
    reply = _reply(one)
    words = "" if reply else _words(one)
    mx, cls = recipient.remote_mta, one.verdict.cls
    return Evidence(stage=recipient.stage or "report", reply=reply, error=words, mx=mx, cls=cls)
