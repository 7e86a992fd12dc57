"""Return paths and unsubscribe addresses of ours, from reception to the wire."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.envelope import Delivery
from relayd.returnpath import Token, marks, read
from relayd.signing import Keyring, Rules, Signer
from tests.dkim_kit import rsa, verifies
from tests.harness import Delivering
from tests.reception_kit import HEAD, Receiving

DOMAIN = "bounce.relay.example"
BULK = f'[feedback]\ndomain = "{DOMAIN}"\n[stream.bulk]\nunsubscribe = "header"\n[stream.marketing]\n'
KEY = rsa(domain="crm.example", selector="s1")


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiving]:
    made = Receiving(tmp_path, tables=BULK)
    monkeypatch.setattr("dkim.time.time", made.reactor.seconds)  # it believes no signature of the future
    signer = made.relay.signer = Signer(Keyring())
    signer.keyring.rules = Rules({"crm.example": (KEY,)})
    made.relay.returns = lambda account, domain, signed: DOMAIN if signed else ""
    yield made
    made.close()


def received(relay: Receiving, *to: str, content: bytes = HEAD + b"hello") -> tuple[Delivery, ...]:
    client = relay.call()
    relay.mail(client, *to)
    relay.content(client, content)
    found: tuple[Delivery, ...] = relay.spool.kept[-1].deliveries
    return found


def wired(relay: Receiving, delivery: Delivery) -> tuple[str, bytes]:
    """(sender, content) that the delivery goes out with."""
    delivering = Delivering()
    delivering.courier.signer = relay.relay.signer
    delivering.courier.marks = lambda one: marks(one, relay.directory.tokens.keys)
    delivering.spool.put(delivery)
    delivering.courier.received((delivery,))
    delivering.reactor.pump()
    ((sender, _, content),) = delivering.mx.got
    return sender, content


def test_one_recipient_gets_its_own_return_path_and_a_signed_unsubscribe_address(relay: Receiving):
    (one,) = received(relay, "b@x.example")
    assert one.message.edits.signature and not one.message.edits.unsigned
    sender, content = wired(relay, one)
    local, _, domain = sender.partition("@")
    token = read(local, relay.directory.tokens.keys, relay.reactor.seconds())
    assert domain == DOMAIN and isinstance(token, Token) and token.id == one.id
    assert content.startswith(f"X-Return-Token: {local}\r\n".encode())
    assert content.count(b"List-Unsubscribe:") == 1 and verifies(content, [KEY]) == [True]


def test_several_recipients_are_signed_one_by_one_when_they_go(relay: Receiving):
    both = received(relay, "b@x.example", "c@x.example")
    contents = []
    for one in both:
        assert one.message.edits.unsigned and not one.message.edits.signature
        contents.append(wired(relay, one)[1])
    assert [verifies(content, [KEY]) for content in contents] == [[True], [True]]
    assert contents[0] != contents[1]


def test_mail_that_no_key_signs_keeps_its_senders_return_path(relay: Receiving):
    relay.relay.signer.keyring.rules = Rules()
    (one,) = received(relay, "b@x.example")
    assert one.message.edits.returns is None
    assert wired(relay, one)[0] == "a@crm.example"
