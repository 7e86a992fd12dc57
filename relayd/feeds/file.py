"""A file of events, one JSON object a line, that is put aside when it is large or of a day that is over.

In: events.  Out: lines, on disk (fdatasync) when ``write`` returns; files ``NAME-<UTC time>.jsonl``, with zstd
``.jsonl.zst``, of which the newest are kept.  A file that somebody else put aside is let go of, and begun anew.
"""

import os
import re
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from relayd.feeds.blocks import Item
from relayd.feeds.settings import FileSettings
from relayd.spool.files import sync_directory

_TAIL = 64 << 10  # bytes at a time, in looking for the end of the last whole line
_STAMP = "%Y%m%dT%H%M%SZ"
_PACKED = ".zst"


class FileSink:
    """For one thread.  Raises OSError; then what was begun is taken back."""

    def __init__(self, settings: FileSettings, wall: Callable[[], float]) -> None:
        self.fault = ""
        self._settings = settings
        self._path = Path(settings.path)
        self._wall = wall
        self._file = -1
        self._size = 0
        self._written = 0.0
        self._untidy = True  # a crash may have come between
        pattern = rf"{re.escape(self._path.stem)}-(\d{{8}}T\d{{6}}Z){re.escape(self._path.suffix)}"
        self._old = re.compile(rf"{pattern}(?:{re.escape(_PACKED)})?")
        self._unpacked = re.compile(pattern)
        self._torn = re.compile(rf"{pattern}{re.escape(_PACKED)}\.tmp")

    def write(self, items: Sequence[Item]) -> None:
        data = b"\n".join([item.data for item in items]) + b"\n"
        self._open()
        if self._size and (self._size + len(data) > self._settings.rotate or self._is_over()):
            self._put_aside()
            self._open()
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
            os.fdatasync(self._file)
        except OSError:
            self._take_back()
            raise
        self._size += len(data)
        self._written = self._wall()

    def rest(self) -> None:
        """A quiet day ends too."""
        if self._file < 0 or (self._size and self._is_over()):
            self._open()
        if self._size and self._is_over():
            self._put_aside()
        elif self._untidy:
            self._tidy()

    def close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def abort(self) -> None:
        """Nobody else is waited for here."""

    def _is_over(self) -> bool:
        """Whether its last lines are of an earlier period than now: days and hours begin as they do in UTC."""
        return int(self._written // self._settings.every) < int(self._wall() // self._settings.every)

    def _open(self) -> None:
        """Opens the file, unless it is open and still the one that bears the name."""
        if self._file >= 0:
            try:
                if os.path.samestat(os.fstat(self._file), os.stat(self._path)):
                    return
            except FileNotFoundError:
                pass
            self.close()
        # Not to wait where there is a pipe, nor to write where a link leads.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.open(self._path, flags, 0o640)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(0, "is not a file that lines can be kept in", str(self._path))
            self._size = _mended(file, found.st_size)
            if not found.st_size:
                sync_directory(self._path.parent)
        except OSError:
            os.close(file)
            raise
        self._file, self._written = file, found.st_mtime

    def _take_back(self) -> None:
        """Leaves no half of a line behind; if even that fails, opening it again does it."""
        with suppress(OSError):
            os.ftruncate(self._file, self._size)
        self.close()

    def _put_aside(self) -> None:
        # Names sort by age, whatever the clock does.
        old = self._aside()
        second = int(self._wall())
        if old and (last := self._old.fullmatch(old[-1])):
            second = max(second, int(datetime.strptime(last[1], _STAMP).replace(tzinfo=UTC).timestamp()) + 1)
        stamp = datetime.fromtimestamp(second, UTC).strftime(_STAMP)
        os.rename(self._path, self._path.with_name(f"{self._path.stem}-{stamp}{self._path.suffix}"))
        sync_directory(self._path.parent)
        self.close()
        self._tidy()

    def _aside(self) -> list[str]:
        """Names of files that were put aside, the oldest first."""
        return sorted(name for name in os.listdir(self._path.parent) if self._old.fullmatch(name))

    def _tidy(self) -> None:
        """Packs what was put aside and deletes the oldest: a chore, for which no event waits."""
        directory = self._path.parent
        try:
            for name in filter(self._torn.fullmatch, os.listdir(directory)):
                os.unlink(directory / name)
            for name in self._aside()[: -self._settings.keep]:
                os.unlink(directory / name)
            if self._settings.compress:
                for name in filter(self._unpacked.fullmatch, self._aside()):
                    _pack(directory / name)
            self._untidy, self.fault = False, ""
        except OSError as error:
            self._untidy = True
            self.fault = f"files that were put aside cannot be packed or deleted: {error}"


def _mended(file: int, size: int) -> int:
    """Cuts off the piece of a line that a crash left at the end; gives the size that is left.  Raises OSError."""
    end = size
    while end > 0:
        start = max(0, end - _TAIL)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(file, end)
    return end


def _pack(path: Path) -> None:
    """``path`` becomes ``path.zst``, whole or not at all.  Raises OSError."""
    import zstandard  # an extra: the configuration has seen that it is there

    packed = path.with_name(path.name + _PACKED)
    part = packed.with_name(packed.name + ".tmp")
    try:
        with (
            open(path, "rb") as source,
            open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640), "wb") as target,
        ):
            zstandard.ZstdCompressor(write_checksum=True).copy_stream(source, target)
            target.flush()
            os.fsync(target.fileno())
        os.rename(part, packed)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    path.unlink()
