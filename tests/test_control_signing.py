"""What the verbs tell of signing domains."""

from collections.abc import Iterator
from typing import Any

import pytest

from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.errors import InputError
from relayd.message.dkim import dns_record, to_pem
from relayd.signing import Rules
from tests.dkim_kit import ed25519, rsa
from tests.fake_relay import FakeRelay, opened

KEY = rsa(domain="crm.example", selector="s1")
PEM = to_pem(KEY.private).decode()
FILE = ed25519(domain="crm.example", selector="file")


@pytest.fixture
def relay(tmp_path) -> Iterator[FakeRelay]:
    made = opened(tmp_path)
    for account in ("crm", "other"):
        made.directory.add_account(account, now=1.0).result(10)
    yield made
    made.close()


def say(relay: FakeRelay, path: str, **given: object) -> Any:
    value = run(BY_PATH["/v1/domain/" + path], relay, given)  # type: ignore[arg-type]
    return value.result(30) if hasattr(value, "result") else value


def add(relay: FakeRelay, **more: object) -> Any:
    return say(relay, "add", **{"name": "crm.example", "account": "crm", "selector": "s1", "key": PEM, **more})


def test_an_added_key_comes_back_as_the_record_to_publish(relay):
    told = add(relay)
    assert told["publish"] == dict([dns_record(KEY)])
    assert told["zone"]["s1"].startswith('s1._domainkey.crm.example. IN TXT ( "v=DKIM1; k=rsa; p=')


def test_no_answer_holds_a_private_key(relay):
    secret = PEM.splitlines()[1]
    answers = [add(relay), say(relay, "list"), say(relay, "show", name="crm.example")]
    answers.append(say(relay, "remove", name="crm.example"))
    assert not any(secret in str(answer) or "PRIVATE" in str(answer) for answer in answers)


def test_the_list_says_where_each_key_is_from_and_what_is_wrong(relay):
    add(relay)
    add(relay, name="b.example", account="other")
    relay.keyring.rules = Rules({"crm.example": (FILE,)}, {"bad.example": "/k: gone"})
    rows = [(row["domain"], row.get("selector"), row["where"], row.get("fault")) for row in say(relay, "list")]
    assert rows == [
        ("b.example", "s1", "directory", None),
        ("crm.example", "s1", "directory", None),
        ("crm.example", "file", "configuration", None),
        ("bad.example", None, "configuration", "/k: gone"),
    ]
    assert [row["domain"] for row in say(relay, "list", account="other")] == ["b.example"]


def test_a_domain_shows_all_its_keys_and_records(relay):
    add(relay)
    relay.keyring.rules = Rules({"crm.example": (FILE,)}, {"crm.example": "/k: gone"})
    told = say(relay, "show", name="CRM.example")
    assert [row["where"] for row in told["keys"]] == ["directory", "configuration", "configuration"]
    assert told["keys"][0]["weak"] is False and told["keys"][2]["fault"] == "/k: gone"
    assert told["publish"] == dict(map(dns_record, [KEY, FILE]))


@pytest.mark.parametrize(("name", "words"), [("crn.example", 'did you mean "crm.example"'), ("a b", "not a host")])
def test_a_domain_without_keys_is_refused(relay, name, words):
    add(relay)
    with pytest.raises(InputError, match=words):
        say(relay, "show", name=name)


def test_a_key_needs_an_account_that_exists(relay):
    with pytest.raises(InputError, match="there is no account 'crn'"):
        add(relay, account="crn")


@pytest.mark.parametrize("key", ["short", "x" * 20_000, 7])
def test_what_is_no_key_file_is_not_repeated(relay, key):
    with pytest.raises(InputError, match=r"^key: a key file has 32 to 16384 characters$"):
        add(relay, key=key)
