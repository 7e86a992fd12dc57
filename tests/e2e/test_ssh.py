"""The console over SSH, as OpenSSH's own client meets it: who comes in, what they may, and how it ends."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .conftest import Stage
from .relay import Relay, free_port, until
from .ssh_kit import SSH, Client, Screen, make_key

pytestmark = pytest.mark.skipif(SSH is None, reason="no OpenSSH client; on Debian: apt-get install openssh-client")

HOST = "relay@127.0.0.1"
PEOPLE = {"anna": 'role="admin" ', "otto": 'role="operate" ', "vera": ""}


class Place:
    """A relay with SSH, and the people who may come in."""

    def __init__(self, stage: Stage, stack: ExitStack, more: str = "", *, on: bool = True) -> None:
        self.port = free_port("127.0.0.1")
        self.more = more
        self.relay: Relay = stage.relay(self.tables() if on else "")
        self.people = self.relay.home / "authorized_keys"
        home = self.relay.home
        self.lines = [f"{options}{make_key(home / name)} {name}" for name, options in PEOPLE.items()]
        self.write(self.lines)
        self._stack = stack
        self.relay.start()

    def tables(self) -> str:
        listen = f"tcp:{self.port}:interface=127.0.0.1"
        return f'[ssh]\nlisten = "{listen}"\nauthorized_keys = "authorized_keys"\n{self.more}\n'

    def write(self, lines: list[str]) -> None:
        self.people.write_text("\n".join(lines) + "\n")

    def client(self, name: str) -> Client:
        return Client(self.relay.home, self.port, self.relay.home / name)

    def run(self, name: str, command: str, given: str = "") -> tuple[int, str, str]:
        return self.client(name).run(HOST, command, given=given)

    def screen(self, name: str, *words: str) -> Screen:
        made = self.client(name).screen(HOST, *words)
        self._stack.callback(made.close)
        return made

    def children(self) -> list[int]:
        assert self.relay.process is not None
        pid = self.relay.process.pid
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def sockets(self) -> list[Path]:
        return list(self.relay.home.glob("control.sock.ssh-*"))

    def is_quiet(self) -> bool:
        """Whether nothing of any session is left."""
        return not self.children() and not self.sockets()

    def changes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.relay.ask("/v1/change/list", limit=20)
        return found


@pytest.fixture(scope="module")
def place(module_stage: Stage) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(module_stage, stack, 'manhole = "local"')


@pytest.fixture
def own(stage: Stage) -> Iterator[Any]:
    """Makes a place of the test's own."""
    with ExitStack() as stack:
        yield lambda more="", **how: Place(stage, stack, more, **how)


# The console


def test_a_right_key_opens_the_console_and_its_keys_work(place: Place) -> None:
    screen = place.screen("vera")
    screen.wait("well")
    screen.type("q")
    screen.wait("y/n")
    screen.type("y")
    assert screen.ended() == 0
    until(place.is_quiet)


def test_the_console_has_the_size_of_the_client_s_terminal_and_follows_it(place: Place) -> None:
    screen = place.screen("vera")
    screen.wait("\x1b\\[24;1H.*well")
    screen.resize(30, 100)
    screen.wait("\x1b\\[30;1H")
    screen.type("Q")
    assert screen.ended() == 0


def test_a_line_of_the_console_reads_no_file_with_the_rights_of_the_relay_s_own_user(place: Place) -> None:
    secret = place.relay.home / "hidden"
    secret.write_text("top secret\n")
    screen = place.screen("vera")
    screen.wait("well")
    screen.type(":")
    while "told its verbs" in screen.wait("▏|told its verbs yet"):
        screen.type(":")
    screen.type(f"shaping replay --rules {secret}\r")
    screen.wait("rules is read from a.?file", 10)
    screen.type("Q")
    assert screen.ended() == 0


def test_the_name_that_the_client_asks_for_gives_no_rights(place: Place) -> None:
    code, _, said = place.client("vera").run("root@127.0.0.1", "relayctl account add root")
    assert code == 1 and "needs the role admin; yours is view" in said


# Who does not come in


def test_a_key_that_is_not_known_is_refused_and_told_in_the_log(place: Place) -> None:
    make_key(place.relay.home / "eve")
    code, _, said = place.run("eve", "relayctl health")
    assert code == 255 and "Permission denied (publickey)" in said
    until(lambda: "did not come in: no key of theirs is known, the last was SHA256:" in place.relay.log())


def test_passwords_are_not_asked_for(place: Place) -> None:
    ways = "PreferredAuthentications=none,password,keyboard-interactive,hostbased"
    code, _, said = place.client("anna").run("-o", ways, HOST, "relayctl health")
    assert code == 255 and "Permission denied (publickey)" in said


