"""The sender of webhooks: each follows the history behind places of its own and posts what is there, batch by batch.

In: word that events came (``came``), the directory's rows, operators' wishes.  Out: POSTs; where each webhook stands,
on the shelf; notices to owners; which segments of records must stay.  A webhook's deliveries are dealt out to its lanes,
and a lane has one batch under way, so what happened to a delivery is told in order.  A lane holds no events while it
waits: what failed is read again.  So a dead server costs a few numbers and a timer, however long it is dead.
"""

import random
from collections import deque
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
from twisted.web.http_headers import Headers

import relayd
from relayd import notation
from relayd.directory import Directory, Webhook
from relayd.errors import InputError
from relayd.events import Name, rfc3339
from relayd.history import Hit, Query, begin
from relayd.history.facts import MANY, NUMBER
from relayd.pulse import pulse
from relayd.reply import printable
from relayd.resolver import LookupFailed, ResolveError
from relayd.waiting import ended
from relayd.webclient import NoAnswer, Sent, WebClient, words
from relayd.webhooks import batch, standing
from relayd.webhooks.batch import Batch, Wanted
from relayd.webhooks.shelf import Shelf
from relayd.webhooks.standing import Place, Replay, Standing, Verdict
from relayd.webhooks.target import Target, is_address, parse_url, refusal

BY = "relayd"  # who parks, and pauses what wants no more
AT_ONCE = 64  # batches under way in all, ...
PROBES = 32  # ... of them to those that failed last time
_READERS = 2  # threads
_OWN_FAULT = 60.0  # seconds until the next look when the history cannot be read
_LOOK = 300.0  # seconds after which a lane looks by itself
_PULSE = 30.0
_DRAIN = 2.0  # seconds that a stop waits for answers
_KEPT = 4  # seconds that a connection is kept: Node's servers end theirs after 5
_WARNINGS = 10  # webhooks that a warning names
NOBODY = "~"  # behind every segment: none has to stay


class Settings(msgspec.Struct, frozen=True):
    """``allow``: networks besides the public Internet; ``timeout``: seconds for an answer; ``give_up``: seconds of
    failures, then a webhook is parked."""

    allow: tuple[str, ...] = ()
    timeout: float = 10.0
    give_up: float = 3 * 86400.0


class _Lane:
    """``phase``: "idle", "ready" (waits for its turn), "busy" (reads or posts) or "resting" (after a failure);
    ``woken``: something came meanwhile; ``until``: the end of the batch that is tried; ``bounded``: there may be more
    behind what was read; ``probe``: it failed last time; ``over``: it is no more."""

    def __init__(self, endpoint: "_Endpoint", place: Place, number: int, of: int, replay: bool = False) -> None:
        self.endpoint = endpoint
        self.place = place
        self.lane = (number, of)
        self.replay = replay
        self.phase = "idle"
        self.woken = False
        self.bounded = False
        self.probe = False
        self.over = False
        self.until: Hit | None = None
        self.looked = 0.0
        self.due = 0.0
        self.timer: Any = None
        self.flight: Deferred[Any] | None = None


