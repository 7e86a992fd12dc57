"""Submission policy: may this message be sent, and what becomes of it when it is.

Enter: who submits, the envelope, the header section.  Leave: a refusal (an SMTP reply), or the message with its edits
and one delivery per recipient, ready for the spool.  RFC 6409; the refusals' words are the error catalogue's.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from relayd import catalogue
from relayd.address import domain_of
from relayd.directory import State
from relayd.directory.rows import DomainCheck
from relayd.envelope import UNSTEERED, Delivery, Edits, Envelope, Message, Recipient, Returns, Steering, queue_name
from relayd.identity import day_of, show
from relayd.message import steering, trace
from relayd.message.headers import Head
from relayd.message.unsubscribe import offer
from relayd.quotas import Limits, Want
from relayd.records import TERM_OF, Entry, Record, RecordKind, of_message
from relayd.reply import Reply, printable
from relayd.validation import OFF, Rules

MAX_HOPS = 50  # Received fields at which a message runs in a circle: a relay behind a CRM sees a handful

# Fields that are no one else's business (RFC 5322 section 3.6.3) or that only the last server writes (RFC 5321 4.4).
DROPPED = ("bcc", "resent-bcc", "return-path")

Fate = Literal["take", "mark", "defer", "refuse"]
# What becomes of a message, by the action that a content filter advises (the words are rspamd's).
FATES: dict[str, Fate] = {
    "no action": "take",
    "greylist": "take",  # of customers, who come back anyway, it would only make their mail late
    "add header": "mark",
    "rewrite subject": "mark",  # a subject is its author's
    "soft reject": "defer",
    "reject": "refuse",
}


class Stream(msgspec.Struct, frozen=True):
    """What a stream of an account is to mail that comes in: what its recipients are held against, and how much there
    may be.  ``lists`` are names of suppression lists, whoever owns one; ``defers``: mail waits for its DKIM key;
    ``unsubscribe``: it says where to unsubscribe; ``filtered``: a content filter sees it, if there is one."""

    name: str
    validation: Rules = OFF
    lists: tuple[str, ...] = ()
    limits: Limits = Limits()
    defers: bool = False
    unsubscribe: bool = False
    filtered: bool = True


class Submitter(msgspec.Struct, frozen=True):
    """Who is behind a session, a connection that logged in or a named client network, and what he may do.

    ``streams``: the first is what mail goes by that says nothing.  ``client``: the sub-account it is, if it is one.
    ``per_message`` and ``per_recipient``: what each takes of the limits."""

    connection: str
    account: str
    streams: tuple[str, ...]
    may_send_as: Callable[[str], bool]
    client: str = ""
    domain_check: DomainCheck = "off"
    payer: str = ""
    per_message: tuple[Want, ...] = ()
    per_recipient: tuple[Want, ...] = ()
    client_limits: Limits = Limits()


class Session(msgspec.Struct, frozen=True):
    """What the trace fields tell of the session a message came by."""

    node: str
    helo: str
    peer: str
    protocol: str


def refuse_sender(submitter: Submitter, sender: str) -> Reply | None:
    """At MAIL.  The null sender is for reports and automatic answers: their From is held to the connection later."""
    if sender and not submitter.may_send_as(sender):
        return catalogue.SENDER_NOT_ALLOWED(sender)
    return None


def refuse_recipient(recipient: Recipient) -> Reply | None:
    """At RCPT."""
    return None if domain_of(recipient.address) else catalogue.NO_RECIPIENT_DOMAIN


def refuse_head(submitter: Submitter, head: Head) -> Reply | None:
    """At the end of the content: the author that people see, and who sent it for him, must be the connection's too."""
    if not head.froms:
        return catalogue.NO_FROM
    if head.from_fields > 1:
        return catalogue.TWO_FROMS
    for address in head.froms:
        if not address or not submitter.may_send_as(address):
            return catalogue.FROM_NOT_ALLOWED(printable(address or "without an address", 255))
    for address in head.senders:  # some clients show it before the author: "boss@x on behalf of you@y"
        if not address or not submitter.may_send_as(address):
            return catalogue.SENDER_HEADER_NOT_ALLOWED(printable(address or "without an address", 255))
    return catalogue.LOOP if head.received >= MAX_HOPS else None


def spoofs(refusal: Reply) -> bool:
    """Whether a refusal of ``refuse_head`` is that of another's name, not of a fault in form."""
    return refusal.enhanced == "5.7.1"


