"""Every verb of the control API in one table: HTTP routes, relayctl's commands and their help derive from it.

A verb named "connection add" is ``/v1/connection/add``: GET with a query if it reads, POST with a JSON object if it
changes something.  A new verb is a handler and a row.
"""

from concurrent.futures import Future
from typing import Any

import msgspec

import relayd
from relayd import notation
from relayd.control import signing, suppressions
from relayd.control.verb import Arg, Relay, Verb, then
from relayd.directory import Account, NewConnection, SubmissionConnection
from relayd.errors import InputError
from relayd.suppression import COLUMNS, KINDS, REASONS


def _health(relay: Relay) -> dict[str, Any]:
    return relay.health()


def _status(relay: Relay) -> dict[str, Any]:
    return {
        "node": relay.config.node.name,
        "version": relayd.__version__,
        "started": relay.started,
        "uptime": relay.now() - relay.started,
        "accounts": len(relay.directory.accounts()),
        "connections": len(relay.directory.connections()),
        **relay.health(),
    }


def _version(relay: Relay) -> dict[str, str]:
    return {"version": relayd.__version__}


def _verbs(relay: Relay) -> list[dict[str, Any]]:
    keys = ("name", "help", "role", "effect", "path", "method", "example")
    return [{**{key: getattr(verb, key) for key in keys}, "args": msgspec.to_builtins(verb.args)} for verb in VERBS]


def _account_add(relay: Relay, name: str, domain_check: Any) -> "Future[Account]":
    return relay.directory.add_account(name, now=relay.now(), domain_check=domain_check)


def _account_list(relay: Relay) -> list[Account]:
    return relay.directory.accounts()


def _account_show(relay: Relay, name: str) -> dict[str, Any]:
    account = relay.directory.account(name)
    if account is None:
        raise InputError("name", f"there is no account {name!r}{_nearest_account(relay, name)}")
    return {**msgspec.structs.asdict(account), "connections": _connection_list(relay, name)}


def _account_suspend(relay: Relay, name: str) -> "Future[Account]":
    return relay.directory.set_account_state(name, "suspended")


def _account_resume(relay: Relay, name: str) -> "Future[Account]":
    return relay.directory.set_account_state(name, "active")


def _nearest_account(relay: Relay, name: str) -> str:
    return notation.nearest(name, (account.name for account in relay.directory.accounts()))


def _shown(connection: SubmissionConnection) -> dict[str, Any]:
    """A connection without its hash."""
    row = msgspec.structs.asdict(connection)
    del row["password"]
    return row


def _revealed(made: NewConnection) -> dict[str, Any]:
    return {"login": made.connection.login, "password": made.password, **_shown(made.connection)}


def _connection_add(
    relay: Relay,
    login: str,
    account: str,
    sender: list[str],
    client: list[str],
    stream: str | None,
    password: str | None,
) -> Any:
    if stream is not None and stream not in relay.config.stream:
        raise InputError("stream", f"there is no stream {stream!r}{notation.nearest(stream, relay.config.stream)}")
    if relay.directory.account(account) is None:
        raise InputError("account", f"there is no account {account!r}{_nearest_account(relay, account)}")
    added = relay.directory.add_connection(
        login,
        account=account,
        now=relay.now(),
        password=password or "",
        senders=sender,
        clients=client,
        stream=stream or "",
    )
    return then(added, _revealed)


def _connection_list(relay: Relay, account: str | None) -> list[dict[str, Any]]:
    return [_shown(row) for row in relay.directory.connections() if account in (None, row.account)]


def _connection_show(relay: Relay, login: str) -> dict[str, Any]:
    connection = relay.directory.connection(login)
    if connection is None:
        near = notation.nearest(login, (row.login for row in relay.directory.connections()))
        raise InputError("login", f"there is no connection {login!r}{near}")
    return _shown(connection)


def _connection_activate(relay: Relay, login: str) -> Any:
    return then(relay.directory.set_connection_state(login, "active"), _shown)