class _Endpoint:
    """A webhook with where it stands, and its lanes while it is active."""

    def __init__(self, row: Webhook, standing: Standing) -> None:
        self.row = row
        self.standing = standing
        self.lanes: list[_Lane] = []
        self.ending = False  # its new state is on its way to the disk


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
        self._find = find
        self._tell = tell
        self._hold = hold
        self._now = now
        self._rng = rng
        self.faults: dict[str, str] = {}  # of webhooks by name; "": of the shelf
        self._settings = settings
        self._web = self._client(trust)
        self._endpoints: dict[str, _Endpoint] = {}
        self._by_account: dict[str, list[_Endpoint]] = {}
        self._families: tuple[int, dict[str, tuple[str, ...]]] = (-1, {})
        self._ready: deque[_Lane] = deque()
        self._probes: deque[_Lane] = deque()
        self._busy = 0
        self._probing = 0
        self._changed: set[str] = set()
        self._gone: set[str] = set()
        self._keeping: Future[None] | None = None
        self._held = ""
        self._stopping = False
        self._pulse = pulse(reactor, self._tick)

    # What it is told.

    def startService(self) -> None:
        """Raises OSError, sqlite3.Error."""
        super().startService()
        post = self._reactor.callFromThread
        self._shelf = Shelf(self._shelf_path, post)
        if self._shelf.fault:
            self.log.error("{fault}", fault=self._shelf.fault)
        self._readers = ThreadPoolExecutor(_READERS, "webhooks")
        before = self._shelf.before
        for row in self._directory.webhooks.all():
            known = before.get(row.name)
            if known is not None and known.made == row.made:
                known.spread(row.concurrency)
                known.wake(self._now())
            else:
                known = _fresh(row)
            self._enter(row, known)
        self._gone = set(before) - set(self._endpoints)
        self._directory.webhooks.changed = self._heed
        self._hold_back()
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
        self._ready.clear()
        self._probes.clear()
        lanes = [lane for endpoint in self._endpoints.values() for lane in endpoint.lanes]
        for lane in lanes:
            _wake_never(lane)
        flights = [lane.flight for lane in lanes if lane.flight is not None]
        if flights:
            ends = DeferredList([_watched(flight) for flight in flights])
            ends.addTimeout(_DRAIN, self._reactor).addErrback(lambda _: None)
            await ends
        for lane in lanes:
            lane.over = True
            if lane.flight is not None:
                lane.flight.cancel()
        pool = self._reactor.getThreadPool()
        await deferToThreadPool(self._reactor, pool, self._readers.shutdown)
        while self._keeping is not None or self._changed or self._gone:
            if self._keeping is None:
                self._keep()
            with suppress(Exception):
                await ended(self._keeping)  # type: ignore[arg-type]
            if "" in self.faults:
                break  # it cannot be written; what it would have said is sent again
        await deferToThreadPool(self._reactor, pool, self._shelf.close)
        self._web.close()  # not waited for: that would be for the other side to say when

    def configure(self, settings: Settings, trust: Any) -> None:
        """What holds from now on."""
        self._settings = settings
        self._web.close()
        self._web = self._client(trust)

    def came(self, whose: set[tuple[str, str]]) -> None:
        """There are events of these accounts and connections."""
        if not self._by_account or self._stopping:
            return
        for account, connection in whose:
            for owner in self._directory.lineage(account):
                for endpoint in self._by_account.get(owner, ()):
                    if endpoint.row.connection in ("", connection):
                        for lane in endpoint.lanes:
                            self._wake(lane)

    # What operators ask.

    def warnings(self) -> list[str]:
        now, found = self._now(), list(self.faults.values())
        bad = []
        for name, endpoint in sorted(self._endpoints.items()):
            since = endpoint.standing.since()
            if endpoint.row.state == "parked":
                bad.append(f"webhook {name} is parked: {endpoint.row.reason}")
            elif endpoint.row.state == "active" and since and now - since >= standing.SILENT:
                age = notation.show_duration(now - since)
                bad.append(f"webhook {name} has failed for {age}: {endpoint.standing.words}")
        more = [f"and {len(bad) - _WARNINGS} more webhooks: relayctl webhook list"] if len(bad) > _WARNINGS else []
        return found + bad[:_WARNINGS] + more

    def shown(self, row: Webhook) -> dict[str, Any]:
        """How a webhook fares, for people."""
        endpoint, now = self._endpoints[row.name], self._now()
        stands = endpoint.standing
        oldest = min((place.oldest for place in stands.places if place.oldest), default=0.0)
        due = min((lane.due for lane in endpoint.lanes if lane.phase == "resting"), default=0.0)
        replay = stands.replay
        return {
            "state": row.state,
            "behind": max(0.0, now - oldest) if oldest else 0.0,
            "sent": stands.sent,
            "last_success": stands.success or None,
            "last_failure": stands.failure or None,
            "words": stands.words if stands.since() or row.state != "active" else "",
            "tries": max(place.tries for place in stands.all()),
            "next_try": due or None,
            "answer": stands.answer,
            "replay": _replay_shown(replay) if replay else None,
        }

    async def judged(self, url: str) -> Target:
        """The parts of a URL to which webhooks may go, as far as can be known now.  Raises InputError."""
        try:
            target = parse_url(url)
            await self._addresses(target.host, target.secure)
        except (ValueError, NoAnswer) as error:
            raise InputError("url", str(error)) from None
        except ResolveError as error:
            if not isinstance(error, LookupFailed):  # what does not answer now may do so later
                raise InputError("url", str(error)) from None
        return target

    async def here(self) -> Hit:
        """Behind all events that there are."""
        return await ended(self._on_main(self._readers.submit(_end, self._records)))  # type: ignore[no-any-return]

    async def resume(self, row: Webhook, by: str) -> tuple[Webhook, bool]:
        """Goes on where it stood; whether some of what is behind that place is there no more."""
        endpoint = self._endpoints[row.name]
        segments = {place.hit.segment for place in endpoint.standing.all() if place.hit.segment}
        gone = await ended(self._on_main(self._readers.submit(_missing, self._records, segments)))
        return await self._activate(row, by), gone

    async def _activate(self, row: Webhook, by: str) -> Webhook:
        endpoint = self._endpoints[row.name]
        endpoint.standing.forgive()
        self._touch(endpoint)
        if endpoint.row.state == "active":
            self._rebuild(endpoint)  # it is tried at once
            return endpoint.row
        changed = self._directory.webhooks.change(row.name, state="active", reason="", by=by, since=self._now())
        return await ended(changed)  # type: ignore[no-any-return]

    async def replay(self, row: Webhook, since: float, until: float, by: str) -> Webhook:
        """Sends history again.  One that is active does so beside what it goes on with; one that is not goes on from
        there.  ``until`` 0.0: up to where it stands.  Raises InputError."""
        if until and row.state != "active":
            raise InputError("until", f"{row.name} is {row.state}: resume it first, or leave --until out")
        where = self._on_main(self._readers.submit(begin, self._records, since))
        end = self._on_main(self._readers.submit(begin, self._records, until)) if until else None
        start: Hit = await ended(where)
        last: Hit | None = await ended(end) if end else None
        endpoint = self._endpoints.get(row.name)
        if endpoint is None or endpoint.row.state != row.state:
            raise InputError("name", f"{row.name} has been changed meanwhile: look at it and ask again")
        stands = endpoint.standing
        if row.state != "active":
            stands.move(start)
            stands.replay = None
            self._touch(endpoint)
            return await self._activate(row, by)
        stood = min(place.hit for place in stands.places)
        last = min(stood, last or stood)
        if start >= last:
            raise InputError("since", "there is nothing to send again: all since then is still to be sent anyway")
        stands.replay = Replay(Place(start), last, since, until, by, self._now())
        self._rebuild(endpoint)
        self._touch(endpoint)
        return endpoint.row

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
        now = self._now()
        id = f"test-{self._rng.getrandbits(64):016x}"
        event = {"id": id, "event": "test", "time": rfc3339(now), "v": 1, "node": self._node, "account": row.account}
        body, headers = batch.message([id], [msgspec.json.encode(event)], row.secrets(now), int(now))
        began = self._reactor.seconds()
        try:
            sent = await self._post(row.url, headers, body)
        except Exception as error:
            found: dict[str, Any] = {"ok": False, "words": words(error)}
        else:
            verdict, answer = self._judge(sent)
            found = {"ok": not verdict.words, "status": sent.status, "words": verdict.words, "answer": answer}
        return {**found, "id": id, "seconds": round(self._reactor.seconds() - began, 3)}

    # Rows.

    def _enter(self, row: Webhook, stands: Standing) -> None:
        endpoint = self._endpoints[row.name] = _Endpoint(row, stands)
        self._by_account.setdefault(row.account, []).append(endpoint)
        self._families = (-1, {})
        self._rebuild(endpoint)

    def _heed(self, name: str) -> None:
        """A row is new, changed or gone."""
        row, endpoint = self._directory.webhooks.get(name), self._endpoints.get(name)
        if row is None:
            if endpoint is not None:
                _end_lanes(endpoint)
                del self._endpoints[name]
                self._by_account[endpoint.row.account].remove(endpoint)
                if not self._by_account[endpoint.row.account]:
                    del self._by_account[endpoint.row.account]
                self.faults.pop(name, None)
                self._changed.discard(name)
                self._gone.add(name)
                self._keep()
            return
        if endpoint is None:
            self._enter(row, _fresh(row))
            self._touch(self._endpoints[name])
            return
        before, endpoint.row = endpoint.row, row
        if before.url != row.url:
            endpoint.standing.forgive()
        if before.concurrency != row.concurrency:
            endpoint.standing.spread(row.concurrency)
        how = ("state", "url", "concurrency", "events", "batch")
        if any(getattr(before, field) != getattr(row, field) for field in how):
            self._rebuild(endpoint)
        self._touch(endpoint)

    def _rebuild(self, endpoint: _Endpoint) -> None:
        """Lanes as the row wants them; those of before are no more, and what they had under way is sent again."""
        _end_lanes(endpoint)
        row, stands = endpoint.row, endpoint.standing
        if row.state != "active":
            return
        endpoint.lanes = [_Lane(endpoint, place, n, row.concurrency) for n, place in enumerate(stands.places)]
        if stands.replay is not None and not stands.replay.done:
            endpoint.lanes.append(_Lane(endpoint, stands.replay.place, 0, 1, replay=True))
        for lane in endpoint.lanes:
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
        return families.get(account, (account,))

    # Lanes.

    def _wake(self, lane: _Lane) -> None:
        """There may be something for it."""
        if lane.phase == "idle" and not self._stopping and not lane.over:
            lane.phase = "ready"
            (self._probes if lane.place.tries else self._ready).append(lane)
            self._turn()
        else:
            lane.woken = True

    def _turn(self) -> None:
        """Those that wait get their turn, first come, first served; those that failed take no more than their share."""
        while self._busy < AT_ONCE and not self._stopping:
            if self._probes and self._probing < PROBES:
                lane = self._probes.popleft()
            elif self._ready:
                lane = self._ready.popleft()
            else:
                return
            if not lane.over:
                self._look(lane)

    def _look(self, lane: _Lane) -> None:
        row, now = lane.endpoint.row, self._now()
        lane.phase, lane.woken, lane.looked, lane.probe = "busy", False, now, bool(lane.place.tries)
        self._busy += 1
        self._probing += lane.probe
        until, lane.bounded = lane.until, lane.until is not None
        replay = lane.endpoint.standing.replay
        if lane.replay and replay is not None:
            until = min(until or replay.end, replay.end)
        wanted = Wanted(self._query(row), lane.place.hit, until, lane.lane, row.batch, row.secrets(now), int(now))
        read = self._on_main(self._readers.submit(batch.read, self._records, self._node, wanted))
        read.add_done_callback(partial(self._have, lane))

    def _have(self, lane: _Lane, done: "Future[Batch]") -> None:
        if lane.over or self._stopping:
            self._release(lane)
            return
        name, error = lane.endpoint.row.name, done.exception()
        if error is not None:
            if name not in self.faults:
                self.log.error("Webhook {name} cannot read the history: {e}", name=name, e=str(error))
            self.faults[name] = f"webhook {name} stands still, the history cannot be read: {error}"
            self._rest(lane, _OWN_FAULT)
            return
        found = done.result()
        self.faults.pop(name, None)
        if not found.count:
            lane.until = None
            self._nothing(lane, found)
            return
        lane.place.oldest = found.oldest
        lane.until = found.to
        flight = Deferred.fromCoroutine(self._post(lane.endpoint.row.url, found.headers, found.body))
        lane.flight = flight
        flight.addCallbacks(self._answered, self._failed, (lane, found), {}, (lane,))
        flight.addErrback(self._broken, lane)

    def _nothing(self, lane: _Lane, found: Batch) -> None:
        """There is nothing for it up to there."""
        place, name = lane.place, lane.endpoint.row.name
        place.oldest = 0.0
        if found.to != place.hit:
            place.hit = found.to
            self._changed.add(name)  # written with the next that is more than that
        self._done_if_replayed(lane)
        self._release(lane)
        lane.phase = "idle"
        if found.more or lane.woken or lane.bounded:
            self._wake(lane)

    def _answered(self, sent: Sent, lane: _Lane, found: Batch) -> None:
        lane.flight = None
        if lane.over:
            self._release(lane)
            return
        verdict, answer = self._judge(sent)
        if verdict.words:
            self._refused(lane, verdict, answer)
            return
        endpoint = lane.endpoint
        endpoint.standing.took(lane.place, found.to, found.count, answer, self._now())
        if lane.replay and endpoint.standing.replay:
            endpoint.standing.replay.sent += found.count
            endpoint.standing.replay.at = found.oldest
        lane.until = None
        self._done_if_replayed(lane)
        self._touch(endpoint)
        self._release(lane)
        lane.phase = "idle"
        if found.more or lane.woken or lane.bounded:
            self._wake(lane)

    def _failed(self, failure: Failure, lane: _Lane) -> None:
        lane.flight = None
        if lane.over or failure.check(CancelledError):
            self._release(lane)
            lane.phase = "idle"
            return
        self._refused(lane, Verdict(words(failure.value)), "")

    def _broken(self, failure: Failure, lane: _Lane) -> None:
        self.log.failure("A webhook failed by our own fault", failure)
        lane.flight = None
        self._rest(lane, _OWN_FAULT)

    def _refused(self, lane: _Lane, verdict: Verdict, answer: str) -> None:
        endpoint, now = lane.endpoint, self._now()
        row, stands = endpoint.row, endpoint.standing
        stands.failed(lane.place, verdict.words, answer, now)
        self._touch(endpoint)
        if lane.place.tries == 1:
            self.log.warn("Webhook {name} failed: {why}", name=row.name, why=verdict.words)
        lasting = now - lane.place.since
        if verdict.gone:
            self._stop_it(endpoint, "paused", verdict.words)
        elif lasting >= self._settings.give_up:
            age = notation.show_duration(self._settings.give_up)
            self._stop_it(endpoint, "parked", f"nothing but failures for {age}, the last: {verdict.words}")
        elif lasting >= standing.SILENT and not stands.told:
            stands.told = True
            self._say(row, f"the webhook {row.name} fails", f"It has failed for an hour: {verdict.words}", _GOES_ON)
        self._rest(lane, standing.pause(lane.place.tries, verdict.wait, self._rng))

    def _stop_it(self, endpoint: _Endpoint, state: str, why: str) -> None:
        row, now = endpoint.row, self._now()
        if endpoint.ending:
            return
        endpoint.ending = True
        self.log.warn("Webhook {name} is {state}: {why}", name=row.name, state=state, why=why)

        def kept(done: "Future[Webhook]") -> None:
            endpoint.ending = False
            if fault := done.exception():
                self.log.error("The state of webhook {name} is not on disk: {e}", name=row.name, e=str(fault))

        changed = self._directory.webhooks.change(row.name, state=state, reason=why, by=BY, since=now)
        changed.add_done_callback(kept)
        self._say(row, f"the webhook {row.name} is {state}", f"No more events are posted: {why}", _STOPPED)

    def _say(self, row: Webhook, subject: str, what: str, then: list[str]) -> None:
        where = row.url.partition("?")[0]
        lines = [f"Events of {row.account} are posted to", "", f"  {where}", "", what, "", *then]
        self._tell(row.account, subject, lines, f"webhook {row.name}", self._now())

    def _rest(self, lane: _Lane, seconds: float) -> None:
        self._release(lane)
        if lane.over or self._stopping:
            return
        lane.phase, lane.due = "resting", self._now() + seconds
        lane.timer = self._reactor.callLater(seconds, self._rested, lane)

    def _rested(self, lane: _Lane) -> None:
        lane.timer = None
        lane.phase = "idle"
        self._wake(lane)

    def _release(self, lane: _Lane) -> None:
        """It has had its turn."""
        self._busy -= 1
        self._probing -= lane.probe
        self._turn()

    def _done_if_replayed(self, lane: _Lane) -> None:
        replay = lane.endpoint.standing.replay
        if lane.replay and replay is not None and lane.place.hit >= replay.end:
            replay.done = self._now()
            lane.over = True
            lane.endpoint.lanes.remove(lane)
            self._touch(lane.endpoint)

    # Posting.

    def _client(self, trust: Any) -> WebClient:
        return WebClient(self._reactor, self._settings.timeout, trust, spare=8, kept=_KEPT, find=self._addresses)

    async def _addresses(self, host: str, secure: bool) -> tuple[str, ...]:
        """The addresses of a host, if all of them may be posted to.  Raises NoAnswer, ResolveError."""
        if is_address(host):
            found: tuple[str, ...] = (host,)
        elif host == "localhost":
            found = ("127.0.0.1",)  # RFC 6761: nobody has to be asked
        else:
            found = await self._find(host)
        if why := refusal(Target("", host, 0, secure), found, self._settings.allow):
            raise NoAnswer(why)
        return found

    async def _post(self, url: str, signed: tuple[tuple[str, str], ...], body: bytes) -> Sent:
        headers = Headers({"Content-Type": ["application/json"], "User-Agent": [f"relayd/{relayd.__version__}"]})
        for name, value in signed:
            headers.addRawHeader(name, value)
        return await self._web.tell(url.encode("ascii"), headers, body)

    def _judge(self, sent: Sent) -> tuple[Verdict, str]:
        def header(name: str) -> str:
            return (sent.headers.getRawHeaders(name) or [""])[-1]

        verdict = standing.judge(sent.status, header("Location"), header("Retry-After"), self._now())
        return verdict, printable(sent.body, standing.ANSWER)

    # What is kept.

    def _tick(self) -> None:
        now = self._now()
        for endpoint in self._endpoints.values():
            for lane in endpoint.lanes:
                if lane.phase == "idle" and not 0 <= now - lane.looked < _LOOK:
                    self._wake(lane)
        self._keep()

    def _touch(self, endpoint: _Endpoint) -> None:
        self._changed.add(endpoint.row.name)
        self._keep()

    def _keep(self) -> None:
        """Writes what has changed, and then what changed meanwhile, never two things at a time."""
        if self._keeping is not None or not (self._changed or self._gone):
            return
        names, gone = self._changed, self._gone
        self._changed, self._gone = set(), set()
        rows = [(name, self._endpoints[name].standing) for name in names if name in self._endpoints]
        least = self._least()
        self._keeping = self._shelf.keep(rows, gone)
        self._keeping.add_done_callback(partial(self._kept, names, gone, least))

    def _kept(self, names: set[str], gone: set[str], least: str, done: "Future[None]") -> None:
        self._keeping = None
        if error := done.exception():
            if "" not in self.faults:
                self.log.error("Where webhooks stand is not on disk: {e}", e=str(error))
            self.faults[""] = f"where webhooks stand is not on disk: {error}"
            self._changed |= names
            self._gone |= gone - set(self._endpoints)
            return  # the pulse tries again
        self.faults.pop("", None)
        self._hold_back(least)
        self._keep()

    def _least(self) -> str:
        """The first segment that somebody still needs."""
        active = (endpoint for endpoint in self._endpoints.values() if endpoint.row.state == "active")
        return min((place.hit.segment for endpoint in active for place in endpoint.standing.all()), default=NOBODY)

    def _hold_back(self, least: str | None = None) -> None:
        least = self._least() if least is None else least
        if least != self._held or not self._held:
            self._held = least
            self._hold(least)

    def _on_main(self, done: "Future[Any]") -> "Future[Any]":
        """A future that ends on the main thread as one of the readers' does."""
        brought: Future[Any] = Future()

        def bring(done: "Future[Any]") -> None:
            if error := done.exception():
                brought.set_exception(error)
            else:
                brought.set_result(done.result())

        done.add_done_callback(lambda done: self._reactor.callFromThread(bring, done))
        return brought


