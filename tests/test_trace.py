import string

from hypothesis import given
from hypothesis import strategies as st

from relayd.message import trace
from relayd.message.headers import fields


def test_received_tells_who_how_and_when() -> None:
    got = trace.received("mx.example", "0a", "ESMTPSA", "client.example", "192.0.2.1", "r@x.example", 1_764_000_000)
    assert got == (
        b"Received: from client.example ([192.0.2.1])\r\n\tby mx.example (relayd) with ESMTPSA id 0a"
        b"\r\n\tfor <r@x.example>;\r\n\tMon, 24 Nov 2025 16:00:00 +0000\r\n"
    )


def test_an_ipv6_peer_is_a_tagged_literal() -> None:
    assert b"([IPv6:2001:db8::1])" in trace.received("n", "i", "SMTP", "h", "2001:db8::1", "", 0)


def test_several_recipients_are_not_told_of_each_other() -> None:
    assert b"for <" not in trace.received("n", "i", "SMTP", "h", "192.0.2.1", "", 0)


@given(st.text())
def test_whatever_a_client_calls_itself_received_stays_one_field(helo: str) -> None:
    got = trace.received("n", "i", "SMTP", helo, "192.0.2.1", "", 0)
    assert [name for name, _ in fields(got + b"\r\n")] == [b"Received"]
    assert set(trace.safe_name(helo)) <= set(string.ascii_letters + string.digits + ".-_:[]?")
    assert 1 <= len(trace.safe_name(helo)) <= 255


def test_the_date_is_in_english_and_utc() -> None:
    assert trace.date(0.9) == "Thu, 1 Jan 1970 00:00:00 +0000"


def test_the_protocol_is_named_as_registered() -> None:
    assert trace.protocol(extended=False, tls=False, auth=False, utf8=False) == "SMTP"
    assert trace.protocol(extended=True, tls=False, auth=False, utf8=False) == "ESMTP"
    assert trace.protocol(extended=True, tls=True, auth=True, utf8=False) == "ESMTPSA"
    assert trace.protocol(extended=True, tls=False, auth=True, utf8=False) == "ESMTPA"
    assert trace.protocol(extended=True, tls=True, auth=True, utf8=True) == "UTF8SMTPSA"
