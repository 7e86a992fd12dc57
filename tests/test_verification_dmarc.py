"""DMARC: the record that governs a domain, and what aligns with it, by the walk of RFC 9989."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.verification import Publish, Subject
from relayd.verification.dmarc import check_dmarc, is_record, organisation, parse, walk
from tests.dkim_kit import ed25519
from tests.verification_kit import Zone

DEEP = ".".join("abcdefghijkl") + ".crm.example"


def found(zone: str, subject: Subject):
    (finding,) = Zone(zone).tell(check_dmarc(subject))
    return finding


def subject(domain: str = "crm.example", *signers: str, zone: str = "") -> Subject:
    return Subject(domain, "mx1.relay.example", tuple(ed25519(domain=signer) for signer in signers), zone=zone)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("v=DMARC1; p=none", True),
        ("v=DMARC1", True),
        ("v = DMARC1 ;p=none", True),
        ("V=DMARC1; p=none", False),
        ("v=dmarc1; p=none", False),
        ("v=DMARC1 p=none", False),
        ("v=DMARC12; p=none", False),
        ("p=none; v=DMARC1", False),
    ],
)
def test_a_record_begins_with_its_version(text, good):
    assert is_record(text) is good


def test_the_walk_asks_every_name_above():
    zone = Zone("")
    assert zone.tell(walk("a.crm.example")) == []
    assert [name for name, _ in zone.asked] == ["_dmarc.a.crm.example", "_dmarc.crm.example", "_dmarc.example"]


def test_the_walk_asks_at_most_eight_names():
    zone = Zone("")
    zone.tell(walk(DEEP))
    assert [name.count(".") for name, _ in zone.asked] == [14, 7, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("zone", "top"),
    [
        ("", "b.a.crm.example"),
        ("_dmarc.crm.example TXT v=DMARC1; p=none", "crm.example"),
        ("_dmarc.crm.example TXT v=DMARC1\n_dmarc.a.crm.example TXT v=DMARC1", "crm.example"),
        ("_dmarc.crm.example TXT v=DMARC1\n_dmarc.a.crm.example TXT v=DMARC1; psd=n", "a.crm.example"),
        ("_dmarc.crm.example TXT v=DMARC1; psd=y", "a.crm.example"),
        ("_dmarc.example TXT v=DMARC1; psd=y", "crm.example"),
        ("_dmarc.b.a.crm.example TXT v=DMARC1; psd=y", "b.a.crm.example"),
        ("_dmarc.crm.example TXT v=DMARC1\n_dmarc.crm.example TXT v=DMARC1", "b.a.crm.example"),
    ],
)
def test_the_organisation_is_the_highest_name_with_a_record(zone, top):
    assert organisation("b.a.crm.example", Zone(zone).tell(walk("b.a.crm.example"))) == top


def test_without_a_record_one_is_made_and_it_only_warns():
    made = found("", subject("crm.example", "crm.example"))
    assert made.result == "warn" and "has no DMARC record" in made.text
    assert made.publish == (Publish("_dmarc.crm.example", "TXT", "v=DMARC1; p=none; rua=mailto:dmarc@crm.example"),)


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (["v=DMARC1; p=none", "v=DMARC1; p=reject"], "has 2 records where there may be one"),
        (["v=DMARC1 p=none"], "receivers cannot read _dmarc.crm.example"),
        (["v=dmarc1; p=none"], "receivers cannot read _dmarc.crm.example"),
        (["v=DMARC1; rua=mailto:d@crm.example"], "has no policy that can be read"),
        (["v=DMARC1; p=nome"], "has no policy that can be read"),
    ],
)
def test_a_record_that_receivers_cannot_heed_warns_with_a_better_one(records, words):
    zone = "\n".join(f"_dmarc.crm.example TXT {text}" for text in records)
    made = found(zone, subject("crm.example", "crm.example"))
    assert made.result == "warn" and words in made.text
    (better,) = made.publish
    assert is_record(better.value) and parse("crm.example", better.value).policy("crm.example") == "none"
    assert found(f"{better.name} TXT {better.value}", subject("crm.example", "crm.example")).result == "pass"


@pytest.mark.parametrize(
    ("domain", "signers", "records"),
    [
        ("crm.example", ["crm.example"], {"crm.example": "p=reject; adkim=s; aspf=s"}),
        ("news.crm.example", ["crm.example"], {"crm.example": "p=reject"}),
        ("news.crm.example", ["crm.example"], {"crm.example": "p=none; sp=reject"}),
        ("news.crm.example", ["crm.example"], {"crm.example": "p=none", "news.crm.example": "p=reject"}),
        ("crm.example", [], {"crm.example": "p=reject; aspf=s"}),
    ],
)
def test_what_aligns_meets_the_record(domain, signers, records):
    zone = "\n".join(f"_dmarc.{name} TXT v=DMARC1; {tags}" for name, tags in records.items())
    assert found(zone, subject(domain, *signers)).result == "pass"


def test_a_return_path_in_the_white_label_zone_aligns_with_the_organisation():
    made = found("_dmarc.crm.example TXT v=DMARC1; p=reject", subject("news.crm.example", zone="mail.crm.example"))
    assert made.result == "pass" and "SPF (return path bounce.mail.crm.example)" in made.text


UNMET = [
    # The record's own strictness, which a milder record ends.
    ("news.crm.example", ["crm.example"], "mail.crm.example", {"crm.example": "p=reject; adkim=s; aspf=s"}),
    ("crm.example", [], "mail.crm.example", {"crm.example": "p=quarantine; aspf=s; rua=mailto:d@crm.example"}),
    # A subdomain is its own organisation while its parent publishes nothing.
    ("news.crm.example", ["crm.example"], "mail.crm.example", {"news.crm.example": "p=reject"}),
]


@pytest.mark.parametrize(("domain", "signers", "zone", "records"), UNMET)
def test_a_policy_that_our_mail_would_not_meet_fails_and_what_is_to_be_published_mends_it(
    domain, signers, zone, records
):
    judged = subject(domain, *signers, zone=zone)
    published = {f"_dmarc.{name}": f"v=DMARC1; {tags}" for name, tags in records.items()}
    made = found("\n".join(f"{name} TXT {text}" for name, text in published.items()), judged)
    assert made.result == "fail" and f"a DKIM key of {domain} itself" in made.text
    (fix,) = made.publish
    published[fix.name] = fix.value
    assert found("\n".join(f"{name} TXT {text}" for name, text in published.items()), judged).result == "pass"


def test_a_policy_of_none_that_is_not_met_only_warns():
    zone = "_dmarc.crm.example TXT v=DMARC1; p=none; adkim=s; aspf=s"
    assert found(zone, subject("news.crm.example", "crm.example", zone="mail.crm.example")).result == "warn"


@given(st.text(max_size=60).filter(lambda text: "\n" not in text and text.strip() and text.isprintable()))
def test_any_record_gives_a_finding_in_words(text):
    made = found(f"_dmarc.crm.example TXT v=DMARC1; {text}", subject("crm.example", "crm.example"))
    assert made.text and made.check == "dmarc"
