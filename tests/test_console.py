import errno
import fcntl
import json
import os
import pty
import select
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urwid
from hypothesis import given
from hypothesis import strategies as st
from relayd_console import api, app
from relayd_console.api import Snapshot, Unreachable
from relayd_console.app import KEYS, Console, control_of, parser, queue_cells, span, status_text, visible

NOW = 1_800_000_000.0
STATUS = {
    "node": "mx1.relay.example",
    "version": "0.1.0",
    "uptime": 7200.0,
    "accounts": 2,
    "connections": 5,
    "ok": True,
    "faults": [],
}


def queue(domain: str, count: int, due: float = NOW + 90, why: str = "retry") -> dict[str, Any]:
    return {"account": "crm", "stream": "bulk", "domain": domain, "count": count, "due": due, "why": why}


def seen(*queues: dict[str, Any], fault: str = "", status: dict[str, Any] = STATUS) -> Snapshot:
    return Snapshot(NOW, {} if fault else status, list(queues), fault)


class Screen:
    """A console on a terminal of 100 columns and 12 lines."""

    size = (100, 12)

    def __init__(self) -> None:
        self.now = NOW
        self.hurried = 0
        self.console = Console(self._hurry, lambda: self.now)

    def _hurry(self) -> None:
        self.hurried += 1

    @property
    def lines(self) -> list[str]:
        return [line.decode().rstrip() for line in self.console.frame.render(self.size, focus=True).text]

    @property
    def focused(self) -> str:
        for row in self.console.frame.render(self.size, focus=True).content():
            for attribute, _, text in row:
                if attribute == "focus":
                    return bytes(text).decode().split()[0]
        return ""

    def press(self, *keys: str) -> None:
        for key in keys:
            left = self.console.frame.keypress(self.size, key)
            if left is not None:
                self.console.unhandled(left)


@pytest.fixture
def screen() -> Screen:
    return Screen()


def test_queues_are_listed_longest_first_with_due_time_and_reason(screen: Screen) -> None:
    screen.console.show(seen(queue("a.example", 3, NOW - 5, "ready"), queue("b.example", 12), queue("c.example", 7)))
    rows = [line.split() for line in screen.lines[2:5]]
    assert rows == [
        ["crm/bulk/b.example", "12", "in", "1m", "retry"],
        ["crm/bulk/c.example", "7", "in", "1m", "retry"],
        ["crm/bulk/a.example", "3", "now", "ready"],
    ]


def test_the_top_line_says_who_this_relay_is_and_that_it_is_well(screen: Screen) -> None:
    screen.console.show(seen())
    assert screen.lines[0] == "mx1.relay.example  relayd 0.1.0  up 2h  2 accounts, 5 connections  well"


def test_a_relay_that_is_not_well_says_why(screen: Screen) -> None:
    screen.console.show(seen(status={**STATUS, "ok": False, "faults": ["spool: disk full"]}))
    assert screen.lines[0].endswith("spool: disk full")


def test_before_the_first_answer_it_says_that_it_asks(screen: Screen) -> None:
    assert "asking relayd" in screen.lines[0]


def test_a_relay_gone_leaves_its_last_queues_under_a_line_that_says_so(screen: Screen) -> None:
    screen.console.show(seen(queue("a.example", 3)))
    screen.console.show(seen(fault="no relayd is running at /x"))
    assert screen.lines[0] == "no relayd is running at /x; trying again"
    assert "a.example" in screen.lines[2]


def test_an_answer_that_grows_old_says_how_old(screen: Screen) -> None:
    screen.console.show(seen())
    screen.now += 65
    screen.console.tick()
    assert screen.lines[0].endswith("seen 1m ago")


def test_the_focus_follows_its_queue_when_the_order_changes(screen: Screen) -> None:
    screen.console.show(seen(queue("a.example", 9), queue("b.example", 5)))
    screen.press("down")
    assert screen.focused == "crm/bulk/b.example"
    grown = [queue("a.example", 9), queue("b.example", 50), queue("c.example", 60), queue("d.example", 70)]
    screen.console.show(seen(*grown))
    assert screen.focused == "crm/bulk/b.example"


