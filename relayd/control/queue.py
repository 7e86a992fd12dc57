"""The verbs of what is queued, and of the jobs that change it.

In: the running relay's jobs.  Out: JSON-able rows, or coroutines of them.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from relayd import notation
from relayd.control.verb import NOTED, REASON, Arg, Relay, Verb
from relayd.envelope import FALLBACK, POOL
from relayd.errors import InputError
from relayd.identity import show
from relayd.spool.actions import Action, Draft, Job
from relayd.spool.selection import Filter

BY = ("site", "account", "stream", "pool", "domain", "age")
MOST_LISTED = 1000


def shown(job: Job) -> dict[str, Any]:
    """A job as it is told of."""
    said: dict[str, Any] = {k: v for k, v in msgspec.structs.asdict(job.filter).items() if v and k != "ids"}
    if job.filter.ids:
        said["ids"] = [show(identity) for identity in job.filter.ids[:20]]
        said["ids_in_all"] = len(job.filter.ids)
    return {
        "job": job.id,
        "action": job.action,
        "state": job.state,
        "done": job.done,
        "due_already": job.due,
        "under_way": job.busy,
        "seen": job.seen,
        "about": job.about,
        "who": job.who,
        "reason": job.reason,
        "filter": said,
        "to": job.target,
        "undoes": job.undoes,
        "created": job.created,
        "ended": job.ended or None,
        "undo_until": job.until if job.until and job.action != "undo" else None,
        "fault": job.fault,
    }


def filter_of(relay: Relay, given: Mapping[str, Any]) -> Filter:
    """The filter of a verb's arguments, which are taken out of them.  Raises InputError if nothing is said."""
    now = relay.now()
    for name, what in (("recipient", "address"), ("sender", "address")):
        text = given[name] or ""
        if text and ("@" not in text or "*" in text.removeprefix("*@")):
            raise InputError(name, f"{text!r} is neither an {what} nor *@ and a domain")
    made = Filter(
        account=given["account"] or "",
        connection=given["connection"] or "",
        stream=given["stream"] or "",
        domain=(given["domain"] or "").lower(),
        site=given["site"] or "",
        recipient=given["recipient"] or "",
        sender=given["sender"] or "",
        client=given["client"] or "",
        track_id=given["track_id"] or "",
        tag=given["tag"] or "",
        older=now - given["older"] if given["older"] else 0.0,
        younger=now - given["younger"] if given["younger"] else 0.0,
        attempts=given["attempts"] or 0,
        reply=given["reply"] or "",
        ids=tuple(given["id"]),
    )
    if made == Filter() and not given["all"]:
        raise InputError("", "say which deliveries: by id, --account, --domain, ...; or --all for the whole queue")
    if made != Filter() and given["all"]:
        raise InputError("all", "is the whole queue, and something else narrows it: leave out one of them")
    return made


def _act(action: Action) -> dict[str, Any]:
    """The handler of an action, and that of its dry run."""

    def do(relay: Relay, who: str, **given: Any) -> Any:
        return _begun(relay, _draft(relay, action, given, who))

    def would(relay: Relay, **given: Any) -> Any:
        return relay.jobs.dry_run(_draft(relay, action, given))

    return {"handler": do, "would": would}


async def _begun(relay: Relay, draft: Draft) -> dict[str, Any]:
    return shown(await relay.jobs.begin(draft))


def _draft(relay: Relay, action: Action, given: Mapping[str, Any], who: str = "") -> Draft:
    wanted = filter_of(relay, given)
    state = {"retry": "waiting", "hold": "waiting", "release": "held"}.get(action) or given.get("state") or ""
    more: dict[str, Any] = {}
    if action == "cancel":
        more["notify"] = given["notify"]
    elif action == "move":
        more["target"] = _target(relay, given["pool"], given["fallback"], given["home"])
    return Draft(action, who, given["reason"] or "", msgspec.structs.replace(wanted, state=state), **more)


def _target(relay: Relay, pool: str | None, fallback: str | None, home: bool) -> str:
    if sum(map(bool, (pool, fallback, home))) != 1:
        raise InputError("", "say where to: --pool NAME, --fallback NAME, or --home for where it would go by itself")
    _known("pool", pool, relay.config.pool)
    _known("fallback", fallback, relay.config.fallback)
    return f"{POOL}{pool}" if pool else f"{FALLBACK}{fallback}" if fallback else "home"


def _known(what: str, name: str | None, among: Mapping[str, Any]) -> None:
    if name and name not in among:
        raise InputError(what, f"there is no {what} {name!r}{notation.nearest(name, among)}")


def _deliveries(relay: Relay, limit: int, after: str, state: Any, **given: Any) -> Any:
    if not 0 < limit <= MOST_LISTED:
        raise InputError("limit", f"is at most {MOST_LISTED}: go on with --after")
    wanted = filter_of(relay, {"all": False, **given} if _said(given) else {**given, "all": True})
    return relay.jobs.deliveries(msgspec.structs.replace(wanted, state=state or ""), limit, after)


def _said(given: Mapping[str, Any]) -> bool:
    return any(given.values())


def _summary(relay: Relay, by: str, limit: int) -> Any:
    return relay.queue_summary(by, limit)


async def _job_list(relay: Relay, limit: int) -> list[dict[str, Any]]:
    return [shown(job) for job in await relay.jobs.latest(limit)]


async def _job_show(relay: Relay, id: int) -> dict[str, Any]:
    return shown(await relay.jobs.get(id))


async def _job_cancel(relay: Relay, id: int) -> dict[str, Any]:
    return shown(await relay.jobs.cancel(id))


