"""A mail server that follows a script, on a real socket: one address of its own for each, all on one port.

A script says for each verb (BANNER, EHLO ..., DOT for the end of the content) what is done instead of the usual: a
reply as text, or bytes as they are, or a function of the session.
"""

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from OpenSSL import SSL
from twisted.internet.protocol import Factory, Protocol

from relayd.transport import send
from tests.hostile.loop import Loop

_USUAL = {
    "BANNER": "220 mx.example ESMTP",
    "MAIL": "250 2.1.0 ok",
    "RCPT": "250 2.1.5 ok",
    "DATA": "354 go on",
    "DOT": "250 2.0.0 taken",
    "RSET": "250 ok",
    "STARTTLS": "220 go on",
    "HELO": "250 mx.example",
    "QUIT": "221 bye",
}
_ADDRESSES = count(1)
_LINGER = struct.pack("ii", 1, 0)  # a close is a reset

Answer = str | bytes | Callable[["Session"], Any]


@dataclass
class Host:
    """``offers``: its EHLO keywords; ``room``: sessions at once before it says 421; ``tls``: how its handshake goes;
    ``wrapped``: TLS from the first byte."""

    loop: Loop
    address: str
    says: dict[str, Answer] = field(default_factory=dict)
    offers: tuple[str, ...] = ("8BITMIME", "SIZE 100000000")
    room: int = 1000
    tls: "Handshake | None" = None
    wrapped: bool = False
    sessions: list["Session"] = field(default_factory=list)
    seen: list["Session"] = field(default_factory=list)
    got: list[tuple[str, str, bytes]] = field(default_factory=list)  # (sender, recipient, content), dots as sent
    port: Any = None

    def heard(self, verb: str) -> list[str]:
        """The commands with this verb, in all sessions."""
        return [line for session in self.seen for line in session.heard if line.upper().startswith(verb)]


@dataclass
class Handshake:
    """TLS at a server: ``stall`` after so many bytes of its flight, or ``close`` then; ``garbage`` instead of it."""

    context: SSL.Context
    stall: int | None = None
    close: int | None = None
    garbage: bytes = b""


class Session(Protocol):
    """One session of a host."""

    transport: Any

    def __init__(self, host: Host) -> None:
        self.host = host
        self.heard: list[str] = []
        self.reads: list[bytes] = []
        self.sender = self.recipient = ""
        self.dead = False  # takes no more notice of the client
        self.names: list[str] = []  # told by the client's handshake
        self.spoken = 0  # bytes of the handshake sent
        self._buffer = b""
        self._content = False
        self._tls: SSL.Connection | None = None
        self._shaken = False
        self._later: Any = None  # what a script does in a while

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.host.sessions.append(self)
        self.host.seen.append(self)
        if len(self.host.sessions) > self.host.room:
            self.write(b"421 4.3.2 too many connections\r\n")
            self.close()
        elif self.host.wrapped:
            self.start_tls()
        else:
            self._say("BANNER")

    def connectionLost(self, reason: Any = None) -> None:
        self.dead = True
        self.host.sessions.remove(self)
        if self._later is not None and self._later.active():
            self._later.cancel()

    def dataReceived(self, data: bytes) -> None:
        if self._tls is not None:
            self._decrypt(data)
        else:
            self._read(data)

    # What a script may do.

    def write(self, data: bytes) -> None:
        if self._tls is not None:
            self._tls.sendall(data)
            self._flush()
        else:
            send(self.transport, data)  # at once, or a reset would overtake it

    def close(self) -> None:
        self.dead = True
        self.transport.loseConnection()

    def reset(self) -> None:
        self.dead = True
        self.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
        self.transport.abortConnection()

    def later(self, seconds: float, call: Callable[..., Any], *args: Any) -> None:
        """Does something in a while, if the session lives."""
        self._later = self.host.loop.callLater(seconds, call, *args)

    def go_on(self, answer: Answer) -> None:
        """Answers late what a script left unanswered, and goes on with what has come since."""
        self.dead = False
        self._answer("", answer)
        self._read(b"")

    # The conversation.

    def _read(self, data: bytes) -> None:
        self.reads.append(data)
        self._buffer += data
        while not self.dead:
            ending = b"\r\n.\r\n" if self._content else b"\r\n"
            if self._content and self._buffer.startswith(b".\r\n"):  # no content at all
                part, self._buffer = b"", self._buffer[3:]
            elif ending in self._buffer:
                part, self._buffer = self._buffer.split(ending, 1)
                part += b"\r\n"
            else:
                return
            if self._content:
                self._content = False
                self.host.got.append((self.sender, self.recipient, part))
                self._say("DOT")
            else:
                self._obey(part[:-2].decode())

    def _obey(self, line: str) -> None:
        self.heard.append(line)
        verb = line.split(" ")[0].upper()
        if verb == "MAIL":
            self.sender, self.recipient = _address(line), ""
        elif verb == "RCPT":
            self.recipient = _address(line)
        self._say(verb)

    def _say(self, verb: str) -> None:
        usual = _USUAL.get(verb, "500 what?")
        if verb == "EHLO":
            usual = "\r\n".join(f"250-{word}" for word in ("mx.example", *self.host.offers)) + "\r\n250 HELP"
        self._answer(verb, self.host.says.get(verb, usual))

    def _answer(self, verb: str, answer: Answer) -> None:
        if callable(answer):
            answer(self)
            return
        raw = answer if isinstance(answer, bytes) else answer.encode() + b"\r\n"
        self.write(raw)
        if verb == "DATA":
            self._content = raw.startswith(b"3")
        elif verb == "QUIT":
            self.close()
        elif verb == "STARTTLS" and raw.startswith(b"220"):
            self.start_tls()

    # TLS, by hand: it can stop at any byte.

    def start_tls(self) -> None:
        shake = self.host.tls
        assert shake is not None
        if shake.garbage:
            self.dead = True
            self.transport.write(shake.garbage)
            return
        self._buffer = b""
        self._tls = SSL.Connection(shake.context, None)
        self._tls.set_accept_state()

    def _decrypt(self, data: bytes) -> None:
        assert self._tls is not None
        self._tls.bio_write(data)
        try:
            if not self._shaken:
                self._tls.do_handshake()
                self._shaken = True
                self._flush()
                if self.host.wrapped:
                    self._say("BANNER")
            while not self.dead:
                self._read(self._tls.recv(1 << 16))
        except SSL.WantReadError:
            self._flush()
        except SSL.Error:
            self._flush()
            self.close()

    def _flush(self) -> None:
        shake = self.host.tls
        assert self._tls is not None and shake is not None
        try:
            data = self._tls.bio_read(1 << 20)
        except SSL.WantReadError:
            data = b""
        limit = shake.stall if shake.stall is not None else shake.close
        if limit is not None:
            data = data[: max(0, limit - self.spoken)]
        self.spoken += len(data)
        self.transport.write(data)
        if shake.close is not None and self.spoken >= shake.close:
            self.close()


