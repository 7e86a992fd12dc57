"""The catalogue: every reply that relayd gives of itself, and when.  ``make docs`` writes docs/replies.md from it.

In: nothing.  Out: replies, and templates of those with words that differ.  Where a client may match on the text it is
the catalogue's of the service that customers come from, word for word; enhanced codes are RFC 3463's.
"""

import msgspec

from relayd.reply import Reply


class Said(msgspec.Struct, frozen=True):
    """A reply and when it is given; ``text`` may have places, "{}".  ``advice`` is what the client should do, "" where
    the code says it."""

    code: int
    enhanced: str
    text: str
    when: str
    advice: str = ""

    def __call__(self, *words: object) -> Reply:
        """The reply with its places filled in; the words must be safe to send."""
        return Reply(self.code, self.enhanced, self.text.format(*words))


TABLE: dict[str, list[Said]] = {}  # by where they are met


def _group(title: str) -> None:
    TABLE[title] = []


def _template(code: int, enhanced: str, text: str, when: str, advice: str = "") -> Said:
    said = Said(code, enhanced, text, when, advice)
    next(reversed(TABLE.values())).append(said)
    return said


def _said(code: int, enhanced: str, text: str, when: str, advice: str = "") -> Reply:
    return _template(code, enhanced, text, when, advice)()


_SPARE = "leave this recipient out"
_ASK = "ask the operator"
_MEND = "mend the client"

_group("The connection")
BANNER = _template(220, "", "{} ESMTP {}", "the connection is open: our name, and what we are")
BYE = _said(221, "2.0.0", "Bye", "QUIT")
UNAVAILABLE = _said(
    421, "4.4.5", "Server is temporarily unavailable", "overload, maintenance, a disk that cannot write"
)
TOO_MANY_CONNECTIONS = _said(421, "4.3.2", "Too many connections, try again later", "the listener has all it may have")
TOO_MANY_FROM_HERE = _template(
    421, "4.7.0", "Too many connections from {}", "the client's IP address has all it may have", "use fewer at once"
)
IDLE = _said(421, "4.4.2", "Nothing came for too long, closing", "the client is silent", "connect when there is mail")
ADDRESS_SHUT_OUT = _said(
    421, "4.7.1", "Your address is blocked for now", "the operator has blocked the client's network for a time", _ASK
)
ADDRESS_BLOCKED = _said(554, "5.7.1", "Your address is blocked", "the operator has blocked the client's network", _ASK)
ENDED = _said(421, "4.3.2", "This session is ended by the operator", "the operator has dropped this one session")
STRANGER = _said(
    554, "5.7.1", "This server relays for named clients only", "a relay listener, and an address it does not name"
)
EARLY = _said(554, "5.5.0", "Client spoke before the banner", "something came before our first word", _MEND)

