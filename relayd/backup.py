"""Backups of a running relay, and what is made of one again.

In: the spool's directory, an empty one for the copy, and a moment in which nothing is committed (``freeze``).  Out: the
databases as they were at that moment, by SQLite's backup in small steps; the contents that their rows name; record
files up to where they count; whatever else lies there; last of all a manifest with sizes and SHA-256, so that a backup
without one is none.  Everything runs on a thread of its own and goes to the disk before it counts.

What the moment has is all that was accepted before.  Contents that lie outside the databases must not go before they
are copied: ``hold`` keeps them, for as long as that takes and no longer.  Indexes of records are left out: the relay
makes them anew.
"""

import hashlib
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Literal

import msgspec

from relayd import __version__
from relayd.database import Pause
from relayd.directory import Directory
from relayd.errors import InputError
from relayd.identity import show
from relayd.shaping.reactions import FOREVER, Active, Reactions
from relayd.shaping.rules import Rules
from relayd.spool import Spool
from relayd.spool.files import sync_directory

MANIFEST = "manifest.json"
_STEP = 256  # pages of a database in one step
_BREATH = 0.002  # seconds between steps, in which mail has the disk
_PIECE = 1 << 20
_ROOM = 64 << 20  # bytes that have to be free besides
_STILL = 30.0  # seconds that a backup waits for the moment in which nothing is committed
_LEFT_OUT = {"lock", "landing", "bodies", "records"}  # by name; the last three are copied with care
_ENDINGS = ("-wal", "-shm", "-journal", ".index")
_DATABASE = b"SQLite format 3\0"


class Stopped(Exception):
    """It was told to stop."""


class BackupError(Exception):
    """It cannot be done; the text says why."""


class File(msgspec.Struct, frozen=True):
    path: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """``time``: unix seconds, of the moment that it shows; ``queued``: deliveries in it."""

    version: str
    node: str
    time: float
    queued: int
    files: tuple[File, ...]


class Progress(msgspec.Struct):
    """How far a backup is; ``state`` in a word, ``done`` of ``total`` bytes."""

    directory: str
    by: str
    began: float
    state: Literal["running", "done", "failed", "stopped"] = "running"
    ended: float = 0.0
    done: int = 0
    total: int = 0
    files: int = 0
    queued: int = 0
    fault: str = ""


class Backups:
    """Backups of one relay, one at a time.  ``last``: the latest, if there was one since the start."""

    def __init__(self, spool: Spool, directory: Directory, place: Path, node: str, clock: Callable[[], float]) -> None:
        """``place``: the spool's directory."""
        self._spool, self._directory = spool, directory
        self._place, self._node, self._clock = place, node, clock
        self.last: Backup | None = None

    def begin(self, target: str, who: str) -> Progress:
        """Raises InputError."""
        if self.last is not None and self.last.is_alive():
            raise InputError("", f"one is under way, to {self.last.progress.directory}: relayctl backup show")
        hold = self._spool.hold_contents
        made = {"version": __version__, "node": self._node, "by": who}
        try:
            self.last = Backup(self._place, Path(target), self._frozen, hold, self._clock, **made)
        except BackupError as error:
            raise InputError("directory", str(error)) from None
        self.last.start()
        return self.last.progress

    def _frozen(self, work: Callable[[], None]) -> None:
        """On the backup's thread: does it while nothing is committed."""
        pauses = Pause(), Pause()
        self._spool.pause(pauses[0])
        self._directory.pause(pauses[1])
        try:
            if not all(pause.reached.wait(_STILL) for pause in pauses):
                raise BackupError(f"the spool was busy for {_STILL:.0f} s: try again")
            work()
        finally:
            for pause in pauses:
                pause.end()
        if any(pause.late for pause in pauses):
            raise BackupError("the spool could not be kept still for so long: try again")

    def warnings(self) -> list[str]:
        fault = self.last.progress.fault if self.last else ""
        return [f"the last backup failed: {fault}"] if fault else []

    def stop(self) -> None:
        """Ends the one under way.  Blocks until it has."""
        if self.last is not None:
            self.last.stop()
            self.last.join()


