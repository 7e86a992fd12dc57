"""What old and careless mail programs do, and mail gets through all the same; where it cannot, they are told why."""

import base64
import select
import smtplib
from collections.abc import Iterator

import pytest

from .conftest import Stage
from .relay import LOGIN, PASSWORD, SENDER, Relay, Sink, Wire, free_port, message, submit

MORE = """
[[listener]]
service = "relay"
listen  = "tcp:{port}:interface=127.0.0.1"
allow   = ["127.0.0.1/32"]
account = "crm"
stream  = "transactional"
{key}
"""


class House:
    """A relay with two listeners more: one that bears with bare line feeds, one that is impatient."""

    def __init__(self, stage: Stage) -> None:
        self.sink: Sink = stage.sink()
        self.lenient, self.impatient = free_port("127.0.0.1"), free_port("127.0.0.1")
        tables = f'[[route]]\ndomain = "*"\nvia = "{self.sink.via}"'
        tables += MORE.format(port=self.lenient, key='bare = "normalise"')
        tables += MORE.format(port=self.impatient, key='idle = "1s"')
        self.relay: Relay = stage.relay(tables).start()
        self.relay.connection()
        self._count = 0

    def address(self) -> bytes:
        """A recipient that no other message has."""
        self._count += 1
        return b"to%d@example.net" % self._count

    def arrived(self, to: bytes) -> bytes:
        return self.sink.content(self.sink.wait(to.decode()))


@pytest.fixture(scope="module")
def house(module_stage: Stage) -> Iterator[House]:
    made = House(module_stage)
    yield made
    assert "Traceback" not in made.relay.log()


def encoded(text: str) -> bytes:
    return base64.b64encode(text.encode())


def conversation(wire: Wire, *turns: tuple[bytes, bytes]) -> None:
    """Each line with the beginning of its answer."""
    for line, answer in turns:
        said = wire.ask(line)
        assert said.startswith(answer), (line, said)


def log_in(wire: Wire) -> None:
    wire.hello()
    conversation(wire, (b"AUTH PLAIN " + encoded(f"\0{LOGIN}\0{PASSWORD}"), b"235"))


def test_lower_case_auth_login_spaces_and_no_brackets(house: House) -> None:
    to = house.address()
    with Wire(house.relay.submissions, tls=True) as wire:
        assert wire.reply().startswith(b"220")
        conversation(
            wire,
            (b"ehlo buchhaltung", b"250"),
            (b"auth login", b"334 VXNlcm5hbWU6\r\n"),
            (encoded(LOGIN) + b" ", b"334 UGFzc3dvcmQ6\r\n"),
            (encoded(PASSWORD), b"235"),
            (b"mail from: <%s>  " % SENDER.encode(), b"250"),
            (b"rcpt to: %s" % to, b"250"),
            (b"data", b"354"),
            (message() + b".", b"250 2.0.0 queued as "),
            (b"quit", b"221"),
        )
    assert b"Hello." in house.arrived(to)


def test_helo_is_enough_to_log_in(house: House) -> None:
    with Wire(house.relay.submissions, tls=True) as wire:
        assert wire.reply().startswith(b"220")
        conversation(wire, (b"AUTH LOGIN", b"503 5.5.1 Say EHLO first"), (b"HELO old.example", b"250"))
        conversation(wire, (b"AUTH PLAIN " + encoded(f"\0{LOGIN}\0{PASSWORD}"), b"235"))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"localhost", b"localhost"),
        (b"[192.168.1.5]", b"[192.168.1.5]"),
        (b"WIN_PC-01", b"WIN_PC-01"),
        (b"my computer", b"my?computer"),
        (b"crm.example.", b"crm.example."),
        (b"(none)", b"?none?"),
        ("Касса".encode(), b"?????"),
        ("Касса".encode("cp1251"), b"?????"),
    ],
)
def test_any_name_will_do_for_ehlo(house: House, name: bytes, shown: bytes) -> None:
    to = house.address()
    with Wire(house.relay.relay) as wire:
        assert wire.reply().startswith(b"220")
        conversation(
            wire,
            (b"EHLO " + name, b"250"),
            (b"MAIL FROM:<%s>" % SENDER.encode(), b"250"),
            (b"RCPT TO:<%s>" % to, b"250"),
            (b"DATA", b"354"),
            (message() + b".", b"250"),
        )
    assert house.arrived(to).startswith(b"Received: from " + shown + b" ([127.0.0.1])\r\n")


