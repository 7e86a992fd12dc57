"""The relays that the clients send to, and the server behind them."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate, serialize_java_truststore
from cryptography.x509 import load_pem_x509_certificate

from tests.e2e.conftest import Stage
from tests.e2e.relay import LOGIN, PASSWORD, SENDER, Relay, Sink

from .kinds import HERE, Client, environment, letter, missing

_number = count(1)


@dataclass(frozen=True)
class Done:
    """What came of a run: to whom it was to go, the exit code, all that was said."""

    to: tuple[str, str, str]
    code: int
    said: str


class House:
    """A relay that takes mail, one whose disk is too full, one that takes two recipients a message, and a sink."""

    def __init__(self, stage: Stage) -> None:
        self.home = stage.home
        self.sink: Sink = stage.sink(options=("--utf8",))
        route = f'[[route]]\ndomain = "*"\nvia = "{self.sink.via}"'
        guesses = 'failures = 1000\nfailures_per_ip = 1000\ndelay = "1ms"\nlongest_delay = "1ms"'  # one a client
        self.relay: Relay = stage.relay(f"{route}\n[login]\n{guesses}").start()
        self.full: Relay = stage.relay(route, node='min_free = "1000000G"').start()
        self.narrow: Relay = stage.relay(route, door="max_recipients = 2").start()
        for relay in (self.relay, self.full, self.narrow):
            relay.connection()

    def run(
        self,
        client: Client,
        relay: Relay,
        *,
        smtps: bool = True,
        port: int = 0,
        trusts: Relay | None = None,
        password: str = PASSWORD,
        sender: str = SENDER,
        author: str = "",
    ) -> Done:
        """Sends the letter to three recipients that no other has.  ``author``: From, where the client is given it; the
        port is the relay's unless given."""
        if why := missing(client.probe):
            pytest.skip(why)
        smtps = smtps and client.smtps
        number = next(_number)
        to = (f"to{number}@example.net", f"copy{number}@example.net", f"hidden{number}@example.net")
        home = self.home / f"c{number}"
        home.mkdir()
        done = subprocess.run(
            (*client.command, *to),
            cwd=HERE,
            env=environment(
                HOME=str(home),
                RELAYD_HOST="localhost",
                RELAYD_PORT=str(port or (relay.submissions if smtps else relay.submission)),
                RELAYD_TLS="implicit" if smtps else "starttls",
                RELAYD_LOGIN=LOGIN,
                RELAYD_PASSWORD=password,
                RELAYD_SENDER=sender,
                **_trusting((trusts or relay).home / "one.example.pem"),
            ),
            input=b"" if client.composes else letter(author or sender, *to),
            capture_output=True,
            timeout=60,
        )
        return Done(to, done.returncode, (done.stdout + done.stderr).decode())


@cache
def _trusting(pem: Path) -> dict[str, str]:
    """What makes clients trust that certificate and no other: OpenSSL's, Node's and Java's way."""
    store = pem.with_suffix(".p12")
    certificate = PKCS12Certificate(load_pem_x509_certificate(pem.read_bytes()), b"relay")
    store.write_bytes(serialize_java_truststore([certificate], BestAvailableEncryption(b"changeit")))
    java = f"-Djavax.net.ssl.trustStore={store} -Djavax.net.ssl.trustStorePassword=changeit"
    return {"SSL_CERT_FILE": str(pem), "NODE_EXTRA_CA_CERTS": str(pem), "JAVA_TOOL_OPTIONS": java}


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(Stage(tmp_path_factory.mktemp("clients"), stack))
