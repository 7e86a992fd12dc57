"""Customers and verbs: none answers that has no scope, and none about what is not the customer's."""

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.web.test.requesthelper import DummyRequest

from relayd.control.api import VerbResource
from relayd.control.verb import ROLES, Arg, Caller, Verb
from relayd.control.verbs import BY_PATH, VERBS
from relayd.directory.plans import Plan
from relayd.identity import DAY, show
from relayd.inquiry import Archive
from relayd.statistics import Settings, Statistics
from relayd.suppression import entry
from relayd.suspicion import Dismissal
from tests.fake_relay import NOW, FakeRelay, opened
from tests.harness import Reactor
from tests.history_kit import Kept, identity, message, outcome

OURS, THEIRS = "crm-alfa", "crm-zeta"  # near enough for hints at the nearest name
EARLIER = NOW - 3600
MARK = "zeta"  # is in all that is theirs, in what their operator wrote, and in nothing else
CUSTOMER = Caller("token t1 (customer crm-alfa)", "customer", OURS)
OTHER = Caller("token t2 (customer crm-zeta)", "customer", THEIRS)
ADMIN = Caller("anna", "admin")
OPEN = [verb for verb in VERBS if verb.scope is not None]


def furnish(relay: FakeRelay, account: str, word: str) -> None:
    """An account with one of everything, in whose names and texts there is the word."""
    directory = relay.directory

    def did(future: Any) -> Any:
        return future.result(30)

    did(directory.add_account(account, now=NOW, notices=f"post@{word}.example", zone=f"mail.{word}.example"))
    did(directory.add_account(f"{word}-shop", now=NOW, parent=account))
    did(directory.set_stream(account, f"{word}-news", "marketing", {}))
    senders = [f"@{word}.example"]
    for login, owner in ((f"{word}-1", account), (f"{word}-2", f"{word}-shop")):
        did(directory.add_connection(login, account=owner, now=NOW, senders=senders, by=f"{word}-chief"))
    did(directory.add_domain_key(f"{word}.example", account=account, now=NOW, algorithm="ed25519"))
    plan = Plan(f"{word}-plan", "never", 1000, False, (), 0, 0, 0, (), NOW)
    did(directory.balances.add_plan(plan))
    did(directory.balances.set_plan(account, plan.name, now=NOW, by=f"{word}-chief", note=f"{word} note"))
    for name in (f"account:{account}/{word}", f"connection:{word}-1/own", f"connection:{word}-2/own"):
        did(relay.suppressions.add_list(name, now=NOW))
        for value in (f"x@{word}.example", "both@mail.example", "held@mail.example"):
            kept = entry(name, value, reason="manual", evidence=f"{word} said", added=NOW, by=f"{word}-chief")
            did(relay.suppressions.add([kept]))
    for subject in (("account", account), ("client", f"{account}/{word}-client"), ("connection", f"{word}-1")):
        relay.reputation.put(subject, "hold", f"{word} misbehaved", f"{word}-chief", NOW)
    for client in ("", f"{word}-client"):
        did(relay.dismiss(Dismissal(account, client, f"{word} reason", f"{word}-chief", NOW, NOW + DAY)))
    did(directory.api_tokens.add(f"{word}-token", "customer", account=account, now=NOW, by=f"{word}-chief"))
    queue = {"account": account, "stream": f"{word}-news", "domain": f"{word}.example", "count": 1, "due": NOW}
    relay.queued.append({**queue, "constraint": "rest", "why": f"450 x@{MARK}.example was greylisted"})


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator["World"]:
    made = World(tmp_path_factory.mktemp("scope"))
    yield made
    made.relay.archive.stop()
    made.relay.close()


class Asked(DummyRequest):
    def __init__(self, verb: Verb, given: dict[str, Any]) -> None:
        super().__init__([])
        self.path, self.method = verb.path.encode(), verb.method.encode()
        several = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
        self.args = {n.encode(): [str(v).encode() for v in values] for n, values in several.items()}
        self.content = io.BytesIO(json.dumps(given).encode())


class World:
    """Two customers of a relay."""

    def __init__(self, directory: Any) -> None:
        self.reactor = Reactor()
        self.relay = opened(directory)
        self.relay.queued.clear()
        self.relay.suppressions.add_list(f"{MARK}-all", now=NOW).result(30)
        furnish(self.relay, OURS, "alfa")
        furnish(self.relay, THEIRS, MARK)
        self._remember(Path(directory))

    def _remember(self, directory: Path) -> None:
        """Mail of both, in history and figures."""
        kept = Kept(directory)
        for at, account, word in ((EARLIER, OURS, "alfa"), (EARLIER + 1, THEIRS, MARK)):
            mail = message(at, f"x@{word}.example", account=account, connection=f"{word}-1", stream=f"{word}-news")
            kept.segment(int(at), mail, outcome("Bounce", mail, at, note=f"{word} said no"))
        kept.index()
        kept.close()
        Statistics(directory / "statistics.sqlite", Settings, self.relay.now).close()
        self.relay.archive = Archive(directory, "mx1", Settings, self.relay.now)

    def ask(self, verb: Verb, caller: Caller, **given: Any) -> tuple[int, str]:
        request = Asked(verb, given)
        body = VerbResource(self.reactor, self.relay, lambda _: caller).render(request)
        if isinstance(body, bytes):
            return request.responseCode, body.decode()
        self.reactor.until(lambda: request.finished)
        return request.responseCode or 200, b"".join(request.written).decode()


