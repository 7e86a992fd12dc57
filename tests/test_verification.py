"""The checks of a sender domain: what each finds, what to publish, and what they prove together."""

import pytest

from relayd.message.dkim import dns_record
from relayd.verification import Finding, Publish, Source, Subject, check, proved, records, returns_to
from relayd.verification.checks import check_dkim, check_spf
from relayd.verification.zones import check_return_path, check_zone, ehlo_name
from tests.dkim_kit import ed25519, rsa
from tests.verification_kit import Zone

KEY = rsa(domain="crm.example", selector="s1")
SECOND = ed25519(domain="crm.example", selector="s2")
T1 = Source("t1", "192.0.2.10", "t1.relay.example")
T2 = Source("t2", "192.0.2.11", "t2.relay.example")
SIX = Source("t1", "2001:db8::10", "t1.relay.example")
NODE = "mx1.relay.example"


def txt(key) -> str:
    name, text = dns_record(key)
    return f"{name} TXT {text}"


WELL = f"""
{txt(KEY)}
crm.example TXT v=spf1 ip4:192.0.2.0/24 -all
crm.example MX 10 mx.crm.example
_dmarc.crm.example TXT v=DMARC1; p=reject
"""


def subject(**more: object) -> Subject:
    return Subject(**{"domain": "crm.example", "node": NODE, "keys": (KEY,), "sources": (T1, T2), **more})


def results(findings) -> list[tuple[str, str]]:
    return [(finding.check, finding.result) for finding in findings]


def published(finding: Finding) -> str:
    return "\n".join(f"{record.name} {record.type} {record.value}" for record in finding.publish)


def test_a_domain_with_everything_in_order_is_proved():
    found = Zone(WELL).tell(check(subject()))
    assert results(found) == [("dkim", "pass"), ("spf", "pass"), ("dmarc", "pass"), ("return path", "pass")]
    assert proved(found) is True and not any(finding.publish for finding in found)


def test_a_domain_with_nothing_is_told_all_it_needs_and_publishing_that_proves_it():
    found = Zone("").tell(check(subject()))
    assert results(found) == [("dkim", "fail"), ("spf", "fail"), ("dmarc", "warn"), ("return path", "fail")]
    assert proved(found) is False
    assert "publish an MX record" in found[3].text
    zone = "\n".join(["crm.example MX 10 mx.crm.example", *map(published, found)])
    assert proved(Zone(zone).tell(check(subject()))) is True


def test_what_the_dns_does_not_say_is_unknown_and_proves_nothing_either_way():
    for name, rdtype in (("crm.example", "TXT"), ("s1._domainkey.crm.example", "TXT"), ("_dmarc.crm.example", "TXT")):
        kept = [line for line in WELL.splitlines() if not line.startswith(f"{name} {rdtype}")]
        found = Zone("\n".join([*kept, f"{name} {rdtype} FAULT"])).tell(check(subject()))
        assert [result for _, result in results(found)].count("unknown") == 1
        assert proved(found) is None
        assert any(f"{name} does not answer" in finding.text for finding in found)


def test_one_definite_failure_outweighs_what_is_unknown():
    assert proved([Finding("spf", "unknown", ""), Finding("dkim", "fail", "")]) is False


def test_warnings_alone_prove_nothing():
    assert (
        proved([Finding("dkim", "warn", ""), Finding("spf", "warn", ""), Finding("return path", "pass", "")]) is False
    )


# DKIM


def test_one_published_key_is_enough_and_the_other_is_a_warning_with_its_record():
    found = Zone(txt(KEY)).tell(check_dkim(subject(keys=(SECOND, KEY))))
    assert [finding.result for finding in found] == ["pass", "warn"]
    assert found[1].publish == (Publish(dns_record(SECOND)[0], "TXT", dns_record(SECOND)[1]),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("v=DMIK1; p=x", "another version"),
        ("v=DKIM1; p=", "revoked"),
        ("v=DKIM1; k=rsa; p=MIIB", "another public key"),
    ],
)
def test_a_key_published_otherwise_fails_with_the_reason(text, words):
    (finding,) = Zone(f"s1._domainkey.crm.example TXT {text}").tell(check_dkim(subject()))
    assert finding.result == "fail" and words in finding.text
    assert published(finding) == txt(KEY)


