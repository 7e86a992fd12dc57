"""What was typed at a manhole and what it showed, line by line, in a file for each session.

In: lines.  Out: files of the relay's own user (0600), the last FILES of them.  What is typed is on file before it is
run; when the file is full or cannot be written, OSError says so, and the session has to end: none goes unrecorded.
"""

import os
import time
from pathlib import Path

from relayd.reply import printable

FILES = 100
SIZE = 1 << 20  # bytes of a file
SHOWN = 16 << 10  # characters kept of what one statement shows


class Recording:
    """One session's file.  Marks: ``=`` about the session, ``>`` typed, ``<`` shown."""

    def __init__(self, directory: Path, name: str, now: float) -> None:
        """Raises OSError."""
        directory.mkdir(mode=0o700, exist_ok=True)
        for old in sorted(directory.glob("*.log"))[: -(FILES - 1)]:
            old.unlink(missing_ok=True)
        self.path, self._file = _opened(directory, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now)), name)
        self._room = SIZE
        self._shown = 0
        self.typed = 0  # lines

    def about(self, text: str, now: float) -> None:
        self._write("=", text, now)

    def line(self, text: str, now: float) -> None:
        self._shown = 0
        self.typed += 1
        self._write(">", text, now)

    def output(self, text: str, now: float) -> None:
        kept = text[: max(0, SHOWN - self._shown)]
        if self._shown <= SHOWN < self._shown + len(text):
            kept += "\n(the rest is not kept)"
        self._shown += len(text)
        if kept.strip():
            self._write("<", kept.strip("\n"), now)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, mark: str, text: str, now: float) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        data = "".join(f"{at} {mark} {printable(line, SHOWN)}\n" for line in text.split("\n")).encode()
        if len(data) > self._room:
            raise OSError(f"the recording {self.path} is full")
        self._room -= len(data)
        while data:
            data = data[os.write(self._file, data) :]


def _opened(directory: Path, at: str, name: str) -> tuple[Path, int]:
    """A new file, named so that files sort by their age."""
    for number in range(FILES):
        path = directory / f"{at}-{number:02}-{name}.log"
        try:
            return path, os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            continue
    raise OSError(f"{directory} has {FILES} recordings of this second")
