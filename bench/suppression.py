"""What a check against the suppression lists costs: ``python -m bench.suppression DIR [ENTRIES]``.

In: a directory, and how many entries (10 million).  Out: on the terminal the time to fill the filter and the memory it
takes, CPU for each check, and the time of a look-up on disk and of an import.  The file is made once and kept.
"""

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event

from relayd.database import opened
from relayd.suppression import Suppressions, store
from relayd.suppression.filter import mark

LISTS = ("unsubscribed", "complaints", "bounces", "account:crm/unsubscribed", "connection:crm-1/own")
CHECKS = 200_000
IMPORT = 100_000
_PIECE = 1000  # rows of an import that relayctl sends at a time, more or less


def fill(path: Path, count: int) -> None:
    """Makes the file with so many addresses, spread over LISTS; nobody has been promised that they are kept."""
    with contextlib.closing(opened(path, store._SCRIPTS)) as db, db:
        db.execute("PRAGMA synchronous = OFF")
        each = count // len(LISTS)
        db.executemany("INSERT INTO lists (name, created, entries) VALUES (?, 0, ?)", [(name, each) for name in LISTS])
        db.executemany("INSERT INTO entries VALUES (?,?,'address',?,'bounce','550 5.1.1',0,0,'bench')", _rows(each))


def _rows(each: int) -> Iterator[tuple[int, str, int]]:
    for id in range(1, len(LISTS) + 1):
        for n in range(each):
            value = _address(id, n)
            yield id, value, mark(id, value)


def _address(id: int, n: int) -> str:
    return f"user{n:08d}.{id}@mail{n % 997}.example"


def measure(path: Path) -> Iterator[str]:
    """The lines of the report."""
    before, began, spent = _resident(), time.monotonic(), time.process_time()
    lists = Suppressions(path, lambda call: call())
    lists._chore.result(600)
    taken, cpu = time.monotonic() - began, time.process_time() - spent
    total = sum(one.entries for one in lists.lists())
    yield f"{total} entries in {path.stat().st_size >> 20} MB"
    yield f"filter filled in {taken:.1f} s ({cpu:.1f} s of CPU), {_resident() - before:.0f} MB more resident at most"
    misses = [f"someone{n}@mail{n % 997}.example" for n in range(CHECKS)]
    hits = [_address(n % 5 + 1, n) for n in range(CHECKS)]
    for what, addresses, answer in (("not on the lists", misses, False), ("on one of them", hits, True)):
        spent = time.process_time()
        right = sum(lists.suspects(LISTS, address) is answer for address in addresses)
        cost = (time.process_time() - spent) / CHECKS * 1e6
        yield f"check of {len(LISTS)} lists, {what}: {cost:.1f} us of CPU, {CHECKS - right} of {CHECKS} wrong"
    yield f"look-up on disk, one after the other: {_timed(lambda: _looked_up(lists, hits[:1000])) * 1000:.0f} us each"
    salt = str(time.time_ns())
    rows = [{"value": f"{mark(n, salt):x}@mail{n % 997}.example", "reason": "bounce"} for n in range(IMPORT)]
    yield f"import of {IMPORT} rows: {_timed(lambda: _imported(lists, rows)):.1f} s"
    lists.close()


def _looked_up(lists: Suppressions, addresses: Sequence[str]) -> None:
    for address in addresses:
        done = Event()
        lists.look_up(LISTS, address, time.time(), lambda _, done=done: done.set())  # type: ignore[misc]
        done.wait(10)


def _imported(lists: Suppressions, rows: Sequence[dict[str, str]]) -> None:
    for start in range(0, len(rows), _PIECE):
        piece = rows[start : start + _PIECE]
        lists.add_rows("unsubscribed", piece, reason="manual", now=time.time(), by="bench").result(60)


def _timed(call: Callable[[], None]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def _resident() -> float:
    """MB, the most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: Sequence[str]) -> int:
    if not 1 <= len(arguments) <= 2:
        print(__doc__, file=sys.stderr)
        return 2
    path = Path(arguments[0]) / "suppression.sqlite"
    if not path.exists():
        print(f"made in {_timed(lambda: fill(path, int((arguments[1:] or ['10000000'])[0]))):.0f} s")
    for line in measure(path):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
