"""Mail of our own making: reports to senders, notices to customers.  From the null sender, for one recipient.

In: a whole message, for whom, on whose account.  Out: the reception of it, with its record and ledger entry.
"""

from relayd.address import domain_of
from relayd.envelope import Delivery, Edits, Envelope, Message, Recipient, queue_name
from relayd.identity import day_of, show
from relayd.message import headers
from relayd.records import Entry, Record, encode
from relayd.spool import Reception

REPORTER = "relayd"  # the connection that it comes by


def message_id_of(identity: int, node: str) -> str:
    return f"<{show(identity)}@{node}>"


def generated(
    content: bytes,
    *,
    identity: int,
    message_id: str,
    now: float,
    account: str,
    stream: str,
    to: str,
    note: str,
    client: str = "",
    smtputf8: bool = False,
) -> Reception:
    """``identity``: of a block for one recipient; ``note``: of the record."""
    eightbit = not content.isascii()
    head, body = headers.split(content)
    message = Message(
        identity,
        now,
        account,
        REPORTER,
        stream,
        Envelope("", eightbit=eightbit, smtputf8=smtputf8),
        Edits(),
        head,
        body,
        len(content),
        message_id,
        client,
        eightbit,
    )
    record = Record(
        kind="Reception",
        time=now,
        message=show(identity),
        account=account,
        connection=REPORTER,
        stream=stream,
        recipients=(to,),
        message_id=message_id,
        size=len(content),
        note=note,
    )
    entry = Entry(day_of(identity), account, stream, "generated")
    delivery = Delivery(identity + 1, message, Recipient(to), queue_name(account, stream, domain_of(to)), now)
    return Reception(message, (delivery,), encode(record), (entry,))
