"""Every reply of the catalogue, as a client hears it: real sessions, over TLS but where the reply is about its absence.

A row is what a client does and what it hears last, byte for byte ("…" stands for words that differ each time).
"""

import base64
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from relayd import catalogue
from relayd.catalogue import Said
from relayd.reply import Reply, parsed

from .conftest import Stage
from .relay import PASSWORD, Relay, Wire, free_port, until

ENTRIES = {name: value for name, value in vars(catalogue).items() if isinstance(value, Said | Reply)}

UNREACHABLE = {
    "EARLY": "the banner goes out in the moment in which the connection opens (test_smtp_server.py)",
    "RETURN_EXPIRED": "takes 60 days (test_reception_returns.py)",
    "SENDING_BLOCKED": "takes a sender with a record (test_reputation_at_work.py)",
    "SPAM": "takes a content filter (test_filter.py)",
    "NOT_NOW": "takes a content filter (test_reception_intake.py)",
    "UNFILTERED": "takes a content filter (test_reception_intake.py)",
    "ADDRESS_BLOCKED": "takes an operator's block (test_stops.py)",
    "ADDRESS_SHUT_OUT": "takes an operator's block (test_stops.py)",
    "DOMAIN_BLOCKED": "takes an operator's block (test_stops.py)",
    "SUSPENDED_NOW": "takes an operator's block (test_stops.py)",
    "ENDED": "takes an operator who drops the session (test_stops.py)",
    "NO_MEMORY": "takes 256 MB of messages under way at once (test_reception.py)",
}

# What the service that customers come from says: code and text, where it says so the enhanced code.
CUSTOMERS = """\
421 4.4.5 Server is temporarily unavailable
450 Balance not enough
454 4.7.0 Too many login attempts
451 4.3.2 Rate limit exceeded, retry after … seconds
535 5.7.8 Incorrect login or password
421 Domain not verify
553 Domain not found
550 Email receiver unsubscribe or complaint
550 5.6.0 Message rejected: Missing required «From» header
553 Recipient has exceeded mailbox limit
535 5.7.8 Connection not activated
"""

ZONE = """
nomail.example MX 0 .
nohost.example MX 10 mx.nohost.example
mx.nohost.example TXT none
"""

_TABLES = """
[stream.transactional]
[stream.marketing]
validation = "bulk"
[login]
failures = 2
delay = "0.01s"
longest_delay = "0.01s"
[auth]
url = "http://127.0.0.1:{nobody}/"
[resolver]
nameservers = ["{names}"]
[[route]]
domain = "example.net"
via = "127.0.0.1:{nobody}"
[feedback]
domain = "bounce.relay.example"
[[listener]]
service = "feedback"
listen = "tcp:{feedback}:interface=127.0.0.1"
[sandbox]
listen = "tcp:{sandbox}:interface=127.0.0.1"
maildir = "{home}/sandbox"
"""
BACK, RETURNS = "MAIL FROM:<>", "bounce.relay.example"
_DOORS = {  # listeners with TLS from the first byte, by what they are like
    "alone": 'max_connections = 1\nauth_time = "1h"',
    "one each": 'max_connections_per_ip = 1\nauth_time = "1h"',
    "one message": "max_messages = 1",
    "hasty": 'idle = "1s"\ndata = "1s"',
    "hasty login": 'auth_time = "1s"',
}
_CLEAR = ("submission", "relay", "sandbox", "feedback")


