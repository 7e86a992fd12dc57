"""Mail of real clients over every door arrives byte for byte, and nobody else's arrives at all."""

import base64
import random
import re
import shutil
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Stage
from .relay import LOGIN, PASSWORD, SENDER, Relay, Sink, Wire, message, queue_id, submit, until

_rng = random.Random(5321)
_LINES = b"".join(base64.b64encode(_rng.randbytes(54)) + b"\r\n" for _ in range(2000))

CONTENTS = {
    "8-bit": message("Дорогой друг, grüß Gott\r\n".encode() + bytes(range(128, 256)) + b"\r\n"),
    "dot-stuffed": message(b".\r\n..\r\n.hidden\r\n...\r\n.. two\r\n. one\r\nend.\r\n.last\r\n"),
    "10 MB": message((b".8bit \xc3\xa9\r\n" + _LINES) * 69),
    "empty body": message(b""),
    "no line end in the header but the last": message(b"", b"X-Folded: one\r\n\ttwo\r\n three\r\n"),
    "long line": message(b"x" * 998 + b"\r\n"),
    "blank lines at the end": message(b"text\r\n\r\n\r\n"),
}


class House:
    """A running relay, the sink behind it, and files to send from."""

    def __init__(self, stage: Stage) -> None:
        self.home = stage.home
        self.sink: Sink = stage.sink(options=("--utf8",))
        self.relay: Relay = stage.relay(f'[[route]]\ndomain = "*"\nvia = "{self.sink.via}"').start()
        self.relay.connection()
        self._count = 0

    def address(self) -> str:
        """A recipient that no other message has."""
        self._count += 1
        return f"to{self._count}@example.net"

    def file(self, content: bytes) -> Path:
        path = self.home / "content"
        path.write_bytes(content)
        return path


@pytest.fixture(scope="module")
def house(module_stage: Stage) -> Iterator[House]:
    yield House(module_stage)


def trusting(house: House) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(house.relay.home / "one.example.pem"))


def smtplib_465(house: House, to: str, content: bytes) -> None:
    with smtplib.SMTP_SSL("127.0.0.1", house.relay.submissions, "client.example", context=trusting(house)) as client:
        client.login(LOGIN, PASSWORD)
        submit(client, to, content)


def smtplib_587(house: House, to: str, content: bytes) -> None:
    with smtplib.SMTP("127.0.0.1", house.relay.submission, "client.example") as client:
        client.starttls(context=trusting(house))
        client.login(LOGIN, PASSWORD)
        submit(client, to, content)


def smtplib_relay(house: House, to: str, content: bytes) -> None:
    house.relay.send(to, content)


def curl(house: House, to: str, content: bytes, url: str, *options: str) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not here")
    credentials = ("--cacert", str(house.relay.home / "one.example.pem"), "--user", f"{LOGIN}:{PASSWORD}")
    upload = ("--upload-file", str(house.file(content)))
    said = subprocess.run(
        ["curl", "-sS", "--url", url, *options, "--mail-from", SENDER, "--mail-rcpt", to, *credentials, *upload],
        capture_output=True,
        timeout=60,
    )
    assert said.returncode == 0, said.stderr


def curl_465(house: House, to: str, content: bytes) -> None:
    curl(house, to, content, f"smtps://127.0.0.1:{house.relay.submissions}/client.example")


def curl_587(house: House, to: str, content: bytes) -> None:
    curl(house, to, content, f"smtp://127.0.0.1:{house.relay.submission}/client.example", "--ssl-reqd")


def swaks(house: House, to: str, content: bytes, port: int, *options: str) -> None:
    if not shutil.which("swaks"):
        pytest.skip("swaks is not here")
    server = ("--server", "127.0.0.1", "--port", str(port), "--helo", "client.example")
    credentials = ("--auth-user", LOGIN, "--auth-password", PASSWORD)
    data = f"@{house.file(content + b'.' + bytes((13, 10)))}"
    said = subprocess.run(
        ["swaks", *server, *options, *credentials, "--from", SENDER, "--to", to, "--no-data-fixup", "--data", data],
        capture_output=True,
        timeout=60,
    )
    assert said.returncode == 0, said.stdout[-2000:] + said.stderr