def test_rset_before_between_and_within_messages(house: House) -> None:
    several = [house.address() for _ in range(3)]
    with Wire(house.relay.submissions, tls=True) as wire:
        log_in(wire)
        for to in several:
            conversation(
                wire,
                (b"RSET", b"250"),
                (b"MAIL FROM:<%s>" % SENDER.encode(), b"250"),
                (b"RCPT TO:<never@example.net>", b"250"),
                (b"RSET", b"250"),
                (b"MAIL FROM:<%s>" % SENDER.encode(), b"250"),
                (b"RCPT TO:<%s>" % to, b"250"),
                (b"DATA", b"354"),
                (message() + b".", b"250"),
                (b"RSET", b"250"),
            )
    for to in several:
        house.arrived(to)
    assert not house.sink.to("never@example.net")


def test_client_that_waits_for_nothing_but_the_banner(house: House) -> None:
    to = house.address()
    lines = (
        b"EHLO client.example",
        b"AUTH PLAIN " + encoded(f"\0{LOGIN}\0{PASSWORD}"),
        b"MAIL FROM:<%s>" % SENDER.encode(),
        b"RCPT TO:<%s>" % to,
        b"DATA",
        message() + b".",
        b"QUIT",
    )
    with Wire(house.relay.submissions, tls=True) as wire:
        assert wire.reply().startswith(b"220")
        wire.say(b"\r\n".join(lines) + b"\r\n")
        assert [wire.reply()[:3] for _ in lines] == [b"250", b"235", b"250", b"250", b"354", b"250", b"221"]
        assert wire.reply() == b""
    house.arrived(to)


@pytest.mark.parametrize("last", [b"QUIT\r\n", b""])
def test_client_that_hangs_up_without_waiting(house: House, last: bytes) -> None:
    to = house.address()
    with Wire(house.relay.submissions, tls=True) as wire:
        log_in(wire)
        conversation(wire, (b"MAIL FROM:<%s>" % SENDER.encode(), b"250"), (b"RCPT TO:<%s>" % to, b"250"))
        conversation(wire, (b"DATA", b"354"), (message() + b".", b"250"))
        wire.say(last)
    house.arrived(to)


def test_client_that_was_silent_for_too_long_reads_why_at_its_next_command(house: House) -> None:
    with smtplib.SMTP("127.0.0.1", house.impatient, "client.example", timeout=20) as client:
        submit(client, house.address().decode(), message())
        assert select.select([client.sock], [], [], 20)[0]  # the relay has had enough
        assert client.mail(SENDER) == (421, b"4.4.2 Nothing came for too long, closing")


BARE = message(b"one\r\n.two\r\n\r\nthree\r\n").replace(b"\r\n", b"\n")


def test_content_with_bare_line_feeds_is_refused_in_words(house: House) -> None:
    with Wire(house.relay.relay) as wire:
        wire.hello()
        conversation(wire, (b"MAIL FROM:<%s>" % SENDER.encode(), b"250"), (b"RCPT TO:<you@example.net>", b"250"))
        conversation(wire, (b"DATA", b"354"))
        assert wire.ask(BARE + b"\r\n.") == (
            b"550 5.6.0 Message refused: bare CR or LF in it; lines must end with CRLF\r\n"
        )


def test_listener_that_normalises_makes_whole_lines_of_bare_line_feeds(house: House) -> None:
    to = house.address()
    with Wire(house.lenient) as wire:
        wire.hello()
        wire.say(b"MAIL FROM:<%s>\nRCPT TO:<%s>\nDATA\n" % (SENDER.encode(), to))
        assert [wire.reply()[:3] for _ in range(3)] == [b"250", b"250", b"354"]
        assert wire.ask(BARE + b"\r\n.").startswith(b"250")
    assert house.arrived(to).endswith(b"\r\n\r\none\r\n.two\r\n\r\nthree\r\n\r\n")
