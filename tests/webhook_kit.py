"""A sender of webhooks on a clock, with a real directory and history, and customers' servers in memory.

Threads do what they are asked at once, so that time only passes when a test lets it.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol

from relayd import database
from relayd.directory import Directory, Webhook
from relayd.history import Index, facts, index_path
from relayd.records import Record, encode
from relayd.tls import trust
from relayd.webhooks import sender
from relayd.webhooks.post import Settings
from relayd.webhooks.sender import Webhooks
from tests.harness import START, Reactor

ADDRESS = "203.0.113.9"  # of crm.example, where webhooks go; not of the public Internet, so it is allowed
SECRET = b"0123456789abcdef0123456789abcdef"
OK = b"HTTP/1.1 204 No Content\r\n\r\n"


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    head = [f"HTTP/1.1 {status} Whatever", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class AtOnce:
    """An executor whose thread is nobody's."""

    def __init__(self, *_: Any) -> None:
        self.count = 0

    def submit(self, call: Callable[..., Any], *args: Any) -> "Future[Any]":
        self.count += 1
        done: Future[Any] = Future()
        try:
            done.set_result(call(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def shutdown(self, wait: bool = True) -> None:
        pass


@dataclass
class Server:
    """A customer's.  ``says``: what each request is answered with: bytes, b"" for nothing at all, None to hang up; a
    callable gets the request.  ``open``: as ``harness.Host`` has it."""

    says: Any = OK
    open: int | None = 1000
    sessions: list[Any] = field(default_factory=list)
    requests: list["Request"] = field(default_factory=list)

    def meet(self) -> "Channel":
        return Channel(self)

    @property
    def events(self) -> list[dict[str, Any]]:
        """All that came, in order."""
        return [event for request in self.requests for event in request.events]


@dataclass
class Request:
    line: str
    headers: dict[str, str]
    body: bytes
    channel: "Channel"

    @property
    def events(self) -> list[dict[str, Any]]:
        return json.loads(self.body)["events"]  # type: ignore[no-any-return]


class Channel(Protocol):
    transport: Any

    def __init__(self, server: Server) -> None:
        self.server = server
        self.buffer = b""

    def connectionMade(self) -> None:
        self.server.sessions.append(self)

    def connectionLost(self, reason: Any = None) -> None:
        self.server.sessions.remove(self)

    def dataReceived(self, data: bytes) -> None:
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if not end or len(rest) < int(headers["content-length"]):
            return
        self.buffer = b""
        request = Request(lines[0], headers, rest, self)
        self.server.requests.append(request)
        self.say(self.server.says(request) if callable(self.server.says) else self.server.says)

    def say(self, said: bytes | None) -> None:
        if said is None:
            self.transport.loseConnection()
        elif said:
            self.transport.write(said)


class Desk:
    """The sender and all that is around it.  ``told``: (account, subject, lines) of notices; ``held``: segments."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.home = home
        self.reactor = Reactor()
        (home / "records").mkdir(exist_ok=True)
        self.settings = Settings(**{"allow": (f"{ADDRESS}/32",), **settings})
        self.names: dict[str, tuple[str, ...]] = {"crm.example": (ADDRESS,)}
        self.server = self.reactor.hosts[ADDRESS] = Server()  # type: ignore[assignment]
        self.told: list[tuple[str, str, list[str]]] = []
        self.held: list[str] = []
        self.asked: list[str] = []
        self._segment, self._size, self._index = "", 0, None  # type: ignore[var-annotated]
        self.number = 0
        self.segment(int(START))
        self.start()
        self.account("crm")

    def start(self) -> None:
        self.directory = Directory(self.home / "directory.sqlite", self.reactor.callFromThread)
        self.webhooks = Webhooks(
            self.reactor,
            self.directory,
            self.home,
            "mx1.relay.example",
            self.find,
            lambda account, subject, lines, note, now: self.told.append((account, subject, lines)),
            self.held.append,
            self.settings,
            trust(""),
            self.reactor.seconds,
            random.Random(5),
        )
        self.webhooks.startService()
        self.reactor.pump()

    def stop(self) -> None:
        stopped = self.webhooks.stopService()
        self.reactor.wait(sender.DRAIN)
        self.reactor.until(lambda: stopped.called)
        self.directory.close()

    def crash(self) -> None:
        """As kill -9 does it: nothing more is written."""
        self.webhooks._stopping = True
        for call in self.reactor.getDelayedCalls():
            call.cancel()
        self.webhooks._shelf.close()
        self.directory.close()

    async def find(self, host: str) -> tuple[str, ...]:
        self.asked.append(host)
        return self.names[host]

    def ask(self, answer: Any) -> Any:
        """What a coroutine or future gives; raises what it fails with."""
        found: list[Any] = []
        if isinstance(answer, Future):
            answer.add_done_callback(lambda done: found.append(done.exception() or done.result()))
        else:
            Deferred.fromCoroutine(answer).addBoth(found.append)
        self.reactor.until(lambda: found)
        if hasattr(found[0], "raiseException"):
            found[0].raiseException()
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    def account(self, name: str, **fields: Any) -> None:
        self.ask(self.directory.add_account(name, now=START, **fields))

    def add(self, name: str = "w", **fields: Any) -> Webhook:
        given = {"account": "crm", "url": "http://crm.example/events", "secret": SECRET, "made": self.reactor.seconds()}
        here = self.ask(self.webhooks.here())
        made = Webhook(name=name, **{**given, "begins": (here.segment, here.position), **fields})
        row: Webhook = self.ask(self.directory.webhooks.add(made))
        self.reactor.pump()
        return row

    def row(self, name: str = "w") -> Webhook:
        return self.directory.webhooks.known(name)

    def change(self, name: str = "w", **fields: Any) -> None:
        self.ask(self.directory.webhooks.change(name, **fields))
        self.reactor.pump()

    def shown(self, name: str = "w") -> dict[str, Any]:
        return self.webhooks.shown(self.row(name))

    # The history.

    def segment(self, second: int) -> None:
        """A new one; that of before is complete."""
        if self._index is not None:
            self._index.seal()
        self._segment, self._size = f"{second:010d}.jsonl", 0
        path = self.home / "records" / self._segment
        path.touch()
        self._index = Index(index_path(path), "boot")

    def records(self, made: Iterable[Record], *, quiet: bool = False) -> None:
        """They come to be found, and the sender is told unless it is ``quiet``."""
        lines = [encode(record) for record in made]
        with open(self.home / "records" / self._segment, "ab") as file:
            file.write(b"".join(lines))
        found = list(facts(lines, self._size))
        self._size += sum(map(len, lines))
        assert self._index is not None
        self._index.add(found, self._size)
        if not quiet:
            self.webhooks.came({(fact.account, fact.connection) for fact in found})
            self.reactor.pump()

    def events(self, *deliveries: int, kind: Any = "Delivery", **fields: Any) -> None:
        """An event of each of these deliveries; ``number`` counts them in their notes."""
        self.records([self.event(delivery, kind=kind, **fields) for delivery in deliveries])

    def event(self, delivery: int, kind: Any = "Delivery", **fields: Any) -> Record:
        self.number += 1
        given = {
            "kind": kind,
            "time": self.reactor.seconds(),
            "account": "crm",
            "connection": "login1",
            "delivery": f"{delivery:016x}" if delivery else "",
            "note": str(self.number),
        }
        return Record(**{**given, **fields})


@contextmanager
def running(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(sender, "ThreadPoolExecutor", AtOnce)
    monkeypatch.setattr(database, "ThreadPoolExecutor", AtOnce)
    made = Desk(home)
    yield made
    if not made.webhooks._stopping:
        made.stop()
