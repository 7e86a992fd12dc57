"""What the verbs tell of sender domains."""

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from relayd.control.domains import NOT_YET, OFF
from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.directory import judged
from relayd.errors import InputError
from relayd.message.dkim import dns_record, to_pem
from relayd.signing import Rules
from relayd.verification import Finding, Publish
from tests.dkim_kit import ed25519, rsa
from tests.fake_relay import NOW, FakeRelay, opened

KEY = rsa(domain="crm.example", selector="s1")
PEM = to_pem(KEY.private).decode()
FILE = ed25519(domain="crm.example", selector="file")
SPF = {"type": "TXT", "name": "crm.example", "value": "v=spf1 ip4:192.0.2.10 ~all"}
MADE = Publish("crm.example", "TXT", "v=spf1 ip4:192.0.2.10 mx -all")
FAILED = (Finding("dkim", "pass", "well"), Finding("spf", "fail", "no address passes", (MADE,)))


@pytest.fixture
def relay(tmp_path) -> Iterator[FakeRelay]:
    made = opened(tmp_path)
    for account in ("crm", "other"):
        made.directory.add_account(account, now=1.0).result(10)
    yield made
    made.directory.close()


def say(relay: FakeRelay, path: str, **given: object) -> Any:
    value = run(BY_PATH["/v1/domain/" + path], relay, given)  # type: ignore[arg-type]
    if hasattr(value, "send"):
        told: list[Any] = []
        Deferred.fromCoroutine(value).addBoth(told.append)
        (value,) = told
        if hasattr(value, "raiseException"):
            value.raiseException()
    return value.result(30) if hasattr(value, "result") else value


def add(relay: FakeRelay, **more: object) -> Any:
    return say(relay, "add", **{"name": "crm.example", "account": "crm", "selector": "s1", "key": PEM, **more})


def settle(relay: FakeRelay, findings=FAILED, domain: str = "crm.example") -> None:
    row = relay.directory.senders.get(domain)
    assert row is not None
    relay.directory.senders.settle(judged(row, findings, NOW, Random(1))).result(10)


def record(key) -> dict[str, str]:
    name, text = dns_record(key)
    return {"type": "TXT", "name": name, "value": text}


# Adding


def test_an_added_domain_is_unverified_and_comes_back_with_every_record_to_publish(relay):
    told = add(relay)
    assert (told["state"], told["checked"], told["due"], told["why"]) == ("unverified", None, NOW, NOT_YET)
    assert [row["name"] for row in told["publish"]] == [
        "s1._domainkey.crm.example",
        "crm.example",
        "_dmarc.crm.example",
    ]
    assert told["publish"][:2] == [record(KEY), SPF]
    assert told["zone"][0].startswith('s1._domainkey.crm.example. IN TXT ( "v=DKIM1; k=rsa; p=')


def test_a_domain_gets_a_key_unless_it_has_one_in_the_configuration_or_wants_none(relay):
    relay.keyring.rules = Rules({"crm.example": (FILE,)})
    made = [
        say(relay, "add", account="crm", name="CRM.example"),
        say(relay, "add", account="crm", name="a.example", algorithm="none"),
        say(relay, "add", account="crm", name="b.example", algorithm="ed25519"),
    ]
    assert [[key["selector"] for key in told["keys"]] for told in made] == [["file"], [], ["relayd"]]
    say(relay, "add", account="crm", name="crm.example", algorithm="ed25519")
    assert [key["selector"] for key in say(relay, "show", name="crm.example")["keys"]] == ["relayd", "file"]


@pytest.mark.parametrize("more", [{"selector": "s1"}, {"key": PEM}])
def test_no_key_is_wanted_together_with_none(relay, more):
    with pytest.raises(InputError, match="none makes no key"):
        say(relay, "add", account="crm", name="crm.example", algorithm="none", **more)


def test_a_domain_needs_an_account_that_exists(relay):
    with pytest.raises(InputError, match="there is no account 'crn'"):
        add(relay, account="crn")


def test_a_domain_of_another_account_is_refused(relay):
    add(relay)
    with pytest.raises(InputError, match="registered by the account crm"):
        add(relay, account="other", selector="s2")


@pytest.mark.parametrize("key", ["short", "x" * 20_000, 7])
def test_what_is_no_key_file_is_not_repeated(relay, key):
    with pytest.raises(InputError, match=r"^key: a key file has 32 to 16384 characters$"):
        add(relay, key=key)


# Telling


