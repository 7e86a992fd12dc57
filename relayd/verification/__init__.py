"""Verification of sender domains: does the DNS say that this relay may send for a domain, and if not, what to publish.

No I/O: a check is a generator that yields questions to the DNS and is sent the answers.  In: a ``Subject`` (the domain,
its keys, the addresses it is sent from).  Out: ``Finding``s.  RFC 6376 (DKIM), 7208 (SPF), 9989 (DMARC).
Floors within: asking < policy (SPF's records), dmarc < spf < checks, zones.
"""

from relayd.verification.asking import Asking, Found, Question
from relayd.verification.checks import check, proved, records
from relayd.verification.findings import Finding, Publish, Source, Subject
from relayd.verification.zones import returning, returns_to

__all__ = [
    "Asking",
    "Finding",
    "Found",
    "Publish",
    "Question",
    "Source",
    "Subject",
    "check",
    "proved",
    "records",
    "returning",
    "returns_to",
]
