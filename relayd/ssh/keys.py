"""Who may come in over SSH, by a file in OpenSSH's authorized_keys format (sshd(8)), and the host's own key.

In: files.  Out: the person behind a key, and faults in words.  A line says who, and as what:

    role="operate",from="10.0.0.0/8" ssh-ed25519 AAAA... anna@laptop

Without ``role`` a key may view.  Whatever is not understood keeps its line's key out: an option may have been meant as
a limit.  A file that others could write to lets nobody in.
"""

import base64
import binascii
import hashlib
import os
import re
import stat
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from relayd import notation
from relayd.control.verb import ROLES, Role

# What a key of a kind may sign with: no SHA-1, no DSA.
SIGNATURES: dict[bytes, tuple[bytes, ...]] = {
    b"ssh-ed25519": (b"ssh-ed25519",),
    b"ecdsa-sha2-nistp256": (b"ecdsa-sha2-nistp256",),
    b"ecdsa-sha2-nistp384": (b"ecdsa-sha2-nistp384",),
    b"ecdsa-sha2-nistp521": (b"ecdsa-sha2-nistp521",),
    b"ssh-rsa": (b"rsa-sha2-512", b"rsa-sha2-256"),
}
_SHORTEST_RSA = 2048  # bits
_MOST = 1 << 20  # bytes of a file
_OPTION = re.compile(r'([a-zA-Z0-9-]+)(?:="([^"]*)")?(,|[ \t]+)')
# They take away what nobody has here.
_GIVEN = {"restrict", "no-port-forwarding", "no-agent-forwarding", "no-x11-forwarding", "no-user-rc"}


class Person(msgspec.Struct, frozen=True):
    """Whose a key is.  ``blob``: the public key as it goes over the wire; ``networks``: where it may come from, none
    is anywhere."""

    name: str
    role: Role
    blob: bytes
    networks: tuple[str, ...] = ()

    @property
    def who(self) -> str:
        """As the trail names them."""
        return f"ssh:{self.name}"

    def may_come_from(self, ip: str) -> bool:
        return not self.networks or notation.within(ip, self.networks)


