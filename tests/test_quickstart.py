import os
import socket
import ssl
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography import x509

from relayd import config, quickstart
from relayd.directory import Directory, verify_password
from relayd.quickstart import Fault, base_port, main, prepare


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "var"


def variables(directory: Path) -> dict[str, str]:
    """quickstart.env as a shell reads it."""
    script = "set -a; . ./quickstart.env; env"
    out = subprocess.run(["sh", "-c", script], cwd=directory, env={}, capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in out.splitlines() if line.startswith("RELAYD_"))


def listens(directory: Path) -> list[str]:
    return [door.listen for door in config.load(directory / "relayd.toml").listener]


def test_the_configuration_made_is_valid_and_sends_everything_to_the_sandbox(here: Path) -> None:
    prepare(here, 4000)
    made = config.load(here / "relayd.toml")
    assert [(door.service, door.listen) for door in made.listener] == [
        ("submissions", "tcp:4465:interface=127.0.0.1"),
        ("submission", "tcp:4587:interface=127.0.0.1"),
    ]
    route = config.Routes(made.route).find("anything.example")
    assert route is not None and route.via == "127.0.0.1:4525"
    assert made.sandbox is not None
    assert made.sandbox.listen == "tcp:4525:interface=127.0.0.1"
    assert made.sandbox.maildir == str(here / "sandbox")
    assert made.node.control == str(here / "control.sock")


def test_the_shell_reads_every_variable_a_client_needs(here: Path) -> None:
    made = prepare(here, 4000)
    found = variables(here)
    assert found == made.variables
    assert sorted(found) == ["RELAYD_CA", "RELAYD_CONTROL", "RELAYD_LOGIN", "RELAYD_PASSWORD", "RELAYD_SENDER"]
    assert found["RELAYD_CA"] == str(here / "tls" / "cert.pem")
    assert found["RELAYD_CONTROL"] == str(here / "control.sock")


def test_every_line_of_the_variables_is_a_plain_assignment(here: Path) -> None:
    prepare(here, 4000)
    names = [line.split("=")[0] for line in (here / "quickstart.env").read_text().splitlines()]
    assert all(name.isupper() and name.startswith("RELAYD_") for name in names)


@pytest.mark.parametrize("name", ["quickstart.env", "tls/key.pem", "spool/directory.sqlite"])
def test_secrets_are_nobody_elses_to_read(here: Path, name: str) -> None:
    prepare(here, 4000)
    assert stat.S_IMODE((here / name).stat().st_mode) == 0o600


def test_the_account_has_no_domain_check_and_its_connection_may_send_as_the_sender(here: Path) -> None:
    made = prepare(here, 4000)
    directory = Directory(here / "spool" / "directory.sqlite", lambda call: call())
    try:
        account = directory.account("quickstart")
        connection = directory.connection(made.variables["RELAYD_LOGIN"])
        assert account is not None and account.domain_check == "off" and account.state == "active"
        assert connection is not None and connection.account == "quickstart"
        assert connection.may_send_as(made.variables["RELAYD_SENDER"])
        assert verify_password(made.variables["RELAYD_PASSWORD"], connection.password)
    finally:
        directory.close()


def test_a_second_run_keeps_certificate_password_and_configuration(here: Path) -> None:
    prepare(here, 4000)
    names = ("tls/cert.pem", "tls/key.pem", "quickstart.env", "relayd.toml")
    kept = {name: (here / name).read_bytes() for name in names}
    prepare(here, 4000)
    assert {name: (here / name).read_bytes() for name in kept} == kept


def test_lost_variables_mean_a_new_password_that_works(here: Path) -> None:
    first = prepare(here, 4000)
    (here / "quickstart.env").unlink()
    second = prepare(here, 4000)
    assert second.variables["RELAYD_PASSWORD"] != first.variables["RELAYD_PASSWORD"]
    assert prepare(here, 4000).variables == second.variables


def test_a_password_that_is_not_the_connections_is_replaced(here: Path) -> None:
    prepare(here, 4000)
    (here / "quickstart.env").write_text("RELAYD_PASSWORD=wrong\n")
    assert prepare(here, 4000).variables["RELAYD_PASSWORD"] != "wrong"


def test_a_lost_spool_means_a_new_connection(here: Path) -> None:
    prepare(here, 4000)
    for file in (here / "spool").iterdir():
        file.unlink()
    made = prepare(here, 4000)
    assert prepare(here, 4000).variables == made.variables


def test_variables_cut_short_by_a_crash_are_made_anew(here: Path) -> None:
    prepare(here, 4000)
    (here / "quickstart.env").write_text("RELAYD_PASSWORD='abc")
    made = prepare(here, 4000)
    assert variables(here) == made.variables