def test_no_answer_holds_a_private_key(relay):
    secret = PEM.splitlines()[1]
    answers = [add(relay), say(relay, "list"), say(relay, "show", name="crm.example")]
    answers += [say(relay, "verify", name="crm.example"), say(relay, "remove", name="crm.example", selector="s1")]
    answers.append(say(relay, "remove", name="crm.example"))
    assert not any(secret in str(answer) or "PRIVATE" in str(answer) for answer in answers)


def test_the_list_says_of_each_domain_whose_it_is_how_it_is_and_by_which_keys_it_signs(relay):
    add(relay)
    settle(relay)
    say(relay, "add", account="other", name="b.example", algorithm="none")
    relay.keyring.rules = Rules({"crm.example": (FILE,), "file.example": (FILE,)}, {"bad.example": "/k: gone"})
    rows = [tuple(row.values()) for row in say(relay, "list")]
    assert rows == [
        ("b.example", "other", "unverified", None, [], NOT_YET),
        (
            "crm.example",
            "crm",
            "unverified",
            NOW,
            ["s1 rsa-sha256 2048", "file ed25519-sha256 256"],
            "no address passes",
        ),
        ("bad.example", "", "not registered", None, ["/k: gone"], ""),
        ("file.example", "", "not registered", None, ["file ed25519-sha256 256"], ""),
    ]
    assert [row["domain"] for row in say(relay, "list", account="other")] == ["b.example"]


def test_a_domain_shows_findings_keys_and_records_as_the_last_check_wants_them(relay):
    add(relay)
    settle(relay)
    relay.keyring.rules = Rules({"crm.example": (FILE,)}, {"crm.example": "/k: gone"})
    told = say(relay, "show", name="CRM.example")
    assert (told["state"], told["why"], told["checked"]) == ("unverified", "no address passes", NOW)
    assert NOW < told["due"] < NOW + 600
    assert [tuple(row.values()) for row in told["findings"]] == [
        ("dkim", "pass", "well"),
        ("spf", "fail", "no address passes"),
    ]
    assert [key["where"] for key in told["keys"]] == ["directory", "configuration", "configuration"]
    assert told["keys"][0]["weak"] is False and told["keys"][2]["fault"] == "/k: gone"
    assert {"type": "TXT", "name": "crm.example", "value": MADE.value} in told["publish"] and SPF not in told["publish"]


def test_a_domain_that_only_the_configuration_knows_shows_its_key(relay):
    relay.keyring.rules = Rules({"crm.example": (FILE,)})
    told = say(relay, "show", name="crm.example")
    assert told["state"] == "not registered" and told["publish"] == [record(FILE)]


def test_of_an_account_without_domain_check_it_is_said_that_nothing_is_checked(relay):
    relay.directory.add_account("free", now=1.0, domain_check="off").result(10)
    told = say(relay, "add", account="free", name="free.example", algorithm="none")
    assert told["due"] is None and told["why"] == OFF
    assert say(relay, "list", account="free")[0]["why"] == OFF


@pytest.mark.parametrize(("name", "words"), [("crn.example", 'did you mean "crm.example"'), ("a b", "not a host")])
@pytest.mark.parametrize("path", ["show", "verify"])
def test_a_domain_that_is_not_registered_is_refused(relay, path, name, words):
    add(relay)
    with pytest.raises(InputError, match=words if path == "show" or name == "a b" else "is not registered"):
        say(relay, path, name=name)


# Verifying


def test_a_check_is_told_with_its_verdict_and_only_what_is_missing(relay):
    add(relay)
    settle(relay)
    told = say(relay, "verify", name="CRM.example")
    assert told["verified"] is False and told["why"] == "no address passes"
    assert told["publish"] == [{"type": "TXT", "name": "crm.example", "value": MADE.value}]
    settle(relay, (Finding("dkim", "pass", "well"),))
    told = say(relay, "verify", name="crm.example")
    assert (told["verified"], told["state"], told["publish"]) == (True, "verified", [])


# Removing


def test_one_key_is_removed_by_its_selector_and_the_domain_stays(relay):
    add(relay)
    assert say(relay, "remove", name="crm.example", selector="s1")["selector"] == "s1"
    assert relay.directory.senders.state("crm", "crm.example") == "unverified"


def test_a_domain_is_removed_with_its_keys(relay):
    add(relay)
    assert say(relay, "remove", name="crm.example") == {
        "domain": "crm.example",
        "account": "crm",
        "state": "unverified",
    }
    assert say(relay, "list") == []
    with pytest.raises(InputError, match="is not registered"):
        say(relay, "remove", name="crm.example")
