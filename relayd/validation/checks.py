"""Is this an address that bulk mail should go to?  Never answered by asking the recipient's server.

In: a stream's rules, the lists, an address; or a domain and what the DNS said of it.  Out: a finding, or None if the
recipient may be sent to.  ``check`` costs microseconds and asks nobody; only where it finds nothing need the domain be
looked up, by somebody else.  A real customer refused costs more than a bounce: what is not certain is no finding.
"""

import re
from collections.abc import Iterator

from relayd import catalogue
from relayd.address import AddressError, domain_of, parse_address
from relayd.validation.lists import Lists
from relayd.validation.rules import OFF, Check, Finding, Rules

REPLIES = {
    "syntax": catalogue.IMPOSSIBLE,
    "typo": catalogue.TYPO,
    "disposable": catalogue.DISPOSABLE,
    "role": catalogue.ROLE,
    "dead": catalogue.DEAD,
    # By the resolver's faults.  The others, LookupFailed and MailLoop, say nothing of the domain.
    "NoSuchDomain": catalogue.NO_SUCH_DOMAIN,
    "NoMail": catalogue.NO_MAIL,
    "NoRoute": catalogue.NO_ROUTE,
}

# Every top-level domain is made of letters, or is an A-label.
_DOMAIN = re.compile(r"(?:[^.]+\.)+(?:[a-z]{2,63}|xn--[a-z0-9-]+)")
# Google gives out letters and digits, at most 30, ignores dots between them, and takes mail for whatever follows a "+".
_GMAIL = ("gmail.com", "googlemail.com")
_GMAIL_NAME = re.compile(r"[A-Za-z0-9](?:\.?[A-Za-z0-9]){0,29}")


def check(rules: Rules, lists: Lists, address: str) -> Finding | None:
    """The first thing wrong that the rules do not accept.  Never raises, whatever the text."""
    if rules == OFF:
        return None
    return next(filter(None, (_judged(rules, name, *words) for name, *words in _faults(lists, address))), None)


def domain_finding(rules: Rules, domain: str, fault: str) -> Finding | None:
    """What the look-up of a domain's hosts means: ``fault`` is the name of the resolver's error, "" for none."""
    return _judged(rules, "domain", domain, reply=fault) if fault in ("NoSuchDomain", "NoMail", "NoRoute") else None


def dead_finding(rules: Rules, address: str) -> Finding | None:
    """What becomes of an address that a suppression list holds because mail to it bounced."""
    return _judged(rules, "dead", address)


def _judged(rules: Rules, check: Check, *words: str, reply: str = "") -> Finding | None:
    verdict = getattr(rules, check)
    if verdict == "accept":
        return None
    return Finding(check, verdict, REPLIES[reply or check](*words))


def _faults(lists: Lists, text: str) -> Iterator[tuple[Check, *tuple[str, ...]]]:
    """Everything wrong with an address and the words for it, the certain before the probable."""
    try:
        address = parse_address(text)
        domain = domain_of(address)
    except AddressError as error:
        yield "syntax", error.text
        return
    local = address.rpartition("@")[0]
    if fault := _syntax_fault(local, domain):
        yield "syntax", fault
    if meant := lists.typos.get(domain):
        yield "typo", domain, meant
    if _within(domain, lists.disposable):
        yield "disposable", domain
    role = local.partition("+")[0].lower()
    if role in lists.roles:
        yield "role", role


def _syntax_fault(local: str, domain: str) -> str:
    """What RFC 5321 allows and no mailbox that gets bulk mail has; "" if there is nothing."""
    if not _DOMAIN.fullmatch(domain):
        return "The domain has no top-level domain"
    if local.startswith('"'):
        return "Quoted local parts are not taken"
    if domain in _GMAIL and not _GMAIL_NAME.fullmatch(local.partition("+")[0]):
        return f"No mailbox of {domain} can have this name"
    return ""


def _within(domain: str, domains: frozenset[str]) -> bool:
    """Whether the domain or one above it is among them."""
    while domain not in domains:
        domain = domain.partition(".")[2]
        if "." not in domain:
            return False
    return True
