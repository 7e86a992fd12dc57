import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.envelope import UNSTEERED, Delivery, Steering
from relayd.records import Entry
from relayd.spool import reader
from relayd.spool.store import (
    NEVER,
    SCHEMA_VERSION,
    UPGRADES,
    Batch,
    Departure,
    Reception,
    Requeue,
    Store,
    connect,
    create,
)
from tests.spool_kit import HEAD, NOW, Mail, first_format

X = "crm/news/x.example"
Y = "crm/news/y.example"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = create(tmp_path / "spool.sqlite")
    yield connection
    connection.close()


def nowhere(place: int, identity: int) -> tuple[bytes, bytes]:
    raise AssertionError("nothing has landed")


def batch(*changes: Reception | Departure | Requeue, settles: tuple[str, ...] = ()) -> Batch:
    made = Batch()
    for change in changes:
        match change:
            case Reception():
                made.receptions.append(change)
            case Departure():
                made.departures.append(change)
            case Requeue():
                made.requeues.append(change)
    made.settles += settles
    return made


def in_memory() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript("".join(UPGRADES.values()))
    return connection


def queues(db: sqlite3.Connection) -> dict[str, tuple[int, float]]:
    return {name: (count, due) for name, count, due in db.execute("SELECT * FROM queue")}


