"""To every peer: all contents arrive byte for byte, with evidence of the way; refusals are told in the peer's words."""

import base64
import random
import re
import smtplib
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Stage
from tests.e2e.relay import Relay, message, until

from .story import QUICK, comes_to, parsed, route, told, without_trace

PEERS = ["postfix", "exim", "opensmtpd"]
_rng = random.Random(5322)
CONTENTS = {
    "8-bit": message("Дорогой друг, grüß Gott\r\n".encode() + bytes(range(128, 256)) + b"\r\n"),
    "dots": message(b".\r\n..\r\n.hidden\r\n...\r\n.. two\r\n. one\r\nend.\r\n.last\r\n"),
    "long line": message(b"x" * 998 + b"\r\n" + b"." * 998 + b"\r\n"),
    "5 MB": message(b"".join(b"." + base64.b64encode(_rng.randbytes(54)) + b"\r\n" for _ in range(70_000))),
    "empty": message(b""),
    "blank lines at the end": message(b"text\r\n\r\n\r\n"),
    "folded header": message(b"Hello\r\n", b"X-Folded: one\r\n\ttwo\r\n three\r\n"),
}


class House:
    """A relay and the peer behind it."""

    def __init__(self, relay: Relay, peer: Any, name: str) -> None:
        self.relay = relay
        self.peer = peer
        self.name = name
        self.port = peer.port["plain"] if name == "postfix" else peer.port


@pytest.fixture(scope="module", params=PEERS)
def house(request: pytest.FixtureRequest, module_stage: Stage) -> Iterator[House]:
    made = House(None, request.getfixturevalue(request.param), request.param)  # type: ignore[arg-type]
    tables = QUICK.format(egress="") + route("must.example", made.port, "encrypt") + route("*", made.port)
    made.relay = module_stage.relay(tables).start()
    yield made
    made.relay.audited()
    made.relay.stop()


def tls_works(port: int) -> bool:
    """Debian 12's OpenSMTPD offers STARTTLS and then fails in every handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP("127.0.0.1", port, "client.example", timeout=20) as client:
        try:
            client.starttls(context=context)
        except (ssl.SSLError, OSError):
            client.close()
            return False
    return True


@pytest.mark.parametrize("content", CONTENTS.values(), ids=list(CONTENTS))
def test_arrives_byte_for_byte(house: House, you: str, content: bytes) -> None:
    identity = house.relay.send(f"{you}@any.example", content)
    (stored,) = house.peer.arrived(you)
    assert without_trace(stored) == content
    comes_to(house.relay, identity, "delivered")


def test_many_at_once_arrive_each_once(house: House, you: str) -> None:
    with house.relay.client() as client:
        wanted = [b"%d\r\n" % n for n in range(60)]
        for body in wanted:
            client.sendmail("sales@crm.example", f"{you}@any.example", message(body))
    stored = house.peer.arrived(you, 60, 40)
    assert sorted(without_trace(one).partition(b"\r\n\r\n")[2] for one in stored) == sorted(wanted)


def test_the_evidence_of_tls_is_what_the_peer_saw(house: House, you: str) -> None:
    if not tls_works(house.port):
        pytest.skip(f"{house.name} as it is packaged here fails in every TLS handshake")
    identity = house.relay.send(f"{you}@must.example")
    why = comes_to(house.relay, identity, "delivered")
    found = re.search(r"over (TLSv1\.[23]) TLS_(\w+)", why)
    assert found, why
    assert "certificate CN=mx.peer.example" in why
    (stored,) = house.peer.arrived(you)
    if house.name == "postfix":
        assert f"using {found[1]} with cipher TLS_{found[2]}" in stored.decode()
    else:
        # GnuTLS has names of its own: the cipher is the same.
        assert found[1].replace("v", "") in stored.decode() and found[2].partition("_SHA")[0] in stored.decode()


def test_a_peer_whose_tls_is_broken_gets_mail_in_clear_only_where_it_may(house: House, you: str) -> None:
    if tls_works(house.port):
        pytest.skip(f"the TLS of {house.name} works")
    held = house.relay.send(f"{you}@must.example")
    assert "TLS" not in comes_to(house.relay, house.relay.send(f"{you}@any.example"), "delivered")
    tries = until(lambda: told(house.relay, held, "TransientFailure"), 10, "the first failure is known")
    assert tries and all("at tls" in words for words in tries), tries
    assert len(house.peer.arrived(you)) == 1
    assert house.relay.delivery(held)["state"] == "queued"


def test_an_unknown_user_bounces_and_the_sender_reads_why(house: House, me: str) -> None:
    identity = house.relay.send("unknown@any.example", sender=f"{me}@crm.example")
    why = comes_to(house.relay, identity, "bounced")
    assert "at rcpt" in why and re.search(r"5[25][04] 5\.", why), why
    (stored,) = house.peer.arrived(me)
    report = parsed(stored)
    assert report.get_content_type() == "multipart/report"
    status = report.get_payload(1).as_string()  # type: ignore[union-attr]
    assert "Action: failed" in status and "unknown@any.example" in status
    assert re.search(r"Diagnostic-Code: smtp; ?5", status), status
    assert house.name == "opensmtpd" or stored.lower().startswith(b"return-path: <>")  # it keeps no empty one


def test_mail_refused_for_now_waits_and_says_so(house: House) -> None:
    if house.name == "postfix":
        pytest.skip("its moods are tried elsewhere")
    identity = house.relay.send("later@any.example")
    first = until(lambda: told(house.relay, identity, "TransientFailure"), 10, "the refusal is known")[0]
    assert "at rcpt" in first and "451 4.2.1 come back later" in first and "next try" in first
    assert house.relay.delivery(identity)["state"] == "queued"
