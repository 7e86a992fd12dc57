from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd import catalogue
from relayd.smtp.auth import AuthError, Credentials, Exchange, plain_initial

WORDS = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=30)


def test_plain_asks_with_an_empty_challenge() -> None:
    assert Exchange("PLAIN").first == b""


def test_login_asks_with_the_words_that_clients_know() -> None:
    exchange = Exchange("LOGIN")
    assert exchange.first == b"VXNlcm5hbWU6"
    assert exchange.respond(b64encode(b"crm")) == b"UGFzc3dvcmQ6"
    assert exchange.respond(b64encode(b"secret")) == Credentials("crm", "secret")


def test_login_takes_the_user_name_with_the_command() -> None:
    exchange = Exchange("LOGIN")
    assert exchange.initial(b64encode(b"crm")) == b"UGFzc3dvcmQ6"


@given(WORDS, WORDS)
def test_plain_of_the_client_is_read_by_the_server(login: str, password: str) -> None:
    assert Exchange("PLAIN").initial(plain_initial(login, password)) == Credentials(login, password)


def test_plain_accepts_the_login_as_authorisation_identity_and_no_other() -> None:
    assert Exchange("PLAIN").respond(b64encode(b"crm\0crm\0secret")) == Credentials("crm", "secret")
    with pytest.raises(AuthError) as caught:
        Exchange("PLAIN").respond(b64encode(b"root\0crm\0secret"))
    assert caught.value.reply.code == 535


def test_star_cancels() -> None:
    with pytest.raises(AuthError) as caught:
        Exchange("LOGIN").respond(b"*")
    assert caught.value.reply is catalogue.CANCELLED


@pytest.mark.parametrize(
    "response",
    [
        b"not base64!",
        b"YQ",
        b"\xff",
        b"=",
        b64encode(b"crm"),
        b64encode(b"\0crm"),
        b64encode(b"\0crm\0a\0b"),
        b64encode(b"\0\0secret"),
        b64encode(b"\0\xff\0secret"),
        b64encode(b"\0a\nb\0secret"),
        b64encode(b"\0" + b"x" * 256 + b"\0secret"),
        b64encode(b"\0crm\0" + b"x" * 1025),
    ],
)
def test_malformed_plain_is_refused(response: bytes) -> None:
    with pytest.raises(AuthError) as caught:
        Exchange("PLAIN").initial(response)
    assert caught.value.reply is catalogue.MALFORMED


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=3), st.sampled_from(["PLAIN", "LOGIN"]), st.booleans())
def test_any_responses_end_in_credentials_or_an_auth_error(lines: list[bytes], mechanism: str, encode: bool) -> None:
    exchange = Exchange(mechanism)
    for line in lines:
        try:
            step = exchange.respond(b64encode(line) if encode else line)
        except AuthError as error:
            assert error.reply.code in (501, 535)
            return
        if isinstance(step, Credentials):
            assert step.login and step.login.isprintable()
            return


def test_unknown_mechanism_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Exchange("CRAM-MD5")


def test_client_refuses_nul() -> None:
    with pytest.raises(ValueError):
        plain_initial("a\0b", "c")