def refuse_domain(state: State | None) -> Reply | None:
    """Of a sender's domain, by what the directory says of it."""
    if state == "verified":
        return None
    return catalogue.DOMAIN_UNVERIFIED if state else catalogue.DOMAIN_UNKNOWN


def refuse_stream(submitter: Submitter, name: str) -> Reply:
    """Of a message that names a stream which is none of the connection's."""
    return catalogue.STREAM_NOT_ALLOWED(printable(name, 64), ", ".join(submitter.streams))


def list_names(names: Iterable[str], accounts: Sequence[str], login: str) -> tuple[str, ...]:
    """The full names of suppression lists that are called so: the relay's, the accounts', the connection's."""
    owners = ("", *(f"account:{account}/" for account in accounts), f"connection:{login}/")
    return tuple(dict.fromkeys(owner + name for name in names for owner in owners))


def steered(head: Head, now: float) -> Steering | Reply:
    """What the message's own headers ask for, or the refusal of one that cannot be followed."""
    if not head.steering:
        return UNSTEERED
    try:
        return steering.read(head.steering, now)
    except steering.SteeringError as error:
        return catalogue.STEERING(error)


def edits(session: Session, identity: int, envelope: Envelope, head: Head, now: float, due: float) -> tuple[Edits, str]:
    """What is changed in the header section, and the message's Message-ID (its own, or the one it is given).  A Date
    that is missing is that of the first attempt, ``due``: mail that waited for its Send-At is not weeks old."""
    recipient = envelope.recipients[0].address if len(envelope.recipients) == 1 else ""
    queue_id = show(identity)
    prepend = trace.received(session.node, queue_id, session.protocol, session.helo, session.peer, recipient, now)
    message_id = head.message_id
    if not message_id:
        message_id = f"<{queue_id}@{session.node}>"
        prepend += f"Message-ID: {message_id}\r\n".encode()
    if b"date" not in head.names:
        prepend += f"Date: {trace.date(due)}\r\n".encode()
    drop = tuple(name for name in DROPPED if name.encode() in head.names)
    if head.steering:
        drop += tuple(dict.fromkeys(name.decode() for name, _ in head.steering))
    return Edits(prepend, drop), message_id


def returning(edits: Edits, head: bytes, domain: str, key: int, *, unsubscribe: bool) -> Edits:
    """With a return path of ours at this domain, by the key of this id; and where ``unsubscribe`` is wanted, with our
    address for that, unless the sender's own signature covers what he says of it."""
    said = offer(head, domain) if unsubscribe else None
    text, drop = (said.text, said.drop) if said else ("", ())
    return msgspec.structs.replace(edits, drop=edits.drop + drop, returns=Returns(domain, key, text))


def deliveries(message: Message, recipients: tuple[Recipient, ...], due: float) -> tuple[Delivery, ...]:
    """One for each recipient."""
    return tuple(
        Delivery(
            message.id + n,
            message,
            recipient,
            queue_name(message.account, message.stream, domain_of(recipient.address)),
            due,
        )
        for n, recipient in enumerate(recipients, 1)
    )


def reception(
    message: Message, to: tuple[Recipient, ...], session: Session, tls: str, warning: str = ""
) -> tuple[Record, Entry]:
    """The record of a reception and what it adds to the ledger."""
    recipients = tuple(recipient.address for recipient in to)
    note = f"from {session.peer} ({trace.safe_name(session.helo)}) by {session.protocol} {tls}".rstrip()
    note += f"; {warning}" if warning else ""
    quiet = tuple(recipient.address for recipient in to if recipient.notify and "FAILURE" not in recipient.notify)
    record = of_message("Reception", message, message.received, recipients=recipients, note=note, quiet=quiet)
    return record, Entry(day_of(message.id), message.account, message.stream, "received", len(recipients))


def kept_from(
    message: Message, held: Iterable[tuple[Recipient, str, bool]], before: int
) -> Iterator[tuple[Record, Entry]]:
    """The records of recipients that get no copy, and what they add to the ledger: (recipient, why, whether it is
    dropped rather than suppressed).  Their delivery ids follow those of the ``before`` that do."""
    for n, (recipient, why, drop) in enumerate(held, before + 1):
        kind: RecordKind = "Drop" if drop else "Suppression"
        told = {"delivery": show(message.id + n), "recipient": recipient.address, "received": message.received}
        record = of_message(kind, message, message.received, **told, note=why)
        yield record, Entry(day_of(message.id), message.account, message.stream, TERM_OF[kind])
