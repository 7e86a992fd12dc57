"""What a refusal can mean, and what follows from it.

Enter: a class and whether the reply is permanent.  Leave: the decision.  ``decide`` is the only place that makes one:
whoever wants to know whether to retry asks it, so that class and retry never disagree.
"""

from typing import Literal, get_args

import msgspec

Class = Literal[
    "recipient_unknown",
    "recipient_filtered",
    "mailbox_full",
    "mailbox_disabled",
    "domain_unknown",
    "domain_no_mail",
    "rate_limited",
    "greylist",
    "ip_blocked",
    "ip_ptr",
    "reputation",
    "content_spam",
    "content_virus",
    "content_other",
    "content_rfc",
    "message_too_big",
    "auth_failure",
    "sender_rejected",
    "policy",
    "relay_denied",
    "security",
    "tls",
    "protocol",
    "network",
    "remote_system",
    "expired",
    "unknown",
]
Blame = Literal["content", "ip", "sender", "recipient", "system"]
Suppress = Literal["no", "at_once", "after_n", "for_a_time"]

CLASSES: tuple[Class, ...] = get_args(Class)
BLAMES: tuple[Blame, ...] = get_args(Blame)


class Decision(msgspec.Struct, frozen=True):
    """``retry``: the delivery stays queued; else it is over.  ``suppress``: what becomes of the address.  ``hold``: the
    next message of this path would hear the same, so the path should rest.  ``blame``: whose record it goes on."""

    retry: bool
    suppress: Suppress
    hold: bool
    blame: Blame


class Nature(msgspec.Struct, frozen=True):
    """Of a class: who is to blame, what a permanent refusal does to the address, and whether it ends the delivery: what
    is wrong with our IP passes, or an operator mends it, and the recipient can do nothing about it."""

    blame: Blame
    suppress: Suppress = "no"
    final: bool = True


NATURES: dict[Class, Nature] = {
    "recipient_unknown": Nature("recipient", "at_once"),
    "recipient_filtered": Nature("recipient", "after_n"),
    "mailbox_full": Nature("recipient", "for_a_time"),
    "mailbox_disabled": Nature("recipient", "after_n"),
    "domain_unknown": Nature("recipient", "after_n"),
    "domain_no_mail": Nature("recipient", "after_n"),
    "rate_limited": Nature("ip", final=False),
    "greylist": Nature("system", final=False),
    "ip_blocked": Nature("ip", final=False),
    "ip_ptr": Nature("ip", final=False),
    "reputation": Nature("ip", final=False),
    "content_spam": Nature("content"),
    "content_virus": Nature("content"),
    "content_other": Nature("content"),
    "content_rfc": Nature("content"),
    "message_too_big": Nature("content"),
    "auth_failure": Nature("sender"),
    "sender_rejected": Nature("sender"),
    "policy": Nature("sender"),
    "relay_denied": Nature("recipient", "after_n"),
    "security": Nature("system"),
    "tls": Nature("system"),
    "protocol": Nature("system"),
    "network": Nature("system"),
    "remote_system": Nature("system"),
    "expired": Nature("system"),
    "unknown": Nature("system"),
}


def decide(cls: Class, permanent: bool, blame: Blame | None = None) -> Decision:
    """What follows from a class.  A transient reply is always retried; what is retried suppresses nobody, and nobody is
    suppressed for what somebody else is to blame for.  ``blame`` is a rule that knows better than its class."""
    nature = NATURES[cls]
    to_blame = blame or nature.blame
    retry = not permanent or not nature.final
    suppress = "no" if retry or to_blame != "recipient" else nature.suppress
    return Decision(retry, suppress, to_blame == "ip", to_blame)


# Names that others have for the classes, as customers' tools expect them: KumoMTA (PowerMTA's are the same), Momentum
# (SparkPost's numbers too), django-anymail's reject_reason, Unisender Go's delivery_status.
SYSTEMS = ("kumomta", "momentum", "anymail", "unisender")
_NAMES: dict[Class, tuple[str, str, str, str]] = {
    "recipient_unknown": ("InvalidRecipient", "10 Invalid Recipient", "invalid", "err_user_unknown"),
    "recipient_filtered": ("PolicyRelated", "25 Admin Failure", "blocked", "err_delivery_failed"),
    "mailbox_full": ("QuotaIssues", "22 Mailbox Full", "bounced", "err_mailbox_full"),
    "mailbox_disabled": ("InactiveMailbox", "10 Invalid Recipient", "bounced", "err_user_inactive"),
    "domain_unknown": ("BadDomain", "21 DNS Failure", "invalid", "err_domain_inactive"),
    "domain_no_mail": ("BadDomain", "10 Invalid Recipient", "invalid", "err_domain_inactive"),
    "rate_limited": ("TransientFailure", "70 Transient Failure", "blocked", "err_delivery_failed"),
    "greylist": ("TransientFailure", "70 Transient Failure", "other", "err_delivery_failed"),
    "ip_blocked": ("SpamBlock", "51 Spam Block", "blocked", "err_blacklisted"),
    "ip_ptr": ("BadConfiguration", "50 Mail Block", "blocked", "err_blacklisted"),
    "reputation": ("SpamBlock", "51 Spam Block", "blocked", "err_blacklisted"),
    "content_spam": ("SpamContent", "52 Spam Content", "spam", "err_spam_rejected"),
    "content_virus": ("VirusRelated", "53 Prohibited Attachment", "blocked", "err_spam_rejected"),
    "content_other": ("ContentRelated", "53 Prohibited Attachment", "blocked", "err_delivery_failed"),
    "content_rfc": ("ContentRelated", "50 Mail Block", "blocked", "err_delivery_failed"),
    "message_too_big": ("ContentRelated", "23 Too Large", "bounced", "err_too_large"),
    "auth_failure": ("AuthenticationFailed", "50 Mail Block", "blocked", "err_delivery_failed"),
    "sender_rejected": ("InvalidSender", "50 Mail Block", "blocked", "err_delivery_failed"),
    "policy": ("PolicyRelated", "50 Mail Block", "blocked", "err_delivery_failed"),
    "relay_denied": ("RelayDenied", "54 Relaying Denied", "blocked", "err_destination_misconfigured"),
    "security": ("AuthenticationFailed", "54 Relaying Denied", "blocked", "err_destination_misconfigured"),
    "tls": ("ProtocolErrors", "20 Soft Bounce", "other", "err_destination_misconfigured"),
    "protocol": ("ProtocolErrors", "20 Soft Bounce", "other", "err_destination_misconfigured"),
    "network": ("BadConnection", "20 Soft Bounce", "other", "err_unreachable"),
    "remote_system": ("TransientFailure", "70 Transient Failure", "other", "err_delivery_failed"),
    "expired": ("MessageExpired", "24 Timeout", "timed_out", "err_unreachable"),
    "unknown": ("Uncategorized", "1 Undetermined", "other", "err_delivery_failed"),
}


def names(cls: Class) -> dict[str, str]:
    """What others call the class: system to name."""
    return dict(zip(SYSTEMS, _NAMES[cls], strict=True))
