"""Verbs of submission connections: logins, and what each may do."""

from concurrent.futures import Future
from typing import Any, Literal

from relayd import notation
from relayd.control.accounts import known, known_streams, submitting
from relayd.control.answers import limits_given, shown
from relayd.control.verb import REASON, Arg, Relay, Scope, Verb, then
from relayd.directory import NewConnection, SubmissionConnection, hashes
from relayd.errors import InputError


def _shown(connection: SubmissionConnection) -> dict[str, Any]:
    """A connection without its hash, its state and why first: that is what one looks for."""
    row = shown(connection)
    del row["version"]
    row["credential"] = hashes.kind(row.pop("password"))
    del row["passwords"]
    first = {name: row.pop(name) for name in ("login", "account", "state", "reason", "by")}
    return {**first, **row}


def _revealed(made: NewConnection) -> dict[str, Any]:
    password = {"password": made.password} if made.password else {}
    return {"login": made.connection.login, **password, **_shown(made.connection)}


def _may_ask(relay: Relay, external: bool) -> bool:
    if external and relay.config.auth is None:
        raise InputError("external", "there is no other system to ask: write its url into the table [auth] first")
    return external


def _known(relay: Relay, login: str) -> SubmissionConnection:
    connection = relay.directory.connection(login)
    if connection is None:
        near = notation.nearest(login, (row.login for row in relay.directory.connections()))
        raise InputError("login", f"there is no connection {login!r}{near}")
    return connection


def _add(
    relay: Relay,
    login: str,
    account: str,
    sender: list[str],
    client: list[str],
    stream: list[str],
    list: list[str],
    password: str | None,
    hash: str | None,
    external: bool,
    inactive: bool,
    who: str,
) -> Any:
    known(relay, account)
    added = relay.directory.add_connection(
        login,
        account=account,
        now=relay.now(),
        password=password or "",
        hash=hash or "",
        external=_may_ask(relay, external),
        senders=sender,
        clients=client,
        streams=known_streams(relay, account, stream),
        lists=list,
        state="inactive" if inactive else "active",
        by=who,
    )
    return then(added, _revealed)


def _set(
    relay: Relay,
    login: str,
    sender: list[str],
    client: list[str],
    stream: list[str],
    list: list[str],
    messages: list[str],
    recipients: list[str],
    sessions: int | None,
) -> "Future[dict[str, Any]]":
    connection = _known(relay, login)
    lists = {"senders": sender, "clients": client, "streams": stream, "lists": list}
    changes: dict[str, Any] = {key: [] if given == ["none"] else given for key, given in lists.items() if given}
    known_streams(relay, connection.account, changes.get("streams", []))
    changes |= limits_given("limits", connection.limits, messages, recipients)
    if sessions is not None:
        changes["sessions"] = sessions
    if not changes:
        raise InputError("", "nothing to set: name what shall change, such as --sender @crm.example")
    return then(relay.directory.change_connection(login, **changes), _shown)


def _list(relay: Relay, account: str | None) -> list[dict[str, Any]]:
    return [_shown(row) for row in relay.directory.connections() if account in (None, row.account)]


def _show(relay: Relay, login: str) -> dict[str, Any]:
    return _shown(_known(relay, login))


async def _would_turn(relay: Relay, login: str, **given: Any) -> dict[str, Any]:
    """Whom it stops or lets in; what is queued goes out all the same."""
    return {"state": _known(relay, login).state, **submitting(await relay.hit(connection=login))}


def _activate(relay: Relay, login: str, who: str) -> "Future[dict[str, Any]]":
    key = ("connection", login)
    if relay.reputation.share(*key) < 1:
        relay.reputation.put(key, "good", "the connection was activated", who, relay.now())
    return _state(relay, login, "active", "", who)


def _block(relay: Relay, login: str, reason: str, who: str) -> "Future[dict[str, Any]]":
    return _state(relay, login, "blocked", reason, who)


def _state(
    relay: Relay, login: str, state: Literal["active", "blocked"], reason: str, who: str
) -> "Future[dict[str, Any]]":
    return then(relay.directory.change_connection(login, state=state, reason=reason, by=who), _shown)


