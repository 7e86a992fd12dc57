"""Every verb of the control API in one table: HTTP routes, relayctl's commands and their help derive from it.

A verb named "connection add" is ``/v1/connection/add``: GET with a query if it reads, POST with a JSON object if it
changes something or takes a file.  A new verb is a handler and a row.
"""

from concurrent.futures import Future
from typing import Any

import msgspec

import relayd
from relayd import notation
from relayd.control import (
    accounts,
    apitokens,
    backups,
    balances,
    blocks,
    connections,
    domains,
    exports,
    feeds,
    history,
    logins,
    openapi,
    queue,
    recipients,
    records,
    reputation,
    sessions,
    shaping,
    sources,
    statistics,
    suppressions,
    suspects,
    tokens,
    traces,
    warmup,
    webhooks,
)
from relayd.control.verb import Arg, Relay, Scope, Verb, then, whole
from relayd.directory import Change
from relayd.errors import InputError
from relayd.suppression import COLUMNS, KINDS, REASONS
from relayd.validation import BULK


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
        "draining": relay.directory.blocks.draining is not None,
        **relay.health(),
    }


def _version(relay: Relay) -> dict[str, str]:
    return {"version": relayd.__version__}


def _openapi(relay: Relay) -> dict[str, Any]:
    return openapi.document(VERBS, relayd.__version__)


def _verbs(relay: Relay) -> list[dict[str, Any]]:
    keys = ("name", "help", "role", "effect", "path", "method", "example")
    return [
        {
            **{key: getattr(verb, key) for key in keys},
            "customers": verb.scope is not None,
            "args": msgspec.to_builtins(verb.args),
        }
        for verb in VERBS
    ]


def _domain_add(
    relay: Relay, name: str, account: str, selector: str | None, key: str | None, algorithm: Any
) -> "Future[dict[str, Any]]":
    accounts.known(relay, account)
    asked = selector is not None or key is not None or algorithm is not None
    keyless = algorithm == "none" or (not asked and domains.name_of(name) in relay.keyring.rules.keys)
    if keyless:
        if selector is not None or key is not None:
            raise InputError("algorithm", "none makes no key: leave out --selector and --key-file")
        registered = relay.directory.register_domain(name, account=account, now=relay.now())
        return then(registered, lambda row: domains.shown(relay, row.domain))
    pem = key.encode() if key else b""
    added = relay.directory.add_domain_key(
        name, account=account, now=relay.now(), selector=selector or "", pem=pem, algorithm=algorithm
    )
    return then(added, lambda row: domains.shown(relay, row.domain))


def _domain_list(relay: Relay, account: str | None) -> list[dict[str, Any]]:
    return domains.listed(relay, account)


def _domain_show(relay: Relay, name: str) -> dict[str, Any]:
    return domains.shown(relay, name)


async def _domain_verify(relay: Relay, name: str) -> dict[str, Any]:
    return domains.checked(relay, await relay.verify(domains.name_of(name)))


def _domain_remove(relay: Relay, name: str, selector: str | None) -> "Future[dict[str, Any]]":
    if selector is not None:
        return then(relay.directory.remove_domain_key(name, selector), domains.key_row)
    return then(relay.directory.remove_domain(name), domains.removed)


def _recipient_check(relay: Relay, address: list[str], stream: str | None) -> Any:
    if stream is not None and stream not in relay.config.stream:
        raise InputError("stream", f"there is no stream {stream!r}{notation.nearest(stream, relay.config.stream)}")
    return recipients.checked(relay, address, relay.config.stream[stream].validation if stream else BULK)


def _change_list(relay: Relay, limit: int, about: str | None) -> Any:
    def shape(changes: list[Change]) -> list[dict[str, Any]]:
        names = ("time", "who", "result", "verb", "arguments")  # what is long comes last
        return [{name: getattr(change, name) for name in names} for change in changes]

    return then(relay.directory.changes(limit, about or ""), shape)


def _queue_list(relay: Relay, limit: int, account: str | None) -> Any:
    return relay.queues(limit, account or "")


def _inspect(relay: Relay, id: int) -> Any:
    return relay.inspect(id)


def _audit(relay: Relay) -> Any:
    return relay.audit()


def _config_show(relay: Relay) -> Any:
    shown = msgspec.to_builtins(relay.config)
    return {name: table for name, table in shown.items() if name != "origins"}


def _config_reload(relay: Relay) -> Any:
    return relay.reload()


_DOMAIN = Arg("name", "the domain of the From addresses", positional=True, required=True)
_LIST = Arg(
    "list", "its full name: NAME, account:ACCOUNT/NAME or connection:LOGIN/NAME", "list", positional=True, required=True
)
_OF_LIST = Scope("list", "list", hides=("by",))

