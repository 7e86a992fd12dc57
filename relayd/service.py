"""A relay, from its configuration to a running ``twistd`` service: what it is made of, in the order in which it starts.

``twistd relayd --config FILE`` calls ``makeService``.  ``Node`` starts the rooms from the disk outwards (spool,
directory, resolver, courier, listeners, control socket) and stops them the other way round.  It is also what the
control API's verbs talk to.
"""

import faulthandler
import gc
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, TimeoutError
from twisted.internet.error import ReactorNotRunning
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure

from relayd import __version__, assembly, config, inquiry
from relayd.backup import Backup, BackupError, Progress
from relayd.blocklists import Blocklists
from relayd.control.api import ControlService
from relayd.control.door import DoorService
from relayd.credentials import HTTPChecker, asking
from relayd.database import Pause
from relayd.delivery import Courier, Jobs
from relayd.delivery.generated import REPORTER
from relayd.delivery.routing import words
from relayd.delivery.sources import check_sources
from relayd.destinations import Destinations
from relayd.directory import AccountStream, Change, Directory, SenderDomain, Verifier
from relayd.domainwatch import DomainWatch
from relayd.echoes import Event
from relayd.envelope import Delivery, Message, queue_name
from relayd.errors import InputError
from relayd.events import Event as HistoryEvent
from relayd.exports import Exports
from relayd.feeds import Feeds
from relayd.guard import Guard
from relayd.history import Found, Hit, Indexer, Query
from relayd.identity import DAY, Identities
from relayd.lease import Lease
from relayd.listener import Comings, ListenerService
from relayd.mailroom import Mailroom
from relayd.metrics import EventCounts, MetricsService
from relayd.notices import Notices
from relayd.pulse import pulse
from relayd.purse import Purse
from relayd.queue.scheduler import Scheduler
from relayd.queue.state import Queue
from relayd.reception import Relay, Screen
from relayd.reputation import BY, Reputation, Turn, named
from relayd.resolver import Resolver
from relayd.returnpath import marks
from relayd.sessions import Filter, Sessions
from relayd.shaping.reactions import Active, Key, Reactions
from relayd.shaping.rules import Rules
from relayd.signing import WORKERS, Crew, Keyring, Signer
from relayd.spool import Checkpoint, Spool, SpoolError
from relayd.spool.actions import Job
from relayd.statistics import Figures, Statistics
from relayd.stops import Stops, Target
from relayd.streams import Streams, shown
from relayd.suppression import Lesson, Suppressions
from relayd.suspects import Suspects
from relayd.suspicion import Dismissal, Suspicion
from relayd.tls import ServerTLS
from relayd.traces import Traces
from relayd.transport import quicken_loop
from relayd.validation import read_traps
from relayd.verification import Subject, returns_to
from relayd.waiting import asked, ended
from relayd.warmup import Warmup
from relayd.watchdog import EVERY, Heart, Sign, Systemd, Watchdog
from relayd.webhooks.sender import Webhooks
from relayd.workers import Workers

if TYPE_CHECKING:
    from relayd.ssh.server import SSHService

_SWITCH = (
    0.0005  # seconds a thread waits for the GIL beside a busy reactor: with Python's 5 ms a commit takes far too long
)
_COLLECT = (20_000, 20, 50)  # allocations between collections: a message makes hundreds of objects and few cycles
_STALLED = 15.0  # seconds without a sign of life from the writer
_RETURNED = 5.0  # seconds that a stop waits for leases to return; what does not, returns at the next start
_STILL = 30.0  # seconds that a backup waits for the moment in which nothing is committed
_SOURCES = 30  # seconds between looks at the sources' addresses


class Options(usage.Options):
    """The command line of ``twistd relayd``."""

    synopsis = "[options]"
    longdesc = """Runs the relay that FILE describes.

    Examples:  twistd -n relayd --config /etc/relayd/relayd.toml
               twistd relayd --config /etc/relayd/relayd.toml --check
    """
    optParameters: ClassVar = [
        ["config", "c", "/etc/relayd/relayd.toml", "The configuration file; conf.d/*.toml beside it is read too"]
    ]
    optFlags: ClassVar = [["check", None, "Check the configuration, say what is wrong with it, and exit"]]

    def postOptions(self) -> None:
        try:
            self.loaded = config.load(self["config"])
        except config.ConfigError as error:
            print(error, file=sys.stderr)
            raise SystemExit(1) from None
        if self["check"]:
            faults = assembly.signing(self.loaded, prove=True).faults
            for domain, fault in faults.items():
                print(f"{self['config']}: dkim.{domain}: {fault}", file=sys.stderr)
            strangers = assembly.ssh_faults(self.loaded)
            for fault in strangers:
                print(f"{self['config']}: ssh.authorized_keys: {fault}", file=sys.stderr)
            if faults or strangers:
                raise SystemExit(1)
            print(f"{self['config']}: all is well")
            raise SystemExit(0)


def makeService(options: Options) -> Service:
    """What the plugin hands to twistd."""
    from twisted.internet import reactor

    return Node(reactor, Path(options["config"]), options.loaded)


