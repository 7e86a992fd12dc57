"""Reactions: what follows from failed replies, and what holds because of them.

Enter: failed replies of every stage (``rules.Seen``), and what an operator imposes.  Leave: what becomes of the
delivery, and the reactions that began: a path, site, source or account at a site suspended or held to a limit, a mail
host left alone.  Each keeps its rule and the very reply that fired it.  While one holds, more of the same only counts;
a limit that goes on to be fired is halved.  When a suspension is over its path comes back by steps.  What fires again
within its own time after its end holds twice as long; after that it is forgotten.  What is imposed by hand, on a pool's
mail or all mail too, keeps who did it and why, and is over at once when it ends.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from math import inf
from typing import Literal

import msgspec

from relayd.notation import show_duration
from relayd.reply import Reply, printable
from relayd.shaping.rules import LASTING, TEXT, Ceiling, Rule, Rules, Seen

MOST = 10_000  # reactions that hold at a time
RETURNS = 1800.0  # seconds in which a suspended path comes back, or its own time if that is shorter ...
STEPS = (1 / 8, 1 / 4, 1 / 2)  # ... to these shares of its rate, a third of the time each
SETTLED = 120.0  # seconds after which what was under way is over: more of the same halves a limit that holds
_COUNTED = 200_000  # moments remembered for thresholds, in all
_NO_CEILING = Ceiling()
_NO_REPLY = 0
_EMPTY: "dict[str, Active]" = {}
_SET_BACK = 60.0  # seconds: a clock that jumped back further ends what began after its new time

FOREVER = 253402300799.0  # the end of what is imposed until it is lifted: in the year 9999
BY_HAND = 1000  # reactions imposed by hand at a time

Key = tuple[str, str, str, str, str]  # source, group, account, mail host, pool: "" where any


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """The reply that fired a reaction: by which host, for which domain and delivery, at which stage and time."""

    reply: Reply
    stage: str
    time: float
    mx: str = ""
    domain: str = ""
    delivery: str = ""


class Active(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A reaction.  It holds for what its ``source``, ``group``, ``account``, ``mx`` and ``pool`` name ("": any) until
    ``until``; a suspended path then comes back until ``returns_until``; if it fires again before ``forgotten``, it goes
    on with the next ``step``.  Times are unix seconds; ``since``: when it first fired.  ``by``: who imposed it by hand,
    for which ``reason``; "" if a reply did."""

    id: int
    rule: str
    action: Literal["suspend", "limit", "skip-mx"]
    source: str = ""
    group: str = ""
    account: str = ""
    mx: str = ""
    since: float
    until: float
    returns_until: float
    forgotten: float
    step: int = 0
    limits: Ceiling = Ceiling()
    move: bool = True
    reply: Said
    pool: str = ""
    by: str = ""
    reason: str = ""

    @property
    def key(self) -> Key:
        return self.source, self.group, self.account, self.mx, self.pool

    @property
    def whom(self) -> str:
        """Whom it is on, in words."""
        if self.mx:
            return f"mail host {self.mx}"
        at = f" at {self.group}" if self.group else ""
        if self.account:
            return f"account {self.account}{at}"
        if self.pool:
            return f"pool {self.pool}{at}"
        return f"source {self.source}{at}" if self.source else f"all sources{at}"

    def state(self, now: float) -> Literal["holds", "returns", "watched"]:
        return "holds" if now < self.until else "returns" if now < self.returns_until else "watched"

    def words(self, now: float) -> str:
        """What holds, for how long and why, in a line."""
        what = {
            "suspend": "suspended",
            "limit": f"limited to {self.limits.words()}",
            "skip-mx": f"{self.mx} is left alone",
        }[self.action]
        if now >= self.until:
            what = f"coming back, at {share(self, now):.3g} of its rate"
        left = show_duration(max(1.0, (self.until if now < self.until else self.returns_until) - now))
        if self.by:
            end = f"for another {left}" if self.until < FOREVER else "until it is lifted"
            return f"{what} {end} by {self.by}: {self.reason}"
        said = f"{self.reply.mx} said at {self.reply.stage}: {self.reply.reply}"
        return f"{what} for another {left} by the reaction {self.rule}: {said}"


