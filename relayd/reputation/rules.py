"""Rules: which shares of what is sent are too many, for each kind of subject, and what follows from that.

Enter: the tables [reputation.KIND].  Leave: ``Rule``, which the defaults below show; ``Rules``, all that holds.
"""

from collections.abc import Callable, Mapping
from math import inf
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec

from relayd import notation
from relayd.reputation.counts import DAY, HOUR, INDEX, Counter

Step = Literal["good", "slow", "hold", "block"]
STEPS: tuple[Step, ...] = get_args(Step)
Kind = Literal["account", "client", "connection", "domain", "source"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Signal(NamedTuple):
    """``bad`` of so many: the sum of ``among``; in words, "41 of 300 RECIPIENTS ... VERB"."""

    bad: int
    among: tuple[int, ...]
    words: str
    windows: tuple[int, ...] = (HOUR, DAY)


def _signal(bad: Counter, among: tuple[Counter, ...], words: str, *windows: int) -> Signal:
    return Signal(INDEX[bad], tuple(INDEX[counter] for counter in among), words, windows or (HOUR, DAY))


# Deferrals repeat, and say little of who sends.
_ANSWERED: tuple[Counter, ...] = ("delivered", "unknown", "spam", "blocked", "failed")
SIGNALS: dict[str, Signal] = {
    "unknown": _signal("unknown", _ANSWERED, "recipients{} do not exist"),
    "spam": _signal("spam", _ANSWERED, "recipients{} were refused as spam"),
    "failed": _signal("failed", _ANSWERED, "recipients{} were refused for other reasons"),
    "blocked": _signal("blocked", _ANSWERED, "recipients{} were refused because of the source"),
    "deferred": _signal("deferred", (*_ANSWERED, "deferred"), "attempts{} were deferred"),
    "complaint": _signal("complaint", ("delivered",), "recipients{} complained", DAY),
    "suppressed": _signal(
        "suppressed", ("received", "suppressed"), "recipients{} are on stop-lists or have no mailbox"
    ),
    "refused": _signal("refused", ("received", "refused"), "recipients{} were refused at submission"),
    "trap": _signal("trap", ("received", "suppressed"), "recipients{} are traps"),
}

Shares = tuple[float, ...]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Of one kind of subject.  ``act``: the furthest step that relayd takes by itself, "report" takes none; ``volume``:
    fewer are no share.  Then, for each signal, from which shares on the subject is slowed, held and blocked: fewer
    shares leave the last steps out."""

    act: Literal["report", "slow", "hold", "block"] = "report"
    volume: int = 100
    unknown: Shares = (0.08, 0.15, 0.3)
    spam: Shares = (0.05, 0.1, 0.25)
    failed: Shares = ()
    blocked: Shares = ()
    deferred: Shares = ()
    complaint: Shares = (0.003, 0.006, 0.02)
    suppressed: Shares = (0.2, 0.4, 0.7)
    refused: Shares = ()
    trap: Shares = (0.001, 0.005, 0.02)

    @property
    def furthest(self) -> int:
        return 0 if self.act == "report" else STEPS.index(self.act)

    def signals(self) -> list[tuple[Signal, Shares]]:
        return [(signal, shares) for name, signal in SIGNALS.items() if (shares := getattr(self, name))]


DEFAULTS: Mapping[str, Rule] = {
    "account": Rule(act="slow"),  # many clients may be behind one: those who do it are held
    "client": Rule(act="hold"),
    "connection": Rule(act="block", failed=(0.25, 0.4, 0.6)),
    "domain": Rule(),
    # Reactions and warm-up see to single replies: this is for what they leave.
    "source": Rule(
        act="slow",
        volume=500,
        unknown=(),
        spam=(0.1,),
        blocked=(0.1,),
        deferred=(0.5,),
        complaint=(0.003,),
        suppressed=(),
        trap=(),
    ),
}


def parse_rule(kind: Kind) -> Callable[[object], Rule]:
    """A parser of the table [reputation.KIND]; what that does not say is as in DEFAULTS.  It raises ValueError."""

    def parse(value: object) -> Rule:
        if not isinstance(value, dict):
            raise ValueError(f'{value!r} is no table: write {{ act = "slow", unknown = [0.08, 0.15, 0.3] }}')
        fields = Rule.__struct_fields__
        for key in (key for key in value if key not in fields):
            raise ValueError(f"unknown key {key!r}{notation.nearest(key, fields)}")
        found: dict[str, Any] = {key: _shares(key, value[key], kind) for key in value.keys() & SIGNALS.keys()}
        if "volume" in value:
            found["volume"] = _volume(value["volume"])
        if "act" in value:
            found["act"] = _act(value["act"], kind)
        return msgspec.structs.replace(DEFAULTS[kind], **found)

    return parse


def _act(value: object, kind: Kind) -> object:
    acts = ("report", "slow") if kind == "source" else ("report", *STEPS[1:])
    if value not in acts:
        raise ValueError(f"act: {value!r} is none of {', '.join(acts)}")
    return value


def _kept(value: object) -> float:
    """A duration, or "never"."""
    return inf if value == "never" else notation.duration(value)


def _share(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
        raise ValueError(f"{value!r} is not a share, above 0 and up to 1: write 0.25 for a quarter")
    return value


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """``mode``: "report" counts and judges, and holds nobody back.  ``slow_share``: what is left of the pace of the
    hour before to who is slowed, ``least`` recipients an hour at least.  ``slow_for`` and so on: for how long a step is
    kept after the last sign of what led to it; "never" is until an operator releases it."""

    mode: Literal["off", "report", "act"] = "act"
    slow_share: Annotated[float, _share] = 0.25
    least: Annotated[int, notation.whole(1)] = 60
    slow_for: Annotated[float, _kept] = 2 * 3600.0
    hold_for: Annotated[float, _kept] = 24 * 3600.0
    block_for: Annotated[float, _kept] = inf
    account: Annotated[Rule, parse_rule("account")] = DEFAULTS["account"]
    client: Annotated[Rule, parse_rule("client")] = DEFAULTS["client"]
    connection: Annotated[Rule, parse_rule("connection")] = DEFAULTS["connection"]
    domain: Annotated[Rule, parse_rule("domain")] = DEFAULTS["domain"]
    source: Annotated[Rule, parse_rule("source")] = DEFAULTS["source"]

    def of(self, kind: str) -> Rule:
        found: Rule = getattr(self, kind)
        return found

    def kept(self, step: int) -> float:
        return (self.slow_for, self.hold_for, self.block_for)[step - 1]


def _volume(value: object) -> int:
    try:
        return notation.whole(1)(value)
    except ValueError as error:
        raise ValueError(f"volume: {error}") from None


def _shares(key: str, value: object, kind: Kind) -> Shares:
    most = 1 if kind == "source" else 3
    found = tuple(value) if isinstance(value, list) else (None,)
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) and 0 < one <= 1 for one in found)
    if not numbers or len(found) > most or list(found) != sorted(set(found)):
        steps = "the share from which it is slowed" if most == 1 else "the shares for slow, hold and block"
        example = "[0.1]" if most == 1 else "[0.08, 0.15, 0.3]"
        raise ValueError(
            f"{key}: {value!r} are not {steps}, rising, above 0 and up to 1: write {example}, or [] for none"
        )
    return found
