"""The resolver against a scripted server on real loopback sockets; time is a Clock's, so nothing here sleeps."""

import random
import subprocess
import sys
import tempfile
from pathlib import Path

import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from relayd.resolver import (
    LookupFailed,
    MailHost,
    MailLoop,
    NoMail,
    NoRoute,
    NoSuchDomain,
    Resolver,
    ResolverSettings,
)
from relayd.resolver.cache import Cache
from relayd.resolver.mx import site_name
from relayd.resolver.stub import endpoint, system_nameservers
from relayd.resolver.wire import _Datagrams, question, reply_to
from tests.dns_server import DnsServer, code, drop, garbage

ZONE = """
a.test       600 MX 20 mx2.a.test
a.test       600 MX 10 mx1.a.test
mx1.a.test   300 A 192.0.2.1
mx2.a.test   300 A 192.0.2.2
twins.test   MX 10 mx1.a.test
twins.test   MX 10 mx2.a.test
other.test   MX 5 mx2.a.test
other.test   MX 90 mx1.a.test
one.test     MX 10 mx1.a.test
bare.test    900 A 192.0.2.9
both.test    A 192.0.2.11
both.test    A 192.0.2.12
both.test    AAAA 2001:db8::11
null.test    MX 0 .
odd.test     MX 0 .
odd.test     MX 10 mx1.a.test
text.test    TXT "hello"
gone.test    MX 10 no1.gone.test
gone.test    MX 20 no2.gone.test
part.test    MX 10 lame.part.test
part.test    MX 20 mx1.a.test
lame.part.test SERVFAIL
lame.test    MX 10 lame.part.test
lame.test    MX 20 no1.gone.test
alias.test   CNAME a.test
via.test     MX 10 www.via.test
www.via.test CNAME mx1.a.test
zero.test    MX 10 zero.zero.test
zero.zero.test A 0.0.0.0
zero.zero.test AAAA ::ffff:127.0.0.1
strange.test MX 10 a|b.test
strange.test MX 20 mx1.a.test
quick.test   0 A 192.0.2.3
long.test    900000 TXT "x"
servfail.test SERVFAIL
refused.test REFUSED
notimp.test  NOTIMP
garbage.test GARBAGE
drop.test    DROP
*.many.test  MX 10 mx1.a.test
"""


def start(coroutine):
    return Deferred.fromCoroutine(coroutine)


def names(found):
    return [host.name for host in found.hosts]


def preferences(found):
    return [host.preference for host in found.hosts]


class Scene(TestCase):
    """A server, a resolver that asks it, and a clock that both the cache and the time-outs follow."""

    timeout = 20

    def setUp(self):
        self.clock = Clock()
        self.server = self.new_server()
        self.resolver = self.new_resolver()

    def new_server(self, zone=ZONE):
        server = DnsServer(reactor, zone)
        server.start()
        self.addCleanup(lambda: start(server.stop()))
        return server

    def new_resolver(self, *servers, is_ours=lambda address, port: False, **settings):
        nameservers = tuple(server.address for server in servers or (self.server,))
        resolver = Resolver(reactor, ResolverSettings(nameservers, **settings), random.Random(7), is_ours, self.clock)
        self.addCleanup(resolver.close)
        return resolver

    def times_out(self, asked, reply):
        """An act: say nothing, and let the asker's time-out pass."""
        reactor.callLater(0, self.clock.advance, 3.0)

    async def fails(self, error, awaitable):
        try:
            found = await awaitable
        except error as caught:
            return caught.reply
        self.fail(f"no {error.__name__} but {found}")

    async def until(self, condition):
        """Let the reactor turn until something has come over the sockets."""
        while not condition():
            turn = Deferred()
            reactor.callLater(0, turn.callback, None)
            await turn


