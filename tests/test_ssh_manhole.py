"""The prompt inside the relay: what it runs, shows, refuses and records, on a terminal of bytes."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from relayd.ssh import manhole, recording
from relayd.ssh.channel import Size
from relayd.ssh.keys import Person
from relayd.ssh.manhole import Fault, Session, _identifier
from relayd.ssh.recording import Recording
from tests.fake_relay import NOW, FakeRelay, opened
from tests.harness import Reactor


class Terminal:
    """A channel that keeps what it is given."""

    def __init__(self) -> None:
        self.connection = SimpleNamespace(peer="192.0.2.1")
        self.size = Size(24, 80)
        self.buf = b""
        self.shown = ""
        self.status: int | None = None

    def write(self, data: bytes) -> None:
        self.shown += data.decode()

    def done(self, status: int) -> None:
        self.status = status


class Console:
    """A manhole of anna's."""

    def __init__(self, relay: FakeRelay, directory: Path) -> None:
        self.terminal = Terminal()
        self.recording = Recording(directory / "manhole", "anna", NOW)
        self.ended: list[Any] = []
        anna = Person("anna", "admin", b"")
        channel: Any = self.terminal
        self.reactor = Reactor()
        self.session = Session(self.reactor, channel, anna, relay, self.recording, self.ended.append)
        self.session.start()

    def type(self, *lines: str) -> str:
        """What is shown after it."""
        before = len(self.terminal.shown)
        for line in lines:
            self.session.take(line.encode() + b"\r")
        return self.terminal.shown[before:]

    def names(self) -> dict[str, Any]:
        found: dict[str, Any] = self.session._terminal.terminalProtocol.interpreter.locals
        return found

    def kept(self) -> str:
        return self.recording.path.read_text()


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[FakeRelay]:
    made = opened(tmp_path)
    yield made
    made.close()


@pytest.fixture
def console(relay: FakeRelay, tmp_path: Path) -> Console:
    return Console(relay, tmp_path)


def noted(relay: FakeRelay) -> list[tuple[str, str, str]]:
    return [(row.who, row.verb, row.result) for row in reversed(relay.directory.changes(50).result(10))]


# Running


def test_statements_are_run_with_the_relay_at_hand(console: Console) -> None:
    assert "ssh:anna" in console.terminal.shown and "mx1.relay.example" in console.terminal.shown
    assert "\r\n42\r\n" in console.type("6*7")
    assert "'mx1.relay.example'" in console.type("relay.config.node.name")
    assert "\r\n43\r\n" in console.type("x = 42", "x + 1")
    assert "\r\n86\r\n" in console.type("_ * 2")
    assert "1\r\n2\r\n" in console.type("for i in (1, 2):", "    print(i)", "")


def test_a_faulty_statement_shows_its_traceback_and_the_next_one_runs(console: Console) -> None:
    assert "ZeroDivisionError" in console.type("1/0")
    assert "SyntaxError" in console.type("1 +* 2")
    assert "\r\n2\r\n" in console.type("1 + 1")


def test_verbs_are_calls_and_what_they_change_is_noted_as_done_by_the_person(
    console: Console, relay: FakeRelay
) -> None:
    assert "'account': 'crm'" in console.type("queue(limit=1)")
    assert "'ok': True" in console.type("health()")
    assert console.type('verb("queue list", limit=1)').count("'account': 'crm'") == 1
    console.type("account.add('zeta')")
    console.reactor.until(lambda: "#1: {'name': 'zeta'" in console.terminal.shown)
    assert relay.directory.account("zeta") is not None
    assert "not done: name: 'no such name' is not a name" in console.type("account.add(name='no such name')")
    console.session.end()
    assert [row[:2] for row in noted(relay)] == [
        ("ssh:anna", "manhole open"),
        ("ssh:anna", "account add"),
        ("ssh:anna", "account add"),
        ("ssh:anna", "manhole close"),
    ]
    assert [row[2] for row in noted(relay)][1] == "done" and "is not a name" in noted(relay)[2][2]


def test_a_verb_that_is_refused_says_why_and_is_no_unhandled_error(console: Console) -> None:
    assert "not done: id: " in console.type("inspect('xyz')")
    assert "not done: limit: " in console.type("queue.list(limit=-1)")
    assert "no verb 'queue lst' (did you mean" in console.type("verb('queue lst')")
    assert 'did you mean "list"' in console.type("queue.lst()")
    assert "which?" in console.type("config()")
    assert "takes 0 bare arguments" in console.type("queue(5)")
    assert isinstance(console.names()["_"], Fault)


def test_a_block_is_added_by_calling_it() -> None:
    asked: list[Any] = []
    noun = manhole.Noun("block", lambda *args, **given: asked.append((args, given)))
    noun._verbs = ["add", "list"]
    noun("192.0.2.1", reason="x")
    noun()
    assert asked == [(("block add", "192.0.2.1"), {"reason": "x"}), (("block list",), {})]


def test_names_that_mean_something_to_python_stay_python_s(console: Console) -> None:
    assert _identifier("set-plan") == "set_plan" and _identifier("list") == "list_" and _identifier("del") == "del_"
    assert manhole._attribute("list") == "list" and manhole._attribute("import") == "import_"
    assert "[1]" in console.type("list((1,))")
    assert "'value'" not in console.type("list_.list()")


def test_help_tells_what_is_at_hand(console: Console) -> None:
    said = console.type("help()")
    assert "sessions()" in said and "queue" in said and len(max(said.split("\r\n"), key=len)) <= 80
    assert "queue list --limit 10" in console.type("queue")
    assert "limit: how many queues at most" in console.type("help(queue.list)")
    assert "bit_length" in console.type("help(int)")


# What comes later


