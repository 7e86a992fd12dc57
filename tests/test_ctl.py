"""relayctl: every verb can be typed, what relayd says is readable and harmless, exit codes tell what happened."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from relayd import ctl
from relayd.control.api import ControlService
from relayd.control.verbs import VERBS
from relayd.message.dkim import dns_record, to_pem
from relayd.verification import Publish
from tests.dkim_kit import rsa
from tests.fake_relay import opened


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_example_of_each_verb_parses_as_that_verb(verb):
    assert ctl.parser().parse_args(shlex.split(verb.example)).verb is verb


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_help_of_each_verb_shows_its_arguments_and_an_example(verb, capsys):
    with pytest.raises(SystemExit) as left:
        ctl.main([*verb.name.split(), "--help"])
    shown = capsys.readouterr().out
    assert left.value.code == 0 and f"relayctl {verb.example}" in shown
    assert all(arg.name.replace("_", "-") in shown or arg.name in shown for arg in verb.args)


def test_help_lists_every_verb(capsys):
    with pytest.raises(SystemExit):
        ctl.main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"  {verb.name} " in shown for verb in VERBS)


@pytest.mark.parametrize(
    "argv", [[], ["nonsense"], ["account"], ["account", "add"], ["--config", "a", "--control", "b", "health"]]
)
def test_command_that_cannot_be_understood_exits_2(argv, capsys):
    with pytest.raises(SystemExit) as left:
        ctl.main(argv)
    assert left.value.code == 2


def test_without_a_relayd_the_message_says_what_to_do(tmp_path, capsys):
    assert ctl.main(["--control", str(tmp_path / "none.sock"), "health"]) == 1
    said = capsys.readouterr().err
    assert f"no relayd is running at {tmp_path}/none.sock" in said and "twistd relayd" in said


def test_without_a_configuration_the_message_says_what_to_name(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RELAYD_CONTROL", raising=False)
    assert ctl.main(["--config", str(tmp_path / "none.toml"), "health"]) == 1
    assert "--control" in capsys.readouterr().err


def test_socket_is_the_one_named_then_the_environments_then_the_configurations(tmp_path, monkeypatch, capsys):
    (tmp_path / "r.toml").write_text('[node]\ncontrol = "from-config.sock"\n')
    monkeypatch.setenv("RELAYD_CONTROL", "/from-environment.sock")
    for argv, path in [
        (["--control", "/named.sock"], "/named.sock"),
        ([], "/from-environment.sock"),
        (["--config", str(tmp_path / "r.toml")], f"{tmp_path}/from-config.sock"),
    ]:
        assert ctl.main([*argv, "health"]) == 1
        assert f"no relayd is running at {path};" in capsys.readouterr().err


def test_objects_are_lines_lists_of_objects_tables():
    value = {
        "name": "crm",
        "ok": True,
        "odd": [],
        "uptime": 3700,
        "rows": [{"a": 1, "b": None}, {"a": 22, "b": 0, "c": ["x", "y"]}],
    }
    assert ctl.rendered(value) == [
        "name    crm",
        "ok      yes",
        "odd     -",
        "uptime  1h1m",
        "rows:",
        "  A   B  C",
        "  1   -  -",
        "  22  0  x, y",
    ]
    assert ctl.rendered([]) == ["none"]
    assert ctl.rendered(["a", "b"]) == ["a", "b"]


def test_a_column_in_which_nothing_stands_is_left_out():
    assert ctl.rendered([{"a": 1, "b": None, "c": ""}, {"a": 2, "b": [], "d": {}}]) == ["A", "1", "2"]
    assert ctl.rendered([{"a": None}]) == ["A", "-"]


def test_an_object_in_a_table_reads_as_it_would_be_typed():
    row = {"limits": {"messages": ["10/s"], "recipients": ["1000/h", "10000/d"]}, "steps": [[0, "0.10"], [10, "0.08"]]}
    assert ctl.rendered([row])[1] == "messages=10/s recipients=1000/h,10000/d  0:0.10, 10:0.08"
    assert ctl.rendered([{"given": {"note": "invoice 17", "of": {"a": 1}, "b": []}}])[1] == (
        'note="invoice 17" of={a=1} b=-'
    )


def test_texts_that_have_no_room_in_a_line_have_a_line_each():
    faults = ["the spool's disk is full: nothing is accepted", "balances cannot be asked for"]
    assert ctl.rendered({"faults": faults}) == ["faults:", f"  {faults[0]}", f"  {faults[1]}"]
    assert ctl.rendered({"faults": faults[:1]}) == [f"faults  {faults[0]}"]


def test_moments_are_shown_as_dates():
    (line,) = ctl.rendered({"created": 1_700_000_000.0})
    assert line.startswith("created  2023-11-1")


@pytest.mark.parametrize(
    "value", ["\x1b[2J", "\x9b31m", "a\nb", "\u202egnp", {"\x1b]0;x\x07": "k"}, [{"\x1b[k": "\x1b[v"}], ["\x1b"]]
)
def test_nothing_shown_can_steer_a_terminal(value):
    for line in ctl.rendered(value) + ctl.rendered({"key": value}):
        assert line.isprintable()


class RunningTests(TestCase):
    """relayctl against a control service that runs."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = str(self.directory / "c.sock")
        self.relay = opened(self.directory, reactor.callFromThread)
        self.addCleanup(self.relay.close)
        service = ControlService(reactor, self.path, self.relay)
        service.startService()
        self.addCleanup(service.stopService)

    async def run_ctl(self, *argv: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()

        def call() -> int:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                return ctl.main(["--control", self.path, *argv])

        return await deferToThread(call), out.getvalue(), err.getvalue()

    async def test_output_that_nobody_reads_to_its_end_is_no_fault(self) -> None:
        command = f"{sys.executable} -m relayd.ctl --control {self.path} verbs | true"
        call = ["bash", "-o", "pipefail", "-c", command]
        done = await deferToThread(subprocess.run, call, capture_output=True, text=True, timeout=60)
        assert (done.stderr, done.returncode) == ("", 0)

    async def test_account_and_connection_are_made_and_the_password_shown_once(self) -> None:
        assert (await self.run_ctl("account", "add", "crm"))[0] == 0
        argv = shlex.split("connection add --account crm --sender sales@crm.example --stream transactional login1")
        code, out, _ = await self.run_ctl(*argv)
        fields = dict(line.split(None, 1) for line in out.splitlines())
        assert code == 0 and len(fields["password"]) >= 20 and fields["senders"] == "sales@crm.example"
        code, out, _ = await self.run_ctl("connection", "show", "login1")
        assert code == 0 and "password" not in out and "active" in out

    async def test_what_another_command_found_is_taken_from_standard_input(self) -> None:
        self.patch(sys, "stdin", io.StringIO("ivan@mail.example   250\n\nnoreply@crm.example\n"))
        code, out, _ = await self.run_ctl("--json", "recipient", "check", "-", "a@b.example")
        asked = ["ivan@mail.example", "noreply@crm.example", "a@b.example"]
        assert code == 0 and [row["address"] for row in json.loads(out)] == asked

    async def test_nothing_on_standard_input_means_nothing_and_not_all(self) -> None:
        self.patch(sys, "stdin", io.StringIO("\n"))
        code, _, err = await self.run_ctl("queue", "hold", "--account", "crm", "--reason", "odd", "-")
        assert (code, err) == (1, "relayctl: standard input names no id: nothing is done\n")

    async def test_password_of_ones_own_is_read_from_a_file(self) -> None:
        await self.run_ctl("account", "add", "crm")
        (self.directory / "secret").write_text("correct horse\n")
        argv = ["connection", "add", "--account", "crm", "--password-file", str(self.directory / "secret"), "login1"]
        code, out, _ = await self.run_ctl("--json", *argv)
        assert code == 0 and json.loads(out)["password"] == "correct horse"
        code, _, err = await self.run_ctl(*argv[:5], os.devnull, "login2")
        assert code == 1 and "password: must have 8" in err

    async def test_hash_that_is_imported_is_read_from_a_file_and_not_shown(self) -> None:
        await self.run_ctl("account", "add", "crm")
        stored = "{SSHA}PTggDCOUPEVj5h7bZjhxfKWQBpey47nF"
        (self.directory / "hash").write_text(stored + "\n")
        argv = ["connection", "add", "--account", "crm", "--hash-file", str(self.directory / "hash"), "login1"]
        code, out, _ = await self.run_ctl(*argv)
        assert code == 0 and "SSHA" in out and stored not in out and "password" not in out
        connection = self.relay.directory.connection("login1")
        assert connection is not None and connection.password == stored
        code, _, err = await self.run_ctl("connection", "password", "--external", "login1")
        assert code == 1 and "external: there is no other system to ask" in err

    async def test_a_domains_key_is_read_from_its_file_and_the_record_to_publish_printed(self) -> None:
        await self.run_ctl("account", "add", "crm")
        key = rsa(domain="crm.example", selector="s1")
        (self.directory / "s1.pem").write_bytes(to_pem(key.private))
        argv = shlex.split(f"domain add --account crm --selector s1 --key-file {self.directory}/s1.pem crm.example")
        code, out, _ = await self.run_ctl(*argv)
        name, text = dns_record(key)
        assert code == 0 and re.search(rf"^  TXT +{name} +{re.escape(text)}$", out, re.MULTILINE)
        code, out, _ = await self.run_ctl("domain", "show", "crm.example")
        line = Publish(name, "TXT", text).line
        assert code == 0 and text in out and line in out and "PRIVATE" not in out
        code, out, _ = await self.run_ctl("domain", "list")
        assert out.splitlines()[1].split()[:6] == ["crm.example", "crm", "unverified", "s1", "rsa-sha256", "2048"]

    async def test_a_domain_that_is_not_verified_exits_1_and_what_is_missing_is_printed(self) -> None:
        await self.run_ctl("account", "add", "crm")
        await self.run_ctl(*shlex.split("domain add --account crm --algorithm none crm.example"))
        code, out, _ = await self.run_ctl("domain", "verify", "crm.example")
        assert code == 1 and re.search("^verified +no$", out, re.MULTILINE)

    async def test_a_key_is_made_where_none_is_given(self) -> None:
        await self.run_ctl("account", "add", "crm")
        code, out, _ = await self.run_ctl(*shlex.split("domain add --account crm --algorithm ed25519 crm.example"))
        assert code == 0 and re.search("relayd._domainkey.crm.example +v=DKIM1; k=ed25519; p=", out)

    async def test_a_file_that_holds_no_key_is_refused_without_showing_it(self) -> None:
        await self.run_ctl("account", "add", "crm")
        (self.directory / "s1.pem").write_text("top secret " * 10)
        argv = shlex.split(f"domain add --account crm --key-file {self.directory}/s1.pem crm.example")
        code, _, err = await self.run_ctl(*argv)
        assert code == 1 and err.startswith("relayctl: key: The file holds no private key") and "top secret" not in err

    async def test_repeated_options_all_count(self) -> None:
        await self.run_ctl("account", "add", "crm")
        code, out, _ = await self.run_ctl(
            "connection", "add", "--account", "crm", "--sender", "a@b.example", "--sender", "@c.example", "login1"
        )
        assert code == 0 and "a@b.example, @c.example" in out

    async def test_refusal_exits_1_and_names_the_argument(self) -> None:
        code, out, err = await self.run_ctl("connection", "block", "--reason", "x", "nobody")
        assert (code, out) == (1, "") and err == "relayctl: login: there is no connection 'nobody'\n"

    async def test_audit_exits_0_when_clean_and_1_with_the_odd_ones_named(self) -> None:
        assert (await self.run_ctl("audit"))[0] == 0
        self.relay.books = {"clean": False, "odd": ["00000000000000ff: received, nowhere since"]}
        code, out, _ = await self.run_ctl("audit")
        assert code == 1 and "00000000000000ff: received" in out

    async def test_ill_health_exits_1_and_says_what_is_wrong(self) -> None:
        self.relay.well = {"ok": False, "faults": ["spool: disk full"]}
        code, out, err = await self.run_ctl("health")
        assert (code, err) == (1, "") and "spool: disk full" in out

    async def test_json_is_the_whole_answer_and_harmless(self) -> None:
        code, out, _ = await self.run_ctl("--json", "queue", "list", "--limit", "1")
        (row,) = json.loads(out)
        assert code == 0 and row["count"] == 3 and "\x1b" in row["why"] and out.strip().isprintable()

    async def test_table_of_queues_is_harmless(self) -> None:
        code, out, _ = await self.run_ctl("queue", "list")
        lines = out.splitlines()
        assert code == 0 and len(lines) == 3 and lines[0].split()[:3] == ["ACCOUNT", "STREAM", "DOMAIN"]
        assert all(line.isprintable() for line in lines)

    async def test_socket_that_speaks_no_http_is_reported(self) -> None:
        from twisted.internet.protocol import Factory, Protocol

        class Chatter(Protocol):
            def connectionMade(self) -> None:
                self.transport.write(b"220 mail\r\n")
                self.transport.loseConnection()

        other = str(self.directory / "other.sock")
        port: Any = reactor.listenUNIX(other, Factory.forProtocol(Chatter))
        self.addCleanup(port.stopListening)
        self.path = other
        code, _, err = await self.run_ctl("health")
        assert code == 1 and other in err

    async def test_a_file_goes_onto_a_list_in_pieces_and_comes_back_as_it_was(self) -> None:
        await self.run_ctl("list", "add", "bounces")
        rows = [f"user{n:05}@mail.example,address,bounce,\"550 '{n}', no\",,2020-01-01T00:00:00Z" for n in range(3000)]
        file = self.directory / "bounces.csv"
        file.write_text("\n".join(["value,kind,reason,evidence,expires,added", *rows]) + "\n")
        code, out, err = await self.run_ctl("suppression", "import", "bounces", str(file))
        assert (code, err) == (0, "") and out.split()[:4] == ["complete", "yes", "added", "3000"]
        code, out, _ = await self.run_ctl("suppression", "export", "bounces")
        assert code == 0 and out == file.read_text()
        code, out, _ = await self.run_ctl("suppression", "list", "--limit", "1", "bounces")
        assert code == 0 and "2020-01-01" in out and "next" in out

    async def test_refused_rows_are_named_by_their_lines_and_the_exit_code_is_1(self) -> None:
        await self.run_ctl("list", "add", "bounces")
        file = self.directory / "bounces.csv"
        lines = [f"user{n:05}@mail.example" for n in range(2000)]
        lines[20], lines[1900] = "no body", "x@b.example,address,boredom"
        file.write_text("\n".join(lines))
        code, out, _ = await self.run_ctl("--json", "suppression", "import", "bounces", str(file))
        told = json.loads(out)
        assert (code, told["added"], told["refused"]) == (1, 1998, 2)
        assert [(fault["line"], fault["error"][:6]) for fault in told["faults"]] == [(21, "value:"), (1901, "reason")]

    async def test_a_file_that_is_no_table_says_where_and_what_is_done(self) -> None:
        await self.run_ctl("list", "add", "bounces")
        file = self.directory / "bounces.csv"
        file.write_text("\n".join([f"user{n:05}@mail.example" for n in range(2000)] + ["a,b,c,d,e,f,g,h"]))
        code, out, err = await self.run_ctl("suppression", "import", "bounces", str(file))
        assert (code, out) == (1, "") and "bounces.csv: line 2001: 8 cells" in err
        done = int(re.search(r"up to line (\d+) all is done", err)[1])
        assert done > 500 and self.relay.suppressions.lists()[0].entries == done
        for content, words in ((b"", "has no rows"), (b"\xcf\xf0@b.example", "utf-8"), (None, "No such file")):
            file.unlink() if content is None else file.write_bytes(content)
            code, _, err = await self.run_ctl("suppression", "import", "bounces", str(file))
            assert code == 1 and words in err

    async def test_a_file_for_a_list_that_is_not_there_is_refused(self) -> None:
        file = self.directory / "x.csv"
        file.write_text("a@b.example\n")
        code, _, err = await self.run_ctl("suppression", "import", "bounces", str(file))
        assert (code, err) == (1, "relayctl: list: there is no list 'bounces': make it with list add bounces\n")
        code, _, err = await self.run_ctl("suppression", "export", "bounces")
        assert (code, err) == (1, "relayctl: list: there is no list 'bounces': make it with list add bounces\n")