def test_the_base_port_moves_all_ports_of_an_untouched_configuration(here: Path) -> None:
    prepare(here, 4000)
    prepare(here, 5000)
    assert listens(here) == ["tcp:5465:interface=127.0.0.1", "tcp:5587:interface=127.0.0.1"]
    assert config.load(here / "relayd.toml").route[0].via == "127.0.0.1:5525"


@pytest.mark.parametrize("edit", ["\n[egress]\nport = 2500\n", "# mine\n"])
def test_an_edited_configuration_is_kept_and_said_so(here: Path, edit: str) -> None:
    prepare(here, 4000)
    edited = (here / "relayd.toml").read_text() + edit
    (here / "relayd.toml").write_text(edited)
    made = prepare(here, 5000)
    assert (here / "relayd.toml").read_text() == edited
    assert "kept" in made.notes[0]


def test_an_edited_configuration_with_a_fault_is_a_fault(here: Path) -> None:
    prepare(here, 4000)
    (here / "relayd.toml").write_text("[node\n")
    with pytest.raises(Fault, match=r"relayd\.toml"):
        prepare(here, 4000)


def test_the_socket_of_a_deep_directory_goes_to_a_short_private_place(tmp_path: Path) -> None:
    made = prepare(tmp_path / ("d" * 60) / ("e" * 60), 4000)
    control = Path(made.variables["RELAYD_CONTROL"])
    try:
        assert len(os.fsencode(control)) <= 107
        assert made.config.node.control == str(control)
        assert stat.S_IMODE(control.parent.stat().st_mode) == 0o700
        assert str(control) in made.notes[0]
    finally:
        control.parent.rmdir()


def test_a_short_place_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    place = Path(prepare(deep, 4000).variables["RELAYD_CONTROL"]).parent
    try:
        place.chmod(0o777)
        with pytest.raises(Fault, match="not ours alone"):
            prepare(deep, 4000)
    finally:
        place.rmdir()


@pytest.mark.parametrize(("text", "base"), [("", 4000), ("0", 0), ("20000", 20000), ("64948", 64948)])
def test_base_port_is_a_number_whose_ports_exist(text: str, base: int) -> None:
    assert base_port({"RELAYD_BASE_PORT": text}) == base


@pytest.mark.parametrize("text", ["x", "-1", "64949", "4000.5", "٤٠٠٠"])
def test_another_base_port_is_refused(text: str) -> None:
    with pytest.raises(Fault, match="RELAYD_BASE_PORT"):
        base_port({"RELAYD_BASE_PORT": text})


def test_base_port_defaults_to_4000() -> None:
    assert base_port({}) == 4000


def test_the_certificate_is_its_own_authority_for_no_other(here: Path) -> None:
    prepare(here, 4000)
    certificate = x509.load_pem_x509_certificate((here / "tls" / "cert.pem").read_bytes())
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and constraints.value == x509.BasicConstraints(ca=True, path_length=0)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_the_certificate_is_trusted_for_localhost_by_a_client_that_trusts_only_it(here: Path, name: str) -> None:
    prepare(here, 4000)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(here / "tls" / "cert.pem", here / "tls" / "key.pem")
    client = ssl.create_default_context(cafile=here / "tls" / "cert.pem")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    near, far = socket.socketpair()
    answering = threading.Thread(target=lambda: server.wrap_socket(far, server_side=True).close())
    answering.start()
    with client.wrap_socket(near, server_hostname=name) as secure:
        assert secure.getpeercert()
    answering.join(10)


def test_the_greeting_tells_commands_with_the_ports_in_use(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(here)], {"RELAYD_BASE_PORT": "6000"}) == 0
    said = capsys.readouterr().out
    assert "smtps://127.0.0.1:6465" in said
    assert "--server 127.0.0.1:6587" in said
    assert str(here / "sandbox") in said
    assert "relayd-console" in said and "relayctl status" in said


def test_a_fault_is_one_line_and_exit_code_1(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(here)], {"RELAYD_BASE_PORT": "many"}) == 1
    assert capsys.readouterr().err.startswith("quickstart: RELAYD_BASE_PORT")


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--port"]])
def test_anything_but_one_directory_is_a_usage_error(arguments: list[str]) -> None:
    assert main(arguments, {}) == 2


def test_it_runs_as_a_module(here: Path) -> None:
    ran = subprocess.run([sys.executable, "-m", "relayd.quickstart", str(here)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert (here / "relayd.toml").exists()


def test_a_file_in_the_place_of_the_directory_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("")
    with pytest.raises(Fault):
        prepare(tmp_path / "var", 4000)


def test_only_listens_route_and_socket_vary_in_a_configuration_as_made() -> None:
    one, other = quickstart._rendered(1, "a").splitlines(), quickstart._rendered(2, "b").splitlines()
    changed = {line.split(" =")[0].strip() for line, twin in zip(one, other, strict=True) if line != twin}
    assert changed == {"listen", "via", "control"}