_group("Logging in")
AUTHENTICATED = _said(235, "2.7.0", "Authentication succeeded", "login and password are right")
CHALLENGE = _template(334, "", "{}", "AUTH goes on: the mechanism's next question, in base64")
BAD_LOGIN = _said(
    535,
    "5.7.8",
    "Incorrect login or password",
    "bad credentials, an unknown login, a suspended account",
    "correct the settings, and try no more until then",
)
NOT_ACTIVATED = _said(535, "5.7.8", "Connection not activated", "the connection waits for its activation", _ASK)
BLOCKED = _template(
    535, "5.7.8", "Connection blocked{}", "the connection is blocked; with the reason, if there is one", _ASK
)
NOT_FROM_HERE = _said(
    535,
    "5.7.8",
    "This login may not be used from your address",
    "the client's IP address is none of the connection's",
    _ASK,
)
OTHER_IDENTITY = _said(
    535,
    "5.7.8",
    "The authorisation identity must be empty or the login",
    "PLAIN asks to act for somebody else",
    _MEND,
)
TOO_MANY_LOGINS = _said(
    454,
    "4.7.0",
    "Too many login attempts",
    "too many failures of this login or from this address, or too many log in at once",
    "try again later, with longer and longer waits",
)
UNSURE = _said(454, "4.7.0", "Temporary authentication failure", "the system that decides this login does not answer")
TOO_MANY_SESSIONS = _template(
    421, "4.7.0", "Too many sessions of this {}", "the login, connection or account has all it may", "use fewer at once"
)
NO_LOGIN = _said(421, "4.7.0", "No login came in time, closing", "the client does not log in", _MEND)
AUTH_FIRST = _said(530, "5.7.0", "Authentication required", "MAIL before AUTH", "switch authentication on")
TLS_FIRST = _said(
    530, "5.7.0", "Must issue a STARTTLS command first", "MAIL in clear where one must log in", "switch encryption on"
)
AUTH_NEEDS_TLS = _said(
    538,
    "5.7.11",
    "Encryption required for authentication",
    "AUTH in clear",
    "switch encryption on, change the password",
)
AUTH_NOT_NOW = _said(
    503, "5.5.1", "AUTH is said once, and outside a transaction", "AUTH behind a login or behind MAIL", _MEND
)
NO_AUTH = _said(502, "5.5.1", "Authentication is not offered here", "AUTH on a relay listener", "send without a login")
NO_MECHANISM = _said(
    504, "5.5.4", "Mechanism not known", "AUTH with another mechanism than PLAIN or LOGIN", "use these"
)
CANCELLED = _said(501, "5.7.0", "Authentication cancelled", 'the client said "*"', "nothing, it was the client's wish")
MALFORMED = _said(
    501, "5.5.2", "Cannot decode the response", "what AUTH got is no base64, or no login and password in it", _MEND
)

_group("The sender")
SENDER_OK = _said(250, "2.1.0", "Sender ok", "MAIL FROM is accepted")
SENDER_NOT_ALLOWED = _template(
    553, "5.7.1", "Sender <{}> is not allowed for this login", "MAIL FROM is none of the connection's addresses"
)
FROM_NOT_ALLOWED = _template(
    550, "5.7.1", "From {} is not allowed for this login", "the From header is none of the connection's addresses"
)
SENDER_HEADER_NOT_ALLOWED = _template(
    550,
    "5.7.1",
    "Sender header {} is not allowed for this login",
    "the Sender header is none of the connection's addresses",
)
DOMAIN_UNKNOWN = _said(
    553,
    "5.1.8",
    "Domain not found",
    "the sender's domain is not registered, and the account's domains must be",
    "have the domain registered",
)
DOMAIN_UNVERIFIED = _said(
    421,
    "4.7.1",
    "Domain not verify",
    "the sender's domain is registered, and not verified yet, or no more",
    "publish the domain's DNS records, then try again",
)
SUSPENDED = _said(450, "4.7.1", "The account is suspended", "suspended while the session was open", _ASK)
SUSPENDED_NOW = _said(421, "4.7.1", "The account is suspended", "blocked while the session was open, which ends", _ASK)
NOT_ACTIVE = _said(
    421,
    "4.7.0",
    "The connection is not active any more",
    "blocked, or given another password, while the session was open",
    _ASK,
)
BAD_SENDER = _template(501, "5.1.7", "{}", "MAIL FROM is no address: it is said why")
NO_SENDER_DOMAIN = _said(501, "5.1.7", "The sender's address needs a domain", "`MAIL FROM:<postmaster>` and the like")

