"""Reply codes, status codes and commands in free text (RFC 5321 section 4.2, RFC 3463)."""

import re
from itertools import islice

from relayd.outcome import Stage

# Not of a version number, an IP address or a longer run of numbers.
_STATUS = re.compile(r"(?<![\w.])([245])\.(\d{1,3})\.(\d{1,3})(?![\d]|\.\d)", re.ASCII)
_LEAD = r"(?:^|[:;,'\"(\[<>\]=#|]|said|error|errors?:?|code|was|with|returned)\s{0,4}#?"
_CODE = re.compile(rf"{_LEAD}([245][0-5]\d)(?=[ \-:,.\])'\"#]|$)(?!\.\d)", re.IGNORECASE | re.MULTILINE | re.ASCII)
_BOTH = re.compile(r"(?<![\d.])([245][0-5]\d)[ \-:,(#'\"]{1,3}([245]\.\d{1,3}\.\d{1,3})(?![\d]|\.\d)", re.ASCII)


_MANY = 20  # statuses of a text that are looked at

# The command that a reply answered: as Postfix, Exim, DragonFly and qmail put it, or as sessions are quoted.  DATA
# tells nothing there: sendmail quotes it with the answers to all that it sent in one go.
_ANSWERED = re.compile(
    r"(?:in (?:reply|response) to|reply to|after|did not like our|following|step:|smtp:|smtp command|refused to accept)"
    r"[^\n]{0,30}?\b(end of data|final data|data send|rcpt|mail from|data|initial connection|ehlo|helo|starttls)\b"
    r"|>>> (rcpt|mail from)|(not like recipient|\[rcpt_to\]|rejected recipient)|(after i sent the message|\(data\))",
    re.IGNORECASE,
)
_STAGES: dict[str, Stage] = {
    "end of data": "dot", "final data": "dot", "data send": "dot", "rcpt": "rcpt", "mail from": "mail", "data": "data",
    "initial connection": "banner", "ehlo": "ehlo", "helo": "ehlo", "starttls": "starttls",
}  # fmt: skip


def stage_in(text: str) -> Stage | None:
    """Which command a server's words answered, as far as they tell."""
    match = _ANSWERED.search(" ".join(text[:4096].split()))
    if match is None:
        return None
    command = match[1] or match[2]
    return _STAGES[command.lower()] if command else "rcpt" if match[3] else "dot"


def codes(text: str) -> tuple[int, str, int]:
    """(reply code or 0, status or "", where in the text they begin or -1).  X.4.7, time is up, only sums up: another
    status behind it tells why."""
    both = _BOTH.search(text)
    if both and both[1][0] == both[2][0]:
        return int(both[1]), _cause(both[2], text, both.end()), both.start()
    # What is no failure, but looks like a reply, is the name of something else while there is a failure.
    replies = list(islice(_CODE.finditer(text), _MANY))
    reply = next((one for one in replies if one[1][0] != "2"), replies[0] if replies else None)
    code, start = (int(reply[1]), reply.start(1)) if reply else (0, len(text))
    found = list(islice(_STATUS.finditer(text), _MANY))
    status = next((one for one in found if not code or one[1] == str(code)[0]), found[0] if found else None)
    if status is None:
        return code, "", start if reply else -1
    return code, _cause(status[0], text, status.end()), min(start, status.start())


def _cause(status: str, text: str, behind: int) -> str:
    if not status.endswith(".4.7"):
        return status
    others = (one[0] for one in islice(_STATUS.finditer(text, behind), _MANY))
    return next((one for one in others if one != status and one[0] == status[0]), status)


def status_in(text: str) -> str:
    """The first status code in a Status field: some add a comment."""
    match = _STATUS.search(text)
    return match[0] if match else ""


def merged(field: str, said: str, code: int) -> str:
    """Of the status that a report gives and the one that the server said: the server's, which the report sums up,
    unless it tells nothing or is of another class than both the field and the server's reply code."""
    if said and (not field or said[0] == field[0] or (code and str(code)[0] == said[0])) and not said.endswith(".0.0"):
        return said
    return field or said
