"""Feeds into files, with a real spool of records beside them."""

import json
import os
import subprocess
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from relayd import events
from relayd.feeds import Feeds, FileSettings
from relayd.feeds import follower as follower_room
from relayd.feeds.blocks import Blocks
from relayd.feeds.feeds import LATE
from relayd.feeds.file import FileSink
from relayd.feeds.follower import Follower, checkpoints
from relayd.records import decode
from relayd.spool.segments import Checkpoint, read_records
from relayd.spool.store import Batch
from tests.e2e.relay import until
from tests.spool_kit import NOW
from tests.test_segments import Records

DAY = 86400.0


class Room:
    """Records that come when a test says so, and the feeds beside them."""

    def __init__(self, path: Path) -> None:
        self.directory = path
        self.records = Records(path)
        self.now = NOW
        self.held: dict[str, Checkpoint] = {}
        self.faults: list[tuple[str, str]] = []
        self.feeds = self._made()

    def _made(self) -> Feeds:
        return Feeds(None, self, "mx1.relay.example", lambda name, fault: self.faults.append((name, fault)), self.wall)

    def wall(self) -> float:
        return self.now

    def restart(self) -> None:
        self.feeds.stop()
        self.feeds = self._made()

    # feeds.Spool

    def advance(self, feed: str, to: Checkpoint) -> None:
        self.held[feed] = to

    def retain(self, prefix: str, feeds: Collection[str]) -> None:
        for feed in [feed for feed in self.held if feed.startswith(prefix) and feed not in feeds]:
            del self.held[feed]

    # Records.

    def come(self, count: int = 1, account: str = "crm") -> None:
        """So many receptions, each of two recipients."""
        for _ in range(count):
            batch = Batch()
            batch.receptions.append(self.records.mail.reception("x.example", "y.example", account=account))
            self.records.store.apply(batch)
        self.records.mover.move()
        self.feeds.wake()

    def made(self) -> list[str]:
        """The ids of all events, in their order."""
        found, at = [], Checkpoint()
        while True:
            lines, to = read_records(self.records.connection, self.records.directory, at)
            if not lines:
                return found
            offset = at.offset if to.segment == at.segment else 0
            for line in lines:
                place = events.place(to.segment, offset)
                found += [event.id for event in events.events(decode(line), place, "mx1.relay.example")]
                offset += len(line)
            at = to

    # Files.

    def settings(self, name: str = "events.jsonl", **more: Any) -> FileSettings:
        given = {"rotate": 1 << 20, "every": DAY, "compress": "", "keep": 30, "begin": "beginning"}
        (self.directory / "out").mkdir(exist_ok=True)
        return FileSettings(path=str(self.directory / "out" / name), **(given | more))

    def files(self) -> list[str]:
        return sorted(os.listdir(self.directory / "out"))

    def lines(self, name: str = "events.jsonl") -> list[dict[str, Any]]:
        raw = (self.directory / "out" / name).read_bytes()
        if name.endswith(".zst"):
            raw = zstandard.ZstdDecompressor().stream_reader(raw).read()
        assert raw == b"" or raw.endswith(b"\n")
        return [json.loads(line) for line in raw.splitlines()]

    def ids(self, name: str = "events.jsonl") -> list[str]:
        return [line["id"] for line in self.lines(name)] if name in self.files() else []

    def all_ids(self) -> list[str]:
        """Of all files, those put aside first."""
        aside = [name for name in self.files() if name != "events.jsonl"]
        return [id for name in [*aside, "events.jsonl"] for id in self.ids(name)]

    def row(self, name: str = "log") -> dict[str, Any]:
        return next(row for row in self.feeds.rows() if row["name"] == name)

    def until(self, fact: Callable[[], Any]) -> None:
        until(fact, 10)


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.setattr(follower_room, "AGAIN", 0.01)
    made = Room(tmp_path)
    yield made
    made.feeds.stop()
    made.records.connection.close()


def test_every_event_comes_once_and_in_order(room: Room) -> None:
    room.come(3)
    room.feeds.start({"log": room.settings()})
    room.until(lambda: len(room.ids()) == 6)
    room.come(2)
    room.until(lambda: len(room.ids()) == 10)
    assert room.ids() == room.made()
    first = room.lines()[0]
    assert (first["event"], first["node"], first["recipient"]) == ("queued", "mx1.relay.example", "r1@x.example")
    assert os.stat(room.settings().path).st_mode & 0o777 == 0o640
    room.until(lambda: room.row() == {"name": "log", "type": "file", "behind": 0.0, "events": 10, "fault": ""})


