"""What passes by of every attempt that failed: who sent, by what, whereto, and what was meant."""

from relayd.classify import Decision
from relayd.echoes import Event
from tests.harness import Delivering


def listening(**settings) -> tuple[Delivering, list[Event]]:
    relay, heard = Delivering(**settings), []
    relay.courier.outcomes.heard = heard.append
    return relay, heard


def test_a_refusal_passes_by_with_all_that_is_known_of_it_and_a_success_does_not():
    relay, heard = listening()
    relay.send()
    relay.mx.says["RCPT"] = "550 5.1.1 user unknown"
    (delivery,) = relay.send()
    (event,) = heard
    message = delivery.message
    assert (event.kind, event.delivery, event.recipient, event.late) == ("bounced", delivery.id, "b@x.example", False)
    assert (event.account, event.connection, event.client) == (message.account, message.connection, message.client)
    assert (event.stream, event.domain, event.source, event.group) == ("bulk", "crm.example", "s1", "mx1.x.example")
    assert (event.cls, event.decision) == ("recipient_unknown", Decision(False, "at_once", False, "recipient"))
    assert event.words == "550 5.1.1 user unknown"


def test_what_is_tried_again_is_deferred_and_what_is_tried_no_more_has_expired():
    relay, heard = listening()
    relay.mx.says["RCPT"] = "452 4.2.2 mailbox full"
    relay.send()
    relay.wait(86400 + 1200)
    assert {event.kind for event in heard[:-1]} == {"deferred"} and heard[-1].kind == "expired"
    assert {event.cls for event in heard} == {"mailbox_full"}


def test_a_session_that_is_refused_is_heard_of_every_delivery_that_met_it():
    relay, heard = listening(limit=1)
    relay.mx.says["BANNER"] = "554 5.7.1 your IP address is on a blocklist"
    relay.send(2)
    assert [(event.kind, event.cls, event.source, event.group) for event in heard] == [
        ("deferred", "ip_blocked", "s1", "mx1.x.example")
    ] * 2