def test_a_second_record_beside_the_right_one_is_no_match():
    (finding,) = Zone(f"{txt(KEY)}\ns1._domainkey.crm.example TXT v=DKIM1; p=").tell(check_dkim(subject()))
    assert finding.result == "fail"


def test_without_a_key_here_dkim_is_the_customers_own_business():
    (finding,) = Zone("").tell(check_dkim(subject(keys=())))
    assert finding.result == "warn" and not finding.publish


# SPF


def test_addresses_that_do_not_pass_are_named_with_the_reason_and_the_whole_new_record():
    zone = "crm.example TXT v=spf1 ip4:192.0.2.10 include:old.example ~all\nold.example TXT v=spf1 -all"
    (finding,) = Zone(zone).tell(check_spf(subject()))
    assert finding.result == "fail"
    assert finding.text == (
        "mail from 192.0.2.11 gets softfail for crm.example (~all of crm.example); "
        "SPF of crm.example: add ip4:192.0.2.11 to it"
    )
    made = "v=spf1 ip4:192.0.2.11 ip4:192.0.2.10 include:old.example ~all"
    assert finding.publish == (Publish("crm.example", "TXT", made),)


def test_where_there_is_no_record_one_is_made_that_leaves_other_servers_a_chance():
    (finding,) = Zone("").tell(check_spf(subject(sources=(T1, SIX))))
    assert published(finding) == "crm.example TXT v=spf1 ip4:192.0.2.10 ip6:2001:db8::10 ~all"


def test_several_records_are_made_one():
    zone = "crm.example TXT v=spf1 ip4:192.0.2.0/24 -all\ncrm.example TXT v=spf1 mx ~all"
    (finding,) = Zone(zone).tell(check_spf(subject()))
    assert finding.text.endswith("SPF of crm.example: make one of them")
    assert published(finding) == "crm.example TXT v=spf1 ip4:192.0.2.10 ip4:192.0.2.11 ip4:192.0.2.0/24 mx -all"


def test_many_addresses_are_not_all_named():
    sources = tuple(Source(f"t{n}", f"192.0.2.{n}") for n in range(1, 41))
    (finding,) = Zone("").tell(check_spf(subject(sources=sources)))
    assert "192.0.2.5 and 35 more" in finding.text and len(finding.text) < 300
    assert finding.publish[0].value.count("ip4:") == 40


def test_customers_of_a_relay_with_a_record_of_its_own_include_that():
    zone = "spf.relay.example TXT v=spf1 ip4:192.0.2.0/24 -all\n"
    (finding,) = Zone(zone + "crm.example TXT v=spf1 mx -all").tell(check_spf(subject(spf="spf.relay.example")))
    assert published(finding) == "crm.example TXT v=spf1 include:spf.relay.example mx -all"
    assert Zone(zone + published(finding)).tell(check_spf(subject(spf="spf.relay.example")))[0].result == "pass"


def test_an_address_missing_in_the_relays_own_record_is_told_as_its_fault():
    zone = "spf.relay.example TXT v=spf1 ip4:192.0.2.10 -all\ncrm.example TXT v=spf1 include:spf.relay.example -all"
    (finding,) = Zone(zone).tell(check_spf(subject(spf="spf.relay.example")))
    assert "mail from 192.0.2.11 gets fail" in finding.text
    assert published(finding) == "spf.relay.example TXT v=spf1 ip4:192.0.2.11 ip4:192.0.2.10 -all"


@pytest.mark.parametrize(("keys", "result"), [((KEY,), "warn"), ((), "fail")])
def test_where_no_address_is_known_only_a_key_can_prove_the_domain(keys, result):
    (finding,) = Zone("").tell(check_spf(subject(keys=keys, sources=())))
    assert finding.result == result and "[source]" in finding.text


# The return path