class MailHostsOfADomain(Scene):
    async def test_hosts_come_in_order_of_preference_with_their_addresses(self):
        found = await self.resolver.hosts("a.test")
        self.assertEqual(
            found.hosts, (MailHost("mx1.a.test", 10, ("192.0.2.1",)), MailHost("mx2.a.test", 20, ("192.0.2.2",)))
        )

    async def test_questions_are_counted_and_those_that_nobody_answers(self):
        self.assertEqual(await self.resolver.query("long.test", "TXT"), await self.resolver.query("long.test", "TXT"))
        await self.fails(LookupFailed, self.resolver.query("servfail.test", "MX"))
        self.assertEqual(self.resolver.totals, (2, 1, 2))

    async def test_case_and_final_dot_do_not_matter(self):
        found = await self.resolver.hosts("A.Test.")
        self.assertEqual(found.domain, "a.test")
        self.assertEqual(self.resolver.cached_hosts("a.TEST").hosts, found.hosts)

    async def test_equal_preferences_are_shuffled_at_each_call_from_one_cached_answer(self):
        orders = {tuple(names(await self.resolver.hosts("twins.test"))) for _ in range(40)}
        self.assertEqual(orders, {("mx1.a.test", "mx2.a.test"), ("mx2.a.test", "mx1.a.test")})
        self.assertEqual(self.server.questions().count(("twins.test", "MX")), 1)

    async def test_shuffling_never_crosses_preferences(self):
        self.server.load(
            "s.test MX 5 h0.test\n"
            + "".join(f"s.test MX {10 + i % 2} h{i}.test\n" for i in range(1, 9))
            + "".join(f"h{i}.test A 192.0.2.{i + 1}\n" for i in range(9))
        )
        for _ in range(20):
            found = await self.resolver.hosts("s.test")
            self.assertEqual(preferences(found), [5] + [10] * 4 + [11] * 4)
            self.assertEqual(len(set(names(found))), 9)

    async def test_shuffling_gives_each_order_about_as_often(self):
        self.server.load("t.test MX 1 a.test\nt.test MX 1 b.test\nt.test MX 1 c.test\n*.test A 192.0.2.1")
        await self.resolver.hosts("t.test")
        seen = [tuple(names(self.resolver.cached_hosts("t.test"))) for _ in range(1200)]
        self.assertEqual(len(set(seen)), 6)
        self.assertTrue(all(130 < seen.count(order) < 270 for order in set(seen)))

    async def test_domain_without_mx_is_its_own_host(self):
        found = await self.resolver.hosts("bare.test")
        self.assertEqual(found.hosts, (MailHost("bare.test", 0, ("192.0.2.9",)),))
        self.assertEqual(found.site, "bare.test")

    async def test_both_families_take_turns(self):
        found = await self.resolver.hosts("both.test")
        v4, v6, other = found.hosts[0].addresses
        self.assertEqual({v4, other}, {"192.0.2.11", "192.0.2.12"})
        self.assertEqual(v6, "2001:db8::11")

    async def test_null_mx_is_permanent_556(self):
        reply = await self.fails(NoMail, self.resolver.hosts("null.test"))
        self.assertEqual((reply.code, reply.enhanced), (556, "5.1.10"))
        self.assertIn("null.test", reply.text)

    async def test_null_mx_beside_another_is_ignored(self):
        self.assertEqual(names(await self.resolver.hosts("odd.test")), ["mx1.a.test"])

    async def test_unknown_domain_is_permanent(self):
        reply = await self.fails(NoSuchDomain, self.resolver.hosts("nowhere.test"))
        self.assertEqual((reply.code, reply.enhanced), (550, "5.1.2"))
        self.assertIn(self.server.address, reply.text)

    async def test_domain_with_neither_mx_nor_address_is_permanent(self):
        reply = await self.fails(NoRoute, self.resolver.hosts("text.test"))
        self.assertEqual((reply.code, reply.enhanced), (550, "5.4.4"))

    async def test_mx_hosts_without_any_address_are_permanent(self):
        reply = await self.fails(NoRoute, self.resolver.hosts("gone.test"))
        self.assertIn("no1.gone.test, no2.gone.test", reply.text)

    async def test_mx_hosts_of_which_one_cannot_be_looked_up_are_transient(self):
        reply = await self.fails(LookupFailed, self.resolver.hosts("lame.test"))
        self.assertEqual((reply.code, reply.enhanced), (451, "4.4.3"))

    async def test_host_that_cannot_be_looked_up_is_left_out_for_a_short_time(self):
        found = await self.resolver.hosts("part.test")
        self.assertEqual(names(found), ["mx1.a.test"])
        self.assertEqual(found.ttl, 10)
        self.assertEqual(found.site, site_name(["lame.part.test", "mx1.a.test"]))

    async def test_one_family_that_cannot_be_looked_up_leaves_the_other(self):
        self.server.acts["mx1.a.test", "AAAA"] = [code("SERVFAIL")] * 4
        self.assertEqual((await self.resolver.hosts("one.test")).hosts[0].addresses, ("192.0.2.1",))

    async def test_mx_may_point_to_a_cname(self):
        self.assertEqual((await self.resolver.hosts("via.test")).hosts, (MailHost("www.via.test", 10, ("192.0.2.1",)),))

    async def test_domain_that_is_a_cname_has_the_hosts_of_its_target(self):
        found = await self.resolver.hosts("alias.test")
        self.assertEqual(names(found), ["mx1.a.test", "mx2.a.test"])
        self.assertEqual(found.domain, "alias.test")

    async def test_additional_section_is_not_believed(self):
        def forged(asked, reply):
            reply.additional.append(dns.rrset.from_text("mx1.a.test.", 300, "IN", "A", "203.0.113.66"))
            return reply.to_wire()

        self.server.acts["one.test", "MX"] = [forged]
        self.assertEqual((await self.resolver.hosts("one.test")).hosts[0].addresses, ("192.0.2.1",))

    async def test_answer_for_another_name_is_not_believed(self):
        def forged(asked, reply):
            reply.answer.append(dns.rrset.from_text("mx1.a.test.", 300, "IN", "A", "203.0.113.66"))
            return reply.to_wire()

        self.server.acts["one.test", "MX"] = [forged]
        self.assertEqual((await self.resolver.hosts("one.test")).hosts[0].addresses, ("192.0.2.1",))

    async def test_addresses_that_lead_back_to_this_machine_are_no_addresses(self):
        await self.fails(NoRoute, self.resolver.hosts("zero.test"))

    async def test_mx_that_can_be_no_host_name_is_left_out(self):
        found = await self.resolver.hosts("strange.test")
        self.assertEqual((names(found), found.site), (["mx1.a.test"], "mx1.a.test"))

    async def test_at_most_sixteen_hosts_the_most_preferred(self):
        self.server.load("".join(f"big.test MX {i} h{i}.test\n" for i in range(30)) + "*.test A 192.0.2.1")
        self.assertEqual(preferences(await self.resolver.hosts("big.test")), list(range(16)))

    async def test_at_most_sixteen_addresses_of_a_host_from_both_families(self):
        lines = [f"big.test A 192.0.2.{i}\nbig.test AAAA 2001:db8::{i}" for i in range(1, 25)]
        self.server.load("\n".join(lines))
        found = (await self.resolver.hosts("big.test")).hosts[0].addresses
        self.assertEqual((len(found), sum(":" in address for address in found)), (16, 8))

    async def test_all_addresses_are_asked_at_once(self):
        held = []
        for key in [(host, family) for host in ("mx1.a.test", "mx2.a.test") for family in ("A", "AAAA")]:
            self.server.acts[key] = [lambda asked, reply: held.append((asked, reply))]
        waiting = start(self.resolver.hosts("a.test"))
        await self.until(lambda: len(held) == 4)
        for asked, reply in held:
            asked.send(reply.to_wire())
        self.assertEqual(len((await waiting).hosts), 2)

    async def test_authenticated_mx_is_secure(self):
        self.assertFalse((await self.resolver.hosts("one.test")).secure)
        self.server.authenticated = True
        self.assertTrue((await self.resolver.hosts("a.test")).secure)

    async def test_authenticated_addresses_without_mx_are_secure(self):
        self.server.authenticated = True
        self.assertTrue((await self.resolver.hosts("bare.test")).secure)

    async def test_what_is_no_domain_name_is_permanent_and_asked_of_nobody(self):
        for bad in ("", ".", "a..test", "-a.test", "a b.test", "[192.0.2.1]", "192.0.2.1", "x" * 64 + ".test",
                    "a." * 130 + "test", "ä.test", "a.test\n", "a\x00b.test", "a@b.test"):  # fmt: skip
            reply = await self.fails(NoSuchDomain, self.resolver.hosts(bad))
            self.assertTrue(reply.permanent and reply.text.isprintable(), bad)
            self.assertIsNone(self.resolver.cached_hosts(bad))
        self.assertEqual(self.server.asked, [])

    async def test_a_label_is_asked_as_it_is(self):
        await self.fails(NoSuchDomain, self.resolver.hosts("xn--d1acufc.test"))
        self.assertEqual(self.server.questions(), [("xn--d1acufc.test", "MX")])


