"""The domain watch: a real DNS server on the loopback, a real directory, and time that is moved by hand."""

import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from relayd.directory import Directory
from relayd.directory.senders import GRACE
from relayd.domainwatch import AT_ONCE, PATIENCE, DomainWatch
from relayd.errors import InputError
from relayd.message.dkim import dns_record, txt_strings
from relayd.records import Record, decode
from relayd.resolver import Resolver, ResolverSettings
from relayd.verification import Source, Subject
from tests.dkim_kit import rsa
from tests.dns_server import DnsServer

NOW = 1_700_000_000.0
KEY = rsa(domain="crm.test", selector="s1")
T1 = Source("t1", "192.0.2.10", "t1.relay.test")


def txt(name: str, text: str) -> str:
    return f"{name} TXT " + " ".join(f'"{part}"' for part in txt_strings(text)) + "\n"


WELL = (
    txt(*dns_record(KEY))
    + txt("crm.test", "v=spf1 include:_spf.crm.test -all")
    + txt("_spf.crm.test", "v=spf1 ip4:192.0.2.0/24 -all")
    + txt("_dmarc.crm.test", "v=DMARC1; p=reject")
    + "crm.test MX 10 mx.crm.test\n"
)


class Watching(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = NOW
        self.dns = DnsServer(reactor)
        self.dns.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.dns.stop()))
        path = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, path)
        self.directory = Directory(Path(path) / "directory.sqlite", reactor.callFromThread)
        self.addCleanup(self.directory.close)
        self.resolver = Resolver(reactor, ResolverSettings((self.dns.address,)), random.Random(7), clock=self.clock)
        self.addCleanup(self.resolver.close)
        self.records: list[Record] = []
        self.disk = True
        self.held: list[Any] = []
        self.unwanted: set[str] = set()
        self.subjects: dict[str, Any] = {}
        self.watch = DomainWatch(
            self.clock,
            self.directory.senders,
            self.resolver,
            lambda row: self.subjects.get(row.domain) or Subject(row.domain, "mx1.relay.test", (KEY,), (T1,)),
            lambda row: row.account not in self.unwanted,
            self.keep,
            self.clock.seconds,
            random.Random(1),
        )
        self.watch.startService()
        self.addCleanup(lambda: self.watch.running and self.watch.stopService())

    def keep(self, lines: bytes, done: Any) -> None:
        self.records += map(decode, lines.splitlines(keepends=True))
        if self.disk:
            done(None)
        else:
            self.held.append(done)

    async def until(self, fact: Any) -> None:
        """Lets the reactor turn until something is so."""
        while not fact():
            turn: Deferred[None] = Deferred()
            reactor.callLater(0, turn.callback, None)
            await turn

    async def done(self, future: Any) -> Any:
        await self.until(future.done)
        return future.result()

    async def register(self, domain: str = "crm.test", account: str = "crm") -> None:
        if self.directory.account(account) is None:
            await self.done(self.directory.add_account(account, now=NOW))
        await self.done(self.directory.register_domain(domain, account=account, now=self.clock.seconds()))

    def row(self, domain: str = "crm.test") -> Any:
        return self.directory.senders.get(domain)

    async def later(self, seconds: float, fact: Any) -> None:
        self.clock.advance(seconds)
        await self.until(fact)

    def kinds(self) -> list[tuple[str, str]]:
        return [(record.kind, record.domain) for record in self.records]

    async def test_a_new_domain_is_checked_unasked_and_its_verification_recorded(self) -> None:
        self.dns.load(WELL)
        await self.register()
        await self.later(5, lambda: self.row().state == "verified")
        (record,) = self.records
        assert (record.kind, record.account, record.domain, record.time) == (
            "DomainVerified",
            "crm",
            "crm.test",
            NOW + 5,
        )
        assert {finding.result for finding in self.row().findings} == {"pass"}

    async def test_nothing_is_looked_up_for_an_account_without_domain_check(self) -> None:
        self.unwanted = {"crm"}
        self.dns.load(WELL)
        await self.register()
        await self.register("other.test", "other")
        self.subjects["other.test"] = Subject("other.test", "mx1.relay.test", (), (T1,))
        await self.later(5, lambda: self.row("other.test").checked)
        assert self.row().checked == 0
        assert not [name for name, _ in self.dns.questions() if name.endswith("crm.test")]

    async def test_what_was_just_published_counts_at_the_next_check_whatever_our_cache_holds(self) -> None:
        await self.register()
        await self.later(5, lambda: self.row().checked)
        assert self.row().state == "unverified" and self.records == []
        self.dns.load(WELL)
        await self.later(331, lambda: self.row().state == "verified")
        assert self.kinds() == [("DomainVerified", "crm.test")]

    async def test_a_domain_that_fails_for_a_day_is_failing_and_that_is_recorded_with_the_reason(self) -> None:
        self.dns.load(WELL)
        await self.register()
        await self.watch.verify("crm.test")
        self.dns.load(WELL.replace("192.0.2.0/24", "203.0.113.0/24"))
        self.clock.advance(1)
        assert (await self.watch.verify("crm.test")).state == "verified"
        self.clock.advance(GRACE)
        await self.until(lambda: self.row().state == "failing")
        assert self.kinds() == [("DomainVerified", "crm.test"), ("DomainFailing", "crm.test")]
        assert "mail from 192.0.2.10 gets fail" in self.records[1].note

    async def test_a_dns_that_fails_changes_no_state(self) -> None:
        self.dns.load(WELL)
        await self.register()
        await self.watch.verify("crm.test")
        self.dns.load(WELL.replace("crm.test TXT", "crm.test SERVFAIL #"))
        for _ in range(3):
            self.clock.advance(GRACE + 1)
            row = await self.watch.verify("crm.test")
        assert row.state == "verified" and "unknown" in {finding.result for finding in row.findings}
        assert len(self.records) == 1

    async def test_a_dns_that_says_nothing_ends_in_an_unknown_finding(self) -> None:
        self.dns.load("s1._domainkey.crm.test DROP")
        await self.register()
        checking = self.watch.verify("crm.test")
        await self.until(lambda: self.dns.asked)
        self.clock.advance(PATIENCE)
        row = await checking
        (finding,) = row.findings
        assert (row.state, finding.result, finding.text) == (
            "unverified",
            "unknown",
            "the DNS took longer than 60 s to answer",
        )

    async def test_the_record_is_on_disk_before_the_state_is(self) -> None:
        self.disk = False
        self.dns.load(WELL)
        await self.register()
        checking = self.watch.verify("crm.test")
        await self.until(lambda: self.held)
        assert self.row().state == "unverified" and self.kinds() == [("DomainVerified", "crm.test")]
        self.held.pop()(None)
        assert (await checking).state == "verified"

    async def test_a_record_that_cannot_be_kept_leaves_the_state_for_the_next_check(self) -> None:
        self.disk = False
        self.dns.load(WELL)
        await self.register()
        await self.later(5, lambda: self.held)
        self.held.pop()(RuntimeError("refused"))
        assert self.row().state == "unverified" and len(self.flushLoggedErrors(RuntimeError)) == 1
        self.disk = True
        await self.later(5, lambda: self.row().state == "verified")

    async def test_who_asks_during_a_check_gets_its_result_and_nothing_is_asked_twice(self) -> None:
        self.dns.load(WELL)
        await self.register()
        sources = (T1, Source("t2", "192.0.2.11", "t2.relay.test"))
        self.subjects["crm.test"] = Subject("crm.test", "mx1.relay.test", (KEY,), sources)
        one, other = self.watch.verify("crm.test"), self.watch.verify("crm.test")
        assert await one == await other
        assert len(set(self.dns.questions())) == len(self.dns.questions())

    async def test_many_domains_are_checked_some_at_a_time_and_none_is_forgotten(self) -> None:
        names = [f"d{n}.test" for n in range(2 * AT_ONCE)]
        for name in names:
            await self.register(name)
            self.subjects[name] = Subject(name, "mx1.relay.test", (rsa(domain=name, selector="k"),))
        self.dns.load("\n".join(f"k._domainkey.{name} DROP" for name in names))
        await self.later(5, lambda: len(self.dns.asked) >= AT_ONCE)
        assert len(set(self.dns.questions())) == AT_ONCE
        self.dns.load("")
        await self.later(5, lambda: self.watch._slots.tokens == AT_ONCE)
        await self.later(5, lambda: all(self.row(name).checked for name in names))

    async def test_domains_whose_dns_hangs_keep_no_other_waiting(self) -> None:
        names = [f"d{n}.test" for n in range(AT_ONCE - 1)]
        for name in names:
            await self.register(name)
            self.subjects[name] = Subject(name, "mx1.relay.test", (rsa(domain=name, selector="k"),))
        self.dns.load(WELL + "\n".join(f"k._domainkey.{name} DROP" for name in names))
        await self.later(5, lambda: len(self.dns.asked) == len(names))
        await self.done(self.directory.register_domain("crm.test", account="crm", now=NOW))
        self.directory.senders.keep(msgspec.structs.replace(self.row(), due=NOW + 1))
        await self.later(5, lambda: self.row().state == "verified")

    async def test_a_domain_that_is_not_registered_or_not_any_more_is_refused(self) -> None:
        await self.assertFailure(self.watch.verify("crm.test"), InputError)
        self.disk = False
        self.dns.load(WELL)
        await self.register()
        checking = self.watch.verify("crm.test")
        await self.until(lambda: self.held)
        await self.done(self.directory.remove_domain("crm.test"))
        self.held.pop()(None)
        await self.assertFailure(checking, InputError)
        assert self.row() is None

    async def test_a_stop_ends_checks_without_a_result(self) -> None:
        self.dns.load("s1._domainkey.crm.test DROP")
        await self.register()
        checking = self.watch.verify("crm.test")
        await self.until(lambda: self.dns.asked)
        self.watch.stopService()
        await self.assertFailure(checking, CancelledError)
        assert self.row().checked == 0
        asked = len(self.dns.asked)
        self.clock.advance(3600)
        assert len(self.dns.asked) == asked

    async def test_a_fault_of_our_own_is_logged_and_keeps_no_other_domain_waiting(self) -> None:
        self.dns.load(WELL)
        await self.register("bad.test")
        await self.register()
        self.subjects["bad.test"] = object()
        await self.later(5, lambda: self.row().state == "verified")
        assert len(self.flushLoggedErrors(AttributeError)) == 1
        assert self.watch._slots.tokens == AT_ONCE