@pytest.mark.parametrize("record", ["MX 10 mx.crm.example", "A 192.0.2.80", "AAAA 2001:db8::80"])
def test_bounces_come_back_to_a_domain_with_mail_hosts_or_an_address(record):
    assert Zone(f"crm.example {record}").tell(check_return_path(subject()))[0].result == "pass"


@pytest.mark.parametrize(
    ("zone", "words"),
    [("", "has neither MX nor address"), ("crm.example MX 0 .\ncrm.example A 192.0.2.80", "with a null MX")],
)
def test_bounces_that_cannot_come_back_fail(zone, words):
    (finding,) = Zone(zone).tell(check_return_path(subject()))
    assert finding.result == "fail" and words in finding.text and "publish an MX record" in finding.text


# White label

LABEL = {"zone": "mail.crm.example", "links": "links.relay.example", "sources": (T1, SIX)}
LINKS = "links.relay.example A 192.0.2.200\n"


def test_the_records_of_a_zone_prove_a_domain_whose_own_spf_knows_nothing_of_us():
    own = "crm.example TXT v=spf1 -all\n"
    judged = subject(**LABEL)
    zone = "\n".join(f"{made.name} {made.type} {made.value}" for made in records(judged) if made.type != "CNAME")
    found = Zone(own + LINKS + zone + "\nlinks.mail.crm.example A 192.0.2.200").tell(check(judged))
    assert {result for _, result in results(found)} == {"pass"} and proved(found) is True


def test_a_zone_is_told_record_by_record():
    assert [(made.name, made.type, made.value) for made in records(subject(**LABEL))[1:-1]] == [
        ("bounce.mail.crm.example", "MX", "10 mx1.relay.example"),
        ("bounce.mail.crm.example", "TXT", "v=spf1 ip4:192.0.2.10 ip6:2001:db8::10 -all"),
        ("t1.mail.crm.example", "A", "192.0.2.10"),
        ("t1.mail.crm.example", "AAAA", "2001:db8::10"),
        ("links.mail.crm.example", "CNAME", "links.relay.example"),
    ]


@pytest.mark.parametrize(
    ("zone", "words"),
    [
        ("bounce.mail.crm.example MX 10 mx.elsewhere.example", "go to mx.elsewhere.example"),
        ("bounce.mail.crm.example MX 0 .", "cannot be delivered"),
        ("", "cannot be delivered"),
    ],
)
def test_bounces_of_a_zone_must_come_to_us(zone, words):
    (finding,) = Zone(zone).tell(check_return_path(subject(**LABEL)))
    assert finding.result == "fail" and words in finding.text
    assert published(finding) == "bounce.mail.crm.example MX 10 mx1.relay.example"
    assert Zone(published(finding)).tell(check_return_path(subject(**LABEL)))[0].result == "pass"


OWN = {"returns": "bounce.relay.example"}
OWN_ZONE = "bounce.relay.example TXT v=spf1 ip4:192.0.2.0/24 -all\nbounce.relay.example MX 10 mx1.relay.example\n"
DMARC = "_dmarc.crm.example TXT v=DMARC1; p=reject\n"


def test_by_a_return_path_of_the_relays_own_a_domain_needs_a_key_and_no_spf():
    found = Zone(OWN_ZONE + DMARC + txt(KEY)).tell(check(subject(**OWN)))
    assert results(found) == [("dkim", "pass"), ("return path", "pass"), ("dmarc", "pass"), ("return path", "pass")]
    assert proved(found) is True
    assert not [record for record in records(subject(**OWN)) if "spf1" in record.value]


def test_the_relays_own_return_path_passing_spf_proves_no_domain():
    found = Zone(OWN_ZONE + DMARC).tell(check(subject(**OWN)))
    assert proved(found) is False
    keyless = Zone(OWN_ZONE).tell(check(subject(keys=(), **OWN)))
    assert ("spf", "warn") in results(keyless) and proved(keyless) is False


def test_a_zone_of_another_domain_passing_spf_proves_no_domain():
    elsewhere = {"zone": "mail.other.example", "sources": (T1,), "keys": ()}
    made = "\n".join(f"{r.name} {r.type} {r.value}" for r in records(subject(**elsewhere)) if r.type != "CNAME")
    found = Zone(made).tell(check(subject(**elsewhere)))
    assert "fail" not in [result for _, result in results(found)] and proved(found) is False