def count(db: sqlite3.Connection, table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def tally(db: sqlite3.Connection) -> dict[str, int]:
    return dict(db.execute("SELECT term, sum(count) FROM tally GROUP BY 1"))


def everything(db: sqlite3.Connection) -> list[str]:
    return list(db.iterdump())


def test_a_reception_is_kept_with_its_queues_record_and_ledger_line(db: sqlite3.Connection) -> None:
    reception = Mail().reception("x.example", "x.example", "y.example")
    Store(db).apply(batch(reception))
    assert queues(db) == {X: (2, NOW), Y: (1, NOW)}
    assert tally(db) == {"received": 3}
    assert db.execute("SELECT lines FROM outbox").fetchone()[0] == reception.line
    assert (count(db, "message"), count(db, "delivery")) == (1, 3)


def test_commits_are_synced_to_the_disk(db: sqlite3.Connection) -> None:
    pragmas = [db.execute(f"PRAGMA {p}").fetchone()[0] for p in ("journal_mode", "synchronous", "auto_vacuum")]
    assert pragmas == ["wal", 2, 2]


def test_a_batch_that_fails_at_its_end_leaves_nothing(db: sqlite3.Connection) -> None:
    mail = Mail()
    kept = mail.reception("x.example", "y.example")
    Store(db).apply(batch(kept))
    before = everything(db)
    bad = batch(
        mail.departure(kept.deliveries[0]), mail.requeue(kept.deliveries[1], NOW + 9), mail.reception(), settles=(X,)
    )
    bad.jobs.append(lambda connection: connection.execute("SELECT nonsense"))
    with pytest.raises(sqlite3.OperationalError):
        Store(db).apply(bad)
    assert everything(db) == before


def test_an_identity_that_is_known_spoils_its_batch(db: sqlite3.Connection) -> None:
    reception = Mail().reception()
    Store(db).apply(batch(reception))
    before = everything(db)
    with pytest.raises(sqlite3.IntegrityError):
        Store(db).apply(batch(Mail(NOW + 1).reception(), reception))
    assert everything(db) == before


def test_the_message_goes_with_its_last_delivery_only(db: sqlite3.Connection) -> None:
    mail = Mail()
    reception = mail.reception("x.example", "y.example")
    store = Store(db)
    store.apply(batch(reception))
    store.apply(batch(mail.departure(reception.deliveries[0])))
    assert (count(db, "message"), count(db, "delivery")) == (1, 1)
    store.apply(batch(mail.departure(reception.deliveries[1])))
    assert (count(db, "message"), count(db, "delivery")) == (0, 0)
    assert tally(db) == {"received": 2, "delivered": 2}


def test_neighbours_do_not_keep_or_take_each_others_messages(db: sqlite3.Connection) -> None:
    mail = Mail()
    first, second = mail.reception("x.example", "x.example"), mail.reception()
    store = Store(db)
    store.apply(batch(first, second))
    store.apply(batch(*(mail.departure(d) for d in first.deliveries)))
    assert [row[0] for row in db.execute("SELECT id FROM message")] == [second.message.id]


def test_only_messages_gone_with_a_body_in_a_file_are_told(db: sqlite3.Connection) -> None:
    mail = Mail()
    inline, in_file = mail.reception(), mail.reception("x.example", "y.example", body=None)
    store = Store(db)
    store.apply(batch(inline, in_file))
    applied = store.apply(batch(mail.departure(inline.deliveries[0]), mail.departure(in_file.deliveries[0])))
    assert applied.gone == []
    assert store.apply(batch(mail.departure(in_file.deliveries[1]))).gone == [in_file.message.id]


def test_a_delivery_that_leaves_twice_is_refused_and_counted_once(db: sqlite3.Connection) -> None:
    mail = Mail()
    reception = mail.reception("x.example", "x.example")
    store = Store(db)
    store.apply(batch(reception))
    leaving = mail.departure(reception.deliveries[0])
    with pytest.raises(sqlite3.IntegrityError):
        store.apply(batch(leaving, leaving))
    store.apply(batch(leaving))
    with pytest.raises(sqlite3.IntegrityError):
        store.apply(batch(leaving))
    with pytest.raises(sqlite3.IntegrityError):
        store.apply(batch(mail.requeue(reception.deliveries[0], NOW)))
    assert queues(db) == {X: (1, NOW)}
    assert tally(db) == {"received": 2, "delivered": 1}


def test_a_requeue_keeps_what_the_attempt_left(db: sqlite3.Connection) -> None:
    mail = Mail()
    reception = mail.reception("x.example")
    store = Store(db)
    store.apply(batch(reception))
    store.apply(batch(mail.requeue(reception.deliveries[0], NOW + 300.1234567)))
    assert reader.due_deliveries(db, nowhere, X, NOW + 300, 9, []) == []
    (found,) = reader.due_deliveries(db, nowhere, X, NOW + 301, 9, [])
    assert (found.attempts, found.source, found.last) == (1, "s1", "451 later")
    assert found.due == pytest.approx(NOW + 300.1234567, abs=1e-4)
    assert tally(db) == {"received": 1, "deferred": 1}


def test_a_requeue_brings_the_queue_forward_but_never_back(db: sqlite3.Connection) -> None:
    mail = Mail()
    reception = mail.reception("x.example", "x.example")
    store = Store(db)
    store.apply(batch(reception))
    store.apply(batch(mail.requeue(reception.deliveries[0], NOW + 300)))
    assert queues(db) == {X: (2, NOW)}
    store.apply(batch(mail.requeue(reception.deliveries[0], NOW - 300)))
    assert queues(db) == {X: (2, NOW - 300)}


def test_settling_writes_the_true_next_due_time(db: sqlite3.Connection) -> None:
    mail = Mail()
    reception = mail.reception("x.example", "x.example")
    store = Store(db)
    store.apply(batch(reception))
    store.apply(batch(*(mail.requeue(d, NOW + 300 + n) for n, d in enumerate(reception.deliveries))))
    assert store.apply(batch(settles=(X,))).settled == {X: NOW + 300}
    assert queues(db) == {X: (2, NOW + 300)}


def test_settling_drops_an_empty_queue(db: sqlite3.Connection) -> None:
    mail = Mail()
    reception = mail.reception("x.example", "y.example")
    store = Store(db)
    store.apply(batch(reception))
    applied = store.apply(batch(mail.departure(reception.deliveries[0]), settles=(X, "crm/news/unknown.example")))
    assert applied.settled == {X: NEVER, "crm/news/unknown.example": NEVER}
    assert queues(db) == {Y: (1, NOW)}


def test_settling_sees_what_comes_in_the_same_batch(db: sqlite3.Connection) -> None:
    assert Store(db).apply(batch(Mail().reception(), settles=(X,))).settled == {X: NOW}


def test_the_ledger_sums_entries_of_one_term(db: sqlite3.Connection) -> None:
    Store(db).apply(batch(*(Mail(NOW + n).reception() for n in range(200))))
    assert tally(db) == {"received": 200}
    assert count(db, "outbox") == 1


def test_records_without_a_delivery_are_kept_too(db: sqlite3.Connection) -> None:
    made = Batch()
    store = Store(db)
    made.jobs.append(lambda _: store.keep_records(b"line\n", [Entry(1, "a", "s", "rejected", 2)]))
    store.apply(made)
    assert tally(db) == {"rejected": 2}


def test_jobs_give_their_results_in_order(db: sqlite3.Connection) -> None:
    made = Batch()
    made.jobs += [lambda _: 1, lambda connection: connection.execute("SELECT 2").fetchone()[0]]
    assert Store(db).apply(made).results == [1, 2]


def test_another_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    connection = create(tmp_path / "s")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(sqlite3.NotSupportedError, match="has format 99"):
        create(tmp_path / "s")


@given(st.lists(st.tuples(st.binary(max_size=40), st.none() | st.binary(max_size=40)), min_size=1, max_size=8))
def test_heads_and_bodies_come_back_byte_for_byte(contents: list[tuple[bytes, bytes | None]]) -> None:
    db = in_memory()
    mail = Mail()
    made = []
    for head, body in contents:
        reception = mail.reception("x.example", "x.example", body=body)
        message = type(reception.message)(
            **{f: getattr(reception.message, f) for f in reception.message.__struct_fields__} | {"head": head}
        )
        deliveries = tuple(Delivery(d.id, message, d.recipient, d.queue, d.due) for d in reception.deliveries)
        made.append(Reception(message, deliveries, reception.line, reception.entries))
    Store(db).apply(batch(*made))
    found = reader.due_deliveries(db, nowhere, X, NOW, 100, [])
    assert found == [d for r in made for d in r.deliveries]
    db.close()


@pytest.mark.parametrize("body", [b"\x00", b"a\x00b\x00", b"\xff\xfe", b"", None, bytes(range(256)) * 300])
def test_odd_bodies_come_back_byte_for_byte(db: sqlite3.Connection, body: bytes | None) -> None:
    mail = Mail()
    Store(db).apply(batch(mail.reception(body=body), mail.reception(body=b"plain")))
    first, second = reader.due_deliveries(db, nowhere, X, NOW, 9, [])
    assert (first.message.head, first.message.body) == (HEAD, body)
    assert (second.message.head, second.message.body) == (HEAD, b"plain")


def test_due_deliveries_are_the_earliest_and_leave_out_what_is_known(db: sqlite3.Connection) -> None:
    mail = Mail()
    late, early, future = mail.reception(due=NOW), mail.reception(due=NOW - 5), mail.reception(due=NOW + 1)
    Store(db).apply(batch(late, early, future))
    ids = [r.deliveries[0].id for r in (early, late)]
    assert [d.id for d in reader.due_deliveries(db, nowhere, X, NOW, 9, [])] == ids
    assert [d.id for d in reader.due_deliveries(db, nowhere, X, NOW, 1, [])] == ids[:1]
    assert [d.id for d in reader.due_deliveries(db, nowhere, X, NOW, 9, ids[:1])] == ids[1:]
    assert reader.due_deliveries(db, nowhere, "crm/news/none.example", NOW, 9, []) == []


def test_deliveries_of_one_message_share_it_in_memory(db: sqlite3.Connection) -> None:
    Store(db).apply(batch(Mail().reception("x.example", "x.example")))
    first, second = reader.due_deliveries(db, nowhere, X, NOW, 9, [])
    assert first.message is second.message


@pytest.mark.parametrize("query", [reader._PULL_DUE, reader._PULL_OLD, reader._PULL_ENDED])
def test_a_pull_reads_no_more_than_it_gives(db: sqlite3.Connection, query: str) -> None:
    names = {"queue": X, "now": NOW, "but": "[]", "limit": 9, "before": 1, "moment": NOW, "stream": "*/news/*"}
    plan = " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", names))
    assert "TEMP B-TREE FOR ORDER BY" not in plan


