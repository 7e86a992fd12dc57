"""Events that leave a running relay: by a file, by Redis, by an export, and to who looks for something."""

import csv
import gzip
import json
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zstandard

from relayd import ctl, events
from relayd.records import decode

from .conftest import Stage
from .relay import Relay, Sink, certificate, free_port, until
from .test_crash import Load

NODE = "relay.test.example"


def recorded(relay: Relay) -> list[str]:
    """The ids of all events that are in the segments, in their order."""
    found = []
    for path in sorted((relay.spool / "records").glob("*.jsonl")):
        offset = 0
        for line in path.read_bytes().splitlines(keepends=True):
            found += [event.id for event in events.events(decode(line), events.place(path.name, offset), NODE)]
            offset += len(line)
    return found


def everything(directory: Path) -> list[dict[str, Any]]:
    """The events of a feed's files, those put aside first; none while one is being put aside."""
    found: list[dict[str, Any]] = []
    names = {path for path in directory.iterdir() if path.suffix in (".jsonl", ".zst")}
    for path in sorted(names, key=lambda path: (path.name == "events.jsonl", path.name)):
        if path.with_name(path.name + ".zst") in names:
            return []
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return []
        if path.suffix == ".zst":
            raw = zstandard.ZstdDecompressor().stream_reader(raw).read()
        found += [json.loads(line) for line in raw.splitlines()]
    return found


def outcomes(found: list[dict[str, Any]]) -> dict[str, set[str]]:
    """The deliveries of each event's name."""
    made: dict[str, set[str]] = {"queued": set(), "delivered": set()}
    for event in found:
        made.setdefault(event["event"], set()).add(event["delivery"])
    return made


def same(found: dict[str, set[str]]) -> bool:
    return found["queued"] == found["delivered"] != set()


def once(ids: list[str]) -> list[str]:
    return list(dict.fromkeys(ids))


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    made = tmp_path / "logs"
    made.mkdir()
    return made


def test_kills_under_load_lose_no_event_and_repeat_only_whole_ones_with_their_ids(stage: Stage, logs: Path) -> None:
    rng = random.Random(3)
    sink = stage.sink()
    tables = (
        f'[feed.log]\ntype = "file"\npath = "{logs}/events.jsonl"\nrotate = "200K"\ncompress = "zstd"\nkeep = 1000\n'
    )
    relay = stage.relay(
        f'{tables}begin = "beginning"\n[[route]]\ndomain = "*"\nvia = "{sink.via}"', node='min_free = "1M"'
    )
    load = Load()
    for _ in range(6):
        relay.start()
        load.run(relay, rng.uniform(0.3, 1.8), relay.kill)
    relay.start()
    until(lambda: not relay.queued(), 60, "the queue empties")
    until(lambda: same(outcomes(everything(logs))), 30, "every delivery is told of to its end")
    assert len(outcomes(everything(logs))["queued"]) >= len(load.accepted)
    until(lambda: once([event["id"] for event in everything(logs)]) == recorded(relay), 30, "files and records agree")
    found = everything(logs)
    assert len(list(logs.iterdir())) > 2
    by_id: dict[str, Any] = {}
    for event in found:
        assert by_id.setdefault(event["id"], event) == event
    of_delivery: dict[str, list[str]] = {}
    for event in by_id.values():
        of_delivery.setdefault(event["delivery"], []).append(event["event"])
    assert all(names[0] == "queued" and names[-1] == "delivered" for names in of_delivery.values())
    print(f"\n{len(by_id)} events, {len(found) - len(by_id)} came twice, in {len(list(logs.iterdir()))} files")


