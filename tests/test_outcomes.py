"""Outcomes: what is recorded of an attempt, when the next is due, and what senders are told."""

import email
import email.policy
import sqlite3
from email.message import EmailMessage
from typing import Any

import pytest
from msgspec import structs

from relayd.delivery.outcomes import Rules
from relayd.directory import plans
from relayd.directory.plans import Plan
from relayd.envelope import Recipient
from relayd.lease import Charge
from relayd.queue.retry import Schedule
from tests.harness import Delivering

PATIENT = Schedule((600.0,), 86400.0)


def telling(reports: Any = "sender", schedule: Schedule = PATIENT, **settings: Any) -> tuple[Delivering, Any]:
    """A courier that reports, and the mail server of the senders' domain."""
    relay = Delivering(rules={"bulk": Rules(schedule, reports)}, **settings)
    return relay, relay.host("crm.example", "203.0.113.99")


def told(home: Any) -> list[EmailMessage]:
    """The reports that reached the senders' server, each from the null sender."""
    assert all(sender == "" for sender, _, _ in home.got)
    policy = email.policy.default
    return [email.message_from_bytes(content, policy=policy) for _, _, content in home.got]  # type: ignore[misc]


def fields(report: EmailMessage) -> Any:
    """The fields about the recipient."""
    return list(report.iter_parts())[1].get_payload()[1]  # type: ignore[index]


def test_a_refused_recipient_is_reported_to_the_sender_in_the_same_change():
    relay, home = telling()
    relay.mx.says["RCPT"] = "550 5.1.1 User unknown"
    relay.send()
    relay.wait(2)
    (report,) = told(home)
    assert home.got[0][1] == "a@crm.example"
    assert (report["Auto-Submitted"], report.get_content_type()) == ("auto-replied", "multipart/report")
    assert (fields(report)["Action"], fields(report)["Status"]) == ("failed", "5.1.1")
    kinds = [(r.kind, r.connection) for r in relay.spool.records]
    assert kinds == [("Bounce", "login"), ("Reception", "relayd"), ("Delivery", "relayd")]
    assert [(e.term, e.account, e.stream) for e in relay.spool.entries] == [("generated", "crm", "bulk")]
    assert relay.spool.records[0].note == f"reported by {relay.spool.records[1].message}"
    assert relay.spool.rows == {}


def test_a_report_whose_outcome_the_spool_refused_is_not_sent():
    relay, home = telling()
    relay.mx.says["RCPT"] = "550 5.1.1 User unknown"
    relay.spool.depart = lambda departure, done: done(sqlite3.IntegrityError("not in the spool"))
    relay.send()
    relay.wait(2)
    assert home.got == [] and relay.scheduler.loaded == 0


def test_a_stream_without_reports_reports_nothing():
    relay, home = telling("none")
    relay.mx.says["RCPT"] = "550 5.1.1 User unknown"
    relay.send()
    relay.wait(2)
    assert home.got == [] and relay.spool.kinds() == ["Bounce"]


def test_mail_from_the_null_sender_is_never_reported_on():
    relay, home = telling()
    relay.mx.says["RCPT"] = "550 5.1.1 User unknown"
    home.says["RCPT"] = "550 5.1.1 The sender is unknown too"
    relay.send()
    relay.wait(5)
    assert relay.spool.kinds() == ["Bounce", "Reception", "Bounce"] and relay.spool.rows == {}


def test_a_sender_is_told_once_that_mail_is_late_and_once_that_it_expired():
    relay, home = telling(schedule=Schedule((3600.0,), 8 * 3600.0))
    relay.mx.says["RCPT"] = "451 4.2.1 Not now"
    relay.send()
    relay.wait(9 * 3600)
    late, expired = told(home)
    assert (fields(late)["Action"], fields(expired)["Action"]) == ("delayed", "failed")
    assert fields(expired)["Status"] == "4.4.7"


@pytest.mark.parametrize(
    ("notify", "dsn", "actions"),
    [("SUCCESS", False, ["relayed"]), ("SUCCESS", True, []), ("", False, []), ("NEVER", False, [])],
)
def test_success_is_reported_where_it_was_asked_for_and_nobody_behind_us_will(notify, dsn, actions):
    relay, home = telling()
    relay.mx.offers = ("PIPELINING", "DSN") if dsn else ("PIPELINING",)
    delivery = relay.delivery()
    delivery.recipient = Recipient("b@x.example", notify)
    relay.courier.received((delivery,))
    relay.wait(2)
    assert [fields(report)["Action"] for report in told(home)] == actions


def test_notify_never_silences_a_failure():
    relay, home = telling()
    relay.mx.says["RCPT"] = "550 5.1.1 User unknown"
    delivery = relay.delivery()
    delivery.recipient = Recipient("b@x.example", "NEVER")
    relay.courier.received((delivery,))
    relay.wait(2)
    assert home.got == []


def test_a_reply_that_names_a_time_sets_the_next_try():
    relay, _ = telling()
    relay.mx.says["RCPT"] = "451 4.7.1 Greylisted, please try again in 900 seconds"
    relay.send()
    wait = relay.spool.records[0].due - relay.spool.records[0].time
    assert 900 <= wait <= 900 * 1.15


def test_greylisting_without_a_time_waits_as_configured():
    relay, _ = telling(schedule=Schedule((7200.0,), 86400.0, greylist=120.0))
    relay.mx.says["RCPT"] = "450 4.2.0 Greylisted, come back"
    relay.send()
    wait = relay.spool.records[0].due - relay.spool.records[0].time
    assert 120 <= wait <= 120 * 1.15


def test_what_we_find_ourselves_carries_its_status_into_the_report():
    relay, home = telling()
    relay.mx.offers = ("PIPELINING", "SIZE 10")
    relay.send()
    relay.wait(2)
    (report,) = told(home)
    assert fields(report)["Status"] == "5.3.4"


def refunding(payer: str, attempts: int, *terms: str) -> list[Any]:
    """What is refunded when a delivery expires on disk after so many attempts, and the plan says so of these terms."""
    relay = Delivering(rules={"bulk": Rules(Schedule((600.0,), 3600.0), "none")})
    relay.courier.outcomes.refunds = lambda payer, term, attempts: plans.refunds(
        Plan("p", refunds=terms), term, attempts
    )
    waiting = relay.delivery()
    waiting.message = structs.replace(waiting.message, payer=payer)
    waiting.attempts, waiting.due = attempts, 9e15
    relay.wait(4000)
    assert relay.spool.kinds() == ["Expiration"]
    return relay.spool.refunds


@pytest.mark.parametrize(
    ("payer", "attempts", "terms", "back"),
    [
        ("parent", 0, ("expired",), [Charge("parent", 1)]),
        ("parent", 1, ("expired",), []),
        ("parent", 0, ("suppressed",), []),
        ("", 0, ("expired",), []),
    ],
)
def test_what_never_left_gives_its_unit_back_to_its_payer_where_the_plan_says_so(payer, attempts, terms, back):
    assert refunding(payer, attempts, *terms) == back


def test_what_was_delivered_gives_nothing_back():
    relay = Delivering()
    relay.courier.outcomes.refunds = lambda payer, term, attempts: plans.refunds(Plan("p"), term, attempts)
    delivery = relay.delivery()
    delivery.message = structs.replace(delivery.message, payer="crm")
    relay.courier.received((delivery,))
    relay.wait(2)
    assert relay.spool.kinds() == ["Delivery"] and relay.spool.refunds == []