class House:
    """A running relay and all that the rows need of it."""

    def __init__(self, stage: Stage) -> None:
        self.ports = {name: free_port("127.0.0.1") for name in (*_DOORS, "sandbox", "feedback")}
        words = {"nobody": free_port("127.0.0.1"), "names": stage.names(ZONE).address, "home": stage.home}
        tables = _TABLES.format(**words, sandbox=self.ports["sandbox"], feedback=self.ports["feedback"])
        for name, settings in _DOORS.items():
            tables += f'[[listener]]\nservice = "submissions"\nlisten = "tcp:{self.ports[name]}:interface=127.0.0.1"\n'
            tables += settings + "\n"
        self.relay: Relay = stage.relay(tables, door='max_size = "2M"\nmax_recipients = 3').start()
        self.ports |= {name: getattr(self.relay, name) for name in ("submissions", "submission", "relay")}
        self._fill()
        self.guests = [Wire(self.ports[name], tls=True) for name in ("alone", "one each")]
        assert all(guest.reply().startswith(b"220 ") for guest in self.guests)

    def tell(self, path: str, **given: object) -> None:
        answer = self.relay.ask(f"/v1/{path}", **given)
        assert not isinstance(answer, dict) or "error" not in answer, answer

    def _fill(self) -> None:
        tell, made = self.tell, self.relay.connection
        made("crm-1")
        made("bulk", stream=["marketing"])
        made("both", stream=["transactional", "marketing"])
        made("asleep", inactive=True)
        made("blocked")
        tell("connection/block", login="blocked", reason="spam")
        made("elsewhere", client=["192.0.2.0/24"])
        made("guessed")
        tell("connection/add", login="asked", account="crm", sender=["*"], external=True)
        made("once")
        tell("connection/set", login="once", sessions=1)
        made("slow")
        tell("connection/set", login="slow", messages=["6/min burst 1"])
        made("narrow")
        tell("connection/set", login="narrow", recipients=["6/min burst 1"])
        made("doomed")
        for account in ("strict", "poor", "unpaid", "suspended", "falling"):
            tell("account/add", name=account, domain_check="require" if account == "strict" else "off")
            made(account, ("*",), account=account)
        tell("account/suspend", name="suspended", reason="unpaid")
        tell("domain/add", name="pending.example", account="strict")
        tell("plan/add", name="nothing", units=0)
        tell("plan/add", name="one", units=1)
        tell("balance/set-plan", account="poor", plan="nothing")
        tell("balance/set-plan", account="unpaid", plan="one")
        tell("list/add", list="all")
        for name, reason in (("left", "unsubscribe"), ("full", "full"), ("dead", "bounce")):
            tell("suppression/add", list="all", value=[f"{name}@example.net"], reason=reason)

    def close(self) -> None:
        for guest in self.guests:
            guest.close()


@pytest.fixture(scope="module")
def house(module_stage: Stage) -> Iterator[House]:
    made = House(module_stage)
    yield made
    made.close()


Step = str | bytes | Callable[[House, Wire], None]


class Row(NamedTuple):
    """``said`` is the reply to the last of ``steps``.  ``login``: "" does not log in, None says nothing by itself."""

    name: str
    said: str
    steps: tuple[Step, ...]
    login: str | None = "crm-1"
    door: str = "submissions"
    source: str = "127.0.0.1"


def heard(house: House, row: Row, wire: Wire) -> bytes:
    reply = wire.reply()
    if row.login is not None:
        reply = wire.ask(b"EHLO client.example")
    if row.login:
        reply = wire.ask(plain(row.login, PASSWORD).encode())
    for step in row.steps:
        if callable(step):
            step(house, wire)
        elif step == HEAR:
            reply = wire.reply()
        else:
            reply = wire.ask(step.encode() if isinstance(step, str) else step)
    return reply


# Steps.


def plain(login: str, password: str) -> str:
    return "AUTH PLAIN " + base64.b64encode(f"\0{login}\0{password}".encode()).decode()


def tell(path: str, **given: object) -> Step:
    return lambda house, wire: house.tell(path, **given)


def start_tls(house: House, wire: Wire) -> None:
    wire.start_tls()


def sql(file: str, statement: str) -> Step:
    """Damage done to a file of the spool, and mended."""

    def step(house: House, wire: Wire) -> None:
        with sqlite3.connect(house.relay.spool / file, timeout=20) as db:
            db.execute(statement)
        db.close()

    return step


def rename(old: str, new: str) -> Step:
    def step(house: House, wire: Wire) -> None:
        (house.relay.spool / old).rename(house.relay.spool / new)

    return step


def rcpt(address: str) -> tuple[str, str]:
    return MAIL, f"RCPT TO:<{address}>"


def content(head: str, body: str = "Hello.\r\n") -> tuple[str, ...]:
    """A message to somebody, up to its dot."""
    return MAIL, RCPT, "DATA", f"{head}\r\n{body}."


