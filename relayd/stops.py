"""What operators stop: blocks, suspensions and limits by hand, the drain of the whole relay; each bears at once.

In: blocks that begin or end (``directory.blocks``), drains, accounts and connections that change, what an operator
imposes; and sources that blocklists list, where the configuration wants them drained for that.
Out: sessions cut, queues held or let go, sources taken out of use; of any of it, beforehand, whom it would hit.
"""

from collections.abc import Callable, Collection
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from relayd import catalogue, notation
from relayd.address import domain_of
from relayd.blocklists import Blocklists
from relayd.delivery import Courier
from relayd.directory import Block, Directory
from relayd.envelope import Delivery, queue_parts
from relayd.errors import InputError
from relayd.queue.state import Queue
from relayd.reception import RelayDoor
from relayd.reputation import Reputation
from relayd.resolver import ResolveError
from relayd.sessions import SAMPLE, Filter, Sessions
from relayd.shaping.reactions import Key
from relayd.spool import Spool
from relayd.waiting import asked

_LOOK = 0.2  # seconds between looks at all live sessions, however much changes
_AT_ONCE = 2000  # queues that are looked at before others have their turn


class Target(msgspec.Struct, frozen=True):
    """Whose mail: all that is given has to fit; nothing given is everybody's."""

    ip: str = ""
    account: str = ""
    connection: str = ""
    source: str = ""
    group: str = ""
    pool: str = ""
    domain: str = ""
    relay: str = ""


