"""Writing at once: everything arrives, in order, whatever the kernel takes at a time; TLS is never written around."""

from typing import Any

from twisted.internet import epollreactor, protocol, reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import TestCase

from relayd.transport import quicken_loop, send, set_no_delay


class Collecting(protocol.Protocol):
    def __init__(self, done: "Deferred[bytes]") -> None:
        self.data = b""
        self.done = done

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Any = None) -> None:
        self.done.callback(self.data)


class SendTests(TestCase):
    async def test_more_than_the_kernel_takes_at_once_arrives_whole_and_in_order(self) -> None:
        done: Deferred[bytes] = Deferred()
        factory = protocol.Factory.forProtocol(lambda: Collecting(done))  # type: ignore[arg-type]
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        client = protocol.Protocol()
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port), client)
        pieces = [bytes([n % 251]) * (n * 997 % 300_000) for n in range(60)]
        for piece in pieces:
            send(client.transport, piece)
        client.transport.loseConnection()  # type: ignore[union-attr]
        assert await done == b"".join(pieces)

    def test_a_transport_that_is_no_plain_socket_is_written_to_as_ever(self) -> None:
        transport = StringTransport()
        send(transport, b"250 Ok\r\n")
        set_no_delay(object())
        assert transport.value() == b"250 Ok\r\n"

    async def test_a_broken_connection_raises_nothing(self) -> None:
        done: Deferred[bytes] = Deferred()
        factory = protocol.Factory.forProtocol(lambda: Collecting(done))  # type: ignore[arg-type]
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        client = protocol.Protocol()
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port), client)
        transport: Any = client.transport
        transport.socket.shutdown(2)
        send(transport, b"x" * 100)
        transport.abortConnection()
        await done


class Failing(protocol.Protocol):
    def dataReceived(self, data: bytes) -> None:
        raise ZeroDivisionError("a bug")


class LoopTests(TestCase):
    async def test_a_fault_of_one_session_is_logged_and_the_next_one_works(self) -> None:
        self.addCleanup(setattr, epollreactor, "log", epollreactor.log)
        quicken_loop()
        kinds = iter([Failing, lambda: Collecting(done)])
        done: Deferred[bytes] = Deferred()
        factory = protocol.Factory.forProtocol(lambda: next(kinds)())  # type: ignore[arg-type]
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        where = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        gone: Deferred[bytes] = Deferred()
        broken, well = Collecting(gone), protocol.Protocol()
        await connectProtocol(where, broken)
        broken.transport.write(b"x")  # type: ignore[union-attr]
        await gone
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
        await connectProtocol(where, well)
        well.transport.write(b"hello")  # type: ignore[union-attr]
        well.transport.loseConnection()  # type: ignore[union-attr]
        assert await done == b"hello"
