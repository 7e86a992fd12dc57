"""The rows: what is measured, in which order, and what each must reach.  ``ROWS`` names them; each gives table rows.

Everything of a row lives in a directory of its own, which goes with it.
"""

import contextlib
import shutil
import smtplib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import backlog, durability, load, postfix, processes, relay, verify
from bench.load import OwnSink, Run, System, Target
from bench.sink import TIMING
from bench.table import Comparison, Line, percentile, ratio
from bench.tools import Tools

Result = Comparison | Line
_MEGABYTES = 600  # of resident memory, behind 1,000,000 deliveries
_SECONDS = 10  # from start to first delivery, behind 1,000,000
_SHARE = 0.8  # of the speed, behind a backlog
_LATENCY = 1.0  # seconds, p99, from 250 to sink
_PACE = 20  # transactional messages a second behind the marketing backlog


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    rounds: int
    count: int
    signed: int
    tls: int
    backlogs: tuple[int, ...]
    start: int
    marketing: int
    paced: int


SHORT = Scale(
    rounds=3, count=1200, signed=400, tls=800, backlogs=(100_000,), start=100_000, marketing=50_000, paced=100
)
FULL = Scale(
    rounds=5, count=10_000, signed=4000, tls=10_000, backlogs=(100_000, 1_000_000), start=1_000_000,
    marketing=500_000, paced=600,
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What rows work with."""

    tools: Tools
    home: Path
    scale: Scale
    say: Callable[[str], None] = print

    @contextlib.contextmanager
    def room(self, name: str) -> Iterator[Path]:
        """An empty directory for one row."""
        path = self.home / name
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Work:
    """A row of both systems.  ``refuse``: of each so many recipients one gets 4xx and one 5xx."""

    key: str
    work: str
    size: int
    kept: bool
    must: float = 0.0
    goal: float = 0.0
    signed: bool = False
    refuse: int = 0

    def measure(self, bench: Bench) -> list[Result]:
        with bench.room(f"row{self.key}") as home, contextlib.ExitStack() as stack:
            note, valid, key = "", True, None
            if self.signed:
                key = verify.make_key(home / "dkim.pem")
                faults = verify.signatures(bench.tools, home / "verify", key)
                note, valid = "; ".join(faults) or "signatures of both verify", not faults
            sinks = [self._sink(bench, stack, home / f"sink{n}") for n in (0, 1)]
            dkim = (relay.DOMAIN, relay.SELECTOR, key) if key else None
            systems: list[System] = [
                stack.enter_context(postfix.started(bench.tools, home / "postfix", sinks[0].port, dkim)),
                stack.enter_context(relay.started(home / "relayd", sinks[1].port, dkim=key)),
            ]
            runs = self._rounds(bench, systems, sinks)
            memory = (systems[0].memory(), systems[1].memory())
            for system, sink in zip(systems, sinks, strict=True):
                self._check(system, sink)
        cpu = tuple(median(run.cpu for run in side) for side in runs)
        rates = [tuple(run.rate for run in side) for side in runs]
        return [
            Comparison(
                self.key, self.work, rates[0], rates[1], self.must, self.goal, (cpu[0], cpu[1]), memory, note, valid
            )
        ]  # fmt: skip

    def _sink(self, bench: Bench, stack: contextlib.ExitStack, home: Path) -> Target:
        if self.refuse:
            return stack.enter_context(load.own_sink(home, self.refuse))
        return stack.enter_context(load.smtp_sink(bench.tools, home))

    def _rounds(self, bench: Bench, systems: list[System], sinks: list[Target]) -> tuple[list[Run], list[Run]]:
        """Interleaved, after a warm-up of both; who is first changes from round to round."""
        count = bench.scale.signed if self.signed else bench.scale.count
        sides: tuple[list[Run], list[Run]] = ([], [])
        for turn in range(bench.scale.rounds + 1):
            for n in (0, 1) if turn % 2 else (1, 0):
                amount = count if turn else max(100, count // 10)
                run = load.run(bench.tools, systems[n], sinks[n], amount, self.size, self.kept, signed=self.signed)
                if turn:
                    sides[n].append(run)
                    bench.say(f"  {systems[n].name:8} {run.rate:7,.0f}/s  {run.cpu:6,.0f} us CPU a message")
        return sides

    def _check(self, system: System, sink: Target) -> None:
        """What the system says it delivered is what the sink got."""
        if isinstance(sink, OwnSink):
            arrived = sink.counts.get()[0]
            processes.until(lambda: system.delivered() >= arrived, 30, f"{system.name} tells of all it delivered")
        else:
            processes.until(lambda: system.delivered() == sink.count(), 30, f"{system.name} tells of what it delivered")
        if isinstance(system, relay.Relayd) and not system.audited():
            raise processes.Failed("relayd's audit is not clean")


def _tls(bench: Bench) -> list[Result]:
    """Sessions and messages a second through TLS and AUTH: relayd alone, the clients on the same machine."""
    count = bench.scale.tls
    rates: dict[bool, list[float]] = {False: [], True: []}
    with (
        bench.room("row5") as home,
        load.smtp_sink(bench.tools, home / "sink") as sink,
        relay.started(home / "relayd", sink.port) as node,
    ):
        node.add_login()
        for kept in (False, True) * bench.scale.rounds:
            expected = sink.count() + count
            rates[kept].append(load.tls_clients(node.tls_port, node.home / "cert.pem", count, kept))
            _wait_for(sink, expected)
    each, kept_open = median(rates[False]), median(rates[True])
    values = {"sessions": each, "messages": kept_open}
    figure = f"{each:,.0f} sessions/s of one message, {kept_open:,.0f} messages/s kept open"
    return [Line("5", "4 KB by SMTPS and AUTH, 20 clients in Python beside it", figure, values=values)]


def _wait_for(sink: Target, count: int) -> None:
    processes.until(lambda: sink.count() >= count, 60, "all are delivered")


def _behind(bench: Bench, count: int) -> Line:
    """Row 1's speed of a relay with a deferred backlog, beside that of one without."""
    with bench.room(f"row7-{count}") as home, contextlib.ExitStack() as stack:
        backlog.fill(home / "full/spool", count, time.time() + 4 * 3600)
        sinks = [stack.enter_context(load.smtp_sink(bench.tools, home / f"sink{n}")) for n in (0, 1)]
        names = ("full", "empty")
        nodes = [stack.enter_context(relay.started(home / n, s.port)) for n, s in zip(names, sinks, strict=True)]
        rates: tuple[list[float], list[float]] = ([], [])
        amount = bench.scale.count * 2
        for turn in range(bench.scale.rounds + 1):
            for n in (0, 1) if turn % 2 else (1, 0):
                run = load.run(bench.tools, nodes[n], sinks[n], amount if turn else amount // 10, 4096, kept=True)
                if turn:
                    rates[n].append(run.rate)
        share, memory = ratio(rates[0], rates[1]), nodes[0].memory()
    figure = f"{share:.2f} of the speed without, {memory:,.0f} MB at most"
    met = share >= _SHARE and memory <= _MEGABYTES
    must = f"{_SHARE:.2f}, {_MEGABYTES} MB"
    return Line("7", f"row 1 behind {count:,} deferred", figure, must, met, {"share": share, "memory": memory})


def _behind_all(bench: Bench) -> list[Result]:
    return [_behind(bench, count) for count in bench.scale.backlogs]


def _start(bench: Bench) -> list[Result]:
    """From starting the process to the first delivery, all of the backlog being due."""
    count = bench.scale.start
    with bench.room("row8") as home, load.smtp_sink(bench.tools, home / "sink") as sink:
        backlog.fill(home / "relayd/spool", count, time.time() - 60)
        each = backlog.size(home / "relayd/spool") / count
        begun = time.monotonic()
        with relay.started(home / "relayd", sink.port, wait=False) as node:
            processes.until(sink.count, 120, "the first delivery after a start")
            seconds = time.monotonic() - begun
            time.sleep(5)  # delivering, so that the peak is not only the start's
            memory = node.memory()
    figure = f"{seconds:.1f} s, {memory:,.0f} MB at most, {each:,.0f} bytes a queued delivery of {backlog.CONTENT}"
    met = seconds <= _SECONDS and memory <= _MEGABYTES
    values = {"seconds": seconds, "memory": memory, "bytes": each}
    must = f"{_SECONDS} s, {_MEGABYTES} MB"
    return [Line("8", f"start with {count:,} due: to the first delivery", figure, must, met, values)]


def _latency(bench: Bench) -> list[Result]:
    """Transactional mail through the same source and next hop as a marketing backlog that is being delivered."""
    count, paced = bench.scale.marketing, bench.scale.paced
    with bench.room("row9") as home, load.own_sink(home / "sink") as sink:
        backlog.fill(home / "relayd/spool", count, time.time() - 60)
        with relay.started(home / "relayd", sink.port) as node:
            processes.until(sink.count, 60, "marketing mail flows")
            with smtplib.SMTP("127.0.0.1", node.port, "client.example", timeout=60) as client:
                pacer = load.Pacer(lambda number: _numbered(client, number), _PACE, paced)
                pacer.start()
                pacer.join(60 + 3 * paced / _PACE)
            if pacer.fault or pacer.is_alive():
                raise processes.Failed(f"transactional mail was not taken: {pacer.fault or 'too slow'}")
            processes.until(lambda: _size(sink.times) >= paced * TIMING.size, 120, "transactional mail arrives")
            others = sink.count() - paced
        arrived = dict(TIMING.iter_unpack(sink.times.read_bytes()))
    waits = [max(0.0, arrived[number] - taken) for number, taken in pacer.taken.items()]
    middle, late = percentile(waits, 50), percentile(waits, 99)
    figure = f"p50 {middle * 1000:.0f} ms, p99 {late * 1000:.0f} ms; {others:,} marketing delivered meanwhile"
    work = f"transactional, {_PACE}/s, behind {count:,} marketing due: 250 to sink"
    values = {"p50": middle, "p99": late, "meanwhile": others}
    return [Line("9", work, figure, f"p99 {_LATENCY:.0f} s", late <= _LATENCY and others < count, values)]


def _numbered(client: smtplib.SMTP, number: int) -> None:
    content = f"From: <{relay.SENDER}>\r\nX-Bench: {number}\r\nSubject: your code\r\n\r\n{'X' * 78}\r\n"
    client.sendmail(relay.SENDER, [load.RECIPIENT], content)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _durable(bench: Bench) -> list[Result]:
    with bench.room("durability") as home:
        return list(durability.measure(bench.tools, home, 500))


_BOTH = (
    Work("1", "4 KB, 20 kept-open sessions", 4096, True, must=3.0, goal=4.0),
    Work("2", "4 KB, one message per session", 4096, False, must=2.5, goal=3.5),
    Work("3", "50 KB, 20 kept-open sessions", 51200, True, must=2.5, goal=3.5),
    Work("4", "4 KB kept-open, DKIM RSA-2048", 4096, True, must=5.0, goal=7.0, signed=True),
    Work("6", "4 KB kept-open, 1 % 4xx and 1 % 5xx", 4096, True, refuse=100),
)
_ALL: dict[str, tuple[str, Callable[[Bench], list[Result]]]] = {
    **{work.key: (work.work, work.measure) for work in _BOTH},
    "5": ("SMTPS and AUTH in", _tls),
    "7": ("behind a deferred backlog", _behind_all),
    "8": ("start with a backlog", _start),
    "9": ("transactional behind marketing", _latency),
    "D": ("durable before 250", _durable),
}
ROWS = dict(sorted(_ALL.items()))
