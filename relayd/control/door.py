"""The control API over the network: TLS, and a token that says who asks (RFC 6750).

In: connections.  Out: what ``api`` answers, to whom a token proves to be; 401, 403 or 429 to others.  Refused early are
strange networks and too many connections, before the first byte of TLS; guessers of tokens, by the guard of logins.  A
request has to be there whole in time, however it drips in, and an answer to be taken.
"""

from collections import Counter
from math import ceil
from typing import Any

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.http import HTTPChannel
from twisted.web.server import Request

from relayd.control.api import ControlSite, Refused, VerbResource
from relayd.control.verb import Caller, Relay
from relayd.notation import within
from relayd.quotas import Limits, Quotas, wants
from relayd.tls import ServerTLS

_STRANGERS = "token:?"  # what the guard counts unknown tokens under, all as one
_EACH = 100  # refused connections that are logged as one, after the first


class Settings(msgspec.Struct, frozen=True):
    """``allow``: the networks that may connect, none means all.  ``idle``: seconds until a request is there whole,
    after the connection or the answer before it.  ``rate``: of the requests of each token."""

    allow: tuple[str, ...] = ()
    connections: int = 200
    connections_per_ip: int = 20
    idle: float = 60.0
    rate: Limits = Limits()


class Bearer:
    """Says who asks, by the token that a request bears."""

    _log = Logger()

    def __init__(self, relay: Relay, settings: Settings) -> None:
        self.settings = settings
        self._relay = relay
        self._quotas = Quotas()

    def __call__(self, request: Request) -> Caller:
        """Raises Refused."""
        relay, now, ip = self._relay, self._relay.now(), _plain(request.getClientAddress())
        text = _borne(request)
        if not text:
            raise _unproved("the control API wants a token: send the header Authorization: Bearer TOKEN")
        token, right = relay.directory.api_tokens.read(text)
        login = f"token:{token.name}" if token else _STRANGERS
        if wait := relay.guard.refuse(ip, login, now):
            raise _later(f"too many wrong tokens came from {ip}", wait)
        if token is None or not right:
            delay = relay.guard.failed(ip, login, now)
            raise _unproved("this token is not valid, or not any more: ask for another", delay, "invalid_token")
        relay.guard.succeeded(ip, login, now)
        if refusal := self._quotas.take(wants([(f"token {token.name}", self.settings.rate)], messages=1), now):
            raise _later(f"the token {token.name} asks too often", refusal.wait)
        if token.over(now):
            raise _unproved(f"the token {token.name} has expired: ask for another", 0.0, "invalid_token")
        if not token.may_come_from(ip):
            raise Refused(403, f"the token {token.name} may not be used from {ip}")
        self._touch(token, ip, now)
        of = f"customer {token.account}" if token.role == "customer" else token.role
        return Caller(f"token {token.name} ({of})", token.role, token.account)

    def _touch(self, token: Any, ip: str, now: float) -> None:
        noted = self._relay.directory.api_tokens.touch(token, ip, now)
        if noted is None:
            return

        def done(future: Any) -> None:
            if error := future.exception():
                self._log.error("control: the use of token {name} was not noted: {e}", name=token.name, e=str(error))

        noted.add_done_callback(done)


def _borne(request: Request) -> str:
    """The token of a request, "" if it has none, or more than one."""
    headers = request.requestHeaders.getRawHeaders(b"authorization", [])
    scheme, _, text = headers[0].partition(b" ") if len(headers) == 1 else (b"", b"", b"")
    return text.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""


def _unproved(text: str, delay: float = 0.0, error: str = "") -> Refused:
    challenge = 'Bearer realm="relayd"' + (f', error="{error}"' if error else "")
    return Refused(401, text, {"WWW-Authenticate": challenge}, delay)


def _later(text: str, wait: float) -> Refused:
    seconds = max(1, ceil(wait))
    return Refused(429, f"{text}: try again in {seconds} s", {"Retry-After": str(seconds)})


def _plain(address: Any) -> str:
    """An IP address; an IPv4 client on an IPv6 socket is an IPv4 client."""
    host = str(getattr(address, "host", ""))
    return host.removeprefix("::ffff:") if "." in host else host


