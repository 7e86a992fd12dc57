"""TLS: our certificate shown and changed, and what a handshake agreed on, over real loopback connections."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet import defer, protocol
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from relayd.tls import Opportunistic, ServerTLS, agreed, client_tls


def certificate(directory: Path, name: str = "mx.example") -> tuple[str, str]:
    directory.mkdir(exist_ok=True)
    cert, key = str(directory / "cert.pem"), str(directory / "key.pem")
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    made += ["-keyout", key, "-out", cert, "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run(made, check=True, capture_output=True)
    return cert, key


def test_files_that_cannot_be_used_are_refused(tmp_path: Path):
    cert, key = certificate(tmp_path / "one")
    _, other = certificate(tmp_path / "two")
    with pytest.raises(SSL.Error):
        ServerTLS(cert, other)
    with pytest.raises((SSL.Error, OSError)):
        ServerTLS(str(tmp_path / "none.pem"), key)


def test_a_replaced_certificate_is_the_one_shown_from_then_on(tmp_path: Path):
    served, fresh = (ServerTLS(*certificate(tmp_path / name)) for name in ("one", "two"))
    before = served.getContext()
    served.replace(fresh)
    assert served.getContext() is fresh.getContext() is not before
    assert served.certificate == fresh.certificate


@pytest.mark.parametrize(
    ("name", "sent"), [("mx.example", b"mx.example"), ("203.0.113.1", None), ("2001:db8::1", None)]
)
def test_a_name_is_told_to_the_peer_and_an_address_is_not(name, sent):
    assert Opportunistic(name).clientConnectionForTLS(None).get_servername() == sent


def test_without_tls_nothing_was_agreed_on():
    assert agreed(StringTransport()) == "" and agreed(object()) == ""


@implementer(IHandshakeListener)
class Peer(protocol.Protocol):
    """Starts TLS at once and tells what was agreed on, or how it was lost."""

    transport: Any

    def __init__(self, context: Any) -> None:
        self.context = context
        self.told: defer.Deferred[str] = defer.Deferred()
        self.gone: defer.Deferred[None] = defer.Deferred()

    def connectionMade(self) -> None:
        self.transport.startTLS(self.context)

    def handshakeCompleted(self) -> None:
        self.told.callback(agreed(self.transport))
        self.told = defer.Deferred()

    def connectionLost(self, reason: Any = None) -> None:
        self.told.callback("lost")
        self.gone.callback(None)


class StartTLSTests(TestCase):
    async def meet(self, context: Any) -> tuple[str, str]:
        from twisted.internet import reactor

        loop: Any = reactor
        served = Peer(ServerTLS(*certificate(Path(self.mktemp()))))
        calling = Peer(context)
        port = loop.listenTCP(0, protocol.Factory.forProtocol(lambda: served), interface="127.0.0.1")
        client = protocol.ClientFactory.forProtocol(lambda: calling)
        loop.connectTCP("127.0.0.1", port.getHost().port, client)
        told = [calling.told, served.told]
        words = [await told[0], await told[1]]
        calling.transport.abortConnection()
        await calling.gone
        await served.gone
        await defer.maybeDeferred(port.stopListening)
        return words[0], words[1]

    async def test_both_sides_can_say_what_starttls_agreed_on(self) -> None:
        ours, theirs = await self.meet(client_tls("mx.example", verify=False))
        self.assertRegex(ours, r"^TLSv1\.[23] \S+$")
        self.assertEqual(ours, theirs)

    async def test_a_certificate_of_nobody_known_is_not_accepted_where_it_must_be(self) -> None:
        ours, _ = await self.meet(client_tls("mx.example", verify=True))
        self.assertEqual(ours, "lost")