class Backup(threading.Thread):
    """One backup.  ``freeze(work)``: calls it while nothing is committed; ``hold(on)``: contents outside the databases
    stay where they are, or may go again; ``clock``: unix seconds.  All are called on this thread."""

    def __init__(
        self,
        spool: Path,
        target: Path,
        freeze: Callable[[Callable[[], None]], None],
        hold: Callable[[bool], None],
        clock: Callable[[], float],
        *,
        version: str,
        node: str,
        by: str = "",
    ) -> None:
        """Raises BackupError if the target will not do."""
        super().__init__(name="backup", daemon=True)
        spool, target = spool.resolve(), Path(target)
        if not target.is_absolute():
            raise BackupError(f"{target} is no absolute path: relayd does not run where you type")
        if target.resolve() == spool or spool in target.resolve().parents:
            raise BackupError(f"{target} lies in the spool itself: name a place outside of {spool}")
        _make_empty(target)
        self.progress = Progress(str(target), by, clock())
        self._spool, self._target = spool, target.resolve()
        self._freeze, self._hold, self._clock = freeze, hold, clock
        self._version, self._node = version, node
        self._stopping = threading.Event()
        self._files: list[File] = []

    def stop(self) -> None:
        """Ends it soon; what was copied is removed.  Join it afterwards."""
        self._stopping.set()

    def run(self) -> None:
        progress = self.progress
        try:
            self._run()
            state: Literal["done", "failed", "stopped"] = "done"
        except Stopped:
            state = "stopped"
        except Exception as error:  # whatever it is, it is told to who asks
            state, progress.fault = "failed", str(error) or type(error).__name__
        if state != "done":
            shutil.rmtree(self._target, ignore_errors=True)
        progress.ended = self._clock()
        progress.state = state

    def _run(self) -> None:
        with ExitStack() as stack:
            snapshots: dict[Path, sqlite3.Connection] = {}
            held = stack.enter_context(_Held(self._hold))

            def open_all() -> None:
                held.begin()
                self._moment = self._clock()
                for path in self._databases():
                    snapshots[path] = stack.enter_context(closing(_snapshot(path)))

            self._freeze(open_all)
            db = snapshots.get(self._spool / "spool.sqlite")
            if db is None:
                raise BackupError(f"there is no spool.sqlite in {self._spool}")
            self._measure(snapshots, db)
            self._copy_landing(db)
            self._link_bodies(db)
            held.end()
            self._copy_records(db)
            for path, snapshot in snapshots.items():
                self._copy_database(path, snapshot)
        for path in self._others():
            with suppress(FileNotFoundError):  # it went meanwhile, as temporary files do
                self._copy(path)
        self._finish()

    def _databases(self) -> list[Path]:
        return [path for path in self._all() if not _left_out(path) and _is_database(path)]

    def _others(self) -> list[Path]:
        return [path for path in self._all() if not _left_out(path) and not _is_database(path)]

    def _all(self) -> Iterator[Path]:
        """Every file but those that are copied with care, in order."""
        for directory, names, files in os.walk(self._spool):
            here = Path(directory)
            names[:] = sorted(n for n in names if here != self._spool or n not in _LEFT_OUT)
            yield from (here / name for name in sorted(files) if (here / name).is_file())

    def _measure(self, snapshots: dict[Path, sqlite3.Connection], db: sqlite3.Connection) -> None:
        """What there is to copy, and whether there is room for it."""
        self.progress.queued = db.execute("SELECT coalesce(sum(count), 0) FROM queue").fetchone()[0]
        sizes = [
            snapshot.execute("PRAGMA page_count").fetchone()[0] * snapshot.execute("PRAGMA page_size").fetchone()[0]
            for snapshot in snapshots.values()
        ]
        bodies = db.execute("SELECT coalesce(sum(size), 0) FROM message WHERE body IS NULL").fetchone()[0]
        records = db.execute("SELECT coalesce(sum(bytes), 0) FROM segment").fetchone()[0]
        landing = sum(path.stat().st_size for path in (self._spool / "landing").glob("*"))
        self.progress.total = sum(sizes) + bodies + records + landing
        linked = bodies + records if os.stat(self._spool).st_dev == os.stat(self._target).st_dev else 0
        needed = self.progress.total - linked + _ROOM
        free = shutil.disk_usage(self._target).free
        if free < needed:
            raise BackupError(f"{self._target} has {free >> 20} MB free, the backup needs {needed >> 20} MB")

    # The parts.

    def _copy_landing(self, db: sqlite3.Connection) -> None:
        """Files of the landing that rows name.  They are written over later: a link would show that."""
        numbers = db.execute("SELECT DISTINCT place >> 32 FROM message WHERE place IS NOT NULL").fetchall()
        (self._target / "landing").mkdir(mode=0o700)
        for (number,) in numbers:
            self._copy(self._spool / "landing" / str(number))

    def _link_bodies(self, db: sqlite3.Connection) -> None:
        """Nobody changes a body's file once its message is there: a link does."""
        (self._target / "bodies").mkdir(mode=0o700)
        for (message,) in db.execute("SELECT id FROM message WHERE body IS NULL"):
            self._link(self._spool / "bodies" / show(message))

    def _copy_records(self, db: sqlite3.Connection) -> None:
        (self._target / "records").mkdir(mode=0o700)
        segments = db.execute("SELECT name, bytes, sealed FROM segment WHERE bytes > 0 ORDER BY name").fetchall()
        for name, size, sealed in segments:
            path = self._spool / "records" / name
            if sealed and path.stat().st_size == size:
                self._link(path)
            else:
                self._copy(path, size)

    def _copy_database(self, path: Path, snapshot: sqlite3.Connection) -> None:
        target = self._place(path)
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        size = snapshot.execute("PRAGMA page_size").fetchone()[0]
        before = self.progress.done

        def stepped(status: int, left: int, pages: int) -> None:
            self.progress.done = before + (pages - left) * size
            if self._stopping.wait(_BREATH):
                raise Stopped

        with closing(sqlite3.connect(target)) as copy:
            snapshot.backup(copy, pages=_STEP, progress=stepped)
        self.progress.done = before
        self._note(target)

    def _link(self, path: Path) -> None:
        try:
            os.link(path, self._place(path))
        except FileExistsError:
            raise
        except FileNotFoundError:
            raise BackupError(f"{path} is gone: was it removed by hand?") from None
        except OSError:  # another file system, or one that has no links
            self._copy(path)
        else:
            self._note(self._place(path))

    def _copy(self, path: Path, size: int = -1) -> None:
        """Its first ``size`` bytes, or all."""
        target = self._place(path)
        with open(path, "rb") as source, open(target, "xb", opener=_private) as copy:
            while piece := source.read(min(_PIECE, size) if size >= 0 else _PIECE):
                copy.write(piece)
                size -= len(piece) if size >= 0 else 0
                self._breathe()
        if size > 0:
            raise BackupError(f"{path} is {size} bytes shorter than what was written there")
        self._note(target)

    def _place(self, path: Path) -> Path:
        target = self._target / path.relative_to(self._spool)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return target

    def _note(self, target: Path) -> None:
        """Makes a copy durable, and takes it into the manifest."""
        with open(target, "rb") as file:
            os.fsync(file.fileno())
            size, digest = _digest(file, self._breathe)
        self._files.append(File(str(target.relative_to(self._target)), size, digest))
        self.progress.files += 1
        self.progress.done += size

    def _breathe(self) -> None:
        if self._stopping.is_set():
            raise Stopped

    def _finish(self) -> None:
        found = Manifest(self._version, self._node, self._moment, self.progress.queued, tuple(self._files))
        _write_durably(self._target / MANIFEST, msgspec.json.format(msgspec.json.encode(found)))
        for directory, _, _ in os.walk(self._target):
            sync_directory(Path(directory))
        sync_directory(self._target.parent)
        self.progress.total = self.progress.done


