"""Reports to senders, as a mail server of the sender's domain gets them: counted, well formed, and never about mail
that must not be reported on."""

from collections import Counter
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.hostile.peer import Host, Session
from tests.hostile.relay import Relay

REFUSED = "550 5.1.1 unknown \x1b[31muser"


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    made = Relay(tmp_path / "spool", reports="sender", delay_report=100.0)
    yield made
    made.assert_nothing_left()
    made.close()


@pytest.fixture
def home(relay: Relay) -> Host:
    """The mail server of the sender."""
    return relay.host("crm.example", offers=("8BITMIME", "PIPELINING"))


def terms(relay: Relay) -> Counter[str]:
    sums: Counter[str] = Counter()
    for line in relay.asked(relay.spool.audit).lines:
        sums.update(line.terms)
    return sums


def parts(content: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """The fields of a report: of the message, of the recipient."""
    report = message_from_bytes(content)
    assert report.get_content_type() == "multipart/report" and report.get_param("report-type") == "delivery-status"
    words, status, original = report.get_payload()
    assert words.get_content_type() == "text/plain" and status.get_content_type() == "message/delivery-status"
    assert original.get_content_type() in ("message/rfc822", "text/rfc822-headers")
    of_message, of_recipient = status.get_payload()
    return dict(of_message.items()), dict(of_recipient.items())


def test_a_refusal_is_reported_by_a_message_that_is_counted_as_generated(relay: Relay, home: Host):
    relay.host("x.example", says={"RCPT": REFUSED})
    (delivery,) = relay.send("b@x.example", envid="E1", orcpt="rfc822;b@old.example", notify="FAILURE")
    relay.loop.until(lambda: home.got, within=60)
    relay.settled()
    ((sender, recipient, content),) = home.got
    assert (sender, recipient) == ("", "a@crm.example") and b"\x1b" not in content
    of_message, of_recipient = parts(content)
    assert of_message["Original-Envelope-Id"] == "E1" and "mx1.relay.example" in of_message["Reporting-MTA"]
    assert of_recipient["Final-Recipient"] == "rfc822; b@x.example"
    assert of_recipient["Original-Recipient"] == "rfc822; b@old.example"
    assert (of_recipient["Action"], of_recipient["Status"]) == ("failed", "5.1.1")
    assert "550" in of_recipient["Diagnostic-Code"] and "mx1.x.example" in of_recipient["Remote-MTA"]
    assert relay.last(delivery).kind == "Bounce" and relay.last(delivery).note.startswith("reported by ")
    counted = terms(relay)
    assert (counted["received"], counted["generated"], counted["bounced"], counted["delivered"]) == (1, 1, 1, 1)


@pytest.mark.parametrize("notify", ["NEVER", "SUCCESS", "DELAY", "SUCCESS,DELAY"])
def test_a_failure_that_nobody_asked_to_hear_of_is_not_reported(relay: Relay, home: Host, notify: str):
    relay.host("x.example", says={"RCPT": REFUSED})
    (delivery,) = relay.send("b@x.example", notify=notify)
    relay.settled()
    assert relay.last(delivery).kind == "Bounce" and home.seen == [] and terms(relay)["generated"] == 0


def test_mail_from_nobody_is_never_reported_on(relay: Relay, home: Host):
    relay.host("x.example", says={"RCPT": REFUSED})
    (delivery,) = relay.send("b@x.example", sender="")
    relay.settled()
    assert relay.last(delivery).kind == "Bounce" and terms(relay)["generated"] == 0 and home.seen == []


def test_a_report_that_is_refused_itself_is_the_end_of_it(relay: Relay, home: Host):
    home.says["RCPT"] = REFUSED
    relay.host("x.example", says={"RCPT": REFUSED})
    relay.send("b@x.example")
    relay.loop.until(lambda: home.heard("RCPT"), within=60)
    relay.settled()
    relay.loop.wait(30)
    counted = terms(relay)
    assert (counted["generated"], counted["bounced"]) == (1, 2) and len(home.heard("MAIL")) == 1


def test_a_stream_without_reports_has_none(tmp_path: Path):
    relay = Relay(tmp_path / "quiet", reports="none")
    home = relay.host("crm.example")
    relay.host("x.example", says={"RCPT": REFUSED})
    relay.send("b@x.example", notify="FAILURE")
    relay.settled()
    assert home.seen == [] and terms(relay)["generated"] == 0
    relay.assert_nothing_left()
    relay.close()


def test_a_delay_is_reported_once_and_the_mail_goes_on(relay: Relay, home: Host):
    host = relay.host("x.example", says={"RCPT": "451 4.3.0 not now"})
    (delivery,) = relay.send("b@x.example")
    relay.loop.until(lambda: len(host.heard("RCPT")) == 3, within=2500, patience=40)
    relay.settled()
    ((sender, recipient, content),) = home.got
    _, of_recipient = parts(content)
    assert (sender, recipient) == ("", "a@crm.example")
    assert (of_recipient["Action"], of_recipient["Status"]) == ("delayed", "4.3.0")
    assert "Will-Retry-Until" in of_recipient
    host.says["RCPT"] = "250 ok"
    relay.loop.until(lambda: host.got, within=2500, patience=40)
    relay.settled()
    assert relay.last(delivery).kind == "Delivery" and len(home.got) == 1
    assert terms(relay)["generated"] == 1


@pytest.mark.parametrize("notify", ["NEVER", "FAILURE", "SUCCESS"])
def test_a_delay_that_nobody_asked_to_hear_of_is_not_reported(relay: Relay, home: Host, notify: str):
    host = relay.host("x.example", says={"RCPT": "451 4.3.0 not now"})
    relay.send("b@x.example", notify=notify)
    relay.loop.until(lambda: len(host.heard("RCPT")) == 2, within=2500, patience=40)
    relay.settled()
    assert home.seen == []


@pytest.mark.parametrize(("offers", "reports"), [((), 1), (("DSN",), 0)])
def test_success_is_reported_by_us_only_where_the_peer_does_not(relay: Relay, home: Host, offers, reports: int):
    host = relay.host("x.example", offers=offers)
    relay.send("b@x.example", notify="SUCCESS")
    relay.loop.until(lambda: host.got and len(home.got) == reports, within=60)
    relay.settled()
    if reports:
        _, of_recipient = parts(home.got[0][2])
        assert (of_recipient["Action"], of_recipient["Status"][0]) == ("relayed", "2")
    assert len(home.got) == terms(relay)["generated"] == reports


def test_an_answer_that_was_lost_is_no_failure_to_report(relay: Relay, home: Host):
    def taken(session: Session) -> None:
        session.close()

    host = relay.host("x.example", says={"DOT": taken})
    (delivery,) = relay.send("b@x.example")
    relay.settled()
    assert relay.last(delivery).kind == "Unknown" and len(host.got) == 1 and home.seen == []
