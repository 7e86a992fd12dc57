"""The directory's signing keys: imported with their selector or made, of one account each, shown to nobody."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from relayd.directory import Directory
from relayd.directory.store import UPGRADES
from relayd.errors import InputError
from relayd.message.dkim import dns_record, to_pem
from tests.dkim_kit import ed25519, rsa

NOW = 1_700_000_000.5
PEM = to_pem(rsa().private)


def now(call: Callable[[], None]) -> None:
    call()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    opened = Directory(tmp_path / "directory.sqlite", now)
    for account in ("crm", "other"):
        opened.add_account(account, now=NOW).result(10)
    yield opened
    opened.close()


def add(directory: Directory, domain: str = "crm.example", **more: object):
    return directory.add_domain_key(domain, **{"account": "crm", "now": NOW, **more}).result(30)


def test_an_imported_key_keeps_its_selector_and_publishes_the_same_record(directory):
    made = add(directory, selector="s2019.mail", pem=PEM)
    assert (made.selector, made.algorithm, made.bits, made.weak) == ("s2019.mail", "rsa-sha256", 2048, False)
    assert directory.domain_keys("crm.example") == (made,)
    assert dns_record(made.key()) == dns_record(rsa(domain="crm.example", selector="s2019.mail"))


@pytest.mark.parametrize(("kind", "bits"), [(None, 2048), ("rsa", 2048), ("ed25519", 256)])
def test_without_a_key_one_is_made(directory, kind, bits):
    made = add(directory, algorithm=kind)
    assert (made.selector, made.bits, made.algorithm) == ("relayd", bits, f"{kind or 'rsa'}-sha256")
    assert made.key().algorithm == made.algorithm


def test_a_short_key_is_called_weak(directory):
    assert add(directory, pem=to_pem(generate_private_key(65537, 1024))).weak
    assert not add(directory, selector="e", pem=to_pem(ed25519().private)).weak


def test_names_are_kept_as_they_are_looked_up(directory):
    add(directory, "Пример.Example", pem=PEM)
    add(directory, "CRM.Example.", pem=PEM)
    assert [row.domain for row in directory.all_domain_keys()] == ["crm.example", "xn--e1afmkfd.example"]


def test_a_domain_has_several_keys_under_selectors_of_their_own(directory):
    add(directory, selector="s2", pem=PEM)
    add(directory, selector="s1", pem=to_pem(ed25519().private))
    assert [row.selector for row in directory.domain_keys("crm.example")] == ["s1", "s2"]
    with pytest.raises(InputError, match="already has a key with the selector s2"):
        add(directory, selector="s2", pem=PEM)


@pytest.mark.parametrize(
    ("field", "domain", "more"),
    [
        ("name", "a b.example", {}),
        ("name", "", {}),
        ("name", "localhost", {"pem": PEM}),
        ("selector", "crm.example", {"pem": PEM, "selector": "a b"}),
        ("selector", "crm.example", {"pem": PEM, "selector": "x;d=evil"}),
        ("account", "crm.example", {"pem": PEM, "account": "nobody"}),
        ("key", "crm.example", {"pem": b"no key"}),
        ("key", "crm.example", {"pem": to_pem(generate_private_key(65537, 512 * 2))[:200]}),
        ("algorithm", "crm.example", {"pem": PEM, "algorithm": "ed25519"}),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(directory, field, domain, more):
    with pytest.raises(InputError) as raised:
        add(directory, domain, **more)
    assert raised.value.field == field and directory.all_domain_keys() == []


def test_keys_are_there_after_a_restart(directory, tmp_path):
    made = [add(directory, selector=selector, pem=PEM) for selector in ("s1", "s2")]
    directory.close()
    again = Directory(tmp_path / "directory.sqlite", now)
    assert again.all_domain_keys() == made and again.domain_keys("crm.example") == tuple(made)
    again.close()


def test_a_key_is_removed_by_its_selector_or_as_the_only_one(directory):
    for selector in ("s1", "s2"):
        add(directory, selector=selector, pem=PEM)
    with pytest.raises(InputError, match="has several keys, name one: s1, s2"):
        directory.remove_domain_key("crm.example").result(10)
    with pytest.raises(InputError, match=r"there is no key s3 of the domain crm.example"):
        directory.remove_domain_key("crm.example", "s3").result(10)
    assert directory.remove_domain_key("crm.example", "s1").result(10).selector == "s1"
    assert directory.remove_domain_key("CRM.example").result(10).selector == "s2"
    assert directory.domain_keys("crm.example") == () and directory.all_domain_keys() == []
    with pytest.raises(InputError, match="there is no key of the domain"):
        directory.remove_domain_key("crm.example").result(10)


def test_a_row_shows_no_key_in_a_traceback(directory):
    assert "PRIVATE" not in repr(add(directory, pem=PEM)) and "crm.example" in repr(directory.all_domain_keys())


def test_a_directory_of_the_first_version_gets_the_table_and_keeps_its_accounts(tmp_path):
    path = tmp_path / "old.sqlite"
    db = sqlite3.connect(path)
    db.executescript(f"{UPGRADES[0]}; INSERT INTO accounts VALUES ('crm', 'active', 'off', 1); PRAGMA user_version = 1")
    db.close()
    again = Directory(path, now)
    assert again.account("crm") and add(again, pem=PEM).domain == "crm.example"
    again.close()


def test_a_key_spoilt_in_the_file_is_found_out_when_it_is_loaded_not_at_start(directory, tmp_path):
    add(directory, pem=PEM)
    directory.close()
    db = sqlite3.connect(tmp_path / "directory.sqlite")
    with db:
        db.execute("UPDATE domains SET pem = x'00'")
    db.close()
    again = Directory(tmp_path / "directory.sqlite", now)
    with pytest.raises(ValueError, match="holds no private key"):
        again.domain_keys("crm.example")[0].key()
    again.close()
