"""The verbs of webhooks: where events are posted to, how that goes, sending them again.

In: the directory's rows and the running relay's sender.  Out: JSON-able rows; a secret only when it is made.
"""

from concurrent.futures import Future
from datetime import datetime
from typing import Any

import msgspec

from relayd import notation
from relayd.control.accounts import known
from relayd.control.verb import REASON, Arg, Relay, Verb, then
from relayd.directory import Webhook
from relayd.directory.webhooks import LONGEST_BATCH, MOST_LANES
from relayd.errors import InputError
from relayd.events import NAMES
from relayd.webhooks.signature import new_secret, shown

_OVERLAP = 86400.0


def _ended(future: "Future[Any]") -> Any:
    from relayd.waiting import ended  # only now: it needs Twisted, and relayctl does not

    return ended(future)


async def _add(
    relay: Relay,
    name: str,
    account: str,
    url: str,
    connection: str | None,
    event: list[str],
    batch: int,
    concurrency: int,
) -> dict[str, Any]:
    known(relay, account)
    if relay.directory.webhooks.get(name) is not None:
        raise InputError("name", f"there is already a webhook {name!r}: set changes it")
    _check_connection(relay, account, connection)
    fields = _fields(event, batch, concurrency)
    await relay.webhooks.judged(url)
    begins = await relay.webhooks.here()
    row = Webhook(
        name=name,
        account=account,
        url=url,
        secret=new_secret(),
        made=relay.now(),
        begins=(begins.segment, begins.position),
        connection=connection or "",
        since=relay.now(),
        **fields,
    )
    made = await _ended(relay.directory.webhooks.add(row))
    return {"name": name, "secret": shown(row.secret), **_row(made)}


async def _set(
    relay: Relay, name: str, url: str | None, event: list[str], batch: int | None, concurrency: int | None
) -> dict[str, Any]:
    relay.directory.webhooks.known(name)
    fields = _fields(event, batch, concurrency)
    if url is not None:
        fields["url"] = await relay.webhooks.judged(url)
    if not fields:
        raise InputError("", "nothing to set: name what shall change, such as --url https://crm.example/events")
    return _row(await _ended(relay.directory.webhooks.change(name, **fields)))


def _fields(event: list[str], batch: int | None, concurrency: int | None) -> dict[str, Any]:
    """What was given, as the row has it.  Raises InputError."""
    fields: dict[str, Any] = {}
    if event == ["default"]:
        fields["events"] = ()
    elif event:
        for one in (one for one in event if one not in NAMES and one != "all"):
            raise InputError("event", f"there is no event {one!r}{notation.nearest(one, NAMES)}")
        fields["events"] = NAMES if "all" in event else tuple(name for name in NAMES if name in event)
    for field, given, most in (("batch", batch, LONGEST_BATCH), ("concurrency", concurrency, MOST_LANES)):
        if given is not None:
            if not 1 <= given <= most:
                raise InputError(field, f"{given} is not a whole number, 1 to {most}")
            fields[field] = given
    return fields


def _check_connection(relay: Relay, account: str, login: str | None) -> None:
    if login is None:
        return
    row = relay.directory.connection(login)
    if row is None or account not in relay.directory.lineage(row.account):
        logins = (row.login for row in relay.directory.connections() if account in relay.directory.lineage(row.account))
        raise InputError("connection", f"{account} has no connection {login!r}{notation.nearest(login, logins)}")


def _list(relay: Relay, account: str | None) -> list[dict[str, Any]]:
    rows = [row for row in relay.directory.webhooks.all() if account in (None, row.account)]
    found = []
    for row in rows:
        fares = relay.webhooks.shown(row)
        names = ("state", "behind", "last_success", "last_failure", "tries", "next_try")
        listed = {name: fares[name] for name in names}
        found.append({"name": row.name, "account": row.account, **listed, "url": row.url, "words": fares["words"]})
    return found


def _show(relay: Relay, name: str) -> dict[str, Any]:
    row = relay.directory.webhooks.known(name)
    return {**_row(row), **relay.webhooks.shown(row)}


def _row(row: Webhook) -> dict[str, Any]:
    """Without its secrets."""
    fields = {key: value for key, value in msgspec.structs.asdict(row).items() if key not in _HIDDEN}
    until = row.previous_until if row.previous else 0.0
    fields["events"] = ["all"] if row.events == NAMES else list(row.events) or ["all but queued"]
    return {**fields, "previous_until": until or None}


_HIDDEN = ("secret", "previous", "begins", "previous_until")


async def _remove(relay: Relay, name: str) -> dict[str, Any]:
    return _row(await _ended(relay.directory.webhooks.remove(relay.directory.webhooks.known(name).name)))


def _pause(relay: Relay, name: str, reason: str, who: str) -> Any:
    row = relay.directory.webhooks.known(name)
    changed = relay.directory.webhooks.change(row.name, state="paused", reason=reason, by=who, since=relay.now())
    return then(changed, _row)


async def _resume(relay: Relay, name: str, who: str) -> dict[str, Any]:
    row, gone = await relay.webhooks.resume(relay.directory.webhooks.known(name), who)
    lost = "what waited for the longest is not kept any more: it goes on with the oldest records that there are"
    return {**_row(row), **({"gone": lost} if gone else {})}


