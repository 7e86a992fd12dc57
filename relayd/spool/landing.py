"""The landing: where the contents of new mail lie, one after the other, until they have left or are a minute old.

Enter: contents of a batch, appended and fsynced in two calls before the transaction that promises them.  Leave: their
places, which the message rows name; and the contents, read back by place.  Most mail has left when its file is old, and
never passes through the database; what is still here then is taken into its rows, where a backlog is read in bulk, and
the file is written over.  A place is a file's number and an offset; before each content stand its message's id and its
lengths, so that one who comes too late notices.
"""

import errno
import os
import re
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from relayd.identity import show
from relayd.spool.files import sync_directory

FILE_BYTES = 16 << 20
AGE = 30.0  # seconds that a file is written to, and again so many until what is still in it goes into rows
SPARE = 4  # files kept to be written over: blocks that are there already are written in half the time

_NAME = re.compile(r"[1-9][0-9]*")  # a file of ours; what else lies there is left alone
_HEADER = struct.Struct(">QII")
_OFFSET_BITS = 32
_VECTOR = 512  # buffers of one write; the kernel takes 1,024
_MOST = 8192  # bytes of one read: most mail is whole in it

Content = tuple[int, bytes, bytes]  # message id, header section, body


class Moved(OSError):
    """The content does not lie there any more: its row knows better."""


class Landing:
    """The directory of files.  All but ``read`` is for the writer's thread; ``now`` is any steady clock, in seconds."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, exist_ok=True)
        numbers = sorted(int(path.name) for path in directory.iterdir() if _NAME.fullmatch(path.name))
        self._files = {number: os.open(directory / str(number), os.O_RDWR | os.O_CLOEXEC) for number in numbers}
        self._ended = dict.fromkeys(numbers, 0.0)  # when
        self._spare: list[int] = []
        self._held: list[int] | None = None  # files that no row names any more, while what is in them shall stay
        self._number = numbers[-1] if numbers else 0
        self._open = False
        self._size = 0
        self._since = 0.0

    def append(self, contents: Sequence[Content], now: float) -> list[int]:
        """Makes contents durable; gives their places.  Raises OSError: then nothing is promised."""
        if not self._open or self._size >= FILE_BYTES or now - self._since > AGE:
            self._roll(now)
        places, parts, at = [], [], self._size
        for identity, head, body in contents:
            places.append(self._number << _OFFSET_BITS | at)
            parts += [_HEADER.pack(identity, len(head), len(body)), head, body]
            at += _HEADER.size + len(head) + len(body)
        file = self._files[self._number]
        try:
            _write(file, parts, self._size)
            os.fdatasync(file)
        except OSError:
            self._end(now)  # what the kernel holds of it after a fault is not to be trusted
            raise
        self._size = at
        return places

    def ended(self, now: float) -> list[tuple[int, bool]]:
        """(number, whether what is still in it shall go into rows) of each file that is not written to any more."""
        if self._open and now - self._since > AGE:
            self._end(now)
        return [(number, now - since > AGE) for number, since in self._ended.items()]

    def cleared(self, number: int) -> None:
        """No row names the file any more."""
        del self._ended[number]
        if self._held is not None:
            self._held.append(number)
        elif len(self._spare) < SPARE:
            self._spare.append(number)
        else:
            os.close(self._files.pop(number))
            with suppress(OSError):  # it is found at the next start
                self._path(number).unlink()

    def hold(self) -> None:
        """No file is written over or removed from now on."""
        self._held = self._held or []

    def release(self) -> None:
        """They are again."""
        held, self._held = self._held or [], None
        for number in held:
            self._ended[number] = 0.0
            self.cleared(number)

    def close(self) -> None:
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def read(self, place: int, identity: int) -> tuple[bytes, bytes]:
        """(header section, body) of a message.  Any thread.  Raises Moved, OSError."""
        number, offset = place >> _OFFSET_BITS, place & (1 << _OFFSET_BITS) - 1
        file = self._files.get(number)
        if file is None:
            raise self._moved(number, identity)
        try:
            raw = os.pread(file, _MOST, offset)
            found, head, body = _HEADER.unpack_from(raw) if len(raw) >= _HEADER.size else (-1, 0, 0)
            if found != identity:
                raise self._moved(number, identity)
            middle = _HEADER.size + head
            end = middle + body
            if len(raw) < end:
                raw += os.pread(file, end - len(raw), offset + len(raw))
            if len(raw) < end:
                raise OSError(errno.EIO, f"{self._path(number)} is shorter than it was")
        finally:
            if self._files.get(number) != file:  # meanwhile it was given up: it may be closed by now, or written over
                raise self._moved(number, identity)
        return raw[_HEADER.size : middle], raw[middle:end]

    def _roll(self, now: float) -> None:
        """Goes on in the next file."""
        self._end(now)
        number = self._number + 1
        if number in self._files:
            pass  # made before, when the directory could not be synced
        elif self._spare:
            os.rename(self._path(self._spare[-1]), self._path(number))
            self._files[number] = self._files.pop(self._spare.pop())
        else:
            self._files[number] = os.open(self._path(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        sync_directory(self._directory)
        self._number, self._open, self._size, self._since = number, True, 0, now

    def _end(self, now: float) -> None:
        if self._open:
            self._open = False
            self._ended[self._number] = now

    def _moved(self, number: int, identity: int) -> Moved:
        return Moved(errno.ENOENT, f"the contents of {show(identity)} do not lie in {self._path(number)}")

    def _path(self, number: int) -> Path:
        return self._directory / str(number)


def span(number: int) -> tuple[int, int]:
    """The places of a file: from, and below."""
    return number << _OFFSET_BITS, (number + 1) << _OFFSET_BITS


def _write(file: int, parts: list[bytes], at: int) -> None:
    for start in range(0, len(parts), _VECTOR):
        vector = parts[start : start + _VECTOR]
        written = os.pwritev(file, vector, at)
        at += written
        if written < sum(map(len, vector)):  # the disk is nearly full: the rest, or the error
            rest = memoryview(b"".join(vector))[written:]
            while rest:
                written = os.pwrite(file, rest, at)
                at, rest = at + written, rest[written:]
