"""Fills a spool with queued deliveries before relayd starts: through relayd's own store, records and ledger included.

In: a spool directory, how many, when they are due, their stream.  Out: the same on disk as if they had been received,
so that ``relayctl audit`` of it is clean; and how many bytes they take.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from relayd.envelope import Delivery, Edits, Envelope, Message, Recipient, queue_name
from relayd.identity import Identities, day_of, show
from relayd.records import Entry, Record, encode
from relayd.spool import store

CONTENT = 1024  # bytes of each message
DOMAINS = 1000
_BATCH = 5000
_ACCOUNT = "crm"


def fill(spool: Path, count: int, due: float, stream: str = "marketing", domains: int = DOMAINS) -> None:
    """Adds ``count`` messages of one recipient each, spread over so many domains, due at ``due`` (unix seconds)."""
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.closing(store.create(spool / "spool.sqlite")) as connection:
        (spool / "spool.sqlite").chmod(0o600)
        connection.execute("PRAGMA synchronous=OFF")  # nobody has been promised this mail
        keeper = store.Store(connection)
        made = _receptions(count, due, stream, domains)
        for start in range(0, count, _BATCH):
            batch = store.Batch()
            batch.receptions = [next(made) for _ in range(min(_BATCH, count - start))]
            keeper.apply(batch)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def size(spool: Path) -> int:
    """Bytes on disk."""
    return sum(path.stat().st_size for path in spool.rglob("*") if path.is_file())


def _receptions(count: int, due: float, stream: str, domains: int) -> Iterator[store.Reception]:
    received = time.time() - 7200
    identities = Identities()
    head = b"From: <news@sender.example>\r\nSubject: news\r\nMessage-ID: <%012d@sender.example>\r\n\r\n"
    body = (b"X" * 78 + b"\r\n") * ((CONTENT - len(head % 0)) // 80)
    envelope, edits = Envelope("news@sender.example"), Edits()
    for number in range(count):
        at = received + number / 1000
        identity = identities.block(at, 1)
        domain = f"d{number % domains}.queued.example"
        top = head % number
        message = Message(
            identity, at, _ACCOUNT, _ACCOUNT, stream, envelope, edits, top, body, len(top) + len(body)
        )  # fmt: skip
        address = f"r{number}@{domain}"
        delivery = Delivery(identity + 1, message, Recipient(address), queue_name(_ACCOUNT, stream, domain), due)
        record = Record(
            "Reception", at, show(identity), account=_ACCOUNT, connection=_ACCOUNT, stream=stream,
            sender=envelope.sender, recipients=(address,), size=message.size,
        )  # fmt: skip
        entry = Entry(day_of(identity), _ACCOUNT, stream, "received", 1)
        yield store.Reception(message, (delivery,), encode(record), (entry,))
