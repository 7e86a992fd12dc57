"""Steps of jobs on the spool itself: what they change, what they leave, and that the books balance whatever comes."""

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relayd.envelope import Delivery
from relayd.lease import Charge
from relayd.records import decode
from relayd.spool import actions, leases, selection
from relayd.spool.actions import Draft, Job, Step
from relayd.spool.ledger import audit
from relayd.spool.selection import Cursor, Filter, Found
from relayd.spool.store import NEVER, Batch, Reception, Store, connect, create
from tests.spool_kit import NOW, Mail

FAR = 1 << 62
X = "crm/news/x.example"


class Bench:
    """A spool with its one writer, and jobs on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mail = Mail()
        self.open()

    def open(self) -> None:
        self.db = create(self.path / "spool.sqlite")
        self.reading = connect(self.path / "spool.sqlite", readonly=True)
        self.store = Store(self.db)

    def close(self) -> None:
        self.db.close()
        self.reading.close()

    def do(self, change: Any) -> Any:
        batch = Batch()
        batch.jobs.append(change)
        return self.store.apply(batch).results[0]

    def put(self, *domains: str, **more: Any) -> tuple[Delivery, ...]:
        made = self.mail.reception(*domains, **more)
        batch = Batch()
        batch.receptions.append(made)
        self.store.apply(batch)
        return made.deliveries

    def begin(self, action: str, **more: Any) -> Job:
        draft = Draft(action, "anna", "because", **more)  # type: ignore[arg-type]
        made: Job = self.do(actions.begin(draft, 0, self.mail.now))
        return made

    def end(self, job: Job, keep: float = 86400.0) -> None:
        assert self.do(actions.end(job.id, "done", self.mail.now, keep))

    def rows(self, wanted: Filter = Filter(), *, full: bool = False) -> list[Found]:  # noqa: B008
        names = [name for name, _ in selection.names(self.reading, wanted, "", 10_000)]
        return selection.of_queues(self.reading, wanted, names, FAR, full=full).found

    def step(self, job: Job, rows: list[Found]) -> Any:
        at, now = Step(len(rows), 0, 0, Cursor("z")), self.mail.now
        return {
            "hold": lambda: actions.hold(job, rows, at),
            "retry": lambda: actions.retry(job, rows, at, now),
            "release": lambda: actions.release(job, rows, at, now),
            "move": lambda: actions.move(job, rows, [(r.id, f"crm/news/pool:p:{_domain(r)}") for r in rows], at),
            "cancel": lambda: actions.cancel(job, rows, [], at, now),
        }[job.action]()

    def run(self, action: str, rows: list[Found]) -> tuple[Job, int]:
        job = self.begin(action)
        done: int = self.do(self.step(job, rows))
        self.end(job)
        return job, done

    def undo(self, job: Job) -> int:
        undoing = self.begin("undo", undoes=job.id)
        done, after = 0, -1
        question = selection.cancelled_by if job.action == "cancel" else selection.changed_by
        while found := question(self.reading, job.id, after, 3).found:
            after = found[-1].id
            at = Step(len(found), 0, 0, Cursor(id=after))
            if job.action == "cancel":
                done += self.do(actions.restore(undoing, found, at, self.mail.now))
            else:
                done += self.do(actions.put_back(undoing, found, at))
        self.end(undoing)
        return done

    def state(self) -> list[tuple[Any, ...]]:
        return self.db.execute(
            "SELECT id, queue, round(due, 3), attempts, held, source FROM delivery ORDER BY id"
        ).fetchall()

    def queues(self) -> dict[str, tuple[int, float]]:
        return {n: (c, d) for n, c, d in self.db.execute("SELECT name, count, next_due FROM queue WHERE count > 0")}

    def tally(self) -> dict[str, int]:
        return {term: n for term, n in self.db.execute("SELECT term, sum(count) FROM tally GROUP BY 1") if n}

    def records(self) -> list[Any]:
        return [decode(line) for (lines,) in self.db.execute("SELECT lines FROM outbox") for line in lines.splitlines()]

    def faults(self) -> list[str]:
        return audit(self.reading, self.path / "records").faults


def _domain(row: Found) -> str:
    return row.recipient.rpartition("@")[2]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_what_is_held_is_not_due_and_is_released_for_now_and_each_can_be_undone(bench: Bench) -> None:
    bench.put("x.example", "y.example", due=NOW + 300)
    before = bench.state()
    hold, done = bench.run("hold", bench.rows())
    assert done == 2
    assert [(row[2], row[4]) for row in bench.state()] == [(NEVER, hold.id)] * 2
    held = bench.state()
    bench.mail.now = NOW + 100
    release, done = bench.run("release", bench.rows(Filter(state="held")))
    assert done == 2
    assert [(row[2], row[4]) for row in bench.state()] == [(NOW + 300, None)] * 2  # not before its sender wants it
    assert bench.undo(release) == 2
    assert bench.state() == held
    assert bench.undo(hold) == 0  # something has happened since
    again, _ = bench.run("release", bench.rows())
    bench.run("hold", bench.rows())
    assert bench.undo(again) == 0
    assert bench.faults() == []
    assert before != bench.state()


def test_a_hold_undone_is_due_when_it_was(bench: Bench) -> None:
    bench.put("x.example", due=NOW + 300.25)
    before = bench.state()
    hold, _ = bench.run("hold", bench.rows())
    assert bench.undo(hold) == 1
    assert bench.state() == before
    assert bench.queues() == {X: (1, NOW + 300.25)}


def test_a_retry_is_due_now_and_undone_it_is_due_when_it_was(bench: Bench) -> None:
    bench.put("x.example", due=NOW + 300)
    retry, done = bench.run("retry", bench.rows())
    assert (done, bench.queues()) == (1, {X: (1, NOW)})
    assert bench.undo(retry) == 1
    assert [row[2] for row in bench.state()] == [NOW + 300]


def test_what_was_tried_since_is_not_undone(bench: Bench) -> None:
    (tried, left) = bench.put("x.example", "x.example", due=NOW + 300)
    retry, _ = bench.run("retry", bench.rows())
    batch = Batch()
    batch.requeues.append(bench.mail.requeue(tried, NOW + 900))
    bench.store.apply(batch)
    assert bench.undo(retry) == 1
    assert [(row[0], row[2]) for row in bench.state()] == [(tried.id, NOW + 900), (left.id, NOW + 300)]


def test_a_move_changes_queues_and_counters_and_can_be_undone(bench: Bench) -> None:
    bench.put("x.example", "x.example", "y.example")
    bench.db.execute("UPDATE delivery SET source = 's1'")
    before = bench.state()
    job, done = bench.run("move", bench.rows(Filter(domain="x.example")))
    assert (done, bench.queues()) == (
        2,
        {"crm/news/pool:p:x.example": (2, NOW), "crm/news/y.example": (1, NOW)},
    )
    assert [row[5] for row in bench.state()] == ["", "", "s1"]
    assert bench.faults() == []
    assert bench.undo(job) == 2
    assert bench.state() == before
    assert bench.faults() == []


def test_a_cancel_has_a_record_each_and_leaves_the_content_until_it_is_dropped(bench: Bench) -> None:
    first, second = bench.put("x.example", "y.example", body=None)
    job, done = bench.run("cancel", bench.rows(Filter(domain="x.example"), full=True))
    assert done == 1
    record = bench.records()[-1]
    assert (record.kind, record.recipient, record.evidence.error) == (
        "Cancellation",
        "r1@x.example",
        "cancelled by anna: because",
    )
    assert bench.tally() == {"received": 2, "cancelled": 1}
    assert bench.faults() == []
    batch = Batch()
    batch.departures.append(bench.mail.departure(second))
    assert bench.store.apply(batch).gone == []  # the other may come back
    assert actions.expired(bench.reading, bench.mail.now, 10) == []
    bench.mail.now += 86401
    ((dropped, meta),) = actions.expired(bench.reading, bench.mail.now, 10)
    assert (dropped.id, meta.account) == (first.id, "crm")
    assert bench.do(actions.drop([dropped], [])) == [first.message.id]
    assert bench.do(actions.drop([dropped], [])) == []
    assert bench.db.execute("SELECT count(*) FROM message").fetchone() == (0,)
    assert (bench.undo(job), bench.faults()) == (0, [])


def test_a_cancel_undone_is_as_it_was_and_each_delivery_ends_in_one_place(bench: Bench) -> None:
    bench.put("x.example", "y.example", due=NOW + 77)
    bench.run("hold", bench.rows(Filter(domain="y.example")))
    before = bench.state()
    job, _ = bench.run("cancel", bench.rows(full=True))
    assert (bench.state(), bench.queues()) == ([], {})
    assert bench.undo(job) == 2
    assert bench.state() == before
    assert bench.tally() == {"received": 2}
    assert [r.kind for r in bench.records()][-2:] == ["Restoration"] * 2
    assert bench.faults() == []
    assert bench.undo(job) == 0


def test_an_odd_one_is_named_even_where_others_were_cancelled_and_restored(bench: Bench) -> None:
    kept, lost = bench.put("x.example", "x.example")
    job, _ = bench.run("cancel", bench.rows(full=True))
    bench.undo(job)
    bench.db.execute("DELETE FROM delivery WHERE id = ?", (lost.id,))
    faults = "\n".join(bench.faults())
    assert f"{lost.id:016x} is nowhere" in faults
    assert f"{kept.id:016x}" not in faults


def test_what_changed_after_it_was_read_is_left_alone(bench: Bench) -> None:
    gone, tried, same = bench.put("x.example", "x.example", "x.example")
    rows = bench.rows(full=True)
    batch = Batch()
    batch.departures.append(bench.mail.departure(gone))
    batch.requeues.append(bench.mail.requeue(tried, NOW + 60))
    bench.store.apply(batch)
    _, done = bench.run("cancel", rows)
    assert done == 1
    assert [row[0] for row in bench.state()] == [tried.id]
    assert bench.db.execute("SELECT id FROM recycled").fetchall() == [(same.id,)]
    assert bench.faults() == []


def test_a_step_that_fails_changes_nothing(bench: Bench) -> None:
    bench.put("x.example", "y.example")
    job = bench.begin("cancel")
    before = list(bench.db.iterdump())
    change = bench.step(job, bench.rows(full=True))

    def broken(connection: sqlite3.Connection) -> None:
        change(connection)
        raise sqlite3.IntegrityError("the power is gone")

    with pytest.raises(sqlite3.IntegrityError):
        bench.do(broken)
    assert list(bench.db.iterdump()) == before


def test_an_ended_job_changes_nothing_more(bench: Bench) -> None:
    bench.put("x.example")
    job = bench.begin("hold")
    change = bench.step(job, bench.rows())
    assert bench.do(actions.end(job.id, "stopped", NOW, 60.0)).state == "stopped"
    assert bench.do(change) == -1
    assert bench.do(actions.end(job.id, "done", NOW, 60.0)) is None
    assert [row[4] for row in bench.state()] == [None]


def test_a_job_knows_how_far_it_is_and_nothing_of_what_came_later(bench: Bench) -> None:
    (early,) = bench.put("x.example")
    job = bench.begin("hold", filter=Filter(account="crm"))
    bench.put("x.example")
    assert job.most == early.id
    bench.do(actions.hold(job, bench.rows()[:1], Step(5, 1, 2, Cursor("q", 1.5, 7, whole=False))))
    (found,) = actions.unfinished(bench.reading)
    assert (found.seen, found.done, found.due, found.busy, found.at) == (5, 1, 1, 2, Cursor("q", 1.5, 7, whole=False))
    assert (found.filter, found.who, found.reason) == (Filter(account="crm"), "anna", "because")
    bench.end(job)
    assert [j.state for j in actions.unfinished(bench.reading)] == ["done"]
    bench.do(actions.noted(job.id))
    assert actions.unfinished(bench.reading) == []
    assert actions.job(bench.reading, 99) is None
    assert [j.id for j in actions.jobs(bench.reading, 10)] == [job.id]


def test_who_holds_a_delivery_is_known(bench: Bench) -> None:
    held, free = bench.put("x.example", "y.example")
    job, _ = bench.run("hold", bench.rows(Filter(domain="x.example")))
    assert actions.holders(bench.reading, [held.id, free.id]) == {held.id: (job.id, "anna", "because")}


def test_a_payer_gets_his_unit_back_when_it_cannot_be_undone_any_more(bench: Bench) -> None:
    bench.do(leases.settle([("crm", 10, 0)]))
    made = bench.mail.reception("x.example")
    message = msgspec.structs.replace(made.message, payer="crm")
    deliveries = tuple(msgspec.structs.replace(d, message=message) for d in made.deliveries)
    batch = Batch()
    batch.receptions.append(Reception(message, deliveries, made.line, made.entries, Charge("crm", 1)))
    bench.store.apply(batch)
    job, _ = bench.run("cancel", bench.rows(full=True))
    assert bench.undo(job) == 1
    bench.run("cancel", bench.rows(full=True))
    bench.mail.now += 86401
    ((dropped, meta),) = actions.expired(bench.reading, bench.mail.now, 10)
    refund = (dropped.id, meta.stream, Charge(meta.payer, 1))
    bench.do(actions.drop([dropped], [refund]))
    bench.do(actions.drop([dropped], [refund]))
    assert leases.all_leases(bench.reading)["crm"].refunded == 1
    assert bench.faults() == []


def test_what_is_being_undone_is_not_dropped(bench: Bench) -> None:
    bench.put("x.example")
    job, _ = bench.run("cancel", bench.rows(full=True))
    bench.mail.now += 86401
    found = [one for one, _ in actions.expired(bench.reading, bench.mail.now, 10)]
    bench.begin("undo", undoes=job.id)
    assert actions.expired(bench.reading, bench.mail.now, 10) == []
    bench.do(actions.drop(found, []))
    assert bench.db.execute("SELECT count(*) FROM recycled").fetchone() == (1,)


def test_jobs_of_long_ago_are_forgotten_but_not_those_that_hold_something(bench: Bench) -> None:
    bench.put("x.example", "y.example")
    holding, _ = bench.run("hold", bench.rows(Filter(domain="x.example")))
    other, _ = bench.run("retry", bench.rows(Filter(domain="y.example")))
    for job in (holding, other):
        bench.do(actions.noted(job.id))
    bench.mail.now += 86401
    bench.db.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'job'", (other.id + actions.KEPT,))
    bench.begin("retry")
    known = {job.id for job in actions.jobs(bench.reading, 10)}
    assert holding.id in known
    assert other.id not in known


@pytest.mark.parametrize("seed", range(12))
def test_the_books_balance_whatever_comes_between(bench: Bench, seed: int) -> None:
    """Receptions, outcomes, steps of all kinds on what was read before, undoings, drops, faults and restarts."""
    rng = random.Random(seed)
    queued: dict[int, Delivery] = {}
    read: list[Found] = []
    ended: list[Job] = []
    for _ in range(150):
        bench.mail.now += rng.choice([0, 1, 500, 40_000])
        what = rng.randrange(8)
        if what <= 1:
            for delivery in bench.put(*rng.choices(["x.example", "y.example", "z.example"], k=rng.randrange(1, 4))):
                queued[delivery.id] = delivery
        elif what == 2:
            batch = Batch()
            for row in rng.sample(bench.rows(), min(2, len(bench.rows()))):
                delivery = msgspec.structs.replace(queued[row.id], queue=row.queue, attempts=row.attempts)
                if rng.random() < 0.5 and row.held is None:
                    batch.departures.append(bench.mail.departure(delivery, rng.choice(["Delivery", "Bounce"])))
                elif row.held is None:
                    batch.requeues.append(bench.mail.requeue(delivery, bench.mail.now + rng.randrange(900)))
            bench.store.apply(batch)
        elif what == 3:
            read = bench.rows(full=True)
        elif what <= 5:
            action = rng.choice(["hold", "retry", "release", "move", "cancel"])
            rows = [
                row for row in read if (row.held is not None) == (action == "release") or action in ("move", "cancel")
            ]
            job = bench.begin(action)
            change = bench.step(job, rng.sample(rows, rng.randrange(len(rows) + 1)))
            if rng.random() < 0.2:
                with pytest.raises(ZeroDivisionError):
                    bench.do(lambda connection, change=change: change(connection) / 0 or 1 / 0)
            bench.do(change)
            bench.end(job)
            ended.append(job)
        elif what == 6 and ended:
            bench.undo(ended.pop(rng.randrange(len(ended))))
        else:
            found = [one for one, _ in actions.expired(bench.reading, bench.mail.now, 3)]
            bench.do(actions.drop(found, []))
            if rng.random() < 0.3:
                bench.close()
                bench.open()
        assert bench.faults() == []
    terms = bench.tally()
    left = terms.get("delivered", 0) + terms.get("bounced", 0) + terms.get("cancelled", 0)
    assert terms["received"] == left + len(bench.rows())
