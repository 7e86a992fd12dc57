import base64
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from dkim_kit import BODY, HEAD, NOW, ed25519, hashes, key, verifies
from dkim_kit import rsa as rsa_key
from hypothesis import given
from hypothesis import strategies as st

from relayd.message.dkim import BodyHash, Key, ToSign, finish, load_key, prepare, sign
from relayd.message.dkim.canonical import chosen
from relayd.message.dkim.keys import Algorithm

GUARDED = (
    b"from to reply-to subject date message-id mime-version content-type content-transfer-encoding "
    b"list-unsubscribe list-unsubscribe-post"
).split()
ALGORITHMS: tuple[Algorithm, ...] = ("rsa-sha256", "ed25519-sha256")
FORMS = ("relaxed", "simple")


def signed(head: bytes, body: bytes, *keys: Key) -> bytes:
    return sign(head, hashes(body), keys, NOW) + head + body


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("head", FORMS)
@pytest.mark.parametrize("body", FORMS)
@pytest.mark.parametrize("text", [BODY, b"", b"\r\n", b"no end"])
def test_dkimpy_verifies_every_algorithm_and_form(algorithm: Algorithm, head: str, body: str, text: bytes) -> None:
    signing = key(algorithm, head=head, body=body)
    assert f"a={algorithm}; c={head}/{body};".encode() in sign(HEAD, hashes(text), [signing], NOW)
    assert verifies(signed(HEAD, text, signing), [signing]) == [True]


def test_every_key_signs_in_the_order_given_and_all_verify() -> None:
    keys = [
        rsa_key(),
        ed25519(head="simple"),
        rsa_key(domain="relay.example", body="simple"),
        ed25519(domain="relay.example"),
    ]
    message = signed(HEAD, BODY, *keys)
    assert re.findall(rb"\bd=([^;]+); s=([^;]+);", message) == [
        (key.domain.encode(), key.selector.encode()) for key in keys
    ]
    assert verifies(message, keys) == [True] * 4


FIELD_TEXT = st.lists(
    st.sampled_from(["a", "b=", " ", "  ", "\t", "\r\n ", "\r\n\t", "\r\n \r\n ", ":", ";", "é", "=?utf-8?Q?x?="]),
    max_size=12,
).map("".join)
FIELDS = st.tuples(
    st.sampled_from(["From", "FROM", "To", "Cc", "Subject", "Date", "Message-ID", "References", "X-Other", "Received"]),
    FIELD_TEXT,
)


@pytest.mark.parametrize("form", FORMS)
@given(fields=st.lists(FIELDS, max_size=12))
def test_any_fields_however_folded_or_repeated_verify(form: str, fields: list[tuple[str, str]]) -> None:
    head = "".join(f"{name}:{value}\r\n" for name, value in [*fields, ("From", "x@a.example")]) + "\r\n"
    signing = ed25519(head=form)
    assert verifies(signed(head.encode(), b"x\r\n", signing), [signing]) == [True]


# What breaks a signature, and what does not


def test_a_message_changed_in_its_body_does_not_verify() -> None:
    signing = ed25519()
    field = sign(HEAD, hashes(BODY), [signing], NOW)
    assert verifies(field + HEAD + BODY.replace(b"all", b"ill"), [signing]) == [False]


def without(name: bytes) -> bytes:
    return re.sub(rb"(?im)^" + name + rb":.*\r\n(?:[ \t].*\r\n)*", b"", HEAD)


@pytest.mark.parametrize("name", GUARDED)
@pytest.mark.parametrize("signing", [rsa_key(), ed25519(head="simple")], ids=["rsa relaxed", "ed25519 simple"])
def test_a_guarded_field_can_be_neither_added_nor_changed_nor_removed(name: bytes, signing: Key) -> None:
    bare = without(name)
    extra = b"%b: forged\r\n" % name
    assert len(bare) < len(HEAD)
    for before, after in [
        (HEAD, extra + HEAD),
        (HEAD, HEAD[:-2] + extra + b"\r\n"),
        (HEAD, bare),
        (HEAD, extra + bare),
        (bare, extra + bare),
        (bare, bare[:-2] + extra + b"\r\n"),
    ]:
        if name == b"from" and before is bare:
            continue  # dkimpy verifies nothing that has no From
        field = sign(before, hashes(BODY), [signing], NOW)
        assert verifies(field + before + BODY, [signing]) == [True]
        assert verifies(field + after + BODY, [signing]) == [False]


@pytest.mark.parametrize("name", [b"Cc", b"Sender", b"References", b"In-Reply-To", b"List-Id", b"Feedback-ID"])
def test_other_signed_fields_cannot_be_changed(name: bytes) -> None:
    signing = ed25519()
    head = b"%b: <x@sender.example>\r\n" % name + without(name)
    field = sign(head, hashes(BODY), [signing], NOW)
    assert verifies(field + head + BODY, [signing]) == [True]
    assert verifies(field + head.replace(b"<x@", b"<y@") + BODY, [signing]) == [False]


def test_what_relays_add_and_refold_on_the_way_breaks_no_relaxed_signature() -> None:
    signing = rsa_key()
    message = signed(HEAD, BODY, signing)
    message = message.replace(b"Subject:  What   happened \t today", b"SUBJECT: What happened\r\n\ttoday ")
    message = message.replace(b"Good  morning,\t\r\n", b"Good morning,\r\n") + b"\r\n"
    assert verifies(b"Received: by mx.rcpt.example\r\nX-Spam: no\r\n" + message, [signing]) == [True]


