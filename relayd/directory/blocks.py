"""Blocks: whom and what an operator stopped, why, and until when.

In: blocks and their removal, kept across restarts; the clock, which ends those that are for a time.  Out: the block
that bears on a client address, account, connection, source or recipient domain: dict look-ups, of networks one for each
prefix length there is.  ``changed`` is called on the main thread with each block that begins (True) or ends (False).
A block of the kind "relay" is a drain of the whole relay.
"""

import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from math import inf
from typing import Literal, get_args

import msgspec

from relayd import notation
from relayd.directory.senders import Change
from relayd.errors import InputError

Kind = Literal["ip", "account", "connection", "source", "domain", "relay"]
KINDS: tuple[str, ...] = get_args(Kind)
MOST = 100_000
WHOLE = "*"  # the value of a block of the relay
_RELAYING = "relay:"  # how the connection of a relay listener's network is named


class Block(msgspec.Struct, frozen=True):
    """``since`` and ``until`` are unix seconds; ``until`` 0: until it is removed."""

    kind: Kind
    value: str
    reason: str
    by: str
    since: float
    until: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.value

    def words(self) -> str:
        """What an operator reads where something waits for it."""
        return f"{self.kind} {self.value} is blocked by {self.by}: {self.reason}"


class Networks:
    """Which of many networks an address lies in: a dict for each prefix length there is, the longest first."""

    def __init__(self) -> None:
        self._by_length: dict[tuple[int, int], dict[int, Block]] = {}  # by IP version and length

    def __bool__(self) -> bool:
        return bool(self._by_length)

    def put(self, row: Block) -> None:
        version, length, prefix = _parts(row.value)
        if (version, length) not in self._by_length:
            known = {**self._by_length, (version, length): {}}
            self._by_length = dict(sorted(known.items(), key=lambda item: -item[0][1]))
        self._by_length[version, length][prefix] = row

    def remove(self, row: Block) -> None:
        version, length, prefix = _parts(row.value)
        here = self._by_length[version, length]
        del here[prefix]
        if not here:
            del self._by_length[version, length]

    def find(self, client: str) -> Block | None:
        """The block of the smallest network that the address lies in; what is no IP address lies in none."""
        address = _address(client)
        if address is None:
            return None
        number, bits = int(address), address.max_prefixlen
        for (version, length), here in self._by_length.items():
            if version == address.version and (row := here.get(number >> (bits - length))) is not None:
                return row
        return None