class Verdict(msgspec.Struct, frozen=True):
    """What follows from a reply.  ``kind``: "" leaves what its first digit says; ``wait``: seconds until the next try,
    where the reply itself names none; ``keep``: by the same source; ``move``: by another of its pool (""), or of the
    pool named; ``rule``: which says so.  ``began``: reactions that began or go on; ``ended``: those that gave way."""

    kind: Literal["", "transient", "permanent"] = ""
    wait: float = 0.0
    keep: bool = False
    move: str | None = None
    rule: str = ""
    began: tuple[Active, ...] = ()
    ended: tuple[Active, ...] = ()


NOTHING = Verdict()


def share(active: Active, now: float) -> float:
    """The share of its rate that a path has which comes back from a suspension; 1 before and after."""
    if not active.until <= now < active.returns_until:
        return 1.0
    return STEPS[sum(now >= edge for edge in _edges(active)) - 1]


def changes_at(active: Active, now: float) -> float:
    """When a reaction that holds or returns comes to mean something else: always later than now."""
    return next(edge for edge in (*_edges(active), active.returns_until) if now < edge)


def _edges(active: Active) -> list[float]:
    """When the steps of its return begin."""
    step = (active.returns_until - active.until) / len(STEPS)
    return [active.until + step * n for n in range(len(STEPS))]


