"""A relay, from its configuration to a running ``twistd`` service: what it is made of, in the order in which it starts.

``twistd relayd --config FILE`` calls ``makeService`` with ``Options``.  ``Node`` makes the rooms from the disk outwards
(spool, directory, resolver, courier, reception, feeds, doors), starts them, and stops them the other way round; a
reload tells each what holds from now on.
"""

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, TimeoutError
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from relayd import assembly, config, inquiry
from relayd.backup import Backups
from relayd.blocklists import Blocklists
from relayd.consequences import Consequences
from relayd.credentials import Logins
from relayd.delivery import Courier, Jobs
from relayd.delivery.sources import check_sources
from relayd.destinations import Destinations
from relayd.directory import Directory
from relayd.domainwatch import DomainWatch
from relayd.doors import Doors
from relayd.errors import InputError
from relayd.exports import Exports
from relayd.feeds import Feeds
from relayd.guard import Guard
from relayd.health import Health
from relayd.history import Indexer
from relayd.identity import Identities
from relayd.listener import Comings
from relayd.mailroom import Mailroom
from relayd.metrics import EventCounts
from relayd.notices import Notices
from relayd.operations import Operations
from relayd.options import Options
from relayd.process import Process
from relayd.pulse import pulse
from relayd.purse import Purse
from relayd.queue.scheduler import Scheduler
from relayd.reception import Relay, Screen
from relayd.reputation import Reputation
from relayd.resolver import Resolver
from relayd.returnpath import marks
from relayd.sessions import Sessions
from relayd.shaping.reactions import Reactions
from relayd.shaping.rules import Rules
from relayd.signing import WORKERS, Crew, Keyring, Signer
from relayd.spool import Checkpoint, Spool, SpoolError
from relayd.statistics import Statistics
from relayd.stops import Stops
from relayd.streams import Streams
from relayd.subjects import Subjects
from relayd.suppression import Suppressions
from relayd.suspects import Suspects
from relayd.tls import ServerTLS
from relayd.traces import Traces
from relayd.warmup import Warmup
from relayd.watchdog import Heart
from relayd.webhooks.sender import Webhooks
from relayd.workers import Workers

__all__ = ["Node", "Options", "makeService"]  # what twistd looks for here, and what it is given