_group("Recipients")
RECIPIENT_OK = _said(250, "2.1.5", "Recipient ok", "RCPT TO is accepted")
SUPPRESSED = _said(
    550,
    "5.7.1",
    "Email receiver unsubscribe or complaint",
    "the recipient is on a stop-list of this stream",
    "send no such mail to this recipient any more",
)
DOMAIN_BLOCKED = _template(
    550, "5.7.1", "Mail to {} is not taken here at present", "the operator has blocked the recipient's domain", _ASK
)
MAILBOX_FULL = _said(
    553, "5.2.2", "Recipient has exceeded mailbox limit", "the recipient's mailbox is known to be full", _SPARE
)
LISTS_UNREADABLE = _said(
    451, "4.3.0", "The stop-lists could not be read, try again later", "a fault of the disk, or a very busy one"
)
BAD_RECIPIENT = _template(501, "5.1.3", "{}", "RCPT TO is no address: it is said why", _SPARE)
EMPTY_RECIPIENT = _said(501, "5.1.3", "A recipient needs an address", "`RCPT TO:<>`", _SPARE)
NO_RECIPIENT_DOMAIN = _said(550, "5.1.2", "A recipient needs a domain", "`RCPT TO:<postmaster>` and the like", _SPARE)
IMPOSSIBLE = _template(
    553, "5.1.3", "{}", "validation: an address that no mailbox of its provider can have; it is said why", _SPARE
)
TYPO = _template(
    550,
    "5.1.2",
    "{} looks like a misspelling of {}",
    "validation: the domain is a known misspelling",
    "ask for the right one",
)
DISPOSABLE = _template(550, "5.7.1", "{} is a domain of throw-away addresses", "validation: it is a known one", _SPARE)
ROLE = _template(
    550,
    "5.7.1",
    "{} is the address of a function, not of a person",
    "validation: info, postmaster and the like",
    _SPARE,
)
DEAD = _template(
    550, "5.1.1", "{} is known to take no mail any more", "validation: the address bounced for good before", _SPARE
)
NO_SUCH_DOMAIN = _template(550, "5.1.2", "{} does not exist", "validation: the DNS does not know the domain", _SPARE)
NO_MAIL = _template(556, "5.1.10", "{} accepts no mail", "validation: the domain's DNS says so (null MX)", _SPARE)
NO_ROUTE = _template(
    550, "5.4.4", "No host takes mail for {}", "validation: none of the domain's hosts has an address", _SPARE
)

_group("The message")
GO_AHEAD = _said(354, "", "Send the message; end with <CRLF>.<CRLF>", "DATA is accepted")
CHUNK_OK = _said(250, "2.0.0", "Chunk received", "a chunk of BDAT that is not the last")
QUEUED = _template(
    250,
    "2.0.0",
    "queued as {}",
    "the message is on disk, and ours to deliver; with its queue id",
    "forget it: sending it again makes a second message",
)
NO_FROM = _said(550, "5.6.0", "Message rejected: Missing required «From» header", "there is no From header")
TWO_FROMS = _said(550, "5.6.0", "Message rejected: more than one «From» header", "there are two or more From headers")
STREAM_NOT_ALLOWED = _template(
    550, "5.7.1", "X-Relayd-Stream: {} is not one of this login's streams: {}", "the header names another stream"
)
STEERING = _template(550, "5.6.0", "{}", "a header that steers cannot be followed: it is named, with what to write")
SENDING_BLOCKED = _template(
    550, "5.7.1", "Message refused: {}", "the client or the sender's domain is blocked for what it sent; with why", _ASK
)
LOOP = _said(554, "5.4.6", "Too many Received fields: the message runs in a circle", "50 Received headers", _ASK)
LONG_HEAD = _said(554, "5.3.4", "The header section is too long", "more than 512 KB of headers")
BARE_CONTENT = _said(
    550,
    "5.6.0",
    "Message refused: bare CR or LF in it; lines must end with CRLF",
    'other line ends, and the listener has not bare = "normalise"',
    _MEND,
)
NUL = _said(550, "5.6.0", "Message refused: NUL in it", "a zero byte", _MEND)
NO_RECIPIENTS = _said(554, "5.5.1", "No valid recipients", "DATA, and all recipients were refused")
NO_RECIPIENTS_OF_CHUNKS = _said(503, "5.5.1", "No valid recipients", "BDAT, and all recipients were refused")
SPAM = _template(
    550,
    "5.7.1",
    "Message rejected as spam{}",
    "the content filter rejects it; with its words, if it has any",
    "look what is wrong with it, and send it no more",
)
NOT_NOW = _template(
    451, "4.7.1", "Message not taken now{}", "the content filter asks for a later try; with its words, if it has any"
)
UNFILTERED = _said(
    451,
    "4.7.1",
    "The content could not be checked, try again later",
    'the content filter does not answer, and [filter] has on_error = "closed"',
)
SPOOL_FAILED = _said(451, "4.3.0", "The message could not be stored, try again later", "a fault of the disk")

