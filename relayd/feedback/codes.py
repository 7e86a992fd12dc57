"""Reply codes and status codes in free text (RFC 5321 section 4.2, RFC 3463)."""

import re

# Not of a version number, an IP address or a longer run of numbers.
_STATUS = re.compile(r"(?<![\w.])([245])\.(\d{1,3})\.(\d{1,3})(?![\d]|\.\d)", re.ASCII)
_LEAD = r"(?:^|[:;,'\"(\[<>\]=#|]|said|error|errors?:?|code|was|with|returned)\s{0,4}#?"
_CODE = re.compile(rf"{_LEAD}([245][0-5]\d)(?=[ \-:,.\])'\"#]|$)(?!\.\d)", re.IGNORECASE | re.MULTILINE | re.ASCII)
_BOTH = re.compile(r"(?<![\d.])([245][0-5]\d)[ \-:,(#]{1,3}([245]\.\d{1,3}\.\d{1,3})(?![\d]|\.\d)", re.ASCII)


def codes(text: str) -> tuple[int, str, int]:
    """(reply code or 0, status or "", where in the text they begin or -1)."""
    both = _BOTH.search(text)
    if both and both[1][0] == both[2][0]:
        return int(both[1]), both[2], both.start()
    reply = _CODE.search(text)
    code = int(reply[1]) if reply else 0
    for status in _STATUS.finditer(text):
        if not code or status[1] == str(code)[0]:
            start = status.start()
            return code, status[0], min(start, reply.start(1)) if reply else start
    return code, "", reply.start(1) if reply else -1


def status_in(text: str) -> str:
    """The first status code in a Status field: some add a comment."""
    match = _STATUS.search(text)
    return match[0] if match else ""


def merged(field: str, said: str, code: int) -> str:
    """The more telling one of the status that a report gives and the one that the server said: X.0.0 tells nothing,
    nor does one that contradicts the server's reply code."""
    contradicts = code and said and field[:1] != str(code)[0] == said[0]
    if not field or contradicts or (said and field.endswith(".0.0") and not said.endswith(".0.0")):
        return said or field
    return field
