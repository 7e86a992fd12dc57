"""The domain watch: asks the DNS whether sender domains are what they were registered as, again and again.

In: registrations that are due, or a domain that an operator wants checked now.  Out: their states and findings in the
directory, and a record of each change of state, which is on disk first: after a crash it may be there twice, but is
never missing.  Answers come from the nameservers, not from our cache: what was just published should count.
"""

import random
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, TimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.directory import SenderDomain, Senders, judged
from relayd.errors import InputError
from relayd.pulse import pulse
from relayd.records import Record, RecordKind, encode
from relayd.resolver import LookupFailed, NoSuchDomain, Resolver
from relayd.resolver.cache import Shared
from relayd.verification import Asking, Finding, Found, Question, Subject, check

T = TypeVar("T")
Keep = Callable[[bytes, Callable[[Any], None]], None]

AT_ONCE = 16  # domains checked at the same time
PATIENCE = 60.0  # seconds for one
_TICK = 5.0  # seconds between looks at what is due


class DomainWatch(Service):
    """``subject`` says what a domain is checked against, ``wanted`` whether it is to be checked unasked; ``keep``
    writes record lines and calls back when they are on disk."""

    name = "domains"
    log = Logger()

    def __init__(
        self,
        reactor: Any,
        senders: Senders,
        resolver: Resolver,
        subject: Callable[[SenderDomain], Subject],
        wanted: Callable[[SenderDomain], bool],
        keep: Keep,
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._reactor = reactor
        self._senders = senders
        self._resolver = resolver
        self._subject = subject
        self._wanted = wanted
        self._keep = keep
        self._now = now
        self._rng = rng
        self._slots = DeferredSemaphore(AT_ONCE)
        self._checks: Shared[SenderDomain] = Shared()
        self._busy: set[str] = set()
        self._ticker = pulse(reactor, self._tick)

    def startService(self) -> None:
        super().startService()
        self._ticker.start(_TICK)

    def stopService(self) -> None:
        """Checks under way end without a result."""
        super().stopService()
        if self._ticker.running:
            self._ticker.stop()
        self._checks.cancel()

    def verify(self, domain: str) -> "Deferred[SenderDomain]":
        """Checks a domain now, or joins the check that is under way.  Fires with what it is then, or InputError."""
        return self._checks.join(domain, partial(self._verify, domain))

    def _tick(self) -> None:
        for row in self._senders.due(self._now(), self._is_next, self._slots.tokens):
            self.verify(row.domain).addErrback(self._failed, row.domain)

    def _is_next(self, row: SenderDomain) -> bool:
        return row.domain not in self._busy and self._wanted(row)

    def _failed(self, failure: Failure, domain: str) -> None:
        if not failure.check(CancelledError, InputError):  # stopped, or removed meanwhile
            self.log.failure("The check of {domain} failed by our own fault", failure, domain=domain)

    async def _verify(self, domain: str) -> SenderDomain:
        self._busy.add(domain)
        try:
            async with self._slots:
                findings = await self._findings(self._subject(self._row(domain)))
                return await self._settled(self._row(domain), findings)
        finally:
            self._busy.discard(domain)

    async def _findings(self, subject: Subject) -> tuple[Finding, ...]:
        try:
            return await Deferred.fromCoroutine(self._asked(check(subject))).addTimeout(PATIENCE, self._reactor)
        except TimeoutError:
            return (Finding("dns", "unknown", f"the DNS took longer than {PATIENCE:.0f} s to answer"),)

    def _row(self, domain: str) -> SenderDomain:
        row = self._senders.get(domain)
        if row is None:
            raise InputError("name", f"the domain {domain} is not registered")
        return row

    async def _asked(self, asking: Asking[T]) -> T:
        """Looks up what a check wants to know, each thing once."""
        known: dict[Question, Found] = {}
        try:
            question = next(asking)
            while True:
                if question not in known:
                    known[question] = await self._found(question)
                question = asking.send(known[question])
        except StopIteration as done:
            result: T = done.value
            return result

    async def _found(self, question: Question) -> Found:
        try:
            answer = await self._resolver.query(question.name, question.rdtype, fresh=True)
        except NoSuchDomain:  # a macro may make what is no name
            return Found()
        except LookupFailed as fault:
            return Found(fault=fault.reply.text)
        return Found(tuple(map(_text, answer.records)))

    async def _settled(self, before: SenderDomain, findings: tuple[Finding, ...]) -> SenderDomain:
        row = judged(before, findings, self._now(), self._rng)
        if row.state != before.state:
            await self._recorded(row)
        kept: Deferred[SenderDomain | None] = Deferred()
        self._senders.settle(row).add_done_callback(partial(_settle, kept))
        return await kept or self._row(row.domain)

    def _recorded(self, row: SenderDomain) -> "Deferred[None]":
        facts = {"domain": row.domain, "account": row.account, "state": row.state, "why": row.why or "all is well"}
        self.log.info("The sender domain {domain} of {account} is {state}: {why}", **facts)
        kind: RecordKind = "DomainVerified" if row.state == "verified" else "DomainFailing"
        record = Record(kind, row.checked, account=row.account, domain=row.domain, note=row.why)
        written: Deferred[None] = Deferred()

        def done(fault: object) -> None:
            if written.called:  # stopped meanwhile
                return
            if isinstance(fault, Exception):
                written.errback(fault)
            else:
                written.callback(None)

        self._keep(encode(record), done)
        return written


def _settle(waiting: "Deferred[Any]", done: "Future[Any]") -> None:
    if waiting.called:  # stopped meanwhile
        return
    error = done.exception()
    if error is None:
        waiting.callback(done.result())
    else:
        waiting.errback(error)


def _text(rdata: Any) -> str:
    """A TXT record's strings as one; what is beyond ASCII is nothing a record has, and comes as Latin-1."""
    if hasattr(rdata, "strings"):
        return b"".join(rdata.strings).decode("latin-1")
    return str(rdata.to_text())