def _connection_block(relay: Relay, login: str, reason: str) -> Any:
    return then(relay.directory.set_connection_state(login, "blocked", reason), _shown)


def _connection_password(relay: Relay, login: str, password: str | None) -> Any:
    return then(relay.directory.set_password(login, password or ""), _revealed)


def _connection_remove(relay: Relay, login: str) -> Any:
    # Its lists go first: were they to fail, the connection is still there to be removed again.
    lists = relay.suppressions.remove_owner("connection", login)
    return then(lists, lambda _: then(relay.directory.remove_connection(login), _shown))


def _domain_add(
    relay: Relay, name: str, account: str, selector: str | None, key: str | None, algorithm: Any
) -> "Future[dict[str, Any]]":
    if relay.directory.account(account) is None:
        raise InputError("account", f"there is no account {account!r}{_nearest_account(relay, account)}")
    pem = key.encode() if key else b""
    added = relay.directory.add_domain_key(
        name, account=account, now=relay.now(), selector=selector or "", pem=pem, algorithm=algorithm
    )
    return then(added, signing.added)


def _domain_list(relay: Relay, account: str | None) -> list[dict[str, Any]]:
    return signing.listed(relay.directory, relay.keyring.rules, account)


def _domain_show(relay: Relay, name: str) -> dict[str, Any]:
    return signing.shown(relay.directory, relay.keyring, name)


def _domain_remove(relay: Relay, name: str, selector: str | None) -> "Future[dict[str, Any]]":
    return then(relay.directory.remove_domain_key(name, selector or ""), signing.row)


def _queue_list(relay: Relay, limit: int) -> Any:
    return relay.queues(limit)


def _inspect(relay: Relay, id: int) -> Any:
    return relay.inspect(id)


def _audit(relay: Relay) -> Any:
    return relay.audit()


def _source_list(relay: Relay) -> Any:
    return relay.sources()


def _config_show(relay: Relay) -> Any:
    return relay.config


def _config_reload(relay: Relay) -> Any:
    return relay.reload()


_LOGIN = Arg("login", "the connection's login", "name", positional=True, required=True)
_NAME = Arg("name", "the account's name", "name", positional=True, required=True)
_DOMAIN = Arg("name", "the domain of the From addresses", positional=True, required=True)
_LIST = Arg(
    "list", "its full name: NAME, account:ACCOUNT/NAME or connection:LOGIN/NAME", "list", positional=True, required=True
)
_PASSWORD = Arg("password", "a password of your own; without one, one is made up", "secret")

