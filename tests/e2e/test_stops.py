"""Whom an operator stops is stopped at once, and after a restart still: real processes, real sockets, a real clock."""

import time
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Stage
from .relay import LOGIN, PASSWORD, SENDER, Relay, Wire, message

AUTH = b"AUTH PLAIN " + b64encode(f"\0{LOGIN}\0{PASSWORD}".encode())


@pytest.fixture
def relay(stage: Stage) -> Iterator[Relay]:
    sink = stage.sink()
    made = stage.relay(f'[[route]]\ndomain = "*"\nvia = "{sink.via}"\n').start()
    made.connection()
    yield made


def say(relay: Relay, *words: str) -> str:
    code, said = relay.ctl(*words)
    assert code == 0, said
    return said


def seconds_until_cut(wires: list[Wire], stop: Any) -> tuple[float, list[bytes]]:
    """How long after ``stop`` was begun the last of these has heard its last word and been closed."""
    begun = time.monotonic()
    stop()
    words = []
    for wire in wires:
        wire.socket.settimeout(5)
        words.append(wire.reply())
        assert wire.reply() == b""
    return time.monotonic() - begun, words


def logged_in(relay: Relay) -> Wire:
    wire = Wire(relay.submissions, tls=True)
    wire.hello()
    assert wire.ask(AUTH).startswith(b"235")
    return wire


def in_all_stages(relay: Relay, open_: Any) -> list[Wire]:
    """Sessions that idle, that are between MAIL and RCPT, and that are in the middle of their content."""
    wires = [open_() for _ in range(3)]
    for wire in wires[1:]:
        assert wire.ask(b"MAIL FROM:<%s>" % SENDER.encode()).startswith(b"250")
    assert wires[2].ask(b"RCPT TO:<b@x.example>").startswith(b"250")
    assert wires[2].ask(b"DATA").startswith(b"354")
    wires[2].say(message()[:40])
    return wires


@pytest.mark.parametrize(("kind", "value"), [("account", "crm"), ("connection", LOGIN), ("ip", "127.0.0.0/8")])
def test_a_block_cuts_live_sessions_within_a_second_and_survives_a_restart(relay: Relay, kind: str, value: str) -> None:
    wires = in_all_stages(relay, lambda: logged_in(relay))
    shown = say(relay, "block", "add", kind, value, "--reason", "phishing", "--dry-run")
    assert "sessions     3" in shown and wires[0].ask(b"NOOP").startswith(b"250")
    took, words = seconds_until_cut(
        wires, lambda: say(relay, "block", "add", kind, value, "--reason", "phishing", "--for", "1h")
    )
    assert all(word.startswith(b"421 ") for word in words), words
    assert took < 1.0
    for restart in (False, True):
        if restart:
            relay.kill()
            relay.start()
        with Wire(relay.submissions, tls=True) as again:
            first = again.reply()
            said = first if kind == "ip" else [again.ask(b"EHLO client.example"), again.ask(AUTH)][1]
        assert said.startswith(b"421 4.7.1" if kind == "ip" else b"535 5.7.8"), said
    say(relay, "block", "remove", kind, value)
    logged_in(relay).close()


def test_a_relay_client_is_cut_by_its_connection_and_comes_back_when_it_is_unblocked(relay: Relay) -> None:
    def open_() -> Wire:
        wire = Wire(relay.relay)
        wire.hello()
        return wire

    name = "relay:127.0.0.1/32"
    took, words = seconds_until_cut(
        in_all_stages(relay, open_), lambda: say(relay, "block", "add", "connection", name, "--reason", "floods")
    )
    assert took < 1.0 and all(word.startswith(b"421 4.7.0") for word in words)
    with open_() as again:
        assert again.ask(b"MAIL FROM:<%s>" % SENDER.encode()).startswith(b"421 4.7.0")
    say(relay, "block", "remove", "connection", name)
    with open_() as again:
        assert again.ask(b"MAIL FROM:<%s>" % SENDER.encode()).startswith(b"250")


