"""What tests say to a relay and read from it."""

import re
from email import message_from_bytes
from email.message import Message
from email.policy import default

from tests.e2e.relay import Relay, queue_id, until

QUICK = """
[retry]
schedule = ["1s"]
greylist = "3s"
[egress]
rest = ["1s"]
idle = "1s"
{egress}
"""
_TRACE = re.compile(rb"(Return-Path|X-Original-To|Delivered-To|Received):", re.IGNORECASE)


def route(domain: str, port: int, tls: str = "may", more: str = "") -> str:
    return f'[[route]]\ndomain = "{domain}"\nvia = "127.0.0.1:{port}"\ntls = "{tls}"\n{more}\n'


def sent(
    relay: Relay, sender: str, to: str, content: bytes, mail: tuple[str, ...] = (), rcpt: tuple[str, ...] = ()
) -> str:
    """One message with options of MAIL and RCPT; gives its queue id."""
    with relay.client() as client:
        for code, said in (client.mail(sender, mail), client.rcpt(to, rcpt), client.data(content)):
            assert code == 250, said
    return queue_id(said)


def comes_to(relay: Relay, identity: str, state: str, seconds: float = 20) -> str:
    """Waits until the message's only delivery is "delivered" or "bounced"; gives the words about it."""
    until(
        lambda: relay.delivery(identity)["state"] == state,
        seconds,
        f"{identity} is {state}: {relay.delivery(identity)}",
    )
    return str(relay.delivery(identity)["why"])


def told(relay: Relay, identity: str, event: str) -> list[str]:
    """The words of each such event in a message's history; `relayctl inspect` says them all."""
    history = relay.ask("/v1/inspect", id=identity)["history"]
    code, said = relay.ctl("inspect", identity)
    assert code == 0
    for row in history:
        assert row["event"] in said and " ".join(row["what"].split()) in " ".join(said.split()), said
    return [row["what"] for row in history if row["event"] == event]


def without_trace(stored: bytes) -> bytes:
    """A stored message without the trace that each server on its way put before it, and with the line ends of SMTP."""
    lines = stored.split(b"\n")
    at = 0
    while _TRACE.match(lines[at]) or (at and lines[at][:1] in (b" ", b"\t")):
        at += 1
    return b"\r\n".join(lines[at:])


def parsed(stored: bytes) -> Message:
    return message_from_bytes(stored, policy=default)
