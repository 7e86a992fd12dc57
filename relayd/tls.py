"""TLS contexts: ours as a server, reloaded with the certificate; and the ones we use towards mail servers.

TLS 1.2 at least, both ways (RFC 8996).  Enter: PEM files, the peer's name.  Leave: what ``startTLS`` and
``TLSMemoryBIOFactory`` take; and in words what a finished handshake agreed on.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import VerificationError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLContextFactory
from twisted.internet.ssl import Certificate, optionsForClientTLS, platformTrust, trustRootFromCertificates
from zope.interface import implementer

from relayd.reply import printable

KEPT = 2000  # sessions to resume, and contexts that verify


@implementer(IOpenSSLContextFactory)
class ServerTLS:
    """The certificate we show, until it ``expires`` (unix seconds).  Raises OpenSSL.SSL.Error, OSError or ValueError
    for files that cannot be used."""

    def __init__(self, certificate: str, key: str) -> None:
        self.certificate = certificate
        self.key = key
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_COMPRESSION)
        context.set_session_id(b"relayd")
        context.use_certificate_chain_file(self.certificate)
        context.use_privatekey_file(self.key)
        context.check_privatekey()
        self._context = context
        leaf = load_pem_x509_certificates(Path(certificate).read_bytes())[0]
        self.expires = leaf.not_valid_after_utc.timestamp()

    def replace(self, other: "ServerTLS") -> None:
        """Takes over another's certificate."""
        self.certificate, self.key, self._context = other.certificate, other.key, other._context
        self.expires = other.expires

    def getContext(self) -> SSL.Context:
        return self._context


class ClientTLS:
    """How we meet mail servers: contexts made once, sessions resumed.  ``authorities``: a PEM file of the certificate
    authorities that `verify` trusts, "" for the system's.  Raises OSError or OpenSSL.SSL.Error for one of no use."""

    def __init__(self, authorities: str = "") -> None:
        self._trust = trust(authorities)
        self._unproved = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self._unproved.set_min_proto_version(SSL.TLS1_2_VERSION)
        self._unproved.set_options(SSL.OP_NO_COMPRESSION)
        self._proved: OrderedDict[str, Any] = OrderedDict()
        self._sessions: OrderedDict[tuple[str, str, bool], SSL.Session] = OrderedDict()

    def towards(self, name: str, address: str, *, verify: bool) -> "Meeting":
        """What to start TLS with.  ``verify`` demands a valid certificate of that name (service-identity, RFC 9525);
        otherwise there is encryption without proof of who the peer is: what mail between strangers gets (RFC 7435)."""
        return Meeting(self, name, address, verify)

    def connection(self, name: str, tls: Any, *, verify: bool) -> SSL.Connection:
        if verify:
            options = self._proved.get(name)
            if options is None:
                options = optionsForClientTLS(name, self._trust)
                _remember(self._proved, name, options)
            return cast(SSL.Connection, options.clientConnectionForTLS(tls))
        connection = SSL.Connection(self._unproved, None)
        connection.set_app_data(tls)
        if name.isascii() and not is_address(name):
            connection.set_tlsext_host_name(name.encode())
        return connection

    def session(self, key: tuple[str, str, bool]) -> SSL.Session | None:
        return self._sessions.get(key)

    def keep(self, key: tuple[str, str, bool], session: SSL.Session) -> None:
        _remember(self._sessions, key, session)


@implementer(IOpenSSLClientConnectionCreator)
class Meeting:
    """One handshake with one peer."""

    def __init__(self, tls: ClientTLS, name: str, address: str, verify: bool) -> None:
        self._tls = tls
        self._key = (name, address, verify)

    def clientConnectionForTLS(self, tls: Any) -> SSL.Connection:
        connection = self._tls.connection(self._key[0], tls, verify=self._key[2])
        session = self._tls.session(self._key)
        if session is not None:
            connection.set_session(session)
        return connection

    def over(self, transport: Any) -> None:
        """What was agreed on is kept to be resumed: the next handshake costs half (RFC 8446 section 2.2)."""
        connection = _connection(transport)
        session = connection.get_session() if connection else None
        if session is not None:
            self._tls.keep(self._key, session)


def trust(authorities: str) -> Any:
    """Whose certificates count: those in a PEM file, with "" the system's.  Raises OSError or ValueError."""
    if not authorities:
        return platformTrust()
    found = load_pem_x509_certificates(Path(authorities).read_bytes())
    return trustRootFromCertificates([Certificate(X509.from_cryptography(one)) for one in found])


def _remember(memory: "OrderedDict[Any, Any]", key: Any, value: Any) -> None:
    memory.pop(key, None)
    memory[key] = value
    if len(memory) > KEPT:
        memory.popitem(last=False)


def is_address(host: str) -> bool:
    """Whether this is an IP address, not a name."""
    return ":" in host or host.replace(".", "").isdigit()


def _connection(transport: Any) -> SSL.Connection | None:
    # After STARTTLS the transport is the TCP one still: only its handle tells.
    handle = transport.getHandle() if hasattr(transport, "getHandle") else None
    return handle if isinstance(handle, SSL.Connection) else None


def agreed(transport: Any) -> str:
    """What a finished handshake agreed on: version, cipher, and the peer's certificate if it showed one, such as
    "TLSv1.3 TLS_AES_256_GCM_SHA384, certificate CN=mx.example sha256 9f86d081884c7d65"; "" without TLS."""
    connection = _connection(transport)
    if connection is None:
        return ""
    words = f"{connection.get_protocol_version_name()} {connection.get_cipher_name() or ''}".strip()
    shown = connection.get_peer_certificate(as_cryptography=True)
    if shown is not None:
        subject = shown.subject.rfc4514_string()[:128] or "without a subject"
        words += f", certificate {subject} sha256 {shown.fingerprint(SHA256()).hex()[:16]}"
    return printable(words)


def failure(error: Any) -> str:
    """Why a handshake failed, in words; "" if the error is not TLS's."""
    if isinstance(error, VerificationError):
        return "the certificate is not of the server's name"
    if isinstance(error, SSL.Error):
        reasons = [str(part[-1]) for part in (error.args[0] if error.args else ()) if part]
        return "TLS failed: " + (", ".join(reasons) or "the connection was closed")
    return ""
