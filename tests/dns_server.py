"""A scripted authoritative DNS server on real UDP and TCP sockets of the loopback, for tests and benchmarks.

In a test: ``DnsServer(reactor, ZONE)``, ``start()``, ``address`` ("127.0.0.1:port"), ``stop()``.  By itself:
``python -m tests.dns_server ZONEFILE PORT`` (port 0 takes a free one); prints ``listening on 127.0.0.1:PORT``.

A zone is lines of ``name [ttl] type data``, names absolute without the final dot; ``#`` begins a comment; ``*.name``
answers for every name below.  These pseudo types script a misbehaviour for all questions about a name:
SERVFAIL, REFUSED, FORMERR, NOTIMP (that reply code), DROP (silence), GARBAGE (bytes that are no message).  In-process,
``acts[name, type]`` lists behaviours to be used up one by one before the zone answers.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.rrset
from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.protocols.basic import Int16StringReceiver

CODES = {"SERVFAIL", "REFUSED", "FORMERR", "NOTIMP"}
SCRIPTS = CODES | {"DROP", "GARBAGE"}
SOA = "ns.test. hostmaster.test. 1 3600 600 86400 60"
NEGATIVE_TTL = 60


class Asked(NamedTuple):
    """One question as it came; ``send`` gives further bytes to who asked."""

    name: str
    rdtype: str
    transport: str
    peer: tuple[str, int]
    query: dns.message.Message
    send: Callable[[bytes], None]


Act = Callable[[Asked, dns.message.Message], bytes | None]


def drop(asked: Asked, reply: dns.message.Message) -> None:
    """Say nothing."""
    return None


def garbage(asked: Asked, reply: dns.message.Message) -> bytes:
    """The right id, and then no message."""
    return reply.id.to_bytes(2, "big") + b"\x81\x80\x00\x01\xff\xff\xff\xff\xff\xff\x07garbage"


def code(name: str) -> Act:
    """Answer with this reply code and no records; without EDNS, as servers that know none do."""

    def act(asked: Asked, reply: dns.message.Message) -> bytes:
        bare = dns.message.make_response(asked.query)
        bare.use_edns(False)
        bare.set_rcode(dns.rcode.from_text(name))
        return bare.to_wire()

    return act


class DnsServer:
    """``asked`` keeps the questions in order; ``authenticated`` sets the AD bit; ``max_udp`` is where TC begins."""

    def __init__(self, reactor, zone: str = "", keep: bool = True) -> None:
        self.reactor = reactor
        self.acts: dict[tuple[str, str], list[Act]] = {}
        self.asked: list[Asked] = []
        self.authenticated = False
        self.max_udp = 1232
        self._keep = keep
        self._records: dict[tuple[str, str], dns.rrset.RRset] = {}
        self._names: set[str] = set()
        self._scripts: dict[str, Act] = {}
        self.load(zone)

    def load(self, zone: str) -> None:
        """Replace the zone."""
        self._records.clear()
        self._names.clear()
        self._scripts.clear()
        for line in zone.splitlines():
            self._add(line.partition("#")[0].split(None, 3))

    def start(self, port: int = 0, interface: str = "127.0.0.1") -> None:
        """Listen on UDP and TCP, both on the same port."""
        for _ in range(20):
            self._tcp = self.reactor.listenTCP(port, _Streams(self), interface=interface, backlog=500)
            self.host, self.port = interface, self._tcp.getHost().port
            try:
                self._udp = self.reactor.listenUDP(self.port, _Datagrams(self), interface=interface, maxPacketSize=4096)
                break
            except CannotListenError:
                self._tcp.stopListening()
                if port:
                    raise
        self.address = f"[{interface}]:{self.port}" if ":" in interface else f"{interface}:{self.port}"

    async def stop(self) -> None:
        await self.stop_udp()
        await self.stop_tcp()

    async def stop_udp(self) -> None:
        await maybeDeferred(self._udp.stopListening)

    async def stop_tcp(self) -> None:
        await maybeDeferred(self._tcp.stopListening)

    def questions(self) -> list[tuple[str, str]]:
        return [(asked.name, asked.rdtype) for asked in self.asked]

    def handle(self, data: bytes, transport: str, peer: tuple[str, int], send: Callable[[bytes], None]) -> None:
        """Answer one message."""
        try:
            query = dns.message.from_wire(data)
            question = query.question[0]
        except Exception:
            return
        asked = Asked(
            question.name.to_text(omit_final_dot=True).lower(),
            dns.rdatatype.to_text(question.rdtype),
            transport,
            peer,
            query,
            send,
        )
        if self._keep:
            self.asked.append(asked)
        acts = self.acts.get((asked.name, asked.rdtype))
        act = acts.pop(0) if acts else self._scripts.get(asked.name)
        reply = self.answer(asked)
        wire = act(asked, reply) if act else self._fitting(reply, transport)
        if wire is not None:
            send(wire)

    def answer(self, asked: Asked) -> dns.message.Message:
        """What the zone says: CNAMEs followed within it, a SOA with a negative answer."""
        reply = dns.message.make_response(asked.query)
        reply.flags |= dns.flags.AA | dns.flags.RA
        if self.authenticated:
            reply.flags |= dns.flags.AD
        name = asked.name
        for _ in range(10):
            found = self._find(name, asked.rdtype)
            alias = None if found or asked.rdtype == "CNAME" else self._find(name, "CNAME")
            if found or alias:
                reply.answer.append(found or alias)
            if not alias:
                break
            name = alias[0].target.to_text(omit_final_dot=True).lower()
        if not found:
            if not self._exists(name):
                reply.set_rcode(dns.rcode.NXDOMAIN)
            reply.authority.append(dns.rrset.from_text("test.", NEGATIVE_TTL, "IN", "SOA", SOA))
        return reply

    def _add(self, fields: list[str]) -> None:
        if not fields:
            return
        name = fields[0].lower().removesuffix(".")
        self._names.update(_with_parents(name))
        if fields[1] in SCRIPTS:
            self._scripts[name] = {"DROP": drop, "GARBAGE": garbage}.get(fields[1]) or code(fields[1])
            return
        ttl = int(fields[1]) if fields[1].isdigit() else 300
        rdtype, data = " ".join(fields[2 if fields[1].isdigit() else 1 :]).split(None, 1)
        added = dns.rrset.from_rdata(
            dns.name.from_text(name),
            ttl,
            dns.rdata.from_text("IN", rdtype, data, origin=dns.name.root, relativize=False),
        )
        self._records.setdefault((name, rdtype.upper()), added).update(added)

    def _find(self, name: str, rdtype: str) -> dns.rrset.RRset | None:
        found = self._records.get((name, rdtype))
        if found is not None or name in self._names:
            return found
        for parent in _with_parents(name)[1:]:
            wild = self._records.get(("*." + parent, rdtype))
            if wild is not None:
                return dns.rrset.from_rdata_list(dns.name.from_text(name), wild.ttl, list(wild))
        return None

    def _exists(self, name: str) -> bool:
        return name in self._names or any("*." + parent in self._names for parent in _with_parents(name)[1:])

    def _fitting(self, reply: dns.message.Message, transport: str) -> bytes:
        wire = reply.to_wire(max_size=65535)
        if transport == "udp" and len(wire) > self.max_udp:
            reply.flags |= dns.flags.TC
            reply.answer.clear()
            reply.authority.clear()
            return reply.to_wire(max_size=65535)
        return wire


def _with_parents(name: str) -> list[str]:
    labels = name.split(".")
    return [".".join(labels[i:]) for i in range(len(labels))]


class _Datagrams(DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self.server = server

    def datagramReceived(self, datagram, addr) -> None:
        self.server.handle(datagram, "udp", addr, lambda wire: self.transport.write(wire, addr))


class _Stream(Int16StringReceiver):
    def stringReceived(self, string) -> None:
        peer = self.transport.getPeer()
        self.factory.server.handle(string, "tcp", (peer.host, peer.port), self.sendString)


class _Streams(Factory):
    protocol = _Stream
    noisy = False

    def __init__(self, server: DnsServer) -> None:
        self.server = server


def main(zone_file: str, port: str) -> None:
    from twisted.internet import reactor

    with open(zone_file) as file:
        server = DnsServer(reactor, file.read(), keep=False)
    server.start(int(port))
    print(f"listening on {server.address}", flush=True)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:3])