def test_the_focus_of_a_queue_that_went_away_is_on_the_first(screen: Screen) -> None:
    screen.console.show(seen(queue("a.example", 9), queue("b.example", 5)))
    screen.press("down")
    screen.console.show(seen(queue("a.example", 9)))
    assert screen.focused == "crm/bulk/a.example"


def test_no_queues_is_an_empty_list(screen: Screen) -> None:
    screen.console.show(seen(queue("a.example", 9)))
    screen.console.show(seen())
    assert not any(screen.lines[2:-1])
    screen.press("down", "up", "page down")


def test_help_lists_every_key_and_back_leaves_it(screen: Screen) -> None:
    screen.press("?")
    text = "\n".join(screen.lines)
    assert all(row.help in text and row.command in text for row in KEYS)
    screen.press("esc")
    assert "Keys" not in screen.lines[1]
    assert "Quit?" not in screen.lines[-1]


def test_the_bottom_line_names_every_key(screen: Screen) -> None:
    assert all("/".join(row.keys) in screen.lines[-1] for row in KEYS)


@pytest.mark.parametrize("key", ["q", "esc"])
def test_back_at_the_root_asks_before_it_quits(screen: Screen, key: str) -> None:
    screen.press(key)
    assert screen.lines[-1] == "Quit? y/n"
    with pytest.raises(urwid.ExitMainLoop):
        screen.press("y")


@pytest.mark.parametrize("key", ["n", "q", "x"])
def test_any_answer_but_yes_stays(screen: Screen, key: str) -> None:
    screen.press("q", key)
    assert "Quit?" not in screen.lines[-1]


def test_capital_q_quits_at_once_even_in_help(screen: Screen) -> None:
    screen.press("?")
    with pytest.raises(urwid.ExitMainLoop):
        screen.press("Q")


def test_r_asks_at_once(screen: Screen) -> None:
    screen.press("r")
    assert screen.hurried == 1


def test_every_key_has_a_command_and_no_key_has_two(screen: Screen) -> None:
    keys = [key for row in KEYS for key in row.keys]
    assert len(keys) == len(set(keys))
    assert {row.command for row in KEYS} == set(screen.console._commands)


def test_words_of_remote_servers_reach_no_terminal_unescaped(screen: Screen) -> None:
    evil = "450 \x1b]0;owned\x07\x1b[2J\u202egnp\u2028\r\n"
    screen.console.show(seen(queue(evil, 3, why=evil), fault=""))
    screen.console.show(seen(fault=evil))
    text = "".join(screen.lines)
    assert text.isprintable()
    assert "\\x1b]0;owned" in text


@given(st.text(), st.integers(1, 300))
def test_what_is_visible_is_printable_and_not_too_long(text: str, limit: int) -> None:
    assert visible(text, limit).isprintable()
    assert len(visible(text, limit)) <= limit


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("account", "stream", "domain", "count", "due", "why"), _JSON)))
def test_any_queue_that_relayd_might_name_can_be_shown(row: dict[str, Any]) -> None:
    assert all(cell.isprintable() for cell in queue_cells(row, NOW))


@given(st.fixed_dictionaries({}, optional=dict.fromkeys((*STATUS, "other"), _JSON)))
def test_any_status_that_relayd_might_give_can_be_shown(status: dict[str, Any]) -> None:
    palette, text = status_text(seen(status=status), NOW)
    assert palette in ("well", "fault")
    assert text.isprintable()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59.9, "59s"), (60, "1m"), (7199, "1h"), (200_000, "2d")])
def test_spans_are_in_one_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text