class Node(Service):
    """The running relay."""

    log = Logger()

    def __init__(self, reactor: Any, path: Path, loaded: config.Config, wall: Callable[[], float] = time.time) -> None:
        self.setName("relayd")
        self.reactor = reactor
        self.path = path
        self.config = loaded
        self._routes = config.Routes(loaded.route)
        self.destinations = Destinations(loaded)
        self.now = wall
        self.started = 0.0
        self.spool_fault = ""
        self.space_fault = ""
        self.balance_fault = ""
        self.reload_fault = ""
        self.auth_fault = ""
        self.history_fault = ""
        self.export_fault = ""
        self.backup: Backup | None = None
        self.stopping = False
        self.free = 0  # bytes where the spool lies
        self.depth: tuple[int, float] | None = None  # what metrics.Watched says
        self.events = EventCounts()
        self.comings = Comings()
        self.heart = Heart()
        self.systemd = Systemd()
        self.watchdog: Watchdog | None = None
        self._beating = pulse(reactor, self.heart.beat)
        self._ticks = 0
        self._ticker = pulse(reactor, self._tick)

    # Start and stop.

    def startService(self) -> None:
        """Raises SystemExit with a sentence for the operator."""
        super().startService()
        sys.setswitchinterval(_SWITCH)
        quicken_loop()
        gc.freeze()  # modules and classes are there for good: no collection need look at them again
        gc.set_threshold(*_COLLECT)
        try:
            self._start()
        except (SpoolError, RuntimeError, OSError, SSL.Error, ValueError) as error:
            self.log.critical("relayd cannot start: {fault}", fault=str(error))
            raise SystemExit(f"relayd cannot start: {error}") from None

    def _start(self) -> None:
        loaded, reactor, post = self.config, self.reactor, self.reactor.callFromThread
        self.started = self.now()
        self.tls = ServerTLS(loaded.tls.certificate, loaded.tls.key) if loaded.tls else None
        self.spool = Spool(Path(loaded.node.spool), post, self._spool_fault, assembly.records_kept(loaded))
        directory = Path(loaded.node.spool) / "directory.sqlite"
        self.directory = Directory(directory, post, loaded.accounts(), self.now())
        self.directory.tokens.configure(loaded.feedback.accept)
        self.purse = Purse(self.directory.balances, self.spool, self._balance_fault)
        self.purse.start(self.now())
        self.warmup = Warmup(self.directory.warmups.stored, self.directory.warmups.keep)
        self.warmup.configure(loaded.warming())
        self.reactions = Reactions(Rules(), self.directory.reactions.before)
        self.keep_reactions((), self.reactions.reconfigure(Rules(loaded.reaction.values())))
        reputations = self.directory.reputations
        self.reputation = Reputation(reputations.stored, reputations.keep, self.directory.lineage)
        self._judge_by(loaded)
        self.suppressions = Suppressions(Path(loaded.node.spool) / "suppression.sqlite", post)
        self.suppressions.remember = loaded.feedback.accept
        self._scrypt = ThreadPoolExecutor(2, "scrypt")
        self.guard = Guard(assembly.guard_settings(loaded))
        self.verifier = Verifier(self._password_of, self._scrypt.submit, post, reactor.seconds, self._renew_hash)
        self.checker: HTTPChecker | None = None
        self._ask_at(assembly.checker(reactor, loaded), loaded)
        self.streams = Streams(self.directory, loaded)
        self.streams.slowed = self.reputation.layers
        self.keyring = Keyring(self.directory.domain_keys, self.directory.lineage, self.streams.defers)
        self.keyring.rules = assembly.signing(loaded)
        self.lists = assembly.validation_lists(loaded)
        self._signing = Crew(WORKERS, "signer")
        signer = Signer(self.keyring, self._signing.submit, post)
        self.resolver = Resolver(reactor, assembly.resolver_settings(loaded), is_ours=self._is_ours)
        self.domains = DomainWatch(
            reactor,
            self.directory.senders,
            self.resolver,
            self._judged,
            self._is_checked,
            lambda lines, done: self.spool.keep_records(lines, (), done),
            self.now,
            random.Random(),
        )
        self.blocklists = Blocklists(reactor, self.resolver, self._heed_drains)
        assembly.configure_blocklists(self.blocklists, loaded)
        self.pools = assembly.pools(loaded)
        self.pools.drained = self._drained()
        check_sources(self.pools)
        self.scheduler = Scheduler(
            self.streams.scheduling, self.pools, loaded.egress.sessions, self.reactions, self.warmup
        )
        self.scheduler.rest = loaded.egress.rest
        self.scheduler.limiter.left = self.reputation.of_source
        identities = Identities(self.spool.last_identity)
        self.courier = Courier(
            reactor,
            self.spool,
            self.scheduler,
            self.pools,
            assembly.router(loaded, self.resolver, reactor.seconds),
            identities,
            assembly.courier_settings(loaded, self.streams),
            random.Random(),
            self.now,
            signer,
            self.suppressions,
            self._lists_of,
        )
        self.sessions = Sessions(lambda: self.listeners.values(), self.courier, self.directory.lineage, self.now)
        self.stops = Stops(
            reactor,
            self.directory,
            self.spool,
            self.courier,
            self.sessions,
            self.reputation,
            self._heed_drains,
            lambda: self.config.provider,
            self.now,
        )
        self.traces = Traces(self.sessions, lambda: self.listeners.values(), self.courier, self.now)
        self.directory.drains.changed = self._heed_drains
        self.directory.shaped = self._heed_shaping
        self._summaries = inquiry.Summaries(reactor, self.spool, self.courier, self.now)
        self.courier.reacted = self._reacted
        self.courier.reputation = self.reputation
        self.reputation.changed = self._turned
        self.warmup.woken = self._warmed
        self.courier.outcomes.refunds = self.directory.balances.refunds
        self.courier.outcomes.heard = self.heard
        self.courier.delivered = self._redeem
        self.mailroom = Mailroom(
            self.spool,
            self.suppressions,
            self.courier.outcomes,
            lambda: self.directory.tokens.keys,
            lambda: self.courier.classifier,
            self.streams.finding,
            lambda host: self.destinations.provider((host,)) or host,
            self.heard,
            self.courier.received,
            self.now,
            post,
        )
        self.relay = Relay(
            loaded.node.name,
            self.spool,
            self.directory,
            self.verifier,
            self,
            identities,
            self.now,
            self.streams,
            Screen(self.suppressions, lambda: self.lists, self.resolver, self._is_routed, self.now),
            self.purse,
            signer,
            self.guard,
            reactor.callLater,
        )
        self.relay.on_received = self.courier.received
        self.relay.returns = self._returns_to
        self.courier.marks = lambda delivery: marks(delivery, self.directory.tokens.keys)
        self.relay.reputation = self.reputation
        self.relay.filter = assembly.content_filter(reactor, loaded)
        self.notices = Notices(
            self.directory,
            self.spool,
            identities,
            loaded.node.name,
            lambda: self.config.node.default_stream,
            self.courier.received,
        )
        self.suspects = self._watch_senders(loaded) if loaded.suspicion.enabled else None
        self.relay.suspicion = self.suspicion
        self.webhooks = self._post_events(loaded)
        self.jobs = Jobs(reactor, self.courier, lambda: self.config.queue.recycle, self._job_ended)
        self.indexer = self._follow_records(loaded, post)
        self.feeding = self._feed(loaded, post)
        self.workers = Workers(loaded.node.spool, loaded.node.name, post)
        self.exports = Exports(
            Path(loaded.node.spool),
            loaded.node.name,
            assembly.export_settings(loaded),
            self.spool.free_bytes,
            post,
            self._export_fault,
            self.now,
        )
        self.exports.start()
        self.listeners = {door.listen: self._listener(loaded, door) for door in loaded.listener}
        if loaded.sandbox:
            self.listeners[loaded.sandbox.listen] = assembly.sandbox(reactor, loaded)
        self.api = assembly.api(reactor, loaded, self)
        self.metrics = self._metrics(loaded)
        self._open([*self.listeners.values(), self.api, self.metrics])
        self.control = ControlService(reactor, loaded.node.control, self, loaded.node.control_group)
        self.control.startService()
        self.ssh: SSHService | None = None
        ssh = assembly.ssh(reactor, loaded, self)
        self._open([ssh])
        self._come_in_by(ssh)
        self.courier.startService()
        self.webhooks.startService()
        self.jobs.start()
        self.domains.startService()
        self.blocklists.startService()
        self._ticker.start(1.0)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, lambda *_: post(self._hang_up))
        reactor.callWhenRunning(self._running)
        self.log.info(
            "relayd is up as {name}: {queued} deliveries queued, listening on {doors}",
            name=loaded.node.name,
            queued=self.spool.queued_at_start,
            doors=", ".join([*self.listeners, *([str(self.api.name)] if self.api else [])]),
        )

    def _watch_senders(self, loaded: config.Config) -> Suspects:
        return Suspects(
            assembly.suspicion_settings(loaded),
            Path(loaded.node.spool) / "suspicion",
            self.directory,
            self.notices,
            loaded.node.name,
            self.reactor.callFromThread,
            self.now(),
        )

    def _follow_records(self, loaded: config.Config, post: Callable[..., None]) -> Indexer:
        """What is made of records once they are in their segments: history, figures, word to those who follow them."""
        spool = Path(loaded.node.spool)
        self.counting = assembly.counting(loaded)
        self.archive = inquiry.Archive(spool, loaded.node.name, lambda: self.counting, self.now)
        indexer = Indexer(
            spool,
            lambda: Statistics(spool / "statistics.sqlite", lambda: self.counting, self.now, self.events.count),
            lambda to: self.spool.advance("history", to),
            lambda whose: post(self._came, whose),
            lambda fault: post(self._history_fault, fault),
            self.now,
        )
        self.spool.mover.moved = indexer.wake
        indexer.start()
        return indexer

    def _post_events(self, loaded: config.Config) -> Webhooks:
        settings, trust = assembly.webhook_settings(loaded)
        return Webhooks(
            self.reactor,
            self.directory,
            Path(loaded.node.spool),
            loaded.node.name,
            self.resolver.addresses,
            self.notices.tell,
            lambda segment: self.spool.advance("webhooks", Checkpoint(segment)),
            settings,
            trust,
            self.now,
            random.Random(),
        )

    def _feed(self, loaded: config.Config, post: Callable[..., None]) -> Feeds:
        """Events as they come, to files and to Redis."""

        def told(name: str, fault: str) -> None:
            post(partial(self.log.error, "feed {name}: {what}", name=name, what=fault or "it goes on"))

        feeds = Feeds(self.reactor, self.spool, loaded.node.name, told, self.now)
        feeds.start(assembly.feeds(loaded))
        indexed = self.spool.mover.moved

        def moved() -> None:
            indexed()
            feeds.wake()

        self.spool.mover.moved = moved
        return feeds

    def feeds(self) -> list[tuple[str, float, str]]:
        """Of each feed: its name, how many seconds it is behind, and what is wrong with it."""
        return self.feeding.faults()

    def _export_fault(self, fault: str) -> None:
        if fault and fault != self.export_fault:
            self.log.error("{what}", what=fault)
        self.export_fault = fault

    def _came(self, whose: set[tuple[str, str]]) -> None:
        """There are events of these accounts and connections which can be found from now on."""
        self.webhooks.came(whose)

    def _history_fault(self, fault: str) -> None:
        if fault != self.history_fault:
            self.log.error("{what}", what=fault or "History and statistics go on")
        self.history_fault = fault

    def _running(self) -> None:
        """The main loop turns."""
        self._on_sigterm()
        if sys.__stderr__ is not None and not faulthandler.is_enabled():
            faulthandler.enable(sys.__stderr__)  # SIGABRT, which systemd's watchdog sends, shows all threads' stacks
        self.heart.last = time.monotonic()
        self._beating.start(EVERY)
        threads: dict[str, Sign] = {"the spool's writer": self.spool.writer, "the spool's mover": self.spool.mover}
        self.watchdog = Watchdog(self.heart, threads, self.systemd, threading.get_ident())
        self.watchdog.start()
        self.systemd.tell("READY=1")

    def _on_sigterm(self) -> None:
        """A stop that was asked for ends with exit code 0; twistd's own handler ends by the signal."""

        def stop() -> None:
            with suppress(ReactorNotRunning):  # a second signal while the first one's stop is under way
                self.reactor.stop()

        signal.signal(signal.SIGTERM, lambda *_: self.reactor.callFromThread(stop))

    def _ask_by(self, api: DoorService | None, stays: bool) -> None:
        """The control API over the network from now on."""
        if stays and api and self.api:
            self.api.reconfigure(api)
            return
        if self.api:
            self.api.stopService()
        self.api = api

    def _listener(self, loaded: config.Config, door: config.Listener) -> ListenerService:
        made = assembly.listener(self.reactor, loaded, door, self.relay, self.mailroom, self.tls)
        made.factory.comings = self.comings
        return made

    def _metrics(self, loaded: config.Config) -> MetricsService | None:
        asked = loaded.metrics
        return MetricsService(self.reactor, asked.listen, asked.allow, self) if asked else None

    def _come_in_by(self, ssh: "SSHService | None") -> None:
        """The console over SSH from now on; open already."""
        if self.ssh is not None:
            self.ssh.stopService()
        self.ssh = ssh
        if ssh is not None:
            self.control.is_for_another = ssh.factory.is_child

    def _open(self, wanted: "Iterable[ListenerService | DoorService | MetricsService | SSHService | None]") -> None:
        """Opens all of them or none.  Raises RuntimeError."""
        listeners = [listener for listener in wanted if listener is not None]
        faults: list[str] = []

        def failed(failure: Failure, name: str) -> None:
            faults.append(f"{name} cannot listen: {words(failure)}")

        for listener in listeners:
            Deferred.fromCoroutine(listener.listen()).addErrback(failed, str(listener.name))
        if faults:
            for listener in listeners:
                listener.stopService()
            raise RuntimeError("; ".join(faults))

    def stopService(self) -> "Deferred[None]":
        """Takes no more mail, finishes what is in flight within the drain time, makes everything durable."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.stopping = True
        self.systemd.tell("STOPPING=1")
        self.log.info(
            "relayd is stopping: no new mail, up to {drain:.0f} s for what is in flight", drain=self.config.node.drain
        )
        if self._ticker.running:
            self._ticker.stop()
        ending = [listener.stopService() for listener in self.listeners.values()]
        posted = self.webhooks.stopService()
        await DeferredList([*ending, self.courier.stopService()], consumeErrors=True)
        await self.jobs.stop()
        self.domains.stopService()
        self.blocklists.stopService()
        self.relay.flush_rejections()
        await self._return_leases()
        if self.ssh is not None:
            await self.ssh.stopService()
        for stopped in (self.api.stopService() if self.api else None, self.control.stopService()):
            if stopped is not None:
                await stopped
        if self.metrics is not None:  # so late, as it says meanwhile that the relay is not ready
            await self.metrics.stopService()
        await DeferredList([posted], consumeErrors=True)
        self.resolver.close()
        if self.checker is not None:
            self.checker.close()  # not waited for: that would be for the other side to say when
        if self.relay.filter is not None:
            self.relay.filter.close()
        threads = self.reactor.getThreadPool()
        if (
            self.watchdog is not None
        ):  # from here on threads end as they should; systemd's patience with a stop is its own
            self.watchdog.stop()
            await deferToThreadPool(self.reactor, threads, self.watchdog.join)
        try:
            await deferToThreadPool(self.reactor, threads, self.warmup.stop().result, _RETURNED)
        except Exception as error:
            self.log.warn("Where warm-ups stand was not written, all that was granted counts: {e}", e=str(error))
        try:
            await deferToThreadPool(self.reactor, threads, self.reputation.stop().result, _RETURNED)
        except Exception as error:
            self.log.warn("What reputation counted last was not written: {e}", e=str(error))
        if self.suspects is not None:
            await deferToThreadPool(self.reactor, threads, self.suspects.stop)
        await deferToThreadPool(self.reactor, threads, self.workers.stop)
        await deferToThreadPool(self.reactor, threads, self.exports.stop)
        await deferToThreadPool(self.reactor, threads, self.feeding.stop)
        if self.backup is not None:
            self.backup.stop()
            await deferToThreadPool(self.reactor, threads, self.backup.join)
        self.indexer.stop()
        await deferToThreadPool(self.reactor, threads, self.indexer.join)
        await deferToThreadPool(self.reactor, threads, self.archive.stop)
        await deferToThreadPool(self.reactor, threads, self.spool.stop)
        await deferToThreadPool(self.reactor, threads, self._scrypt.shutdown)
        await deferToThreadPool(self.reactor, threads, self._signing.stop)
        await deferToThreadPool(self.reactor, threads, self.mailroom.stop)
        await deferToThreadPool(self.reactor, threads, self.suppressions.close)
        self.directory.close()
        if self._beating.running:
            self._beating.stop()
        gc.unfreeze()  # for a process that goes on without it
        self.log.info("relayd has stopped: everything accepted is on disk")

    async def _return_leases(self) -> None:
        returned: Deferred[None] = Deferred()
        self.purse.stop(self.now(), lambda: returned.callback(None))
        try:
            await returned.addTimeout(_RETURNED, self.reactor)
        except TimeoutError:
            self.log.warn("The leases of balances did not return in time; they will at the next start")

    # What the world says of what we sent.

    def heard(self, event: Event) -> None:
        """Every failed attempt, and all that came back later and counts, passes by here."""
        finding = None if event.late else self.streams.finding(event)  # what came back late has been learnt from
        if finding is not None:
            self.suppressions.learn(Lesson(finding), event.time)
        if event.late:
            self._hold_against(event)

    def _hold_against(self, event: Event) -> None:
        """What comes back late is nobody's outcome any more, and counts against who sent it all the same."""
        nobody = event.kind == "bounced" and event.cls == "recipient_unknown"
        if event.kind == "complaint" or nobody:
            who = (event.source, event.group, event.account, event.client, event.connection, f"@{event.domain}")
            self.reputation.event(who, "unknown" if nobody else "complaint", event.time)
        if event.kind == "complaint" and self.warmup.plan_of(event.source):
            self.warmup.outcome(event.source, event.group, "complaint", event.time)

    def _redeem(self, delivery: Delivery) -> None:
        """A success of somebody against whom something was said."""
        message = delivery.message
        self.suppressions.redeem(self.streams.bounces(message.account, message.stream), delivery.recipient.address)

    # The pulse.

    def _tick(self) -> None:
        self._ticks += 1
        self.relay.flush_rejections()
        self.purse.tick(self.now())
        self.warmup.tick(self.now())
        self.reputation.tick(self.now())
        self.stops.tick()
        self.traces.tick()
        self.jobs.tick()
        try:
            free = self.free = self.spool.free_bytes()
            short = free < self.config.node.min_free
            fault = (
                f"only {free >> 20} MB are free where the spool lies, [node] min_free asks for more" if short else ""
            )
        except OSError as error:
            fault = f"the spool's disk cannot be asked for its free space: {error}"
        if bool(fault) != bool(self.space_fault):
            self.log.warn("{what}", what=fault or "There is enough space for the spool again")
        self.space_fault = fault
        self._look_at_threads()
        self.suppressions.sweep(self.now())
        if self.suspects is not None:
            self.suspects.tick(self.now())
        if ended := self.reactions.tick(self.now()):
            self._reacted((), ended)
        if self._ticks % _SOURCES == 0 and check_sources(self.pools):
            self.scheduler.source_back(self.now())
            self.courier.perform()

    def _look_at_threads(self) -> None:
        """What has broken down stays so, whatever else says meanwhile that all is well."""
        if self.spool.writer.broken:
            self._spool_fault(None)
        if self.watchdog is not None:
            totals, health = self.courier.outcomes.totals, self.health()
            self.watchdog.status = "; ".join(
                (
                    "stopping" if self.stopping else health["faults"][0] if health["faults"] else "taking mail",
                    f"{totals['delivered']} delivered, {totals['transient']} deferred, {totals['permanent']} bounced",
                )
            )

    def _job_ended(self, job: Job) -> None:
        """The trail tells what came of it; who began it is there already."""
        what = {"job": job.id, "undoes": job.undoes, "done": job.done, "under_way": job.busy, "reason": job.reason}
        said = {key: value for key, value in what.items() if value is not None}
        verb = "job undo" if job.action == "undo" else f"queue {job.action}"
        noted = self.directory.note(Change(self.now(), job.who, verb, said, job.fault or job.state))

        def kept(done: "Future[Any]") -> None:
            if fault := done.exception():
                self.log.error("What became of job {id} is not in the trail: {f}", id=job.id, f=str(fault))
            else:
                self.jobs.noted(job)

        noted.add_done_callback(kept)

    def _drained(self) -> dict[str, str]:
        """By operators, who drain or block them, and by blocklists, which know nothing of one another."""
        asked = {row.source: f"{row.reason} ({row.by})" for row in self.directory.drains.all()}
        blocked = {name: f"{row.reason} ({row.by})" for name, row in self.directory.blocks.sources.items()}
        return {**self.blocklists.drained(), **asked, **blocked}

    def _heed_drains(self) -> None:
        """What was ready for a source drained now goes by others; what waited for one drained no more, goes."""
        before, self.pools.drained = self.pools.drained, self._drained()
        now = self.now()
        for name in sorted(self.pools.drained.keys() - before.keys()):
            self.scheduler.source_gone(name, now)
        if before.keys() - self.pools.drained.keys():
            self.scheduler.source_back(now)
        self.courier.perform()

    def _heed_shaping(self) -> None:
        """An account's own limits have changed."""
        self.scheduler.relimited(self.now())
        self.courier.perform()

    def _reacted(self, began: tuple[Active, ...], ended: tuple[Active, ...]) -> None:
        """Reactions began or gave way: from now on they bear on what goes out."""
        now = self.now()
        for reaction in began:
            self.log.warn("{whom}: {what}", whom=reaction.whom, what=reaction.words(now))
        self.keep_reactions(began, ended)
        self.scheduler.reshaped((*began, *ended), now)

    def _warmed(self, places: list[tuple[str, str]]) -> None:
        """Sources in warm-up may send more to these groups."""
        self.scheduler.warmed(places, self.now())
        self.reactor.callLater(0, self.courier.perform)

    def _judge_by(self, loaded: config.Config) -> None:
        """What is too much from now on."""
        self.reputation.configure(loaded.reputation)
        self.reputation.traps = read_traps(loaded.reputation.traps)

    def _turned(self, turn: Turn) -> None:
        """Somebody is held back, or no more: from now on it bears on what comes in and goes out."""
        kind, name = turn.key
        self.log.warn("{what}", what=turn.words)
        if turn.by == BY:
            done = "done" if turn.acts == turn.step else "reported"
            what = {"subject": named(turn.key), "reason": turn.why}
            self._kept(self.directory.note(Change(self.now(), BY, f"reputation {turn.step}", what, done)))
        account = self._owner(kind, name)
        if account and (turn.acts != "good" or turn.step == "good"):
            self._tell(account, turn)
        self.directory.version += 1  # what sessions and streams know of it is not true any more
        self.stops.look()
        if kind == "connection":
            self._heed_connection(name, turn)
        elif kind == "source":
            source, _, group = name.partition("/")
            self.scheduler.reshape(source, group, self.now())
        elif kind == "account":
            below = {row.name for row in self.directory.accounts() if name in self.directory.lineage(row.name)}
            self.scheduler.restrain(below, self.now())
        self.reactor.callLater(0, self.courier.perform)

    def _heed_connection(self, login: str, turn: Turn) -> None:
        """A connection that reputation blocks is blocked for everybody to see, and active again when it is released."""
        row = self.directory.connection(login)
        if row is None:
            return
        if turn.acts == "block" and row.state == "active":
            blocked = self.directory.change_connection(login, state="blocked", reason=turn.why, by=BY)
            self._kept(blocked)
        elif turn.acts != "block" and row.state == "blocked" and row.by == BY:
            self._kept(self.directory.change_connection(login, state="active", reason="", by=turn.by))

    def _kept(self, done: "Future[Any]") -> None:
        def kept(done: "Future[Any]") -> None:
            if fault := done.exception():
                self.log.error("What reputation changed is not on disk: {fault}", fault=str(fault))

        done.add_done_callback(kept)

    def _owner(self, kind: str, name: str) -> str:
        """The account that a subject is, or belongs to; "" for those that are nobody's."""
        if kind == "connection":
            row = self.directory.connection(name)
            return row.account if row else ""
        return name.partition("/")[0] if kind in ("account", "client") else ""

    def _tell(self, account: str, turn: Turn) -> None:
        whom, node = named(turn.key), self.config.node.name
        lines = [f"What {node} sends in your name is judged by what becomes of it.", "", f"  {turn.words}"]
        if turn.step != "good":
            lines += ["", "It is held back less by itself when what it sends is clean again."]
        kind, name = turn.key
        of = {"connection": name} if kind == "connection" else {"client": name.partition("/")[2]}
        self.notices.tell(account, f"{whom}: {turn.step}", lines, turn.words, self.now(), **of)

    def keep_reactions(self, began: tuple[Active, ...], ended: tuple[Active, ...]) -> None:
        """Those that began or went on and those that ended, to the directory: after a restart they hold still."""
        if not (began or ended):
            return

        def kept(done: "Future[None]") -> None:
            if fault := done.exception():
                self.log.error("Reactions are not on disk: {fault}", fault=str(fault))

        self.directory.reactions.keep(began, ended).add_done_callback(kept)

    def _spool_fault(self, fault: str | None) -> None:
        fault = self.spool.writer.broken or fault
        if (fault or "") != self.spool_fault:
            self.log.error("{what}", what=fault or "The spool can be written again")
        self.spool_fault = fault or ""

    def _balance_fault(self, fault: str | None) -> None:
        self.log.error("{what}", what=fault or "Balances can be asked for again")
        self.balance_fault = fault or ""

    def _lists_of(self, message: Message) -> tuple[str, ...]:
        """The suppression lists that stop a message; a report to its sender is stopped by none."""
        if message.connection == REPORTER:
            return ()
        return self.streams.lists(message.account, message.stream, message.connection)

    def _password_of(self, login: str) -> str:
        connection = self.directory.connection(login)
        return connection.password if connection else ""

    def _renew_hash(self, login: str, old: str, new: str) -> None:
        def done(renewed: "Future[Any]") -> None:
            if fault := renewed.exception():
                self.log.error("The imported hash of {login} stays: {fault}", login=login, fault=str(fault))

        self.directory.renew_hash(login, old, new).add_done_callback(done)

    def _ask_at(self, checker: HTTPChecker | None, loaded: config.Config) -> None:
        """Whom logins that another system decides are asked of from now on."""
        if self.checker is not None:
            self.checker.close()
        self.checker = checker
        self.auth_fault = ""
        cache = loaded.auth.cache if loaded.auth else 0.0
        self.verifier.ask_externally(asking(checker, partial(self._auth_heard, checker)), cache)

    def _auth_heard(self, checker: HTTPChecker | None, fault: str) -> None:
        if checker is not self.checker:
            return  # an answer to what was asked before a reload
        if bool(fault) != bool(self.auth_fault):
            self.log.warn("Logins that another system decides: {what}", what=fault or "it answers again")
        self.auth_fault = fault

    def _is_ours(self, address: str, port: int) -> bool:
        """Whether one of our listeners answers there: mail for it would come back to us."""
        return assembly.is_ours(self.config, address, port)

    # Sender domains.

    def subject(self, row: SenderDomain) -> Subject:
        """What the DNS has to agree with for a sender domain."""
        keys = self.keyring.find(row.account, row.domain).keys
        return assembly.subject(self.config, self.directory, self.streams, row, keys)

    def _judged(self, row: SenderDomain) -> Subject:
        """By what mail leaves with: without [feedback] domain, the sender's own return path and none in a zone."""
        subject = self.subject(row)
        return subject if self.config.feedback.domain else msgspec.structs.replace(subject, zone="")

    def _returns_to(self, account: str, domain: str, signed: bool) -> str:
        """The domain of our return path for mail of an account from this domain; "": the sender's own stays."""
        own = self.config.feedback.domain
        zone = assembly.zone_of(self.directory, account) if own else ""
        row = self.directory.senders.covering(account, domain) if zone else None
        return returns_to(own, zone, row.findings if row else (), signed=signed)

    def _is_checked(self, row: SenderDomain) -> bool:
        account = self.directory.account(row.account)
        return account is not None and account.domain_check != "off"

    def verify(self, domain: str) -> "Deferred[SenderDomain]":
        return self.domains.verify(domain)

    # Reload.

    def _hang_up(self) -> None:
        try:
            changed = self.reload()["changed"]
        except InputError as error:
            self.log.error("The configuration was not reloaded, the old one stays: {fault}", fault=error.text)
        else:
            self.log.info("The configuration was reloaded; changed: {what}", what=", ".join(changed) or "nothing")

    def reload(self) -> dict[str, Any]:
        """Applies the configuration file as a whole, or keeps the old one: then InputError says why."""
        if self.stopping:
            raise InputError("", "relayd is stopping")
        self.systemd.reloading()
        try:
            return self._reload()
        finally:
            self.systemd.tell("READY=1")

    def _reload(self) -> dict[str, Any]:
        try:
            loaded = config.load(self.path)
            changed = assembly.changed(self.config, loaded)
            self._apply(loaded)
        except (config.ConfigError, RuntimeError, OSError, SSL.Error, ValueError) as error:
            self.reload_fault = str(error)
            raise InputError("", str(error)) from None
        self.reload_fault = ""
        return {"changed": changed}

    def would_reload(self) -> dict[str, Any]:
        """What a reload would change.  Raises InputError as it would."""
        try:
            loaded = config.load(self.path)
            assembly.refuse_restart_only(self.config, loaded)
        except (config.ConfigError, RuntimeError, OSError, ValueError) as error:
            raise InputError("", str(error)) from None
        return {"changed": assembly.changed(self.config, loaded)}

    def _apply(self, loaded: config.Config) -> None:
        """Whatever can fail comes first."""
        assembly.refuse_restart_only(self.config, loaded)
        tls = ServerTLS(loaded.tls.certificate, loaded.tls.key) if loaded.tls else None
        router = assembly.router(loaded, self.resolver, self.reactor.seconds)
        signing, checker = assembly.signing(loaded), assembly.checker(self.reactor, loaded)
        content_filter = assembly.content_filter(self.reactor, loaded)
        lists, reactions = assembly.validation_lists(loaded), Rules(loaded.reaction.values())
        webhooks = assembly.webhook_settings(loaded)
        pools, settings = assembly.pools(loaded), assembly.courier_settings(loaded, self.streams)
        wanted = {door.listen: door for door in loaded.listener}
        if self.tls is None:
            self.tls = tls
        fresh = {name: self._listener(loaded, door) for name, door in wanted.items() if name not in self.listeners}
        metrics = self.metrics
        if loaded.metrics is None or metrics is None or loaded.metrics.listen != metrics.endpoint:
            metrics = self._metrics(loaded)
        api = assembly.api(self.reactor, loaded, self)
        stays = api is not None and self.api is not None and api.endpoint == self.api.endpoint
        ssh = assembly.ssh(self.reactor, loaded, self) if self.ssh is None else None
        others = [None if stays else api, None if metrics is self.metrics else metrics, ssh]
        self._open([*fresh.values(), *others])
        if self.tls is not None and tls is not None:
            self.tls.replace(tls)
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
        self.traces.attach()
        if self.ssh is None or loaded.ssh is None:
            self._come_in_by(ssh)
        else:
            self.ssh.reconfigure(assembly.ssh_settings(loaded.ssh))
        for account in loaded.accounts():
            self.directory.ensure_account(account, now=self.now())
        self.guard.settings = assembly.guard_settings(loaded)
        self.directory.tokens.configure(loaded.feedback.accept)
        self.suppressions.remember = loaded.feedback.accept
        self._ask_at(checker, loaded)
        if self.relay.filter is not None:
            self.relay.filter.close()
        self.relay.filter = content_filter
        if self.suspicion is not None:
            self.suspicion.settings = assembly.suspicion_settings(loaded)
        self.webhooks.configure(*webhooks)
        self.keyring.rules = signing
        self.lists = lists
        self._judge_by(loaded)
        self.counting = assembly.counting(loaded)
        self._routes = config.Routes(loaded.route)
        self.keep_reactions((), self.reactions.reconfigure(reactions))
        self.streams.configure(loaded)
        self.directory.version += 1  # what sessions know of streams is not true any more
        self.relay.signer.fault = ""
        self.pools = pools
        pools.drained = self._drained()
        check_sources(pools)
        self.courier.reconfigure(pools, router, settings)
        self.scheduler.rest = loaded.egress.rest
        self.warmup.configure(loaded.warming())
        self.scheduler.reconfigure(self.streams.scheduling, self.pools, loaded.egress.sessions, self.now())
        self.scheduler.restrain({row.name for row in self.directory.accounts()}, self.now())
        if assembly.other_sessions(self.config, loaded):
            self.courier.renew()
        self.courier.perform()
        self.feeding.configure(assembly.feeds(loaded))
        self.exports.settings = assembly.export_settings(loaded)
        self.config = loaded
        self.destinations = Destinations(loaded)
        assembly.configure_blocklists(self.blocklists, loaded)
        self._heed_drains()

    # Backup.

    def back_up(self, directory: str, who: str) -> Progress:
        """Begins one.  Raises InputError."""
        if self.backup is not None and self.backup.is_alive():
            raise InputError("", f"one is under way, to {self.backup.progress.directory}: relayctl backup show")
        spool, node = Path(self.config.node.spool), self.config.node.name
        try:
            self.backup = Backup(
                spool,
                Path(directory),
                self._frozen,
                self.spool.hold_contents,
                self.now,
                version=__version__,
                node=node,
                by=who,
            )
        except BackupError as error:
            raise InputError("directory", str(error)) from None
        self.backup.start()
        return self.backup.progress

    def _frozen(self, work: Callable[[], None]) -> None:
        """On the backup's thread: does it while nothing is committed."""
        pauses = Pause(), Pause()
        self.spool.pause(pauses[0])
        self.directory.pause(pauses[1])
        try:
            if not all(pause.reached.wait(_STILL) for pause in pauses):
                raise BackupError(f"the spool was busy for {_STILL:.0f} s: try again")
            work()
        finally:
            for pause in pauses:
                pause.end()
        if any(pause.late for pause in pauses):
            raise BackupError("the spool could not be kept still for so long: try again")

    # What the control API's verbs ask (control.verb.Relay).

    def health(self) -> dict[str, Any]:
        faults = [self.spool_fault, self.space_fault, self.balance_fault, self._writer_fault()]
        if not self.spool.mover.is_alive():
            faults.append("the spool's mover has broken down, restart relayd")
        if self.stopping:
            faults.append("relayd is stopping")
        if draining := self.directory.blocks.draining:
            faults.append(f"relayd takes no new mail, {draining.by} drains it: {draining.reason}")
        warnings = list(filter(None, [self.heart.warning()]))
        warnings += [f"source {name}: {fault}" for name, fault in self.pools.out_of_use.items()]
        warnings += self.blocklists.warnings()
        warnings += self.keyring.warnings()
        if self.relay.signer.fault:
            warnings.append(self.relay.signer.fault)
        if self.auth_fault:
            warnings.append(f"logins that another system decides: {self.auth_fault}")
        if self.relay.filter is not None and self.relay.filter.fault:
            warnings.append(self.relay.filter.warning())
        if self.suspects is not None:
            warnings += filter(None, (self.suspects.fault, self.suspects.suspicion.fault))
        if self.reactions.fault:
            warnings.append(self.reactions.fault)
        warnings += filter(None, (self.suppressions.fault, self.warmup.fault, self.reputation.fault))
        warnings += filter(None, (self.history_fault, self.export_fault, self.jobs.fault))
        warnings += self.webhooks.warnings()
        warnings += self.feeding.warnings()
        if self.backup is not None and self.backup.progress.fault:
            warnings.append(f"the last backup failed: {self.backup.progress.fault}")
        warnings += self.ssh.warnings() if self.ssh else []
        if self.reload_fault:
            warnings.append(f"the last reload failed: {self.reload_fault}")
        found = list(filter(None, faults))
        return {"ok": not found, "faults": found, "warnings": warnings}

    def _writer_fault(self) -> str:
        writer = self.spool.writer
        if writer.broken:
            return ""  # that is the spool's fault, and told as such
        silent = not writer.is_alive() or time.monotonic() - writer.beat > _STALLED
        return "the spool's writer shows no sign of life" if silent else ""

    def unready(self) -> dict[str, str]:
        return {
            "not_started": "" if self.started else "relayd is starting",
            "stopping": "relayd is stopping" if self.stopping else "",
            "spool_fault": self.spool_fault,
            "space_short": self.space_fault,
            "writer_dead": self.spool.writer.broken or self._writer_fault(),
        }

    def stream_of(self, account: str, name: str) -> dict[str, Any]:
        return shown(self.streams.of(account, name))

    def stream_fault(self, row: AccountStream) -> str:
        return self.streams.fault(row)

    def queues(self, limit: int, account: str = "") -> Any:
        return inquiry.queues(self.spool, self.scheduler, self.now(), limit, account)

    def queue_summary(self, by: str, limit: int) -> Any:
        return self._summaries.ask(by, limit)

    def sources(self) -> list[dict[str, Any]]:
        return inquiry.sources(self.pools, self.scheduler, self.directory, self.blocklists)

    def figures(self, asked: Figures) -> "Future[dict[str, Any]]":
        return self.archive.figures(asked)

    def history(self, query: Query, limit: int, before: Hit | None) -> "Future[Found]":
        return self.archive.find(query, limit, before)

    def event(self, place: Hit, query: Query) -> "Future[HistoryEvent | None]":
        return self.archive.event(place, query)

    def inspect(self, id: int) -> Any:
        return inquiry.inspect(self.spool, self.courier, self.now(), id)

    def why(self, what: str) -> Any:
        return inquiry.why(self.spool, self.courier, self.now(), what)

    def explain(self, domain: str, account: str, stream: str) -> Any:
        queue = Queue(queue_name(account, stream, domain))
        return inquiry.explain(self.courier.router, self.destinations, self.scheduler, queue, self.now())

    def lift(self, id: int) -> Active:
        found = self.reactions.lift(id)
        if found is None:
            raise InputError("id", f"there is no reaction {id}: relayctl shaping reactions lists those there are")
        self._reacted((), (found,))
        self.courier.perform()
        return found

    async def hit(self, **whom: str) -> dict[str, Any]:
        return await self.stops.hit(Target(**whom))

    async def hit_by(self, key: Key) -> dict[str, Any]:
        source, group, account, _, pool = key
        return await self.stops.hit(Target(source=source, group=group, account=account, pool=pool))

    async def key_of(self, at: str, source: str, account: str, pool: str, *, everything: bool) -> Key:
        return await self.stops.key_of(at, source, account, pool, everything=everything)

    async def imposed(self, active: Active) -> None:
        self.log.warn("{whom}: {what}", whom=active.whom, what=active.words(self.now()))
        self.scheduler.reshaped((active,), self.now())
        self.courier.perform()
        await ended(self.directory.reactions.keep((active,), ()))

    def trace(
        self, wanted: dict[str, str], recipient: str, seconds: float, limit: int, who: str, reason: str
    ) -> dict[str, Any]:
        return self.traces.start(Filter(**wanted), recipient, seconds, limit, who, reason)

    def live(self, limit: int, **filter: str) -> list[dict[str, Any]]:
        return self.sessions.listed(Filter(**filter), limit)

    def drop(self, who: str, reason: str, dry_run: bool, **filter: str) -> dict[str, Any]:
        return self.sessions.drop(Filter(**filter), who, reason, dry_run=dry_run)

    @property
    def suspicion(self) -> Suspicion | None:
        return self.suspects.suspicion if self.suspects else None

    def dismiss(self, row: Dismissal) -> "Future[Dismissal]":
        assert self.suspects is not None
        return self.suspects.dismiss(row)

    def replay(self, rules: list[str], seconds: float) -> Any:
        return inquiry.replay(self.spool, self.config, rules, self.now() - seconds)

    def audit(self) -> Any:
        return inquiry.audit(self.spool, self.directory.balances)

    async def domain_faults(self, domains: Iterable[str]) -> dict[str, str]:
        return await inquiry.domain_faults(self.resolver, self._is_routed, domains)

    def _is_routed(self, domain: str) -> bool:
        """Whether its mail goes by a static route, and nothing is looked up."""
        return self._routes.find(domain) is not None

    async def lease(self, account: str) -> tuple[Lease, int]:
        found: tuple[Lease, int] = await asked(self.spool.lease_today, account, int(self.now() // DAY))
        return found

    async def book(self, account: str) -> None:
        await asked(self.purse.want, account, 0, self.now())
