"""SPF records: what can be read, what macros become, and records made so that an address passes."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.reply import printable
from relayd.verification.policy import Names, SPFError, allowing, expand, parse, policies
from relayd.verification.spf import Client, evaluate
from tests.verification_kit import Zone

# RFC 7208 section 7.4.
NAMES = Names(ipaddress.ip_address("192.0.2.3"), "mx.example.org", "strong-bad@email.example.com", "email.example.com")
SIX = Names(ipaddress.ip_address("2001:db8::cb01"), "", NAMES.sender, NAMES.domain)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("%{s}", "strong-bad@email.example.com"),
        ("%{o}", "email.example.com"),
        ("%{d}", "email.example.com"),
        ("%{d4}", "email.example.com"),
        ("%{d3}", "email.example.com"),
        ("%{d2}", "example.com"),
        ("%{d1}", "com"),
        ("%{dr}", "com.example.email"),
        ("%{d2r}", "example.email"),
        ("%{l}", "strong-bad"),
        ("%{l-}", "strong.bad"),
        ("%{lr}", "strong-bad"),
        ("%{lr-}", "bad.strong"),
        ("%{l1r-}", "strong"),
        ("%{h}", "mx.example.org"),
        ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
        ("%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"),
        ("%{lr-}.lp.%{ir}.%{v}._spf.%{d2}", "bad.strong.lp.3.2.0.192.in-addr._spf.example.com"),
        ("%{d2}.trusted-domains.example.net", "example.com.trusted-domains.example.net"),
        ("%{p}.x.example", "unknown.x.example"),
        ("%{S}.x.example", "strong-bad%40email.example.com.x.example"),
        ("a%%b%_c%-d.x.example.", "a%b c%20d.x.example"),
    ],
)
def test_macros_expand_as_in_the_rfc(spec, name):
    assert expand(spec, NAMES) == name


def test_an_ipv6_address_is_spelled_out_by_nibbles():
    nibbles = "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"
    assert expand("%{ir}.%{v}._spf.%{d2}", SIX) == f"{nibbles}.ip6._spf.example.com"


def test_of_a_name_too_long_the_right_part_is_left():
    made = expand("%{d}." * 20 + "x.example", NAMES)
    assert len(made) <= 253 and made.endswith(".email.example.com.x.example")


def test_terms_are_read_in_order_without_regard_to_case():
    policy = parse(
        "V=SPF1  A:mail.x.example/24//64 MX//96 -IP4:192.0.2.9/24 ip6:2001:DB8::/32 ?exists:%{i}.x.example ~All"
    )
    assert [term.kind for term in policy.terms] == ["a", "mx", "ip4", "ip6", "exists", "all"]
    assert [term.qualifier for term in policy.terms] == ["+", "+", "-", "+", "?", "~"]
    assert policy.terms[0].spec == "mail.x.example" and policy.terms[0].prefixes == (24, 64)
    assert policy.terms[1].prefixes == (32, 96) and str(policy.terms[2].network) == "192.0.2.0/24"


def test_modifiers_may_stand_anywhere_and_unknown_ones_mean_nothing():
    policy = parse("v=spf1 redirect=_spf.x.example moo.2=%{h} exp=e.x.example a")
    assert [term.kind for term in policy.terms] == ["a"] and policy.redirect == "_spf.x.example"


@pytest.mark.parametrize(
    "term",
    [
        "ipv4:192.0.2.1", "ip4", "ip4:", "ip4:192.0.2", "ip4:192.0.2.1/33", "ip4:192.0.2.1/08", "ip4:2001:db8::1",
        "ip4:192.0.2.1/255.255.255.0", "ip6:192.0.2.1", "ip6:2001:db8::/129", "ip6:fe80::1%eth0", "ip6::::", "all:x",
        "all/8", "include", "include:", "include:localhost", "include:x.example/24", "exists", "exists/8", "a:",
        "a:museum", "a:x.123", "a/33", "a//129", "a/", "a:x.example/024", "mx:x..", "ptr/24", "ptr:", "%{d}",
        "a:%{c}.x.example", "a:%{d0}.x.example", "a:%{d", "a:%(d).x.example", "a:%.x.example", "redirect=",
        "redirect=localhost", "-redirect=x.example", "exp=x", "foo=%", "2x=y", "a,mx", "–all", "+", "-",
        "mx a:\x1b[2J", "a:\xef.x.example",
    ],
)  # fmt: skip
def test_what_no_receiver_can_read_is_named(term):
    with pytest.raises(SPFError) as raised:
        parse(f"v=spf1 ip4:192.0.2.1 {term} -all")
    assert "in it" in str(raised.value) and str(raised.value).isprintable()


@pytest.mark.parametrize("name", ["redirect", "exp"])
def test_what_may_stand_once_stands_once(name):
    with pytest.raises(SPFError, match=f"{name}= stands in it twice"):
        parse(f"v=spf1 {name}=a.example {name}=b.example")


def test_a_record_without_end_is_no_work():
    text = "v=spf1 " + "ip4:192.0.2.1 " * 5000
    with pytest.raises(SPFError, match="longer than 4096 characters"):
        parse(text)
    assert len(allowing([text], ["ip4:192.0.2.9"], "-all")) < 5000


def test_only_this_version_counts():
    texts = ["v=spf1", "V=SPF1 -all", "v=spf10 -all", "v=spf1-all", "spf1", "v=spf2.0/pra -all", " v=spf1"]
    assert policies(texts) == ["v=spf1", "V=SPF1 -all"]


@pytest.mark.parametrize(
    ("texts", "made"),
    [
        ([], "v=spf1 ip4:192.0.2.9 ~all"),
        (["v=spf1 -all"], "v=spf1 ip4:192.0.2.9 -all"),
        (["v=spf1 a mx"], "v=spf1 ip4:192.0.2.9 a mx"),
        (["v=spf1 include:a.example ?all"], "v=spf1 ip4:192.0.2.9 include:a.example ?all"),
        (["v=spf1 redirect=a.example"], "v=spf1 ip4:192.0.2.9 redirect=a.example"),
        (["v=spf1 -ip4:192.0.2.9 a -all"], "v=spf1 ip4:192.0.2.9 -ip4:192.0.2.9 a -all"),
        (["v=spf1 include:a.example ipv4:192.0.2.1 -all"], "v=spf1 ip4:192.0.2.9 include:a.example -all"),
        (["v=spf1 a exp=e.example -all", "v=spf1 mx a exp=f.example"], "v=spf1 ip4:192.0.2.9 a mx -all exp=e.example"),
        (["v=spf1 redirect=a.example", "v=spf1 mx ~all"], "v=spf1 ip4:192.0.2.9 mx ~all"),
    ],
)  # fmt: skip
def test_a_record_is_made_to_allow_an_address_and_keeps_the_rest(texts, made):
    assert allowing(texts, ["ip4:192.0.2.9"], "~all") == made


WORDS = st.sampled_from(
    ["a", "mx", "-all", "~all", "+ALL", "include:a.example", "-ip4:192.0.2.9", "ip4:192.0.2.0/24", "redirect=b.example",
     "exp=c.example", "ptr", "exists:%{ir}.d.example", "ip6:2001:db8::/32", "foo=bar", "nonsense", "ip4:", "%{"]
)  # fmt: skip
RECORDS = st.one_of(
    st.lists(WORDS, max_size=8).map(lambda words: " ".join(["v=spf1", *words])), st.text().map("v=spf1 {}".format)
)


@given(st.lists(RECORDS, max_size=3), st.sampled_from(["192.0.2.9", "2001:db8::9"]))
def test_whatever_was_published_before_the_made_record_passes(texts, address):
    made = allowing(policies(texts), [f"ip{6 if ':' in address else 4}:{address}"], "-all")
    verdict = Zone(f"x.example TXT {made}").tell(evaluate("x.example", Client(address)))
    assert verdict.result == "pass"


@given(RECORDS)
def test_any_text_is_a_policy_or_a_fault_in_words(text):
    try:
        parse(text)
    except SPFError as fault:
        assert printable(str(fault)) == str(fault) and len(str(fault)) < 200


@given(st.text(alphabet="%{}sldrix0123456789.-+,/_=ab", max_size=40))
def test_what_parses_expands(spec):
    try:
        policy = parse(f"v=spf1 exists:{spec}")
    except SPFError:
        return
    assert len(expand(policy.terms[0].spec, NAMES)) <= 253 or "." not in expand(policy.terms[0].spec, NAMES)