HEAR = ""  # say nothing, take a reply
MAIL = "MAIL FROM:<sales@crm.example>"
RCPT = "RCPT TO:<you@example.net>"
FROM = "From: <sales@crm.example>\r\n"
WRONG = "535 5.7.8 Incorrect login or password"
GONE = "550 5.7.1 Email receiver unsubscribe or complaint"
POOR = "450 4.7.1 Balance not enough"
RATE = "451 4.3.2 Rate limit exceeded, retry after … seconds"
UNKNOWN = "553 5.1.8 Domain not found"
PENDING = "421 4.7.1 Domain not verify"
LARGE = "552 5.3.4 Message too large"
LOST = "421 4.5.0 What follows cannot be told from commands; closing"
NO_SPACE = "452 4.3.1 Insufficient system storage, try again later"
UNAVAILABLE = "421 4.4.5 Server is temporarily unavailable"
FULL = "553 5.2.2 Recipient has exceeded mailbox limit"

ROWS = [
    # The connection.
    Row("BANNER", "220 relay.test.example ESMTP relayd", (), None),
    Row("BYE", "221 2.0.0 Bye", ("QUIT",)),
    Row("TOO_MANY_CONNECTIONS", "421 4.3.2 Too many connections, try again later", (), None, "alone"),
    Row("TOO_MANY_FROM_HERE", "421 4.7.0 Too many connections from 127.0.0.1", (), None, "one each"),
    Row("IDLE", "421 4.4.2 Nothing came for too long, closing", (HEAR,), "crm-1", "hasty"),
    Row("STRANGER", "554 5.7.1 This server relays for named clients only", (), None, "relay", "127.0.0.2"),
    # Logging in.
    Row("AUTHENTICATED", "235 2.7.0 Authentication succeeded", ()),
    Row("CHALLENGE", "334 VXNlcm5hbWU6", ("AUTH LOGIN",), ""),
    Row("BAD_LOGIN", WRONG, (plain("crm-1", "wrong"),), ""),
    Row("BAD_LOGIN", WRONG, (plain("nobody", PASSWORD),), ""),
    Row("BAD_LOGIN", WRONG, (plain("suspended", PASSWORD),), ""),
    Row("NOT_ACTIVATED", "535 5.7.8 Connection not activated", (plain("asleep", PASSWORD),), ""),
    Row("BLOCKED", "535 5.7.8 Connection blocked: spam", (plain("blocked", PASSWORD),), ""),
    Row(
        "NOT_FROM_HERE",
        "535 5.7.8 This login may not be used from your address",
        (plain("elsewhere", PASSWORD),),
        "",
    ),
    Row(
        "OTHER_IDENTITY",
        "535 5.7.8 The authorisation identity must be empty or the login",
        ("AUTH PLAIN " + base64.b64encode(b"root\0crm-1\0x").decode(),),
        "",
    ),
    Row(
        "TOO_MANY_LOGINS",
        "454 4.7.0 Too many login attempts",
        (*[plain("guessed", "wrong")] * 3, plain("guessed", PASSWORD)),
        "",
        source="127.0.0.9",
    ),
    Row("UNSURE", "454 4.7.0 Temporary authentication failure", (plain("asked", PASSWORD),), ""),
    Row(
        "TOO_MANY_SESSIONS",
        "421 4.7.0 Too many sessions of this connection",
        (lambda house, wire: house.guests.append(logged_in(house, "once")), plain("once", PASSWORD)),
        "",
    ),
    Row("NO_LOGIN", "421 4.7.0 No login came in time, closing", (HEAR,), "", "hasty login"),
    Row("AUTH_FIRST", "530 5.7.0 Authentication required", (MAIL,), ""),
    Row("TLS_FIRST", "530 5.7.0 Must issue a STARTTLS command first", (MAIL,), "", "submission"),
    Row("AUTH_NEEDS_TLS", "538 5.7.11 Encryption required for authentication", ("AUTH PLAIN",), "", "submission"),
    Row("AUTH_NOT_NOW", "503 5.5.1 AUTH is said once, and outside a transaction", ("AUTH PLAIN",)),
    Row(
        "NO_AUTH",
        "502 5.5.1 Authentication is not offered here",
        ("STARTTLS", start_tls, "EHLO again", "AUTH PLAIN"),
        "",
        "relay",
    ),
    Row("NO_MECHANISM", "504 5.5.4 Mechanism not known", ("AUTH CRAM-MD5",), ""),
    Row("CANCELLED", "501 5.7.0 Authentication cancelled", ("AUTH PLAIN", "*"), ""),
    Row("MALFORMED", "501 5.5.2 Cannot decode the response", ("AUTH PLAIN ???",), ""),
    # The sender.
    Row("SENDER_OK", "250 2.1.0 Sender ok", (MAIL,)),
    Row(
        "SENDER_NOT_ALLOWED",
        "553 5.7.1 Sender <ceo@crm.example> is not allowed for this login",
        ("MAIL FROM:<ceo@crm.example>",),
    ),
    Row(
        "FROM_NOT_ALLOWED",
        "550 5.7.1 From ceo@crm.example is not allowed for this login",
        content("From: <ceo@crm.example>\r\n"),
    ),
    Row(
        "SENDER_HEADER_NOT_ALLOWED",
        "550 5.7.1 Sender header ceo@crm.example is not allowed for this login",
        content(FROM + "Sender: <ceo@crm.example>\r\n"),
    ),
    Row("DOMAIN_UNKNOWN", UNKNOWN, ("MAIL FROM:<me@unknown.example>",), "strict"),
    Row(
        "DOMAIN_UNKNOWN",
        UNKNOWN,
        ("MAIL FROM:<>", RCPT, "DATA", "From: <me@unknown.example>\r\n\r\nHello.\r\n."),
        "strict",
    ),
    Row("DOMAIN_UNVERIFIED", PENDING, ("MAIL FROM:<me@pending.example>",), "strict"),
    Row(
        "DOMAIN_UNVERIFIED",
        PENDING,
        ("MAIL FROM:<>", RCPT, "DATA", "From: <me@pending.example>\r\n\r\nHello.\r\n."),
        "strict",
    ),
    Row(
        "SUSPENDED",
        "450 4.7.1 The account is suspended",
        (tell("account/suspend", name="falling", reason="unpaid"), MAIL),
        "falling",
    ),
    Row(
        "NOT_ACTIVE",
        "421 4.7.0 The connection is not active any more",
        (tell("connection/block", login="doomed", reason="stolen"), MAIL),
        "doomed",
    ),
    Row("BAD_SENDER", "501 5.1.7 Address must be local-part@domain", ("MAIL FROM:<sales>",)),
    Row("NO_SENDER_DOMAIN", "501 5.1.7 The sender's address needs a domain", ("MAIL FROM:<postmaster>",)),
    # Recipients.
    Row("RECIPIENT_OK", "250 2.1.5 Recipient ok", (MAIL, RCPT)),
    Row("SUPPRESSED", GONE, rcpt("left@example.net")),
    Row("SUPPRESSED", GONE, (*rcpt("left@example.net"), "DATA", f"{FROM}\r\nHello.\r\n."), "both"),
    Row("MAILBOX_FULL", FULL, rcpt("full@example.net")),
    Row("MAILBOX_FULL", FULL, (*rcpt("full@example.net"), "DATA", f"{FROM}\r\nHello.\r\n."), "both"),
    Row(
        "LISTS_UNREADABLE",
        "451 4.3.0 The stop-lists could not be read, try again later",
        (
            sql("suppression.sqlite", "ALTER TABLE entries RENAME TO away"),
            *rcpt("left@example.net"),
            sql("suppression.sqlite", "ALTER TABLE away RENAME TO entries"),
        ),
    ),
    Row("BAD_RECIPIENT", "501 5.1.3 Address must be local-part@domain", rcpt("you")),
    Row("EMPTY_RECIPIENT", "501 5.1.3 A recipient needs an address", rcpt("")),
    Row("NO_RECIPIENT_DOMAIN", "550 5.1.2 A recipient needs a domain", rcpt("postmaster")),
    Row("IMPOSSIBLE", "553 5.1.3 Quoted local parts are not taken", rcpt('"a b"@example.net'), "bulk"),
    Row("TYPO", "550 5.1.2 gmeil.com looks like a misspelling of gmail.com", rcpt("you@gmeil.com"), "bulk"),
    Row("DISPOSABLE", "550 5.7.1 0815.ru is a domain of throw-away addresses", rcpt("you@0815.ru"), "bulk"),
    Row(
        "ROLE",
        "550 5.7.1 abuse is the address of a function, not of a person",
        rcpt("abuse@example.net"),
        "bulk",
    ),
    Row("DEAD", "550 5.1.1 dead@example.net is known to take no mail any more", rcpt("dead@example.net"), "bulk"),
    Row("NO_SUCH_DOMAIN", "550 5.1.2 nowhere.example does not exist", rcpt("you@nowhere.example"), "bulk"),
    Row("NO_MAIL", "556 5.1.10 nomail.example accepts no mail", rcpt("you@nomail.example"), "bulk"),
    Row("NO_ROUTE", "550 5.4.4 No host takes mail for nohost.example", rcpt("you@nohost.example"), "bulk"),
    # The message.
    Row("GO_AHEAD", "354 Send the message; end with <CRLF>.<CRLF>", (MAIL, RCPT, "DATA")),
    Row("CHUNK_OK", "250 2.0.0 Chunk received", (MAIL, RCPT, "BDAT 3\r\n.")),
    Row("QUEUED", "250 2.0.0 queued as …", content(FROM)),
    Row("NO_FROM", "550 5.6.0 Message rejected: Missing required «From» header", content("Subject: From: nobody\r\n")),
    Row("TWO_FROMS", "550 5.6.0 Message rejected: more than one «From» header", content(FROM * 2)),
    Row(
        "STREAM_NOT_ALLOWED",
        "550 5.7.1 X-Relayd-Stream: marketing is not one of this login's streams: transactional",
        content(FROM + "X-Relayd-Stream: marketing\r\n"),
    ),
    Row(
        "STEERING",
        "550 5.6.0 X-Relayd-Track: 'maybe' is none of none, opens, clicks, all",
        content(FROM + "X-Relayd-Track: maybe\r\n"),
    ),
    Row(
        "LOOP",
        "554 5.4.6 Too many Received fields: the message runs in a circle",
        content(FROM + "Received: from here by here\r\n" * 50),
    ),
    Row("LONG_HEAD", "554 5.3.4 The header section is too long", content(FROM + f"X-Long: {'x' * 900}\r\n" * 600)),
    Row(
        "BARE_CONTENT",
        "550 5.6.0 Message refused: bare CR or LF in it; lines must end with CRLF",
        content(FROM, "one\ntwo\r\n"),
    ),
    Row("NUL", "550 5.6.0 Message refused: NUL in it", content(FROM, "\0\r\n")),
    Row("NO_RECIPIENTS", "554 5.5.1 No valid recipients", (*rcpt("left@example.net"), "DATA")),
    Row("NO_RECIPIENTS_OF_CHUNKS", "503 5.5.1 No valid recipients", (MAIL, "BDAT 2\r\n")),
    Row(
        "SPOOL_FAILED",
        "451 4.3.0 The message could not be stored, try again later",
        (rename("bodies", "away"), *content(FROM, "Much. \r\n" * 30000), rename("away", "bodies")),
    ),
    # Limits.
    Row("RATE", RATE, (MAIL, "RSET", MAIL), "slow"),
    Row("RATE", RATE, (MAIL, RCPT, "RCPT TO:<me@example.net>"), "narrow"),
    Row("NO_BALANCE", POOR, content(FROM), "poor"),
    Row(
        "BALANCE_UNKNOWN",
        "451 4.3.0 The balance could not be looked up, try again later",
        (
            sql("directory.sqlite", "ALTER TABLE leases RENAME TO away"),
            *content(FROM),
            sql("directory.sqlite", "ALTER TABLE away RENAME TO leases"),
        ),
        "unpaid",
    ),
    Row("TOO_MANY_RECIPIENTS", "452 4.5.3 Too many recipients for one message", (MAIL, RCPT, RCPT, RCPT, RCPT)),
    Row("TOO_LARGE", LARGE, (f"{MAIL} SIZE=3000000",)),
    Row("TOO_LARGE", LARGE, content(FROM, "Much. \r\n" * 300_000)),
    Row(
        "ENOUGH_MESSAGES",
        "421 4.7.0 Enough messages on this connection; open another",
        (*content(FROM), MAIL),
        door="one message",
    ),
    Row("SLOW", "421 4.4.2 The message took too long, closing", (MAIL, RCPT, "DATA", HEAR), door="hasty"),
    # What comes back.
    Row(
        "TAKEN_BACK",
        "250 2.0.0 taken as …",
        (BACK, f"RCPT TO:<abuse@{RETURNS}>", "DATA", "Subject: why?\r\n\r\n."),
        "",
        "feedback",
    ),
    Row(
        "NO_RETURN", "550 5.1.1 This server gave out no such address", (BACK, f"RCPT TO:<x@{RETURNS}>"), "", "feedback"
    ),
    Row(
        "RELAYS_NOTHING",
        "550 5.7.1 This server relays nothing; it takes what comes back",
        (BACK, RCPT),
        "",
        "feedback",
    ),
    # The protocol.
    Row("OK", "250 2.0.0 Ok", ("NOOP",)),
    Row("EHLO", "250-relay.test.example greets you…", ("EHLO again",), None),
    Row("HELO", "250 relay.test.example", ("HELO again",), None),
    Row("HELP", "214 2.0.0 EHLO HELO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT", ("HELP",)),
    Row("VRFY", "252 2.5.2 Not verified; send the message and see", ("VRFY you",)),
    Row("EXPN", "502 5.5.1 Lists are not expanded here", ("EXPN all",)),
    Row("GO_TLS", "220 2.0.0 Ready to start TLS", ("STARTTLS",), "", "submission"),
    Row("TLS_IS_ON", "503 5.5.1 TLS is on already", ("STARTTLS",)),
    Row("NO_TLS", "502 5.5.1 TLS is not offered here", ("STARTTLS",), "", "sandbox"),
    Row("UNKNOWN_COMMAND", "500 5.5.1 Command not recognised", ("SEND",)),
    Row("ARGUMENT", "501 5.5.4 The command needs an argument", ("MAIL",)),
    Row("NO_ARGUMENT", "501 5.5.4 The command takes no argument", ("DATA now",)),
    Row("SYNTAX", "501 5.5.4 Syntax: MAIL FROM:<address>", ("MAIL TO:<you@example.net>",)),
    Row("SYNTAX", "501 5.5.4 Syntax: RCPT TO:<address>", (MAIL, "RCPT FROM:<you@example.net>")),
    Row(
        "NEEDS_SMTPUTF8", "553 5.6.7 An address beyond ASCII needs SMTPUTF8 on MAIL", ("MAIL FROM:<отдел@crm.example>",)
    ),
    Row("NEEDS_SMTPUTF8", "553 5.6.7 An address beyond ASCII needs SMTPUTF8 on MAIL", rcpt("вы@example.net")),
    Row("UNKNOWN_PARAMETER", "555 5.5.4 Parameter not recognised", (f"{MAIL} TURBO",)),
    Row("REPEATED_PARAMETER", "501 5.5.4 SIZE given twice", (f"{MAIL} SIZE=1 SIZE=1",)),
    Row("BAD_PARAMETER", "501 5.5.4 Bad value for SIZE", (f"{MAIL} SIZE=much",)),
    Row("HELLO_FIRST", "503 5.5.1 Say EHLO first", (MAIL,), None),
    Row("NESTED", "503 5.5.1 A transaction is open already", (MAIL, MAIL)),
    Row("MAIL_FIRST", "503 5.5.1 Say MAIL first", (RCPT,)),
    Row(
        "CHUNKS_BEGUN",
        "503 5.5.1 The message has begun with BDAT; go on with that, or say RSET",
        (MAIL, RCPT, "BDAT 2\r\n", "DATA"),
    ),
    Row("BARE_LINE", "500 5.5.2 Lines end with CRLF, and hold no other CR or LF and no NUL", ("NOOP\0",)),
    Row("LINE_TOO_LONG", "500 5.5.2 Line too long", ("NOOP " + "x" * 5000,)),
    Row("NOT_UTF8", "500 5.5.2 The line is neither ASCII nor UTF-8", (b"NOOP \xff",)),
    Row("OUT_OF_STEP", LOST, ("BDAT much",)),
    Row("OUT_OF_STEP", LOST, (f"DATA\r\n{FROM}\r\nRCPT TO:<not@a.command>\r\n.", HEAR)),
    Row("NOT_HTTP", "421 4.7.0 This is a mail server", ("GET / HTTP/1.1",)),
    Row("TOO_MANY_COMMANDS", "421 4.7.0 Too many commands without a message", (*["NOOP"] * 101,)),
    Row("TOO_MANY_ERRORS", "421 4.7.0 Too many errors", (*["SEND"] * 21, HEAR)),
]


