import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from relayd.envelope import Delivery, Edits, Returns, Steering
from relayd.identity import received_at, show
from relayd.records import decode
from relayd.spool import NEVER, Audit, Checkpoint, Spool, SpoolError, landing, writer
from tests.spool_kit import NOW, Mail, Main

X = "crm/news/x.example"
ROOT = Path(__file__).parent.parent

OPEN = """
import sys
from pathlib import Path
from relayd.spool import Spool, SpoolError
try:
    Spool(Path(sys.argv[1]), print, print)
except SpoolError as error:
    print(error)
"""

LOAD = """
import sys
from pathlib import Path
from relayd.spool import Spool
from tests.spool_kit import Mail, Main
main, mail = Main(), Mail()
spool = Spool(Path(sys.argv[1]), main.post, print)
waiting = set()
def told(reception, result):
    assert result is None
    waiting.discard(reception.message.id)
    print("kept", reception.message.id, flush=True)
    if reception.message.id // 2 % 2:
        spool.depart(mail.departure(reception.deliveries[0]), lambda _: print("left", reception.message.id, flush=True))
while True:
    while len(waiting) < 40:
        reception = mail.reception("x.example")
        waiting.add(reception.message.id)
        spool.receive(reception, lambda result, r=reception: told(r, result))
    before = len(waiting)
    main.until(lambda: len(waiting) < before)
"""


KEYED = """
import sys
from pathlib import Path
from relayd.envelope import Steering
from relayd.spool import Spool
from tests.spool_kit import Mail, Main
main, mail = Main(), Mail()
spool = Spool(Path(sys.argv[1]), main.post, print)
told, n = 0, 0
def answered(key, reception, first):
    global told
    told += 1
    print(key, first or reception.message.id, flush=True)
while True:
    while n < told + 40:
        key = str(n // 2)  # each comes twice, mostly in one batch
        reception = mail.reception("x.example", steering=Steering(key=key))
        spool.receive(reception, lambda first, k=key, r=reception: answered(k, r, first))
        n += 1
    before = told
    main.until(lambda: told > before)
"""


class House:
    def __init__(self, directory: Path) -> None:
        self.directory = directory / "spool"
        self.main = Main()
        self.mail = Mail()
        self.open()

    def open(self) -> None:
        self.spool = Spool(self.directory, self.main.post, self.main.faults.append)

    def stop(self) -> None:
        self.move()
        self.spool.stop()
        self.main.drain()

    def move(self) -> None:
        """Has the mover move everything, and end."""
        self.spool.mover.stop()
        while self.spool.mover.is_alive():
            self.main.drain()
            self.spool.mover.join(0.01)

    def receive(self, *domains: str, due: float | None = None) -> tuple[Delivery, ...]:
        reception = self.mail.reception(*domains, due=due)
        assert self.main.answer(self.spool.receive, reception) is None
        return reception.deliveries

    def due(self, queue: str = X) -> list[Delivery]:
        return self.main.answer(self.spool.due_deliveries, queue, NOW + 10, 10_000, [])

    def audit(self) -> Audit:
        return self.main.answer(self.spool.audit)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.stop()


