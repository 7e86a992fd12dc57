"""Reception: what the door of a relay listener lets in, and when a message counts as received."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relayd import reception
from relayd.directory import Verdict
from relayd.directory.store import Account, SubmissionConnection
from relayd.envelope import Steering
from relayd.guard import Guard
from relayd.identity import Identities
from relayd.listener import Limits, SMTPServerFactory
from relayd.message.headers import HEAD_LIMIT
from relayd.message.render import render
from relayd.reception import Allowed, Relay, RelayDoor
from relayd.records import decode
from relayd.smtp.events import ServerSettings
from relayd.spool.bodies import HIGH_WATER, INLINE, Bodies
from tests.harness import Reactor
from tests.test_listener import Client, pair

MAIL = b"MAIL FROM:<a@crm.example>\r\nRCPT TO:<b@x.example>\r\nRCPT TO:<c@y.example>\r\nDATA\r\n"
HEAD = b"From: a@crm.example\r\nMessage-ID: <1@crm.example>\r\nDate: now\r\n\r\n"


class Pool:
    """A thread pool whose work waits while it is ``held``."""

    def __init__(self, reactor: Reactor) -> None:
        self.held = False
        self.waiting: list[Callable[[], None]] = []
        self._post = reactor.callFromThread

    def submit(self, work: Callable[[], None]) -> None:
        if self.held:
            self.waiting.append(work)
        else:
            self._post(work)

    def let_go(self) -> None:
        self.held = False
        while self.waiting:
            self._post(self.waiting.pop(0))


class Spool:
    """Takes receptions; their ``done`` is the test's to call."""

    last_identity = 0

    def __init__(self, directory: Path, reactor: Reactor) -> None:
        self.pool = Pool(reactor)
        self.bodies = Bodies(directory / "bodies", self.pool, reactor.callFromThread)  # type: ignore[arg-type]
        self.kept: list[Any] = []
        self.done: list[Callable[[Any], None]] = []
        self.records: list[tuple[bytes, list[Any]]] = []

    def receive(self, kept: Any, done: Callable[[Any], None]) -> None:
        self.kept.append(kept)
        self.done.append(done)

    def keep_records(self, lines: bytes, entries: Any) -> None:
        self.records.append((lines, list(entries)))


class Receiving:
    """A relay listener for 198.51.100.0/24 (account crm), or one with logins."""

    def __init__(self, directory: Path, *, logins: bool = False, **settings: Any) -> None:
        self.reactor = Reactor()
        self.spool = Spool(directory, self.reactor)
        self.accounts = {"crm": Account("crm")}
        self.connections = {"login": SubmissionConnection("login", "crm", "hash", ("@crm.example",))}
        self.verdict = Verdict.RIGHT
        self.health = SimpleNamespace(spool_fault="", space_fault="", stopping=False)
        known = SimpleNamespace(account=self.accounts.get, connection=self.connections.get)
        self.checked: list[tuple[str, str]] = []
        verifier = SimpleNamespace(check=self._check)
        self.relay = Relay(
            "mx1.relay.example",
            self.spool,  # type: ignore[arg-type]
            known,  # type: ignore[arg-type]
            verifier,  # type: ignore[arg-type]
            self.health,
            Identities(),
            self.reactor.seconds,
            guard=Guard(),
            later=self.reactor.callLater,
        )
        self.told: list[Any] = []
        self.relay.on_received = self.told.append
        allowed = () if logins else (Allowed("198.51.100.0/24", "crm", "bulk"),)
        made = ServerSettings("mx1.relay.example", auth=logins, auth_required=logins, **settings)
        self.door = RelayDoor(self.relay, made, allowed, lambda name: name or "bulk")
        self.factory = SMTPServerFactory(self.reactor, self.door, Limits(), None, secure=logins)

    def _check(self, login: str, password: str, done: Callable[[Verdict], None], client: str) -> None:
        self.checked.append((login, client))
        done(self.verdict)

    def call(self, ip: str = "198.51.100.1") -> Client:
        theirs, ours = pair(self.reactor, ip, "127.0.0.1", 2525)
        client, session = Client(self.reactor), self.factory.buildProtocol(None)
        theirs.protocol, ours.protocol = client, session
        client.makeConnection(theirs)
        session.makeConnection(ours)
        self.reactor.pump()
        if client.heard.startswith(b"220"):
            client.say(b"EHLO crm.example\r\n")
        return client

    def send(self, content: bytes, client: Client | None = None) -> tuple[Client, str]:
        client = client or self.call()
        assert "354" in client.say(MAIL)
        return client, client.say(content + b"\r\n.\r\n")

    def commit(self, outcome: sqlite3.Error | int | None = None) -> None:
        self.spool.done.pop(0)(outcome)
        self.reactor.pump()

    def files(self) -> list[Path]:
        return list(self.spool.bodies.directory.iterdir())

    def rejections(self) -> list[Any]:
        self.relay.flush_rejections()
        return [decode(line) for lines, _ in self.spool.records for line in lines.splitlines()]


