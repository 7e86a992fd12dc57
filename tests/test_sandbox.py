from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from relayd.envelope import Envelope, Recipient
from relayd.listener import Limits, Session, SMTPServerFactory
from relayd.reply import Reply
from relayd.sandbox import Character, Maildir, Receiver, Sandbox, _stamp, character
from relayd.smtp.events import ServerSettings

MESSAGE = b"Subject: one\r\n\r\nfirst line\r\n..dot\r\n"


class Client:
    """A client's side of one session with the sandbox: says lines, hears codes."""

    def __init__(self, sandbox: Sandbox, clock: Clock) -> None:
        self.session = SMTPServerFactory(clock, sandbox, Limits(), None, secure=False).buildProtocol(None)
        self.transport = StringTransport()
        self.session.makeConnection(self.transport)
        self.hear()
        self.say("EHLO crm.example")

    def hear(self) -> str:
        heard = self.transport.value().decode()
        self.transport.clear()
        return heard.rstrip("\r\n")

    def say(self, line: str) -> str:
        self.session.dataReceived(line.encode() + b"\r\n")
        return self.hear()

    def rcpt(self, recipient: str, sender: str = "a@crm.example") -> str:
        self.say("RSET")
        self.say(f"MAIL FROM:<{sender}>")
        return self.say(f"RCPT TO:<{recipient}>")

    def send(self, *recipients: str, content: bytes = MESSAGE) -> str:
        self.say("RSET")
        self.say("MAIL FROM:<a@crm.example>")
        for recipient in recipients:
            assert self.say(f"RCPT TO:<{recipient}>").startswith("250")
        assert self.say("DATA").startswith("354")
        self.session.dataReceived(content + b".\r\n")
        return self.hear()

    @property
    def gone(self) -> bool:
        return bool(self.transport.disconnecting or self.transport.aborting)


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(1_800_000_000)
    return clock


@pytest.fixture
def sandbox(tmp_path: Path, clock: Clock) -> Sandbox:
    return Sandbox(clock, tmp_path / "box", ServerSettings("sandbox.example"))


@pytest.fixture
def client(sandbox: Sandbox, clock: Clock) -> Client:
    return Client(sandbox, clock)


def raw_messages(tmp_path: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((tmp_path / "box" / "new").iterdir())]


def messages(tmp_path: Path) -> list[EmailMessage]:
    return [message_from_bytes(raw, policy=policy.default) for raw in raw_messages(tmp_path)]


# Keeping.


def test_a_message_is_kept_byte_for_byte_below_its_envelope(client: Client, tmp_path: Path) -> None:
    assert client.send("b@x.example").startswith("250 2.0.0 Kept as ")
    (raw,) = raw_messages(tmp_path)
    assert raw.endswith(MESSAGE.replace(b"\r\n..", b"\r\n."))
    assert raw.startswith(b"Return-Path: <a@crm.example>\r\nDelivered-To: b@x.example\r\nX-Sandbox-Time: ")


def test_the_envelope_on_top_names_client_and_every_recipient(client: Client, tmp_path: Path) -> None:
    client.send("b@x.example", "c@y.example")
    (message,) = messages(tmp_path)
    assert message.get_all("Delivered-To") == ["b@x.example", "c@y.example"]
    assert message["X-Sandbox-Client"] == "crm.example [192.168.1.1], ESMTP"
    assert message["X-Sandbox-Time"] == "Fri, 15 Jan 2027 08:00:00 GMT"
    assert message["Subject"] == "one"


def test_options_of_the_envelope_are_shown(client: Client, tmp_path: Path) -> None:
    client.say("MAIL FROM:<a@crm.example> BODY=8BITMIME RET=HDRS ENVID=q1")
    client.say("RCPT TO:<b@x.example> NOTIFY=NEVER")
    client.say("DATA")
    client.say("\r\n.")
    (message,) = messages(tmp_path)
    assert message["X-Sandbox-Asked"] == "BODY=8BITMIME, RET=HDRS, ENVID=q1"
    assert message["X-Sandbox-Notify"] == "b@x.example NEVER"


def test_the_reply_names_the_file(client: Client, tmp_path: Path) -> None:
    name = client.send("b@x.example").split()[-1]
    assert (tmp_path / "box" / "new" / name).exists()


def test_an_aborted_message_leaves_nothing(client: Client, tmp_path: Path) -> None:
    client.say("MAIL FROM:<a@crm.example>")
    client.say("RCPT TO:<b@x.example>")
    client.say("DATA")
    client.session.dataReceived(b"half a message")
    assert len(list((tmp_path / "box" / "tmp").iterdir())) == 1
    client.session.connectionLost()
    assert not list((tmp_path / "box" / "tmp").iterdir())
    assert not raw_messages(tmp_path)


def test_an_empty_message_is_kept(client: Client, tmp_path: Path) -> None:
    assert client.send("b@x.example", content=b"").startswith("250")
    assert len(raw_messages(tmp_path)) == 1


