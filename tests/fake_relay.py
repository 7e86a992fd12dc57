"""A relay that is only what the verbs ask of it, with a real directory and real suppression lists."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from relayd.config import Config, Node, Pool, Source, Stream
from relayd.directory import AccountStream, Directory, SenderDomain
from relayd.errors import InputError
from relayd.guard import Guard
from relayd.lease import Lease
from relayd.reputation import Reputation
from relayd.reputation import Rules as ReputationRules
from relayd.shaping.reactions import Active, Reactions
from relayd.shaping.rules import Rules
from relayd.signing import Keyring
from relayd.streams import Streams, shown
from relayd.suppression import Suppressions
from relayd.suspicion import Dismissal, Suspicion
from relayd.suspicion import Settings as Suspects
from relayd.validation import BULK, read_lists
from relayd.verification import Source as Seen
from relayd.verification import Subject
from relayd.warmup import Warmup

NOW = 1_700_000_000.0


class FakeRelay:
    started = NOW - 3700

    def __init__(self, directory: Directory, suppressions: Suppressions) -> None:
        self.directory = directory
        self.suppressions = suppressions
        self.keyring = Keyring(directory.domain_keys)
        self.guard = Guard()
        self.config = Config(
            node=Node(name="mx1.relay.example", spool="/spool", control="/control", default_stream="transactional"),
            source={"t1": Source(address=("192.0.2.10",), ehlo="t1.relay.example")},
            pool={"p": Pool(sources={"t1": 1})},
            stream={"transactional": Stream(pool="p"), "marketing": Stream(pool="p", validation=BULK)},
        )
        self.streams = Streams(directory, self.config)
        self.warmup = Warmup(directory.warmups.stored, directory.warmups.keep)
        self.reactions = Reactions(Rules())
        self.reputation = Reputation(directory.reputations.stored, directory.reputations.keep, directory.lineage)
        self.reputation.configure(ReputationRules())
        self.suspicion = Suspicion(
            Suspects(memory=1 << 16), NOW, submit=lambda call: call(), post=lambda call: call(), customer=lambda a: a
        )
        self.replayed: list[tuple[list[str], float]] = []
        self.lists = read_lists({})
        self.asked: list[str] = []
        self.faults: dict[str, str] = {}
        self.well: dict[str, Any] = {"ok": True, "faults": []}
        self.books: Any = {"clean": True, "odd": []}
        self.reloaded: Any = {"changed": []}
        self.inspected: list[int] = []
        row = {"account": "crm", "stream": "s", "domain": "a.example", "count": 3, "due": NOW}
        self.queued = [{**row, "constraint": "rest", "why": "4.7.0 \x1b[2Jslow"}] * 2
        self.archive: Any = None  # an inquiry.Archive
        self.leases: dict[str, tuple[Lease, int]] = {}
        self.booked: list[str] = []

    def close(self) -> None:
        self.directory.close()
        self.suppressions.close()

    @property
    def inside(self) -> "FakeRelay":
        return self

    def now(self) -> float:
        return NOW

    def health(self) -> dict[str, Any]:
        return self.well

    def stream_of(self, account: str, name: str) -> dict[str, Any]:
        return shown(self.streams.of(account, name))

    def stream_fault(self, row: AccountStream) -> str:
        return self.streams.fault(row)

    def queues(self, limit: int, account: str = "") -> Any:
        return [row for row in self.queued if account in ("", row["account"])][:limit]

    jobs: Any = None  # test_jobs.py asks real ones

    def queue_summary(self, by: str, limit: int) -> Any:
        return [{by: "all", "deliveries": 3, "held": 1}]

    def sources(self) -> Any:
        return [{"name": "t1", "address": ["192.0.2.10"], "state": "active"}]

    def figures(self, asked: Any) -> Any:
        return self.archive.figures(asked)

    def history(self, query: Any, limit: int, before: Any) -> Any:
        return self.archive.find(query, limit, before)

    def event(self, place: Any, query: Any) -> Any:
        return self.archive.event(place, query)

    def inspect(self, id: int) -> Any:
        self.inspected.append(id)
        raise InputError("id", "there is no such message")

    async def domain_faults(self, domains: Iterable[str]) -> dict[str, str]:
        self.asked += sorted(domains)
        return {name: self.faults.get(name, "") for name in domains}

    async def lease(self, account: str) -> tuple[Lease, int]:
        return self.leases.get(account, (Lease(), 0))

    async def book(self, account: str) -> None:
        self.booked.append(account)

    def lift(self, id: int) -> Active:
        found = self.reactions.lift(id)
        if found is None:
            raise InputError("id", f"there is no reaction {id}")
        return found

    def dismiss(self, row: Dismissal) -> Any:
        self.suspicion.dismiss(row)
        return self.directory.suspects.dismiss(row)

    def replay(self, rules: list[str], seconds: float) -> Any:
        self.replayed.append((rules, seconds))
        return {"attempts": 0}

    def audit(self) -> Any:
        return self.books

    def subject(self, row: SenderDomain) -> Subject:
        keys = tuple(self.keyring.find(row.account, row.domain).keys)
        return Subject(row.domain, self.config.node.name, keys, (Seen("t1", "192.0.2.10", "t1.relay.example"),))

    async def verify(self, domain: str) -> Any:
        row = self.directory.senders.get(domain)
        if row is None:
            raise InputError("name", f"the domain {domain} is not registered")
        return row

    def reload(self) -> Any:
        if isinstance(self.reloaded, Exception):
            raise self.reloaded
        return self.reloaded


def opened(path: str | Path, post: Any = lambda call: call()) -> FakeRelay:
    directory = Directory(Path(path) / "directory.sqlite", post)
    return FakeRelay(directory, Suppressions(Path(path) / "suppression.sqlite", post))