class Failures(Scene):
    async def test_servfail_refused_and_notimp_are_transient_and_name_server_domain_and_code(self):
        for domain, word in (("servfail.test", "SERVFAIL"), ("refused.test", "REFUSED"), ("notimp.test", "NOTIMP")):
            reply = await self.fails(LookupFailed, self.resolver.hosts(domain))
            self.assertEqual((reply.code, reply.enhanced), (451, "4.4.3"))
            for part in (domain, self.server.address, f"answered {word}"):
                self.assertIn(part, reply.text)

    async def test_silence_is_transient_after_the_tries(self):
        self.server.acts["drop.test", "MX"] = [self.times_out] * 2
        reply = await self.fails(LookupFailed, self.resolver.hosts("drop.test"))
        self.assertIn("did not answer within 3 s", reply.text)
        self.assertEqual(self.server.questions(), [("drop.test", "MX")] * 2)

    async def test_garbage_is_ignored_until_the_time_out(self):
        def act(asked, reply):
            reactor.callLater(0, self.times_out, asked, reply)  # a turn later, so that the garbage is read before
            return garbage(asked, reply)

        self.server.acts["garbage.test", "MX"] = [act, act]
        reply = await self.fails(LookupFailed, self.resolver.hosts("garbage.test"))
        self.assertIn("datagrams that are no answer", reply.text)

    async def test_one_lost_datagram_does_no_harm(self):
        self.server.acts["a.test", "MX"] = [self.times_out]
        self.assertEqual(len((await self.resolver.hosts("a.test")).hosts), 2)

    async def test_referral_is_no_statement_that_there_is_no_data(self):
        def referral(asked, reply):
            reply.answer.clear()
            reply.authority = [dns.rrset.from_text("test.", 60, "IN", "NS", "ns.test.")]
            return reply.to_wire()

        self.server.acts["bare.test", "MX"] = [referral] * 2
        reply = await self.fails(LookupFailed, self.resolver.hosts("bare.test"))
        self.assertIn("referral", reply.text)

    async def test_data_in_an_answer_that_denies_the_name_is_transient(self):
        def contradiction(asked, reply):
            reply.set_rcode(dns.rcode.NXDOMAIN)
            return reply.to_wire()

        self.server.acts["a.test", "MX"] = [contradiction] * 2
        reply = await self.fails(LookupFailed, self.resolver.hosts("a.test"))
        self.assertIn("contradicts itself", reply.text)

    async def test_unfinished_cname_chain_is_asked_on(self):
        def only_cname(asked, reply):
            reply.answer = reply.answer[:1]
            return reply.to_wire()

        self.server.acts["alias.test", "MX"] = [only_cname]
        self.assertEqual(names(await self.resolver.hosts("alias.test")), ["mx1.a.test", "mx2.a.test"])
        self.assertIn(("a.test", "MX"), self.server.questions())

    async def test_endless_cname_chain_is_transient_and_bounded(self):
        def onward(asked, reply):
            reply = dns.message.make_response(asked.query)
            reply.answer = [
                dns.rrset.from_text(asked.name + ".", 60, "IN", "CNAME", f"x{len(self.server.asked)}.test.")
            ]
            return reply.to_wire()

        for i in range(20):
            self.server.acts[f"x{i}.test", "MX"] = [onward]
        reply = await self.fails(LookupFailed, self.resolver.hosts("x0.test"))
        self.assertIn("too many CNAMEs", reply.text)
        self.assertEqual(len(self.server.asked), 8)

    async def test_cname_loop_is_transient(self):
        self.server.load("l1.test CNAME l2.test\nl2.test CNAME l1.test")
        await self.fails(LookupFailed, self.resolver.hosts("l1.test"))


