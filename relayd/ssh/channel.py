"""A session channel (RFC 4254 section 6): what its client asks for, and who does it.

In: requests.  Out: an occupant who takes the input and gives the output: the console or relayctl as a child, or the
manhole.  Whatever else is asked for is refused with a sentence.
"""

import re
import shlex
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from twisted.conch.ssh import channel, session
from twisted.conch.ssh.common import getNS
from twisted.conch.ssh.connection import EXTENDED_DATA_STDERR

from relayd.ssh.transport import quiet

if TYPE_CHECKING:
    from relayd.ssh.transport import Transport

MANHOLE = "manhole"
RELAYCTL = "relayctl"
_LONGEST = 32 << 10  # bytes of a command
_EARLY = 4 << 10  # bytes that may come before there is somebody to take them
_TERM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", re.ASCII)
_COLUMNS, _ROWS = (20, 1000), (5, 500)  # a console draws every cell


class Refused(Exception):
    """What was asked for is not to be had; the text says why, and what is."""


class Size:
    """Of the client's terminal."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = _within(rows, _ROWS), _within(columns, _COLUMNS)


def _within(value: int, bounds: tuple[int, int]) -> int:
    return min(max(value, bounds[0]), bounds[1])


class Occupant(Protocol):
    """Who a channel's input goes to.  It ends by ``Channel.done``, at the latest soon after ``end``."""

    def take(self, data: bytes) -> None: ...
    def no_more(self) -> None: ...
    def resize(self, size: Size) -> None: ...
    def hold(self) -> None: ...
    def release(self) -> None: ...
    def end(self) -> None: ...


# Makes an occupant for a channel and the words of a command, none for the console.  Raises Refused.
Occupy = Callable[["Channel", list[str]], Occupant]


class Channel(channel.SSHChannel):
    """One session of one connection."""

    name = b"session"
    _log = quiet

    def __init__(self, connection: "Transport", window: int, packet: int, occupy: Occupy) -> None:
        super().__init__(remoteWindow=window, remoteMaxPacket=packet)
        self.connection = connection
        self.occupant: Occupant | None = None
        self.term = ""  # "": no terminal
        self.size = Size(24, 80)
        self._occupy = occupy
        self._over = False
        self._early: bytes | None = b""  # what came before there was somebody to take it
        self._held = set(connection.held)

    # Requests.

    def requestReceived(self, requestType: bytes, data: bytes) -> bool:
        self.connection.active()
        request = _REQUESTS.get(requestType)
        return request is not None and request(self, data)

    def _pty(self, data: bytes) -> bool:
        if self.occupant is not None:
            return False
        term, (rows, columns, _, _), _ = session.parseRequest_pty_req(data)
        text = term.decode("ascii", "replace")
        self.term = text if _TERM.fullmatch(text) else "xterm"
        self.size = Size(rows, columns)
        return True

    def _resize(self, data: bytes) -> bool:
        rows, columns, _, _ = session.parseRequest_window_change(data)
        self.size = Size(rows, columns)
        if self.occupant is not None:
            self.occupant.resize(self.size)
        return True

    def _shell(self, data: bytes) -> bool:
        return self._begin([])

    def _exec(self, data: bytes) -> bool:
        raw = getNS(data)[0]
        try:
            if len(raw) > _LONGEST:
                raise ValueError(f"a command has at most {_LONGEST} bytes")
            text = raw.decode("utf-8")
            if "\0" in text:
                raise ValueError("there is a NUL in it")
            words = shlex.split(text)
        except ValueError as error:
            return self._refuse(f"this is no command: {error}")
        return self._begin(words) if words else self._refuse("this is no command: there is nothing in it")

    def _begin(self, words: list[str]) -> bool:
        if self.occupant is not None or self._early is None:
            return False
        try:
            self.occupant = self._occupy(self, words)
        except Refused as refused:
            return self._refuse(str(refused))
        early, self._early = self._early, None
        if self._held:
            self.occupant.hold()
        if early:
            self.occupant.take(early)
        return True

    def _refuse(self, why: str) -> bool:
        """Says so where the client shows it, and that it failed; once the client knows that its request was heard."""

        def refuse() -> None:
            if not self._over:
                self.writeExtended(EXTENDED_DATA_STDERR, f"relayd: {why}\r\n".encode())
                self.done(1)

        self._early = None
        self.connection.factory.reactor.callLater(0, refuse)
        return True

    # What comes in.

    def dataReceived(self, data: bytes) -> None:
        self.connection.active()
        if self.occupant is not None:
            self.occupant.take(data)
        elif self._early is not None:
            self._early = (self._early + data)[:_EARLY]

    def eofReceived(self) -> None:
        if self.occupant is not None:
            self.occupant.no_more()
        elif self._early is not None:
            self.loseConnection()

    def closed(self) -> None:
        self._over = True
        if self.occupant is not None:
            self.occupant.end()

    def closeReceived(self) -> None:
        self.closed()
        self.buf, self.extBuf = b"", []  # nobody wants it any more
        self.loseConnection()

    # What goes out.

    def done(self, status: int | None = None, signal: str = "") -> None:
        """The occupant has ended, with an exit status or by a signal."""
        if self._over:
            return
        self._over = True
        conn: Any = self.conn
        if status is not None:
            conn.sendRequest(self, b"exit-status", struct.pack(">L", status))
        elif signal:
            name = signal.encode()
            conn.sendRequest(self, b"exit-signal", struct.pack(">L", len(name)) + name + b"\0" + b"\0" * 8)
        self.loseConnection()

    def stopWriting(self) -> None:
        self.hold("window")

    def startWriting(self) -> None:
        self.release("window")

    def hold(self, why: str) -> None:
        """No output for now."""
        if not self._held and self.occupant is not None:
            self.occupant.hold()
        self._held.add(why)

    def release(self, why: str) -> None:
        self._held.discard(why)
        if not self._held and self.occupant is not None:
            self.occupant.release()


_REQUESTS: dict[bytes, Callable[[Channel, bytes], bool]] = {
    b"pty-req": Channel._pty,
    b"window-change": Channel._resize,
    b"shell": Channel._shell,
    b"exec": Channel._exec,
}
