"""The keyring: whose keys sign for whom, and the words for why none does."""

from relayd.directory import DomainKey
from relayd.message.dkim import Key, to_pem
from relayd.signing import Keyring, Rules
from tests.dkim_kit import ed25519, rsa


def row(domain: str, account: str = "crm", selector: str = "s1", pem: bytes | None = None) -> DomainKey:
    pem = to_pem(ed25519().private) if pem is None else pem
    return DomainKey(domain, account, selector, pem, "ed25519-sha256", 256, 0.0)


def ring(*rows: DomainKey, **rules: object) -> Keyring:
    made = Keyring(lambda domain: [row for row in rows if row.domain == domain])
    made.rules = Rules(**rules)  # type: ignore[arg-type]
    return made


def names(keyring: Keyring, domain: str, account: str = "crm") -> list[str]:
    return [f"{key.selector}.{key.domain}" for key in keyring.find(account, domain).keys]


def configured(*keys: Key) -> dict[str, tuple[Key, ...]]:
    return {key.domain: tuple(k for k in keys if k.domain == key.domain) for key in keys}


def test_an_empty_ring_says_which_key_is_missing():
    found = Keyring().find("crm", "a.example")
    assert (found.keys, found.fault) == ([], "no DKIM key for d=a.example")


def test_all_keys_of_the_domain_sign():
    keyring = ring(row("a.example"), row("a.example", selector="s2"))
    assert names(keyring, "a.example") == ["s1.a.example", "s2.a.example"]
    assert keyring.find("crm", "a.example").fault == ""


def test_the_nearest_domain_above_signs_for_what_is_below_it_and_never_the_other_way():
    keyring = ring(row("a.example"), row("news.a.example"))
    assert names(keyring, "eu.news.a.example") == ["s1.news.a.example"]
    assert names(keyring, "shop.a.example") == names(keyring, "a.example") == ["s1.a.example"]
    assert names(ring(row("news.a.example")), "a.example") == []


def test_a_key_signs_for_its_own_account_only():
    keyring = ring(row("a.example", "other"), row("news.a.example", "crm", "mine"))
    assert names(keyring, "a.example") == names(keyring, "shop.a.example") == []
    assert names(keyring, "news.a.example") == ["mine.news.a.example"]
    assert names(keyring, "news.a.example", "other") == ["s1.a.example"]


def test_an_account_whose_domain_is_filed_by_two_signs_with_its_own_selector():
    keyring = ring(row("a.example", "other", "theirs"), row("a.example", "crm", "ours"))
    assert names(keyring, "a.example") == ["ours.a.example"]
    assert names(keyring, "a.example", "other") == ["theirs.a.example"]


def test_keys_of_the_configuration_serve_every_account_behind_the_accounts_own():
    keyring = ring(row("a.example"), keys=configured(rsa(domain="a.example", selector="c")))
    assert names(keyring, "a.example") == ["s1.a.example"]
    assert names(keyring, "a.example", "other") == ["c.a.example"]


def test_at_a_nearer_name_the_configurations_key_signs_before_the_accounts_farther_one():
    keyring = ring(row("a.example"), keys=configured(rsa(domain="news.a.example", selector="c")))
    assert names(keyring, "news.a.example") == ["c.news.a.example"]


def test_the_relays_own_domain_signs_last_and_once():
    own = rsa(domain="relay.example", selector="esp")
    keyring = ring(row("a.example"), keys=configured(own), own="relay.example")
    assert names(keyring, "a.example") == ["s1.a.example", "esp.relay.example"]
    assert names(keyring, "relay.example") == ["esp.relay.example"]


def test_the_relays_own_key_may_be_in_the_directory_of_any_account():
    keyring = ring(row("relay.example", "house"), own="relay.example")
    assert names(keyring, "a.example") == ["s1.relay.example"] and keyring.warnings() == []


def test_the_relays_own_signature_is_no_substitute_for_one_of_the_from_domain():
    keyring = ring(keys=configured(rsa(domain="relay.example")), own="relay.example")
    assert keyring.find("crm", "a.example").fault == "no DKIM key for d=a.example"


def test_a_key_that_cannot_be_read_is_the_reason_unless_another_signs():
    broken = row("a.example", pem=b"-----BEGIN nothing")
    fault = ring(broken).find("crm", "a.example").fault
    assert fault.startswith("no DKIM key for d=a.example: selector s1: The file holds no private key")
    keyring = ring(broken, row("a.example", selector="s2"))
    assert names(keyring, "a.example") == ["s2.a.example"] and keyring.find("crm", "a.example").fault == ""


def test_a_file_of_the_configuration_that_cannot_be_read_is_the_reason_and_a_warning():
    keyring = ring(faults={"a.example": "/k.pem: No such file"}, own="relay.example")
    assert keyring.find("crm", "a.example").fault == "no DKIM key for d=a.example: /k.pem: No such file"
    assert keyring.warnings() == [
        "dkim a.example: /k.pem: No such file",
        "there is no DKIM key for [node] dkim_domain relay.example",
    ]


def test_a_message_without_a_from_domain_has_no_key():
    assert ring(row("a.example")).find("crm", "").keys == []


def test_a_new_key_under_an_old_selector_is_the_one_that_signs():
    rows = [row("a.example")]
    keyring = Keyring(lambda domain: rows)
    before = keyring.find("crm", "a.example").keys[0]
    assert keyring.find("crm", "a.example").keys[0] is before
    rows[:] = [row("a.example", pem=to_pem(rsa().private))]
    assert keyring.find("crm", "a.example").keys[0].algorithm == "rsa-sha256"


def test_an_account_signs_with_the_keys_of_those_above_it_and_they_never_with_its_own():
    rows = [row("a.example", "parent", "above"), row("b.example", "child", "below")]
    lineage = {"child": ("child", "parent"), "parent": ("parent",)}
    keyring = Keyring(lambda domain: [row for row in rows if row.domain == domain], lineage.__getitem__)
    assert names(keyring, "a.example", "child") == ["above.a.example"]
    assert names(keyring, "b.example", "child") == ["below.b.example"]
    assert names(keyring, "b.example", "parent") == []


def test_a_look_up_asks_for_each_label_once_whatever_the_number_of_domains():
    asked: list[str] = []
    keyring = Keyring(lambda domain: asked.append(domain) or ())  # type: ignore[func-returns-value]
    keyring.find("crm", "a.b.c.example")
    assert asked == ["a.b.c.example", "b.c.example", "c.example"]
