import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from relayd.envelope import Delivery, Recipient, Steering
from relayd.spool import selection
from relayd.spool.selection import BUCKETS, Cursor, Filter, Found
from relayd.spool.store import NEVER, Batch, Reception, Requeue, Store, create
from tests.spool_kit import NOW, Mail

FAR = 1 << 62


class Shelf:
    def __init__(self, path: Path) -> None:
        self.db = create(path / "spool.sqlite")
        self.store = Store(self.db)
        self.mail = Mail()

    def put(self, *domains: str, to: str = "", sender: str = "", **more: object) -> list[int]:
        """Receives a message; gives its deliveries' ids."""
        made = self.mail.reception(*domains, **more)  # type: ignore[arg-type]
        message, deliveries = made.message, made.deliveries
        if sender:
            message = structs.replace(message, envelope=structs.replace(message.envelope, sender=sender))
        if to:
            deliveries = tuple(Delivery(d.id, message, Recipient(to), d.queue, d.due) for d in deliveries)
        batch = Batch()
        batch.receptions.append(Reception(message, deliveries, made.line, made.entries))
        self.store.apply(batch)
        return [d.id for d in deliveries]

    def tried(self, identity: int, attempts: int, last: str) -> None:
        self.db.execute("UPDATE delivery SET attempts = ?, last = ? WHERE id = ?", (attempts, last, identity))

    def found(self, wanted: Filter, limit: int = 3, full: bool = False) -> list[Found]:
        """All that is meant, walked in small pages, queue by queue."""
        if wanted.ids:
            return selection.by_ids(self.db, wanted, wanted.ids, FAR, full=full).found
        found: list[Found] = []
        after = ""
        while names := selection.names(self.db, wanted, after, 2):
            for name, _ in names:
                at: Cursor | None = Cursor(name, whole=False)
                while at is not None:
                    page = selection.within(self.db, wanted, at, FAR, limit, full=full)
                    assert page.seen <= limit
                    found += page.found
                    at = page.next
            after = names[-1][0]
        return found

    def meant(self, **said: object) -> list[int]:
        wanted = Filter(**said)  # type: ignore[arg-type]
        found = self.found(wanted)
        if not wanted.ids:
            queues = [name for name, _ in selection.names(self.db, wanted, "", 1000)]
            whole = selection.of_queues(self.db, wanted, queues, FAR).found
            assert sorted(row.id for row in whole) == sorted(row.id for row in found)
        assert len({row.id for row in found}) == len(found)
        return sorted(row.id for row in found)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    yield made
    made.db.close()


def test_each_word_narrows_by_what_it_says(shelf: Shelf) -> None:
    (a,) = shelf.put("x.example", to="Ann@x.example", sender="one@crm.example")
    (b,) = shelf.put("y.example", stream="urgent", to="bob@y.example", sender="two@shop.example")
    steered = Steering(track_id="t1", tags=("autumn", "sale"))
    (c,) = shelf.put("x.example", account="lax", to="cid@sub.x.example", steering=steered)
    shelf.tried(b, 4, "rcpt: 451 4.7.1 Greylisted, try later")
    everything = sorted([a, b, c])
    assert shelf.meant() == everything
    assert shelf.meant(account="crm") == [a, b]
    assert shelf.meant(account="cr") == []
    assert shelf.meant(stream="news") == [a, c]
    assert shelf.meant(account="crm", stream="urgent") == [b]
    assert shelf.meant(domain="x.example") == [a, c]
    assert shelf.meant(domain="example") == []
    assert shelf.meant(recipient="ann@x.example") == [a]
    assert shelf.meant(recipient="*@x.example") == [a]
    assert shelf.meant(sender="*@SHOP.example") == [b]
    assert shelf.meant(sender="one@crm.example") == [a]
    assert shelf.meant(track_id="t1") == shelf.meant(tag="sale") == [c]
    assert shelf.meant(tag="sal") == []
    assert shelf.meant(attempts=4) == shelf.meant(reply="greylisted") == [b]
    assert shelf.meant(reply="%") == []
    assert shelf.meant(account="crm", reply="greylisted", attempts=5) == []