class Reactions:
    """See the module.  ``fault``: what an operator should know, "" if nothing."""

    def __init__(self, rules: Rules, rows: Iterable[Active] = ()) -> None:
        """``rows``: the reactions of before a restart."""
        self.rules = rules
        self.fault = ""
        self._active: dict[int, Active] = {}
        self._held: dict[Key, dict[str, Active]] = {}
        self._replies: dict[int, int] = {}
        self._counts: OrderedDict[tuple[str, Key], deque[float]] = OrderedDict()
        self._counted = 0
        self._ticked = inf  # the first look is at the rows of before
        self._next_end = inf
        self._last_id = 0
        self.fired = 0  # since the start
        self.handmade = 0  # how many were imposed by hand
        for row in rows:
            self._keep(row)

    def reconfigure(self, rules: Rules) -> tuple[Active, ...]:
        """Other rules from now on.  Reactions by rules that are gone or say something else end: gives these."""
        before, self.rules = self.rules.by_name, rules
        known = rules.by_name
        ruled = (a for a in self._active.values() if not a.by)
        return self._end(a for a in ruled if _differs(a, before.get(a.rule), known.get(a.rule)))

    def impose(
        self,
        action: Literal["suspend", "limit"],
        key: Key,
        until: float,
        *,
        reason: str,
        by: str,
        now: float,
        limits: Ceiling = _NO_CEILING,
    ) -> Active:
        """Begins one by hand; of the same kind on the same, it takes the place.  ValueError if there are too many."""
        source, group, account, mx, pool = key
        rule = f"{action} by hand"
        before = self._held.get(key, {}).get(rule)
        if before is None and self.handmade >= BY_HAND:
            raise ValueError(f"{BY_HAND} are imposed by hand: lift some first")
        if before is not None:
            self._end((before,))
        active = Active(
            id=before.id if before else self._last_id + 1,
            rule=rule,
            action=action,
            source=source,
            group=group,
            account=account,
            mx=mx,
            since=now,
            until=until,
            returns_until=until,
            forgotten=until,
            limits=limits,
            reply=Said(Reply(_NO_REPLY, "", printable(reason, TEXT)), "operator", now),
            pool=pool,
            by=by,
            reason=printable(reason, TEXT),
        )
        self._keep(active)
        return active

    def imposed(self, key: Key) -> tuple[Active, ...]:
        """Those that were imposed on this by hand."""
        return tuple(active for active in self._held.get(key, {}).values() if active.by)

    def seen(self, seen: Seen) -> Verdict:
        """What follows from a failed reply."""
        rules = self.rules.matching(seen)
        if not rules:
            return NOTHING
        began: list[Active] = []
        ended: list[Active] = []
        taken: list[Rule] = []
        for rule in rules:
            key = _key(rule, seen)
            if key is None:
                continue
            before = self._held[key].get(rule.name) if key in self._held else None
            if before is not None and seen.time < before.until and not _tightens(before, seen.time):
                self._replies[before.id] += 1
            elif self._reached(rule, key, seen.time):
                taken.append(rule)
                if rule.action in LASTING:
                    self._counts_forget(rule, key)
                    ended += self._make_room() if before is None else ()
                    began.append(self._begin(rule, key, seen, before))
        return _verdict(seen, rules, taken, tuple(began), tuple(ended))

    def holds(self, source: str, group: str, account: str, now: float, pool: str = "") -> tuple[Active, ...]:
        """What bears on a delivery that would go so: suspensions and limits that hold, suspensions that return.
        ``account`` and ``pool`` "" ask for the path alone."""
        if not self._held:
            return ()
        keys: list[Key] = [(s, g, "", "", "") for s in (source, "") for g in (group, "")]
        if account:
            keys += [("", group, account, "", ""), ("", "", account, "", "")]
        if pool:
            keys += [("", group, "", "", pool), ("", "", "", "", pool)]
        here = [active for key in dict.fromkeys(keys) for active in self._held.get(key, _EMPTY).values()]
        return tuple(active for active in here if now < active.returns_until)

    def skips(self, mx: str, now: float) -> Active | None:
        """The reaction by which a mail host is left alone, if there is one."""
        here = self._held.get(("", "", "", mx, "")) if self._held else None
        return next((active for active in here.values() if now < active.until), None) if here else None

    def all(self) -> list[Active]:
        """Those that hold, return or are watched, the latest first."""
        return sorted(self._active.values(), key=lambda active: active.reply.time, reverse=True)

    def replies(self, id: int) -> int:
        """How many replies more met the rule while the reaction held (since a restart)."""
        return self._replies.get(id, 0)

    def lift(self, id: int) -> Active | None:
        """Ends one at once and forgets it: gives it, None if there is none."""
        found = self._active.get(id)
        self._end([found] if found else ())
        return found

    def tick(self, now: float) -> tuple[Active, ...]:
        """Forgets those whose time is over: gives these.  Call about once a second."""
        back, self._ticked = now < self._ticked, now
        if now < self._next_end and not back:
            return ()
        over = [a for a in self._active.values() if now >= a.forgotten or (not a.by and now < a.reply.time - _SET_BACK)]
        ended = self._end(over)
        self._next_end = min((active.forgotten for active in self._active.values()), default=inf)
        if len(self._active) < MOST:
            self.fault = ""
        return ended

    def _reached(self, rule: Rule, key: Key, now: float) -> bool:
        """Whether this one is the last of so many within the rule's time, counted exactly."""
        if rule.after is None:
            return True
        mark = (rule.name, key)
        times = self._counts.get(mark)
        if times is None or times.maxlen != rule.after.count:
            self._counts_forget(rule, key)
            times = self._counts[mark] = deque(maxlen=rule.after.count)
        self._counts.move_to_end(mark)
        if times and now < times[-1]:  # the clock was set back
            self._counted -= len(times)
            times.clear()
        self._counted += len(times) < rule.after.count
        times.append(now)
        while self._counted > _COUNTED:
            self._counted -= len(self._counts.popitem(last=False)[1])
        return len(times) == rule.after.count and times[0] > now - rule.after.period

    def _counts_forget(self, rule: Rule, key: Key) -> None:
        self._counted -= len(self._counts.pop((rule.name, key), ()))

    def _make_room(self) -> tuple[Active, ...]:
        if len(self._active) < MOST:
            return ()
        self.fault = f"{MOST} reactions hold: each new one ends the oldest"
        return self._end([next(active for active in self._active.values() if not active.by)])

    def _begin(self, rule: Rule, key: Key, seen: Seen, before: Active | None) -> Active:
        self.fired += 1
        step = before.step + 1 if before else 0
        duration = min(rule.duration * 2 ** min(step, 30), rule.longest)
        until = seen.time + duration
        source, group, account, mx, _ = key
        text = printable(seen.text, TEXT)
        active = Active(
            id=before.id if before else self._last_id + 1,
            rule=rule.name,
            action=rule.action,  # type: ignore[arg-type]
            source=source,
            group=group,
            account=account,
            mx=mx,
            since=before.since if before else seen.time,
            until=until,
            returns_until=until + (min(duration, RETURNS) if rule.action == "suspend" else 0.0),
            forgotten=until + duration,
            step=step,
            limits=before.limits.halved() if before and seen.time < before.until else rule.limits,
            move=rule.move,
            reply=Said(
                Reply(seen.code, seen.enhanced, text), seen.stage, seen.time, seen.mx, seen.domain, seen.delivery
            ),
        )
        self._keep(active)
        return active

    def _keep(self, active: Active) -> None:
        self._active[active.id] = active
        self._held.setdefault(active.key, {})[active.rule] = active
        self._replies.setdefault(active.id, 0)
        self.handmade += bool(active.by)
        self._last_id = max(self._last_id, active.id)
        self._next_end = min(self._next_end, active.forgotten)

    def _end(self, actives: Iterable[Active]) -> tuple[Active, ...]:
        ended = tuple(actives)
        for active in ended:
            del self._active[active.id], self._replies[active.id]
            self.handmade -= bool(active.by)
            here = self._held[active.key]
            del here[active.rule]
            if not here:
                del self._held[active.key]
        return ended


