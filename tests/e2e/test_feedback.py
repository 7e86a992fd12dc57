"""What comes back, end to end: mail goes out to a sink, and a report made of what that got comes in again."""

import base64
import re
import smtplib
from typing import Any

import pytest

from .conftest import Stage
from .relay import SENDER, Relay, Sink, free_port, message, submit, until

DOMAIN = "bounce.relay.example"
UNSUBSCRIBED = (550, b"5.7.1 Email receiver unsubscribe or complaint")

DSN = """From: MAILER-DAEMON@mx.example.net
To: <{path}>
Subject: Undelivered Mail Returned to Sender
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="=b"

--=b
Content-Type: text/plain

Your message could not be delivered.

--=b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net

Final-Recipient: rfc822; {to}
Action: failed
Status: {status}
Diagnostic-Code: smtp; {said}

--=b--
"""
ARF = """From: fbl@provider.example
To: <fbl@bounce.relay.example>
Subject: complaint
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary="=b"

--=b
Content-Type: text/plain

An email abuse report.

--=b
Content-Type: message/feedback-report

Feedback-Type: abuse
User-Agent: Provider/1.0
Version: 1
Original-Rcpt-To: redacted@provider.example

--=b
Content-Type: message/rfc822

{original}
--=b--
"""


class Returning:
    """A relay with a feedback listener, its sink, and reports made of what that gets."""

    def __init__(self, stage: Stage, streams: str = "") -> None:
        self.sink: Sink = stage.sink()
        self.port = free_port("127.0.0.1")
        (stage.home / "key.pem").write_bytes(_key())
        self.relay: Relay = stage.relay(
            f'[[route]]\ndomain = "*"\nvia = "{self.sink.via}"\n[feedback]\ndomain = "{DOMAIN}"\n'
            f'[[listener]]\nservice = "feedback"\nlisten = "tcp:{self.port}:interface=127.0.0.1"\n'
            f'[dkim."crm.example"]\nselector = "s1"\nkey = "{stage.home}/key.pem"\n'
            + (streams or '[stream.transactional]\nunsubscribe = "header"\nreports = "none"\n')
        ).start()

    def sent(self, to: str, stream: str = "") -> tuple[str, str]:
        """(return path, content) with which a message arrives."""
        before = len(self.sink.to(to))
        extra = f"X-Relayd-Stream: {stream}\r\n".encode() if stream else b""
        if stream:
            with smtplib.SMTP("127.0.0.1", self.relay.submission, "client.example", timeout=30) as client:
                client.starttls()
                client.login("login1", "correct horse battery")
                submit(client, to, message(extra=extra))
        else:
            self.relay.send(to)
        found: dict[str, Any] = until(lambda: self.sink.to(to)[before:], 10, "mail arrives")[0]
        path = re.search(r"<(.*?)>", found["mail"])
        assert path
        return path[1], self.sink.content(found).decode()

    def back(self, to: str, content: str, sender: str = "") -> tuple[int, bytes]:
        """Gives the last answer."""
        with smtplib.SMTP("127.0.0.1", self.port, "mx.example.net", timeout=30) as client:
            client.ehlo()
            assert client.mail(sender)[0] == 250
            code, said = client.rcpt(to)
            return client.data(content.replace("\n", "\r\n").encode()) if code == 250 else (code, said)

    def refused(self, to: str) -> tuple[int, bytes]:
        """The answer to a submission to that recipient."""
        with self.relay.client() as client:
            client.mail(SENDER)
            return client.rcpt(to)

    def entries(self, name: str) -> list[dict[str, Any]]:
        rows = self.relay.ask("/v1/suppression/list", list=f"account:crm/{name}")
        return rows.get("rows", rows.get("entries", [])) if "error" not in rows else []

    def history(self, path: str) -> list[dict[str, Any]]:
        raw = base64.b32decode(path.partition("@")[0][1:].upper())
        found: list[dict[str, Any]] = self.relay.ask("/v1/inspect", id=raw[2:10].hex())["history"]
        return found


def _key() -> bytes:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture(scope="module")
def house(module_stage: Stage) -> Returning:
    return Returning(module_stage)


def unknown(path: str, to: str) -> str:
    return DSN.format(path=path, to=to, status="5.1.1", said="550 5.1.1 user unknown")


def test_a_bounce_that_comes_back_puts_its_recipient_on_the_list_with_the_evidence(house: Returning) -> None:
    path, _ = house.sent("gone@example.net")
    assert path.endswith("@" + DOMAIN) and len(path.partition("@")[0]) == 33
    code, said = house.back(path, unknown(path, "gone@example.net"))
    assert code == 250, said
    assert house.refused("gone@example.net") == UNSUBSCRIBED
    (entry,) = [row for row in house.entries("all") if row["value"] == "gone@example.net"]
    assert entry["reason"] == "bounce"
    assert "recipient_unknown" in entry["evidence"] and "550 5.1.1 user unknown" in entry["evidence"]
    assert [line["event"] for line in house.history(path)] == ["Reception", "Delivery", "OutOfBand"]
    house.relay.audited()


def test_a_complaint_whose_recipient_is_redacted_is_known_by_our_token(house: Returning) -> None:
    path, content = house.sent("angry@example.net")
    redacted = content.replace("angry@example.net", "redacted").replace("\r\n", "\n")
    code, said = house.back(f"fbl@{DOMAIN}", ARF.format(original=redacted), "fbl@provider.example")
    assert code == 250, said
    assert house.refused("angry@example.net") == UNSUBSCRIBED
    assert [line["event"] for line in house.history(path)][-1] == "Complaint"


