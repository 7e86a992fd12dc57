"""News by HTTPS to addresses that were checked: whose certificate counts, and that the name is looked up by nobody.

Questions by HTTP are tested by who asks them: ``test_credentials``, ``test_contentfilter``."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from relayd.tls import trust
from relayd.webclient import NoAnswer, Sent, WebClient, words
from tests.hostile.certificates import Authority


@implementer(IOpenSSLServerConnectionCreator)
class Creator:
    def __init__(self, context: Any) -> None:
        self.context = context

    def serverConnectionForTLS(self, protocol: Any) -> Any:
        return SSL.Connection(self.context, None)


class Events(Resource):
    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.got: list[tuple[bytes, bytes]] = []

    def render_POST(self, request: Any) -> bytes:
        self.got.append((request.getHeader("host").encode(), request.content.read()))
        return b"thanks"


class NewsTests(TestCase):
    def setUp(self) -> None:
        self.authority = Authority()
        self.home = TemporaryDirectory()
        self.addCleanup(self.home.cleanup)
        self.events = Events()
        self.asked: list[tuple[str, bool]] = []

    def listen(self, name: str, **more: Any) -> int:
        context = self.authority.context(name, **more)
        factory = TLSMemoryBIOFactory(Creator(context), False, Site(self.events))
        port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    async def tell(self, port: int, host: str = "crm.example", *, known: bool = True) -> Sent:
        async def find(host: str, secure: bool) -> tuple[str, ...]:
            self.asked.append((host, secure))
            return ("127.0.0.1",)

        file = self.authority.write(Path(self.home.name) / "authority.pem") if known else ""
        web = WebClient(reactor, 5.0, trust(file), find=find)
        try:
            url = f"https://{host}:{port}/events".encode()
            return await web.tell(url, Headers({}), b"news")
        finally:
            await web.close()

    async def test_a_trusted_certificate_of_the_name_is_believed_at_the_address_that_was_given(self) -> None:
        port = self.listen("crm.example")
        sent = await self.tell(port)
        self.assertEqual((sent.status, sent.body), (200, b"thanks"))
        self.assertEqual(self.events.got, [(f"crm.example:{port}".encode(), b"news")])
        self.assertEqual(self.asked, [("crm.example", True)])

    async def test_no_other_certificate_is(self) -> None:
        for name, known, days, said in (
            ("other.example", True, 30, "the certificate is not of the server's name"),
            ("crm.example", False, 30, "certificate verify failed"),
            ("crm.example", True, -1, "certificate verify failed"),
        ):
            try:
                await self.tell(self.listen(name, days=days), known=known)
            except Exception as error:
                self.assertIn(said, words(error))
            else:
                self.fail(f"{name} was believed")
        self.assertEqual(self.events.got, [])

    async def test_who_may_not_be_reached_is_not(self) -> None:
        async def find(host: str, secure: bool) -> tuple[str, ...]:
            raise NoAnswer("it is within")

        web = WebClient(reactor, 5.0, trust(""), find=find)
        port = self.listen("crm.example")
        for scheme in ("http", "https"):
            try:
                await web.tell(f"{scheme}://127.0.0.1:{port}/".encode(), Headers({}), b"news")
            except NoAnswer as error:
                self.assertEqual(str(error), "it is within")
            else:
                self.fail("it was reached")
        await web.close()
        self.assertEqual(self.events.got, [])
