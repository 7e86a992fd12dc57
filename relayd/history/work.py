"""What is done with records in a process of its own: so neither a long reading nor an expression that never ends takes
time from the mail.  ``workers`` starts it.

In, on stdin: one JSON object of what to do (``Work``).  Out, on stdout: lines of JSON; the last one is ``End``.
"""

import gzip
import os
import re
import resource
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import msgspec

from relayd.history.export import Progress, export
from relayd.history.export import Wanted as ToExport
from relayd.history.grep import Wanted as ToFind
from relayd.history.grep import grep
from relayd.spool.store import connect

_NICE = 10
_TELL = 0.25  # seconds between words of progress
_LEVEL = 4  # of packing: beyond it takes longer than all the rest


class Work(msgspec.Struct, frozen=True):
    """``seconds``: how long it may take, 0.0: as long as it takes; ``most``: events, or bytes of the file ``path``."""

    spool: str
    node: str
    find: ToFind | None = None
    export: ToExport | None = None
    seconds: float = 0.0
    most: int = 0
    path: str = ""


class End(msgspec.Struct, frozen=True, tag_field="end", tag="end"):
    """``why``: "" when it is done, "most" or "time" when it stopped before; ``at``: the time that it had come to;
    ``error``: why it failed."""

    why: str = ""
    at: float = 0.0
    error: str = ""
    progress: Progress | None = None


class _Stop(Exception):
    """It is enough; the argument says why."""


def main() -> None:
    os.nice(_NICE)
    work = msgspec.json.decode(sys.stdin.buffer.read(), type=Work)
    if work.seconds:  # an expression may hold on to everything: then the kernel ends it
        limit = int(work.seconds) + 5
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    try:
        with closing(connect(Path(work.spool) / "spool.sqlite", readonly=True)) as db:
            end = _find(db, work, work.find) if work.find else _export(db, work, work.export)
    except re.error as error:
        end = End(error=f"the expression cannot be read: {error}")
    except (OSError, sqlite3.Error) as error:
        end = End(error=str(error))
    _tell(end)


def _find(db: sqlite3.Connection, work: Work, wanted: ToFind) -> End:
    deadline, count, reached = time.monotonic() + work.seconds, 0, 0.0

    def at(moment: float) -> None:
        nonlocal reached
        reached = moment or reached
        if time.monotonic() > deadline:
            raise _Stop

    try:
        for data in grep(db, Path(work.spool) / "records", wanted, work.node, at):
            if count == work.most:
                return End("most", reached)
            sys.stdout.buffer.write(data + b"\n")
            sys.stdout.buffer.flush()
            count += 1
    except _Stop:
        return End("time", reached)
    return End()


def _export(db: sqlite3.Connection, work: Work, wanted: ToExport | None) -> End:
    assert wanted is not None
    told, progress = 0.0, Progress()
    with open(os.open(work.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        with gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as out:
            for progress in export(db, Path(work.spool) / "records", wanted, work.node, out):
                if file.tell() > work.most:
                    return End("most", progress=progress)
                if time.monotonic() - told > _TELL:
                    told = time.monotonic()
                    _tell(progress)
        file.flush()
        os.fsync(file.fileno())
    return End(progress=progress)


def _tell(what: msgspec.Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()