# Asking.


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Answers one connection after another on a UNIX socket with the bytes given; none of them: silence."""
    listener = socket.socket(socket.AF_UNIX)
    threads: list[threading.Thread] = []

    def start(*answers: bytes) -> str:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        threads.append(threading.Thread(target=answer_all, args=(answers,), daemon=True))
        threads[0].start()
        return str(tmp_path / "s")

    def answer_all(answers: tuple[bytes, ...]) -> None:
        for answer in answers:
            peer, _ = listener.accept()
            with peer:
                while b"\r\n\r\n" not in peer.recv(65536):
                    pass
                peer.sendall(answer)

    yield start
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    listener.close()


def http(value: object, status: str = "200 OK") -> bytes:
    body = json.dumps(value).encode()
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def test_a_snapshot_is_status_and_queues(serve: Callable[..., str]) -> None:
    control = serve(http(STATUS), http([queue("a.example", 1)]))
    assert api.look(control, NOW) == seen(queue("a.example", 1))


def test_a_snapshot_holds_a_bounded_number_of_queues(serve: Callable[..., str]) -> None:
    control = serve(http(STATUS), http([queue("a.example", n) for n in range(api.MOST_QUEUES + 50)]))
    assert len(api.look(control, NOW).queues) == api.MOST_QUEUES


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([b"SSH-2.0-whatever\r\n"], "/s: "),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[[["], "no relayd"),
        ([http(["not", "a", "status"]), http([])], "no relayd"),
        ([http(STATUS), http({"not": "queues"})], "no relayd"),
        ([http({"error": "yours is none", "field": ""}, "403 Forbidden")], "yours is none"),
        ([http([], "500 Oops")], "status 500"),
        ([b""], "/s: "),
    ],
)
def test_an_answer_that_is_none_is_a_fault_in_words(
    serve: Callable[..., str], answers: list[bytes], words: str
) -> None:
    assert words in api.look(serve(*answers), NOW).fault


def test_no_relay_is_a_fault_in_words(tmp_path: Path) -> None:
    assert api.look(str(tmp_path / "none"), NOW).fault == f"no relayd is running at {tmp_path / 'none'}"


def test_a_relay_that_hangs_is_given_up_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PATIENCE", 0.05)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "s"))
        mute.listen()
        assert "does not answer" in api.look(str(tmp_path / "s"), NOW).fault


# The command.


def options(*words: str) -> Any:
    return parser().parse_args(words)


def test_the_socket_is_named_by_option_then_environment_then_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "relayd.toml"
    file.write_text('[node]\ncontrol = "run/c.sock"\n')
    monkeypatch.setenv("RELAYD_CONTROL", "/from/environment")
    assert control_of(options("--control", "/from/option")) == "/from/option"
    assert control_of(options()) == "/from/environment"
    assert control_of(options("--config", str(file))) == str(tmp_path / "run/c.sock")
    monkeypatch.delenv("RELAYD_CONTROL")
    monkeypatch.setattr(app, "DEFAULT_CONFIG", str(file))
    assert control_of(options()) == str(tmp_path / "run/c.sock")


@pytest.mark.parametrize("text", ["", "node = 1", "[node", '[node]\nname = "x"'])
def test_a_file_that_names_no_socket_is_a_fault(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(Unreachable, match="no control socket"):
        control_of(options("--config", str(tmp_path / "c.toml")))


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        app.main(["--help"])
    assert stopped.value.code == 0
    assert "relayd-console --control /run/relayd/control.sock" in capsys.readouterr().out


def test_without_a_terminal_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert app.main(["--control", "/none"]) == 1
    assert "terminal" in capsys.readouterr().err


def test_on_a_real_terminal_it_starts_without_a_relay_and_quits_on_capital_q(tmp_path: Path) -> None:
    keys, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    root = Path(app.__file__).parent.parent
    command = [sys.executable, "-m", "relayd_console.app", "--control", str(tmp_path / "none")]
    environ = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(root)}
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environ) as console:
        os.close(terminal)
        try:
            assert b"no relayd is running" in read_until(keys, b"no relayd is running")
            os.write(keys, b"Q")
            read_until(keys, b"", 10)
            assert console.wait(10) == 0
        finally:
            console.kill()
            os.close(keys)


def read_until(terminal: int, words: bytes, seconds: float = 20) -> bytes:
    """What a terminal shows until the words come, or its end."""
    shown = b""
    while (not words or words not in shown) and select.select([terminal], [], [], seconds)[0]:
        try:
            shown += os.read(terminal, 65536)
        except OSError as error:
            assert error.errno == errno.EIO
            break
    return shown