def test_a_reload_begins_changes_and_ends_feeds(stage: Stage, logs: Path) -> None:
    sink = stage.sink()
    route = f'[[route]]\ndomain = "*"\nvia = "{sink.via}"\n'
    relay = stage.relay(route).start()
    assert relay.ctl("feed", "list")[1].strip() == "none"
    feed = f'[feed.log]\ntype = "file"\npath = "{logs}/events.jsonl"\n'
    relay.send("a@x.example")
    until(lambda: len(recorded(relay)) == 2)
    relay.write(route + feed)
    assert relay.ctl("config", "reload")[0] == 0
    until(lambda: (logs / "events.jsonl").exists())
    id = relay.send("b@x.example")
    until(lambda: len(everything(logs)) == 2)
    assert {event["message"] for event in everything(logs)} == {id}  # a new feed begins now
    relay.write(route + feed.replace("events.jsonl", "other.jsonl") + 'events = ["delivered"]\n')
    assert relay.ctl("config", "reload")[0] == 0
    id = relay.send("c@x.example")
    until(lambda: len(everything(logs)) == 3)
    (event,) = map(json.loads, (logs / "other.jsonl").read_text().splitlines())
    assert (event["event"], event["message"]) == ("delivered", id)
    relay.write(route)
    assert relay.ctl("config", "reload")[0] == 0
    assert relay.ctl("feed", "list")[1].strip() == "none"


def test_a_sink_that_fails_is_told_by_health_and_delays_no_mail(stage: Stage, logs: Path) -> None:
    sink = stage.sink()
    tables = (
        f'[feed.log]\ntype = "file"\npath = "{logs}/missing/events.jsonl"\n[[route]]\ndomain = "*"\nvia = "{sink.via}"'
    )
    relay = stage.relay(tables).start()
    relay.send("a@x.example")
    sink.wait("a@x.example")
    (warning,) = until(lambda: relay.health()["warnings"])
    assert warning == f"feed log: {logs}/missing/events.jsonl: No such file or directory"
    assert relay.health()["ok"]
    (logs / "missing").mkdir()
    until(lambda: not relay.health()["warnings"], 20)
    until(lambda: len(everything(logs / "missing")) == 2)


# Redis.


