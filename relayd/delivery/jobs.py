"""Jobs: what operators do to what is queued, however much that is, beside the mail that flows.

In: drafts of jobs, dry runs, undoings.  Out: jobs that end, with what they did in figures; their trail.  A job walks
the queues a page at a time.  Of each page it takes the deliveries out of everybody's reach (what a session has is
left to end), has the writer change them in one transaction, and lets them go once whatever was read before is answered:
so nothing goes out that was cancelled.  After each step it pauses for as long as that took.

Holds and cancels stop mail: they go first, in turns.  Others wait for them and for one another: what one of these makes
due earlier would move behind the place where another one is.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.task import deferLater
from twisted.logger import Logger

from relayd.address import domain_of
from relayd.delivery.courier import Courier
from relayd.delivery.routing import Site, words
from relayd.envelope import FALLBACK, POOL, queue_name, queue_parts
from relayd.errors import InputError
from relayd.identity import show
from relayd.lease import Charge
from relayd.outcome import Evidence
from relayd.resolver import ResolveError
from relayd.spool import Reception, actions, reader
from relayd.spool.actions import Change, Draft, Job, Step
from relayd.spool.selection import (
    Cursor,
    Filter,
    Found,
    Page,
    by_ids,
    cancelled_by,
    changed_by,
    names,
    of_queues,
    total,
)
from relayd.spool.selection import within as within_queue
from relayd.waiting import asked

START = Cursor()
SCANNED = 2000  # rows that one page looks at
STEP = 500  # deliveries that one step changes ...
HEAVY = 200  # ... if each has a record ...
REPORTED = 50  # ... and a report
PATIENCE = 2.0  # seconds that who begins a job waits for its end
SAMPLE = 10
LARGEST = 50  # queues that a dry run names
_BRAKES = ("hold", "cancel")
_AGAIN = 5.0  # seconds after which a step that failed is tried again
_TRIES = 5
_PURGE = 60.0  # seconds between looks for what can be brought back no more
_CONDEMNED = 200
_MET = 20_000  # deliveries of which a job knows that they were under way when it met them
_STOP = 5.0  # seconds that a stop waits for the step under way


class Walk:
    """Through all that a filter means, from a cursor on."""

    def __init__(self, jobs: "Jobs", wanted: Filter, most: int, at: Cursor = START, *, full: bool = False) -> None:
        self._jobs, self._wanted, self._most, self.at, self._full = jobs, wanted, most, at, full
        self._queues: deque[tuple[str, int]] = deque()
        self._named = at.name  # names up to this one have been asked for

    async def next(self, limit: int = 0, *, apart: bool = False) -> Page | None:
        """The next page, of so many rows looked at; ``at`` is behind it.  ``apart``: of one queue only."""
        limit = limit or SCANNED
        read, wanted, full = self._jobs.spool.read, self._wanted, self._full
        page: Page
        if wanted.ids:
            start = max(self.at.id, 0)
            ids = wanted.ids[start : start + limit]
            if not ids:
                return None
            page = await asked(read, _full(by_ids, full), wanted, ids, self._most)
            self.at = Cursor(id=start + len(ids))
            return await self._at_site(page) if wanted.site else page
        if self.at.whole:
            group = await self._group(limit, apart=apart)
            if not group:
                return None
            if len(group) > 1 or (group[0][1] <= limit and not apart):
                queues = [name for name, _ in group]
                page = await asked(read, _full(of_queues, full), wanted, queues, self._most)
                self.at = Cursor(queues[-1])
                return Page(page.found, sum(count for _, count in group), None)
            self.at = Cursor(group[0][0], whole=False)
        page = await asked(read, _full(within_queue, full), wanted, self.at, self._most, limit)
        self.at = page.next or Cursor(self.at.name)
        return page

    async def _at_site(self, page: Page) -> Page:
        """What of a page goes to the site that is wanted: nobody has asked its queues yet."""
        queues = {row.queue for row in page.found}
        there = {name for name in queues if await self._jobs.goes_to(name, self._wanted.site)}
        return Page([row for row in page.found if row.queue in there], page.seen, page.next)

    async def _group(self, limit: int, *, apart: bool) -> list[tuple[str, int]]:
        """The next queues that have not more than so many together; one at least."""
        while not self._queues:
            found = await asked(self._jobs.spool.read, names, self._wanted, self._named)
            if not found:
                return []
            self._named = found[-1][0]
            for name, count in found:
                if not self._wanted.site or await self._jobs.goes_to(name, self._wanted.site):
                    self._queues.append((name, count))
        group = [self._queues.popleft()]
        left = limit - group[0][1]
        while not apart and self._queues and self._queues[0][1] <= left:
            group.append(self._queues.popleft())
            left -= group[-1][1]
        return group


class _Undoing:
    """The walk through what a job did."""

    def __init__(self, jobs: "Jobs", undone: Job, at: Cursor) -> None:
        self._read, self.undone, self.at = jobs.spool.read, undone, at

    async def next(self) -> Page | None:
        question = cancelled_by if self.undone.action == "cancel" else changed_by
        page: Page = await asked(self._read, question, self.undone.id, self.at.id, HEAVY)
        self.at = page.next or self.at
        return page if page.found else None


class _Open:
    """A job that is not over.  ``seen``: rows looked at since its row was written."""

    def __init__(self, jobs: "Jobs", job: Job, undone: Job | None) -> None:
        self._jobs, self.job, self.undone = jobs, job, undone
        self.walk_from(job.at)
        self.seen = 0
        self.tries = 0
        self._under_way: set[int] = set()
        self.waiters: list[Deferred[None]] = []

    def walk_from(self, at: Cursor) -> None:
        self.walk: Walk | _Undoing
        if self.undone is not None:
            self.walk = _Undoing(self._jobs, self.undone, at)
        else:
            full = self.job.action == "cancel"
            self.walk = Walk(self._jobs, self.job.filter, self.job.most, at, full=full)

    def met(self, under_way: set[int], free: list[int]) -> int:
        """How many more are under way: one that has come back since is no more."""
        back, new = self._under_way.intersection(free), under_way - self._under_way
        self._under_way = (self._under_way | new if len(self._under_way) < _MET else self._under_way) - back
        return len(new) - len(back)

    @property
    def restores(self) -> bool:
        """Whether it brings back what was cancelled."""
        return self.undone is not None and self.undone.action == "cancel"


class Jobs:
    """See the module.  ``keep``: seconds for which a job can be undone; ``ended(job)``: into the trail, then
    ``noted(job)`` is to be called."""

    log = Logger()

    def __init__(self, reactor: Any, courier: Courier, keep: Callable[[], float], ended: Callable[[Job], None]) -> None:
        self._reactor = reactor
        self._courier = courier
        self._keep = keep
        self._ended = ended
        self.spool = courier.spool
        self._open: dict[int, _Open] = {}
        self._stopping = False
        self._idle: Deferred[None] | None = None
        self._loop: Deferred[None] | None = None
        self._purging = False
        self._next_purge = 0.0
        self.fault = ""  # why a job does not go on

    # Life.

    def start(self) -> None:
        """Goes on with what a stop or a crash interrupted."""
        self._loop = Deferred.fromCoroutine(self._run()).addErrback(self._broken)

    async def stop(self) -> None:
        """The step under way ends, if the disk lets it; the next start goes on behind it."""
        self._stopping = True
        self._rouse()
        if self._loop is not None:
            with suppress(TimeoutError, CancelledError):
                await self._loop.addTimeout(_STOP, self._reactor)

    def tick(self) -> None:
        """Call about once a second."""
        now = self._courier.wall()
        if now >= self._next_purge and not (self._purging or self._stopping):
            self._purging, self._next_purge = True, now + _PURGE

            def over(fault: Any) -> None:
                self._purging = False
                if fault is not None:
                    self.log.error("What was cancelled long ago cannot be dropped: {fault}", fault=words(fault))

            Deferred.fromCoroutine(self._purge()).addBoth(over)

    def _broken(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self.fault = "what operators do to the queue stands still until a restart; the log says why"
            self.log.failure("Jobs do not go on until a restart", failure)

    # What is asked.

    async def begin(self, draft: Draft, about: int | None = None) -> Job:
        """The job as it is after a moment: small ones have ended.  ``about``: how many it looks at, if that is known.
        Raises InputError."""
        if len(self._open) >= actions.OPEN:
            raise InputError(
                "", f"{len(self._open)} jobs are open: wait for them, or end some with relayctl job cancel"
            )
        if about is None:
            about = await asked(self.spool.read, total, draft.filter)
        job: Job = await asked(self.spool.change, actions.begin(draft, about, self._courier.wall()))
        waiter = await self._take_up(job)
        with suppress(TimeoutError):
            await waiter.addTimeout(PATIENCE, self._reactor)
        return await self.get(job.id)

    async def undo(self, id: int, who: str, reason: str) -> Job:
        """Raises InputError."""
        undone = await self._undoable(id)
        return await self.begin(Draft("undo", who, reason, undone.filter, undone.target, undoes=id), undone.done)

    async def would_undo(self, id: int) -> dict[str, Any]:
        """As ``dry_run``.  Raises InputError as ``undo`` would."""
        undone = await self._undoable(id)
        return {"undoes": undone.action, **await self._tell(_Undoing(self, undone, START), Draft("undo", "", ""))}

    async def _undoable(self, id: int) -> Job:
        undone = await self.get(id)
        if undone.action == "undo":
            raise InputError("id", f"job {id} undid job {undone.undoes}: do again what that did")
        if undone.state == "running":
            raise InputError("id", f"job {id} still runs: end it first with relayctl job cancel {id}")
        if undone.until <= self._courier.wall():
            raise InputError("id", f"job {id} can be undone no more: [queue] recycle says for how long")
        if by := next((o.job.id for o in self._open.values() if o.job.undoes == id), 0):
            raise InputError("id", f"job {by} undoes it already")
        return undone

    async def cancel(self, id: int) -> Job:
        """Ends a job where it is.  Raises InputError."""
        await self.get(id)
        job = await asked(self.spool.change, actions.end(id, "stopped", self._courier.wall(), self._keep()))
        if job is None:
            raise InputError("id", f"job {id} has ended already")
        self._close(job)
        return await self.get(id)

    async def get(self, id: int) -> Job:
        job: Job | None = await asked(self.spool.read, actions.job, id)
        if job is None:
            raise InputError("id", f"there is no job {id}: relayctl job list shows those there are")
        return job

    async def latest(self, limit: int) -> list[Job]:
        found: list[Job] = await asked(self.spool.read, actions.jobs, limit)
        return found

    def noted(self, job: Job) -> None:
        self.spool.change(actions.noted(job.id), lambda _: None)

    async def dry_run(self, draft: Draft) -> dict[str, Any]:
        """What a job would do: counted exactly, with some of them; nothing is changed."""
        most = await asked(self.spool.read, reader.last_identity)
        return await self._tell(Walk(self, draft.filter, most), draft)

    async def _tell(self, walk: "Walk | _Undoing", draft: Draft) -> dict[str, Any]:
        now = self._courier.wall()
        queues: Counter[str] = Counter()
        sample: list[Found] = []
        busy = due = 0
        while page := await walk.next():
            for name, rows in _by_queue(page.found):
                meant, already = self._meant(draft, rows, now)
                under_way = self._courier.scheduler.loading.under_way(name, {row.id for row in meant})
                busy += len(under_way)
                due += already
                meant = [row for row in meant if row.id not in under_way]
                if meant:
                    queues[name] += len(meant)
                    sample += meant[: SAMPLE - len(sample)]
        largest = queues.most_common(LARGEST)
        return {
            "deliveries": sum(queues.values()),
            "due_already": due,
            "under_way": busy,
            "in_queues": len(queues),
            "queues": [{"queue": name, "deliveries": count} for name, count in largest],
            "sample": [_shown(row) for row in sample],
        }

    async def deliveries(self, wanted: Filter, limit: int, after: str) -> dict[str, Any]:
        """Some that a filter means, by queue and due time, and where to go on."""
        most = await asked(self.spool.read, reader.last_identity)
        walk = Walk(self, wanted, most, _cursor(after) if after else START)
        found: list[Found] = []
        more = False
        while len(found) < limit:
            page = await walk.next(min(limit - len(found), SCANNED), apart=True)
            if page is None:
                break
            found += page.found
            more = len(found) >= limit
        return {"deliveries": [_shown(row) for row in found], "next": _place(walk.at) if more else ""}

    async def goes_to(self, name: str, site: str) -> bool:
        """Whether a queue's mail goes to this site, by its own name or its provider's."""
        queue = self._courier.scheduler.queues.get(name)
        if queue is not None and queue.site is not None:
            return site in (queue.site.name, queue.site.group)
        domain, router = queue_parts(name)[2], self._courier.router
        found: Site | None = router.known(domain)
        if found is None:
            try:
                found = await router.site(domain)
            except ResolveError:
                return False
        return site in (found.name, found.group)

    # Running.

    async def _run(self) -> None:
        for job in await self._try(lambda: asked(self.spool.read, actions.unfinished)) or ():
            if job.state == "running":
                await self._take_up(job)
            else:
                self._ended(job)
        while not self._stopping:
            one = self._pick()
            if one is None:
                self._idle = Deferred()
                await self._idle
                continue
            try:
                await self._step(one)
                one.tries, self.fault = 0, ""
            except Exception as fault:
                one.tries += 1
                self.fault = f"job {one.job.id} cannot go on: {words(fault)}"
                self.log.error("{what}", what=self.fault)
                if one.tries >= _TRIES:
                    self.fault = ""  # it is the job's from now on
                    await self._finish(one, "failed", words(fault))
                else:
                    await deferLater(self._reactor, _AGAIN, lambda: None)

    async def _try(self, question: Callable[[], Any]) -> Any:
        """The answer, however long the disk refuses it; None at a stop."""
        while not self._stopping:
            try:
                return await question()
            except Exception as fault:
                self.log.error("Jobs cannot be read: {fault}", fault=words(fault))
                await deferLater(self._reactor, _AGAIN, lambda: None)
        return None

    def _rouse(self) -> None:
        idle, self._idle = self._idle, None
        if idle is not None:
            idle.callback(None)

    async def _take_up(self, job: Job) -> "Deferred[None]":
        """Gives what fires at its end."""
        one = _Open(self, job, await self.get(job.undoes) if job.undoes is not None else None)
        self._open[job.id] = one
        waiter: Deferred[None] = Deferred()
        one.waiters.append(waiter)
        self._rouse()
        return waiter

    def _pick(self) -> _Open | None:
        brake = next((one for one in self._open.values() if one.job.action in _BRAKES), None)
        if brake is not None:  # the last in turn from now on
            self._open[brake.job.id] = self._open.pop(brake.job.id)
        return brake or next(iter(self._open.values()), None)

    async def _finish(self, one: _Open, state: str, fault: str = "") -> None:
        job = await asked(self.spool.change, actions.end(one.job.id, state, self._courier.wall(), self._keep(), fault))
        if job is not None:
            self._close(job)

    def _close(self, job: Job) -> None:
        one = self._open.pop(job.id, None)
        for waiter in one.waiters if one else ():
            if not waiter.called:
                waiter.callback(None)
        self._ended(job)

    async def _step(self, one: _Open) -> None:
        """A page of the job's walk."""
        before = one.walk.at
        page = await one.walk.next()
        try:
            if page is None:
                await self._apply(one, [], before)
                await self._finish(one, "done")
                return
            one.seen += page.seen
            size = STEP if one.job.action != "cancel" else REPORTED if one.job.notify else HEAVY
            for start in range(0, len(page.found), size):
                last = start + size >= len(page.found)
                await self._apply(one, page.found[start : start + size], one.walk.at if last else before)
                if one.job.id not in self._open or self._stopping:
                    return
        except BaseException:
            one.walk_from(before)  # what is done already is not done again
            raise

    async def _apply(self, one: _Open, found: list[Found], at: Cursor) -> None:
        """One transaction, and what follows from it for who has something in memory."""
        job, scheduler, now = one.job, self._courier.scheduler, self._courier.wall()
        began = self._reactor.seconds()
        rows: list[Found] = []
        seized: dict[str, list[int]] = {}
        due = busy = 0
        try:
            for name, these in _by_queue(found):
                meant, already = self._meant(job, these, now)
                if one.restores:  # they are in no queue
                    rows += meant
                    continue
                got = seized[name] = scheduler.loading.seize(name, [row.id for row in meant]) if meant else []
                mine = set(got)
                rows += [row for row in meant if row.id in mine]
                due += already
                busy += one.met({row.id for row in meant} - mine, got)
            step, one.seen = Step(one.seen, due, busy, at), 0
            done = await asked(self.spool.change, await self._change(one, rows, step, now))
            if 0 <= done < len(rows) and one.undone is None:
                done += await self._catch_up(one, rows, at, now)
            # Who has read these rows before they changed is answered before this.
            await asked(self.spool.read, lambda connection: None)
        finally:
            self._look(one, rows, seized)
        if done > 0 and job.action == "cancel":
            self._courier.outcomes.totals["cancelled"] += done
        if rows and not self._stopping:
            await deferLater(self._reactor, min(1.0, max(0.002, self._reactor.seconds() - began)), lambda: None)

    async def _catch_up(self, one: _Open, rows: list[Found], at: Cursor, now: float) -> int:
        """An attempt of some had ended in memory and not on disk when they were read: what came of it is there now, and
        nobody can try them meanwhile."""
        full = one.job.action == "cancel"
        page = await asked(self.spool.read, _full(by_ids, full), one.job.filter, [r.id for r in rows], one.job.most)
        left, _ = self._meant(one.job, page.found, now)
        change = await self._change(one, left, Step(0, 0, 0, at), now)
        return max(0, await asked(self.spool.change, change)) if left else 0

    def _look(self, one: _Open, rows: list[Found], seized: dict[str, list[int]]) -> None:
        """What was seized is let go, and what may be due by now is looked at."""
        job, scheduler, now = one.job, self._courier.scheduler, self._courier.wall()
        for name, got in seized.items():
            scheduler.loading.let_go(name, got, now, look=job.action in ("retry", "release", "undo"))
            if job.action == "retry":
                scheduler.restraints.urge(name, now)
        if job.action == "move" or one.restores:
            for name in {moved(row, job.target) if job.action == "move" else row.queue for row in rows}:
                scheduler.loading.let_go(name, (), now, look=True)
        elif one.undone is not None and one.undone.action == "move":
            scheduler.loading.walk_again(now)
        self._courier.perform()

    def _meant(self, what: Draft | Job, rows: list[Found], now: float) -> tuple[list[Found], int]:
        """Those of a queue's that are to be changed, and how many are due already."""
        if what.action in ("retry", "hold", "release"):
            rows = [row for row in rows if (row.held is not None) == (what.action == "release")]
        if what.action == "retry":
            later = [row for row in rows if row.due > now]
            return later, len(rows) - len(later)
        if what.action == "move":
            return [row for row in rows if moved(row, what.target) != row.queue], 0
        return rows, 0

    async def _change(self, one: _Open, rows: list[Found], step: Step, now: float) -> Change:
        job = one.job
        if not rows:
            return actions.skip(job, step)
        if job.action == "hold":
            return actions.hold(job, rows, step)
        if job.action == "retry":
            return actions.retry(job, rows, step, now)
        if job.action == "release":
            return actions.release(job, rows, step, now)
        if job.action == "move":
            return actions.move(job, rows, [(row.id, moved(row, job.target)) for row in rows], step)
        if job.action == "cancel":
            reports = await self._reports(job, rows, now) if job.notify else []
            return actions.cancel(job, rows, reports, step, now)
        return actions.restore(job, rows, step, now) if one.restores else actions.put_back(job, rows, step)

    async def _reports(self, job: Job, rows: list[Found], now: float) -> list[tuple[int, Reception]]:
        """Reports to the senders of these, as far as they want any."""
        evidence = Evidence(stage="queue", error="the sending system's operator has cancelled it")
        report = self._courier.outcomes.report
        whole = await asked(self.spool.deliveries, [row.id for row in rows])
        made = [(d.id, report("failed", d, evidence, d.attempts, now)) for d in whole]
        return [(identity, reception) for identity, reception in made if reception is not None]

    # What can be brought back no more.

    async def _purge(self) -> None:
        found: list[Any] = []
        while not self._stopping:
            found = await asked(self.spool.read, actions.expired, self._courier.wall(), _CONDEMNED)
            if not found:
                return
            paid_back = self._courier.outcomes.refunds
            refunds = [
                (one.id, meta.stream, Charge(meta.payer, 1))
                for one, meta in found
                if meta.payer and paid_back(meta.payer, "cancelled", one.attempts)
            ]
            self.spool.unlink(await asked(self.spool.change, actions.drop([one for one, _ in found], refunds)))


