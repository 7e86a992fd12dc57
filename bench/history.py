"""What a day of history costs: ``python -m bench.history DIR [EVENTS]``.

In: a directory, and how many events the day has (5 million); a fifth of them are of one connection.  Out: on the
terminal how fast the records are indexed and counted, and how long the questions take that customers and operators ask.
The records are made once and kept, and are indexed at each run.
"""

import random
import resource
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from relayd.history import Hit, Indexer, Query, find
from relayd.identity import show
from relayd.outcome import Evidence
from relayd.records import Record, encode
from relayd.reply import Reply
from relayd.spool import store
from relayd.spool.segments import SEGMENT_BYTES
from relayd.statistics import Figures, Settings, Statistics, figures

DAY = 86400
START = 1_790_000_000 // DAY * DAY  # the day is over when it is asked about
BIG = "big-1"  # the connection of a fifth of all
PROVIDERS = tuple(f"provider{n}" for n in range(12))
SITES = (*PROVIDERS, *(f"mx.site{n}.example" for n in range(600)))
_BEGAN = time.monotonic()
_TAKEN = Reply(250, "2.0.0", "OK  1793000000 a640c23a62f3a-b3c7d8f3sor123456789 - gsmtp")
_LATER = Reply(451, "4.7.1", "Greylisting in action, please come back later")
_NOBODY = Reply(550, "5.1.1", "The email account that you tried to reach does not exist")


def fill(directory: Path, count: int) -> None:
    """Makes the segments of a day with so many events, without any index."""
    (directory / "records").mkdir(parents=True)
    with closing(store.create(directory / "spool.sqlite")) as db:
        name, size, file = "", 0, None
        for second, line in _lines(count):
            if file is None or size >= SEGMENT_BYTES:
                if file is not None:
                    file.close()
                    db.execute("INSERT INTO segment (name, bytes, sealed) VALUES (?, ?, ?)", (name, size, second))
                name, size = f"{second:010d}.jsonl", 0
                file = open(directory / "records" / name, "wb", buffering=1 << 20)  # noqa: SIM115
            file.write(line)
            size += len(line)
        assert file is not None
        file.close()
        db.execute("INSERT INTO segment (name, bytes) VALUES (?, ?)", (name, size))


def _lines(count: int) -> Iterator[tuple[int, bytes]]:
    """Two to three events a message: its reception, perhaps a deferral, its end."""
    rng, made, n = random.Random(1), 0, 0
    while made < count:
        at = START + made / count * DAY
        for record in _message(rng, at, n):
            yield int(at), encode(record)
            made += 1
        n += 1


def _message(rng: random.Random, at: float, n: int) -> list[Record]:
    big = rng.random() < 0.2
    account = "big" if big else f"account{rng.randrange(200)}"
    connection = BIG if big else f"{account}-{rng.randrange(3)}"
    identity = (int(at * 1000) << 20) + n % 1000 * 4
    site = rng.choice(PROVIDERS) if rng.random() < 0.9 else rng.choice(SITES)
    to = f"user{rng.randrange(3_000_000)}@domain{rng.randrange(2000)}.example"
    told: dict[str, Any] = {
        "message": show(identity), "account": account, "connection": connection,
        "stream": rng.choice(("marketing", "transactional")), "sender": f"news@{account}.example",
        "message_id": f"<{identity:x}@mx1.relay.example>", "size": 41234, "track_id": f"order-{n}",
    }  # fmt: skip

    def attempt(kind: Any, later: float, reply: Reply, attempts: int, cls: str = "") -> Record:
        seen = Evidence(
            "dot", reply, "", f"t{n % 8}", f"mx1.{site}", "198.51.100.25:25", "192.0.2.1:44444",
            "TLSv1.3 TLS_AES_256_GCM_SHA384", 0.35, f"{n % 65536:x}", 3, cls, site,
        )  # fmt: skip
        return Record(
            kind, at + later, delivery=show(identity + 1), recipient=to, received=at, attempts=attempts,
            evidence=seen, **told,
        )  # fmt: skip

    found = [Record("Reception", at, recipients=(to,), note="from 203.0.113.7 (crm.example) by ESMTPSA", **told)]
    if deferred := rng.random() < 0.05:
        found.append(attempt("TransientFailure", 2, _LATER, 1, "greylist"))
    if rng.random() < (0.0002 if big else 0.02):
        found.append(attempt("Bounce", 3, _NOBODY, 1 + deferred, "recipient_unknown"))
    else:
        found.append(attempt("Delivery", 3, _TAKEN, 1 + deferred))
    return found


