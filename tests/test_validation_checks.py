"""Which addresses bulk mail is kept from, and, above all, which it is not."""

import inspect
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.reply import Reply
from relayd.resolver import faults
from relayd.validation import BULK, OFF, REPLIES, Lists, Rules, check, dead_finding, domain_finding, read_lists

LISTS = read_lists({})

DOMAINS = Path(__file__).parent / "domains"


def real() -> set[str]:
    return set(re.sub("#.*", "", (DOMAINS / "real.txt").read_text("utf-8")).split())


def misspelt() -> dict[str, str]:
    """Misspelt domain to the one that was meant."""
    pairs: dict[str, str] = {}
    meant = ""
    for word in re.sub("#.*", "", (DOMAINS / "misspelt.txt").read_text("utf-8")).split():
        if word.endswith(":"):
            meant = word[:-1]
        else:
            pairs[word] = meant
    return pairs


def found(address: str, rules: Rules = BULK, lists: Lists = LISTS) -> tuple[str, str] | None:
    finding = check(rules, lists, address)
    return (finding.check, finding.text) if finding else None


# Domains


def test_no_real_domain_of_hundreds_is_refused():
    assert len(real()) > 500
    for address in ("ivan.petrov@{}", "ivan.petrov@news.{}"):
        wrong = {domain: found(address.format(domain)) for domain in real()}
        assert not {domain: said for domain, said in wrong.items() if said}


def test_misspelt_providers_are_refused_and_the_right_one_is_named():
    pairs = misspelt()
    assert len(pairs) > 100
    for domain, meant in pairs.items():
        assert found(f"ivan@{domain}") == ("typo", f"{domain} looks like a misspelling of {meant}")


@pytest.mark.parametrize("domain", ["iclould.com", "rambber.ru", "yahho.com", "putlook.con", "gmial.con"])
def test_more_than_one_slip_is_not_certain(domain):
    assert found(f"ivan@{domain}") is None


def test_capitals_make_no_difference():
    assert found("Ivan@GMAIL.com") is None
    assert found("Ivan@Gmial.Com") == ("typo", "gmial.com looks like a misspelling of gmail.com")


@pytest.mark.parametrize("domain", ["mailinator.com", "x.y.mailinator.com", "YOPMAIL.com", "guerrillamail.info"])
def test_a_domain_of_throw_away_addresses_is_refused_with_all_below_it(domain):
    assert found(f"ivan@{domain}") == ("disposable", f"{domain.lower()} is a domain of throw-away addresses")


@pytest.mark.parametrize("domain", ["notmailinator.com", "mailinator.com.example", "com"])
def test_a_domain_beside_or_above_a_disposable_one_is_another(domain):
    assert found(f"ivan@{domain}", Rules(disposable="refuse")) is None


# Local parts


@pytest.mark.parametrize(
    "local", ["noreply", "NoReply", "no-reply", "noreply+shop", "abuse", "postmaster", "MAILER-DAEMON"]
)
def test_an_address_that_no_person_reads_is_refused(local):
    role = local.partition("+")[0].lower()
    assert found(f"{local}@firm.example") == ("role", f"{role} is the address of a function, not of a person")


@pytest.mark.parametrize(
    "local",
    ["info", "sales", "office", "support", "admin", "zakaz", "buh", "marketing", "hello", "shop", "abuser", "noreply1"],
)
def test_at_a_small_firm_a_function_is_the_customer(local):
    assert found(f"{local}@firm.example") is None


@pytest.mark.parametrize(
    "address",
    [
        "o'brien@firm.example",
        "a+b@firm.example",
        "x@firm.example",
        "-masha-@mail.ru",
        "_masha_@mail.ru",
        "a..b@docomo.ne.jp",
        "a.b.@docomo.ne.jp",
        "79991234567@yandex.ru",
        "иван@почта.рф",
        "user@a_b.firm.example",
        "i@me.museum",
        "ivan@xn--80ak6aa92e.xn--p1ai",
        "abcdefghijklmnopqrstuvwxyz1234@gmail.com",
        "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t@gmail.com",
        "ivan.petrov+news-letter_1..x@gmail.com",
        "12345@gmail.com",
        "IVAN@GMAIL.COM",
        "a_b@google.com",
    ],
)
def test_a_strange_but_possible_address_is_accepted(address):
    assert found(address) is None


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "Address must be local-part@domain"),
        ("ivan", "Address must be local-part@domain"),
        ("ivan@", "Address must be local-part@domain"),
        ("@firm.example", "Address must be local-part@domain"),
        ("postmaster", "The domain has no top-level domain"),
        ("ivan petrov@firm.example", "Syntax error in local part"),
        ("ivan,petr@firm.example", "Syntax error in local part"),
        ("ivan@petr@firm.example", "Syntax error in local part"),
        ("ivan@firm..example", "Domain is not valid"),
        ("ivan@-firm.example", "Domain is not valid"),
        ("ivan@firm.example.", "Domain is not valid"),
        ("ivan@firm", "The domain has no top-level domain"),
        ("ivan@gmailcom", "The domain has no top-level domain"),
        ("ivan@192.0.2.1", "The domain has no top-level domain"),
        ("ivan@firm.c0m", "The domain has no top-level domain"),
        ("ivan@firm.c", "The domain has no top-level domain"),
        ("ivan@[192.0.2.1]", "Address literals are not relayed; use a domain name"),
        ('"ivan petrov"@firm.example', "Quoted local parts are not taken"),
        ("ivan\x00@firm.example", "Control character in address"),
        ("ivan@firm.example\r\nRCPT TO:<x@y.example>", "Control character in address"),
        (f"{'a' * 65}@firm.example", "Local part is longer than 64 octets"),
        ("ivan_petrov@gmail.com", "No mailbox of gmail.com can have this name"),
        ("ivan-petrov@googlemail.com", "No mailbox of googlemail.com can have this name"),
        ("ivan..petrov@gmail.com", "No mailbox of gmail.com can have this name"),
        (".ivan@gmail.com", "No mailbox of gmail.com can have this name"),
        ("ivan.@gmail.com", "No mailbox of gmail.com can have this name"),
        ("+ivan@gmail.com", "No mailbox of gmail.com can have this name"),
        ("иван@gmail.com", "No mailbox of gmail.com can have this name"),
        (f"{'a' * 31}@gmail.com", "No mailbox of gmail.com can have this name"),
    ],
)
def test_an_impossible_address_is_refused_in_words(address, words):
    assert found(address) == ("syntax", words)


