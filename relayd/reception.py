"""Reception: the door of the listeners that take mail to relay.

Enter: a session's questions and a message's content.  Leave: answers by the directory and ``submission``, and messages
in the spool: the 250 goes out when the transaction that holds message, deliveries and record is on disk, not before.
Content up to ``INLINE`` stays in memory, more streams into a body file while it arrives.
DKIM signatures are made before that transaction, in the signer's threads; mail without a key passes straight on.
"""

import sqlite3
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any, Protocol

import msgspec

from relayd import submission
from relayd.directory import Directory, Verdict, Verifier
from relayd.envelope import UNSTEERED, Edits, Envelope, Message, Recipient
from relayd.guard import Guard
from relayd.identity import Identities, show
from relayd.listener import UNAVAILABLE, Receiver, Session
from relayd.message import headers, steering, trace
from relayd.message.dkim import BodyHash
from relayd.message.render import header
from relayd.records import Entry, Record, encode
from relayd.reply import Reply, printable
from relayd.signing import Found, Signer
from relayd.signing.signer import from_domain
from relayd.smtp import events
from relayd.smtp.server import ServerSettings
from relayd.spool import Reception, Spool
from relayd.spool.bodies import INLINE, BodyWriter
from relayd.submission import Submitter

MEMORY = 256 << 20  # bytes of content in memory, of all messages being received
STRANGERS = 20  # of which so many may be of clients that nobody knows: a guesser must not fill the disk
HELD = 100  # answers to failed logins held back at once: far fewer than a listener has connections to be filled with
REJECTIONS = 500  # records of rejections kept each second; above it they are only counted

_SPOOL_FAILED = Reply(451, "4.3.0", "The message could not be stored, try again later")
_NO_SPACE = Reply(452, "4.3.1", "Insufficient system storage, try again later")
_NO_MEMORY = Reply(451, "4.3.2", "Too much mail is coming in at once, try again shortly")
_LONG_HEAD = Reply(554, "5.3.4", "The header section is too long")
_BAD_LOGIN = Reply(535, "5.7.8", "Incorrect login or password")
_NOT_ACTIVATED = Reply(535, "5.7.8", "Connection not activated")
_NOT_FROM_HERE = Reply(535, "5.7.8", "This login may not be used from your address")
_TOO_MANY = Reply(454, "4.7.0", "Too many login attempts")
_UNSURE = Reply(454, "4.7.0", "Temporary authentication failure")
_STRANGER = Reply(554, "5.7.1", "This server relays for named clients only")
_SUSPENDED = Reply(450, "4.7.1", "The account is suspended")


class Health(Protocol):
    """What the node knows of itself; each is "" while all is well, else the reason in words."""

    spool_fault: str
    space_fault: str
    stopping: bool


