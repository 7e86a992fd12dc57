"""Accounts, submission connections and signing keys: one SQLite file, all of it held in memory as frozen values.

Reads are dict look-ups on the main thread.  A change runs as one transaction on the directory's own thread; after its
commit the new value is swapped in on the main thread, and then the change's future done (``database.Worker``).
"""

import secrets
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from relayd import notation
from relayd.address import domain_of, folded, parse_address
from relayd.database import Post, Worker, opened
from relayd.directory import domains
from relayd.directory.domains import DomainKey
from relayd.directory.passwords import hash_password
from relayd.errors import InputError

A = TypeVar("A")
R = TypeVar("R")
AccountState = Literal["active", "suspended"]
DomainCheck = Literal["off", "warn", "require"]
ConnectionState = Literal["active", "blocked", "inactive"]

_SCRIPTS = ("schema.sql", "domains.sql")

_ANY = "*"


class Account(msgspec.Struct, frozen=True):
    """A customer.  ``created`` is unix seconds."""

    name: str
    state: AccountState = "active"
    domain_check: DomainCheck = "require"
    created: float = 0.0


class SubmissionConnection(msgspec.Struct, frozen=True):
    """A login and what it may do.  ``password`` is a hash; ``version`` rises with every change.

    ``senders``: addresses, "@domain" for all of a domain, or "*" for any; none means that it may send as nobody.
    ``clients``: addresses and CIDRs that may log in; none means any.  ``stream`` "" is the default stream.
    """

    login: str
    account: str
    password: str
    senders: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    stream: str = ""
    state: ConnectionState = "active"
    reason: str = ""
    created: float = 0.0
    version: int = 1

    def may_send_as(self, address: str) -> bool:
        """Whether the address (null sender: "") is one of the connection's.  Case does not matter."""
        if self.senders == (_ANY,):
            return True
        text = folded(address)
        return text in self.senders or text[text.rindex("@") :] in self.senders

    def may_connect_from(self, client: str) -> bool:
        """Whether a client at this IP address may use the login."""
        return not self.clients or notation.within(client, self.clients)


class NewConnection(msgspec.Struct, frozen=True):
    """A connection just made or given a new password: the only time the password is seen in clear."""

    connection: SubmissionConnection
    password: str


