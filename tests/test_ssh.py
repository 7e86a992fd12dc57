"""SSH below OpenSSH's own client, which behaves: limits, deadlines, forged signatures, clients that take nothing, and
children that look for more rights than their person has."""

import os
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.conch.error import IgnoreAuthentication
from twisted.conch.ssh.common import NS
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.userauth import MSG_USERAUTH_PK_OK, MSG_USERAUTH_REQUEST
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import reactor, task
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import TestCase

from relayd.control.api import ControlService
from relayd.ssh import child
from relayd.ssh.channel import Channel, Refused
from relayd.ssh.child import Child
from relayd.ssh.keys import Person, parse
from relayd.ssh.server import Settings, SSHFactory
from relayd.ssh.transport import Connection, Transport, UserAuth
from tests.e2e.ssh_kit import make_key
from tests.fake_relay import FakeRelay, opened


class Wire(StringTransport):
    """A client's connection that can be cut."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True

    def setTcpKeepAlive(self, on: bool) -> None:
        pass

    setTcpNoDelay = setTcpKeepAlive


class Place:
    """A factory on a clock, and the keys of its people."""

    def __init__(self, directory: Path, relay: FakeRelay, **settings: Any) -> None:
        self.clock = task.Clock()
        self.keys = directory / "people"
        self.keys.mkdir(mode=0o755)
        lines = [f'role="{role}" {make_key(self.keys / name)} {name}' for name, role in PEOPLE.items()]
        lines.append(f'from="10.0.0.0/8" {make_key(self.keys / "nora")} nora')
        lines.append(make_key(self.keys / "rsa", "rsa") + " rsa")
        self.file = self.keys / "authorized_keys"
        self.file.write_text("\n".join(lines))
        given = Settings(str(self.file), **settings)
        self.factory = SSHFactory(self.clock, relay, "/nowhere/control.sock", directory / "manhole", given)
        self.factory.serve_as((self.keys / "anna").read_bytes())

    def call(self, ip: str = "192.0.2.1") -> tuple[Transport, Wire]:
        made, wire = self.factory.buildProtocol(None), Wire(peerAddress=IPv4Address("TCP", ip, 50000))
        made.makeConnection(wire)
        return made, wire

    def lose(self, connection: Transport) -> None:
        connection.connectionLost()

    def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.factory.sweep()

    def person(self, name: str) -> Person:
        return next(p for p in parse(self.file.read_text())[0].values() if p.name == name)


PEOPLE = {"anna": "admin", "vera": "view"}


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[FakeRelay]:
    made = opened(tmp_path)
    yield made
    made.close()


@pytest.fixture
def place(tmp_path: Path, relay: FakeRelay) -> Place:
    return Place(tmp_path, relay, connections=3, connections_per_ip=2)


# Connections


def test_a_client_that_does_not_come_in_is_sent_off_and_then_cut_off(place: Place) -> None:
    connection, wire = place.call()
    place.later(20)
    assert not wire.disconnecting
    place.later(0.1)
    assert wire.disconnecting and b"no key was known after 20 s" in wire.value() and not wire.aborted
    place.later(5.1)
    assert wire.aborted
    place.lose(connection)
    assert not place.factory.connections


def test_strangers_push_out_each_other_and_nobody_else(place: Place) -> None:
    inside, _ = place.call("192.0.2.1")
    inside.came_in(place.person("vera"))
    strangers = [place.call(f"192.0.2.{n}") for n in (2, 3)]
    place.call("192.0.2.4")
    assert [wire.aborted for _, wire in strangers] == [True, False]
    for connection in (strangers[1][0], *list(place.factory.connections)[-1:]):
        connection.came_in(place.person("vera"))
    place.lose(strangers[0][0])
    _, late = place.call("192.0.2.9")
    assert late.value() == b"relayd: 3 connections are open\r\n" and late.disconnecting


def test_one_address_has_a_few_connections_only(place: Place) -> None:
    held = [place.call("2001:db8::1"), place.call("2001:db8::2")]
    assert all(not wire.disconnecting for _, wire in held)
    _, wire = place.call("2001:db8::3")  # of the same /64
    assert b"2 connections are open from there" in wire.value()


def test_who_leaves_without_having_cost_anything_is_no_failure(place: Place, relay: FakeRelay) -> None:
    for _ in range(50):
        place.lose(place.call()[0])
    assert relay.guard.failures(relay.now(), 5) == []
    for _ in range(6):
        connection, _ = place.call()
        connection.sessionID = b"an exchange of keys"
        place.lose(connection)
    _, wire = place.call()
    assert b"too many tries failed from there, the next may be in 30 s" in wire.value()
    relay.guard.forgive("192.0.2.1")
    assert place.call()[1].value().startswith(b"SSH-2.0-relayd\r\n")


def test_guesses_at_mail_s_passwords_keep_nobody_from_coming_in(place: Place, relay: FakeRelay) -> None:
    for _ in range(30):
        relay.guard.failed("192.0.2.1", "crm-1", relay.now())
    assert relay.guard.refuse("192.0.2.1", "ssh", relay.now()) > 0
    assert place.call("192.0.2.1")[1].value().startswith(b"SSH-2.0-relayd\r\n")


def test_a_connection_whose_key_is_taken_away_or_changes_its_role_ends(place: Place) -> None:
    connection, wire = place.call()
    connection.came_in(place.person("vera"))
    place.later(2)
    assert not wire.disconnecting
    place.file.write_text(place.file.read_text().replace('role="view"', 'role="operate"'))
    place.later(1)
    assert wire.disconnecting and b"what your key may do has changed" in wire.value()


def test_a_connection_without_a_channel_ends_soon(place: Place) -> None:
    connection, wire = place.call()
    connection.came_in(place.person("vera"))
    place.later(29)
    assert not wire.disconnecting
    place.later(2)
    assert wire.disconnecting


def test_garbage_ends_the_connection_and_is_told_without_being_repeated(place: Place) -> None:
    connection, wire = place.call()
    connection.dataReceived(b"SSH-2.0-x\r\n" + struct.pack(">LB", 12, 4) + b"\x14" + b"\xff" * 11)
    assert wire.aborted and "is no SSH that is taken here" in connection.tried
    place.lose(connection)


# Proof


class Proof:
    """A client's request to come in, as it goes over the wire."""

    def __init__(self, place: Place, name: str, algorithm: bytes = b"ssh-ed25519", ip: str = "192.0.2.1") -> None:
        self.connection, self.wire = place.call(ip)
        self.connection.sessionID = b"the session"
        self.sent: list[tuple[int, bytes]] = []
        self.connection.sendPacket = lambda kind, text: self.sent.append((kind, text))  # type: ignore[method-assign]
        self.auth = UserAuth()
        self.auth.transport = self.connection
        self.auth.serviceStarted()
        self.key = Key.fromFile(str(place.keys / name))
        self.algorithm = algorithm
        self.blob = self.key.public().blob()

    def signature(self, session: bytes = b"the session", user: bytes = b"admin") -> bytes:
        head = NS(session) + bytes((MSG_USERAUTH_REQUEST,)) + NS(user) + NS(b"ssh-connection") + NS(b"publickey")
        return self.key.sign(head + b"\1" + NS(self.algorithm) + NS(self.blob), self.algorithm)

    def ask(self, signature: bytes | None, service: bytes = b"ssh-connection") -> Any:
        """What becomes of it: the person, or the failure's class."""
        signed = b"\0" if signature is None else b"\1"
        request = signed + NS(self.algorithm) + NS(self.blob) + (NS(signature) if signature is not None else b"")
        self.auth.user, self.auth.nextService, self.auth.method = b"admin", service, b"publickey"
        found: list[Any] = []
        self.auth.auth_publickey(request).addCallbacks(
            lambda result: found.append(result[1]), lambda failure: found.append(failure.type)
        )
        return found[0]