def test_an_rsa_key_signs_with_sha_2_or_not_at_all(place: Place) -> None:
    line = make_key(place.relay.home / "rsa", "rsa") + " rsa"
    place.write([*place.lines, line])
    assert place.run("rsa", "relayctl version")[0] == 0
    old = place.client("rsa").run("-o", "PubkeyAcceptedAlgorithms=ssh-rsa", HOST, "relayctl version")
    assert old[0] == 255 and "Permission denied (publickey)" in old[2]
    place.write(place.lines)


@pytest.mark.parametrize(
    "old",
    [
        "KexAlgorithms=diffie-hellman-group14-sha1",
        "Ciphers=aes128-cbc",
        "MACs=hmac-sha1",
        "HostKeyAlgorithms=ssh-rsa",
    ],
)
def test_old_algorithms_are_not_agreed_on(place: Place, old: str) -> None:
    code, _, said = place.client("anna").run("-o", old, HOST, "relayctl version")
    assert code == 255 and ("no matching" in said or "couldn't match" in said), said


def test_what_is_no_ssh_is_cut_off(place: Place) -> None:
    for garbage in (b"GET / HTTP/1.1\r\n" * 400, b"SSH-2.0-x\r\n" + b"\xff" * 64, b"SSH-2.0-x\r\n" + b"\0" * 64):
        with socket.create_connection(("127.0.0.1", place.port), 10) as peer:
            peer.settimeout(10)
            peer.sendall(garbage)
            heard = b""
            try:
                while data := peer.recv(4096):
                    heard += data
            except ConnectionResetError:
                pass
            assert heard.startswith(b"SSH-2.0-relayd\r\n")
    code, said = place.relay.ctl("login", "forgive", "127.0.0.1")
    assert code == 0, said
    assert place.run("vera", "relayctl version")[0] == 0


# What they may


def test_a_key_changes_only_what_its_role_may_and_the_trail_names_it(place: Place) -> None:
    for name, words in (("vera", "config reload"), ("vera", "account add a1"), ("otto", "account add a1")):
        code, _, said = place.run(name, f"relayctl {words}")
        assert code == 1 and "yours is " in said, said
    assert place.run("otto", "relayctl config reload")[0] == 0
    assert place.run("anna", "relayctl account add a1")[0] == 0
    assert [(row["who"], row["verb"]) for row in place.changes()][:2] == [
        ("ssh:anna", "account add"),
        ("ssh:otto", "config reload"),
    ]


def test_relayctl_gives_its_answer_and_its_exit_code(place: Place) -> None:
    code, said, _ = place.run("vera", "relayctl --json health")
    assert code == 0 and json.loads(said)["ok"] is True
    assert place.run("vera", "relayctl inspect ffffffffffffffff")[0] == 1
    assert place.run("vera", "relayctl frobnicate")[0] == 2


def test_an_answer_comes_whole_while_keys_are_exchanged_anew(place: Place) -> None:
    whole = place.run("vera", "relayctl --json verbs")[1]
    client = place.client("vera")
    code, said, steps = client.run("-v", "-o", "RekeyLimit=16K", HOST, "relayctl --json verbs")
    assert code == 0 and said == whole and len(whole) > 40_000
    assert steps.count("SSH2_MSG_NEWKEYS received") > 1


def test_relayctl_takes_files_as_standard_input_and_reads_none_itself(place: Place) -> None:
    secret = place.relay.home / "secret"
    secret.write_text("top secret\n")
    for words in (
        f"shaping replay --rules {secret}",
        f"classify --rules {secret} hello",
        f"feedback explain {secret}",
        f"suppression import all {secret}",
    ):
        code, shown, said = place.run("anna", f"relayctl {words}")
        assert code == 1 and "no files are read over SSH" in said and "top" not in shown + said, said
    assert place.run("anna", "relayctl list add people")[0] == 0
    code, shown, said = place.run("anna", "relayctl suppression import people -", given="value\nivan@mail.example\n")
    assert code == 0 and "added" in shown, said


def test_relayctl_asks_no_other_socket(place: Place) -> None:
    for words in (f"--control {place.relay.control} account add a2", f"--config {place.relay.file} account add a2"):
        code, _, said = place.run("vera", f"relayctl {words}")
        assert code == 1 and "leave --control and --config out" in said
    assert place.relay.ctl("account", "show", "a2")[0] == 1


