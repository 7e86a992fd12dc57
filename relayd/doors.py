"""Doors: everything by which somebody comes in: SMTP listeners, the control socket, the control API over the network,
metrics, the console over SSH.

In: the configuration, at the start and at each reload; those who answer behind each door.  Out: doors that are open, or
none of the new ones with the reason why one cannot be: those that stay are never closed for a moment.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relayd import assembly, config
from relayd.control.api import ControlService
from relayd.control.door import DoorService
from relayd.control.verb import Relay as Controlled
from relayd.delivery.routing import words
from relayd.listener import Comings, ListenerService
from relayd.mailroom import Mailroom
from relayd.metrics import MetricsService
from relayd.metrics.web import Watched
from relayd.reception import Relay
from relayd.tls import ServerTLS

if TYPE_CHECKING:
    from relayd.ssh.server import SSHService


class Doors:
    """See the module.  ``relay`` and ``mailroom`` are behind the listeners, ``operations`` behind what operators come
    in by, ``watched`` behind the metrics; ``comings`` are counted."""

    def __init__(
        self,
        reactor: Any,
        relay: Relay,
        mailroom: Mailroom,
        operations: Controlled,
        watched: Watched,
        comings: Comings,
        tls: ServerTLS | None,
    ) -> None:
        self._reactor = reactor
        self._relay = relay
        self._mailroom = mailroom
        self._operations = operations
        self._watched = watched
        self._comings = comings
        self._tls = tls
        self.listeners: dict[str, ListenerService] = {}
        self.api: DoorService | None = None
        self.metrics: MetricsService | None = None
        self.control: ControlService | None = None
        self.ssh: SSHService | None = None

    def open(self, loaded: config.Config) -> None:
        """At the start.  Raises RuntimeError, OSError, OpenSSL.SSL.Error or ValueError."""
        reactor = self._reactor
        self.listeners = {door.listen: self._listener(loaded, door) for door in loaded.listener}
        if loaded.sandbox:
            self.listeners[loaded.sandbox.listen] = assembly.sandbox(reactor, loaded)
        self.api = assembly.api(reactor, loaded, self._operations)
        self.metrics = self._metrics(loaded)
        self._open([*self.listeners.values(), self.api, self.metrics])
        self.control = ControlService(reactor, loaded.node.control, self._operations, loaded.node.control_group)
        self.control.startService()
        ssh = assembly.ssh(reactor, loaded, self._operations)
        self._open([ssh])
        self._come_in_by(ssh)

    def reopen(self, loaded: config.Config) -> None:
        """At a reload: opens what is new, or raises what ``open`` does and has changed nothing; then closes what is
        gone and tells the others what holds now."""
        wanted = {door.listen: door for door in loaded.listener}
        fresh = {name: self._listener(loaded, door) for name, door in wanted.items() if name not in self.listeners}
        metrics = self.metrics
        if loaded.metrics is None or metrics is None or loaded.metrics.listen != metrics.endpoint:
            metrics = self._metrics(loaded)
        api = assembly.api(self._reactor, loaded, self._operations)
        stays = api is not None and self.api is not None and api.endpoint == self.api.endpoint
        ssh = assembly.ssh(self._reactor, loaded, self._operations) if self.ssh is None else None
        self._open([*fresh.values(), None if stays else api, None if metrics is self.metrics else metrics, ssh])
        for name, door in wanted.items():
            if name in self.listeners:
                assembly.reconfigure(self.listeners[name], self._listener(loaded, door))
        kept = {loaded.sandbox.listen} if loaded.sandbox else set()
        for name in [name for name in self.listeners if name not in wanted and name not in kept]:
            self.listeners.pop(name).stopService()
        self.listeners.update(fresh)
        if metrics is not None and loaded.metrics is not None:
            metrics.allow = loaded.metrics.allow
        before, self.metrics = self.metrics, metrics
        if before is not None and before is not metrics:
            before.stopService()
        self._ask_by(api, stays)
        if self.ssh is None or loaded.ssh is None:
            self._come_in_by(ssh)
        else:
            self.ssh.reconfigure(assembly.ssh_settings(loaded.ssh))

    def names(self) -> list[str]:
        """Of those by which mail comes in, and the API."""
        return [*self.listeners, *([str(self.api.name)] if self.api else [])]

    def warnings(self) -> list[str]:
        return self.ssh.warnings() if self.ssh else []

    def close_listeners(self) -> "list[Deferred[None]]":
        """No more mail; each fires when what was coming in by it is in."""
        return [listener.stopService() for listener in self.listeners.values()]

    async def close(self) -> None:
        """All the others; metrics last, as they say meanwhile that the relay is not ready."""
        if self.ssh is not None:
            await self.ssh.stopService()
        for door in (self.api, self.control):
            if door is not None and (closed := door.stopService()) is not None:
                await closed
        if self.metrics is not None:
            await self.metrics.stopService()

    def _listener(self, loaded: config.Config, door: config.Listener) -> ListenerService:
        made = assembly.listener(self._reactor, loaded, door, self._relay, self._mailroom, self._tls)
        made.factory.comings = self._comings
        return made

    def _metrics(self, loaded: config.Config) -> MetricsService | None:
        asked = loaded.metrics
        return MetricsService(self._reactor, asked.listen, asked.allow, self._watched) if asked else None

    def _ask_by(self, api: DoorService | None, stays: bool) -> None:
        """The control API over the network from now on."""
        if stays and api and self.api:
            self.api.reconfigure(api)
            return
        if self.api:
            self.api.stopService()
        self.api = api

    def _come_in_by(self, ssh: "SSHService | None") -> None:
        """The console over SSH from now on; open already."""
        if self.ssh is not None:
            self.ssh.stopService()
        self.ssh = ssh
        if ssh is not None and self.control is not None:
            self.control.is_for_another = ssh.factory.is_child

    def _open(self, wanted: "Iterable[ListenerService | DoorService | MetricsService | SSHService | None]") -> None:
        """Opens all of them or none.  Raises RuntimeError."""
        doors = [door for door in wanted if door is not None]
        faults: list[str] = []

        def failed(failure: Failure, name: str) -> None:
            faults.append(f"{name} cannot listen: {words(failure)}")

        for door in doors:
            Deferred.fromCoroutine(door.listen()).addErrback(failed, str(door.name))
        if faults:
            for door in doors:
                door.stopService()
            raise RuntimeError("; ".join(faults))