POOLS = {
    "name": [
        *(OURS, "alfa-shop", "alfa-1", "alfa-plan", "alfa-news", THEIRS, f"{MARK}-shop", f"{MARK}-1", f"{MARK}-2"),
        *(f"{MARK}-plan", f"{MARK}-news", "crm-zet", "crm", "marketing"),
    ],
    "list": [
        *(f"account:{OURS}/alfa", "connection:alfa-1/own", "connection:alfa-2/own", f"account:{OURS}/zet"),
        *(f"account:{THEIRS}/{MARK}", f"connection:{MARK}-1/own", f"{MARK}-all", "all", f"account:{THEIRS}/none"),
    ],
    "str": [
        *("alfa.example", f"{MARK}.example", "zet.example", f"x@{MARK}.example", "both@mail.example"),
        *(f"account:{OURS}", f"account:{THEIRS}", f"client:{THEIRS}/{MARK}-client", f"client:{OURS}/alfa-client"),
        *("connection:alfa-1", f"connection:{MARK}-1", f"domain:{MARK}.example", "source:t1/gmail", "nonsense"),
        *(show(identity(EARLIER)), show(identity(EARLIER + 1))),
    ],
    "row": [{"value": "new@mail.example"}],
    "int": [10, 10**12],
    "id": ["19a5c0e1d2300001"],
    "duration": ["1h"],
    "bool": ["true", "false"],
    "network": ["192.0.2.0/24"],
}


def tries(verb: Verb) -> list[dict[str, Any]]:
    """Every argument with everything that it may be about, beside every answer to the question whose."""
    whose = verb.scope.arg if verb.scope else ""

    def values(arg: Arg) -> list[Any]:
        found = list(arg.choices) or POOLS.get(arg.kind, ["x" * 40])
        return [[value] if arg.repeated else value for value in found]

    own = next((values(arg) for arg in verb.args if arg.name == whose), [])
    made = []
    for one in (*own, None):
        least = {arg.name: values(arg)[0] for arg in verb.args if arg.required} | {whose: one}
        made += [least] + [least | {a.name: value} for a in verb.args if a.name != whose for value in values(a)]
    return [{name: value for name, value in given.items() if value is not None} for given in made]


def unechoed(said: str, given: dict[str, Any]) -> str:
    """An answer without what the caller said himself."""
    values = itertools.chain(*(value if isinstance(value, list) else [value] for value in given.values()))
    for one in sorted(filter(lambda value: isinstance(value, str), values), key=len, reverse=True):
        said = said.replace(one, "")
    return said


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.scope is None], ids=lambda verb: verb.name)
def test_a_verb_without_a_scope_answers_no_customer(world, verb):
    for given in tries(verb)[:20]:
        status, said = world.ask(verb, CUSTOMER, **given)
        assert status == 403 and json.loads(said) == {"error": f"{verb.name} is not for customers", "field": ""}


READING = [verb for verb in OPEN if verb.effect == "read"]
CHANGING = [verb for verb in OPEN if verb.effect == "change"]


@pytest.mark.parametrize("verb", [*READING, *CHANGING], ids=lambda verb: verb.name)
def test_no_byte_of_another_customers_is_in_any_answer(world, verb):
    statuses = set()
    for given in tries(verb):
        status, said = world.ask(verb, CUSTOMER, **given)
        statuses.add(status)
        assert status in (200, 400, 404), (given, said)
        assert MARK not in unechoed(said, given).lower(), given
    assert 200 in statuses  # it was not refused for another reason


@pytest.mark.parametrize("verb", OPEN, ids=lambda verb: verb.name)
def test_what_is_anothers_and_what_is_not_there_are_refused_alike(world, verb):
    """The tries are such that for the owner many of the refused ones are answers."""
    if not verb.scope.arg:
        return
    kind = next(arg.kind for arg in verb.args if arg.name == verb.scope.arg)
    refusals, found = set(), 0
    for given in tries(verb):
        whose = given.get(verb.scope.arg)
        if not isinstance(whose, str) or "zet" not in whose or OURS in whose:
            continue
        status, said = world.ask(verb, CUSTOMER, **given)
        refusals.add((status, json.loads(said)["error"].replace(whose, "?")))
        if verb.effect == "read":
            found += world.ask(verb, OTHER, **given)[0] == 200
    assert len(refusals) == 1 and {status for status, _ in refusals} == {404}, kind
    assert found or verb.effect == "change"


def test_the_changes_that_customers_may_make_are_these():
    assert {verb.name for verb in CHANGING} == {"suppression add", "suppression import", "suppression remove"}


