"""Postfix with every extension off in turn, with TLS demanded and proved, in its moods, and behind postgrey."""

import itertools
import quopri
import re
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.conftest import Stage
from tests.e2e.relay import Relay, message, submit, until

from .authority import Authority
from .kinds import FULL, Postfix, Postgrey
from .story import QUICK, comes_to, parsed, route, sent, told, without_trace

# mx.peer.example is the peer's name in its certificate, mx.other.example is not.
_ZONE = """
peer.example      MX 10 mx.peer.example
mx.peer.example   A  127.0.0.1
other.example     MX 10 mx.other.example
mx.other.example  A  127.0.0.1
"""
_TABLES = """
authorities = "{authority}"
port = {port}
[resolver]
nameservers = ["{names}"]
[site."peer.example"]
tls = "verify"
[site."other.example"]
tls = "verify"
[source.one]
address = "127.0.0.11"
[source.two]
address = "127.0.0.12"
[pool.default]
sources = {{ one = 1, two = 1 }}
"""


def tables(postfix: Postfix, names: str, authority: str) -> str:
    doors = "".join(route(f"{door}.example", port) for door, port in postfix.port.items())
    doors += route("never.example", postfix.port["clear"], "encrypt")
    doors += route("must.example", postfix.port["required"], "encrypt")
    doors += route("mute.example", postfix.port["required"], "off")
    doors += route("agreed.example", postfix.port["two"], "may", "connections = 1")
    doors += route("crm.example", postfix.port["plain"])
    more = _TABLES.format(authority=authority, port=postfix.port["plain"], names=names)
    return QUICK.format(egress=more) + doors


@pytest.fixture(scope="module")
def relay(module_stage: Stage, postfix: Postfix, authority: Authority) -> Iterator[Relay]:
    names = module_stage.names(_ZONE)
    made = module_stage.relay(tables(postfix, names.address, str(authority.file))).start()
    yield made
    made.audited()
    made.stop()


Report = Callable[[], tuple[str, str]]


@pytest.fixture
def report(postfix: Postfix, me: str) -> Report:
    """The only report to ``me``: for humans, and for programs."""

    def read() -> tuple[str, str]:
        (stored,) = postfix.arrived(me)
        assert stored.startswith(b"Return-Path: <>")
        found = parsed(stored)
        assert found.get_content_type() == "multipart/report"
        return found.get_payload(0).get_content(), found.get_payload(1).as_string()  # type: ignore[union-attr]

    return read


# TLS.


def test_a_server_that_demands_tls_gets_it(relay: Relay, postfix: Postfix, you: str) -> None:
    for domain in ("required", "must"):
        why = comes_to(relay, relay.send(f"{you}@{domain}.example"), "delivered")
        assert "over TLSv1." in why and "certificate CN=mx.peer.example" in why
    assert all(b"using TLSv1." in stored for stored in postfix.arrived(you, 2))


def test_a_server_that_demands_tls_and_a_policy_without_it_bounce_with_the_servers_words(
    relay: Relay, you: str, me: str, report: Report
) -> None:
    why = comes_to(relay, relay.send(f"{you}@mute.example", sender=f"{me}@crm.example"), "bounced")
    assert "530 5.7.0 Must issue a STARTTLS command first" in why
    assert "Must issue a STARTTLS command first" in report()[1]


def test_a_server_without_tls_gets_mail_in_clear_and_the_evidence_has_none(
    relay: Relay, postfix: Postfix, you: str
) -> None:
    assert "TLS" not in comes_to(relay, relay.send(f"{you}@clear.example"), "delivered")
    assert b"using TLS" not in postfix.arrived(you)[0]


def test_a_server_without_tls_gets_nothing_where_the_policy_demands_it(
    relay: Relay, postfix: Postfix, you: str
) -> None:
    identity = relay.send(f"{you}@never.example")
    tries = until(lambda: told(relay, identity, "TransientFailure"), 10, "the first failure is known")
    assert "at starttls" in tries[0] and "the peer does not offer STARTTLS" in tries[0]
    assert not postfix.mail(you)


def test_a_certificate_of_the_mx_hosts_name_by_a_trusted_authority_is_proof(
    relay: Relay, postfix: Postfix, you: str
) -> None:
    why = comes_to(relay, relay.send(f"{you}@peer.example"), "delivered")
    assert "with mx.peer.example 127.0.0.1" in why and "over TLSv1." in why
    assert postfix.arrived(you)


