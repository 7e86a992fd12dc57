"""Sockets, as quick as they can be: what leaves now, leaves now.

Twisted puts every write off to the next turn of its loop: three more system calls for each reply.  A session that has
a handful of bytes to say gives them to the kernel at once, and leaves to Twisted what the kernel does not take.
"""

from contextlib import suppress
from typing import Any

from twisted.internet.tcp import Connection


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
