"""An intake: one message being received, from its first byte to its 250.

Content up to ``INLINE`` stays in memory, more streams into a body file while it arrives.  Once the header section is
there it is known by which stream the message goes; then recipients are screened, units reserved, DKIM signatures made
in the signer's threads, and all of it is stored in one transaction.  Nothing is answered before that is on disk.
"""

import sqlite3
from collections.abc import Callable
from functools import partial

import msgspec

from relayd import catalogue, submission
from relayd.address import domain_of
from relayd.contentfilter import ContentFilter, Question, Verdict
from relayd.envelope import UNSTEERED, Edits, Envelope, Message, Recipient
from relayd.identity import show
from relayd.lease import Charge
from relayd.listener import Session
from relayd.message import headers, steering, trace
from relayd.message.dkim import BodyHash
from relayd.message.render import header
from relayd.quotas import Limits, Want, wants
from relayd.reception.relay import Relay, who
from relayd.reception.screen import Held, all_checked
from relayd.records import Entry, encode
from relayd.reply import Reply, printable
from relayd.returnpath import unsubscribe
from relayd.signing import Found
from relayd.signing.signer import from_domain
from relayd.spool import Reception
from relayd.spool.bodies import INLINE, BodyWriter

_SPAM = b"X-Spam: Yes\r\n"
_UNLIMITED = Limits()