def test_old_deliveries_are_those_received_before(db: sqlite3.Connection) -> None:
    old, new = Mail(NOW - 100).reception(), Mail(NOW).reception()
    other = Mail(NOW - 90).reception(stream="other")
    Store(db).apply(batch(old, new, other))
    assert reader.old_deliveries(db, nowhere, "*/news/*", NOW, 9) == list(old.deliveries)


def test_the_life_of_what_was_to_go_later_begins_later(db: sqlite3.Connection) -> None:
    mail = Mail(NOW - 100)
    later = mail.reception(due=NOW + 50, steering=Steering(send_at=NOW + 50))
    Store(db).apply(batch(later))
    Store(db).apply(batch(mail.requeue(later.deliveries[0], NOW + 60)))
    assert reader.old_deliveries(db, nowhere, "*/news/*", NOW + 50, 9) == []
    assert [d.id for d in reader.old_deliveries(db, nowhere, "*/news/*", NOW + 50.5, 9)] == [later.deliveries[0].id]


def test_what_its_sender_wants_given_up_is_found_at_its_time_earliest_first(db: sqlite3.Connection) -> None:
    mail = Mail()
    receptions = [mail.reception(steering=Steering(expire=NOW + n)) for n in (30, 20, 40)]
    Store(db).apply(batch(mail.reception(), *receptions))
    late, early, _ = [r.deliveries[0] for r in receptions]
    assert reader.ended_deliveries(db, nowhere, NOW + 30, 9) == [early, late]
    assert reader.ended_deliveries(db, nowhere, NOW + 30, 1) == [early]
    Store(db).apply(batch(mail.departure(early), mail.departure(late)))
    assert reader.ended_deliveries(db, nowhere, NOW + 39.9, 9) == []