def test_a_right_signature_comes_in_and_an_offer_alone_does_not(place: Place) -> None:
    proof = Proof(place, "anna")
    assert proof.ask(None) is IgnoreAuthentication
    assert [kind for kind, _ in proof.sent] == [MSG_USERAUTH_PK_OK] and proof.connection.person is None
    assert proof.ask(proof.signature()) == place.person("anna") == proof.connection.person


@pytest.mark.parametrize(
    "forge",
    [
        lambda proof: proof.signature(session=b"another session"),
        lambda proof: proof.signature(user=b"root"),
        lambda proof: proof.signature()[:-1] + bytes([proof.signature()[-1] ^ 1]),
        lambda proof: NS(b"ssh-dss") + proof.signature()[15:],
        lambda proof: b"x" * 40,
        lambda proof: b"",
        lambda proof: NS(b"ssh-ed25519") + NS(b""),
        lambda proof: b"\xff\xff\xff\xff",
    ],
)
def test_a_wrong_signature_does_not_come_in(place: Place, forge: Any) -> None:
    proof = Proof(place, "anna")
    assert proof.ask(forge(proof)) is UnauthorizedLogin
    assert proof.connection.person is None and "signature" in proof.connection.tried
    place.lose(proof.connection)


def test_a_key_proves_nothing_for_another_service_from_elsewhere_or_with_sha_1(place: Place) -> None:
    proof = Proof(place, "anna")
    assert proof.ask(proof.signature(), b"ssh-userauth") is UnauthorizedLogin
    for ip, taken in (("192.0.2.1", False), ("10.1.1.1", True)):
        proof = Proof(place, "nora", ip=ip)
        assert (proof.ask(proof.signature()) != UnauthorizedLogin) == taken
    for algorithm, taken in ((b"ssh-rsa", False), (b"rsa-sha2-256", True), (b"rsa-sha2-512", True)):
        proof = Proof(place, "rsa", algorithm, ip="192.0.2.7")
        assert (proof.ask(proof.signature()) != UnauthorizedLogin) == taken
        place.lose(proof.connection)


