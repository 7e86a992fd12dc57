"""Reports written for people: whom they name, and what the servers said of each.

No list of mail systems: nearly all of them put the failed address at the start of a line, behind a label or a command,
or into the sentence that tells of the failure, and their reason behind it.  Every address is weighed by where it
stands; the heaviest are the recipients.  Of the returned original only its header section is of use.
"""

import re

import msgspec

from relayd.feedback.codes import codes, stage_in
from relayd.feedback.report import Recipient
from relayd.feedback.statuses import MAX_RECIPIENTS
from relayd.feedback.wording import FAILED
from relayd.reply import printable

MAX_LINES = 4000
_MAX_LINE = 1000
_MAX_DIAGNOSTIC = 2048
_MAX_BLOCK = 200  # lines that may tell of one recipient

_ADDRESS = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\-]{1,64}@[A-Za-z0-9_\-]{1,63}(?:\.[A-Za-z0-9_\-]{1,63}){1,12}"
_ADDRESSES = re.compile(rf"(?<![\w.!#$%&'*+/=?^`{{|}}~@\-]){_ADDRESS}")
_QUOTE = re.compile(r"^(?!>>> [A-Z]{4}\b)(?:[>|] ?){1,5}")  # nor the commands of a transcript
# What may stand before an address at the start of a line, and behind it.
_START = re.compile(
    r"[\s*•·\-–>\]]{0,40}(?:\d{1,3}[.)]\s{1,4})?[\[<(\"'「]{0,3}(?:smtp:|mailto:|rfc822;?\s?)?$", re.IGNORECASE
)
_END = re.compile(r"[>\])\"'」;,.]{0,3}\s*(?:$|[:;,.(\[<]|\s[-—(\[]|\.\.\.)")
_LABEL = re.compile(
    r"(?:rcpt(?: to)?|recipients?(?: e?-?mail)?(?: address)?(?:\(e?s\))?|error-for|delivery userid|not delivered to"
    r"|(?:mail|e-?mail|target|destination|failed|intended)(?: mail)? (?:address(?:es)?|recipient)"
    r"|(?:unknown|no such|invalid|bad) (?:local )?(?:user|recipient|mailbox|address|part)"
    r"|failed(?: \d{1,4} attempts)?|undeliver\w{1,6}(?: to)?|empf[aä]nger(?:adresse)?|ontvanger|adresat\w{0,4}"
    r"|destinataires?|destinatari[oa]s?|получател\w{1,3}|адрес\w{0,3}|кому|宛先|受信者|收件人|받는 ?사람)"
    r"\s?[:：=]\s{0,8}[\[<(\"']{0,3}(?:smtp:|rfc822;?\s?)?$",
    re.IGNORECASE,
)
_REPLY = re.compile(r"(?:^|\s)[245]\d\d[ -](?:\d\.\d{1,3}\.\d{1,3} )?<?$")
_SENDER = re.compile(
    r"(?:from|sender|contact|reply(?:-to)?|by|originator|(?:return|reverse)-?path|message-?id(?:entifier)?|in-reply-to"
    r"|references|help|questions?|(?:please|send) (?:e-?)?mail to|write to|absender|отправител\w{0,3}|exp[eé]diteur"
    r"|remitente|envoy[eé] par|差出人|发件人)\W{0,6}$|envelope-(?:from|sender)\W{0,3}$|https?://\S{0,200}$",
    re.IGNORECASE,
)
_PHRASE = re.compile(r"[\"']?\s{1,4}<[^<>\s]{1,64}@[^<>\s]{1,255}>")  # behind an address that is only a name
_ROLE = re.compile(
    r"(?:postmaster|mailer-daemon|abuse|no-?reply|hostmaster|support|helpdesk|webmaster)@", re.IGNORECASE
)

