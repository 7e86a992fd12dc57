"""The control API over the network: a whole relay, real TLS, relayctl and curl as customers and operators have them."""

import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import Stage
from .relay import ROOT, Relay, certificate, free_port, until


class Door:
    """The API of a relay, seen from outside."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.port = free_port("127.0.0.1")
        self.ca = str(relay.home / f"{relay.certificate}.pem")

    def tables(self, more: str = "") -> str:
        return f'[api]\nlisten = "tcp:{self.port}:interface=127.0.0.1"\n{more}\n'

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def token(self, *words: str) -> str:
        """Makes one; gives the file that holds it."""
        code, said = self.relay.ctl("--json", "apitoken", "add", *words)
        assert code == 0, said
        file = self.relay.home / f"{words[-1]}.token"
        file.write_text(json.loads(said)["token"] + "\n")
        return str(file)

    def ctl(self, file: str, *words: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "relayd.ctl", "--api", self.url, "--ca", self.ca, "--token-file", file, *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
        return done.returncode, done.stdout, done.stderr

    def curl(self, file: str, path: str, *more: str) -> tuple[int, Any]:
        bearer = f"Authorization: Bearer {Path(file).read_text().strip()}" if file else "X-Nothing: here"
        command = ["curl", "-sS", "--cacert", self.ca, "-H", bearer, "-w", "\n%{http_code}", *more, self.url + path]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        body, _, status = said.rpartition("\n")
        return int(status), json.loads(body)

    def https(self, ca: str = "") -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=ca or self.ca)
        return http.client.HTTPSConnection("localhost", self.port, timeout=20, context=context)


def asked(connection: http.client.HTTPSConnection, file: str, path: str) -> tuple[int, Any]:
    connection.request("GET", path, headers={"Authorization": f"Bearer {Path(file).read_text().strip()}"})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def served(door: Door) -> bytes:
    """The certificate that is shown."""
    return ssl.get_server_certificate(("127.0.0.1", door.port)).encode()


@pytest.fixture
def relay(stage: Stage) -> Relay:
    return stage.relay()


def opened(relay: Relay) -> Door:
    """With two customers; nobody takes their mail."""
    door = Door(relay)
    nowhere = '[[route]]\ndomain = "*"\nvia = "127.0.0.1:9"\n'
    relay.write(door.tables() + nowhere)
    relay.start()
    for words in (
        "account add --domain-check off other",
        "connection add --account crm crm-1",
        "connection add --account other other-1",
        "list add account:crm/own",
        "plan add --units 500 starter",
        "balance set-plan crm starter",
    ):
        code, said = relay.ctl(*words.split())
        assert code == 0, said
    relay.send("you@example.net")
    until(relay.queued, what="its mail is queued")
    return door


def test_a_customer_reads_what_is_his_with_relayctl_and_curl_and_nothing_else(relay: Relay) -> None:
    door = opened(relay)
    token = door.token("--account", "crm", "--expires", "30d", "--network", "127.0.0.0/8", "crm-dashboard")
    code, out, err = door.ctl(token, "balance", "show", "crm")
    assert (code, err) == (0, "") and "starter" in out
    code, out, _ = door.ctl(token, "queue", "list")
    assert code == 0 and "example.net" in out and "127.0.0.1" not in out
    code, _, err = door.ctl(token, "connection", "show", "other-1")
    assert (code, err) == (1, "relayctl: login: there is no connection 'other-1' that your token may ask about\n")
    code, _, err = door.ctl(token, "status")
    assert (code, err) == (1, "relayctl: status is not for customers\n")
    assert door.ctl(token, "suppression", "add", "account:crm/own", "never@mail.example")[0] == 0
    code, said = relay.ctl("change", "list", "--limit", "1")
    assert code == 0 and "token crm-dashboard (customer crm)" in said
    if shutil.which("curl") is None:
        pytest.skip("no curl here: the rest is not tested")
    status, rows = door.curl(token, "/v1/connection/list")
    assert status == 200 and [row["login"] for row in rows] == ["crm-1"]
    status, told = door.curl(token, "/v1/account/show?name=other")
    assert (status, told["field"]) == (404, "name")
    body = '{"list": "account:crm/own", "value": "never@mail.example"}'
    assert door.curl(token, "/v1/suppression/remove", "-d", body)[0] == 200
    status, told = door.curl("", "/v1/version")
    assert status == 401 and "Authorization: Bearer TOKEN" in told["error"]


def test_a_token_is_there_after_a_kill_and_void_once_it_is_revoked(relay: Relay) -> None:
    door = opened(relay)
    admin, customer = door.token("--role", "admin", "root"), door.token("--account", "crm", "dashboard")
    relay.kill()
    relay.start()
    assert door.ctl(customer, "version")[0] == 0
    connection = door.https()
    assert asked(connection, customer, "/v1/version")[0] == 200
    assert door.ctl(admin, "apitoken", "revoke", "dashboard")[0] == 0
    assert asked(connection, customer, "/v1/version")[0] == 401
    connection.close()
    code, _, err = door.ctl(customer, "version")
    assert (code, err) == (1, "relayctl: this token is not valid, or not any more: ask for another\n")
    code, out, _ = door.ctl(admin, "apitoken", "list")
    assert code == 0 and "dashboard" not in out and "root" in out
    text = Path(customer).read_text().strip()
    for file in (relay.log_file, *relay.spool.glob("directory.sqlite*")):
        assert text[24:].encode() not in file.read_bytes()


def test_a_reload_replaces_the_certificate_moves_the_door_and_closes_it(relay: Relay) -> None:
    door = opened(relay)
    admin = door.token("--role", "admin", "root")
    certificate(relay.home, "two.example")
    own = 'certificate = "two.example.pem"\nkey = "two.example.key"'
    connection = door.https()
    assert asked(connection, admin, "/v1/version")[0] == 200
    relay.write(door.tables(own))
    code, out, err = door.ctl(admin, "config", "reload")  # over the door that it changes
    assert (code, err) == (0, "") and "api" in out
    assert served(door) == (relay.home / "two.example.pem").read_bytes()
    assert asked(connection, admin, "/v1/version")[0] == 200  # what is open stays
    code, _, err = door.ctl(admin, "version")
    assert code == 1 and "its certificate proves nothing" in err
    door.ca = str(relay.home / "two.example.pem")
    relay.write(door.tables('certificate = "two.example.pem"\nkey = "one.example.key"'))
    code, _, err = door.ctl(admin, "config", "reload")
    assert code == 1 and "api.key" in err and "is not the key of" in err
    assert door.ctl(admin, "version")[0] == 0
    fresh = free_port("127.0.0.1")
    relay.write(door.tables(own).replace(str(door.port), str(fresh)))
    assert door.ctl(admin, "config", "reload")[0] == 0  # its answer comes although the door closes
    code, _, err = door.ctl(admin, "version")
    assert code == 1 and "nobody listens there" in err
    door.port = fresh
    assert door.ctl(admin, "version")[0] == 0
    with pytest.raises((http.client.HTTPException, OSError)):
        asked(connection, admin, "/v1/version")
    relay.write("")
    assert relay.ctl("config", "reload")[0] == 0
    assert "nobody listens there" in door.ctl(admin, "version")[2]
    assert relay.stop() == 0


def test_a_port_that_a_listener_has_refuses_the_reload(relay: Relay) -> None:
    relay.start()
    with open(relay.file, "a") as file:
        file.write(f'\n[api]\nlisten = "tcp:{relay.relay}:interface=127.0.0.1"\n')
    code, said = relay.ctl("config", "reload")
    assert code == 1 and "api.listen" in said and "is taken by listener" in said
    assert relay.health()["ok"]


def test_clients_that_say_nothing_do_not_hold_up_a_stop(relay: Relay) -> None:
    door = opened(relay)
    mute = door.https()
    mute.connect()
    assert relay.stop(seconds=15) == 0
    mute.close()
