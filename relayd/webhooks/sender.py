"""The sender of webhooks: each follows the history behind places of its own and posts what is there, batch by batch.

In: word that events came (``came``), the directory's rows, operators' wishes.  Out: POSTs; where each webhook stands,
on the shelf; notices to owners; which segments of records must stay.  A webhook's deliveries are dealt out to its
lanes, and a lane has one batch under way, so what happened to a delivery is told in order.  A lane holds no events
while it waits: what failed is read again.  So a dead server costs a few numbers and a timer, however long it is dead.
"""

import random
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd import notation
from relayd.directory import Directory, Webhook
from relayd.errors import InputError
from relayd.events import Name, rfc3339
from relayd.history import Hit, Query, begin
from relayd.history.facts import MANY, NUMBER
from relayd.pulse import pulse
from relayd.waiting import ended
from relayd.webclient import words
from relayd.webhooks import batch, report, standing
from relayd.webhooks.batch import Batch, Wanted
from relayd.webhooks.lanes import Endpoint, Lane, Turns
from relayd.webhooks.post import Answer, Postman, Settings
from relayd.webhooks.shelf import Shelf
from relayd.webhooks.standing import Place, Replay, Standing, Verdict

BY = "relayd"  # who parks, and pauses what wants no more
READERS = 2  # threads
OWN_FAULT = 60.0  # seconds until the next look when the history cannot be read
LOOK = 300.0  # seconds after which a lane looks by itself
DRAIN = 2.0  # seconds that a stop waits for answers
NOBODY = "~"  # behind every segment: none has to stay
_PULSE = 30.0


