"""The verbs of reputation: who stands where and why, and what operators decide.

In: the running relay's reputation, the trail of changes.  Out: JSON-able rows.
"""

from concurrent.futures import Future
from heapq import nlargest
from typing import Any

from relayd import notation
from relayd.control.accounts import known
from relayd.control.verb import REASON, Arg, Relay, Scope, Verb, then
from relayd.directory import Change
from relayd.errors import InputError
from relayd.reply import printable
from relayd.reputation import KINDS, STEPS, Key, Standing, Step, named, near, read
from relayd.spool.actions import Draft
from relayd.spool.selection import Filter

_TRAIL = 20  # changes that are shown


def _list(relay: Relay, kind: str | None, worst: bool, limit: int) -> list[dict[str, Any]]:
    signals: dict[str, Any] = {kind: relay.reputation.rules.of(kind).signals() for kind in KINDS}

    def rank(at: Standing) -> tuple[int, float, float]:
        return at.step, near(at, signals[at.kind]), at.since

    return [_row(relay, at) for at in nlargest(limit, relay.reputation.all(kind or "", bad=not worst), key=rank)]


def of_source(relay: Relay, source: str) -> list[dict[str, Any]]:
    """How a source stands with every provider that it sent to, the worst first."""
    rows = [(at.step, _row(relay, at)) for at in relay.reputation.all("source") if at.key[1].startswith(f"{source}/")]
    return [row for _, row in sorted(rows, key=lambda ranked: -ranked[0])]


def _row(relay: Relay, at: Standing) -> dict[str, Any]:
    """``acts`` is the step that it is held to, where that is not as far as its counts would put it; ``near``: how much
    of the share that is allowed it has reached today."""
    reputation = relay.reputation
    return {
        "subject": printable(named(at.key)),
        "step": STEPS[at.step],
        "acts": reputation.acts(at),
        "since": at.since or None,
        "until": at.until or None,
        "by": at.by if at.step else "",
        "pace": at.pace or None,
        "near": round(near(at, reputation.rules.of(at.kind).signals()), 2),
        "why": printable(at.why),
    }


def _show(relay: Relay, subject: str) -> "Future[dict[str, Any]]":
    key = _key(subject)
    shown = relay.reputation.show(key, relay.now())
    if shown is None:
        raise InputError("subject", f"nothing is known of {subject}: nothing was sent for it lately")
    at, counts = shown
    row = {**_row(relay, at), "share": relay.reputation.share(*key), **counts}

    def trail(changes: list[Change]) -> dict[str, Any]:
        told = [{"time": c.time, "who": c.who, "verb": c.verb, **c.arguments, "result": c.result} for c in changes]
        return {**row, "changes": told}

    return then(relay.directory.changes(_TRAIL, named(key)), trail)


def _release(relay: Relay, subject: str, reason: str, who: str) -> "Future[dict[str, Any]]":
    return _put(relay, _held(relay, subject), "good", reason, who, None)


def _hold(relay: Relay, subject: str, reason: str, who: str, **given: Any) -> "Future[dict[str, Any]]":
    return _put(relay, _there(relay, subject), "hold", reason, who, given["for"])


def _block(relay: Relay, subject: str, reason: str, who: str, **given: Any) -> "Future[dict[str, Any]]":
    return _put(relay, _there(relay, subject), "block", reason, who, given["for"])


async def _would_hold(relay: Relay, subject: str, **given: Any) -> dict[str, Any]:
    return await _hit(relay, _there(relay, subject))


async def _would_release(relay: Relay, subject: str, **given: Any) -> dict[str, Any]:
    return await _hit(relay, _held(relay, subject))


