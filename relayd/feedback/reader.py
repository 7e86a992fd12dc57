"""The bytes of a message that came back, read into a ``Report``.  Whatever they are: no exception, bounded work."""

import re

from msgspec.structs import replace

from relayd.feedback import prose, statuses
from relayd.feedback.codes import codes, merged
from relayd.feedback.complaints import complaint_of
from relayd.feedback.mime import Fields, Part, fields_of, parts, split, value, words
from relayd.feedback.notices import notice_in
from relayd.feedback.report import Action, Clue, Complaint, Kind, Recipient, Report
from relayd.feedback.wording import (
    ANSWER,
    AUTOMATIC,
    AUTOMATIC_FIELDS,
    CHALLENGE,
    CHALLENGE_FIELDS,
    DAEMON,
    DELAYED,
    FAILED,
    GIVEN_UP,
    UNSUBSCRIBE,
)
from relayd.reply import printable

MAX_NOTICE = 64 << 10  # characters of what the reporter says, all its parts together
_OPENING = 6000  # characters in which it says what it is about

_ORIGINALS = (
    "message/rfc822",
    "text/rfc822-headers",
    "message/global",
    "message/global-headers",
    "text/rfc822",
    "message/rfc822-headers",
    "message/partial",
)
_STATUS_KINDS = ("message/delivery-status", "message/global-delivery-status", "message/x-delivery-status")
_AUTHOR = re.compile(r"<([^<>]{0,320})>")
_FIELDS = re.compile(r"^[> ]{0,4}((?:reporting-mta|(?:final|original)-recipient):)", re.IGNORECASE | re.MULTILINE)
_OWN_MARK = "x-relayd-"
_MAX_CLUES = 32


def read(content: bytes, envelope_recipient: str = "") -> Report:
    """What a message is and tells.  ``envelope_recipient`` is whom it came to, where that is known: our return path."""
    head, leaves, cut = parts(content)
    notice, original = _halves(leaves)
    subject = words(value(head, "subject"))
    complaint = complaint_of(head, leaves, original, subject)
    reporter, found = _structured(leaves, notice)
    kind: Kind
    if complaint:
        kind, found = "complaint", []
    elif found and any(one.action for one in found):
        kind = _kind_of({one.action for one in found})
    else:
        kind, found = _unstructured(head, leaves, notice, original, subject, envelope_recipient)
    return Report(
        kind=kind,
        recipients=tuple(found),
        complaint=complaint,
        clues=_clues(head, original, complaint, envelope_recipient),
        subject=printable(subject, 200),
        reporter=reporter or printable(_address(value(head, "from")), 320),
        cut=cut,
    )


def _halves(leaves: list[Part]) -> tuple[str, Fields]:
    """(what the reporter says, the fields of the original that it returns)."""
    said: list[str] = []
    plain = any(part.kind == "text/plain" and part.body.strip() for part in leaves)
    original: Fields = ()
    size = 0
    for part in leaves:
        if part.kind in _ORIGINALS or _is_message(part, leaves):
            original = original or _returned(part)
        elif part.kind.startswith("text/") and not (plain and part.kind == "text/html") and size < MAX_NOTICE:
            text, rest = prose.parted(part.text())
            original = original or fields_of(rest.lstrip("\n"))
            said.append(text)
            size += len(text)
    return "\n".join(said)[:MAX_NOTICE], original


def _is_message(part: Part, leaves: list[Part]) -> bool:
    """A part whose own fields are those of a message: some return the original without a header of the part."""
    names = {name for name, _ in part.fields}
    return len(leaves) > 1 and part is not leaves[0] and bool(names & {"received", "return-path", "from"})


def _returned(part: Part) -> Fields:
    if part.kind in _ORIGINALS:
        fields, _ = split(part.raw().lstrip(b"\n"))
        return fields
    return part.fields


def _structured(leaves: list[Part], notice: str) -> tuple[str, list[Recipient]]:
    told = notice_in(leaves[0].text()) if leaves else None
    if told:
        return "", told.recipients()
    words_only, fields, _ = _FIELDS.split(notice, maxsplit=1) if _FIELDS.search(notice) else (notice, "", "")
    texts = [part.text() for part in leaves if part.kind in _STATUS_KINDS] + ([notice] if fields else [])
    for text in texts:
        reporter, found = statuses.recipients(text)
        if found:
            return reporter, _completed(found, words_only)
    return "", []


def _forwarded(leaves: list[Part]) -> list[Recipient]:
    """A report may be returned within another one, or forwarded as it came."""
    for part in leaves:
        if b"final-recipient:" not in part.body.lower():
            continue
        _, inner, _ = parts(part.raw() if part.kind in _ORIGINALS else b"")
        for text in [leaf.text() for leaf in inner if leaf.kind in _STATUS_KINDS] or [part.text()]:
            _, found = statuses.recipients(text)
            if found:
                return found
    return []


