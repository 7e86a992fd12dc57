"""A relayd under test: a normal configuration, a fresh or prepared spool, started with twistd from a source tree.

Nothing is set that a normal install does not set: names, doors, streams, next hop, keys.  All limits are defaults.
"""

import contextlib
import http.client
import json
import os
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import processes

ROOT = Path(__file__).resolve().parent.parent
DOMAIN, SELECTOR = "sender.example", "s1"
SENDER = f"from@{DOMAIN}"
LOGIN, PASSWORD = "bench", "bench-password"

_CONFIG = """\
[node]
name = "mx1.bench.example"
spool = "{home}/spool"
control = "{control}"

[tls]
certificate = "{certificate}"
key = "{key}"

[[listener]]
service = "relay"
listen = "tcp:{port}:interface=127.0.0.1"
allow = ["127.0.0.1/32"]
account = "crm"
stream = "transactional"

[[listener]]
service = "submissions"
listen = "tcp:{tls_port}:interface=127.0.0.1"

[stream.transactional]
priority = 90

[stream.marketing]
priority = 30

[[route]]
domain = "*"
via = "127.0.0.1:{next_hop}"
"""
_DKIM = """
[dkim."{domain}"]
selector = "{selector}"
key = "{key}"
"""


class Relayd:
    """A running instance."""

    name = "relayd"

    def __init__(self, home: Path, pid: int, port: int, tls_port: int, control: str) -> None:
        self.home = home
        self.pid = pid
        self.port = self.signing_port = port
        self.tls_port = tls_port
        self.control = control

    def cpu(self) -> float:
        """Microseconds so far."""
        return processes.cpu(self.pid)

    def memory(self) -> float:
        """Megabytes: the most it had resident."""
        return processes.peak(self.pid)

    def delivered(self) -> int:
        """How many deliveries the ledger tells of."""
        return self._tally("delivered")

    def commits(self) -> int:
        """How many transactions with records there have been."""
        return int(self._value("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'outbox'"))

    def audited(self) -> bool:
        """Whether every message is accounted for."""
        return bool(self.ask("GET", "/v1/audit")["clean"])

    def add_login(self) -> None:
        """Makes the connection with which TLS clients log in."""
        # The account that a listener names is made while the relay already listens.
        processes.until(lambda: self.ask("GET", "/v1/account/list"), 10, "relayd makes its account")
        self.ask("POST", "/v1/connection/add", login=LOGIN, account="crm", sender=["*"], password=PASSWORD)

    def ask(self, method: str, path: str, **given: Any) -> Any:
        """The control API's answer."""
        connection = http.client.HTTPConnection("relayd", timeout=120)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(120)
        connection.sock.connect(self.control)
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(given) if given else None)
            answer = connection.getresponse()
            value = json.loads(answer.read())
        if answer.status != 200:
            raise processes.Failed(f"{path}: {value}")
        return value

    def _tally(self, term: str) -> int:
        return int(self._value("SELECT coalesce(sum(count), 0) FROM tally WHERE term = ?", term))

    def _value(self, question: str, *arguments: str) -> int:
        path = self.home / "spool/spool.sqlite"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return int(connection.execute(question, arguments).fetchone()[0])


@contextlib.contextmanager
def started(
    home: Path,
    next_hop: int,
    *,
    dkim: Path | None = None,
    extra: str = "",
    tree: Path = ROOT,
    wrapper: tuple[str, ...] = (),
    wait: bool = True,
) -> Iterator[Relayd]:
    """An instance while the block lasts.  ``dkim``: key file; ``extra``: more configuration; ``wrapper``: words before
    the command, such as strace; ``wait``: until it listens."""
    home.mkdir(parents=True, exist_ok=True)
    certificate, key = home / "cert.pem", home / "key.pem"
    if not certificate.exists():
        _self_signed(certificate, key)
    with tempfile.TemporaryDirectory(prefix="bench") as short:  # a socket's path ends at 107 bytes
        control = f"{short}/control"
        port, tls_port = processes.free_port(), processes.free_port()
        text = _CONFIG.format(
            home=home, control=control, certificate=certificate, key=key, port=port, tls_port=tls_port,
            next_hop=next_hop,
        )  # fmt: skip
        text += _DKIM.format(domain=DOMAIN, selector=SELECTOR, key=dkim) if dkim else ""
        (home / "relayd.toml").write_text(text + extra)
        twistd = str(Path(sys.executable).parent / "twistd")
        command = [
            *wrapper,
            sys.executable,
            twistd,
            "-n",
            "--pidfile=",
            "relayd",
            "--config",
            str(home / "relayd.toml"),
        ]
        env = {**os.environ, "PYTHONPATH": str(tree)}
        with processes.running(command, home / "log", env, tree) as process:
            relay = Relayd(home, process.pid, port, tls_port, control)
            if wait:
                processes.until(lambda: _up(relay, process.poll()), 60, "relayd starts")
            yield relay


def _up(relay: Relayd, code: int | None) -> bool:
    if code is not None:
        raise processes.Failed(
            f"relayd ended with {code}: {(relay.home / 'log').read_text('utf-8', 'replace')[-2000:]}"
        )
    # The control socket opens last.
    return Path(relay.control).exists() and processes.answers(relay.port)


def _self_signed(certificate: Path, key: Path) -> None:
    """An ECDSA certificate for 127.0.0.1, as the quickstart makes one."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(names, critical=False)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(_pem()))
    write_key(key, private)


def write_key(path: Path, private: Any) -> None:
    """A private key as PEM, readable by its owner only."""
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    path.touch(0o600)
    path.write_bytes(private.private_bytes(_pem(), PrivateFormat.PKCS8, NoEncryption()))


def _pem() -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.PEM
