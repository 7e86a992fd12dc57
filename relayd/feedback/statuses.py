"""The fields of a delivery status report (RFC 3464 section 2), where MIME says they are and where they only look so."""

import re
from collections.abc import Iterator

from relayd.feedback.codes import codes, merged, stage_in, status_in
from relayd.feedback.report import Action, Recipient
from relayd.reply import printable

MAX_RECIPIENTS = 100

_NAMES = (
    "original-recipient|final-recipient|action|status|remote-mta|diagnostic-code|last-attempt-date|final-log-id"
    "|will-retry-until|reporting-mta|original-envelope-id|dsn-gateway|received-from-mta|arrival-date"
    "|x-[\\w-]{1,60}|localized-[\\w-]{1,40}"
)
_FIELD = re.compile(rf"[>| \t]{{0,8}}({_NAMES})[ \t]*:[ \t]*(.*)", re.IGNORECASE)
_QUOTE = re.compile(r"^[>|][>| ]{0,8}")
_ADDRESS = re.compile(r"[^\s<>()\[\],;:\"]{1,128}@[\w.\-]{1,255}|\"[^\"]{1,128}\"@[\w.\-]{1,255}")
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
_ACTIONS: dict[str, Action] = {
    "failed": "failed", "failure": "failed", "fail": "failed", "delayed": "delayed", "delay": "delayed",
    "delivered": "delivered", "relayed": "relayed", "expanded": "expanded", "deliverable": "delivered",
}  # fmt: skip
_BY_CLASS: dict[str, Action] = {"2": "delivered", "4": "delayed", "5": "failed"}

Group = dict[str, str]


def recipients(text: str) -> tuple[str, list[Recipient]]:
    """(reporting MTA, recipients) of a text that holds such fields; quoted with ">" they are read as well."""
    reporter = ""
    found: list[Recipient] = []
    for group in _groups(text):
        reporter = reporter or _mta(group.get("reporting-mta", ""))
        one = recipient(group)
        if one:
            found.append(one)
            if len(found) == MAX_RECIPIENTS:
                break
    return reporter, found


def _groups(text: str) -> Iterator[Group]:
    """A group ends where one of its names comes again: empty lines are not to be relied on.  What is no field goes on
    with the field before, since some do not fold properly."""
    group: Group = {}
    last = ""
    for line in text.split("\n"):
        match = _FIELD.match(line[:2000])
        if match:
            last = match[1].lower()
            if last in group and last in ("final-recipient", "original-recipient", "action", "status"):
                yield group
                group = {}
            group.setdefault(last, match[2].strip())
        elif not line.strip(" >|\t\r"):
            if "reporting-mta" in group or ("final-recipient" in group and ("status" in group or "action" in group)):
                yield group
                group = {}
            last = ""
        elif last and len(group[last]) < 2000:
            group[last] += " " + _QUOTE.sub("", line.strip())[:2000]
    yield group


def recipient(group: Group) -> Recipient | None:
    """The recipient of a group of fields, None where it names none or tells nothing."""
    final = address_in(group.get("final-recipient", ""))
    original = address_in(group.get("original-recipient", ""))
    final = final or address_in(group.get("x-actual-recipient", "")) or original
    if not final or not ("action" in group or "status" in group or "diagnostic-code" in group):
        return None
    kind, semicolon, words = group.get("diagnostic-code", "").partition(";")
    diagnostic = (words if semicolon and len(kind) < 40 else group.get("diagnostic-code", "")).strip()
    code, said, _ = codes(diagnostic)
    status = merged(status_in(group.get("status", "")), said, code)
    action = _ACTIONS.get(group.get("action", "").split(" ")[0].strip("();,.").lower(), "")
    return Recipient(
        final=printable(final, 320),
        original=printable(original, 320),
        action=action or _BY_CLASS.get(status[:1], "failed"),
        status=status,
        code=code,
        diagnostic=printable(" ".join(diagnostic.split())),
        remote_mta=_mta(group.get("remote-mta", "")),
        stage=stage_in(diagnostic),
    )


def address_in(typed: str) -> str:
    """The address in "rfc822; <user@domain>" or any like it; RFC 6533's embedded characters are read."""
    match = _ADDRESS.search(_EMBEDDED.sub(_character, typed[:1000]))
    return match[0].strip("'.") if match else ""


def _character(match: re.Match[str]) -> str:
    point = int(match[1], 16)
    return chr(point) if 0x20 < point < 0x110000 else ""


def _mta(typed: str) -> str:
    name = typed.rpartition(";")[2].strip().split(" ")[0]
    return printable(name.strip("()<>,"), 255)