def test_an_answer_that_comes_later_is_shown_when_it_comes_and_the_typed_line_stays(console: Console) -> None:
    later: Deferred[str] = Deferred()
    console.names()["later"] = later
    assert "#1 is under way" in console.type("later")
    console.session.take(b"1 + 1")
    before = len(console.terminal.shown)
    later.callback("there")
    assert "#1: 'there'\r\n>>> 1 + 1" in console.terminal.shown[before:]
    assert "\r\n2\r\n" in console.type("")
    assert "later: result" not in console.terminal.shown


def test_coroutines_and_futures_are_waited_for_too(console: Console) -> None:
    later: Deferred[int] = Deferred()

    async def asked() -> int:
        return await later + 1

    future: Future[int] = Future()
    console.names().update(asked=asked, future=future)
    assert "#1 is under way" in console.type("asked()") and "#2 is under way" in console.type("future")
    later.callback(1)
    future.set_result(7)
    console.reactor.pump()
    assert "#1: 2" in console.terminal.shown and "#2: 7" in console.terminal.shown
    assert console.names()["_"] == 7


def test_what_fails_later_is_told_and_left_to_whoever_else_waits_for_it(console: Console) -> None:
    later: Deferred[int] = Deferred()
    heard: list[Any] = []
    console.names()["later"] = later
    console.type("later")
    later.addErrback(lambda failure: heard.append(failure.value))
    later.errback(ValueError("no"))
    assert "#1: failed: ValueError: no" in console.terminal.shown and isinstance(heard[0], ValueError)

    async def fails() -> None:
        raise OSError("gone")

    console.names()["fails"] = fails
    assert "failed: OSError: gone" in console.type("fails()")


def test_what_comes_after_the_end_goes_nowhere(console: Console) -> None:
    later: Deferred[int] = Deferred()
    console.names()["later"] = later
    console.type("later", "exit()")
    shown, kept = console.terminal.shown, console.kept()
    later.callback(1)
    assert (console.terminal.shown, console.kept()) == (shown, kept)


# Safety


def test_nothing_that_is_shown_means_anything_to_the_terminal(console: Console) -> None:
    said = console.type("print('\\x1b[2J\\x9b2J\\u202e')")
    assert "\\x1b[2J\\x9b2J\\x202e" in said and "\x1b[2J" not in said


def test_a_statement_that_does_not_end_is_interrupted(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manhole, "PATIENCE", 0.2)
    monkeypatch.setattr(manhole, "_NOTICED", 0.1)
    said = console.type("while True: pass", "")
    assert "KeyboardInterrupt" in said and "the relay stood still for 0." in said
    assert "KeyboardInterrupt" in console.type("import time; time.sleep(60)")
    assert "\r\n2\r\n" in console.type("1 + 1")


def test_long_lines_statements_and_answers_are_bounded(console: Console) -> None:
    said = console.type("x = '" + "y" * 5000)
    assert "\a" in said
    assert "characters more" in console.type("print('z' * 1000000)")
    assert len(console.terminal.shown) < 200_000
    said = console.type("(", *["1," + " " * 4000] * 20)
    assert "a statement has at most 64 KB" in said
    assert "\r\n2\r\n" in console.type(")", "1 + 1")


def test_a_client_that_takes_nothing_costs_no_memory(console: Console) -> None:
    console.session.hold()
    shown = len(console.terminal.shown)
    for _ in range(30):
        console.type("print('z' * 60000)")
    assert 900_000 < len(console.terminal.shown) - shown < 1_200_000
    console.session.release()
    assert "\r\n2\r\n" in console.type("1 + 1")


# Recording


def test_a_line_is_on_file_before_it_is_run(console: Console) -> None:
    console.names()["seen"] = console.kept
    assert "> seen()" in console.type("seen()")


def test_without_a_recording_nothing_runs(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(console.recording, "_write", full)
    ran: list[int] = []
    console.names()["ran"] = ran
    assert "cannot be recorded any more: No space left on device" in console.type("ran.append(1)")
    assert not ran and console.terminal.status == 0 and console.ended == [console.session]


def test_a_full_recording_ends_the_session(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    console.recording._room = 200
    said = console.type(*["x = 1"] * 10)
    assert "is full" in said and console.ended and console.recording.path.stat().st_size < recording.SIZE


@pytest.mark.parametrize("keys", [b"\x04", b"exit()\r", b"quit()\r", b"raise SystemExit\r"])
def test_there_are_ways_out(console: Console, relay: FakeRelay, keys: bytes) -> None:
    console.session.take(keys)
    assert console.terminal.status == 0 and console.ended == [console.session]
    assert console.kept().endswith(" = the end\n")
    assert noted(relay)[-1][:2] == ("ssh:anna", "manhole close")
    console.session.end()
    assert len(noted(relay)) == 2


def test_ctrl_c_gives_up_the_line(console: Console) -> None:
    console.session.take(b"for\x03")
    assert "\r\n2\r\n" in console.type("1 + 1")


def test_sessions_with_clients_are_listed(console: Console, relay: FakeRelay) -> None:
    session = SimpleNamespace(peer="198.51.100.7", login="crm-1", helo="crm", machine=SimpleNamespace(stage="idle"))
    listeners = {"tcp:465": SimpleNamespace(factory=SimpleNamespace(sessions=[session]))}
    relay.doors = SimpleNamespace(listeners=listeners)  # type: ignore[attr-defined]
    assert "'peer': '198.51.100.7'" in console.type("sessions()")


def test_asyncio_is_nothing_to_this_prompt(console: Console) -> None:
    """A coroutine of another loop fails, and is told; it does not take the prompt with it."""
    console.names()["asyncio"] = asyncio
    assert "failed: RuntimeError" in console.type("asyncio.sleep(1)")
    assert "\r\n2\r\n" in console.type("1 + 1")
