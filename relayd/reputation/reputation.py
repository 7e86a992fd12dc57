"""Reputation at work: counts what becomes of everybody's mail, and takes the steps that follow.

Enter: events, each of one recipient and for whom it was sent; what operators decide.  Leave: who is slowed, held and
blocked, one dict look-up while nobody is; turns, as they are taken; rows for the disk.

An event costs a dict look-up and an addition; once a second what came is added to its subjects, and those of whom
something bad came are judged, some hundreds a second.  A step up needs what came since the last one, and an hour,
unless it is extreme and there is no good record; a step back comes by itself after a clean time.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any

import msgspec

from relayd.address import domain_of, folded
from relayd.envelope import Recipient
from relayd.notation import show_duration
from relayd.reputation.counts import COUNTERS, DAY, HOUR, INDEX, Counter, N, Who, Window
from relayd.reputation.rules import KINDS, SIGNALS, STEPS, Rule, Rules, Step
from relayd.reputation.standing import BY, Key, Standing, judged, named
from relayd.shaping.limits import Layer, Limits, Rate

SUBJECTS = 50_000  # that are counted: for one more, the one that was quiet longest goes, unless it is held back
_LOOKS = 200  # at the quiet ones
_WAITING = 500  # for whom events wait for the next second, ...
_JUDGED = 300  # ... and subjects judged in one: the others have their turn in the next, so that nobody waits for it
PACE = 3600.0  # seconds between two steps up
SAVE = 5.0  # seconds between writes of counts, ...
TOGETHER = 500  # ... and rows in one
_AT_ONCE = 12  # a slowed one may hand in a twelfth of its hour at once

Keep = Callable[[list[Standing], list[Key]], "Future[None]"]


class Turn(msgspec.Struct, frozen=True):
    """A subject went from a step to another.  ``acts``: the one it is held to by what may be done by itself."""

    key: Key
    before: Step
    step: Step
    acts: Step
    why: str
    by: str

    @property
    def words(self) -> str:
        but = "" if self.acts == self.step else f" (only reported: {self.acts} is as far as it goes)"
        return f"{named(self.key)} is {_STATES[self.step]}{but}: {self.why}"


_STATES = {"good": "held back no more", "slow": "slowed", "hold": "held for review", "block": "blocked"}


class _Subject:
    """``windows`` are made with the first count since a start."""

    __slots__ = ("at", "windows")

    def __init__(self, at: Standing) -> None:
        self.at = at
        self.windows: tuple[Window, Window] | None = None

    def sums(self, now: float, since: float = 0.0) -> tuple[list[int], list[int]]:
        """Of the hour and of the day."""
        if self.windows is None:
            return [0] * N, [0] * N
        hour, day = self.windows
        return hour.sums(now, since), day.sums(now, since)


class Reputation:
    """See the module.  For the main thread.  ``changed`` is called after each turn; ``traps``: addresses, folded,
    that never asked for any mail; ``fault``: why nothing can be written, or ""."""

    def __init__(
        self,
        stored: Iterable[Standing] = (),
        keep: Keep | None = None,
        lineage: Callable[[str], tuple[str, ...]] = lambda account: (account,),
        most: int = SUBJECTS,
    ) -> None:
        """``lineage``: an account and those above it, for whom its mail counts too."""
        self.changed: Callable[[Turn], None] = lambda turn: None
        self.traps: frozenset[str] = frozenset()
        self.fault = ""
        self.rules = Rules(mode="off")
        self._keep = keep or _nowhere
        self._lineage = lineage
        self._most = most
        self._subjects: OrderedDict[Key, _Subject] = OrderedDict((at.key, _Subject(at)) for at in stored)
        self._standing = {key: s for key, s in self._subjects.items() if s.at.step}  # at any step but good
        self._acting: dict[Key, _Subject] = {}  # those of them that are held back
        self._waiting: dict[Who, list[int]] = {}
        self._waits_for = 0.0  # the minute of what waits ends: a bucket begins with a minute
        self._bad: dict[Key, _Subject] = {}  # to be judged
        self._turned: dict[Key, None] = {}  # to be written now ...
        self._counted: dict[Key, None] = {}  # ... and soon
        self._gone: dict[Key, None] = {}
        self._writing = False
        self._saved = 0.0
        self.configure(self.rules)

    def configure(self, rules: Rules) -> None:
        """What holds from now on; where everybody stands stays."""
        self.rules = rules
        self._watched: dict[str, frozenset[int]] = {kind: _watched(rules.of(kind)) for kind in KINDS}
        self._acting = {key: subject for key, subject in self._standing.items() if self._acts(subject.at)}

    def __len__(self) -> int:
        return len(self._subjects)

    # What happens.

    def event(self, who: Who, what: Counter, now: float, count: int = 1) -> None:
        """So many recipients of which this is known now."""
        if self.rules.mode == "off":
            return
        if now >= self._waits_for:
            self._fold(now)
        counts = self._waiting.get(who)
        if counts is None:
            if len(self._waiting) >= _WAITING:
                self._fold(now)
            counts = self._waiting[who] = [0] * N
        counts[INDEX[what]] += count

    def received(self, who: Who, to: Sequence[Recipient], now: float) -> None:
        """Recipients that were taken in."""
        self.event(who, "received", now, len(to))
        if self.traps and (hit := sum(folded(recipient.address) in self.traps for recipient in to)):
            self.event(who, "trap", now, hit)

    def tick(self, now: float) -> None:
        """Call about once a second: what came is judged, what was clean for long enough steps back."""
        self._fold(now)
        for key in list(islice(self._bad, _JUDGED)):
            self._judge(self._bad.pop(key), now)
        for subject in list(self._standing.values()):
            self._ease(subject, now)
        if not self._saved <= now < self._saved + SAVE:
            self._saved = now
            for key in list(islice(self._counted, TOGETHER)):
                del self._counted[key]
                self._turned[key] = None
        self._write(TOGETHER)

    def _fold(self, now: float) -> None:
        """Adds what waits to its subjects, in the minute that it is of."""
        waiting, self._waiting = self._waiting, {}
        when = min(now, self._waits_for - 0.001) if waiting else now
        self._waits_for = (now // 60 + 1) * 60
        for who, counts in waiting.items():
            found = [(place, count) for place, count in enumerate(counts) if count]
            places = {place for place, _ in found}
            for key in self._keys(who):
                subject = self._subject(key)
                if subject is None:
                    continue
                if subject.windows is None:
                    subject.windows = Window(HOUR), Window(DAY)
                for window in subject.windows:
                    window.add(found, when)
                subject.at.count(found, when)
                self._counted[key] = None
                if not places.isdisjoint(self._watched[key[0]]):
                    self._bad[key] = subject

    def _keys(self, who: Who) -> Iterator[Key]:
        source, group, account, client, connection, sender = who
        if source:
            yield "source", f"{source}/{group}"
        for name in self._lineage(account) if account else ():
            yield "account", name
        if client and client != account:
            yield "client", f"{account}/{client}"
        if connection:
            yield "connection", connection
        if domain := domain_of(sender):
            yield "domain", domain

    def _subject(self, key: Key) -> _Subject | None:
        """Known or made; None if there is no room for it."""
        subject = self._subjects.get(key)
        if subject is not None:
            self._subjects.move_to_end(key)
        elif len(self._subjects) < self._most or self._make_room():
            subject = self._subjects[key] = _Subject(Standing(*key))
            self._gone.pop(key, None)
        return subject

    def _make_room(self) -> bool:
        for _ in range(_LOOKS):
            key = next(iter(self._subjects))
            if key not in self._standing:
                del self._subjects[key]
                self._counted.pop(key, None)
                self._turned.pop(key, None)
                self._bad.pop(key, None)
                self._gone[key] = None
                return True
            self._subjects.move_to_end(key)
        return False

    # Steps.

    def _judge(self, subject: _Subject, now: float) -> None:
        at, rule = subject.at, self.rules.of(subject.at.kind)
        found = None if at.manual else judged(at, rule, *subject.sums(now, at.since))
        if found is None:
            return
        if found.sign:
            at.seen = now
        extreme = found.step == len(STEPS) - 1 and not found.known
        if found.step > at.step and (extreme or not at.raised <= now < at.raised + PACE):
            self._turn(subject, found.step if extreme else at.step + 1, found.words, BY, now)

    def _ease(self, subject: _Subject, now: float) -> None:
        at = subject.at
        if at.manual:
            if at.until and now >= at.until:
                self._turn(subject, 0, f"the time that {at.by} set is over", BY, now)
            return
        kept = self.rules.kept(at.step)
        if now >= max(at.seen, at.since) + kept:
            self._turn(subject, at.step - 1, f"clean for {show_duration(kept)}; before: {at.why}", BY, now)

    def _turn(self, subject: _Subject, step: int, why: str, by: str, now: float) -> None:
        at, before = subject.at, subject.at.step
        if step > before:
            at.raised = now
        if not step or by != BY:
            at.pace = 0
        elif not at.pace:
            hour, _ = subject.sums(now)
            went = max(sum(hour[: INDEX["complaint"]]), hour[INDEX["received"]])
            at.pace = max(self.rules.least, int(went * self.rules.slow_share))
        at.step, at.why, at.by, at.since, at.until = step, why, by, now, 0.0
        for known, belongs in ((self._standing, step), (self._acting, self._acts(at))):
            if belongs:
                known[at.key] = subject
            else:
                known.pop(at.key, None)
        self._turned[at.key] = None
        self.changed(Turn(at.key, STEPS[before], STEPS[step], self.acts(at), why, by))

    def _acts(self, at: Standing) -> int:
        """The step that a subject is held to: its own as far as one goes without an operator."""
        rules = self.rules
        if at.manual:
            return at.step
        return min(at.step, rules.of(at.kind).furthest) if rules.mode == "act" else 0

    def acts(self, at: Standing) -> Step:
        return STEPS[self._acts(at)]

    # What operators decide.

    def put(self, key: Key, step: Step, why: str, by: str, now: float, until: float = 0.0) -> "Future[None]":
        """Holds or blocks a subject, or lets it go ("good"); done when that is on disk.  It is judged by what comes
        from now on.  Raises ValueError if there is no room for it."""
        self._fold(now)
        subject = self._subject(key)
        if subject is None:
            raise ValueError(f"{self._most} subjects are held back: release one")
        self._turn(subject, STEPS.index(step), why, by, now)
        subject.at.until = until
        subject.at.raised = 0.0
        self._turned.pop(key, None)
        return self._keep([subject.at], [])

    # Who is held back.

    def share(self, kind: str, name: str) -> float:
        """What is left to a subject of what it may: 1.0 of a good one, 0.0 of one that is held."""
        subject = self._acting.get((kind, name)) if self._acting else None
        if subject is None:
            return 1.0
        return self.rules.slow_share if self._acts(subject.at) == 1 else 0.0

    def of_source(self, source: str, group: str) -> float:
        """What is left to a source's paths to a group of sites."""
        return self.share("source", f"{source}/{group}")

    def blocked(self, who: Who) -> str:
        """Why nothing is taken in for these, "" if it is."""
        return self._words(who, 3) if self._acting else ""

    def held(self, who: Who) -> str:
        """Why what was taken in for these does not go out, "" if it does."""
        return self._words(who, 2) if self._acting else ""

    def account_held(self, account: str) -> str:
        """The same for all mail of an account."""
        return self.held(("", "", account, "", "", ""))

    def _words(self, who: Who, step: int) -> str:
        found = next((s.at for s in self._held_back(who) if self._acts(s.at) >= step), None)
        return f"{named(found.key)} is {_STATES[self.acts(found)]} by {found.by}: {found.why}" if found else ""

    def _held_back(self, who: Who) -> Iterator[_Subject]:
        return filter(None, map(self._acting.get, self._keys(who)))

    def paces(self, who: Who) -> list[tuple[str, Rate]]:
        """How many recipients are taken in for these, where any are held back: (whose, the rate)."""
        if not self._acting:
            return []
        slowed = (subject.at for subject in self._held_back(who) if subject.at.pace)
        return [(named(at.key), Rate(at.pace, PACE, max(1, at.pace // _AT_ONCE))) for at in slowed]

    def layers(self, account: str) -> tuple[Layer, ...]:
        """The limits of what goes out for an account that is slowed."""
        subject = self._acting.get(("account", account))
        if subject is None or not subject.at.pace:
            return ()
        return (Layer(f"reputation of account {account}", account=Limits(rate=Rate(subject.at.pace, PACE))),)

    # Where they stand.

    def all(self, kind: str = "", *, bad: bool = False) -> list[Standing]:
        """To look at, not to keep; ``bad``: those only that do not stand well."""
        among = self._standing if bad else self._subjects
        return [subject.at for key, subject in among.items() if kind in ("", key[0])]

    def show(self, key: Key, now: float) -> tuple[Standing, dict[str, Any]] | None:
        """Where it stands, with its counts by window and the share of each signal in them; None if it is not known."""
        self._fold(now)
        subject = self._subjects.get(key)
        if subject is None:
            return None
        hour, day = subject.sums(now)
        return subject.at, {"hour": _shown(hour), "day": _shown(day), "past": _shown(subject.at.past)}

    # The disk.

    def stop(self) -> "Future[None]":
        """Writes everything down, done when it is on disk."""
        self._fold(self._waits_for - 1)
        self._turned |= self._counted
        rows = [self._subjects[key].at for key in self._turned]
        return self._keep(rows, list(self._gone))

    def _write(self, most: int) -> None:
        """One write at a time: what comes meanwhile goes together with the next."""
        if self._writing or not (self._turned or self._gone):
            return
        keys = list(islice(self._turned, most))
        for key in keys:
            del self._turned[key]
            self._counted.pop(key, None)
        gone, self._gone = self._gone, {}
        self._writing = True

        def written(done: "Future[None]") -> None:
            self._writing = False
            error = done.exception()
            self.fault = f"reputation cannot be written: {error}" if error else ""
            if error:
                self._turned = {key: None for key in keys if key in self._subjects} | self._turned
                self._gone |= {key: None for key in gone if key not in self._subjects}

        self._keep([self._subjects[key].at for key in keys], list(gone)).add_done_callback(written)


def _watched(rule: Rule) -> frozenset[int]:
    """The counters that make a subject worth a look."""
    return frozenset(signal.bad for signal, _ in rule.signals())


def _shown(counts: list[int]) -> dict[str, Any]:
    found: dict[str, Any] = {name: count for name, count in zip(COUNTERS, counts, strict=True) if count}
    shares = {}
    for name, signal in SIGNALS.items():
        among = sum(counts[counter] for counter in signal.among)
        if counts[signal.bad] and among:
            shares[name] = round(counts[signal.bad] / among, 4)
    return {**found, "shares": shares} if shares else found


def _nowhere(rows: list[Standing], gone: list[Key]) -> "Future[None]":
    done: Future[None] = Future()
    done.set_result(None)
    return done
