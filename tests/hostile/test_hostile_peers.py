"""Every stage of a session, and every way in which a peer can misbehave there: each a row with the outcome that it
comes to and the evidence that is kept.  For every row: other mail flows meanwhile, and nothing is left behind."""

import re
from itertools import count

import pytest

from tests.hostile.peer import Answer, both, bytewise, close, drip, endless, reset, silent
from tests.hostile.relay import Relay

STAGES = ("BANNER", "EHLO", "MAIL", "RCPT", "DATA", "DOT")
GOOD = {"BANNER": b"220", "EHLO": b"250", "MAIL": b"250", "RCPT": b"250", "DATA": b"354", "DOT": b"250"}
GONE = "the peer closed the connection|the connection was lost"
LATE = "no answer within 20 s"
NO_REPLY = "not an SMTP reply"

# What the peer does at a stage, with the good code of that stage in place of %b; and what the evidence says of it.
FAULTS: dict[str, tuple[Answer, str]] = {
    "says nothing": (silent, LATE),
    "closes": (close, GONE),
    "resets": (reset, GONE),
    "says half a line and closes": (both(b"25", close), GONE),
    "says half a reply and closes": (both(b"250-one\r\n250-tw", close), GONE),
    "says half a reply and nothing more": (both(b"250-one\r\n", silent), LATE),
    "says a line without an end": (both(b"250 so", silent), LATE),
    "drips without an end": (drip(b"250 a line that has no end ", 3.0), LATE),
    "drips lines of one reply": (drip(b"250-a\r\n", 1.0), LATE),
    "talks nonsense": (b"hello there\r\n", NO_REPLY),
    "says an empty line": (b"\r\n", NO_REPLY),
    "speaks HTTP": (b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n<html>", NO_REPLY),
    "speaks TLS": (b"\x15\x03\x01\x00\x02\x02\x46\n", NO_REPLY),
    "sends binary": (bytes(range(256)) * 4, NO_REPLY),
    "forgets the space": (b"250ok\r\n", NO_REPLY),
    "has two digits": (b"25 ok\r\n", NO_REPLY),
    "has four digits": (b"2500 ok\r\n", NO_REPLY),
    "says 199": (b"199 wait\r\n", NO_REPLY),
    "says 600": (b"600 what\r\n", NO_REPLY),
    "sends NULs": (b"\0\0\0\r\n", NO_REPLY),
    "sends escapes": (b"\x1b[2J\x1b]0;owned\x07\r\n", r"not an SMTP reply: .*x1b\[2J"),
    "sends a line too long": (b"250 " + b"x" * 100_000 + b"\r\n", "a reply line is too long"),
    "sends a line without end, fast": (endless(b"x" * 100), "a reply line is too long|not an SMTP reply"),
    "sends lines without end": (endless(b"250-more\r\n"), "a reply has too many lines"),
    "mixes two codes": (b"250-one\r\n251 two\r\n", "two codes in one reply: 250 and 251"),
    "mixes good and bad": (b"250-one\r\n550 two\r\n", "two codes in one reply: 250 and 550"),
}  # fmt: skip
CASES = [(stage, what, answer, said) for stage in STAGES for what, (answer, said) in FAULTS.items()]

# What ends the delivery by a reply of its own, and how: kind of record, stage unless it is that one, words.
SAID: dict[str, tuple[bytes, str]] = {
    "refuses for now": (b"451 4.3.0 not now\r\n", "451 4.3.0 not now"),
    "refuses for good": (b"550 5.7.1 never\r\n", "550 5.7.1 never"),
    "says goodbye": (b"421 4.3.2 going down\r\n", "421 4.3.2 going down"),
    "says goodbye and goes": (b"421 4.3.2 going down\r\n", "421 4.3.2 going down"),
    "refuses in colour": (b"550 5.7.1 \x1b[31mno\x1b[0m\x9b\r\n", r"550 5.7.1 \\x1b\[31mno\\x1b\[0m\\x9b"),
    "refuses with NULs": (b"451 a\0b\r\n", r"451 a\\x00b"),
    "refuses in Latin-1": (b"451 d\xe9sol\xe9\r\n", r"451 d\\xe9sol\\xe9"),
    "refuses in UTF-8": ("451 désolé\r\n".encode(), "451 désolé"),
    "refuses in two lines": (b"550-5.7.1 no\r\n550 5.7.1 never\r\n", "550 5.7.1 no / never"),
    "refuses with another class": (b"550 4.7.1 no\r\n", "550 4.7.1 no"),
    "refuses without a word": (b"451\r\n", "451"),
    "refuses with LF": (b"451 no\n", "451 no"),
    "refuses a byte at a time": (b"", "451 no"),
}

_NUMBER = count()


def conversation(relay: Relay, stage: str, answer: Answer, *offers: str):
    """One delivery to a host that does this at that stage; gives its host, and the record of its attempt."""
    domain = f"row{next(_NUMBER)}.example"
    host = relay.host(domain, says={stage: answer})
    host.offers = (*host.offers, *offers)
    (delivery,) = relay.send(f"b@{domain}")
    relay.passes_good_mail()
    relay.assert_nothing_left()
    (record,) = relay.records(delivery)
    assert record.attempts == 1 and record.evidence is not None
    assert record.evidence.mx == f"mx1.{domain}" and record.evidence.peer == f"{host.address}:{relay.port}"
    assert record.evidence.local.startswith("127.0.0.1:") and record.evidence.source == "s1"
    return host, record


def assert_failed(record, stage: str, said: str) -> None:
    """A fault without a reply: behind the dot nobody can say whether the mail was taken."""
    assert record.kind == ("Unknown" if stage == "DOT" else "TransientFailure")
    assert record.evidence.stage == stage.lower() and record.evidence.reply is None
    assert re.search(said, record.evidence.error), record.evidence.error
    assert record.due > record.time


@pytest.mark.parametrize(("stage", "what", "answer", "said"), CASES, ids=[f"{c[0]} {c[1]}" for c in CASES])
def test_a_peer_that_breaks_the_protocol_costs_one_attempt_and_is_told_of(shared: Relay, stage, what, answer, said):
    _, record = conversation(shared, stage, answer)
    assert_failed(record, stage, said)


PIPELINED = [case for case in CASES if case[0] not in ("BANNER", "EHLO")]


@pytest.mark.parametrize(("stage", "what", "answer", "said"), PIPELINED, ids=[f"{c[0]} {c[1]}" for c in PIPELINED])
def test_so_does_one_that_was_sent_all_commands_at_once(shared: Relay, stage, what, answer, said):
    host, record = conversation(shared, stage, answer, "PIPELINING")
    assert any(b"RCPT" in read and b"DATA" in read for read in host.seen[0].reads)
    assert_failed(record, stage, said)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("what", SAID)
def test_a_reply_that_refuses_is_the_evidence(shared: Relay, stage: str, what: str):
    answer, said = SAID[what]
    if what == "refuses a byte at a time":
        answer = bytewise(b"451 no\r\n")
    elif what == "says goodbye and goes":
        answer = both(answer, close)
    host, record = conversation(shared, stage, answer)
    if stage == "EHLO" and said.startswith("550"):
        assert record.kind == "Delivery" and host.seen[0].heard[1].startswith("HELO ")
        return
    permanent = said.startswith("550") and stage != "BANNER"  # a banner's 554 is the host's word, not the mail's
    assert record.kind == ("Bounce" if permanent else "TransientFailure")
    assert record.evidence.stage == stage.lower()
    assert re.fullmatch(said, record.evidence.words()), record.evidence.words()


# The wrong good reply.
WRONG = {"BANNER": b"354", "EHLO": b"354", "MAIL": b"354", "RCPT": b"334", "DATA": b"250", "DOT": b"354"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_good_reply_of_the_wrong_class_is_not_believed(shared: Relay, stage: str):
    host, record = conversation(shared, stage, WRONG[stage] + b" ok\r\n")
    assert_failed(record, stage, f"the peer answered {stage} with {WRONG[stage].decode()} ok")
    assert bool(host.got) == (stage == "DOT")


@pytest.mark.parametrize("offer", ["", "PIPELINING"])
@pytest.mark.parametrize("stage", STAGES[:-1])
def test_two_replies_to_one_command_are_not_taken_for_more(shared: Relay, stage: str, offer: str):
    code = GOOD[stage]
    keyword = f"250-{offer}\r\n".encode() if offer and stage == "EHLO" else b""
    host, record = conversation(shared, stage, keyword + code + b" ok\r\n" + code + b" ok\r\n", offer)
    assert record.kind == "TransientFailure" and host.got == []
    assert re.search("answered what was not asked|the peer answered", record.evidence.error)


def test_a_second_answer_to_the_dot_does_not_make_the_next_mail_delivered(relay: Relay):
    host = relay.host("x.example", says={"DOT": b"250 ok\r\n250 ok\r\n", "RCPT": b"550 5.1.1 unknown\r\n"})
    host.says["RCPT"] = lambda session: session.write(b"250 ok\r\n" if not host.got else b"550 5.1.1 unknown\r\n")
    first = relay.send("b@x.example")[0]
    relay.settled()
    second = relay.send("b@x.example")[0]
    relay.settled()
    assert relay.last(first).kind == "Delivery"
    assert relay.last(second).kind == "Bounce" and relay.last(second).evidence.reply.code == 550


# What is borne.
BORNE = {
    "a byte at a time": lambda code: bytewise(code + b"-one\r\n" + code + b" two\r\n"),
    "LF alone": lambda code: code + b"-one\n" + code + b" two\n",
    "no text": lambda code: code + b"\r\n",
    "a space and no text": lambda code: code + b" \r\n",
    "two lines": lambda code: code + b"-one\r\n" + code + b" two\r\n",
    "a hundred lines": lambda code: (code + b"-more\r\n") * 99 + code + b" end\r\n",
    "a last line without text": lambda code: code + b"-one\r\n" + code + b"\r\n",
    "NULs and escapes": lambda code: code + b" a\0b\x1b[31m\r\n",
    "8-bit text": lambda code: code + b" \xff\xfe\r\n",
    "a long line": lambda code: code + b" " + b"x" * 2000 + b"\r\n",
    "another good code": lambda code: code[:2] + b"9 fine\r\n",
}


@pytest.mark.parametrize("offer", ["", "PIPELINING"])
@pytest.mark.parametrize("what", BORNE)
def test_sloppy_replies_at_every_stage_do_no_harm(shared: Relay, what: str, offer: str):
    domain = f"row{next(_NUMBER)}.example"
    host = shared.host(domain, offers=(offer,))
    host.says = {stage: BORNE[what](GOOD[stage]) for stage in STAGES}
    if what == "another good code":
        host.says["DATA"] = b"359 fine\r\n"
    (delivery,) = shared.send(f"b@{domain}")
    shared.assert_nothing_left()
    assert shared.last(delivery).kind == "Delivery" and len(host.got) == 1
