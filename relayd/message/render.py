"""What goes out: the original with its edits, for one delivery.  Pure: the same message and delivery give the same
bytes at every attempt, on every node."""

from relayd.envelope import Delivery, Edits, Marks, Message
from relayd.message.headers import without


def render(message: Message, delivery: Delivery, marks: Marks | None = None) -> bytes:
    """The header section for this recipient, its empty line included; the body follows unchanged."""
    if marks is None:
        return message.edits.signature + header(message.head, message.edits)
    return marks.trace + message.edits.signature + header(message.head, message.edits, marks.unsubscribe)


def header(head: bytes, edits: Edits, unsubscribe: bytes = b"") -> bytes:
    """The header section with its edits, and with the recipient's own List-Unsubscribe; without the signature, which is
    made over just this, and without what goes unsigned.
    A message without a header section gets the empty line it lacks, or its body would be read as fields."""
    if edits.drop:
        head = without(head, edits.drop)
    return edits.prepend + unsubscribe + (head or b"\r\n")