@pytest.fixture
def relay(tmp_path: Path) -> Receiving:
    return Receiving(tmp_path)


# 250 means durable.


def test_the_250_goes_out_when_the_commit_is_done_and_not_before(relay: Receiving):
    client, said = relay.send(HEAD + b"hello")
    assert said == "" and relay.told == []
    relay.commit()
    message = relay.spool.kept[0].message
    assert client.heard.decode() == f"250 2.0.0 queued as {message.id:016x}\r\n"
    assert [d.recipient.address for d in relay.told[0]] == ["b@x.example", "c@y.example"]
    assert (message.head, message.body, message.size) == (HEAD, b"hello\r\n", len(HEAD) + 7)
    assert relay.relay.memory == 0


def test_the_reception_carries_its_record_and_its_part_of_the_ledger(relay: Receiving):
    relay.send(HEAD + b"hello")
    kept = relay.spool.kept[0]
    record = decode(kept.line)
    assert (record.kind, record.account, record.stream, record.connection) == (
        "Reception",
        "crm",
        "bulk",
        "relay:198.51.100.0/24",
    )
    assert record.recipients == ("b@x.example", "c@y.example") and record.message_id == "<1@crm.example>"
    assert [(entry.term, entry.count) for entry in kept.entries] == [("received", 2)]


def test_headers_that_steer_are_kept_with_the_message_and_do_not_go_out_with_it(relay: Receiving):
    relay.send(HEAD[:-2] + b"X-Track-ID: 77\r\nx-relayd-tag: a\r\nX-Relayd-Client: Shop 17\r\n\r\nhello")
    kept = relay.spool.kept[0]
    message, record = kept.message, decode(kept.line)
    assert message.steering == Steering(track_id="77", tags=("a",), client="Shop 17")
    assert render(message, kept.deliveries[0]).endswith(b"\r\n" + HEAD)
    assert (record.track_id, record.tags, record.client, kept.key) == ("77", ("a",), "Shop 17", "")


def test_a_message_that_has_come_before_is_answered_as_it_was_then_and_goes_nowhere(relay: Receiving):
    client, _ = relay.send(HEAD[:-2] + b"X-Relayd-Idempotency-Key: k\r\n\r\nhello")
    assert relay.spool.kept[0].key == "k"
    relay.commit(0x77)
    assert client.heard == b"250 2.0.0 queued as 0000000000000077\r\n"
    assert relay.told == [] and relay.relay.memory == 0


def test_a_client_that_vanishes_before_the_commit_takes_nothing_back(relay: Receiving):
    client, _ = relay.send(HEAD + b"hello")
    client.transport.abortConnection()
    relay.reactor.pump()
    relay.commit()
    assert len(relay.told) == 1 and relay.relay.memory == 0 and relay.factory.sessions == {}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (sqlite3.OperationalError("disk I/O error"), "451 4.3.0"),
        (sqlite3.OperationalError("database or disk is full"), "452 4.3.1"),
    ],
)
def test_a_commit_that_fails_is_told_and_nothing_is_kept(relay: Receiving, error, said):
    client, _ = relay.send(HEAD + b"x" * 76 + b"\r\n" * INLINE)
    relay.commit(error)
    assert client.heard.decode().startswith(said)
    assert relay.told == [] and relay.files() == [] and relay.relay.memory == 0


