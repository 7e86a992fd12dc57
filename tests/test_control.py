"""The control API: the table of verbs, its arguments, and what the socket answers to whom."""

import http.client
import inspect
import json
import os
import pwd
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from twisted.internet import defer, reactor, task
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from twisted.web.test.requesthelper import DummyRequest

from relayd.config import Auth
from relayd.control import api
from relayd.control.verb import DRY, ROLES, Arg, Caller, Verb, arguments, run
from relayd.control.verbs import BY_PATH, VERBS
from relayd.errors import InputError
from tests.fake_relay import NOW, FakeRelay, opened


def verb(name: str) -> Verb:
    return next(row for row in VERBS if row.name == name)


@pytest.fixture
def relay(tmp_path) -> Iterator[FakeRelay]:
    made = opened(tmp_path)
    yield made
    made.close()


def say(relay: FakeRelay, verb_name: str, /, **given: object) -> Any:
    value = run(verb(verb_name), relay, given, "anna")
    return value.result(10) if hasattr(value, "result") else value


# The table


def test_names_and_paths_are_unique_and_health_has_its_fixed_path():
    assert len(BY_PATH) == len(VERBS)
    assert BY_PATH["/v1/health"].method == "GET"
    assert verb("connection add").path == "/v1/connection/add" and verb("connection add").method == "POST"


@pytest.mark.parametrize("row", VERBS, ids=lambda row: row.name)
def test_handler_takes_exactly_the_arguments_of_its_row(row):
    who = {"who": "anna"} if row.signed else {}
    given = dict.fromkeys(arg.name for arg in row.args if not arg.noted and not (row.would and arg == DRY))
    inspect.signature(row.handler).bind(None, **given, **who)  # or TypeError
    if row.would:
        inspect.signature(row.would).bind(None, **given)


@pytest.mark.parametrize("row", [row for row in VERBS if row.effect == "change"], ids=lambda row: row.name)
def test_what_changes_something_takes_a_reason(row):
    assert [arg.name for arg in row.args].count("reason") == 1


STOPS = {
    *("account suspend", "account resume", "connection block", "connection activate", "connection remove"),
    *("source drain", "source resume", "reputation hold", "reputation block", "reputation release"),
    *("block add", "block remove", "drain on", "session drop", "config reload", "job cancel", "job undo"),
    *("shaping suspend", "shaping limit", "shaping resume", "shaping lift"),
    *("queue retry", "queue hold", "queue release", "queue move", "queue cancel"),
}


def test_what_stops_somebody_or_moves_mail_can_be_tried_without_doing_it():
    assert {row.name for row in VERBS if DRY in row.args} == STOPS


@pytest.mark.parametrize("row", VERBS, ids=lambda row: row.name)
def test_row_needs_more_than_view_exactly_if_it_changes_something(row):
    assert row.role in ROLES
    assert (row.role != "view") == (row.effect == "change")


# Arguments

SAMPLE = Verb(
    name="sample",
    help="",
    example="",
    handler=lambda relay, **given: given,
    args=(
        Arg("id", "", "id", required=True),
        Arg("limit", "", "int", default=5),
        Arg("client", "", "network", repeated=True),
        Arg("wait", "", "duration"),
        Arg("dry", "", "bool", default=False),
        Arg("mode", "", choices=("a", "b")),
        Arg("password", "", "secret"),
    ),
)


