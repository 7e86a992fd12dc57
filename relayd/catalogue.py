"""The catalogue: every reply that relayd gives of itself, and when.  docs/replies.md is written from it.

In: nothing.  Out: replies, and templates of those with a word that differs.  Where a client may match on the text it is
the catalogue's of the service that customers come from, word for word; enhanced codes are RFC 3463's.
"""

import msgspec

from relayd.reply import Reply


class Said(msgspec.Struct, frozen=True):
    """A reply and when it is given; ``text`` may have places, "{}"."""

    code: int
    enhanced: str
    text: str
    when: str

    def __call__(self, *words: object) -> Reply:
        """The reply with its places filled in; the words must be safe to send."""
        return Reply(self.code, self.enhanced, self.text.format(*words))


ALL: list[Said] = []


def _template(code: int, enhanced: str, text: str, when: str) -> Said:
    ALL.append(Said(code, enhanced, text, when))
    return ALL[-1]


def _said(code: int, enhanced: str, text: str, when: str) -> Reply:
    return _template(code, enhanced, text, when)()


# The node.
UNAVAILABLE = _said(
    421, "4.4.5", "Server is temporarily unavailable", "overload, maintenance, a disk that cannot write"
)
NO_SPACE = _said(452, "4.3.1", "Insufficient system storage, try again later", "the spool's disk is nearly full")
NO_MEMORY = _said(
    451, "4.3.2", "Too much mail is coming in at once, try again shortly", "what is being received fills its memory"
)
SPOOL_FAILED = _said(451, "4.3.0", "The message could not be stored, try again later", "a fault of the disk")

# Logging in.
BAD_LOGIN = _said(535, "5.7.8", "Incorrect login or password", "bad credentials, an unknown login, a suspended account")
NOT_ACTIVATED = _said(535, "5.7.8", "Connection not activated", "the connection waits for its activation")
BLOCKED = _template(535, "5.7.8", "Connection blocked{}", "the connection is blocked; with the reason, if there is one")
NOT_FROM_HERE = _said(
    535, "5.7.8", "This login may not be used from your address", "the client's IP address is none of the connection's"
)
TOO_MANY_LOGINS = _said(
    454, "4.7.0", "Too many login attempts", "too many failures of this login or from this address, or of all at once"
)
UNSURE = _said(454, "4.7.0", "Temporary authentication failure", "the system that decides this login does not answer")
TOO_MANY_SESSIONS = _template(
    421, "4.7.0", "Too many sessions of this {}", "the connection or account has all it may have"
)

# Who may relay.
STRANGER = _said(
    554, "5.7.1", "This server relays for named clients only", "a relay listener, and an address it does not name"
)
SUSPENDED = _said(450, "4.7.1", "The account is suspended", "suspended while the session was open")
NOT_ACTIVE = _said(421, "4.7.0", "The connection is not active any more", "blocked while the session was open")

# Senders.
SENDER_NOT_ALLOWED = _template(
    553, "5.7.1", "Sender <{}> is not allowed for this login", "MAIL FROM is none of the connection's addresses"
)
DOMAIN_UNKNOWN = _said(
    553, "5.1.8", "Domain not found", "the sender's domain is not registered, and the account's domains must be"
)
DOMAIN_UNVERIFIED = _said(
    421, "4.7.1", "Domain not verify", "the sender's domain is registered, and not verified yet, or no more"
)
NO_FROM = _said(550, "5.6.0", "Message rejected: Missing required «From» header", "there is no From header")
TWO_FROMS = _said(550, "5.6.0", "Message rejected: more than one «From» header", "there are two or more From headers")
FROM_NOT_ALLOWED = _template(
    550, "5.7.1", "From {} is not allowed for this login", "the From header is none of the connection's addresses"
)
STREAM_NOT_ALLOWED = _template(
    550, "5.7.1", "X-Relayd-Stream: {} is not one of this login's streams: {}", "the header names another stream"
)
STEERING = _template(550, "5.6.0", "{}", "a header that steers cannot be followed: it is named, with what to write")
LOOP = _said(554, "5.4.6", "Too many Received fields: the message runs in a circle", "50 Received headers")
LONG_HEAD = _said(554, "5.3.4", "The header section is too long", "more than 512 KB of headers")

# Limits and balance.
RATE = _template(
    451, "4.3.2", "Rate limit exceeded, retry after {} seconds", "a limit of the connection, account, stream or client"
)
NO_BALANCE = _said(450, "4.7.1", "Balance not enough", "the balance is used up")
BALANCE_UNKNOWN = _said(
    451, "4.3.0", "The balance could not be looked up, try again later", "a fault of the disk, or a very busy one"
)

# Recipients.
NO_RECIPIENT_DOMAIN = _said(550, "5.1.2", "A recipient needs a domain", "RCPT TO:<postmaster> and the like")
SUPPRESSED = _said(
    550, "5.7.1", "Email receiver unsubscribe or complaint", "the recipient is on a stop-list of this stream"
)
MAILBOX_FULL = _said(
    553, "5.2.2", "Recipient has exceeded mailbox limit", "the recipient's mailbox is known to be full"
)
LISTS_UNREADABLE = _said(
    451, "4.3.0", "The stop-lists could not be read, try again later", "a fault of the disk, or a very busy one"
)
