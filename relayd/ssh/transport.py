"""SSH with one client (RFC 4253, 4252, 4254), by twisted.conch: modern algorithms, public keys and sessions, no more.

In: a connection.  Out: channels, once a key is known.  No passwords, no forwarding, no agent, no subsystem.  Terrapin
(CVE-2023-48795) needs ChaCha20 or encrypt-then-MAC, neither of which is offered.  Each wait has its end: to come in, to
open a channel, to type something, to be gone.
"""

import struct
from typing import TYPE_CHECKING, Any

from twisted.conch.error import IgnoreAuthentication
from twisted.conch.ssh import connection, keys, transport, userauth
from twisted.conch.ssh.common import NS, getNS
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import FilteringLogObserver, Logger, LogLevel, LogLevelFilterPredicate, globalLogPublisher

from relayd.reply import printable
from relayd.ssh.keys import SIGNATURES, Person, fingerprint

if TYPE_CHECKING:
    from relayd.ssh.channel import Channel
    from relayd.ssh.server import SSHFactory

KEYS = 10  # that a client may offer
CHANNELS = 8
PARTING = 5.0  # seconds for the last word to be taken
_ALONE = 30.0  # seconds without a channel
_SMALLEST_PACKET = 1024  # that a client may ask for: output is cut into these

_EXCHANGES = (b"mlkem768x25519-sha256", b"curve25519-sha256", b"curve25519-sha256@libssh.org")
_HAS = transport.SSHTransportBase.supportedKeyExchanges

log = Logger()
# Conch tells of every step of every client, in the client's words too.
quiet = Logger(
    "relayd.ssh",
    observer=FilteringLogObserver(globalLogPublisher, [LogLevelFilterPredicate(defaultLogLevel=LogLevel.critical)]),
)


class Transport(transport.SSHServerTransport):
    """One connection.  ``person`` is None until a key has proved who it is."""

    _log = quiet
    factory: "SSHFactory"  # type: ignore[assignment]
    transport: Any
    ourVersionString = b"SSH-2.0-relayd"
    supportedKeyExchanges = [name for name in _EXCHANGES if name in _HAS]  # noqa: RUF012
    supportedCiphers = [b"aes256-ctr", b"aes192-ctr", b"aes128-ctr"]  # noqa: RUF012
    supportedMACs = [b"hmac-sha2-512", b"hmac-sha2-256"]  # noqa: RUF012
    supportedCompressions = [b"none"]  # noqa: RUF012
    supportedPublicKeys = [b"ssh-ed25519"]  # noqa: RUF012

    def __init__(self) -> None:
        self.person: Person | None = None
        self.peer = ""
        self.deadline = 0.0
        self.leaving = False
        self.tried = ""  # what did not let them in
        self.held: set[str] = set()  # why output waits

    # The connection.

    def connectionMade(self) -> None:
        self.peer = _plain(self.transport.getPeer())
        self.deadline = self.factory.now() + self.factory.settings.auth_time
        self.transport.registerProducer(self, True)
        if refusal := self.factory.admit(self):
            self.transport.write(f"relayd: {refusal}\r\n".encode())
            self._leave()
            return
        if hasattr(self.transport, "setTcpKeepAlive"):
            self.transport.setTcpKeepAlive(True)
            self.transport.setTcpNoDelay(True)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        if self.leaving:
            return
        try:
            super().dataReceived(data)
        except Exception as error:
            if self.person is None:  # no fault of ours: they speak something else
                self.tried = f"what they sent is no SSH that is taken here ({type(error).__name__})"
            else:
                log.failure("SSH: the connection of {who} is broken off", who=self.person.who)
            self.transport.abortConnection()

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        if not self.leaving:  # what was in the same packet as what made us leave is not heard
            super().dispatchMessage(messageNum, payload)

    def connectionLost(self, reason: Any = None) -> None:
        self.leaving = True
        try:
            super().connectionLost(reason)
        finally:
            self.factory.forget(self)

    @property
    def cost_something(self) -> bool:
        """Whether somebody who did not come in had us exchange keys, or tried to come in."""
        return self.person is None and bool(self.sessionID or self.tried)

    def active(self) -> None:
        """Somebody is there."""
        if not self.leaving and self.person is not None:
            alone = not getattr(self.service, "channels", None)
            self.deadline = self.factory.now() + (_ALONE if alone else self.factory.settings.idle)

    def end(self, why: str) -> None:
        """Ends the connection with a last word."""
        if self.leaving:
            return
        if self.person is None:
            self.tried = self.tried or why
        self.sendDisconnect(transport.DISCONNECT_BY_APPLICATION, why.encode())

    def sendDisconnect(self, reason: int, desc: bytes) -> None:
        if not self.leaving:
            super().sendDisconnect(reason, desc)
            self._leave()

    def _leave(self) -> None:
        self.leaving = True
        self.deadline = self.factory.now() + PARTING
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def time_out(self) -> None:
        """The deadline has passed."""
        if self.leaving:
            self.transport.abortConnection()
        elif self.person is None:
            self.end(f"no key was known after {self.factory.settings.auth_time:.0f} s")
        else:
            self.end("nothing was typed for too long")

    def receiveError(self, reasonCode: int, description: bytes) -> None:
        pass  # they leave, and say so

    # Output waits while the client takes none, and while keys are exchanged anew.

    def pauseProducing(self) -> None:
        self.hold("full")

    def resumeProducing(self) -> None:
        self.release("full")

    def stopProducing(self) -> None:
        pass

    def ssh_KEXINIT(self, packet: bytes) -> None:
        self.hold("keys")
        super().ssh_KEXINIT(packet)

    def _newKeys(self) -> None:
        super()._newKeys()
        self.release("keys")

    def hold(self, why: str) -> None:
        self.held.add(why)
        for channel in self.channels():
            channel.hold(why)

    def release(self, why: str) -> None:
        self.held.discard(why)
        for channel in self.channels():
            channel.release(why)

    def channels(self) -> "list[Channel]":
        return list(getattr(self.service, "channels", {}).values())

    # Who it is.

    def sendExtInfo(self, extensions: list[tuple[bytes, bytes]]) -> None:
        # Conch names what the host's key can do; asked for is what the client's may (RFC 8308 section 3.1).
        names = [name for several in SIGNATURES.values() for name in several]
        super().sendExtInfo([(b"server-sig-algs", b",".join(names))])

    def came_in(self, person: Person) -> None:
        self.person = person
        self.factory.came_in(self)
        self.active()


