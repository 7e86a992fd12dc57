"""The verbs of exports: files of events, made in the background.

In: what is wanted; the running relay's jobs.  Out: JSON-able rows, and a file's pieces.
"""

from concurrent.futures import Future
from typing import Any

from relayd.control.records import ACCOUNT, CONNECTION, EVENT, moment
from relayd.control.verb import Arg, Relay, Verb, then
from relayd.errors import InputError
from relayd.events import rfc3339
from relayd.exports import Job
from relayd.history.export import Wanted


def _start(
    relay: Relay,
    since: str,
    until: str | None,
    account: str | None,
    connection: str | None,
    event: list[Any],
    format: Any,
    who: str,
) -> "Future[dict[str, Any]]":
    begin, end = moment(relay, "since", since), moment(relay, "until", until) or relay.now()
    if not begin < end:
        raise InputError("until", f"{rfc3339(end)} is not later than {rfc3339(begin)}")
    wanted = Wanted(begin, end, format, account or "", connection or "", tuple(event))
    return then(relay.exports.add(wanted, who), lambda job: _row(relay, job))


def _list(relay: Relay, account: str | None) -> list[dict[str, Any]]:
    jobs = sorted(relay.exports.jobs.values(), key=lambda job: -job.asked)
    return [_row(relay, job) for job in jobs if account in (None, job.wanted.account)]


def _show(relay: Relay, id: str, account: str | None) -> dict[str, Any]:
    return _row(relay, relay.exports.get(id, account or ""))


def _cancel(relay: Relay, id: str, account: str | None) -> "Future[dict[str, Any]]":
    return then(relay.exports.cancel(id, account or ""), lambda job: _row(relay, job))


def _fetch(relay: Relay, id: str, after: int, account: str | None) -> "Future[dict[str, Any]]":
    return relay.exports.piece(id, after, account or "")


def _row(relay: Relay, job: Job) -> dict[str, Any]:
    wanted, progress = job.wanted, job.progress
    share = progress.done / progress.of if progress.of else 0.0
    return {
        "id": job.id,
        "state": job.state,
        "done": 1.0 if job.state == "done" else round(share, 3),
        "left": round(relay.exports.left(job)),
        "events": progress.events,
        "size": job.size,
        "format": wanted.format,
        "since": wanted.since,
        "until": wanted.until,
        "account": wanted.account,
        "connection": wanted.connection,
        "event": list(wanted.events),
        "added": job.asked,
        "by": job.who,
        "why": job.why,
    }


_ID = Arg("id", "the export, as export list names it", positional=True, required=True)

VERBS: tuple[Verb, ...] = (
    Verb(
        name="export start",
        help="write the events of a time into a file, in the background; export fetch gets it",
        handler=_start,
        args=(
            Arg(
                "since", "from when: a time such as 2026-11-26T07:30 (UTC), or how long ago, such as 7d", required=True
            ),
            Arg("until", "before when; without it, now"),
            ACCOUNT,
            CONNECTION,
            EVENT,
            Arg(
                "format", "csv for a spreadsheet, jsonl with all that there is", default="csv", choices=("csv", "jsonl")
            ),
        ),
        role="operate",
        effect="change",
        signed=True,
        example="export start --since 2026-11-01 --until 2026-12-01 --account crm --format csv",
    ),
    Verb(
        name="export list",
        help="the exports: how far each is, the latest first",
        handler=_list,
        args=(ACCOUNT,),
        example="export list",
    ),
    Verb(
        name="export show",
        help="an export: how far it is, and about how many seconds it takes still",
        handler=_show,
        args=(_ID, ACCOUNT),
        example="export show 5f2c9a81d04e",
    ),
    Verb(
        name="export cancel",
        help="end an export; of one that is done, delete the file",
        handler=_cancel,
        args=(_ID, ACCOUNT),
        role="operate",
        effect="change",
        example="export cancel 5f2c9a81d04e",
    ),
    Verb(
        name="export fetch",
        help="the file of an export that is done",
        handler=_fetch,
        args=(_ID, Arg("after", 'go on where an answer\'s "next" says', "int", default=0), ACCOUNT),
        example="export fetch --output november.csv 5f2c9a81d04e",
        file=True,
    ),
)
