"""Sockets, as quick as they can be: what leaves now, leaves now.

Twisted puts every write off to the next turn of its loop: three more system calls for each reply.  A session that has
a handful of bytes to say gives them to the kernel at once, and leaves to Twisted what the kernel does not take.
And the loop makes a logging context for each event on each socket, a fourteenth of a message's CPU, which nobody reads.
"""

from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from twisted.internet import epollreactor
from twisted.internet.tcp import Connection
from twisted.python import log


def send(transport: Any, data: bytes) -> None:
    """Writes; a plain TCP transport with nothing waiting before it is written to on the spot.  Never raises: a
    connection that is broken is told of as ever, through ``connectionLost``."""
    if (
        isinstance(transport, Connection)
        and not transport.TLS
        and transport.connected
        and not transport.disconnecting
        and not transport._tempDataBuffer
        and not transport.dataBuffer
    ):
        with suppress(OSError):  # the kernel's buffer is full, or the connection broken: Twisted finds that out
            data = data[transport.socket.send(data) :]
    if data:
        transport.write(data)


def set_no_delay(transport: Any) -> None:
    """Replies leave at once.  A transport that is no TCP socket has nothing to set."""
    if hasattr(transport, "setTcpNoDelay"):
        transport.setTcpNoDelay(True)


def quicken_loop() -> None:
    """Has the epoll loop call sockets without a logging context of their own; a fault of one is still logged and stops
    no other.  Once for each process; other reactors are left as they are."""
    epollreactor.log = SimpleNamespace(callWithLogger=_call)  # type: ignore[assignment, attr-defined]


def _call(selectable: object, call: Callable[..., object], *args: object) -> None:
    try:
        call(*args)
    except KeyboardInterrupt:
        raise
    except BaseException:
        log.err()  # type: ignore[no-untyped-call]