def test_a_new_feed_begins_now_unless_it_is_told_otherwise(room: Room) -> None:
    room.come(3)
    room.feeds.start({"new": room.settings("new.jsonl", begin="now"), "all": room.settings("all.jsonl")})
    room.until(lambda: len(room.ids("all.jsonl")) == 6 and "feed new" in room.held)
    room.come(1)
    room.until(lambda: len(room.ids("all.jsonl")) == 8 and len(room.ids("new.jsonl")) == 2)
    assert room.ids("new.jsonl") == room.made()[-2:]


def test_a_feed_goes_on_where_it_stood(room: Room) -> None:
    room.come(2)
    room.feeds.start({"log": room.settings(begin="now")})
    room.until(lambda: "feed log" in room.held)
    room.come(1)
    room.until(lambda: len(room.ids()) == 2)
    room.restart()
    room.come(2)
    room.feeds.start({"log": room.settings(begin="now")})
    room.until(lambda: len(room.ids()) == 6)
    assert room.ids() == room.made()[4:]
    room.until(lambda: room.row()["events"] == 6)


def test_only_what_is_asked_for_comes(room: Room) -> None:
    room.feeds.start(
        {
            "one": room.settings("one.jsonl", accounts=("crm2",)),
            "none": room.settings("none.jsonl", events=("bounced",)),
            "both": room.settings("both.jsonl", events=("queued", "bounced"), accounts=("crm", "crm2")),
        }
    )
    room.come(2)
    room.come(1, account="crm2")
    room.until(lambda: len(room.ids("one.jsonl")) == 2 and len(room.ids("both.jsonl")) == 6)
    room.until(lambda: not any(row["behind"] for row in room.feeds.rows()))
    assert {line["account"] for line in room.lines("one.jsonl")} == {"crm2"}
    assert room.ids("none.jsonl") == []


def test_a_crash_before_the_checkpoint_repeats_a_block_with_the_same_ids(room: Room) -> None:
    room.feeds.start({"log": room.settings()})
    room.come(2)
    room.until(lambda: room.row()["events"] == 4)
    before = checkpoints(room.directory)
    saved = before.execute("SELECT * FROM feed").fetchone()
    room.come(2)
    room.until(lambda: room.row()["events"] == 8)
    room.feeds.stop()
    with before:
        before.execute("REPLACE INTO feed VALUES (?, ?, ?, ?)", saved)
    before.close()
    room.restart()
    room.feeds.start({"log": room.settings()})
    room.until(lambda: len(room.ids()) == 12)
    assert room.ids() == room.made() + room.made()[4:]


