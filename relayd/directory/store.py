"""Accounts, streams, connections, signing keys, sender domains, drained sources, keys of tokens: one SQLite file, in
memory as frozen values.

Reads are dict look-ups on the main thread.  A change runs as one transaction on the directory's own thread; after its
commit the new value is swapped in on the main thread, and then the change's future done (``database.Worker``).
"""

import secrets
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from relayd import notation
from relayd.database import Pause, Post, Worker, opened
from relayd.directory import domains, hashes, rows, senders
from relayd.directory.apitokens import ApiTokens
from relayd.directory.balances import Balances
from relayd.directory.blocks import Blocks
from relayd.directory.domains import DomainKey
from relayd.directory.drains import Drains
from relayd.directory.passwords import hash_password
from relayd.directory.reactions import StoredReactions
from relayd.directory.reputations import Reputations
from relayd.directory.rows import (
    Account,
    AccountStream,
    Change,
    DomainCheck,
    SubmissionConnection,
    account_of,
    account_row,
    change_of,
    change_row,
    connection_of,
    connection_row,
    domain_name,
    stream_of,
    stream_row,
)
from relayd.directory.senders import SenderDomain, Senders
from relayd.directory.suspects import StoredSuspects
from relayd.directory.tokens import Tokens
from relayd.directory.warmups import Warmups
from relayd.directory.webhooks import StoredWebhooks
from relayd.errors import InputError
from relayd.quotas import parse_limits

A = TypeVar("A")
R = TypeVar("R")

_STEPS: tuple[str, ...] = ("schema", "domains", "senders", "tenancy", "balances")
_STEPS += ("drains", "warmups", "reactions", "tokens", "reputation", "suspects", "apitokens", "webhooks", "blocks")
# Scripts that bring a file of version n (the key) to n + 1.
UPGRADES: dict[int, str] = {
    version: (Path(__file__).parent / f"{step}.sql").read_text("utf-8") for version, step in enumerate(_STEPS)
}

CHANGES = 100_000  # changes that are remembered


class NewConnection(msgspec.Struct, frozen=True):
    """A connection just made or given a new password: the only time the password is seen in clear; "" if it is not
    known here."""

    connection: SubmissionConnection
    password: str