def run(script: str, directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_what_was_received_comes_back_after_a_restart(house: House) -> None:
    made = house.receive("x.example", "y.example")
    house.stop()
    house.open()
    assert house.due() == [made[0]]
    assert house.spool.queued_at_start == 2
    assert house.spool.last_identity == made[-1].id


def test_records_are_read_through_on_another_thread_until_a_stop(house: House) -> None:
    house.receive("x.example")
    house.move()
    house.receive("y.example")

    def read(blocks: Iterator[bytes]) -> tuple[int, list[bytes]]:
        first = next(blocks)
        house.spool._stopping = True
        return threading.get_ident(), [first, *blocks]

    thread, found = house.main.answer(house.spool.read_through, 0, read)
    assert thread != threading.get_ident() and len(found) == 1 and b"x.example" in found[0]


def test_where_mail_comes_back_to_stays_with_it_over_a_restart(house: House) -> None:
    returns = Returns("bounce.relay.example", 513, "List-Unsubscribe: <mailto:<>@bounce.relay.example>\r\n")
    kept = house.mail.reception()
    message = msgspec.structs.replace(kept.message, edits=Edits(returns=returns))
    (delivery,) = (msgspec.structs.replace(one, message=message) for one in kept.deliveries)
    kept = msgspec.structs.replace(kept, message=message, deliveries=(delivery,))
    house.main.answer(house.spool.receive, kept)
    house.stop()
    house.open()
    assert house.due() == [delivery] and house.due()[0].message.edits.returns == returns


def test_a_walk_a_pull_an_outcome_and_a_settle(house: House) -> None:
    first, second = house.receive("x.example", "x.example")
    assert house.main.answer(house.spool.due_queues, (-1.0, ""), NOW, 10) == [(NOW, X)]
    assert house.due() == [first, second]
    house.main.answer(house.spool.depart, house.mail.departure(first))
    house.main.answer(house.spool.requeue, house.mail.requeue(second, NOW + 300))
    assert house.main.answer(house.spool.settle, X) == NOW + 300
    assert house.main.answer(house.spool.queued_total) == 1
    assert house.main.answer(house.spool.depth) == (1, received_at(second.id))
    house.main.answer(house.spool.depart, house.mail.departure(second, "Bounce"))
    assert house.main.answer(house.spool.settle, X) == NEVER
    assert house.audit().faults == []
    assert house.main.faults == []


def test_a_delivery_that_is_put_back_into_another_queue_is_found_and_counted_there(house: House) -> None:
    first, second = house.receive("x.example", "x.example")
    there = first.queue.replace("x.example", "fallback:spare")
    moved = msgspec.structs.replace(house.mail.requeue(first, NOW + 5), queue=there)
    house.main.answer(house.spool.requeue, moved)
    assert house.main.answer(house.spool.settle, there) == NOW + 5
    assert house.due() == [second] and [row.id for row in house.due(there)] == [first.id]
    (row,) = house.due(there)
    house.main.answer(house.spool.depart, house.mail.departure(row))
    house.main.answer(house.spool.depart, house.mail.departure(second))
    for queue in (X, there):
        assert house.main.answer(house.spool.settle, queue) == NEVER
    assert house.audit().faults == [] and house.main.faults == []


def test_feeds_get_every_record_once_from_their_checkpoint(house: House) -> None:
    (delivery,) = house.receive("x.example")
    house.main.answer(house.spool.depart, house.mail.departure(delivery))
    kinds: list[str] = []
    at = house.main.answer(house.spool.checkpoint, "log")
    assert at == Checkpoint()
    while len(kinds) < 2:
        lines, at = house.main.answer(house.spool.records_since, at)
        kinds += [decode(line).kind for line in lines]
        house.main.answer(house.spool.advance, "log", at)
    assert kinds == ["Reception", "Delivery"]
    assert house.main.answer(house.spool.checkpoint, "log") == at
    assert house.main.answer(house.spool.records_since, at) == ([], at)


def test_an_outcome_told_twice_is_an_error_and_the_ledger_stays_clean(house: House) -> None:
    (delivery,) = house.receive("x.example")
    house.main.answer(house.spool.depart, house.mail.departure(delivery))
    with pytest.raises(Exception, match="not in the spool"):
        house.main.answer(house.spool.depart, house.mail.departure(delivery, "Bounce"))
    assert house.audit().clean


def test_a_read_that_fails_is_told(house: House) -> None:
    house.receive("x.example")
    house.main.answer(house.spool.writer.submit, lambda c: c.execute("UPDATE message SET meta = '{}'").rowcount)
    with pytest.raises(msgspec.ValidationError):
        house.due()


def test_files_in_the_spool_are_for_its_owner_only(house: House) -> None:
    assert house.directory.stat().st_mode & 0o77 == 0
    assert (house.directory / "spool.sqlite").stat().st_mode & 0o77 == 0


def test_a_body_file_without_a_message_goes_at_the_start_and_one_with_stays(house: House) -> None:
    kept = house.mail.reception(body=None)
    house.spool.bodies.path(kept.message.id).write_bytes(b"kept")
    house.spool.bodies.path(5).write_bytes(b"orphan")
    house.main.answer(house.spool.receive, kept)
    house.stop()
    house.open()
    assert [p.name for p in house.spool.bodies.directory.iterdir()] == [house.spool.bodies.path(kept.message.id).name]


def test_a_spool_in_use_is_refused_with_its_owners_process_id(house: House) -> None:
    out, _ = run(OPEN, house.directory).communicate(timeout=20)
    assert f"is in use by the relayd with process id {os.getpid()}: stop it first" in out


def test_a_spool_that_was_let_go_of_can_be_opened_again(tmp_path: Path) -> None:
    for _ in range(2):
        house = House(tmp_path)
        house.stop()


def test_a_file_that_is_no_spool_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spool.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(SpoolError, match="cannot be opened"):
        Spool(tmp_path, print, print)


def test_a_place_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SpoolError, match="cannot be used"):
        Spool(tmp_path / "file", print, print)