class Directory:
    """The open directory.  Everything is for the main thread; changes give a Future that ends there.

    Changes raise InputError at once for a malformed argument; the Future fails with InputError for what only the
    database knows (unknown account, login taken) and with sqlite3.Error when the disk refuses.
    """

    def __init__(self, path: str | Path, post: Post, accounts: Iterable[str] = (), now: float = 0.0) -> None:
        """``accounts`` are there when this returns: made, active and without domain check, if they were not."""
        db = opened(path, [(Path(__file__).parent / file).read_text("utf-8") for file in _SCRIPTS])
        rows = [msgspec.structs.astuple(Account(name, "active", "off", now)) for name in accounts]
        with db:
            db.executemany("INSERT OR IGNORE INTO accounts VALUES (?, ?, ?, ?)", rows)
        self._accounts = {row.name: row for row in map(_account, db.execute("SELECT * FROM accounts"))}
        self._connections = {row.login: row for row in map(_connection, db.execute("SELECT * FROM connections"))}
        self._domains = domains.stored(db)
        self._worker = Worker(db, post, "directory")
        self._change = self._worker.run

    def close(self) -> None:
        """Finishes the changes under way and closes the file.  Their futures are done if ``post`` still works."""
        self._worker.close()

    def account(self, name: str) -> Account | None:
        return self._accounts.get(name)

    def connection(self, login: str) -> SubmissionConnection | None:
        return self._connections.get(login)

    def accounts(self) -> list[Account]:
        return sorted(self._accounts.values(), key=lambda row: row.name)

    def connections(self) -> list[SubmissionConnection]:
        return sorted(self._connections.values(), key=lambda row: row.login)

    def add_account(self, name: str, *, now: float, domain_check: DomainCheck = "require") -> "Future[Account]":
        account = Account(_field("name", notation.name, name), "active", domain_check, now)
        insert = "INSERT INTO accounts VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING *"
        refusal = f"there is already an account {name!r}"
        return self._account_change("name", refusal, insert, msgspec.structs.astuple(account))

    def ensure_account(self, name: str, *, now: float) -> "Future[Account]":
        """The account, made active and without domain check if there is none: for accounts that a listener names."""
        if known := self._accounts.get(name):
            done: Future[Account] = Future()
            done.set_result(known)
            return done
        account = Account(_field("name", notation.name, name), "active", "off", now)
        insert = "INSERT INTO accounts VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET name = name RETURNING *"
        return self._account_change("name", "", insert, msgspec.structs.astuple(account))

    def set_account_state(self, name: str, state: AccountState) -> "Future[Account]":
        update = "UPDATE accounts SET state = ? WHERE name = ? RETURNING *"
        return self._account_change("name", f"there is no account {name!r}", update, (state, name))

    def add_connection(
        self,
        login: str,
        *,
        account: str,
        now: float,
        password: str = "",
        senders: Iterable[str] = (),
        clients: Iterable[str] = (),
        stream: str = "",
    ) -> "Future[NewConnection]":
        """A new login; without a password one is made up.  The result is the only place it is ever shown."""
        secret = password or secrets.token_urlsafe(18)
        row = SubmissionConnection(
            login=_field("login", notation.name, login),
            account=account,
            password="",
            senders=_field("sender", _senders, senders),
            clients=_field("client", lambda texts: tuple(map(notation.network, texts)), clients),
            stream=_field("stream", notation.name, stream) if stream else "",
            created=now,
        )

        def write(db: sqlite3.Connection) -> SubmissionConnection:
            if not db.execute("SELECT 1 FROM accounts WHERE name = ?", (account,)).fetchone():
                raise InputError("account", f"there is no account {account!r}")
            stored = msgspec.structs.replace(row, password=hash_password(secret))
            insert = "INSERT INTO connections VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING"
            if not db.execute(insert, _values(stored)).rowcount:
                raise InputError("login", f"there is already a connection {login!r}")
            return stored

        return self._change(write, lambda stored: NewConnection(self._kept(stored), secret))

    def set_connection_state(
        self, login: str, state: ConnectionState, reason: str = ""
    ) -> "Future[SubmissionConnection]":
        update = "UPDATE connections SET state = ?, reason = ?, version = version + 1 WHERE login = ? RETURNING *"
        return self._change(lambda db: _updated(db, update, (state, reason, login), login), self._kept)

    def set_password(self, login: str, password: str = "") -> "Future[NewConnection]":
        """A new password, made up if none is given; the old one fails from the moment the future is done."""
        secret = password or secrets.token_urlsafe(18)
        update = "UPDATE connections SET password = ?, version = version + 1 WHERE login = ? RETURNING *"
        return self._change(
            lambda db: _updated(db, update, (hash_password(secret), login), login),
            lambda stored: NewConnection(self._kept(stored), secret),
        )

    def remove_connection(self, login: str) -> "Future[SubmissionConnection]":
        """Gives what was removed."""
        delete = "DELETE FROM connections WHERE login = ? RETURNING *"

        def forget(removed: SubmissionConnection) -> SubmissionConnection:
            self._connections.pop(removed.login, None)
            return removed

        return self._change(lambda db: _updated(db, delete, (login,), login), forget)

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
        """A key for an account's mail from this domain; without ``pem`` a new one is made."""
        name = _field("name", domain_name, domain)
        selector = selector or domains.DEFAULT_SELECTOR

        def write(db: sqlite3.Connection) -> DomainKey:
            return domains.insert(db, domains.made(name, account, selector, pem, algorithm, now))

        def keep(row: DomainKey) -> DomainKey:
            rows = (*self._domains.get(name, ()), row)
            self._domains[name] = tuple(sorted(rows, key=lambda row: row.selector))
            return row

        return self._change(write, keep)

    def remove_domain_key(self, domain: str, selector: str = "") -> "Future[DomainKey]":
        """Without a selector the domain's only key.  Gives what was removed."""
        name = _field("name", domain_name, domain)

        def forget(removed: DomainKey) -> DomainKey:
            rows = tuple(row for row in self._domains[name] if row.selector != removed.selector)
            self._domains[name] = rows
            if not rows:
                del self._domains[name]
            return removed

        return self._change(lambda db: domains.delete(db, name, selector), forget)

    def _kept(self, row: SubmissionConnection) -> SubmissionConnection:
        self._connections[row.login] = row
        return row

    def _account_change(self, field: str, refusal: str, sql: str, values: tuple[object, ...]) -> "Future[Account]":
        """A statement that returns the account's row; none is the refusal."""

        def write(db: sqlite3.Connection) -> Account:
            rows = db.execute(sql, values).fetchall()
            if not rows:
                raise InputError(field, refusal)
            return _account(rows[0])

        def keep(row: Account) -> Account:
            self._accounts[row.name] = row
            return row

        return self._change(write, keep)


def _field(field: str, parse: Callable[[A], R], value: A) -> R:
    try:
        return parse(value)
    except ValueError as error:
        raise InputError(field, str(error)) from None


def _senders(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(_sender, texts)))


def _sender(text: str) -> str:
    """Lower case with an A-label domain: the form that ``may_send_as`` compares."""
    if text == _ANY:
        return text
    if text.startswith("@"):
        return "@" + domain_name(domain_of(parse_address("x" + text)))
    return folded(parse_address(text))


def domain_name(text: str) -> str:
    """A domain as it is looked up: lower case with A-labels.  Raises ValueError."""
    return notation.hostname(domain_of("x@" + text))


def _account(row: tuple[Any, ...]) -> Account:
    name, state, domain_check, created = row
    # RETURNING shows the value before the column makes it REAL: a whole number comes back as an int.
    return Account(name, state, domain_check, float(created))


def _connection(row: tuple[Any, ...]) -> SubmissionConnection:
    login, account, password, senders, clients, stream, state, reason, created, version = row
    lists = _texts(senders), _texts(clients)
    return SubmissionConnection(login, account, password, *lists, stream, state, reason, float(created), version)


def _texts(stored: str) -> tuple[str, ...]:
    return msgspec.json.decode(stored, type=tuple[str, ...])


def _values(row: SubmissionConnection) -> tuple[object, ...]:
    login, account, password, senders, clients, *rest = msgspec.structs.astuple(row)
    return login, account, password, _stored(senders), _stored(clients), *rest


def _stored(texts: tuple[str, ...]) -> str:
    return msgspec.json.encode(texts).decode()


def _updated(db: sqlite3.Connection, sql: str, values: tuple[object, ...], login: str) -> SubmissionConnection:
    rows = db.execute(sql, values).fetchall()
    if not rows:
        raise InputError("login", f"there is no connection {login!r}")
    return _connection(rows[0])
