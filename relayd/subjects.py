"""Subjects: what the DNS has to agree with for each sender domain, and which return path its mail may have.

In: a registration, the configuration, the account's ways in and keys.  Out: the ``Subject`` that the domain watch
checks it against and ``relayctl domain`` shows records of; the domain of our return path for its mail.
"""

from collections.abc import Callable, Iterable

import msgspec

from relayd.assembly import seen
from relayd.config import Config
from relayd.directory import Directory, SenderDomain
from relayd.signing import Keyring
from relayd.streams import Streams
from relayd.verification import Source, Subject, returns_to


class Subjects:
    """See the module.  ``loaded()``: the configuration that holds now."""

    def __init__(self, loaded: Callable[[], Config], directory: Directory, streams: Streams, keyring: Keyring) -> None:
        self._loaded = loaded
        self._directory = directory
        self._streams = streams
        self._keyring = keyring

    def of(self, row: SenderDomain) -> Subject:
        """The keys that sign it, the addresses it is sent from, and the zone of the nearest account that has one."""
        loaded, keys = self._loaded(), self._keyring.find(row.account, row.domain).keys
        aligned = tuple(key for key in keys if f".{row.domain}".endswith(f".{key.domain}"))
        sources = sender_sources(loaded, self._pools_of(row.account))
        returns = loaded.feedback.domain if aligned else ""
        zone = self._zone_of(row.account)
        return Subject(row.domain, loaded.node.name, aligned, sources, loaded.node.spf, zone, returns=returns)

    def judged(self, row: SenderDomain) -> Subject:
        """By what mail leaves with: without [feedback] domain, the sender's own return path and none in a zone."""
        subject = self.of(row)
        return subject if self._loaded().feedback.domain else msgspec.structs.replace(subject, zone="")

    def wanted(self, row: SenderDomain) -> bool:
        """Whether it is to be checked unasked."""
        account = self._directory.account(row.account)
        return account is not None and account.domain_check != "off"

    def returns_to(self, account: str, domain: str, signed: bool) -> str:
        """The domain of our return path for mail of an account from this domain; "": the sender's own stays."""
        own = self._loaded().feedback.domain
        zone = self._zone_of(account) if own else ""
        row = self._directory.senders.covering(account, domain) if zone else None
        return returns_to(own, zone, row.findings if row else (), signed=signed)

    def _zone_of(self, account: str) -> str:
        """The zone of the nearest account that has one, "" if none has."""
        owners = map(self._directory.account, self._directory.lineage(account))
        return next((owner.zone for owner in owners if owner and owner.zone), "")

    def _pools_of(self, account: str) -> set[str]:
        """The pools that mail of an account, or of one below it, may leave by; all, while there is no way in."""
        loaded, streams = self._loaded(), self._streams
        ways = [(row.account, row.streams) for row in self._directory.connections()]
        ways += [(entry.account, (entry.stream,)) for door in loaded.listener for entry in door.allow]
        pools = {
            pool
            for owner, names in ways
            if account in self._directory.lineage(owner)
            for stream in streams.named(owner, names)
            for pool in streams.scheduling(owner, stream).all_pools()
        }
        return pools or {pool for name in loaded.stream for pool in streams.scheduling(account, name).all_pools()}


def sender_sources(loaded: Config, pools: Iterable[str]) -> tuple[Source, ...]:
    """The addresses, as the world sees them, that mail leaves from by these pools or their overflows; local ones it
    does not see."""
    used = {name for pool in pools for name in (pool, loaded.pool[pool].overflow) if name}
    names = sorted({name for pool in used for name in loaded.pool[pool].sources})
    sources = [(name, loaded.source[name]) for name in names]
    return tuple(Source(name, address, source.ehlo) for name, source in sources for address in seen(source))
