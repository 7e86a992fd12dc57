"""Outcomes: what is recorded of an attempt, when the next is due, and what senders are told."""

import email
import email.policy
import sqlite3
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from relayd.delivery.outcomes import EXPIRY, Rules
from relayd.delivery.session import Timeouts
from relayd.directory import plans
from relayd.directory.plans import Plan
from relayd.envelope import Recipient, Steering
from relayd.lease import Charge
from relayd.queue.retry import Schedule
from relayd.suppression import Suppressions, entry
from tests.harness import HANG, START, Delivering

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
    assert home.got == [] and relay.scheduler.memory.loaded == 0


def test_nothing_is_learnt_of_an_attempt_before_its_record_is_on_disk():
    relay, _ = telling("none")
    relay.mx.says["RCPT"] = "550 5.1.1 User unknown"
    heard: list[Any] = []
    relay.courier.outcomes.heard = heard.append
    depart, written = relay.spool.depart, []
    relay.spool.depart = lambda departure, done: written.append(lambda: depart(departure, done))
    relay.send()
    relay.wait(2)
    assert written and heard == []
    written[0]()
    relay.wait(2)
    assert [(event.kind, event.cls) for event in heard] == [("bounced", "recipient_unknown")]


def test_nothing_is_learnt_of_an_attempt_whose_record_could_not_be_kept():
    relay, _ = telling("none")
    relay.mx.says["RCPT"] = "550 5.1.1 User unknown"
    heard: list[Any] = []
    relay.courier.outcomes.heard = heard.append
    relay.spool.depart = lambda departure, done: done(sqlite3.IntegrityError("not in the spool"))
    relay.send()
    relay.wait(2)
    assert heard == []


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


# Recipients who get on a stop-list while their mail waits.


@pytest.fixture
def stops(tmp_path: Path) -> Iterator[Callable[[Delivering], Callable[[str], None]]]:
    """Gives a relay real suppression lists; gives what puts an address on the one that all its mail honours."""
    opened: list[Suppressions] = []

    def give(relay: Delivering) -> Callable[[str], None]:
        lists = Suppressions(tmp_path / "suppression.sqlite", relay.reactor.callFromThread)
        opened.append(lists)
        relay.courier.suppressions, relay.courier.lists_of = lists, lambda message: ("all",)
        made = lists.add_list("all", now=START)
        relay.reactor.until(lambda: made.done() and lists.ready)

        def put(address: str) -> None:
            added = lists.add([entry("all", address, reason="complaint", added=START, by="test")])
            relay.reactor.until(added.done)

        return put

    yield give
    opened[0].close()


@pytest.mark.parametrize("reports", ["sender", "none"])
def test_who_gets_on_a_stop_list_while_his_mail_waits_gets_nothing_and_its_sender_is_told_if_the_stream_tells(
    stops, reports
):
    relay, home = telling(reports)
    stop = stops(relay)
    relay.mx.says["RCPT"] = "451 4.2.1 later"
    relay.send()
    relay.send(to="c@x.example")
    del relay.mx.says["RCPT"]
    stop("b@x.example")
    relay.wait(700)
    relay.reactor.until(lambda: "Suppression" in relay.spool.kinds())
    relay.wait(2)
    assert [to for _, to, _ in relay.mx.got] == ["c@x.example"] and relay.spool.rows == {}
    (record,) = [record for record in relay.spool.records if record.kind == "Suppression"]
    assert (record.recipient, record.attempts) == ("b@x.example", 1)
    assert record.evidence.words() == "b@x.example is on the list all: complaint"
    assert [(fields(report)["Action"], fields(report)["Status"]) for report in told(home)] == (
        [("failed", "5.7.1")] if reports == "sender" else []
    )


@pytest.mark.parametrize(
    ("payer", "tried", "terms", "back"),
    [
        ("crm", False, ("suppressed",), [Charge("crm", 1)]),
        ("crm", True, ("suppressed",), []),
        ("crm", False, ("expired",), []),
        ("", False, ("suppressed",), []),
    ],
)
def test_what_a_stop_list_keeps_back_gives_its_unit_back_where_the_plan_says_so(stops, payer, tried, terms, back):
    relay = Delivering()
    stop = stops(relay)
    plan = Plan("p", refunds=terms)
    relay.courier.outcomes.refunds = lambda payer, term, attempts: plans.refunds(plan, term, attempts)
    delivery = relay.delivery(steering=Steering() if tried else Steering(send_at=START + 300))
    delivery.message = structs.replace(delivery.message, payer=payer)
    relay.mx.says["RCPT"] = "451 4.2.1 later"
    relay.courier.received((delivery,))
    relay.wait(2)
    stop("b@x.example")
    relay.wait(700)
    relay.reactor.until(lambda: relay.spool.kinds()[-1:] == ["Suppression"])
    assert relay.spool.refunds == back and relay.mx.got == [] and relay.spool.rows == {}


