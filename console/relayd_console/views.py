"""The views, declared.

In: nothing.  Out: ``VIEWS`` and ``OVERVIEW``, read by the console and by the documentation.  An action is a verb of
relayctl with arguments out of the row; a view of tomorrow is a row of this table.
"""

from collections.abc import Callable
from typing import Any

from relayd_console.table import Column, Row
from relayd_console.view import Action, Leads, View


def _is(field: str, value: str, why: str) -> Callable[[Row], str]:
    return lambda row: "" if str(row.get(field, "")) == value else why


def _is_not(field: str, value: str, why: str) -> Callable[[Row], str]:
    return lambda row: why if str(row.get(field, "")) == value else ""


def _one_site(row: Row) -> str:
    site = str(row.get("site", ""))
    if site == "all":
        return "it is the sum of the rows below"
    return "its site is not known yet: act on the queue" if site.startswith(_UNKNOWN) else ""


def _client(row: Row) -> str:
    return "" if row.get("way") == "in" else "it is a session with a mail server"


def _suspect(row: Row) -> dict[str, str]:
    found = {"account": str(row.get("account"))}
    return {**found, "client": str(row.get("name"))} if row.get("kind") == "client" else found


def _of_site(row: Row) -> Leads:
    site = str(row.get("site", ""))
    if site == "all":
        return Leads({}, view="queue")
    if site.startswith(_UNKNOWN):
        return Leads({"domain": site.removeprefix(_UNKNOWN)}, view="deliveries")
    return Leads({"site": site}, view="deliveries")


def _state(value: Any) -> str:
    text = str(value)
    if text in ("in use", "active", "good", "verified", "delivered", "done", "warm"):
        return "good"
    if text in _BAD:
        return "bad"
    return "warn" if text not in ("", "-", "queued") else ""


_BAD = ("blocked", "block", "out of use", "no source", "suspended", "bounced", "failed", "failing", "parked", "fault")
_UNKNOWN = "not looked up: "
_QUEUE = {"account": "{account}", "stream": "{stream}", "domain": "{domain}"}
_AGES = (("5m", "5m"), *((str(n), f"{n}m") for n in (10, 20, 40, 80, 160, 320, 640, 1280)), ("more", "older"))


def _on_queue(args: dict[str, str], fault: Callable[[Row], str] = lambda row: "") -> tuple[Action, ...]:
    """What can be done to deliveries, whichever these arguments mean."""
    return (
        Action("t", "try now", "queue retry", args, fault),
        Action("h", "hold", "queue hold", args, fault),
        Action("l", "release", "queue release", args, fault),
        Action("m", "move", "queue move", args, fault, ("pool", "reason")),
        Action("c", "cancel", "queue cancel", args, fault),
    )


def _shaped(what: str, field: str, fault: Callable[[Row], str] = lambda row: "") -> tuple[Action, ...]:
    """What can be imposed on what goes out."""
    args = {what: f"{{{field}}}"}
    return (
        Action("s", "suspend", "shaping suspend", args, fault, ("for", "reason")),
        Action("L", "limit", "shaping limit", args, fault, ("rate", "for", "reason")),
        Action("u", "resume", "shaping resume", args, fault),
    )