@pytest.mark.parametrize(
    "command",
    [
        "id",
        "sh -c id",
        "/bin/sh",
        "relayctl2 health",
        "manhole x",
        "scp -t /tmp",
        "'relayctl health'",
        "python -m relayd",
    ],
)
def test_nothing_else_is_run(place: Place, command: str) -> None:
    code, shown, said = place.run("anna", command)
    assert code == 1 and not shown and 'only "relayctl VERB" and "manhole" can be run here' in said


def test_there_is_no_shell_between(place: Place) -> None:
    code, shown, _ = place.run("anna", "relayctl version; id")
    assert code == 2 and "uid=" not in shown
    assert place.run("anna", "relayctl $(id)")[0] == 2
    assert "this is no command" in place.run("anna", "relayctl 'unclosed")[2]


def test_the_console_without_a_terminal_says_what_to_do(place: Place) -> None:
    code, _, said = place.client("vera").run("-T", HOST)
    assert code == 1 and "needs a terminal: ssh -t" in said


def test_nothing_is_forwarded(place: Place) -> None:
    client, control = place.client("anna"), f"127.0.0.1:{place.relay.relay}"
    assert "forwarding failed" in client.run("-W", control, HOST)[2]
    remote = client.run("-o", "ExitOnForwardFailure=yes", "-R", f"{free_port('127.0.0.1')}:{control}", "-N", HOST)
    assert remote[0] == 255 and "remote port forwarding failed" in remote[2]
    assert client.run("-s", HOST, "sftp")[0] != 0
    code, shown, _ = client.run("-A", HOST, "relayctl version")
    assert code == 0 and "version" in shown


# The manhole


def test_the_manhole_runs_what_is_typed_inside_the_relay_and_records_it(place: Place) -> None:
    screen = place.screen("anna", "manhole")
    assert "What you type is recorded" in screen.wait(">>> ")
    screen.type("relay.config.node.name\r")
    screen.wait("'relay.test.example'")
    screen.type("account.add('from-manhole')\r")
    screen.wait("#1: {'name': 'from-manhole'")
    screen.type("1/0\r")
    screen.wait("ZeroDivisionError")
    screen.type("\x04")
    assert screen.ended() == 0
    closed, added, opened = until(lambda: [r for r in place.changes() if "manhole" in str(r)][:3])
    assert (opened["verb"], added["verb"], closed["verb"]) == ("manhole open", "account add", "manhole close")
    assert {opened["who"], added["who"], closed["who"]} == {"ssh:anna"} and closed["arguments"]["lines"] == 3
    recording = (place.relay.spool / "manhole" / opened["arguments"]["recording"]).read_text()
    assert "> relay.config.node.name\n" in recording and "< 'relay.test.example'\n" in recording
    assert "> 1/0\n" in recording and "ZeroDivisionError" in recording and "= ssh:anna from 127.0.0.1" in recording


@pytest.mark.parametrize("name", ["otto", "vera"])
def test_the_manhole_is_for_admins(place: Place, name: str) -> None:
    code, _, said = place.client(name).run("-tt", HOST, "manhole")
    assert code == 1 and "the manhole is for the role admin; yours is" in _ + said


def test_the_manhole_is_closed_unless_it_is_opened(own: Any) -> None:
    code, shown, said = own().client("anna").run("-tt", HOST, "manhole")
    assert code == 1 and "the manhole is closed" in shown + said


# The end


def test_a_client_that_vanishes_takes_its_console_with_it(place: Place) -> None:
    screen = place.screen("vera")
    screen.wait("well")
    assert len(place.children()) == len(place.sockets()) == 1
    os.kill(screen.process, signal.SIGKILL)
    until(place.is_quiet)


def test_a_console_that_is_killed_ends_its_session_and_nothing_else(place: Place) -> None:
    screen = place.screen("vera")
    screen.wait("well")
    (child,) = place.children()
    os.kill(child, signal.SIGKILL)
    assert screen.ended() != 0
    until(place.is_quiet)
    assert place.relay.health()["ok"]


def test_a_console_that_does_not_listen_is_killed(place: Place) -> None:
    screen = place.screen("vera")
    screen.wait("well")
    (child,) = place.children()
    os.kill(child, signal.SIGSTOP)
    os.kill(screen.process, signal.SIGKILL)
    until(place.is_quiet)


def test_a_key_that_is_taken_away_ends_its_sessions(place: Place) -> None:
    screen = place.screen("otto")
    screen.wait("well")
    other = place.screen("vera")
    other.wait("well")
    place.write([line for line in place.lines if not line.endswith("otto")])
    screen.wait("what your key may do has changed")
    assert screen.ended() == 255
    assert place.run("otto", "relayctl version")[0] == 255
    assert len(place.children()) == 1
    place.write(place.lines)
    other.type("Q")
    assert other.ended() == 0


