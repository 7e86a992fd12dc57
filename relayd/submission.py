"""Submission policy: may this message be sent, and what becomes of it when it is.

Enter: who submits, the envelope, the header section.  Leave: a refusal (an SMTP reply), or the message with its edits
and one delivery per recipient, ready for the spool.  RFC 6409; the refusals' words are the error catalogue's.
"""

from collections.abc import Callable

import msgspec

from relayd.address import domain_of
from relayd.envelope import UNSTEERED, Delivery, Edits, Envelope, Message, Recipient, Steering, queue_name
from relayd.identity import day_of, show
from relayd.message import steering, trace
from relayd.message.headers import Head
from relayd.records import Entry, Record
from relayd.reply import Reply, printable

MAX_HOPS = 50  # Received fields at which a message runs in a circle: a relay behind a CRM sees a handful

# Fields that are no one else's business (RFC 5322 section 3.6.3) or that only the last server writes (RFC 5321 4.4).
DROPPED = ("bcc", "resent-bcc", "return-path")

NO_FROM = Reply(550, "5.6.0", "Message rejected: Missing required «From» header")
LOOP = Reply(554, "5.4.6", "Too many Received fields: the message runs in a circle")
NO_DOMAIN = Reply(550, "5.1.2", "A recipient needs a domain")


class Submitter(msgspec.Struct, frozen=True):
    """Who is behind a session: a connection that logged in, or a named client network of a relay listener."""

    connection: str
    account: str
    stream: str
    may_send_as: Callable[[str], bool]


class Session(msgspec.Struct, frozen=True):
    """What the trace fields tell of the session a message came by."""

    node: str
    helo: str
    peer: str
    protocol: str


def refuse_sender(submitter: Submitter, sender: str) -> Reply | None:
    """At MAIL.  The null sender is for reports and automatic answers: their From is held to the connection later."""
    if sender and not submitter.may_send_as(sender):
        return Reply(553, "5.7.1", f"Sender <{sender}> is not allowed for this login")
    return None


def refuse_recipient(recipient: Recipient) -> Reply | None:
    """At RCPT."""
    return None if domain_of(recipient.address) else NO_DOMAIN


def refuse_head(submitter: Submitter, head: Head) -> Reply | None:
    """At the end of the content: the sender people see must be the connection's too."""
    if not head.froms:
        return NO_FROM
    for address in head.froms:
        if not address or not submitter.may_send_as(address):
            return Reply(
                550, "5.7.1", f"From {printable(address or 'without an address')} is not allowed for this login"
            )
    return LOOP if head.received >= MAX_HOPS else None


def steered(head: Head, now: float) -> Steering | Reply:
    """What the message's own headers ask for, or the refusal of one that cannot be followed."""
    if not head.steering:
        return UNSTEERED
    try:
        return steering.read(head.steering, now)
    except steering.SteeringError as error:
        return Reply(550, "5.6.0", str(error))


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


def reception(message: Message, to: tuple[Recipient, ...], session: Session, tls: str) -> tuple[Record, Entry]:
    """The record of a reception and what it adds to the ledger."""
    recipients = tuple(recipient.address for recipient in to)
    record = Record(
        kind="Reception",
        time=message.received,
        message=show(message.id),
        account=message.account,
        connection=message.connection,
        stream=message.stream,
        sender=message.envelope.sender,
        recipients=recipients,
        message_id=message.message_id,
        size=message.size,
        client=message.client,
        track_id=message.steering.track_id,
        tags=message.steering.tags,
        meta=message.steering.meta,
        note=f"from {session.peer} ({trace.safe_name(session.helo)}) by {session.protocol} {tls}".rstrip(),
    )
    return record, Entry(day_of(message.id), message.account, message.stream, "received", len(recipients))
