"""Traces of real sessions, followed as they are said; no password is ever in one."""

import json
import subprocess
import sys
from base64 import b64encode

from .conftest import Stage
from .relay import LOGIN, PASSWORD, ROOT, SENDER, Wire, message, until

SECRETS = [PASSWORD, b64encode(PASSWORD.encode()).decode(), b64encode(f"\0{LOGIN}\0{PASSWORD}".encode()).decode()]

GRUMPY = r"""
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
says = {b"EHLO": b"250 mx.example", b"RCPT": b"450 4.2.1 \x1b[31mcome back", b"QUIT": b"221 bye"}
while True:
    peer = server.accept()[0].makefile("rwb", buffering=0)
    peer.write(b"220 mx.example\r\n")
    for line in peer:
        peer.write(says.get(line[:4], b"250 ok") + b"\r\n")
        if line[:4] == b"QUIT":
            break
    peer.close()
"""


def test_both_ways_are_traced_live_and_no_secret_or_content_is_told(stage: Stage) -> None:
    sink = stage.sink()
    relay = stage.relay(f'[[route]]\ndomain = "*"\nvia = "{sink.via}"\n').start()
    relay.connection()
    code, said = relay.ctl("--json", "trace", "start", "--domain", "x.example", "--reason", "a test")
    assert code == 0, said
    number = str(json.loads(said)["id"])
    follower = subprocess.Popen(
        [sys.executable, "-m", "relayd.ctl", "--control", relay.control, "trace", "tail", number],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    with Wire(relay.submissions, tls=True) as client:
        client.hello()
        assert client.ask(b"AUTH LOGIN").startswith(b"334")
        assert client.ask(b64encode(LOGIN.encode())).startswith(b"334")
        assert client.ask(b64encode(PASSWORD.encode())).startswith(b"235")
        assert client.ask(b64encode(PASSWORD.encode())).startswith(b"5")  # a moment too late
        assert client.ask(b"MAIL FROM:<%s>" % SENDER.encode()).startswith(b"250")
        assert client.ask(b"RCPT TO:<b@x.example>").startswith(b"250")
        assert client.ask(b"DATA").startswith(b"354")
        client.say(message(b"The content is nobody's business.\r\n") + b".\r\n")
        assert client.reply().startswith(b"250")
        assert client.ask(b"QUIT").startswith(b"221")
    sink.wait("b@x.example")
    shown = until(lambda: len(heard := relay.ask("/v1/trace/show", id=int(number))["heard"]) == 2 and heard, 10)
    inward = next(row for row in shown if row["way"] == "in")
    outward = next(row for row in shown if row["way"] == "out")
    assert (inward["peer"], outward["at"]) == ("127.0.0.1", "127.0.0.1")
    text = "\n".join(inward["lines"])
    for part in ("S: 220 ", "C: EHLO client.example", "C: AUTH (secret)", "C: (secret)", "C: (no command, ", "C: MAIL"):
        assert part in text, text
    assert "Subject 16" in text and "S: 250 2.0.0 queued" in text.replace("Ok: ", "")
    out = "\n".join(outward["lines"])
    assert "RCPT TO:<b@x.example>" in out and "Subject 16" in out and "S: 250" in out
    relay.send("b@y.example")
    sink.wait("b@y.example")
    assert relay.ctl("trace", "stop", number)[0] == 0
    followed = follower.stdout.read()
    assert follower.wait(20) == 0
    assert "C: RCPT TO:<b@x.example>" in followed and " i2 " not in followed  # the other client's
    for told in (text, out, followed, relay.log()):
        assert not [secret for secret in (*SECRETS, "nobody's business") if secret in told]


def test_a_failed_attempt_is_inspected_with_what_was_said(stage: Stage) -> None:
    peer = subprocess.Popen([sys.executable, "-c", GRUMPY], stdout=subprocess.PIPE, text=True)
    try:
        assert peer.stdout is not None
        relay = stage.relay(f'[[route]]\ndomain = "*"\nvia = "127.0.0.1:{int(peer.stdout.readline())}"\n').start()
        id_ = relay.send("b@x.example")
        found = until(lambda: relay.delivery(id_).get("transcripts"))
        text = "\n".join(found[0]["lines"])
        assert "S: 220 mx.example" in text and "C: RCPT TO:<b@x.example>" in text
        assert "S: 450 4.2.1 \\x1b[31mcome back" in text
        code_, said = relay.ctl("inspect", id_)
        assert code_ == 0 and "\x1b" not in said and "RCPT TO" in said
    finally:
        peer.kill()
        peer.wait()
