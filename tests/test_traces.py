"""Traces: who is listened to, when that is known, and what it costs those who are not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd import traces as room
from relayd.errors import InputError
from relayd.smtp.server import ServerSession
from relayd.smtp.watched import Brief
from tests.stops_kit import Stopping, running


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stopping]:
    yield from running(tmp_path, monkeypatch)


def start(relay: Stopping, **given: Any) -> int:
    return relay.say("trace/start", **given)["id"]


def heard(relay: Stopping, number: int) -> list[dict[str, Any]]:
    return relay.node.traces.show(number)["heard"]


def test_while_nothing_is_traced_sessions_are_as_ever_and_afterwards_again(relay: Stopping):
    def machine(client: Any) -> Any:
        return client.transport.other.protocol.machine

    first = relay.call()
    assert type(machine(first)) is ServerSession
    number = start(relay)
    second = relay.call()
    assert type(machine(first)) is not ServerSession and type(machine(second)) is not ServerSession
    relay.submit()
    relay.reactor.until(lambda: relay.mx.got)
    assert not isinstance(next(iter(relay.node.courier.sessions)).machine.log, Brief)
    relay.say("trace/stop", id=number)
    assert type(machine(first)) is ServerSession and type(machine(second)) is ServerSession
    assert all(listener.factory.watch is None for listener in relay.node.doors.listeners.values())
    assert relay.node.courier.watch is None
    assert all(isinstance(session.machine.log, Brief) for session in relay.node.courier.sessions)
    before = len(relay.node.traces.get(number).lines)
    second.say(b"NOOP\r\n")
    relay.submit()
    assert len(relay.node.traces.get(number).lines) == before


def test_a_session_is_told_from_its_beginning_once_it_is_known_to_fit(relay: Stopping):
    number = start(relay, recipient="b@x.example", **{"in": True})
    client, other = relay.call(), relay.call()
    assert heard(relay, number) == []
    other.say(b"MAIL FROM:<a@crm.example>\r\nRCPT TO:<c@x.example>\r\n")
    client.say(b"MAIL FROM:<a@crm.example>\r\nRCPT TO:<B@x.example>\r\n")
    (row,) = heard(relay, number)
    assert row["peer"] == "198.51.100.1" and row["lines"][0].endswith("S: 220 mx1.relay.example ESMTP relayd")
    assert "EHLO crm.example" in row["lines"][1] and "c@x.example" not in str(row)


@pytest.mark.parametrize(
    ("wanted", "ways"),
    [
        ({}, {"in", "out"}),
        ({"in": True}, {"in"}),
        ({"out": True}, {"out"}),
        ({"site": "203.0.113.1:25"}, {"out"}),
        ({"source": "s2"}, set()),
        ({"account": "crm"}, {"in", "out"}),
        ({"account": "shop"}, set()),
        ({"domain": "x.example"}, {"in", "out"}),
        ({"domain": "y.example"}, set()),
        ({"peer": "198.51.100.0/24"}, {"in"}),
        ({"peer": "203.0.113.1/32"}, {"out"}),
        ({"login": "relay:198.51.100.0/24"}, {"in"}),
    ],
)
def test_a_filter_chooses(relay: Stopping, wanted: dict[str, Any], ways: set[str]):
    number = start(relay, **wanted)
    relay.submit()
    relay.reactor.until(lambda: relay.mx.got)
    relay.reactor.pump()
    assert {row["way"] for row in heard(relay, number)} == ways


def test_a_trace_is_over_when_its_time_is_and_when_all_its_sessions_are(relay: Stopping):
    short = start(relay, **{"for": "60s"})
    few = start(relay, limit=1, **{"in": True})
    client = relay.call()
    relay.call()
    client.say(b"QUIT\r\n")
    relay.reactor.wait(2)
    state = {row["id"]: row["state"] for row in relay.say("trace/list")}
    assert state == {short: "on", few: "over: 1 sessions were heard to their end"}
    assert len(heard(relay, few)) == 1
    relay.reactor.wait(60)
    assert relay.node.traces.get(short).why == "its time is up"


def test_it_can_be_followed_from_where_one_stood(relay: Stopping):
    number = start(relay, **{"in": True})
    client = relay.call()
    first = relay.say("trace/tail", id=number)
    assert [line["n"] for line in first["lines"]] == list(range(1, first["next"] + 1)) and not first["over"]
    client.say(b"NOOP\r\n")
    more = relay.say("trace/tail", id=number, after=first["next"])
    assert [line["text"] for line in more["lines"]] == ["NOOP", "250 2.0.0 OK"] or more["lines"][0]["text"] == "NOOP"
    relay.say("trace/stop", id=number)
    assert relay.say("trace/tail", id=number, after=more["next"]) == {"lines": [], "next": more["next"], "over": True}


def test_everything_is_bounded(relay: Stopping, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room, "OF_SESSION", 600)
    monkeypatch.setattr(room, "OF_TRACE", 5000)
    number = start(relay, limit=1000, **{"in": True})
    client = relay.call()
    for _ in range(40):
        client.say(b"NOOP " + b"x" * 100 + b"\r\n")
    (row,) = heard(relay, number)
    assert row["lines"][-1].endswith("that is all that is kept of a session)")
    assert sum(map(len, row["lines"])) < 1500
    for _ in range(30):
        relay.call().say(b"NOOP " + b"x" * 300 + b"\r\n")
    trace = relay.node.traces.get(number)
    assert not trace.on and trace.size < 6000
    for _ in range(room.RUNNING):
        start(relay)
    with pytest.raises(InputError, match="trace stop ends one"):
        start(relay)
    for old in relay.say("trace/list")[: room.RUNNING]:
        relay.say("trace/stop", id=old["id"])
    for _ in range(room.KEPT + 5):
        relay.say("trace/stop", id=start(relay))
    assert len(relay.say("trace/list")) == room.KEPT
    assert relay.node.traces._ears == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"for": "2d"}, "longer than a day"),
        ({"limit": 0}, "not within"),
        ({"in": True, "source": "s1"}, "clients have neither"),
        ({"peer": "hello"}, "not an address"),
    ],
)
def test_what_cannot_be_traced_is_refused_with_what_to_do(relay: Stopping, given: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        start(relay, **given)
    with pytest.raises(InputError, match="there is no trace 77: relayctl trace list"):
        relay.say("trace/show", id=77)
