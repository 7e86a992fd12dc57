"""Load and its measure: smtp-source in, smtp-sink (or our own) out, TLS clients that log in, and the moments between.

In: ports and counts.  Out: messages a second, from the first connection to the moment the last message is at the sink.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench import processes
from bench.relay import LOGIN, PASSWORD, ROOT, SENDER
from bench.sink import Counts
from bench.tools import Tools

SESSIONS = 20
RECIPIENT = "to@example.com"
_TAIL = (
    0.2  # seconds for what is done after the last delivery: it belongs to this run's CPU, not to the next one's time
)


class System(Protocol):
    """relayd or Postfix."""

    name: str
    port: int
    signing_port: int

    def cpu(self) -> float: ...
    def memory(self) -> float: ...
    def delivered(self) -> int: ...


class Target(Protocol):
    """Where the mail ends.  ``count`` raises Failed if it has ended."""

    port: int

    def count(self) -> int: ...


@dataclass(frozen=True)
class Run:
    """One run: messages a second end to end, and into the system; microseconds of CPU a message."""

    rate: float
    intake: float
    cpu: float


class SmtpSink:
    """smtp-sink; its running counters go to a file, and the last one is read."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.port = port
        self._process = process
        self._log = open(log, "rb")  # noqa: SIM115

    def count(self) -> int:
        """Messages so far."""
        _alive(self._process)
        end = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, end - 200))
        whole = self._log.read().rpartition(b"\r")[0].rpartition(b"mesg=")[2]
        return int(whole) if whole else 0


class OwnSink:
    """``bench.sink``."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, directory: Path) -> None:
        self.port = port
        self._process = process
        self.directory = directory
        self.counts = Counts(directory / "counts")
        self.times = directory / "times"

    def count(self) -> int:
        """Deliveries that had an answer so far."""
        _alive(self._process)
        return self.counts.settled()


@contextlib.contextmanager
def smtp_sink(tools: Tools, home: Path) -> Iterator[SmtpSink]:
    """A fresh one while the block lasts."""
    home.mkdir(parents=True)
    port = processes.free_port()
    command = [tools.program("smtp-sink"), "-c", "-u", "root", f"127.0.0.1:{port}", "200"]
    with processes.running(command, home / "log", tools.environment) as process:
        processes.until(lambda: processes.answers(port), 10, "smtp-sink starts")
        yield SmtpSink(process, port, home / "log")


@contextlib.contextmanager
def own_sink(home: Path, refuse: int = 0) -> Iterator[OwnSink]:
    """A fresh one while the block lasts; it keeps the first messages in ``home``."""
    home.mkdir(parents=True)
    port = processes.free_port()
    Counts(home / "counts")
    command = [sys.executable, "-m", "bench.sink", str(port), str(home / "counts")]
    command += ["--refuse", str(refuse), "--times", str(home / "times"), "--keep", str(home)]
    with processes.running(command, home / "log", cwd=ROOT) as process:
        processes.until(lambda: processes.answers(port), 10, "the sink starts")
        yield OwnSink(process, port, home)


def _alive(sink: "subprocess.Popen[bytes]") -> None:
    if sink.poll() is not None:
        raise processes.Failed(f"the sink ended with {sink.returncode}: did somebody kill it?")


def source(tools: Tools, port: int, count: int, size: int, kept: bool, sender: str = SENDER) -> list[str]:
    """The command of smtp-source: ``kept`` leaves sessions open, else each message has its own."""
    how = ["-d"] if kept else []
    load = ["-s", str(min(SESSIONS, count)), "-m", str(count), "-l", str(size), *how]
    return [tools.program("smtp-source"), *load, "-f", sender, "-t", RECIPIENT, f"127.0.0.1:{port}"]


def run(
    tools: Tools, system: System, target: Target, count: int, size: int, kept: bool, *, signed: bool = False
) -> Run:
    """Sends so many messages through the system.  Raises Failed if they do not all arrive."""
    port = system.signing_port if signed else system.port
    before, seconds = target.count(), 60 + count / 20
    cpu, start = system.cpu(), time.monotonic()
    command = source(tools, port, count, size, kept)
    with processes.running(command, Path(os.devnull), tools.environment) as sender:
        taken = 0.0

        def arrived() -> bool:
            nonlocal taken
            if not taken and sender.poll() is not None:
                taken = time.monotonic()
                if sender.returncode:
                    raise processes.Failed(f"smtp-source to {system.name} ended with {sender.returncode}")
            return target.count() >= before + count

        try:
            processes.until(arrived, seconds, "its end")
        except processes.Failed as fault:
            came = target.count() - before
            raise processes.Failed(f"{count} messages through {system.name}, {came} came: {fault}") from None
        end = time.monotonic()
        sender.wait(30)
    time.sleep(_TAIL)
    return Run(count / (end - start), count / ((taken or end) - start), (system.cpu() - cpu) / count)


def tls_clients(port: int, ca: Path, count: int, kept: bool) -> float:
    """Messages a second into a submissions door by clients that log in; each message has its session unless kept."""
    share = count // 2
    command = [sys.executable, "-m", "bench.client", str(port), str(ca), LOGIN, SENDER, str(share)]
    command += ["--kept"] if kept else []
    start = time.monotonic()
    clients = [
        subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "BENCH_PASSWORD": PASSWORD}, stdout=subprocess.PIPE,
            start_new_session=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        spans: list[tuple[float, float]] = [
            json.loads(client.communicate(timeout=60 + count / 10)[0]) for client in clients
        ]
    finally:
        for client in clients:
            client.kill()
            client.wait()
    # From the first connection on: starting Python is not the relay's time.
    return 2 * share / (max(end for _, end in spans) - max(start, min(begin for begin, _ in spans)))


class Pacer(threading.Thread):
    """One client that sends numbered messages at a steady pace and notes when each got its 250."""

    def __init__(self, send: Callable[[int], None], pace: float, count: int) -> None:
        super().__init__(daemon=True)
        self._send, self._pace, self._count = send, pace, count
        self.taken: dict[int, float] = {}
        self.fault: Exception | None = None

    def run(self) -> None:
        start = time.monotonic()
        try:
            for number in range(self._count):
                time.sleep(max(0.0, start + number / self._pace - time.monotonic()))
                self._send(number)
                self.taken[number] = time.monotonic()
        except Exception as error:
            self.fault = error