def test_a_signature_of_one_kind_is_not_taken_as_another(place: Place) -> None:
    proof = Proof(place, "rsa", b"rsa-sha2-512")
    proof.algorithm = b"ssh-rsa"
    old = proof.signature()
    proof.algorithm = b"rsa-sha2-512"
    assert proof.ask(old) is UnauthorizedLogin


def test_only_who_has_come_in_may_open_channels(place: Place) -> None:
    connection, _ = place.call()
    assert place.factory.getService(connection, b"ssh-connection") is None
    assert place.factory.getService(connection, b"ssh-userauth") is UserAuth
    connection.came_in(place.person("vera"))
    assert place.factory.getService(connection, b"ssh-connection") is Connection
    assert place.factory.getService(connection, b"ssh-userauth") is None


# Channels


class Stub:
    """An occupant that notes what it is told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.heard.append((name, *args))


def opened_channel(place: Place, occupy: Any, window: int = 100) -> Channel:
    connection, _ = place.call()
    connection.came_in(place.person("anna"))
    channel = Channel(connection, window, 4096, occupy)
    channel.conn = SimpleNamespace(  # type: ignore[assignment]
        sent=[],
        sendData=lambda channel, data: channel.conn.sent.append(data),
        sendExtendedData=lambda channel, kind, data: channel.conn.sent.append(data),
        sendRequest=lambda channel, *request: channel.conn.sent.append(request),
        sendClose=lambda channel: channel.conn.sent.append("close"),
    )
    return channel


def test_output_waits_for_a_client_that_takes_none(place: Place) -> None:
    stub = Stub()
    channel = opened_channel(place, lambda channel, words: stub)
    assert channel.requestReceived(b"exec", NS(b"relayctl health"))
    channel.write(b"x" * 150)
    assert stub.heard == [("hold",)] and channel.conn.sent == [b"x" * 100]  # type: ignore[union-attr]
    channel.hold("full")
    channel.addWindowBytes(200)
    assert stub.heard == [("hold",)]
    channel.release("full")
    assert stub.heard == [("hold",), ("release",)]


def test_a_channel_opened_while_keys_are_exchanged_waits_too(place: Place) -> None:
    stub = Stub()
    channel = opened_channel(place, lambda channel, words: stub)
    channel._held = {"keys"}
    channel.requestReceived(b"shell", b"")
    assert stub.heard == [("hold",)]


def test_a_channel_does_one_thing(place: Place) -> None:
    made: list[Any] = []
    channel = opened_channel(place, lambda channel, words: made.append(words) or Stub())
    assert channel.requestReceived(b"exec", NS(b"relayctl 'a b'"))
    assert not channel.requestReceived(b"shell", b"") and not channel.requestReceived(b"exec", NS(b"relayctl"))
    assert made == [["relayctl", "a b"]]


@pytest.mark.parametrize("request_name", [b"x11-req", b"auth-agent-req@openssh.com", b"subsystem", b"env", b"signal"])
def test_what_is_not_for_here_is_refused(place: Place, request_name: bytes) -> None:
    assert not opened_channel(place, None).requestReceived(request_name, NS(b"sftp"))


@pytest.mark.parametrize("command", [b"", b"   ", b"a\0b", b"\xff", b"'", b"x" * 40_000])
def test_what_is_no_command_is_refused_with_a_sentence(place: Place, command: bytes) -> None:
    channel = opened_channel(place, None)
    assert channel.requestReceived(b"exec", NS(command))
    place.clock.advance(0)
    said, status, closed = channel.conn.sent  # type: ignore[union-attr]
    assert said.startswith(b"relayd: this is no command: ") and status[0] == b"exit-status" and closed == "close"


def test_a_terminal_s_name_and_size_are_those_that_a_child_can_bear(place: Place) -> None:
    channel = opened_channel(place, None)
    channel.requestReceived(b"pty-req", NS(b"x\x1b;rm") + struct.pack(">4L", 2**32 - 1, 0, 0, 0) + NS(b""))
    assert (channel.term, channel.size.columns, channel.size.rows) == ("xterm", 1000, 5)


# Who may have what


def occupied(place: Place, name: str, words: list[str], ip: str = "127.0.0.1", **settings: Any) -> str:
    """Why it is refused, "" if it is not."""
    place.factory.settings = Settings(str(place.file), **settings)
    connection, _ = place.call(ip)
    connection.came_in(place.person(name))
    channel = Channel(connection, 1 << 20, 4096, place.factory._occupy)
    channel.conn = SimpleNamespace(sendData=lambda channel, data: None)  # type: ignore[assignment]
    channel.term = "xterm"
    try:
        place.factory._occupy(channel, words).end()
    except Refused as refused:
        return str(refused)
    finally:
        place.lose(connection)
    return ""


def test_the_manhole_is_for_admins_on_this_machine_if_it_is_local(place: Place) -> None:
    assert "is closed" in occupied(place, "anna", ["manhole"])
    assert occupied(place, "anna", ["manhole"], manhole="local") == ""
    assert occupied(place, "anna", ["manhole"], "::1", manhole="local") == ""
    assert "on this machine only" in occupied(place, "anna", ["manhole"], "192.0.2.1", manhole="local")
    assert occupied(place, "anna", ["manhole"], "192.0.2.1", manhole="on") == ""
    for manhole in ("off", "local", "on"):
        assert occupied(place, "vera", ["manhole"], manhole=manhole)


def test_a_manhole_that_cannot_be_recorded_stays_closed(place: Place, tmp_path: Path) -> None:
    (tmp_path / "manhole").write_text("in the way")
    assert "cannot be recorded, so it stays closed" in occupied(place, "anna", ["manhole"], manhole="on")


# Children


class Output:
    """A channel for a child, without a terminal."""

    def __init__(self) -> None:
        self.term = ""
        self.size = SimpleNamespace(rows=24, columns=80)
        self.shown = b""
        self.ended: Deferred[Any] = Deferred()
        self.connection = SimpleNamespace(transport=SimpleNamespace(pauseProducing=None, resumeProducing=lambda: None))

    def write(self, data: bytes) -> None:
        self.shown += data

    def writeExtended(self, kind: int, data: bytes) -> None:
        self.shown += data

    def done(self, status: int | None = None, signal: str = "") -> None:
        self.ended.callback(status if status is not None else signal)


PROBE = """
import json, os, sys
from relayd import ctl
from relayd.control.verbs import BY_PATH

