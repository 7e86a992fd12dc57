"""SPF as a receiver evaluates it: a table of RFC 7208, limit by limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.verification.spf import Client, evaluate
from tests.verification_kit import Zone

ZONE = """
plus.example        TXT v=spf1 +all
minus.example       TXT v=spf1 -all
soft.example        TXT v=spf1 ~all
open.example        TXT v=spf1 ?all
empty.example       TXT v=spf1
silent.example      TXT unrelated text
two.example         TXT v=spf1 +all
two.example         TXT v=spf1 -all
mixed.example       TXT some other text
mixed.example       TXT v=spf1 +all
broken.example      TXT v=spf1 +all ipv4:192.0.2.1
ip.example          TXT v=spf1 ip4:192.0.2.10 ip4:198.51.100.0/25 ip6:2001:db8::/48 -all
first.example       TXT v=spf1 -ip4:192.0.2.10 ip4:192.0.2.0/24 -all
a.example           TXT v=spf1 a -all
a.example           A 192.0.2.10
a.example           A 192.0.2.11
a.example           AAAA 2001:db8::10
near.example        TXT v=spf1 a:a.example/28//64 -all
mx.example          TXT v=spf1 mx -all
mx.example          MX 10 mx1.mx.example
mx.example          MX 20 mx2.mx.example.
mx1.mx.example      A 203.0.113.1
mx2.mx.example      A 192.0.2.10
nullmx.example      TXT v=spf1 mx -all
nullmx.example      MX 0 .
incl.example        TXT v=spf1 include:ip.example ~all
inclminus.example   TXT v=spf1 include:minus.example ?all
inclsoft.example    TXT v=spf1 -include:soft.example ip4:192.0.2.10 ?all
inclnone.example    TXT v=spf1 include:silent.example +all
inclbroken.example  TXT v=spf1 include:broken.example +all
incldead.example    TXT v=spf1 include:dead.example +all
notincl.example     TXT v=spf1 -include:ip.example +all
redir.example       TXT v=spf1 redirect=ip.example
redirall.example    TXT v=spf1 ?all redirect=ip.example
redirnone.example   TXT v=spf1 redirect=silent.example
loop.example        TXT v=spf1 include:loop.example -all
redirloop.example   TXT v=spf1 redirect=redirloop.example
exists.example      TXT v=spf1 exists:%{ir}.list.example -all
10.2.0.192.list.example A 127.0.0.2
helo.example        TXT v=spf1 exists:%{h}.list.example -all
t1.relay.example.list.example A 127.0.0.2
ptr.example         TXT v=spf1 ptr ip4:192.0.2.10 -all
ptronly.example     TXT v=spf1 ptr -all
ten.example         TXT v=spf1 a:1.t.example a:2.t.example a a a a a a a a ip4:192.0.2.10 -all
ten.example         A 203.0.113.9
1.t.example         A 203.0.113.9
2.t.example         A 203.0.113.9
eleven.example      TXT v=spf1 a a a a a a a a a a a ip4:192.0.2.10 -all
eleven.example      A 203.0.113.9
before.example      TXT v=spf1 ip4:192.0.2.10 a a a a a a a a a a a -all
deep.example        TXT v=spf1 a a a a a include:deep2.example -all
deep.example        A 203.0.113.9
deep2.example       TXT v=spf1 a a a a a ip4:192.0.2.10 -all
deep2.example       A 203.0.113.9
void2.example       TXT v=spf1 a:1.v.example a:2.v.example ip4:192.0.2.10 -all
void3.example       TXT v=spf1 a:1.v.example mx:2.v.example exists:3.v.example ip4:192.0.2.10 -all
lame.example        TXT v=spf1 a:dead.example ip4:192.0.2.10 -all
late.example        TXT v=spf1 ip4:192.0.2.10 a:dead.example -all
dead.example        TXT FAULT
dead.example        A FAULT
many.example        TXT v=spf1 mx -all
""" + "".join(f"many.example MX {n} h{n}.many.example\n" for n in range(11))  # fmt: skip

CASES = [
    ("plus.example", "192.0.2.10", "pass"),
    ("minus.example", "192.0.2.10", "fail"),
    ("soft.example", "192.0.2.10", "softfail"),
    ("open.example", "192.0.2.10", "neutral"),
    ("empty.example", "192.0.2.10", "neutral"),
    ("silent.example", "192.0.2.10", "none"),
    ("nobody.example", "192.0.2.10", "none"),
    ("dead.example", "192.0.2.10", "temperror"),
    ("two.example", "192.0.2.10", "permerror"),
    ("mixed.example", "192.0.2.10", "pass"),
    ("broken.example", "192.0.2.10", "permerror"),
    ("ip.example", "192.0.2.10", "pass"),
    ("ip.example", "192.0.2.11", "fail"),
    ("ip.example", "198.51.100.127", "pass"),
    ("ip.example", "198.51.100.128", "fail"),
    ("ip.example", "2001:db8:0:ffff::1", "pass"),
    ("ip.example", "2001:db8:1::1", "fail"),
    ("first.example", "192.0.2.10", "fail"),
    ("first.example", "192.0.2.11", "pass"),
    ("a.example", "192.0.2.11", "pass"),
    ("a.example", "192.0.2.12", "fail"),
    ("a.example", "2001:db8::10", "pass"),
    ("a.example", "2001:db8::11", "fail"),
    ("near.example", "192.0.2.15", "pass"),
    ("near.example", "192.0.2.16", "fail"),
    ("near.example", "2001:db8::ffff", "pass"),
    ("mx.example", "192.0.2.10", "pass"),
    ("mx.example", "203.0.113.1", "pass"),
    ("mx.example", "192.0.2.11", "fail"),
    ("nullmx.example", "192.0.2.10", "fail"),
    ("incl.example", "192.0.2.10", "pass"),
    ("incl.example", "192.0.2.11", "softfail"),
    ("inclminus.example", "192.0.2.10", "neutral"),
    ("inclsoft.example", "192.0.2.10", "pass"),
    ("inclnone.example", "192.0.2.10", "permerror"),
    ("inclbroken.example", "192.0.2.10", "permerror"),
    ("incldead.example", "192.0.2.10", "temperror"),
    ("notincl.example", "192.0.2.10", "fail"),
    ("notincl.example", "192.0.2.11", "pass"),
    ("redir.example", "192.0.2.10", "pass"),
    ("redir.example", "192.0.2.11", "fail"),
    ("redirall.example", "192.0.2.10", "neutral"),
    ("redirnone.example", "192.0.2.10", "permerror"),
    ("loop.example", "192.0.2.10", "permerror"),
    ("redirloop.example", "192.0.2.10", "permerror"),
    ("exists.example", "192.0.2.10", "pass"),
    ("exists.example", "192.0.2.11", "fail"),
    ("helo.example", "203.0.113.77", "pass"),
    ("ptr.example", "192.0.2.10", "pass"),
    ("ptronly.example", "192.0.2.10", "fail"),
    ("ten.example", "192.0.2.10", "pass"),
    ("eleven.example", "192.0.2.10", "permerror"),
    ("before.example", "192.0.2.10", "pass"),
    ("deep.example", "192.0.2.10", "permerror"),
    ("void2.example", "192.0.2.10", "pass"),
    ("void3.example", "192.0.2.10", "permerror"),
    ("lame.example", "192.0.2.10", "temperror"),
    ("late.example", "192.0.2.10", "pass"),
    ("many.example", "192.0.2.10", "permerror"),
]


@pytest.mark.parametrize(("domain", "address", "result"), CASES)
def test_the_verdict_is_what_a_receiver_would_find(domain, address, result):
    assert Zone(ZONE).tell(evaluate(domain, Client(address, "t1.relay.example"))).result == result


@pytest.mark.parametrize(
    ("domain", "why"),
    [
        ("minus.example", "-all of minus.example"),
        ("incl.example", "include:ip.example of incl.example"),
        ("redir.example", "ip4:192.0.2.10 of ip.example"),
        ("silent.example", "silent.example has no SPF record"),
        ("two.example", "two.example has 2 SPF records where there may be one"),
        ("inclbroken.example", "the SPF record of broken.example is void: ipv4:192.0.2.1 in it is no mechanism of SPF"),
        ("inclnone.example", "include:silent.example of inclnone.example leads to no SPF record"),
        ("redirnone.example", "redirect=silent.example of redirnone.example leads to no SPF record"),
        ("eleven.example", "it takes more than 10 look-ups"),
        ("void3.example", "more than 2 of its look-ups find nothing; 3.v.example A is the last"),
        ("many.example", "mx of many.example leads to more than 10 hosts"),
        ("lame.example", "dead.example does not answer"),
    ],
)
def test_the_verdict_names_what_decided_it(domain, why):
    assert Zone(ZONE).tell(evaluate(domain, Client("192.0.2.10"))).why == why


def test_what_matches_first_spares_the_questions_behind_it():
    zone = Zone(ZONE)
    zone.tell(evaluate("before.example", Client("192.0.2.10")))
    assert zone.asked == [("before.example", "TXT")]


TERMS = st.sampled_from(
    [
        "a",
        "mx",
        "include:x.example",
        "include:y.example",
        "redirect=y.example",
        "exists:%{d}",
        "ptr",
        "?all",
        "a:z.example",
    ]
)


@given(st.lists(TERMS, max_size=14), st.lists(TERMS, max_size=14))
def test_no_records_however_tangled_ask_for_more_than_the_limits_allow(one, other):
    zone = Zone(f"x.example TXT {' '.join(['v=spf1', *one])}\ny.example TXT {' '.join(['v=spf1', *other])}")
    zone.tell(evaluate("x.example", Client("192.0.2.10")))
    assert len(zone.asked) <= 1 + 10 + 3
