"""A mail server that counts, times, keeps and refuses: what smtp-sink cannot do.  ``python -m bench.sink PORT ...``

One process, epoll, whole buffers at a time.  Its counts lie in a small file that others map (``Counts``); a message
with a field ``X-Bench: NUMBER`` leaves its number and the moment it had come (CLOCK_MONOTONIC) in another.
"""

import argparse
import mmap
import os
import select
import socket
import struct
import time
from pathlib import Path

_LAYOUT = struct.Struct("<4Q")
TIMING = struct.Struct("<Qd")
_FIELD = b"\r\nX-Bench: "
_EHLO = b"250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE 52428800\r\n"


class Counts:
    """The sink's counts, shared through a file: messages taken, recipients refused for now and for good, reports
    (messages with the null sender)."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_LAYOUT.size))
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), _LAYOUT.size)

    def get(self) -> tuple[int, int, int, int]:
        return _LAYOUT.unpack_from(self._map)

    def put(self, *values: int) -> None:
        _LAYOUT.pack_into(self._map, 0, *values)

    def settled(self) -> int:
        """Deliveries that have had their answer."""
        return sum(self.get()[:3])


class Sink:
    """Counts and decisions of all sessions.  Of each ``refuse`` recipients one gets 4xx and one 5xx; 0: none."""

    def __init__(self, refuse: int = 0, times: Path | None = None, keep: Path | None = None) -> None:
        self._refuse = refuse
        self._times = os.open(times, os.O_CREAT | os.O_WRONLY | os.O_APPEND) if times else -1
        self._keep = keep
        self._asked = 0
        self.totals = [0, 0, 0, 0]

    def recipient(self, report: bool) -> bytes:
        """The answer to a RCPT."""
        if report or not self._refuse:
            return b"250 2.1.5 ok\r\n"
        self._asked += 1
        turn = self._asked % self._refuse
        if turn == self._refuse // 3:
            self.totals[1] += 1
            return b"451 4.3.0 not now\r\n"
        if turn == 2 * self._refuse // 3:
            self.totals[2] += 1
            return b"554 5.6.0 not with this content\r\n"  # which stops no later mail to the same recipient
        return b"250 2.1.5 ok\r\n"

    def message(self, content: bytes, report: bool, now: float) -> None:
        self.totals[3 if report else 0] += 1
        if self._times >= 0:
            at = content.find(_FIELD)
            if at >= 0:
                number = content[at + len(_FIELD) : content.index(b"\r\n", at + 2)]
                os.write(self._times, TIMING.pack(int(number), now))
        if self._keep and self.totals[0] <= 20 and not report:
            (self._keep / f"{self.totals[0]}.eml").write_bytes(content)


class Session:
    """One client."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._buffer = bytearray()
        self._scanned = 0
        self._content = False
        self._accepted = 0
        self._report = False

    def received(self, data: bytes, now: float) -> bytes:
        """The replies to what came."""
        self._buffer += data
        replies = []
        while reply := self._content_reply(now) if self._content else self._line_reply():
            replies.append(reply)
        return b"".join(replies)

    def _content_reply(self, now: float) -> bytes:
        buffer = self._buffer
        end = buffer.find(b"\r\n.\r\n", max(0, self._scanned - 4))
        if end < 0:
            self._scanned = len(buffer)
            return b""
        self._sink.message(bytes(buffer[: end + 2]), self._report, now)
        del buffer[: end + 5]
        self._content, self._scanned = False, 0
        return b"250 2.0.0 taken\r\n"

    def _line_reply(self) -> bytes:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return b""
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        verb = line[:4].upper()
        if verb == b"MAIL":
            self._accepted, self._report = 0, b"<>" in line
        elif verb == b"RCPT":
            reply = self._sink.recipient(self._report)
            self._accepted += reply.startswith(b"2")
            return reply
        elif verb == b"DATA":
            self._content = self._accepted > 0
            return b"354 go on\r\n" if self._content else b"554 5.5.1 no valid recipients\r\n"
        elif verb == b"EHLO":
            return _EHLO
        return b"221 2.0.0 bye\r\n" if verb == b"QUIT" else b"250 2.0.0 ok\r\n"


def serve(port: int, sink: Sink, counts: Counts) -> None:
    """Until it is killed."""
    door = socket.create_server(("127.0.0.1", port), backlog=200)
    poll = select.epoll()
    poll.register(door.fileno(), select.EPOLLIN)
    sessions: dict[int, tuple[socket.socket, Session]] = {}
    while True:
        for number, _ in poll.poll():
            if number == door.fileno():
                client, _ = door.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.sendall(b"220 sink.example ESMTP\r\n")
                sessions[client.fileno()] = (client, Session(sink))
                poll.register(client.fileno(), select.EPOLLIN)
            elif not _heard(*sessions[number]):
                poll.unregister(number)
                sessions.pop(number)[0].close()
        counts.put(*sink.totals)


def _heard(client: socket.socket, session: Session) -> bool:
    """Whether the session goes on."""
    try:
        data = client.recv(262144)
        if not data:
            return False
        client.sendall(session.received(data, time.monotonic()))
    except OSError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser("bench.sink")
    parser.add_argument("port", type=int)
    parser.add_argument("counts", type=Path)
    parser.add_argument("--refuse", type=int, default=0)
    parser.add_argument("--times", type=Path)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    serve(given.port, Sink(given.refuse, given.times, given.keep), Counts(given.counts))


if __name__ == "__main__":
    main()
