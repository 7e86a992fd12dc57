"""Headers that steer: what a sender asks of relayd in a message's own header section, where any client can write it.

In: the fields of these names as ``headers.survey`` found them.  Out: ``Steering``, or a sentence that names the header
and says what to write.  None of them is delivered.  Values are UTF-8, raw or in encoded words (RFC 2047): libraries
make such words unasked, Python's even of long ASCII.  A value that is empty counts as not there, so that a template may
leave it out.
"""

import re
from binascii import a2b_base64, a2b_qp
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import msgspec

from relayd import notation
from relayd.envelope import UNSTEERED, Steering
from relayd.errors import InputError
from relayd.message import window
from relayd.reply import printable

AHEAD = 30 * 86400.0  # seconds that Send-At may lie in the future, and that a life by Expire may last
SHORTEST = 60.0  # seconds of life: less than a retry takes
TAGS = 10
PAIRS = 20  # of Meta

# Header, and the most octets of its value.
_LONGEST = {
    "X-Track-ID": 512,
    "X-Relayd-Stream": 64,
    "X-Relayd-Client": 255,
    "X-Relayd-Tag": 128,
    "X-Relayd-Meta": 4096,
    "X-Relayd-Send-At": 64,
    "X-Relayd-Window": 255,
    "X-Relayd-Expire": 64,
    "X-Relayd-Track": 16,
    "X-Relayd-Idempotency-Key": 128,
}
NAMES = {header.lower().encode(): header for header in _LONGEST}  # lower-case field name: the header as it is written

_TRACK = ("none", "opens", "clicks", "all")
_KEY = re.compile(r"[!-~]+")
_WORD = re.compile(rb"=\?([\w-]+)\?([bq])\?([^?\s]*)\?=", re.IGNORECASE)
_BETWEEN_WORDS = re.compile(rb"(?<=\?=)\s+(?==\?)")
_UNIX = re.compile(r"\d{10}", re.ASCII)
_EXAMPLE = "2026-12-24T09:00:00+03:00"


class SteeringError(InputError):
    """A header that steers cannot be followed: ``field`` names it, ``text`` says why and what to write."""


def read(fields: Iterable[tuple[bytes, bytes]], now: float) -> Steering:
    """``fields``: (lower-case name, value with its folds).  ``now``: unix seconds.  Raises SteeringError."""
    said, tags = _said(fields)
    found: dict[str, Any] = {_PARSERS[header][0]: _parsed(header, value) for header, value in said.items()}
    if tags:
        found["tags"] = tuple(dict.fromkeys(map(_safe, tags)))
    send_at, expire = found.pop("send_at", now), found.pop("expire", None)
    if send_at > now + AHEAD:
        raise SteeringError("X-Relayd-Send-At", f"{_short(said['X-Relayd-Send-At'])} is more than 30 days ahead")
    if send_at > now:
        found["send_at"] = send_at
    if expire:
        found["expire"] = expire(max(now, send_at))
    steering = Steering(**found) if found else UNSTEERED
    if steering.expire and starts(steering, now) >= steering.expire:
        raise SteeringError("X-Relayd-Expire", "the message would expire before its X-Relayd-Window opens")
    return steering


def starts(steering: Steering, received: float) -> float:
    """When the message may first go: its life counts from then."""
    if steering is UNSTEERED:
        return received
    start = max(received, steering.send_at)
    return window.stored(steering.window).next_open(start) if steering.window else start


def ends(steering: Steering, received: float, life: float) -> float:
    """When the message is given up that lives ``life`` seconds by the rules of its stream."""
    end = starts(steering, received) + life
    return min(end, steering.expire) if steering.expire else end


def _said(fields: Iterable[tuple[bytes, bytes]]) -> tuple[dict[str, str], list[str]]:
    """Header to value, and the tags; what is empty is left out.  Each header once, only Tag may be repeated."""
    said: dict[str, str] = {}
    tags: list[str] = []
    for name, raw in fields:
        header = NAMES.get(name)
        if header is None:
            unknown = printable(name, 60)
            raise SteeringError(unknown, f"there is no such header{notation.nearest(unknown, NAMES.values())}")
        if header in said:
            raise SteeringError(header, "is there twice: write it once")
        if len(tags) == TAGS and header == "X-Relayd-Tag":
            raise SteeringError(header, f"is there more than {TAGS} times")
        value = _text(header, raw)
        if header == "X-Relayd-Tag":
            tags.append(value)
        else:
            said[header] = value
    return {header: value for header, value in said.items() if value}, list(filter(None, tags))


