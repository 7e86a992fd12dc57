"""Tokens: what they name, how long, and that nobody without the key makes one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.address import MAX_LOCAL, parse_path
from relayd.envelope import Delivery, Edits, Envelope, Marks, Message, Recipient, Returns
from relayd.identity import lower_bound
from relayd.message.render import render
from relayd.returnpath import ACCEPT, Key, Keys, Role, Token, Void, addressed, find, make, marks, read, unsubscribe

NOW = 1_800_000_000.0
OLD, NEW = Key(7, b"o" * 32, NOW - 1000), Key(65535, b"n" * 32, NOW - 10)
KEYS = Keys({7: OLD, 65535: NEW}, NEW)
ID = lower_bound(NOW - 100) + 5
TOKEN = make("bounce", ID, NEW)
OURS = {"bounce.relay.example"}
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"

identities = st.integers(0, 2**62 - 1)
purposes = st.sampled_from(["bounce", "unsubscribe"])
keys = st.sampled_from([OLD, NEW])


def delivery(sender: str = "a@crm.example", returns: Returns | None = None, recipient: int = 1) -> Delivery:
    edits = Edits(b"Received: x\r\n", (), b"DKIM-Signature: y\r\n", returns=returns)
    head = b"Subject: one\r\n\r\n"
    message = Message(ID, NOW - 100, "crm", "login", "bulk", Envelope(sender), edits, head, b"hi\r\n", 20)
    return Delivery(ID + recipient, message, Recipient("b@x.example"), "q", NOW)


# What a token is.


@given(purposes, identities, keys)
def test_what_is_made_is_read(purpose, identity, key):
    token = make(purpose, identity, key)
    now = (identity >> 20) / 1000 + 5
    assert read(token, KEYS, now) == Token(purpose, identity, pytest.approx(5, abs=0.01))


@given(purposes, identities, keys)
def test_a_token_is_a_short_local_part_of_letters_and_digits_that_any_server_takes(purpose, identity, key):
    token = make(purpose, identity, key)
    assert re.fullmatch("[a-z0-9]+", token) and len(token) == 33 <= MAX_LOCAL
    assert parse_path(f"<{token}@bounce.crm.example>", smtputf8=False) == (f"{token}@bounce.crm.example", "")


@given(st.lists(st.booleans(), min_size=33, max_size=33))
def test_a_token_survives_whatever_case_others_write_it_in(upper):
    mangled = "".join(c.upper() if up else c for c, up in zip(TOKEN, upper, strict=True))
    assert read(mangled, KEYS, NOW) == Token("bounce", ID, pytest.approx(100, abs=0.01))


# What is none.


@given(purposes, identities, st.integers(0, 32), st.sampled_from(ALPHABET + "-.=ſK"))
def test_with_any_one_character_changed_it_is_forged(purpose, identity, at, other):
    token = make(purpose, identity, NEW)
    changed = token[:at] + other + token[at + 1 :]
    if changed != token:
        assert read(changed, KEYS, 0.0) is Void.FORGED


def test_a_token_for_one_purpose_is_none_for_another():
    assert read("u" + TOKEN[1:], KEYS, NOW) is Void.FORGED
    assert (
        make("unsubscribe", ID, NEW)[1:17] == TOKEN[1:17]
    )  # the same delivery and key, in clear: only the proof differs


@given(st.text(max_size=70))
def test_whatever_else_comes_is_forged_and_no_error(text):
    assert read(text, KEYS, NOW) is Void.FORGED


@given(st.binary(max_size=200))
def test_any_text_can_be_searched(text):
    assert find(text, KEYS, NOW) in (None, Void.FORGED)


def test_a_token_of_a_key_that_is_not_ours_is_forged():
    for key in (Key(7, b"x" * 32, NOW), Key(8, OLD.secret, NOW)):
        assert read(make("bounce", ID, key), KEYS, NOW) is Void.FORGED


# Time and keys.


def test_a_replaced_key_still_verifies_and_new_mail_has_the_newest():
    assert isinstance(read(make("bounce", ID, OLD), KEYS, NOW), Token)
    assert KEYS.get(7) is OLD and KEYS.get(65535) is KEYS.newest
    assert KEYS.get(9) is NEW  # mail whose key is not here goes out all the same


def test_a_token_counts_for_sixty_days_from_the_reception_of_its_message():
    received = NOW - 100
    assert isinstance(read(TOKEN, KEYS, received + ACCEPT - 1), Token)
    assert read(TOKEN, KEYS, received + ACCEPT + 1) is Void.EXPIRED
    assert read(TOKEN, Keys(KEYS.by_id, NEW, accept=50.0), NOW) is Void.EXPIRED


def test_a_key_never_shows_its_secret():
    assert "nnn" not in f"{NEW!r} {NEW} {KEYS!r}" and "ooo" not in repr(KEYS)


# Whom an address means.


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("postmaster", Role("postmaster")),
        ("Abuse@Bounce.Relay.Example", Role("abuse")),
        ("fbl@bounce.relay.example", Role("fbl")),
        ("postmaster@elsewhere.example", Void.STRANGE),
        ("somebody@bounce.relay.example", Void.FORGED),
        ("b" + "a" * 32 + "@bounce.relay.example", Void.FORGED),
        ("b" + "a" * 32 + "@elsewhere.example", Void.STRANGE),
        ("fbl", Void.STRANGE),
        ('"a b"@bounce.relay.example', Void.FORGED),
    ],
)
def test_only_tokens_and_functions_of_our_domains_are_addresses(address, meant):
    assert addressed(address, OURS, KEYS, NOW) == meant


def test_a_token_counts_at_a_domain_that_is_ours_no_more():
    for domain in ("bounce.relay.example", "bounce.renamed.example"):
        found = addressed(f"{TOKEN.upper()}@{domain}", OURS, KEYS, NOW)
        assert isinstance(found, Token) and found.id == ID
    assert addressed(f"{TOKEN}@bounce.relay.example", OURS, KEYS, NOW + ACCEPT) is Void.EXPIRED


# In what comes back.


@pytest.mark.parametrize(
    "text",
    [
        "Return-Path: <{}@bounce.relay.example>\r\nTo: <redacted@x.example>",
        "Original-Mail-From: {}@bounce.relay.example",
        "X-Return-Token: {}",
        "Return-Path: <SRS0=ab12=c3={}@forwarder.example>",
        "<prvs=1234567890={}@x.example>",
    ],
)
def test_a_token_is_found_wherever_a_report_has_it(text):
    for token in (TOKEN, TOKEN.upper()):
        found = find(text.format(token).encode(), KEYS, NOW)
        assert found and found.id == ID


def test_forged_tokens_before_a_good_one_do_not_hide_it_but_there_is_an_end_to_looking():
    forged = b"b" + b"a" * 32 + b" "
    assert find(forged * 49 + TOKEN.encode(), KEYS, NOW)
    assert find(forged * 50 + TOKEN.encode(), KEYS, NOW) is Void.FORGED
    assert find(b"b" * 1_000_000 + TOKEN.encode(), KEYS, NOW) is None  # part of a longer word


# What a delivery goes out with.


def test_without_a_return_path_of_ours_mail_leaves_as_it_came():
    one = delivery()
    assert marks(one, KEYS) == Marks("a@crm.example")
    assert render(one.message, one, marks(one, KEYS)) == render(one.message, one)


def test_a_delivery_leaves_with_its_own_return_path_and_says_so_in_front_of_the_signature():
    one = delivery(returns=Returns("bounce.relay.example", 7))
    token = make("bounce", one.id, OLD)
    assert marks(one, KEYS).sender == f"{token}@bounce.relay.example"
    assert render(one.message, one, marks(one, KEYS)) == (
        f"X-Return-Token: {token}\r\nDKIM-Signature: y\r\nReceived: x\r\nSubject: one\r\n\r\n".encode()
    )
    assert marks(delivery(returns=Returns("bounce.relay.example", 7), recipient=2), KEYS).sender != f"{token}@x"


def test_a_rotation_changes_nothing_of_mail_that_is_queued():
    one = delivery(returns=Returns("bounce.relay.example", 7, "List-Unsubscribe: <mailto:<>@x>\r\n"))
    before = marks(one, Keys({7: OLD}, OLD))
    assert marks(one, KEYS) == before


def test_the_null_sender_stays_null():
    one = delivery("", Returns("bounce.relay.example", 7))
    assert marks(one, KEYS).sender == "" and marks(one, KEYS).trace


def test_each_recipient_has_an_unsubscribe_address_of_his_own():
    returns = Returns("bounce.relay.example", 65535, "List-Unsubscribe: <mailto:<>@bounce.relay.example?subject=u>\r\n")
    one = delivery(returns=returns)
    field = marks(one, KEYS).unsubscribe
    assert field == unsubscribe(returns, one.id, KEYS)
    token = make("unsubscribe", one.id, NEW)
    assert field == f"List-Unsubscribe: <mailto:{token}@bounce.relay.example?subject=u>\r\n".encode()
    assert field in render(one.message, one, marks(one, KEYS))
    assert marks(delivery(returns=returns, recipient=2), KEYS).unsubscribe != field