def test_a_disk_that_takes_no_more_is_a_452(
    client: Client, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sandbox._maildir, "keep", full)
    assert client.send("b@x.example").startswith("452 4.3.1")
    assert not list((tmp_path / "box" / "tmp").iterdir())
    monkeypatch.setattr(sandbox._maildir, "create", full)
    client.rcpt("b@x.example")
    assert client.say("DATA").startswith("452 4.3.1")


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=40))
def test_no_word_of_a_peer_makes_a_header_line_of_its_own(helo: str, address: str, envid: str) -> None:
    class Peer:
        peer, extended, secure = "192.0.2.1", True, True

    peer = Peer()
    peer.helo = helo  # type: ignore[attr-defined]
    stamp = _stamp(peer, Envelope(address, (Recipient(address, "NEVER"),), envid=envid), 0.0)  # type: ignore[arg-type]
    names = [line.split(b":")[0] for line in stamp.split(b"\r\n")]
    known = [b"Return-Path", b"Delivered-To", b"X-Sandbox-Time", b"X-Sandbox-Client"]
    known += [b"X-Sandbox-Asked"] * bool(envid) + [b"X-Sandbox-Notify"]
    assert names == [*(name for name in known if address or name != b"Delivered-To"), b""]
    assert b"\n" not in stamp.replace(b"\r\n", b"") and b"\r" not in stamp.replace(b"\r\n", b"")


# The Maildir's bounds.


def fill(maildir: Maildir, count: int, size: int = 10, start: int = 0) -> list[str]:
    names = []
    for moment in range(start, start + count):
        name, file = maildir.create(1_800_000_000 + moment)
        file.write(b"x" * size)
        maildir.keep(name, file)
        names.append(name)
    return names


def names_in(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "new").iterdir())


def test_beyond_the_count_the_oldest_go(tmp_path: Path) -> None:
    names = fill(Maildir(tmp_path, 3, 10**6), 5)
    assert names_in(tmp_path) == names[-3:]


def test_beyond_the_bytes_the_oldest_go(tmp_path: Path) -> None:
    names = fill(Maildir(tmp_path, 100, 35), 5)
    assert names_in(tmp_path) == names[-3:]


def test_the_latest_is_kept_even_when_it_is_too_large_alone(tmp_path: Path) -> None:
    names = fill(Maildir(tmp_path, 100, 5), 2)
    assert names_in(tmp_path) == names[-1:]


def test_after_a_restart_the_bounds_count_what_was_there(tmp_path: Path) -> None:
    old = fill(Maildir(tmp_path, 50, 10**6), 50)
    new = fill(Maildir(tmp_path, 50, 10**6), 20, start=100)
    assert names_in(tmp_path) == [*old[-30:], *new]


def test_what_a_mail_reader_took_away_is_no_fault(tmp_path: Path) -> None:
    maildir = Maildir(tmp_path, 1, 10**6)
    (name,) = fill(maildir, 1)
    (tmp_path / "new" / name).rename(tmp_path / "cur" / f"{name}:2,S")
    later = fill(maildir, 2, start=5)
    assert names_in(tmp_path) == later[-1:]
    assert (tmp_path / "cur" / f"{name}:2,S").exists()


def test_a_start_clears_what_a_crash_left_half_written(tmp_path: Path) -> None:
    Maildir(tmp_path, 3, 10**6).create(0.0)[1].close()
    (tmp_path / "tmp" / "somebody.elses").write_text("")
    Maildir(tmp_path, 3, 10**6)
    assert [file.name for file in (tmp_path / "tmp").iterdir()] == ["somebody.elses"]


def test_two_messages_of_one_instant_have_two_names(tmp_path: Path) -> None:
    maildir = Maildir(tmp_path, 3, 10**6)
    assert maildir.create(1.0)[0] != maildir.create(1.0)[0]


# Characters.


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("ann@x.example", Character("")),
        ("postmaster", Character("")),
        ("unknown@x.example", Character("unknown")),
        ("Unknown.User@x.example", Character("unknown")),
        ("full@x.example", Character("full")),
        ("fullhard@x.example", Character("fullhard")),
        ("greylist@x.example", Character("greylist", 1)),
        ("greylist90@x.example", Character("greylist", 90)),
        ("slow@x.example", Character("slow", 10)),
        ("busy2.ann@x.example", Character("busy", 2)),
        ("not-unknown@x.example", Character("")),
    ],
)
def test_a_local_parts_beginning_names_the_character(address: str, expected: Character) -> None:
    assert character(address) == expected


@given(st.text())
def test_every_address_has_a_character_with_a_bounded_number(address: str) -> None:
    assert 0 <= character(address).number < 10**6


