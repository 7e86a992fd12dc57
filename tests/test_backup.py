"""Backups: the moment they show, what they refuse, and what a restore makes of them."""

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relayd import backup as room
from relayd.backup import MANIFEST, Backup, BackupError, read_manifest, restore
from relayd.control.verbs import BY_PATH
from relayd.database import Pause, Worker, opened
from relayd.shaping.reactions import FOREVER, Active
from tests.reception_kit import HEAD, Receiving

NOW = 1_700_000_000.0
LARGE = b"x" * 70_000


class Source:
    """A spool with mail in it, some in the landing, one body in a file; it goes on."""

    def __init__(self, directory: Path) -> None:
        self.spool = directory / "spool"
        self.spool.mkdir()
        self.relay = Receiving(self.spool, real=True)
        (self.spool / "suspicion").mkdir()
        (self.spool / "suspicion" / "habits").write_bytes(b"learnt")
        for body in (b"small", LARGE):
            self.receive(body)
        self.target = directory / "backup"
        self.while_frozen: Callable[[], Any] = lambda: None
        self.after: Callable[[], Any] = lambda: None

    def receive(self, body: bytes) -> None:
        relay = self.relay
        client, _ = relay.send(HEAD + body)
        relay.reactor.until(lambda: b"250 " in client.heard)

    def freeze(self, work: Callable[[], None]) -> None:
        work()
        self.while_frozen()

    def hold(self, on: bool) -> None:
        self.relay.spool.hold_contents(on)
        if not on:
            self.after()

    def backup(self, target: Path | None = None) -> Backup:
        return Backup(
            self.spool, target or self.target, self.freeze, self.hold, lambda: NOW, version="1", node="mx1", by="anna"
        )

    def made(self) -> Backup:
        """One that is whole, made here and now."""
        made = self.backup()
        made.run()
        assert made.progress.state == "done", made.progress
        return made


@pytest.fixture
def source(tmp_path):
    made = Source(tmp_path)
    yield made
    made.relay.close()


def count(database: Path, table: str = "message") -> int:
    db = sqlite3.connect(database)
    try:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    finally:
        db.close()


def test_it_shows_the_moment_although_mail_comes_and_goes_while_it_is_made(source, monkeypatch):
    """What comes in behind the moment is not in it; the contents of what goes out behind it are."""
    monkeypatch.setattr(room, "_STEP", 1)
    monkeypatch.setattr(room, "_BREATH", 0.0)
    spool = source.relay.spool
    bodies = list((source.spool / "bodies").iterdir())
    assert len(bodies) == 1

    def behind() -> None:
        spool.bodies.unlink([int(bodies[0].name, 16)])
        db = sqlite3.connect(source.spool / "spool.sqlite")
        with db:
            db.execute("UPDATE queue SET count = count + 1000")
            db.execute("DELETE FROM message")
        db.close()

    source.while_frozen = behind
    made = source.made()
    assert not bodies[0].exists()  # it was only held
    assert count(source.target / "spool.sqlite") == 2
    assert made.progress.queued == 4
    assert (source.target / "bodies" / bodies[0].name).stat().st_size >= len(LARGE)


def test_every_step_of_a_database_is_of_one_moment_and_none_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_STEP", 2)
    monkeypatch.setattr(room, "_BREATH", 0.0)
    path = tmp_path / "some.sqlite"
    writer = opened(path, ["CREATE TABLE t (n INTEGER, text TEXT);"])
    with writer:
        writer.executemany("INSERT INTO t VALUES (?, ?)", [(n, "x" * 2000) for n in range(200)])
    snapshot = room._snapshot(path)
    steps: list[int] = []
    copy = sqlite3.connect(tmp_path / "copy.sqlite")

    def step(status: int, left: int, pages: int) -> None:
        steps.append(left)
        with writer:
            writer.execute("UPDATE t SET n = n + 1000")

    snapshot.backup(copy, pages=2, progress=step)
    assert steps == sorted(steps, reverse=True) and len(steps) > 50
    assert copy.execute("SELECT sum(n), count(*) FROM t").fetchone() == (sum(range(200)), 200)
    for db in (copy, snapshot, writer):
        db.close()


def test_a_landing_that_is_cleared_meanwhile_is_written_over_only_afterwards(source):
    landing = source.relay.spool._landing
    files = {path: path.read_bytes() for path in (source.spool / "landing").iterdir()}
    assert any(files.values())
    source.relay.spool.hold_contents(True)
    number = landing._number
    landing._end(0.0)
    landing.cleared(number)
    assert all(path.read_bytes() == content for path, content in files.items()) and landing._spare == []
    landing.release()
    assert landing._spare == [number]
    source.relay.spool.bodies.release()