def ask(socket):
    status, raw = ctl.ask(socket, BY_PATH["/v1/account/add"], {"name": sys.argv[2] + str(len(socket))})
    print(status, json.loads(raw).get("error", "done"), flush=True)

ask(os.environ["RELAYD_CONTROL"])
ask(sys.argv[1])
if os.fork() == 0:
    ask(sys.argv[1])
    os._exit(0)
os.wait()
"""


class ChildTest(TestCase):
    """A process of a session, which tries the doors."""

    def setUp(self) -> None:
        self.home = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.home)
        self.control = str(self.home / "c.sock")
        post = reactor.callFromThread  # type: ignore[attr-defined]
        self.relay: Any = opened(self.home, post)
        self.addCleanup(self.relay.close)
        self.main = ControlService(reactor, self.control, self.relay)
        self.main.startService()
        self.addCleanup(self.main.stopService)
        (self.home / "people").write_text("")
        recordings, settings = self.home / "manhole", Settings(str(self.home / "people"))
        self.factory = SSHFactory(reactor, self.relay, self.control, recordings, settings)
        self.main.is_for_another = self.factory.is_child
        (self.home / "ssh_probe.py").write_text(PROBE)
        self.patch(os, "environ", {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.home), *sys.path])})

    def spawn(self, role: Any, *words: str, module: str = "ssh_probe", term: str = "") -> tuple[Child, Output]:
        output: Any = Output()
        output.term = term
        made = Child(reactor, output, Person("vera", role, b""), self.relay, self.control, self.factory._ended)
        made.start(module, [*words])
        self.factory.sessions[made] = None
        return made, output

    async def test_a_child_has_the_rights_of_its_person_and_finds_no_others(self) -> None:
        for term in ("", "xterm"):
            output = self.spawn("admin", self.control, f"admin{term}", term=term)[1]
            self.assertEqual(await output.ended, 0)
            lines = output.shown.decode().split("\n")
            self.assertEqual(lines[0].strip(), "200 done", output.shown)
            self.assertIn("403 account add needs the role admin; yours is none", lines[1])
            if term:  # a process that a child starts is known by the terminal that both have
                self.assertIn("403 account add needs the role admin; yours is none", lines[2])
            output = self.spawn("operate", self.control, "operate")[1]
            await output.ended
            self.assertIn("403 account add needs the role admin; yours is operate", output.shown.decode())
        self.assertEqual(self.factory.sessions, {})

    async def test_nothing_is_left_of_a_session_that_has_ended(self) -> None:
        made, output = self.spawn("view", "version", module=child.RELAYCTL)
        path = made._path
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        self.assertTrue(path.startswith(self.control + child.SUFFIX))
        self.assertLessEqual(len(path) - len(self.control), 21)  # for which the configuration leaves room
        self.assertEqual(await output.ended, 0)
        await self.gone(path)

    async def test_a_child_that_cannot_be_started_is_refused(self) -> None:
        self.patch(child, "sys", SimpleNamespace(executable="/nowhere/python"))
        output: Any = Output()
        long = Child(reactor, output, Person("vera", "view", b""), self.relay, self.control, self.factory._ended)
        self.patch(reactor, "spawnProcess", _fails)
        with self.assertRaisesRegex(Refused, "could not be started: too many processes"):
            long.start("ssh_probe", [])
        await self.gone(long._path)

    async def gone(self, path: str) -> None:
        for _ in range(100):
            if not os.path.exists(path):
                return
            await task.deferLater(reactor, 0.01)
        self.fail(f"{path} is still there")


def _fails(*_: object, **__: object) -> None:
    raise OSError("too many processes")