def test_a_report_goes_to_no_sender_who_is_on_a_stop_list_himself(stops):
    relay, home = telling()
    stops(relay)("a@crm.example")
    relay.mx.says["RCPT"] = "550 5.1.1 User unknown"
    relay.send()
    relay.reactor.until(lambda: "Suppression" in relay.spool.kinds())
    assert relay.spool.kinds() == ["Bounce", "Reception", "Suppression"] and home.got == []


# Times that senders set, and words that come back.  It is Friday 2027-01-15 08:00:00 UTC.


def steered(relay: Delivering, **said: Any) -> Any:
    """One delivery, received and told to the courier."""
    return relay.send(steering=Steering(**said))[0]


def test_what_is_to_be_sent_later_is_sent_then():
    relay = Delivering()
    steered(relay, send_at=START + 3600)
    relay.wait(3599)
    assert relay.mx.got == [] and relay.reactor.dialled == []
    relay.wait(3)
    assert len(relay.mx.got) == 1 and relay.spool.kinds() == ["Delivery"]


def test_what_comes_in_while_its_window_is_closed_is_sent_when_it_opens():
    relay = Delivering()
    steered(relay, window="Fri 09:00-10:00")
    relay.wait(3599)
    assert relay.mx.got == []
    relay.wait(3)
    assert len(relay.mx.got) == 1


def kept_waiting(relay: Delivering, seconds: float, **said: Any) -> None:
    """A delivery that is ready, while the server lets its session wait."""
    relay.mx.says["BANNER"] = HANG
    steered(relay, **said)
    relay.wait(seconds)
    del relay.mx.says["BANNER"]
    relay.mx.sessions[0].wake()
    relay.reactor.pump()


def test_what_is_not_sent_before_its_window_closes_waits_for_the_next_without_an_attempt():
    relay = Delivering(timeouts=Timeouts(banner=600))
    kept_waiting(relay, 61, window="08:00-08:01")
    assert relay.mx.got == [] and relay.spool.kinds() == []
    (row,) = relay.spool.rows.values()
    assert (row.due, row.attempts) == (START + 86400, 0)
    relay.wait(86400)
    assert len(relay.mx.got) == 1 and relay.spool.records[-1].attempts == 1


def test_what_is_not_sent_before_its_window_closes_for_good_expires():
    relay, home = telling(timeouts=Timeouts(banner=600))
    kept_waiting(relay, 61, window="Fri 08:00-08:01")
    assert relay.mx.got == [] and relay.spool.kinds()[0] == "Expiration"
    assert fields(told(home)[0])["Status"] == "4.4.7"


def test_nothing_is_sent_once_its_senders_end_has_come():
    relay, home = telling(timeouts=Timeouts(banner=600))
    kept_waiting(relay, 300, expire=START + 300)
    assert relay.mx.got == [] and relay.spool.kinds()[0] == "Expiration"
    assert "it was never tried" in relay.spool.records[0].evidence.error
    assert fields(told(home)[0])["Action"] == "failed"


def test_a_retry_that_would_come_after_its_senders_end_comes_to_nothing_at_that_end():
    relay = Delivering()
    relay.mx.says["RCPT"] = "451 4.2.1 Not now"
    steered(relay, expire=START + 200)
    assert relay.spool.records[0].due == START + 200
    relay.mx.says.clear()
    relay.wait(205)
    assert relay.spool.kinds() == ["TransientFailure", "Expiration"] and relay.mx.got == []
    assert relay.evidence.error == "not delivered in time; last: rcpt: 451 4.2.1 Not now"


def test_what_waits_behind_a_dead_server_expires_at_its_senders_end():
    relay = Delivering()
    relay.mx.open = 0
    for _ in range(10):
        steered(relay, expire=START + 1000)
    plain = relay.send()[0]
    relay.wait(1000 + EXPIRY + 2)
    assert relay.spool.kinds().count("Expiration") == 10 and list(relay.spool.rows) == [plain.id]


def test_mail_that_was_to_go_later_is_neither_late_nor_too_old_before():
    relay, home = telling(schedule=Schedule((3600.0,), 8 * 3600.0))
    relay.mx.says["RCPT"] = "451 4.2.1 Not now"
    steered(relay, send_at=START + 20 * 3600)
    relay.wait(20 * 3600 + 5)
    assert relay.spool.kinds() == ["TransientFailure"] and told(home) == []
    relay.wait(9 * 3600)
    late, expired = told(home)
    assert (fields(late)["Action"], fields(expired)["Action"]) == ("delayed", "failed")


def test_the_senders_own_words_are_in_every_record_of_the_message_and_its_id_in_the_report():
    relay, home = telling()
    relay.mx.says["RCPT"] = "550 5.1.1 User unknown"
    steered(relay, track_id="77", tags=("spring",), meta={"order": "17"})
    relay.wait(2)
    bounce, *of_report = relay.spool.records
    assert (bounce.track_id, bounce.tags, bounce.meta) == ("77", ("spring",), {"order": "17"})
    assert told(home)[0]["X-Track-ID"] == "77"
    # That the report arrived says nothing of the message.
    assert [(r.kind, r.track_id) for r in of_report] == [("Reception", ""), ("Delivery", "")]