def test_events_are_not_written_again_because_the_checkpoint_cannot_be(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.feeds.start({"log": room.settings()})
    room.until(lambda: "feed log" in room.held)
    keep, failures = Follower._keep, iter(range(5))

    def failing(self: Follower, own: Any) -> None:
        if next(failures, None) is not None:
            raise OSError("the disk is full")
        keep(self, own)

    monkeypatch.setattr(Follower, "_keep", failing)
    room.come(1)
    room.until(lambda: room.faults[-1:] == [("log", "")])
    assert room.faults == [("log", "the disk is full"), ("log", "")]
    assert room.ids() == room.made()


def test_files_are_put_aside_under_writing_and_hold_everything(room: Room) -> None:
    room.feeds.start({"log": room.settings(rotate=3000)})
    for _ in range(12):
        room.come(3)
        room.until(lambda: room.row()["behind"] == 0 and room.all_ids() == room.made())
    assert len(room.files()) > 3
    assert all(os.stat(room.directory / "out" / name).st_size <= 3000 for name in room.files())


def test_what_is_put_aside_is_packed_and_the_oldest_go(room: Room) -> None:
    room.feeds.start({"log": room.settings(rotate=1, compress="zstd", keep=2)})
    for n in range(1, 6):
        room.come(1)
        room.until(lambda n=n: room.row()["events"] == 2 * n)
    room.until(lambda: [Path(name).suffix for name in room.files()] == [".zst", ".zst", ".jsonl"])
    assert room.all_ids() == room.made()[-6:]


def test_a_file_is_put_aside_when_its_day_is_over_though_nothing_comes(room: Room) -> None:
    room.feeds.start({"log": room.settings()})
    room.come(1)
    room.until(lambda: room.row()["events"] == 2)
    room.now += DAY
    room.feeds.wake()
    room.until(lambda: len(room.files()) == 1 and room.files() != ["events.jsonl"])
    room.come(1)
    room.until(lambda: room.all_ids() == room.made() and len(room.files()) == 2)


def test_packing_that_a_crash_interrupted_is_done_at_the_next_start(room: Room) -> None:
    settings = room.settings(compress="zstd")
    out = room.directory / "out"
    (out / "events-20260101T000000Z.jsonl.zst").write_text("packed, but not deleted yet")
    (out / "events-20260101T000000Z.jsonl").write_text('{"id":"a"}\n')
    (out / "events-20260101T000000Z.jsonl.zst.tmp").write_text("half")
    (out / "events-mine.jsonl").write_text("not the feed's")
    room.come(1)
    room.feeds.start({"log": settings})
    room.until(lambda: "events-20260101T000000Z.jsonl" not in room.files())
    assert room.files() == ["events-20260101T000000Z.jsonl.zst", "events-mine.jsonl", "events.jsonl"]
    assert room.ids("events-20260101T000000Z.jsonl.zst") == ["a"]


def test_a_file_that_somebody_else_put_aside_is_begun_anew(room: Room) -> None:
    room.feeds.start({"log": room.settings()})
    room.come(1)
    room.until(lambda: room.row()["events"] == 2)
    os.rename(room.directory / "out/events.jsonl", room.directory / "out/events.jsonl.1")
    room.come(1)
    room.until(lambda: room.row()["events"] == 4)
    assert room.ids("events.jsonl.1") + room.ids() == room.made()


def test_half_a_line_that_a_crash_left_is_cut_off(room: Room) -> None:
    settings = room.settings()
    Path(settings.path).write_bytes(b'{"id":"a"}\n{"id":"' + b"x" * 200_000)
    room.come(1)
    room.feeds.start({"log": settings})
    room.until(lambda: room.row()["events"] == 2)
    assert room.ids() == ["a", *room.made()]


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_what_is_no_plain_file_is_not_written_to(room: Room, kind: str) -> None:
    settings = room.settings()
    if kind == "pipe":
        os.mkfifo(settings.path)
    else:
        os.symlink(room.directory / "elsewhere", settings.path)
    room.feeds.start({"log": settings})
    room.until(lambda: room.row()["fault"])
    assert not (room.directory / "elsewhere").exists()


def test_a_feed_that_cannot_write_says_so_once_loses_nothing_and_stops_no_other(room: Room) -> None:
    settings = room.settings("well.jsonl")
    missing = room.directory / "missing"
    sick = FileSettings(path=str(missing / "e.jsonl"), rotate=1 << 20, every=DAY, compress="", keep=3)
    room.feeds.start({"sick": sick, "well": settings})
    room.until(lambda: "feed sick" in room.held)
    room.come(2)
    room.until(lambda: len(room.ids("well.jsonl")) == 4 and room.row("sick")["fault"])
    assert room.row("sick")["fault"] == f"{missing}/e.jsonl: No such file or directory"
    room.now += LATE + 1
    room.until(lambda: room.row("well")["behind"] == 0 and room.row("sick")["behind"] == LATE + 1)
    assert room.feeds.warnings()[0].startswith("feed sick: ")
    assert room.feeds.warnings()[1].startswith("feed sick is 10m1s behind")
    missing.mkdir()
    room.until(lambda: not room.row("sick")["fault"])
    room.until(lambda: not room.feeds.warnings())
    ids = [json.loads(line)["id"] for line in (missing / "e.jsonl").read_bytes().splitlines()]
    assert ids == room.made()
    assert [fault for name, fault in room.faults if name == "sick"] == [
        f"{missing}/e.jsonl: No such file or directory",
        "",
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    where = tmp_path / "small"
    where.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", where], capture_output=True).returncode:
        pytest.skip("a small disk cannot be made here: it takes root")
    yield where
    subprocess.run(["umount", "-l", where], check=True)


def test_on_a_full_disk_no_half_line_stays_and_nothing_is_lost(room: Room, small_disk: Path) -> None:
    file = small_disk / "e.jsonl"
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 9000)
    settings = FileSettings(path=str(file), rotate=1 << 20, every=DAY, compress="", keep=3, begin="beginning")
    room.feeds.start({"log": settings})
    room.come(5)
    room.until(lambda: room.row()["events"] == 10)
    room.come(15)
    room.until(lambda: room.row()["fault"] == "No space left on device")
    assert [json.loads(line)["id"] for line in file.read_bytes().splitlines()] == room.made()[:10]
    ballast.unlink()
    room.until(lambda: not room.row()["fault"])
    assert [json.loads(line)["id"] for line in file.read_bytes().splitlines()] == room.made()


def test_a_changed_feed_goes_on_at_its_checkpoint(room: Room) -> None:
    room.feeds.start({"log": room.settings()})
    room.come(1)
    room.until(lambda: room.row()["events"] == 2)
    room.feeds.configure({"log": room.settings("other.jsonl")})
    room.come(1)
    room.until(lambda: room.row()["events"] == 4)
    assert room.ids() + room.ids("other.jsonl") == room.made()


def test_a_feed_that_did_not_change_is_left_alone(room: Room) -> None:
    room.feeds.start({"log": room.settings()})
    thread = next(thread for thread in threading.enumerate() if thread.name == "feed log")
    room.feeds.configure({"log": room.settings()})
    assert thread.is_alive() and [t for t in threading.enumerate() if t.name == "feed log"] == [thread]


def test_the_next_one_waits_for_the_one_before_it(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    write, slow, go = FileSink.write, threading.Event(), threading.Event()

    def held(self: FileSink, items: Any) -> None:
        slow.set()
        assert go.wait(10)
        write(self, items)

    monkeypatch.setattr(FileSink, "write", held)
    room.feeds.start({"log": room.settings()})
    room.come(1)
    assert slow.wait(10)
    room.feeds.configure({"log": room.settings("other.jsonl")})
    room.feeds.configure({"log": room.settings("third.jsonl")})
    go.set()
    room.come(1)
    room.until(lambda: room.ids() + room.ids("third.jsonl") == room.made())
    assert room.ids() == room.made()[:2]


def test_records_are_kept_for_a_feed_until_it_is_configured_no_more(room: Room) -> None:
    both = {"log": room.settings(), "other": room.settings("other.jsonl")}
    room.feeds.start(both)
    room.until(lambda: set(room.held) == {"feed log", "feed other"})
    room.feeds.configure({"other": both["other"]})
    room.until(lambda: set(room.held) == {"feed other"})
    room.come(1)
    room.until(lambda: len(room.ids("other.jsonl")) == 2)
    room.feeds.configure({"log": room.settings(begin="now"), "other": both["other"]})  # a new one, begins now
    room.until(lambda: "feed log" in room.held)
    room.come(1)
    room.until(lambda: len(room.ids("other.jsonl")) == 4 and room.ids() == room.made()[2:])
    room.restart()
    room.feeds.start({"log": room.settings()})
    assert set(room.held) == {"feed log"}


def test_a_broken_database_of_checkpoints_is_the_feeds_fault_alone(room: Room) -> None:
    (room.directory / "feeds.sqlite").write_bytes(b"this is no database" * 100)
    room.feeds.start({"log": room.settings()})
    room.until(lambda: room.row()["fault"] == "file is not a database")


def test_the_place_moves_on_with_the_segments(room: Room) -> None:
    room.feeds.start({"log": room.settings()})
    room.come(1)
    room.until(lambda: room.row()["events"] == 2)
    room.records.mover._seal()
    room.come(1)
    room.until(lambda: room.row()["events"] == 4)
    _, second = sorted(path.name for path in room.records.directory.glob("*.jsonl"))
    room.until(lambda: room.held["feed log"] == Checkpoint(second))
    assert room.ids() == room.made()


def test_feeds_that_read_the_same_place_share_the_work(room: Room) -> None:
    room.come(2)
    blocks = Blocks(room.records.directory, "mx1.relay.example")
    one = blocks.read(room.records.connection, Checkpoint())
    assert one is not None and blocks.read(room.records.connection, Checkpoint()) is one
    assert blocks.read(room.records.connection, one.to) is None
    room.come(1)
    after = blocks.read(room.records.connection, one.to)
    assert after is not None
    assert [item.id for item in (*one.items, *after.items)] == room.made()