class OtherQueries(Scene):
    async def test_addresses_of_a_name(self):
        self.assertEqual(set(await self.resolver.addresses("both.test")), {"192.0.2.11", "192.0.2.12", "2001:db8::11"})

    async def test_addresses_of_an_unknown_name(self):
        await self.fails(NoSuchDomain, self.resolver.addresses("nowhere.test"))

    async def test_addresses_of_a_name_that_has_none(self):
        await self.fails(NoRoute, self.resolver.addresses("text.test"))

    async def test_addresses_that_cannot_be_looked_up(self):
        await self.fails(LookupFailed, self.resolver.addresses("servfail.test"))

    async def test_any_type_with_ttl_and_server(self):
        answer = await self.resolver.query("text.test", "txt")
        self.assertEqual(answer.records[0].strings, (b"hello",))
        self.assertEqual((answer.ttl, answer.server, answer.exists), (300, self.server.address, True))

    async def test_no_such_data_and_no_such_name_are_answers(self):
        nodata = await self.resolver.query("text.test", "A")
        nxdomain = await self.resolver.query("_dmarc.nowhere.test", "TXT")
        self.assertEqual((nodata.records, nodata.exists), ((), True))
        self.assertEqual((nxdomain.records, nxdomain.exists), ((), False))

    async def test_a_long_text_comes_whole_over_tcp(self):
        strings = " ".join(f'"{n:03}{"x" * 250}"' for n in range(30))
        self.server.load(f"s1._domainkey.text.test TXT {strings}")
        (record,) = (await self.resolver.query("s1._domainkey.text.test", "TXT")).records
        self.assertEqual([string[:3] for string in record.strings], [b"%03d" % n for n in range(30)])
        self.assertEqual(sum(map(len, record.strings)), 30 * 253)
        self.assertEqual([asked.transport for asked in self.server.asked], ["udp", "tcp"])

    async def test_a_fresh_answer_is_asked_for_whatever_the_cache_holds(self):
        for published in ("", 'text.test TXT "new"'):
            self.server.load(published)
            fresh = await self.resolver.query("text.test", "TXT", fresh=True)
            kept = await self.resolver.query("text.test", "TXT")
            self.assertEqual(len(fresh.records), bool(published))
            self.assertEqual(kept.records, fresh.records)
        self.assertEqual(len(self.server.asked), 2)

    async def test_a_fresh_question_that_fails_takes_nothing_from_the_cache(self):
        await self.resolver.query("text.test", "TXT")
        self.server.load("text.test SERVFAIL")
        await self.fails(LookupFailed, self.resolver.query("text.test", "TXT", fresh=True))
        self.assertEqual(len((await self.resolver.query("text.test", "TXT")).records), 1)

    async def test_authenticated_bit_is_passed_on(self):
        self.server.authenticated = True
        self.assertTrue((await self.resolver.query("text.test", "TXT")).authenticated)


class OwnAddress(Scene):
    def ours(self, *mine, port=25):
        return self.new_resolver(is_ours=lambda address, at: (address, at) in {(a, port) for a in mine})

    async def test_host_that_is_this_relay_and_all_less_preferred_are_dropped(self):
        self.assertEqual(names(await self.ours("192.0.2.2").hosts("a.test")), ["mx1.a.test"])

    async def test_host_of_the_same_preference_is_dropped_too(self):
        reply = await self.fails(MailLoop, self.ours("192.0.2.1").hosts("twins.test"))
        self.assertEqual((reply.code, reply.enhanced), (554, "5.4.6"))

    async def test_best_host_being_this_relay_is_a_loop(self):
        reply = await self.fails(MailLoop, self.ours("192.0.2.1").hosts("a.test"))
        self.assertIn("mx1.a.test", reply.text)

    async def test_one_of_a_hosts_addresses_is_enough(self):
        await self.fails(MailLoop, self.ours("2001:db8::11").hosts("both.test"))

    async def test_listener_on_another_port_than_mail_goes_to_is_no_loop(self):
        self.assertEqual(len((await self.ours("192.0.2.1", port=465).hosts("a.test")).hosts), 2)