async def _job_undo(relay: Relay, id: int, reason: str, who: str) -> dict[str, Any]:
    return shown(await relay.jobs.undo(id, who, reason))


async def _job_would_cancel(relay: Relay, id: int, **given: Any) -> dict[str, Any]:
    row = shown(await relay.jobs.get(id))
    if row["state"] != "running":
        raise InputError("id", f"job {id} has ended already")
    return row


def _job_would_undo(relay: Relay, id: int, **given: Any) -> Any:
    return relay.jobs.would_undo(id)


_WHICH = (
    Arg("id", "ids of messages or deliveries", "id", positional=True, repeated=True),
    Arg("account", "of this account", "name"),
    Arg("connection", "submitted by this login", "some"),
    Arg("stream", "of this stream", "name"),
    Arg("domain", 'to this domain; "fallback:NAME" is what goes by a fallback', "some"),
    Arg("site", "to this site: a provider's name, or that of a site in shaping explain", "some"),
    Arg("recipient", "to this address, or to a whole domain: *@DOMAIN", "some"),
    Arg("sender", "from this envelope sender, or from *@DOMAIN", "some"),
    Arg("client", "of this client of a CRM", "some"),
    Arg("track_id", "with this track id", "some"),
    Arg("tag", "with this tag", "some"),
    Arg("older", "received longer ago than this", "duration"),
    Arg("younger", "received no longer ago than this", "duration"),
    Arg("attempts", "tried at least so many times", "int"),
    Arg("reply", "whose last attempt's words hold this, such as a server's reply", "some"),
)
_ALL = Arg("all", "the whole queue", "bool", default=False)
_STATE = Arg("state", "only what is on hold, or what is not", choices=("waiting", "held"))
_ACT = (*_WHICH, _ALL, REASON)
_ID = Arg("id", "its number in job list", "int", positional=True, required=True)
_LONG = 600.0

VERBS: tuple[Verb, ...] = (
    Verb(
        name="queue summary",
        help="how many deliveries wait, by what you ask for, and how long they have been here",
        handler=_summary,
        args=(
            Arg("by", "what to count by", default="site", choices=BY),
            Arg("limit", "how many rows at most", "int", default=50),
        ),
        example="queue summary --by account",
    ),
    Verb(
        name="queue deliveries",
        help="the deliveries that wait, by queue and due time",
        handler=_deliveries,
        args=(
            *_WHICH,
            _STATE,
            Arg("limit", "how many at most", "int", default=50),
            Arg("after", 'go on where an answer\'s "next" says', default=""),
        ),
        example="queue deliveries --account crm --domain mail.example --limit 20",
    ),
    Verb(
        name="queue retry",
        help="try deliveries now instead of at their next time; what rests after failures is tried again too",
        **_act("retry"),
        args=_ACT,
        role="operate",
        effect="change",
        signed=True,
        example='queue retry --domain mail.example --reason "their server is back"',
        timeout=_LONG,
    ),
    Verb(
        name="queue hold",
        help="keep deliveries in the queue, untried, until they are released; they do not expire meanwhile",
        **_act("hold"),
        args=_ACT,
        role="operate",
        effect="change",
        signed=True,
        example='queue hold --account crm --tag autumn --reason "wrong price in it"',
        timeout=_LONG,
    ),
    Verb(
        name="queue release",
        help="let held deliveries go: they are due at once",
        **_act("release"),
        args=_ACT,
        role="operate",
        effect="change",
        signed=True,
        example='queue release --account crm --tag autumn --reason "the price is right after all"',
        timeout=_LONG,
    ),
    Verb(
        name="queue move",
        help="send deliveries by another pool or by a fallback",
        **_act("move"),
        args=(
            *_ACT,
            _STATE,
            Arg("pool", "by this pool", "name"),
            Arg("fallback", "by this fallback", "name"),
            Arg("home", "by the pool and route they would have had", "bool", default=False),
        ),
        role="operate",
        effect="change",
        signed=True,
        example='queue move --pool reserve --domain mail.example --reason "t1 is listed there"',
        timeout=_LONG,
    ),
    Verb(
        name="queue cancel",
        help="take deliveries out of the queue for good; for a time it can be undone",
        **_act("cancel"),
        args=(
            *_ACT,
            _STATE,
            Arg("notify", "report it to the senders, as far as they want reports", "bool", default=False),
        ),
        role="admin",
        effect="change",
        signed=True,
        example='queue cancel --account crm --track-id 4711 --reason "sent by mistake"',
        timeout=_LONG,
    ),
    Verb(
        name="job list",
        help="what was done to the queue: by whom and why, how far it is, until when it can be undone",
        handler=_job_list,
        args=(Arg("limit", "how many at most", "int", default=20),),
        example="job list",
    ),
    Verb(name="job show", help="one job", handler=_job_show, args=(_ID,), example="job show 7"),
    Verb(
        name="job cancel",
        help="end a job where it is; what it has done stays done, and can be undone",
        handler=_job_cancel,
        would=_job_would_cancel,
        args=(_ID, NOTED),
        role="operate",
        effect="change",
        example='job cancel 7 --reason "that was the wrong account"',
    ),
    Verb(
        name="job undo",
        help="make undone what a job did, as far as nothing has happened to it since",
        handler=_job_undo,
        would=_job_would_undo,
        args=(_ID, REASON),
        role="operate",
        effect="change",
        signed=True,
        example='job undo 7 --reason "that was the wrong account"',
        timeout=_LONG,
    ),
)
