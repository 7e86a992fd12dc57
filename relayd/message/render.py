"""What goes out: the original with its edits, for one delivery.  Pure: the same message and delivery give the same
bytes at every attempt, on every node."""

from relayd.envelope import Delivery, Edits, Message
from relayd.message.headers import without


def render(message: Message, delivery: Delivery) -> bytes:
    """The header section for this recipient, its empty line included; the body follows unchanged."""
    return message.edits.signature + header(message.head, message.edits)


def header(head: bytes, edits: Edits) -> bytes:
    """The header section with its edits but for the signature, which is made over just this.
    A message without a header section gets the empty line it lacks, or its body would be read as fields."""
    if edits.drop:
        head = without(head, edits.drop)
    return edits.prepend + (head or b"\r\n")
