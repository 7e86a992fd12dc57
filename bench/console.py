"""What watching costs, and how fast the console is: ``python -m bench.console [QUEUED [SECONDS]]``.

In: how many deliveries wait (100,000), and for how long three consoles watch (100 s).  Out: on the terminal the time
until the first screen, the time from a key to what it changes on the screen, and what the relay's own process spends on
the consoles, each with mail going through it meanwhile and without.  Consoles run on terminals of their own (80x24),
as a user starts them.
"""

import contextlib
import fcntl
import os
import pty
import select
import signal
import smtplib
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import backlog, processes, relay
from bench.relay import ROOT, Relayd

_RATE = 50  # messages a second that go through meanwhile
_KEYS = 300
_PATIENCE = 10.0


class Terminal:
    """A console on a terminal; what it draws is read as it comes."""

    def __init__(self, control: str, width: int = 80, height: int = 24) -> None:
        self.began = time.monotonic()
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", height, width, 0, 0))
        command = [sys.executable, "-m", "relayd_console.app", "--control", control]
        env = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": f"{ROOT}:{ROOT}/console"}
        self._process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
        )
        os.close(theirs)
        self._file = ours

    def until(self, words: bytes) -> float:
        """Seconds from the start of the console until these words are drawn."""
        seen = b""
        while words not in seen:
            seen = seen[-4096:] + self._read(_PATIENCE)
        return time.monotonic() - self.began

    def key(self, key: bytes) -> float:
        """Seconds until something is drawn after a key."""
        self.quiet()
        began = time.monotonic()
        os.write(self._file, key)
        self._read(_PATIENCE)
        return time.monotonic() - began

    def quiet(self, seconds: float = 0.0) -> None:
        """Reads what is there, for so long."""
        end = time.monotonic() + seconds
        while select.select([self._file], [], [], max(0.0, end - time.monotonic()))[0]:
            os.read(self._file, 1 << 16)

    def _read(self, patience: float) -> bytes:
        if not select.select([self._file], [], [], patience)[0]:
            raise processes.Failed("the console draws nothing")
        return os.read(self._file, 1 << 16)

    def end(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._file)


@contextlib.contextmanager
def consoles(node: Relayd, *views: bytes) -> Iterator[list[Terminal]]:
    """A console for each of these keys, which open views."""
    found: list[Terminal] = []
    try:
        for view in views:
            found.append(Terminal(node.control))
            found[-1].until(b"What stands out")
            os.write(found[-1]._file, view)
        yield found
    finally:
        for one in found:
            one.end()


@contextlib.contextmanager
def mail(node: Relayd, rate: int) -> Iterator[None]:
    """Messages that come in and go out, so many a second."""
    over = threading.Event()

    def send() -> None:
        content = b"From: <a@sender.example>\r\nSubject: load\r\n\r\n" + b"x" * 4000 + b"\r\n"
        with smtplib.SMTP("127.0.0.1", node.port) as client:
            due, n = time.monotonic(), 0
            while not over.is_set():
                client.sendmail("a@sender.example", [f"to{n}@d{n % 50}.example"], content)
                due, n = due + 1 / rate, n + 1
                over.wait(max(0.0, due - time.monotonic()))

    thread = threading.Thread(target=send)
    if rate:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if rate:
            thread.join()


def measured(node: Relayd, seconds: float) -> Iterator[str]:
    first = []
    for _ in range(5):
        one = Terminal(node.control)
        first.append(one.until(b"crm/marketing"))  # the last lines of it
        one.end()
    yield f"first screen: median {statistics.median(first):.2f} s, worst {max(first):.2f} s of {len(first)}"
    for name, keys in (("overview", b"1"), ("queues", b"2"), ("deliveries", b"2\n"), ("sessions", b"9")):
        with consoles(node, b"") as (one,):
            for key in keys:
                os.write(one._file, bytes([key]))
                one.quiet(1.0)
            took = sorted(one.key(key) for key in _walk(_KEYS))
            yield f"keys in {name}: {_spread(took)}"
    yield from _watched(node, seconds)


def _walk(count: int) -> Iterator[bytes]:
    """Down and up, screen by screen and row by row."""
    for n in range(count):
        yield (b"j", b"j", b"k", b"\x06", b"j", b"\x02")[n % 6]


def _watched(node: Relayd, seconds: float) -> Iterator[str]:
    rounds = 2
    alone: list[float] = []
    watched: list[float] = []
    for _ in range(rounds):
        alone.append(_spent(node, seconds / rounds, []))
        with consoles(node, b"1", b"2", b"3") as found:
            watched.append(_spent(node, seconds / rounds, found))
    more = (sum(watched) - sum(alone)) * 100 / seconds
    yield (
        f"three consoles watch overview, queues and destinations: {more:.2f} CPU seconds of the relay's in 100 s "
        f"({sum(alone):.2f} s without them, {sum(watched):.2f} s with them, in {seconds:.0f} s)"
    )


def _spent(node: Relayd, seconds: float, watching: Sequence[Terminal]) -> float:
    before, end = node.cpu(), time.monotonic() + seconds
    while time.monotonic() < end:
        for one in watching:
            one.quiet()
        time.sleep(0.1)
    return (node.cpu() - before) / 1e6


def _spread(sorted_: Sequence[float]) -> str:
    def at(share: float) -> float:
        return sorted_[min(len(sorted_) - 1, int(share * len(sorted_)))] * 1000

    return f"p50 {at(0.5):.0f} ms, p95 {at(0.95):.0f} ms, p99 {at(0.99):.0f} ms of {len(sorted_)}"


def main(arguments: list[str]) -> int:
    count, seconds = int((arguments[0:] or ["100000"])[0]), float((arguments[1:] or ["100"])[0])
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        backlog.fill(home / "relayd/spool", count, time.time() + 4 * 3600)
        port = processes.free_port()
        sink = [sys.executable, "-m", "bench.sink", str(port), str(home / "counts")]
        with processes.running(sink, home / "sink.log", dict(os.environ), ROOT):
            processes.until(lambda: processes.answers(port), 10, "the sink listens")
            with relay.started(home / "relayd", port) as node:
                for rate in (0, _RATE):
                    print(f"{count:,} deliveries wait, {rate} messages a second go through", flush=True)
                    with mail(node, rate):
                        for line in measured(node, seconds):
                            print(f"  {line}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