def test_arguments_come_typed_with_defaults_from_query_or_json():
    plain = {"id": 255, "limit": 5, "client": [], "wait": None, "dry": False, "mode": None, "password": None}
    assert arguments(SAMPLE, {"id": "ff"}) == plain
    given = {"id": "ff", "limit": "7", "client": "10.0.0.0/8", "wait": "5m", "dry": "true", "mode": "b"}
    typed = plain | {"limit": 7, "client": ["10.0.0.0/8"], "wait": 300.0, "dry": True, "mode": "b"}
    assert arguments(SAMPLE, given) == typed
    assert arguments(SAMPLE, given | {"limit": 7, "dry": True, "client": ["10.0.0.0/8"]}) == typed


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({}, "id", "is missing"),
        ({"id": "xyz"}, "id", "is not a message or delivery id"),
        ({"id": 255}, "id", "is not a line of text"),
        ({"id": ["f", "f"]}, "id", "more than once"),
        ({"id": "f", "limt": 1}, "limt", 'did you mean "limit"'),
        ({"id": "f", "limit": -1}, "limit", "whole number"),
        ({"id": "f", "limit": True}, "limit", "whole number"),
        ({"id": "f", "limit": "9" * 30}, "limit", "whole number"),
        ({"id": "f", "client": ["10.0.0.0/8", "x"]}, "client", "CIDR"),
        ({"id": "f", "wait": "soon"}, "wait", "duration"),
        ({"id": "f", "dry": "maybe"}, "dry", "neither true nor false"),
        ({"id": "f", "mode": "c"}, "mode", "none of a, b"),
        ({"id": "f", "mode": "a\x1b"}, "mode", "line of text"),
    ],
)
def test_faulty_argument_is_named(given, field, words):
    with pytest.raises(InputError, match=words) as raised:
        arguments(SAMPLE, given)
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("name", "given", "field"),
    [
        ("shaping suspend", {"source": "t1", "at": "", "reason": "x"}, "at"),
        ("shaping resume", {"source": "t1", "at": ""}, "at"),
        ("session drop", {"peer": "192.0.2.1", "login": "", "reason": "x"}, "login"),
        ("session drop", {"peer": "192.0.2.1", "site": "", "reason": "x"}, "site"),
        ("trace start", {"in": True, "recipient": "", "reason": "x"}, "recipient"),
    ],
)
def test_what_narrows_is_never_empty(name, given, field):
    with pytest.raises(InputError, match=f"{field}: is empty"):
        arguments(verb(name), given)


def test_refused_password_is_not_repeated():
    with pytest.raises(InputError) as raised:
        arguments(SAMPLE, {"id": "f", "password": "hunter2"})
    assert raised.value.field == "password" and "hunter2" not in str(raised.value)


# Verbs


def test_account_is_added_with_domain_check_required_unless_said_otherwise(relay):
    assert say(relay, "account add", name="crm")["domain_check"] == "require"
    assert say(relay, "account add", name="lax", domain_check="off")["domain_check"] == "off"
    assert [account["created"] for account in say(relay, "account list")] == [NOW, NOW]


def test_password_is_shown_when_made_and_no_hash_ever(relay):
    say(relay, "account add", name="crm")
    made = say(relay, "connection add", login="login1", account="crm", sender=["a@b.example"], stream="transactional")
    assert len(made["password"]) >= 20
    stored = relay.directory.connection("login1").password
    shown = [
        say(relay, "connection list"),
        say(relay, "connection show", login="login1"),
        say(relay, "account show", name="crm"),
    ]
    shown += [
        say(relay, "connection block", login="login1", reason="x"),
        say(relay, "connection activate", login="login1"),
    ]
    assert "password" not in repr(shown) and stored not in repr([made, shown])
    again = say(relay, "connection password", login="login1", password="correct horse")
    assert again["password"] == "correct horse" != made["password"]
    assert say(relay, "connection remove", login="login1")["login"] == "login1"
    assert say(relay, "connection list") == []


SSHA = "{SSHA}PTggDCOUPEVj5h7bZjhxfKWQBpey47nF"


def test_imported_hash_is_taken_and_how_a_password_is_kept_is_told(relay):
    say(relay, "account add", name="crm")
    made = say(relay, "connection add", login="login1", account="crm", hash=SSHA)
    assert "password" not in made and made["credential"] == "SSHA" and SSHA not in repr(made)
    changed = say(relay, "connection password", login="login1")
    assert len(changed["password"]) >= 20 and changed["credential"] == "scrypt"
    again = say(relay, "connection password", login="login1", hash=SSHA)
    assert "password" not in again and again["credential"] == "SSHA"
    with pytest.raises(InputError, match=r"hash: is of no format.*bcrypt") as raised:
        say(relay, "connection password", login="login1", hash="top-secret-hash")
    assert "top-secret" not in str(raised.value)


def test_connection_is_external_only_where_there_is_another_system_to_ask(relay):
    say(relay, "account add", name="crm")
    say(relay, "connection add", login="login1", account="crm")
    for verb_name, more in [("connection add", {"account": "crm"}), ("connection password", {})]:
        with pytest.raises(InputError, match=r"external: there is no other system to ask.*\[auth\]"):
            say(relay, verb_name, login="login1", external=True, **more)
    relay.config = msgspec.structs.replace(relay.config, auth=Auth(url="https://crm.example/login"))
    assert say(relay, "connection password", login="login1", external=True)["credential"] == "external"
    made = say(relay, "connection add", login="login2", account="crm", external=True)
    assert made["credential"] == "external" and "password" not in made
    assert [row["credential"] for row in say(relay, "connection list")] == ["external", "external"]