def swaks_465(house: House, to: str, content: bytes) -> None:
    swaks(house, to, content, house.relay.submissions, "--tls-on-connect", "--auth", "PLAIN")


def swaks_587(house: House, to: str, content: bytes) -> None:
    swaks(house, to, content, house.relay.submission, "--tls", "--auth", "LOGIN")


def bdat_465(house: House, to: str, content: bytes) -> None:
    """CHUNKING: pieces that end wherever they end, all sent before an answer is read."""
    with Wire(house.relay.submissions, tls=True) as wire:
        assert b"CHUNKING" in wire.hello()
        plain = base64.b64encode(f"\0{LOGIN}\0{PASSWORD}".encode())
        assert wire.ask(b"AUTH PLAIN " + plain).startswith(b"235")
        pieces = [content[at : at + 100_003] for at in range(0, len(content), 100_003)]
        said = b"MAIL FROM:<%s> BODY=8BITMIME\r\nRCPT TO:<%s>\r\n" % (SENDER.encode(), to.encode())
        said += b"".join(b"BDAT %d\r\n%s" % (len(piece), piece) for piece in pieces)
        wire.say(said + b"BDAT 0 LAST\r\n")
        replies = [wire.reply() for _ in range(len(pieces) + 3)]
        assert all(reply.startswith(b"250") for reply in replies), replies
        assert queue_id(replies[-1])


Client = Callable[[House, str, bytes], None]
CLIENTS: list[Client] = [
    smtplib_465,
    smtplib_587,
    smtplib_relay,
    curl_465,
    curl_587,
    swaks_465,
    swaks_587,
    bdat_465,
]
NEEDS_DOTS = {swaks_465, swaks_587}  # what they are told not to touch they do not stuff either


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_content_arrives_byte_for_byte_behind_one_received_field(house: House, client: Client, kind: str) -> None:
    content = CONTENTS[kind]
    to = house.address()
    sent = content
    if client in NEEDS_DOTS:
        sent = content.replace(b"\r\n.", b"\r\n..")
    client(house, to, sent)
    arrived = house.sink.content(house.sink.wait(to))
    whole = arrived.endswith(content)  # nobody wants to read 10 MB of difference
    assert whole
    added = arrived[: -len(content)]
    protocol = "ESMTP" if client is smtplib_relay else "ESMTPSA"
    assert re.fullmatch(
        rf"Received: from client\.example \(\[127\.0\.0\.1\]\)\r\n\tby relay\.test\.example \(relayd\) with {protocol} "
        rf"id [0-9a-f]{{16}}\r\n\tfor <{to}>;\r\n\t\w{{3}}, \d+ \w{{3}} \d{{4}} \d\d:\d\d:\d\d \+0000\r\n",
        added.decode(),
    ), added


def test_content_in_bits_and_pieces_arrives_byte_for_byte(house: House) -> None:
    content = CONTENTS["dot-stuffed"]
    to = house.address()
    with Wire(house.relay.relay) as wire:
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire.hello()
        for line in (b"MAIL FROM:<%s>" % SENDER.encode(), b"RCPT TO:<%s>" % to.encode(), b"DATA"):
            wire.ask(line)
        for byte in content.replace(b"\r\n.", b"\r\n..") + b".\r\n":
            wire.say(bytes([byte]))
        assert wire.reply().startswith(b"250")
    assert house.sink.content(house.sink.wait(to)).endswith(content)


