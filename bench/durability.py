"""Whether a 250 means durable, as the kernel sees it: system calls counted, and their order for one message.

In: a running relay and strace.  Out: lines for the table, with what was seen.
"""

import contextlib
import re
import shutil
import signal
import smtplib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import load, processes, relay
from bench.relay import Relayd
from bench.table import Line
from bench.tools import Tools

_STEPS = ("written", "synced", "committed", "replied")
_TOKEN = "bench-durability-token"
_SYNC = re.compile(r"\b(?:fdatasync|fsync)\(\d+<")


def measure(tools: Tools, home: Path, count: int) -> list[Line]:
    """The two lines.  Raises Failed."""
    work = "4 KB, 20 kept-open sessions, under strace"
    if not shutil.which("strace"):
        return [Line("D", work, "strace is not installed here: not shown", "", None)]
    with load.smtp_sink(tools, home / "sink") as sink, relay.started(home / "relayd", sink.port) as node:
        return [_counted(tools, home, node, sink, count, work), _ordered(home, node)]


def order(lines: Sequence[str], token: str) -> dict[str, int]:
    """Where strace's output has: "written", the last write of the message to the spool before the 250; "synced", the
    first sync of that file begun after it, and ended well; "committed", the first sync of the database after that; and
    "replied", the 250 of the final dot.  What is missing is not in it."""
    found: dict[str, int] = {}
    replied = next((n for n, line in enumerate(lines) if "queued as" in line and "send" in line), None)
    if replied is None:
        return found
    found["replied"] = replied
    writes = [n for n, line in enumerate(lines[:replied]) if "/landing/" in line and token in line]
    if not writes:
        return found
    found["written"] = writes[-1]
    for what, file, before in (("synced", "/landing/", "written"), ("committed", "/spool.sqlite", "synced")):
        ended = _sync(lines, file, found[before] + 1)
        if ended is None:
            return found
        found[what] = ended
    return found


def _sync(lines: Sequence[str], file: str, start: int) -> int | None:
    """The line with which the first sync of a file that begins from ``start`` on has ended well."""
    begun: set[str] = set()
    for n in range(start, len(lines)):
        thread, _, call = lines[n].partition(" ")
        if _SYNC.search(call) and file in call:
            begun.add(thread)
            if "unfinished" in call:
                continue
        elif "sync resumed>" not in call or thread not in begun:
            continue
        if call.rstrip().endswith("= 0"):
            return n
        begun.discard(thread)
    return None


def _counted(tools: Tools, home: Path, node: Relayd, sink: load.SmtpSink, count: int, work: str) -> Line:
    report, commits, before = home / "counts", node.commits(), node.delivered()
    with _traced(node.pid, report, "-c", "-e", "trace=fdatasync,fsync"):
        load.run(tools, node, sink, count, 4096, kept=True)
        processes.until(lambda: node.delivered() >= before + count, 30, "the ledger tells of them")
    commits = node.commits() - commits
    syncs = sum(
        int(line.split()[3]) for line in report.read_text().splitlines() if line.endswith(("datasync", "fsync"))
    )
    figure = f"{count} messages, {commits} commits (receptions and outcomes), {syncs} fdatasync and fsync"
    values: dict[str, float] = {"messages": count, "commits": commits, "syncs": syncs}
    return Line("D1", work, figure, "a sync for each commit", syncs >= commits, values)


def _ordered(home: Path, node: Relayd) -> Line:
    report = home / "order"
    calls = "trace=fdatasync,fsync,write,pwrite64,pwritev,pwritev2,sendto,sendmsg"
    with (
        _traced(node.pid, report, "-y", "-s", "65536", "-e", calls),
        smtplib.SMTP("127.0.0.1", node.port, "client.example", timeout=30) as client,
    ):
        client.sendmail(relay.SENDER, [load.RECIPIENT], f"From: <{relay.SENDER}>\r\n\r\n{_TOKEN}\r\n")
    seen = order(report.read_text("utf-8", "replace").splitlines(), _TOKEN)
    met = [seen.get(what) for what in _STEPS] == sorted(seen.values()) and len(seen) == len(_STEPS)
    figure = ", then ".join(sorted(seen, key=seen.__getitem__)) or "nothing was seen"
    return Line("D2", "one message: written to the spool, synced, committed, 250", figure, "in this order", met)


@contextlib.contextmanager
def _traced(pid: int, report: Path, *options: str) -> Iterator[None]:
    """Attaches strace to all threads; it lets go at SIGINT and then writes its counts."""
    command = ["strace", "-f", "-p", str(pid), "-o", str(report), *options]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    assert tracer.stderr is not None
    try:
        if b"attached" not in (said := tracer.stderr.readline()):
            raise processes.Failed(f"strace: {said!r}")
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        try:
            tracer.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.communicate()
