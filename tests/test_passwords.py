"""Passwords: the stored form, and a verifier that answers repeats from memory and never in the caller's thread."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.directory import passwords
from relayd.directory.passwords import Verdict, Verifier, hash_password, verify_password

RIGHT, WRONG, BUSY = Verdict.RIGHT, Verdict.WRONG, Verdict.BUSY


@pytest.fixture(scope="module")
def hashes() -> dict[str, str]:
    """Made once: each costs a scrypt."""
    return {password: hash_password(password) for password in ("secret-1", "secret-2")}


class Bench:
    """A verifier whose thread runs when the test says so."""

    def __init__(self, stored: dict[str, str], **settings: int) -> None:
        self.stored = stored
        self.jobs: list = []
        self.worked = 0
        self.verifier = Verifier(self.stored.get, self.jobs.append, lambda call: call(), **settings)

    def ask(self, login: str, password: str) -> list[Verdict]:
        """The verdict will be in the list, at once if it was remembered."""
        said: list[Verdict] = []
        self.verifier.check(login, password, said.append)
        return said

    def work(self) -> None:
        while self.jobs:
            self.worked += 1
            self.jobs.pop(0)()

    def answer(self, login: str, password: str) -> Verdict:
        said = self.ask(login, password)
        self.work()
        (verdict,) = said
        return verdict


@pytest.fixture
def bench(hashes) -> Bench:
    return Bench({"login1": hashes["secret-1"], "login2": hashes["secret-2"]})


def test_password_matches_only_its_own_hash(hashes):
    assert verify_password("secret-1", hashes["secret-1"])
    assert not verify_password("secret-2", hashes["secret-1"])


def test_stored_hash_shows_its_parameters_and_nothing_of_the_password(hashes):
    assert hashes["secret-1"].startswith("scrypt$16384$8$1$")
    assert "secret-1" not in hashes["secret-1"]


def test_same_password_is_stored_differently_each_time(hashes):
    assert hash_password("secret-1") != hashes["secret-1"]


def test_hash_of_other_parameters_is_still_verified():
    weak = "scrypt$2$1$1$c2FsdHNhbHQ=$"
    import base64
    import hashlib

    key = hashlib.scrypt(b"old", salt=b"saltsalt", n=2, r=1, p=1, dklen=32)
    assert verify_password("old", weak + base64.b64encode(key).decode())
    assert not verify_password("new", weak + base64.b64encode(key).decode())


@pytest.mark.parametrize(
    "stored",
    ["", "x", "scrypt$2$1$1$c2FsdA==$", "bcrypt$2$1$1$c2FsdA==$c2FsdA==", "scrypt$3$1$1$AA==$AA==", "scrypt$a$b$c$d$e"],
)
def test_unreadable_hash_matches_nothing(stored):
    assert not verify_password("", stored)


@given(st.text(max_size=60))
def test_no_stored_text_makes_the_check_raise(stored):
    assert not verify_password("x", stored)


def test_right_and_wrong_passwords_and_unknown_logins_are_told_apart(bench):
    assert bench.answer("login1", "secret-1") is RIGHT
    assert bench.answer("login1", "secret-2") is WRONG
    assert bench.answer("nobody", "secret-1") is WRONG


def test_answer_waits_for_the_thread_the_first_time(bench):
    said = bench.ask("login1", "secret-1")
    assert said == [] and len(bench.jobs) == 1


@pytest.mark.parametrize(("login", "password", "verdict"), [
    ("login1", "secret-1", RIGHT), ("login1", "guess", WRONG), ("nobody", "guess", WRONG),
])  # fmt: skip
def test_repeat_is_answered_at_once_without_the_thread(bench, login, password, verdict):
    bench.answer(login, password)
    assert bench.ask(login, password) == [verdict]
    assert bench.jobs == []


def test_unknown_login_costs_the_same_scrypt_as_a_wrong_password(bench, monkeypatch):
    spent = []
    real = passwords.hashlib.scrypt

    def scrypt(password: bytes, **parameters: object) -> bytes:
        spent.append({k: v for k, v in parameters.items() if k != "salt"})
        return real(password, **parameters)

    monkeypatch.setattr(passwords.hashlib, "scrypt", scrypt)
    bench.answer("login1", "guess")
    bench.answer("nobody", "guess")
    assert len(spent) == 2 and spent[0] == spent[1]


def test_changed_password_counts_at_once(bench, hashes):
    bench.answer("login1", "secret-1")
    bench.stored["login1"] = hashes["secret-2"]
    assert bench.answer("login1", "secret-1") is WRONG
    assert bench.answer("login1", "secret-2") is RIGHT


def test_removed_login_fails_at_once_and_a_new_one_works_at_once(bench, hashes):
    bench.answer("login1", "secret-1")
    bench.answer("later", "secret-1")
    del bench.stored["login1"]
    bench.stored["later"] = hashes["secret-1"]
    assert bench.answer("login1", "secret-1") is WRONG
    assert bench.answer("later", "secret-1") is RIGHT


def test_password_changed_during_the_check_is_checked_again(bench, hashes):
    old, new = bench.ask("login1", "secret-1"), bench.ask("login1", "secret-2")
    bench.stored["login1"] = hashes["secret-2"]
    bench.work()
    assert (old, new) == ([WRONG], [RIGHT])


def test_checks_of_the_same_login_and_password_share_one_run(bench):
    said = [bench.ask("login1", "secret-1") for _ in range(100)]
    bench.work()
    assert said == [[RIGHT]] * 100
    assert bench.worked == 1


def test_more_checks_than_allowed_are_busy_and_remembered_answers_still_come(hashes):
    bench = Bench({"login1": hashes["secret-1"]}, pending=2)
    bench.answer("login1", "secret-1")
    waiting = [bench.ask("login1", f"guess-{n}") for n in range(2)]
    assert bench.ask("login1", "guess-3") == [BUSY]
    assert bench.ask("login1", "secret-1") == [RIGHT]
    bench.work()
    assert waiting == [[WRONG], [WRONG]]
    assert bench.answer("login1", "guess-3") is WRONG


def test_guesses_do_not_push_right_answers_out_and_memory_is_bounded(hashes):
    bench = Bench({"login1": hashes["secret-1"]}, remembered=2)
    bench.answer("login1", "secret-1")
    for n in range(3):
        bench.answer("login1", f"guess-{n}")
    assert bench.ask("login1", "secret-1") == [RIGHT]
    assert bench.ask("login1", "guess-2") == [WRONG]
    assert bench.ask("login1", "guess-0") == []  # forgotten, so it must be worked out again


def test_login_and_password_are_not_run_together(bench, hashes):
    bench.stored["ab"] = hashes["secret-1"]
    bench.stored["a"] = hashes["secret-1"]
    bench.answer("ab", "secret-1")
    assert bench.ask("a", "bsecret-1") == []


def test_overlong_or_unencodable_passwords_are_wrong(bench):
    assert bench.ask("login1", "x" * 2000) == [WRONG]
    assert bench.ask("x" * 2000, "secret-1") == [WRONG]
    assert bench.answer("login1", "\udcff") is WRONG


def test_memory_keeps_no_password_in_clear(bench):
    bench.answer("login1", "secret-1")
    bench.answer("login1", "a-wrong-guess")
    kept = repr([memory._rows for memory in (bench.verifier._right, bench.verifier._wrong)])
    assert "secret-1" not in kept and "a-wrong-guess" not in kept
