"""What relayctl does by itself: on files, without a running relay."""

import io
import json
import sys
import time
from pathlib import Path

import pytest

from relayd import ctl, local
from relayd.config import load_rules
from relayd.directory import Directory
from relayd.errors import InputError
from relayd.identity import lower_bound
from relayd.outcome import Evidence
from relayd.records import Record, encode
from relayd.reply import Reply
from relayd.returnpath import make

NOW = 1_700_000_000.0
RULES = """
[provider.big]
match = ["*.big.example"]
[reaction.rest]
provider = "big"
codes = "421"
action = "suspend"
for = "10m"
"""


def lines(*times: float, mx: str = "mx1.big.example") -> bytes:
    seen = Evidence(stage="rcpt", reply=Reply(421, "4.7.0", "slow \\x1b[2Jdown"), source="t1", mx=mx)
    return b"".join(
        encode(Record(kind="TransientFailure", time=NOW + at, recipient="a@b.example", account="crm", evidence=seen))
        for at in times
    )


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RELAYD_CONTROL", str(tmp_path / "nobody-listens.sock"))
    (tmp_path / "new.toml").write_text(RULES)
    (tmp_path / "1.jsonl").write_bytes(lines(0, 10))
    (tmp_path / "2.jsonl").write_bytes(lines(700) + lines(800, mx="mx.other.example"))
    return tmp_path


def test_rules_are_replayed_on_files_of_records_without_a_relay(files, capsys):
    words = ["shaping", "replay", "--rules", f"{files}/new.toml", f"{files}/1.jsonl", f"{files}/2.jsonl"]
    assert ctl.main(["--json", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["attempts"], found["failures"], found["unmet"]) == (4, 4, 1)
    (rule,) = found["rules"]
    assert (rule["rule"], rule["matches"], rule["fired"], rule["caught"]) == ("rest", 3, 2, 1)
    assert [(one["rule"], one["on"], one["until"] - one["time"]) for one in found["firings"]] == [
        ("rest", "t1 big", 600),
        ("rest", "t1 big", 1200),
    ]
    assert ctl.main(words) == 0
    shown = capsys.readouterr().out
    assert "421 4.7.0 slow" in shown and "rest" in shown and "\x1b" not in shown


def test_without_files_the_relay_is_asked(files, capsys):
    assert ctl.main(["shaping", "replay", "--rules", f"{files}/new.toml"]) == 1
    assert "no relayd is running" in capsys.readouterr().err


def test_several_files_of_rules_make_one_set(files, capsys):
    provider, rule = RULES.split("[reaction", 1)
    (files / "provider.toml").write_text(provider)
    (files / "rule.toml").write_text("[reaction" + rule)
    both = ["--rules", f"{files}/provider.toml", "--rules", f"{files}/rule.toml"]
    assert ctl.main(["--json", "shaping", "replay", *both, f"{files}/1.jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["rules"][0]["fired"] == 1
    assert ctl.main(["shaping", "replay", "--rules", f"{files}/rule.toml", f"{files}/1.jsonl"]) == 1
    assert "rules: reaction.rest.provider: there is no provider 'big'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{files}/1.jsonl"], "rules: is missing: with files of records, name at least one file of rules"),
        (["--rules", "{files}/none.toml", "{files}/1.jsonl"], "none.toml cannot be read"),
        (["--rules", "{files}/1.jsonl", "{files}/1.jsonl"], "rules: rules: is not TOML"),
        (["--rules", "{files}/new.toml", "{files}/none.jsonl"], "none.jsonl cannot be read: No such file"),
        (["--rules", "{files}/new.toml", "{files}/new.toml"], "new.toml, line 1 is not a record"),
        (["--rules", "{files}/new.toml", "--since", "5", "{files}/1.jsonl"], "since: '5' is not a duration"),
    ],
)
def test_what_cannot_be_read_is_named(files, capsys, words, said):
    assert ctl.main(["shaping", "replay", *(word.format(files=files) for word in words)]) == 1
    assert said in capsys.readouterr().err


