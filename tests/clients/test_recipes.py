"""Every recipe of ``docs/clients.md``, run as it stands there, does what the page says of it."""

import base64
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email import message_from_bytes
from email.policy import default

import pytest

from tests.e2e.relay import LOGIN, PASSWORD, SENDER, Wire, message, until

from .conftest import House
from .kinds import CLIENTS, FILE, NAME, SUBJECT, TABLE, TEXT, Client, each

STRANGER = "ceo@bank.example"
DOORS = [
    pytest.param(client, smtps, id=f"{client.name} {'465' if smtps else '587'}")
    for client in CLIENTS
    for smtps in (True, False)
    if client.smtps or not smtps
]


def lines(text: str) -> list[str]:
    """A text without what mail programs do as they like: the kind of line ends, and empty lines at the end."""
    return text.rstrip().splitlines()


@pytest.mark.parametrize(("client", "smtps"), DOORS)
def test_the_letter_arrives_as_it_was_written(house: House, client: Client, smtps: bool) -> None:
    done = house.run(client, house.relay, smtps=smtps)
    assert done.code == 0, done.said
    to, copy, hidden = done.to
    for address in done.to:
        found = house.sink.wait(address)
        content = house.sink.content(found)
        arrived = message_from_bytes(content, policy=default)
        (author,) = arrived["From"].addresses
        assert (author.display_name, author.addr_spec) == (NAME, SENDER)
        assert (arrived["To"], arrived["Cc"], arrived["Subject"]) == (to, copy, SUBJECT)
        assert hidden.encode() not in content
        text, (attachment,) = arrived.get_body(("plain",)), arrived.iter_attachments()
        assert text is not None and lines(text.get_content()) == lines(TEXT)
        assert attachment.get_filename() == FILE
        assert lines(attachment.get_payload(decode=True).decode()) == lines(TABLE)
        assert all(word in f"{found['mail']} {found['rcpt']}" for word in client.dsn), found
        if client.tells_id:
            (identity,) = re.findall(r"queued as ([0-9a-f]{16})", done.said)
            assert f" id {identity}".encode() in content


def refusal(house: House, *said: bytes) -> str:
    """The relay's words to the last of these lines, after a login."""
    with Wire(house.relay.submissions, tls=True) as wire:
        wire.hello()
        wire.ask(b"AUTH PLAIN " + base64.b64encode(f"\0{LOGIN}\0{PASSWORD}".encode()))
        answer = [wire.ask(line) for line in said][-1].decode()
    code, enhanced, text = answer.rstrip().split(" ", 2)
    assert code[0] == "5" and enhanced[0] == "5"
    return text


@each()
def test_the_user_reads_why_the_login_failed(house: House, client: Client) -> None:
    done = house.run(client, house.relay, password="wrong")
    assert done.code not in (0, 75)
    assert client.login_failed in done.said


@each()
def test_the_user_reads_which_sender_is_not_the_logins(house: House, client: Client) -> None:
    done = house.run(client, house.relay, sender=STRANGER)
    assert done.code not in (0, 75)
    words = refusal(house, b"MAIL FROM:<%s>" % STRANGER.encode())
    assert STRANGER in words and words in done.said and "553" in done.said


@each(given=True)
def test_the_user_reads_which_author_is_not_the_logins(house: House, client: Client) -> None:
    done = house.run(client, house.relay, author=STRANGER)
    assert done.code not in (0, 75)
    transaction = (b"MAIL FROM:<%s>" % SENDER.encode(), b"RCPT TO:<you@example.net>", b"DATA")
    words = refusal(house, *transaction, b"From: %s\r\n\r\n." % STRANGER.encode())
    assert STRANGER in words and words in done.said and "550" in done.said


@each()
def test_a_4xx_is_told_from_a_5xx(house: House, client: Client) -> None:
    done = house.run(client, house.full)
    assert done.code == client.temporary
    assert "452" in done.said and "Insufficient system storage, try again later" in done.said


@each()
def test_when_one_recipient_is_refused_the_others_get_it_or_nobody_does(house: House, client: Client) -> None:
    done = house.run(client, house.narrow)
    assert "Too many recipients for one message" in done.said
    assert done.code == 75 or client.temporary != 75
    if client.spares:
        until(lambda: sum(len(house.sink.to(address)) for address in done.to) == 2, what="the others get it")
    house.narrow.send(done.to[0], message())  # comes behind all that was accepted before
    until(lambda: house.sink.to(done.to[0])[-1:] and b"Hello." in house.sink.content(house.sink.to(done.to[0])[-1]))
    assert sum(len(house.sink.to(address)) for address in done.to) == 2 * client.spares + 1


@pytest.mark.parametrize(("client", "smtps"), DOORS)
def test_a_server_without_a_trusted_certificate_gets_neither_password_nor_letter(
    house: House, client: Client, smtps: bool
) -> None:
    done = house.run(client, house.relay, smtps=smtps, trusts=house.full)
    assert done.code and "queued as" not in done.said and "535" not in done.said


@each()
def test_a_connection_that_is_lost_is_no_refusal(house: House, client: Client) -> None:
    with closing_server() as port:
        done = house.run(client, house.relay, smtps=False, port=port)
    assert done.code == 75 or client.temporary != 75
    assert done.code and "queued as" not in done.said


@contextmanager
def closing_server() -> Iterator[int]:
    """A port whose server greets, hears one line and hangs up."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                with listening.accept()[0] as connection:
                    connection.sendall(b"220 relay.example ESMTP\r\n")
                    connection.recv(1000)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