def test_a_commit_that_fails_after_the_client_has_vanished_leaves_no_file(relay: Receiving):
    client, _ = relay.send(HEAD + b"x" * 76 + b"\r\n" * INLINE)
    client.transport.abortConnection()
    relay.reactor.pump()
    assert len(relay.files()) == 1
    relay.commit(sqlite3.OperationalError("disk I/O error"))
    assert relay.files() == [] and relay.relay.memory == 0


def test_a_fault_behind_the_commit_does_not_cost_the_client_its_250(relay: Receiving):
    def broken(deliveries: Any) -> None:
        raise RuntimeError("a fault of ours")

    relay.relay.on_received = broken
    client, _ = relay.send(HEAD + b"hello")
    with pytest.raises(RuntimeError):
        relay.commit()
    relay.reactor.pump()
    assert client.heard.startswith(b"250 2.0.0 queued")


# Bodies in files.


def body(size: int) -> bytes:
    return (b"%078d\r\n" % 7) * (size // 80)


def test_a_body_larger_than_memory_should_hold_goes_to_a_file(relay: Receiving):
    content = body(1 << 20)
    client, said = relay.send(HEAD + content)
    (file,) = relay.files()
    assert file.read_bytes() == content + b"\r\n" and said == ""
    message = relay.spool.kept[0].message
    assert message.body is None and message.head == HEAD and message.size == len(HEAD) + len(content) + 2
    relay.commit()
    assert client.heard.startswith(b"250") and relay.files() == [file]


def test_only_the_head_of_such_a_message_is_held_in_memory(relay: Receiving):
    client = relay.call()
    client.say(MAIL)
    client.say(HEAD + body(1 << 20))
    assert relay.relay.memory == len(HEAD)
    client.transport.abortConnection()
    relay.reactor.pump()
    assert relay.relay.memory == 0


def test_a_client_faster_than_the_disk_is_paused_and_read_again_later(relay: Receiving):
    client = relay.call()
    client.say(MAIL)
    client.say(HEAD)
    relay.spool.pool.held = True
    for _ in range(20):
        client.say(body(HIGH_WATER // 4))
    session = client.transport.other
    assert not session.reading and len(client.transport.pending) > HIGH_WATER
    relay.spool.pool.let_go()
    relay.reactor.pump()
    assert session.reading and client.transport.pending == b""
    assert client.say(b"end\r\n.\r\n") == ""
    relay.commit()
    assert client.heard.startswith(b"250")
    assert relay.files()[0].stat().st_size == relay.spool.kept[0].message.size - len(HEAD)


def test_a_client_that_vanishes_amid_a_large_body_leaves_no_file(relay: Receiving):
    client = relay.call()
    client.say(MAIL)
    client.say(HEAD + body(1 << 20))
    assert len(relay.files()) == 1
    client.transport.abortConnection()
    relay.reactor.pump()
    assert relay.files() == [] and relay.spool.kept == []


def test_a_client_that_vanishes_while_the_file_is_finished_leaves_no_file_and_no_message(relay: Receiving):
    client = relay.call()
    client.say(MAIL)
    client.say(HEAD + body(1 << 20))
    relay.spool.pool.held = True
    client.say(b"end\r\n.\r\n")
    client.transport.abortConnection()
    relay.reactor.pump()
    relay.spool.pool.let_go()
    relay.reactor.pump()
    assert relay.files() == [] and relay.spool.kept == [] and relay.relay.memory == 0


def test_a_client_that_vanishes_while_the_commit_of_a_file_is_pending_loses_nothing(relay: Receiving):
    client, _ = relay.send(HEAD + body(1 << 20))
    client.transport.abortConnection()
    relay.reactor.pump()
    relay.commit()
    assert len(relay.files()) == 1 and len(relay.told) == 1


def test_a_disk_that_refuses_a_body_file_is_told_to_the_client(relay: Receiving):
    client = relay.call()
    client.say(MAIL)
    relay.spool.bodies.directory.rmdir()
    client.say(HEAD + body(1 << 20))
    assert client.say(b".\r\n").startswith("451 4.3.0")
    assert relay.spool.kept == [] and relay.relay.memory == 0
    assert client.say(b"NOOP\r\n").startswith("250")


# What a message must be.


def test_a_header_section_that_never_ends_is_refused_and_not_held(relay: Receiving):
    client = relay.call()
    client.say(MAIL)
    field = b"X-Long: " + b"x" * 900 + b"\r\n"
    for _ in range(HEAD_LIMIT // len(field) + 200):
        client.transport.write(field)
    relay.reactor.pump()
    assert relay.relay.memory <= HEAD_LIMIT + INLINE and relay.files() == []
    assert client.say(b".\r\n").startswith("554 5.3.4")
    assert relay.spool.kept == [] and relay.relay.memory == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"Subject: one\r\n\r\nhello", "550 5.6.0"),
        (HEAD[:-2] + b"Received: x\r\n" * 60 + b"\r\nhello", "554 5.4.6"),
        (HEAD[:-2] + b"X-Relayd-Expire: soon\r\n\r\nhello", "550 5.6.0 X-Relayd-Expire: 'soon' is no time: write"),
        ("From: Anna <a@é..example>\r\n\r\nhello".encode(), "550 5.7.1"),
        ("From: Anna <a@é..example>\r\n\r\n".encode() + b"x" * 76 * INLINE, "550 5.7.1"),
    ],
)
def test_a_message_that_policy_refuses_is_recorded_and_the_session_goes_on(relay: Receiving, content, said):
    client, answer = relay.send(content)
    assert answer.startswith(said) and relay.spool.kept == [] and relay.relay.memory == 0
    (record,) = relay.rejections()
    assert (record.kind, record.account, record.recipient) == ("Rejection", "crm", "b@x.example")
    relay.send(HEAD + b"hello", client)
    assert len(relay.spool.kept) == 1


def test_a_recipient_without_a_domain_is_refused_and_the_others_stand(relay: Receiving):
    client = relay.call()
    said = client.say(b"MAIL FROM:<a@crm.example>\r\nRCPT TO:<postmaster>\r\nRCPT TO:<b@x.example>\r\n").splitlines()
    assert [line[:3] for line in said] == ["250", "550", "250"]


# Who may.


def test_strangers_are_turned_away_at_once(relay: Receiving):
    client = relay.call("203.0.113.9")
    assert client.heard.startswith(b"554 5.7.1") and client.closed
    assert relay.rejections()[0].note.endswith("(from 203.0.113.9)")


def logged_in(relay: Receiving) -> Client:
    client = relay.call()
    client.say(b"AUTH PLAIN AGxvZ2luAHB3\r\n")
    return client


def test_a_login_sends_for_its_account_and_as_its_senders_only(tmp_path: Path):
    relay = Receiving(tmp_path, logins=True)
    client = logged_in(relay)
    assert client.heard.startswith(b"235")
    assert client.say(b"MAIL FROM:<a@other.example>\r\n").startswith("553 5.7.1")
    assert relay.rejections()[0].sender == "a@other.example"
    relay.send(HEAD + b"hello", client)
    message = relay.spool.kept[0].message
    assert (message.account, message.connection, message.stream) == ("crm", "login", "bulk")
    assert b"with ESMTPSA" in message.edits.prepend


def change(relay: Receiving, **fields: Any) -> None:
    import msgspec

    relay.connections["login"] = msgspec.structs.replace(relay.connections["login"], **fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"state": "inactive"}, "535 5.7.8 Connection not activated"),
        ({"state": "blocked", "reason": "spam\r"}, "535 5.7.8 Connection blocked: spam"),
        ({"clients": ("203.0.113.0/24",)}, "535 5.7.8 This login may not be used from your address"),
    ],
)
def test_what_a_login_may_not_is_said_and_recorded(tmp_path: Path, fields, said):
    relay = Receiving(tmp_path, logins=True)
    change(relay, **fields)
    client = logged_in(relay)
    assert client.heard.decode().startswith(said) and client.heard.count(b"\r\n") == 1
    assert relay.rejections()[0].sender == "login"
    assert client.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("530")


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Verdict.WRONG, b"535 5.7.8 Incorrect login or password\r\n"),
        (Verdict.BUSY, b"454 4.7.0 Too many login attempts\r\n"),
        (Verdict.UNSURE, b"454 4.7.0 Temporary authentication failure\r\n"),
    ],
)
def test_a_password_that_is_wrong_or_cannot_be_checked_now(tmp_path: Path, verdict, said):
    relay = Receiving(tmp_path, logins=True)
    relay.verdict = verdict
    client = logged_in(relay)
    relay.reactor.wait(1)
    assert client.heard == said and relay.checked == [("login", "198.51.100.1")]
    assert client.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("530")


