"""A content filter beside a whole relay, and senders under suspicion: what clients hear and customers are told."""

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import msgspec
import pytest

from relayd.suspicion.findings import Key
from relayd.suspicion.habits import Usual

from .conftest import Stage
from .relay import Relay, Sink, message, until

STREAMS = "[stream.transactional]\n[stream.urgent]\nfilter = false\n"


class Rspamd:
    """Answers by the word in the body; ``go_on`` is what it waits for."""

    def __init__(self) -> None:
        self.go_on = Event()
        self.go_on.set()
        self.seen: list[tuple[dict[str, str], bytes]] = []
        rspamd = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                rspamd.seen.append(({name.lower(): value for name, value in self.headers.items()}, content))
                rspamd.go_on.wait(60)
                actions = {b"casino": "reject", b"later": "soft reject", b"doubtful": "add header"}
                action = next((action for word, action in actions.items() if word in content), "no action")
                found = {"action": action, "score": 7.5, "required_score": 15, "symbols": {"WORDS": {"score": 7.5}}}
                answer = json.dumps(found).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/checkv2"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.go_on.set()
        self.server.shutdown()
        self.server.server_close()


class House:
    def __init__(self, stage: Stage) -> None:
        self.rspamd = Rspamd()
        self.sink: Sink = stage.sink()
        self.route = f'[[route]]\ndomain = "*"\nvia = "{self.sink.via}"\n{STREAMS}'
        self.relay: Relay = stage.relay(self.route + self.table()).start()

    def table(self, on_error: str = "open") -> str:
        return f'[filter]\nurl = "{self.rspamd.url}"\ntimeout = "500ms"\non_error = "{on_error}"\n'

    def say(self, body: bytes, extra: bytes = b"") -> tuple[int, str]:
        with self.relay.client() as client:
            client.mail("sales@crm.example")
            client.rcpt("friend@example.net")
            code, said = client.data(message(body, extra))
            return code, said.decode()


@pytest.fixture(scope="module")
def house(module_stage: Stage) -> Iterator[House]:
    made = House(module_stage)
    yield made
    made.rspamd.stop()


def test_what_the_filter_says_is_what_the_client_hears_and_the_record_tells(house: House) -> None:
    assert house.say(b"casino\r\n") == (550, "5.7.1 Message rejected as spam")
    assert house.say(b"later\r\n") == (451, "4.7.1 Message not taken now")
    code, said = house.say(b"doubtful\r\n")
    assert code == 250
    assert b"\r\nX-Spam: Yes\r\n" in house.sink.content(house.sink.wait("friend@example.net"))
    received = house.relay.ask("/v1/inspect", id=said.split()[-1])["history"][0]
    assert received["what"].endswith("the content filter: add header, 7.5 of 15: WORDS 7.5")
    headers, content = house.rspamd.seen[-1]
    assert (headers["from"], headers["rcpt"], headers["ip"]) == ("sales@crm.example", "friend@example.net", "127.0.0.1")
    assert headers["queue-id"] == said.split()[-1] and b"doubtful" in content


def test_a_filter_that_hangs_is_waited_for_and_then_it_is_as_configured_and_health_says_so(house: House) -> None:
    house.rspamd.go_on.clear()
    before = time.monotonic()
    assert house.say(b"hello\r\n")[0] == 250
    assert 0.4 < time.monotonic() - before < 5
    (warning,) = house.relay.health()["warnings"]
    assert warning == "the content filter: it does not answer within 0.5 s; mail goes unchecked"
    house.relay.write(house.route + house.table("closed"))
    assert house.relay.ask("/v1/config/reload")["changed"] == ["filter"]
    assert house.say(b"hello\r\n") == (451, "4.7.1 The content could not be checked, try again later")
    assert "mail is deferred" in house.relay.health()["warnings"][0]
    house.rspamd.go_on.set()
    assert house.say(b"hello\r\n")[0] == 250
    assert house.relay.health()["warnings"] == []


def test_without_the_table_nothing_is_asked_any_more(house: House) -> None:
    house.relay.write(house.route)
    house.relay.ask("/v1/config/reload")
    before = len(house.rspamd.seen)
    assert house.say(b"casino\r\n")[0] == 250 and len(house.rspamd.seen) == before
    house.relay.write(house.route + house.table())
    house.relay.ask("/v1/config/reload")


def test_a_client_that_begins_to_spam_is_listed_and_its_customer_is_mailed(stage: Stage) -> None:
    sink = stage.sink()
    relay = stage.relay(f'[[route]]\ndomain = "*"\nvia = "{sink.via}"\n[stream.transactional]\nvalidation = "bulk"\n')
    usual = Usual(0.0, 10.0, days=9)
    relay.spool.mkdir(parents=True, exist_ok=True)
    (relay.spool / "suspicion").mkdir()
    learnt = msgspec.msgpack.encode((0.0, [(Key("crm", "client", "shop17"), usual)]))
    (relay.spool / "suspicion" / "habits").write_bytes(learnt)
    (relay.spool / "suspicion" / "recipients").write_bytes(b"0 0\n")
    relay.start()
    assert relay.ctl("account", "set", "--notices", "abuse@crm.example", "crm")[0] == 0
    with relay.client() as client:
        for n in range(10):
            client.mail("sales@crm.example")
            for i in range(60):
                client.rcpt(f"a{n}-{i}@example.net" if i < 40 else f"a{n}-{i}@gmial.com")
            assert client.data(message(b"hello\r\n", b"X-Relayd-Client: shop17\r\n"))[0] == 250
    title = b"\r\nSubject: Suspicious mail from client shop17 of account crm\r\n"
    until(lambda: any(title in sink.content(mail) for mail in sink.to("abuse@crm.example")), 30, "the notice arrives")
    (row,) = relay.ask("/v1/suspects/list")
    assert (row["account"], row["kind"], row["name"]) == ("crm", "client", "shop17")
    code, said = relay.ctl("suspects", "show", "crm")
    assert code == 0 and "misspelt" in said
    assert relay.ctl("suspects", "dismiss", "--reason", "a test", "--for", "3d", "crm")[0] == 0
    assert relay.ask("/v1/suspects/list") == []
    until(lambda: relay.queued() == 0)
    relay.audited()
    assert relay.stop() == 0
    assert {path.name for path in (relay.spool / "suspicion").iterdir()} == {"habits", "recipients"}