class Caching(Scene):
    async def test_answer_is_asked_for_once_within_its_ttl_and_again_after_it(self):
        await self.resolver.hosts("bare.test")
        asked = len(self.server.asked)
        self.clock.advance(59)  # the negative answer for its MX holds 60 s
        await self.resolver.hosts("bare.test")
        self.assertEqual(len(self.server.asked), asked)
        self.clock.advance(1)
        await self.resolver.hosts("bare.test")
        self.assertEqual(self.server.questions().count(("bare.test", "MX")), 2)
        self.assertEqual(self.server.questions().count(("bare.test", "A")), 1)

    async def test_ttl_is_the_least_of_all_answers_and_counts_down(self):
        self.assertEqual((await self.resolver.hosts("a.test")).ttl, 300)
        self.clock.advance(100)
        self.assertEqual(self.resolver.cached_hosts("a.test").ttl, 200)

    async def test_hosts_hold_no_longer_than_an_address_that_was_cached_before(self):
        await self.resolver.query("mx1.a.test", "A")
        self.clock.advance(100)
        self.assertEqual((await self.resolver.hosts("one.test")).ttl, 200)

    async def test_cached_hosts_come_without_yielding_to_the_reactor(self):
        found = await self.resolver.hosts("a.test")
        with self.assertRaises(StopIteration) as returned:
            self.resolver.hosts("a.test").send(None)
        self.assertEqual(returned.exception.value, found)

    async def test_cached_hosts_are_none_before_and_after(self):
        self.assertIsNone(self.resolver.cached_hosts("a.test"))
        await self.resolver.hosts("a.test")
        self.assertIsNotNone(self.resolver.cached_hosts("a.test"))
        self.clock.advance(300)
        self.assertIsNone(self.resolver.cached_hosts("a.test"))

    async def test_known_error_is_none_from_cached_hosts_and_raised_at_once_by_hosts(self):
        await self.fails(NoMail, self.resolver.hosts("null.test"))
        self.assertIsNone(self.resolver.cached_hosts("null.test"))
        with self.assertRaises(NoMail):
            self.resolver.hosts("null.test").send(None)

    async def test_repeated_error_does_not_collect_tracebacks(self):
        for _ in range(3):
            try:
                await self.resolver.hosts("null.test")
            except NoMail as error:
                depth, trace = 0, error.__traceback__
                while trace:
                    depth, trace = depth + 1, trace.tb_next
        self.assertLess(depth, 4)

    async def test_negative_answer_holds_for_the_soa_minimum(self):
        await self.fails(NoSuchDomain, self.resolver.hosts("nowhere.test"))
        self.clock.advance(59)
        await self.fails(NoSuchDomain, self.resolver.hosts("nowhere.test"))
        self.assertEqual(len(self.server.asked), 1)
        self.clock.advance(1)
        await self.fails(NoSuchDomain, self.resolver.hosts("nowhere.test"))
        self.assertEqual(len(self.server.asked), 2)

    async def test_negative_answer_without_soa_holds_briefly(self):
        def bare(asked, reply):
            reply.authority.clear()
            return reply.to_wire()

        self.server.acts["text.test", "A"] = [bare]
        self.assertEqual((await self.resolver.query("text.test", "A")).ttl, 5)

    async def test_failure_is_repeated_for_a_short_time_without_asking(self):
        await self.fails(LookupFailed, self.resolver.hosts("servfail.test"))
        self.clock.advance(9)
        await self.fails(LookupFailed, self.resolver.hosts("servfail.test"))
        self.assertEqual(len(self.server.asked), 1)
        self.clock.advance(1)
        await self.fails(LookupFailed, self.resolver.hosts("servfail.test"))
        self.assertEqual(len(self.server.asked), 2)

    async def test_ttl_is_capped_and_has_a_floor(self):
        self.assertEqual((await self.resolver.query("long.test", "TXT")).ttl, 86400)
        self.assertEqual((await self.resolver.query("quick.test", "A")).ttl, 1)

    async def test_cache_is_bounded(self):
        resolver = self.new_resolver(cache_size=2)
        for name in ("d1.many.test", "d2.many.test", "d3.many.test"):
            await resolver.hosts(name)
        kept = [name for name in ("d1", "d2", "d3") if resolver.cached_hosts(name + ".many.test")]
        self.assertEqual(kept, ["d2", "d3"])