class Stops:
    """See the module.  ``providers``: those known by name."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        directory: Directory,
        spool: Spool,
        courier: Courier,
        sessions: Sessions,
        reputation: Reputation,
        blocklists: Blocklists,
        providers: Callable[[], Collection[str]],
        now: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._directory = directory
        self._blocks = directory.blocks
        self._spool = spool
        self._courier = courier
        self._sessions = sessions
        self._reputation = reputation
        self._blocklists = blocklists
        self._providers = providers
        self._now = now
        self._looking = False
        directory.blocks.changed = self._changed
        directory.touched = self.look
        directory.drains.changed = blocklists.changed = self.heed_drains
        courier.stopped = self._stopped
        courier.scheduler.restraints.held = self._held
        courier.scheduler.restraints.lineage = directory.lineage

    def tick(self) -> None:
        """Call about once a second."""
        for row in self._blocks.tick(self._now()):
            self.log.info("{what}: its time is over", what=row.words())

    # What bears on live sessions.

    def look(self) -> None:
        """Who may submit has changed: soon all live sessions are looked at, and cut if they may be no more."""
        if not self._looking:
            self._looking = True
            self._reactor.callLater(_LOOK, self._cut)

    def _cut(self) -> None:
        self._looking = False
        for _, session in self._sessions.of_clients():
            if not session.machine.closed and (word := session.door.barred(session)) is not None:
                session.cut(word)

    def _changed(self, row: Block, on: bool) -> None:
        """A block begins or ends."""
        if row.kind == "relay":
            for _, session in self._sessions.of_clients() if on else ():
                if isinstance(session.door, RelayDoor) and not session.busy:
                    session.cut(catalogue.UNAVAILABLE)
            return
        if row.kind in ("account", "domain"):
            self._courier.scheduler.restraints.look_again(lambda queue: self._concerns(row, queue), self._now())
        elif row.kind == "source":
            self.heed_drains()
            if on:
                self._courier.end(lambda session: session.path.source == row.value)
        if on:
            self._cut()
        self._reactor.callLater(0, self._courier.perform)

    def _concerns(self, row: Block, queue: Queue) -> bool:
        if row.kind == "account":
            return row.value in self._directory.lineage(queue.account)
        return row.value in notation.patterns(queue.domain)

    # What bears on sources.

    def drained(self) -> dict[str, str]:
        """By operators, who drain or block them, and by blocklists, which know nothing of one another."""
        asked = {row.source: f"{row.reason} ({row.by})" for row in self._directory.drains.all()}
        blocked = {name: f"{row.reason} ({row.by})" for name, row in self._blocks.sources.items()}
        return {**self._blocklists.drained(), **asked, **blocked}

    def heed_drains(self) -> None:
        """What was ready for a source drained now goes by others; what waited for one drained no more, goes."""
        pools, scheduler, now = self._courier.pools, self._courier.scheduler, self._now()
        before, pools.drained = pools.drained, self.drained()
        for name in sorted(pools.drained.keys() - before.keys()):
            scheduler.source_gone(name, now)
        if before.keys() - pools.drained.keys():
            scheduler.source_back(now)
        self._courier.perform()

    # What bears on what is queued.

    def _held(self, queue: Queue) -> str:
        """Why nothing goes out of a queue, "" if it does."""
        if why := self._reputation.account_held(queue.account):
            return why
        blocks = self._blocks
        row = blocks.of_account(self._directory.lineage(queue.account)) if blocks.accounts else None
        row = row or blocks.of_domain(queue.domain)
        return row.words() if row else ""

    def _stopped(self, delivery: Delivery) -> str:
        """Why one delivery does not go out where its queue does: a queue is of many connections, and that of a fallback
        of many domains."""
        blocks = self._blocks
        if not (blocks.connections or blocks.domains):
            return ""
        row = blocks.connections.get(delivery.message.connection) or blocks.of_domain(
            domain_of(delivery.recipient.address)
        )
        return row.words() if row else ""

    # What is imposed by hand.

    async def key_of(self, at: str, source: str, account: str, pool: str, *, everything: bool) -> Key:
        """What somebody wants to suspend or limit.  Raises InputError."""
        given = [name for name, value in (("source", source), ("account", account), ("pool", pool)) if value]
        if len(given) > 1:
            raise InputError(given[1], f"cannot be given together with {given[0]}: impose one after the other")
        if everything and (given or at):
            raise InputError("all", "is all that goes out: leave out the rest")
        if not (everything or given or at):
            raise InputError("at", "say what: --at SITE, --source, --pool, --account or --all")
        return source, await self._group_of(at) if at else "", account, "", pool

    async def _group_of(self, at: str) -> str:
        """The provider or site that somebody means: by its name, or by a domain of it.  Raises InputError."""
        scheduler, router, providers = self._courier.scheduler, self._courier.router, self._providers()
        known = {site.group for site in scheduler.sites.values()}
        known |= {row.group for row in scheduler.restraints.reactions.all()}
        if at in providers or at in known:
            return at
        try:
            domain = notation.hostname(at)
            site = router.known(domain) or await router.site(domain)
        except ValueError:
            near = notation.nearest(at, providers)
            raise InputError("at", f"{at!r} is neither a provider nor a domain{near}") from None
        except ResolveError as fault:
            raise InputError("at", f"{at} is no provider, and has no mail hosts: {fault.reply}") from None
        return site.group

    # Whom it would hit.

    async def hit(self, target: Target) -> dict[str, Any]:
        """{"sessions": live ones, "queued": deliveries, "connections": that may submit no more, "unknown": deliveries
        whose site is not known before they are looked up, "sample": {...}}."""
        rows = self._live(target)
        connections = self._logins(target)
        queued, unknown, queues = await self._queued(target)
        return {
            "sessions": len(rows),
            "queued": queued,
            **({"unknown": unknown} if unknown else {}),
            "connections": len(connections),
            "sample": {"sessions": rows[:SAMPLE], "queues": queues[:SAMPLE], "connections": connections[:SAMPLE]},
        }

    def _live(self, target: Target) -> list[dict[str, Any]]:
        filters = []
        if target.ip:
            filters.append(Filter(way="in", peer=target.ip))
        elif target.account:
            filters += [Filter(way="in", account=target.account)] if not target.group else []
        elif target.connection:
            filters.append(Filter(way="in", login=target.connection))
        elif target.relay:
            filters.append(Filter(way="in"))
        elif target.domain:
            filters.append(Filter(way="out", domain=target.domain))
        elif not target.pool:
            filters.append(Filter(way="out", source=target.source, site=target.group))
        return [row for wanted in filters for row in self._sessions.listed(wanted, 1_000_000)]

    def _logins(self, target: Target) -> list[str]:
        directory = self._directory
        if target.connection:
            return [target.connection]
        if target.relay:
            return [row.login for row in directory.connections()]
        if target.account and not target.group:
            return [r.login for r in directory.connections() if target.account in directory.lineage(r.account)]
        return []

    async def _queued(self, target: Target) -> tuple[int, int, list[dict[str, Any]]]:
        """(deliveries, deliveries of which it is not known, the longest queues)."""
        if target.ip or target.relay:
            return 0, 0, []
        if target.connection:
            return await asked(self._spool.queued_of, target.connection), 0, []
        if target.source:
            sites = [s for s in self._courier.scheduler.sites.values() if target.group in ("", s.group)]
            paths = [path for site in sites for path in site.paths.values()]
            return sum(len(path.ready) for path in paths if path.source == target.source), 0, []
        found: list[dict[str, Any]] = []
        total = unknown = 0
        counts: list[tuple[str, int]] = await asked(self._spool.queue_counts)
        for start in range(0, len(counts), _AT_ONCE):
            if start:
                pause: Deferred[None] = deferLater(self._reactor, 0, lambda: None)
                await pause
            for name, count in counts[start : start + _AT_ONCE]:
                fits = self._fits(target, name)
                total += count if fits else 0
                unknown += count if fits is None else 0
                if fits and len(found) < SAMPLE:
                    found.append({"queue": name, "count": count})
        return total, unknown, found

    def _fits(self, target: Target, name: str) -> bool | None:
        """Whether a queue is of the target's; None: that shows when its domain is looked up."""
        account, _, domain, _ = queue_parts(name)
        if target.account and target.account not in self._directory.lineage(account):
            return False
        if target.domain and target.domain not in notation.patterns(domain):
            return False
        scheduler = self._courier.scheduler
        queue = scheduler.queues.get(name) or Queue(name)
        if target.pool and scheduler.pool_of(queue) != target.pool:
            return False
        if not target.group:
            return True
        site = queue.site or self._courier.router.known(domain)
        return None if site is None else site.group == target.group