class Relay:
    """What the doors of one node share."""

    def __init__(
        self,
        node: str,
        spool: Spool,
        directory: Directory,
        verifier: Verifier,
        health: Health,
        identities: Identities,
        now: Callable[[], float],
        signer: Signer | None = None,
        guard: Guard | None = None,
        later: Callable[[float, Callable[[], None]], object] = lambda seconds, call: call(),
    ) -> None:
        """``later`` makes a call after some seconds."""
        self.node = node
        self.guard = guard or Guard()
        self._later = later
        self._held = 0
        self.signer = signer or Signer()
        self.spool = spool
        self.directory = directory
        self.verifier = verifier
        self.health = health
        self.now = now
        self.identities = identities
        self.memory = 0
        self.on_received: Callable[[Any], None] = lambda deliveries: None
        self._rejections: list[bytes] = []
        self._rejected: list[Entry] = []

    def reject(self, session: Session, reply: Reply, sender: str, recipient: str) -> Reply:
        """Keeps the record of a policy refusal; gives the reply."""
        submitter = session.state
        account, stream = (submitter.account, submitter.stream) if submitter else ("", "")
        now = self.now()
        self._rejected.append(Entry(int(now // 86400), account, stream, "rejected"))
        if len(self._rejections) < (REJECTIONS if submitter else STRANGERS):
            record = Record(
                kind="Rejection",
                time=now,
                account=account,
                connection=submitter.connection if submitter else "",
                stream=stream,
                sender=printable(sender),
                recipient=printable(recipient),
                note=f"{reply} (from {session.peer})",
            )
            self._rejections.append(encode(record))
        return reply

    def flush_rejections(self) -> None:
        """Call about once a second."""
        if self._rejected:
            lines, entries = self._rejections, self._rejected
            self._rejections, self._rejected = [], []
            self.spool.keep_records(b"".join(lines), entries)

    def hold_back(self, seconds: float, answer: Callable[[], None]) -> None:
        """Answers so much later, or at once if too many answers wait already."""
        if not seconds or self._held >= HELD:
            answer()
            return

        def release() -> None:
            self._held -= 1
            answer()

        self._held += 1
        self._later(seconds, release)


class Allowed(msgspec.Struct, frozen=True):
    """A named client network of a relay listener."""

    net: str
    account: str
    stream: str


class RelayDoor:
    """Takes mail from connections that logged in, or, where ``allowed`` is given, from named client IPs without login.

    ``stream_named`` turns a connection's stream into one that is configured."""

    def __init__(
        self,
        relay: Relay,
        settings: ServerSettings,
        allowed: tuple[Allowed, ...],
        stream_named: Callable[[str], str],
    ) -> None:
        self.relay = relay
        self.settings = settings
        self.stream_named = stream_named
        self._allowed = [(ip_network(a.net, strict=False), a) for a in allowed]
        self.open = bool(allowed)

    def connected(self, session: Session) -> Reply | None:
        health = self.relay.health
        if health.stopping or health.spool_fault:
            return UNAVAILABLE
        if not self.open:
            return None
        address = ip_address(session.peer)
        for net, allowed in self._allowed:
            if address in net:
                name = f"relay:{allowed.net}"
                session.state = Submitter(name, allowed.account, self.stream_named(allowed.stream), _anyone)
                return None
        return self.relay.reject(session, _STRANGER, "", "")

    def disconnected(self, session: Session) -> None:
        pass

    def authenticate(
        self, session: Session, proposal: events.AuthProposed, answer: Callable[[Reply | None], None]
    ) -> None:
        relay, ip, login = self.relay, session.peer, proposal.login

        def refuse(refusal: Reply, seconds: float) -> None:
            relay.reject(session, refusal, login, "")
            relay.hold_back(seconds, lambda: answer(refusal))

        def checked(verdict: Verdict) -> None:
            refusal = self._judge(session, login, verdict)
            if refusal is None:
                relay.guard.succeeded(ip, login, relay.now())
                answer(None)
            else:
                refuse(refusal, relay.guard.failed(ip, login, relay.now()) if refusal is _BAD_LOGIN else 0.0)

        if wait := relay.guard.refuse(ip, login, relay.now()):
            refuse(_TOO_MANY, min(wait, relay.guard.settings.longest_delay))
        else:
            relay.verifier.check(login, proposal.password, checked, ip)

    def _judge(self, session: Session, login: str, verdict: Verdict) -> Reply | None:
        """What a login may do, once its password is known to be right."""
        if verdict is Verdict.BUSY:
            return _TOO_MANY
        if verdict is Verdict.UNSURE:
            return _UNSURE
        connection = self.relay.directory.connection(login)
        if verdict is Verdict.WRONG or connection is None:
            return _BAD_LOGIN
        account = self.relay.directory.account(connection.account)
        if account is None or account.state != "active":
            return _BAD_LOGIN
        if connection.state == "inactive":
            return _NOT_ACTIVATED
        if connection.state == "blocked":
            reason = printable(connection.reason, 100)
            return Reply(535, "5.7.8", f"Connection blocked: {reason}" if reason else "Connection blocked")
        if not connection.may_connect_from(session.peer):
            return _NOT_FROM_HERE
        stream = self.stream_named(connection.stream)
        session.state = Submitter(login, connection.account, stream, connection.may_send_as)
        return None

    def mail(self, session: Session, proposal: events.MailProposed) -> Reply | None:
        refusal = self._unfit() or self._gone(session)
        if refusal is not None:
            return refusal
        refusal = submission.refuse_sender(session.state, proposal.sender)
        return self.relay.reject(session, refusal, proposal.sender, "") if refusal else None

    def _unfit(self) -> Reply | None:
        """Why the node takes no mail now."""
        health = self.relay.health
        if health.stopping or health.spool_fault:
            return UNAVAILABLE
        if health.space_fault:
            return _NO_SPACE
        return _NO_MEMORY if self.relay.memory > MEMORY or self.relay.signer.full else None

    def _gone(self, session: Session) -> Reply | None:
        """A login may have been blocked, or its account suspended, since the session began."""
        account = self.relay.directory.account(session.state.account)
        if account is None or account.state != "active":
            return _SUSPENDED
        if session.login:
            connection = self.relay.directory.connection(session.login)
            if connection is None or connection.state != "active":
                return Reply(421, "4.7.0", "The connection is not active any more")
        return None

    def recipient(self, session: Session, recipient: Recipient) -> Reply | None:
        refusal = submission.refuse_recipient(recipient)
        return self.relay.reject(session, refusal, "", recipient.address) if refusal else None

    def begin(self, session: Session, envelope: Envelope) -> Receiver | Reply:
        return self._unfit() or Intake(self.relay, session, envelope)


class Intake:
    """One message being received."""

    def __init__(self, relay: Relay, session: Session, envelope: Envelope) -> None:
        self.relay = relay
        self.session = session
        self.envelope = envelope
        self.now = relay.now()
        self.identity = relay.identities.block(self.now, len(envelope.recipients))
        self.size = 0
        self._held = 0
        self._head: bytes | None = None
        self._pieces: list[bytes] = []
        self._file: BodyWriter | None = None
        self._over = False
        self._promised = False  # the spool has it: no lost session can take it back
        self._head_too_long = False
        self._eightbit = False
        self._survey: headers.Head | None = None
        self._steering = UNSTEERED
        self._due = self.now
        self._hash: BodyHash | None = None  # of a body that goes to a file; one in memory is hashed at the end

    def write(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self._head_too_long:
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
        if self._head is None:
            self._split()
        refusal = _LONG_HEAD if self._head_too_long else self._refusal()
        if refusal is not None:
            self.abort()
            sender = self.envelope.sender
            answer(self.relay.reject(self.session, refusal, sender, self.envelope.recipients[0].address))
        elif self._file is not None:
            self._file.finish(self._filed)
        else:
            self._keep(b"".join(self._pieces))

    def abort(self) -> None:
        """Nothing will come of it; twice is as good as once."""
        if self._promised:
            return
        self._over = True
        self._pieces.clear()
        self._hold(-self._held)
        if self._file is not None:
            self._file.abandon()

    def _hold(self, size: int) -> None:
        self._held += size
        self.relay.memory += size

    def _split(self) -> None:
        """Parts the header section from the body once all of it is there."""
        self._head, body = headers.split(b"".join(self._pieces))
        self._pieces = [body] if body else []

    def _overflow(self) -> None:
        """More than memory should hold: the body goes to a file.  A header section is never as long as that."""
        content = b"".join(self._pieces)
        head, body = headers.split(content)
        if head == content:
            self._head_too_long = len(content) > headers.HEAD_LIMIT
            self._pieces = [] if self._head_too_long else [content]
            self._hold(sum(map(len, self._pieces)) - self._held)
            return
        self._head = head
        self._pieces = []
        self._hold(len(head) - self._held)
        self._survey = headers.survey(head)
        found = self._keys()
        if found.keys or self._waits_for(found):
            self._hash = BodyHash()
        self._file = self.relay.spool.bodies.create(self.identity)
        self._spill(body)

    def _spill(self, chunk: bytes) -> None:
        assert self._file is not None
        if self._hash is not None:
            self._hash.feed(chunk)
        self._file.write(chunk)
        if self._file.full and self._file.drained is None:
            self.session.pause()
            self._file.drained = self.session.resume

    def _refusal(self) -> Reply | None:
        assert self._head is not None
        if self._survey is None:
            self._survey = headers.survey(self._head)
        steered = submission.steered(self._survey, self.now)
        if isinstance(steered, Reply):
            return steered
        self._steering, self._due = steered, steering.starts(steered, self.now)
        return submission.refuse_head(self.session.state, self._survey)

    def _filed(self, error: OSError | None) -> None:
        if self._over:
            return
        if error is None:
            self._keep(None)
        else:
            self._failed(error)

    def _keep(self, body: bytes | None) -> None:
        """Decides what is changed in it, and has it signed if there are keys."""
        assert self._head is not None and self._survey is not None
        session = self.session
        came = submission.Session(self.relay.node, session.helo, session.peer, self._protocol())
        edits, message_id = submission.edits(came, self.identity, self.envelope, self._survey, self.now, self._due)
        self._sign(edits, body, lambda signed: self._store(body, came, signed, message_id))

    def _sign(self, edits: Edits, body: bytes | None, then: Callable[[Edits], None]) -> None:
        """Adds the signature over what will go out; without a key it is not there, or waited for."""
        assert self._head is not None
        found = self._keys()
        waits = self._waits_for(found)
        if not (found.keys or waits) or (body is None and self._hash is None):
            then(edits)
            return
        hashing = self._hash or BodyHash()
        hashing.feed(body or b"")
        digest = hashing.digest()
        if waits:
            then(msgspec.structs.replace(edits, unsigned=digest))
            return
        signer, stream = self.relay.signer, self.session.state.stream

        def signed(fields: bytes, fault: str) -> None:
            if self._over:
                return
            if fault and signer.keyring.defers(stream):
                then(msgspec.structs.replace(edits, unsigned=digest))
            else:
                then(msgspec.structs.replace(edits, signature=fields))

        signer.sign(header(self._head, edits), digest, found.keys, self.now, signed)

    def _keys(self) -> Found:
        assert self._survey is not None
        return self.relay.signer.keyring.find(self.session.state.account, from_domain(self._survey.froms))

    def _waits_for(self, found: Found) -> bool:
        """Whether the message waits for its key, as its stream says."""
        return bool(found.fault) and self.relay.signer.keyring.defers(self.session.state.stream)

    def _store(self, body: bytes | None, came: submission.Session, edits: Edits, message_id: str) -> None:
        """Makes it durable."""
        assert self._head is not None and self._survey is not None
        session, submitter = self.session, self.session.state
        message = Message(
            self.identity,
            self.now,
            submitter.account,
            submitter.connection,
            submitter.stream,
            msgspec.structs.replace(self.envelope, recipients=()),  # each is kept with its delivery
            edits,
            self._head,
            body,
            self.size,
            message_id,
            self._steering.client,
            self._eightbit,
            self._steering,
        )
        recipients = self.envelope.recipients
        self._deliveries = submission.deliveries(message, recipients, self._due)
        record, entry = submission.reception(message, recipients, came, session.tls)
        self._promised = True
        reception = Reception(message, self._deliveries, encode(record), (entry,), key=self._steering.key)
        self.relay.spool.receive(reception, self._kept)

    def _protocol(self) -> str:
        session = self.session
        return trace.protocol(
            extended=session.extended, tls=session.secure, auth=bool(session.login), utf8=self.envelope.smtputf8
        )

    def _kept(self, outcome: sqlite3.Error | int | None) -> None:
        """The transaction is on disk, or has failed, or the message has come before (then ``outcome`` is the first one,
        and it is answered alike).  That the session is gone by now changes nothing."""
        if isinstance(outcome, Exception):
            self._failed(outcome)
            return
        self._hold(-self._held)
        try:
            if outcome is None:
                self.relay.on_received(self._deliveries)
        finally:  # on disk is on disk, whatever fails behind it
            self._answer(Reply(250, "2.0.0", f"queued as {show(outcome or self.identity)}"))

    def _failed(self, error: Exception) -> None:
        self._promised = False
        self.abort()
        self._answer(_NO_SPACE if "full" in str(error) or getattr(error, "errno", 0) == 28 else _SPOOL_FAILED)


def _anyone(address: str) -> bool:
    return True
