"""What a peer's EHLO offers, and what MAIL and RCPT then say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.envelope import Recipient
from relayd.smtp.transaction import Capabilities, Transaction, commands, offered

EVERYTHING = Capabilities(size=0, eightbit=True, smtputf8=True, dsn=True)


def test_every_keyword_is_known() -> None:
    text = (
        "mx.example at your service\nPIPELINING\nSIZE 1000\n8BITMIME\nSMTPUTF8\nDSN\nENHANCEDSTATUSCODES\n"
        "CHUNKING\nSTARTTLS\nAUTH PLAIN LOGIN"
    )
    assert offered(text) == Capabilities(
        "mx.example", True, 1000, True, True, True, True, True, True, ("PLAIN", "LOGIN")
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("mx", -1),
        ("mx\nSIZE", 0),
        ("mx\nSIZE 0", 0),
        ("mx\nsize 52428800", 52428800),
        ("mx\nSIZE lots", 0),
        ("mx\nSIZE -5", 0),
        ("mx\nSIZE " + "9" * 500, 0),
        ("mx\nSIZE ٣", 0),
    ],
)
def test_size_limit_is_read(text: str, size: int) -> None:
    assert offered(text).size == size


def test_keywords_count_in_any_case_and_not_in_the_greeting() -> None:
    capabilities = offered("mx PIPELINING\n  8bitmime \n\nX-ODD thing")
    assert capabilities == Capabilities("mx", eightbit=True)


@given(st.text())
def test_whatever_a_peer_offers_is_read(text: str) -> None:
    assert offered(text).size >= -1


@pytest.mark.parametrize(
    ("options", "recipient", "mail", "rcpt"),
    [
        ({}, Recipient("b@y.example"), b"MAIL FROM:<a@x.example>", b"RCPT TO:<b@y.example>"),
        ({"size": 7}, Recipient("b@y.example"), b"MAIL FROM:<a@x.example> SIZE=7", b"RCPT TO:<b@y.example>"),
        (
            {"eightbit": True, "smtputf8": True},
            Recipient("bé@y.example"),
            b"MAIL FROM:<a@x.example> BODY=8BITMIME SMTPUTF8",
            "RCPT TO:<bé@y.example>".encode(),
        ),
        (
            {"ret": "HDRS", "envid": "a+b"},
            Recipient("b@y.example", "FAILURE,DELAY", "rfc822;b=c@y.example"),
            b"MAIL FROM:<a@x.example> RET=HDRS ENVID=a+2Bb",
            b"RCPT TO:<b@y.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;b+3Dc@y.example",
        ),
        (
            {},
            Recipient("b@y.example", "NEVER", "UTF-8;b\\x{E9}@y.example"),
            b"MAIL FROM:<a@x.example>",
            b"RCPT TO:<b@y.example> NOTIFY=NEVER ORCPT=UTF-8;b\\x{E9}@y.example",
        ),
    ],
)
def test_parameters_are_said(options: dict[str, object], recipient: Recipient, mail: bytes, rcpt: bytes) -> None:
    transaction = Transaction("a@x.example", recipient, **options)  # type: ignore[arg-type]
    assert commands(transaction, EVERYTHING) == (mail + b"\r\n", rcpt + b"\r\n")


def test_no_parameter_goes_to_a_peer_that_did_not_offer_it() -> None:
    recipient = Recipient("b@y.example", "NEVER", "rfc822;b@y.example")
    transaction = Transaction("a@x.example", recipient, 7, True, True, "FULL", "id")
    assert commands(transaction, Capabilities()) == (b"MAIL FROM:<a@x.example>\r\n", b"RCPT TO:<b@y.example>\r\n")


def test_null_sender_is_said() -> None:
    assert commands(Transaction("", Recipient("b@y.example")), EVERYTHING)[0] == b"MAIL FROM:<>\r\n"


def test_orcpt_beyond_ascii_is_left_out_without_smtputf8() -> None:
    transaction = Transaction("", Recipient("b@y.example", orcpt="utf-8;é@y.example"))
    assert commands(transaction, EVERYTHING)[1] == b"RCPT TO:<b@y.example>\r\n"


@given(st.text(), st.text(), st.text(), st.text())
def test_no_command_ever_holds_a_second_line(sender: str, address: str, orcpt: str, envid: str) -> None:
    transaction = Transaction(sender, Recipient(address, orcpt=f"rfc822;{orcpt}"), envid=envid)
    try:
        lines = commands(transaction, EVERYTHING)
    except ValueError:
        return
    for line in lines:
        assert line.endswith(b"\r\n") and b"\r" not in line[:-2] and b"\n" not in line[:-2] and b"\0" not in line