class AtOnce(Scene):
    async def test_thousands_of_look_ups_of_one_name_cost_one_query(self):
        found = await gatherResults([start(self.resolver.hosts("one.test")) for _ in range(3000)])
        self.assertEqual({names(each)[0] for each in found}, {"mx1.a.test"})
        self.assertEqual(
            sorted(self.server.questions()), [("mx1.a.test", "A"), ("mx1.a.test", "AAAA"), ("one.test", "MX")]
        )

    async def test_all_who_wait_get_the_error(self):
        waiting = [start(self.resolver.hosts("null.test")) for _ in range(3)]
        for each in waiting:
            await self.fails(NoMail, each)
        self.assertEqual(len(self.server.asked), 1)

    async def test_cancelling_one_leaves_the_others(self):
        first, second = start(self.resolver.hosts("one.test")), start(self.resolver.hosts("one.test"))
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(names(await second), ["mx1.a.test"])

    async def test_result_is_kept_even_if_all_who_asked_cancelled(self):
        only = start(self.resolver.query("text.test", "TXT"))
        only.cancel()
        self.failureResultOf(only, CancelledError)
        await self.resolver.query("text.test", "TXT")
        self.assertEqual(len(self.server.asked), 1)

    def held(self, *asked):
        """Make the server hold its answers to TXT questions about these names; gives the list of those it holds."""
        held = []
        for name in asked:
            self.server.acts[name, "TXT"] = [lambda asked, reply: held.append((asked, reply))]
        return held

    async def test_queries_under_way_are_bounded_and_the_others_wait_in_order(self):
        held = self.held("a.x.test", "b.x.test", "c.x.test", "d.x.test")
        resolver = self.new_resolver(max_inflight=2)
        waiting = [start(resolver.query(f"{letter}.x.test", "TXT")) for letter in "abcd"]
        await self.until(lambda: len(held) == 2)
        for i, due in enumerate((3, 4, 4, 4)):
            asked, reply = held[i]
            asked.send(reply.to_wire())
            await self.until(lambda due=due: len(held) == due)
        await gatherResults(waiting)
        order = [asked.name[0] for asked, _ in held]
        self.assertEqual((sorted(order[:2]), order[2:]), (["a", "b"], ["c", "d"]))

    async def test_more_waiting_than_allowed_fail_at_once(self):
        self.held("a.x.test", "b.x.test")
        resolver = self.new_resolver(max_inflight=1, max_waiting=1)
        for name in ("a.x.test", "b.x.test"):
            start(resolver.query(name, "TXT")).addErrback(lambda failure: failure.trap(LookupFailed) and None)
        reply = await self.fails(LookupFailed, resolver.query("c.x.test", "TXT"))
        self.assertIn("1 others wait", reply.text)

    async def test_waiting_for_a_slot_has_an_end(self):
        held = self.held("a.x.test")
        resolver = self.new_resolver(max_inflight=1, patience=2.0)
        first, second = start(resolver.query("a.x.test", "TXT")), start(resolver.query("text.test", "TXT"))
        await self.until(lambda: held)
        self.clock.advance(2.0)
        self.assertIn("waited too long", (await self.fails(LookupFailed, second)).text)
        held[0][0].send(held[0][1].to_wire())
        self.assertFalse((await first).exists)

    async def test_thousands_that_fail_at_once_for_want_of_sockets_all_fail_cleanly(self):
        class NoSockets(Clock):
            def listenUDP(self, *args, **kwargs):
                raise CannotListenError("", 0, OSError(24, "Too many open files"))

        clock = NoSockets()
        resolver = Resolver(clock, ResolverSettings(("127.0.0.1",), max_inflight=1), random.Random(7))
        resolver._stub._slots.acquire()
        waiting = [start(resolver.query(f"n{i}.test", "TXT")) for i in range(3000)]
        resolver._stub._slots.release()
        while clock.getDelayedCalls() and not all(each.called for each in waiting):
            clock.advance(0)
        for each in waiting:
            self.assertIn("Too many open files", self.failureResultOf(each, LookupFailed).value.reply.text)

    async def test_a_slot_is_free_again_after_a_failure(self):
        resolver = self.new_resolver(max_inflight=1)
        await self.fails(LookupFailed, resolver.hosts("servfail.test"))
        self.assertEqual(len((await resolver.hosts("a.test")).hosts), 2)

    async def test_close_ends_what_waits_and_begins_nothing_new(self):
        self.server.acts["drop.test", "MX"] = [drop]
        waiting = start(self.resolver.hosts("drop.test"))
        await self.until(lambda: self.server.asked)
        self.resolver.close()
        self.assertIn("closing", (await self.fails(LookupFailed, waiting)).text)
        self.assertIn("closed", (await self.fails(LookupFailed, self.resolver.hosts("a.test"))).text)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Forgeries(Scene):
    """Each act sends a forged answer first; the true one follows on the same socket, so it comes later."""

    def preceded(self, forge):
        def act(asked, reply):
            forge(asked, reply)
            return reply.to_wire()

        self.server.acts["bare.test", "A"] = [act]

    def forged(self, asked, **changes):
        query = dns.message.make_query(changes.get("name", "bare.test."), "A", id=changes.get("id", asked.query.id))
        reply = dns.message.make_response(query)
        reply.answer.append(dns.rrset.from_text("bare.test.", 300, "IN", "A", "203.0.113.66"))
        return reply.to_wire()

    async def is_ignored(self):
        self.assertEqual(await self.resolver.addresses("bare.test"), ("192.0.2.9",))

    async def test_wrong_id_is_ignored(self):
        self.preceded(lambda asked, reply: asked.send(self.forged(asked, id=asked.query.id ^ 1)))
        await self.is_ignored()

    async def test_wrong_question_is_ignored(self):
        self.preceded(lambda asked, reply: asked.send(self.forged(asked, name="b4re.test.")))
        await self.is_ignored()

    async def test_question_that_is_no_response_is_ignored(self):
        self.preceded(lambda asked, reply: asked.send(asked.query.to_wire()))
        await self.is_ignored()

    async def test_garbage_is_ignored(self):
        self.preceded(
            lambda asked, reply: [asked.send(junk) for junk in (b"", b"\0", garbage(asked, reply), b"\xff" * 900)]
        )
        await self.is_ignored()

    async def test_another_port_of_the_server_is_ignored(self):
        other = reactor.listenUDP(0, DatagramProtocol(), interface="127.0.0.1")
        self.addCleanup(other.stopListening)
        self.preceded(lambda asked, reply: other.write(self.forged(asked), asked.peer))
        await self.is_ignored()

    async def test_another_address_is_ignored(self):
        other = reactor.listenUDP(self.server.port, DatagramProtocol(), interface="127.0.0.2")
        self.addCleanup(other.stopListening)
        self.preceded(lambda asked, reply: other.write(self.forged(asked), asked.peer))
        await self.is_ignored()

    async def test_a_second_answer_after_the_first_is_harmless(self):
        self.preceded(lambda asked, reply: asked.send(reply.to_wire()))
        await self.is_ignored()

    async def test_ids_and_source_ports_are_fresh_for_each_query(self):
        for i in range(20):
            await self.resolver.query(f"n{i}.test", "TXT")
        self.assertGreater(len({asked.query.id for asked in self.server.asked}), 15)
        self.assertGreater(len({asked.peer[1] for asked in self.server.asked}), 15)


