import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.identity import lower_bound, show
from relayd.spool import segments as room
from relayd.spool.segments import Checkpoint, Mover, advance, blocks, checkpoint_of, read_records
from relayd.spool.store import Batch, Store, connect, create
from tests.spool_kit import NOW, Mail


class Records:
    """A store, and a mover whose jobs are done at once or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = path / "records"
        self.connection = create(path / "spool.sqlite")
        self.store = Store(self.connection)
        self.mail = Mail()
        self.lines: list[bytes] = []
        self.faults: list[str | None] = []
        self.crash = False
        self.restart()

    def restart(self, keep: float = 1e9) -> Mover:
        reading = connect(self.path / "spool.sqlite", readonly=True)
        self.mover = Mover(self.directory, reading, self.submit, self.faults.append, keep, 0.01)
        return self.mover

    def submit(self, job: Any, done: Any) -> None:
        if self.crash:
            raise OSError("killed")
        batch = Batch()
        batch.jobs.append(job)
        done(self.store.apply(batch).results[0])

    def add(self, count: int = 1) -> None:
        for _ in range(count):
            batch = Batch()
            batch.receptions += [self.mail.reception(), self.mail.reception()]
            self.lines += [r.line for r in batch.receptions]
            self.store.apply(batch)

    def files(self) -> list[Path]:
        return sorted(self.directory.iterdir())

    def tail(self, since: Checkpoint, limit: int = 1 << 20) -> tuple[list[bytes], Checkpoint]:
        found: list[bytes] = []
        while True:
            lines, since = read_records(self.connection, self.directory, since, limit)
            if not lines:
                return found, since
            found += lines

    def outbox(self) -> int:
        return int(self.connection.execute("SELECT count(*) FROM outbox").fetchone()[0])


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    made = Records(tmp_path)
    yield made
    made.connection.close()


def test_records_are_moved_once_with_their_totals(records: Records) -> None:
    records.add(3)
    assert records.mover.move() == sum(map(len, records.lines))
    assert records.mover.move() == 0
    assert records.outbox() == 0
    assert b"".join(f.read_bytes() for f in records.files()) == b"".join(records.lines)
    assert records.connection.execute("SELECT term, sum(count) FROM segment_total").fetchall() == [("received", 6)]


def test_a_copy_that_a_crash_interrupted_is_cut_and_made_once(records: Records) -> None:
    records.add(2)
    records.mover.move()
    records.add(2)
    records.crash = True
    with pytest.raises(OSError, match="killed"):
        records.mover.move()
    records.crash = False
    (file,) = records.files()
    assert file.read_bytes() == b"".join(records.lines)
    file.write_bytes(file.read_bytes() + b'{"kind":"Deliv')
    records.restart().move()
    assert file.read_bytes() == b"".join(records.lines)
    assert records.tail(Checkpoint())[0] == records.lines


def test_a_first_copy_that_a_crash_interrupted_is_made_once(records: Records) -> None:
    records.add()
    records.crash = True
    with pytest.raises(OSError, match="killed"):
        records.mover.move()
    records.crash = False
    records.restart().move()
    assert records.tail(Checkpoint())[0] == records.lines


def test_junk_behind_what_counts_is_never_shown_to_a_feed(records: Records) -> None:
    records.add()
    records.mover.move()
    with records.files()[0].open("ab") as file:
        file.write(b"junk\n")
    assert records.tail(Checkpoint())[0] == records.lines
    records.add()
    records.mover.move()
    assert records.tail(Checkpoint())[0] == records.lines


def test_a_segment_that_has_lost_records_is_told(records: Records) -> None:
    records.add()
    records.mover.move()
    records.files()[0].write_bytes(b"")
    with pytest.raises(OSError, match="shorter than"):
        records.restart().move()
    with pytest.raises(OSError, match="ends before"):
        records.tail(Checkpoint())


def test_a_feed_gets_every_line_once_across_seals_and_restarts(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "SEGMENT_BYTES", 700)
    got: list[bytes] = []
    at = Checkpoint()
    for n in range(12):
        records.add(n % 3 + 1)
        records.mover.move()
        if n % 2:
            lines, at = records.tail(at, limit=10 + 150 * (n % 4))
            got += lines
        if n % 4 == 0:
            records.restart()
    got += records.tail(at)[0]
    assert got == records.lines
    assert len(records.files()) > 3
    assert records.connection.execute("SELECT count(*) FROM segment WHERE sealed = 0").fetchone()[0] <= 1


def test_an_old_segment_is_sealed_though_it_is_small(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    records.add()
    records.mover.move()
    monkeypatch.setattr(room, "SEGMENT_SECONDS", -1)
    records.mover.move()
    assert records.connection.execute("SELECT count(*) FROM segment WHERE sealed > 0").fetchone()[0] == 1
    monkeypatch.undo()
    records.add()
    records.mover.move()
    assert len(records.files()) == 2
    assert records.tail(Checkpoint())[0] == records.lines


def test_a_segment_goes_only_when_sealed_old_and_read_by_every_feed(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "SEGMENT_BYTES", 1)
    records.restart(keep=-10)

    def step() -> int:
        records.add()
        records.mover.move()
        return len(records.files())

    advance("slow", Checkpoint("", 0))(records.connection)
    assert [step(), step(), step()] == [1, 2, 3]
    names = [f.name for f in records.files()]
    advance("slow", Checkpoint(names[1], 0))(records.connection)
    advance("quick", Checkpoint(names[2], 5))(records.connection)
    assert step() == 3
    assert names[0] not in {f.name for f in records.files()}
    records.restart(keep=1e6)
    advance("slow", Checkpoint(names[2], 5))(records.connection)
    assert step() == 4


def test_totals_outlive_the_files(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SEGMENT_BYTES", 1)
    records.restart(keep=-10)
    for _ in range(3):
        records.add()
        records.mover.move()
    assert records.files() == []
    assert records.connection.execute("SELECT sum(count) FROM segment_total").fetchone()[0] == 6


def test_a_file_that_a_crash_kept_from_being_removed_goes_at_the_next_start(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "SEGMENT_BYTES", 1)
    records.restart(keep=-10)
    records.add()
    records.mover.move()
    name = records.connection.execute("SELECT name FROM segment").fetchone()[0]
    (records.directory / name).write_bytes(b"left over")
    records.restart().move()
    assert records.files() == []


def test_checkpoints_are_kept_per_feed(records: Records) -> None:
    assert checkpoint_of(records.connection, "a") == Checkpoint()
    advance("a", Checkpoint("s", 5))(records.connection)
    advance("a", Checkpoint("s", 9))(records.connection)
    assert checkpoint_of(records.connection, "a") == Checkpoint("s", 9)
    assert checkpoint_of(records.connection, "b") == Checkpoint()


def test_the_mover_goes_on_after_a_fault_and_says_so(records: Records) -> None:
    came = threading.Event()
    records.mover._fault = lambda error: (records.faults.append(error), came.set())
    records.crash = True
    records.add()
    records.mover.start()
    assert came.wait(10)
    came.clear()
    records.crash = False
    assert came.wait(10)
    records.mover.stop()
    records.mover.join(10)
    assert records.faults[0] is not None
    assert records.faults[-1] is None
    assert records.tail(Checkpoint())[0] == records.lines


def test_the_mover_outlives_what_nobody_thought_of(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(connection: sqlite3.Connection) -> str:
        monkeypatch.undo()
        raise ValueError("unheard of")

    monkeypatch.setattr(room, "_new_name", odd)
    recovered = threading.Event()
    records.mover._fault = lambda error: (records.faults.append(error), error or recovered.set())
    records.add()
    records.mover.start()
    assert recovered.wait(10)
    records.mover.stop()
    records.mover.join(10)
    assert records.faults == ["records cannot be moved: unheard of", None]
    assert records.tail(Checkpoint())[0] == records.lines


def test_a_mover_told_to_stop_does_not_wait_for_a_writer_that_never_answers(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()
    monkeypatch.setattr(room, "wait", lambda futures, seconds: asked.wait(1))
    records.mover._submit = lambda job, done: asked.set()
    records.add()
    records.mover.start()
    assert asked.wait(10)
    records.mover.stop()
    records.mover.join(10)
    assert not records.mover.is_alive()


def test_a_job_that_fails_is_raised(records: Records) -> None:
    records.mover._submit = lambda job, done: done(sqlite3.OperationalError("locked"))
    records.add()
    with pytest.raises(sqlite3.OperationalError):
        records.mover.move()


def read_through(records: Records, connection: Any) -> list[bytes]:
    found = blocks(connection, records.directory, 0)
    return [line for block in found for line in block.splitlines(keepends=True)]


def test_a_record_that_is_copied_and_not_yet_counted_is_found_once(records: Records) -> None:
    records.add(1)
    records.mover.move()
    records.add(1)
    records.crash = True
    with pytest.raises(OSError):
        records.mover.move()  # it is in the segment's file now, and in the outbox
    assert read_through(records, records.connection) == records.lines


def test_all_records_are_read_through_in_blocks_and_only_those_of_the_time(records: Records) -> None:
    records.add(3)
    records.mover.move()
    records.add(2)
    reading = connect(records.path / "spool.sqlite", readonly=True)
    assert b"".join(blocks(reading, records.directory, 0)) == b"".join(records.lines)
    assert b"".join(blocks(reading, records.directory, 9e9)) == b"".join(records.lines)  # the last one may be of then
    reading.close()


def test_a_record_that_is_moved_while_it_is_looked_for_is_found(records: Records, monkeypatch: Any) -> None:
    records.add(1)
    records.mover.move()
    records.add(1)
    reading = connect(records.path / "spool.sqlite", readonly=True)
    usual = open

    def moved(*args: Any, **named: Any) -> Any:
        monkeypatch.setattr(room, "open", usual, raising=False)
        records.mover.move()
        return usual(*args, **named)

    monkeypatch.setattr(room, "open", moved, raising=False)
    assert read_through(records, reading) == records.lines
    reading.close()


def test_the_reception_of_a_delivery_is_found_in_segments_and_outbox(records: Records) -> None:
    made = []
    for step in range(40):
        records.mail.now = NOW + 7 * step
        for _ in range(20):
            one = records.mail.reception(*["x.example"] * (1 + step % 3))
            batch = Batch()
            batch.receptions.append(one)
            records.store.apply(batch)
            made.append(one)
        if step < 39:
            records.mover.move()
    for one in made:
        for delivery in one.deliveries:
            found = room.reception(records.connection, records.directory, delivery.id)
            assert found is not None and found.message == show(one.message.id)
    assert room.reception(records.connection, records.directory, made[0].message.id) is None
    assert room.reception(records.connection, records.directory, made[-1].deliveries[-1].id + 1) is None
    assert room.reception(records.connection, records.directory, lower_bound(NOW + 3)) is None


def test_looking_for_one_reception_reads_little_of_a_large_segment(records: Records, monkeypatch) -> None:
    made = []
    for step in range(300):
        records.mail.now = NOW + 30 * step
        batch = Batch()
        batch.receptions += [records.mail.reception() for _ in range(50)]
        records.store.apply(batch)
        made.append(batch.receptions[7])
    records.mover.move()
    size = records.files()[0].stat().st_size
    monkeypatch.setattr(room, "_LOOK", 4096)
    read = 0

    def counted(lines: bytes) -> float | None:
        nonlocal read
        read += len(lines)
        return time(lines)

    time = room._time
    monkeypatch.setattr(room, "_time", counted)
    found = room.reception(records.connection, records.directory, made[200].deliveries[0].id)
    assert found is not None and found.message == show(made[200].message.id)
    assert read < size / 20
