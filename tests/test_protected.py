import time

import pytest

from relayd.message.protected import dkim_signed, protected

PLAIN = b"From: a@x.example\r\nContent-Type: text/plain\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "body", "by"),
    [
        (PLAIN, b"hello\r\n", ""),
        (b"\r\n", b"", ""),
        (b"dkim-signature : v=1;\r\n\td=x.example\r\n" + PLAIN, b"", "a DKIM signature"),
        (b"ARC-Message-Signature: i=1\r\n" + PLAIN, b"", "a DKIM signature"),
        (b'Content-Type: MULTIPART/signed; protocol="application/pgp-signature"\r\n\r\n', b"", "multipart/signed"),
        (b"Content-Type:\r\n multipart/encrypted;\r\n boundary=x\r\n\r\n", b"", "multipart/encrypted"),
        (b"Content-Type: application/pkcs7-mime\r\n\r\n", b"MII", "application/pkcs7-mime"),
        (b"Content-Type: application/x-pkcs7-mime\r\n\r\n", b"MII", "application/x-pkcs7-mime"),
        (
            b"Content-Type: multipart/mixed; boundary=x\r\n\r\n",
            b"--x\r\nContent-Type: multipart/signed; boundary=y\r\n\r\n--y\r\n",
            "multipart/signed",
        ),
        (PLAIN, b"Hi\r\n-----BEGIN PGP SIGNED MESSAGE-----\r\nHash: SHA512\r\n\r\n", "inline PGP"),
        (PLAIN, b"-----BEGIN PGP MESSAGE-----\r\n\r\n", "inline PGP"),
        (PLAIN, b"> -----BEGIN PGP MESSAGE-----\r\nDKIM-Signature: quoted\r\n", ""),
        (PLAIN + b"X-DKIM-Signature: x\r\n", b"", ""),
        (b"Subject: Content-Type: multipart/signed\r\n\r\n", b"", ""),
    ],
)
def test_what_protects_a_body_is_named(head: bytes, body: bytes, by: str) -> None:
    assert protected(head, body) == by


def test_only_signatures_over_the_whole_message_are_dkim() -> None:
    assert dkim_signed(b"DKIM-Signature: v=1\r\n\r\n")
    assert not dkim_signed(b"Content-Type: multipart/signed\r\n\r\n")


def test_a_hostile_body_is_looked_through_in_no_time() -> None:
    began = time.process_time()
    protected(
        b"Content-Type:" + b"\r\n " * 100_000, b"content-type:" + b"\r\n" * 2_000_000 + b"-----BEGIN PGP" * 100_000
    )
    assert time.process_time() - began < 2
