import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from relayd.envelope import Delivery
from relayd.identity import show
from relayd.lease import Charge, Lease
from relayd.records import Record, encode
from relayd.spool import leases
from relayd.spool.ledger import Audit, audit
from relayd.spool.segments import Mover
from relayd.spool.store import Batch, Store, connect, create
from tests.spool_kit import NOW, Mail


class Books:
    def __init__(self, path: Path) -> None:
        self.segments = path / "records"
        self.db = create(path / "spool.sqlite")
        self.reading = connect(path / "spool.sqlite", readonly=True)
        self.store = Store(self.db)
        self.mail = Mail()
        self.queued: list[Delivery] = []
        self.mover = Mover(self.segments, self.reading, self._job, print, 1e9)

    def _job(self, job: object, done: object) -> None:
        batch = Batch()
        batch.jobs.append(job)  # type: ignore[arg-type]
        done(self.store.apply(batch).results[0])  # type: ignore[operator]

    def live(self, rng: random.Random, steps: int) -> None:
        for _ in range(steps):
            batch = Batch()
            self.mail.now += rng.choice([0, 1, 30000])
            rng.shuffle(self.queued)
            for _ in range(min(len(self.queued), rng.randrange(4))):
                kind = rng.choice(["Delivery", "Bounce", "Expiration", "Cancellation"])
                batch.departures.append(self.mail.departure(self.queued.pop(), kind))
            batch.requeues += [self.mail.requeue(d, NOW) for d in self.queued[: rng.randrange(3)]]
            fresh = self.mail.reception(
                *rng.choices(["x.example", "y.example"], k=rng.randrange(1, 4)), stream=rng.choice(["news", "urgent"])
            )
            batch.receptions.append(fresh)
            self.store.apply(batch)
            self.queued += fresh.deliveries
            if rng.random() < 0.3:
                self.mover.move()

    def audit(self) -> Audit:
        return audit(self.reading, self.segments)

    def faults(self) -> str:
        found = self.audit()
        assert not found.clean
        return "\n".join(found.faults)


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path)
    yield made
    made.db.close()
    made.reading.close()


def test_an_empty_spool_is_clean(books: Books) -> None:
    assert books.audit() == Audit(True, [], [])


