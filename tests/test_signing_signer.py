"""The signer: each message once, by threads that share what waits; what came late, here and now."""

from collections.abc import Callable
from typing import Any

import pytest

from relayd.envelope import Edits, Envelope, Message
from relayd.message.dkim import Key
from relayd.signing import Keyring, NoKey, Rules, Signer
from tests.dkim_kit import BODY, HEAD, NOW, ed25519, hashes, rsa, verifies

DIGEST = hashes(BODY)["relaxed"]


class Threads:
    """Threads and a main thread that work when they are told to."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.posted: list[Callable[[], None]] = []
        self.signer = Signer(None, self.work.append, self.posted.append)
        self.done: list[tuple[int, bytes, str]] = []

    def sign(self, count: int = 1) -> None:
        for number in range(len(self.done), len(self.done) + count):
            self.signer.sign(
                HEAD, DIGEST, [ed25519()], NOW, lambda fields, fault, n=number: self.done.append((n, fields, fault))
            )

    def main(self) -> None:
        while self.posted:
            self.posted.pop(0)()


@pytest.fixture
def threads() -> Threads:
    return Threads()


def test_without_threads_it_signs_at_once():
    done: list[Any] = []
    Signer().sign(HEAD, DIGEST, [rsa(), ed25519()], NOW + 0.9, lambda *told: done.append(told))
    ((fields, fault),) = done
    assert fault == "" and b"t=%d;" % NOW in fields
    assert verifies(fields + HEAD + BODY, [rsa(), ed25519()]) == [True, True]


def test_nothing_is_told_before_the_main_thread_has_its_turn(threads):
    threads.sign()
    threads.work.pop()()
    assert threads.done == [] and threads.signer.pending == 1
    threads.main()
    assert len(threads.done) == 1 and threads.signer.pending == 0


def test_at_most_two_threads_are_asked_and_the_first_takes_all_that_waits(threads):
    threads.sign(20)
    first, second = threads.work
    first()
    assert len(threads.posted) == 3  # eight at a time
    second()
    threads.main()
    assert [number for number, _, _ in threads.done] == list(range(20)) and len(threads.work) == 2


def test_what_comes_after_a_threads_last_look_is_not_forgotten(threads):
    threads.sign(2)
    for work in threads.work[:2]:
        work()
    threads.sign(1)  # both are still counted as working
    assert len(threads.work) == 2
    threads.main()
    threads.work[2]()
    threads.main()
    assert len(threads.done) == 3


def test_a_listener_that_fails_keeps_no_other_from_being_told(threads):
    def fail(fields: bytes, fault: str) -> None:
        raise ZeroDivisionError

    threads.signer.sign(HEAD, DIGEST, [ed25519()], NOW, fail)
    threads.sign(1)
    threads.work[0]()
    with pytest.raises(ExceptionGroup):
        threads.main()
    assert len(threads.done) == 1 and threads.signer.pending == 0


def test_it_is_full_when_too_much_waits(threads, monkeypatch):
    monkeypatch.setattr("relayd.signing.signer.PENDING", 3)
    threads.sign(2)
    assert not threads.signer.full
    threads.sign(1)
    assert threads.signer.full


class Broken:
    """A private key that fails at its work."""

    key_size = 2048

    def sign(self, *given: object) -> bytes:
        raise ValueError("bad primes")


def test_a_key_that_fails_is_named_and_the_others_sign():
    broken = Key("bad.example", "s9", Broken())  # type: ignore[arg-type]
    done: list[Any] = []
    Signer().sign(HEAD, DIGEST, [broken, rsa()], NOW, lambda *told: done.append(told))
    ((fields, fault),) = done
    assert fault == "the DKIM key s=s9 of d=bad.example cannot sign: bad primes"
    assert verifies(fields + HEAD + BODY, [rsa()]) == [True]


# Late.


def message(number: int = 1, **edits: Any) -> Message:
    made = Edits(b"X-Ours: 1\r\n", ("x-mailer",), **edits)
    return Message(number, NOW + 0.5, "crm", "login", "bulk", Envelope("a@b.example"), made, HEAD, BODY, 1)


def knowing(*keys: Key, defer: bool = True) -> Signer:
    signer = Signer(Keyring(defers=lambda account, stream: defer and (account, stream) == ("crm", "bulk")))
    signer.keyring.rules = Rules({key.domain: keys for key in keys})
    return signer


def test_what_waited_is_signed_over_what_goes_out():
    fields = knowing(rsa()).late(message(unsigned=DIGEST))
    head = b"X-Ours: 1\r\n" + HEAD.replace(b"X-Mailer: crm\r\n", b"")
    assert verifies(fields + head + BODY, [rsa()]) == [True]


def test_each_recipient_with_an_unsubscribe_field_of_its_own_has_a_signature_over_it():
    signer = knowing(rsa())
    head = b"X-Ours: 1\r\n%b" + HEAD.replace(b"X-Mailer: crm\r\n", b"")
    for field in (b"List-Unsubscribe: <mailto:one@x.example>\r\n", b"List-Unsubscribe: <mailto:two@x.example>\r\n"):
        fields = signer.late(message(unsigned=DIGEST), field)
        assert verifies(fields + head % field + BODY, [rsa()]) == [True]


@pytest.mark.parametrize("key", [rsa(), ed25519()], ids=["rsa", "ed25519"])
def test_a_late_signature_is_the_same_whenever_it_is_made(key):
    assert knowing(key).late(message(unsigned=DIGEST)) == knowing(key).late(message(unsigned=DIGEST))


def test_a_late_signature_is_made_once_for_all_recipients(monkeypatch):
    signer = knowing(rsa())
    first = signer.late(message(unsigned=DIGEST))
    signer.keyring.rules = Rules()
    assert signer.late(message(unsigned=DIGEST)) is first
    with pytest.raises(NoKey):
        signer.late(message(2, unsigned=DIGEST))


def test_late_signatures_that_are_kept_are_bounded(monkeypatch):
    monkeypatch.setattr("relayd.signing.signer._REMEMBERED", 2)
    signer = knowing(ed25519())
    for number in range(5):
        signer.late(message(number, unsigned=DIGEST))
    assert len(signer._late) == 2


def test_without_a_key_a_stream_that_waits_gets_the_reason_and_another_nothing():
    with pytest.raises(NoKey, match=r"no DKIM key for d=sender\.example"):
        knowing().late(message(unsigned=DIGEST))
    assert knowing(defer=False).late(message(unsigned=DIGEST)) == b""


def test_a_key_that_cannot_sign_makes_mail_wait():
    broken = Key("sender.example", "s9", Broken())  # type: ignore[arg-type]
    with pytest.raises(NoKey, match="bad primes"):
        knowing(broken).late(message(unsigned=DIGEST))


def test_a_changed_form_is_signed_for_itself():
    fields = knowing(rsa()).anew(message(signature=b"DKIM-Signature: old\r\n"), HEAD, b"other\r\n")
    assert verifies(fields + HEAD + b"other\r\n", [rsa()]) == [True]


def test_a_changed_form_waits_only_if_the_first_one_was_to_be_signed():
    signed = message(signature=b"DKIM-Signature: old\r\n")
    with pytest.raises(NoKey):
        knowing().anew(signed, HEAD, BODY)
    assert knowing().anew(message(), HEAD, BODY) == b""  # such as a report of the relay's own
    assert knowing(defer=False).anew(signed, HEAD, BODY) == b""


def test_a_signer_of_its_own_knows_no_key():
    assert isinstance(Signer().keyring, Keyring) and Signer().anew(message(), HEAD, BODY) == b""