OVERVIEW = View(
    "overview",
    "Overview",
    "status",
    {},
    (),
    (),
    (
        Action("D", "drain", "drain on", {}, _is_not("draining", "True", "it drains already"), ("for", "reason")),
        Action("u", "take mail again", "drain off", {}, _is_not("draining", "False", "it takes mail")),
        Action("R", "reload", "config reload", {}),
    ),
)

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
        ("account", "stream", "domain", "pool"),
        (
            *_on_queue(_QUEUE),
            Action("b", "block domain", "block add", {"kind": "domain", "value": "{domain}"}, ask=("for", "reason")),
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
            Column("site", "site", 14, grow=1),
            Column("all", "deliveries", 9, "count"),
            Column("held", "held", 7, "count", least=90),
            *(Column(title, field, 4, "short") for title, field in _AGES),
        ),
        ("site",),
        (*_on_queue({"site": "{site}"}, _one_site), *_shaped("at", "site", _one_site)),
        leads=_of_site,
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
        _on_queue({"id": "{id}"}),
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
            Column("source", "name", 10, grow=1),
            Column("address", "address", 15),
            Column("state", "state", 10, tint=_state),
            Column("sess.", "sessions", 5, "count"),
            Column("repute", "reputation", 6, tint=_state),
            Column("warm-up", "warmup", 10, grow=2),
            Column("pools", "pools", 12, grow=1, least=100),
            Column("listed", "listed", 10, grow=1, least=120),
            Column("why", "why", 8, grow=2, least=80),
        ),
        ("name",),
        (
            Action("d", "drain", "source drain", {"name": "{name}"}, _is_not("state", "drained", "it is drained")),
            Action("u", "resume", "source resume", {"name": "{name}"}, _is("state", "drained", "it is not drained")),
            Action("s", "suspend", "shaping suspend", {"source": "{name}"}, ask=("at", "for", "reason")),
            Action("L", "limit", "shaping limit", {"source": "{name}"}, ask=("at", "rate", "for", "reason")),
            Action(
                "b",
                "block",
                "block add",
                {"kind": "source", "value": "{name}"},
                _is_not("state", "blocked", "it is blocked: the view of blocks lets it go"),
                ("for", "reason"),
            ),
        ),
        leads=Leads({"name": "{name}"}, verb="source show"),
    ),
    View(
        "pools",
        "Pools",
        "pool list",
        {},
        (
            Column("pool", "name", 12, grow=1),
            Column("state", "state", 10, tint=_state),
            Column("in use", "in_use", 8),
            Column("queued", "queued", 10, "count"),
            Column("held", "held", 8, "count"),
            Column("sources", "sources", 16, grow=3),
            Column("overflow", "overflow", 10, least=90),
            Column("why", "why", 10, grow=2, least=100),
        ),
        ("name",),
        (
            Action("s", "suspend", "shaping suspend", {"pool": "{name}"}, ask=("for", "reason")),
            Action(
                "u",
                "resume",
                "shaping resume",
                {"pool": "{name}"},
                _is("state", "suspended", "it is not suspended"),
            ),
        ),
        every=3.0,
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
            Column("pool", "pool", 10, least=110),
            Column("until", "until", 8, "when"),
            Column("rule", "rule", 12, grow=1, least=90),
            Column("the reply that caused it", "reply", 16, grow=4),
        ),
        ("id",),
        (Action("l", "lift", "shaping lift", {"id": "{id}"}),),
        empty="nothing is suspended or limited",
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
            Action("b", "block", "block add", {"kind": "account", "value": "{name}"}, ask=("for", "reason")),
            Action("L", "limit", "shaping limit", {"account": "{name}"}, ask=("rate", "for", "reason")),
            Action("h", "hold mail", "queue hold", {"account": "{name}"}),
            Action("l", "release mail", "queue release", {"account": "{name}"}),
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
            Action("h", "hold mail", "queue hold", {"connection": "{login}"}),
            Action("l", "release mail", "queue release", {"connection": "{login}"}),
            Action("c", "cancel mail", "queue cancel", {"connection": "{login}"}),
        ),
        leads=Leads({"login": "{login}"}, verb="connection show"),
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
        (
            Action("x", "drop", "session drop", {"id": "{id}"}),
            Action("b", "block address", "block add", {"kind": "ip", "value": "{peer}"}, _client, ("for", "reason")),
            Action("T", "trace peer", "trace start", {"peer": "{peer}"}),
        ),
        empty="nobody is connected, and no mail goes out",
    ),
    View(
        "events",
        "Events, the newest first",
        "history list",
        {"limit": "200", "since": "1d"},
        (
            Column("time", "time", 14, "stamp"),
            Column("event", "event", 12, tint=_state),
            Column("recipient", "recipient", 20, grow=2),
            Column("account", "account", 10, least=100),
            Column("stream", "stream", 13, least=120),
            Column("words", "attempt,note", 14, "said", grow=4),
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
        (
            Action("a", "add", "block add", {}, ask=("kind", "value", "for", "reason")),
            Action("u", "unblock", "block remove", {"kind": "{kind}", "value": "{value}"}),
        ),
        empty="nobody is blocked",
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
            Column("seen", "seen", 9, "count", least=100),
            Column("of", "about", 9, "count"),
            Column("who", "who", 10, least=90),
            Column("ended", "ended", 9, "when", least=80),
            Column("undo until", "undo_until", 10, "when"),
            Column("reason", "reason", 12, grow=3),
        ),
        ("job",),
        (
            Action("c", "cancel", "job cancel", {"id": "{job}"}, _is("state", "running", "it has ended")),
            Action(
                "u",
                "undo",
                "job undo",
                {"id": "{job}"},
                lambda row: "" if row.get("undo_until") else "it cannot be undone, or not any more",
            ),
        ),
        leads=Leads({"id": "{job}"}, verb="job show"),
        empty="no job changes the queue",
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
        (
            Action(
                "s",
                "set day",
                "warmup set",
                {"source": "{source}", "group": "{group}"},
                lambda row: "" if row.get("group") else "it has sent nothing yet",
                ("day", "reason"),
            ),
        ),
        leads=Leads({"source": "{source}"}, verb="warmup show"),
        empty="no source is in warm-up",
        every=5.0,
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
            Action("h", "hold", "reputation hold", {"subject": "{subject}"}, ask=("for", "reason")),
            Action("b", "block", "reputation block", {"subject": "{subject}"}, ask=("for", "reason")),
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
        (Action("d", "dismiss", "suspects dismiss", _suspect, ask=("for", "reason")),),
        leads=Leads({"account": "{account}"}, verb="suspects show"),
        empty="nobody is under suspicion",
        every=5.0,
    ),
    View(
        "domains",
        "Sender domains",
        "domain list",
        {},
        (
            Column("domain", "domain", 20, grow=2),
            Column("account", "account", 12, grow=1),
            Column("state", "state", 11, tint=_state),
            Column("why", "why", 16, grow=3),
        ),
        ("domain",),
        (Action("t", "check now", "domain verify", {"name": "{domain}"}, ask=()),),
        leads=Leads({"name": "{domain}"}, verb="domain show"),
        empty="no sender domain is registered",
        every=5.0,
    ),
    View(
        "traces",
        "Traces",
        "trace list",
        {},
        (
            Column("id", "id", 5, "count"),
            Column("state", "state", 8, tint=_state),
            Column("by", "by", 10, least=90),
            Column("of", "filter", 16, grow=2),
            Column("sessions", "sessions", 8, "count"),
            Column("until", "until", 8, "when"),
            Column("reason", "reason", 12, grow=2),
        ),
        ("id",),
        (
            Action("a", "start", "trace start", {}, ask=("peer", "site", "domain", "reason")),
            Action("x", "stop", "trace stop", {"id": "{id}"}, _is("state", "on", "it is over")),
        ),
        leads=Leads({"id": "{id}"}, verb="trace show"),
        empty="nobody listens to any session",
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
            Action("t", "test", "webhook test", {"name": "{name}"}, ask=()),
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
            Column("who", "who", 10, grow=1),
            Column("what", "verb", 16, grow=1),
            Column("result", "result", 8, grow=1, tint=_state),
            Column("with", "arguments", 20, grow=4),
        ),
        ("time", "who", "verb"),
        every=5.0,
    ),
)
TOPS = tuple(one for one in VIEWS if one.top)


def view(name: str) -> View:
    return next(one for one in VIEWS if one.name == name)
