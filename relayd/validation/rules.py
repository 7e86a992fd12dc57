"""What a stream wants of its recipients' addresses, and what was found wrong with one of them.  Plain values.

A rule says what becomes of a recipient that fails its check: "accept" it all the same, "refuse" it at RCPT, or "drop"
it: the client reads 250, the record says why it was not sent.
"""

from typing import Literal

import msgspec

from relayd import notation
from relayd.reply import Reply

Check = Literal["syntax", "typo", "disposable", "role", "domain", "dead"]
Verdict = Literal["accept", "refuse", "drop"]

_VERDICTS = ("accept", "refuse", "drop")


class Rules(msgspec.Struct, frozen=True):
    """One verdict for each check.  ``dead``: what becomes of addresses that are known to exist no more; these are
    entries of suppression lists, added for a bounce, so that room finds them and this rule only decides."""

    syntax: Verdict = "accept"
    typo: Verdict = "accept"
    disposable: Verdict = "accept"
    role: Verdict = "accept"
    domain: Verdict = "accept"
    dead: Verdict = "accept"


OFF = Rules()
BULK = Rules(syntax="refuse", typo="refuse", disposable="refuse", role="refuse", domain="refuse", dead="refuse")
_PRESETS = {"off": OFF, "bulk": BULK}


class Finding(msgspec.Struct, frozen=True):
    """What is wrong with an address, and what becomes of the recipient: "refuse" or "drop".  ``reply`` answers RCPT if
    it is refused; its text, in words for a record too, is ``text``."""

    check: Check
    verdict: Verdict
    reply: Reply

    @property
    def text(self) -> str:
        return self.reply.text


def parse_rules(value: object) -> Rules:
    """``"off"``, ``"bulk"``, or a table of what differs from bulk: ``{ role = "accept", typo = "drop" }``.  The same in
    TOML and in JSON.  Raises ValueError."""
    if isinstance(value, dict):
        return msgspec.structs.replace(BULK, **{_check(key): _verdict(key, item) for key, item in value.items()})
    if not isinstance(value, str) or value not in _PRESETS:
        raise ValueError(f'{value!r} is not a validation: write "off", "bulk" or a table such as {{ role = "accept" }}')
    return _PRESETS[value]


def _check(key: str) -> str:
    known = Rules.__struct_fields__
    if key not in known:
        raise ValueError(f"there is no check {key!r}{notation.nearest(key, known)}: write {', '.join(known)}")
    return key


def _verdict(key: str, value: object) -> str:
    if value not in _VERDICTS:
        raise ValueError(f'{key} is {value!r}: write "accept", "refuse" or "drop"')
    return str(value)
