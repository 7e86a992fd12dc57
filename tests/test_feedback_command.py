"""relayctl feedback explain: a line for each file, whatever is in it."""

import argparse
import io
import json
import sys
from pathlib import Path

import pytest

from relayd import ctl
from relayd.feedback import command
from tests.test_feedback_explain import bounce, classify, verify


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    return command.run(parser.parse_args(argv), classify=classify)


def test_every_file_gets_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("a.eml", bounce("550 5.1.1 nobody")), ("b.eml", b"\xff\x1b[2J")):
        (tmp_path / name).write_bytes(content)
    assert run(str(tmp_path / "a.eml"), str(tmp_path / "b.eml")) == 0
    out = capsys.readouterr().out
    first, second = map(json.loads, out.splitlines())
    assert (first["file"], first["kind"], first["token"]) == (str(tmp_path / "a.eml"), "bounce", "unchecked")
    assert (second["kind"], second["token"]) == ("not-bounce", "none")
    assert out.isascii() and "\x1b" not in out


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.eml").write_bytes(bounce("no"))
    assert run(str(tmp_path / "missing"), str(tmp_path / "a.eml")) == 1
    told = capsys.readouterr()
    assert "missing cannot be read" in told.err
    assert json.loads(told.out)["kind"] == "bounce"


def test_standard_input_is_read_and_a_token_verified(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bounce("550 nobody"))))
    assert command.run(argparse.Namespace(files=["-"], recipient=""), classify=classify, verify=verify) == 0
    assert json.loads(capsys.readouterr().out)["token"] == "valid"


def test_relayctl_knows_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.eml").write_bytes(bounce("550 5.1.1 nobody"))
    assert ctl.main(["feedback", "explain", str(tmp_path / "a.eml")]) == 0
    assert json.loads(capsys.readouterr().out)["recipients"][0]["recipient"] == "a@one.example"