def test_a_manifest_names_every_file_and_a_restore_brings_all_back_but_indexes(source, tmp_path):
    (source.spool / "records" / "1.index").write_bytes(b"made anew")
    source.made()
    found = read_manifest(source.target)
    names = {file.path for file in found.files}
    there = {str(path.relative_to(source.target)) for path in source.target.rglob("*") if path.is_file()}
    assert there - names == {MANIFEST} and names < there
    assert {"spool.sqlite", "directory.sqlite", "suppression.sqlite", "suspicion/habits"} <= names
    assert not [name for name in names if name.endswith((".index", "-wal", "-shm")) or name == "lock"]
    target = tmp_path / "restored"
    assert restore(source.target, target, now=NOW) == found
    assert {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()} == names
    assert target.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in target.rglob("*"))
    assert (target / "suspicion" / "habits").read_bytes() == b"learnt"


def test_a_restore_on_hold_begins_with_all_suspended(source, tmp_path):
    source.made()
    restore(source.target, tmp_path / "restored", now=NOW, hold=True)
    db = sqlite3.connect(tmp_path / "restored" / "directory.sqlite")
    ((raw,),) = db.execute("SELECT active FROM reactions").fetchall()
    db.close()
    active = msgspec.json.decode(raw, type=Active)
    assert (active.key, active.until, active.by, active.action) == (("",) * 5, FOREVER, "restore", "suspend")


@pytest.mark.parametrize("harm", ["a byte", "the end", "a file", "the manifest", "a name"])
def test_a_damaged_backup_is_refused_and_leaves_nothing(source, tmp_path, harm):
    source.made()
    victim = source.target / "directory.sqlite"
    if harm == "a byte":
        raw = bytearray(victim.read_bytes())
        raw[len(raw) // 2] ^= 1
        victim.write_bytes(raw)
    elif harm == "the end":
        os.truncate(victim, victim.stat().st_size - 1)
    elif harm == "a file":
        victim.unlink()
    elif harm == "the manifest":
        (source.target / MANIFEST).unlink()
    else:
        text = (source.target / MANIFEST).read_text().replace("directory.sqlite", "../directory.sqlite")
        (source.target / MANIFEST).write_text(text)
    with pytest.raises(BackupError, match=r"damaged|missing|not|no whole backup|outside"):
        restore(source.target, tmp_path / "restored", now=NOW)
    assert not (tmp_path / "restored").exists() and not (tmp_path / "restored.part").exists()


def test_neither_a_backup_nor_a_restore_goes_where_something_is(source, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    with pytest.raises(BackupError, match="is not empty: name a new directory"):
        source.backup(tmp_path / "full")
    with pytest.raises(BackupError, match="lies in the spool itself"):
        source.backup(source.spool / "backup")
    with pytest.raises(BackupError, match="no absolute path"):
        source.backup(Path("backup"))
    source.made()
    with pytest.raises(BackupError, match="is not empty"):
        restore(source.target, tmp_path / "full", now=NOW)
    (tmp_path / "restored.part").mkdir()
    with pytest.raises(BackupError, match="a restore was broken off"):
        restore(source.target, tmp_path / "restored", now=NOW)


def test_one_that_is_stopped_or_fails_leaves_nothing_and_holds_nothing(source):
    made = source.backup()
    made.stop()
    made.run()
    assert made.progress.state == "stopped" and not source.target.exists()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    made = source.backup()
    made._copy_database = full
    made.run()
    assert (made.progress.state, made.progress.fault) == ("failed", "[Errno 28] No space left on device")
    assert not source.target.exists() and source.relay.spool.bodies._held is None


def test_a_disk_without_room_is_told_before_anything_is_copied(source, monkeypatch):
    monkeypatch.setattr(room, "_ROOM", 1 << 60)
    made = source.backup()
    made.run()
    assert made.progress.state == "failed" and "MB free, the backup needs" in made.progress.fault


def test_a_pause_keeps_a_thread_from_committing_until_it_ends(tmp_path):
    worker = Worker(opened(tmp_path / "x.sqlite", ["CREATE TABLE t (n INTEGER);"]), lambda call: call(), "x")
    pause = Pause()
    worker.run(pause, lambda done: done)
    assert pause.reached.wait(10)
    written = worker.run(lambda db: db.execute("INSERT INTO t VALUES (1)"), lambda done: done)
    assert not written.done() and count(tmp_path / "x.sqlite", "t") == 0
    threading.Timer(0.01, pause.end).start()
    written.result(10)
    assert count(tmp_path / "x.sqlite", "t") == 1 and not pause.late
    worker.close()


def test_only_an_admin_makes_one_and_it_is_signed():
    assert (BY_PATH["/v1/backup/start"].role, BY_PATH["/v1/backup/start"].signed) == ("admin", True)
    assert BY_PATH["/v1/backup/show"].role == "view"
