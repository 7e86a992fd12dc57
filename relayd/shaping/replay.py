"""Replay: what reaction rules would have done to what really happened.

In: rules, and the records of some time, oldest first, as a stream.  Out: for each rule what it met, when it would have
fired and on which reply, how long it would have held things up, and how many of the recorded attempts fell into that.
What a suspension would have prevented did happen here, so the replies to those attempts only count; where a reply is to
a session and not to one delivery, it counts once, as it does in the running relay.
"""

from collections.abc import Callable, Iterable

import msgspec

from relayd.address import domain_of
from relayd.outcome import Evidence
from relayd.records import Record
from relayd.shaping.reactions import Active, Reactions
from relayd.shaping.rules import Rules, Seen

FIRINGS = 20  # of a rule that are told, the first ones
_OF_SESSION = frozenset({"banner", "ehlo", "starttls", "tls", "auth"})
_SESSIONS = 10_000  # remembered, so that what all deliveries of one met is counted once

ProviderOf = Callable[[str], str]  # of the host that answered, "" for nobody's


class Firing(msgspec.Struct, frozen=True):
    """One time that a rule would have fired: on what, until when, and the reply that did it."""

    time: float
    until: float
    on: str
    reply: str


class Effect(msgspec.Struct):
    """What a rule would have done.  ``held``: seconds of all its firings together; ``caught``: recorded attempts while
    it suspended their path, of which so many were ``delivered``: what it would have put off for nothing."""

    rule: str
    action: str
    matches: int = 0
    fired: int = 0
    held: float = 0.0
    caught: int = 0
    delivered: int = 0
    firings: list[Firing] = []


class Replayed(msgspec.Struct):
    """``attempts`` and ``failures`` (with a reply): of the records; ``unmet``: failures that no rule met."""

    attempts: int = 0
    failures: int = 0
    unmet: int = 0
    since: float = 0.0
    until: float = 0.0
    rules: list[Effect] = []


def replay(rules: Rules, records: Iterable[Record], provider_of: ProviderOf) -> Replayed:
    """See the module."""
    reactions = Reactions(rules)
    effects = {name: Effect(name, rule.action) for name, rule in rules.by_name.items()}
    sessions: dict[tuple[str, str, str], None] = {}
    found = Replayed()
    for record in records:
        seen = record.evidence
        if seen is None or not seen.source or not seen.mx:
            continue
        now = record.time
        domain = domain_of(record.recipient)
        provider = provider_of(seen.mx)
        group = provider or domain
        found.attempts += 1
        found.since, found.until = found.since or now, now
        reactions.tick(now)
        for active in reactions.holds(seen.source, group, record.account, now):
            if active.action == "suspend" and now < active.until:
                effects[active.rule].caught += 1
                effects[active.rule].delivered += record.kind == "Delivery"
        if seen.reply is None or seen.reply.positive or _told(sessions, seen):
            continue
        found.failures += 1
        reply = Seen(
            provider,
            group,
            domain,
            seen.source,
            record.account,
            seen.mx,
            seen.stage,
            seen.reply.code,
            seen.reply.enhanced,
            seen.reply.text,
            now,
            record.delivery,
        )
        met = rules.matching(reply)
        found.unmet += not met
        for rule in met:
            effects[rule.name].matches += 1
            if rule.action not in ("suspend", "limit", "skip-mx") and rule.after is None:
                effects[rule.name].fired += 1
        for active in reactions.seen(reply).began:
            _fire(effects[active.rule], active)
    found.rules = sorted(effects.values(), key=lambda effect: (-effect.fired, -effect.matches, effect.rule))
    return found


def _told(sessions: dict[tuple[str, str, str], None], seen: Evidence) -> bool:
    """Whether the reply to a session has been counted for another of its deliveries."""
    if seen.stage not in _OF_SESSION or not seen.session:
        return False
    key = (seen.session, seen.local, seen.stage)  # session names begin anew with each start of the relay
    if key in sessions:
        return True
    sessions[key] = None
    if len(sessions) > _SESSIONS:
        del sessions[next(iter(sessions))]
    return False


def _fire(effect: Effect, active: Active) -> None:
    effect.fired += 1
    effect.held += active.until - active.reply.time
    if len(effect.firings) < FIRINGS:
        on = " ".join(filter(None, (active.source, active.group, active.account, active.mx)))
        effect.firings.append(Firing(active.reply.time, active.until, on, str(active.reply.reply)))
