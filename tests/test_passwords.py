"""Passwords: the stored form, and a verifier that answers repeats from memory and never in the caller's thread."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.directory import passwords
from relayd.directory.passwords import EXTERNAL, Done, Verdict, Verifier, hash_password, verify_password

RIGHT, WRONG, BUSY, UNSURE = Verdict.RIGHT, Verdict.WRONG, Verdict.BUSY, Verdict.UNSURE
SSHA = "{SSHA}PTggDCOUPEVj5h7bZjhxfKWQBpey47nF"  # of "abcdef"


@pytest.fixture(scope="module")
def hashes() -> dict[str, str]:
    """Made once: each costs a scrypt."""
    return {password: hash_password(password) for password in ("secret-1", "secret-2")}


class Bench:
    """A verifier whose thread runs, whose clock goes and whose other system answers when the test says so."""

    def __init__(self, stored: dict[str, str], **settings: int) -> None:
        self.stored = stored
        self.jobs: list = []
        self.worked = 0
        self.now = 1000.0
        self.renewed: list[tuple[str, str, str]] = []
        self.asked: list[tuple[str, str, str]] = []
        self.answers: list[Done] = []
        self.verifier = Verifier(
            lambda login: self.stored.get(login, ""),
            self.jobs.append,
            lambda call: call(),
            lambda: self.now,
            lambda *renewed: self.renewed.append(renewed),
            **settings,
        )
        self.verifier.ask_externally(self.question, 300.0)

    def question(self, login: str, password: str, client: str, answered: Done) -> None:
        self.asked.append((login, password, client))
        self.answers.append(answered)

    def ask(self, login: str, password: str, client: str = "192.0.2.1") -> list[Verdict]:
        """The verdict will be in the list, at once if it was remembered."""
        said: list[Verdict] = []
        self.verifier.check(login, password, said.append, client)
        return said

    def told(self, verdict: Verdict, *question: str) -> list[Verdict]:
        """A question whose answer of the other system, if it is asked, is the verdict."""
        said = self.ask(*question)
        while self.answers:
            self.answers.pop(0)(verdict)
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
    kept = repr([memory._rows for memory in (bench.verifier._hashes.right, bench.verifier._hashes.wrong)])
    assert "secret-1" not in kept and "a-wrong-guess" not in kept


# Imported hashes.


def test_imported_hash_is_renewed_once_the_right_password_has_come():
    bench = Bench({"login1": SSHA})
    assert bench.answer("login1", "abcdeg") is WRONG and bench.renewed == []
    assert bench.answer("login1", "abcdef") is RIGHT
    ((login, old, new),) = bench.renewed
    assert (login, old) == ("login1", SSHA) and new.startswith("scrypt$") and verify_password("abcdef", new)
    bench.stored["login1"] = new
    assert bench.answer("login1", "abcdef") is RIGHT and len(bench.renewed) == 1


def test_hash_of_ours_with_other_parameters_is_renewed_too():
    key = passwords.hashlib.scrypt(b"old", salt=b"saltsalt", n=2, r=1, p=1, dklen=32)
    bench = Bench({"login1": "scrypt$2$1$1$c2FsdHNhbHQ=$" + passwords.base64.b64encode(key).decode()})
    assert bench.answer("login1", "old") is RIGHT and len(bench.renewed) == 1


def test_wrong_password_for_a_cheap_imported_hash_costs_the_scrypt_of_an_unknown_login(monkeypatch):
    bench = Bench({"login1": SSHA})
    spent = []
    real = passwords.hashlib.scrypt
    monkeypatch.setattr(passwords.hashlib, "scrypt", lambda *a, **more: spent.append(more["n"]) or real(*a, **more))
    bench.answer("login1", "guess")
    bench.answer("nobody", "guess")
    assert spent == [2**14, 2**14]


# Another system's logins.


@pytest.fixture
def external() -> Bench:
    return Bench({"login1": EXTERNAL})


def test_external_login_is_asked_with_where_the_client_is_and_no_thread_works(external):
    assert external.told(RIGHT, "login1", "secret", "192.0.2.9") == [RIGHT]
    assert external.asked == [("login1", "secret", "192.0.2.9")] and external.jobs == []


def test_no_other_login_is_ever_asked_of_the_other_system(external, hashes):
    external.stored["login2"] = hashes["secret-1"]
    assert external.answer("login2", "secret-1") is RIGHT
    assert external.answer("nobody", "external") is WRONG
    assert external.asked == []


def test_right_answer_is_believed_for_the_time_of_the_cache_and_from_that_client_only(external):
    external.told(RIGHT, "login1", "secret")
    external.now += 299
    assert external.told(WRONG, "login1", "secret") == [RIGHT]
    assert external.told(WRONG, "login1", "secret", "192.0.2.2") == [WRONG]
    external.now += 1
    assert external.told(WRONG, "login1", "secret") == [WRONG]


def test_wrong_answer_is_believed_shortly(external):
    external.told(WRONG, "login1", "secret")
    external.now += 9
    assert external.told(RIGHT, "login1", "secret") == [WRONG]
    external.now += 1
    assert external.told(RIGHT, "login1", "secret") == [RIGHT]


def test_no_answer_lets_nobody_in_and_is_not_remembered(external):
    assert external.told(UNSURE, "login1", "secret") == [UNSURE]
    assert external.told(RIGHT, "login1", "secret") == [RIGHT]


def test_questions_that_are_the_same_are_asked_once(external):
    said = [external.ask("login1", "secret") for _ in range(100)]
    external.answers.pop()(RIGHT)
    assert said == [[RIGHT]] * 100 and len(external.asked) == 1


def test_another_system_that_hangs_keeps_no_other_login_out(hashes):
    bench = Bench({"login1": EXTERNAL, "login2": hashes["secret-2"]}, pending=2)
    waiting = [bench.ask("login1", f"guess-{n}") for n in range(2)]
    assert bench.ask("login1", "secret") == [BUSY] and waiting == [[], []]
    assert bench.answer("login2", "secret-2") is RIGHT


def test_what_one_system_said_does_not_count_when_another_is_named(external):
    external.told(RIGHT, "login1", "secret")
    late = external.ask("login1", "late")
    old = external.answers.pop()
    external.verifier.ask_externally(external.question, 300.0)
    old(RIGHT)
    assert late == [RIGHT]  # it was asked before
    assert external.told(WRONG, "login1", "secret") == [WRONG]
    assert external.told(WRONG, "login1", "late") == [WRONG]


def test_login_that_gets_a_password_of_its_own_while_the_other_system_is_asked_is_judged_by_that(external, hashes):
    said = external.ask("login1", "secret-1")
    external.stored["login1"] = hashes["secret-2"]
    external.answers.pop()(RIGHT)
    external.work()
    assert said == [WRONG]


def test_nobody_to_ask_is_no_answer():
    verifier = Verifier(lambda login: EXTERNAL, lambda job: None, lambda call: None, lambda: 0.0, lambda *_: None)
    said: list[Verdict] = []
    verifier.check("login1", "secret", said.append)
    assert said == [UNSURE]


def test_memory_of_another_systems_answers_keeps_no_password_and_is_bounded():
    bench = Bench({"login1": EXTERNAL}, remembered=2)
    for n in range(5):
        bench.told(RIGHT, "login1", f"secret-{n}")
    rows = bench.verifier._external.right._rows
    assert len(rows) == 2 and "secret" not in repr(rows)
    assert bench.ask("login1", "secret-4") == [RIGHT] and bench.ask("login1", "secret-0") == []
