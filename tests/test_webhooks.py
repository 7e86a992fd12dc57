"""Webhooks, the parts that need no time: signatures, where they may go, what answers mean, batches, what is kept."""

import json
import random
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook as Oracle
from standardwebhooks import WebhookVerificationError

from relayd import events
from relayd.history import Hit, Query
from relayd.webhooks.batch import BYTES, Wanted, message, read
from relayd.webhooks.shelf import Shelf
from relayd.webhooks.signature import message_id, new_secret, shown, sign
from relayd.webhooks.standing import ASKED, FIRST, LONGEST, Place, Standing, judge, pause
from relayd.webhooks.target import is_public, parse_url, refusal
from tests.webhook_kit import SECRET, Desk

NOW = datetime.now(UTC).timestamp()


# Signatures.


def signed(keys: tuple[bytes, ...]) -> tuple[bytes, dict[str, str]]:
    now = datetime.now(UTC).timestamp()  # the oracle takes nothing that is old
    body, headers = message(["1-a", "1-b"], [b'{"id":"1-a"}', '{"id":"1-б"}'.encode()], keys, int(now))
    return body, dict(headers)


def test_the_specifications_own_library_verifies_what_we_sign() -> None:
    secret = new_secret()
    body, headers = signed((secret,))
    assert Oracle(shown(secret)).verify(body, headers) == {"v": 1, "events": [{"id": "1-a"}, {"id": "1-б"}]}


def test_while_secrets_overlap_either_verifies_and_no_other() -> None:
    new, old, other = new_secret(), new_secret(), new_secret()
    body, headers = signed((new, old))
    assert Oracle(shown(new)).verify(body, headers) == Oracle(shown(old)).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Oracle(shown(other)).verify(body, headers)


@pytest.mark.parametrize("header", ["webhook-id", "webhook-timestamp", "body"])
def test_nothing_that_is_signed_can_be_changed(header: str) -> None:
    secret = new_secret()
    body, headers = signed((secret,))
    changed = {"webhook-id": "msg_x", "webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}.get(header, "")
    body, headers = (body + b" ", headers) if header == "body" else (body, {**headers, header: changed})
    with pytest.raises(WebhookVerificationError):
        Oracle(shown(secret)).verify(body, headers)


def test_the_signature_is_the_one_of_the_specifications_example() -> None:
    key = Oracle("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")._whsecret
    body = b'{"test": 2432232314}'
    assert sign((key,), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_the_same_events_have_the_same_message_id_and_others_another() -> None:
    ids = ["1-a", "1-b", "1-c"]
    assert message_id(ids) == message_id(list(ids))
    assert len({message_id(one) for one in (ids, ids[:2], ids[::-1], [ids[0], ids[2]])}) == 4
    assert "." not in message_id(ids)


# Where they may go.


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://crm.example/", "not a URL for webhooks"),
        ("https:///events", "not a URL for webhooks"),
        ("crm.example/events", "not a URL for webhooks"),
        ("https://crm.example:0/", "not a URL for webhooks"),
        ("https://crm.example:x/", "not a URL"),
        ("https://me:secret@crm.example/", "must hold no login"),
        ("https://crm.example\\@evil.example/", "must hold no login"),
        ("https://crm.example/#top", "must have no fragment"),
        ("https://crm .example/", "not a URL"),
        ("https://crm.example/\r\nX-Evil: 1", "not a URL"),
        ("https://crм.example/", "not a URL"),
        ("https://crm%2eexample/", "not a host name"),
        ("https://crm.example/" + "x" * 2000, "not a URL of up to 2000"),
    ],
)
def test_a_url_that_is_none_is_refused_with_a_sentence(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_url(url)


def test_a_url_is_taken_apart() -> None:
    target = parse_url("https://Crm.Example/a?b=c")
    assert (target.host, target.port, target.secure) == ("crm.example", 443, True)
    assert (parse_url("http://[2001:db8::1]:81/").host, parse_url("http://10.0.0.1/").port) == ("2001:db8::1", 80)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.0.8", "192.88.99.1",
        "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "100::1", "3fff::1",
        "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "2002:7f00:1::", "2002:a00:1::1",
        "64:ff9b::10.0.0.1", "64:ff9b:1::10.0.0.1", "2001:0:7f00:1::1", "5f00::1", "4000::1",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_however_it_is_written_is_none_to_post_to(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"]
)
def test_a_public_address_is_one_to_post_to(address: str) -> None:
    assert is_public(address)


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    target = parse_url("https://crm.example/")
    assert "crm.example is 10.0.0.1" in refusal(target, ["8.8.8.8", "10.0.0.1"], ())
    assert refusal(target, ["8.8.8.8", "10.0.0.1"], ["10.0.0.0/8"]) == ""


def test_events_go_in_clear_only_where_an_operator_allows_it() -> None:
    clear = parse_url("http://crm.example/")
    assert "in clear" in refusal(clear, ["8.8.8.8"], ())
    assert refusal(clear, ["10.0.0.1"], ["10.0.0.0/8"]) == ""
    assert refusal(parse_url("https://crm.example/"), ["8.8.8.8"], ()) == ""


# What answers mean.


def test_the_pauses_double_from_five_seconds_to_fifteen_minutes_less_a_random_part() -> None:
    rng = random.Random(1)
    for tries, longest in ((1, 5), (2, 10), (3, 20), (8, 640), (9, 900), (500, 900)):
        found = [pause(tries, 0.0, rng) for _ in range(200)]
        assert longest / 2 <= min(found) < max(found) <= longest
        assert max(found) - min(found) > longest / 4
    assert (FIRST, LONGEST) == (5.0, 900.0)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("120", 120), ("0", 0), ("99999", ASKED), ("1e9", 0), ("-5", 0), ("", 0), ("soon", 0), ("9" * 400, ASKED),
        ("Fri, 15 Jan 2027 08:02:00 GMT", 120), ("Fri, 15 Jan 2027 07:00:00 GMT", 0),
        ("Fri, 15 Jan 2038 08:02:00 GMT", ASKED),
    ],
)  # fmt: skip
def test_a_server_may_ask_for_a_pause_of_up_to_an_hour(said: str, seconds: float) -> None:
    assert judge(503, "", said, 1_800_000_000.0).wait == seconds
    assert pause(1, seconds, random.Random(1)) >= seconds


