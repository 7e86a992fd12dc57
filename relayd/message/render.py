"""What goes out: the original with its edits, for one delivery.  Pure: the same message and delivery give the same
bytes at every attempt, on every node."""

from relayd.envelope import Delivery, Message
from relayd.message.headers import without


def render(message: Message, delivery: Delivery) -> bytes:
    """The header section for this recipient, its empty line included; the body follows unchanged.
    A message without a header section gets the empty line it lacks, or its body would be read as fields."""
    head = without(message.head, message.edits.drop) if message.edits.drop else message.head
    return message.edits.prepend + (head or b"\r\n")