def logged_in(house: House, login: str) -> Wire:
    wire = Wire(house.ports["submissions"], tls=True)
    wire.hello()
    assert wire.ask(plain(login, PASSWORD).encode()).startswith(b"235 ")
    return wire


def pattern(text: str, any_words: str) -> str:
    return re.escape(text).replace(re.escape(any_words), "(.*)")


def test_a_reply_that_no_row_produces_is_one_of_those_that_cannot_be() -> None:
    produced = {row.name for row in ROWS} | {"UNAVAILABLE", "NO_SPACE"}
    assert produced & set(UNREACHABLE) == set()
    assert produced | set(UNREACHABLE) == set(ENTRIES)


@pytest.mark.parametrize("reply", CUSTOMERS.splitlines())
def test_a_reply_that_customers_know_is_among_them_word_for_word(reply: str) -> None:
    told = {row.said for row in ROWS} | {NO_SPACE, UNAVAILABLE}
    assert reply in told | {re.sub(r"^(\d+) \S+", r"\1", said) for said in told}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_client_hears(row: Row, house: House) -> None:
    with Wire(house.ports[row.door], tls=row.door not in _CLEAR, source=row.source) as wire:
        reply = heard(house, row, wire).decode()
        assert re.fullmatch(pattern(row.said, "…") + "\r\n", reply, re.DOTALL), reply
        entry, told = ENTRIES[row.name], parsed(int(reply[:3]), [line[4:].encode() for line in reply.splitlines()])
        assert (told.code, told.enhanced) == (entry.code, entry.enhanced)
        assert re.fullmatch(pattern(entry.text, "{}"), told.text, re.DOTALL)
        if told.code == 421 or row.name in ("BYE", "STRANGER"):
            assert wire.reply() == b""
        elif told.code >= 400:
            assert wire.ask(b"NOOP") == b"250 2.0.0 Ok\r\n"