class Transport(Scene):
    async def test_edns_with_1232_bytes_is_asked_for(self):
        await self.resolver.query("text.test", "TXT")
        self.assertEqual((self.server.asked[0].query.edns, self.server.asked[0].query.payload), (0, 1232))

    async def test_formerr_is_asked_again_without_edns(self):
        self.server.acts["text.test", "TXT"] = [code("FORMERR")]
        self.assertEqual(len((await self.resolver.query("text.test", "TXT")).records), 1)
        self.assertEqual([asked.query.edns for asked in self.server.asked], [0, -1])

    async def test_formerr_without_edns_too_is_a_failure(self):
        self.server.acts["text.test", "TXT"] = [code("FORMERR")] * 2
        reply = await self.fails(LookupFailed, self.resolver.query("text.test", "TXT"))
        self.assertIn("FORMERR", reply.text)

    def big(self):
        self.server.load("".join(f'big.test TXT "{i:03}{"x" * 200}"\n' for i in range(40)))

    async def test_truncated_answer_is_fetched_over_tcp(self):
        self.big()
        self.assertEqual(len((await self.resolver.query("big.test", "TXT")).records), 40)
        self.assertEqual([asked.transport for asked in self.server.asked], ["udp", "tcp"])

    async def test_answer_cut_in_the_middle_of_a_record_is_fetched_over_tcp(self):
        def cut(asked, reply):
            wire = bytearray(reply.to_wire())
            wire[2] |= 2
            return bytes(wire[:-7])

        self.server.acts["text.test", "TXT"] = [cut]
        self.assertEqual(len((await self.resolver.query("text.test", "TXT")).records), 1)

    async def over_tcp_fails(self, act, words):
        self.big()
        tried = self.server._fitting
        self.server.acts["big.test", "TXT"] = [lambda asked, reply: tried(reply, "udp"), act] * 2
        reply = await self.fails(LookupFailed, self.resolver.query("big.test", "TXT"))
        self.assertIn(words, reply.text)

    async def test_silence_over_tcp_ends(self):
        await self.over_tcp_fails(self.times_out, "did not answer over TCP")

    async def test_another_answer_over_tcp_is_a_failure(self):
        await self.over_tcp_fails(garbage, "something else over TCP")

    async def test_server_without_tcp_is_a_failure(self):
        self.big()
        await self.server.stop_tcp()
        reply = await self.fails(LookupFailed, self.resolver.query("big.test", "TXT"))
        self.assertIn("takes no TCP connection", reply.text)


class Nameservers(Scene):
    def setUp(self):
        super().setUp()
        self.second = self.new_server()
        self.resolver = self.new_resolver(self.server, self.second)

    async def test_next_is_asked_after_silence(self):
        self.server.acts["text.test", "TXT"] = [self.times_out]
        self.assertEqual((await self.resolver.query("text.test", "TXT")).server, self.second.address)

    async def test_next_is_asked_after_servfail(self):
        self.server.acts["text.test", "TXT"] = [code("SERVFAIL")]
        self.assertEqual((await self.resolver.query("text.test", "TXT")).server, self.second.address)

    async def test_next_is_asked_at_once_where_nothing_listens(self):
        await self.server.stop_udp()
        self.assertEqual((await self.resolver.query("text.test", "TXT")).server, self.second.address)

    async def test_first_is_preferred(self):
        for name in ("text.test", "long.test"):
            await self.resolver.query(name, "TXT")
        self.assertEqual(self.second.asked, [])

    async def test_failure_of_all_names_each_and_what_it_did(self):
        self.server.acts["x.test", "TXT"] = [code("SERVFAIL")] * 2
        self.second.acts["x.test", "TXT"] = [code("REFUSED")] * 2
        reply = await self.fails(LookupFailed, self.resolver.query("x.test", "TXT"))
        self.assertIn(f"{self.server.address} answered SERVFAIL; {self.second.address} answered REFUSED", reply.text)

    async def silenced(self):
        for name in ("n1.test", "n2.test"):
            self.server.acts[name, "TXT"] = [self.times_out]
            await self.resolver.query(name, "TXT")
        self.server.asked.clear()

    async def test_silent_server_rests(self):
        await self.silenced()
        await self.resolver.query("text.test", "TXT")
        self.assertEqual(self.server.asked, [])

    async def test_one_silence_at_a_time_is_no_reason_to_rest(self):
        for name in ("n1.test", "n2.test"):
            self.server.acts[name, "TXT"] = [self.times_out]
            await self.resolver.query(name, "TXT")
            self.assertEqual((await self.resolver.query("x." + name, "TXT")).server, self.server.address)

    async def test_rested_server_is_asked_again(self):
        await self.silenced()
        self.clock.advance(30)
        await self.resolver.query("text.test", "TXT")
        self.assertEqual(len(self.server.asked), 1)

    async def test_servers_that_are_all_silent_are_asked_one_round_only(self):
        for server in (self.server, self.second):
            for name in ("n1.test", "n2.test"):
                server.acts[name, "TXT"] = [self.times_out] * 2
        await self.fails(LookupFailed, self.resolver.query("n1.test", "TXT"))
        await self.fails(LookupFailed, self.resolver.query("n2.test", "TXT"))
        self.assertEqual(self.server.questions(), [("n1.test", "TXT")] * 2 + [("n2.test", "TXT")])

    async def test_server_over_ipv6(self):
        server = DnsServer(reactor, ZONE)
        try:
            server.start(interface="::1")
        except OSError:
            self.skipTest("this machine has no IPv6 loopback")
        self.addCleanup(lambda: start(server.stop()))
        self.assertEqual(len((await self.new_resolver(server).hosts("a.test")).hosts), 2)

    async def test_server_as_a_process_of_its_own(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        zone = Path(directory.name) / "zone"
        zone.write_text(ZONE)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.dns_server", zone, "0"],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        address = process.stdout.readline().removeprefix("listening on ").strip()
        resolver = Resolver(reactor, ResolverSettings((address,)))
        self.assertEqual(len((await resolver.hosts("a.test")).hosts), 2)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("127.0.0.1:5353", ("127.0.0.1", 5353)),
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
        ("[2001:DB8::0:1]", ("2001:db8::1", 53)),
        ("2001:db8::1", ("2001:db8::1", 53)),
    ],
)
def test_nameserver_is_written_with_or_without_port(written, meant):
    assert endpoint(written) == meant