class _Held:
    """Contents are held from ``begin`` to ``end``, or until what needs them is over."""

    def __init__(self, hold: Callable[[bool], None]) -> None:
        self._hold = hold
        self._on = False

    def begin(self) -> None:
        self._on = True
        self._hold(True)

    def end(self) -> None:
        if self._on:
            self._on = False
            self._hold(False)

    def __enter__(self) -> "_Held":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


# The way back.


def read_manifest(source: Path) -> Manifest:
    """Raises BackupError."""
    try:
        return msgspec.json.decode((source / MANIFEST).read_bytes(), type=Manifest)
    except OSError as error:
        raise BackupError(f"{source} is no whole backup: {MANIFEST} cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise BackupError(f"{source / MANIFEST} is no manifest of a backup: {error}") from None


def restore(source: Path, target: Path, *, now: float, hold: bool = False) -> Manifest:
    """Makes a spool of a backup; ``hold``: nothing goes out of it before an operator says so.  It is there in the end
    as a whole, or not at all.  Raises BackupError, OSError, sqlite3.Error."""
    source, target = source.resolve(), target.absolute()
    found = read_manifest(source)
    _make_empty(target, make=False)
    part = target.with_name(f"{target.name}.part")
    if part.exists():
        raise BackupError(f"{part} is there: a restore was broken off, remove it first")
    for file in found.files:
        if Path(file.path).is_absolute() or ".." in Path(file.path).parts:
            raise BackupError(f"the manifest names {file.path}, which lies outside of a backup")
    part.mkdir(mode=0o700, parents=True)
    try:
        for name in ("landing", "bodies", "records"):
            (part / name).mkdir(mode=0o700)
        for file in found.files:
            _bring(source, part, file)
        if hold:
            _suspend_all(part / "directory.sqlite", source, now)
        for directory, _, _ in os.walk(part):
            sync_directory(Path(directory))
        if target.exists():
            target.rmdir()
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync_directory(target.parent)
    return found


def _bring(source: Path, target: Path, file: File) -> None:
    """Copies a file, durably.  Raises BackupError if it is not what the manifest says."""
    there = target / file.path
    there.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with open(source / file.path, "rb") as old, open(there, "xb+", opener=_private) as new:
            shutil.copyfileobj(old, new, _PIECE)
            new.flush()
            os.fsync(new.fileno())
            new.seek(0)
            size, digest = _digest(new, lambda: None)
    except FileNotFoundError:
        raise BackupError(f"{source / file.path} is missing: the backup is not whole") from None
    if (size, digest) != (file.size, file.sha256):
        raise BackupError(f"{source / file.path} is not what the manifest says: the backup is damaged")


def _suspend_all(directory: Path, source: Path, now: float) -> None:
    with closing(sqlite3.connect(directory)) as db, db:
        rows = db.execute("SELECT active FROM reactions ORDER BY id").fetchall()
        reactions = Reactions(Rules(), [msgspec.json.decode(row[0], type=Active) for row in rows])
        reason = f"restored from {source}: relayctl shaping resume --all lets it go"
        active = reactions.impose("suspend", ("", "", "", "", ""), FOREVER, reason=reason, by="restore", now=now)
        db.execute("INSERT OR REPLACE INTO reactions VALUES (?, ?)", (active.id, msgspec.json.encode(active).decode()))


# Files.


def _make_empty(target: Path, *, make: bool = True) -> None:
    """Raises BackupError if there is something, or if it cannot be made."""
    try:
        if make:
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
        if target.exists() and any(target.iterdir()):
            raise BackupError(f"{target} is not empty: name a new directory")
    except OSError as error:
        raise BackupError(f"{target} cannot be used: {error.strerror}") from None


def _snapshot(path: Path) -> sqlite3.Connection:
    """A connection that sees the database as it is now, whatever is written."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA query_only = ON")
    db.execute("BEGIN")
    db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return db


def _left_out(path: Path) -> bool:
    return path.name.endswith(_ENDINGS) or path.name in _LEFT_OUT


def _is_database(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(_DATABASE)) == _DATABASE
    except OSError:
        return False


def _digest(file: object, breathe: Callable[[], None]) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    while piece := file.read(_PIECE):  # type: ignore[attr-defined]
        size += len(piece)
        digest.update(piece)
        breathe()
    return size, digest.hexdigest()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write_durably(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    with open(part, "xb", opener=_private) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