class Channel(HTTPChannel):
    """One connection.  The time for a request runs from the answer before it, whatever arrives meanwhile; and for an
    answer to be taken."""

    site: "DoorSite"
    transport: Any
    answering = False

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.channels.add(self)

    def dataReceived(self, data: bytes) -> None:
        # As the base, but bytes that drip in gain no time.
        super(HTTPChannel, self).dataReceived(data)

    def allContentReceived(self) -> None:
        self.answering = True
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        self.answering = False
        super().requestDone(request)
        if not self.persistent:
            self.setTimeout(self._savedTimeOut)  # the base waits for ever for the last answer to be taken

    def timeoutConnection(self) -> None:
        # As the base, but silently: this is how every connection that is kept open ends.
        self._abortingCall = self.callLater(self.abortTimeout, self.forceAbortClient)
        self.loseConnection()

    def forceAbortClient(self) -> None:
        self._abortingCall = None
        self.transport.abortConnection()

    def connectionLost(self, reason: Any = None) -> None:
        self.site.channels.discard(self)
        super().connectionLost(reason)

    def part(self) -> None:
        """The door closes: so does the connection, after the answer that it waits for."""
        self.persistent = 0
        if not self.answering:
            self.loseConnection()


class DoorSite(ControlSite):
    """The channels of one door."""

    protocol: Any = Channel

    def __init__(self, resource: VerbResource, idle: float, reactor: Any) -> None:
        super().__init__(resource, timeout=idle, reactor=reactor)
        self.channels: set[Channel] = set()


class Gate(WrappingFactory):
    """Counts connections, and turns away those that are too many or from elsewhere before anything is said."""

    noisy = False
    protocol = ProtocolWrapper
    _log = Logger()

    def __init__(self, site: DoorSite, settings: Settings) -> None:
        super().__init__(site)
        self.settings = settings
        self._by_ip: Counter[str] = Counter()
        self._refused = 0

    def buildProtocol(self, address: Any) -> Any:
        ip = _plain(address)
        fault = self._fault(ip)
        if not fault:
            return super().buildProtocol(address)
        if self._refused % _EACH == 0:
            self._log.warn("control API: a connection from {ip} was refused: {fault}", ip=ip, fault=fault)
        self._refused += 1
        return None

    def _fault(self, ip: str) -> str:
        settings = self.settings
        if settings.allow and not within(ip, settings.allow):
            return "[api] allow names no such network"
        if len(self.protocols) >= settings.connections:
            return f"{len(self.protocols)} are open"
        return f"{self._by_ip[ip]} are open from there" if self._by_ip[ip] >= settings.connections_per_ip else ""

    def registerProtocol(self, protocol: Any) -> None:
        super().registerProtocol(protocol)
        protocol.counted = _plain(protocol.transport.getPeer())
        self._by_ip[protocol.counted] += 1

    def unregisterProtocol(self, protocol: Any) -> None:
        super().unregisterProtocol(protocol)
        self._by_ip[protocol.counted] -= 1
        if not self._by_ip[protocol.counted]:
            del self._by_ip[protocol.counted]


class DoorService(Service):
    """Listens from ``listen`` until it is stopped.  A stop closes the port and the idle connections at once, and the
    others after their answers, for which it does not wait."""

    def __init__(self, reactor: Any, endpoint: str, relay: Relay, settings: Settings, tls: ServerTLS | None) -> None:
        """Without ``tls`` in clear: for this machine only."""
        self.setName(f"api {endpoint}")
        self.endpoint = endpoint
        self._reactor = reactor
        self._bearer = Bearer(relay, settings)
        self._site = DoorSite(VerbResource(reactor, relay, self._bearer), settings.idle, reactor)
        self._gate = Gate(self._site, settings)
        self._wrap(tls)
        self._port: Any = None

    def _wrap(self, tls: ServerTLS | None) -> None:
        self.tls = tls
        factory: Any = TLSMemoryBIOFactory(tls, False, self._site, self._reactor) if tls else self._site
        factory.noisy = False
        self._gate.wrappedFactory = factory

    async def listen(self) -> None:
        """Opens the port.  Raises CannotListenError."""
        self._port = await serverFromString(self._reactor, self.endpoint).listen(self._gate)

    def reconfigure(self, wanted: "DoorService") -> None:
        """Takes over the limits and the certificate of a door that would be made now; they hold for new connections."""
        self._bearer.settings = self._gate.settings = wanted._gate.settings
        self._site.timeOut = wanted._site.timeOut
        self._wrap(wanted.tls)

    def stopService(self) -> "Deferred[None] | None":
        super().stopService()
        for channel in list(self._site.channels):
            channel.part()
        port, self._port = self._port, None
        return maybeDeferred(port.stopListening) if port else None
