"""One question to one nameserver, over UDP or TCP, and what its answer means.

In: a query message and a server's address.  Out: the reply message, and from it an ``Answer``.  A datagram counts only
if it comes from the asked address and port, to the fresh port of this one query, with its random id and its question
(RFC 5452 section 9); any other is ignored.  Every wait ends after ``timeout`` seconds of ``clock``.
"""

from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import dns.rdatatype
import msgspec
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import ClientFactory, DatagramProtocol
from twisted.protocols.basic import Int16StringReceiver
from twisted.python.failure import Failure

PAYLOAD = 1232  # bytes of UDP answer asked for: what passes every path unfragmented (DNS flag day 2020)
_MAX_DATAGRAM = 4096


class Unanswered(Exception):
    """This server gave no usable answer; the text, after its name, says what it did."""


class Answer(msgspec.Struct, frozen=True):
    """What is known of ``name`` and ``rdtype``.  ``records`` are dnspython rdata; none, with ``exists``: no such data.

    ``canonical`` is where the CNAME chain led (A-labels, lower case, no final dot), ``ttl`` the seconds it still holds,
    ``authenticated`` the AD bit: worth as much as the way to ``server`` ("host:port").
    """

    name: str
    rdtype: str
    records: tuple[dns.rdata.Rdata, ...]
    ttl: float
    server: str
    canonical: str
    exists: bool = True
    authenticated: bool = False
    unfinished: bool = False  # the chain ends in a name that this answer says nothing about


def text(name: Any) -> str:
    """A dnspython name as the other rooms write it."""
    return str(name.to_text()).lower().removesuffix(".")  # the root is ""


def question(name: str, rdtype: str, number: int, edns: bool) -> dns.message.QueryMessage:
    """A recursive query; the AD bit in it asks for the AD bit in the answer (RFC 6840 section 5.7)."""
    return dns.message.make_query(
        name + ".",
        rdtype,
        use_edns=0 if edns else False,
        payload=PAYLOAD,
        id=number,
        flags=dns.flags.RD | dns.flags.AD,
    )


def reply_to(query: dns.message.Message, data: bytes) -> dns.message.Message | None:
    """The reply in ``data``, or None if it is not one to this query."""
    if data[:2] != query.id.to_bytes(2, "big"):
        return None
    try:
        reply = dns.message.from_wire(data, ignore_trailing=True, raise_on_truncation=True)
    except dns.message.Truncated as cut:
        reply = cut.message()  # type: ignore[no-untyped-call]
    except Exception:
        return None  # whatever a parser finds wrong with bytes from outside, they are not our answer
    return reply if query.is_response(reply) else None


def meaning(reply: dns.message.Message, name: str, rdtype: str, server: str) -> Answer:
    """The answer in a reply of NOERROR or NXDOMAIN.  Only its answer section is believed.  Raises Unanswered."""
    assert isinstance(reply, dns.message.QueryMessage)
    try:
        chain = reply.resolve_chaining()
    except dns.exception.DNSException as error:
        raise Unanswered(f"gave an answer that contradicts itself ({type(error).__name__})") from None
    exists = reply.rcode() != dns.rcode.NXDOMAIN
    known = chain.answer is not None or not exists
    authority = {rrset.rdtype for rrset in reply.authority}
    start_of_authority = dns.rdatatype.SOA in authority
    unfinished = not known and bool(chain.cnames) and not start_of_authority
    if not known and not unfinished and not start_of_authority and dns.rdatatype.NS in authority:
        raise Unanswered("gave a referral, so it does not look names up for us")  # RFC 2308 section 2.2
    return Answer(
        name=name,
        rdtype=rdtype,
        records=tuple(chain.answer or ()),
        # Without a SOA a negative answer has no TTL (RFC 2308 section 5).
        ttl=chain.minimum_ttl if chain.answer is not None or start_of_authority or unfinished else 0,
        server=server,
        canonical=text(chain.canonical_name),
        exists=exists,
        authenticated=bool(reply.flags & dns.flags.AD),
        unfinished=unfinished,
    )


async def over_udp(
    reactor: Any, clock: Any, server: tuple[str, int], query: dns.message.Message, timeout: float
) -> dns.message.Message:
    """The server's reply, perhaps truncated.  Raises Unanswered."""
    protocol = _Datagrams(server, query)
    try:
        # Port 0: the kernel picks a free port at random, a fresh one for each query.
        port = reactor.listenUDP(
            0, protocol, interface="::" if ":" in server[0] else "0.0.0.0", maxPacketSize=_MAX_DATAGRAM
        )
    except CannotListenError as error:
        raise Unanswered(f"was not asked: no socket ({error.socketError})") from None
    try:
        port.connect(*server)
        port.write(query.to_wire())
        return await protocol.done.addTimeout(timeout, clock)
    except TimeoutError:
        seen = f", only {protocol.ignored} datagrams that are no answer to the question" if protocol.ignored else ""
        raise Unanswered(f"did not answer within {timeout:g} s{seen}") from None
    except OSError as error:
        raise Unanswered(f"cannot be reached ({error.strerror or error})") from None
    finally:
        port.stopListening()


async def over_tcp(
    reactor: Any, clock: Any, server: tuple[str, int], query: dns.message.Message, timeout: float
) -> dns.message.Message:
    """The server's reply over a connection of its own.  Raises Unanswered."""
    factory = _Streams(query)
    connector = reactor.connectTCP(*server, factory, timeout=timeout)
    try:
        return await factory.done.addTimeout(timeout, clock)
    except TimeoutError:
        raise Unanswered(f"did not answer over TCP within {timeout:g} s") from None
    finally:
        if connector.state != "disconnected":
            connector.disconnect()


class _Datagrams(DatagramProtocol):
    """The socket of one query."""

    noisy = False

    def __init__(self, server: tuple[str, int], query: dns.message.Message) -> None:
        self.done: Deferred[dns.message.Message] = Deferred()
        self.ignored = 0
        self._server = (server[0].partition("%")[0], server[1])
        self._query = query

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        # The kernel filters for a connected socket, but not what came between bind and connect.
        reply = reply_to(self._query, datagram) if addr[:2] == self._server else None
        if reply is None:
            self.ignored += 1
        elif not self.done.called:
            self.done.callback(reply)

    def connectionRefused(self) -> None:
        if not self.done.called:
            self.done.errback(Unanswered("cannot be reached (host or port unreachable)"))

    def stopProtocol(self) -> None:
        # An ICMP error with nothing to read makes the epoll reactor close the socket rather than say connectionRefused.
        self.connectionRefused()


class _Stream(Int16StringReceiver):
    """Messages with a length in front (RFC 7766 section 8); one goes, one comes."""

    factory: "_Streams"

    def connectionMade(self) -> None:
        self.sendString(self.factory.query.to_wire())  # type: ignore[no-untyped-call]

    def stringReceived(self, string: bytes) -> None:
        reply = reply_to(self.factory.query, string)
        if reply is None:
            self.factory.fail("answered something else over TCP")
        elif not self.factory.done.called:
            self.factory.done.callback(reply)

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.fail("closed the TCP connection without an answer")


class _Streams(ClientFactory):
    protocol = _Stream  # type: ignore[assignment]
    noisy = False

    def __init__(self, query: dns.message.Message) -> None:
        self.query = query
        self.done: Deferred[dns.message.Message] = Deferred()

    def fail(self, words: str) -> None:
        if not self.done.called:
            self.done.errback(Unanswered(words))

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self.fail(f"takes no TCP connection ({reason.getErrorMessage()})")
