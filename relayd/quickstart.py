"""A relay to try out, made from nothing: ``python -m relayd.quickstart DIR`` (``make run`` does it).

In: a directory, and RELAYD_BASE_PORT.  Out: DIR/relayd.toml, DIR/tls with a self-signed certificate, an account with
one connection, DIR/quickstart.env with what a client needs, and on the terminal how to send a first message.  All mail
goes to the built-in sandbox, DIR/sandbox, never to the internet.  What is there already is kept: a configuration that
somebody edited, the certificate, the password.
"""

import datetime
import hashlib
import ipaddress
import os
import secrets
import shlex
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from relayd import config, notation
from relayd.directory import Directory, verify_password

BASE_PORT = 4000
LOGIN = "quickstart"
SENDER = "hello@quickstart.example"

_CONFIG = """\
# A relay to try out.  All mail goes to the sandbox below, none to the internet.  Every key: etc/relayd.toml
# As long as this file is as it was made, `make run` makes it anew; edit it and it is yours.

[node]
name    = "relay.quickstart.example"
spool   = "spool"
control = {control}

[tls]
certificate = "tls/cert.pem"
key         = "tls/key.pem"

[[listener]]
service = "submissions"                   # implicit TLS
listen  = "tcp:{submissions}:interface=127.0.0.1"

[[listener]]
service = "submission"                    # STARTTLS
listen  = "tcp:{submission}:interface=127.0.0.1"

[stream.transactional]
priority = 90

[retry]                                   # short, so that greylisting can be watched
schedule = ["10s", "30s", "1m", "5m"]
greylist = "10s"
expire   = "1h"

[[route]]
domain = "*"
via    = "127.0.0.1:{sandbox}"

[sandbox]
listen  = "tcp:{sandbox}:interface=127.0.0.1"
maildir = "sandbox"
"""

_WELCOME = """
relayd with a quickstart configuration in {directory}

Send a first message, from another terminal:

  set -a; . {env}; set +a
  printf 'From: %s\\nTo: friend@example.net\\nSubject: Hello\\n\\nIt works.\\n' "$RELAYD_SENDER" |
    curl -sS --url smtps://127.0.0.1:{submissions} --cacert "$RELAYD_CA" --user "$RELAYD_LOGIN:$RELAYD_PASSWORD" \\
      --mail-from "$RELAYD_SENDER" --mail-rcpt friend@example.net --crlf --upload-file -

or with swaks, which shows the conversation:

  swaks --server 127.0.0.1:{submission} --tls --auth PLAIN --auth-user "$RELAYD_LOGIN" \\
    --auth-password "$RELAYD_PASSWORD" --from "$RELAYD_SENDER" --to friend@example.net

{look}Ask how it does, or watch it (both find relayd by $RELAYD_CONTROL, set above):

  {bin}/relayctl status
  {bin}/relayd-console
"""

_LOOK = """Look at what arrived; try also unknown@, full@, greylist5@, slow5@, busy1@ or drop@example.net:

  cat {maildir}/new/*

"""


class Fault(Exception):
    """What keeps the quickstart from being made, in words for its user."""


class Quickstart(msgspec.Struct, frozen=True):
    """What was made: the configuration, its notes, and the variables of quickstart.env."""

    config: config.Config
    variables: dict[str, str]
    notes: list[str]


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    arguments = sys.argv[1:] if argv is None else list(argv)
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m relayd.quickstart DIR\n\n" + str(__doc__), file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    directory = Path(arguments[0]).absolute()
    try:
        made = prepare(directory, base_port(environ))
    except Fault as fault:
        print(f"quickstart: {fault}", file=sys.stderr)
        return 1
    print(_welcome(directory, made), flush=True)
    return 0


def base_port(environ: Mapping[str, str]) -> int:
    """RELAYD_BASE_PORT: 465, 525 and 587 are added to it.  Raises Fault."""
    text = environ.get("RELAYD_BASE_PORT") or str(BASE_PORT)
    if not (text.isascii() and text.isdigit() and int(text) + 587 < 65536):
        raise Fault(f"RELAYD_BASE_PORT is {text!r}: write a number up to {65535 - 587}")
    return int(text)


