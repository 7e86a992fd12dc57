"""Processes under test: started in a session of their own, ended for sure, their CPU and memory read from /proc."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

_given: set[int] = set()
_TICK = 1_000_000 / os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A run did not come to its end; the text says what was waited for."""


def until(condition: Callable[[], Any], seconds: float, what: str, step: float = 0.005) -> Any:
    """The first true answer.  Raises Failed after so many seconds."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds:.0f} s")
        time.sleep(step)
    return answer


def free_port() -> int:
    """A port that nobody has and that was not given before.  It is below those that the kernel gives to outgoing
    connections: one of them would take it meanwhile."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def running(
    command: list[str], log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The process while the block lasts; afterwards SIGTERM, and SIGKILL for all of its session ten seconds later."""
    with open(log, "ab") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env, cwd=cwd,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        # The group's leader is not reaped yet, so its number cannot be somebody else's.
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def family(pid: int) -> list[int]:
    """The process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry))
    found, rest = [], [pid]
    while rest:
        found.append(rest.pop())
        rest += children.get(found[-1], [])
    return found


def cpu(pid: int) -> float:
    """Microseconds of user and system time of a process and its descendants, those that have ended included."""
    return sum(sum(map(int, fields[11:15])) for fields in map(_stat, family(pid)) if fields) * _TICK


def memory(pid: int) -> float:
    """Megabytes now, of a process and its descendants, what they share counted once."""
    return sum(_kilobytes(f"/proc/{member}/smaps_rollup", "Pss") for member in family(pid)) / 1024


def peak(pid: int) -> float:
    """Megabytes: the most that one process had resident."""
    return _kilobytes(f"/proc/{pid}/status", "VmHWM") / 1024


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent, ...; none if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def _kilobytes(path: str, key: str) -> int:
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB", Path(path).read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
