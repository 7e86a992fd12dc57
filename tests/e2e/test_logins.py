"""Passwords that other systems know or have made, through real sessions: what a client hears, and what stays secret."""

import base64
import json
import smtplib
import ssl
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import pytest

from .conftest import Stage
from .relay import SENDER, Relay, Sink, certificate, message, submit, until

TOKEN = "the-relays-own-token"
BCRYPT = "$2b$05$1iA4oZv2V9wVDB0peQweV.DvYigjyuje3vh/Cv9EpkVGDc4hGdfaa"  # by bcryptjs
BCRYPTS = "Пароль-1 & more"


class CRM:
    """The other system, with TLS: answers as ``status`` says, {"ok": true} to the one right password."""

    def __init__(self, stage: Stage) -> None:
        certificate(stage.home, "crm.example")
        self.status = 200
        self.asked: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self.go_on = Event()
        self.go_on.set()
        crm = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                crm.asked.append(question)
                crm.tokens.append(self.headers["Authorization"])
                crm.go_on.wait(60)
                answer = json.dumps({"ok": question["password"] == "right-password"}).encode()
                self.send_response(crm.status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(stage.home / "crm.example.pem", stage.home / "crm.example.key")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}/login"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.go_on.set()
        self.server.shutdown()
        self.server.server_close()


class House:
    """A running relay, the sink behind it and the CRM beside it."""

    def __init__(self, stage: Stage) -> None:
        self.crm = CRM(stage)
        (stage.home / "token").write_text(TOKEN + "\n")
        self.sink: Sink = stage.sink()
        self.auth = f'[auth]\nurl = "{self.crm.url}"\ntimeout = "1s"\n'
        self.auth += f'token_file = "{stage.home}/token"\nauthorities = "{stage.home}/crm.example.pem"\n'
        self.route = f'[[route]]\ndomain = "*"\nvia = "{self.sink.via}"\n'
        self.relay: Relay = stage.relay(self.route + self.auth).start()

    def made(self, login: str, **more: Any) -> None:
        answer = self.relay.ask("/v1/connection/add", login=login, account="crm", sender=[SENDER], **more)
        assert "error" not in answer, answer

    def log_in(self, login: str, password: str) -> tuple[int, str]:
        """Code and text of the answer to AUTH."""
        with self.client() as client:
            client.ehlo()
            # smtplib's own login takes ASCII only.
            code, said = client.docmd("AUTH PLAIN", base64.b64encode(f"\0{login}\0{password}".encode()).decode())
            return code, said.decode()

    def client(self) -> smtplib.SMTP_SSL:
        context = ssl.create_default_context(cafile=str(self.relay.home / "one.example.pem"))
        return smtplib.SMTP_SSL("127.0.0.1", self.relay.submissions, "client.example", context=context, timeout=30)


@pytest.fixture(scope="module")
def house(module_stage: Stage) -> Iterator[House]:
    made = House(module_stage)
    yield made
    made.crm.stop()


@pytest.fixture
def crm(house: House) -> Iterator[CRM]:
    house.crm.asked.clear()
    yield house.crm
    house.crm.status = 200
    house.crm.go_on.set()


def test_the_other_system_lets_in_and_the_directory_says_what_for(house: House, crm: CRM) -> None:
    house.made("external-1", external=True)
    with house.client() as client:
        client.login("external-1", "right-password")
        submit(client, "friend@example.net", message())
        assert client.mail("somebody@else.example")[0] // 100 == 5
    house.sink.wait("friend@example.net")
    question = {"login": "external-1", "password": "right-password", "client": "127.0.0.1", "service": "smtp"}
    assert crm.asked == [question] and crm.tokens[-1] == f"Bearer {TOKEN}"


def test_wrong_is_535_and_no_answer_is_454(house: House, crm: CRM) -> None:
    house.made("external-2", external=True)
    assert house.log_in("external-2", "wrong-password") == (535, "5.7.8 Incorrect login or password")
    crm.status = 503
    assert house.log_in("external-2", "right-password") == (454, "4.7.0 Temporary authentication failure")
    assert any("it answers 503" in warning for warning in house.relay.health()["warnings"])
    crm.status = 200
    crm.go_on.clear()
    assert house.log_in("external-2", "right-password") == (454, "4.7.0 Temporary authentication failure")
    assert any("does not answer within 1 s" in warning for warning in house.relay.health()["warnings"])
    crm.go_on.set()
    assert house.log_in("external-2", "right-password")[0] == 235
    assert house.relay.health()["warnings"] == []


def test_a_right_password_is_remembered_while_the_other_system_is_away_and_a_block_counts_at_once(
    house: House, crm: CRM
) -> None:
    house.made("external-3", external=True)
    assert house.log_in("external-3", "right-password")[0] == 235
    crm.status = 500
    assert house.log_in("external-3", "right-password")[0] == 235 and len(crm.asked) == 1
    house.relay.ask("/v1/connection/block", login="external-3", reason="leaked")
    assert house.log_in("external-3", "right-password") == (535, "5.7.8 Connection blocked: leaked")


def test_a_login_that_the_directory_does_not_know_is_not_asked_about(house: House, crm: CRM) -> None:
    assert house.log_in("stranger", "right-password") == (535, "5.7.8 Incorrect login or password")
    assert crm.asked == []


def test_a_reload_that_takes_the_other_system_away_lets_its_logins_in_no_more(house: House, crm: CRM) -> None:
    house.made("external-4", external=True)
    assert house.log_in("external-4", "right-password")[0] == 235
    house.relay.write(house.route)
    assert house.relay.ask("/v1/config/reload")["changed"] == ["auth"]
    assert house.log_in("external-4", "right-password") == (454, "4.7.0 Temporary authentication failure")
    house.relay.write(house.route + house.auth)
    assert house.relay.ask("/v1/config/reload")["changed"] == ["auth"]
    assert house.log_in("external-4", "right-password")[0] == 235


def test_a_password_moved_in_as_a_hash_works_and_its_hash_becomes_one_of_ours(house: House, crm: CRM) -> None:
    def credential() -> Any:
        return house.relay.ask("/v1/connection/show", login="moved-1")["credential"]

    house.made("moved-1", hash=BCRYPT)
    assert house.log_in("moved-1", "wrong-password")[0] == 535 and credential() == "bcrypt"
    assert house.log_in("moved-1", BCRYPTS)[0] == 235
    until(lambda: credential() == "scrypt")
    assert house.log_in("moved-1", BCRYPTS)[0] == 235
    assert house.log_in("moved-1", "wrong-password")[0] == 535
    assert crm.asked == []


def test_no_password_token_or_hash_is_in_the_log_or_a_record(house: House, crm: CRM) -> None:
    house.made("external-5", external=True)
    house.made("moved-2", hash=BCRYPT)
    for login in ("external-5", "moved-2"):
        for password in ("right-password", "wrong-password", BCRYPTS):
            house.log_in(login, password)
    crm.status = 500
    house.log_in("external-5", "another-password")
    house.relay.stop()
    records = b"".join(path.read_bytes() for path in house.relay.spool.rglob("*.jsonl"))
    assert b'"external-5"' in records and b"moved-2" in records
    text = house.relay.log().encode() + records
    for secret in ("right-password", "wrong-password", "another-password", TOKEN, BCRYPT, BCRYPTS):
        assert secret.encode() not in text