# Idempotency keys.


def keyed(mail: Mail, key: str, account: str = "crm", body: bytes | None = b"body\r\n") -> Reception:
    return mail.reception(account=account, body=body, steering=Steering(key=key))


def test_the_second_with_a_key_is_not_kept_and_told_the_first(db: sqlite3.Connection) -> None:
    mail, store = Mail(), Store(db)
    first, second = keyed(mail, "k"), keyed(mail, "k")
    assert store.apply(batch(first)).twins == {}
    before = everything(db)
    assert store.apply(batch(second)).twins == {second.message.id: first.message.id}
    assert everything(db) == before


def test_of_two_with_a_key_in_one_batch_the_first_is_kept(db: sqlite3.Connection) -> None:
    mail = Mail()
    first, other, second = keyed(mail, "k"), mail.reception(), keyed(mail, "k")
    applied = Store(db).apply(batch(first, other, second))
    assert applied.twins == {second.message.id: first.message.id}
    assert [row[0] for row in db.execute("SELECT id FROM message ORDER BY id")] == [first.message.id, other.message.id]
    assert (tally(db), queues(db)) == ({"received": 2}, {X: (2, NOW)})
    assert db.execute("SELECT lines FROM outbox").fetchone()[0] == first.line + other.line


def test_the_key_stays_taken_when_the_message_has_left(db: sqlite3.Connection) -> None:
    mail, store = Mail(), Store(db)
    first, second = keyed(mail, "k"), keyed(mail, "k")
    store.apply(batch(first))
    store.apply(batch(mail.departure(first.deliveries[0])))
    assert store.apply(batch(second)).twins == {second.message.id: first.message.id}


def test_a_key_is_an_accounts_own(db: sqlite3.Connection) -> None:
    mail = Mail()
    receptions = [keyed(mail, "k"), keyed(mail, "k", "other"), keyed(mail, "K"), keyed(mail, "1"), keyed(mail, "01")]
    assert Store(db).apply(batch(*receptions)).twins == {}


def test_a_key_counts_for_a_day(db: sqlite3.Connection) -> None:
    store = Store(db)
    first, within, after, again = [keyed(Mail(NOW + more), "k") for more in (0, 86399.9, 86400, 86401)]
    store.apply(batch(first))
    assert store.apply(batch(within)).twins == {within.message.id: first.message.id}
    assert store.apply(batch(after)).twins == {}
    assert store.apply(batch(again)).twins == {again.message.id: after.message.id}


def test_a_batch_that_fails_takes_no_key(db: sqlite3.Connection) -> None:
    mail, store = Mail(), Store(db)
    first, second = keyed(mail, "k"), keyed(mail, "k")
    bad = batch(first)
    bad.jobs.append(lambda connection: connection.execute("SELECT nonsense"))
    with pytest.raises(sqlite3.OperationalError):
        store.apply(bad)
    assert store.apply(batch(second)).twins == {}


def test_the_body_file_of_one_that_is_not_kept_is_told(db: sqlite3.Connection) -> None:
    mail, store = Mail(), Store(db)
    first, inline, in_file = keyed(mail, "k", body=None), keyed(mail, "k"), keyed(mail, "k", body=None)
    assert store.apply(batch(first, inline, in_file)).gone == [in_file.message.id]