def test_bounces_to_the_relays_own_domain_must_come_to_it():
    (finding,) = Zone("bounce.relay.example MX 10 mx.elsewhere.example").tell(check_return_path(subject(**OWN)))
    assert finding.result == "fail" and published(finding) == f"bounce.relay.example MX 10 {NODE}"


def test_the_return_path_of_a_message_is_in_the_zone_once_a_check_has_found_its_records():
    own, zone = "bounce.relay.example", "mail.crm.example"
    labelled = subject(**LABEL)
    made = "\n".join(f"{r.name} {r.type} {r.value}" for r in records(labelled) if r.type != "CNAME")
    found = Zone(made).tell(check(labelled))
    assert returns_to(own, zone, found, signed=False) == "bounce.mail.crm.example"
    without_mx = "\n".join(line for line in made.splitlines() if " MX " not in line)
    for findings in (Zone(without_mx).tell(check(labelled)), Zone(WELL).tell(check(subject())), ()):
        assert returns_to(own, zone, findings, signed=True) == own
    assert returns_to("", zone, found, signed=True) == ""


def test_the_relays_own_return_path_is_for_mail_that_a_key_of_its_from_domain_signs():
    assert returns_to("bounce.relay.example", "", (), signed=True) == "bounce.relay.example"
    assert returns_to("bounce.relay.example", "", (), signed=False) == ""


def test_names_of_a_zone_that_lead_elsewhere_warn_and_are_listed():
    zone = LINKS + "t1.mail.crm.example A 192.0.2.10\nlinks.mail.crm.example A 203.0.113.1"
    (finding,) = Zone(zone).tell(check_zone(subject(**LABEL)))
    assert finding.result == "warn"
    assert [record.name for record in finding.publish] == ["t1.mail.crm.example", "links.mail.crm.example"]


def test_without_a_zone_nothing_is_asked_about_one():
    zone = Zone("")
    assert zone.tell(check_zone(subject())) == [] and zone.asked == []


@pytest.mark.parametrize(("source", "name"), [("t1", "t1"), ("T_1@eu", "t-1-eu"), ("+._", "mail")])
def test_a_source_has_a_host_name_in_the_zone(source, name):
    assert ehlo_name("mail.crm.example", source) == f"{name}.mail.crm.example"


# Records


def test_before_a_check_all_records_are_told_as_if_there_were_none():
    made = "\n".join(f"{record.name} {record.type} {record.value}" for record in records(subject()))
    assert proved(Zone(made + "\ncrm.example MX 10 mx.crm.example").tell(check(subject()))) is True


def test_after_a_check_no_record_is_told_that_would_stand_beside_another():
    zone = "crm.example TXT v=spf1 mx -all\n_dmarc.crm.example TXT v=DMARC1; p=reject"
    told = {record.name: record.value for record in records(subject(), Zone(zone).tell(check(subject())))}
    assert told == {
        "s1._domainkey.crm.example": dns_record(KEY)[1],
        "crm.example": "v=spf1 ip4:192.0.2.10 ip4:192.0.2.11 mx -all",
    }


def test_a_txt_record_of_a_zone_file_is_quoted_in_strings_that_dns_can_carry():
    line = Publish("x.example", "TXT", 'a "quoted" \\ text ' * 30).line
    assert line.startswith('x.example. IN TXT ( "a \\"quoted\\" \\\\ text')
    name, text = dns_record(ed25519())
    assert Publish(name, "TXT", text).line == f'{name}. IN TXT ( "{text}" )'
    assert Publish(*dns_record(rsa())[:1], "TXT", dns_record(rsa())[1]).line.count('"') == 4


def test_names_in_a_zone_file_are_absolute():
    assert Publish("b.example", "MX", "10 mx.example").line == "b.example. IN MX 10 mx.example."
    assert Publish("b.example", "A", "192.0.2.1").line == "b.example. IN A 192.0.2.1"
