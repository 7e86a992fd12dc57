"""Leases in the spool: charged and refunded with the mail they are for, or not at all."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from relayd.identity import day_of
from relayd.lease import Charge, Lease
from relayd.spool import leases, reader
from relayd.spool.store import Batch, Departure, Meta, Reception, Store, create
from relayd.spool.writer import Writer
from tests.spool_kit import NOW, Mail, Main, first_format

X = "crm/news/x.example"


def nowhere(place: int, identity: int) -> tuple[bytes, bytes]:
    raise AssertionError("a store without a landing keeps contents in their rows")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = create(tmp_path / "spool.sqlite")
    yield connection
    connection.close()


def paid(mail: Mail, *domains: str, payer: str = "crm") -> Reception:
    made = mail.reception(*domains)
    return msgspec.structs.replace(made, charge=Charge(payer, len(made.deliveries)))


def apply(db: sqlite3.Connection, *receptions: Reception, departures: tuple[Departure, ...] = ()) -> None:
    batch = Batch()
    batch.receptions += receptions
    batch.departures += departures
    Store(db).apply(batch)


def settle(db: sqlite3.Connection, *rows: tuple[str, int, int]) -> dict[str, Lease]:
    with db:
        return leases.settle(list(rows))(db)


def tally(db: sqlite3.Connection) -> dict[str, int]:
    return dict(db.execute("SELECT term, sum(count) FROM tally GROUP BY 1"))


def test_a_reception_is_charged_to_its_payers_lease_and_counted(db):
    settle(db, ("crm", 100, 0), ("parent", 50, 0))
    mail = Mail()
    apply(db, paid(mail, "x.example", "y.example"), paid(mail), paid(mail, payer="parent"))
    assert leases.all_leases(db) == {"crm": Lease(100, 3), "parent": Lease(50, 1)}
    assert tally(db) == {"received": 4, "charged": 4}
    assert db.execute("SELECT count FROM tally WHERE account = 'parent'").fetchall() == [(1,)]


def test_a_reception_without_a_charge_touches_no_lease(db):
    statements: list[str] = []
    db.set_trace_callback(statements.append)
    apply(db, Mail().reception())
    assert not [statement for statement in statements if "lease" in statement]
    assert tally(db) == {"received": 1}


@pytest.mark.parametrize("granted", [0, 2])
def test_what_a_lease_has_not_left_is_not_received(db, granted):
    settle(db, ("crm", granted, 0))
    with pytest.raises(sqlite3.IntegrityError):
        apply(db, paid(Mail(), "x.example", "x.example", "x.example"))
    assert tally(db) == {} and db.execute("SELECT count(*) FROM message").fetchone() == (0,)


def test_one_overdrawn_reception_of_a_batch_fails_alone(db):
    settle(db, ("crm", 3, 0))
    main, mail, told = Main(), Mail(), {}
    writer = Writer(Store(db), main.post, main.faults.append, lambda ids: None)
    for name, domains in (("one", 1), ("two", 3), ("three", 2)):
        writer.submit(paid(mail, *["x.example"] * domains), lambda result, name=name: told.update({name: result}))
    writer.start()
    main.until(lambda: len(told) == 3)
    writer.stop()
    writer.join()
    assert (told["one"], told["three"]) == (None, None)
    assert isinstance(told["two"], sqlite3.IntegrityError)
    assert leases.all_leases(db) == {"crm": Lease(3, 3)} and tally(db) == {"received": 3, "charged": 3}


def test_a_refund_goes_back_with_the_departure_and_can_be_spent_in_the_same_batch(db):
    settle(db, ("crm", 1, 0))
    mail = Mail()
    first = paid(mail)
    apply(db, first)
    leaving = msgspec.structs.replace(mail.departure(first.deliveries[0], "Cancellation"), refund=Charge("crm", 1))
    apply(db, paid(mail), departures=(leaving,))
    assert leases.all_leases(db) == {"crm": Lease(1, 2, 1)}
    assert tally(db) == {"received": 2, "charged": 2, "cancelled": 1, "refunded": 1}


def test_a_refund_is_never_a_reason_to_keep_a_delivery(db):
    mail = Mail()
    reception = mail.reception()
    apply(db, reception)
    apply(db, departures=(msgspec.structs.replace(mail.departure(reception.deliveries[0]), refund=Charge("new", 1)),))
    assert leases.all_leases(db) == {"new": Lease(refunded=1)}


def test_settling_raises_what_was_granted_gives_back_and_is_the_same_twice(db):
    assert settle(db, ("crm", 100, 0), ("none", 0, 5)) == {"crm": Lease(100), "none": Lease()}
    apply(db, paid(Mail()))
    assert settle(db, ("crm", 50, 9)) == {"crm": Lease(100, 1, 0, 9)}
    assert settle(db, ("crm", 100, 0)) == {"crm": Lease(100, 1, 0, 9)}
    for _ in range(2):
        assert settle(db, ("crm", 100, leases.ALL)) == {"crm": Lease(100, 1, 0, 99)}
    assert settle(db) == {}


def test_names_that_look_like_numbers_or_json_are_names(db):
    settle(db, ("007", 5, 0), ("1e3", 5, 0))
    apply(db, paid(Mail(), payer="007"), paid(Mail(NOW + 1), payer="1e3"))
    assert settle(db, ("007", 0, 1), ("1e3", 0, 0)) == {"007": Lease(5, 1, 0, 1), "1e3": Lease(5, 1)}


def test_a_charge_finds_its_lease_by_its_key(db):
    sql = "UPDATE lease SET charged = charged + j.value->>1 FROM json_each(?) AS j WHERE account = j.value->>0"
    plan = " ".join(row[3] for row in db.execute("EXPLAIN QUERY PLAN " + sql, ("[]",)))
    assert "SEARCH lease USING PRIMARY KEY" in plan


def test_today_is_what_was_charged_less_refunded_for_mail_of_that_day(db):
    settle(db, ("crm", 100, 0))
    mail, tomorrow = Mail(), Mail(NOW + 86400)
    first = paid(mail, "x.example", "x.example", "x.example")
    apply(db, first, paid(tomorrow))
    gone = msgspec.structs.replace(mail.departure(first.deliveries[0]), refund=Charge("crm", 1))
    apply(db, departures=(gone,))
    day = day_of(first.message.id)
    assert leases.lease_today(db, "crm", day) == (Lease(100, 4, 1), 2)
    assert leases.lease_today(db, "crm", day + 1) == (Lease(100, 4, 1), 1)
    assert leases.lease_today(db, "other", day) == (Lease(), 0)


def test_who_paid_stays_with_the_message(db):
    mail = Mail()
    plain, made = mail.reception(), mail.reception()
    message = msgspec.structs.replace(made.message, payer="parent")
    deliveries = tuple(msgspec.structs.replace(d, message=message) for d in made.deliveries)
    apply(db, plain, Reception(message, deliveries, made.line, made.entries))
    found = reader.due_deliveries(db, nowhere, X, NOW, 9, [])
    assert [d.message.payer for d in found] == ["", "parent"]


def test_a_message_that_nobody_paid_for_is_stored_as_it_was_by_the_first_version():
    assert b"payer" not in msgspec.json.encode(Meta("crm", "c", "news", None, None))


def test_a_spool_of_the_first_version_gets_the_table_and_keeps_its_mail(tmp_path):
    path = tmp_path / "old.sqlite"
    first_format(path, "x.example", "y.example")
    for _ in range(2):  # the second time it is a spool of this version
        db = create(path)
        assert tally(db)["received"] == 2 and len(reader.due_deliveries(db, nowhere, X, NOW, 9, [])) == 1
        assert leases.all_leases(db).keys() <= {"crm"}
        settle(db, ("crm", 100, 0))
        db.close()


def test_an_upgrade_that_fails_leaves_the_version_before_it(tmp_path):
    path = tmp_path / "old.sqlite"
    first_format(path, "x.example")
    old = sqlite3.connect(path, isolation_level=None)
    old.execute("CREATE TABLE lease (in_the_way)")
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        create(path)
    assert old.execute("PRAGMA user_version").fetchone() == (2,)  # new mail lands in files; leases came after that
    assert len(reader.due_deliveries(old, nowhere, X, NOW, 9, [])) == 1
    old.close()