def test_a_certificate_of_another_name_is_none(relay: Relay, postfix: Postfix, you: str) -> None:
    identity = relay.send(f"{you}@other.example")
    tries = until(lambda: told(relay, identity, "TransientFailure"), 10, "the first failure is known")
    assert "at tls" in tries[0] and "mx.other.example" in tries[0]
    assert "the certificate is not of the server's name" in tries[0]
    assert not postfix.mail(you)


def test_a_certificate_by_an_authority_that_is_not_trusted_is_none(stage: Stage, postfix: Postfix, you: str) -> None:
    names = stage.names(_ZONE)
    strict = stage.relay(tables(postfix, names.address, "")).start()
    identity = strict.send(f"{you}@peer.example")
    tries = until(lambda: told(strict, identity, "TransientFailure"), 10, "the first failure is known")
    assert "at tls" in tries[0] and "certificate verify failed" in tries[0]
    assert not postfix.mail(you)
    strict.audited()


# What the server offers, and does not.


def test_8_bit_mail_is_converted_for_a_server_that_takes_none(relay: Relay, postfix: Postfix, you: str) -> None:
    body = "Дорогой друг, grüß Gott\r\n.\r\n..dots\r\n".encode() + b"a long line " * 80 + b"\r\n"
    extra = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    comes_to(relay, relay.send(f"{you}@seven.example", message(body, extra)), "delivered")
    (stored,) = postfix.arrived(you)
    head, _, converted = without_trace(stored).partition(b"\r\n\r\n")
    assert stored.isascii()
    assert b"content-transfer-encoding: quoted-printable" in head.lower()
    assert quopri.decodestring(converted).replace(b"\r\n", b"\n") == body.replace(b"\r\n", b"\n")


def test_a_server_without_pipelining_gets_all_of_it_command_by_command(
    relay: Relay, postfix: Postfix, you: str
) -> None:
    with relay.client() as client:
        for _ in range(30):
            client.sendmail("sales@crm.example", f"{you}@plodding.example", message())
    assert len(postfix.arrived(you, 30)) == 30