def test_connection_list_can_be_an_accounts_only(relay):
    for name in ("a", "b"):
        say(relay, "account add", name=name)
        say(relay, "connection add", login=f"login-{name}", account=name)
    assert [row["login"] for row in say(relay, "connection list", account="a")] == ["login-a"]
    assert [row["login"] for row in say(relay, "connection list")] == ["login-a", "login-b"]


@pytest.mark.parametrize(
    ("name", "given", "field", "words"),
    [
        ("connection add", {"login": "x", "account": "crn"}, "account", 'did you mean "crm"'),
        (
            "connection add",
            {"login": "x", "account": "crm", "stream": "transactionl"},
            "stream",
            'did you mean "transactional"',
        ),
        ("connection add", {"login": "x", "account": "crm", "sender": ["nobody"]}, "sender", "omain"),
        ("connection show", {"login": "x"}, "login", "there is no connection 'x'"),
        ("connection block", {"login": "x", "reason": "r"}, "login", "there is no connection 'x'"),
        ("account show", {"name": "cmr"}, "name", 'did you mean "crm"'),
        ("account suspend", {"name": "x", "reason": "unpaid"}, "name", "there is no account 'x'"),
        ("account add", {"name": "crm"}, "name", "already"),
    ],
)
def test_what_the_directory_refuses_names_the_argument(relay, name, given, field, words):
    say(relay, "account add", name="crm")
    with pytest.raises(InputError, match=words) as raised:
        say(relay, name, **given)
    assert raised.value.field == field


def test_status_tells_the_node_its_uptime_and_its_health(relay):
    told = say(relay, "status")
    assert (told["node"], told["uptime"], told["accounts"], told["ok"]) == ("mx1.relay.example", 3700, 0, True)


def test_verbs_tells_the_table(relay):
    told = {row["name"]: row for row in say(relay, "verbs")}
    assert set(told) == {row.name for row in VERBS}
    assert [arg["name"] for arg in told["queue list"]["args"]] == ["limit", "account"]
    assert told["queue list"]["customers"] and not told["status"]["customers"]


def test_inspect_reads_the_id(relay):
    with pytest.raises(InputError, match="no such message"):
        say(relay, "inspect", id="00FF")
    assert relay.inspected == [255]


# The socket