@pytest.mark.parametrize(
    "words",
    [
        ("connection", "block", "--reason", "leaked", LOGIN),
        ("connection", "remove", LOGIN),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_the_verbs_that_there_were_cut_within_a_second_too(relay: Relay, words: tuple[str, ...]) -> None:
    took, said = seconds_until_cut(in_all_stages(relay, lambda: logged_in(relay)), lambda: say(relay, *words))
    assert took < 1.0 and all(word.startswith(b"421 ") for word in said), (took, said)


def test_a_blocked_domain_is_refused_what_is_queued_for_it_waits_and_goes_on(stage: Stage) -> None:
    sink = stage.sink()
    relay = stage.relay(f'[[route]]\ndomain = "*"\nvia = "{sink.via}"\n').start()
    say(relay, "shaping", "suspend", "--all", "--reason", "so that it is queued")
    for _ in range(3):
        relay.send("b@x.example")
    assert '"queued": 3' in say(relay, "--json", "block", "add", "domain", "x.example", "--reason", "x", "--dry-run")
    say(relay, "block", "add", "domain", "*.example", "--reason", "their MX is on fire")
    say(relay, "shaping", "resume", "--all")
    relay.send("b@y.test")
    assert sink.wait("b@y.test")
    assert "blocked by" in relay.why("x.example") and not sink.to("b@x.example")
    with Wire(relay.relay) as client:
        client.hello()
        assert client.ask(b"MAIL FROM:<%s>" % SENDER.encode()).startswith(b"250")
        assert client.ask(b"RCPT TO:<b@x.example>") == b"550 5.7.1 Mail to x.example is not taken here at present\r\n"
        assert client.ask(b"RCPT TO:<b@y.test>").startswith(b"250")
    relay.kill()
    relay.start()
    assert "blocked by" in relay.why("x.example") or relay.queued() == 3
    say(relay, "block", "remove", "domain", "*.example")
    assert sink.wait("b@x.example")
    relay.audited()


def test_a_drained_relay_takes_no_more_and_delivers_what_it_has(stage: Stage) -> None:
    sink = stage.sink()
    relay = stage.relay(f'[[route]]\ndomain = "*"\nvia = "{sink.via}"\n').start()
    with Wire(relay.relay) as idle:
        idle.hello()
        took, words = seconds_until_cut([idle], lambda: say(relay, "drain", "on", "--reason", "new machine"))
    assert took < 1.0 and words[0].startswith(b"421 4.4.5")
    code, said = relay.ctl("health")
    assert code == 1 and "new machine" in said
    relay.kill()
    relay.start()
    with Wire(relay.relay) as client:
        assert client.reply().startswith(b"421 4.4.5")
    say(relay, "drain", "off")
    assert relay.ctl("health")[0] == 0
    relay.send("b@x.example")
    assert sink.wait("b@x.example")


def test_live_sessions_are_listed_both_ways_and_dropped(stage: Stage) -> None:
    sink = stage.sink()
    relay = stage.relay(f'[[route]]\ndomain = "*"\nvia = "{sink.via}"\n').start()
    relay.send("b@x.example")
    sink.wait("b@x.example")
    with Wire(relay.relay) as client:
        client.hello()
        client.ask(b"MAIL FROM:<%s>" % SENDER.encode())
        rows = relay.ask("/v1/session/list", **{"in": True})
        assert [(row["peer"], row["account"], row["last"], row["stage"]) for row in rows] == [
            ("127.0.0.1", "crm", "MAIL", "command")
        ]
        assert rows[0]["bytes"] > 20
        out = relay.ask("/v1/session/list", out=True)
        assert [(row["messages"], row["stage"]) for row in out] in ([(1, "idle")], [])
        took, words = seconds_until_cut(
            [client], lambda: say(relay, "session", "drop", rows[0]["id"], "--reason", "it floods")
        )
    assert took < 1.0 and words == [b"421 4.3.2 This session is ended by the operator\r\n"]
    code, said = relay.ctl("session", "drop", "--reason", "all?")
    assert code == 1 and "say which" in said
    trail = relay.ask("/v1/change/list")
    assert [(row["verb"], row["arguments"]["reason"]) for row in trail][1] == ("session drop", "it floods")
