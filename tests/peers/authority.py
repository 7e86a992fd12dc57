"""A certificate authority of a test's own, and what it signs: with RSA keys, which every peer can use."""

import datetime
import ipaddress
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


class Authority:
    """``file`` is its certificate."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._key = _key()
        self._name = _name("Peers' Own Authority")
        made = _certificate(self._name, self._key, self._name, self._key, x509.BasicConstraints(True, 0))
        file.write_bytes(made.public_bytes(Encoding.PEM))

    @cached_property
    def _servers_key(self) -> rsa.RSAPrivateKey:
        return _key()

    def sign(self, directory: Path, name: str) -> None:
        """NAME.pem and NAME.key for a server of that name at 127.0.0.1."""
        key = self._servers_key
        names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        made = _certificate(_name(name), key, self._name, self._key, names)
        (directory / f"{name}.pem").write_bytes(made.public_bytes(Encoding.PEM))
        (directory / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(
    subject: x509.Name, key: rsa.RSAPrivateKey, issuer: x509.Name, by: rsa.RSAPrivateKey, more: x509.ExtensionType
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(more, critical=isinstance(more, x509.BasicConstraints))
        .sign(by, hashes.SHA256())
    )
