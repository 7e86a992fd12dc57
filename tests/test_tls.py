"""TLS: our certificate shown and changed, and what a handshake agreed on, over real loopback connections."""

import ssl
import subprocess
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet import defer, protocol
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from relayd.tls import ClientTLS, ServerTLS, agreed, failure


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
    assert served.expires == fresh.expires and 29 * 86400 < served.expires - time.time() < 31 * 86400


@pytest.mark.parametrize(
    ("name", "sent"), [("mx.example", b"mx.example"), ("203.0.113.1", None), ("2001:db8::1", None)]
)
def test_a_name_is_told_to_the_peer_and_an_address_is_not(name, sent):
    assert ClientTLS().towards(name, "203.0.113.1", verify=False).clientConnectionForTLS(None).get_servername() == sent


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
        self.reason = reason
        self.told.callback("lost")
        self.gone.callback(None)


class StartTLSTests(TestCase):
    def folder(self) -> Path:
        made = tempfile.TemporaryDirectory()  # trial's own would stay, with a key in it
        self.addCleanup(made.cleanup)
        return Path(made.name)

    async def meet(self, context: Any, served_by: ServerTLS | None = None) -> tuple[str, str]:
        from twisted.internet import reactor

        loop: Any = reactor
        served = Peer(served_by or ServerTLS(*certificate(self.folder())))
        calling = Peer(context)
        port = loop.listenTCP(0, protocol.Factory.forProtocol(lambda: served), interface="127.0.0.1")
        client = protocol.ClientFactory.forProtocol(lambda: calling)
        loop.connectTCP("127.0.0.1", port.getHost().port, client)
        told = [calling.told, served.told]
        words = [await told[0], await told[1]]
        self.lost = calling
        calling.transport.abortConnection()
        await calling.gone
        await served.gone
        await defer.maybeDeferred(port.stopListening)
        return words[0], words[1]

    async def test_both_sides_can_say_what_starttls_agreed_on(self) -> None:
        ours, theirs = await self.meet(ClientTLS().towards("mx.example", "127.0.0.1", verify=False))
        self.assertRegex(ours, r"^TLSv1\.[23] \S+, certificate CN=mx\.example sha256 [0-9a-f]{16}$")
        self.assertEqual(ours.split(",")[0], theirs)

    async def test_a_certificate_of_nobody_known_is_not_accepted_where_it_must_be(self) -> None:
        ours, _ = await self.meet(ClientTLS().towards("mx.example", "127.0.0.1", verify=True))
        self.assertEqual(ours, "lost")
        self.assertIn("certificate verify failed", failure(self.lost.reason.value))

    async def test_a_certificate_of_a_known_authority_and_the_right_name_is_accepted(self) -> None:
        cert, key = certificate(self.folder())
        ours, _ = await self.meet(ClientTLS(cert).towards("mx.example", "127.0.0.1", verify=True), ServerTLS(cert, key))
        self.assertRegex(ours, r"^TLSv1")

    async def test_a_certificate_of_another_name_is_refused_in_words(self) -> None:
        cert, key = certificate(self.folder())
        ours, _ = await self.meet(ClientTLS(cert).towards("mx.other", "127.0.0.1", verify=True), ServerTLS(cert, key))
        self.assertEqual(ours, "lost")
        self.assertEqual(failure(self.lost.reason.value), "the certificate is not of the server's name")


def test_what_is_no_fault_of_tls_has_no_words_of_tls():
    assert failure(OSError("gone")) == ""


def test_a_session_is_resumed_with_the_same_peer_and_no_other(tmp_path: Path):
    cert, key = certificate(tmp_path / "one")
    tls = ClientTLS()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    assert handshake(server, tls, "203.0.113.1") is False
    assert handshake(server, tls, "203.0.113.1") is True
    assert handshake(server, tls, "203.0.113.2") is False


def handshake(server: ssl.SSLContext, tls: ClientTLS, address: str) -> bool | None:
    """A handshake and one exchange in memory, as a session has it; whether the server resumed."""
    inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = server.wrap_bio(inward, outward, server_side=True)
    meeting = tls.towards("mx.example", address, verify=False)
    ours = meeting.clientConnectionForTLS(None)
    ours.set_connect_state()

    def turn(step: Any) -> Any:
        try:
            return step()
        except (ssl.SSLWantReadError, SSL.WantReadError):
            return None

    def hear() -> None:
        if outward.pending:
            ours.bio_write(outward.read())

    for _ in range(4):
        turn(ours.do_handshake)
        inward.write(turn(lambda: ours.bio_read(65536)) or b"")
        turn(theirs.do_handshake)
        hear()
    theirs.write(b"250 Ok")
    hear()
    assert ours.recv(100) == b"250 Ok"
    meeting.over(SimpleNamespace(getHandle=lambda: ours))
    ours.shutdown()  # OpenSSL forgets a session that was cut off
    return theirs.session_reused