def test_a_message_larger_than_the_server_takes_is_not_sent_and_bounces(
    relay: Relay, postfix: Postfix, you: str, me: str, report: Report
) -> None:
    before = postfix.maillog().count("Message size exceeds")
    content = message(b"x" * 70 + b"\r\n" * (FULL // 2))
    why = comes_to(relay, relay.send(f"{you}@small.example", content, sender=f"{me}@crm.example"), "bounced")
    assert "at mail" in why and f"the server takes at most {FULL}" in why
    human, status = report()
    assert f"the server takes at most {FULL}" in human
    assert "Status: 5.3.4" in status
    assert postfix.maillog().count("Message size exceeds") == before


def test_a_message_larger_than_the_server_had_told_bounces_after_it_was_sent(
    relay: Relay, you: str, me: str, report: Report
) -> None:
    content = message(b"x" * 70 + b"\r\n" * FULL)
    why = comes_to(relay, relay.send(f"{you}@silent.example", content, sender=f"{me}@crm.example"), "bounced")
    assert re.search(r"at (mail|dot) .*552 5\.3\.4", why), why
    assert "Status: 5.3.4" in report()[1]


def test_a_message_within_the_servers_size_goes(relay: Relay, postfix: Postfix, you: str) -> None:
    content = message(b"x" * 70 + b"\r\n")
    comes_to(relay, relay.send(f"{you}@small.example", content), "delivered")
    assert without_trace(postfix.arrived(you)[0]) == content


_UTF8 = message("Здравствуйте\r\n".encode(), "X-Who: Пётр <пётр@пример.example>\r\n".encode())


def test_mail_that_needs_smtputf8_goes_to_a_server_that_has_it(relay: Relay, postfix: Postfix, you: str) -> None:
    options = ("SMTPUTF8", "BODY=8BITMIME")
    identity = sent(relay, "sales@crm.example", f"{you}@plain.example", _UTF8, options)
    comes_to(relay, identity, "delivered")
    (stored,) = postfix.arrived(you)
    assert b"with UTF8SMTPS" in stored
    assert without_trace(stored) == _UTF8


def test_mail_that_needs_smtputf8_bounces_from_a_server_without(
    relay: Relay, postfix: Postfix, you: str, me: str, report: Report
) -> None:
    options = ("SMTPUTF8", "BODY=8BITMIME")
    identity = sent(relay, f"{me}@crm.example", f"{you}@ascii.example", _UTF8, options)
    assert "5.6.7 the message needs SMTPUTF8" in comes_to(relay, identity, "bounced")
    assert "Status: 5.6.7" in report()[1]
    assert not postfix.mail(you)


# Delivery reports.

_ASKED = (("RET=HDRS", "ENVID=order+2B1"), ("NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;orig@crm.example"))


def test_a_server_with_dsn_is_asked_to_report_success_and_only_it_does(
    relay: Relay, postfix: Postfix, you: str, me: str, report: Report
) -> None:
    comes_to(relay, sent(relay, f"{me}@crm.example", f"{you}@plain.example", message(), *_ASKED), "delivered")
    assert postfix.arrived(you)
    human, status = report()
    assert "Postfix" in human or "mail system at host mx.peer.example" in human
    assert "Reporting-MTA: dns; mx.peer.example" in status and "Action: delivered" in status
    assert "Original-Envelope-Id: order+1" in status or "Original-Envelope-Id: order+2B1" in status
    assert "Original-Recipient: rfc822;orig@crm.example" in status.replace("; ", ";")


def test_for_a_server_without_dsn_relayd_reports_that_it_was_relayed(
    relay: Relay, postfix: Postfix, you: str, me: str, report: Report
) -> None:
    comes_to(relay, sent(relay, f"{me}@crm.example", f"{you}@reportless.example", message(), *_ASKED), "delivered")
    assert postfix.arrived(you)
    status = report()[1]
    assert "Reporting-MTA: dns; relay.test.example" in status.replace("dns;relay", "dns; relay")
    assert "Action: relayed" in status
    assert "order+1" in status or "order+2B1" in status
    assert "rfc822;orig@crm.example" in status.replace("; ", ";")


def test_who_asks_for_no_report_gets_none(relay: Relay, postfix: Postfix, me: str, you: str) -> None:
    never = sent(relay, f"{me}@crm.example", "unknown@plain.example", message(), (), ("NOTIFY=NEVER",))
    comes_to(relay, never, "bounced")
    last = relay.send("unknown@plain.example", sender=f"{you}@crm.example")
    comes_to(relay, last, "bounced")
    postfix.arrived(you)  # the report that is wanted comes, and it was made later
    assert not postfix.mail(me)


# Moods.


def test_what_is_refused_for_now_is_tried_again_and_delivered(relay: Relay, postfix: Postfix, you: str) -> None:
    postfix.moods(moody="450 4.2.1 not today")
    identity = relay.send(f"{you}@moody.example")
    first = until(lambda: told(relay, identity, "TransientFailure"), 10, "the refusal is known")[0]
    assert "at rcpt" in first and "450 4.2.1" in first and "not today" in first and "next try" in first
    assert relay.delivery(identity)["state"] == "queued"
    postfix.moods()
    comes_to(relay, identity, "delivered")
    assert len(postfix.arrived(you)) == 1


def test_greylisted_mail_comes_again_from_the_same_source_and_is_delivered(
    relay: Relay, postfix: Postfix, postgrey: Postgrey, you: str
) -> None:
    found = [relay.send(f"{you}@grey.example", sender=f"sales{n}@crm.example") for n in range(8)]
    for identity in found:  # two sources take turns: that all had the same again by chance is unlikely
        words = comes_to(relay, identity, "delivered")
        (first,) = told(relay, identity, "TransientFailure")
        assert "at rcpt" in first and "Greylisted" in first
        assert re.search(r"by source (\w+)", first)[1] == re.search(r"by source (\w+)", words)[1]  # type: ignore[index]
    assert len(postfix.arrived(you, 8)) == 8


def test_the_connections_agreed_on_are_kept_to(relay: Relay, postfix: Postfix, you: str) -> None:
    """The server refuses a third connection of one address; two sources with one connection each never make it."""
    with relay.client() as client:
        found = [submit(client, f"{you}@agreed.example", message()) for _ in range(60)]
    assert len(postfix.arrived(you, 60)) == 60
    assert not list(itertools.chain(*(told(relay, identity, "TransientFailure") for identity in found)))


def test_more_connections_than_a_server_takes_delay_mail_and_lose_none(
    relay: Relay, postfix: Postfix, you: str
) -> None:
    with relay.client() as client:
        for _ in range(60):
            submit(client, f"{you}@two.example", message())
    assert len(postfix.arrived(you, 60, 40)) == 60
