"""What tests of the spool and the queue share: mail to put in, and a main thread that runs what is posted to it."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from relayd.envelope import UNSTEERED, Delivery, Edits, Envelope, Message, Recipient, Steering, queue_name
from relayd.identity import Identities, day_of, show
from relayd.records import TERM_OF, Entry, Record, RecordKind, encode
from relayd.spool import Spool
from relayd.spool.store import UPGRADES, Departure, Reception, Requeue

NOW = 1_764_000_000.0
HEAD = b"Subject: hello\r\n\r\n"
OLD_META = '{"account":"crm","connection":"c","stream":"news","envelope":{"sender":"a@x"},"edits":{}}'


def first_format(path: Path, *domains: str) -> None:
    """A spool of the first format, with message 5 and its deliveries from 6 on, to one recipient at each domain."""
    rows = [(n, f"crm/news/{domain}", f'{{"address":"b@{domain}"}}') for n, domain in enumerate(domains, 6)]
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(f"PRAGMA journal_mode=WAL; {UPGRADES[0]}; PRAGMA user_version = 1")
        db.execute("INSERT INTO message VALUES (5, ?, 20, ?, ?, ?)", (len(rows), OLD_META, HEAD, b"body"))
        db.executemany("INSERT INTO delivery (id, message, queue, due, recipient) VALUES (?, 5, ?, 9.5, ?)", rows)
        db.execute("INSERT INTO tally VALUES (0, 'crm', 'news', 'received', ?)", (len(rows),))


class Main:
    """The main thread: ``post`` from anywhere, ``until`` runs what was posted."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()
        self.faults: list[str | None] = []

    def post(self, call: Callable[..., Any], *args: Any) -> None:
        self._calls.put((call, args))

    def until(self, condition: Callable[[], Any], seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not condition():
            try:
                call, args = self._calls.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                raise AssertionError(f"nothing more came in {seconds} s") from None
            call(*args)

    def drain(self) -> None:
        """Runs what is already there."""
        while not self._calls.empty():
            call, args = self._calls.get()
            call(*args)

    def answer(self, ask: Callable[..., Any], *args: Any) -> Any:
        """The answer of a call that takes ``done`` last."""
        got: list[Any] = []
        ask(*args, got.append)
        self.until(lambda: got)
        if isinstance(got[0], Exception):
            raise got[0]
        return got[0]


class Mail:
    """Makes receptions with rising identities, and what becomes of their deliveries."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now
        self._ids = Identities()

    def message(
        self,
        recipients: int = 1,
        body: bytes | None = b"body\r\n",
        account: str = "crm",
        stream: str = "news",
        steering: Steering = UNSTEERED,
    ) -> Message:
        identity = self._ids.block(self.now, recipients)
        envelope = Envelope("a@sender.example")
        size = len(HEAD) + len(body or b"")
        return Message(identity, self.now, account, "c", stream, envelope, Edits(), HEAD, body, size, steering=steering)

    def reception(
        self,
        *domains: str,
        body: bytes | None = b"body\r\n",
        due: float | None = None,
        account: str = "crm",
        stream: str = "news",
        steering: Steering = UNSTEERED,
    ) -> Reception:
        """A message with one recipient at each of these domains."""
        domains = domains or ("x.example",)
        message = self.message(len(domains), body, account, stream, steering)
        deliveries = tuple(
            Delivery(
                message.id + n,
                message,
                Recipient(f"r{n}@{domain}"),
                queue_name(account, stream, domain),
                self.now if due is None else due,
            )
            for n, domain in enumerate(domains, 1)
        )
        record = Record(
            "Reception",
            self.now,
            show(message.id),
            account=account,
            stream=stream,
            recipients=tuple(d.recipient.address for d in deliveries),
        )
        entries = (Entry(day_of(message.id), account, stream, "received", len(deliveries)),)
        return Reception(message, deliveries, encode(record), entries, key=steering.key)

    def told(self, kind: RecordKind, delivery: Delivery) -> tuple[bytes, tuple[Entry, ...]]:
        m = delivery.message
        record = Record(kind, self.now, show(m.id), show(delivery.id), m.account, stream=m.stream)
        return encode(record), (Entry(day_of(delivery.id), m.account, m.stream, TERM_OF[kind]),)

    def departure(self, delivery: Delivery, kind: RecordKind = "Delivery") -> Departure:
        return Departure(delivery, *self.told(kind, delivery))

    def requeue(self, delivery: Delivery, due: float) -> Requeue:
        line, entries = self.told("TransientFailure", delivery)
        return Requeue(delivery, due, delivery.attempts + 1, "s1", "451 later", line, entries)


def find_records(spool: Spool, text: bytes, done: Callable[[Any], None]) -> None:
    """``done(lines)``: all record lines that hold the text, oldest first."""

    def read(blocks: Iterator[bytes]) -> list[bytes]:
        return [line for block in blocks for line in block.splitlines(keepends=True) if text in line]

    spool.read_through(0.0, read, done)