@pytest.mark.parametrize(
    ("recipient", "reply"),
    [
        ("ann@x.example", "250 2.1.5"),
        ("full@x.example", "452 4.2.2"),
        ("fullhard@x.example", "552 5.2.2"),
        ("unknown@x.example", "550 5.1.1"),
        ("blocked@x.example", "550 5.7.1"),
        ("greylist@x.example", "451 4.7.1"),
        ("slow@x.example", "250 2.1.5"),
        ("drop@x.example", "250 2.1.5"),
    ],
)
def test_characters_answer_rcpt(client: Client, recipient: str, reply: str) -> None:
    assert client.rcpt(recipient).startswith(reply)


def test_blocked_says_where_to_read_why(client: Client) -> None:
    assert "https://" in client.rcpt("blocked@x.example")


def test_greylist_accepts_once_the_time_has_gone_by(client: Client, clock: Clock) -> None:
    assert client.rcpt("greylist5@x.example").startswith("451")
    clock.advance(4)
    assert client.rcpt("greylist5@x.example").startswith("451")
    clock.advance(1)
    assert client.rcpt("greylist5@x.example").startswith("250")
    assert client.rcpt("GREYLIST5@x.example").startswith("250")


def test_greylist_tells_senders_and_recipients_apart(client: Client, clock: Clock) -> None:
    client.rcpt("greylist@x.example")
    clock.advance(10)
    assert client.rcpt("greylist@x.example", sender="other@crm.example").startswith("451")
    assert client.rcpt("greylist@y.example").startswith("451")
    assert client.rcpt("greylist@x.example").startswith("250")


def test_greylist_remembers_across_sessions(client: Client, sandbox: Sandbox, clock: Clock) -> None:
    client.rcpt("greylist@x.example")
    clock.advance(10)
    assert Client(sandbox, clock).rcpt("greylist@x.example").startswith("250")


def test_greylist_forgets_the_oldest_when_it_is_full(
    client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relayd.sandbox._GREYLISTED", 2)
    for host in "abc":
        client.rcpt(f"greylist@{host}.example")
    clock.advance(10)
    assert client.rcpt("greylist@c.example").startswith("250")
    assert client.rcpt("greylist@a.example").startswith("451")


def test_slow_answers_the_dot_when_its_time_has_come(client: Client, clock: Clock) -> None:
    assert client.send("slow7@x.example", "b@x.example") == ""
    clock.advance(6.9)
    assert client.hear() == ""
    clock.advance(0.1)
    assert client.hear().startswith("250 2.0.0")


def test_the_slowest_of_several_sets_the_pace_up_to_ten_minutes(client: Client, clock: Clock) -> None:
    assert client.send("slow2@x.example", "slow9999@x.example") == ""
    clock.advance(599)
    assert client.hear() == ""
    clock.advance(1)
    assert client.hear().startswith("250 2.0.0")


def test_a_client_that_left_a_slow_one_leaves_no_timer_and_its_message(
    client: Client, clock: Clock, tmp_path: Path
) -> None:
    client.send("slow@x.example")
    client.session.connectionLost()
    assert not clock.getDelayedCalls()
    assert len(raw_messages(tmp_path)) == 1


def test_busy_ends_the_session_after_its_number_of_messages(client: Client) -> None:
    assert client.send("busy2@x.example").startswith("250")
    assert client.send("busy2@x.example").startswith("250")
    assert client.rcpt("busy2@x.example").startswith("421 4.7.0")
    assert client.gone


def test_busy_counts_each_session_for_itself(client: Client, sandbox: Sandbox, clock: Clock) -> None:
    client.send("busy@x.example")
    assert Client(sandbox, clock).send("busy@x.example").startswith("250")


def test_drop_keeps_the_message_and_cuts_the_connection_without_an_answer(client: Client, tmp_path: Path) -> None:
    assert client.send("drop@x.example") == ""
    assert client.gone
    client.session.connectionLost()
    assert len(raw_messages(tmp_path)) == 1


# The rest of the door.


def test_nobody_logs_in(sandbox: Sandbox, client: Client) -> None:
    answers: list[Reply | None] = []
    sandbox.authenticate(client.session, None, answers.append)  # type: ignore[arg-type]
    assert answers[0] is not None and answers[0].code == 535


def test_a_receiver_whose_disk_failed_midway_ends_with_452_and_leaves_nothing(
    client: Client, clock: Clock, tmp_path: Path
) -> None:
    class Full:
        closed = False

        def write(self, _: bytes) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            self.closed = True

    maildir = Maildir(tmp_path / "box", 10, 10**6)
    session: Session = client.session
    receiver = Receiver(clock, maildir, session, Envelope("a@x.example", (Recipient("b@x.example"),)))
    broken = Full()
    receiver._file.close()
    receiver._file = broken  # type: ignore[assignment]
    answers: list[Reply] = []
    receiver.write(b"one")
    receiver.write(b"two")
    receiver.end(6, answers.append)
    assert [answer.code for answer in answers] == [452]
    assert broken.closed
    assert not list((tmp_path / "box" / "tmp").iterdir())