def _completed(found: list[Recipient], notice: str) -> list[Recipient]:
    """Some reporters give the server's words, or the command that they answered, only to people."""
    if all((one.diagnostic and one.stage) or one.action not in ("failed", "delayed") for one in found):
        return found
    said = prose.recipients(notice, frozenset(), "")
    if len(found) == 1 and len(said) <= 1:  # people may be told of another name of the same
        return [_with(found[0], said[0] if said else prose.unnamed(found[0].final, notice))]
    told = {one.final.lower(): one for one in said}
    return [_with(one, told.get(one.final.lower())) for one in found]


def _with(one: Recipient, told: Recipient | None) -> Recipient:
    if told is None:
        return one
    if one.diagnostic:
        return replace(one, stage=one.stage or told.stage)
    status = merged(one.status, told.status, told.code)
    mta = one.remote_mta or told.remote_mta
    return replace(
        one, status=status, code=told.code, diagnostic=told.diagnostic, remote_mta=mta, stage=one.stage or told.stage
    )


def _kind_of(actions: set[Action]) -> Kind:
    if "failed" in actions:
        return "bounce"
    return "delay" if "delayed" in actions else "success"


def _unstructured(
    head: Fields, leaves: list[Part], notice: str, original: Fields, subject: str, envelope_recipient: str
) -> tuple[Kind, list[Recipient]]:
    """What only words tell.  A bounce needs a mail system that speaks and names somebody, in whatever language; or a
    subject that only such a system writes, or no header section at all, and the words of a failure.  Automatic answers
    of people tell of addresses that do not work, too."""
    names = {name for name, _ in head}
    opening = " ".join(notice[:_OPENING].split())
    author = words(value(head, "from"))
    daemon = bool(DAEMON.search(author)) or (bool(head) and not _address(author))
    failing = bool(FAILED.search(subject)) and not ANSWER.match(subject)
    if UNSUBSCRIBE.match(subject):
        return "unsubscribe", [Recipient(final=printable(_address(value(head, "from")), 320))]
    if (_automatic(head, leaves) or AUTOMATIC.match(subject)) and not (daemon and failing):
        return "auto-reply", []
    if CHALLENGE_FIELDS & names or (not daemon and CHALLENGE.search(f"{subject}\n{opening[:500]}")):
        return "challenge", []
    answered = value(head, "auto-submitted").lower().startswith("auto-")
    told = FAILED.search(opening) or DELAYED.search(opening) or any(codes(opening)[:2])
    if ANSWER.match(subject) and FAILED.search(subject) and (forwarded := _forwarded(leaves)):
        return _kind_of({one.action for one in forwarded}), forwarded
    if not (daemon or ((failing or not head) and told)):
        return ("auto-reply" if answered else "other"), []
    own = frozenset(filter(None, (_address(value(head, "to")).lower(), envelope_recipient.lower())))
    found = prose.recipients(notice, own, value(head, "x-failed-recipients")) or _forwarded(leaves)
    if not found and not (daemon and (failing or told)) and head:
        return ("auto-reply" if answered else "other"), []
    if not found:
        domain = _address(value(head, "from")).rpartition("@")[2]
        bare = prose.bare_names(notice, domain) if domain else []
        found = [prose.unnamed(address, notice) for address in bare or [_address(value(original, "to"))]]
    late = _late(subject, opening)
    action: Action = "delayed" if late else "failed"
    return ("delay" if late else "bounce"), [replace(one, action=action) for one in found]


def _late(subject: str, opening: str) -> bool:
    if GIVEN_UP.search(subject):
        return False
    return bool(DELAYED.search(subject) or (DELAYED.search(opening) and not GIVEN_UP.search(opening)))


def _automatic(head: Fields, leaves: list[Part]) -> bool:
    """Fields that only automatic answers have, and receipts for what was read (RFC 8098)."""
    names = {name for name, _ in head}
    if names.intersection(AUTOMATIC_FIELDS) or any(part.kind == "message/disposition-notification" for part in leaves):
        return True
    precedence = (value(head, "precedence") + value(head, "x-precedence") + value(head, "preference")).lower()
    return (
        precedence.replace("-", "_").startswith(("auto_reply", "autoreply"))
        or "vacation" in value(head, "auto-submitted").lower()
    )


def _address(field: str) -> str:
    match = _AUTHOR.search(field)
    return statuses.address_in(match[1] if match else field)


def _clues(head: Fields, original: Fields, complaint: Complaint | None, envelope_recipient: str) -> tuple[Clue, ...]:
    found = [Clue("envelope", envelope_recipient)] if envelope_recipient else []
    found += [Clue("to", _address(v)) for name, v in head if name in ("to", "delivered-to", "x-original-to")]
    found += [Clue("original-mail-from", complaint.mail_from)] if complaint else []
    found += [Clue(name, v) for name, v in original if name in _MARKS or name.startswith(_OWN_MARK)]
    return tuple(Clue(clue.where, printable(clue.value)) for clue in found[:_MAX_CLUES] if clue.value)


_MARKS = ("return-path", "message-id", "list-unsubscribe", "feedback-id", "x-return-token")
