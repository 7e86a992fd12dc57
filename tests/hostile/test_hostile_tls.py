"""STARTTLS with peers that refuse it, break it, stall in it at any byte, or show the wrong certificate; what each
policy makes of that; and that nothing said in clear counts once there is TLS."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL

from relayd.delivery.routing import Level, Policy
from tests.hostile.certificates import Authority
from tests.hostile.peer import Handshake, Host, Session, close, reset, silent
from tests.hostile.relay import Relay

TRUSTED, STRANGER = Authority(), Authority()
OFFERS = ("STARTTLS", "8BITMIME")


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    made = Relay(tmp_path / "spool", authorities=TRUSTED.write(tmp_path / "authority.pem"))
    yield made
    made.assert_nothing_left()
    made.close()


def host(relay: Relay, level: Level, shake: Handshake | None = None, **script: Any) -> Host:
    script.setdefault("offers", OFFERS)
    return relay.host("x.example", policy=Policy(level), tls=shake or proper(), **script)


def proper(**how: Any) -> Handshake:
    return Handshake(TRUSTED.context("mx1.x.example"), **how)


def attempt(relay: Relay):
    """The record of one attempt at one delivery, other mail having passed meanwhile."""
    (delivery,) = relay.send("b@x.example")
    relay.passes_good_mail()
    relay.settled()
    (record,) = relay.records(delivery)
    return record


def in_clear(server: Host) -> bool:
    """Whether mail was ever said to be coming in a session without TLS."""
    return any(session._tls is None and "MAIL" in " ".join(session.heard) for session in server.seen)


@pytest.mark.parametrize("level", ["may", "encrypt", "verify"])
def test_with_a_proper_peer_every_policy_encrypts_and_says_so(relay: Relay, level: Level):
    server = host(relay, level)
    record = attempt(relay)
    assert record.kind == "Delivery" and record.evidence.tls.startswith("TLSv1.3 ")
    assert "CN=mx1.x.example" in record.evidence.tls
    assert [line.split()[0] for line in server.seen[0].heard[:3]] == ["EHLO", "STARTTLS", "EHLO"]
    assert not in_clear(server) and len(server.seen) == 1


# What goes wrong in the handshake or on the way to it: (what the host does, the stage it is seen at).
BROKEN: dict[str, dict[str, Any]] = {
    "garbage behind 220": {"shake": Handshake(TRUSTED.context("x"), garbage=b"250 hello, no TLS here\r\n" * 20)},
    "binary behind 220": {"shake": Handshake(TRUSTED.context("x"), garbage=bytes(range(256)) * 4)},
    "a TLS alert": {"shake": Handshake(TRUSTED.context("x"), garbage=b"\x15\x03\x03\x00\x02\x02\x28")},
    "stalls at once": {"shake": proper(stall=0)},
    "stalls after 1 byte": {"shake": proper(stall=1)},
    "stalls after 5 bytes": {"shake": proper(stall=5)},
    "stalls after 100 bytes": {"shake": proper(stall=100)},
    "stalls after 500 bytes": {"shake": proper(stall=500)},
    "closes at once": {"shake": proper(close=0)},
    "closes after 1 byte": {"shake": proper(close=1)},
    "closes after 100 bytes": {"shake": proper(close=100)},
    "closes instead": {"says": {"STARTTLS": lambda s: (s.write(b"220 go on\r\n"), s.close())}},
    "resets instead": {"says": {"STARTTLS": lambda s: (s.write(b"220 go on\r\n"), s.reset())}},
    "TLS 1.0": {
        "shake": Handshake(TRUSTED.context("mx1.x.example", versions=(SSL.TLS1_VERSION, SSL.TLS1_VERSION))),
    },
    "TLS 1.1": {
        "shake": Handshake(TRUSTED.context("mx1.x.example", versions=(SSL.TLS1_1_VERSION, SSL.TLS1_1_VERSION))),
    },
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_handshake_is_gone_around_in_clear_on_the_same_host_where_policy_is_may(relay: Relay, what: str):
    server = host(relay, "may", **BROKEN[what])
    record = attempt(relay)
    assert record.kind == "Delivery" and record.evidence.tls == "" and len(server.got) == 1
    assert len(server.seen) == 2
    relay.send("c@x.example")  # what was learned is kept
    relay.settled()
    assert len(server.got) == 2 and len(server.heard("STARTTLS")) == 1


@pytest.mark.parametrize("level", ["encrypt", "verify"])
@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_handshake_ends_the_attempt_where_encryption_is_a_must(relay: Relay, what: str, level: Level):
    server = host(relay, level, **BROKEN[what])
    record = attempt(relay)
    assert record.kind == "TransientFailure" and record.evidence.stage == "tls" and record.evidence.error
    assert server.got == [] and not in_clear(server) and len(server.seen) == 1


# What is wrong before the handshake.
REFUSALS = {
    "not now": "454 4.7.0 TLS not available",
    "never": "554 5.7.0 no TLS",
    "unknown": "500 what?",
    "without a word": "454",
}


@pytest.mark.parametrize("what", [*REFUSALS, "not offered"])
@pytest.mark.parametrize("level", ["may", "encrypt", "verify"])
def test_tls_refused_or_not_offered_is_borne_only_where_policy_is_may(relay: Relay, what: str, level: Level):
    if what == "not offered":
        server = host(relay, level, offers=("8BITMIME",))
    else:
        server = host(relay, level, says={"STARTTLS": REFUSALS[what]})
    record = attempt(relay)
    if level == "may":
        assert record.kind == "Delivery" and record.evidence.tls == "" and len(server.seen) == 1
    else:
        assert record.kind == "TransientFailure" and record.evidence.stage == "starttls"
        assert server.got == [] and not in_clear(server)
        wanted = "the peer does not offer STARTTLS" if what == "not offered" else REFUSALS[what]
        assert record.evidence.words() == wanted


@pytest.mark.parametrize("how", [silent, close, reset, "421 4.3.2 no", "354 what", "nonsense", b"220-x\r\n250 y\r\n"])
@pytest.mark.parametrize("level", ["may", "encrypt"])
def test_no_good_answer_to_starttls_is_evidence_of_that_stage(relay: Relay, how, level: Level):
    server = host(relay, level, says={"STARTTLS": how})
    record = attempt(relay)
    assert record.kind == "TransientFailure" and record.evidence.stage == "starttls"
    assert server.got == []


# Certificates.


@pytest.mark.parametrize(
    ("shake", "said"),
    [
        (Handshake(STRANGER.context("mx1.x.example")), "certificate verify failed"),
        (Handshake(TRUSTED.context("mx.other.example")), "the certificate is not of the server's name"),
        (Handshake(TRUSTED.context("mx1.x.example", days=-2)), "certificate verify failed"),
    ],
    ids=["of a stranger", "of another name", "expired"],
)
class TestCertificates:
    def test_verify_does_not_send_and_says_why(self, relay: Relay, shake: Handshake, said: str):
        server = host(relay, "verify", shake)
        record = attempt(relay)
        assert (record.kind, record.evidence.stage) == ("TransientFailure", "tls")
        assert said in record.evidence.error and server.got == [] and not in_clear(server)

    @pytest.mark.parametrize("level", ["may", "encrypt"])
    def test_encryption_alone_does_not_mind(self, relay: Relay, shake: Handshake, said: str, level: Level):
        host(relay, level, shake)
        record = attempt(relay)
        assert record.kind == "Delivery" and record.evidence.tls.startswith("TLSv1.")


# What is said in clear does not count.


@pytest.mark.parametrize("level", ["may", "encrypt"])
def test_replies_in_clear_behind_220_are_not_believed(relay: Relay, level: Level):
    def inject(session: Session) -> None:
        session.write(b"220 go on\r\n250-evil.example\r\n250 X-EVIL\r\n250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n")
        session.start_tls()

    server = host(relay, level, says={"STARTTLS": inject})
    (delivery,) = relay.send("b@x.example")
    relay.settled()
    record = relay.last(delivery)
    # Injected bytes are dropped, or spoil the handshake; they never stand for a reply.
    assert record.kind == "TransientFailure" or len(server.got) == 1
    assert level == "may" or not in_clear(server)


def test_what_was_offered_in_clear_is_forgotten(relay: Relay):
    def hello(session: Session) -> None:
        offers = b"250 8BITMIME" if session._tls else b"250-SIZE 10\r\n250-PIPELINING\r\n250 STARTTLS"
        session.write(b"250-mx\r\n" + offers + b"\r\n")

    server = host(relay, "may", says={"EHLO": hello})
    assert attempt(relay).kind == "Delivery"
    assert server.heard("MAIL") == ["MAIL FROM:<a@crm.example>"]  # no SIZE, and the limit of 10 is no limit


def test_a_peer_that_speaks_tls_from_the_first_byte_says_nothing_that_is_understood(relay: Relay):
    host(relay, "may", wrapped=True)
    record = attempt(relay)
    assert (record.kind, record.evidence.stage) == ("TransientFailure", "banner")
    assert record.evidence.error == "no answer within 20 s"


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA", "DOT", "EHLO"])
@pytest.mark.parametrize("how", [silent, close, reset])
def test_a_peer_that_is_lost_inside_tls_is_lost_as_outside(relay: Relay, stage: str, how):
    def then(session: Session) -> None:
        if session._tls:
            how(session)
        else:
            session.write(b"250-mx\r\n250 STARTTLS\r\n")

    host(relay, "encrypt", says={stage: then})
    record = attempt(relay)
    assert record.kind == ("Unknown" if stage == "DOT" else "TransientFailure")
    assert record.evidence.stage == stage.lower() and record.evidence.tls.startswith("TLSv1.3")


def test_plain_text_in_the_middle_of_tls_is_no_reply(relay: Relay):
    server = host(relay, "encrypt", says={"DOT": lambda session: session.transport.write(b"250 2.0.0 taken\r\n")})
    record = attempt(relay)
    assert record.kind == "Unknown" and record.evidence.reply is None and len(server.got) == 1