def moved(row: Found, target: str) -> str:
    """The queue of a delivery after a move: ``target`` is "pool:NAME", "fallback:NAME" or "home"."""
    account, stream, _, _ = queue_parts(row.queue)
    if target.startswith(FALLBACK):
        return queue_name(account, stream, target)
    return queue_name(
        account, stream, domain_of(row.recipient), target.removeprefix(POOL) if target.startswith(POOL) else ""
    )


def _full(question: Callable[..., Page], full: bool) -> Callable[..., Page]:
    return lambda *args: question(*args, full=full)


def _by_queue(rows: list[Found]) -> Iterator[tuple[str, list[Found]]]:
    queues: dict[str, list[Found]] = {}
    for row in rows:
        queues.setdefault(row.queue, []).append(row)
    yield from queues.items()


def _shown(row: Found) -> dict[str, Any]:
    account, stream, domain, pool = queue_parts(row.queue)
    return {
        "id": show(row.id),
        "account": account,
        "stream": stream,
        "domain": domain,
        "pool": pool,
        "recipient": row.recipient,
        "attempts": row.attempts,
        "due": None if row.held is not None else row.due,
        "held_by_job": row.held,
        "last": row.last,
    }


def _place(at: Cursor) -> str:
    return f"{at.due!r}:{at.id}:{'' if at.whole else 'in'}:{at.name}"


def _cursor(text: str) -> Cursor:
    """Raises InputError."""
    try:
        due, identity, inside, name = text.split(":", 3)
        return Cursor(name, float(due), int(identity), whole=not inside)
    except ValueError:
        raise InputError("after", 'is not what an answer\'s "next" said') from None