@pytest.mark.parametrize("after", [50, 700])
def test_a_kill_in_mid_load_loses_nothing_that_was_acknowledged(tmp_path: Path, after: int) -> None:
    process = run(LOAD, tmp_path / "spool")
    assert process.stdout is not None
    told = [next(process.stdout) for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    told += process.stdout.read().splitlines()[:-1]  # the last line may be cut
    process.wait()
    process.stdout.close()
    words = [line.split() for line in told]
    kept = {int(number) for word, number in words if word == "kept"}
    left = {int(number) for word, number in words if word == "left"}
    house = House(tmp_path)
    here = {d.message.id for d in house.due()}
    lines, at, gone = [b""], Checkpoint(), set()
    house.move()
    while lines:
        lines, at = house.main.answer(house.spool.records_since, at)
        gone |= {int(r.message, 16) for r in map(decode, lines) if r.kind == "Delivery"}
    assert house.audit().faults == []
    assert left <= gone
    assert not here & gone
    assert kept <= here | gone
    house.stop()


def test_mail_that_stays_is_brought_into_the_database(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "AGE", -1.0)
    monkeypatch.setattr(writer, "_CLEAR_AGAIN", 0.0)
    house.receive()
    with closing(sqlite3.connect(house.directory / "spool.sqlite")) as reading:
        end = time.monotonic() + 20
        while reading.execute("SELECT count(*) FROM message WHERE place IS NOT NULL").fetchone()[0]:
            assert time.monotonic() < end
            house.main.answer(house.spool.queued_total)
    (found,) = house.due()
    assert found.message.body == b"body\r\n"


@pytest.mark.parametrize("after", [50, 700])
def test_a_kill_amid_keys_leaves_each_with_the_one_message_that_was_told(tmp_path: Path, after: int) -> None:
    process = run(KEYED, tmp_path / "spool")
    assert process.stdout is not None
    told = [next(process.stdout) for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    told += process.stdout.read().splitlines()[:-1]  # the last line may be cut
    process.wait()
    process.stdout.close()
    answers: dict[str, set[int]] = {}
    for key, message in map(str.split, told):
        answers.setdefault(key, set()).add(int(message))
    house = House(tmp_path)
    here = {d.message.id for d in house.due()}
    assert all(len(messages) == 1 for messages in answers.values())
    assert {message for messages in answers.values() for message in messages} <= here
    house.mail = Mail(NOW + 60)
    for key, messages in answers.items():
        again = house.mail.reception(steering=Steering(key=key))
        assert house.main.answer(house.spool.receive, again) == messages.pop()
    assert {d.message.id for d in house.due()} == here
    assert house.audit().faults == []
    house.stop()


def test_an_audit_names_contents_that_are_lost_or_short_and_no_others(house: House) -> None:
    house.receive()
    filed = house.mail.reception(body=None)
    writing = house.spool.bodies.create(filed.message.id)
    assert house.main.answer(house.spool.receive, filed) is None
    (path,) = (house.directory / "landing").iterdir()
    assert [fault.split(" is lost")[0] for fault in house.audit().faults] == [f"bodies/{show(filed.message.id)}"]
    writing.finish(lambda error: None)
    path.rename(house.directory / "elsewhere")
    faults = house.audit().faults
    assert [fault.split(" is lost")[0] for fault in faults][-1] == "landing/1" and not house.audit().clean
    (house.directory / "elsewhere").rename(path)
    house.main.answer(house.spool.depart, house.mail.departure(filed.deliveries[0]))
    assert house.audit().clean
