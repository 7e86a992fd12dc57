"""A relay that serves metrics, and who asks for them, without sockets."""

import re
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric as Family
from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Protocol

from relayd.metrics import Collector
from tests.harness import pair
from tests.test_service import CONFIG, Running

METRICS = '\n[metrics]\nlisten = "tcp:9100:interface=127.0.0.1"\n'


class Asker(Protocol):
    """One connection to the metrics port."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.heard = b""
        self.closed = False

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Any = None) -> None:
        self.closed = True

    def say(self, data: bytes) -> None:
        self.transport.write(data)
        self.reactor.pump()

    @property
    def status(self) -> int:
        return int(self.heard.split()[1])

    @property
    def head(self) -> str:
        return self.heard.partition(b"\r\n\r\n")[0].decode()

    @property
    def body(self) -> str:
        return self.heard.partition(b"\r\n\r\n")[2].decode()


class Watched(Running):
    """A node that serves metrics."""

    def __init__(self, directory: Path, more: str = "") -> None:
        (directory / "relayd.toml").write_text(CONFIG + METRICS + more)
        super().__init__(directory)

    def connect(self, port: int = 9100, peer: str = "127.0.0.1") -> Asker | None:
        """A connection; None if it is not let in."""
        factory = next(server[1] for server in reversed(self.reactor.tcpServers) if server[0] == port)
        theirs, ours = pair(self.reactor, peer, "127.0.0.1", port)
        for end, (host, number) in ((theirs, (peer, 40000)), (ours, ("127.0.0.1", port))):
            end.getHost = lambda host=host, number=number: IPv4Address("TCP", host, number)
        theirs.getPeer, ours.getPeer = ours.getHost, theirs.getHost
        ours.writeSequence = lambda parts: ours.write(b"".join(parts))
        protocol = factory.buildProtocol(ours.getPeer())
        if protocol is None:
            return None
        asker = Asker(self.reactor)
        theirs.protocol, ours.protocol = asker, protocol
        asker.makeConnection(theirs)
        protocol.makeConnection(ours)
        return asker

    def ask(self, path: str, method: str = "GET", peer: str = "127.0.0.1", port: int = 9100, more: str = "") -> Asker:
        asker = self.connect(port, peer)
        assert asker is not None
        asker.say(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode())
        self.reactor.until(lambda: asker.closed)
        return asker


def families(running: Running) -> dict[str, Family]:
    """What a scrape collects, by name."""
    return {found.name: found for found in Collector(running.node).collect()}


def value(running: Running, sample: str, **labels: str) -> float:
    """One sample as it is now."""
    found = [s for f in families(running).values() for s in f.samples if s.name == sample and s.labels == labels]
    assert len(found) == 1, f"{sample} {labels}"
    return float(found[0].value)


def samples(running: Running) -> set[str]:
    """The names that expressions may use: those of samples, of metrics that have none yet too."""
    names = set()
    for found in families(running).values():
        names |= {sample.name for sample in found.samples}
        names.add(found.name + "_total" if found.type == "counter" else found.name)
    return names


def named(expression: str) -> set[str]:
    """The metrics of relayd that an expression names."""
    return set(re.findall(r"\brelayd_[a-z0-9_]+", expression))