def fingerprint(blob: bytes) -> str:
    """As ssh-keygen -l shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def parse(text: str) -> tuple[dict[bytes, Person], list[str]]:
    """The people of a file by their keys, and what is wrong with its other lines."""
    people: dict[bytes, Person] = {}
    faults = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            person = _person(line)
            if person.blob in people:
                raise ValueError(f"is the key of {people[person.blob].name} already")
            people[person.blob] = person
        except ValueError as error:
            faults.append(f"line {number}: {error}")
    return people, faults


def _person(line: str) -> Person:
    role: Role = "view"
    networks: tuple[str, ...] = ()
    first, *more = line.split(maxsplit=2)
    if first.encode("ascii", "replace") not in SIGNATURES and not (more and more[0].startswith("AAAA")):
        options, line = _options(line)
        for name, value in options.items():
            if name == "role":
                role = _role(value)
            elif name == "from":
                networks = notation.list_of(notation.network)([text.strip() for text in (value or "").split(",")])
            elif name not in _GIVEN or value is not None:
                raise ValueError(f"the option {name} is not one of role, from, restrict")
    kind, _, rest = line.partition(" ")
    encoded, _, comment = rest.strip().partition(" ")
    blob = _blob(kind, encoded)
    try:
        return Person(notation.name(comment.strip()), role, blob, networks)
    except ValueError:
        raise ValueError("who is it? behind the key goes a name: letters, digits and . _ @ + -") from None


def _options(line: str) -> tuple[dict[str, str | None], str]:
    """The options at the beginning of a line, and the rest."""
    found: dict[str, str | None] = {}
    at = 0
    while match := _OPTION.match(line, at):
        if match[1] in found:
            raise ValueError(f"the option {match[1]} is given twice")
        found[match[1]], at = match[2], match.end()
        if match[3] != ",":
            return found, line[at:]
    raise ValueError(f"is no key: write KIND KEY NAME, where KIND is {_kinds()}")


def _role(value: str | None) -> Role:
    for role in ROLES:
        if value == role:
            return role
    raise ValueError(f"the role {value!r} is none of {', '.join(ROLES)}")


def _kinds() -> str:
    return ", ".join(kind.decode() for kind in SIGNATURES)


def _blob(kind: str, encoded: str) -> bytes:
    """Raises ValueError for a key that is broken, weak or of a kind that is not taken."""
    wire = kind.encode("ascii", "replace")
    if wire not in SIGNATURES:
        raise ValueError(f"{kind!r} is no kind of key that is taken: {_kinds()}")
    try:
        blob = base64.b64decode(encoded, validate=True)
        fields = _fields(blob)
    except (binascii.Error, ValueError):
        raise ValueError("the key is cut off or mistyped") from None
    if not fields or fields[0] != wire:
        raise ValueError("the key is of another kind than its line says")
    if wire == b"ssh-rsa":
        bits = int.from_bytes(fields[2], "big").bit_length() if len(fields) == 3 else 0
        if bits < _SHORTEST_RSA:
            raise ValueError(f"an RSA key of {bits} bits is too weak: make another with ssh-keygen -t ed25519")
    return blob


def _fields(blob: bytes) -> list[bytes]:
    fields, at = [], 0
    while at < len(blob):
        end = at + 4 + int.from_bytes(blob[at : at + 4], "big")
        if end > len(blob):
            raise ValueError("cut off")
        fields.append(blob[at + 4 : end])
        at = end
    return fields


def read(path: str) -> tuple[dict[bytes, Person], list[str]]:
    """The people of a file, and its faults, each with the file's name.  Never raises."""
    try:
        with open(path, "rb") as file:
            _refuse_others(path, os.fstat(file.fileno()))
            raw = file.read(_MOST + 1)
        # Who may rename files there may put another in this one's place.
        above = os.path.dirname(os.path.abspath(path))
        _refuse_others(above, os.stat(above))
        if len(raw) > _MOST:
            raise ValueError(f"is larger than {_MOST >> 20} MB")
        people, faults = parse(raw.decode("utf-8"))
    except OSError as error:
        return {}, [f"{path}: {error.strerror}"]
    except ValueError as error:
        return {}, [f"{path}: {error}"]
    return people, [f"{path}, {fault}" for fault in faults]


def _refuse_others(path: str, found: os.stat_result) -> None:
    writable = stat.S_IMODE(found.st_mode) & 0o022
    if writable and not found.st_mode & stat.S_ISVTX:
        raise ValueError(f"others may write to {path}, and so let themselves in: chmod go-w {path}")
    if found.st_uid not in (0, os.getuid()):
        raise ValueError(f"{path} belongs to somebody else: chown root {path}")


class Keys:
    """The people of a file, read again when it has changed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.faults: list[str] = []
        self._people: dict[bytes, Person] = {}
        self._stamp: object = None
        self.refresh()

    def find(self, blob: bytes) -> Person | None:
        self.refresh()
        return self._people.get(blob)

    def refresh(self) -> bool:
        """Whether there is something new to say of the file."""
        stamp = _stamp(self.path)
        if stamp == self._stamp:
            return False
        self._stamp, before = stamp, self.faults
        self._people, self.faults = read(self.path)
        return self.faults != before


def _stamp(path: str) -> object:
    """What changes when the file does, or who may write to it."""
    try:
        file, above = os.stat(path), os.stat(os.path.dirname(os.path.abspath(path)))
    except OSError as error:
        return error.errno
    return file.st_ino, file.st_mtime_ns, file.st_size, file.st_mode, file.st_uid, above.st_mode, above.st_uid


def host_key(path: str) -> bytes:
    """The host's private key, as PEM; made if there is none.  Raises OSError, or ValueError for one that others can
    read."""
    try:
        return _own(path)
    except FileNotFoundError:
        pass
    key = Ed25519PrivateKey.generate()
    fresh = f"{path}.new"
    Path(fresh).unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, path)
    return _own(path)


def _own(path: str) -> bytes:
    with open(path, "rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise ValueError(f"the host key {path} can be read by others: chmod 600 {path}")
        return file.read(_MOST)