def test_smtputf8_addresses_and_headers_arrive_as_they_are(house: House) -> None:
    content = message("тело\r\n".encode(), "X-Имя: Ünï\r\n".encode().replace("X-Имя".encode(), b"X-Name"))
    content = content.replace(b"Subject: Hello", "Subject: Привет".encode())
    to = "получатель@пример.example"
    with smtplib.SMTP_SSL("127.0.0.1", house.relay.submissions, "client.example", context=trusting(house)) as client:
        client.login(LOGIN, PASSWORD)
        client.command_encoding = "utf-8"
        submit(client, to, content, options=("SMTPUTF8", "BODY=8BITMIME"))
    found = house.sink.wait(to)
    assert "SMTPUTF8" in found["mail"]
    arrived = house.sink.content(found)
    assert arrived.endswith(content) and b"with UTF8SMTPSA id" in arrived


def test_bcc_and_return_path_do_not_arrive_and_the_rest_does(house: House) -> None:
    to = house.address()
    extra = b"Return-Path: <x@crm.example>\r\nBcc: a@b.example,\r\n c@d.example\r\nX-Kept: yes\r\n"
    house.relay.send(to, message(b"text\r\n", extra))
    arrived = house.sink.content(house.sink.wait(to))
    assert b"Bcc" not in arrived and b"c@d.example" not in arrived and b"Return-Path" not in arrived
    assert arrived.endswith(b"\r\nX-Kept: yes\r\n\r\ntext\r\n")


def test_missing_message_id_and_date_are_added(house: House) -> None:
    to = house.address()
    identity = house.relay.send(to, b"From: <%s>\r\n\r\ntext\r\n" % SENDER.encode())
    arrived = house.sink.content(house.sink.wait(to))
    assert b"\r\nMessage-ID: <%s@relay.test.example>\r\nDate: " % identity.encode() in arrived


@pytest.mark.parametrize(
    "content", [b"no header section at all\r\n", b"\r\nonly a body\r\n", b"Subject: x\r\n\r\nx\r\n"]
)
def test_message_without_from_is_refused(house: House, content: bytes) -> None:
    with house.relay.client() as client:
        client.mail(SENDER)
        client.rcpt(house.address())
        assert client.data(content) == (550, b"5.6.0 Message rejected: Missing required \xc2\xabFrom\xc2\xbb header")


def test_each_recipient_gets_the_message_on_its_own(house: House) -> None:
    several = [house.address() for _ in range(5)]
    with house.relay.client() as client:
        client.mail(SENDER)
        for to in several:
            assert client.rcpt(to)[0] == 250
        content = message(b"to all\r\n")
        assert client.data(content)[0] == 250
    for to in several:
        found = house.sink.wait(to)
        assert found["recipients"] == [to]
        assert b"\tfor <" not in house.sink.content(found)


def test_queue_id_of_the_250_is_the_one_inspect_and_received_know(house: House) -> None:
    to = house.address()
    identity = house.relay.send(to)
    found = house.sink.wait(to)
    assert f" id {identity}\r\n".encode() in house.sink.content(found)
    code, said = house.relay.ctl("inspect", identity)
    assert code == 0 and identity in said and to in said
    inspected = house.relay.ask("/v1/inspect", id=identity)
    assert inspected["id"] == identity
    assert [delivery["recipient"] for delivery in inspected["deliveries"]] == [to]


# Logging in.


def plain(login: str = LOGIN, password: str = PASSWORD) -> bytes:
    return base64.b64encode(f"\0{login}\0{password}".encode())


def encoded(text: str) -> bytes:
    return base64.b64encode(text.encode())


def test_auth_plain_with_and_without_initial_response(house: House) -> None:
    with Wire(house.relay.submissions, tls=True) as wire:
        assert b"AUTH PLAIN LOGIN" in wire.hello()
        assert wire.ask(b"AUTH PLAIN " + plain()).startswith(b"235 2.7.0")
    with Wire(house.relay.submissions, tls=True) as wire:
        wire.hello()
        assert wire.ask(b"AUTH PLAIN").startswith(b"334")
        assert wire.ask(plain()).startswith(b"235 2.7.0")


