"""relayctl over the network: a real door with TLS, a real client, and what it says when that does not work."""

import contextlib
import io
import json
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from relayd import ctl, ways
from relayd.control.door import DoorService, Settings
from relayd.control.verbs import BY_PATH
from relayd.quotas import parse_limits
from relayd.tls import ServerTLS
from tests.fake_relay import NOW, opened
from tests.test_tls import certificate

TOKEN = "relayd_" + "0" * 16 + "_" + "A" * 43


class Mail(Protocol):
    def connectionMade(self) -> None:
        self.transport.write(b"220 mail.example ESMTP\r\n")


class NetworkTests(TestCase):
    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.relay = opened(self.directory, reactor.callFromThread)
        self.addCleanup(self.relay.close)
        self.ca, self.key = certificate(self.directory / "one", "localhost")

    async def door(self, *, tls: bool = True, **settings: Any) -> int:
        """Its port."""
        shown = ServerTLS(self.ca, self.key) if tls else None
        made = DoorService(reactor, "tcp:0:interface=127.0.0.1", self.relay, Settings(**settings), shown)
        await made.listen()
        self.addCleanup(made.stopService)
        return int(made._port.getHost().port)

    async def token(self, name: str, role: Any = "admin", **more: Any) -> str:
        """The file of a token just made."""
        made: Any = self.relay.directory.api_tokens.add(name, role, now=NOW, by="anna", **more)
        text = (await deferToThread(made.result, 10)).text
        file = self.directory / f"{name}.token"
        file.write_text(text + "\n")
        return str(file)

    async def ctl(self, *argv: str, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()

        def call() -> int:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                return ctl.main(argv)

        with mock.patch.dict("os.environ", environment or {}):
            return await deferToThread(call), out.getvalue(), err.getvalue()

    async def test_every_kind_of_verb_works_over_the_network(self) -> None:
        url = f"https://localhost:{await self.door()}"
        way = ["--api", url, "--ca", self.ca, "--token-file", await self.token("root")]
        assert (await self.ctl(*way, "account", "add", "crm"))[0] == 0
        code, out, _ = await self.ctl(*way, "--json", "account", "list")
        assert code == 0 and json.loads(out)[0]["name"] == "crm"
        code, out, _ = await self.ctl(*way, "apitoken", "add", "--account", "crm", "--expires", "1d", "crm-1")
        fields = dict(line.split(None, 1) for line in out.splitlines())
        assert code == 0 and fields["token"].startswith("relayd_") and fields["role"] == "customer"
        given = {"RELAYD_API": url, "RELAYD_TOKEN": fields["token"], "RELAYD_CONTROL": "/nowhere.sock"}
        code, out, _ = await self.ctl("--ca", self.ca, "account", "show", "crm", environment=given)
        assert code == 0 and out.startswith("name           crm\n")

    async def test_a_customer_brings_his_list_and_takes_it_away(self) -> None:
        await self.done(self.relay.directory.add_account("crm", now=NOW))
        await self.done(self.relay.suppressions.add_list("account:crm/own", now=NOW))
        way = ["--api", f"https://localhost:{await self.door()}", "--ca", self.ca]
        way += ["--token-file", await self.token("t", "customer", account="crm")]
        file = self.directory / "own.csv"
        file.write_text("".join(f"user{n}@mail.example\n" for n in range(3000)))
        code, out, err = await self.ctl(*way, "suppression", "import", "account:crm/own", str(file))
        assert (code, err) == (0, "") and "3000" in out
        code, out, _ = await self.ctl(*way, "suppression", "export", "account:crm/own")
        assert code == 0 and len(out.splitlines()) == 3001

    async def test_who_asks_too_often_waits_his_turn(self) -> None:
        port = await self.door(rate=parse_limits({"messages": "2/s burst 1"}))
        way = ["--api", f"https://localhost:{port}", "--ca", self.ca, "--token-file", await self.token("t")]
        naps: list[float] = []
        sleep = time.sleep
        self.patch(ways.time, "sleep", lambda wait: (naps.append(wait), sleep(0.01)))
        self.patch(self.relay, "now", lambda: NOW + len(naps))
        assert [(await self.ctl(*way, "version"))[0] for _ in range(3)] == [0, 0, 0]
        assert naps == [1, 1]

    async def done(self, future: Any) -> Any:
        return await deferToThread(future.result, 10)

    async def test_refusals_say_what_is_wrong_and_exit_1(self) -> None:
        await self.done(self.relay.directory.add_account("crm", now=NOW))
        url = f"https://localhost:{await self.door()}"
        way = ["--api", url, "--ca", self.ca, "--token-file", await self.token("t", "customer", account="crm")]
        for words, said in [
            (["status"], "status is not for customers"),
            (["account", "show", "crn"], "name: there is no account 'crn' that your token may ask about"),
        ]:
            assert await self.ctl(*way, *words) == (1, "", f"relayctl: {said}\n")
        code, _, err = await self.ctl("--api", url, "--ca", self.ca, "version", environment={"RELAYD_TOKEN": TOKEN})
        assert (code, err) == (1, "relayctl: this token is not valid, or not any more: ask for another\n")
        code, _, err = await self.ctl("--api", url, "--ca", self.ca, "version", environment={"RELAYD_TOKEN": ""})
        assert code == 1 and "wants a token: name its file with --token-file" in err

    async def test_a_server_that_is_not_proved_gets_no_token(self) -> None:
        port = await self.door()
        other, _ = certificate(self.directory / "two", "localhost")
        token = ["--token-file", await self.token("t")]
        for way, words in [
            (["--api", f"https://localhost:{port}"], "self-signed certificate"),
            (["--api", f"https://localhost:{port}", "--ca", other], "self-signed certificate"),
            (["--api", f"https://127.0.0.1:{port}", "--ca", self.ca], "IP address mismatch"),
        ]:
            code, _, err = await self.ctl(*way, *token, "version")
            assert code == 1 and words in err and "--ca" in err, err
        assert self.relay.directory.api_tokens.all()[0].used == 0

    async def test_what_is_no_api_is_told_from_what_is_not_there(self) -> None:
        clear, closed = await self.door(tls=False), await self.door(allow=("192.0.2.0/24",))
        mail: Any = reactor.listenTCP(0, Factory.forProtocol(Mail), interface="127.0.0.1")
        self.addCleanup(mail.stopListening)
        token = ["--token-file", await self.token("t")]
        code, out, _ = await self.ctl("--api", f"http://127.0.0.1:{clear}/", *token, "version")
        assert code == 0 and out.startswith("version")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            for url, words in [
                (f"https://127.0.0.1:{mail.getHost().port}", "no TLS came about"),
                (f"https://localhost:{closed}", "[api] allow may not name your network"),
                (f"https://localhost:{free.getsockname()[1]}", "nobody listens there"),
                ("https://nobody.invalid:8443", "there is no host of this name"),
            ]:
                code, _, err = await self.ctl("--api", url, "--ca", self.ca, *token, "version")
                assert code == 1 and words in err, err


@pytest.mark.parametrize(
    ("url", "token", "words"),
    [
        ("relay:8443", TOKEN, "write https://relay.example:8443"),
        ("https://", TOKEN, "write https://"),
        ("https://relay:port", TOKEN, "write https://"),
        ("https://me:pw@relay", TOKEN, "write https://"),
        ("ftp://relay", TOKEN, "write https://"),
        ("http://relay.example:8443", TOKEN, "would send the token in clear"),
        ("http://192.0.2.1", TOKEN, "would send the token in clear"),
        ("https://relay.example", " \n", "wants a token"),
        ("https://relay.example", "two words", "is none: it is one word"),
        ("https://relay.example", "relayd_\r\nX-Evil: 1", "is none: it is one word"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_sent(url, token, words):
    with pytest.raises(ways.Unreachable, match=words):
        ways.network(url, token)


def test_authorities_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "junk").write_text("junk")
    for file, words in (("junk", "junk holds no PEM certificate"), ("none", "none cannot be read: No such file")):
        with pytest.raises(ways.Unreachable, match=words):
            ways.network("https://relay.example", TOKEN, str(tmp_path / file))


def test_a_path_before_the_apis_and_ports_are_kept():
    assert str(ways.network("https://relay.example/mail/", TOKEN)) == "https://relay.example:443/mail"
    assert str(ways.network("http://[::1]:8443", TOKEN)) == "http://[::1]:8443"
    assert ways.network("http://localhost", TOKEN).port == 80


def test_options_of_the_network_without_one_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RELAYD_API", raising=False)
    assert ctl.main(["--control", str(tmp_path / "s"), "--ca", "x", "version"]) == 1
    assert "--token-file and --ca go with --api URL" in capsys.readouterr().err


def test_a_socket_that_is_named_goes_before_the_environments_api(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RELAYD_API", "https://relay.invalid")
    assert ctl.main(["--control", str(tmp_path / "none.sock"), "version"]) == 1
    assert "no relayd is running at" in capsys.readouterr().err


def test_no_answer_within_the_verbs_time_is_said(tmp_path):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        way = ways.network(f"http://127.0.0.1:{mute.getsockname()[1]}", TOKEN)
        verb = msgspec.structs.replace(BY_PATH["/v1/version"], timeout=-4.9)
        with pytest.raises(ways.Unreachable, match="no answer came in time"):
            ways.ask(way, verb, {})
