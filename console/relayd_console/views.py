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


_ONE_SITE = _is_not("site", "all", "it is the sum of the rows below")


def _state(value: Any) -> str:
    text = str(value)
    if text in ("in use", "active", "good", "verified", "delivered", "done", "warm"):
        return "good"
    if text in ("blocked", "block", "out of use", "suspended", "bounced", "failed", "failing", "parked", "fault"):
        return "bad"
    return "warn" if text not in ("", "-", "queued") else ""


_QUEUE = {"account": "{account}", "stream": "{stream}", "domain": "{domain}"}
_AGES = (("5m", 0), ("10m", 100), ("20m", 0), ("40m", 110), ("80m", 0), ("160m", 120), ("320m", 120), ("640m", 130))

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
        (
            Action("t", "try now", "queue retry", _QUEUE, ask=("reason",)),
            Action("h", "hold", "queue hold", _QUEUE, ask=("reason",)),
            Action("l", "release", "queue release", _QUEUE, ask=("reason",)),
            Action("m", "move", "queue move", _QUEUE, ask=("pool", "reason")),
            Action("c", "cancel", "queue cancel", _QUEUE, ask=("reason",)),
        ),
        leads=Leads(_QUEUE, view="deliveries"),
        empty="no mail is queued",
    ),
    View(
        "sites",
        "What waits, by destination and age",
        "queue summary",
        {"by": "site", "limit": "500"},
        (
            Column("site", "site", 16, grow=1),
            Column("all", "deliveries", 9, "count"),
            Column("held", "held", 7, "count", least=90),
            *(Column(age, age, 7, "count", least=least) for age, least in _AGES),
            Column("older", "older", 7, "count"),
        ),
        ("site",),
        (
            Action("t", "try now", "queue retry", {"site": "{site}"}, _ONE_SITE, ("reason",)),
            Action("h", "hold", "queue hold", {"site": "{site}"}, _ONE_SITE, ("reason",)),
            Action("l", "release", "queue release", {"site": "{site}"}, _ONE_SITE, ("reason",)),
            Action("c", "cancel", "queue cancel", {"site": "{site}"}, _ONE_SITE, ("reason",)),
        ),
        leads=Leads({"site": "{site}"}, view="deliveries"),
        empty="no mail is queued",
        every=3.0,
    ),
    View(
        "deliveries",
        "Deliveries",
        "queue deliveries",
        {"limit": "200"},
        (
            Column("id", "id", 16),
            Column("recipient", "recipient", 18, grow=2),
            Column("tries", "attempts", 5, "count"),
            Column("due", "due", 8, "when"),
            Column("held by job", "held_by_job", 11, least=100),
            Column("stream", "stream", 13, least=120),
            Column("last reply", "last", 12, grow=4),
        ),
        ("id",),
        (
            Action("t", "try now", "queue retry", {"id": "{id}"}, ask=("reason",)),
            Action("h", "hold", "queue hold", {"id": "{id}"}, ask=("reason",)),
            Action("l", "release", "queue release", {"id": "{id}"}, ask=("reason",)),
            Action("m", "move", "queue move", {"id": "{id}"}, ask=("pool", "reason")),
            Action("c", "cancel", "queue cancel", {"id": "{id}"}, ask=("reason",)),
        ),
        leads=Leads({"id": "{id}"}, verb="inspect"),
        rows="deliveries",
        pages=True,
        empty="no delivery of these is queued",
        top=False,
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
            Column("state", "state", 10, grow=1, tint=_state),
            Column("day", "day", 4, "count"),
            Column("of", "of", 4, "count"),
            Column("sent today", "sent", 10, "count"),
            Column("cap", "cap", 9, "count"),
            Column("deferred", "deferred", 8, "share", least=90),
            Column("blocked", "blocked", 8, "share", least=90),
            Column("tomorrow", "tomorrow", 10, grow=1, least=110),
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
            Column("id", "id", 4, "count"),
            Column("what", "action", 12, tint=lambda value: "bad" if value == "suspend" else "warn"),
            Column("at", "at", 12, grow=2),
            Column("source", "source", 8, least=70),
            Column("account", "account", 10, least=100),
            Column("until", "until", 8, "when"),
            Column("rule", "rule", 12, grow=1, least=90),
            Column("the reply that caused it", "reply", 16, grow=4),
        ),
        ("id",),
        (Action("l", "lift", "shaping lift", {"id": "{id}"}, ask=("reason",)),),
        empty="nothing is suspended or limited",
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
        "sessions",
        "Sessions, in and out",
        "session list",
        {"limit": "500"},
        (
            Column("id", "id", 7),
            Column("way", "way", 3),
            Column("peer", "peer", 15, grow=1),
            Column("at", "at", 12, grow=2),
            Column("who", "login", 12, grow=1, least=80),
            Column("source", "source", 8, least=100),
            Column("stage", "stage", 9),
            Column("since", "since", 8, "when"),
            Column("mails", "messages", 6, "count"),
            Column("recipient", "recipient", 14, grow=2, least=120),
        ),
        ("id",),
        (Action("x", "drop", "session drop", {"id": "{id}"}),),
        empty="nobody is connected, and no mail goes out",
    ),
    View(
        "events",
        "Events, the newest first",
        "history list",
        {"limit": "200", "since": "1d"},
        (
            Column("time", "time", 24),
            Column("event", "event", 13, tint=_state),
            Column("recipient", "recipient", 20, grow=2),
            Column("account", "account", 10, least=100),
            Column("stream", "stream", 13, least=120),
            Column("words", "attempt", 14, grow=4, least=70),
        ),
        ("id",),
        leads=Leads({"id": "{delivery}"}, verb="history show"),
        rows="events",
        pages=True,
        empty="nothing happened within a day",
    ),
    View(
        "blocks",
        "Blocks",
        "block list",
        {},
        (
            Column("kind", "kind", 10),
            Column("value", "value", 18, grow=2),
            Column("until", "until", 8, "when"),
            Column("by", "by", 10, least=70),
            Column("since", "since", 9, "when"),
            Column("reason", "reason", 14, grow=3),
        ),
        ("kind", "value"),
        (Action("u", "unblock", "block remove", {"kind": "{kind}", "value": "{value}"}, ask=("reason",)),),
        empty="nobody is blocked",
    ),
    View(
        "webhooks",
        "Webhooks",
        "webhook list",
        {},
        (
            Column("name", "name", 14, grow=1),
            Column("account", "account", 12),
            Column("state", "state", 8, tint=_state),
            Column("behind", "behind", 8, "span"),
            Column("last success", "last_success", 12, "when", least=90),
            Column("url", "url", 16, grow=2, least=80),
            Column("last failure", "failure", 14, grow=3),
        ),
        ("name",),
        (
            Action("p", "pause", "webhook pause", {"name": "{name}"}, _is("state", "active", "it is not active")),
            Action("u", "resume", "webhook resume", {"name": "{name}"}, _is_not("state", "active", "it is active")),
            Action("t", "test", "webhook test", {"name": "{name}"}),
        ),
        leads=Leads({"name": "{name}"}, verb="webhook show"),
        empty="there are no webhooks: relayctl webhook add makes one",
        every=5.0,
    ),
    View(
        "feeds",
        "Feeds",
        "feed list",
        {},
        (
            Column("name", "name", 14, grow=1),
            Column("type", "type", 6),
            Column("behind", "behind", 8, "span"),
            Column("events", "events", 12, "count"),
            Column("fault", "fault", 16, grow=3, tint=lambda value: "bad" if value else ""),
        ),
        ("name",),
        empty="events go to no file and no Redis: [feed.NAME] makes them",
        every=5.0,
    ),
    View(
        "jobs",
        "Jobs",
        "job list",
        {"limit": "100"},
        (
            Column("job", "job", 5, "count"),
            Column("action", "action", 8),
            Column("state", "state", 9, tint=_state),
            Column("done", "done", 9, "count"),
            Column("of", "about", 9, "count"),
            Column("who", "who", 10, least=90),
            Column("ended", "ended", 9, "when", least=80),
            Column("undo until", "undo_until", 10, "when"),
            Column("reason", "reason", 12, grow=3),
        ),
        ("job",),
        (
            Action("c", "cancel", "job cancel", {"id": "{job}"}, ask=("reason",)),
            Action(
                "u",
                "undo",
                "job undo",
                {"id": "{job}"},
                lambda row: "" if row.get("undo_until") else "it cannot be undone, or not any more",
                ("reason",),
            ),
        ),
        leads=Leads({"id": "{job}"}, verb="job show"),
        empty="no job changes the queue",
    ),
    View(
        "exports",
        "Exports",
        "export list",
        {},
        (
            Column("id", "id", 10),
            Column("state", "state", 10, tint=_state),
            Column("done", "done", 6, "share"),
            Column("events", "events", 12, "count"),
            Column("account", "account", 12, least=80),
            Column("format", "format", 6),
            Column("why", "why", 10, grow=2),
        ),
        ("id",),
        (Action("c", "cancel", "export cancel", {"id": "{id}"}),),
        leads=Leads({"id": "{id}"}, verb="export show"),
        empty="nobody exports anything",
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