def test_a_change_at_anothers_list_changes_nothing(world):
    before = world.ask(BY_PATH["/v1/suppression/list"], OTHER, list=f"account:{THEIRS}/{MARK}")
    for list in (f"account:{THEIRS}/{MARK}", f"{MARK}-all"):
        for path, more in (("add", {"value": ["n@x.example"]}), ("remove", {"value": f"x@{MARK}.example"})):
            assert world.ask(BY_PATH[f"/v1/suppression/{path}"], CUSTOMER, list=list, **more)[0] == 404
        rows = [{"value": "n@x.example"}]
        assert world.ask(BY_PATH["/v1/suppression/import"], CUSTOMER, list=list, rows=rows)[0] == 404
    assert world.ask(BY_PATH["/v1/suppression/list"], OTHER, list=f"account:{THEIRS}/{MARK}") == before


def asked(world: World, path: str, caller: Caller = CUSTOMER, **given: Any) -> Any:
    status, said = world.ask(BY_PATH[f"/v1/{path}"], caller, **given)
    assert status == 200, said
    return json.loads(said)


def test_who_does_not_say_whose_means_himself(world):
    assert asked(world, "account/show")["name"] == OURS
    assert [row["name"] for row in asked(world, "account/list")] == ["alfa-shop"]
    assert [row["login"] for row in asked(world, "connection/list")] == ["alfa-1"]
    assert [row["domain"] for row in asked(world, "domain/list")] == ["alfa.example"]
    assert [row["name"] for row in asked(world, "stream/list")] == ["alfa-news"]
    assert [row["list"] for row in asked(world, "list/list")] == [f"account:{OURS}/alfa", "connection:alfa-1/own"]
    assert [row["account"] for row in asked(world, "queue/list")] == [OURS]
    assert asked(world, "plan/show")["name"] == "alfa-plan" and asked(world, "balance/show")["left"] == 1000
    assert asked(world, "balance/ledger")[0]["kind"] == "plan"
    assert asked(world, "reputation/show")["subject"] == f"account:{OURS}"
    assert asked(world, "suspects/show")["account"] == OURS


def test_a_sub_accounts_is_the_customers_too_but_not_the_other_way_round(world):
    assert [row["login"] for row in asked(world, "connection/list", account="alfa-shop")] == ["alfa-2"]
    assert asked(world, "connection/show", login="alfa-2")["account"] == "alfa-shop"
    assert asked(world, "suppression/list", list="connection:alfa-2/own")["entries"]
    below = Caller("token t3 (customer alfa-shop)", "customer", "alfa-shop")
    assert asked(world, "connection/list", below)[0]["login"] == "alfa-2"
    for path, given in (("account/show", {"name": OURS}), ("connection/show", {"login": "alfa-1"})):
        assert world.ask(BY_PATH[f"/v1/{path}"], below, **given)[0] == 404


def test_a_search_tells_of_the_customers_lists_only(world):
    found = [row["list"] for row in asked(world, "suppression/search", address="held@mail.example")]
    assert found == [f"account:{OURS}/alfa", "connection:alfa-1/own"]
    everything = asked(world, "suppression/search", ADMIN, address="held@mail.example")
    assert len(everything) == 6


def test_what_is_for_operators_is_not_in_a_customers_answer_and_in_theirs_it_is(world):
    for path, given, key in [
        ("connection/show", {"login": "alfa-1"}, "by"),
        ("plan/show", {"name": "alfa-plan"}, "accounts"),
        ("reputation/show", {"subject": f"account:{OURS}"}, "changes"),
    ]:
        assert key in asked(world, path, ADMIN, **given) and key not in asked(world, path, **given)
    entries = asked(world, "suppression/list", list=f"account:{OURS}/alfa")["entries"]
    assert entries and not any("by" in row for row in entries)


def test_a_customer_gets_no_more_than_a_thousand_of_anything(world):
    world.relay.queued += [{**world.relay.queued[0], "domain": f"d{n}.example"} for n in range(1500)]
    assert len(asked(world, "queue/list", limit=10**9)) == 1000
    assert len(asked(world, "queue/list", ADMIN, limit=10**9)) > 1500


def test_what_a_customer_puts_on_a_list_bears_his_tokens_name(world):
    asked(world, "suppression/add", list=f"account:{OURS}/alfa", value=["signed@mail.example"])
    (row,) = asked(world, "suppression/search", ADMIN, address="signed@mail.example", account=OURS)
    assert row["by"] == CUSTOMER.name


@pytest.mark.parametrize("verb", OPEN, ids=lambda verb: verb.name)
def test_a_scope_names_an_argument_that_there_is(verb):
    assert not verb.scope.arg or verb.scope.arg in [arg.name for arg in verb.args]


def test_roles_of_operators_are_not_narrowed(world):
    for role in ROLES:
        names = {row["name"] for row in asked(world, "account/list", Caller("x", role))}
        assert {OURS, THEIRS} <= names
