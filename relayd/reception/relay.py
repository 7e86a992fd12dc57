"""What the doors of one node share: the rooms they ask, the records of rejections, and the node's own condition."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from relayd import catalogue
from relayd.contentfilter import ContentFilter
from relayd.directory import Directory, Verifier
from relayd.guard import Guard
from relayd.identity import Identities
from relayd.listener import Session
from relayd.purse import Purse
from relayd.quotas import Quotas
from relayd.reception.screen import Held, Screen
from relayd.records import Entry, Record, encode
from relayd.reply import Reply, printable
from relayd.reputation import Reputation, Who
from relayd.signing import Signer
from relayd.spool import Spool
from relayd.submission import Stream, Submitter
from relayd.suspicion import Suspicion

MEMORY = 256 << 20  # bytes of content in memory, of all messages being received
STRANGERS = 20  # records of rejections of clients that nobody knows, each second: a guesser must not fill the disk, ...
NEIGHBOURS = 100  # ... of one account: it must not keep those of others out, ...
REJECTIONS = 500  # ... and of all of them; above it they are only counted
HELD = 100  # answers held back at once


class Health(Protocol):
    """What the node knows of itself; each is "" while all is well, else the reason in words."""

    spool_fault: str
    space_fault: str
    stopping: bool


class StreamsOf(Protocol):
    """Streams as they hold for an account."""

    def incoming(self, account: str, name: str) -> Stream: ...
    def named(self, account: str, names: tuple[str, ...]) -> tuple[str, ...]: ...
    def lists(self, account: str, stream: str, login: str) -> tuple[str, ...]: ...


class Desk:
    """What a session is about: who submits, by which password (``SubmissionConnection.secret``), the version of the
    directory that says so, and what was found of the transaction's recipients: how many get no copy because of a list
    (``suppressed``) or their address (``faulty``)."""

    __slots__ = ("counted", "dropped", "faulty", "secret", "submitter", "suppressed", "version")

    def __init__(self, submitter: Submitter, secret: tuple[float, int] | None = None) -> None:
        self.submitter = submitter
        self.secret = secret
        self.version = -1  # the first message asks again
        self.counted: tuple[str, ...] = ()
        self.dropped: dict[str, Any] = {}
        self.suppressed = 0
        self.faulty = 0


def who(submitter: Submitter, client: str = "", sender: str = "") -> Who:
    """For whom something is submitted, as reputation counts it; the client is not known before the content."""
    return "", "", submitter.account, client or submitter.client, submitter.connection, sender


class Relay:
    """See the module.  ``later`` makes a call after some seconds."""

    def __init__(
        self,
        node: str,
        spool: Spool,
        directory: Directory,
        verifier: Verifier,
        health: Health,
        identities: Identities,
        now: Callable[[], float],
        streams: StreamsOf,
        screen: Screen,
        purse: Purse,
        signer: Signer | None = None,
        guard: Guard | None = None,
        later: Callable[[float, Callable[[], None]], object] = lambda seconds, call: call(),
    ) -> None:
        self.node = node
        self.spool = spool
        self.directory = directory
        self.verifier = verifier
        self.health = health
        self.identities = identities
        self.now = now
        self.streams = streams
        self.screen = screen
        self.purse = purse
        self.signer = signer or Signer()
        self.guard = guard or Guard()
        self.reputation = Reputation()
        self.quotas = Quotas()
        self.client_quotas = Quotas()  # senders name clients as they like: many names must push out no account's limits
        self.sessions: Counter[str] = Counter()
        self.memory = 0
        # The domain of our return path ("": none), for an account and From domain, and whether a key of that signs.
        self.returns: Callable[[str, str, bool], str] = lambda account, domain, signed: ""
        self.filter: ContentFilter | None = None
        self.suspicion: Suspicion | None = None
        self.on_received: Callable[[Any], None] = lambda deliveries: None
        # Since the start: messages that were answered with 250, those of them that came by TLS, their recipients who
        # get a copy, their bytes; refusals by code; times that the node was not fit for mail.
        self.messages = self.secured = self.recipients = self.bytes = self.unfits = 0
        self.refusals: Counter[int] = Counter()
        self._later = later
        self._held = 0
        self._rejections: list[bytes] = []
        self._told: Counter[str] = Counter()  # of those, by account
        self._rejected: list[Entry] = []

    def unfit(self) -> Reply | None:
        """Why the node takes no mail now."""
        reply = self._unfit()
        if reply is not None:
            self.unfits += 1
        return reply

    def _unfit(self) -> Reply | None:
        health = self.health
        if health.stopping or health.spool_fault:
            return catalogue.UNAVAILABLE
        if health.space_fault:
            return catalogue.NO_SPACE
        return catalogue.NO_MEMORY if self.memory > MEMORY or self.signer.full else None

    def refuse_address(self, session: Session) -> Reply | None:
        """What a client at a blocked address hears instead of the banner."""
        block = self.directory.blocks.networks.find(session.peer) if self.directory.blocks.networks else None
        if block is None:
            return None
        return self.reject(session, catalogue.ADDRESS_SHUT_OUT if block.until else catalogue.ADDRESS_BLOCKED, "", "")

    def barred_address(self, session: Session) -> Reply | None:
        """The last word for one whose address was blocked meanwhile."""
        networks = self.directory.blocks.networks
        return catalogue.ADDRESS_SHUT_OUT if networks and networks.find(session.peer) else None

    def payer(self, account: str) -> str:
        """Who pays for an account's mail: it, or the nearest above it that has a balance; "" if nobody does."""
        balances = self.directory.balances
        return next((owner for owner in self.directory.lineage(account) if balances.balance(owner)), "")

    def reject(self, session: Session, reply: Reply, sender: str, recipient: str, note: str = "") -> Reply:
        """Keeps the record of a policy refusal, with a note besides; gives the reply."""
        submitter = session.state.submitter if session.state else None
        account, stream = (submitter.account, submitter.streams[0]) if submitter else ("", "")
        now = self.now()
        if submitter and reply.permanent:
            self.reputation.event(who(submitter), "refused", now)
        self.refusals[reply.code] += 1
        self._rejected.append(Entry(int(now // 86400), account, stream, "rejected"))
        if len(self._rejections) < REJECTIONS and self._told[account] < (NEIGHBOURS if submitter else STRANGERS):
            self._told[account] += 1
            record = Record(
                kind="Rejection",
                time=now,
                account=account,
                connection=submitter.connection if submitter else "",
                stream=stream,
                sender=printable(sender),
                recipient=printable(recipient),
                client=submitter.client if submitter else "",
                note=f"{reply} (from {session.peer})" + (f"; {note}" if note else ""),
            )
            self._rejections.append(encode(record))
        return reply

    def note_held(self, desk: Desk, held: Held) -> None:
        """A recipient gets no copy: too many of them speak against who submits."""
        if self.suspicion is None or held.reply is catalogue.LISTS_UNREADABLE:
            return
        desk.suppressed += held.listed
        desk.faulty += not held.listed
        submitter = desk.submitter
        self.suspicion.refused(submitter.account, submitter.connection, faulty=not held.listed, now=self.now())

    def flush_rejections(self) -> None:
        """Call about once a second."""
        if self._rejected:
            lines, entries = self._rejections, self._rejected
            self._rejections, self._rejected = [], []
            self._told.clear()
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
