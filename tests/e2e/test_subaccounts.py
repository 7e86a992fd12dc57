"""A client of a customer: a sub-account sends by its parent's domain, key, limits and balance, under its own name."""

import json
import smtplib
import ssl
from typing import Any

import pytest

from relayd.message.dkim import dns_record, to_pem, txt_strings
from tests.dkim_kit import rsa, verifies

from .conftest import Stage
from .relay import LOGIN, PASSWORD, SENDER, Relay, Sink, message, submit, until

KEY = rsa(domain="crm.example", selector="s1")
NAME, TEXT = dns_record(KEY)
ZONE = f"""
{NAME} TXT {" ".join(f'"{part}"' for part in txt_strings(TEXT))}
crm.example TXT "v=spf1 ip4:192.0.2.10 -all"
crm.example MX 10 mx.crm.example
bounce.mail.shop.example TXT "v=spf1 ip4:192.0.2.10 -all"
bounce.mail.shop.example MX 10 relay.test.example
"""
CHILD = "shop-1"


def said(relay: Relay, *words: str) -> str:
    code, text = relay.ctl(*words)
    assert code == 0, text
    return text


@pytest.fixture
def sink(stage: Stage) -> Sink:
    return stage.sink()


@pytest.fixture
def relay(stage: Stage, sink: Sink) -> Relay:
    """A customer with a domain, and its client; each has a login."""
    names = stage.names(ZONE)
    relay = stage.relay(
        f'[[route]]\ndomain = "*"\nvia = "{sink.via}"\n[resolver]\nnameservers = ["{names.address}"]\n'
        '[source.t1]\naddress = "127.0.0.1"\npublic = "192.0.2.10"\n'
    ).start()
    said(relay, "account", "add", "--parent", "crm", "--domain-check", "off", "shop")
    (stage.home / "s1.pem").write_bytes(to_pem(KEY.private))
    file = str(stage.home / "s1.pem")
    said(relay, "domain", "add", "--account", "crm", "--selector", "s1", "--key-file", file, "crm.example")
    relay.connection(LOGIN, ("@crm.example",))
    relay.connection(CHILD, ("*",), account="shop")
    return relay


def client(relay: Relay, login: str) -> smtplib.SMTP:
    context = ssl.create_default_context(cafile=str(relay.home / f"{relay.certificate}.pem"))
    session = smtplib.SMTP_SSL("127.0.0.1", relay.submissions, "client.example", timeout=30, context=context)
    session.login(login, PASSWORD)
    return session


def records(relay: Relay, kind: str) -> list[Any]:
    files = sorted((relay.spool / "records").glob("*.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines() if line]
    return [row for row in rows if row["kind"] == kind]


def test_a_clients_mail_goes_by_its_parents_domain_and_key_and_is_known_by_its_name(relay: Relay, sink: Sink) -> None:
    said(relay, "account", "set", "--domain-check", "require", "shop")
    said(relay, "domain", "verify", "crm.example")
    with client(relay, CHILD) as session:
        submit(session, "you@example.net", message(extra=b"X-Relayd-Client: somebody else\r\n"))
        assert session.mail("sales@other.example") == (553, b"5.1.8 Domain not found")
    assert verifies(sink.content(sink.wait("you@example.net")), [KEY]) == [True]
    (delivered,) = until(lambda: records(relay, "Delivery"), what="the record of it")
    (refused,) = until(lambda: records(relay, "Rejection"), what="the record of the refusal")
    for row in (*records(relay, "Reception"), delivered, refused):
        assert (row["account"], row["connection"], row["client"]) == ("shop", CHILD, "shop")
    relay.audited()


def test_the_parent_pays_for_its_clients(relay: Relay) -> None:
    for words in ("plan add prepaid", "balance set-plan crm prepaid", "balance credit crm 3"):
        said(relay, *words.split())
    with client(relay, CHILD) as child, client(relay, LOGIN) as parent:
        submit(child, "a@example.net", message())
        submit(parent, "b@example.net", message())
        submit(child, "c@example.net", message())
        for session in (child, parent):
            session.mail(SENDER)
            session.rcpt("d@example.net")
            assert session.docmd("DATA") == (450, b"4.7.1 Balance not enough")
            session.rset()
    until(lambda: not relay.queued(), what="the queue empties")
    found = relay.ask("/v1/balance/show", account="crm")
    assert (found["used"], found["left"], found["used_today"]) == (3, 0, 3)
    assert "shop has no balance" in relay.ctl("balance", "show", "shop")[1]
    relay.audited()


def test_a_parents_limit_holds_for_the_sum_and_a_clients_own_within_it(relay: Relay) -> None:
    said(relay, "account", "set", "--recipients", "3/d", "crm")
    said(relay, "account", "set", "--recipients", "2/d", "shop")
    with client(relay, CHILD) as child, client(relay, LOGIN) as parent:
        assert [taken(child), taken(child), taken(child)] == [250, 250, 451]
        assert [taken(parent), taken(parent)] == [250, 451]


def taken(session: smtplib.SMTP) -> int:
    """The answer to one recipient; the true seconds are in a refusal."""
    session.rset()
    session.mail(SENDER)
    code, text = session.rcpt("you@example.net")
    if code == 451:
        words = text.decode().split()
        assert words[:6] == ["4.3.2", "Rate", "limit", "exceeded,", "retry", "after"] and 0 < int(words[6]) <= 43200
    return code


def test_a_suspended_parent_stops_its_clients_and_resumed_it_lets_them_go_on(relay: Relay) -> None:
    with client(relay, CHILD) as session:
        said(relay, "account", "suspend", "crm", "--reason", "unpaid")
        assert session.mail(SENDER) == (450, b"4.7.1 The account is suspended")
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client(relay, CHILD)
        assert (refused.value.smtp_code, refused.value.smtp_error) == (535, b"5.7.8 Incorrect login or password")
        said(relay, "account", "resume", "crm", "--reason", "paid")
        assert session.mail(SENDER)[0] == 250
    client(relay, CHILD).quit()


def test_a_zone_of_the_account_or_of_the_nearest_above_it_says_what_to_publish_and_proves_nothing(relay: Relay) -> None:
    said(relay, "domain", "add", "--account", "shop", "--selector", "s1", "shop.example")
    before = relay.ask("/v1/domain/verify", name="shop.example")
    said(relay, "account", "set", "--zone", "mail.crm.example", "crm")
    told = said(relay, "domain", "show", "shop.example")
    for line in (
        "bounce.mail.crm.example. IN MX 10 relay.test.example.",
        'bounce.mail.crm.example. IN TXT ( "v=spf1 ip4:192.0.2.10 -all" )',
        "t1.mail.crm.example. IN A 192.0.2.10",
        "links.mail.crm.example. IN CNAME relay.test.example.",
    ):
        assert line in told
    # Mail still leaves with the sender's own return path: it is that which is judged.
    assert relay.ask("/v1/domain/verify", name="shop.example")["findings"] == before["findings"]
    said(relay, "account", "set", "--zone", "mail.shop.example", "shop")
    assert "links.mail.shop.example" in said(relay, "domain", "show", "shop.example")
    said(relay, "account", "set", "--zone", "none", "shop")
    assert "bounce.mail.crm.example" in said(relay, "domain", "show", "shop.example")
