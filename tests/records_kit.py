"""Records of any kind, in segments as the spool's mover makes them."""

from pathlib import Path
from typing import Any

from relayd import events
from relayd.history import Index, facts, index_path
from relayd.identity import lower_bound, show
from relayd.outcome import Evidence
from relayd.records import Entry, Record, decode, encode
from relayd.reply import Reply
from relayd.spool.segments import Mover
from relayd.spool.store import Batch, Store, connect, create
from tests.spool_kit import NOW

NODE = "mx1.relay.example"


class Kept:
    """Records that were moved already."""

    def __init__(self, spool: Path) -> None:
        self.spool = spool
        self.directory = spool / "records"
        self._writing = create(spool / "spool.sqlite")
        self._store = Store(self._writing)
        self.db = connect(spool / "spool.sqlite", readonly=True)
        self._mover = Mover(self.directory, self.db, self._submit, lambda fault: None, 1e9)
        self.now = NOW

    def close(self) -> None:
        self.db.close()
        self._writing.close()

    def _submit(self, job: Any, done: Any) -> None:
        batch = Batch()
        batch.jobs.append(job)
        done(self._store.apply(batch).results[0])

    def add(self, *records: Record) -> None:
        lines = b"".join(map(encode, records))
        self._store.keep_records(lines, (Entry(1, "crm", "news", "rejected"),))
        self._mover.move()

    def seal(self) -> None:
        self._mover._seal()

    def message(self, *recipients: str, account: str = "crm", reply: str = "OK", **more: Any) -> str:
        """A reception, and a delivery a recipient a second later; gives the message's id."""
        self.now += 10
        id = lower_bound(self.now)
        given = {"account": account, "connection": f"{account}-1", "stream": "news", "sender": f"a@{account}.example"}
        given |= more
        received = Record("Reception", self.now, show(id), recipients=recipients, **given)
        evidence = Evidence("dot", Reply(250, "2.0.0", reply), mx="mx.example", peer="203.0.113.1", seconds=0.5)
        done = [
            Record(
                "Delivery", self.now + 1, show(id), show(id + n), recipient=recipient, received=self.now,
                evidence=evidence, **given,
            )
            for n, recipient in enumerate(recipients, 1)
        ]  # fmt: skip
        self.add(received, *done)
        return show(id)

    def index(self) -> None:
        """Makes the indexes of all that is there."""
        for path in sorted(self.directory.glob("*.jsonl")):
            lines = path.read_bytes().splitlines(keepends=True)
            index = Index(index_path(path), "")
            index.add(list(facts(lines, 0)), path.stat().st_size)
            index.seal()

    def all(self) -> list[events.Event]:
        """Every event, in order."""
        found: list[events.Event] = []
        for path in sorted(self.directory.glob("*.jsonl")):
            offset = 0
            for line in path.read_bytes().splitlines(keepends=True):
                found += events.events(decode(line), events.place(path.name, offset), NODE)
                offset += len(line)
        return found
