"""The replies that the server gives of itself, encoded once where they go out as they are (RFC 5321, 2034)."""

from relayd.reply import Reply


def _said(code: int, enhanced: str, text: str) -> bytes:
    return Reply(code, enhanced, text).encode()


OK = _said(250, "2.0.0", "Ok")
BYE = _said(221, "2.0.0", "Bye")
HELP = _said(214, "2.0.0", "EHLO HELO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT")
VRFY = _said(252, "2.5.2", "Not verified; send the message and see")
EXPN = _said(502, "5.5.1", "Lists are not expanded here")
UNKNOWN_COMMAND = _said(500, "5.5.1", "Command not recognised")
ARGUMENT = _said(501, "5.5.4", "The command needs an argument")
NO_ARGUMENT = _said(501, "5.5.4", "The command takes no argument")
BARE = _said(500, "5.5.2", "Lines end with CRLF, and hold no other CR or LF and no NUL")
LINE_TOO_LONG = _said(500, "5.5.2", "Line too long")
NOT_UTF8 = _said(500, "5.5.2", "The line is neither ASCII nor UTF-8")
HELLO_FIRST = _said(503, "5.5.1", "Say EHLO first")
OUT_OF_STEP = Reply(421, "4.5.0", "What follows cannot be told from commands; closing")

GO_TLS = _said(220, "2.0.0", "Ready to start TLS")
TLS_IS_ON = _said(503, "5.5.1", "TLS is on already")
NO_TLS = _said(502, "5.5.1", "TLS is not offered here")
TLS_FIRST = _said(530, "5.7.0", "Must issue a STARTTLS command first")

AUTHENTICATED = _said(235, "2.7.0", "Authentication succeeded")
AUTH_FIRST = _said(530, "5.7.0", "Authentication required")
AUTH_NEEDS_TLS = _said(538, "5.7.11", "Encryption required for authentication")
AUTH_NOT_NOW = _said(503, "5.5.1", "AUTH is said once, and outside a transaction")
NO_AUTH = _said(502, "5.5.1", "Authentication is not offered here")
NO_MECHANISM = _said(504, "5.5.4", "Mechanism not known")

SENDER_OK = _said(250, "2.1.0", "Sender ok")
NESTED = _said(503, "5.5.1", "A transaction is open already")
DECLARED_TOO_LARGE = _said(552, "5.3.4", "Message too large")

RECIPIENT_OK = _said(250, "2.1.5", "Recipient ok")
MAIL_FIRST = _said(503, "5.5.1", "Say MAIL first")
TOO_MANY_RECIPIENTS = _said(452, "4.5.3", "Too many recipients for one message")

GO_AHEAD = _said(354, "", "Send the message; end with <CRLF>.<CRLF>")
NO_RECIPIENTS = _said(554, "5.5.1", "No valid recipients")
CHUNKS_BEGUN = _said(503, "5.5.1", "The message has begun with BDAT; go on with that, or say RSET")
CHUNK_OK = _said(250, "2.0.0", "Chunk received")
BDAT_WITHOUT_MAIL = Reply(503, "5.5.1", "Say MAIL first")
BDAT_WITHOUT_RECIPIENTS = Reply(503, "5.5.1", "No valid recipients")

# Faults of content, by framing's names.
FAULTS = {
    "bare": Reply(550, "5.6.0", "Message refused: bare CR or LF in it; lines must end with CRLF"),
    "nul": Reply(550, "5.6.0", "Message refused: NUL in it"),
    "size": Reply(552, "5.3.4", "Message too large"),
}