class Blocks:
    """See the module.  Everything is for the main thread."""

    def __init__(self, db: sqlite3.Connection, change: Change, now: float) -> None:
        self.changed: Callable[[Block, bool], None] = lambda row, on: None
        self._change = change
        self._rows: dict[tuple[str, str], Block] = {}
        self.networks = Networks()
        self.accounts: dict[str, Block] = {}
        self.connections: dict[str, Block] = {}
        self.sources: dict[str, Block] = {}
        self.domains: dict[str, Block] = {}
        self._next_end = inf
        with db:
            db.execute("DELETE FROM blocks WHERE until > 0 AND until <= ?", (now,))
        for stored in db.execute("SELECT kind, value, reason, by, since, until FROM blocks"):
            self._keep(Block(*stored))

    def all(self) -> list[Block]:
        """The latest first."""
        return sorted(self._rows.values(), key=lambda row: (-row.since, row.key))

    def get(self, kind: str, value: str) -> Block | None:
        return self._rows.get((kind, value))

    @property
    def draining(self) -> Block | None:
        return self._rows.get(("relay", WHOLE))

    def of_account(self, lineage: Iterable[str]) -> Block | None:
        """The block of an account or of one above it."""
        accounts = self.accounts
        return next((accounts[name] for name in lineage if name in accounts), None) if accounts else None

    def of_domain(self, domain: str) -> Block | None:
        """The block of a recipient domain, its own or that of a domain above it ("*.example")."""
        domains = self.domains
        return next((domains[p] for p in notation.patterns(domain) if p in domains), None) if domains else None

    def add(self, row: Block) -> "Future[Block]":
        """Of what is blocked already, who, why and until when are replaced.  ``row.value``: as by ``value_of``."""
        if row.key not in self._rows and len(self._rows) >= MOST:
            raise InputError("value", f"there are {MOST} blocks: remove some, or block whole networks")

        def write(db: sqlite3.Connection) -> Block:
            db.execute("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?, ?, ?)", msgspec.structs.astuple(row))
            return row

        def keep(row: Block) -> Block:
            self._keep(row)
            self.changed(row, True)
            return row

        return self._change(write, keep)

    def remove(self, kind: str, value: str) -> "Future[Block]":
        """Gives what is over."""

        def write(db: sqlite3.Connection) -> Block:
            rows = db.execute(
                "DELETE FROM blocks WHERE kind = ? AND value = ? "
                "RETURNING kind, value, reason, by, CAST(since AS REAL), CAST(until AS REAL)",
                (kind, value),
            ).fetchall()
            if not rows:
                raise InputError("value", f"{kind} {value} is not blocked: relayctl block list shows what is")
            return Block(*rows[0])

        def forget(row: Block) -> Block:
            self._forget(row)
            return row

        return self._change(write, forget)

    def tick(self, now: float) -> list[Block]:
        """Ends those whose time is over: gives them.  Call about once a second.  One that the disk keeps ends at the
        next start."""
        if now < self._next_end:
            return []
        over = [row for row in self._rows.values() if 0 < row.until <= now]
        for row in over:
            self._forget(row)
        self._next_end = min((row.until for row in self._rows.values() if row.until), default=inf)
        if over:
            gone = [(*row.key, row.until) for row in over]  # not one that replaced it meanwhile
            delete = "DELETE FROM blocks WHERE kind = ? AND value = ? AND until = ?"
            self._change(lambda db: db.executemany(delete, gone), lambda done: None)
        return over

    def _keep(self, row: Block) -> None:
        self._rows[row.key] = row
        if row.kind == "ip":
            self.networks.put(row)
        elif row.kind != "relay":
            self._index(row.kind)[row.value] = row
        if row.until:
            self._next_end = min(self._next_end, row.until)

    def _forget(self, row: Block) -> None:
        if self._rows.pop(row.key, None) is None:
            return  # its time was over meanwhile
        if row.kind == "ip":
            self.networks.remove(row)
        elif row.kind != "relay":
            self._index(row.kind).pop(row.value, None)
        self.changed(row, False)

    def _index(self, kind: str) -> dict[str, Block]:
        found: dict[str, Block] = getattr(self, f"{kind}s")
        return found


def value_of(kind: str, text: str) -> str:
    """What an operator typed, as it is kept and looked up.  Raises ValueError."""
    if kind == "ip":
        return _network(text)
    if kind == "domain":
        pattern = notation.domain_pattern(text)
        if pattern == "*":
            raise ValueError("every domain is too many: relayctl shaping suspend --all holds all that goes out")
        return pattern
    if kind == "connection" and text.startswith(_RELAYING):
        return _RELAYING + notation.network(text.removeprefix(_RELAYING))
    return notation.name(text)


def _network(text: str) -> str:
    network = notation.network(text)
    address, _, length = network.partition("/")
    mapped = IPv6Address(address).ipv4_mapped if ":" in address else None
    if mapped and int(length) >= 96:
        network = f"{mapped}/{int(length) - 96}"  # so our listeners see them
    if network.endswith("/0"):
        raise ValueError(f"{text} is everybody: relayctl drain on takes no more mail from anybody")
    return network


def _parts(network: str) -> tuple[int, int, int]:
    """(IP version, prefix length, the prefix as a number)."""
    address, _, length = network.partition("/")
    found = ip_address(address)
    return found.version, int(length), int(found) >> (found.max_prefixlen - int(length))


@lru_cache(maxsize=4096)
def _address(client: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(client)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found