def test_whoever_writes_to_the_unsubscribe_address_gets_no_more_of_this_stream(house: Returning) -> None:
    path, content = house.sent("tired@example.net")
    address = re.search(r"List-Unsubscribe:\s*<mailto:([^?>]*)", content)
    assert address
    mail = f"From: tired@example.net\nTo: {address[1]}\nSubject: unsubscribe\n\nunsubscribe\n"
    code, said = house.back(address[1], mail, "tired@example.net")
    assert code == 250, said
    assert house.refused("tired@example.net") == UNSUBSCRIBED
    (entry,) = [row for row in house.entries("transactional") if row["value"] == "tired@example.net"]
    assert entry["reason"] == "unsubscribe"
    assert [line["event"] for line in house.history(path)][-1] == "Unsubscribe"


def test_forged_reports_change_nothing(house: Returning) -> None:
    path, content = house.sent("kept@example.net")
    local = path.partition("@")[0]
    forged = local[:-1] + ("a" if local[-1] != "a" else "b") + "@" + DOMAIN
    assert house.back(forged, unknown(forged, "kept@example.net"))[0] == 550
    spoilt = content.replace(local, forged.partition("@")[0])
    spoilt = re.sub(r"mailto:u[a-z2-7]{32}", "mailto:u" + "a" * 32, spoilt).replace("\r\n", "\n")
    assert house.back(f"abuse@{DOMAIN}", ARF.format(original=spoilt))[0] == 250
    assert house.back(f"postmaster@{DOMAIN}", unknown("x@y.example", "kept@example.net"))[0] == 250
    assert house.refused("kept@example.net")[0] == 250


def test_a_report_that_comes_again_counts_once(house: Returning) -> None:
    path, _ = house.sent("twice@example.net")
    report = DSN.format(path=path, to="twice@example.net", status="5.2.1", said="550 5.2.1 mailbox disabled")
    for _ in range(4):
        assert house.back(path, report)[0] == 250
    assert house.refused("twice@example.net")[0] == 250
    for _ in range(2):
        path, _ = house.sent("twice@example.net")
        assert house.back(path, report)[0] == 250
    assert house.refused("twice@example.net") == UNSUBSCRIBED


def test_a_refusal_in_the_session_counts_as_one_that_comes_back(stage: Stage) -> None:
    sink = stage.sink(options=("--moody",))
    relay = stage.relay(f'[[route]]\ndomain = "*"\nvia = "{sink.via}"\n').start()
    relay.send("user3@example.net")

    def refused() -> bool:
        with relay.client() as client:
            client.mail(SENDER)
            return bool(client.rcpt("user3@example.net") == UNSUBSCRIBED)

    until(refused, 10, "the recipient is on the list")
    relay.audited()


def test_a_full_mailbox_is_told_as_such_at_submission(stage: Stage) -> None:
    house = Returning(stage, "[stream.transactional]\nsuppress = { full = 1 }\n")
    path, _ = house.sent("full@example.net")
    report = DSN.format(path=path, to="full@example.net", status="5.2.2", said="552 5.2.2 mailbox full")
    assert house.back(path, report)[0] == 250
    code, said = house.refused("full@example.net")
    assert code == 553 and said.endswith(b"Recipient has exceeded mailbox limit")
    (entry,) = house.entries("all")
    assert entry["reason"] == "full" and entry["expires"]


def test_an_unsubscribe_from_marketing_never_stops_a_transactional_message(stage: Stage) -> None:
    streams = '[stream.transactional]\n[stream.marketing]\nunsubscribe = "header"\n'
    house = Returning(stage, streams)
    house.relay.connection(stream=["transactional", "marketing"])
    path, _ = house.sent("choosy@example.net", "marketing")
    assert house.back(path, "From: choosy@example.net\nSubject: unsubscribe\n\n", "choosy@example.net")[0] == 250
    (entry,) = house.entries("marketing")
    assert entry["value"] == "choosy@example.net"
    house.sent("choosy@example.net", "transactional")


def test_a_bounce_that_comes_back_is_passed_on_to_the_sender_once(stage: Stage) -> None:
    house = Returning(stage, '[stream.transactional]\nreports = "sender"\n')
    path, _ = house.sent("gone@example.net")
    for _ in range(2):
        assert house.back(path, unknown(path, "gone@example.net"))[0] == 250
    report = house.sink.content(house.sink.wait(SENDER)).decode()
    assert "gone@example.net" in report and "5.1.1" in report and "user unknown" in report
    until(lambda: not house.relay.queued(), 10, "the queue empties")
    assert len(house.sink.to(SENDER)) == 1
    house.relay.audited()


def test_what_got_its_250_is_not_lost_by_a_kill_right_after(stage: Stage) -> None:
    house = Returning(stage)
    paths = {f"k{n}@example.net": house.sent(f"k{n}@example.net")[0] for n in range(3)}
    for to, path in paths.items():
        assert house.back(path, unknown(path, to))[0] == 250
        house.relay.kill()
        house.relay.start()
        assert house.refused(to) == UNSUBSCRIBED
        assert [line["event"] for line in house.history(path)][-1] == "OutOfBand"
    house.relay.audited()