# Where the original begins: its fields, those of which one tells enough, and the words before it.
_ORIGINAL = re.compile(
    r"(received|return-path|delivered-to|dkim-signature|x-received|arc-[\w-]{1,30}|message-id|mime-version|from|to|cc"
    r"|subject|date|sender|reply-to|content-(?:type|transfer-encoding)|x-[\w-]{1,50}|list-[\w-]{1,20}|precedence"
    r"|feedback-id|authentication-results|user-agent|references|in-reply-to):",
    re.IGNORECASE,
)
_TRACE = frozenset(
    [
        "received",
        "return-path",
        "delivered-to",
        "dkim-signature",
        "x-received",
        "arc-seal",
        "message-id",
        "mime-version",
    ]
)
_BEGINS = re.compile(
    r"^[\s*=#>\-_—]{0,80}(?:original (?:message|mail)|(?:below|this|here|included|enclosed|attached)\b.{0,20} copy of"
    r"|unsent message|returned (?:message|mail)|message headers? follow|(?:the )?header of the original"
    r"|undelivered message|bounced e?-?mail|urspr[uü]ngliche nachricht|message (?:original|d'origine)|mensaje original"
    r"|mensagem original|messaggio originale|исходное (?:сообщение|письмо)|оригинал(?:ьное)? (?:сообщени|письм)"
    r"|元のメッセージ|原始邮件|原始郵件|原邮件)",
    re.IGNORECASE,
)
_HOST = re.compile(
    r"(?:\bhost|talking to|remote server|mail server|smtp server|by)\s<?"
    r"((?:[A-Za-z0-9_\-]{1,63}\.){1,8}[A-Za-z]{2,24})\b",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"\b(?:reason|error(?: text| message)?|diagnostic|grund|raison|motivo|причина|理由|原因|사유)"
    r"(?: \w{1,12}){0,3}\s?[:：]\s{1,4}",
    re.IGNORECASE,
)
_ENDS = re.compile(
    r"\s*(?:>>>|[245]\d\d \S+ \(smtp\)|[245]\d\d <|giving up on|i'm not going|(?:\.\.\. )?while talking|--)", re.I
)
_HEADING = re.compile(r"\s*[-=*#]{3,}[^-=*#]{1,60}[-=*#]{3,}\s*$")
_PUNCTUATION = " \t\n<>:;,.*-=\"'()[]"
_OF_ITS_OWN, _WORDS, _LEAST = 2.5, 2.0, 0.8  # weights


class Place(msgspec.Struct, frozen=True):
    """An address, where it stands and what that is worth: 3 a line or label of its own, 2 the words of a failure."""

    address: str
    line: int
    weight: float
    indent: int


def parted(text: str) -> tuple[str, str]:
    """(what the reporter says, what it returns of the original) of a text.  The original begins at words that say so
    or, in whatever language, where header fields follow one another."""
    lines = text.split("\n", MAX_LINES)[:MAX_LINES]
    fields: set[str] = set()
    start = 0
    for i, line in enumerate(lines):
        bare = _QUOTE.sub("", line[:200]).lstrip("\ufeff")
        match = _ORIGINAL.match(bare)
        if match:
            start = start if fields else i
            fields.add(match[1].lower())
            if len(fields) > (2 if _TRACE.isdisjoint(fields) else 1):
                return "\n".join(lines[:start]), "\n".join(lines[start:])
        elif bare[:1] not in (" ", "\t") or not bare.strip():  # no line that goes on with a field
            fields.clear()
        if i and _BEGINS.match(line[:200]) and not _ADDRESSES.search(line[:_MAX_LINE]):
            start = next((at for at in range(i + 1, len(lines)) if lines[at].strip(" -=_*>")), len(lines))
            return "\n".join(lines[:i]), "\n".join(lines[start:])
    return "\n".join(lines), ""


def recipients(text: str, own: frozenset[str], failed: str) -> list[Recipient]:
    """The recipients that a text names, heaviest first come in their order.  ``own`` are addresses of ours, lower
    case, which are recipients only if nobody else is; ``failed`` are those of an X-Failed-Recipients field."""
    lines = [_QUOTE.sub("", line[:_MAX_LINE]) for line in text.split("\n", MAX_LINES)[:MAX_LINES]]
    places = [place for i, line in enumerate(lines) if "@" in line for place in _weighed(line, i, own)]
    named = [one[0] for one in _ADDRESSES.finditer(failed)]
    sure = max((place.weight for place in places), default=0.0) >= _OF_ITS_OWN
    chosen = list(dict.fromkeys(address.lower() for address in named)) if named and not sure else _heaviest(places)
    spelt = {address.lower(): address for address in named + [place.address for place in reversed(places)]}
    wanted = set(chosen[:MAX_RECIPIENTS])
    starts = sorted({(place.line, place.address.lower()) for place in places if place.address.lower() in wanted})
    blocks = _blocks(lines, starts)
    common = _common(lines, starts)
    return [_recipient(spelt[address], blocks.get(address, []), common) for address in chosen[:MAX_RECIPIENTS]]


def bare_names(text: str, domain: str) -> list[str]:
    """Addresses of recipients that stand there without their domain, which is the reporter's own: words alone in a
    line, below one with a colon."""
    paragraphs = re.findall(r":[ \t]*\n((?:[ \t]{1,20}[A-Za-z0-9._-]{2,64}[ \t]*(?:\n|\Z)){1,20})", text[:4096])
    return [f"{name}@{domain}" for lines in paragraphs for name in lines.split()][:MAX_RECIPIENTS]


def unnamed(address: str, text: str) -> Recipient:
    """A recipient that the text does not name, or not in full: all of it is said of this one."""
    return _recipient(address, [text[: 4 * _MAX_DIAGNOSTIC]], "")


