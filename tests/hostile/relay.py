"""The delivering half of a relay with nothing left out but the DNS: courier, scheduler and spool on disk, towards
scripted hosts on real sockets."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

from relayd.delivery import Courier
from relayd.delivery.courier import Settings
from relayd.delivery.outcomes import Rules
from relayd.delivery.routing import Policy, Router, StaticRoute
from relayd.delivery.session import Timeouts
from relayd.egress.pools import Pools, Source
from relayd.envelope import Delivery, Edits, Envelope, Message, Recipient, queue_name
from relayd.identity import Identities, day_of, show
from relayd.queue.retry import Schedule
from relayd.queue.scheduler import Scheduler
from relayd.queue.state import Stream
from relayd.records import Entry, Record, decode, encode
from relayd.resolver import MailHost, MailHosts
from relayd.shaping.limits import Limits, Terms
from relayd.spool import Reception, Spool
from relayd.tls import ClientTLS
from tests.harness import outcome_settings
from tests.hostile import peer
from tests.hostile.loop import Loop, sockets
from tests.spool_kit import find_records

STAGE = 20.0  # seconds a peer has for each stage
TIMEOUTS = Timeouts(**dict.fromkeys(Timeouts.__struct_fields__, STAGE) | {"idle": 2.0, "quit": 3.0, "ended": 3.0})
HEAD = b"Subject: one\r\n\r\n"


class Names:
    """The DNS: domain to its mail hosts."""

    def __init__(self) -> None:
        self.domains: dict[str, list[MailHost]] = {}

    def cached_hosts(self, domain: str) -> MailHosts | None:
        return None

    async def hosts(self, domain: str) -> MailHosts:
        hosts = tuple(sorted(self.domains[domain], key=lambda host: host.preference))
        return MailHosts(domain, hosts, 3600.0, "+".join(host.name for host in hosts))


class Relay:
    """See the module.  ``policies``: domain to its policy; ``close`` at the end."""

    def __init__(
        self,
        directory: Path,
        *,
        limit: int = 20,
        sources: dict[str, str] | None = None,
        reports: Any = "none",
        delay_report: float = 4 * 3600.0,
        schedule: Schedule | None = None,
        connect: float = 15.0,
        authorities: str = "",
    ) -> None:
        self.loop = Loop()
        self.limit = limit
        self.spool = Spool(directory, self.loop.callFromThread, lambda fault: None)
        self.names = Names()
        self.policies: dict[str, Policy] = {}
        self.routes: dict[str, StaticRoute] = {}
        sources = sources or {"s1": "127.0.0.1"}
        made = {name: Source(name, (address,), f"{name}.relay.example") for name, address in sources.items()}
        self.pools = Pools(made, {"default": dict.fromkeys(sources, 1)})
        self.identities = Identities(self.spool.last_identity)
        self.scheduler = Scheduler(lambda account, name: Stream(), self.pools, 2000)
        rules = {"bulk": Rules(schedule or Schedule((300.0, 600.0), 86400.0), reports)}
        first = peer.listen(self.loop, 0)
        self.port = first.port.getHost().port
        self.hosts = [first]
        router = Router(self.names, self.routes.get, self.port, self._policy, self.loop.seconds)  # type: ignore[arg-type]
        self.courier = Courier(
            self.loop,
            self.spool,
            self.scheduler,
            self.pools,
            router,
            self.identities,
            Settings(
                outcomes=outcome_settings(rules, delay_report=delay_report),
                client_tls=ClientTLS(authorities),
                timeouts=TIMEOUTS,
                connect=connect,
            ),
            Random(1),
            self.loop.seconds,
        )
        self.courier.startService()
        self.good = self._known("good.example", first)
        self.loop.rest()
        self._calls = len(self.loop.getDelayedCalls())
        self._ours = sockets() - len(self.hosts)  # sockets that are neither of a session nor a host's

    def close(self) -> None:
        stopped: list[Any] = []
        self.courier.stopService().addCallback(stopped.append)
        self.loop.until(lambda: stopped, within=60)
        for host in self.hosts:
            host.port.stopListening()
            for session in list(host.sessions):
                session.reset()
        self.loop.rest()
        stopping = Thread(target=self.spool.stop)  # its own threads have last things to tell
        stopping.start()
        self.loop.until(lambda: not stopping.is_alive())
        self.loop.rest()

    # The world.

    def host(self, domain: str, preference: int = 10, policy: Policy | None = None, **script: Any) -> peer.Host:
        """One more mail server of a domain."""
        made = peer.listen(self.loop, self.port, **script)
        self.hosts.append(made)
        if policy is not None:
            self.policies[domain] = policy
        return self._known(domain, made, preference)

    def known(self, domain: str, name: str, address: str, preference: int = 10) -> None:
        """One more mail server of a domain, whatever is behind its address."""
        self.names.domains.setdefault(domain, []).append(MailHost(name, preference, (address,)))

    def _known(self, domain: str, made: peer.Host, preference: int = 10) -> peer.Host:
        self.known(domain, f"mx{len(self.names.domains.get(domain, [])) + 1}.{domain}", made.address, preference)
        return made

    def _policy(self, domain: str, hosts: tuple[str, ...]) -> Policy:
        return self.policies.get(domain) or Policy("may", Terms(Limits(self.limit)))

    # Mail.

    def send(self, to: str, count: int = 1, **more: Any) -> list[Delivery]:
        """So many deliveries that are on disk, received with their records as any others are."""
        made = [self._send(to, **more) for _ in range(count)]
        self.loop.until(lambda: not self._receiving)
        return made

    _receiving = 0

    def _send(
        self,
        to: str,
        body: bytes = b"hello\r\n",
        notify: str = "",
        orcpt: str = "",
        in_file: bool = False,
        sender: str = "a@crm.example",
        **envelope: Any,
    ) -> Delivery:
        now = self.loop.seconds()
        identity = self.identities.block(now, 1)
        recipient = Recipient(to, notify, orcpt)
        eightbit = not body.isascii()
        said = Envelope(sender, (recipient,), eightbit=eightbit, **envelope)
        message = Message(
            identity, now, "crm", "login", "bulk", said, Edits(), HEAD, None if in_file else body,
            len(HEAD) + len(body),
            eightbit=eightbit,
        )  # fmt: skip
        delivery = Delivery(identity + 1, message, recipient, queue_name("crm", "bulk", to.rpartition("@")[2]), now)
        record = Record("Reception", now, show(identity), account="crm", stream="bulk", recipients=(to,))
        entry = Entry(day_of(identity), "crm", "bulk", "received")
        self._receiving += 1

        def received(fault: Any) -> None:
            assert fault is None
            self._receiving -= 1
            self.courier.received((delivery,))

        if in_file:
            self.spool.bodies.path(identity).write_bytes(body)
        self.spool.receive(Reception(message, (delivery,), encode(record), (entry,)), received)
        return delivery

    # What became of it.

    def asked(self, question: Callable[..., None], *args: Any) -> Any:
        answers: list[Any] = []
        question(*args, answers.append)
        self.loop.until(lambda: answers)
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    def records(self, delivery: Delivery) -> list[Record]:
        """What happened to a delivery, oldest first."""
        lines = self.asked(find_records, self.spool, show(delivery.id).encode())
        found = [record for record in map(decode, lines) if record.delivery == show(delivery.id)]
        shown = [record.evidence.words().replace("\n", "") for record in found if record.evidence]
        assert all(words.isprintable() for words in shown), "bytes of a peer's, unescaped"
        return found

    def last(self, delivery: Delivery) -> Record:
        return self.records(delivery)[-1]

    def settled(self, within: float = 10 * STAGE) -> None:
        """Until no delivery is in memory and no session is left."""
        self.loop.until(lambda: not (self.scheduler.memory.loaded or self.courier.sessions), within=within)

    def passes_good_mail(self) -> None:
        """Mail for another site goes out now: whatever this one's peer does, nobody waits for it."""
        before = len(self.good.got)
        self.send("b@good.example")
        self.loop.until(lambda: len(self.good.got) > before)

    def assert_nothing_left(self) -> None:
        """No session, socket, timer or count outlives the work; the books are right."""
        courier, scheduler = self.courier, self.scheduler
        self.settled()
        self.loop.until(lambda: not any(host.sessions for host in self.hosts), within=10)
        self.loop.wait(2)
        assert not courier.sessions and not courier._closing and not courier._idle
        assert (scheduler.sessions, scheduler.memory.loaded, scheduler.memory.bytes) == (0, 0, 0)
        paths = [path for site in scheduler.sites.values() for path in site.paths.values()]
        assert all((p.sessions, p.opening, p.idle, len(p.ready)) == (0, 0, 0, 0) for p in paths)
        assert courier.outcomes.unanswered == 0
        assert len(self.loop.getDelayedCalls()) == self._calls
        assert sockets() - sum(1 for host in self.hosts if host.port.connected) == self._ours
        assert not self.loop.real.getDelayedCalls()
        found = self.asked(self.spool.audit)
        assert found.clean, found.faults
