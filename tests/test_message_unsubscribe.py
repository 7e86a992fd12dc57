"""List-Unsubscribe: what a message says beside, or instead of, what its sender said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.envelope import PLACE, Edits
from relayd.message.dkim import sign
from relayd.message.headers import fields
from relayd.message.render import header
from relayd.message.unsubscribe import Offer, offer
from tests.dkim_kit import ed25519, hashes, verifies

OURS = "mailto:<>@bounce.relay.example?subject=unsubscribe"
URL = "https://links.relay.example/u/<>"


def offered(head: bytes, url: str = "") -> Offer:
    found = offer(head + b"\r\n", "bounce.relay.example", url)
    assert found
    return found


def said(found: Offer) -> list[str]:
    """The addresses, in order."""
    name, _, value = found.text.partition(": ")
    assert name == "List-Unsubscribe"
    value = value.replace(PLACE, "TOKEN").partition("\r\nList-")[0].replace("\r\n ", "").strip()
    return [address.strip("<>").replace("TOKEN", PLACE) for address in value.split(">,<")]


def test_a_message_that_says_nothing_gets_our_address_by_mail():
    assert offered(b"Subject: one\r\n") == Offer(f"List-Unsubscribe: <{OURS}>\r\n")


def test_a_senders_own_address_on_the_web_stays_the_first_and_his_one_click_his():
    head = b"List-Unsubscribe: <https://crm.example/u/1>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    found = offered(head)
    assert said(found) == ["https://crm.example/u/1", OURS] and found.drop == ("list-unsubscribe",)
    assert offered(head, URL) == found


def test_a_senders_own_address_by_mail_comes_behind_ours():
    found = offered(b"list-unsubscribe: <mailto:leave@crm.example>,\r\n\t<http://crm.example/u>\r\n")
    assert said(found) == ["http://crm.example/u", OURS, "mailto:leave@crm.example"]


def test_with_an_address_of_ours_on_the_web_a_message_offers_one_click():
    found = offered(b"Subject: one\r\n", URL)
    assert said(found) == [URL, OURS]
    assert found.text.endswith("\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n")


def test_one_click_needs_exactly_one_https_address_so_ours_takes_the_place_of_what_is_in_clear():
    head = b"List-Unsubscribe: <http://crm.example/u>, <mailto:x@crm.example>\r\nList-Unsubscribe-Post: wrong\r\n"
    found = offered(head, URL)
    assert said(found) == [URL, OURS, "mailto:x@crm.example"]
    assert found.drop == ("list-unsubscribe", "list-unsubscribe-post")


@pytest.mark.parametrize("fault", [b"none", b"<>", b"<mail to>", b"<x\r\n", b"(comment) <no-scheme>"])
def test_what_is_no_address_is_replaced(fault):
    found = offered(b"List-Unsubscribe: " + fault + b"\r\n")
    assert said(found) == [OURS] and found.drop == ("list-unsubscribe",)


def test_two_fields_become_one():
    found = offered(b"List-Unsubscribe: <mailto:a@x.example>\r\nList-Unsubscribe: <mailto:b@x.example>\r\n")
    assert said(found) == [OURS, "mailto:a@x.example", "mailto:b@x.example"]


def test_what_the_sender_has_signed_is_left_alone():
    """Whether he says something or has signed that he says nothing: another field would break his signature."""
    signature = b"DKIM-Signature: v=1; d=crm.example;\r\n h=from:to:List-Unsubscribe; b=x\r\n"
    assert offer(signature + b"\r\n", "bounce.relay.example") is None
    assert offer(b"DKIM-Signature: v=1; h=from:to; b=x\r\n\r\n", "bounce.relay.example")


@given(st.binary(max_size=300).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b"\r\n ")))
def test_whatever_the_sender_wrote_ours_is_a_whole_field_of_sendable_lines_with_one_place(value):
    found = offered(b"List-Unsubscribe: " + value + b"\r\nSubject: one\r\n", "")
    assert found.text.count(PLACE) == 1
    assert [name for name, _ in fields(found.text.encode())] == [b"List-Unsubscribe"]
    assert all(len(line) <= 998 and line.isprintable() for line in found.text.split("\r\n"))


def test_many_long_addresses_have_an_end():
    flood = b",".join(b"<mailto:%b%d@x.example>" % (b"a" * 890, n) for n in range(100))
    assert len(offered(b"List-Unsubscribe: " + flood + b"\r\n").text) < 10_000


def test_our_field_is_signed_with_the_message_and_none_can_be_put_beside_it():
    key = ed25519(domain="crm.example", selector="s1")
    found = offered(b"From: a@crm.example\r\nList-Unsubscribe: <https://crm.example/u/1>\r\n")
    head, body = b"From: a@crm.example\r\nList-Unsubscribe: <https://crm.example/u/1>\r\n\r\n", b"hi\r\n"
    field = found.text.replace(PLACE, "b" * 33).encode()
    out = header(head, Edits(drop=found.drop), field)
    signed = sign(out, hashes(body), [key], 1_700_000_000) + out + body
    assert signed.lower().count(b"list-unsubscribe: ") == 1
    assert verifies(signed, [key]) == [True]
    assert verifies(signed.replace(b"b" * 33, b"c" * 33), [key]) == [False]
    assert verifies(b"List-Unsubscribe: <mailto:x@evil.example>\r\n" + signed, [key]) == [False]