def test_a_relay_that_stops_ends_its_sessions_and_is_not_held_up(own: Any) -> None:
    place = own('manhole = "local"')
    console, prompt = place.screen("vera"), place.screen("anna", "manhole")
    console.wait("well")
    prompt.wait(">>> ")
    children = place.children()
    began = time.monotonic()
    assert place.relay.stop() == 0
    assert time.monotonic() - began < 10
    assert console.ended() == 255 and prompt.ended() == 255
    assert not place.sockets() and not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_relay_that_is_killed_leaves_no_console_behind(own: Any) -> None:
    place = own()
    screen = place.screen("vera")
    screen.wait("well")
    (child,) = place.children()
    place.relay.kill()
    assert screen.ended() == 255
    until(lambda: not Path(f"/proc/{child}").exists())
    assert place.sockets()
    place.relay.start()
    assert place.is_quiet()
    assert place.run("vera", "relayctl version")[0] == 0  # and the host's key is the one it was


# Limits and configuration


def admitted(port: int) -> socket.socket | None:
    """A connection, unless it is refused: the one before may still be on its way out."""
    peer = socket.create_connection(("127.0.0.1", port), 10)
    if peer.recv(4096).startswith(b"SSH-2.0"):
        return peer
    peer.close()
    return None


def test_one_session_too_many_is_refused_and_the_next_one_after_that_is_not(own: Any) -> None:
    place = own("max_sessions = 1\nmax_connections_per_ip = 2")
    first = place.screen("vera")
    first.wait("well")
    code, _, said = place.run("otto", "relayctl version")
    assert code == 1 and "1 sessions are open already" in said
    with until(lambda: admitted(place.port)):
        code, _, said = place.run("otto", "relayctl version")
        assert code == 255
        assert "2 connections are open from there" in place.relay.log()
    first.type("Q")
    assert first.ended() == 0
    until(place.is_quiet)
    assert place.run("otto", "relayctl version")[0] == 0


def test_an_address_that_fails_again_and_again_is_turned_away_until_it_is_forgiven(own: Any) -> None:
    place = own()
    make_key(place.relay.home / "eve")
    for _ in range(6):
        assert "Permission denied" in place.run("eve", "relayctl version")[2]
    until(lambda: place.relay.log().count("did not come in") == 6)
    code, _, said = place.run("vera", "relayctl version")
    assert code == 255 and "Permission denied" not in said
    assert "ssh" in place.relay.ctl("login", "failures")[1]
    assert place.relay.ctl("login", "forgive", "ssh")[0] == 0
    assert place.run("vera", "relayctl version")[0] == 0


def test_a_silent_client_is_not_waited_for(own: Any) -> None:
    place = own('auth_time = "1s"')
    with socket.create_connection(("127.0.0.1", place.port), 10) as peer:
        peer.settimeout(10)
        heard = b""
        while data := peer.recv(4096):
            heard += data
    assert b"no key was known after 1 s" in heard


def test_a_session_in_which_nobody_types_ends(own: Any) -> None:
    place = own('idle = "2s"')
    screen = place.screen("vera")
    screen.wait("well")
    screen.wait("nothing was typed for too long")
    assert screen.ended() == 255
    until(place.is_quiet)


def test_a_reload_turns_it_on_changes_and_ends_it(own: Any) -> None:
    place = own(on=False)
    assert place.run("vera", "relayctl version")[0] == 255
    place.relay.write(place.tables())
    assert place.relay.ctl("config", "reload")[0] == 0
    assert place.run("vera", "relayctl version")[0] == 0
    place.more = "max_sessions = 1"
    place.relay.write(place.tables())
    assert place.relay.ctl("config", "reload")[0] == 0
    screen = place.screen("vera")
    screen.wait("well")
    assert "1 sessions are open already" in place.run("otto", "relayctl version")[2]
    place.relay.write("")
    assert place.relay.ctl("config", "reload")[0] == 0
    assert screen.ended() == 255
    until(place.is_quiet)
    assert place.run("vera", "relayctl version")[0] == 255


def test_a_faulty_file_of_keys_is_a_warning_and_a_fault_of_the_check(own: Any) -> None:
    place = own()
    place.write([*place.lines, "nonsense"])
    until(lambda: any("line 4: is no key" in warning for warning in place.relay.health()["warnings"]))
    assert place.run("vera", "relayctl version")[0] == 0
    check = place.relay.spawn("--check")
    assert check.wait(30) == 1
    assert f"ssh.authorized_keys: {place.people}, line 4: is no key" in place.relay.log()
