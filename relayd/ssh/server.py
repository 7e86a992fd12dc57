"""The SSH server: who may connect, what their sessions are, and their end.

In: connections on one endpoint.  Out: sessions of people whose keys are known.  Who does not come in is a failure for
the guard, one for each connection: a client offers all the keys it has.  A right key is never locked out by name, as
nobody can guess one; after too many failures an address is turned away before it costs an exchange of keys.
"""

import glob
import os
from collections import Counter
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

import msgspec
from twisted.application.service import Service
from twisted.conch.ssh.keys import BadKeyError, Key
from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger

from relayd.control.verb import Relay
from relayd.guard import counted_as
from relayd.pulse import pulse
from relayd.ssh import child, manhole
from relayd.ssh.channel import MANHOLE, RELAYCTL, Channel, Occupant, Refused
from relayd.ssh.keys import Keys, Person, fingerprint, host_key
from relayd.ssh.recording import Recording
from relayd.ssh.transport import Connection, Transport, UserAuth

GUARDED = "ssh"  # the login that the guard counts failures of
_SWEEP = 1.0
_EACH = 100  # refused connections that are told as one, after the first
_ENDING = 5.0  # seconds that a stop waits for sessions to end


class Settings(msgspec.Struct, frozen=True):
    """``manhole``: for nobody, for admins on this machine, for admins.  ``sessions``: at once, of all people.  Times in
    seconds: until a key is known, and without a key pressed."""

    authorized_keys: str
    manhole: Literal["off", "local", "on"] = "off"
    connections: int = 20
    connections_per_ip: int = 5
    sessions: int = 8
    auth_time: float = 20.0
    idle: float = 3600.0


class SSHFactory(ServerFactory):
    """Makes the connections of one endpoint, counts them, and gives their channels somebody to talk to."""

    noisy = False
    log = Logger()

    def __init__(self, reactor: Any, relay: Relay, control: str, recordings: Path, settings: Settings) -> None:
        """``control``: the path of the control socket, beside which those of children are."""
        self.reactor = reactor
        self.now = reactor.seconds
        self.settings = settings
        self.keys = Keys(settings.authorized_keys)
        self.closing = False
        self.connections: dict[Transport, None] = {}
        self.sessions: dict[Any, None] = {}  # children and manholes
        self.privateKeys: dict[bytes, Key] = {}
        self.publicKeys: dict[bytes, Key] = {}
        self._relay = relay
        self._control = control
        self._recordings = recordings
        self._by_ip: Counter[str] = Counter()
        self._refused = 0

    def serve_as(self, pem: bytes) -> str:
        """Takes the host's key; gives its fingerprint.  Raises ValueError."""
        try:
            private = Key.fromString(pem)
        except BadKeyError as error:
            raise ValueError(f"is no private key without a passphrase: {error}") from None
        if private.sshType() != b"ssh-ed25519" or private.isPublic():
            raise ValueError("is no private Ed25519 key: remove it, and another is made")
        self.privateKeys = {private.sshType(): private}
        self.publicKeys = {private.sshType(): private.public()}
        return fingerprint(private.public().blob())

    def buildProtocol(self, address: Any) -> Any:
        made = Transport()
        made.factory = self
        return made

    def getService(self, transport: Transport, service: bytes) -> Any:
        """What conch asks: a client comes in once, then has channels."""
        wanted = b"ssh-userauth" if transport.person is None else b"ssh-connection"
        return {b"ssh-userauth": UserAuth, b"ssh-connection": Connection}[wanted] if service == wanted else None

    # Connections.

    def admit(self, connection: Transport) -> str:
        """Counts a new connection; the refusal, "" if there is none."""
        ip = counted_as(connection.peer)
        self.connections[connection] = None
        self._by_ip[ip] += 1
        if self.closing:
            return "it is stopping"
        wait = self._relay.guard.locked(connection.peer, GUARDED, self._relay.now())
        if wait:
            return self._refuse(connection, f"too many tries failed from there, the next may be in {wait:.0f} s")
        if self._by_ip[ip] > self.settings.connections_per_ip:
            return self._refuse(connection, f"{self.settings.connections_per_ip} connections are open from there")
        if len(self.connections) > self.settings.connections:
            # Strangers keep out nobody but one another.
            strangers = [c for c in self.connections if c.person is None and not c.leaving and c is not connection]
            if not strangers:
                return self._refuse(connection, f"{self.settings.connections} connections are open")
            strangers[0].transport.abortConnection()
        return ""

    def _refuse(self, connection: Transport, why: str) -> str:
        if self._refused % _EACH == 0:
            self.log.warn("SSH: a connection from {ip} is refused: {why}", ip=connection.peer, why=why)
        self._refused += 1
        return why

    def came_in(self, connection: Transport) -> None:
        person = connection.person
        assert person is not None
        self._relay.guard.succeeded(connection.peer, GUARDED, self._relay.now())
        self.log.info(
            "SSH: {name} came in from {ip} as {role}, with the key {key}",
            name=person.name,
            ip=connection.peer,
            role=person.role,
            key=fingerprint(person.blob),
        )

    def forget(self, connection: Transport) -> None:
        if self.connections.pop(connection, self) is self:
            return
        ip = counted_as(connection.peer)
        self._by_ip[ip] -= 1
        if self._by_ip[ip] <= 0:
            del self._by_ip[ip]
        if connection.cost_something:
            self._relay.guard.failed(connection.peer, GUARDED, self._relay.now())
            why = connection.tried or "they left before they tried a key"
            self.log.warn("SSH: {ip} did not come in: {why}", ip=connection.peer, why=why)

    def sweep(self) -> None:
        """Ends the connections whose time is over, and those whose key may not come in any more."""
        now = self.now()
        if self.keys.refresh():
            self.tell_faults()
        for connection in list(self.connections):
            person = connection.person
            if connection.deadline < now:
                connection.time_out()
            elif person is not None and self.keys.find(person.blob) != person:
                connection.end("what your key may do has changed: come in again")

    def tell_faults(self) -> None:
        for fault in self.keys.faults:
            self.log.warn("SSH: {fault}", fault=fault)

    # Sessions.

    def channel(self, connection: Transport, window: int, packet: int) -> Channel:
        return Channel(connection, window, packet, self._occupy)

    def is_child(self, process: int) -> bool:
        """Whether a process is a session's, or was started by one on its terminal."""
        children = {session.process for session in self.sessions if isinstance(session, child.Child)} - {0}
        if not children:
            return False
        try:
            return process in children or os.getsid(process) in children
        except ProcessLookupError:
            return True  # it is gone, so nobody waits for the answer

    def _occupy(self, channel: Channel, words: list[str]) -> Occupant:
        person = channel.connection.person
        assert person is not None
        if (words and words[0] not in (RELAYCTL, MANHOLE)) or words[:1] == [MANHOLE] != words:
            raise Refused('only "relayctl VERB" and "manhole" can be run here; without a command there is the console')
        if self.closing or len(self.sessions) >= self.settings.sessions:
            raise Refused("relayd is stopping" if self.closing else f"{len(self.sessions)} sessions are open already")
        if words == [MANHOLE]:
            return self._manhole(channel, person)
        if not words and not channel.term:
            raise Refused("the console needs a terminal: ssh -t; without one there is: ssh ... relayctl VERB")
        made = child.Child(self.reactor, channel, person, self._relay, self._control, self._ended)
        made.start(child.RELAYCTL if words else child.CONSOLE, words[1:])
        self.sessions[made] = None
        self._began(channel, person, words)
        return made

    def _manhole(self, channel: Channel, person: Person) -> Occupant:
        if self.settings.manhole == "off":
            raise Refused('the manhole is closed: [ssh] manhole = "local" opens it')
        if person.role != "admin":
            raise Refused(f"the manhole is for the role admin; yours is {person.role}")
        if self.settings.manhole == "local" and not ip_address(channel.connection.peer).is_loopback:
            raise Refused('the manhole is open on this machine only: log in there, and ssh to 127.0.0.1 ("local")')
        if not channel.term:
            raise Refused("the manhole needs a terminal: ssh -t")
        try:
            recording = Recording(self._recordings, person.name, self._relay.now())
            made = manhole.Session(self.reactor, channel, person, self._relay, recording, self._ended)
            made.start()
        except OSError as error:
            raise Refused(f"the manhole cannot be recorded, so it stays closed: {error}") from None
        self.sessions[made] = None
        return made

    def _began(self, channel: Channel, person: Person, words: list[str]) -> None:
        what = words[0] if words else "the console"
        self.log.info(
            "SSH: {name} has opened {what} from {ip}", name=person.name, what=what, ip=channel.connection.peer
        )

    def _ended(self, session: Any) -> None:
        self.sessions.pop(session, None)


