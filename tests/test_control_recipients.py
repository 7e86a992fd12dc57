"""The verb that tries out what becomes of recipients, with the resolver's real answers."""

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from relayd import inquiry
from relayd.config import Config, Node, Route
from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.destinations import Destinations
from relayd.errors import InputError
from relayd.resolver import Resolver, ResolverSettings
from relayd.validation import Lists, Rules
from tests.dns_server import DnsServer
from tests.fake_relay import FakeRelay, opened

ZONE = """
firm.test            MX  10 mx.firm.test
mx.firm.test         A   192.0.2.1
bare.test            A   192.0.2.2
null.test            MX  0 .
lost.test            MX  10 nowhere.test
lost2.test           TXT none
broken.test          SERVFAIL
xn--80a1acny.test    MX  10 mx.firm.test
"""


@pytest.fixture
def relay(tmp_path) -> Iterator[FakeRelay]:
    made = opened(tmp_path)
    yield made
    made.directory.close()


def say(relay: FakeRelay, **given: object) -> list[dict[str, Any]]:
    told: list[Any] = []
    Deferred.fromCoroutine(run(BY_PATH["/v1/recipient/check"], relay, given)).addBoth(told.append)
    if isinstance(told[0], list):
        return told[0]
    raise told[0].value


def test_each_address_has_its_row_in_the_order_asked(relay):
    relay.faults = {"gone.example": "NoSuchDomain"}
    addresses = ["noreply@firm.example", "ivan@firm.example", "ivan@gmial.com", "ivan@gone.example"]
    role = "noreply is the address of a function, not of a person"
    typo = "gmial.com looks like a misspelling of gmail.com"
    assert say(relay, address=addresses) == [
        {"address": "noreply@firm.example", "verdict": "refuse", "check": "role", "reason": role},
        {"address": "ivan@firm.example", "verdict": "accept", "check": "", "reason": ""},
        {"address": "ivan@gmial.com", "verdict": "refuse", "check": "typo", "reason": typo},
        {
            "address": "ivan@gone.example",
            "verdict": "refuse",
            "check": "domain",
            "reason": "gone.example does not exist",
        },
    ]
    assert relay.asked == ["firm.example", "gone.example"]


def test_a_streams_own_rules_count(relay):
    (row,) = say(relay, address="ivan@gmial.com", stream="transactional")
    assert (row["verdict"], relay.asked) == ("accept", [])
    (row,) = say(relay, address="ivan@gmial.com", stream="marketing")
    assert row["verdict"] == "refuse"


def test_an_unknown_stream_is_named(relay):
    with pytest.raises(InputError, match="no stream 'marketin' \\(did you mean \"marketing\"") as raised:
        run(BY_PATH["/v1/recipient/check"], relay, {"address": "a@b.example", "stream": "marketin"})
    assert raised.value.field == "stream"


def test_a_hundred_addresses_are_checked_at_once_and_no_more(relay):
    addresses = [f"ivan{n}@firm.example" for n in range(101)]
    assert len(say(relay, address=addresses[:100])) == 100
    with pytest.raises(InputError, match="at most 100 at once") as raised:
        say(relay, address=addresses)
    assert raised.value.field == "address"


def test_what_rules_let_through_without_being_an_address_is_not_looked_up(relay):
    bulk = relay.config.stream["marketing"]
    relay.config.stream["marketing"] = type(bulk)(validation=Rules(domain="refuse"))
    (row,) = say(relay, address="ivan", stream="marketing")
    assert (row["verdict"], relay.asked) == ("accept", [])


class RealAnswers(TestCase):
    """A resolver against a real DNS server."""

    def setUp(self) -> None:
        self.dns = DnsServer(reactor, ZONE)
        self.dns.start()
        self.addCleanup(self.dns.stop)
        loaded = Config(
            node=Node(name="mx1.relay.example", spool="/spool", control="/control"),
            source={},
            pool={},
            stream={},
            route=(Route(domain="*.routed.test", via="127.0.0.1:2600"),),
        )
        resolver = Resolver(reactor, ResolverSettings((self.dns.address,), timeout=2.0, tries=1))
        self.addCleanup(resolver.close)
        self.faults = partial(inquiry.domain_faults, resolver, Destinations(loaded).is_routed)
        self.relay: Any = SimpleNamespace(config=loaded, lists=Lists(), domain_faults=self.faults)

    async def test_domains_that_take_mail_and_those_that_do_not(self):
        domains = ["firm.test", "bare.test", "null.test", "lost.test", "lost2.test", "gone.test", "broken.test"]
        assert await self.faults([*domains, "a.routed.test"]) == {
            "firm.test": "",
            "bare.test": "",
            "null.test": "NoMail",
            "lost.test": "NoRoute",
            "lost2.test": "NoRoute",
            "gone.test": "NoSuchDomain",
            "broken.test": "LookupFailed",
            "a.routed.test": "",
        }
        assert not [name for name, _ in self.dns.questions() if name.endswith("routed.test")]

    async def test_the_verb_asks_for_a_domain_by_its_a_labels_and_forgives_a_dns_that_fails(self):
        given = {"address": ["иван@почта.test", "ivan@broken.test", "ivan@null.test"]}
        rows = await run(BY_PATH["/v1/recipient/check"], self.relay, given)
        assert [row["verdict"] for row in rows] == ["accept", "accept", "refuse"]
        assert rows[1]["reason"] == "the look-up of its domain ended with LookupFailed, which refuses nobody"
        assert rows[2]["reason"] == "null.test accepts no mail"
        assert ("xn--80a1acny.test", "MX") in self.dns.questions()
