"""Certificates for the tests' mail servers: of a trusted authority, of nobody's, of another name, expired."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """Signs certificates; ``write`` gives the file of its own."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._sign("authority.example", self._key.public_key(), 30, authority=True)

    def _sign(self, name: str, key: Any, days: int, *, authority: bool = False) -> x509.Certificate:
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("authority.example"))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=60))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        )
        return made.sign(self._key, hashes.SHA256())

    def write(self, path: Path) -> str:
        path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        return str(path)

    def context(self, name: str, *, days: int = 30, versions: tuple[int, int] | None = None) -> SSL.Context:
        """A server's, with a certificate of that name that expires in so many days."""
        key = ec.generate_private_key(ec.SECP256R1())
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.use_certificate(self._sign(name, key.public_key(), days))
        context.use_privatekey(key)
        context.set_session_id(b"hostile")
        if versions:
            context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
            context.set_min_proto_version(versions[0])
            context.set_max_proto_version(versions[1])
        return context