_group("What comes back")
TAKEN_BACK = _template(250, "2.0.0", "taken as {}", "a report or request to one of our addresses is on disk")
RELAYS_NOTHING = _said(
    550,
    "5.7.1",
    "This server relays nothing; it takes what comes back",
    "a feedback listener, and an address of a foreign domain",
    "submit to another port",
)
NO_RETURN = _said(
    550,
    "5.1.1",
    "This server gave out no such address",
    "a feedback listener, and an address that no mail of ours had",
    "nothing: there is nobody to tell",
)
RETURN_EXPIRED = _said(
    550,
    "5.2.1",
    "This address was for mail of long ago and is not read any more",
    "a feedback listener, and an address older than [feedback] accept",
    "nothing: there is nobody to tell",
)

_group("Limits")
RATE = _template(
    451,
    "4.3.2",
    "Rate limit exceeded, retry after {} seconds",
    "a limit of the connection, account, stream or client, or of an address that sends what comes back",
    "try again after so many seconds",
)
NO_BALANCE = _said(450, "4.7.1", "Balance not enough", "the balance is used up", "try again once it is topped up")
BALANCE_UNKNOWN = _said(
    451, "4.3.0", "The balance could not be looked up, try again later", "a fault of the disk, or a very busy one"
)
TOO_MANY_RECIPIENTS = _said(
    452,
    "4.5.3",
    "Too many recipients for one message",
    "more than the listener's max_recipients",
    "send to the others in a message of their own",
)
TOO_LARGE = _said(552, "5.3.4", "Message too large", "more than the listener's max_size, declared or sent")
ENOUGH_MESSAGES = _said(
    421,
    "4.7.0",
    "Enough messages on this connection; open another",
    "the listener's max_messages",
    "connect again at once and go on",
)
SLOW = _said(421, "4.4.2", "The message took too long, closing", "its content did not come in time")
NO_SPACE = _said(452, "4.3.1", "Insufficient system storage, try again later", "the spool's disk is nearly full")
NO_MEMORY = _said(
    451, "4.3.2", "Too much mail is coming in at once, try again shortly", "what is being received fills its memory"
)