class Directory:
    """The open directory.  Everything is for the main thread; changes give a Future that ends there.

    Changes raise InputError at once for a malformed argument; the Future fails with InputError for what only the
    database knows (unknown account, login taken) and with sqlite3.Error when the disk refuses.
    """

    def __init__(self, path: str | Path, post: Post, accounts: Iterable[str] = (), now: float = 0.0) -> None:
        """``accounts`` are there when this returns: made, active and without domain check, if they were not."""
        db = opened(path, list(UPGRADES.values()))
        fresh = [account_row(Account(name, "active", "off", now)) for name in accounts]
        with db:
            db.executemany("INSERT OR IGNORE INTO accounts VALUES (?, ?, ?, ?, ?, ?)", fresh)
        self._worker = Worker(db, post, "directory")
        self._accounts = {row.name: row for row in map(account_of, db.execute("SELECT * FROM accounts"))}
        connections = map(connection_of, db.execute("SELECT * FROM connections"))
        self._connections = {row.login: row for row in connections}
        streams = map(stream_of, db.execute("SELECT * FROM streams"))
        self._streams = {(row.account, row.name): row for row in streams}
        self._domains = domains.stored(db)
        self.senders = Senders(self._change, senders.stored(db), self.lineage)
        self.version = 0  # rises with every change: what is derived from rows is good as long as it does not
        self.shaped: Callable[[], None] = lambda: None  # called when an account's limits of what goes out have changed
        self.touched: Callable[[], None] = lambda: None  # called when an account or a connection has changed
        self.balances = Balances(db, self._change, self._worker.run)
        self.drains = Drains(db, self._change)
        self.warmups = Warmups(db, self._worker.run)
        self.reactions = StoredReactions(db, self._worker)
        self.tokens = Tokens(db, self._change, now)
        self.api_tokens = ApiTokens(db, self._worker.run)
        self.reputations = Reputations(db, self._worker)
        self.suspects = StoredSuspects(db, self._worker)
        self.webhooks = StoredWebhooks(db, self._worker)
        self.blocks = Blocks(db, self._change, now)

    def close(self) -> None:
        """Finishes the changes under way and closes the file.  Their futures are done if ``post`` still works."""
        self._worker.close()

    @property
    def counts(self) -> tuple[int, int]:
        """How many accounts there are, and connections."""
        return len(self._accounts), len(self._connections)

    def pause(self, job: Pause) -> None:
        """Nothing is changed until the pause ends.  Any thread."""
        self._worker.run(job, lambda done: done)

    # Accounts.

    def account(self, name: str) -> Account | None:
        return self._accounts.get(name)

    def accounts(self) -> list[Account]:
        return sorted(self._accounts.values(), key=lambda row: row.name)

    def lineage(self, account: str) -> tuple[str, ...]:
        """The account and those above it, whose domains, streams and lists it may use, the nearest first."""
        found = [account]
        row = self._accounts.get(account)
        while row is not None and row.parent and row.parent not in found:
            found.append(row.parent)
            row = self._accounts.get(row.parent)
        return tuple(found)

    def add_account(
        self, name: str, *, now: float, domain_check: DomainCheck = "require", **fields: Any
    ) -> "Future[Account]":
        """``fields`` as in ``change_account``."""
        account = Account(_field("name", notation.name, name), "active", domain_check, now)
        account = msgspec.structs.replace(account, **_parsed(_ACCOUNT_FIELDS, fields))
        self._check_parent(account)
        insert = "INSERT INTO accounts VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"

        def write(db: sqlite3.Connection) -> Account:
            if not db.execute(insert, account_row(account)).rowcount:
                raise InputError("name", f"there is already an account {name!r}")
            return account

        return self._change(write, self._keep_account)

    def ensure_account(self, name: str, *, now: float) -> "Future[Account]":
        """The account, made active and without domain check if there is none: for accounts that a listener names."""
        account = Account(_field("name", notation.name, name), "active", "off", now)
        insert = "INSERT INTO accounts VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET name = name RETURNING *"
        return self._change(
            lambda db: account_of(db.execute(insert, account_row(account)).fetchall()[0]), self._keep_account
        )

    def change_account(self, name: str, **fields: Any) -> "Future[Account]":
        """Any of state, domain_check, parent, risk, zone, notices, sessions, weight; limits and client_limits as
        ``parse_limits`` reads them; shaping."""
        changed = _parsed(_ACCOUNT_FIELDS, fields)
        known = self._accounts.get(name)
        if known is None:
            raise InputError("name", f"there is no account {name!r}{notation.nearest(name, self._accounts)}")
        self._check_parent(msgspec.structs.replace(known, **changed))

        def write(db: sqlite3.Connection) -> Account:
            row = account_of(db.execute("SELECT * FROM accounts WHERE name = ?", (name,)).fetchone())
            row = msgspec.structs.replace(row, **changed)
            db.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?, ?)", account_row(row))
            return row

        return self._change(write, self._keep_account)

    def _check_parent(self, account: Account) -> None:
        if not account.parent:
            return
        if account.parent not in self._accounts:
            near = notation.nearest(account.parent, self._accounts)
            raise InputError("parent", f"there is no account {account.parent!r}{near}")
        if account.weight != 1:
            raise InputError(
                "weight", f"{account.name} is a client of {account.parent}, whose share is theirs together"
            )
        if account.name in self.lineage(account.parent):
            raise InputError("parent", f"{account.parent} is {account.name} itself or below it")

    def _keep_account(self, row: Account) -> Account:
        before = self._accounts.get(row.name)
        self._accounts[row.name] = row
        if before and before.shaping != row.shaping:
            self.shaped()
        self.touched()
        return row

    # Streams of accounts.

    def stream(self, account: str, name: str) -> AccountStream | None:
        """What the account, or else the nearest above it, calls so."""
        return next(filter(None, (self._streams.get((owner, name)) for owner in self.lineage(account))), None)

    def streams(self, account: str | None = None) -> list[AccountStream]:
        """All, or an account's own, by account and name."""
        return [self._streams[key] for key in sorted(self._streams) if account in (None, key[0])]

    def set_stream(self, account: str, name: str, template: str, overrides: dict[str, Any]) -> "Future[AccountStream]":
        """Makes or replaces one.  Whether template and overrides are any good is the configuration's to say."""
        row = AccountStream(account, _field("name", notation.name, name), template, overrides)

        def write(db: sqlite3.Connection) -> AccountStream:
            _known_account(db, account)
            db.execute("INSERT OR REPLACE INTO streams VALUES (?, ?, ?, ?)", stream_row(row))
            return row

        def keep(row: AccountStream) -> AccountStream:
            self._streams[account, name] = row
            return row

        return self._change(write, keep)

    def remove_stream(self, account: str, name: str) -> "Future[AccountStream]":
        """Gives what was removed: the template of that name, if there is one, holds again."""

        def write(db: sqlite3.Connection) -> AccountStream:
            delete = "DELETE FROM streams WHERE account = ? AND name = ? RETURNING *"
            rows = db.execute(delete, (account, name)).fetchall()
            if not rows:
                raise InputError("name", f"account {account} has no stream {name!r} of its own")
            return stream_of(rows[0])

        def forget(row: AccountStream) -> AccountStream:
            self._streams.pop((account, name), None)
            return row

        return self._change(write, forget)

    # Connections.

    def connection(self, login: str) -> SubmissionConnection | None:
        return self._connections.get(login)

    def connections(self) -> list[SubmissionConnection]:
        return sorted(self._connections.values(), key=lambda row: row.login)

    def add_connection(
        self,
        login: str,
        *,
        account: str,
        now: float,
        password: str = "",
        hash: str = "",
        external: bool = False,
        **fields: Any,
    ) -> "Future[NewConnection]":
        """A new login; without a password, an imported hash or another system to ask, a password is made up.  The
        result is the only place it is ever shown.  ``fields`` as in ``change_connection``."""
        secret, kept = _kept_as(password, hash, external)
        row = SubmissionConnection(_field("login", notation.name, login), account, "", created=now)
        row = msgspec.structs.replace(row, **_parsed(_CONNECTION_FIELDS, fields))

        def write(db: sqlite3.Connection) -> SubmissionConnection:
            _known_account(db, account)
            stored = msgspec.structs.replace(row, password=kept())
            insert = "INSERT INTO connections VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING"
            if not db.execute(insert, connection_row(stored)).rowcount:
                raise InputError("login", f"there is already a connection {login!r}")
            return stored

        return self._change(write, lambda stored: NewConnection(self._kept(stored), secret))

    def change_connection(self, login: str, **fields: Any) -> "Future[SubmissionConnection]":
        """Any of senders, clients, streams, lists, state, reason, by, sessions; limits as ``parse_limits`` reads
        them."""
        changed = _parsed(_CONNECTION_FIELDS, fields)
        return self._change(lambda db: _edited(db, login, lambda row: changed), self._kept)

    def set_password(
        self, login: str, password: str = "", *, hash: str = "", external: bool = False
    ) -> "Future[NewConnection]":
        """A new password, given as in ``add_connection``; the old one fails from the moment the future is done, in open
        sessions from their next message."""
        secret, kept = _kept_as(password, hash, external)
        return self._change(
            lambda db: _edited(db, login, lambda row: {"password": kept(), "passwords": row.passwords + 1}),
            lambda stored: NewConnection(self._kept(stored), secret),
        )

    def renew_hash(self, login: str, old: str, new: str) -> "Future[SubmissionConnection]":
        """Another hash of the same password; the row stays as it is if the password has been changed meanwhile."""
        return self._change(
            lambda db: _edited(db, login, lambda row: {"password": new} if row.password == old else {}), self._kept
        )

    def remove_connection(self, login: str) -> "Future[SubmissionConnection]":
        """Gives what was removed."""

        def write(db: sqlite3.Connection) -> SubmissionConnection:
            rows = db.execute("DELETE FROM connections WHERE login = ? RETURNING *", (login,)).fetchall()
            if not rows:
                raise InputError("login", f"there is no connection {login!r}")
            return connection_of(rows[0])

        def forget(removed: SubmissionConnection) -> SubmissionConnection:
            self._connections.pop(removed.login, None)
            self.touched()
            return removed

        return self._change(write, forget)

    def _kept(self, row: SubmissionConnection) -> SubmissionConnection:
        self._connections[row.login] = row
        self.touched()
        return row

    # Who changed what.

    def note(self, change: Change, *, customer: bool = False) -> "Future[Change]":
        """Keeps it, among the last CHANGES; those that customers make push out only one another."""
        table = "customer_changes" if customer else "changes"

        def write(db: sqlite3.Connection) -> Change:
            insert = f"INSERT INTO {table} (time, who, verb, arguments, result) VALUES (?, ?, ?, ?, ?)"
            db.execute(insert, change_row(change))
            db.execute(f"DELETE FROM {table} WHERE id <= last_insert_rowid() - ?", (CHANGES,))
            return change

        return self._worker.run(write, lambda kept: kept)

    def changes(self, limit: int, about: str = "") -> "Future[list[Change]]":
        """The latest first; ``about``: those of which an argument is this text, or a list that has it."""
        found = "?2 = '' OR EXISTS (SELECT 1 FROM json_tree(arguments) WHERE atom = ?2)"
        parts = [
            f"SELECT * FROM (SELECT * FROM {table} WHERE {found} ORDER BY id DESC LIMIT ?1)"
            for table in ("changes", "customer_changes")
        ]
        merged = f"SELECT time, who, verb, arguments, result FROM ({' UNION ALL '.join(parts)})"
        return self._worker.run(
            lambda db: [
                change_of(row) for row in db.execute(f"{merged} ORDER BY time DESC, id DESC LIMIT ?1", (limit, about))
            ],
            lambda rows: rows,
        )

    # Signing keys and sender domains.

    def domain_keys(self, domain: str) -> tuple[DomainKey, ...]:
        """The keys of exactly this domain (lower case, A-labels), whoever's they are."""
        return self._domains.get(domain, ())

    def all_domain_keys(self) -> list[DomainKey]:
        """By domain and selector."""
        return [row for domain in sorted(self._domains) for row in self._domains[domain]]

    def add_domain_key(
        self,
        domain: str,
        *,
        account: str,
        now: float,
        selector: str = "",
        pem: bytes = b"",
        algorithm: domains.Kind | None = None,
    ) -> "Future[DomainKey]":
        """A key for an account's mail from this domain; without ``pem`` a new one is made.  Registers the domain."""
        name = _field("name", domain_name, domain)
        selector = selector or domains.DEFAULT_SELECTOR
        lineage = self.lineage(account)

        def write(db: sqlite3.Connection) -> tuple[SenderDomain, DomainKey]:
            key = domains.made(name, account, selector, pem, algorithm, now)
            return senders.claim(db, name, account, lineage, now), domains.insert(db, key)

        def keep(written: tuple[SenderDomain, DomainKey]) -> DomainKey:
            sender, row = written
            self.senders.keep(sender)
            rows = (*self._domains.get(name, ()), row)
            self._domains[name] = tuple(sorted(rows, key=lambda row: row.selector))
            return row

        return self._change(write, keep)

    def remove_domain_key(self, domain: str, selector: str = "") -> "Future[DomainKey]":
        """Without a selector the domain's only key.  Gives what was removed; the domain stays registered."""
        name = _field("name", domain_name, domain)

        def write(db: sqlite3.Connection) -> tuple[SenderDomain | None, DomainKey]:
            return senders.hasten(db, name), domains.delete(db, name, selector)

        def forget(written: tuple[SenderDomain | None, DomainKey]) -> DomainKey:
            sender, removed = written
            if sender:
                self.senders.keep(sender)
            rows = tuple(row for row in self._domains[name] if row.selector != removed.selector)
            self._domains[name] = rows
            if not rows:
                del self._domains[name]
            return removed

        return self._change(write, forget)

    def register_domain(self, domain: str, *, account: str, now: float) -> "Future[SenderDomain]":
        """A sender domain without a key of its own."""
        name = _field("name", domain_name, domain)
        lineage = self.lineage(account)
        return self._change(lambda db: senders.claim(db, name, account, lineage, now), self.senders.keep)

    def remove_domain(self, domain: str) -> "Future[SenderDomain]":
        """Its registration and all its keys.  Gives what was removed."""
        name = _field("name", domain_name, domain)

        def forget(removed: SenderDomain) -> SenderDomain:
            self.senders.forget(name)
            self._domains.pop(name, None)
            return removed

        return self._change(lambda db: senders.delete(db, name), forget)

    def _change(self, write: Callable[[sqlite3.Connection], A], swap: Callable[[A], R]) -> "Future[R]":
        """``write`` as one transaction on the thread, then ``swap`` on the main thread; the future is what it gives."""

        def swapped(written: A) -> R:
            self.version += 1
            return swap(written)

        return self._worker.run(write, swapped)