class Redis:
    """A redis-server of a test's own."""

    def __init__(self, home: Path, stack: ExitStack, *options: str) -> None:
        # Debian's redis-tools has it under this name, without a service that starts by itself.
        binary = shutil.which("redis-server") or shutil.which("redis-check-rdb")
        if binary is None:
            pytest.skip("there is no redis-server: apt-get install redis-tools")
        self.program = home / "redis-server"
        self.program.symlink_to(binary)
        self.port = free_port("127.0.0.1")
        self.home = home
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        stack.callback(self.kill)
        self.start()

    def start(self, *more: str) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]
        options += ["--appendfsync", "always", "--dir", str(self.home), *self.options, *more]
        with open(self.home / "redis.log", "ab") as log:
            self.process = subprocess.Popen([self.program, *options], stdout=log, stderr=log)
        until(self._answers, 10, "redis answers")

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, (self.home / "redis.log").read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except ConnectionRefusedError:
            return False
        return True

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def entries(self, password: str = "", stream: str = "relayd:events", database: int = 0) -> list[dict[str, str]]:
        """What the stream holds."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as wire, wire.makefile("rb") as file:
            if password:
                wire.sendall(b"AUTH %s\r\n" % password.encode())
                assert file.readline() == b"+OK\r\n"
            wire.sendall(b"SELECT %d\r\nXRANGE %s - +\r\n" % (database, stream.encode()))
            assert file.readline() == b"+OK\r\n"

            def value() -> Any:
                line = file.readline()
                if line[:1] == b"*":
                    return [value() for _ in range(int(line[1:]))]
                if line.startswith(b"-LOADING"):
                    raise ConnectionRefusedError
                assert line[:1] == b"$", line
                return file.read(int(line[1:]) + 2)[:-2].decode()

            try:
                entries = value()
            except ConnectionRefusedError:
                return []
        return [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in entries]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def with_redis(stage: Stage, sink: Sink, redis: Redis, **more: str) -> Relay:
    given = {"url": f"redis://127.0.0.1:{redis.port}", "timeout": "500ms", "begin": "beginning"} | more
    lines = "".join(f'{key} = "{value}"\n' for key, value in given.items())
    return stage.relay(f'[feed.queue]\ntype = "redis"\n{lines}[[route]]\ndomain = "*"\nvia = "{sink.via}"')


def ids(entries: list[dict[str, str]]) -> list[str]:
    return [entry["id"] for entry in entries]


def test_redis_gets_every_event_and_a_dead_or_silent_one_costs_nothing_but_time(
    stage: Stage, stack: ExitStack, tmp_path: Path
) -> None:
    sink, redis = stage.sink(), Redis(tmp_path, stack)
    relay = with_redis(stage, sink, redis).start()
    relay.send("a@x.example")
    (queued, delivered) = until(lambda: len(found := redis.entries()) == 2 and found)
    assert (queued["event"], delivered["event"]) == ("queued", "delivered")
    assert json.loads(delivered["data"])["id"] == delivered["id"]
    assert set(queued) == {"id", "event", "data"}
    # It says nothing.
    assert redis.process is not None
    redis.process.send_signal(signal.SIGSTOP)
    relay.send("b@x.example")
    sink.wait("b@x.example")
    until(lambda: "does not answer within 0.5 s" in str(relay.health()["warnings"]), 20)
    redis.process.send_signal(signal.SIGCONT)
    until(lambda: once(ids(redis.entries())) == recorded(relay), 20)
    # It is not there.
    redis.kill()
    relay.send("c@x.example")
    sink.wait("c@x.example")
    until(lambda: "refused" in str(relay.health()["warnings"]), 20)
    assert relay.health()["ok"]
    redis.start()
    until(lambda: once(ids(redis.entries())) == recorded(relay) and len(recorded(relay)) == 6, 20)
    until(lambda: not relay.health()["warnings"])
    assert relay.stop() == 0


def test_redis_is_fed_under_load_and_kills_and_keeps_the_order(stage: Stage, stack: ExitStack, tmp_path: Path) -> None:
    sink, redis = stage.sink(), Redis(tmp_path, stack)
    relay = with_redis(stage, sink, redis)
    load = Load()
    for seconds in (0.5, 1.5):
        relay.start()
        load.run(relay, seconds, relay.kill)
    relay.start()
    until(lambda: not relay.queued(), 60)
    until(lambda: once(ids(redis.entries())) == recorded(relay), 30)
    assert len(recorded(relay)) > 200


def test_redis_with_a_password_another_database_stream_and_length(
    stage: Stage, stack: ExitStack, tmp_path: Path
) -> None:
    sink, redis = (
        stage.sink(),
        Redis(tmp_path, stack, "--requirepass", "correct horse", "--stream-node-max-entries", "2"),
    )
    secret = tmp_path / "password"
    secret.write_text("wrong horse\n")
    more = {"url": f"redis://127.0.0.1:{redis.port}/3", "password_file": str(secret), "stream": "mail"}
    relay = with_redis(stage, sink, redis, **more)
    relay.file.write_text(relay.file.read_text().replace('stream = "mail"', 'stream = "mail"\nmaxlen = 4'))
    relay.start()
    for n in range(6):
        relay.send(f"a{n}@x.example")
    until(lambda: "invalid username-password pair" in str(relay.health()["warnings"]), 20)
    assert "wrong horse" not in str(relay.health()) + relay.log()
    secret.write_text("correct horse\n")  # it is read anew at each try
    until(lambda: not relay.health()["warnings"], 20)
    until(lambda: ids(found := redis.entries('"correct horse"', "mail", 3))[-1:] == recorded(relay)[-1:] and found)
    assert len(redis.entries('"correct horse"', "mail", 3)) < 12 == len(recorded(relay))


def test_redis_by_tls_only_with_a_certificate_that_is_trusted(stage: Stage, stack: ExitStack, tmp_path: Path) -> None:
    certificate(tmp_path, "localhost")
    pem, key, port = str(tmp_path / "localhost.pem"), str(tmp_path / "localhost.key"), free_port("127.0.0.1")
    options = ["--tls-port", str(port), "--tls-cert-file", pem, "--tls-key-file", key, "--tls-auth-clients", "no"]
    redis = Redis(tmp_path, stack, *options)
    sink = stage.sink()
    relay = with_redis(stage, sink, redis, url=f"rediss://localhost:{port}").start()
    relay.send("a@x.example")
    until(lambda: "localhost: TLS failed" in str(relay.health()["warnings"]), 20)
    relay.stop()
    text = relay.file.read_text()
    relay.file.write_text(text.replace('type = "redis"', f'type = "redis"\nauthorities = "{pem}"'))
    relay.start()
    until(lambda: ids(redis.entries()) == recorded(relay) != [], 20)


# Exports, and looking for something.


def test_an_export_is_started_watched_and_fetched_by_relayctl(stage: Stage, tmp_path: Path) -> None:
    sink = stage.sink()
    relay = stage.relay(f'[[route]]\ndomain = "*"\nvia = "{sink.via}"').start()
    for n in range(3):
        relay.send(f"a{n}@x.example")
    until(lambda: len(recorded(relay)) == 6)
    code, said = relay.ctl("--json", "export", "start", "--since", "1h", "--account", "crm", "--format", "csv")
    assert code == 0, said
    id = json.loads(said)["id"]
    until(lambda: relay.ask("/v1/export/show", id=id)["state"] == "done")
    assert id in relay.ctl("export", "list")[1]
    target = tmp_path / "events.csv"
    assert relay.ctl("export", "fetch", "--output", str(target), id) == (0, "")
    with open(target, newline="") as lines:
        assert [row["id"] for row in csv.DictReader(lines)] == recorded(relay)
    packed = tmp_path / "events.csv.gz"
    assert relay.ctl("export", "fetch", "--output", str(packed), id) == (0, "")
    assert gzip.decompress(packed.read_bytes()) == target.read_bytes()
    assert "there is no export" in relay.ctl("export", "fetch", id, "--account", "other")[1]
    assert relay.ctl("export", "cancel", id)[0] == 0
    code, said = relay.ctl("export", "fetch", "--output", str(target), id)
    assert (code, "it is cancelled" in said) == (1, True)
    assert target.stat().st_size > 0  # what was there stays
    assert relay.stop() == 0


def test_relayctl_finds_words_in_the_records_of_a_running_relay(stage: Stage) -> None:
    sink = stage.sink()
    relay = stage.relay(f'[[route]]\ndomain = "*"\nvia = "{sink.via}"').start()
    id = relay.send("ivan@x.example")
    relay.send("olga@x.example")
    until(lambda: len(recorded(relay)) == 4)
    for words in (["ivan@x.example"], [id], ["--regex", "IVAN@[x-z]", "--since", "1h"], ["--full", "ivan@x"]):
        code, said = until(lambda words=words: "delivered" in (a := relay.ctl("records", "grep", *words))[1] and a)
        assert code == 0 and [line.split()[1] for line in said.splitlines()] == ["queued", "delivered"], said
        assert "recipient=ivan@x.example" in said and "olga" not in said
    code, said = relay.ctl("--json", "records", "grep", "--event", "delivered", "--limit", "1", "x.example")
    line, note = said.splitlines()
    assert json.loads(line)["recipient"] == "olga@x.example"
    assert note.startswith("relayctl: these are the newest 1") and "there are more" in note
    assert relay.ctl("records", "grep", "--regex", "a(")[0] == 1
    assert "is not a time" in relay.ctl("records", "grep", "--since", "yesterday", "x")[1]
    assert relay.ctl("records", "grep", "nobody@x.example") == (0, "")


def test_events_schema_needs_no_relay(capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["--control", "/nowhere", "events", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$defs"]["Event"]