_group("The protocol")
OK = _said(250, "2.0.0", "Ok", "RSET, NOOP")
EHLO = _template(250, "", "{} greets you\n{}", "EHLO: our name, and what we offer, line by line")
HELO = _template(250, "", "{}", "HELO: our name")
HELP = _said(214, "2.0.0", "EHLO HELO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT", "HELP")
VRFY = _said(252, "2.5.2", "Not verified; send the message and see", "VRFY")
EXPN = _said(502, "5.5.1", "Lists are not expanded here", "EXPN", _MEND)
GO_TLS = _said(220, "2.0.0", "Ready to start TLS", "STARTTLS")
TLS_IS_ON = _said(503, "5.5.1", "TLS is on already", "STARTTLS within TLS", _MEND)
NO_TLS = _said(502, "5.5.1", "TLS is not offered here", "STARTTLS where there is no certificate", _ASK)
UNKNOWN_COMMAND = _said(500, "5.5.1", "Command not recognised", "another command than those of HELP", _MEND)
ARGUMENT = _said(501, "5.5.4", "The command needs an argument", "such as EHLO without a name", _MEND)
NO_ARGUMENT = _said(501, "5.5.4", "The command takes no argument", "such as DATA with one", _MEND)
SYNTAX = _template(501, "5.5.4", "Syntax: {}:<address>", "MAIL without FROM, RCPT without TO", _MEND)
NEEDS_SMTPUTF8 = _said(
    553,
    "5.6.7",
    "An address beyond ASCII needs SMTPUTF8 on MAIL",
    "a sender or recipient with other letters, in a transaction without SMTPUTF8",
    _MEND,
)
UNKNOWN_PARAMETER = _said(555, "5.5.4", "Parameter not recognised", "MAIL or RCPT with what EHLO did not offer", _MEND)
REPEATED_PARAMETER = _template(501, "5.5.4", "{} given twice", "a parameter of MAIL or RCPT", _MEND)
BAD_PARAMETER = _template(501, "5.5.4", "Bad value for {}", "a parameter of MAIL or RCPT", _MEND)
HELLO_FIRST = _said(503, "5.5.1", "Say EHLO first", "MAIL, AUTH or STARTTLS before EHLO", _MEND)
NESTED = _said(503, "5.5.1", "A transaction is open already", "MAIL behind MAIL", _MEND)
MAIL_FIRST = _said(503, "5.5.1", "Say MAIL first", "RCPT, DATA or BDAT before MAIL", _MEND)
CHUNKS_BEGUN = _said(
    503, "5.5.1", "The message has begun with BDAT; go on with that, or say RSET", "RCPT or DATA behind BDAT", _MEND
)
BARE_LINE = _said(
    500, "5.5.2", "Lines end with CRLF, and hold no other CR or LF and no NUL", "a command with other line ends", _MEND
)
LINE_TOO_LONG = _said(
    500, "5.5.2", "Line too long", "a command of more than 4,096 octets, AUTH of more than 12,288", _MEND
)
NOT_UTF8 = _said(500, "5.5.2", "The line is neither ASCII nor UTF-8", "a command in another encoding", _MEND)
OUT_OF_STEP = _said(
    421,
    "4.5.0",
    "What follows cannot be told from commands; closing",
    "content was sent unasked behind a refusal, or a BDAT without a size",
    _MEND,
)
NOT_HTTP = _said(421, "4.7.0", "This is a mail server", "a command of HTTP", "speak SMTP")
TOO_MANY_COMMANDS = _said(421, "4.7.0", "Too many commands without a message", "100 of them", _MEND)
TOO_MANY_ERRORS = _said(
    421, "4.7.0", "Too many errors", "more faults of the client than the listener's max_errors", _MEND
)


_INTRODUCTION = """\
# What relayd answers

Every reply that relayd gives of itself, by where it is met. `make docs` writes this page from `relayd/catalogue.py`,
the table that sends them. "…" stands for words that differ. A code that begins with 2 or 3 is a yes, one with 4 a "not
now", one with 5 a "no"; after 421 the session is closed.

A refusal that answers RCPT concerns that recipient alone: the others are served. A login with several streams hears at
the end of the message what others hear at RCPT, for only the message says which stream it is of: it is refused if no
recipient is left, else those that are left get it, and the records tell of the rest.
"""
_ADVICE = {2: "go on", 3: "go on", 4: "try the same again later", 5: "correct it, then send again"}


def page() -> str:
    """docs/replies.md."""
    lines = [_INTRODUCTION.rstrip()]
    for title, replies in TABLE.items():
        lines += ["", f"## {title}", "", "| reply | when | what the client should do |", "|---|---|---|"]
        for said in replies:
            shown = str(said(*["…"] * said.text.count("{}"))).replace(" / ", " ")
            closing = "connect again later" if said.code == 421 else _ADVICE[said.code // 100]
            lines.append(f"| `{shown}` | {said.when} | {said.advice or closing} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