def listen(loop: Loop, port: int, **script: Any) -> Host:
    """A new host on an address of its own."""
    number = next(_ADDRESSES)
    host = Host(loop, f"127.66.{number >> 8}.{number & 255}", **script)
    factory = Factory.forProtocol(lambda: Session(host))
    factory.noisy = False
    host.port = loop.listenTCP(port, factory, interface=host.address)
    return host


def _address(line: str) -> str:
    return line[line.index("<") + 1 : line.index(">")]


# Misbehaviour of every kind.


def silent(session: Session) -> None:
    session.dead = True


def close(session: Session) -> None:
    session.close()


def reset(session: Session) -> None:
    session.reset()


def endless(line: bytes) -> Callable[[Session], None]:
    """The line over and over, as long as the client takes it."""

    def say(session: Session) -> None:
        session.dead = True

        def more() -> None:
            if session.transport.connected and session in session.host.sessions:
                session.write(line * 500)
                session.host.loop.real.callLater(0, more)

        more()

    return say


def drip(data: bytes, every: float) -> Callable[[Session], None]:
    """A byte at a time; ``every`` so many seconds."""

    def say(session: Session) -> None:
        session.dead = True

        def one(at: int) -> None:
            session.write(data[at : at + 1])
            session.later(every, one, (at + 1) % len(data))

        one(0)

    return say


def bytewise(answer: bytes) -> Callable[[Session], None]:
    """The whole answer at once in time, each byte a packet of its own."""

    def say(session: Session) -> None:
        session.dead = True

        def one(at: int) -> None:
            if at < len(answer):
                session.write(answer[at : at + 1])
                session.host.loop.real.callLater(0, one, at + 1)
            else:
                session._content = answer.startswith(b"3")
                session.dead = False
                session._read(b"")

        one(0)

    return say


def both(answer: bytes, then: Callable[[Session], Any]) -> Callable[[Session], None]:
    """Says something, then does something."""

    def say(session: Session) -> None:
        session.write(answer)
        then(session)

    return say


def in_turn(*answers: Answer) -> Callable[[Session], None]:
    """One answer after another, the last for ever.  Not for DATA or STARTTLS."""
    left = list(answers)

    def say(session: Session) -> None:
        session._answer("", left.pop(0) if len(left) > 1 else left[0])

    return say