def _tightens(active: Active, now: float) -> bool:
    """Whether a reply that fires a limit again, while it holds, says that it allows too much still."""
    return active.action == "limit" and now >= active.reply.time + SETTLED


def _differs(active: Active, before: Rule | None, now: Rule | None) -> bool:
    """Whether what a reaction holds is not what its rule says now; ``before`` is not known after a restart."""
    return now is None or now.action != active.action or (before is not None and before != now)


def _key(rule: Rule, seen: Seen) -> Key | None:
    """Whom a rule's action is on, after a reply; None if the reply does not tell, as one to a connection tells of no
    account."""
    if rule.action == "skip-mx":
        return ("", "", "", seen.mx, "") if seen.mx else None
    if rule.on == "account":
        return ("", seen.group, seen.account, "", "") if seen.account else None
    return "" if rule.on == "site" else seen.source, "" if rule.on == "source" else seen.group, "", "", ""


def _verdict(
    seen: Seen, rules: tuple[Rule, ...], taken: list[Rule], began: tuple[Active, ...], ended: tuple[Active, ...]
) -> Verdict:
    """What all rules that a reply meets say together, and those whose action is ``taken``: of what excludes each other,
    the first rule's counts."""
    bounce = next((rule for rule in taken if rule.action == "bounce"), None)
    way = next((rule for rule in taken if rule.action in ("keep", "move")), None)
    deferred = [rule for rule in rules if rule.defer or (rule.action == "defer" and rule in taken)]
    us = deferred[0] if deferred and seen.code >= 500 else None
    decides = bounce or us or way
    return Verdict(
        kind="permanent" if bounce else "transient" if us else "",
        wait=way.duration if way else 0.0,
        keep=way is not None and way.action == "keep",
        move=way.to if way and way.action == "move" else None,
        rule=decides.name if decides else "",
        began=began,
        ended=ended,
    )