_RETURNED = 5.0  # seconds that a stop waits for leases to return; what does not, returns at the next start
_SOURCES = 30  # seconds between looks at the sources' addresses


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
        self.now = wall
        self.depth: tuple[int, float] | None = None  # what metrics.Watched says
        self.events = EventCounts()
        self.comings = Comings()
        self.heart = Heart()
        self.health = Health(self.heart, lambda: self.spool, lambda: self.directory, lambda: self.config.node.min_free)
        self.process = Process(reactor, self.heart, self._hang_up)
        self._ticks = 0
        self._ticker = pulse(reactor, self._tick)

    # Assembly.

    def startService(self) -> None:
        """Raises SystemExit with a sentence for the operator."""
        super().startService()
        self.process.tune()
        try:
            self._make_stores()
            self._make_policy()
            self._make_egress()
            self._make_reception()
            self._make_followers()
            self._make_operations()
            self._start()
        except (SpoolError, RuntimeError, OSError, SSL.Error, ValueError) as error:
            self.log.critical("relayd cannot start: {fault}", fault=str(error))
            raise SystemExit(f"relayd cannot start: {error}") from None

    def _make_stores(self) -> None:
        """What is on disk, and must not be lost."""
        loaded, post = self.config, self.reactor.callFromThread
        self.health.started = self.now()
        self.tls = ServerTLS(loaded.tls.certificate, loaded.tls.key) if loaded.tls else None
        self.place = Path(loaded.node.spool)
        self.spool = Spool(self.place, post, self.health.spool_said, assembly.records_kept(loaded))
        self.identities = Identities(self.spool.last_identity)
        self.directory = Directory(self.place / "directory.sqlite", post, loaded.accounts(), self.now())
        self.directory.tokens.configure(loaded.feedback.accept)
        self.purse = Purse(self.directory.balances, self.spool, self.health.balances_said)
        self.purse.start(self.now())
        self.suppressions = Suppressions(self.place / "suppression.sqlite", post)
        self.suppressions.remember = loaded.feedback.accept
        self.backups = Backups(self.spool, self.directory, self.place, loaded.node.name, self.now)

    def _make_policy(self) -> None:
        """What decides: who may submit, how mail is treated, what is learnt of those who send it."""
        loaded, reactor, directory = self.config, self.reactor, self.directory
        self.warmup = Warmup(directory.warmups.stored, directory.warmups.keep)
        self.warmup.configure(loaded.warming())
        self.reactions = Reactions(Rules(), directory.reactions.before)
        self.reputation = Reputation(directory.reputations.stored, directory.reputations.keep, directory.lineage)
        assembly.configure_reputation(self.reputation, loaded)
        self.guard = Guard(assembly.guard_settings(loaded))
        self.logins = Logins(directory, reactor.callFromThread, reactor.seconds)
        self.logins.ask_at(assembly.checker(reactor, loaded), loaded.auth.cache if loaded.auth else 0.0)
        self.streams = Streams(directory, loaded)
        self.streams.slowed = self.reputation.layers
        self.keyring = Keyring(directory.domain_keys, directory.lineage, self.streams.defers)
        self.keyring.rules = assembly.signing(loaded)
        self.subjects = Subjects(lambda: self.config, directory, self.streams, self.keyring)
        self.lists = assembly.validation_lists(loaded)
        self.destinations = Destinations(loaded)

    def _make_egress(self) -> None:
        """The way out: the DNS, sources, what goes next, who carries it."""
        loaded, reactor = self.config, self.reactor
        self._signing = Crew(WORKERS, "signer")
        self.signer = Signer(self.keyring, self._signing.submit, reactor.callFromThread)
        self.resolver = Resolver(reactor, assembly.resolver_settings(loaded), is_ours=self._is_ours)
        self.domains = DomainWatch(
            reactor,
            self.directory.senders,
            self.resolver,
            self.subjects.judged,
            self.subjects.wanted,
            lambda lines, done: self.spool.keep_records(lines, (), done),
            self.now,
            random.Random(),
        )
        self.blocklists = Blocklists(reactor, self.resolver)
        assembly.configure_blocklists(self.blocklists, loaded)
        self.pools = assembly.pools(loaded)
        self.scheduler = Scheduler(
            self.streams.scheduling, self.pools, loaded.egress.sessions, self.reactions, self.warmup
        )
        self.scheduler.restraints.rests = loaded.egress.rest
        self.scheduler.restraints.limiter.left = self.reputation.of_source
        self.courier = Courier(
            reactor,
            self.spool,
            self.scheduler,
            self.pools,
            assembly.router(loaded, self.resolver, reactor.seconds),
            self.identities,
            assembly.courier_settings(loaded, self.streams),
            random.Random(),
            self.now,
            self.signer,
            self.suppressions,
            self.streams.lists_of,
        )
        self.courier.reputation = self.reputation
        self.courier.outcomes.refunds = self.directory.balances.refunds
        self.courier.marks = lambda delivery: marks(delivery, self.directory.tokens.keys)
        self.sessions = Sessions(lambda: self.doors.listeners.values(), self.courier, self.directory.lineage, self.now)
        self.stops = Stops(
            reactor,
            self.directory,
            self.spool,
            self.courier,
            self.sessions,
            self.reputation,
            self.blocklists,
            lambda: self.config.provider,
            self.now,
        )
        self.pools.drained = self.stops.drained()
        check_sources(self.pools)
        self.notices = Notices(
            self.directory,
            self.spool,
            self.identities,
            loaded.node.name,
            lambda: self.config.node.default_stream,
            self.courier.received,
        )
        self.consequences = Consequences(
            reactor,
            self.directory,
            self.courier,
            self.streams,
            self.suppressions,
            self.warmup,
            self.reputation,
            self.stops,
            self.notices,
            loaded.node.name,
            self.now,
        )
        self.consequences.keep_reactions((), self.reactions.reconfigure(Rules(loaded.reaction.values())))

    def _make_reception(self) -> None:
        """The way in: of mail, and of what comes back."""
        loaded, reactor, post = self.config, self.reactor, self.reactor.callFromThread
        self.mailroom = Mailroom(
            self.spool,
            self.suppressions,
            self.courier.outcomes,
            lambda: self.directory.tokens.keys,
            lambda: self.courier.classifier,
            self.streams.finding,
            lambda host: self.destinations.provider((host,)) or host,
            self.consequences.heard,
            self.courier.received,
            self.now,
            post,
        )
        self.relay = Relay(
            loaded.node.name,
            self.spool,
            self.directory,
            self.logins.verifier,
            self.health,
            self.identities,
            self.now,
            self.streams,
            Screen(
                self.suppressions,
                lambda: self.lists,
                self.resolver,
                lambda domain: self.destinations.is_routed(domain),
                self.now,
            ),
            self.purse,
            self.signer,
            self.guard,
            reactor.callLater,
        )
        self.relay.on_received = self.courier.received
        self.relay.returns = self.subjects.returns_to
        self.relay.reputation = self.reputation
        self.relay.filter = assembly.content_filter(reactor, loaded)
        self.suspects: Suspects | None = None
        if loaded.suspicion.enabled:
            settings, where = assembly.suspicion_settings(loaded), self.place / "suspicion"
            self.suspects = Suspects(settings, where, self.directory, self.notices, loaded.node.name, post, self.now())
            self.relay.suspicion = self.suspects.suspicion

    def _make_followers(self) -> None:
        """What is made of records once they are in their segments: history, figures, word to those who follow them."""
        loaded, reactor, post, name = self.config, self.reactor, self.reactor.callFromThread, self.config.node.name
        self.counting = assembly.counting(loaded)
        self.archive = inquiry.Archive(self.place, name, lambda: self.counting, self.now)
        settings, trust = assembly.webhook_settings(loaded)
        self.webhooks = Webhooks(
            reactor,
            self.directory,
            self.place,
            name,
            self.resolver.addresses,
            self.notices.tell,
            lambda segment: self.spool.advance("webhooks", Checkpoint(segment)),
            settings,
            trust,
            self.now,
            random.Random(),
        )
        database = self.place / "statistics.sqlite"
        self.indexer = Indexer(
            self.place,
            lambda: Statistics(database, lambda: self.counting, self.now, self.events.count),
            lambda to: self.spool.advance("history", to),
            lambda whose: post(self.webhooks.came, whose),
            lambda fault: post(self.health.history_said, fault),
            self.now,
        )
        self.feeding = Feeds(reactor, self.spool, name, self._feed_said, self.now)
        self.workers = Workers(loaded.node.spool, name, post)
        self.exports = Exports(
            self.place,
            name,
            assembly.export_settings(loaded),
            self.spool.free_bytes,
            post,
            self.health.exports_said,
            self.now,
        )

    def _make_operations(self) -> None:
        """What operators are given, and the doors."""
        reactor = self.reactor
        self.traces = Traces(self.sessions, lambda: self.doors.listeners.values(), self.courier, self.now)
        self.summaries = inquiry.Summaries(reactor, self.spool, self.courier, self.now)
        self.jobs = Jobs(
            reactor,
            self.courier,
            lambda: self.config.queue.recycle,
            lambda job: self.operations.job_ended(job),
        )
        self.operations = Operations(self)
        self.doors = Doors(reactor, self.relay, self.mailroom, self.operations, self, self.comings, self.tls)
        self.health.ask(
            lambda: (f"source {name}: {fault}" for name, fault in self.pools.out_of_use.items()),
            self.blocklists.warnings,
            self.keyring.warnings,
            lambda: (self.relay.signer.fault,),
            self.logins.warnings,
            lambda: (self.relay.filter.warning(),) if self.relay.filter and self.relay.filter.fault else (),
            lambda: (self.suspects.fault, self.suspects.suspicion.fault) if self.suspects else (),
            lambda: (self.reactions.fault, self.suppressions.fault, self.warmup.fault, self.reputation.fault),
            lambda: (self.health.history_fault, self.health.export_fault, self.jobs.fault),
            self.webhooks.warnings,
            self.feeding.warnings,
            self.backups.warnings,
            self.doors.warnings,
        )

    def _is_ours(self, address: str, port: int) -> bool:
        """Whether one of our listeners answers there: mail for it would come back to us."""
        return assembly.is_ours(self.config, address, port)

    def _feed_said(self, name: str, fault: str) -> None:
        """On any thread."""
        told = partial(self.log.error, "feed {name}: {what}", name=name, what=fault or "it goes on")
        self.reactor.callFromThread(told)

    # Start.

    def _start(self) -> None:
        loaded = self.config
        self.spool.mover.moved = self._moved
        self.indexer.start()
        self.feeding.start(assembly.feeds(loaded))
        self.exports.start()
        self.doors.open(loaded)
        self.courier.startService()
        self.webhooks.startService()
        self.jobs.start()
        self.domains.startService()
        self.blocklists.startService()
        self._ticker.start(1.0)
        self.process.start({"the spool's writer": self.spool.writer, "the spool's mover": self.spool.mover})
        self.log.info(
            "relayd is up as {name}: {queued} deliveries queued, listening on {doors}",
            name=loaded.node.name,
            queued=self.spool.queued_at_start,
            doors=", ".join(self.doors.names()),
        )

    def _moved(self) -> None:
        """On the mover's thread: there are new records in the segments."""
        self.indexer.wake()
        self.feeding.wake()

    # The pulse.

    def _tick(self) -> None:
        """Once a second."""
        self._ticks += 1
        now = self.now()
        self.relay.flush_rejections()
        self.purse.tick(now)
        self.warmup.tick(now)
        self.reputation.tick(now)
        self.stops.tick()
        self.traces.tick()
        self.jobs.tick()
        self.health.tick()
        self.process.show(lambda: self.health.status(self.courier.outcomes.totals))
        self.suppressions.sweep(now)
        if self.suspects is not None:
            self.suspects.tick(now)
        if ended := self.reactions.tick(now):
            self.consequences.reacted((), ended)
        if self._ticks % _SOURCES == 0 and check_sources(self.pools):
            self.scheduler.source_back(now)
            self.courier.perform()

    # Drain and stop.

    def stopService(self) -> "Deferred[None]":
        """Takes no more mail, finishes what is in flight within the drain time, makes everything durable."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.health.stopping = True
        self.process.systemd.tell("STOPPING=1")
        self.log.info(
            "relayd is stopping: no new mail, up to {drain:.0f} s for what is in flight", drain=self.config.node.drain
        )
        if self._ticker.running:
            self._ticker.stop()
        ending = self.doors.close_listeners()
        posted = self.webhooks.stopService()
        await DeferredList([*ending, self.courier.stopService()], consumeErrors=True)
        await self.jobs.stop()
        self.domains.stopService()
        self.blocklists.stopService()
        self.relay.flush_rejections()
        await self._return_leases()
        await self.doors.close()
        await DeferredList([posted], consumeErrors=True)
        self.resolver.close()
        self.logins.close()
        if self.relay.filter is not None:
            self.relay.filter.close()
        await self.process.end_watch()
        try:
            await self._in_thread(self.warmup.stop().result, _RETURNED)
        except Exception as error:
            self.log.warn("Where warm-ups stand was not written, all that was granted counts: {e}", e=str(error))
        try:
            await self._in_thread(self.reputation.stop().result, _RETURNED)
        except Exception as error:
            self.log.warn("What reputation counted last was not written: {e}", e=str(error))
        if self.suspects is not None:
            await self._in_thread(self.suspects.stop)
        self.indexer.stop()
        for end in (
            self.workers.stop,
            self.exports.stop,
            self.feeding.stop,
            self.backups.stop,
            self.indexer.join,
            self.archive.stop,
            self.spool.stop,
            self.logins.stop,
            self._signing.stop,
            self.mailroom.stop,
            self.suppressions.close,
        ):
            await self._in_thread(end)
        self.directory.close()
        self.process.stop()
        self.log.info("relayd has stopped: everything accepted is on disk")

    def _in_thread(self, call: Callable[..., Any], *given: Any) -> "Deferred[Any]":
        return deferToThreadPool(self.reactor, self.reactor.getThreadPool(), call, *given)

    async def _return_leases(self) -> None:
        returned: Deferred[None] = Deferred()
        self.purse.stop(self.now(), lambda: returned.callback(None))
        try:
            await returned.addTimeout(_RETURNED, self.reactor)
        except TimeoutError:
            self.log.warn("The leases of balances did not return in time; they will at the next start")

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
        if self.health.stopping:
            raise InputError("", "relayd is stopping")
        self.process.systemd.reloading()
        try:
            return self._reload()
        finally:
            self.process.systemd.tell("READY=1")

    def _reload(self) -> dict[str, Any]:
        try:
            loaded = config.load(self.path)
            changed = assembly.changed(self.config, loaded)
            self._apply(loaded)
        except (config.ConfigError, RuntimeError, OSError, SSL.Error, ValueError) as error:
            self.health.reload_fault = str(error)
            raise InputError("", str(error)) from None
        self.health.reload_fault = ""
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
        self.doors.reopen(loaded)
        if self.tls is not None and tls is not None:
            self.tls.replace(tls)
        self.traces.attach()
        for account in loaded.accounts():
            self.directory.ensure_account(account, now=self.now())
        self.guard.settings = assembly.guard_settings(loaded)
        self.directory.tokens.configure(loaded.feedback.accept)
        self.suppressions.remember = loaded.feedback.accept
        self.logins.ask_at(checker, loaded.auth.cache if loaded.auth else 0.0)
        if self.relay.filter is not None:
            self.relay.filter.close()
        self.relay.filter = content_filter
        if self.suspects is not None:
            self.suspects.suspicion.settings = assembly.suspicion_settings(loaded)
        self.webhooks.configure(*webhooks)
        self.keyring.rules = signing
        self.lists = lists
        assembly.configure_reputation(self.reputation, loaded)
        self.counting = assembly.counting(loaded)
        self.consequences.keep_reactions((), self.reactions.reconfigure(reactions))
        self.streams.configure(loaded)
        self.directory.version += 1  # what sessions know of streams is not true any more
        self.relay.signer.fault = ""
        self.pools = pools
        pools.drained = self.stops.drained()
        check_sources(pools)
        self.courier.reconfigure(pools, router, settings)
        self.scheduler.restraints.rests = loaded.egress.rest
        self.warmup.configure(loaded.warming())
        self.scheduler.reconfigure(self.streams.scheduling, self.pools, loaded.egress.sessions, self.now())
        self.scheduler.restraints.restrain({row.name for row in self.directory.accounts()}, self.now())
        if assembly.other_sessions(self.config, loaded):
            self.courier.renew()
        self.courier.perform()
        self.feeding.configure(assembly.feeds(loaded))
        self.exports.settings = assembly.export_settings(loaded)
        self.config = loaded
        self.destinations = Destinations(loaded)
        assembly.configure_blocklists(self.blocklists, loaded)
        self.stops.heed_drains()
