"""The directory: what is written is read after its future, survives a restart, and refuses what makes no sense."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relayd.directory import EXTERNAL, Account, Change, Directory, SubmissionConnection, verify_password
from relayd.directory.balances import Want
from relayd.directory.plans import Plan
from relayd.directory.store import UPGRADES
from relayd.errors import InputError
from relayd.lease import Lease
from relayd.message.dkim import to_pem
from relayd.quotas import parse_limits
from tests.dkim_kit import ed25519

NOW = 1_700_000_000.5
SSHA = "{SSHA}PTggDCOUPEVj5h7bZjhxfKWQBpey47nF"  # of "abcdef"


class Main:
    """The main thread: what is posted to it runs when the test says so."""

    def __init__(self) -> None:
        self.held: list[Callable[[], None]] | None = None

    def post(self, call: Callable[[], None]) -> None:
        if self.held is None:
            call()
        else:
            self.held.append(call)


@pytest.fixture
def main() -> Main:
    return Main()


@pytest.fixture
def directory(tmp_path: Path, main: Main) -> Iterator[Directory]:
    opened = Directory(tmp_path / "directory.sqlite", main.post)
    yield opened
    opened.close()


@pytest.fixture
def crm(directory: Directory) -> Directory:
    directory.add_account("crm", now=NOW).result(10)
    return directory


def connection(**more: object) -> SubmissionConnection:
    return SubmissionConnection("login1", "crm", "hash", **more)


def test_account_is_there_after_its_future(directory):
    assert directory.account("crm") is None
    made = directory.add_account("crm", now=NOW).result(10)
    assert made == Account("crm", "active", "require", NOW) == directory.account("crm")
    assert directory.accounts() == [made]


def test_reader_sees_nothing_until_the_change_comes_to_the_main_thread(directory, main, tmp_path):
    main.held = []
    future = directory.add_account("crm", now=NOW)
    directory.close()
    assert not future.done() and directory.account("crm") is None
    assert sqlite3.connect(tmp_path / "directory.sqlite").execute("SELECT name FROM accounts").fetchall() == [("crm",)]
    for call in main.held:
        call()
    assert future.done() and directory.account("crm") is not None


def test_account_of_the_same_name_is_refused(crm):
    with pytest.raises(InputError, match="name: there is already an account 'crm'"):
        crm.add_account("crm", now=NOW).result(10)


def test_malformed_names_are_refused_at_once(crm):
    with pytest.raises(InputError, match="name: 'c r m' is not a name"):
        crm.add_account("c r m", now=NOW)
    with pytest.raises(InputError, match="login: '' is not a name"):
        crm.add_connection("", account="crm", now=NOW)


def test_account_is_suspended_and_resumed(crm):
    assert crm.change_account("crm", state="suspended").result(10).state == "suspended" == crm.account("crm").state
    assert crm.change_account("crm", state="active").result(10).state == "active" == crm.account("crm").state
    with pytest.raises(InputError, match=r"name: there is no account 'cmr' .did you mean .crm"):
        crm.change_account("cmr", state="active")


def test_ensured_account_is_made_without_domain_check_or_left_as_it_is(crm):
    assert crm.ensure_account("new", now=NOW).result(10) == Account("new", "active", "off", NOW)
    assert crm.ensure_account("crm", now=NOW + 1).result(10) == Account("crm", "active", "require", NOW)


def test_account_ensured_twice_before_either_is_done_is_made_once(directory):
    futures = [directory.ensure_account("new", now=NOW + n) for n in range(2)]
    assert [future.result(10).created for future in futures] == [NOW, NOW]


def test_connection_without_password_gets_one_that_is_shown_once(crm, tmp_path):
    made = crm.add_connection("login1", account="crm", now=NOW, senders=["sales@crm.example"]).result(10)
    assert len(made.password) >= 20
    assert verify_password(made.password, made.connection.password)
    assert crm.connection("login1") == made.connection
    assert made.password.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_connection_takes_a_given_password(crm):
    made = crm.add_connection("login1", account="crm", now=NOW, password="open-sesame").result(10)
    assert made.password == "open-sesame" and verify_password("open-sesame", made.connection.password)


def test_imported_hash_is_kept_as_it_is_and_there_is_no_password_to_show(crm):
    made = crm.add_connection("login1", account="crm", now=NOW, hash="{ssha}" + SSHA[6:]).result(10)
    assert (made.password, made.connection.password) == ("", SSHA)
    assert verify_password("abcdef", crm.connection("login1").password)
    changed = crm.set_password("login1", hash=SSHA).result(10)
    assert (changed.password, changed.connection.password, changed.connection.version) == ("", SSHA, 2)


def test_external_connection_keeps_no_password(crm):
    made = crm.add_connection("login1", account="crm", now=NOW, external=True).result(10)
    assert (made.password, made.connection.password) == ("", EXTERNAL)
    assert crm.set_password("login1", "open-sesame").result(10).connection.password.startswith("scrypt$")
    assert crm.set_password("login1", external=True).result(10).connection.password == EXTERNAL


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"hash": "hunter2hunter2"}, "hash", "is of no format that works here"),
        ({"hash": EXTERNAL}, "hash", "is of no format that works here"),
        ({"password": "open-sesame", "hash": SSHA}, "hash", "cannot be given together with password"),
        ({"hash": SSHA, "external": True}, "external", "cannot be given together with hash"),
    ],
)
def test_password_is_given_in_one_way_that_works(crm, given, field, words):
    for change in (
        lambda: crm.add_connection("login1", account="crm", now=NOW, **given),
        lambda: crm.set_password("login1", **given),
    ):
        with pytest.raises(InputError, match=words) as raised:
            change()
        assert raised.value.field == field and "hunter2" not in str(raised.value)


def test_hash_is_renewed_unless_the_password_was_changed_meanwhile(crm):
    crm.add_connection("login1", account="crm", now=NOW, hash=SSHA).result(10)
    renewed = crm.renew_hash("login1", SSHA, "scrypt$one").result(10)
    assert (renewed.password, renewed.version) == ("scrypt$one", 2) and crm.connection("login1") == renewed
    assert crm.renew_hash("login1", SSHA, "scrypt$two").result(10) == renewed == crm.connection("login1")
    with pytest.raises(InputError, match="there is no connection 'none'"):
        crm.renew_hash("none", SSHA, "scrypt$two").result(10)


def test_connection_needs_a_known_account_and_a_free_login(crm):
    with pytest.raises(InputError, match="account: there is no account 'none'"):
        crm.add_connection("login1", account="none", now=NOW).result(10)
    crm.add_connection("login1", account="crm", now=NOW).result(10)
    with pytest.raises(InputError, match="login: there is already a connection 'login1'"):
        crm.add_connection("login1", account="crm", now=NOW).result(10)


@pytest.mark.parametrize(
    ("field", "more"),
    [
        ("sender", {"senders": ["sales"]}),
        ("sender", {"senders": ["@"]}),
        ("sender", {"senders": ["@a b"]}),
        ("sender", {"senders": ["a@b\r\nc"]}),
        ("client", {"clients": ["10.0.0.1/8"]}),
        ("client", {"clients": ["crm.example"]}),
        ("stream", {"streams": ["a b"]}),
        ("list", {"lists": ["account:crm/own"]}),
        ("limits", {"limits": {"messages": "many"}}),
    ],
)
def test_malformed_fields_are_refused_by_name(crm, field, more):
    with pytest.raises(InputError) as raised:
        crm.add_connection("login1", account="crm", now=NOW, **more)
    assert raised.value.field == field


def test_everything_is_there_after_a_restart(crm, main, tmp_path):
    made = crm.add_connection(
        "login1",
        account="crm",
        now=NOW,
        senders=["Sales@CRM.example", "@пример.example", "sales@crm.example"],
        clients=["192.0.2.1", "10.0.0.0/8"],
        streams=["marketing", "transactional", "marketing"],
        lists=["own"],
        limits={"messages": ["10/s", "100/h"]},
        sessions=3,
    ).result(10)
    crm.change_connection("login1", state="blocked", reason="too much", by="anna").result(10)
    crm.close()
    again = Directory(tmp_path / "directory.sqlite", main.post)
    assert again.accounts() == [Account("crm", "active", "require", NOW)]
    assert again.connections() == [
        SubmissionConnection(
            login="login1",
            account="crm",
            password=made.connection.password,
            senders=("sales@crm.example", "@xn--e1afmkfd.example"),
            clients=("192.0.2.1/32", "10.0.0.0/8"),
            streams=("marketing", "transactional"),
            state="blocked",
            reason="too much",
            created=NOW,
            version=2,
            by="anna",
            lists=("own",),
            limits=parse_limits({"messages": ["10/s", "100/h"]}),
            sessions=3,
        )
    ]
    again.close()


def test_block_keeps_its_reason_and_every_change_raises_the_version(crm):
    crm.add_connection("login1", account="crm", now=NOW).result(10)
    blocked = crm.change_connection("login1", state="blocked", reason="leaked").result(10)
    assert (blocked.state, blocked.reason, blocked.version) == ("blocked", "leaked", 2)
    active = crm.change_connection("login1", state="active", reason="").result(10)
    assert (active.state, active.reason, active.version) == ("active", "", 3)
    assert crm.connection("login1") == active


def test_new_password_replaces_the_old(crm):
    old = crm.add_connection("login1", account="crm", now=NOW).result(10)
    new = crm.set_password("login1").result(10)
    assert new.password != old.password and new.connection.version == 2
    stored = crm.connection("login1").password
    assert verify_password(new.password, stored) and not verify_password(old.password, stored)


def test_removed_connection_is_gone_and_its_login_free(crm):
    crm.add_connection("login1", account="crm", now=NOW).result(10)
    assert crm.remove_connection("login1").result(10).login == "login1"
    assert crm.connection("login1") is None and crm.connections() == []
    assert crm.add_connection("login1", account="crm", now=NOW).result(10).connection.version == 1


@pytest.mark.parametrize("change", ["set_password", "remove_connection"])
def test_change_of_an_unknown_connection_is_refused(crm, change):
    with pytest.raises(InputError, match="there is no connection 'none'"):
        getattr(crm, change)("none").result(10)


@pytest.mark.parametrize(
    ("senders", "address", "may"),
    [
        (("sales@crm.example",), "sales@crm.example", True),
        (("sales@crm.example",), "Sales@CRM.Example", True),
        (("sales@crm.example",), "other@crm.example", False),
        (("@crm.example",), "anyone@CRM.example", True),
        (("@crm.example",), "anyone@sub.crm.example", False),
        (("@crm.example",), "x@evil.example@crm.example", True),
        (("@xn--e1afmkfd.example",), "кто@пример.example", True),
        (("*",), "anyone@anywhere.example", True),
        ((), "sales@crm.example", False),
        (("@crm.example",), "", False),
        (("@crm.example",), "postmaster", False),
    ],
)
def test_connection_may_send_as_its_addresses_and_domains(senders, address, may):
    assert connection(senders=senders).may_send_as(address) is may


def test_connection_without_client_list_may_come_from_anywhere():
    assert connection().may_connect_from("203.0.113.9")


def test_connection_with_client_list_may_come_from_there_only():
    listed = connection(clients=("192.0.2.0/24", "2001:db8::1/128"))
    seen = {
        client: listed.may_connect_from(client) for client in ("192.0.2.7", "::ffff:192.0.2.7", "2001:db8::1", "::1")
    }
    assert seen == {"192.0.2.7": True, "::ffff:192.0.2.7": True, "2001:db8::1": True, "::1": False}


def test_file_is_for_its_owner_only(crm, tmp_path):
    assert {oct(os.stat(file).st_mode & 0o777) for file in tmp_path.iterdir()} == {"0o600"}


def test_file_of_a_newer_relayd_is_refused_and_left_alone(tmp_path, main):
    db = sqlite3.connect(tmp_path / "directory.sqlite")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(RuntimeError, match="is of version 99"):
        Directory(tmp_path / "directory.sqlite", main.post)


def test_failed_write_leaves_memory_and_file_as_they_were(crm, tmp_path):
    other = sqlite3.connect(tmp_path / "directory.sqlite")
    other.execute("CREATE TRIGGER full BEFORE INSERT ON connections BEGIN SELECT RAISE(FAIL, 'disk full'); END")
    other.commit()
    other.close()
    with pytest.raises(sqlite3.Error, match="disk full"):
        crm.add_connection("login1", account="crm", now=NOW).result(10)
    assert crm.connection("login1") is None


def test_accounts_that_listeners_name_are_there_when_the_directory_opens(tmp_path):
    for _ in range(2):  # the second time they are known already
        directory = Directory(tmp_path / "d.sqlite", lambda call: call(), ["crm", "crm2"], 1000.0)
        assert [(a.name, a.state, a.domain_check) for a in directory.accounts()] == [
            ("crm", "active", "off"),
            ("crm2", "active", "off"),
        ]
        directory.close()


# Accounts below accounts.


def family(directory: Directory, *names: str) -> None:
    """Each below the one before it."""
    for parent, name in zip(("", *names), names, strict=False):
        directory.add_account(name, now=NOW, parent=parent).result(10)


def test_a_sub_account_has_those_above_it_in_its_lineage_the_nearest_first(directory):
    family(directory, "agency", "crm", "shop")
    assert directory.lineage("shop") == ("shop", "crm", "agency")
    assert directory.lineage("agency") == ("agency",) and directory.lineage("unknown") == ("unknown",)
    directory.change_account("crm", parent="").result(10)
    assert directory.lineage("shop") == ("shop", "crm") and directory.account("crm").parent == ""


@pytest.mark.parametrize(
    ("name", "parent", "words"),
    [
        ("agency", "agency", "agency is agency itself or below it"),
        ("agency", "shop", "shop is agency itself or below it"),
        ("crm", "shop", "shop is crm itself or below it"),
        ("shop", "agenci", "there is no account 'agenci' .did you mean \"agency\""),
        ("shop", "a b", "is not a name"),
    ],
)
def test_no_account_is_above_itself_and_a_parent_exists(directory, name, parent, words):
    family(directory, "agency", "crm", "shop")
    with pytest.raises(InputError, match=words) as raised:
        directory.change_account(name, parent=parent)
    assert raised.value.field == "parent" and directory.lineage("shop") == ("shop", "crm", "agency")


def test_an_account_is_there_after_a_restart_with_all_its_settings(directory, main, tmp_path):
    family(directory, "agency")
    fields = {
        "parent": "agency",
        "risk": "high",
        "zone": "Mail.Shop.Example.",
        "sessions": 5,
        "limits": {"recipients": "1000/h"},
        "client_limits": {"messages": ["1/s", "100/d"]},
    }
    made = directory.add_account("shop", now=NOW, domain_check="warn", **fields).result(10)
    assert (made.zone, made.limits, made.client_limits) == (
        "mail.shop.example",
        parse_limits({"recipients": "1000/h"}),
        parse_limits({"messages": ["1/s", "100/d"]}),
    )
    directory.close()
    again = Directory(tmp_path / "directory.sqlite", main.post)
    assert again.account("shop") == made and again.lineage("shop") == ("shop", "agency")
    again.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [("zone", "no zone"), ("limits", {"mails": "1/s"}), ("limits", {"messages": "1"}), ("client_limits", "1/s")],
)
def test_malformed_settings_of_accounts_are_refused_by_name(crm, field, value):
    for change in (
        lambda: crm.change_account("crm", **{field: value}),
        lambda: crm.add_account("x", now=NOW, **{field: value}),
    ):
        with pytest.raises(InputError) as raised:
            change()
        assert raised.value.field == field


# Streams of accounts.


def test_a_stream_is_the_accounts_own_or_the_nearest_ones_above_it(directory):
    family(directory, "agency", "crm", "shop")
    news = directory.set_stream("agency", "news", "marketing", {"priority": 10}).result(10)
    assert directory.stream("shop", "news") == news == directory.stream("agency", "news")
    own = directory.set_stream("crm", "news", "bulk", {}).result(10)
    assert directory.stream("shop", "news") == own and directory.stream("agency", "news") == news
    assert directory.streams("crm") == [own] and directory.streams() == [news, own]
    assert directory.remove_stream("crm", "news").result(10) == own
    assert directory.stream("shop", "news") == news and directory.stream("shop", "olds") is None


def test_streams_are_there_after_a_restart(crm, main, tmp_path):
    made = crm.set_stream("crm", "news", "marketing", {"priority": 10, "lists": ["a"], "limits": {"messages": "1/s"}})
    made = made.result(10)
    crm.close()
    again = Directory(tmp_path / "directory.sqlite", main.post)
    assert again.streams() == [made] and made.overrides["limits"] == {"messages": "1/s"}
    again.close()


def test_a_stream_of_nobody_and_one_that_is_not_there_are_refused(crm):
    with pytest.raises(InputError, match="account: there is no account 'none'"):
        crm.set_stream("none", "news", "marketing", {}).result(10)
    with pytest.raises(InputError, match="name: 'a b' is not a name"):
        crm.set_stream("crm", "a b", "marketing", {})
    with pytest.raises(InputError, match="name: account crm has no stream 'news' of its own"):
        crm.remove_stream("crm", "news").result(10)


def test_every_change_is_seen_by_who_keeps_what_follows_from_rows(crm):
    seen = [crm.version]
    for change in (
        lambda: crm.change_account("crm", risk="high"),
        lambda: crm.set_stream("crm", "news", "marketing", {}),
        lambda: crm.remove_stream("crm", "news"),
        lambda: crm.add_connection("login1", account="crm", now=NOW, hash=SSHA),
        lambda: crm.change_connection("login1", sessions=1),
        lambda: crm.register_domain("crm.example", account="crm", now=NOW),
    ):
        change().result(10)
        seen.append(crm.version)
    assert seen == sorted(set(seen))


def test_units_that_are_booked_and_ledgers_that_are_read_change_nothing_of_that(crm):
    crm.balances.add_plan(Plan("p")).result(10)
    crm.balances.set_plan("crm", "p", now=NOW, by="test").result(10)
    before = crm.version
    assert crm.balances.settle([Want("crm", Lease(), 1, 1)], NOW).result(10)[0].granted == 0
    assert crm.balances.audit().result(10) == [] and len(crm.balances.movements("crm", 9).result(10)) == 1
    assert crm.version == before


# Who changed what.


def change(n: int, **arguments: object) -> Change:
    return Change(NOW + n, "anna", "account set", arguments, "done")


def test_changes_are_told_the_latest_first_and_those_about_somebody(crm):
    made = [
        change(1, name="crm"),
        change(2, name="other"),
        change(3, login="x", sender=["a", "crm"]),
        change(4, limit=7),
    ]
    for one in made:
        crm.note(one).result(10)
    assert crm.changes(10).result(10) == made[::-1] and crm.changes(2).result(10) == [made[3], made[2]]
    assert crm.changes(10, "crm").result(10) == [made[2], made[0]]
    assert crm.changes(10, "rm").result(10) == [] == crm.changes(10, "name").result(10)


def test_only_the_last_changes_are_kept(crm, monkeypatch):
    monkeypatch.setattr("relayd.directory.store.CHANGES", 3)
    for n in range(5):
        crm.note(change(n)).result(10)
    assert [one.time for one in crm.changes(10).result(10)] == [NOW + 4, NOW + 3, NOW + 2]


def test_what_customers_change_is_in_the_trail_and_pushes_out_only_their_own(crm, monkeypatch):
    monkeypatch.setattr("relayd.directory.store.CHANGES", 3)
    crm.note(change(0)).result(10)
    for n in range(1, 9):
        crm.note(change(n), customer=True).result(10)
    assert [one.time - NOW for one in crm.changes(10).result(10)] == [8, 7, 6, 0]
    crm.note(change(9)).result(10)
    assert [one.time - NOW for one in crm.changes(2).result(10)] == [9, 8]


# Older files.


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_file_of_an_older_version_keeps_everything(tmp_path, main, version):
    pem = to_pem(ed25519().private)
    db = sqlite3.connect(tmp_path / "directory.sqlite")
    db.executescript(";".join(UPGRADES[n] for n in range(version)) + f"; PRAGMA user_version = {version}")
    with db:
        db.execute("INSERT INTO accounts VALUES ('crm', 'suspended', 'warn', 5)")
        row = ("crm", SSHA, '["@crm.example"]', '["192.0.2.0/24"]')
        db.execute("INSERT INTO connections VALUES ('a', ?, ?, ?, ?, 'marketing', 'blocked', 'spam', 6, 7)", row)
        db.execute("INSERT INTO connections VALUES ('b', ?, ?, ?, ?, '', 'active', '', 6, 1)", row)
        if version >= 2:
            db.execute("INSERT INTO domains VALUES ('crm.example', 'crm', 's1', ?, 'ed25519', 256, 8)", (pem,))
        if version >= 3:
            db.execute("INSERT INTO senders VALUES ('crm.example', 'crm', 'verified', 1, 2, 3, 0, '[]', 4)")
    db.close()
    for _ in range(2):  # and once more, now that it is of the last version
        directory = Directory(tmp_path / "directory.sqlite", main.post)
        assert directory.accounts() == [Account("crm", "suspended", "warn", 5.0)]
        may = {"senders": ("@crm.example",), "clients": ("192.0.2.0/24",), "created": 6.0}
        assert directory.connections() == [
            SubmissionConnection(
                "a", "crm", SSHA, streams=("marketing",), state="blocked", reason="spam", version=7, **may
            ),
            SubmissionConnection("b", "crm", SSHA, streams=(), state="active", version=1, **may),
        ]
        assert [key.selector for key in directory.domain_keys("crm.example")] == (["s1"] if version >= 2 else [])
        states = {2: "unverified", 3: "verified"}
        assert directory.senders.state("crm", "crm.example") == states.get(version)
        assert directory.changes(9).result(10) == [] and directory.balances.balances() == []
        directory.close()
