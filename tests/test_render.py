import msgspec

from relayd.envelope import Delivery, Edits, Message
from relayd.message.render import render
from tests.spool_kit import Mail


def made(head: bytes, edits: Edits) -> tuple[Message, Delivery]:
    delivery = Mail().reception().deliveries[0]
    message = msgspec.structs.replace(delivery.message, head=head, edits=edits)
    return message, delivery


def test_without_edits_the_original_goes_out() -> None:
    assert render(*made(b"A: 1\r\n\r\n", Edits())) == b"A: 1\r\n\r\n"


def test_added_fields_stand_before_the_original() -> None:
    assert render(*made(b"A: 1\r\n\r\n", Edits(b"R: 2\r\n"))) == b"R: 2\r\nA: 1\r\n\r\n"


def test_dropped_fields_are_left_out_of_the_original_only() -> None:
    assert render(*made(b"Bcc: x\r\nA: 1\r\n\r\n", Edits(b"Bcc: ours\r\n", ("bcc",)))) == b"Bcc: ours\r\nA: 1\r\n\r\n"


def test_a_message_without_a_header_section_gets_the_empty_line_it_lacks() -> None:
    assert render(*made(b"", Edits(b"R: 2\r\n"))) == b"R: 2\r\n\r\n"


def test_a_message_that_begins_with_its_empty_line_gets_no_second() -> None:
    assert render(*made(b"\r\n", Edits(b"R: 2\r\n"))) == b"R: 2\r\n\r\n"


def test_the_same_delivery_gives_the_same_bytes_every_time() -> None:
    message, delivery = made(b"A: 1\r\nBcc: x\r\n\r\n", Edits(b"R: 2\r\n", ("bcc",)))
    assert render(message, delivery) == render(message, delivery)