def test_a_login_of_a_suspended_account_is_told_no_more_than_a_wrong_password(tmp_path: Path):
    relay = Receiving(tmp_path, logins=True)
    relay.accounts["crm"] = Account("crm", "suspended")
    client = logged_in(relay)
    relay.reactor.wait(1)
    assert client.heard == b"535 5.7.8 Incorrect login or password\r\n"


def test_a_login_blocked_in_mid_session_ends_with_421_at_the_next_mail(tmp_path: Path):
    relay = Receiving(tmp_path, logins=True)
    client = logged_in(relay)
    change(relay, state="blocked")
    assert client.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("421 4.7.0") and client.closed


def test_an_account_suspended_in_mid_session_takes_no_more_mail(relay: Receiving):
    client = relay.call()
    relay.accounts["crm"] = Account("crm", "suspended")
    assert client.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("450 4.7.1") and not client.closed


# Guessers.


@pytest.fixture
def doors(tmp_path: Path) -> Receiving:
    """With logins, of which every password is wrong."""
    relay = Receiving(tmp_path, logins=True)
    relay.verdict = Verdict.WRONG
    return relay


def guess(relay: Receiving, client: Client) -> float:
    """Tries a password; gives the seconds until the answer."""
    client.say(b"AUTH PLAIN AGxvZ2luAHB3\r\n")
    waited = 0.0
    while not client.heard:
        relay.reactor.advance(0.25)
        relay.reactor.pump()
        waited += 0.25
        assert waited < 60
    return waited