def measure(directory: Path) -> Iterator[str]:
    """The lines of the report."""
    records, file = directory / "records", directory / "statistics.sqlite"
    for old in (*records.glob("*.index*"), *directory.glob("statistics.sqlite*")):
        old.unlink()
    segments = sorted(records.glob("*.jsonl"))
    taken, cpu = _indexed(directory, file)
    everything = Figures(since=START, until=START + 2 * DAY, step="total")
    now = float(START + DAY)
    total = sum(figures(file, everything, _SETTINGS, now)["total"]["counts"].values())
    of_big = figures(file, Figures(**{**_fields(everything), "connection": BIG}), _SETTINGS, now)
    own = sum(of_big["total"]["counts"].values())
    yield f"{total} events in {len(segments)} segments, {_size(segments)} MB; {own} of them of one connection"
    yield (
        f"indexed and counted at {total / taken:,.0f} events/s, {cpu / total * 1e6:.1f} us of CPU each; indexes "
        f"{_size(records.glob('*.index'))} MB, statistics {_size([file])} MB, {_resident():.0f} MB resident at most"
    )
    last = find(records, Query(connection=BIG), "bench", limit=1).events[0]
    query = {"accounts": ("big",), "connection": BIG, "since": float(START), "until": START + 2.0 * DAY}
    for what, more in (
        ("the newest 100 of the connection", {}),
        ("its newest 100 that bounced", {"events": ("bounced",)}),
        ("by a recipient", {"recipient": last.recipient}),
        ("by a track id", {"track_id": last.track_id}),
        ("the newest 100 to a domain", {"domain": "domain7.example"}),
        ("to a domain that nothing went to", {"domain": "nowhere.example"}),
        ("the newest 100 of a stream that bounced", {"stream": "marketing", "events": ("bounced",)}),
    ):
        ask = Query(**{**query, **more})  # type: ignore[arg-type]
        yield _timed(what, lambda ask=ask: _page(records, ask))  # type: ignore[misc]
    ask = Query(**query)  # type: ignore[arg-type]
    middle = find(records, Query(**{**query, "until": START + DAY / 2}), "bench", limit=1).next  # type: ignore[arg-type]
    yield _timed("100 from the middle of the day on", lambda: _page(records, ask, middle))
    one = Figures(since=START, until=START + DAY, accounts=("big",), connection=BIG, step="hour")
    for what, change in (
        ("figures of its day by the hour", {}),
        ("figures of its day by the minute", {"step": "minute"}),
        ("figures of its day by class", {"step": "total", "by": ("class",)}),
        ("figures of everybody by account", {"step": "total", "by": ("account",), "accounts": (), "connection": ""}),
        ("figures of everybody by the minute", {"step": "minute", "accounts": (), "connection": ""}),
        ("figures of everybody by source", {"step": "hour", "by": ("source",), "accounts": (), "connection": ""}),
    ):
        asked = Figures(**{**_fields(one), **change})
        yield _timed(what, lambda asked=asked: len(figures(file, asked, _SETTINGS, now)["rows"]))  # type: ignore[misc]


def _page(records: Path, query: Query, before: Hit | None = None) -> int:
    return len(find(records, query, "bench", before=before, limit=100).events)


_SETTINGS = Settings(frozenset(PROVIDERS))


def _fields(row: Figures) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__struct_fields__}


def _indexed(directory: Path, file: Path) -> tuple[float, float]:
    """Seconds and seconds of CPU until all is in."""
    done = threading.Event()

    class Watched(Indexer):
        def _step(self, counters: Any) -> bool:
            more: bool = super()._step(counters)
            if not more:
                done.set()
            return more

    faults: list[str] = []

    def counters() -> Statistics:
        return Statistics(file, lambda: _SETTINGS, clock)

    indexer = Watched(directory, counters, lambda _: None, lambda _: None, faults.append)
    began, spent = time.monotonic(), time.process_time()
    indexer.start()
    done.wait()
    taken, cpu = time.monotonic() - began, time.process_time() - spent
    indexer.stop()
    indexer.join()
    assert not any(faults), faults
    return taken, cpu


def clock() -> float:
    """Of the evening of that day; it goes on, so that what waits for a moment does not wait for ever."""
    return START + DAY + time.monotonic() - _BEGAN


def _timed(what: str, ask: Callable[[], int]) -> str:
    times = []
    for _ in range(3):
        began = time.monotonic()
        found = ask()
        times.append(time.monotonic() - began)
    return f"{what}: {found} in {times[0] * 1000:.0f} ms at first, then {min(times[1:]) * 1000:.0f} ms"


def _size(files: Any) -> int:
    return sum(file.stat().st_size for file in files) >> 20


def _resident() -> float:
    """MB, the most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: Sequence[str]) -> int:
    if not 1 <= len(arguments) <= 2:
        print(__doc__, file=sys.stderr)
        return 2
    directory = Path(arguments[0]) / "history"
    if not (directory / "made").exists():
        shutil.rmtree(directory, ignore_errors=True)
        began = time.monotonic()
        fill(directory, int((arguments[1:] or ["5000000"])[0]))
        (directory / "made").touch()
        print(f"made in {time.monotonic() - began:.0f} s")
    for line in measure(directory):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