class SocketTests(TestCase):
    """A real socket and a real client, in a thread."""

    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = os.path.join(self.directory, "control.sock")
        self.relay = opened(self.directory, reactor.callFromThread)
        self.addCleanup(self.relay.close)
        self.service = api.ControlService(reactor, self.path, self.relay)
        self.service.startService()
        self.addCleanup(self.service.stopService)

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
        return deferToThread(self._ask, method, path, body, headers or {})

    def _ask(self, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection("relayd", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        connection.sock.connect(self.path)
        try:
            connection.request(method, path, body, headers, encode_chunked="Transfer-Encoding" in headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null"), dict(answer.getheaders())
        finally:
            connection.close()

    async def test_change_is_posted_and_seen_by_the_next_read(self) -> None:
        status, made, headers = await self.ask("POST", "/v1/account/add", b'{"name": "crm"}')
        assert (status, made["name"], made["created"]) == (200, "crm", NOW)
        assert headers["Content-Type"] == "application/json" and headers["Cache-Control"] == "no-store"
        status, listed, _ = await self.ask("GET", "/v1/account/list")
        assert (status, listed) == (200, [made])

    async def test_query_gives_the_arguments_of_a_read(self) -> None:
        status, rows, _ = await self.ask("GET", "/v1/queue/list?limit=1")
        assert (status, len(rows)) == (200, 1)

    async def test_refusal_is_400_and_names_the_field(self) -> None:
        for body, field in [
            (b'{"name": "a b"}', "name"),
            (b"{}", "name"),
            (b'{"nam": "x"}', "nam"),
            (b"[]", ""),
            (b"\xff", ""),
        ]:
            status, told, _ = await self.ask("POST", "/v1/account/add", body)
            assert (status, told["field"], bool(told["error"])) == (400, field, True)

    async def test_unknown_path_is_404_with_the_nearest(self) -> None:
        status, told, _ = await self.ask("GET", "/v1/accont/list")
        assert status == 404 and 'did you mean "/v1/account/list"' in told["error"]

    async def test_wrong_method_is_405_with_the_right_one(self) -> None:
        status, _, headers = await self.ask("GET", "/v1/account/add")
        assert (status, headers["Allow"]) == (405, "POST")
        status, _, headers = await self.ask("POST", "/v1/account/list", b"{}")
        assert (status, headers["Allow"]) == (405, "GET")

    async def test_ill_health_is_503(self) -> None:
        assert (await self.ask("GET", "/v1/health"))[0] == 200
        self.relay.well = {"ok": False, "faults": ["spool: disk full"]}
        status, told, _ = await self.ask("GET", "/v1/health")
        assert (status, told) == (503, self.relay.well)

    async def test_unclean_audit_is_an_answer_not_an_error(self) -> None:
        self.relay.books = {"clean": False, "odd": ["00ff"]}
        assert (await self.ask("GET", "/v1/audit"))[:2] == (200, self.relay.books)

    async def test_config_is_shown_whole(self) -> None:
        status, told, _ = await self.ask("GET", "/v1/config/show")
        assert status == 200 and told["source"]["t1"]["address"] == ["192.0.2.10"]

    async def test_handler_that_breaks_is_500_without_its_inner_words(self) -> None:
        self.relay.reloaded = RuntimeError("inner words")
        status, told, _ = await self.ask("POST", "/v1/config/reload")
        assert status == 500 and "inner words" not in told["error"]
        assert len(self.flushLoggedErrors(RuntimeError)) == 1

    async def test_coroutines_and_deferreds_are_awaited(self) -> None:
        async def slow() -> dict[str, bool]:
            await task.deferLater(reactor, 0)
            return {"clean": True}

        for answer in (slow(), defer.succeed({"clean": True})):
            self.relay.books = answer
            assert (await self.ask("GET", "/v1/audit"))[:2] == (200, {"clean": True})

    async def test_body_beyond_the_bound_is_413_announced_or_chunked(self) -> None:
        large = b"x" * (api.MAX_BODY + 1)
        assert (await self.ask("POST", "/v1/account/add", large))[0] == 413
        chunks: Any = iter([large[:40000], large[40000:]])
        assert (await self.ask("POST", "/v1/account/add", chunks, {"Transfer-Encoding": "chunked"}))[0] == 413
        assert (await self.ask("POST", "/v1/account/add", b'{"name": "crm"}'))[0] == 200

    async def test_socket_is_for_owner_and_group_and_gone_after_the_stop(self) -> None:
        assert stat.S_IMODE(os.stat(self.path).st_mode) == 0o660
        await self.service.stopService()
        assert not os.path.exists(self.path)

    async def trail(self, count: int, about: str = "") -> list[dict[str, Any]]:
        """The changes that were noted, as soon as there are so many; the latest first."""
        while True:
            status, rows, _ = await self.ask("GET", f"/v1/change/list?about={about}")
            assert status == 200
            if len(rows) >= count:
                return rows

    async def change(self, path: str, **given: object) -> int:
        return (await self.ask("POST", f"/v1/{path}", json.dumps(given).encode()))[0]

    async def test_who_changed_what_is_kept_and_found(self) -> None:
        user = pwd.getpwuid(os.getuid()).pw_name
        await self.change("account/add", name="crm")
        await self.change("account/set", name="crm", recipients=["1000/h"])
        await self.change("account/add", name="other")
        latest, middle, first = await self.trail(3)
        assert [row["verb"] for row in (first, middle, latest)] == ["account add", "account set", "account add"]
        assert {(row["who"], row["result"], row["time"]) for row in (first, middle, latest)} == {(user, "done", NOW)}
        assert middle["arguments"] == {"name": "crm", "recipients": ["1000/h"]}
        assert [row["verb"] for row in await self.trail(2, "crm")] == ["account set", "account add"]
        assert len(await self.trail(3)) == 3  # reading is no change

    async def test_a_change_that_failed_is_noted_with_the_reason_and_one_that_was_not_allowed_is_not(self) -> None:
        assert await self.change("account/suspend", name="nobody", reason="unpaid") == 400
        assert await self.change("account/add", name="a b") == 400
        self.relay.reloaded = RuntimeError("the disk is gone")
        assert await self.change("config/reload") == 500
        self.flushLoggedErrors(RuntimeError)
        found = [row["result"] for row in await self.trail(3)]
        assert found[0] == "the disk is gone" and "'a b' is not a name" in found[1]
        assert found[2] == "name: there is no account 'nobody'"
        self.patch(api, "peer_user", lambda request: os.getuid() + 1)
        assert await self.change("account/add", name="x") == 403
        assert len(await self.trail(3)) == 3

    async def test_no_secret_ever_reaches_the_trail(self) -> None:
        await self.change("account/add", name="crm")
        secrets = "hunter2hunter2", "hunter3hunter3"
        for name in ("password", "hash", "pasword", "passwords"):
            await self.change("connection/add", login="a", account="crm", **{name: secrets[0]})
        await self.change("connection/add", login="a", account="crm", password=secrets)
        await self.change("connection/password", login="a", password=secrets[1])
        await self.change("connection/password", login="a", hash=SSHA)
        await self.change("domain/add", name="crm.example", account="crm", key="-----BEGIN" + secrets[0] * 9)
        rows = await self.trail(9)
        assert not [word for word in (*secrets, SSHA[6:], "BEGIN") if word in repr(rows)]
        assert rows[-2]["arguments"] == {"login": "a", "account": "crm", "password": "(secret)"}
        with open(os.path.join(self.directory, "directory.sqlite-wal"), "rb") as file:
            assert secrets[0].encode() not in file.read()

    async def test_what_is_long_is_only_summed_up_in_the_trail(self) -> None:
        await self.change("list/add", list="all")
        many = [f"r{n}@x.example" for n in range(100)]
        assert await self.change("suppression/add", list="all", value=many) == 200
        assert await self.change("suppression/add", list="all", value="x@x.example", evidence="e" * 60000) == 200
        assert await self.change("suppression/import", list="all", rows=[{"value": one} for one in many]) == 200
        rows, long, few, _ = [row["arguments"] for row in await self.trail(4)]
        assert few["value"] == rows["rows"] == "(100 of them)" and len(long["evidence"]) <= 510

    async def test_live_socket_is_never_replaced(self) -> None:
        second = api.ControlService(reactor, self.path, self.relay)
        with pytest.raises(RuntimeError, match="another process answers"):
            second.startService()
        assert (await self.ask("GET", "/v1/version"))[0] == 200

    async def test_own_user_is_admin_and_another_user_may_not_administer(self) -> None:
        assert (await self.ask("POST", "/v1/account/add", b'{"name": "crm"}'))[0] == 200
        self.patch(api, "peer_user", lambda request: os.getuid() + 1)
        assert (await self.ask("POST", "/v1/account/suspend", b'{"name": "crm", "reason": "unpaid"}'))[0] == 200
        status, told, _ = await self.ask("POST", "/v1/account/add", b'{"name": "other"}')
        assert status == 403 and "needs the role admin; yours is operate" in told["error"]
        assert self.relay.directory.account("other") is None


def test_socket_of_a_dead_process_is_removed(tmp_path):
    path = str(tmp_path / "s")
    left = socket.socket(socket.AF_UNIX)
    left.bind(path)
    left.close()
    api.remove_stale(path)
    assert not os.path.exists(path)
    api.remove_stale(path)


def test_file_that_is_no_socket_is_left_alone(tmp_path):
    (tmp_path / "s").write_text("precious")
    with pytest.raises(RuntimeError, match="no socket"):
        api.remove_stale(str(tmp_path / "s"))
    assert (tmp_path / "s").read_text() == "precious"


def test_socket_path_of_108_bytes_is_refused(relay):
    with pytest.raises(ValueError, match="ends at 107"):
        api.ControlService(task.Clock(), "/" + "x" * 107, relay)


# Waiting, on a clock of our own


class Asked(DummyRequest):
    def __init__(self, path: str) -> None:
        super().__init__([])
        self.path, self.method, self.args = path.encode(), b"GET", {}


def test_wait_ends_with_504_after_the_verbs_time(relay):
    clock = task.Clock()
    relay.books = defer.Deferred()
    request = Asked("/v1/audit")
    api.VerbResource(clock, relay, lambda _: Caller("anna", "admin")).render(request)
    clock.advance(599)
    assert request.responseCode is None
    clock.advance(1)
    assert request.responseCode == 504 and b"too long" in b"".join(request.written)


def test_caller_that_hung_up_is_not_written_to(relay):
    relay.books = defer.Deferred()
    request = Asked("/v1/audit")
    api.VerbResource(task.Clock(), relay, lambda _: Caller("anna", "admin")).render(request)
    request.processingFailed(ConnectionError())
    relay.books.callback({"clean": True})
    assert request.written == []


def test_peer_without_a_role_is_refused(relay):
    request = Asked("/v1/health")
    body = api.VerbResource(task.Clock(), relay, lambda _: Caller("anna", None)).render(request)
    assert request.responseCode == 403 and b"yours is none" in body