TOO_MANY = b"454 4.7.0 Too many login attempts\r\n"


def test_each_failed_login_is_answered_later_and_then_refused_unlooked_at(doors: Receiving):
    client = doors.call()
    assert [guess(doors, client) for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0]
    assert client.heard == b"535 5.7.8 Incorrect login or password\r\n"
    doors.relay.verifier = None  # type: ignore[assignment]  # nobody asks it
    assert guess(doors, client) == 10.0 and client.heard == TOO_MANY
    assert guess(doors, doors.call()) > 0


def test_the_right_password_is_refused_while_locked_and_let_in_afterwards(doors: Receiving):
    client = doors.call()
    for _ in range(6):
        guess(doors, client)
    doors.verdict = Verdict.RIGHT
    again = doors.call()
    guess(doors, again)
    assert again.heard == TOO_MANY
    doors.reactor.wait(30)
    assert guess(doors, doors.call()) == 0


def test_who_logged_in_before_is_not_locked_by_those_who_guess_at_his_login(doors: Receiving):
    doors.verdict = Verdict.RIGHT
    guess(doors, doors.call("198.51.100.1"))
    for n in range(101):
        doors.relay.guard.failed(f"10.0.0.{n}", "login", doors.reactor.seconds())
    strange, own = doors.call("203.0.113.9"), doors.call("198.51.100.1")
    guess(doors, strange)
    guess(doors, own)
    assert strange.heard == TOO_MANY and own.heard.startswith(b"235")