# Rules


def test_needless_quotes_are_no_quotes():
    assert found('"ivan.petrov"@firm.example') is None
    assert found('"noreply"@firm.example') == ("role", "noreply is the address of a function, not of a person")


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("syntax", "ivan"),
        ("typo", "ivan@gmial.com"),
        ("disposable", "ivan@yopmail.com"),
        ("role", "noreply@firm.example"),
    ],
)
def test_each_check_has_a_verdict_of_its_own(name, address):
    assert check(OFF, LISTS, address) is None
    for verdict in ("refuse", "drop"):
        finding = check(Rules(**{name: verdict}), LISTS, address)
        assert finding is not None and (finding.check, finding.verdict) == (name, verdict)
    others = {other: "refuse" for other in Rules.__struct_fields__ if other != name}
    assert check(Rules(**others), LISTS, address) is None


def test_what_is_accepted_does_not_hide_what_is_not():
    assert found("noreply@gmial.com") == ("typo", "gmial.com looks like a misspelling of gmail.com")
    said = found("noreply@gmial.com", Rules(role="drop"))
    assert said == ("role", "noreply is the address of a function, not of a person")


def test_a_refusal_is_a_permanent_reply_with_its_codes():
    finding = check(BULK, LISTS, "ivan@gmial.com")
    assert finding is not None
    assert str(finding.reply) == "550 5.1.2 gmial.com looks like a misspelling of gmail.com"
    assert all(said.code >= 550 and said.enhanced.startswith("5.") for said in REPLIES.values())


@given(st.text(max_size=400) | st.from_regex(r"[^@]{0,20}@[^@]{0,60}"), st.sampled_from(["accept", "refuse", "drop"]))
def test_whatever_the_text_it_is_judged_and_what_is_said_is_safe_to_send(text, verdict):
    rules = Rules(syntax=verdict, typo="refuse", disposable="drop", role="refuse")
    finding = check(rules, LISTS, text)
    assert finding is None or (finding.text.isprintable() and finding.verdict != "accept")


# Domains that were looked up


@pytest.mark.parametrize(
    ("fault", "reply"),
    [
        ("NoSuchDomain", Reply(550, "5.1.2", "firm.example does not exist")),
        ("NoMail", Reply(556, "5.1.10", "firm.example accepts no mail")),
        ("NoRoute", Reply(550, "5.4.4", "No host takes mail for firm.example")),
    ],
)
def test_a_domain_that_takes_no_mail_is_refused_or_dropped_as_the_rules_say(fault, reply):
    for verdict in ("refuse", "drop"):
        finding = domain_finding(Rules(domain=verdict), "firm.example", fault)
        assert finding is not None and (finding.check, finding.verdict, finding.reply) == ("domain", verdict, reply)
    assert domain_finding(Rules(), "firm.example", fault) is None


@pytest.mark.parametrize("fault", ["", "LookupFailed", "MailLoop"])
def test_trouble_with_the_dns_or_with_this_relay_never_refuses(fault):
    assert domain_finding(BULK, "firm.example", fault) is None


def test_every_fault_of_the_resolver_is_judged_here():
    kinds = {
        name for name, kind in inspect.getmembers(faults, inspect.isclass) if issubclass(kind, faults.ResolveError)
    }
    assert kinds - {"ResolveError", "LookupFailed", "MailLoop"} == set(REPLIES) - set(Rules.__struct_fields__)


def test_a_known_dead_address_is_the_streams_to_decide():
    assert dead_finding(Rules(), "ivan@firm.example") is None
    for verdict in ("refuse", "drop"):
        finding = dead_finding(Rules(dead=verdict), "ivan@firm.example")
        assert finding is not None and finding.verdict == verdict
        assert finding.reply == Reply(550, "5.1.1", "ivan@firm.example is known to take no mail any more")
