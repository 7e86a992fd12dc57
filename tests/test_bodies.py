import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from relayd.identity import show
from relayd.spool import bodies as room
from relayd.spool.bodies import CHUNK, HIGH_WATER, Bodies
from tests.spool_kit import Main


class Place:
    def __init__(self, directory: Path) -> None:
        self.main = Main()
        self.pool = ThreadPoolExecutor(3)
        self.bodies = Bodies(directory / "bodies", self.pool, self.main.post)

    def finish(self, message: int, writer: room.BodyWriter) -> OSError | None:
        told: list[OSError | None] = []
        writer.finish(told.append)
        self.main.until(lambda: told)
        return told[0]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.pool.shutdown()


def test_chunks_come_out_in_order_whatever_the_threads_do(place: Place) -> None:
    writers = [place.bodies.create(n) for n in range(1, 9)]
    for i in range(300):
        for n, writer in enumerate(writers):
            writer.write(b"%d:%d\n" % (n, i))
    for n, writer in enumerate(writers, 1):
        assert place.finish(n, writer) is None
    for n in range(8):
        assert place.bodies.path(n + 1).read_bytes() == b"".join(b"%d:%d\n" % (n, i) for i in range(300))


def test_a_finished_file_and_its_directory_were_synced_before_it_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(room.os, "fdatasync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    monkeypatch.setattr(room.os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    writer = place.bodies.create(7)
    writer.write(b"x")
    assert place.finish(7, writer) is None
    assert synced == [str(place.bodies.path(7)), str(place.bodies.directory)]


def test_an_empty_body_is_a_file_too(place: Place) -> None:
    assert place.finish(7, place.bodies.create(7)) is None
    assert place.bodies.path(7).read_bytes() == b""


def test_a_writer_is_full_until_the_disk_has_caught_up(place: Place) -> None:
    gate = threading.Event()
    for _ in range(3):
        place.pool.submit(gate.wait)
    drained: list[int] = []
    writer = place.bodies.create(7)
    writer.write(b"x" * HIGH_WATER)
    assert not writer.full
    writer.write(b"y")
    assert writer.full
    writer.drained = lambda: drained.append(writer.waiting)
    gate.set()
    place.main.until(lambda: drained)
    assert drained == [0]
    assert not writer.full
    assert place.finish(7, writer) is None


def test_an_abandoned_body_leaves_no_file_and_no_open_handle(place: Place) -> None:
    before = len(os.listdir("/proc/self/fd"))
    told: list[OSError | None] = []
    for n in range(1, 20):
        writer = place.bodies.create(n)
        writer.write(b"x" * 1000)
        if n % 2:
            writer.finish(told.append)
        writer.abandon()
        writer.write(b"late")
        writer.finish(told.append)
    place.pool.shutdown()
    assert list(place.bodies.directory.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("call", ["write", "fdatasync", "open", "close"])
def test_a_disk_that_fails_is_told_and_no_file_stays(place: Place, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    usual_close = os.close

    def fails(*args: object, **kwargs: object) -> int:
        if call == "close":
            usual_close(args[0])  # type: ignore[arg-type]
        raise OSError(errno.ENOSPC, "no space left")

    writer = place.bodies.create(7)
    with monkeypatch.context() as patch:
        patch.setattr(room.os, call, fails)
        writer.write(b"x")
        writer.write(b"y")
        error = place.finish(7, writer)
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC
    assert not place.bodies.path(7).exists()
    assert writer.waiting == 0


def test_a_body_is_read_in_pieces_to_its_end(place: Place) -> None:
    content = os.urandom(CHUNK + 10)
    place.bodies.path(7).write_bytes(content)
    pieces = [place.main.answer(place.bodies.read, 7, at) for at in (0, CHUNK, CHUNK + 10)]
    assert pieces == [content[:CHUNK], content[CHUNK:], b""]


def test_a_body_that_is_gone_is_told(place: Place) -> None:
    with pytest.raises(FileNotFoundError):
        place.main.answer(place.bodies.read, 7, 0)


def test_files_without_a_message_are_swept_at_the_start(place: Place) -> None:
    for n in (1, 2, 3):
        place.bodies.path(n).write_bytes(b"x")
    assert place.bodies.sweep({2}) == 2
    assert [p.name for p in place.bodies.directory.iterdir()] == [show(2)]


def test_what_cannot_be_swept_keeps_nobody_from_starting(place: Place) -> None:
    (place.bodies.directory / "lost+found").mkdir()
    place.bodies.path(1).write_bytes(b"x")
    place.bodies.sweep(set())
    assert [p.name for p in place.bodies.directory.iterdir()] == ["lost+found"]


def test_removing_what_is_gone_already_is_no_fault(place: Place) -> None:
    place.bodies.path(1).write_bytes(b"x")
    place.bodies.unlink([1, 1, 2])
    assert list(place.bodies.directory.iterdir()) == []
