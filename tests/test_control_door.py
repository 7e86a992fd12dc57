"""The control API's door: tokens, guessers, slow and many clients, on connections in memory and a clock of our own."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol

from relayd.control.door import DoorService, Settings
from relayd.quotas import parse_limits
from tests.fake_relay import FakeRelay, opened
from tests.harness import START, Reactor, pair

HERE, ELSEWHERE = "198.51.100.1", "203.0.113.9"


class Client(Protocol):
    """Sends what it is told to and keeps what comes."""

    transport: Any

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.heard = b""
        self.gone = False

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Any = None) -> None:
        self.gone = True

    def say(self, data: bytes) -> None:
        self.transport.write(data)
        self.reactor.pump()

    def ask(self, token: str = "", path: str = "/v1/version", head: str = "", body: bytes = b"") -> None:
        bearer = f"Authorization: Bearer {token}\r\n" if token else ""
        method = "POST" if body else "GET"
        size = f"Content-Length: {len(body)}\r\n" if body else ""
        self.say(f"{method} {path} HTTP/1.1\r\nHost: relay\r\n{bearer}{head}{size}\r\n".encode() + body)

    def answer(self, *asked: Any, **more: Any) -> "Answer":
        """The answer to one request, as soon as it is there."""
        self.heard = b""
        self.ask(*asked, **more)
        self.reactor.until(lambda: b"\r\n\r\n" in self.heard)
        return Answer(self.heard)


class Answer:
    def __init__(self, raw: bytes) -> None:
        head, _, body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.value = json.loads(body)

    @property
    def error(self) -> str:
        return str(self.value["error"])


class House:
    """A door in clear and what stands behind it."""

    def __init__(self, directory: Any, **settings: Any) -> None:
        self.reactor = Reactor()
        self.relay: FakeRelay = opened(directory, self.reactor.callFromThread)
        self.relay.now = self.reactor.seconds  # type: ignore[method-assign]
        self.done(self.relay.directory.add_account("crm", now=START))
        self.door = self.made(**settings)
        Deferred.fromCoroutine(self.door.listen())
        self.gate = self.reactor.tcpServers[0][1]

    def made(self, **settings: Any) -> DoorService:
        endpoint = "tcp:8443:interface=127.0.0.1"
        return DoorService(self.reactor, endpoint, self.relay, Settings(**settings), None)

    def done(self, future: Any) -> Any:
        self.reactor.until(future.done)
        return future.result()

    def token(self, name: str = "t", role: Any = "admin", **more: Any) -> str:
        made = self.done(self.relay.directory.api_tokens.add(name, role, now=START, by="anna", **more))
        return str(made.text)

    def call(self, host: str = HERE) -> Client | None:
        """A connection; None if it is refused."""
        theirs, ours = pair(self.reactor, host, "127.0.0.1", 8443)
        protocol = self.gate.buildProtocol(theirs.getHost())
        if protocol is None:
            return None
        client = Client(self.reactor)
        theirs.protocol, ours.protocol = client, protocol
        client.makeConnection(theirs)
        protocol.makeConnection(ours)
        self.reactor.pump()
        return client

    def ask(self, *asked: Any, host: str = HERE, **more: Any) -> Answer:
        client = self.call(host)
        assert client is not None
        answer = client.answer(*asked, **more)
        client.transport.loseConnection()
        self.reactor.pump()
        return answer

    def held(self, token: str, host: str = HERE) -> tuple[float, Answer]:
        """For how long the answer to a request is held back."""
        client = self.call(host)
        assert client is not None
        client.ask(token)
        began = self.reactor.seconds()
        while not client.heard:
            assert self.reactor.seconds() < began + 30
            self.reactor.wait(0.125)
        client.transport.loseConnection()
        self.reactor.pump()
        return self.reactor.seconds() - began, Answer(client.heard)

    def close(self) -> None:
        self.door.stopService()
        self.relay.close()


@pytest.fixture
def house(tmp_path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()


def wrong(token: str) -> str:
    return token[:-2] + ("AA" if token[-2:] != "AA" else "BB")


UNKNOWN = "relayd_" + "0" * 16 + "_" + "A" * 43


# Who asks


def test_a_token_is_answered_and_nobody_else(house):
    token = house.token()
    assert house.ask(token).value == {"version": house.ask(token).value["version"]}
    answer = house.ask()
    assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Bearer realm="relayd"')
    assert "Authorization: Bearer TOKEN" in answer.error and answer.value["field"] == ""
    assert "server" not in answer.headers and answer.headers["cache-control"] == "no-store"
    for head in (
        "Authorization: Basic eDp5\r\n",
        f"Authorization: Bearer {token}\r\n" * 2,
        "Authorization: Bearer\r\n",
    ):
        assert house.ask(head=head).status == 401
    assert house.ask(head=f"authorization: BEARER {token}\r\n").status == 200


def test_nothing_is_told_before_the_token_is_looked_at(house):
    for path in ("/v1/nonsense", "/v1/account/add", "/"):
        assert house.ask(path=path).status == 401
    assert house.ask(house.token(), path="/v1/nonsense").status == 404


def test_a_role_is_what_an_operators_token_may(house):
    view, operate = house.token("v", "view"), house.token("o", "operate")
    assert house.ask(view, "/v1/account/list").status == 200
    suspend = {"path": "/v1/account/suspend", "body": b'{"name": "crm", "reason": "unpaid"}'}
    refused = house.ask(view, **suspend)
    assert (refused.status, refused.error) == (403, "account suspend needs the role operate; yours is view")
    assert house.ask(operate, **suspend).status == 200
    assert house.ask(operate, "/v1/account/add", body=b'{"name": "x"}').status == 403


def test_a_customers_token_asks_about_its_account_and_the_trail_names_it(house):
    house.done(house.relay.directory.add_account("other", now=START))
    house.done(house.relay.suppressions.add_list("account:crm/own", now=START))
    token = house.token("crm-1", "customer", account="crm")
    assert house.ask(token, "/v1/account/show").value["name"] == "crm"
    refused = house.ask(token, "/v1/account/show?name=other")
    unknown = house.ask(token, "/v1/account/show?name=orher")
    assert (refused.status, refused.value["field"]) == (unknown.status, unknown.value["field"]) == (404, "name")
    assert refused.error.replace("other", "orher") == unknown.error
    barred = house.ask(token, "/v1/status")
    assert (barred.status, barred.error) == (403, "status is not for customers")
    body = b'{"list": "account:crm/own", "value": ["a@b.example"]}'
    assert house.ask(token, "/v1/suppression/add", body=body).status == 200
    (change,) = house.done(house.relay.directory.changes(9))
    assert (change.who, change.verb) == ("token crm-1 (customer crm)", "suppression add")


def test_a_token_made_over_the_network_is_shown_once_and_never_in_the_trail(house):
    admin = house.token("root", "admin")
    body = b'{"name": "crm-1", "account": "crm", "expires": "1d", "network": ["198.51.100.0/24"], "note": "theirs"}'
    made = house.ask(admin, "/v1/apitoken/add", body=body).value
    assert house.ask(made["token"], "/v1/balance/ledger").value == []
    shown = repr([house.ask(admin, path).value for path in ("/v1/apitoken/list", "/v1/change/list")])
    assert made["token"][24:] not in shown and "crm-1" in shown and "token root (admin)" in shown


def test_a_revoked_token_is_void_in_a_connection_that_is_open(house):
    token = house.token()
    client = house.call()
    assert client.answer(token).status == 200
    house.done(house.relay.directory.api_tokens.revoke("t"))
    client.heard = b""
    client.ask(token)
    house.reactor.wait(1)
    assert Answer(client.heard).status == 401


def test_an_expired_token_and_one_from_elsewhere_say_so_and_lock_nobody_out(house):
    short = house.token("short", expires=START + 60)
    bound = house.token("bound", networks=["198.51.100.0/24"])
    assert house.ask(short).status == house.ask(bound).status == 200
    house.reactor.wait(60)
    for _ in range(30):
        answer = house.ask(short)
        assert (answer.status, answer.error) == (401, "the token short has expired: ask for another")
        answer = house.ask(bound, host=ELSEWHERE)
        assert (answer.status, answer.error) == (403, f"the token bound may not be used from {ELSEWHERE}")
    assert house.relay.guard.failures(house.relay.now(), 9) == []


def test_use_is_noted_with_the_address(house):
    token = house.token()
    house.ask(token)
    (row,) = house.ask(token, "/v1/apitoken/list").value
    assert (row["last_used"], row["used_from"]) == (START, HERE)


# Guessers


def test_answers_to_wrong_tokens_are_held_back_longer_and_longer_and_then_not_looked_at(house):
    token = house.token()
    waits = [house.held(wrong(token))[0] for _ in range(5)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert house.held(wrong(token))[1].status == 401
    for tried in (wrong(token), token):
        refused = house.ask(tried)
        assert refused.status == 429 and 1 <= int(refused.headers["retry-after"]) <= 30
        assert "too many wrong tokens" in refused.error
    assert house.ask(token, host=ELSEWHERE).status == 200  # nobody guessed there
    house.reactor.wait(31)
    assert house.ask(token).status == 200


def test_guessing_of_any_tokens_locks_the_guessers_address_but_not_who_used_his_own_there(house):
    token, fresh = house.token(), house.token("fresh")
    assert house.ask(token).status == 200
    guesses = [wrong(house.token(f"n{number}")) for number in range(21)]
    clients = [house.call() for _ in guesses[:20]]  # at once
    for client, guess in zip(clients, guesses, strict=False):
        client.ask(guess)
    house.reactor.wait(10)
    assert {Answer(client.heard).status for client in clients} == {401}
    for client in clients:
        client.transport.loseConnection()
    house.reactor.pump()
    house.held(guesses[20])
    for tried in (UNKNOWN, fresh):
        assert house.ask(tried).status == 429
    assert house.ask(token).status == house.ask(fresh, host=ELSEWHERE).status == 200
    worst = {(row.ip, row.login) for row in house.relay.guard.failures(house.relay.now(), 99)}
    assert {(HERE, ""), (HERE, "token:n7"), ("", "token:n20")} <= worst
    assert house.relay.guard.forgive(HERE)
    assert house.ask(fresh).status == 200


def test_unknown_tokens_from_everywhere_lock_no_token_that_there_is(house):
    token = house.token()
    clients = [house.call(f"192.0.2.{n}") for n in range(101)]
    for client in clients:
        client.ask(UNKNOWN)
    house.reactor.wait(10)
    assert {Answer(client.heard).status for client in clients} == {401}
    assert house.ask(UNKNOWN, host="192.0.2.200").status == 429
    assert house.ask(token, host="192.0.2.200").status == 200


def test_a_guesser_who_hangs_up_leaves_nothing_behind(house):
    client = house.call()
    client.ask(UNKNOWN)
    client.transport.loseConnection()
    house.reactor.wait(30)
    assert client.gone and not house.gate.protocols


# Many, and slow


def test_a_token_that_asks_too_often_is_told_when_to_come_again(tmp_path):
    house = House(tmp_path, rate=parse_limits({"messages": "1/s burst 3"}))
    token, other = house.token("a"), house.token("b")
    assert [house.ask(token).status for _ in range(4)] == [200, 200, 200, 429]
    refused = house.ask(token)
    assert refused.headers["retry-after"] == "1" and "the token a asks too often" in refused.error
    assert house.ask(other).status == 200
    house.reactor.wait(1)
    assert house.ask(token).status == 200
    house.close()


def test_no_more_connections_are_taken_than_may_be(tmp_path):
    house = House(tmp_path, connections=3, connections_per_ip=2)
    token = house.token()
    first, second = house.call(), house.call()
    assert house.call() is None and house.call("::ffff:" + HERE) is None
    third = house.call(ELSEWHERE)
    assert third is not None and house.call("192.0.2.7") is None
    assert first.answer(token).status == 200
    second.transport.loseConnection()
    house.reactor.pump()
    assert house.ask(token).status == 200
    for client in (first, third):
        client.transport.loseConnection()
    house.reactor.pump()
    assert not house.gate.protocols and not house.gate._by_ip
    house.close()


def test_only_networks_that_are_named_may_connect(tmp_path):
    house = House(tmp_path, allow=("198.51.100.0/24",))
    assert house.call(ELSEWHERE) is None and house.call("2001:db8::1") is None
    assert house.call() is not None and house.call("::ffff:" + HERE) is not None
    house.close()


@pytest.mark.parametrize(
    "part",
    [b"", b"G", b"GET /v1/version HTTP/1.1\r\nX: ", b"POST /v1/account/add HTTP/1.1\r\nContent-Length: 60000\r\n\r\n"],
)
def test_a_request_that_drips_in_has_no_more_time_than_one_that_never_comes(house, part):
    client = house.call()
    client.say(part)
    for _ in range(59):
        house.reactor.wait(1)
        client.say(b"x")
    assert not client.gone
    house.reactor.wait(1)
    assert client.gone and not house.gate.protocols


def test_time_for_a_request_begins_again_with_each_answer(house):
    token = house.token()
    client = house.call()
    for _ in range(5):
        house.reactor.wait(50)
        assert client.answer(token).status == 200
    house.reactor.wait(60)
    assert client.gone


def test_a_verb_that_takes_long_is_waited_for_beyond_that_time(house):
    token, client = house.token(), house.call()
    house.relay.books = Deferred()
    client.ask(token, "/v1/audit")
    house.reactor.wait(300)
    assert not client.gone
    house.relay.books.callback({"clean": True})
    house.reactor.pump()
    assert Answer(client.heard).value == {"clean": True}


@pytest.mark.parametrize("head", ["", "Connection: close\r\n"])
def test_an_answer_that_nobody_takes_ends_the_connection(house, head):
    client = house.call()
    server = client.transport.other
    server.taking = False
    client.ask(house.token(), head=head)
    house.reactor.wait(59)
    assert not client.gone
    house.reactor.wait(20)
    assert client.gone and not house.gate.protocols


# Reload and stop


def test_a_door_that_stays_takes_over_new_limits_for_what_comes(house):
    token, client = house.token(), house.call()
    wanted = {"allow": ("203.0.113.0/24",), "idle": 5.0, "rate": parse_limits({"messages": "1/h"})}
    house.door.reconfigure(house.made(**wanted))
    assert house.call() is None
    assert client.answer(token).status == 200 and client.answer(token).status == 429
    fresh = house.call(ELSEWHERE)
    house.reactor.wait(5)
    assert fresh.gone and not client.gone


def test_a_stop_ends_idle_connections_at_once_and_others_after_their_answer(house):
    token = house.token()
    idle, busy, half = house.call(), house.call(), house.call()
    house.relay.books = Deferred()
    busy.ask(token, "/v1/audit")
    half.say(b"GET /v1/ver")
    house.door.stopService()
    house.reactor.pump()
    assert idle.gone and half.gone and not busy.gone
    house.relay.books.callback({"clean": True})
    house.reactor.pump()
    assert Answer(busy.heard).value == {"clean": True} and busy.gone