def test_names_that_hold_signs_of_patterns_mean_only_themselves(shelf: Shelf) -> None:
    (a,) = shelf.put("x.example", account="a_b", stream="n.1")
    shelf.put("x.example", account="aXb", stream="nX1")
    assert shelf.meant(account="a_b") == shelf.meant(stream="n.1") == [a]


def test_the_time_of_reception_narrows(shelf: Shelf) -> None:
    (old,) = shelf.put()
    shelf.mail.now = NOW + 3600
    (new,) = shelf.put()
    assert shelf.meant(older=NOW + 60) == [old]
    assert shelf.meant(younger=NOW + 60) == [new]


def test_ids_are_of_deliveries_or_of_whole_messages(shelf: Shelf) -> None:
    first, second = shelf.put("x.example", "y.example")
    (other,) = shelf.put()
    assert shelf.meant(ids=(first,)) == [first]
    assert shelf.meant(ids=(first - 1,)) == [first, second]
    assert shelf.meant(ids=(second, other, 5)) == [second, other]
    assert shelf.meant(ids=(first - 1,), domain="y.example") == [second]
    assert shelf.meant(ids=(first - 1,), account="lax") == []


def test_a_domain_is_found_where_it_was_moved_to(shelf: Shelf) -> None:
    moved, fallen, other = shelf.put("x.example", "x.example", "z.example")
    for identity, queue in ((moved, "crm/news/pool:spare:x.example"), (fallen, "crm/news/fallback:big")):
        shelf.db.execute("UPDATE delivery SET queue = ? WHERE id = ?", (queue, identity))
        shelf.db.execute("INSERT INTO queue VALUES (?, 1, 0)", (queue,))
    assert shelf.meant(domain="x.example") == [moved]
    assert shelf.meant(domain="fallback:big") == [fallen]
    assert shelf.meant(recipient="*@x.example") == [moved, fallen]
    assert shelf.meant(recipient="*@z.example") == [other]


def test_what_is_held_and_what_waits_are_told_apart_and_walked_by_id(shelf: Shelf) -> None:
    ids = [shelf.put()[0] for _ in range(20)]
    held = ids[::2]
    for identity in held:
        shelf.db.execute("UPDATE delivery SET held = 7, due = ? WHERE id = ?", (NEVER, identity))
    assert shelf.meant(state="held") == held
    assert shelf.meant(state="waiting") == ids[1::2]
    assert shelf.meant() == ids
    assert [row.held for row in shelf.found(Filter(state="held"))] == [7] * 10


def test_nothing_that_came_later_is_meant(shelf: Shelf) -> None:
    (early,), _ = shelf.put(), shelf.put()
    page = selection.within(shelf.db, Filter(), Cursor("crm/news/x.example", whole=False), early, 10)
    assert [row.id for row in page.found] == [early]


def test_a_walk_meets_what_is_put_back_behind_it_and_misses_none(shelf: Shelf) -> None:
    ids = [shelf.put(due=NOW + n)[0] for n in range(9)]
    page = selection.within(shelf.db, Filter(), Cursor("crm/news/x.example", whole=False), FAR, 4)
    assert [row.id for row in page.found] == ids[:4]
    shelf.db.execute("UPDATE delivery SET due = ? WHERE id = ?", (NOW + 100, ids[6]))
    left: list[int] = []
    while page.next is not None:
        page = selection.within(shelf.db, Filter(), page.next, FAR, 4)
        left += [row.id for row in page.found]
    assert sorted(left) == ids[4:]