class Intake:
    """One message being received."""

    def __init__(self, relay: Relay, session: Session, envelope: Envelope, *, reserved: bool = False) -> None:
        """``reserved``: the payer's units for all recipients are."""
        self.relay = relay
        self.session = session
        self.submitter = session.state.submitter
        self.envelope = envelope
        self.now = relay.now()
        self.identity = relay.identities.block(self.now, len(envelope.recipients))
        self.size = 0
        self._held = 0
        self._head: bytes | None = None
        self._pieces: list[bytes] = []
        self._file: BodyWriter | None = None
        self._over = False
        self.promised = False  # the spool has it: no lost session can take it back
        self._doomed: Reply | None = None  # what it will be refused with at its end
        self._eightbit = False
        self._steering = UNSTEERED
        self._due = self.now
        self._warning = ""
        self._spam = b""  # a field that says so
        self._uncheck: Callable[[], None] = lambda: None  # ends a question to the filter
        self._hash: BodyHash | None = None  # of a body that goes to a file; one in memory is hashed at the end
        self._to: tuple[Recipient, ...] = ()  # who gets a copy
        self._kept_from: tuple[tuple[Recipient, Held], ...] = ()  # who does not
        self._reserved = reserved
        self._paying: Callable[[], None] | None = None  # what waits for the purse
        self._unpaid: Reply | None = None
        self._asking = bool(self.submitter.payer) and not reserved
        if self._asking:
            relay.purse.want(self.submitter.payer, len(envelope.recipients), self.now, self._purse_said)

    def write(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self._doomed is not None:
            return
        self._eightbit = self._eightbit or not chunk.isascii()
        if self._file is not None:
            self._spill(chunk)
            return
        self._pieces.append(chunk)
        self._hold(len(chunk))
        if self._held > INLINE:
            self._overflow()

    def end(self, size: int, answer: Callable[[Reply], None]) -> None:
        self._answer = answer
        if self._head is None and self._doomed is None:
            self._split()
        if self._doomed is not None:
            self._refuse(self._doomed)
        elif len(self.submitter.streams) > 1:
            submitter, stream = self.submitter, self._stream
            lists = self.relay.streams.lists(submitter.account, stream.name, submitter.connection)
            addresses = [recipient.address for recipient in self.envelope.recipients]
            all_checked(self.relay.screen, stream, lists, addresses, self._all_screened)
        else:
            self._screened(self.session.state.dropped)

    def abort(self) -> None:
        """Nothing will come of it; twice is as good as once."""
        if self.promised:
            return
        self._over = True
        self._uncheck()
        self._release()
        self._drop()
        if self._file is not None:
            self._file.abandon()

    def _refuse(self, refusal: Reply, note: str = "") -> None:
        self.abort()
        first = self.envelope.recipients[0].address
        self._answer(self.relay.reject(self.session, refusal, self.envelope.sender, first, note))

    def _drop(self) -> None:
        self._pieces.clear()
        self._hold(-self._held)

    def _hold(self, size: int) -> None:
        self._held += size
        self.relay.memory += size

    def _split(self) -> None:
        """Parts the header section from the body once all of it is there."""
        head, body = headers.split(b"".join(self._pieces))
        self._pieces = [body] if body else []
        self._begin(head)
        self._tell_content(body)

    def _overflow(self) -> None:
        """More than memory should hold: the body goes to a file.  A header section is never as long as that."""
        content = b"".join(self._pieces)
        head, body = headers.split(content)
        if head == content:
            if len(content) > headers.HEAD_LIMIT:
                self._doom(catalogue.LONG_HEAD)
            else:
                self._pieces = [content]
            return
        self._pieces = []
        self._hold(len(head) - self._held)
        self._begin(head)
        if self._doomed is not None:
            return
        found = self._keys()
        if found.keys or self._waits_for(found):
            self._hash = BodyHash()
        self._tell_content(body)
        self._file = self.relay.spool.bodies.create(self.identity)
        self._spill(body)

    def _begin(self, head: bytes) -> None:
        """The header section is there: what it asks for, and whether it may."""
        self._head = head
        self._survey = headers.survey(head)
        steered = submission.steered(self._survey, self.now)
        if isinstance(steered, Reply):
            self._doom(steered)
            return
        self._steering, self._due = steered, steering.starts(steered, self.now)
        refusal = submission.refuse_head(self.submitter, self._survey)
        if refusal is not None and submission.spoofs(refusal):
            self._tell_spoofed()
        refusal = refusal or self._refuse_domains()
        name = self._steering.stream or self.submitter.streams[0]
        if name not in self.submitter.streams:
            refusal = refusal or submission.refuse_stream(self.submitter, name)
        if refusal is not None:
            self._doom(refusal)
            return
        self._stream = self.relay.streams.incoming(self.submitter.account, name)
        self._author = from_domain(self._survey.froms)
        self._client = self.submitter.client or self._steering.client or self._author
        self._who = who(self.submitter, self._client, self.envelope.sender)
        if why := self.relay.reputation.blocked(self._who):
            self._doom(catalogue.SENDING_BLOCKED(printable(why, 200)))

    # What the suspicion is told.

    def _tell_spoofed(self) -> None:
        suspicion, submitter = self.relay.suspicion, self.submitter
        if suspicion is not None:
            client = submitter.client or self._steering.client
            suspicion.spoofed(submitter.account, client, submitter.connection, self.now)

    def _tell_content(self, body: bytes) -> None:
        suspicion, submitter = self.relay.suspicion, self.submitter
        if suspicion is not None and self._doomed is None:
            assert self._head is not None
            suspicion.content(submitter.account, self._client, submitter.connection, self._head, body, self.relay.now())

    def _tell_received(self) -> None:
        suspicion, submitter, desk = self.relay.suspicion, self.submitter, self.session.state
        if suspicion is not None:
            suspicion.received(
                submitter.account,
                self._client,
                submitter.connection,
                self._survey.froms,
                self._to,
                desk.suppressed,
                desk.faulty,
                self.relay.now(),
            )

    def _refuse_domains(self) -> Reply | None:
        """Of From and Sender domains that are not proven, as the account has it: refused, or noted in the record."""
        if self.submitter.domain_check == "off":
            return None
        senders, account = self.relay.directory.senders, self.submitter.account
        for domain in map(domain_of, (*self._survey.froms, *self._survey.senders)):
            refusal = submission.refuse_domain(senders.state(account, domain))
            if refusal is not None and self.submitter.domain_check == "require":
                return refusal
            if refusal is not None:
                self._warning = f"{refusal.text}: {domain}"
        return None

    def _doom(self, refusal: Reply) -> None:
        """It will be refused; what comes of it until then is not kept."""
        self._doomed = refusal
        self._drop()

    def _all_screened(self, held: dict[str, Held]) -> None:
        if kept := sum(found.reply.permanent for found in held.values()):
            self.relay.reputation.event(self._who, "suppressed", self.now, kept)
        self._screened(held)

    def _screened(self, held: dict[str, Held]) -> None:
        """Who gets a copy is known."""
        if self._over:
            return
        if len(self.submitter.streams) > 1:
            for found in held.values():
                self.relay.note_held(self.session.state, found)
        recipients = self.envelope.recipients
        self._to = tuple(r for r in recipients if r.address not in held) if held else recipients
        self._kept_from = tuple((r, held[r.address]) for r in recipients if r.address in held) if held else ()
        refused = [found.reply for _, found in self._kept_from if not found.drop]
        later = next((reply for reply in refused if reply.transient), None)
        refusal = later or (refused[0] if refused and not self._to else self._exceeded())
        if refusal is not None:
            self._refuse(refusal)
        elif self._file is not None:
            self._file.finish(self._filed)
        else:
            self._keep(b"".join(self._pieces))

    def _exceeded(self) -> Reply | None:
        """The limits that could not be asked before the header section was there."""
        relay, submitter, now = self.relay, self.submitter, self.relay.now()
        count = {"messages": 1, "recipients": len(self._to)}
        client: tuple[Want, ...] = ()
        if submitter.client_limits != _UNLIMITED:
            client = wants([(f"client {submitter.account}/{self._client}", submitter.client_limits)], **count)
        stream: tuple[Want, ...] = ()
        if len(submitter.streams) > 1:
            stream = wants([(f"stream {submitter.account}/{self._stream.name}", self._stream.limits)], **count)
        for scope, rate in relay.reputation.paces(self._who):
            stream += wants([(f"reputation of {scope}", Limits(recipients=(rate,)))], **count)
        if not (client or stream):
            return None
        exceeded = relay.client_quotas.take(client, now)
        if exceeded is None and (exceeded := relay.quotas.take(stream, now)):
            relay.client_quotas.give_back(client, now, now)
        return catalogue.RATE(exceeded.seconds) if exceeded else None

    def _spill(self, chunk: bytes) -> None:
        assert self._file is not None
        if self._hash is not None:
            self._hash.feed(chunk)
        self._file.write(chunk)
        if self._file.full and self._file.drained is None:
            self.session.pause()
            self._file.drained = self.session.resume

    def _filed(self, error: OSError | None) -> None:
        if self._over:
            return
        if error is None:
            self._keep(None)
        else:
            self._failed(error)

    def _keep(self, body: bytes | None) -> None:
        """Has the content filter see it, if there is one."""
        content_filter = self.relay.filter
        if content_filter is None or not self._stream.filtered or self.size > content_filter.settings.max_size:
            self._edit(body)
        elif body is not None:
            self._check(content_filter, body, body)
        else:
            self.relay.spool.bodies.load(self.identity, self.size, partial(self._loaded, content_filter))

    def _loaded(self, content_filter: ContentFilter, found: bytes | OSError) -> None:
        if self._over:
            return
        if isinstance(found, OSError):
            self._failed(found)
        else:
            self._check(content_filter, found, None)

    def _check(self, content_filter: ContentFilter, content: bytes, body: bytes | None) -> None:
        """``content``: the body, wherever it is kept; ``body``: if it is kept in memory."""
        assert self._head is not None
        session = self.session
        to = tuple(recipient.address for recipient in self._to)
        peer, user = session.peer, self.submitter.connection
        question = Question(self.envelope.sender, to, peer, session.helo, user, show(self.identity))
        self._uncheck = content_filter.check(
            question, self._head, content, lambda verdict: self._checked(verdict, body)
        )

    def _checked(self, verdict: Verdict, body: bytes | None) -> None:
        if self._over:
            return
        said = f": {verdict.said}" if verdict.said else ""
        if verdict.fate == "refuse":
            self._refuse(catalogue.SPAM(said), verdict.note)
        elif verdict.fate == "defer":
            self._refuse(catalogue.NOT_NOW(said) if verdict.answered else catalogue.UNFILTERED, verdict.note)
        else:
            self._warning = "; ".join(filter(None, (self._warning, verdict.note)))
            self._spam = _SPAM if verdict.fate == "mark" else b""
            self._edit(body)

    def _edit(self, body: bytes | None) -> None:
        """Decides what is changed in it, and has it signed if there are keys."""
        session = self.session
        came = submission.Session(self.relay.node, session.helo, session.peer, self._protocol())
        edits, message_id = submission.edits(came, self.identity, self.envelope, self._survey, self.now, self._due)
        found = self._keys()
        edits = self._returning(edits, signed=not found.fault)
        if self._spam:
            edits = msgspec.structs.replace(edits, prepend=edits.prepend + self._spam)
        self._sign(edits, found, body, lambda signed: self._pay(lambda: self._store(body, came, signed, message_id)))

    def _returning(self, edits: Edits, *, signed: bool) -> Edits:
        """With a return path of ours, if it has one; the null sender stays, nobody answers it."""
        relay, account = self.relay, self.submitter.account
        domain = relay.returns(account, self._author, signed) if self.envelope.sender else ""
        if not domain:
            return edits
        assert self._head is not None
        newest, wanted = relay.directory.tokens.keys.newest, self._stream.unsubscribe
        return submission.returning(edits, self._head, domain, newest.id, unsubscribe=wanted)

    def _sign(self, edits: Edits, found: Found, body: bytes | None, then: Callable[[Edits], None]) -> None:
        """Adds the signature over what will go out; without a key it is not there, or waited for."""
        assert self._head is not None
        waits = self._waits_for(found)
        if not (found.keys or waits) or (body is None and self._hash is None):
            then(edits)
            return
        hashing = self._hash or BodyHash()
        hashing.feed(body or b"")
        digest = hashing.digest()
        field = b""
        if edits.returns is not None:
            field = unsubscribe(edits.returns, self.identity + 1, self.relay.directory.tokens.keys)
        if waits or (field and len(self._to) > 1):  # each recipient has another field, and when it goes, its signature
            then(msgspec.structs.replace(edits, unsigned=digest))
            return
        signer = self.relay.signer

        def signed(fields: bytes, fault: str) -> None:
            if self._over:
                return
            if fault and self._stream.defers:
                then(msgspec.structs.replace(edits, unsigned=digest))
            else:
                then(msgspec.structs.replace(edits, signature=fields))

        signer.sign(header(self._head, edits, field), digest, found.keys, self.now, signed)

    def _keys(self) -> Found:
        return self.relay.signer.keyring.find(self.submitter.account, self._author)

    def _waits_for(self, found: Found) -> bool:
        """Whether the message waits for its key, as its stream says."""
        return bool(found.fault) and self._stream.defers

    def _store(self, body: bytes | None, came: submission.Session, edits: Edits, message_id: str) -> None:
        """Makes it durable."""
        assert self._head is not None
        submitter = self.submitter
        message = Message(
            self.identity,
            self.now,
            submitter.account,
            submitter.connection,
            self._stream.name,
            msgspec.structs.replace(self.envelope, recipients=()),  # each is kept with its delivery
            edits,
            self._head,
            body,
            self.size,
            message_id,
            self._client,
            self._eightbit,
            submitter.payer,
            self._steering,
        )
        self._deliveries = submission.deliveries(message, self._to, self._due)
        lines, entries = self._records(message, came)
        self.relay.reputation.received(self._who, self._to, self.now)
        self.promised = True
        if not self._to:  # all of them are dropped: there is nothing to keep but the records
            self._discard()
            self.relay.spool.keep_records(lines, entries, self._kept)
            return
        charge = Charge(submitter.payer, len(self._to)) if submitter.payer else None
        reception = Reception(message, self._deliveries, lines, entries, charge, self._steering.key)
        self.relay.spool.receive(reception, self._kept)

    def _records(self, message: Message, came: submission.Session) -> tuple[bytes, tuple[Entry, ...]]:
        kept_from = tuple((recipient, str(found.reply), found.drop) for recipient, found in self._kept_from)
        everybody = (*self._to, *(recipient for recipient, _ in self._kept_from))
        record, entry = submission.reception(message, everybody, came, self.session.tls, self._warning)
        if not kept_from:
            return encode(record), (entry,)
        told = [(record, entry), *submission.kept_from(message, kept_from, len(self._to))]
        return b"".join(encode(record) for record, _ in told), tuple(entry for _, entry in told)

    def _discard(self) -> None:
        if self._file is not None:
            self._file.abandon()

    # Payment.

    def _purse_said(self, answer: bool | None) -> None:
        self._asking, self._reserved = False, bool(answer)
        if not answer:
            self._unpaid = catalogue.NO_BALANCE if answer is False else catalogue.BALANCE_UNKNOWN
        if self._over:
            self._release()
        elif self._paying is not None:
            self._pay(self._paying)

    def _pay(self, then: Callable[[], None]) -> None:
        """Goes on once the payer's units are reserved."""
        if self._asking:
            self._paying = then
        elif self._unpaid is not None:
            self._refuse(self._unpaid)
        else:
            then()

    def _release(self, but: int = 0) -> None:
        """Gives reserved units back, but those that are spent."""
        if self._reserved:
            self._reserved = False
            if but:
                self.relay.purse.spent(self.submitter.payer, but)
            if more := len(self.envelope.recipients) - but:
                self.relay.purse.release(self.submitter.payer, more)

    def _protocol(self) -> str:
        session = self.session
        return trace.protocol(
            extended=session.extended, tls=session.secure, auth=bool(session.login), utf8=self.envelope.smtputf8
        )

    def _kept(self, outcome: sqlite3.Error | OSError | int | None) -> None:
        """The transaction is on disk, or has failed, or the message has come before (then ``outcome`` is the first one,
        and it is answered alike).  That the session is gone by now changes nothing."""
        if isinstance(outcome, Exception):
            self._failed(outcome)
            return
        self._hold(-self._held)
        self._release(but=len(self._to) if outcome is None else 0)
        try:
            if outcome is None and self._deliveries:
                self.relay.on_received(self._deliveries)
            if outcome is None:
                relay = self.relay
                relay.messages += 1
                relay.secured += self.session.secure
                relay.recipients += len(self._to)
                relay.bytes += self.size
                self._tell_received()
        finally:  # on disk is on disk, whatever fails behind it
            self._answer(catalogue.QUEUED(show(outcome or self.identity)))

    def _failed(self, error: Exception) -> None:
        self.promised = False
        self.abort()
        full = "full" in str(error) or getattr(error, "errno", 0) == 28
        self._answer(catalogue.NO_SPACE if full else catalogue.SPOOL_FAILED)
