"""900,000 overdue deliveries of a domain that takes none: the rest of the mail does not notice, nor does memory."""

import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from relayd.envelope import Edits, Envelope, Recipient
from relayd.identity import day_of, lower_bound
from relayd.spool import store

from .conftest import Stage
from .relay import SENDER, Relay, Sink, free_port, until

BLOCKED = 900_000
OTHERS = 40  # domains with a delivery due behind the backlog
_PER_MESSAGE = 1000
_HEAD = (
    b"From: <%s>\r\nMessage-ID: <backlog@crm.example>\r\nDate: Sun, 1 Nov 2026 10:00:00 +0000\r\n\r\n" % SENDER.encode()
)

_ZONE = """
blocked.example    MX 10 mx.blocked.example
mx.blocked.example A  127.0.0.31
*.good.example     MX 10 mx.good.example
mx.good.example    A  127.0.0.32
"""
_TABLES = """
[resolver]
nameservers = ["{names}"]
[egress]
port   = {port}
banner = "3s"
"""


@pytest.fixture(scope="module")
def backlog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spool with the backlog, the oldest first, and one delivery of each other domain behind it."""
    directory = tmp_path_factory.mktemp("backlog")
    with closing(store.create(directory / "spool.sqlite")) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("BEGIN")
        earlier = time.time() // 86400 * 86400 - 3600  # all of it on one day
        _insert(connection, earlier, "blocked.example", BLOCKED)
        for n in range(OTHERS):
            _insert(connection, earlier + 600 + n, f"old{n}.good.example", 1)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return directory


def _insert(connection: sqlite3.Connection, first: float, domain: str, count: int) -> None:
    """``count`` deliveries to a domain, with all that the spool keeps about them."""
    queue = f"crm/transactional/{domain}"
    each = min(count, _PER_MESSAGE)
    identities = [lower_bound(first + n / 1000) for n in range(count // each)]
    envelope = Envelope(SENDER, (Recipient(f"user1@{domain}"),))
    meta = store.Meta("crm", "relay:127.0.0.1/32", "transactional", envelope, Edits(b"Received: earlier\r\n"))
    row = (each, len(_HEAD) + 6, msgspec.json.encode(meta).decode(), _HEAD, b"Hello\n")
    connection.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, NULL)", [(i, *row) for i in identities])
    connection.execute(
        "WITH RECURSIVE number(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM number WHERE n < ?) "
        "INSERT INTO delivery (id, message, queue, due, recipient) SELECT m.id + n, m.id, ?, ? + n * 1e-6, "
        "'{\"address\":\"user' || n || '@' || ? || '\"}' FROM message m, number WHERE m.id BETWEEN ? AND ?",
        (each, queue, first, domain, identities[0], identities[-1]),
    )
    connection.execute("INSERT INTO queue VALUES (?, ?, ?)", (queue, count, first))
    entry = (day_of(identities[0]), "crm", "transactional", "received", count)
    connection.execute("INSERT INTO outbox (lines, entries) VALUES (x'', ?)", (msgspec.json.encode([entry]).decode(),))
    connection.execute(
        "INSERT INTO tally VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count", entry
    )


@contextmanager
def blocked(how: str, port: int) -> Iterator[None]:
    """The blocked domain's server: nothing answers, or somebody who never says a word."""
    with socket.socket() as held:
        held.bind(("127.0.0.31", port))
        if how == "hangs":
            held.listen(1000)
        yield


def exercise(relay: Relay, sink: Sink, name: str) -> float:
    """Some mail to several domains, each in time; gives the most memory the process has had, in MB."""
    for n in range(100):
        to = f"{name}{n}@d{n % 10}.good.example"
        began = time.time()
        relay.send(to)
        found = sink.wait(to, 5)
        assert found["time"] - began < 1.0, to
    return relay.memory("VmHWM")


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_backlog_of_a_blocked_domain_delays_no_other_and_takes_no_memory(stage: Stage, backlog: Path, how: str) -> None:
    port = free_port()
    sink = stage.sink(f"127.0.0.32:{port}")
    tables = _TABLES.format(names=stage.names(_ZONE).address, port=port)
    with blocked(how, port):
        without = stage.relay(tables).start()
        floor = exercise(without, sink, "without")
        without.kill()
        came = len(sink.messages())

        spool = stage.home / "spool"
        shutil.copytree(backlog, spool)
        relay = stage.relay(tables, spool=spool).start()
        began = time.time()
        until(lambda: len(sink.messages()) >= came + OTHERS, 10, "the other domains' old mail arrives")
        slowest = max(m["time"] for m in sink.messages()[came:]) - began
        ceiling = exercise(relay, sink, "with")
        print(f"\n{how}: others start within {slowest:.2f} s; {floor:.0f} MB without backlog, {ceiling:.0f} MB with")
        assert slowest < 1.0
        assert ceiling - floor < 60
        until(lambda: relay.queued() == BLOCKED, 5, "all that went is off the disk")
        until(lambda: "127.0.0.31" in relay.why("blocked.example"), 10, "the reason names the server")
        relay.audited()
        shutil.rmtree(spool, ignore_errors=True)