class UserAuth(userauth.SSHUserAuthServer):
    """Public keys alone (RFC 4252 section 7).  The name that the client asks for means nothing: the key says who."""

    _log = quiet
    transport: Transport
    attemptsBeforeDisconnect = KEYS

    def serviceStarted(self) -> None:
        self.authenticatedWith: list[bytes] = []
        self.loginAttempts = 0
        self.user = self.nextService = b""
        self.supportedAuthentications = [b"publickey"]
        self._cancelLoginTimeout: Any = None  # the connection has its own deadline

    def auth_publickey(self, packet: bytes) -> "Deferred[Any]":
        signed = packet[0] != 0
        algorithm, blob, rest = getNS(packet[1:], 2)
        person = self.transport.factory.keys.find(blob)
        if self.nextService != b"ssh-connection":
            return self._refused("they ask for what is not there")
        if person is None:
            return self._refused(f"no key of theirs is known, the last was {fingerprint(blob)}")
        if not person.may_come_from(self.transport.peer):
            return self._refused(f"the key of {person.name} may not come from there")
        if algorithm not in SIGNATURES[getNS(blob)[0]]:
            return self._refused(f"{printable(algorithm, 40)} is not taken as a signature of {person.name}")
        if not signed:
            self.transport.sendPacket(userauth.MSG_USERAUTH_PK_OK, NS(algorithm) + NS(blob))
            return fail(IgnoreAuthentication())
        if not self._is_signed(algorithm, blob, getNS(rest)[0]):
            return self._refused(f"the signature with the key of {person.name} is wrong")
        self.transport.came_in(person)
        return succeed((None, person, lambda: None))

    def _is_signed(self, algorithm: bytes, blob: bytes, signature: bytes) -> bool:
        """Whether the session's own id, the request and the key are signed with the key."""
        assert self.transport.sessionID is not None
        request = (
            bytes((userauth.MSG_USERAUTH_REQUEST,)) + NS(self.user or b"") + NS(b"ssh-connection") + NS(b"publickey")
        )
        text = NS(self.transport.sessionID) + request + b"\1" + NS(algorithm) + NS(blob)
        try:
            # The signature names its own algorithm: it must be the one that was agreed on.
            return getNS(signature)[0] == algorithm and bool(keys.Key.fromString(blob).verify(signature, text))
        except Exception:  # whatever a library makes of a forged one
            return False

    def _refused(self, why: str) -> "Deferred[Any]":
        self.transport.tried = why
        return fail(UnauthorizedLogin())


class Connection(connection.SSHConnection):
    """Channels of one client (RFC 4254): sessions, a handful of them."""

    _log = quiet
    transport: Transport

    def serviceStarted(self) -> None:
        pass

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> int:
        return 0  # no forwarding

    def ssh_CHANNEL_OPEN(self, packet: bytes) -> None:
        kind, rest = getNS(packet)
        theirs, _, largest = struct.unpack(">3L", rest[:12])
        if kind != b"session":
            reason, why = connection.OPEN_ADMINISTRATIVELY_PROHIBITED, b"there are sessions here, and no forwarding"
        elif len(self.channels) >= CHANNELS or largest < _SMALLEST_PACKET:
            reason, why = connection.OPEN_RESOURCE_SHORTAGE, b"too many channels, or too small packets"
        else:
            super().ssh_CHANNEL_OPEN(packet)
            self.transport.active()
            return
        failure = struct.pack(">2L", theirs, reason) + NS(why) + NS(b"")
        self.transport.sendPacket(connection.MSG_CHANNEL_OPEN_FAILURE, failure)

    def getChannel(self, channelType: bytes, windowSize: int, maxPacket: int, data: bytes) -> "Channel":
        channel = self.transport.factory.channel(self.transport, windowSize, maxPacket)
        channel.conn = self
        return channel

    def channelClosed(self, channel: Any) -> None:
        super().channelClosed(channel)
        self.transport.active()


def _plain(address: Any) -> str:
    """An IP address; an IPv4 client on an IPv6 socket is an IPv4 client, one on a UNIX socket is this machine."""
    host = str(getattr(address, "host", "")) or "127.0.0.1"
    return host.removeprefix("::ffff:") if "." in host else host