def test_a_relay_without_room_puts_mail_off_and_one_that_stops_says_so(stage: Stage) -> None:
    relay = stage.relay(node='min_free = "1000T"').start()
    relay.connection()
    with Wire(relay.submissions, tls=True) as wire:
        wire.hello()
        assert wire.ask(plain("login1", PASSWORD).encode()).startswith(b"235 ")
        assert wire.ask(MAIL.encode()).decode() == NO_SPACE + "\r\n"
        relay.signal(signal.SIGTERM)
        assert wire.reply().decode() == UNAVAILABLE + "\r\n"
        assert wire.reply() == b""


def test_who_waits_as_long_as_he_was_told_is_served(house: House) -> None:
    house.relay.connection("brisk")
    house.tell("connection/set", login="brisk", messages=["60/min burst 1"])
    with logged_in(house, "brisk") as wire:
        began = time.monotonic()
        assert wire.ask(MAIL.encode()).startswith(b"250 ")
        wire.ask(b"RSET")
        assert wire.ask(MAIL.encode()) == b"451 4.3.2 Rate limit exceeded, retry after 1 seconds\r\n"
        until(lambda: time.monotonic() >= began + 1)
        assert wire.ask(MAIL.encode()).startswith(b"250 ")


def test_a_refusal_that_concerns_one_recipient_keeps_mail_from_nobody_else(house: House) -> None:
    with logged_in(house, "crm-1") as wire:
        said = [wire.ask(line.encode()) for line in (*rcpt("left@example.net"), RCPT, "DATA")]
        assert [reply[:3] for reply in said] == [b"250", b"550", b"250", b"354"]
        assert wire.ask(f"{FROM}\r\nHello.\r\n.".encode()).startswith(b"250 2.0.0 queued as ")


def test_at_the_end_of_a_message_too_only_who_is_refused_gets_none(house: House) -> None:
    with logged_in(house, "both") as wire:
        for line in (*rcpt("left@example.net"), RCPT, "DATA"):
            assert wire.ask(line.encode())[:1] in b"23"
        said = wire.ask(f"{FROM}\r\nHello.\r\n.".encode()).decode()
        assert said.startswith("250 2.0.0 queued as ")
    told = house.relay.ask("/v1/inspect", id=said.split()[-1])["deliveries"]
    assert {row["recipient"]: row["state"] for row in told} == {
        "left@example.net": "suppressed",
        "you@example.net": "queued",
    }