class Webhooks(Service):
    """``find(host)``: its addresses; ``tell(account, subject, lines, note, now)``: word to an account;
    ``hold(segment)``: earlier segments need not stay for webhooks.  Everything is for the main thread."""

    name = "webhooks"
    log = Logger()

    def __init__(
        self,
        reactor: Any,
        directory: Directory,
        spool: Path,
        node: str,
        find: Callable[[str], Any],
        tell: Callable[[str, str, list[str], str, float], None],
        hold: Callable[[str], None],
        settings: Settings,
        trust: Any,
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._reactor = reactor
        self._directory = directory
        self._records = spool / "records"
        self._shelf_path = spool / "webhooks.sqlite"
        self._node = node
        self._tell = tell
        self._hold = hold
        self._now = now
        self._rng = rng
        self._postman = Postman(reactor, find, settings, trust)
        self._turns = Turns()
        self._endpoints: dict[str, Endpoint] = {}
        self._by_account: dict[str, list[Endpoint]] = {}
        self._families: tuple[int, dict[str, tuple[str, ...]]] = (-1, {})
        self._faults: dict[str, str] = {}  # of webhooks by name; "": of the shelf
        self._changed: set[str] = set()
        self._gone: set[str] = set()
        self._keeping: Future[None] | None = None
        self._held = ""
        self._stopping = False
        self._pulse = pulse(reactor, self._tick)

    # What it is told.

    def startService(self) -> None:
        """Raises OSError."""
        super().startService()
        self._shelf = Shelf(self._shelf_path, self._reactor.callFromThread)
        if self._shelf.fault:
            self.log.error("{fault}", fault=self._shelf.fault)
        self._readers = ThreadPoolExecutor(READERS, "webhooks")
        for row in self._directory.webhooks.all():
            stands = self._shelf.before.get(row.name)
            if stands is not None and stands.made == row.made:
                stands.spread(row.concurrency)
                stands.wake(self._now())
            else:
                stands = _fresh(row)
            self._enter(row, stands)
        self._gone = set(self._shelf.before) - set(self._endpoints)
        self._directory.webhooks.changed = self._heed
        self._hold_back(self._least())
        self._pulse.start(_PULSE, now=False)

    def stopService(self) -> "Deferred[None]":
        """What is under way gets a moment to be answered; then where all stand is written."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._stopping = True
        if self._pulse.running:
            self._pulse.stop()
        self._directory.webhooks.changed = lambda name: None
        lanes = [lane for endpoint in self._endpoints.values() for lane in endpoint.lanes]
        for lane in lanes:
            lane.sleep()
        if flights := [_over(lane.flight) for lane in lanes if lane.flight is not None]:
            await DeferredList(flights).addTimeout(DRAIN, self._reactor).addErrback(lambda _: None)
        for lane in lanes:
            lane.end()
        pool = self._reactor.getThreadPool()
        await deferToThreadPool(self._reactor, pool, self._readers.shutdown)
        while self._keeping is not None or self._changed or self._gone:
            self._keep()
            if self._keeping is not None:
                with suppress(Exception):
                    await ended(self._keeping)
            if "" in self._faults:
                break  # what cannot be written is sent again
        await deferToThreadPool(self._reactor, pool, self._shelf.close)
        self._postman.close()

    def configure(self, settings: Settings, trust: Any) -> None:
        """What holds from now on."""
        self._postman.close()
        self._postman.configure(settings, trust)

    def came(self, whose: set[tuple[str, str]]) -> None:
        """There are events of these accounts and connections."""
        if not self._by_account:
            return
        for account, connection in whose:
            for owner in self._directory.lineage(account):
                for endpoint in self._by_account.get(owner, ()):
                    if endpoint.row.connection in ("", connection):
                        for lane in endpoint.lanes:
                            self._wake(lane)

    # What operators ask.

    def warnings(self) -> list[str]:
        return [*self._faults.values(), *report.warnings(self._endpoints.values(), self._now())]

    def shown(self, row: Webhook) -> dict[str, Any]:
        """How a webhook fares."""
        return report.shown(self._endpoints[row.name], self._now())

    async def judged(self, url: str) -> str:
        """A URL to which webhooks may go.  Raises InputError."""
        return await self._postman.judged(url)

    async def here(self) -> Hit:
        """Behind all events that there are."""
        found: Hit = await self._asked(_end, self._records)
        return found

    async def resume(self, row: Webhook, by: str) -> tuple[Webhook, bool]:
        """Goes on where it stood; whether some of what is behind that place is there no more."""
        segments = {place.hit.segment for place in self._endpoints[row.name].standing.all()}
        gone = await self._asked(_missing, self._records, segments)
        return await self._activate(self._same(row), by), gone

    async def replay(self, row: Webhook, since: float, until: float, by: str) -> None:
        """Sends history again.  One that is active does so beside what it goes on with; one that is not goes on from
        there.  ``until`` 0.0: up to where it stands.  Raises InputError."""
        if until and row.state != "active":
            raise InputError("until", f"{row.name} is {row.state}: resume it first, or leave --until out")
        start: Hit = await self._asked(begin, self._records, since)
        last: Hit | None = await self._asked(begin, self._records, until) if until else None
        endpoint = self._same(row)
        stands = endpoint.standing
        if row.state != "active":
            stands.move(start)
            stands.replay = None
            await self._activate(endpoint, by)
            return
        stood = min(place.hit for place in stands.places)
        last = min(stood, last or stood)
        if start >= last:
            raise InputError("since", "there is nothing to send again: what came since then it is about to send anyway")
        stands.replay = Replay(Place(start), last, since, until, by, self._now())
        self._rebuild(endpoint)
        self._touch(endpoint)

    def cancel_replay(self, row: Webhook) -> None:
        """Raises InputError."""
        endpoint = self._endpoints[row.name]
        if endpoint.standing.replay is None or endpoint.standing.replay.done:
            raise InputError("name", f"{row.name} sends nothing again")
        endpoint.standing.replay = None
        self._rebuild(endpoint)
        self._touch(endpoint)

    async def test(self, row: Webhook) -> dict[str, Any]:
        """Posts an event of its own and tells what came of it."""
        now, began = self._now(), self._reactor.seconds()
        id = f"test-{self._rng.getrandbits(64):016x}"
        event = {"id": id, "event": "test", "time": rfc3339(now), "v": 1, "node": self._node, "account": row.account}
        body, headers = batch.message([id], [msgspec.json.encode(event)], row.secrets(now), int(now))
        try:
            answer = await self._postman.post(row.url, headers, body, now)
        except Exception as error:
            found: dict[str, Any] = {"ok": False, "words": words(error)}
        else:
            said = answer.verdict.words
            found = {"ok": not said, "status": answer.status, "words": said, "answer": answer.text}
        return {**found, "id": id, "seconds": round(self._reactor.seconds() - began, 3)}

    def _same(self, row: Webhook) -> Endpoint:
        """The endpoint of a row that was looked at before somebody was waited for.  Raises InputError."""
        endpoint = self._endpoints.get(row.name)
        if endpoint is None or endpoint.row.state != row.state:
            raise InputError("name", f"{row.name} has been changed meanwhile: look at it and ask again")
        return endpoint

    async def _activate(self, endpoint: Endpoint, by: str) -> Webhook:
        endpoint.standing.forgive()
        self._touch(endpoint)
        if endpoint.row.state == "active":
            self._rebuild(endpoint)  # it is tried at once
            return endpoint.row
        fields = {"state": "active", "reason": "", "by": by, "since": self._now()}
        row: Webhook = await ended(self._directory.webhooks.change(endpoint.row.name, **fields))
        return row

    # Rows.

    def _enter(self, row: Webhook, stands: Standing) -> Endpoint:
        endpoint = self._endpoints[row.name] = Endpoint(row, stands)
        self._by_account.setdefault(row.account, []).append(endpoint)
        self._families = (-1, {})
        self._rebuild(endpoint)
        return endpoint

    def _leave(self, endpoint: Endpoint) -> None:
        name, account = endpoint.row.name, endpoint.row.account
        endpoint.drop()
        del self._endpoints[name]
        self._by_account[account].remove(endpoint)
        if not self._by_account[account]:
            del self._by_account[account]
        self._faults.pop(name, None)
        self._changed.discard(name)
        self._gone.add(name)
        self._keep()

    def _heed(self, name: str) -> None:
        """A row is new, changed or gone."""
        row, endpoint = self._directory.webhooks.get(name), self._endpoints.get(name)
        if row is None:
            if endpoint is not None:
                self._leave(endpoint)
            return
        if endpoint is None:
            self._touch(self._enter(row, _fresh(row)))
            return
        before, endpoint.row = endpoint.row, row
        if before.url != row.url:
            endpoint.standing.forgive()
        endpoint.standing.spread(row.concurrency)
        how = ("state", "url", "concurrency", "events", "batch")
        if any(getattr(before, field) != getattr(row, field) for field in how):
            self._rebuild(endpoint)
        self._touch(endpoint)

    def _rebuild(self, endpoint: Endpoint) -> None:
        for lane in endpoint.rebuild():
            self._wake(lane)

    def _query(self, row: Webhook) -> Query:
        chosen: list[Name] = [name for name in NUMBER if name in row.events or (not row.events and name != "queued")]
        return Query(accounts=self._family(row.account), connection=row.connection, events=tuple(chosen))

    def _family(self, account: str) -> tuple[str, ...]:
        """The account and all below it."""
        version, families = self._families
        if version != self._directory.version:
            gathered: dict[str, list[str]] = {owner: [owner] for owner in self._by_account}
            for row in self._directory.accounts():
                for owner in self._directory.lineage(row.name)[1:]:
                    if owner in gathered:
                        gathered[owner].append(row.name)
            families = {owner: tuple(names) for owner, names in gathered.items()}
            self._families = (self._directory.version, families)
        return families[account]

    # Lanes.

    def _wake(self, lane: Lane) -> None:
        """There may be something for it."""
        if lane.phase != "idle" or lane.over or self._stopping:
            lane.woken = True
            return
        lane.phase = "ready"
        self._turns.ask(lane)
        self._go_on()

    def _go_on(self) -> None:
        while not self._stopping and (lane := self._turns.next()) is not None:
            self._look(lane)

    def _look(self, lane: Lane) -> None:
        row, now, until = lane.endpoint.row, self._now(), lane.until
        lane.phase, lane.woken, lane.looked, lane.bounded = "busy", False, now, until is not None
        replay = lane.endpoint.standing.replay
        if lane.replay and replay is not None:
            until = min(until or replay.end, replay.end)
        query, keys = self._query(row), row.secrets(now)
        wanted = Wanted(query, lane.place.hit, until, lane.lane, row.batch, keys, int(now))
        self._asking(batch.read, self._records, self._node, wanted).add_done_callback(partial(self._have, lane))

    def _have(self, lane: Lane, done: "Future[Batch]") -> None:
        if lane.over or self._stopping:
            self._release(lane)
            return
        try:
            self._take(lane, done)
        except Exception:
            self._broken(Failure(), lane)  # else it would be busy for ever

    def _take(self, lane: Lane, done: "Future[Batch]") -> None:
        name, error = lane.endpoint.row.name, done.exception()
        if error is not None:
            if name not in self._faults:
                self.log.error("Webhook {name} cannot read the history: {e}", name=name, e=str(error))
            self._faults[name] = f"webhook {name} stands still, the history cannot be read: {error}"
            self._rest(lane, OWN_FAULT)
            return
        self._faults.pop(name, None)
        found = done.result()
        if not found.count:
            self._nothing(lane, found)
            return
        lane.place.oldest, lane.until = found.oldest, found.to
        posted = self._postman.post(lane.endpoint.row.url, found.headers, found.body, self._now())
        flight = lane.flight = Deferred.fromCoroutine(posted)
        flight.addCallbacks(self._answered, self._failed, (lane, found), {}, (lane,))
        flight.addErrback(self._broken, lane)

    def _nothing(self, lane: Lane, found: Batch) -> None:
        """There is nothing for it up to there."""
        lane.place.oldest = 0.0
        if found.to != lane.place.hit:
            lane.place.hit = found.to
            self._changed.add(lane.endpoint.row.name)  # written with the next that is more than that
        self._done(lane, found)

    def _answered(self, answer: Answer, lane: Lane, found: Batch) -> None:
        lane.flight = None
        if lane.over:
            self._release(lane)
            return
        if answer.verdict.words:
            self._refused(lane, answer.verdict, answer.text)
            return
        stands = lane.endpoint.standing
        stands.took(lane.place, found.to, found.count, answer.text, self._now())
        if lane.replay and stands.replay is not None:
            stands.replay.sent += found.count
            stands.replay.at = found.oldest
        self._done(lane, found)
        self._touch(lane.endpoint)

    def _done(self, lane: Lane, found: Batch) -> None:
        """It stands behind what was found, and goes on if there may be more."""
        lane.until, lane.phase = None, "idle"
        replay = lane.endpoint.standing.replay
        if lane.replay and replay is not None and lane.place.hit >= replay.end:
            replay.done = self._now()
            lane.end()
            lane.endpoint.lanes.remove(lane)
            self._touch(lane.endpoint)
        self._release(lane)
        if found.more or lane.woken or lane.bounded:
            self._wake(lane)

    def _failed(self, failure: Failure, lane: Lane) -> None:
        lane.flight = None
        if lane.over or failure.check(CancelledError):
            self._release(lane)
        else:
            self._refused(lane, Verdict(words(failure.value)), "")

    def _broken(self, failure: Failure, lane: Lane) -> None:
        self.log.failure("A webhook failed by our own fault", failure)
        lane.flight = None
        if lane.phase == "busy":
            self._rest(lane, OWN_FAULT)

    def _refused(self, lane: Lane, verdict: Verdict, answer: str) -> None:
        endpoint, now = lane.endpoint, self._now()
        row, stands, give_up = endpoint.row, endpoint.standing, self._postman.settings.give_up
        stands.failed(lane.place, verdict.words, answer, now)
        self._touch(endpoint)
        if lane.place.tries == 1:
            self.log.warn("Webhook {name} failed: {why}", name=row.name, why=verdict.words)
        lasting = now - lane.place.since
        if verdict.gone:
            self._end(endpoint, "paused", verdict.words)
        elif lasting >= give_up:
            age = notation.show_duration(give_up)
            self._end(endpoint, "parked", f"nothing but failures for {age}, the last: {verdict.words}")
        elif lasting >= standing.SILENT and not stands.told:
            stands.told = True
            age = notation.show_duration(lasting)
            what = f"It has failed for {age}: {verdict.words}"
            self._say(row, f"the webhook {row.name} fails", what, report.GOES_ON)
        self._rest(lane, standing.pause(lane.place.tries, verdict.wait, self._rng))

    def _end(self, endpoint: Endpoint, state: str, why: str) -> None:
        """Nothing more is posted until somebody has it resumed."""
        row = endpoint.row
        if endpoint.ending:
            return
        endpoint.ending = True
        self.log.warn("Webhook {name} is {state}: {why}", name=row.name, state=state, why=why)

        def kept(done: "Future[Webhook]") -> None:
            endpoint.ending = False
            if fault := done.exception():
                self.log.error("The state of webhook {name} is not on disk: {e}", name=row.name, e=str(fault))

        changed = self._directory.webhooks.change(row.name, state=state, reason=why, by=BY, since=self._now())
        changed.add_done_callback(kept)
        self._say(row, f"the webhook {row.name} is {state}", f"No more events are posted: {why}", report.STOPPED)

    def _say(self, row: Webhook, subject: str, what: str, then: list[str]) -> None:
        self._tell(row.account, subject, report.notice(row, what, then), f"webhook {row.name}", self._now())

    def _rest(self, lane: Lane, seconds: float) -> None:
        lane.phase = "resting"
        if not (lane.over or self._stopping):
            lane.due = self._now() + seconds
            lane.timer = self._reactor.callLater(seconds, self._rested, lane)
        self._release(lane)

    def _rested(self, lane: Lane) -> None:
        lane.timer, lane.phase = None, "idle"
        self._wake(lane)

    def _release(self, lane: Lane) -> None:
        self._turns.give_back(lane)
        self._go_on()

    # What is kept.

    def _tick(self) -> None:
        now = self._now()
        for endpoint in self._endpoints.values():
            for lane in endpoint.lanes:
                if lane.phase == "idle" and not 0 <= now - lane.looked < LOOK:
                    self._wake(lane)
        self._keep()

    def _touch(self, endpoint: Endpoint) -> None:
        if endpoint.row.name in self._endpoints:
            self._changed.add(endpoint.row.name)
            self._keep()

    def _keep(self) -> None:
        """Writes what has changed, and then what changed meanwhile, never two things at a time."""
        if self._keeping is not None or not (self._changed or self._gone):
            return
        names, gone, least = self._changed, self._gone, self._least()
        self._changed, self._gone = set(), set()
        rows = [(name, self._endpoints[name].standing) for name in names if name in self._endpoints]
        self._keeping = self._shelf.keep(rows, gone)
        self._keeping.add_done_callback(partial(self._kept, names, gone, least))

    def _kept(self, names: set[str], gone: set[str], least: str, done: "Future[None]") -> None:
        self._keeping = None
        if error := done.exception():
            if "" not in self._faults:
                self.log.error("Where webhooks stand is not on disk: {e}", e=str(error))
            self._faults[""] = f"where webhooks stand is not on disk: {error}"
            self._changed |= names
            self._gone |= gone - set(self._endpoints)
            return  # the pulse tries again
        self._faults.pop("", None)
        self._hold_back(least)
        self._keep()

    def _least(self) -> str:
        """The first segment that somebody still needs."""
        active = (endpoint for endpoint in self._endpoints.values() if endpoint.row.state == "active")
        return min((place.hit.segment for endpoint in active for place in endpoint.standing.all()), default=NOBODY)

    def _hold_back(self, least: str) -> None:
        if least != self._held or not least:
            self._held = least
            self._hold(least)

    def _asking(self, question: Callable[..., Any], *args: Any) -> "Future[Any]":
        """What the history says, asked on a thread; the future ends on the main thread."""
        brought: Future[Any] = Future()

        def bring(done: "Future[Any]") -> None:
            if error := done.exception():
                brought.set_exception(error)
            else:
                brought.set_result(done.result())

        asked = self._readers.submit(question, *args)
        asked.add_done_callback(lambda done: self._reactor.callFromThread(bring, done))
        return brought

    async def _asked(self, question: Callable[..., Any], *args: Any) -> Any:
        return await ended(self._asking(question, *args))


def _fresh(row: Webhook) -> Standing:
    return Standing(row.made, [Place(Hit(*row.begins)) for _ in range(row.concurrency)])


def _over(flight: "Deferred[Any]") -> "Deferred[None]":
    """Done with another, whatever becomes of it."""
    seen: Deferred[None] = Deferred()

    def over(result: Any) -> Any:
        if not seen.called:
            seen.callback(None)
        return result

    flight.addBoth(over)
    return seen


def _end(records: Path) -> Hit:
    """Behind the last record that is there, in the history already or not."""
    path = max(records.glob("*.jsonl"), default=None)
    return Hit(path.name, (path.stat().st_size << MANY) - 1) if path else Hit("", 0)


def _missing(records: Path, segments: set[str]) -> bool:
    return not all((records / name).exists() for name in segments if name)