def test_a_refusal_that_tells_of_no_wrong_password_is_not_counted(doors: Receiving):
    doors.verdict = Verdict.RIGHT
    change(doors, state="inactive")
    client = doors.call()
    assert [guess(doors, client) for _ in range(7)] == [0.0] * 7
    assert client.heard == b"535 5.7.8 Connection not activated\r\n"
    doors.verdict = Verdict.BUSY
    assert [guess(doors, client) for _ in range(7)] == [0.0] * 7 and client.heard == TOO_MANY
    assert doors.relay.guard.failures(doors.reactor.seconds(), 9) == []


def test_a_guesser_who_does_not_wait_for_his_answer_leaves_nothing_behind(doors: Receiving):
    for _ in range(5):
        client = doors.call()
        client.say(b"AUTH PLAIN AGxvZ2luAHB3\r\n")
        client.transport.abortConnection()
        doors.reactor.pump()
    assert doors.factory.sessions == {} and len(doors.reactor.getDelayedCalls()) == 5
    doors.reactor.wait(11)
    assert doors.reactor.getDelayedCalls() == []
    assert guess(doors, doors.call()) == 10.0  # he is counted all the same


def test_commands_behind_a_failed_login_wait_for_its_answer(doors: Receiving):
    client = doors.call()
    assert client.say(b"AUTH PLAIN AGxvZ2luAHB3\r\nNOOP\r\n") == ""
    doors.reactor.wait(1)
    assert [line[:3] for line in client.heard.splitlines()] == [b"535", b"250"]


def test_no_more_answers_are_held_back_at_once_than_there_may_be(doors: Receiving, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reception, "HELD", 3)
    clients = [doors.call(f"10.0.0.{n}") for n in range(5)]
    said = [client.say(b"AUTH PLAIN AGxvZ2luAHB3\r\n")[:3] for client in clients]
    assert said == ["", "", "", "535", "535"]
    doors.reactor.wait(11)
    assert all(client.heard.startswith(b"535") for client in clients)
    assert doors.call().say(b"AUTH PLAIN AGxvZ2luAHB3\r\n") == ""


# What the node can take.


@pytest.mark.parametrize("fault", ["spool_fault", "stopping"])
def test_a_node_that_cannot_keep_mail_takes_none(relay: Receiving, fault):
    client = relay.call()
    setattr(relay.health, fault, "it is so")
    assert client.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("421") and client.closed
    assert relay.call().heard.startswith(b"421")


def test_a_disk_that_is_nearly_full_takes_no_mail_until_it_is_not(relay: Receiving):
    client = relay.call()
    relay.health.space_fault = "only 1 MB free"
    assert client.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("452 4.3.1")
    relay.health.space_fault = ""
    assert relay.send(HEAD + b"hello", client)[1] == ""


def test_more_content_at_once_than_memory_may_hold_is_put_off(relay: Receiving, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reception, "MEMORY", 100)
    first, second = relay.call(), relay.call()
    first.say(MAIL)
    first.say(HEAD + b"x" * 200)
    assert second.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("451 4.3.2")
    first.transport.abortConnection()
    relay.reactor.pump()
    assert second.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("250")


def test_strangers_beyond_the_limit_of_a_second_are_counted_and_not_kept(relay, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reception, "STRANGERS", 3)
    for n in range(10):
        relay.call(f"203.0.113.{n}")
    assert len(relay.rejections()) == 3
    (_, entries) = relay.spool.records[0]
    assert sum(entry.count for entry in entries) == 10 and {entry.term for entry in entries} == {"rejected"}
    relay.call("203.0.113.1")
    assert len(relay.rejections()) == 4


def test_a_second_without_rejections_writes_nothing(relay: Receiving):
    relay.relay.flush_rejections()
    assert relay.spool.records == []