class SSHService(Service):
    """Listens while it runs.  Its stop ends all sessions, and waits a little for them to be over."""

    log = Logger()

    def __init__(
        self, reactor: Any, endpoint: str, key: str, relay: Relay, control: str, recordings: Path, settings: Settings
    ) -> None:
        """``key``: the file of the host's own.  Raises OSError or ValueError for one that cannot be used."""
        self.setName(f"ssh {endpoint}")
        self.endpoint = endpoint
        self.key = key
        self.factory = SSHFactory(reactor, relay, control, recordings, settings)
        try:
            self.fingerprint = self.factory.serve_as(host_key(key))
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
        self._reactor = reactor
        self._control = control
        self._port: Any = None
        self._sweeper = pulse(reactor, self.factory.sweep)

    async def listen(self) -> None:
        """Opens the port.  Raises CannotListenError."""
        for left in glob.glob(glob.escape(self._control + child.SUFFIX) + "*"):
            os.unlink(left)  # of children of a relay that was killed
        self._port = await serverFromString(self._reactor, self.endpoint).listen(self.factory)
        self._sweeper.start(_SWEEP, now=False)
        self.log.info("SSH: the host's key is {key}", key=self.fingerprint)
        self.factory.tell_faults()

    def reconfigure(self, settings: Settings) -> None:
        """Limits and keys from now on; who may not come in any more is out at the next sweep."""
        factory = self.factory
        if settings.authorized_keys != factory.settings.authorized_keys:
            factory.keys = Keys(settings.authorized_keys)
            factory.tell_faults()
        factory.settings = settings

    def warnings(self) -> list[str]:
        """What an operator should see to."""
        return [f"SSH: {fault}" for fault in self.factory.keys.faults]

    def stopService(self) -> "Deferred[None]":
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        factory = self.factory
        factory.closing = True
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
        for session in list(factory.sessions):
            session.end()
        for connection in list(factory.connections):
            connection.end("relayd is stopping")
        await self._all_gone()
        for session in list(factory.sessions):
            session.kill()
        for connection in list(factory.connections):
            connection.transport.abortConnection()
        if self._sweeper.running:
            self._sweeper.stop()

    async def _all_gone(self) -> None:
        """Waits until nobody is there any more, for _ENDING seconds at most."""
        gone: Deferred[None] = Deferred()
        factory = self.factory

        def look() -> None:
            if not (factory.sessions or factory.connections) and not gone.called:
                gone.callback(None)

        looking = pulse(self._reactor, look)
        looking.start(0.05)
        try:
            await gone.addTimeout(_ENDING, self._reactor)
        except TimeoutError:
            self.log.warn("SSH: {n} sessions are cut off", n=len(factory.sessions))
        finally:
            looking.stop()
