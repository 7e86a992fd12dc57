"""Warm-up: who may send one more to a group today, and what was sent.

Enter: plans by source, what is about to go and how it ended.  Leave: now or when to ask again, rows for the disk.

A cap is never exceeded, not even by a crash: what goes comes from a *grant* that is on disk already.  The row there
says what may have been used up to now; a twentieth of the cap at a time is added ahead of use, and after a crash all of
it counts as used.  So only a day's first delivery waits for the disk.  Dates only move on: a clock that is set back
gives no second cap.  A place is a source at a group; how many are kept is bounded.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from heapq import nsmallest
from itertools import islice
from math import inf
from typing import Literal

import msgspec

from relayd.errors import InputError
from relayd.warmup.plan import Plan
from relayd.warmup.standing import DAY, Standing, blocks, forget_outcomes, turn, until

PLACES = 100_000
TOGETHER = 500  # rows in one write
SAVE = 5.0  # seconds between writes of what can wait
AGAIN = 1.0  # seconds after which to ask again for what the disk should have granted by then

Outcome = Literal["delivered", "deferred", "blocked", "complaint", "other"]
# Rows to be written, and (source, group) of rows to be removed before.
Keep = Callable[[list[Standing], list[tuple[str, str]]], "Future[None]"]


class _Place:
    """``free``: so many may be used; at ``mark`` more is asked for; ``until``: the end of the date."""

    __slots__ = ("at", "cap", "free", "granted", "mark", "plan", "until", "waiting")

    def __init__(self, at: Standing) -> None:
        self.at = at
        self.granted = at.used
        self.waiting = False  # somebody was told to ask again

    def fit(self, plan: Plan) -> None:
        """Call after any change of plan, day, grant or stop."""
        self.plan = plan
        self.cap = plan.cap(self.at.group, self.at.day)
        self.until = (self.at.date + 1) * DAY
        self.free = inf if self.cap == inf else 0 if self.at.stopped else min(self.granted, self.cap)
        done = self.granted >= self.cap or self.at.stopped
        self.mark = inf if done or self.cap == inf else self.granted - self._step // 2

    @property
    def _step(self) -> int:
        return max(2, int(self.cap) // 20)

    def row(self) -> Standing:
        """For the disk, with more granted if it is time for that."""
        used = self.at.used
        if self.cap < inf:
            more = min(int(self.cap), used + self._step) if used >= self.mark else 0
            used = max(self.granted, more)
        return msgspec.structs.replace(self.at, used=used)


class Warmup:
    """See the module.  For the main thread.  ``woken``: called with (source, group) of who waited for a grant and may
    ask again; ``fault``: why the state cannot be written, or ""."""

    def __init__(self, stored: Iterable[Standing], keep: Keep, most: int = PLACES) -> None:
        self.woken: Callable[[list[tuple[str, str]]], None] = lambda pairs: None
        self.fault = ""
        self._keep = keep
        self._most = most
        self._plans: Mapping[str, Plan] = {}
        self._all: dict[str, dict[str, _Place]] = {}
        self._warming: dict[str, dict[str, _Place]] = {}  # of the sources that have a plan
        for at in stored:
            self._all.setdefault(at.source, {})[at.group] = _Place(at)
        self._count = sum(map(len, self._all.values()))
        self._full = -1  # the date on which no room could be made
        self._wanting: dict[_Place, None] = {}  # to be written now ...
        self._changed: dict[_Place, None] = {}  # ... and soon
        self._gone: dict[tuple[str, str], None] = {}
        self._writing = self._stopped = False
        self._saved = 0.0

    def configure(self, plans: Mapping[str, Plan]) -> None:
        """The plans by source.  Where a source that has none (any more) stood, is kept."""
        self._plans = plans
        self._warming = {source: self._all.setdefault(source, {}) for source in plans}
        for source, places in self._warming.items():
            for place in places.values():
                place.fit(plans[source])

    # What goes.

    def may(self, source: str, group: str, since: float, now: float) -> float:
        """0.0 if one more may go now, else when to ask again.  ``since``: from when on the delivery could have gone."""
        places = self._warming.get(source)
        if places is None:
            return 0.0
        place = places.get(group)
        if place is not None and now < place.until and place.at.used < place.free:
            return 0.0
        return self._wait(source, group, since, now)

    def _wait(self, source: str, group: str, since: float, now: float) -> float:
        over = since + self._plans[source].longest_wait
        place = self._place(source, group, now)
        if place is None:
            return 0.0 if now >= over else min(over, (now // DAY + 1) * DAY)
        if place.at.stopped:
            return place.until
        if place.at.used < place.cap:
            if place.at.used >= place.free:
                self._want(place)
            if place.at.used < place.free or (self.fault and now >= over):
                return 0.0
            place.waiting = True
            return now + AGAIN
        return 0.0 if now >= over else min(over, place.until)

    def spend(self, source: str, group: str, now: float) -> None:
        """One goes."""
        places = self._warming.get(source)
        if places is None:
            return
        place = places.get(group)
        if place is None or now >= place.until:
            place = self._place(source, group, now)
            if place is None:
                return
        at = place.at
        if at.used < place.free:
            at.used += 1
            if at.used >= place.mark:
                self._want(place)
        else:
            at.over += 1
        if place.cap < inf or at.sent != at.date:
            at.sent = at.date
            self._changed[place] = None

    def give_back(self, source: str, group: str, spent: float) -> None:
        """One that was to go at ``spent`` did not go after all.  What was another day's changes nothing."""
        place = self._warming.get(source, _NOWHERE).get(group)
        if place is None or not place.until - DAY <= spent < place.until:
            return
        if place.at.over:
            place.at.over -= 1
        elif place.at.used:
            place.at.used -= 1
        self._changed[place] = None

    def outcome(self, source: str, group: str, what: Outcome, now: float) -> None:
        """How an attempt ended, or that somebody complained of one."""
        if group not in self._warming.get(source, _NOWHERE):
            return
        place = self._place(source, group, now)
        if place is None or place.cap == inf:
            return
        at = place.at
        setattr(at, what, getattr(at, what) + 1)
        if at.blocked and place.plan.stop and not at.stopped and (why := blocks(at, place.plan)):
            at.stopped, at.note = True, why
            place.fit(place.plan)
        self._changed[place] = None

    # Where it stands.

    def words(self, source: str, group: str, now: float) -> str:
        """What holds a source back at a group, "" if nothing does because it is warm."""
        plan = self._plans.get(source)
        if plan is None:
            return ""
        place = self._all[source].get(group)
        at = self._seen(place, now) if place else Standing(source, group, date=_date(now))
        cap = plan.cap(group, at.day)
        if cap == inf:
            return ""
        head = f"warm-up day {at.day} of {len(plan.of(group))} of source {source} at {group}"
        if at.stopped:
            return f"{head} is stopped: {at.note}; more at {until(at)}"
        over = f" and {at.over} over it" if at.over else ""
        more = f", more at {until(at)}" if at.used >= cap else f"; {self.fault}" if self.fault else ""
        return f"{head}: {at.used} of {cap:.0f} sent today{over}{more}"

    def plan_of(self, source: str) -> Plan | None:
        return self._plans.get(source)

    def standings(self, source: str, now: float) -> list[Standing]:
        """Of a source with a plan, at every group that it sent to; to look at, not to keep."""
        return [self._seen(place, now) for place in self._warming.get(source, _NOWHERE).values()]

    def put(self, source: str, group: str, day: int, now: float) -> "Future[None]":
        """Puts a source that has a plan at a day of it, done when that is on disk.  What went today stays counted."""
        place = self._place(source, group, now)
        if place is None:
            raise InputError("group", f"{self._most} groups were mailed today, there is no room for another")
        at = place.at
        at.day, at.note, at.stopped = min(day, len(place.plan.of(group)) + 1), "", False
        forget_outcomes(at)
        place.fit(place.plan)
        return self._keep([place.row()], [])

    # The disk.

    def tick(self, now: float) -> None:
        """Call about once a second."""
        if not self._saved <= now < self._saved + SAVE:
            self._saved = now
            self._wanting |= self._changed
            self._changed.clear()
        self._write()

    def stop(self) -> "Future[None]":
        """Writes everything down, done when it is on disk.  What was granted and not used can be used after the next
        start; nothing is granted any more."""
        self._stopped = True
        rows = []
        for place in (place for places in self._all.values() for place in places.values()):
            if place in self._changed or place in self._wanting or place.granted > place.at.used:
                place.granted = place.free = place.at.used
                rows.append(msgspec.structs.replace(place.at))
        return self._keep(rows, list(self._gone))

    def _want(self, place: _Place) -> None:
        self._wanting[place] = None
        if not self.fault:  # else the next tick tries it again
            self._write()

    def _write(self) -> None:
        """One write at a time: what is wanted meanwhile goes together with the next."""
        if self._writing or self._stopped or not (self._wanting or self._gone):
            return
        places = list(islice(self._wanting, TOGETHER))
        for place in places:
            del self._wanting[place]
            self._changed.pop(place, None)
        rows = [place.row() for place in places]
        gone, self._gone = self._gone, {}
        self._writing = True
        self._keep(rows, list(gone)).add_done_callback(partial(self._written, places, rows, gone))

    def _written(
        self, places: list[_Place], rows: list[Standing], gone: dict[tuple[str, str], None], done: "Future[None]"
    ) -> None:
        self._writing = False
        if error := done.exception():
            self.fault = f"the state of warm-ups cannot be written: {error}"
            # But for places that have gone, or come again, meanwhile.
            self._wanting |= {p: None for p in places if self._all[p.at.source].get(p.at.group) is p}
            self._gone |= {(s, g): None for s, g in gone if g not in self._all[s]}
            return
        self.fault = ""
        if self._stopped:
            return
        woken = []
        for place, row in zip(places, rows, strict=True):
            if row.date == place.at.date and row.used > place.granted:
                place.granted = row.used
                place.fit(place.plan)
                if place.waiting:
                    place.waiting = False
                    woken.append((row.source, row.group))
        self._write()
        if woken:
            self.woken(woken)

    # Inside.

    def _seen(self, place: _Place, now: float) -> Standing:
        if now < place.until:
            return place.at
        at = msgspec.structs.replace(place.at)
        turn(at, place.plan, _date(now))
        return at

    def _place(self, source: str, group: str, now: float) -> _Place | None:
        """As it is on the date of ``now``; None if there is no room for it."""
        places, plan, date = self._warming[source], self._plans[source], _date(now)
        place = places.get(group)
        if place is None:
            if self._count >= self._most and not self._make_room(date):
                return None
            place = places[group] = _Place(Standing(source, group, date=date, sent=date))
            self._count += 1
            self._gone.pop((source, group), None)
            place.fit(plan)
        elif now >= place.until:
            turn(place.at, plan, date)
            place.granted = 0
            place.fit(plan)
            self._changed[place] = None
        return place

    def _make_room(self, date: int) -> bool:
        """Forgets the hundredth that was not looked at for the longest time, never one that was today: what went there
        must stay counted."""
        if self._full == date:
            return False
        old = (place for places in self._all.values() for place in places.values() if place.at.date < date)
        oldest = nsmallest(self._most // 100 + 1, old, key=lambda place: place.at.date)
        for place in oldest:
            source, group = place.at.source, place.at.group
            del self._all[source][group]
            self._gone[source, group] = None
            self._wanting.pop(place, None)
            self._changed.pop(place, None)
        self._count -= len(oldest)
        self._full = -1 if oldest else date
        return bool(oldest)


_NOWHERE: dict[str, _Place] = {}


def _date(now: float) -> int:
    return int(now // DAY)
