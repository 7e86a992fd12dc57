"""Export jobs: made in the background, one at a time, and fetched."""

import base64
import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd import exports as room
from relayd.errors import InputError
from relayd.exports import Exports, Job, Settings
from relayd.history.export import Wanted
from tests.e2e.relay import until
from tests.records_kit import NODE, Kept
from tests.spool_kit import NOW, Main

ALL = Wanted(0.0, 1e11, "jsonl")
DAY = 86400.0


class Office:
    """The jobs of a spool, and their main thread."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.main = Main()
        self.now = NOW
        self.free = 1 << 40
        self.settings = Settings(7 * DAY, 1 << 30, 1 << 20)
        self.directory = kept.spool / "exports"
        self.faults: list[str] = []
        self.restart()

    def restart(self) -> None:
        self.exports = Exports(
            self.kept.spool, NODE, self.settings, lambda: self.free, self.main.post, self.fault, lambda: self.now
        )
        self.exports.start()

    def fault(self, text: str) -> None:
        if text:
            self.faults.append(text)

    def asked(self, future: Any) -> Any:
        self.main.until(future.done)
        return future.result()

    def add(self, wanted: Wanted = ALL) -> str:
        job: Job = self.asked(self.exports.add(wanted, "anna"))
        return job.id

    def job(self, id: str) -> Job:
        return self.exports.get(id)

    def over(self, id: str) -> Job:
        until(lambda: self.job(id).is_over, 20)
        return self.job(id)

    def done(self, wanted: Wanted = ALL) -> str:
        id = self.add(wanted)
        assert self.over(id).state == "done", self.job(id)
        return id

    def fetch(self, id: str) -> bytes:
        after, data = 0, b""
        while True:
            piece = self.asked(self.exports.piece(id, after))
            data += base64.b64decode(piece["data"])
            if piece["next"] is None:
                return gzip.decompress(data)
            after = piece["next"]

    def holds(self, *names: str) -> None:
        """Fails unless these files, and no others, are what is left."""
        until(lambda: set(os.listdir(self.directory)) == set(names))


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    kept = Kept(tmp_path)
    kept.message("ivan@x.example", "olga@x.example")
    made = Office(kept)
    yield made
    made.exports.stop()
    kept.close()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Workers that only a kill ends, until a test lets them go."""
    program = room.Worker.run.__globals__["_PROGRAM"]
    module = room.Worker.run.__globals__
    module["_PROGRAM"] = "import time; time.sleep(1000)"
    yield lambda: module.update(_PROGRAM=program)
    module["_PROGRAM"] = program


