"""The resolver: which hosts take the mail of a domain, and a stub resolver for every other room that asks the DNS.

In: names, as A-labels.  Out: ``MailHosts`` or ``Answer``, or a ``ResolveError`` whose ``reply`` can go into a bounce.
RFC 1035, 2308 (negative answers), 5321 section 5.1 (MX), 5452 (forgery), 6891 (EDNS), 7505 (null MX), 7766 (TCP).
dnspython builds and reads the messages, Twisted carries them.  Floors within: faults, cache < wire < stub < mx.
"""

from relayd.resolver.faults import LookupFailed, MailLoop, NoMail, NoRoute, NoSuchDomain, ResolveError
from relayd.resolver.mx import MailHost, MailHosts, Resolver
from relayd.resolver.stub import ResolverSettings
from relayd.resolver.wire import Answer

__all__ = [
    "Answer",
    "LookupFailed",
    "MailHost",
    "MailHosts",
    "MailLoop",
    "NoMail",
    "NoRoute",
    "NoSuchDomain",
    "ResolveError",
    "Resolver",
    "ResolverSettings",
]