@pytest.mark.parametrize(
    "written", ["", "dns.test", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536", "[::1", "1.2.3:53"]
)
def test_bad_nameserver_is_refused_by_name(written):
    with pytest.raises(ValueError, match="is not a nameserver"):
        endpoint(written)


def test_nameservers_of_the_system_are_read_from_resolv_conf(tmp_path):
    file = tmp_path / "resolv.conf"
    file.write_text("# ours\nsearch example\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions timeout:1\n")
    assert system_nameservers(str(file)) == ["192.0.2.53", "2001:db8::53"]


def test_without_resolv_conf_or_nameservers_in_it_this_host_is_asked(tmp_path):
    empty = tmp_path / "resolv.conf"
    empty.write_text("search example\n")
    assert system_nameservers(str(empty)) == ["127.0.0.1"]
    assert system_nameservers(str(tmp_path / "none")) == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("hosts", "site"),
    [
        (["mx.a.test"], "mx.a.test"),
        (["mx2.a.test", "mx1.a.test"], "(mx1|mx2).a.test"),
        (["mx.a.test", "mx.b.test"], "(mx.a|mx.b).test"),
        (["in.g.test", "alt1.in.g.test", "alt2.in.g.test"], "(alt1|alt2)?.in.g.test"),
        (["a.test", "b.example"], "(a.test|b.example)"),
        (["ab.test", "cab.test"], "(ab|cab).test"),
    ],
)
def test_site_is_named_after_what_its_hosts_share(hosts, site):
    assert site_name(hosts) == site


label = st.text("abcd", min_size=1, max_size=30)
host_sets = st.sets(st.lists(label, min_size=1, max_size=5).map(".".join), min_size=1, max_size=12)


@given(host_sets, st.randoms())
def test_site_does_not_depend_on_order_and_is_bounded(hosts, rng):
    shuffled = sorted(hosts)
    rng.shuffle(shuffled)
    assert site_name(shuffled) == site_name(sorted(hosts))
    assert len(site_name(shuffled)) <= 120


@given(host_sets, host_sets)
def test_different_sets_are_different_sites(one, other):
    assert (site_name(sorted(one)) == site_name(sorted(other))) == (one == other)


@given(st.binary(max_size=600))
def test_no_bytes_from_outside_raise(data):
    query = question("a.test", "MX", 4711, edns=True)
    assert reply_to(query, data) is None
    reply_to(query, query.id.to_bytes(2, "big") + data)


@pytest.mark.parametrize("sender", [("127.0.0.2", 53), ("127.0.0.1", 54)])
def test_datagram_from_elsewhere_that_came_before_the_socket_was_connected_is_ignored(sender):
    query = question("a.test", "MX", 4711, edns=True)
    socket = _Datagrams(("127.0.0.1", 53), query)
    wire = dns.message.make_response(query).to_wire()
    socket.datagramReceived(wire, sender)
    assert not socket.done.called
    socket.datagramReceived(wire, ("127.0.0.1", 53))
    assert socket.done.result.id == 4711


@given(st.data())
def test_no_damaged_reply_raises(data):
    query = question("a.test", "MX", 4711, edns=True)
    reply = dns.message.make_response(query)
    reply.answer.append(dns.rrset.from_text("a.test.", 300, "IN", "MX", "10 mx.a.test.", "20 mx2.a.test."))
    wire = bytearray(reply.to_wire())
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(2, len(wire) - 1))] = data.draw(st.integers(0, 255))
    reply_to(query, bytes(wire[: data.draw(st.integers(0, len(wire)))]))


def test_cache_drops_what_was_unused_for_longest():
    cache = Cache(2)
    for key in "ab":
        cache.put(key, key, 100.0)
    cache.get("a", 0.0)
    cache.put("c", "c", 100.0)
    assert [key for key in "abc" if cache.get(key, 0.0)] == ["a", "c"]
    assert len(cache) == 2


def test_cache_holds_a_value_until_its_moment_and_not_at_it():
    cache = Cache(2)
    cache.put("a", "x", 100.0)
    assert cache.get("a", 99.0) == ("x", 1.0)
    assert cache.get("a", 100.0) is None
    assert len(cache) == 0