def test_only_what_begins_with_2_is_a_success() -> None:
    taken = [status for status in range(100, 600) if not judge(status, "", "", NOW).words]
    assert taken == list(range(200, 300))
    assert [status for status in range(100, 600) if judge(status, "", "", NOW).gone] == [410]


def test_a_redirect_is_named_with_where_it_leads_and_cannot_break_a_line() -> None:
    words = judge(302, "https://evil.example/\x1b[2J\r\n" + "x" * 999, "", NOW).words
    assert words.startswith("it answers 302, a redirect to https://evil.example/\\x1b[2J\\x0d") and len(words) < 400


# Where one stands.


def test_when_lanes_change_in_number_all_begin_where_the_last_stood() -> None:
    stands = Standing(NOW, [Place(Hit("b", 5)), Place(Hit("a", 9), 3, NOW)])
    stands.spread(3)
    assert [place.hit for place in stands.places] == [Hit("a", 9)] * 3
    before = stands.places
    stands.spread(3)
    assert stands.places is before


def test_time_in_which_relayd_did_not_run_is_nobodys_failure() -> None:
    stands = Standing(NOW, [Place(Hit("a", 1))])
    stands.failed(stands.places[0], "it hangs", "", NOW)
    stands.failed(stands.places[0], "it hangs", "", NOW + 600)
    stands.wake(NOW + 7 * 86400)
    assert NOW + 7 * 86400 - stands.since() == 600 + LONGEST
    stands.wake(NOW + 7 * 86400 + 60)
    assert stands.places[0].tries == 2


def test_the_shelf_gives_back_what_was_kept_and_forgets_what_is_gone(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "w.sqlite", lambda call: call())
    rows = {name: Standing(NOW, [Place(Hit("1.jsonl", n))]) for n, name in enumerate("abc")}
    shelf.keep(rows.items(), ()).result(10)
    shelf.keep((), ["b"]).result(10)
    shelf.close()
    again = Shelf(tmp_path / "w.sqlite", lambda call: call())
    assert again.before == {"a": rows["a"], "c": rows["c"]} and not again.fault
    again.close()
    assert (tmp_path / "w.sqlite").stat().st_mode & 0o077 == 0


def test_a_shelf_that_is_broken_is_put_aside_and_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "w.sqlite").write_bytes(b"no database " * 1000)
    shelf = Shelf(tmp_path / "w.sqlite", lambda call: call())
    assert "w.broken" in shelf.fault and shelf.before == {} and (tmp_path / "w.broken").exists()
    shelf.keep([("a", Standing(NOW, []))], ()).result(10)
    shelf.close()


def test_a_shelf_whose_disk_does_not_answer_is_left_where_it_is(tmp_path: Path) -> None:
    Shelf(tmp_path / "w.sqlite", lambda call: call()).close()
    with closing(sqlite3.connect(tmp_path / "w.sqlite")) as db:
        db.execute("DROP TABLE standing")  # stands for whatever else SQLite calls an operational error
    with pytest.raises(OSError, match=r"w\.sqlite: no such table"):
        Shelf(tmp_path / "w.sqlite", lambda call: call())
    assert not (tmp_path / "w.broken").exists()


# Batches.


def wanted(limit: int = 100, after: Hit | None = None, until: Hit | None = None) -> Wanted:
    return Wanted(Query(accounts=("crm",)), after or Hit("", 0), until, (0, 1), limit, (SECRET,), 1)


def test_a_batch_is_the_events_behind_a_place_and_the_next_goes_on_behind_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.events(*range(1, 6))
    first = read(tmp_path / "records", "mx1", wanted(3))
    second = read(tmp_path / "records", "mx1", wanted(3, first.to))
    third = read(tmp_path / "records", "mx1", wanted(3, second.to))
    assert (first.count, first.more, second.count, second.more, third.count) == (3, True, 2, False, 0)
    told = json.loads(first.body)["events"] + json.loads(second.body)["events"]
    assert [event["note"] for event in told] == list("12345") and third.to >= second.to
    assert read(tmp_path / "records", "mx1", wanted(3, until=first.to)).headers == first.headers
    desk.stop()


def test_a_body_has_a_bound_whatever_the_events_carry(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.records([desk.event(n, meta={"x": "y" * 300_000}) for n in range(1, 8)])
    at, sizes, notes = Hit("", 0), list[int](), list[str]()
    while (found := read(tmp_path / "records", "mx1", wanted(1000, at))).count:
        at = found.to
        sizes.append(len(found.body))
        notes += [event["note"] for event in json.loads(found.body)["events"]]
    assert notes == list("1234567") and max(sizes) < BYTES + 400_000 and len(sizes) == 2
    desk.stop()


def test_the_events_of_one_message_to_many_are_made_of_its_line_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)
    to = tuple(f"a{n}@x.example" for n in range(500))
    desk.records([desk.event(0, kind="Reception", message="0000000000000010", recipients=to)])
    calls = []
    real = events.events
    monkeypatch.setattr(sys.modules["relayd.history.find"], "events", lambda *args: calls.append(1) or real(*args))
    assert read(tmp_path / "records", "mx1", wanted(1000)).count == 500
    assert len(calls) == 1
    desk.stop()