async def _rotate(relay: Relay, name: str, overlap: float | None) -> dict[str, Any]:
    row, secret = relay.directory.webhooks.known(name), new_secret()
    until = relay.now() + (_OVERLAP if overlap is None else overlap)
    changed = relay.directory.webhooks.change(name, secret=secret, previous=row.secret, previous_until=until)
    return {"name": name, "secret": shown(secret), **_row(await _ended(changed))}


def _test(relay: Relay, name: str) -> Any:
    return relay.webhooks.test(relay.directory.webhooks.known(name))


async def _replay(
    relay: Relay, name: str, since: str | None, until: str | None, cancel: bool, who: str
) -> dict[str, Any]:
    row = relay.directory.webhooks.known(name)
    if cancel:
        relay.webhooks.cancel_replay(row)
        return _show(relay, name)
    if since is None:
        raise InputError("since", "is missing: from when on, such as 2h or 2026-11-01T08:00")
    now = relay.now()
    start, end = moment("since", since, now), moment("until", until, now) if until else 0.0
    if start >= (end or now):
        raise InputError("since", f"{since} is not before {until or 'now'}")
    await relay.webhooks.replay(row, start, end, who)
    return _show(relay, name)


def moment(field: str, text: str, now: float) -> float:
    """``2h`` (ago) or a date and time, this machine's unless it says otherwise.  Raises InputError."""
    try:
        return now - notation.duration(text)
    except ValueError:
        try:
            return datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError):
            raise InputError(field, f"{text!r} is no time: write 2h, 2026-11-01 or 2026-11-01T08:00Z") from None


_NAME = Arg("name", "the webhook's name", "name", positional=True, required=True)
_EVENT = Arg("event", f"an event it gets: all, default (all but queued), or {', '.join(NAMES)}", repeated=True)

VERBS: tuple[Verb, ...] = (
    Verb(
        name="webhook add",
        help="have events of an account posted to a URL; the secret that signs them is shown this once",
        handler=_add,
        args=(
            _NAME,
            Arg("account", "whose events, and those of accounts below it", "name", required=True),
            Arg("url", "where to: https://...", required=True),
            Arg("connection", "only of this connection", "name"),
            _EVENT,
            Arg("batch", f"the most events in a request, up to {LONGEST_BATCH}", "int", default=300),
            Arg("concurrency", f"requests at once, up to {MOST_LANES}", "int", default=1),
        ),
        role="admin",
        effect="change",
        example="webhook add --account crm --url https://crm.example/events crm-events",
    ),
    Verb(
        name="webhook list",
        help="all webhooks, or an account's, and how they fare",
        handler=_list,
        args=(Arg("account", "only this account's", "name"),),
        example="webhook list --account crm",
    ),
    Verb(
        name="webhook show",
        help="a webhook: what it gets, how far behind it is, what it answered last, when it is tried next",
        handler=_show,
        args=(_NAME,),
        example="webhook show crm-events",
    ),
    Verb(
        name="webhook set",
        help="change where a webhook's events go, which, and how many at once; what is not named stays",
        handler=_set,
        args=(
            _NAME,
            Arg("url", "where to: https://..."),
            _EVENT,
            Arg("batch", f"the most events in a request, up to {LONGEST_BATCH}", "int"),
            Arg("concurrency", f"requests at once, up to {MOST_LANES}", "int"),
        ),
        role="admin",
        effect="change",
        example="webhook set --event bounced --event complained crm-events",
    ),
    Verb(
        name="webhook remove",
        help="post an account's events there no more, and forget where it stood",
        handler=_remove,
        args=(_NAME,),
        role="admin",
        effect="change",
        example="webhook remove crm-events",
    ),
    Verb(
        name="webhook pause",
        help="post nothing until it is resumed; events are kept as long as records are",
        handler=_pause,
        args=(_NAME, REASON),
        role="operate",
        effect="change",
        signed=True,
        example='webhook pause --reason "the CRM moves" crm-events',
    ),
    Verb(
        name="webhook resume",
        help="go on where a paused or parked webhook stood; one that fails is tried at once",
        handler=_resume,
        args=(_NAME,),
        role="operate",
        effect="change",
        signed=True,
        example="webhook resume crm-events",
    ),
    Verb(
        name="webhook rotate",
        help="make a new secret; it is shown this once, and for a time the old one signs as well",
        handler=_rotate,
        args=(_NAME, Arg("overlap", "for how long; without it, a day", "duration")),
        role="admin",
        effect="change",
        example="webhook rotate --overlap 2d crm-events",
    ),
    Verb(
        name="webhook test",
        help="post a test event now and show what comes back",
        handler=_test,
        args=(_NAME,),
        role="operate",
        effect="change",
        verdict="ok",
        example="webhook test crm-events",
    ),
    Verb(
        name="webhook replay",
        help="send history again from a time on; a paused or parked webhook goes on from there instead",
        handler=_replay,
        args=(
            _NAME,
            Arg("since", "from when on: 2h (ago) or 2026-11-01T08:00Z"),
            Arg("until", "up to when; without it, up to where it stands"),
            Arg("cancel", "send nothing more again", "bool", default=False),
        ),
        role="operate",
        effect="change",
        signed=True,
        example="webhook replay --since 2h crm-events",
    ),
)
