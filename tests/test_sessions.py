"""Live sessions of a whole node, listed and dropped."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.sessions import Filter
from tests.harness import HANG
from tests.stops_kit import Stopping, running
from tests.test_service import MAIL, MESSAGE


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stopping]:
    yield from running(tmp_path, monkeypatch)


def listed(relay: Stopping, **wanted: Any) -> list[dict[str, Any]]:
    return relay.node.operations.live(100, **wanted)


def test_clients_are_shown_with_who_they_are_and_how_far(relay: Stopping):
    client = relay.call()
    relay.reactor.wait(5)
    client.say(b"MAIL FROM:<a@crm.example>\r\nhunter2 is my password\r\n")
    (row,) = listed(relay)
    session = client.transport.other.protocol
    assert row == {
        "id": session.id,
        "way": "in",
        "peer": "198.51.100.1",
        "login": "relay:198.51.100.0/24",
        "account": "crm",
        "at": "relay tcp:2525:interface=127.0.0.1",
        "stage": "command",
        "since": relay.reactor.seconds() - 5,
        "messages": 0,
        "bytes": len("EHLO crm.example\r\nMAIL FROM:<a@crm.example>\r\nhunter2 is my password\r\n"),
        "tls": "",
        "last": "?",
    }


def test_mail_servers_are_shown_with_what_is_under_way_and_it_is_tried_again_when_they_are_dropped(relay: Stopping):
    relay.mx.says["RCPT"] = HANG
    delivery = relay.submit()
    relay.reactor.until(lambda: relay.mx.sessions and "RCPT" in str(relay.mx.sessions[0].heard))
    (row,) = listed(relay, way="out")
    assert (row["peer"], row["site"], row["source"], row["stage"], row["account"], row["recipient"]) == (
        "203.0.113.1", "203.0.113.1:25", "s1", "mail" if row["stage"] == "mail" else "rcpt", "crm", "b@x.example",
    )  # fmt: skip
    assert int(row["delivery"], 16) == int(delivery, 16) + 1
    assert relay.say("session/drop", id=row["id"], dry_run=True)["out"] == 1 and relay.mx.sessions
    assert relay.say("session/drop", id=row["id"])["out"] == 1
    assert relay.mx.sessions == [] and listed(relay, way="out") == []
    del relay.mx.says["RCPT"]
    relay.later(300, lambda: relay.mx.got)
    records = [
        r for r in relay.asked(relay.node.operations.inspect(int(delivery, 16)))["history"] if "dropped" in r["what"]
    ]
    assert "dropped by anna: a test" in records[0]["what"]


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({"way": "in"}, True),
        ({"way": "out"}, False),
        ({"peer": "198.51.100.0/24"}, True),
        ({"peer": "198.51.100.2/32"}, False),
        ({"account": "crm"}, True),
        ({"account": "shop"}, False),
        ({"login": "relay:198.51.100.0/24"}, True),
        ({"source": "s1"}, False),
        ({"site": "x.example"}, False),
        ({"account": "crm", "peer": "192.0.2.1"}, False),
    ],
)
def test_a_filter_wants_all_that_it_names(relay: Stopping, wanted: dict[str, str], fits: bool):
    relay.call()
    assert bool(listed(relay, **wanted)) == fits


def test_a_client_in_the_middle_of_a_message_is_dropped_and_one_that_waits_for_its_250_hears_it(relay: Stopping):
    early, late = relay.call(), relay.call()
    for client in (early, late):
        client.say(MAIL)
    early.say(b"From: a@crm.example\r\n")
    late.say(MESSAGE)
    done = relay.node.operations.drop("anna", "floods", False, way="in", peer="198.51.100.1")
    assert done["in"] == 2
    relay.reactor.until(lambda: late.closed)
    assert early.heard == b"421 4.3.2 This session is ended by the operator\r\n"
    first, last = late.heard.decode().splitlines()
    assert first.startswith("250 ") and last.startswith("421 4.3.2")


def test_an_empty_filter_is_no_filter():
    assert not Filter() and not Filter(way="in") and Filter(peer="192.0.2.1")
