"""The words of a reply in one form, and patterns over that form.

``normal``: lower case, no accents, one line, without what differs from message to message (addresses, IPs, numbers of
sessions), so that what a provider says is the same text every time.  ``pattern``: a regular expression in which
`` ~ `` means "near, in either order".  ``needed``: the literals without which it cannot match, which spare the search.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

_MOST = 2048  # characters of a reply that are read
_KEPT = 1024  # and of its normal form: a few lines (RFC 5321 section 4.5.3.1.5: 512 octets each)
_NEAR = 60  # characters between two parts that are near
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")  # as ``reply.printable`` shows bytes that are not UTF-8
# The look-behinds stand after the first character, so that a search begins at digits only.
_CODES = re.compile(r"[245](?<![\w.#].)\d\d(?:[ -]+#?[245]\.\d{1,3}\.\d{1,3}\b(?!\.\d))?(?=[ -]|$)[ -]*")
_ENHANCED = re.compile(r"([245](?<![\w.].)\.\d{1,3}\.\d{1,3})(?![\w.]\w)")
_ADDRESS = re.compile(r"[^\s<>()\[\]:;,\"'@]{1,128}@[\w.-]*\w")
_IPV4 = re.compile(r"\d(?<![\d.].)\d{0,2}(?:\.\d{1,3}){3}(?![\d.]\d)")
_IPV6 = re.compile(r"(?<![\w:])(?:ipv6:)?(?:[0-9a-f]{0,4}:){3,7}[0-9a-f.]*")
_LONG = 15  # characters of a word that may be one
_TOKEN = re.compile(r"\b[\w-]{16,}")
_WRAPPED = re.compile(r"[245]\.\d+\.\d+ - [\w ]+ \d{3}-'(.*)'")  # Cisco's reports: its own words, then the server's


def normal(text: str) -> str:
    """A reply's text in its one form.  Addresses become "@", IP addresses "ip#", long identifiers "#"."""
    text = text[:_MOST]
    if not text.isascii() or "\\x" in text:
        text = fold(_ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)).replace("’", "'")
    words = text.lower().split()
    text = " ".join(words)
    if wrapped := _WRAPPED.match(text):
        text = wrapped[1]
    if max(map(len, words), default=0) > _LONG:
        text = _TOKEN.sub(_masked, text)
    if "@" in text:
        text = _ADDRESS.sub("@", text)
    if text.count(":") > 2:
        text = _IPV6.sub("ip#", text)
    if text.count(".") > 2:
        text = _IPV4.sub("ip#", text)
    return _CODES.sub("", text).strip()[:_KEPT]


def _masked(match: re.Match[str]) -> str:
    return "#" if any(map(str.isdigit, match[0])) else match[0]


def fold(text: str) -> str:
    """Without accents: what is written "boîte" here is written "boite" elsewhere."""
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def enhanced_in(text: str) -> str:
    """An enhanced code within the words, as qmail and Exchange write it: "sorry, no mailbox here (#5.1.1)"."""
    found = _ENHANCED.search(text[:_MOST])
    return found[1] if found else ""


def pattern(source: str, words: dict[str, str]) -> re.Pattern[str]:
    """A rule's pattern: a regular expression over the normal form, whatever its case and accents.  ``{name}`` stands
    for one of the words of that name.  Raises ValueError."""
    try:
        parts = [re.sub(r"\{([a-z_]+)\}", lambda m: f"(?:{words[m[1]]})", part) for part in source.split(" ~ ")]
    except KeyError as error:
        raise ValueError(f"{source!r}: there are no words called {error}") from None
    parts = [re.sub(r"\\.|[^\\]+", lambda m: m[0] if m[0][0] == "\\" else fold(m[0].lower()), part) for part in parts]
    if len(parts) == 2:
        (one, other), gap = parts, f".{{0,{_NEAR}}}?"
        parts = [f"(?:{one}){gap}(?:{other})|(?:{other}){gap}(?:{one})"]
    if len(parts) != 1:
        raise ValueError(f'{source!r}: " ~ " stands between two parts')
    try:
        return _compiled(parts[0])
    except re.error as error:
        raise ValueError(f"{source!r} is not a regular expression: {error}") from None


# A table is checked as it is read, read again at a reload and then used: each time with the same patterns.
_compiled = lru_cache(maxsize=4096)(re.compile)


_PIECE = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?:\?(?:[:=!]|<[=!]))?|[)|]|[*+?]\??|\{\d*,?\d*\}\??|.", re.DOTALL
)
_UNUSUAL = re.compile(r"\(\?(?![:=!]|<[=!])")  # flags, names, conditions: such a pattern is always tried
_Literals = frozenset[str]
_NONE: _Literals = frozenset()


@lru_cache(maxsize=4096)
def needed(source: str) -> _Literals:
    """Literals of which one at least stands in every text that the regular expression matches; none if none is sure."""
    if _UNUSUAL.search(source):
        return _NONE
    return _needed(iter([*_PIECE.findall(source), ")"]))


def _needed(tokens: Iterator[str]) -> _Literals:
    """Of the alternatives up to the closing bracket: one of each."""
    branches: list[_Literals] = []
    sure: list[_Literals] = []  # what the branch has for certain, one set an atom; single characters run together
    run, last = "", _NONE
    for token in tokens:
        if token[0] in "*+?{":
            optional = token[0] in "*?" or token.startswith(("{0", "{,"))
            if optional and last:
                sure.pop()
            elif optional and run:
                run = run[:-1]
            sure, run, last = [*sure, frozenset({run})], "", _NONE
            continue
        literal = (
            token if token[0] not in "\\[().|^$" else token[1] if token[0] == "\\" and not token[1].isalnum() else ""
        )
        if literal:
            run, last = run + literal, _NONE
            continue
        sure, run, last = [*sure, frozenset({run})], "", _NONE
        if token in ")|":
            branches.append(max(sure, key=_rarity, default=_NONE))
            sure = []
            if token == ")":
                break
        elif token[0] == "(":
            within = _needed(tokens)
            if within and token not in ("(?!", "(?<!"):
                sure, last = [*sure, within], within
    return frozenset().union(*branches) if all("" not in branch and branch for branch in branches) else _NONE


def _rarity(literals: _Literals) -> int:
    """The shortest one matches most; a sign of Chinese or Cyrillic says more than a Latin letter, as bytes do."""
    return min(len(literal.encode()) for literal in literals)
