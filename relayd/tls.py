"""TLS contexts: ours as a server, reloaded with the certificate; and the ones we use towards mail servers.

TLS 1.2 at least, both ways (RFC 8996).  Enter: PEM files, the peer's name.  Leave: what ``startTLS`` and
``TLSMemoryBIOFactory`` take; and in words what a finished handshake agreed on.
"""

from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLContextFactory
from twisted.internet.ssl import optionsForClientTLS
from zope.interface import implementer

from relayd.reply import printable


@implementer(IOpenSSLContextFactory)
class ServerTLS:
    """The certificate we show.  Raises OpenSSL.SSL.Error or OSError for files that cannot be used."""

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

    def replace(self, other: "ServerTLS") -> None:
        """Takes over another's certificate."""
        self.certificate, self.key, self._context = other.certificate, other.key, other._context

    def getContext(self) -> SSL.Context:
        return self._context


@implementer(IOpenSSLClientConnectionCreator)
class Opportunistic:
    """Encryption without proof of who the peer is: what mail between strangers gets (RFC 7435)."""

    def __init__(self, name: str) -> None:
        self._name = name.encode("ascii", "ignore")
        self._context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self._context.set_min_proto_version(SSL.TLS1_2_VERSION)
        self._context.set_options(SSL.OP_NO_COMPRESSION)

    def clientConnectionForTLS(self, tls: Any) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(tls)
        if self._name and not self._name.replace(b".", b"").isdigit() and b":" not in self._name:
            connection.set_tlsext_host_name(self._name)
        return connection


def client_tls(name: str, *, verify: bool) -> Any:
    """What to start TLS towards ``name`` with; ``verify``: only with a valid certificate of it."""
    return optionsForClientTLS(name) if verify else Opportunistic(name)


def agreed(transport: Any) -> str:
    """Version and cipher of a finished handshake, such as "TLSv1.3 TLS_AES_256_GCM_SHA384"; "" without TLS."""
    # After STARTTLS the transport is the TCP one still: only its handle tells.
    connection = transport.getHandle() if hasattr(transport, "getHandle") else None
    if not isinstance(connection, SSL.Connection):
        return ""
    return printable(f"{connection.get_protocol_version_name()} {connection.get_cipher_name() or ''}".strip())