def prepare(directory: Path, base: int) -> Quickstart:
    """Makes what is missing in the directory.  Raises Fault."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _certificate(directory / "tls")
        notes = _configuration(directory, base)
        settings = config.load(directory / "relayd.toml")
        variables = _variables(directory, settings)
    except (OSError, config.ConfigError) as error:
        raise Fault(str(error)) from error
    return Quickstart(settings, variables, notes)


# The certificate.


def _certificate(tls: Path) -> None:
    """A self-signed certificate that is its own CA, so that clients can be told to trust just it."""
    tls.mkdir(exist_ok=True)
    if (tls / "cert.pem").exists() and (tls / "key.pem").exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relayd quickstart")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, decipher_only=False, **usage),
            critical=True,
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(tls / "key.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    _write(tls / "cert.pem", certificate.public_bytes(Encoding.PEM), 0o644)


# The configuration.


def _configuration(directory: Path, base: int) -> list[str]:
    """Writes relayd.toml unless it is somebody's own; gives what its user should know."""
    path = directory / "relayd.toml"
    control, notes = _control_socket(directory)
    wanted = _rendered(base, control)
    if path.exists() and not _untouched(path.read_text("utf-8", "replace")):
        return [f"{path} was edited and is kept as it is; RELAYD_BASE_PORT does not change it."]
    _write(path, wanted.encode(), 0o644)
    return notes


def _rendered(base: int, control: str) -> str:
    ports = {"submissions": base + 465, "sandbox": base + 525, "submission": base + 587}
    return _CONFIG.format(control=msgspec.json.encode(control).decode(), **ports)


def _untouched(text: str) -> bool:
    """Whether the file is as we make it, apart from ports and the place of the socket."""
    masked = _rendered(0, "").splitlines()
    lines = text.splitlines()
    varying = ("control = ", "listen  = ", "via    = ")
    return len(lines) == len(masked) and all(
        one == other or any(one.startswith(key) and other.startswith(key) for key in varying)
        for one, other in zip(lines, masked, strict=True)
    )


def _control_socket(directory: Path) -> tuple[str, list[str]]:
    """Where the control socket goes: beside the rest, or in a short place where that is too long for the kernel."""
    try:
        notation.socket_path(str(directory / "control.sock"))
    except ValueError:
        short = Path(f"/tmp/relayd-{os.getuid()}-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]}")
        control = str(_private(short) / "control.sock")
        return control, [f"The control socket is {control}: the kernel takes no path as long as {directory}'s."]
    return "control.sock", []


def _private(directory: Path) -> Path:
    """The directory, ours alone: in /tmp somebody else may have been there first."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise Fault(f"{directory} is not ours alone: remove it, or choose a directory with a shorter path")
    return directory


# The account and its connection.


def _variables(directory: Path, settings: config.Config) -> dict[str, str]:
    """Sees to the connection and writes quickstart.env."""
    path = directory / "quickstart.env"
    known = _read_variables(path)
    variables = {
        "RELAYD_LOGIN": LOGIN,
        "RELAYD_PASSWORD": _password(Path(settings.node.spool), known.get("RELAYD_PASSWORD", "")),
        "RELAYD_SENDER": SENDER,
        "RELAYD_CA": str(directory / "tls" / "cert.pem"),
        "RELAYD_CONTROL": settings.node.control,
    }
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in variables.items()]
    _write(path, "".join(lines).encode(), 0o600)
    return variables


def _read_variables(path: Path) -> dict[str, str]:
    try:
        words = shlex.split(path.read_text("utf-8"), comments=True)
    except (FileNotFoundError, ValueError):
        return {}
    return dict(word.split("=", 1) for word in words if "=" in word)


def _password(spool: Path, known: str) -> str:
    """The connection's password: the known one if it is right, else a new one."""
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Nothing else runs here, so what ends on the directory's thread needs no other to go to.
    directory = Directory(spool / "directory.sqlite", lambda call: call())
    try:
        directory.ensure_account(LOGIN, now=datetime.datetime.now().timestamp()).result()
        connection = directory.connection(LOGIN)
        if connection is not None and known and verify_password(known, connection.password):
            return known
        password = secrets.token_hex(16)
        if connection is not None:
            directory.set_password(LOGIN, password).result()
        else:
            now = datetime.datetime.now().timestamp()
            directory.add_connection(LOGIN, account=LOGIN, now=now, password=password, senders=[SENDER]).result()
        return password
    finally:
        directory.close()


# What its user reads.


def _welcome(directory: Path, made: Quickstart) -> str:
    ports = {door.service: notation.endpoint(door.listen).port for door in made.config.listener}
    sandbox = made.config.sandbox
    text = _WELCOME.format(
        directory=directory,
        env=shlex.quote(str(directory / "quickstart.env")),
        bin=Path(sys.executable).parent,
        look=_LOOK.format(maildir=shlex.quote(sandbox.maildir)) if sandbox else "",
        submissions=ports.get("submissions", BASE_PORT + 465),
        submission=ports.get("submission", BASE_PORT + 587),
    )
    return "\n".join([text, *made.notes])


def _write(path: Path, data: bytes, mode: int) -> None:
    """The file as a whole or not at all, and never readable by more than it should be."""
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    os.replace(unfinished, path)


if __name__ == "__main__":
    sys.exit(main())