VERBS: tuple[Verb, ...] = (
    Verb(
        name="health",
        help="whether relayd is well, and what is wrong if not",
        handler=_health,
        example="health",
        verdict="ok",
        unwell=503,
    ),
    Verb(name="status", help="who this relay is, since when, and how it does", handler=_status, example="status"),
    Verb(name="version", help="the version of the running relayd", handler=_version, example="version"),
    Verb(name="verbs", help="this table", handler=_verbs, example="verbs"),
    Verb(
        name="account add",
        help="make an account, a customer",
        handler=_account_add,
        args=(
            _NAME,
            Arg(
                "domain_check",
                "what an unproven sender domain means",
                default="require",
                choices=("off", "warn", "require"),
            ),
        ),
        role="admin",
        effect="change",
        example="account add crm",
    ),
    Verb(name="account list", help="all accounts", handler=_account_list, example="account list"),
    Verb(
        name="account show",
        help="an account and its connections",
        handler=_account_show,
        args=(_NAME,),
        example="account show crm",
    ),
    Verb(
        name="account suspend",
        help="take no more mail from an account",
        handler=_account_suspend,
        args=(_NAME,),
        role="operate",
        effect="change",
        example="account suspend crm",
    ),
    Verb(
        name="account resume",
        help="take mail from a suspended account again",
        handler=_account_resume,
        args=(_NAME,),
        role="operate",
        effect="change",
        example="account resume crm",
    ),
    Verb(
        name="connection add",
        help="make a login for an account; its password is shown this once",
        handler=_connection_add,
        args=(
            _LOGIN,
            Arg("account", "the account it belongs to", "name", required=True),
            Arg("sender", 'an address it may send as, "@domain" for a whole domain, "*" for any', repeated=True),
            Arg("client", "an IP address or CIDR it may come from; without any, all", "network", repeated=True),
            Arg("stream", "the stream of its mail; without one, the default stream", "name"),
            _PASSWORD,
        ),
        role="admin",
        effect="change",
        example="connection add --account crm --sender sales@crm.example --stream transactional login1",
    ),
    Verb(
        name="connection list",
        help="all connections, or an account's",
        handler=_connection_list,
        args=(Arg("account", "only this account's", "name"),),
        example="connection list --account crm",
    ),
    Verb(
        name="connection show",
        help="a connection",
        handler=_connection_show,
        args=(_LOGIN,),
        example="connection show login1",
    ),
    Verb(
        name="connection activate",
        help="let a blocked connection log in again",
        handler=_connection_activate,
        args=(_LOGIN,),
        role="operate",
        effect="change",
        example="connection activate login1",
    ),
    Verb(
        name="connection block",
        help="let a connection log in no more",
        handler=_connection_block,
        args=(_LOGIN, Arg("reason", "why, for those who wonder later", required=True)),
        role="operate",
        effect="change",
        example='connection block --reason "password on a pastebin" login1',
    ),
    Verb(
        name="connection password",
        help="give a connection a new password; it is shown this once, the old one is void",
        handler=_connection_password,
        args=(_LOGIN, _PASSWORD),
        role="admin",
        effect="change",
        example="connection password login1",
    ),
    Verb(
        name="connection remove",
        help="forget a connection",
        handler=_connection_remove,
        args=(_LOGIN,),
        role="admin",
        effect="change",
        example="connection remove login1",
    ),
    Verb(
        name="domain add",
        help="give a domain a DKIM key, its own or a new one; shows the DNS records to publish",
        handler=_domain_add,
        args=(
            _DOMAIN,
            Arg("account", "the account whose mail it signs", "name", required=True),
            Arg("selector", 'the name of the key in DNS; without one, "relayd"'),
            Arg("key", "a private key you have, in PEM; without one, a key is made", "pem"),
            Arg("algorithm", "of a key that is made; without one, rsa", choices=("rsa", "ed25519")),
        ),
        role="admin",
        effect="change",
        example="domain add --account crm --selector s1 --key-file s1.pem crm.example",
    ),
    Verb(
        name="domain list",
        help="the domains whose mail is signed, and by which keys",
        handler=_domain_list,
        args=(Arg("account", "only this account's", "name"),),
        example="domain list",
    ),
    Verb(
        name="domain show",
        help="a domain's keys and the DNS records to publish for them",
        handler=_domain_show,
        args=(_DOMAIN,),
        example="domain show crm.example",
    ),
    Verb(
        name="domain remove",
        help="forget a domain's key; mail is not signed with it any more",
        handler=_domain_remove,
        args=(_DOMAIN, Arg("selector", "which of several keys")),
        role="admin",
        effect="change",
        example="domain remove --selector s1 crm.example",
    ),
    Verb(
        name="list add",
        help="make a suppression list; one that is there stays as it is",
        handler=suppressions.add_list,
        args=(_LIST,),
        role="admin",
        effect="change",
        example="list add account:crm/unsubscribed",
    ),
    Verb(
        name="list list",
        help="the suppression lists, and how many entries each has",
        handler=suppressions.lists,
        example="list list",
    ),
    Verb(
        name="list remove",
        help="remove a suppression list with all its entries",
        handler=suppressions.remove_list,
        args=(_LIST,),
        role="admin",
        effect="change",
        example="list remove account:crm/unsubscribed",
    ),
    Verb(
        name="suppression add",
        help="put addresses, domains or patterns on a list: they get no more mail that honours it",
        handler=suppressions.add,
        args=(
            _LIST,
            Arg(
                "value",
                "an address, a domain and all below it, or a pattern with * and ?",
                positional=True,
                required=True,
                repeated=True,
            ),
            Arg("kind", "what the value is; without it, what it looks like", choices=KINDS),
            Arg("reason", "why", default="manual", choices=REASONS),
            Arg("evidence", "what shows it, in a few words", default=""),
            Arg("expires", "after which time mail may go there again; without it, never", "duration"),
        ),
        role="operate",
        effect="change",
        example='suppression add --reason complaint --evidence "called us on May 3" complaints ivan@mail.example',
    ),
    Verb(
        name="suppression remove",
        help="take an entry off a list",
        handler=suppressions.remove,
        args=(
            _LIST,
            Arg("value", "the address, domain or pattern", positional=True, required=True),
            Arg("kind", "what the value is; without it, what it looks like", choices=KINDS),
        ),
        role="operate",
        effect="change",
        example="suppression remove complaints ivan@mail.example",
    ),
    Verb(
        name="suppression search",
        help="which lists stop an address, and why",
        handler=suppressions.search,
        args=(Arg("address", "the recipient", positional=True, required=True),),
        example="suppression search ivan@mail.example",
    ),
    Verb(
        name="suppression list",
        help="the entries of a list, in the order of their values",
        handler=suppressions.page,
        args=(
            _LIST,
            Arg("prefix", "only values that begin like this", default=""),
            Arg("after", 'go on where an answer\'s "next" says', default=""),
            Arg("limit", "how many entries at most, up to 1000", "int", default=50),
        ),
        example="suppression list --prefix ivan complaints",
    ),
    Verb(
        name="suppression import",
        help="put the rows of a CSV file on a list",
        handler=suppressions.add_rows,
        args=(
            _LIST,
            Arg(
                "rows",
                f'a CSV file of rows {", ".join(COLUMNS)}, or with its own first row of such names; "-" is stdin',
                "row",
                positional=True,
                required=True,
                repeated=True,
            ),
            Arg("reason", "of rows that name none", default="manual", choices=REASONS),
        ),
        role="admin",
        effect="change",
        example="suppression import --reason unsubscribe account:crm/unsubscribed unsubscribed.csv",
        verdict="complete",
        columns=COLUMNS,
    ),
    Verb(
        name="suppression export",
        help="a list as CSV",
        handler=suppressions.export,
        args=(_LIST, Arg("after", 'go on where an answer\'s "next" says', default="")),
        example="suppression export account:crm/unsubscribed",
        columns=COLUMNS,
    ),
    Verb(
        name="queue list",
        help="the queues: how many deliveries wait in each, until when and why",
        handler=_queue_list,
        args=(Arg("limit", "how many queues at most", "int", default=50),),
        example="queue list --limit 10",
    ),
    Verb(
        name="source list",
        help="the egress addresses and whether each is in use",
        handler=_source_list,
        example="source list",
    ),
    Verb(
        name="inspect",
        help="a message or delivery: what it is, what happened to it, what it waits for",
        handler=_inspect,
        args=(Arg("id", "the id from the 250 reply or from a record", "id", positional=True, required=True),),
        example="inspect 19a5c0e1d2300001",
    ),
    Verb(
        name="audit",
        help="prove that every message ever accepted is accounted for, or name the odd ones",
        handler=_audit,
        example="audit",
        verdict="clean",
        timeout=600.0,
    ),
    Verb(
        name="config show",
        help="the configuration in force, defaults included",
        handler=_config_show,
        example="config show",
    ),
    Verb(
        name="config reload",
        help="read the configuration again; a faulty one changes nothing",
        handler=_config_reload,
        role="operate",
        effect="change",
        example="config reload",
    ),
)

BY_PATH: dict[str, Verb] = {verb.path: verb for verb in VERBS}
