"""A relay that is only what the verbs ask of it, with a real directory and real suppression lists."""

from pathlib import Path
from typing import Any

from relayd.config import Config, Node, Pool, Source, Stream
from relayd.directory import Directory
from relayd.errors import InputError
from relayd.signing import Keyring
from relayd.suppression import Suppressions

NOW = 1_700_000_000.0


class FakeRelay:
    started = NOW - 3700

    def __init__(self, directory: Directory, suppressions: Suppressions) -> None:
        self.directory = directory
        self.suppressions = suppressions
        self.keyring = Keyring(directory.domain_keys)
        self.config = Config(
            node=Node(name="mx1.relay.example", spool="/spool", control="/control", default_stream="transactional"),
            source={"t1": Source(address=("192.0.2.10",), ehlo="t1.relay.example")},
            pool={"p": Pool(sources={"t1": 1})},
            stream={"transactional": Stream(pool="p")},
        )
        self.well: dict[str, Any] = {"ok": True, "faults": []}
        self.books: Any = {"clean": True, "odd": []}
        self.reloaded: Any = {"changed": []}
        self.inspected: list[int] = []

    def close(self) -> None:
        self.directory.close()
        self.suppressions.close()

    def now(self) -> float:
        return NOW

    def health(self) -> dict[str, Any]:
        return self.well

    def queues(self, limit: int) -> Any:
        row = {
            "account": "crm",
            "stream": "s",
            "domain": "a.example",
            "count": 3,
            "due": NOW,
            "why": "4.7.0 \x1b[2Jslow",
        }
        return [row] * min(limit, 2)

    def sources(self) -> Any:
        return [{"name": "t1", "address": ["192.0.2.10"], "state": "active"}]

    def inspect(self, id: int) -> Any:
        self.inspected.append(id)
        raise InputError("id", "there is no such message")

    def audit(self) -> Any:
        return self.books

    def reload(self) -> Any:
        if isinstance(self.reloaded, Exception):
            raise self.reloaded
        return self.reloaded


def opened(path: str | Path, post: Any = lambda call: call()) -> FakeRelay:
    directory = Directory(Path(path) / "directory.sqlite", post)
    return FakeRelay(directory, Suppressions(Path(path) / "suppression.sqlite", post))