@pytest.mark.parametrize("tag", [b"t=1", b"d=sender", b"s=ed2", b"h=from", b"bh="])
def test_the_signature_field_itself_cannot_be_changed(tag: bytes) -> None:
    signing = ed25519()
    message = signed(HEAD, BODY, signing)
    at = message.index(tag) + len(tag)
    forged = message[:at] + b"0" + message[at:]
    elsewhere = [signing, ed25519(domain="sender0.example"), ed25519(selector="ed20")]
    assert forged.count(tag) == message.count(tag)
    assert verifies(forged, elsewhere)[0] is False


# The field as written


def test_the_same_message_at_the_same_time_has_the_same_signature() -> None:
    keys = [rsa_key(), ed25519()]
    assert sign(HEAD, hashes(BODY), keys, NOW, 60) == sign(HEAD, hashes(BODY), keys, NOW, 60)
    assert sign(HEAD, hashes(BODY), keys, NOW) != sign(HEAD, hashes(BODY), keys, NOW + 1)


def test_the_time_of_signing_and_of_expiry_are_told() -> None:
    assert b" t=1700000000; bh=" in sign(HEAD, hashes(BODY), [ed25519()], NOW)
    years = 100 * 365 * 86400
    message = sign(HEAD, hashes(BODY), [ed25519()], NOW, years) + HEAD + BODY
    assert b" t=1700000000; x=%d; bh=" % (NOW + years) in message
    assert verifies(message, [ed25519()]) == [True]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_lines_are_short_and_end_with_crlf(algorithm: Algorithm) -> None:
    fields = sign(HEAD, hashes(BODY), [key(algorithm)], NOW, 86400)
    assert fields.endswith(b"\r\n")
    first, *rest = fields.removesuffix(b"\r\n").split(b"\r\n")
    assert first.startswith(b"DKIM-Signature: v=1; ")
    assert max(map(len, [first, *rest])) <= 78
    assert all(line.startswith(b" ") and line.strip() for line in rest)


def test_a_long_domain_and_selector_have_lines_of_their_own_and_verify() -> None:
    signing = ed25519(domain="a" * 60 + ".sender.example", selector="s" * 60)
    message = signed(HEAD, BODY, signing)
    assert max(len(line) for line in message.split(b"\r\n")) <= 79
    assert verifies(message, [signing]) == [True]


def test_no_key_no_field() -> None:
    assert sign(HEAD, {}, [], NOW) == b""


def test_signatures_made_in_threads_and_out_of_order_are_those_made_here() -> None:
    to_sign = prepare(HEAD, hashes(BODY), [rsa_key(), ed25519(), rsa_key(domain="relay.example")], NOW) * 4
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(item.sign) for item in reversed(to_sign)]
        signatures = [future.result() for future in reversed(futures)]
    assert finish(to_sign, signatures) == finish(to_sign, [item.sign() for item in to_sign])


def test_a_signature_that_is_missing_is_a_fault_of_the_caller() -> None:
    to_sign = prepare(HEAD, hashes(BODY), [ed25519()], NOW)
    with pytest.raises(ValueError):
        finish(to_sign, [])


# RFC 8463 appendix A

CORPUS = Path(__file__).parents[2] / "shared" / "corpora" / "dkim"
RFC_SEED = b"nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="  # the private key that the RFC publishes
RFC_BODY = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"


def vectors() -> dict[str, dict[str, str]]:
    if not CORPUS.exists():
        pytest.skip(f"no corpus at {CORPUS}")
    return {vector["algorithm"]: vector for vector in json.loads((CORPUS / "signing-vectors.json").read_text())}


def test_the_body_hash_is_that_of_rfc_8463() -> None:
    hashing = BodyHash("relaxed")
    hashing.feed(RFC_BODY)
    assert base64.b64encode(hashing.digest()) == b"2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="


def test_an_ed25519_signature_is_that_of_rfc_8463() -> None:
    vector = vectors()["ed25519-sha256"]
    signing = Key(vector["domain"], vector["selector"], load_key(RFC_SEED))
    item = ToSign(signing, b"", vector["hash_input_utf8"].encode())
    assert base64.b64encode(item.sign()).decode() == vector["expected_b"]


def test_the_public_key_is_the_one_that_rfc_8463_publishes() -> None:
    vectors()
    record = json.loads((CORPUS / "rfc8463-dns.json").read_text())["brisbane._domainkey.football.example.com"]
    assert f"p={Key('football.example.com', 'brisbane', load_key(RFC_SEED)).published}" in record


def test_rsa_signs_the_text_as_rfc_8463_does() -> None:
    """The RSA key of the RFC is not at hand: its signature and ours are checked by the same rule."""
    vector = vectors()["rsa-sha256"]
    data = vector["hash_input_utf8"].encode()
    record = json.loads((CORPUS / "rfc8463-dns.json").read_text())["test._domainkey.football.example.com"]
    theirs = load_der_public_key(base64.b64decode(record.partition("p=")[2]))
    ours = rsa_key()
    for public, signature in (
        (theirs, base64.b64decode(vector["expected_b"])),
        (ours.private.public_key(), ToSign(ours, b"", data).sign()),
    ):
        assert isinstance(public, rsa.RSAPublicKey)
        public.verify(signature, data, padding.PKCS1v15(), SHA256())


def test_the_canonical_fields_are_those_of_rfc_8463() -> None:
    lines = vectors()["rsa-sha256"]["hash_input_utf8"].encode().split(b"\r\n")[:-1]
    named = [line.split(b":", 1) for line in lines]
    head = b"".join(b"%b \t:\r\n\t%b \r\n" % (name.upper(), value.replace(b" ", b"\r\n  ")) for name, value in named)
    assert sorted(chosen(head + b"\r\n", "relaxed")[1].split(b"\r\n")) == sorted([*lines, b""])
