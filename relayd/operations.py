"""Operations: what operators ask of a running relay and do to it; the ``Relay`` that the verbs of control are given.

In: questions and acts, from HTTP, the console and a prompt over SSH; who may do what has been decided before.  Out:
JSON-able values, or coroutines and futures of them (``control.verb.Relay`` says of what).  Nothing is kept here and no
mail passes by: what takes more than a line to answer is told by ``inquiry``, ``stops``, ``sessions`` and ``traces``.
"""

from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from relayd import inquiry
from relayd.backup import Backup, Backups, Progress
from relayd.blocklists import Blocklists
from relayd.config import Config
from relayd.consequences import Consequences
from relayd.delivery import Courier, Jobs
from relayd.destinations import Destinations
from relayd.directory import AccountStream, Change, Directory, SenderDomain
from relayd.domainwatch import DomainWatch
from relayd.envelope import queue_name
from relayd.errors import InputError
from relayd.events import Event
from relayd.exports import Exports
from relayd.feeds import Feeds
from relayd.guard import Guard
from relayd.health import Health
from relayd.history import Found, Hit, Query
from relayd.identity import DAY
from relayd.lease import Lease
from relayd.purse import Purse
from relayd.queue.state import Queue
from relayd.reputation import Reputation
from relayd.resolver import Resolver
from relayd.sessions import Filter, Sessions
from relayd.shaping.reactions import Active, Key, Reactions
from relayd.signing import Keyring
from relayd.spool import Spool
from relayd.spool.actions import Job
from relayd.statistics import Figures
from relayd.stops import Stops, Target
from relayd.streams import Streams, shown
from relayd.subjects import Subjects
from relayd.suppression import Suppressions
from relayd.suspects import Suspects
from relayd.suspicion import Dismissal, Suspicion
from relayd.traces import Traces
from relayd.validation import Lists
from relayd.verification import Subject
from relayd.waiting import asked, ended
from relayd.warmup import Warmup
from relayd.webhooks.sender import Webhooks
from relayd.workers import Workers


class House(Protocol):
    """The rooms that are asked (``service.Node``).  A reload changes the configuration, its lists and destinations."""

    archive: inquiry.Archive
    backups: Backups
    blocklists: Blocklists
    config: Config
    consequences: Consequences
    courier: Courier
    destinations: Destinations
    directory: Directory
    domains: DomainWatch
    exports: Exports
    feeding: Feeds
    guard: Guard
    health: Health
    jobs: Jobs
    keyring: Keyring
    lists: Lists
    purse: Purse
    reactions: Reactions
    reputation: Reputation
    resolver: Resolver
    sessions: Sessions
    spool: Spool
    stops: Stops
    streams: Streams
    subjects: Subjects
    summaries: inquiry.Summaries
    suppressions: Suppressions
    suspects: Suspects | None
    traces: Traces
    warmup: Warmup
    webhooks: Webhooks
    workers: Workers

    def now(self) -> float: ...
    def reload(self) -> dict[str, Any]: ...
    def would_reload(self) -> dict[str, Any]: ...