def test_auth_login_with_and_without_initial_response_has_the_exact_prompts(house: House) -> None:
    with Wire(house.relay.submissions, tls=True) as wire:
        wire.hello()
        assert wire.ask(b"AUTH LOGIN") == b"334 VXNlcm5hbWU6\r\n"
        assert wire.ask(encoded(LOGIN)) == b"334 UGFzc3dvcmQ6\r\n"
        assert wire.ask(encoded(PASSWORD)).startswith(b"235 2.7.0")
    with Wire(house.relay.submissions, tls=True) as wire:
        wire.hello()
        assert wire.ask(b"AUTH LOGIN " + encoded(LOGIN)) == b"334 UGFzc3dvcmQ6\r\n"
        assert wire.ask(encoded(PASSWORD)).startswith(b"235 2.7.0")


def test_no_auth_before_tls(house: House) -> None:
    with Wire(house.relay.submission) as wire:
        offers = wire.hello()
        assert b"STARTTLS" in offers and b"AUTH" not in offers
        assert wire.ask(b"AUTH PLAIN " + plain()).startswith(b"538 5.7.11")
        assert wire.ask(b"MAIL FROM:<%s>" % SENDER.encode()).startswith(b"530 5.7.0")
        assert wire.ask(b"STARTTLS").startswith(b"220")
        wire.start_tls()
        assert b"AUTH PLAIN LOGIN" in wire.ask(b"EHLO client.example")
        assert wire.ask(b"AUTH PLAIN " + plain()).startswith(b"235")


def test_commands_sent_along_with_starttls_in_clear_are_dropped(house: House) -> None:
    with Wire(house.relay.submission) as wire:
        wire.hello()
        wire.say(b"STARTTLS\r\nEHLO injected.example\r\nAUTH PLAIN " + plain() + b"\r\n")
        assert wire.reply().startswith(b"220")
        wire.start_tls()
        assert wire.ask(b"NOOP").startswith(b"250")  # the first answer is to the first thing said inside TLS
        assert not wire.ask(b"MAIL FROM:<%s>" % SENDER.encode()).startswith(b"250")


def test_no_mail_without_login(house: House) -> None:
    with Wire(house.relay.submissions, tls=True) as wire:
        wire.hello()
        assert wire.ask(b"MAIL FROM:<%s>" % SENDER.encode()).startswith(b"530 5.7.0")


@pytest.mark.parametrize("login, password", [(LOGIN, "wrong"), ("nobody", PASSWORD), (LOGIN, "")])
def test_wrong_login_or_password_is_refused_and_says_no_more(house: House, login: str, password: str) -> None:
    with Wire(house.relay.submissions, tls=True) as wire:
        wire.hello()
        assert wire.ask(b"AUTH PLAIN " + plain(login, password)) == b"535 5.7.8 Incorrect login or password\r\n"


def test_a_guesser_is_locked_out_until_an_operator_forgives_him(stage: Stage) -> None:
    relay = stage.relay('[login]\nfailures = 2\ndelay = "1ms"\nlongest_delay = "1ms"\nlock = "1h"\n').start()
    relay.connection()
    with Wire(relay.submissions, tls=True) as wire:
        wire.hello()
        for _ in range(3):
            assert wire.ask(b"AUTH PLAIN " + plain(password="guess")).startswith(b"535 5.7.8")
        assert wire.ask(b"AUTH PLAIN " + plain()) == b"454 4.7.0 Too many login attempts\r\n"
        code, said = relay.ctl("login", "failures", "--limit", "1")
        assert code == 0 and said.splitlines()[1].split()[:3] == ["127.0.0.1", LOGIN, "3"]
        assert relay.ctl("login", "forgive", LOGIN)[0] == 0
        assert wire.ask(b"AUTH PLAIN " + plain()).startswith(b"235")