_VERBS: tuple[Verb, ...] = (
    Verb(
        name="health",
        help="whether relayd is well, and what is wrong if not",
        handler=_health,
        example="health",
        verdict="ok",
        unwell=503,
    ),
    Verb(name="status", help="who this relay is, since when, and how it does", handler=_status, example="status"),
    Verb(name="version", help="the version of the running relayd", handler=_version, example="version", scope=Scope()),
    Verb(name="verbs", help="this table", handler=_verbs, example="verbs", scope=Scope()),
    *accounts.VERBS,
    *connections.VERBS,
    Verb(
        name="openapi",
        help="this API as an OpenAPI document, for tools that make clients of one",
        handler=_openapi,
        example="--json openapi",
    ),
    Verb(
        name="change list",
        help="who changed what, the latest first",
        handler=_change_list,
        args=(
            Arg("limit", "how many at most", "int", default=50),
            Arg("about", "only those that name this account, login, domain, ..."),
        ),
        example="change list --about crm-1",
    ),
    Verb(
        name="login failures",
        help="who fails to log in: the worst addresses and logins, and until when each is locked",
        handler=logins.failures,
        args=(Arg("limit", "how many at most", "int", default=50),),
        example="login failures --limit 10",
    ),
    Verb(
        name="login forgive",
        help="forget the failures of an address or a login: it may try again at once",
        handler=logins.forgive,
        args=(Arg("who", "an IP address or a login", positional=True, required=True),),
        role="operate",
        effect="change",
        example="login forgive 198.51.100.7",
    ),
    Verb(
        name="domain add",
        help="register a domain that an account sends from, with a DKIM key; shows the DNS records to publish",
        handler=_domain_add,
        args=(
            _DOMAIN,
            Arg("account", "the account whose mail it is", "name", required=True),
            Arg("selector", 'the name of the key in DNS; without one, "relayd"'),
            Arg("key", "a private key you have, in PEM; without one, a key is made", "pem"),
            Arg(
                "algorithm",
                "of a key that is made; without one, rsa; none makes no key",
                choices=("rsa", "ed25519", "none"),
            ),
        ),
        role="admin",
        effect="change",
        example="domain add --account crm --selector s1 --key-file s1.pem crm.example",
    ),
    Verb(
        name="domain list",
        help="the sender domains: whose, in what state, with which keys",
        handler=_domain_list,
        args=(Arg("account", "only this account's", "name"),),
        example="domain list",
        scope=Scope("account"),
    ),
    Verb(
        name="domain show",
        help="a sender domain: its state, what the checks found, its keys, and the DNS records to publish",
        handler=_domain_show,
        args=(_DOMAIN,),
        example="domain show crm.example",
        scope=Scope("name", "domain"),
    ),
    Verb(
        name="domain verify",
        help="check a sender domain in the DNS now; shows what is missing there",
        handler=_domain_verify,
        args=(_DOMAIN,),
        role="operate",
        effect="change",
        example="domain verify crm.example",
        verdict="verified",
        timeout=90.0,
    ),
    Verb(
        name="domain remove",
        help="forget a domain with all its keys, or one of its keys",
        handler=_domain_remove,
        args=(_DOMAIN, Arg("selector", "only this key")),
        role="admin",
        effect="change",
        example="domain remove --selector s1 crm.example",
    ),
    Verb(
        name="recipient check",
        help="what becomes of recipients: whether a stream takes their addresses, and why not",
        handler=_recipient_check,
        args=(
            Arg("address", "the addresses", positional=True, required=True, repeated=True),
            Arg("stream", 'whose rules to go by; without one, those of "bulk"', "name"),
        ),
        example="recipient check --stream marketing ivan@gmial.com noreply@crm.example",
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
        args=(Arg("account", "only this account's and its connections'", "name"),),
        example="list list",
        scope=Scope("account"),
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
        signed=True,
        example='suppression add --reason complaint --evidence "called us on May 3" complaints ivan@mail.example',
        scope=_OF_LIST,
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
        scope=_OF_LIST,
    ),
    Verb(
        name="suppression search",
        help="which lists stop an address, and why",
        handler=suppressions.search,
        args=(
            Arg("address", "the recipient", positional=True, required=True),
            Arg("account", "only the lists of this account and its connections", "name"),
        ),
        example="suppression search ivan@mail.example",
        scope=Scope("account", hides=("by",)),
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
        scope=_OF_LIST,
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
        signed=True,
        example="suppression import --reason unsubscribe account:crm/unsubscribed unsubscribed.csv",
        scope=_OF_LIST,
        verdict="complete",
        columns=COLUMNS,
    ),
    Verb(
        name="suppression export",
        help="a list as CSV",
        handler=suppressions.export,
        args=(_LIST, Arg("after", 'go on where an answer\'s "next" says', default="")),
        example="suppression export account:crm/unsubscribed",
        scope=_OF_LIST,
        columns=COLUMNS,
    ),
    Verb(
        name="queue list",
        help="the queues: how many deliveries wait in each, until when and why",
        handler=_queue_list,
        args=(
            Arg("limit", "how many queues at most", "int", default=50),
            Arg("account", "only this account's", "name"),
        ),
        example="queue list --limit 10",
        scope=Scope("account", hides=("why",)),  # a server's words there may be about others' mail
    ),
    *blocks.VERBS,
    *sessions.VERBS,
    *traces.VERBS,
    *queue.VERBS,
    *sources.VERBS,
    *warmup.VERBS,
    *reputation.VERBS,
    *shaping.VERBS,
    *tokens.VERBS,
    *apitokens.VERBS,
    *suspects.VERBS,
    *statistics.VERBS,
    *history.VERBS,
    *webhooks.VERBS,
    *feeds.VERBS,
    *records.VERBS,
    *exports.VERBS,
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
        would=lambda relay: relay.would_reload(),
        role="operate",
        effect="change",
        example="config reload",
    ),
    *balances.VERBS,
    *backups.VERBS,
)

VERBS: tuple[Verb, ...] = tuple(map(whole, _VERBS))
BY_PATH: dict[str, Verb] = {verb.path: verb for verb in VERBS}
