"""What tests of the history share: segments of records as the mover leaves them, made by hand, and their indexes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from relayd.history import Index, facts, index_path
from relayd.identity import show
from relayd.outcome import Evidence
from relayd.records import Record, encode
from relayd.reply import Reply
from relayd.spool.store import create

NOW = 1_764_000_000
BOOT = "this boot"


def identity(moment: float, counter: int = 0) -> int:
    return (int(moment * 1000) << 20) + counter


def message(time: float = NOW, *recipients: str, counter: int = 0, **more: Any) -> Record:
    """A Reception."""
    given: dict[str, Any] = {"account": "crm", "connection": "crm-1", "stream": "news", **more}
    to = recipients or ("ann@x.example",)
    return Record("Reception", time, show(identity(time, counter)), recipients=to, **given)


def outcome(kind: Any, of: Record, time: float, nth: int = 0, **more: Any) -> Record:
    """What became of the nth recipient of a message."""
    code = {"Delivery": 250, "Bounce": 550}.get(kind, 451)
    cls = more.pop("cls", {"Bounce": "recipient_unknown", "TransientFailure": "greylist"}.get(kind, ""))
    seen = Evidence(
        "dot", Reply(code, "", "so they say"), "", more.pop("source", "t1"), "mx.x.example", "198.51.100.1:25",
        cls=cls, site=more.pop("site", "gmail"), seconds=0.5,
    )  # fmt: skip
    return Record(
        kind, time, of.message, show(int(of.message, 16) + 1 + nth), of.account, of.connection, of.stream,
        recipient=of.recipients[nth], track_id=of.track_id, received=of.time, attempts=1, evidence=seen, **more,
    )  # fmt: skip


class Kept:
    """A spool directory with nothing but segments."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = path / "records"
        self.records.mkdir()
        self.db = create(path / "spool.sqlite")

    def close(self) -> None:
        self.db.close()

    def segment(self, second: int, *records: Record, sealed: bool = True) -> str:
        """Begins a segment; gives its name."""
        name = f"{second:010d}.jsonl"
        (self.records / name).touch()
        self.db.execute("INSERT INTO segment (name, bytes, sealed) VALUES (?, 0, ?)", (name, second * sealed))
        return self.append(name, *records)

    def append(self, name: str, *records: Record) -> str:
        with open(self.records / name, "ab") as file:
            file.write(b"".join(map(encode, records)))
            self.db.execute("UPDATE segment SET bytes = ? WHERE name = ?", (file.tell(), name))
        return name

    def outbox(self, *records: Record) -> None:
        """Those that are not moved yet."""
        lines = b"".join(map(encode, records))
        self.db.execute("INSERT INTO outbox (lines, entries) VALUES (?, '[]')", (lines,))

    def index(self, *names: str, seal: bool = True) -> None:
        """Makes the indexes of these segments, or of all."""
        for name in names or sorted(path.name for path in self.records.glob("*.jsonl")):
            made = Index(index_path(self.records / name), BOOT)
            lines = (self.records / name).read_bytes().splitlines(keepends=True)
            made.add(list(facts(lines, 0)), sum(map(len, lines)))
            if seal:
                made.seal()
            else:
                made.close()

    def lines(self) -> Iterable[bytes]:
        for path in sorted(self.records.glob("*.jsonl")):
            yield from path.read_bytes().splitlines(keepends=True)
