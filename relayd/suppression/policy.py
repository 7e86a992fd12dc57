"""Policy: what of all that is said of a stream's mail puts its recipient on a list, at once, after a while, for a time.

In: a stream's ``suppress`` table, what was heard.  Out: findings, in which list, why, and on what evidence.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from relayd import notation
from relayd.echoes import Event
from relayd.errors import InputError
from relayd.identity import show
from relayd.suppression.entries import Reason, entry
from relayd.suppression.strikes import Finding

BY = "relayd"


class Policy(msgspec.Struct, frozen=True):
    """``unknown``: after how many refusals as unknown an address is on the list; ``hard``: after how many that may be
    mistaken or pass (disabled, filtered, a domain without mail); ``full``: after how many because its mailbox is full,
    and for ``full_for`` seconds; 0 is never.  They count together ``within`` so many seconds.  ``complaint`` and
    ``unsubscribe``: whether one is enough, or none is.  ``list``: where bounces go; complaints and unsubscribes go to
    the stream's own."""

    list: str = ""
    unknown: int = 1
    hard: int = 3
    full: int = 3
    within: float = 90 * 86400.0
    full_for: float = 7 * 86400.0
    complaint: bool = True
    unsubscribe: bool = True


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


_PARSERS: dict[str, Callable[[object], Any]] = {
    "list": lambda value: notation.name(value) if value != "" else "",
    "unknown": notation.whole(0),
    "hard": notation.whole(0),
    "full": notation.whole(0),
    "within": notation.duration,
    "full_for": notation.duration,
    "complaint": _flag,
    "unsubscribe": _flag,
}


def parse_policy(value: object) -> Policy:
    """A table of what differs from the default: ``{ hard = 5, full_for = "3d" }``.  The same in TOML and in JSON.
    Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f'{value!r} is not a table: write one such as {{ unknown = 2, full_for = "3d" }}')
    found = {}
    for key, item in value.items():
        if key not in _PARSERS:
            raise ValueError(f"there is no key {key!r}{notation.nearest(key, _PARSERS)}: write {', '.join(_PARSERS)}")
        try:
            found[key] = _PARSERS[key](item)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
    return Policy(**found)


def shown(policy: Policy, bounces: str) -> dict[str, object]:
    """For operators, as it would be written, with the list that bounces go to."""
    times = {key: notation.show_duration(getattr(policy, key)) for key in ("within", "full_for")}
    return {**msgspec.structs.asdict(policy), **times, "list": bounces}


def finding(policy: Policy, event: Event, bounces: str, feeds: str) -> Finding | None:
    """What an event says against its recipient, if anything; ``bounces`` and ``feeds`` are full names of lists."""
    if event.kind in ("complaint", "unsubscribe"):
        return _finding(event, feeds, event.kind, int(getattr(policy, event.kind)), policy)
    if event.kind == "bounced" and event.decision is not None:
        suppress = event.decision.suppress
    elif event.kind == "expired" and event.cls == "mailbox_full":
        suppress = "for_a_time"
    else:
        return None
    if suppress == "at_once":
        return _finding(event, bounces, "bounce", policy.unknown, policy)
    if suppress == "after_n":
        return _finding(event, bounces, "bounce", policy.hard, policy)
    if suppress == "for_a_time":
        return _finding(event, bounces, "full", policy.full, policy)
    return None


def _finding(event: Event, name: str, reason: Reason, need: int, policy: Policy) -> Finding | None:
    if not need:
        return None
    when = datetime.fromtimestamp(event.time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    told = f"{event.cls}: " if reason in ("bounce", "full") else ""
    evidence = f"{when} delivery {show(event.delivery)}, {told}{event.words}"
    expires = event.time + policy.full_for if reason == "full" else 0
    try:
        made = entry(
            name,
            event.recipient,
            kind="address",
            reason=reason,
            evidence=evidence,
            added=event.time,
            expires=expires,
            by=BY,
        )
    except InputError:  # no list could name such an address, a literal's say
        return None
    return Finding(made, need, policy.within, event.late)
