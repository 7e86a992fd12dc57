"""The blocklist watch: asks DNS blocklists (RFC 5782) again and again whether they list the sources' addresses.

In: zones, and each source's addresses as the world sees them.  Out: what is listed where and why, and which zones
cannot be believed.  A zone's answer outside 127.0.0.0/8, or 127.255.255.x, says that it does not answer us; then, and
while it is silent, what it said before holds.  One that lists 127.0.0.1 lists everything, and is not believed.
"""

from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.pulse import pulse
from relayd.reply import printable
from relayd.resolver import ResolveError, Resolver

EVERY = 1800.0  # seconds between rounds
BY = "blocklists"  # who drains a source by itself
_LONGEST = 200  # characters of a reason
_NOBODY = "127.0.0.1"  # what no zone may list (RFC 5782 section 5)


class Listing(msgspec.Struct, frozen=True):
    """``reason``: the zone's own words, "" if it gives none."""

    address: str
    zone: str
    reason: str

    def words(self) -> str:
        return f"{self.address} is listed by {self.zone}" + (f": {self.reason}" if self.reason else "")


class NoAnswer(Exception):
    """What a zone says is no answer to the question; the text says why."""


class Blocklists(Service):
    """``changed`` is called when listings have come or gone.  One question at a time: nobody is hurried."""

    name = "blocklists"
    log = Logger()

    def __init__(self, reactor: Any, resolver: Resolver) -> None:
        self.changed: Callable[[], None] = lambda: None
        self.faults: dict[str, str] = {}  # of zones
        self._listings: dict[tuple[str, str], Listing] = {}  # by address and zone
        self._resolver = resolver
        self._zones: Sequence[str] = ()
        self._drain = False
        self._sources: Mapping[str, Sequence[str]] = {}
        self._round: Deferred[None] | None = None
        self._ticker = pulse(reactor, self._begin)

    def configure(self, zones: Sequence[str], drain: bool, sources: Mapping[str, Sequence[str]]) -> None:
        """What is asked from now on, at once if the watch runs; what was found of the same is kept."""
        self._zones, self._drain, self._sources = zones, drain, sources
        asked = {(address, zone) for own in sources.values() for address in own for zone in zones}
        self._listings = {key: listing for key, listing in self._listings.items() if key in asked}
        self.faults = {zone: fault for zone, fault in self.faults.items() if zone in zones}
        if self.running:
            self._end()
            self._ticker.start(EVERY)

    def of(self, source: str) -> list[Listing]:
        """Where a source is listed."""
        own = self._sources.get(source, ())
        return [listing for listing in self._listings.values() if listing.address in own]

    def drained(self) -> dict[str, str]:
        """The sources to be drained, and why."""
        listed = {name: self.of(name) for name in self._sources} if self._drain else {}
        return {name: "; ".join(listing.words() for listing in found) for name, found in listed.items() if found}

    def warnings(self) -> list[str]:
        """What an operator should know."""
        found = [f"source {name}: {listing.words()}" for name in self._sources for listing in self.of(name)]
        return found + [f"blocklist {zone}: {fault}" for zone, fault in self.faults.items()]

    def startService(self) -> None:
        super().startService()
        self._ticker.start(EVERY)

    def stopService(self) -> None:
        super().stopService()
        self._end()

    def _end(self) -> None:
        if self._ticker.running:
            self._ticker.stop()
        if self._round is not None:
            self._round.cancel()
            self._round = None

    def _begin(self) -> None:
        if self._round is None or self._round.called:
            self._round = Deferred.fromCoroutine(self._ask()).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self.log.failure("Asking the blocklists failed by our own fault", failure)

    async def _ask(self) -> None:
        """One round.  A zone that gives no answer is asked nothing more until the next."""
        for zone in self._zones:
            try:
                if await self._codes(_NOBODY, zone):
                    for address in self._addresses():
                        self._found(address, zone, None)
                    raise NoAnswer("it lists 127.0.0.1, and so everything: it is not believed")
                for address in self._addresses():
                    codes = await self._codes(address, zone)
                    listing = Listing(address, zone, await self._reason(address, zone)) if codes else None
                    self._found(address, zone, listing)
            except (NoAnswer, ResolveError) as fault:
                if zone not in self.faults:
                    self.log.warn("Blocklist {zone}: {fault}", zone=zone, fault=str(fault))
                self.faults[zone] = str(fault)
            else:
                self.faults.pop(zone, None)

    def _addresses(self) -> list[str]:
        return list(dict.fromkeys(address for own in self._sources.values() for address in own))

    async def _codes(self, address: str, zone: str) -> list[str]:
        """By what codes the zone lists the address, none if it does not.  Raises NoAnswer, ResolveError."""
        answer = await self._resolver.query(_asked(address, zone), "A", fresh=True)
        codes = [str(record.to_text()) for record in answer.records]
        for code in codes:
            if code.startswith("127.255.255."):
                raise NoAnswer(f"it refuses our questions ({code}): ask it by a resolver of your own, or register")
            if not code.startswith("127."):
                raise NoAnswer(f"it answers {code}, which is no listing: it may be a blocklist no more")
        return codes

    async def _reason(self, address: str, zone: str) -> str:
        try:
            answer = await self._resolver.query(_asked(address, zone), "TXT", fresh=True)
        except ResolveError:
            return ""  # listed it is all the same
        return "; ".join(printable(b"".join(getattr(text, "strings", ())), _LONGEST) for text in answer.records[:3])

    def _found(self, address: str, zone: str, listing: Listing | None) -> None:
        before = self._listings.get((address, zone))
        if listing is not None:
            self._listings[address, zone] = listing
        elif before is not None:
            del self._listings[address, zone]
        if bool(before) == bool(listing):
            return
        if listing is not None:
            self.log.warn("{what}", what=listing.words())
        else:
            self.log.info("{address} is not listed by {zone} any more", address=address, zone=zone)
        self.changed()


def _asked(address: str, zone: str) -> str:
    """The name to ask for: octets or nibbles reversed, then the zone (RFC 5782 sections 2.1 and 2.4)."""
    return f"{ip_address(address).reverse_pointer.rsplit('.', 2)[0]}.{zone}"