class Operations:
    """See the module.  ``inside``: the whole relay."""

    log = Logger()

    def __init__(self, inside: House) -> None:
        self.inside = inside
        self.directory = inside.directory
        self.exports = inside.exports
        self.feeding = inside.feeding
        self.guard = inside.guard
        self.jobs = inside.jobs
        self.keyring = inside.keyring
        self.reactions = inside.reactions
        self.reputation = inside.reputation
        self.started = inside.health.started
        self.suppressions = inside.suppressions
        self.traces = inside.traces
        self.warmup = inside.warmup
        self.webhooks = inside.webhooks
        self.workers = inside.workers

    # The relay as a whole.

    @property
    def config(self) -> Config:
        return self.inside.config

    def now(self) -> float:
        return self.inside.now()

    def health(self) -> dict[str, Any]:
        return self.inside.health.report()

    def reload(self) -> dict[str, Any]:
        return self.inside.reload()

    def would_reload(self) -> dict[str, Any]:
        return self.inside.would_reload()

    @property
    def backup(self) -> Backup | None:
        return self.inside.backups.last

    def back_up(self, directory: str, who: str) -> Progress:
        return self.inside.backups.begin(directory, who)

    # What waits, and why.

    def queues(self, limit: int, account: str = "") -> Any:
        return inquiry.queues(self.inside.spool, self.inside.courier.scheduler, self.now(), limit, account)

    def queue_summary(self, by: str, limit: int) -> Any:
        return self.inside.summaries.ask(by, limit)

    def inspect(self, id: int) -> Any:
        return inquiry.inspect(self.inside.spool, self.inside.courier, self.now(), id)

    def why(self, what: str) -> Any:
        return inquiry.why(self.inside.spool, self.inside.courier, self.now(), what)

    def explain(self, domain: str, account: str, stream: str) -> Any:
        courier, queue = self.inside.courier, Queue(queue_name(account, stream, domain))
        return inquiry.explain(courier.router, self.inside.destinations, courier.scheduler, queue, self.now())

    def sources(self) -> list[dict[str, Any]]:
        courier = self.inside.courier
        return inquiry.sources(courier.pools, courier.scheduler, self.directory, self.inside.blocklists)

    def job_ended(self, job: Job) -> None:
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

    # What was.

    def figures(self, asked: Figures) -> "Future[dict[str, Any]]":
        return self.inside.archive.figures(asked)

    def history(self, query: Query, limit: int, before: Hit | None) -> "Future[Found]":
        return self.inside.archive.find(query, limit, before)

    def event(self, place: Hit, query: Query) -> "Future[Event | None]":
        return self.inside.archive.event(place, query)

    def audit(self) -> Any:
        return inquiry.audit(self.inside.spool, self.directory.balances)

    # Accounts, and what they may send.

    def stream_of(self, account: str, name: str) -> dict[str, Any]:
        return shown(self.inside.streams.of(account, name))

    def stream_fault(self, row: AccountStream) -> str:
        return self.inside.streams.fault(row)

    async def lease(self, account: str) -> tuple[Lease, int]:
        found: tuple[Lease, int] = await asked(self.inside.spool.lease_today, account, int(self.now() // DAY))
        return found

    async def book(self, account: str) -> None:
        await asked(self.inside.purse.want, account, 0, self.now())

    def subject(self, row: SenderDomain) -> Subject:
        return self.inside.subjects.of(row)

    def verify(self, domain: str) -> "Deferred[SenderDomain]":
        return self.inside.domains.verify(domain)

    @property
    def suspicion(self) -> Suspicion | None:
        return self.inside.suspects.suspicion if self.inside.suspects else None

    def dismiss(self, row: Dismissal) -> "Future[Dismissal]":
        assert self.inside.suspects is not None
        return self.inside.suspects.dismiss(row)

    # Recipients.

    @property
    def lists(self) -> Lists:
        return self.inside.lists

    async def domain_faults(self, domains: Iterable[str]) -> dict[str, str]:
        return await inquiry.domain_faults(self.inside.resolver, self.inside.destinations.is_routed, domains)

    # Shaping and stops.

    def lift(self, id: int) -> Active:
        found = self.reactions.lift(id)
        if found is None:
            raise InputError("id", f"there is no reaction {id}: relayctl shaping reactions shows those there are")
        self.inside.consequences.reacted((), (found,))
        self.inside.courier.perform()
        return found

    async def imposed(self, active: Active) -> None:
        self.log.warn("{whom}: {what}", whom=active.whom, what=active.words(self.now()))
        self.inside.courier.scheduler.restraints.reshaped((active,), self.now())
        self.inside.courier.perform()
        await ended(self.directory.reactions.keep((active,), ()))

    def replay(self, rules: list[str], seconds: float) -> Any:
        return inquiry.replay(self.inside.spool, self.config, rules, self.now() - seconds)

    async def hit(self, **whom: str) -> dict[str, Any]:
        return await self.inside.stops.hit(Target(**whom))

    async def hit_by(self, key: Key) -> dict[str, Any]:
        source, group, account, _, pool = key
        return await self.inside.stops.hit(Target(source=source, group=group, account=account, pool=pool))

    async def key_of(self, at: str, source: str, account: str, pool: str, *, everything: bool) -> Key:
        return await self.inside.stops.key_of(at, source, account, pool, everything=everything)

    # Live sessions.

    def live(self, limit: int, **filter: str) -> list[dict[str, Any]]:
        return self.inside.sessions.listed(Filter(**filter), limit)

    def drop(self, who: str, reason: str, dry_run: bool, **filter: str) -> dict[str, Any]:
        return self.inside.sessions.drop(Filter(**filter), who, reason, dry_run=dry_run)

    def trace(
        self, wanted: dict[str, str], recipient: str, seconds: float, limit: int, who: str, reason: str
    ) -> dict[str, Any]:
        return self.traces.start(Filter(**wanted), recipient, seconds, limit, who, reason)