def _weighed(line: str, number: int, own: frozenset[str]) -> list[Place]:
    found: list[Place] = []
    indent = len(line) - len(line.lstrip(" \t*-•·>"))
    for match in _ADDRESSES.finditer(line):
        address = match[0].strip("'`")
        before, behind = line[: match.start()], line[match.end() :]
        if _SENDER.search(before[-220:]) or _PHRASE.match(behind) or "...@" in address:  # somebody shortened it
            continue
        if _LABEL.search(before[-80:]) or _REPLY.search(before[-20:]):
            weight, indent_here = 3.0, 0
        elif _START.match(before):
            weight, indent_here = (3.0 if _END.match(behind) else 2.5), indent
        else:
            weight, indent_here = (_WORDS if FAILED.search(line[:300]) else 1.0), 0
        if address.lower() in own or _ROLE.match(address):
            weight *= 0.3
        found.append(Place(address, number, weight, indent_here))
    return found


def _heaviest(places: list[Place]) -> list[str]:
    """Lower-case addresses, each once.  Of those that begin a line the first sets how far they are indented: the words
    of a remote server, deeper within, may begin with an address too."""
    for least in (_OF_ITS_OWN, _WORDS):
        group = [place for place in places if place.weight >= least]
        if group:
            deepest = min(place.indent for place in group if place.line == group[0].line)
            near = [place for place in group if place.indent <= max(deepest, 0) + 1]
            return list(dict.fromkeys(place.address.lower() for place in near))
    best = max((place.weight for place in places), default=0.0)
    return [next(place.address.lower() for place in places if place.weight == best)] if best >= _LEAST else []


def _blocks(lines: list[str], starts: list[tuple[int, str]]) -> dict[str, list[str]]:
    """For every address the texts from where it stands to where the next one does."""
    found: dict[str, list[str]] = {}
    for i, (line, address) in enumerate(starts):
        if i and starts[i - 1][1] == address:
            continue
        end = next((starts[k][0] for k in range(i + 1, len(starts)) if starts[k][1] != address), len(lines))
        begin = line
        while line - begin < 20 and begin and lines[begin - 1].lstrip().startswith(("<<<", ">>>")):
            begin -= 1  # the server's words, said before it is told of whom
        found.setdefault(address, []).append(_cut(lines[begin : max(end, line + 1)]))
    return found


def _common(lines: list[str], starts: list[tuple[int, str]]) -> str:
    """What is said of all: behind the last address, or else before the first."""
    first, last = (starts[0][0], starts[-1][0]) if starts else (len(lines), len(lines))
    before, behind = _cut(lines[max(first - 40, 0) : first]), _cut(lines[last + 1 :])
    return before if any(codes(before)[:2]) or not behind.strip() else behind


def _cut(lines: list[str]) -> str:
    return "\n".join(lines[:_MAX_BLOCK])[: 4 * _MAX_DIAGNOSTIC]


def _recipient(address: str, blocks: list[str], common: str) -> Recipient:
    telling = [block for block in blocks if any(codes(block)[:2])]
    block = telling[0] if telling else max(blocks, key=len, default="")
    if telling or not common.strip():
        text = block
    else:
        line, _, more = block.partition("\n")
        bare = "" if _REASON.search(common) and not more.strip(_PUNCTUATION) else line.replace(address, "", 1) + more
        text = block if bare.strip(_PUNCTUATION) and not any(codes(common)[:2]) else common
    code, status, start = codes(text)
    if not code and not text[start + len(status) :].partition("\n")[0].strip(_PUNCTUATION):
        start = -1  # the status stands behind the words, as in "no such box. (#5.1.1)"
    host = _HOST.search(text)
    return Recipient(
        final=printable(address, 320),
        status=status,
        code=code,
        diagnostic=_diagnostic(text, start, address),
        remote_mta=printable(host[1], 255) if host else "",
        stage=stage_in(text),
    )


def _diagnostic(text: str, start: int, address: str) -> str:
    """The words of the server, which begin at a code, else behind a label, else are the text.  Behind a beginning of
    their own they end where the reporter goes on, in a paragraph or a line of its own."""
    reason = _REASON.search(text)
    said = text[start:] if start >= 0 else text[reason.end() :] if reason else text
    bare = [part.replace(address, "").strip(_PUNCTUATION) for part in said.split("\n\n")]
    parts = [part for part, left in zip(said.split("\n\n"), bare, strict=True) if left]
    lines = "\n".join(
        parts[:1] if start >= 0 or reason or (bare[0] and parts[0].lstrip(_PUNCTUATION).startswith(address)) else parts
    ).split("\n")
    end = next((i for i, line in enumerate(lines) if i and _ENDS.match(line)), len(lines))
    kept = (line.strip() for line in lines[:end] if line.strip(_PUNCTUATION) and not _HEADING.match(line))
    return printable(" ".join(" ".join(kept).split()).rstrip("'\"]) "), _MAX_DIAGNOSTIC)