def test_an_export_is_made_and_fetched_piece_by_piece(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PIECE", 100)
    id = office.done()
    job = office.job(id)
    assert (job.progress.events, job.who, job.progress.done) == (4, "anna", job.progress.of)
    assert [json.loads(line)["id"] for line in office.fetch(id).splitlines()] == [e.id for e in office.kept.all()]
    office.holds(f"{id}.json", f"{id}.jsonl.gz")
    assert (office.directory / job.file).stat().st_mode & 0o777 == 0o600
    assert office.directory.stat().st_mode & 0o777 == 0o700


def test_a_table_is_made_as_one(office: Office) -> None:
    assert office.fetch(office.done(Wanted(0.0, 1e11, "csv"))).startswith(b"id,event,time,")


def test_a_running_export_can_be_cancelled_and_the_next_one_begins(office: Office, slow: Callable[[], None]) -> None:
    first, second = office.add(), office.add()
    until(lambda: office.job(first).state == "running")
    assert office.job(second).state == "waiting"
    with pytest.raises(InputError, match="it is not done yet"):
        office.exports.piece(first, 0)
    slow()
    assert office.asked(office.exports.cancel(first)).state == "cancelled"
    assert office.over(second).state == "done"
    office.holds(f"{first}.json", f"{second}.json", f"{second}.jsonl.gz")
    with pytest.raises(InputError, match="it is cancelled"):
        office.exports.piece(first, 0)


def test_of_a_finished_export_the_file_goes_when_it_is_cancelled(office: Office) -> None:
    id = office.done()
    office.asked(office.exports.cancel(id))
    office.holds(f"{id}.json")


def test_one_that_a_stop_interrupted_begins_anew(office: Office, slow: Callable[[], None]) -> None:
    id = office.add()
    until(lambda: office.job(id).state == "running")
    office.exports.stop()
    office.holds(f"{id}.json")
    slow()
    office.restart()
    assert office.over(id).state == "done"
    assert len(office.fetch(id).splitlines()) == 4


def test_what_a_crash_left_of_files_goes_and_what_is_whole_stays(office: Office) -> None:
    id = office.done()
    office.exports.stop()
    for name in ("0123456789ab.jsonl.gz.part", "0123456789ab.part", "0123456789ab.json"):
        (office.directory / name).write_text("half")
    office.restart()
    office.holds(f"{id}.json", f"{id}.jsonl.gz")
    assert len(office.fetch(id).splitlines()) == 4


def test_a_full_disk_starts_none_and_ends_the_one_under_way(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter([1 << 40, 1000])  # when it is asked for, and at its first word
    monkeypatch.setattr(office.exports, "_free", lambda: next(left, 1000))
    id = office.add()
    job = office.over(id)
    assert (job.state, job.why) == (
        "failed",
        "the disk has less left than [node] min_free: make room, then start it again",
    )
    office.holds(f"{id}.json")
    with pytest.raises(InputError, match="min_free"):
        office.exports.add(ALL, "anna")


def test_one_that_is_larger_than_all_may_be_fails_in_words(office: Office) -> None:
    for _ in range(100):
        office.kept.message("ivan@x.example", reply=os.urandom(500).hex())
    office.exports.settings = Settings(7 * DAY, 10_000, 0)
    job = office.over(office.add())
    assert job.state == "failed" and job.why.startswith("it has more than [exports] max_size, 10000 bytes packed")


def test_old_ones_go_and_the_oldest_when_they_are_too_much_together(office: Office) -> None:
    first = office.done()
    size = office.job(first).size
    office.now += DAY
    second = office.done()
    office.exports.settings = Settings(7 * DAY, 2 * size + size // 2, 0)
    office.now += DAY
    third = office.done()
    until(lambda: set(office.exports.jobs) == {second, third})
    office.now += 6 * DAY + 1
    fourth = office.done()
    until(lambda: set(office.exports.jobs) == {third, fourth})
    office.holds(*(name for id in (third, fourth) for name in (f"{id}.json", f"{id}.jsonl.gz")))


def test_too_many_that_wait_are_refused(
    office: Office, slow: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MOST", 2)
    ids = [office.add(), office.add()]
    with pytest.raises(InputError, match="2 exports wait already"):
        office.exports.add(ALL, "anna")
    for id in ids:
        office.asked(office.exports.cancel(id))
    slow()
    office.done()


def test_an_account_knows_only_its_own(office: Office) -> None:
    id = office.done(Wanted(0.0, 1e11, "jsonl", account="crm"))
    assert office.exports.get(id, "crm").id == id
    for question in (office.exports.get, office.exports.cancel):
        with pytest.raises(InputError, match="there is no export"):
            question(id, "crm2")
    with pytest.raises(InputError, match="there is no export"):
        office.exports.piece(id, 0, "crm2")


def test_a_failure_within_a_worker_is_told(office: Office, slow: Callable[[], None]) -> None:
    room.Worker.run.__globals__["_PROGRAM"] = "raise SystemExit(3)"
    job = office.over(office.add())
    assert (job.state, job.why) == ("failed", "the process that reads records ended with 3")


def test_a_directory_that_cannot_be_made_is_a_fault_of_exports_alone(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    (tmp_path / "exports").write_text("in the way")
    office = Office(kept)
    office.main.until(lambda: office.faults)
    assert "exports cannot go on" in office.faults[0]
    with pytest.raises(OSError):
        office.add()
    office.exports.stop()
    kept.close()