def _password(relay: Relay, login: str, password: str | None, hash: str | None, external: bool) -> Any:
    _may_ask(relay, external)
    return then(relay.directory.set_password(login, password or "", hash=hash or "", external=external), _revealed)


def _remove(relay: Relay, login: str) -> "Future[dict[str, Any]]":
    # Its lists go first: were they to fail, the connection is still there to be removed again.
    lists = relay.suppressions.remove_owner("connection", login)
    return then(lists, lambda _: then(relay.directory.remove_connection(login), _shown))


_LOGIN = Arg("login", "the connection's login", "name", positional=True, required=True)
_PASSWORD = Arg("password", "a password of your own; without one, one is made up", "secret")
_HASH = Arg("hash", "or the hash of one that works elsewhere: bcrypt, SHA-crypt, Django, LDAP", "secret")
_EXTERNAL = Arg("external", "or let the system that [auth] names decide at each login", "bool", default=False)
_MAY = (
    Arg("sender", 'an address it may send as, "@domain" for a whole domain, "*" for any', repeated=True),
    Arg("client", "an IP address or CIDR it may come from; without any, all", repeated=True),
    Arg("stream", "a stream of its mail, the first unless a message says which", "name", repeated=True),
    Arg("list", "a suppression list that its mail is held against besides its stream's", "name", repeated=True),
)

VERBS: tuple[Verb, ...] = (
    Verb(
        name="connection add",
        help="make a login for an account; its password is shown this once",
        handler=_add,
        args=(
            _LOGIN,
            Arg("account", "the account it belongs to", "name", required=True),
            *_MAY,
            _PASSWORD,
            _HASH,
            _EXTERNAL,
            Arg("inactive", "may not log in before it is activated", "bool", default=False),
        ),
        role="admin",
        effect="change",
        signed=True,
        example="connection add --account crm --sender sales@crm.example --stream transactional login1",
    ),
    Verb(
        name="connection set",
        help='change what a connection may do; what is not named stays, "none" takes away',
        handler=_set,
        args=(
            _LOGIN,
            *_MAY,
            Arg("messages", 'the most messages in a time, "100/min"; "none" for no limit', repeated=True),
            Arg("recipients", 'the most recipients in a time, "50000/d"; "none" for no limit', repeated=True),
            Arg("sessions", "open at once; 0: no limit but the listener's", "int"),
        ),
        role="admin",
        effect="change",
        example="connection set --messages 10/s --messages 5000/h login1",
    ),
    Verb(
        name="connection list",
        help="all connections, or an account's",
        handler=_list,
        args=(Arg("account", "only this account's", "name"),),
        example="connection list --account crm",
        scope=Scope("account", hides=("by",)),
    ),
    Verb(
        name="connection show",
        help="a connection",
        handler=_show,
        args=(_LOGIN,),
        example="connection show login1",
        scope=Scope("login", "connection", hides=("by",)),
    ),
    Verb(
        name="connection activate",
        help="let a connection log in that is blocked or was not activated yet",
        handler=_activate,
        would=_would_turn,
        args=(_LOGIN,),
        role="operate",
        effect="change",
        signed=True,
        example="connection activate login1",
    ),
    Verb(
        name="connection block",
        help="let a connection log in no more, and cut its sessions; what is queued goes out",
        handler=_block,
        would=_would_turn,
        args=(_LOGIN, REASON),
        role="operate",
        effect="change",
        signed=True,
        example='connection block --reason "password on a pastebin" login1',
    ),
    Verb(
        name="connection password",
        help="give a connection a new password; it is shown this once, the old one is void",
        handler=_password,
        args=(_LOGIN, _PASSWORD, _HASH, _EXTERNAL),
        role="admin",
        effect="change",
        example="connection password login1",
    ),
    Verb(
        name="connection remove",
        help="forget a connection",
        handler=_remove,
        would=_would_turn,
        args=(_LOGIN,),
        role="admin",
        effect="change",
        example="connection remove login1",
    ),
)
