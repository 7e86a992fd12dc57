"""What stands behind MAIL and RCPT: path and parameters, one row for each (RFC 1870, 3461, 4954, 6152, 6531).

In: the text behind the verb.  Out: what is to be asked about it, or a ParameterError with the reply.
"""

import re
from collections.abc import Callable

from relayd import catalogue
from relayd.address import AddressError, parse_path
from relayd.envelope import Recipient
from relayd.reply import Reply
from relayd.smtp import xtext
from relayd.smtp.events import MailProposed

MAX_ENVID = 100
MAX_ORCPT = 500

_FROM = re.compile(r"from\s*:", re.IGNORECASE)
_TO = re.compile(r"to\s*:", re.IGNORECASE)
_NOTIFY = re.compile(r"NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY)){0,2}")
_ORCPT = re.compile(r"([A-Za-z0-9-]+);(.+)")

Value = str | int | bool
Row = tuple[str, Callable[[str], Value]]


class ParameterError(ValueError):
    """``reply`` refuses the command."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


def read_mail(argument: str, *, with_auth: bool) -> MailProposed:
    """The argument of MAIL.  Raises ParameterError."""
    path = _FROM.match(argument)
    if path is None:
        raise ParameterError(catalogue.SYNTAX("MAIL FROM"))
    sender, rest = _path(argument[path.end() :], catalogue.BAD_SENDER)
    values = _values(rest, MAIL_WITH_AUTH if with_auth else MAIL) if rest else {}
    values.pop("auth", None)
    if sender and "@" not in sender:
        raise ParameterError(catalogue.NO_SENDER_DOMAIN)
    if not sender.isascii() and "smtputf8" not in values:
        raise ParameterError(catalogue.NEEDS_SMTPUTF8)
    return MailProposed(sender, **values)  # type: ignore[arg-type]  # the rows know the fields' types


def read_rcpt(argument: str, *, smtputf8: bool) -> Recipient:
    """The argument of RCPT.  Raises ParameterError."""
    path = _TO.match(argument)
    if path is None:
        raise ParameterError(catalogue.SYNTAX("RCPT TO"))
    address, rest = _path(argument[path.end() :], catalogue.BAD_RECIPIENT)
    values = _values(rest, RCPT) if rest else {}
    if not address:
        raise ParameterError(catalogue.EMPTY_RECIPIENT)
    if not smtputf8 and not address.isascii():
        raise ParameterError(catalogue.NEEDS_SMTPUTF8)
    return Recipient(address, **values)  # type: ignore[arg-type]  # as above


def _path(text: str, said: catalogue.Said) -> tuple[str, str]:
    try:
        # What is beyond ASCII is refused later, with its own code: SMTPUTF8 stands behind the path.
        return parse_path(text, smtputf8=True)
    except AddressError as error:
        raise ParameterError(said(error.text)) from error


def _values(text: str, rows: dict[str, Row]) -> dict[str, Value]:
    """The values of all parameters in ``text``, by field."""
    values: dict[str, Value] = {}
    for word in text.split():
        key, _, value = word.partition("=")
        key = key.upper()
        row = rows.get(key)
        if row is None:
            raise ParameterError(catalogue.UNKNOWN_PARAMETER)
        field, convert = row
        if field in values:
            raise ParameterError(catalogue.REPEATED_PARAMETER(key))
        try:
            values[field] = convert(value)
        except ValueError as error:
            raise ParameterError(catalogue.BAD_PARAMETER(key)) from error
    return values


def _size(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 20):
        raise ValueError(value)
    return int(value)


def _word(choices: dict[str, Value]) -> Callable[[str], Value]:
    def convert(value: str) -> Value:
        if value.upper() not in choices:
            raise ValueError(value)
        return choices[value.upper()]

    return convert


def _text(value: str) -> str:
    """Decoded xtext that is fit to be shown: no control characters, no bidi overrides."""
    text = xtext.decode(value)
    if not text.isprintable():
        raise ValueError(value)
    return text


def _envid(value: str) -> str:
    if not 0 < len(value) <= MAX_ENVID:
        raise ValueError(value)
    return _text(value)


def _notify(value: str) -> str:
    if not _NOTIFY.fullmatch(value.upper()):
        raise ValueError(value)
    return value.upper()


def _orcpt(value: str) -> str:
    match = _ORCPT.fullmatch(value)
    if match is None or len(value) > MAX_ORCPT:
        raise ValueError(value)
    if match[1].lower() != "utf-8":
        return f"{match[1]};{_text(match[2])}"
    if not match[2].isprintable():  # RFC 6533 section 3: its own encoding, kept as it came
        raise ValueError(value)
    return value


MAIL: dict[str, Row] = {
    "SIZE": ("size", _size),
    "BODY": ("eightbit", _word({"7BIT": False, "8BITMIME": True})),
    "SMTPUTF8": ("smtputf8", _word({"": True})),
    "RET": ("ret", _word({"FULL": "FULL", "HDRS": "HDRS"})),
    "ENVID": ("envid", _envid),
}
# Only where AUTH was offered; checked and forgotten: no client is trusted to speak for another (RFC 4954 section 5).
MAIL_WITH_AUTH: dict[str, Row] = {**MAIL, "AUTH": ("auth", _text)}
RCPT: dict[str, Row] = {"NOTIFY": ("notify", _notify), "ORCPT": ("orcpt", _orcpt)}