async def _hit(relay: Relay, key: Key) -> dict[str, Any]:
    """Whom it concerns: live sessions of theirs, or what is queued for them."""
    kind, name = key
    if kind == "source":
        source, _, group = name.partition("/")
        return await relay.hit(source=source, group=group)
    if kind in ("account", "connection"):
        return await relay.hit(**{kind: name})
    account, _, client = name.partition("/")
    whose = Filter(account=account, client=client) if kind == "client" else Filter(sender=f"*@{name}")
    found: dict[str, Any] = await relay.jobs.dry_run(Draft("hold", "", "", whose))
    return found


def _put(relay: Relay, key: Key, step: Step, reason: str, who: str, seconds: float | None) -> "Future[dict[str, Any]]":
    until = relay.now() + seconds if seconds else 0.0
    try:
        done = relay.reputation.put(key, step, reason, who, relay.now(), until)
    except ValueError as error:
        raise InputError("subject", str(error)) from None
    shown = relay.reputation.show(key, relay.now())
    assert shown
    return then(done, lambda _: _row(relay, shown[0]))


def _key(subject: str) -> Key:
    try:
        return read(subject)
    except ValueError as error:
        raise InputError("subject", str(error)) from None


def _held(relay: Relay, subject: str) -> Key:
    """A subject that is held back."""
    key = _key(subject)
    shown = relay.reputation.show(key, relay.now())
    if shown is None or not shown[0].step:
        raise InputError("subject", f"{subject} is not held back: relayctl reputation list shows who is")
    return key


def _there(relay: Relay, subject: str) -> Key:
    """A subject that can be held back by hand."""
    kind, name = key = _key(subject)
    if kind == "source":
        raise InputError("subject", "a source is not held: relayctl source drain takes it out of use")
    if kind in ("account", "client"):
        known(relay, name.partition("/")[0], "subject")
    elif kind == "connection" and relay.directory.connection(name) is None and not name.startswith("relay:"):
        near = notation.nearest(name, (row.login for row in relay.directory.connections()))
        raise InputError("subject", f"there is no connection {name!r}{near}")
    return key


_SUBJECT = Arg(
    "subject",
    "account:NAME, client:ACCOUNT/CLIENT, connection:LOGIN, domain:NAME or source:SOURCE/GROUP",
    positional=True,
    required=True,
)
_FOR = Arg("for", "how long; without it, until it is released", "duration")

VERBS: tuple[Verb, ...] = (
    Verb(
        name="reputation list",
        help="who is slowed, held or blocked for what was sent, and why; the worst first",
        handler=_list,
        args=(
            Arg("kind", "only these", choices=KINDS),
            Arg("worst", "those too who stand well, the nearest to what is allowed first", "bool", default=False),
            Arg("limit", "how many at most", "int", default=50),
        ),
        example="reputation list --kind client --worst",
    ),
    Verb(
        name="reputation show",
        help="where a subject stands, who changed it, and what is counted of it: in the last hour and day, and before",
        handler=_show,
        args=(_SUBJECT,),
        example="reputation show account:crm",
        scope=Scope("subject", "subject", hides=("by", "changes")),
    ),
    Verb(
        name="reputation release",
        help="hold a subject back no more: it is judged by what it sends from now on",
        handler=_release,
        would=_would_release,
        args=(_SUBJECT, REASON),
        role="operate",
        effect="change",
        signed=True,
        example='reputation release --reason "the list was cleaned" connection:login1',
    ),
    Verb(
        name="reputation hold",
        help="keep what is queued for a subject, and what comes, until it is released",
        handler=_hold,
        would=_would_hold,
        args=(_SUBJECT, REASON, _FOR),
        role="operate",
        effect="change",
        signed=True,
        example='reputation hold --reason "looks like phishing" --for 4h client:crm/shop.example',
    ),
    Verb(
        name="reputation block",
        help="take no more mail for a subject, and keep what is queued",
        handler=_block,
        would=_would_hold,
        args=(_SUBJECT, REASON, _FOR),
        role="operate",
        effect="change",
        signed=True,
        example='reputation block --reason "phishing" domain:bad.example',
    ),
)