def test_the_whole_message_comes_with_what_is_asked_for_in_full(shelf: Shelf) -> None:
    shelf.put(sender="one@crm.example", steering=Steering(track_id="t1"))
    (row,) = shelf.found(Filter(), full=True)
    message = selection.message_of(row)
    assert (message.account, message.envelope.sender, message.steering.track_id) == ("crm", "one@crm.example", "t1")
    assert (message.head, message.body) == (b"", None)


def test_the_total_is_that_of_the_counters(shelf: Shelf) -> None:
    shelf.put("x.example", "y.example")
    shelf.put("x.example", account="lax")
    assert selection.total(shelf.db, Filter()) == 3
    assert selection.total(shelf.db, Filter(account="crm", reply="whatever")) == 2
    assert selection.total(shelf.db, Filter(ids=(1, 2))) == 2


@pytest.mark.parametrize(("seconds", "bucket"), [(0, 0), (240, 0), (400, 1), (5000, 5), (10 * 86400, len(BUCKETS))])
def test_ages_are_counted_by_the_time_of_reception(shelf: Shelf, seconds: float, bucket: int) -> None:
    shelf.mail.now = NOW - seconds
    shelf.put("x.example", "x.example")
    ((name, held, counts),) = selection.ages(shelf.db, NOW)
    assert (name, held, sum(counts), counts[bucket]) == ("crm/news/x.example", 0, 2, 2)


def test_ages_follow_every_change_of_the_queue_and_empty_rows_go(shelf: Shelf) -> None:
    made = shelf.mail.reception("x.example", "y.example")
    batch = Batch()
    batch.receptions.append(made)
    shelf.store.apply(batch)
    first, second = made.deliveries
    shelf.db.execute("UPDATE delivery SET held = 3 WHERE id = ?", (first.id,))
    assert {name: (held, sum(counts)) for name, held, counts in selection.ages(shelf.db, NOW)} == {
        "crm/news/x.example": (1, 1),
        "crm/news/y.example": (0, 1),
    }
    batch = Batch()
    batch.departures.append(shelf.mail.departure(first))
    moved: Requeue = structs.replace(shelf.mail.requeue(second, NOW + 9), queue="crm/news/fallback:big")
    batch.requeues.append(moved)
    shelf.store.apply(batch)
    assert [(name, sum(counts)) for name, _, counts in selection.ages(shelf.db, NOW)] == [("crm/news/fallback:big", 1)]
    assert shelf.db.execute("SELECT count(*) FROM aged").fetchone() == (1,)


def test_no_page_looks_at_the_whole_queue(shelf: Shelf) -> None:
    """100,000 that are held have the same due time: the last page is as quick as the first."""
    shelf.put()
    (message,) = shelf.db.execute("SELECT id FROM message").fetchone()
    shelf.db.execute(
        "WITH RECURSIVE n(i) AS (VALUES (2) UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO delivery "
        "(id, message, queue, due, recipient, held) SELECT ?1 + i, ?1, 'crm/news/x.example', 9e15, '{}', 1 FROM n",
        (message,),
    )
    steps: list[int] = []

    def cost(at: Cursor) -> int:
        steps.clear()
        shelf.db.set_progress_handler(lambda: steps.append(1) or 0, 100)
        assert selection.within(shelf.db, Filter(state="held", reply="no"), at, FAR, 100).seen == 100
        shelf.db.set_progress_handler(None, 0)
        return len(steps)

    first = cost(Cursor("crm/news/x.example", NEVER, message + 1, whole=False))
    last = cost(Cursor("crm/news/x.example", NEVER, message + 19_800, whole=False))
    assert last <= first * 1.2


def test_an_old_spool_learns_the_ages_of_what_it_has(tmp_path: Path) -> None:
    from tests.spool_kit import first_format

    first_format(tmp_path / "spool.sqlite", "x.example", "y.example")
    db: sqlite3.Connection = create(tmp_path / "spool.sqlite")
    assert db.execute("SELECT queue, count, held FROM aged").fetchall() == [
        ("crm/news/x.example", 1, 0),
        ("crm/news/y.example", 1, 0),
    ]
    db.close()
