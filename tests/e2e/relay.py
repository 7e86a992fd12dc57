"""What the end-to-end tests stand on: a relay process of a test's own, scripted peers, a raw SMTP client.

Nothing here sleeps for a fixed time: ``until`` looks again and again until what is waited for is there.
"""

import contextlib
import datetime
import io
import ipaddress
import itertools
import json
import os
import re
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from relayd import ctl
from relayd.control.verbs import BY_PATH

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
LOGIN, PASSWORD, SENDER = "login1", "correct horse battery", "sales@crm.example"

_BASE = """
[node]
name    = "relay.test.example"
spool   = "{spool}"
control = "control.sock"
{node}
[tls]
certificate = "{certificate}"
key         = "{key}"
[[listener]]
service = "submissions"
listen  = "tcp:{submissions}:interface=127.0.0.1"
{door}
[[listener]]
service = "submission"
listen  = "tcp:{submission}:interface=127.0.0.1"
{door}
[[listener]]
service = "relay"
listen  = "tcp:{relay}:interface=127.0.0.1"
allow   = ["127.0.0.1/32"]
account = "crm"
stream  = "transactional"
{door}
{tables}
"""


def until(condition: Callable[[], Any], seconds: float = 10.0, what: str = "") -> Any:
    """The first true value of ``condition``.  Fails when it has not come in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.005)
    return value


def free_port(interface: str = "0.0.0.0") -> int:
    with socket.socket() as probe:
        probe.bind((interface, 0))
        return int(probe.getsockname()[1])


def certificate(directory: Path, name: str) -> None:
    """A self-signed certificate for ``name`` and 127.0.0.1: NAME.pem and NAME.key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([*map(x509.DNSName, (name, "localhost")), address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / f"{name}.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (directory / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


class Relay:
    """One ``twistd -n relayd`` with its configuration and spool in ``home``."""

    def __init__(
        self, home: Path, tables: str = "", *, node: str = "", door: str = "", spool: Path | None = None
    ) -> None:
        self.home = home
        self.spool = spool or home / "spool"
        self.file = home / "relayd.toml"
        self.log_file = home / "log"
        self.control = str(home / "control.sock")
        ports = set()
        while len(ports) < 3:
            ports.add(free_port("127.0.0.1"))
        self.submissions, self.submission, self.relay = ports
        self.process: subprocess.Popen[bytes] | None = None
        self.certificate = "one.example"
        certificate(home, self.certificate)
        self.write(tables, node=node, door=door)

    def write(self, tables: str, *, node: str = "", door: str = "") -> None:
        """Writes the configuration file.  ``node`` and ``door`` are more lines of those tables."""
        if "[stream." not in tables:
            tables += "\n[stream.transactional]\n"
        values = {name: getattr(self, name) for name in ("submissions", "submission", "relay", "spool")}
        pem, key = self.home / f"{self.certificate}.pem", self.home / f"{self.certificate}.key"
        self.file.write_text(_BASE.format(**values, node=node, door=door, tables=tables, certificate=pem, key=key))

    # The process.

    def spawn(self, *arguments: str) -> "subprocess.Popen[bytes]":
        twistd = str(Path(sys.executable).with_name("twistd"))
        with open(self.log_file, "ab") as log:
            return subprocess.Popen(
                [twistd, "-n", "--pidfile=", "relayd", "--config", str(self.file), *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'console'}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start(self) -> "Relay":
        """Back when the control socket answers, which is the last thing to open."""
        self.process = self.spawn()
        until(self._answers, 30, f"relayd at {self.home} answers")
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"relayd ended with {self.process.returncode}:\n{self.log()[-3000:]}"
        try:
            self.ask("/v1/version")
        except ctl.Unreachable:
            return False
        return True

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """As a power cut does it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self, seconds: float = 20) -> int:
        """SIGTERM; gives the exit code."""
        assert self.process is not None
        process, self.process = self.process, None
        process.terminate()
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def log(self) -> str:
        return self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""

    def memory(self, kind: str = "VmRSS") -> float:
        """Megabytes: VmRSS now, VmHWM the most since the last ``forget_peak``."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{kind}:\s+(\d+) kB", status)
        assert found
        return int(found[1]) / 1024

    def forget_peak(self) -> None:
        assert self.process is not None
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    # The control socket.

    def ask(self, path: str, **given: Any) -> Any:
        """The API's answer.  Raises ctl.Unreachable."""
        _, raw = ctl.ask(self.control, BY_PATH[path], given)
        return json.loads(raw)

    def ctl(self, *words: str) -> tuple[int, str]:
        """relayctl's exit code and what it says."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = ctl.main(["--control", self.control, *words])
        return code, said.getvalue()

    def health(self) -> Any:
        return self.ask("/v1/health")

    def queued(self) -> int:
        return sum(row["count"] for row in self.ask("/v1/queue/list", limit=1000))

    def why(self, domain: str) -> str:
        """What holds the mail of a domain back, "" if none is queued."""
        rows = self.ask("/v1/queue/list", limit=1000)
        return next((row["why"] for row in rows if row["domain"] == domain), "")

    def delivery(self, identity: str) -> Any:
        """The first delivery of a message, as ``inspect`` shows it."""
        return self.ask("/v1/inspect", id=identity)["deliveries"][0]

    def audited(self) -> None:
        """Fails unless ``relayctl audit`` is clean."""
        code, said = self.ctl("audit")
        assert code == 0, said

    def connection(self, login: str = LOGIN, senders: tuple[str, ...] = (SENDER,), **more: Any) -> None:
        """Makes an account's connection."""
        given = {"account": "crm", "sender": list(senders), "password": PASSWORD, **more}
        made = self.ask("/v1/connection/add", login=login, **given)
        assert "error" not in made, made

    # Clients.

    def client(self) -> smtplib.SMTP:
        """A session with the relay listener."""
        made = smtplib.SMTP("127.0.0.1", self.relay, "client.example", timeout=30)
        made.ehlo()
        return made

    def send(self, to: str, content: bytes = b"", *, port: int = 0, sender: str = SENDER) -> str:
        """Sends one message through a relay listener; gives its queue id."""
        with smtplib.SMTP("127.0.0.1", port or self.relay, "client.example", timeout=30) as client:
            return submit(client, to, content or message(), sender)


def submit(client: smtplib.SMTP, to: str, content: bytes, sender: str = SENDER, options: tuple[str, ...] = ()) -> str:
    """One transaction; gives the queue id of its 250."""
    client.ehlo_or_helo_if_needed()
    for code, said in (client.mail(sender, options), client.rcpt(to)):
        assert code == 250, said
    code, said = client.data(content)
    assert code == 250, said
    return queue_id(said)


def queue_id(said: bytes) -> str:
    found = re.search(rb"queued as ([0-9a-f]{16})", said)
    assert found, said
    return found[1].decode()


_number = itertools.count()


def message(body: bytes = b"Hello.\r\n", extra: bytes = b"") -> bytes:
    """A whole message: nothing needs to be added to it but Received."""
    head = b"From: <%s>\r\nTo: <you@example.net>\r\nSubject: Hello\r\n" % SENDER.encode()
    head += b"Date: Sun, 1 Nov 2026 10:00:00 +0000\r\nMessage-ID: <%d@crm.example>\r\n" % next(_number)
    return head + extra + b"\r\n" + body


class Wire:
    """A raw client: what it says and hears is exactly what goes over the wire."""

    def __init__(self, port: int, *, tls: bool = False, host: str = "127.0.0.1", source: str = "") -> None:
        bind = (source, 0) if source else None
        self.socket: socket.socket = socket.create_connection((host, port), 20, bind)
        self.file = self.socket.makefile("rb")
        if tls:
            self.start_tls()

    def start_tls(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket)
        self.file = self.socket.makefile("rb")

    def reply(self) -> bytes:
        """One whole reply, b"" when the peer has closed."""
        lines = []
        while line := self.file.readline():
            lines.append(line)
            if line[3:4] != b"-":
                break
        return b"".join(lines)

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, line: bytes) -> bytes:
        self.say(line + b"\r\n")
        return self.reply()

    def hello(self) -> bytes:
        """Takes the banner, says EHLO; gives its reply."""
        banner = self.reply()
        assert banner.startswith(b"220 "), banner
        return self.ask(b"EHLO client.example")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Peer:
    """A scripted process whose first line of output says that it listens."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        self.said = self._process.stdout.readline().decode().strip()
        assert self.said, f"{arguments} did not start"

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Sink(Peer):
    """A mail server that takes everything and records it (see ``sink``)."""

    def __init__(self, directory: Path, *addresses: str, options: tuple[str, ...] = ()) -> None:
        directory.mkdir(exist_ok=True)
        super().__init__(str(HERE / "sink.py"), str(directory), *options, *(addresses or ("127.0.0.1:0",)))
        self.port = int(self.said.rpartition(":")[2])
        self.via = self.said.rpartition(" ")[2]
        self._lines = open(directory / "messages", "rb")  # noqa: SIM115
        self._contents = open(directory / "contents", "rb")  # noqa: SIM115
        self._known: list[dict[str, Any]] = []

    def messages(self) -> list[dict[str, Any]]:
        """All that has come, each as ``sink.Recorder`` keeps it: time, peer, ehlo, mail, recipients, size, at ..."""
        while True:
            at = self._lines.tell()
            line = self._lines.readline()
            if not line.endswith(b"\n"):
                self._lines.seek(at)
                return self._known
            self._known.append(json.loads(line))

    def to(self, recipient: str) -> list[dict[str, Any]]:
        return [m for m in self.messages() if recipient in m["recipients"]]

    def wait(self, recipient: str, seconds: float = 10) -> dict[str, Any]:
        """The first message to a recipient."""
        found: dict[str, Any] = until(lambda: self.to(recipient), seconds, f"mail for {recipient} arrives")[0]
        return found

    def content(self, found: dict[str, Any]) -> bytes:
        self._contents.seek(found["at"])
        return self._contents.read(found["size"])

    def stop(self) -> None:
        super().stop()
        self._lines.close()
        self._contents.close()


class Names(Peer):
    """A DNS server with a zone (see ``tests/dns_server.py``)."""

    def __init__(self, directory: Path, zone: str, port: int = 0) -> None:
        file = directory / "zone"
        file.write_text(zone)
        super().__init__("-m", "tests.dns_server", str(file), str(port))
        self.address = self.said.rpartition(" ")[2]
        self.port = int(self.address.rpartition(":")[2])