@pytest.mark.parametrize("seed", range(8))
def test_any_history_is_clean(books: Books, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(4):
        books.live(rng, 20)
        found = books.audit()
        assert found.faults == []
        assert found.clean
        assert sum(line.queued for line in found.lines) == len(books.queued)


def test_lines_tell_terms_by_day_account_and_stream(books: Books) -> None:
    batch = Batch()
    batch.receptions.append(books.mail.reception("x.example", "y.example"))
    books.store.apply(batch)
    (line,) = books.audit().lines
    assert (line.day, line.account, line.stream) == ("2025-11-24", "crm", "news")
    assert (line.terms, line.queued) == ({"received": 2}, 2)


@pytest.mark.parametrize("moved", [True, False])
def test_a_delivery_deleted_by_hand_is_named(books: Books, moved: bool) -> None:
    books.live(random.Random(1), 10)
    if moved:
        books.mover.move()
    lost = books.queued[0]
    books.db.execute("DELETE FROM delivery WHERE id = ?", (lost.id,))
    faults = books.faults()
    assert f"{show(lost.id)} is nowhere" in faults
    assert f"queue {lost.queue}: its counter says" in faults


def test_what_came_back_of_a_delivery_later_is_no_second_leaving(books: Books) -> None:
    books.live(random.Random(1), 10)
    lost = books.queued[0]
    later = Record("Complaint", NOW, show(lost.message.id), show(lost.id), lost.message.account, stream="news")
    books.store.keep_records(encode(later), ())
    books.db.execute("DELETE FROM delivery WHERE id = ?", (lost.id,))
    assert f"{show(lost.id)} is nowhere" in books.faults()


def test_a_delivery_that_came_from_nowhere_is_named(books: Books) -> None:
    books.live(random.Random(1), 10)
    stray = books.queued[0].id + 500
    books.db.execute(
        "INSERT INTO delivery SELECT ?, message, queue, due, 0, recipient, '', '', 0, due, NULL, NULL, NULL, NULL "
        "FROM delivery LIMIT 1",
        (stray,),
    )
    assert f"{show(stray)} is queued but was never received" in books.faults()


def test_a_delivery_whose_message_is_gone_is_named(books: Books) -> None:
    books.live(random.Random(1), 10)
    lost = books.queued[0]
    books.db.execute("DELETE FROM message WHERE id = ?", (lost.message.id,))
    assert f"delivery {show(lost.id)} has lost its message" in books.faults()


def test_a_queue_counter_that_was_altered_is_named(books: Books) -> None:
    books.live(random.Random(1), 10)
    name = books.queued[0].queue
    books.db.execute("UPDATE queue SET count = count + 1 WHERE name = ?", (name,))
    assert f"queue {name}: its counter says" in books.faults()


def test_a_ledger_line_that_was_altered_is_told(books: Books) -> None:
    books.live(random.Random(1), 10)
    books.db.execute("UPDATE tally SET count = count + 1 WHERE term = 'received'")
    faults = books.faults()
    assert "came in, but" in faults
    assert "the ledger counts" in faults


def test_a_record_removed_from_the_outbox_is_told_and_the_delivery_named(books: Books) -> None:
    batch = Batch()
    reception = books.mail.reception("x.example", "x.example")
    batch.receptions.append(reception)
    books.store.apply(batch)
    batch = Batch()
    batch.departures.append(books.mail.departure(reception.deliveries[0]))
    books.store.apply(batch)
    books.db.execute("DELETE FROM outbox WHERE seq = (SELECT max(seq) FROM outbox)")
    faults = books.faults()
    assert "the ledger counts 1 delivered, the records 0" in faults
    assert f"{show(reception.deliveries[0].id)} is nowhere" in faults


@pytest.mark.parametrize("whole", [True, False])
def test_records_removed_from_a_segment_are_told_and_the_deliveries_named(books: Books, whole: bool) -> None:
    books.live(random.Random(3), 20)
    books.mover.move()
    (file,) = books.segments.iterdir()
    lines = file.read_bytes().splitlines(keepends=True)
    if whole:
        file.unlink()
    else:
        file.write_bytes(b"".join(line for line in lines if b'"Reception"' not in line))
    faults = books.faults()
    assert f"records {file.name}: " in faults
    assert "bytes are missing" in faults
    assert "was never received" in faults


def paid(books: Books) -> None:
    batch = Batch()
    batch.jobs.append(leases.settle([("parent", 9, 0)]))
    books.store.apply(batch)
    batch = Batch()
    batch.receptions.append(structs.replace(books.mail.reception("x.example"), charge=Charge("parent", 1)))
    books.store.apply(batch)


@pytest.mark.parametrize("moved", [True, False])
def test_what_payers_were_charged_is_in_the_ledger_and_the_records(books: Books, moved: bool) -> None:
    books.live(random.Random(1), 5)
    paid(books)
    if moved:
        books.mover.move()
    found = books.audit()
    assert found.faults == [] and found.leases == {"parent": Lease(9, 1)}
    assert [line.terms for line in found.lines if line.account == "parent"] == [{"charged": 1}]


def test_a_lease_that_was_altered_is_told(books: Books) -> None:
    paid(books)
    books.db.execute("UPDATE lease SET charged = 3")
    assert books.faults() == "payer parent: the ledger counts 1 charged, the lease 3"


def test_the_audit_leaves_its_connection_free(books: Books) -> None:
    books.audit()
    assert not books.reading.in_transaction
    with pytest.raises(sqlite3.OperationalError):
        books.reading.execute("DELETE FROM tally")
