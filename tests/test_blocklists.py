"""The blocklist watch: a real DNS server on the loopback, and time that is moved by hand."""

import random

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from relayd.blocklists import EVERY, Blocklists
from relayd.resolver import Resolver, ResolverSettings
from tests.dns_server import DnsServer

LISTED = '10.2.0.192.bl.test A 127.0.0.2\n10.2.0.192.bl.test TXT "spam seen" " today"\n'
V6 = "0.1.0.0" + ".0" * 20 + ".8.b.d.0.1.0.0.2.bl.test"
SOURCES = {"t1": ("192.0.2.10", "2001:db8::10"), "t2": ("192.0.2.11",)}


class Watching(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.clock = Clock()
        self.dns = DnsServer(reactor, "bl.test A 192.0.2.1")
        self.dns.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.dns.stop()))
        settings = ResolverSettings((self.dns.address,), tries=1)
        self.resolver = Resolver(reactor, settings, random.Random(7), clock=self.clock)
        self.addCleanup(self.resolver.close)
        self.changes: list[dict[str, str]] = []
        self.watch = Blocklists(self.clock, self.resolver)
        self.watch.changed = lambda: self.changes.append(self.watch.drained())
        self.watch.configure(("bl.test",), True, SOURCES)
        self.addCleanup(lambda: self.watch.running and self.watch.stopService())

    async def asked(self, zone: str) -> None:
        """A round that meets this zone."""
        self.dns.load("bl.test A 192.0.2.1\n" + zone)
        if self.watch.running:
            self.clock.advance(EVERY)
        else:
            self.watch.startService()
        assert self.watch._round is not None
        await self.watch._round

    async def test_without_zones_nobody_is_asked(self) -> None:
        self.watch.configure((), True, SOURCES)
        await self.asked(LISTED)
        assert self.dns.questions() == [] and self.watch.warnings() == []

    async def test_a_listing_is_told_with_zone_and_reason_and_ends_when_the_list_lets_go(self) -> None:
        await self.asked(LISTED)
        words = "192.0.2.10 is listed by bl.test: spam seen today"
        assert self.watch.warnings() == [f"source t1: {words}"]
        assert [listing.words() for listing in self.watch.of("t1")] == [words] and not self.watch.of("t2")
        await self.asked("")
        assert self.watch.warnings() == [] and self.changes == [{"t1": words}, {}]

    async def test_an_ipv6_address_is_asked_by_its_nibbles(self) -> None:
        await self.asked(f"{V6} A 127.0.0.4")
        assert (V6, "A") in self.dns.questions()
        assert self.watch.drained() == {"t1": "2001:db8::10 is listed by bl.test"}

    async def test_nothing_is_drained_unless_that_is_wanted(self) -> None:
        self.watch.configure(("bl.test",), False, SOURCES)
        await self.asked(LISTED)
        assert self.watch.drained() == {} and self.watch.of("t1")

    async def test_a_refusal_is_no_listing_and_is_told(self) -> None:
        await self.asked("*.bl.test A 127.255.255.254")
        assert self.watch.drained() == {}
        assert self.watch.warnings()[0].startswith("blocklist bl.test: it refuses our questions (127.255.255.254)")

    async def test_an_answer_outside_of_127_is_no_listing(self) -> None:
        await self.asked("*.bl.test A 192.0.2.80")
        assert self.watch.drained() == {} and "it answers 192.0.2.80" in self.watch.warnings()[0]

    async def test_a_zone_that_lists_everything_is_not_believed_any_more(self) -> None:
        await self.asked(LISTED)
        await self.asked("*.bl.test A 127.0.0.2")
        assert self.watch.drained() == {} and "so everything" in self.watch.warnings()[0]

    async def test_while_a_zone_does_not_answer_what_it_said_holds(self) -> None:
        await self.asked(LISTED)
        await self.asked("1.0.0.127.bl.test SERVFAIL")
        assert set(self.watch.drained()) == {"t1"} and "SERVFAIL" in self.watch.warnings()[-1]
        await self.asked("")
        assert self.watch.warnings() == []

    async def test_what_is_not_asked_any_more_is_forgotten_and_the_rest_asked_at_once(self) -> None:
        await self.asked(LISTED)
        before = len(self.dns.asked)
        self.watch.configure(("bl.test",), True, {"t1": ("192.0.2.12",)})
        assert self.watch.drained() == {} and self.watch._round is not None
        await self.watch._round
        assert [name for name, _ in self.dns.questions()[before:]] == ["1.0.0.127.bl.test", "12.2.0.192.bl.test"]

    async def test_a_stop_ends_the_round_that_is_under_way(self) -> None:
        self.dns.load("1.0.0.127.bl.test DROP")
        self.watch.startService()
        waiting = self.watch._round
        self.watch.stopService()
        assert waiting is not None and waiting.called and self.watch.faults == {}
