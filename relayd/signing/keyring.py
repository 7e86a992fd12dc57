"""The keyring: which DKIM keys sign a message (RFC 6376, alignment by RFC 7489 section 3.1.1).

In: the directory's keys, which belong to accounts, and the configuration's, which serve all accounts.  Out: for an
account and a From domain the keys that sign, or the words for why none does.  Every look-up is in memory and takes as
long with 20,000 domains as with one: a key of the directory is loaded when it is first used, and the last used ones
are kept.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

import msgspec

from relayd.message.dkim import Key, aligned, load_key

LOADED = 20_000  # keys of the directory that are kept ready: 5 KB each; one loaded anew costs 0.5 ms at its first use


class StoredKey(Protocol):
    """A key as the directory has it."""

    @property
    def domain(self) -> str: ...
    @property
    def account(self) -> str: ...
    @property
    def selector(self) -> str: ...
    @property
    def pem(self) -> bytes: ...


class Rules(msgspec.Struct, frozen=True):
    """What the configuration says: its keys by domain, why others could not be read, the relay's own domain (""
    for none)."""

    keys: Mapping[str, tuple[Key, ...]] = {}
    faults: Mapping[str, str] = {}
    own: str = ""


class Found(msgspec.Struct, frozen=True):
    """``keys`` sign, the relay's own last; ``fault`` is why none of the From domain does, "" if one does."""

    keys: list[Key]
    fault: str


class Keyring:
    """``stored(domain)`` gives the directory's keys of exactly that domain, of whatever accounts; ``lineage(account)``
    the accounts whose keys it may use; ``defers(account, stream)``: whether mail waits rather than goes without a
    signature of its From domain."""

    def __init__(
        self,
        stored: Callable[[str], Sequence[StoredKey]] = lambda domain: (),
        lineage: Callable[[str], Sequence[str]] = lambda account: (account,),
        defers: Callable[[str, str], bool] = lambda account, stream: False,
    ) -> None:
        self._stored = stored
        self._lineage = lineage
        self.defers = defers
        self._loaded = lru_cache(LOADED)(_loaded)
        self.rules = Rules()

    def find(self, account: str, domain: str) -> Found:
        """The keys for mail of an account with this From domain (lower case, A-labels): the domain's or else its
        nearest parent's, at each name the account's own before the configuration's; then the relay's own."""
        of_account = _Of(self, account)
        own = self._own()
        keys = aligned(domain, of_account, own)  # type: ignore[arg-type]  # it only asks get()
        if of_account.found:
            return Found(keys, "")
        return Found(keys, f"no DKIM key for d={domain}" + (f": {of_account.fault}" if of_account.fault else ""))

    def warnings(self) -> list[str]:
        """What an operator should mend."""
        found = [f"dkim {domain}: {fault}" for domain, fault in self.rules.faults.items()]
        if self.rules.own and not self._own():
            found.append(f"there is no DKIM key for [node] dkim_domain {self.rules.own}")
        return found

    def load(self, row: StoredKey) -> Key | str:
        """A key of the directory, or what is wrong with it."""
        return self._loaded(row.domain, row.selector, row.pem)

    def _own(self) -> tuple[Key, ...]:
        """The relay's own keys, whoever's account they are filed under."""
        own = self.rules.own
        if not own:
            return ()
        return self.rules.keys.get(own) or tuple(
            key for row in self._stored(own) if not isinstance(key := self.load(row), str)
        )


class _Of:
    """The keys that an account may use, by domain; remembers whether there were any and what was wrong with others."""

    __slots__ = ("_accounts", "_ring", "fault", "found")

    def __init__(self, ring: Keyring, account: str) -> None:
        self._ring = ring
        self._accounts = ring._lineage(account)
        self.found = False
        self.fault = ""

    def get(self, domain: str) -> Sequence[Key]:
        ring = self._ring
        keys = []
        for row in ring._stored(domain):
            if row.account in self._accounts:
                key = ring.load(row)
                if isinstance(key, str):
                    self.fault = self.fault or f"selector {row.selector}: {key}"
                else:
                    keys.append(key)
        found = keys or ring.rules.keys.get(domain, ())
        if found:
            self.found = True
        elif not self.fault:
            self.fault = ring.rules.faults.get(domain, "")
        return found


def _loaded(domain: str, selector: str, pem: bytes) -> Key | str:
    try:
        return Key(domain, selector, load_key(pem, known=True))
    except ValueError as error:
        return str(error)
