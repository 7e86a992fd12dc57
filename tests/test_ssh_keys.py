"""Who may come in over SSH: authorized_keys as OpenSSH writes it, roles, and everything that keeps a key out."""

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from relayd.ssh.keys import Keys, fingerprint, host_key, parse, read
from tests.e2e.ssh_kit import make_key


@pytest.fixture
def key(tmp_path: Path) -> str:
    return make_key(tmp_path / "id")


def only(text: str):
    (person,) = parse(text)[0].values()
    return person


def fault(text: str) -> str:
    people, faults = parse(text)
    assert not people
    (said,) = faults
    return said


def test_a_key_may_view_unless_its_line_says_more(key):
    assert (only(f"{key} anna").name, only(f"{key} anna").role) == ("anna", "view")
    assert only(f'role="admin" {key} anna').role == "admin"
    assert only(f'from="10.0.0.0/8, 192.0.2.7",role="operate",restrict {key} anna').networks == (
        "10.0.0.0/8",
        "192.0.2.7/32",
    )
    assert only(f"# hello\n\n  {key}   anna@laptop  \n").who == "ssh:anna@laptop"


def test_a_key_comes_from_its_networks_only(key):
    person = only(f'from="10.0.0.0/8" {key} anna')
    assert person.may_come_from("10.1.2.3") and not person.may_come_from("192.0.2.1")
    assert only(f"{key} anna").may_come_from("192.0.2.1")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{key}", "who is it"),
        ("{key} anna\x1b[2J", "who is it"),
        ("{key} two words", "who is it"),
        ('role="root" {key} anna', "'root' is none of view, operate, admin"),
        ("role {key} anna", "None is none of"),
        ('role="view",role="admin" {key} anna', "given twice"),
        ('command="/bin/true" {key} anna', "the option command is not one of"),
        ("cert-authority {key} anna", "the option cert-authority is not one of"),
        ('from="10.0.0.1/8" {key} anna', "has bits behind its prefix"),
        ('from="" {key} anna', "is not an address or CIDR"),
        ('role="admin {key} anna', "is no key"),
        ("hello", "is no key"),
        ("ssh-dss AAAAB3NzaC1kc3M= anna", "'ssh-dss' is no kind of key that is taken"),
        ("ssh-ed25519 AAAA!! anna", "cut off or mistyped"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI anna", "cut off or mistyped"),
        ("ssh-rsa {blob} anna", "of another kind"),
    ],
)
def test_a_line_that_is_not_understood_keeps_its_key_out_and_is_told(key, line, said):
    assert said in fault("\n" + line.format(key=key, blob=key.split()[1]))
    assert fault("\n" + line.format(key=key, blob=key.split()[1])).startswith("line 2: ")


def test_a_faulty_line_keeps_nobody_else_out(key, tmp_path):
    other = make_key(tmp_path / "other")
    people, faults = parse(f'role="boss" {other} otto\n{key} anna\n')
    assert [person.name for person in people.values()] == ["anna"] and len(faults) == 1


def test_the_same_key_twice_is_its_first_line_s(key):
    people, faults = parse(f'{key} anna\nrole="admin" {key} otto\n')
    assert [(person.name, person.role) for person in people.values()] == [("anna", "view")]
    assert "is the key of anna already" in faults[0]


def test_a_weak_rsa_key_is_refused():
    def line(bits: int) -> str:
        public = generate_private_key(65537, bits).public_key()
        return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() + " anna"

    assert only(line(2048)).name == "anna"
    assert "an RSA key of 1024 bits is too weak" in fault(line(1024))


def people_file(directory: Path, text: str) -> Path:
    file = directory / "authorized_keys"
    file.write_text(text)
    file.chmod(0o644)
    return file


def test_a_file_that_others_may_write_to_lets_nobody_in(key, tmp_path):
    file = people_file(tmp_path, f"{key} anna\n")
    assert read(str(file))[1] == []
    for path, mode in ((file, 0o664), (file, 0o646), (tmp_path, 0o777)):
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        people, (said,) = read(str(file))
        assert not people and "others may write to" in said and f"chmod go-w {path}" in said
        path.chmod(before)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_file_of_somebody_else_lets_nobody_in(key, tmp_path):
    file = people_file(tmp_path, f"{key} anna\n")
    os.chown(file, 12345, -1)
    people, (said,) = read(str(file))
    assert not people and "belongs to somebody else" in said


def test_a_file_that_is_missing_or_no_text_lets_nobody_in_and_is_told(tmp_path):
    assert "No such file" in read(str(tmp_path / "none"))[1][0]
    file = tmp_path / "authorized_keys"
    file.write_bytes(b"\xff\xfe")
    assert read(str(file))[0] == {} and len(read(str(file))[1]) == 1


def test_a_file_is_read_again_when_it_has_changed(key, tmp_path):
    file = people_file(tmp_path, f"{key} anna\n")
    keys = Keys(str(file))
    (blob,) = parse(f"{key} anna")[0]
    assert keys.find(blob).role == "view" and not keys.refresh()
    people_file(tmp_path, f'role="admin" {key} anna\n')
    assert keys.find(blob).role == "admin"
    file.chmod(0o666)
    assert keys.find(blob) is None and "others may write" in keys.faults[0]
    file.unlink()
    assert keys.refresh() and "No such file" in keys.faults[0] and keys.find(blob) is None


def test_a_fingerprint_is_the_one_that_ssh_keygen_shows():
    public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl github"
    (blob,) = parse(public)[0]
    assert fingerprint(blob) == "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"  # GitHub's, as it publishes it


def test_the_host_s_key_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "key"
    (tmp_path / "key.new").write_text("what a start that was cut off left")
    made = host_key(str(path))
    load_ssh_private_key(made, None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and host_key(str(path)) == made
    assert [file.name for file in tmp_path.iterdir()] == ["key"]
    path.chmod(0o640)
    with pytest.raises(ValueError, match=f"can be read by others: chmod 600 {path}"):
        host_key(str(path))
