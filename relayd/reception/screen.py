"""The screen: whether a recipient is kept from mail, by a stop-list, by what its address is, or by its domain's DNS.

In: a stream, the lists that count, an address.  Out, through ``done``, once: None, or why it gets no copy.  Nearly
always on the spot; only a suspect address waits for the disk, and a new domain for the DNS.  Nobody else is ever asked.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd import catalogue
from relayd.address import domain_of
from relayd.reply import Reply
from relayd.resolver import ResolveError, Resolver
from relayd.submission import Stream
from relayd.suppression import Entry, Suppressions
from relayd.validation import OFF, Finding, Lists, check, dead_finding, domain_finding


class Held(msgspec.Struct, frozen=True):
    """Why a recipient gets no copy: what refuses it; or with ``drop``, it is taken and nothing is sent."""

    reply: Reply
    drop: bool = False

    @property
    def listed(self) -> bool:
        """Because of a list, not of what the address is."""
        return self.reply in (catalogue.SUPPRESSED, catalogue.MAILBOX_FULL)


Done = Callable[[Held | None], None]


class Screen:
    """``routed(domain)``: whether it has a static route; such domains are not looked up."""

    log = Logger()

    def __init__(
        self,
        suppressions: Suppressions,
        lists: Callable[[], Lists],
        resolver: Resolver,
        routed: Callable[[str], bool],
        now: Callable[[], float],
    ) -> None:
        self._suppressions = suppressions
        self._lists = lists
        self._resolver = resolver
        self._routed = routed
        self._now = now

    def check(self, stream: Stream, lists: tuple[str, ...], address: str, done: Done) -> None:
        """See the module."""
        rules = stream.validation
        finding = check(rules, self._lists(), address) if rules is not OFF else None
        if finding is not None:
            done(_held(finding))
        elif self._suppressions.suspects(lists, address):
            self._suppressions.look_up(
                lists, address, self._now(), lambda found: self._looked_up(found, stream, address, done)
            )
        else:
            self._resolve(stream, address, done)

    def _looked_up(self, found: Entry | Exception | None, stream: Stream, address: str, done: Done) -> None:
        if found is None:
            self._resolve(stream, address, done)
        elif isinstance(found, Exception):
            self.log.error("The suppression lists cannot be read: {fault}", fault=str(found))
            done(Held(catalogue.LISTS_UNREADABLE))
        elif found.reason == "full":
            done(Held(catalogue.MAILBOX_FULL))
        elif found.reason == "bounce" and stream.validation != OFF:
            done(_held(dead_finding(stream.validation, address)))
        else:
            done(Held(catalogue.SUPPRESSED))

    def _resolve(self, stream: Stream, address: str, done: Done) -> None:
        rules, domain = stream.validation, domain_of(address)
        if rules is OFF or rules.domain == "accept" or self._routed(domain) or self._resolver.cached_hosts(domain):
            done(None)
            return

        def resolved(fault: str) -> None:
            done(_held(domain_finding(rules, domain, fault)))

        def broken(failure: Failure) -> str:
            self.log.failure("Looking up {domain} failed", failure, domain=domain)
            return ""  # trouble with the DNS refuses nobody

        Deferred.fromCoroutine(self._fault(domain)).addErrback(broken).addCallback(resolved)

    async def _fault(self, domain: str) -> str:
        try:
            await self._resolver.hosts(domain)
        except ResolveError as error:
            return type(error).__name__
        return ""


def _held(finding: Finding | None) -> Held | None:
    return None if finding is None else Held(finding.reply, finding.verdict == "drop")


def all_checked(screen: Screen, stream: Stream, lists: tuple[str, ...], addresses: list[str], done: Any) -> None:
    """Every address at once; ``done`` gets {address: why it is held} of those that are."""
    held: dict[str, Held] = {}
    left = len(addresses) + 1

    def one(address: str, found: Held | None) -> None:
        nonlocal left
        left -= 1
        if found is not None:
            held[address] = found
        if not left:
            done(held)

    for address in addresses:
        screen.check(stream, lists, address, lambda found, address=address: one(address, found))  # type: ignore[misc]
    one("", None)
