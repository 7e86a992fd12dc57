"""Echoes: what the world says of mail that we sent, in one form, whether its servers say it in the session or their
reports later.  Each passes by in one place (``Node.heard``), for all that draw conclusions from it.
"""

from typing import Literal

import msgspec

from relayd.address import domain_of
from relayd.classify import Class, Decision
from relayd.envelope import Message

Kind = Literal["deferred", "bounced", "expired", "complaint", "unsubscribe"]


class Event(msgspec.Struct, frozen=True):
    """One thing said of one delivery.  ``client`` is who is behind the message, ``domain`` that of its envelope sender;
    ``source`` and ``group`` (of the destination) are "" where they are not known; of what came late ``group`` is the
    provider's name or the mail host.  ``cls`` and ``decision`` are
    there where there was a reply; ``words`` are what was said, ``late`` that it came after the delivery had left."""

    kind: Kind
    time: float
    delivery: int
    recipient: str
    account: str
    connection: str
    client: str
    stream: str
    domain: str
    source: str = ""
    group: str = ""
    cls: Class = "unknown"
    decision: Decision | None = None
    words: str = ""
    late: bool = False


def of_delivery(kind: Kind, message: Message, delivery: int, recipient: str, time: float) -> Event:
    """With what the message tells."""
    return Event(
        kind,
        time,
        delivery,
        recipient,
        message.account,
        message.connection,
        message.client,
        message.stream,
        domain_of(message.envelope.sender),
    )
