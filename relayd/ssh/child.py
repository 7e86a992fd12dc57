"""The console, or relayctl, as a child process of one session.

In: what its person types.  Out: what it shows.  The child runs as the relay's own user, so it is given a socket of its
own: whoever asks there is this person, with the role of the key, until the session ends.  The control socket itself
turns such children away (``ControlService.is_for_another``).
"""

import fcntl
import os
import secrets
import struct
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.conch.ssh.connection import EXTENDED_DATA_STDERR
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from relayd.control.api import ControlService, always
from relayd.control.verb import Relay
from relayd.ssh.channel import Channel, Refused, Size
from relayd.ssh.keys import Person

CONSOLE, RELAYCTL = "relayd_console.app", "relayd.ctl"
SUFFIX = ".ssh-"  # of the control socket's path: the path of a child's
_KEPT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "LC_CTYPE")
_DYING = 2.0  # seconds between the word and the deed
_SIGNALS = {1: "HUP", 2: "INT", 6: "ABRT", 9: "KILL", 11: "SEGV", 13: "PIPE", 15: "TERM"}  # RFC 4254 section 6.10


class Child(ProcessProtocol):
    """An occupant of a channel that is a process.  ``ended`` is called once it is no more."""

    transport: Any

    def __init__(
        self,
        reactor: Any,
        channel: Channel,
        person: Person,
        relay: Relay,
        control: str,
        ended: Callable[["Child"], None],
    ) -> None:
        self._reactor = reactor
        self._channel = channel
        self._person = person
        self._ended = ended
        self._over = False
        self._dying: Any = None
        self._path = f"{control}{SUFFIX}{secrets.token_hex(8)}"
        role = person.role
        known, stranger = always(person.who, role), always(person.who, None)
        self._door = ControlService(
            reactor, self._path, relay, caller=lambda r: (stranger if self._over else known)(r), mode=0o600
        )

    @property
    def process(self) -> int:
        """Its id, 0 once it is gone."""
        return getattr(self.transport, "pid", None) or 0

    def start(self, module: str, words: list[str]) -> None:
        """Raises Refused."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        terminal = {"TERM": self._channel.term} if self._channel.term else {}
        environment = {"LANG": "C.UTF-8", **kept, **terminal}
        environment |= {"RELAYD_CONTROL": self._path, "RELAYD_SSH": self._person.name}
        try:
            self._door.startService()
            # -P: nothing is taken from the directory that the relay happens to run in.
            command = [sys.executable, "-P", "-m", module, *words]
            self._reactor.spawnProcess(self, sys.executable, command, environment, usePTY=bool(self._channel.term))
        except (OSError, RuntimeError, ValueError) as error:
            self._finish()
            raise Refused(f"it could not be started: {error}") from None
        self.resize(self._channel.size)

    # An occupant.

    def take(self, data: bytes) -> None:
        if not self._over:
            self.transport.write(data)

    def no_more(self) -> None:
        if not self._over:
            self.transport.closeStdin()

    def resize(self, size: Size) -> None:
        if self._channel.term and not self._over:
            # The kernel tells the child (SIGWINCH).
            with suppress(OSError):
                packed = struct.pack("4H", size.rows, size.columns, 0, 0)
                fcntl.ioctl(self.transport.fileno(), termios.TIOCSWINSZ, packed)

    def hold(self) -> None:
        if not self._over:
            self.transport.pauseProducing()

    def release(self) -> None:
        if not self._over:
            self.transport.resumeProducing()

    def end(self) -> None:
        """Asks it to end, and sees to it."""
        if not self._over and self._dying is None:
            self._signal("HUP")
            self._dying = self._reactor.callLater(_DYING, self.kill)
            self._writer.unregisterProducer()  # a paused one would keep what is to be closed open
            self.transport.loseConnection()

    def kill(self) -> None:
        if not self._over:
            self._signal("KILL")

    def _signal(self, name: str) -> None:
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess(name)

    # A process.

    def connectionMade(self) -> None:
        self._writer = self.transport if self._channel.term else self.transport.pipes[0]
        self._writer.registerProducer(_Typist(self._channel), True)

    def outReceived(self, data: bytes) -> None:
        self._channel.write(data)

    def errReceived(self, data: bytes) -> None:
        self._channel.writeExtended(EXTENDED_DATA_STDERR, data)

    def processEnded(self, reason: Failure) -> None:
        self._finish()
        status: Any = reason.value
        if status.signal is None:
            self._channel.done(status.exitCode or 0)
        else:
            self._channel.done(signal=_SIGNALS.get(status.signal, "TERM"))

    def _finish(self) -> None:
        self._over = True
        if self._dying is not None and self._dying.active():
            self._dying.cancel()
        self._door.stopService()
        self._ended(self)


class _Typist:
    """The client, as who writes to a child: nothing is read from him while it does not take what he typed."""

    def __init__(self, channel: Channel) -> None:
        self._transport = channel.connection.transport

    def pauseProducing(self) -> None:
        self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._transport.resumeProducing()

    def stopProducing(self) -> None:
        self.resumeProducing()  # the child takes nothing any more, others on the connection do