def test_only_the_last_time_is_looked_at_if_it_is_named(files, capsys):
    words = ["--json", "shaping", "replay", "--rules", f"{files}/new.toml", "--since", "1h", f"{files}/1.jsonl"]
    assert ctl.main(words) == 0
    assert json.loads(capsys.readouterr().out)["attempts"] == 0  # they are of 2023


def test_the_rules_in_force_are_replayed_where_no_text_is_given():
    providers, named = load_rules([("new", RULES)], {})
    found = local.replayed([], map(local.decode, lines(0).splitlines()), providers, named)
    assert found["rules"][0]["fired"] == 1
    with pytest.raises(InputError, match=r"rules: reaction\.x\.action: is missing"):
        local.replayed(["[reaction.x]\ncodes = '421'"], [], providers, named)


def test_help_names_the_files_and_both_ways(capsys):
    with pytest.raises(SystemExit):
        ctl.main(["shaping", "replay", "--help"])
    shown = capsys.readouterr().out
    assert "files" in shown and shown.count("relayctl shaping replay") >= 2
    assert all(any(row.name == command.name for command in ctl.COMMANDS) for row in local.LOCAL)


BOUNCE = "From: MAILER-DAEMON@x.example\nTo: {}@bounce.example\nSubject: failure notice\n\n<a@one.example>:\n{}\n"


def test_messages_that_came_back_are_explained_by_the_shipped_rules_a_line_for_each(files, capsys):
    (files / "a.eml").write_text(BOUNCE.format("owner", "550 5.1.1 user unknown"))
    (files / "b.eml").write_bytes(b"\xff\x1b[2J")
    assert ctl.main(["feedback", "explain", f"{files}/a.eml", f"{files}/b.eml"]) == 0
    out = capsys.readouterr().out
    first, second = map(json.loads, out.splitlines())
    assert (first["file"], first["kind"], first["token"]) == (f"{files}/a.eml", "bounce", "none")
    (one,) = first["recipients"]
    assert (one["recipient"], one["status"], one["class"], one["hard"]) == (
        "a@one.example",
        "5.1.1",
        "recipient_unknown",
        True,
    )
    assert one["rule"] and one["decision"]["suppress"] == "at_once"
    assert (second["kind"], second["token"]) == ("not-bounce", "none")
    assert out.isascii() and "\x1b" not in out


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_told(files, capsys):
    (files / "a.eml").write_text(BOUNCE.format("owner", "no"))
    assert ctl.main(["feedback", "explain", f"{files}/missing", f"{files}/a.eml"]) == 1
    told = capsys.readouterr()
    assert "missing cannot be read" in told.err
    assert json.loads(told.out)["kind"] == "bounce"


def test_tokens_are_verified_by_the_keys_of_a_directory_and_named_unchecked_without_one(files, capsys, monkeypatch):
    directory = Directory(files / "directory.sqlite", lambda call: call(), (), time.time())
    key, now = directory.tokens.keys.newest, time.time()
    good, old = (make("bounce", lower_bound(at), key) for at in (now, now - 70 * 86400))
    states = {}
    for name, token in (("valid", good), ("expired", old), ("forged", "b" * 33), ("none", "owner")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BOUNCE.format(token, "550 no").encode())))
        assert ctl.main(["feedback", "explain", "--keys", f"{files}/directory.sqlite", "-"]) == 0
        states[name] = json.loads(capsys.readouterr().out)["token"]
    directory.close()
    assert states == {name: name for name in states}
    (files / "a.eml").write_text(BOUNCE.format(good, "550 no"))
    assert ctl.main(["feedback", "explain", f"{files}/a.eml"]) == 0
    assert json.loads(capsys.readouterr().out)["token"] == "unchecked"
    assert ctl.main(["feedback", "explain", "--keys", f"{files}/none", f"{files}/a.eml"]) == 1
    assert "not a directory of relayd's" in capsys.readouterr().err
