"""SASL PLAIN (RFC 4616) and LOGIN, as SMTP carries them (RFC 4954): the server's side, and the client's PLAIN.

In: the client's base64 lines.  Out: challenges, then credentials; what they are worth is not decided here.
A mechanism is a generator: it yields challenges, is sent responses, and returns the credentials.
"""

import base64
import binascii
from collections.abc import Callable, Generator

import msgspec

from relayd import catalogue
from relayd.reply import Reply

MAX_LOGIN = 255
MAX_PASSWORD = 1024


class Credentials(msgspec.Struct, frozen=True):
    """What the client claims to be."""

    login: str
    password: str


class AuthError(ValueError):
    """The exchange ends here; ``reply`` says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


Mechanism = Generator[bytes, bytes, Credentials]


def _plain() -> Mechanism:
    message = yield b""
    parts = message.split(b"\0")
    if len(parts) != 3:
        raise AuthError(catalogue.MALFORMED)
    identity, login, password = parts
    if identity not in (b"", login):
        raise AuthError(catalogue.OTHER_IDENTITY)
    return _credentials(login, password)


def _login() -> Mechanism:
    login = yield b"Username:"
    password = yield b"Password:"
    return _credentials(login, password)


MECHANISMS: dict[str, Callable[[], Mechanism]] = {"PLAIN": _plain, "LOGIN": _login}


class Exchange:
    """One AUTH command's dialogue.  ``first`` is the challenge, base64, to send where no initial response came."""

    def __init__(self, mechanism: str) -> None:
        """Raises KeyError for a mechanism that is not in MECHANISMS."""
        self.mechanism = mechanism
        self._generator = MECHANISMS[mechanism]()
        self.first = base64.b64encode(next(self._generator))

    def initial(self, response: bytes) -> bytes | Credentials:
        """As ``respond``, for the response on the AUTH line, where "=" is the empty one (RFC 4954 section 4)."""
        return self.respond(b"" if response == b"=" else response)

    def respond(self, line: bytes) -> bytes | Credentials:
        """The next challenge in base64, or the credentials.  Raises AuthError."""
        if line == b"*":
            raise AuthError(catalogue.CANCELLED)
        try:
            response = base64.b64decode(line, validate=True)
        except binascii.Error as error:
            raise AuthError(catalogue.MALFORMED) from error
        try:
            return base64.b64encode(self._generator.send(response))
        except StopIteration as done:
            credentials: Credentials = done.value
            return credentials


def plain_initial(login: str, password: str) -> bytes:
    """The client's initial response of AUTH PLAIN, base64.  Raises ValueError for a NUL in either."""
    if "\0" in login or "\0" in password:
        raise ValueError("a login or password for AUTH PLAIN cannot contain NUL")
    return base64.b64encode(f"\0{login}\0{password}".encode())


def _credentials(login: bytes, password: bytes) -> Credentials:
    if not 0 < len(login) <= MAX_LOGIN or len(password) > MAX_PASSWORD or b"\0" in login + password:
        raise AuthError(catalogue.MALFORMED)
    try:
        credentials = Credentials(login.decode("utf-8"), password.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise AuthError(catalogue.MALFORMED) from error
    if not credentials.login.isprintable():
        raise AuthError(catalogue.MALFORMED)  # a login is shown in records and on the console
    return credentials
