"""The views, declared: what each asks relayd, which columns it shows, where enter leads, and what can be done there.

In: nothing.  Out: ``VIEWS``, read by the console and by the documentation.  An action is a verb of relayctl with
arguments out of the row; a view of tomorrow is a row of this table.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from relayd_console.table import Column, Row


class Action(NamedTuple):
    """A key, the verb behind it, and its arguments: ``{field}`` is the row's.  ``fault(row)``: why it cannot be done
    with this one, "" if it can.  ``ask``: arguments that are asked for, besides a required reason."""

    key: str
    label: str
    verb: str
    args: dict[str, str]
    fault: Callable[[Row], str] = lambda row: ""
    ask: tuple[str, ...] = ()


class Leads(NamedTuple):
    """Where enter leads: to a view, or to a verb's answer; ``args`` as an action's."""

    args: dict[str, str]
    view: str = ""
    verb: str = ""


class View(NamedTuple):
    """``rows``: where in the answer they are ("" for the answer itself); ``key``: the fields that name a row;
    ``every``: seconds between questions; ``pages``: whether the verb takes ``after`` and answers with ``next``."""

    name: str
    title: str
    verb: str
    args: dict[str, str]
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    actions: tuple[Action, ...] = ()
    leads: Leads | None = None
    rows: str = ""
    every: float = 2.0
    pages: bool = False
    empty: str = "nothing here"
    top: bool = True  # one of those that tab goes through


def _is(field: str, value: str, why: str) -> Callable[[Row], str]:
    return lambda row: "" if str(row.get(field, "")) == value else why


def _is_not(field: str, value: str, why: str) -> Callable[[Row], str]:
    return lambda row: why if str(row.get(field, "")) == value else ""


def _state(value: Any) -> str:
    text = str(value)
    if text in ("in use", "active", "good", "verified", "delivered", "done", "warm"):
        return "good"
    if text in ("blocked", "block", "out of use", "suspended", "bounced", "failed", "failing", "parked", "fault"):
        return "bad"
    return "warn" if text not in ("", "-", "queued") else ""


VIEWS: tuple[View, ...] = (
    View(
        "queue",
        "Queues",
        "queue list",
        {"limit": "1000"},
        (
            Column("account", "account", 12),
            Column("stream", "stream", 13, least=64),
            Column("domain", "domain", 16, grow=2),
            Column("count", "count", 9, "count"),
            Column("due", "due", 8, "when", least=70),
            Column("why it waits", "why", 12, grow=4),
        ),
        ("account", "stream", "domain"),
        leads=Leads({"what": "{domain}"}, verb="why"),
        empty="no mail is queued",
    ),
    View(
        "sources",
        "Sources",
        "source list",
        {},
        (
            Column("source", "name", 12),
            Column("address", "address", 16),
            Column("state", "state", 10, tint=_state),
            Column("pools", "pools", 14, grow=1),
            Column("sessions", "sessions", 8, "count"),
            Column("listed", "listed", 10, grow=1, least=100),
            Column("why", "why", 10, grow=3, least=80),
        ),
        ("name",),
        (
            Action("d", "drain", "source drain", {"name": "{name}"}, _is_not("state", "drained", "it is drained")),
            Action("u", "resume", "source resume", {"name": "{name}"}, _is("state", "drained", "it is not drained")),
        ),
        leads=Leads({"source": "{name}"}, view="warmup"),
    ),
    View(
        "warmup",
        "Warm-up",
        "warmup list",
        {},
        (
            Column("source", "source", 12),
            Column("group", "group", 14, grow=2),
            Column("day", "day", 5, "count"),
            Column("sent today", "sent", 10, "count"),
            Column("cap", "cap", 10, "count"),
            Column("why", "why", 10, grow=3, least=80),
        ),
        ("source", "group"),
        leads=Leads({"source": "{source}"}, verb="warmup show"),
        empty="no source is in warm-up",
        every=5.0,
    ),
    View(
        "throttles",
        "Throttles and suspensions",
        "shaping reactions",
        {},
        (
            Column("id", "id", 5, "count"),
            Column("what", "action", 9, tint=lambda value: "bad" if value == "suspend" else "warn"),
            Column("whom", "whom", 20, grow=2),
            Column("until", "until", 8, "when"),
            Column("rule", "rule", 14, grow=1, least=90),
            Column("the reply that caused it", "reply", 20, grow=4),
        ),
        ("id",),
        (Action("l", "lift", "shaping lift", {"id": "{id}"}),),
        empty="nothing is throttled because of replies",
    ),
    View(
        "reputation",
        "Reputation",
        "reputation list",
        {"worst": "true", "limit": "200"},
        (
            Column("subject", "subject", 24, grow=2),
            Column("step", "step", 6, tint=_state),
            Column("held to", "acts", 7, tint=_state, least=90),
            Column("near", "near", 6, "share"),
            Column("since", "since", 9, "when", least=80),
            Column("by", "by", 10, least=110),
            Column("why", "why", 16, grow=4),
        ),
        ("subject",),
        (
            Action("h", "hold", "reputation hold", {"subject": "{subject}"}, ask=("for",)),
            Action("b", "block", "reputation block", {"subject": "{subject}"}, ask=("for",)),
            Action(
                "u",
                "release",
                "reputation release",
                {"subject": "{subject}"},
                _is_not("step", "good", "it is not held back"),
            ),
        ),
        leads=Leads({"subject": "{subject}"}, verb="reputation show"),
        every=5.0,
    ),
    View(
        "accounts",
        "Accounts",
        "account list",
        {},
        (
            Column("account", "name", 16, grow=2),
            Column("parent", "parent", 12, grow=1, least=90),
            Column("state", "state", 10, tint=_state),
            Column("domain check", "domain_check", 12, least=100),
            Column("weight", "weight", 6, "count", least=80),
            Column("since", "created", 10, "when"),
        ),
        ("name",),
        (
            Action(
                "s", "suspend", "account suspend", {"name": "{name}"}, _is_not("state", "suspended", "it is suspended")
            ),
            Action(
                "u", "resume", "account resume", {"name": "{name}"}, _is("state", "suspended", "it is not suspended")
            ),
        ),
        leads=Leads({"account": "{name}"}, view="connections"),
        every=5.0,
    ),
    View(
        "connections",
        "Connections",
        "connection list",
        {},
        (
            Column("login", "login", 18, grow=2),
            Column("account", "account", 12, grow=1),
            Column("state", "state", 13, tint=_state),
            Column("streams", "streams", 14, grow=1, least=90),
            Column("senders", "senders", 16, grow=2, least=110),
            Column("reason", "reason", 12, grow=2, least=80),
        ),
        ("login",),
        (
            Action(
                "b", "block", "connection block", {"login": "{login}"}, _is_not("state", "blocked", "it is blocked")
            ),
            Action(
                "u", "activate", "connection activate", {"login": "{login}"}, _is_not("state", "active", "it is active")
            ),
        ),
        leads=Leads({"login": "{login}"}, verb="connection show"),
        every=5.0,
    ),
    View(
        "suspects",
        "Suspicious senders",
        "suspects list",
        {},
        (
            Column("account", "account", 12, grow=1),
            Column("kind", "kind", 10),
            Column("name", "name", 14, grow=1),
            Column("score", "score", 5, "count", tint=lambda value: "bad"),
            Column("since", "since", 8, "when"),
            Column("why", "why", 20, grow=4),
        ),
        ("account", "kind", "name"),
        leads=Leads({"account": "{account}"}, verb="suspects show"),
        empty="nobody is under suspicion",
        every=5.0,
    ),
    View(
        "changes",
        "Who changed what",
        "change list",
        {"limit": "200"},
        (
            Column("time", "time", 14, "clock"),
            Column("who", "who", 12),
            Column("what", "verb", 20, grow=1),
            Column("with", "arguments", 20, grow=3),
            Column("result", "result", 10, grow=1, least=90),
        ),
        ("time", "who", "verb"),
        every=5.0,
    ),
)


def view(name: str) -> View:
    return next(one for one in VIEWS if one.name == name)


def filled(args: dict[str, str], row: Row) -> dict[str, Any]:
    """The arguments with the row's own values."""
    return {
        name: row.get(text[1:-1]) if text.startswith("{") and text.endswith("}") else text.format_map(row)
        for name, text in args.items()
    }