_GOES_ON = ["relayd goes on trying, and sends all that waits once an answer with a status of 2xx comes."]
_STOPPED = ["Nothing is lost yet: once it works again, have it resumed, and it goes on where it stood."]


def _fresh(row: Webhook) -> Standing:
    return Standing(row.made, [Place(Hit(*row.begins)) for _ in range(row.concurrency)])


def _end_lanes(endpoint: _Endpoint) -> None:
    for lane in endpoint.lanes:
        lane.over = True
        _wake_never(lane)
        if lane.flight is not None:
            lane.flight.cancel()
    endpoint.lanes = []


def _wake_never(lane: _Lane) -> None:
    if lane.timer is not None:
        lane.timer.cancel()
        lane.timer = None


def _watched(flight: "Deferred[Any]") -> "Deferred[None]":
    """Done with another, whatever becomes of it."""
    seen: Deferred[None] = Deferred()

    def over(result: Any) -> Any:
        if not seen.called:
            seen.callback(None)
        return result

    flight.addBoth(over)
    return seen


def _replay_shown(replay: Replay) -> dict[str, Any]:
    row = {"since": replay.since, "until": replay.until or None, "by": replay.by, "sent": replay.sent}
    return {**row, "at": replay.at or None, "tries": replay.place.tries, "done": replay.done or None}


def _end(records: Path) -> Hit:
    """Behind the last record that is there, in the history already or not."""
    path = max(records.glob("*.jsonl"), default=None)
    return Hit(path.name, (path.stat().st_size << MANY) - 1) if path else Hit("", 0)


def _missing(records: Path, segments: set[str]) -> bool:
    return not all((records / name).exists() for name in segments)
