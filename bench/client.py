"""Clients of a submissions door: TLS, AUTH PLAIN, one message after another, ten threads.  ``python -m bench.client``

Prints [first connection, last 250] on the clock that all processes share.  The password is in $BENCH_PASSWORD.
"""

import argparse
import base64
import json
import os
import socket
import ssl
import threading
import time

_THREADS = 10
_SIZE = 4096


class Client:
    """One session; raises RuntimeError at a reply that is no success."""

    def __init__(self, port: int, context: ssl.SSLContext, login: str, password: str) -> None:
        plain = socket.create_connection(("127.0.0.1", port), 60)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(plain, server_hostname="127.0.0.1")
        self._file = self._socket.makefile("rb")
        self._replies(1)
        self._say(b"EHLO client.example\r\n", 1)
        self._say(b"AUTH PLAIN " + base64.b64encode(f"\0{login}\0{password}".encode()) + b"\r\n", 1)

    def send(self, envelope: bytes, content: bytes) -> None:
        self._say(envelope, 3)
        self._say(content, 1)

    def close(self) -> None:
        self._say(b"QUIT\r\n", 1)
        self._file.close()
        self._socket.close()

    def _say(self, data: bytes, replies: int) -> None:
        self._socket.sendall(data)
        self._replies(replies)

    def _replies(self, count: int) -> None:
        while count:
            line = self._file.readline()
            if line[:1] not in (b"2", b"3"):
                raise RuntimeError(f"the relay said {line!r}")
            count -= line[3:4] != b"-"


def work(given: argparse.Namespace, context: ssl.SSLContext, numbers: range) -> None:
    """Sends a thread's share."""
    envelope = b"MAIL FROM:<%s>\r\nRCPT TO:<to@example.com>\r\nDATA\r\n" % given.sender.encode()
    head = b"From: <%s>\r\nTo: <to@example.com>\r\nSubject: bench\r\nDate: Sun, 1 Nov 2026 10:00:00 +0000\r\n"
    lines = (b"X" * 78 + b"\r\n") * (_SIZE // 80)
    client = None
    for number in numbers:
        fields = head % given.sender.encode() + b"Message-ID: <%d.%d@client.example>\r\n\r\n" % (os.getpid(), number)
        client = client or Client(given.port, context, given.login, os.environ["BENCH_PASSWORD"])
        client.send(envelope, fields + lines + b".\r\n")
        if not given.kept:
            client.close()
            client = None
    if client:
        client.close()


def main() -> None:
    parser = argparse.ArgumentParser("bench.client")
    parser.add_argument("port", type=int)
    parser.add_argument("ca")
    parser.add_argument("login")
    parser.add_argument("sender")
    parser.add_argument("count", type=int)
    parser.add_argument("--kept", action="store_true")
    given = parser.parse_args()
    context = ssl.create_default_context(cafile=given.ca)
    faults: list[Exception] = []

    def guarded(numbers: range) -> None:
        try:
            work(given, context, numbers)
        except Exception as error:
            faults.append(error)

    shares = [range(first, given.count, _THREADS) for first in range(_THREADS)]
    threads = [threading.Thread(target=guarded, args=(share,)) for share in shares]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise SystemExit(f"a client failed: {faults[0]}")
    print(json.dumps([start, time.monotonic()]))


if __name__ == "__main__":
    main()