def test_old_keys_go_in_small_steps_as_new_ones_come(db: sqlite3.Connection) -> None:
    store, old = Store(db), Mail()
    store.apply(batch(*(keyed(old, f"old{n}") for n in range(100))))
    new = Mail(NOW + 86401)
    store.apply(batch(new.reception()))
    assert count(db, "idempotency") == 100
    store.apply(batch(keyed(new, "new1"), keyed(new, "new2")))
    assert count(db, "idempotency") == 100 - 4 + 2
    for n in range(60):
        store.apply(batch(keyed(new, f"more{n}")))
    assert [row[0] for row in db.execute("SELECT key FROM idempotency WHERE key GLOB 'old*'")] == []
    assert count(db, "idempotency") == 62


@pytest.mark.parametrize("statement", ["DELETE", "SELECT"])
def test_no_step_of_a_claim_reads_all_keys(db: sqlite3.Connection, statement: str) -> None:
    seen: list[str] = []
    db.set_trace_callback(seen.append)
    Store(db).apply(batch(keyed(Mail(), "k")))
    db.set_trace_callback(None)
    (made,) = [sql for sql in seen if sql.startswith(statement) and "idempotency" in sql]
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {made}")]
    assert not [line for line in plan if line.startswith("SCAN") and "json_each" not in line], plan


# The file.


def test_a_spool_of_the_first_format_is_brought_up_to_date_with_its_mail(tmp_path: Path) -> None:
    first_format(tmp_path / "s", "x.example")
    db = create(tmp_path / "s")
    (found,) = reader.due_deliveries(db, nowhere, X, NOW, 9, [])
    assert (found.id, found.message.account, found.message.steering) == (6, "crm", UNSTEERED)
    assert reader.old_deliveries(db, nowhere, "*/news/*", NOW, 9) == [found]
    assert reader.ended_deliveries(db, nowhere, NOW, 9) == []
    assert db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    db.close()
    create(tmp_path / "s").close()


def test_deliveries_are_found_by_id_with_their_queues(db: sqlite3.Connection) -> None:
    reception = Mail().reception("x.example", "y.example")
    Store(db).apply(batch(reception))
    assert reader.deliveries_by_id(db, nowhere, [d.id for d in reception.deliveries] + [5]) == list(
        reception.deliveries
    )


@given(st.lists(st.floats(1.7e9, 1.8e9), min_size=1, max_size=30), st.integers(1, 7))
def test_the_walk_meets_every_due_queue_once(dues: list[float], page: int) -> None:
    db = in_memory()
    rows = [(f"crm/news/{n}", 1, due) for n, due in enumerate(dues * 2)]
    db.executemany("INSERT INTO queue VALUES (?, ?, ?)", rows)
    walked: list[tuple[float, str]] = []
    while found := reader.due_queues(db, walked[-1] if walked else (-1.0, ""), 1.75e9, page):
        assert len(found) <= page
        walked += found
        assert len(walked) <= len(rows)
    assert walked == sorted((due, name) for name, _, due in rows if due <= 1.75e9)
    db.close()


def test_the_last_identity_is_a_deliverys(db: sqlite3.Connection) -> None:
    assert reader.last_identity(db) == 0
    reception = Mail().reception("x.example", "y.example")
    Store(db).apply(batch(reception))
    assert reader.last_identity(db) == reception.deliveries[1].id


def test_summaries_come_from_counters(db: sqlite3.Connection) -> None:
    Store(db).apply(batch(Mail().reception("x.example", "x.example", "y.example")))
    assert reader.queued_total(db) == 3
    assert reader.queue_summary(db, 1, "") == [(X, 2, NOW)]


def test_a_summary_can_be_an_accounts_only(db: sqlite3.Connection) -> None:
    names = [f"{account}/news/{domain}" for account in ("crm", "crm-1", "crm0", "cr", "crm.") for domain in "ab"]
    db.executemany("INSERT INTO queue VALUES (?, 1, ?)", [(name, NOW) for name in names])
    assert [row[0] for row in reader.queue_summary(db, 9, "crm")] == ["crm/news/a", "crm/news/b"]
    assert [row[0] for row in reader.queue_summary(db, 1, "crm-1")] == ["crm-1/news/a"]
    assert len(reader.queue_summary(db, 99, "")) == 10 and reader.queue_summary(db, 9, "c") == []


def test_a_reading_connection_cannot_write(tmp_path: Path) -> None:
    create(tmp_path / "s").close()
    with pytest.raises(sqlite3.OperationalError):
        connect(tmp_path / "s", readonly=True).execute("DELETE FROM queue")