def test_sender_that_is_not_the_connections_is_refused(house: House) -> None:
    with smtplib.SMTP_SSL("127.0.0.1", house.relay.submissions, context=trusting(house)) as client:
        client.login(LOGIN, PASSWORD)
        code, said = client.mail("ceo@bank.example")
        assert (code, said[:5]) == (553, b"5.7.1")


def test_from_that_is_not_the_connections_is_refused(house: House) -> None:
    with smtplib.SMTP_SSL("127.0.0.1", house.relay.submissions, context=trusting(house)) as client:
        client.login(LOGIN, PASSWORD)
        client.mail(SENDER)
        client.rcpt(house.address())
        code, said = client.data(b"From: ceo@bank.example\r\n\r\nx\r\n")
        assert (code, said[:5]) == (550, b"5.7.1")


def test_blocked_connection_may_not_log_in_until_it_is_activated_again(house: House) -> None:
    house.relay.connection("login2")
    assert house.relay.ctl("connection", "block", "--reason", "password leaked", "login2")[0] == 0
    with Wire(house.relay.submissions, tls=True) as wire:
        wire.hello()
        assert wire.ask(b"AUTH PLAIN " + plain("login2")) == b"535 5.7.8 Connection blocked: password leaked\r\n"
        assert house.relay.ctl("connection", "activate", "login2")[0] == 0
        assert wire.ask(b"AUTH PLAIN " + plain("login2")).startswith(b"235")


def test_connection_blocked_in_mid_session_sends_no_more(house: House) -> None:
    house.relay.connection("login3")
    with Wire(house.relay.submissions, tls=True) as wire:
        wire.hello()
        assert wire.ask(b"AUTH PLAIN " + plain("login3")).startswith(b"235")
        house.relay.ctl("connection", "block", "--reason", "enough", "login3")
        assert wire.ask(b"MAIL FROM:<%s>" % SENDER.encode()).startswith(b"421 4.7.0")
        assert wire.reply() == b""


def test_suspended_account_sends_no_more_until_it_is_resumed(house: House) -> None:
    house.relay.ctl("account", "add", "--domain-check", "off", "other")
    house.relay.connection("login4", account="other")
    with Wire(house.relay.submissions, tls=True) as wire:
        wire.hello()
        assert wire.ask(b"AUTH PLAIN " + plain("login4")).startswith(b"235")
        house.relay.ctl("account", "suspend", "other", "--reason", "unpaid")
        assert wire.ask(b"MAIL FROM:<%s>" % SENDER.encode()).startswith(b"450 4.7.1")
        house.relay.ctl("account", "resume", "other", "--reason", "paid")
        assert wire.ask(b"MAIL FROM:<%s>" % SENDER.encode()).startswith(b"250")


def test_login_from_an_address_that_is_not_the_connections_is_refused(house: House) -> None:
    house.relay.connection("login5", client=["127.0.0.9/32"])
    for source, answer in (("127.0.0.8", b"535 5.7.8"), ("127.0.0.9", b"235 2.7.0")):
        with Wire(house.relay.submissions, tls=True, source=source) as wire:
            wire.hello()
            assert wire.ask(b"AUTH PLAIN " + plain("login5")).startswith(answer)


def test_strangers_are_refused_by_the_relay_listener_before_they_can_say_anything(house: House) -> None:
    with Wire(house.relay.relay, source="127.0.0.7") as wire:
        assert wire.reply() == b"554 5.7.1 This server relays for named clients only\r\n"
        assert wire.reply() == b""


def test_relay_listener_offers_no_login(house: House) -> None:
    with Wire(house.relay.relay) as wire:
        assert b"AUTH" not in wire.hello()
        assert wire.ask(b"AUTH PLAIN " + plain()).startswith(b"50")


def test_all_of_this_is_accounted_for(house: House) -> None:
    until(lambda: not house.relay.queued(), 20, "the queue empties")
    house.relay.audited()
    health: Any = house.relay.health()
    assert health["ok"], health
    assert "Traceback" not in house.relay.log() and "#error" not in house.relay.log()