def _kept_as(password: str, hash: str, external: bool) -> tuple[str, Callable[[], str]]:
    """A password to show, and what gives the text to store: on the thread, for a hash takes its time."""
    given = [name for name, value in (("password", password), ("hash", hash), ("external", external)) if value]
    if len(given) > 1:
        raise InputError(given[1], f"cannot be given together with {given[0]}")
    if external:
        return "", lambda: hashes.EXTERNAL
    if hash:
        imported = _field("hash", hashes.imported, hash)
        return "", lambda: imported
    secret = password or secrets.token_urlsafe(18)
    return secret, lambda: hash_password(secret)


def _field(field: str, parse: Callable[[A], R], value: A) -> R:
    try:
        return parse(value)
    except ValueError as error:
        raise InputError(field, str(error)) from None


def _parsed(parsers: dict[str, Callable[[Any], Any]], fields: dict[str, Any]) -> dict[str, Any]:
    return {name: _field(_ONE_OF.get(name, name), parsers[name], value) for name, value in fields.items()}


def _optional(parse: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: parse(value) if value else ""


def _same(value: Any) -> Any:
    return value


_ACCOUNT_FIELDS: dict[str, Callable[[Any], Any]] = {
    "state": _same,
    "domain_check": _same,
    "risk": _same,
    "sessions": _same,
    "weight": notation.whole(1, 1000),
    "parent": _optional(notation.name),
    "zone": _optional(notation.hostname),
    "notices": _optional(rows.mailbox),
    "limits": parse_limits,
    "client_limits": parse_limits,
    "shaping": _same,
}
_CONNECTION_FIELDS: dict[str, Callable[[Any], Any]] = {
    "state": _same,
    "reason": _same,
    "by": _same,
    "sessions": _same,
    "senders": rows.senders,
    "clients": rows.networks,
    "streams": rows.names,
    "lists": rows.names,
    "limits": parse_limits,
}
_ONE_OF = {"senders": "sender", "clients": "client", "streams": "stream", "lists": "list"}  # what a fault is called by


def _known_account(db: sqlite3.Connection, name: str) -> None:
    if not db.execute("SELECT 1 FROM accounts WHERE name = ?", (name,)).fetchone():
        raise InputError("account", f"there is no account {name!r}")


def _edited(
    db: sqlite3.Connection, login: str, edit: Callable[[SubmissionConnection], dict[str, Any]]
) -> SubmissionConnection:
    found = db.execute("SELECT * FROM connections WHERE login = ?", (login,)).fetchone()
    if found is None:
        raise InputError("login", f"there is no connection {login!r}")
    row = connection_of(found)
    changes = edit(row)
    if not changes:
        return row
    row = msgspec.structs.replace(row, **changes, version=row.version + 1)
    db.execute("INSERT OR REPLACE INTO connections VALUES (?,?,?,?,?,?,?,?,?,?,?)", connection_row(row))
    return row