def _text(header: str, raw: bytes) -> str:
    """The value without its folds."""
    value = raw.replace(b"\r\n", b"")
    try:
        if b"=?" in value:
            value = _WORD.sub(_decoded, _BETWEEN_WORDS.sub(b"", value))
        text = value.decode().strip()
    except ValueError:
        raise SteeringError(header, "is not UTF-8") from None
    if len(value) > _LONGEST[header]:
        raise SteeringError(header, f"has {len(value)} bytes, at most {_LONGEST[header]} are taken")
    return text


def _decoded(word: re.Match[bytes]) -> bytes:
    charset, encoding, text = word.groups()
    if charset.lower() not in (b"utf-8", b"us-ascii"):
        raise ValueError
    return a2b_base64(text) if encoding in b"bB" else a2b_qp(text, header=True)


def _parsed(header: str, value: str) -> Any:
    try:
        return _PARSERS[header][1](value)
    except ValueError as error:
        raise SteeringError(header, str(error)) from None


def _safe(text: str) -> str:
    """Text that may go into records and onto terminals, in one line."""
    return printable(text, 4 * _LONGEST["X-Relayd-Meta"]).replace("\n", "\\x0a").replace("\t", " ")


def _short(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:60] + "…")


# One parser for each header: text to value, or ValueError with a sentence.


def _meta(value: str) -> dict[str, str]:
    try:
        pairs = msgspec.json.decode(value, type=dict[str, str])
    except msgspec.DecodeError as error:
        fault = printable(str(error), 100)
        raise ValueError(f'is no JSON object of texts ({fault}): write {{"order": "17", "shop": "north"}}') from None
    if len(pairs) > PAIRS:
        raise ValueError(f"has {len(pairs)} pairs, at most {PAIRS} are taken")
    return {_safe(key): _safe(text) for key, text in pairs.items()}


def _moment(value: str) -> float:
    if _UNIX.fullmatch(value):
        return float(value)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{_short(value)} is no time: write {_EXAMPLE} or unix seconds") from None
    if moment.tzinfo is None:
        raise ValueError(f"{_short(value)} does not say its offset from UTC: write {_EXAMPLE}")
    return moment.timestamp()


def _expire(value: str) -> Callable[[float], float]:
    """Gives the end of a life from its start."""

    def end(start: float) -> float:
        end = start + after if after else at
        if not SHORTEST <= end - start <= AHEAD:
            raise SteeringError("X-Relayd-Expire", f"{_short(value)} leaves no life of 1 minute to 30 days")
        return end

    after = at = 0.0
    try:
        after = notation.duration(value)
    except ValueError:
        try:
            at = _moment(value)
        except ValueError:
            raise ValueError(f'{_short(value)} is no time: write "90m", "6h", "2d" or {_EXAMPLE}') from None
    return end


def _window(value: str) -> str:
    value = " ".join(value.split())
    window.parse(value)
    return value


def _track(value: str) -> str:
    if value.lower() not in _TRACK:
        raise ValueError(f"{_short(value)} is none of {', '.join(_TRACK)}")
    return value.lower()


def _key(value: str) -> str:
    if not _KEY.fullmatch(value):
        raise ValueError("takes letters, digits and other visible ASCII characters, no spaces")
    return value


_PARSERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "X-Track-ID": ("track_id", _safe),
    "X-Relayd-Stream": ("stream", notation.name),
    "X-Relayd-Client": ("client", _safe),
    "X-Relayd-Meta": ("meta", _meta),
    "X-Relayd-Send-At": ("send_at", _moment),
    "X-Relayd-Window": ("window", _window),
    "X-Relayd-Expire": ("expire", _expire),
    "X-Relayd-Track": ("track", _track),
    "X-Relayd-Idempotency-Key": ("key", _key),
}
