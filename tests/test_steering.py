"""Headers that steer: what they may say, and what is told of one that says something else."""

import json
from email.message import EmailMessage
from email.policy import SMTP

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.envelope import UNSTEERED, Steering
from relayd.errors import InputError
from relayd.message.headers import survey
from relayd.message.steering import NAMES, PAIRS, SteeringError, ends, read, starts
from relayd.reply import printable

NOW = 1_782_810_000.0  # Tuesday 2026-06-30 09:00:00 UTC
HOUR, DAY = 3600.0, 86400.0


def steer(*lines: str | bytes) -> Steering:
    head = b"".join(line + b"\r\n" for line in (x.encode() if isinstance(x, str) else x for x in lines)) + b"\r\n"
    return read(survey(head).steering, NOW)


def refusal(*lines: str | bytes) -> str:
    with pytest.raises(SteeringError) as refused:
        steer(*lines)
    return str(refused.value)


def test_a_message_without_such_headers_is_not_steered() -> None:
    assert steer("From: a@x.example", "X-Mailer: y", "X-Track: z", "X-Relay: w", "X-Track-ID-2: v") is UNSTEERED


def test_all_of_them_at_once() -> None:
    assert steer(
        "X-Track-ID: crm-1719-77-b@x.example",
        "X-Relayd-Stream: marketing",
        "x-relayd-client: Shop 17",
        "X-Relayd-Tag: spring",
        "X-Relayd-Tag: sale, north",
        "X-Relayd-Tag: spring",
        'X-Relayd-Meta: {"order": "17",\r\n "name": "Анна"}',
        "X-Relayd-Send-At: 2026-07-01T12:00:00+03:00",
        "X-Relayd-Window: Mon-Fri 09:00-18:00 +03:00",
        "X-Relayd-Expire: 2d",
        "X-Relayd-Track: Opens",
        "X-Relayd-Idempotency-Key: 6f1c-77",
    ) == Steering(
        "crm-1719-77-b@x.example",
        "marketing",
        "Shop 17",
        ("spring", "sale, north"),
        {"order": "17", "name": "Анна"},
        NOW + DAY,
        "Mon-Fri 09:00-18:00 +03:00",
        NOW + 3 * DAY,
        "opens",
        "6f1c-77",
    )


def test_one_that_is_empty_is_not_there() -> None:
    assert steer(*(f"{name}: " for name in NAMES.values())) is UNSTEERED


@pytest.mark.parametrize("name", [name for name in NAMES.values() if name != "X-Relayd-Tag"])
def test_each_may_be_there_once(name: str) -> None:
    assert refusal(f"{name}:", f"{name.upper()}: x") == f"{name}: is there twice: write it once"


def test_there_may_be_ten_tags() -> None:
    assert len(steer(*(f"X-Relayd-Tag: {n}" for n in range(10))).tags) == 10
    assert refusal(*(f"X-Relayd-Tag: {n}" for n in range(11))) == "X-Relayd-Tag: is there more than 10 times"


def test_one_that_does_not_exist_is_told_with_the_one_that_was_meant() -> None:
    assert refusal("X-Relayd-SendAt: 1782813600") == (
        'x-relayd-sendat: there is no such header (did you mean "X-Relayd-Send-At"?)'
    )


@pytest.mark.parametrize("name", NAMES.values())
def test_none_is_longer_than_it_may_be(name: str) -> None:
    assert "bytes, at most" in refusal(f"{name}: {'x' * 5000}")


@pytest.mark.parametrize("name", NAMES.values())
def test_what_is_no_utf_8_is_told(name: str) -> None:
    assert refusal(name.encode() + b": \xff") == f"{name}: is not UTF-8"


@pytest.mark.parametrize("value", ["Анна", "x" * 200, "Анна и её магазин 17", "=?"])
def test_what_a_mail_library_makes_of_a_value_is_undone(value: str) -> None:
    made = EmailMessage(policy=SMTP)
    made["X-Track-ID"] = value
    made["X-Relayd-Meta"] = json.dumps({"name": value, "more": "y" * 80}, ensure_ascii=False, separators=(",", ":"))
    found = read(survey(made.as_bytes()).steering, NOW)
    assert (found.track_id, found.meta) == (value, {"name": value, "more": "y" * 80})


@pytest.mark.parametrize("word", ["=?koi8-r?q?=C1?=", "=?utf-8?b?A?=", "=?utf-8?q?=FF?="])
def test_encoded_words_that_are_no_utf_8_are_told(word: str) -> None:
    assert refusal(f"X-Relayd-Tag: {word}") == "X-Relayd-Tag: is not UTF-8"


def test_what_goes_into_records_cannot_move_a_terminal_or_begin_a_line() -> None:
    found = steer("X-Track-ID: a\x1b[2J", "X-Relayd-Client: \u202e", 'X-Relayd-Meta: {"a\\n": "\\u001b\\r\\n\\t."}')
    assert (found.track_id, found.client) == ("a\\x1b[2J", "\\x202e")
    assert found.meta == {"a\\x0a": "\\x1b\\x0d\\x0a ."}


@pytest.mark.parametrize(
    ("value", "ahead"),
    [
        ("2026-06-30T10:00:00Z", HOUR),
        ("2026-06-30 13:00+03:00", HOUR),
        ("2026-06-30T10:00:00.500+00:00", HOUR + 0.5),
        ("1782813600", HOUR),
        ("2026-07-30T09:00:00Z", 30 * DAY),
    ],
)
def test_a_time_to_send_at(value: str, ahead: float) -> None:
    found = steer(f"X-Relayd-Send-At: {value}")
    assert (found.send_at, starts(found, NOW)) == (NOW + ahead, NOW + ahead)


@pytest.mark.parametrize("value", ["2026-06-30T09:00:00Z", "1999-12-31T00:00Z", "1000000000", "0001-01-01T00:00+14:00"])
def test_a_time_that_has_passed_is_now(value: str) -> None:
    assert steer(f"X-Relayd-Send-At: {value}") is UNSTEERED


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("tomorrow", "'tomorrow' is no time: write 2026-12-24T09:00:00+03:00 or unix seconds"),
        ("20260701", "does not say its offset from UTC"),
        ("2026-07-01T09:00:00", "does not say its offset from UTC"),
        ("Wed, 01 Jul 2026 09:00:00 +0000", "is no time"),
        ("17828136000", "is no time"),
        ("2026-07-30T09:00:01Z", "is more than 30 days ahead"),
        ("9999-12-31T23:59:59Z", "is more than 30 days ahead"),
    ],
)
def test_what_is_no_time_to_send_at(value: str, says: str) -> None:
    assert says in refusal(f"X-Relayd-Send-At: {value}")


@pytest.mark.parametrize(
    ("lines", "end"),
    [
        (["X-Relayd-Expire: 6h"], 6 * HOUR),
        (["X-Relayd-Expire: 1m"], 60),
        (["X-Relayd-Expire: 30d"], 30 * DAY),
        (["X-Relayd-Expire: 2026-06-30T10:00:00Z"], HOUR),
        (["X-Relayd-Expire: 1782813600"], HOUR),
        (["X-Relayd-Expire: 6h", "X-Relayd-Send-At: 1782813600"], 7 * HOUR),
        (["X-Relayd-Send-At: 1782813600", "X-Relayd-Expire: 2026-06-30T10:01:00Z"], HOUR + 60),
        (["X-Relayd-Expire: 6h", "X-Relayd-Send-At: 1000000000"], 6 * HOUR),
    ],
)
def test_a_life_counts_from_acceptance_or_from_the_time_to_send_at(lines: list[str], end: float) -> None:
    found = steer(*lines)
    assert found.expire == ends(found, NOW, 1000 * DAY) == NOW + end


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["X-Relayd-Expire: soon"], 'is no time: write "90m", "6h", "2d" or 2026'),
        (["X-Relayd-Expire: 3600"], "is no time"),
        (["X-Relayd-Expire: 59s"], "'59s' leaves no life of 1 minute to 30 days"),
        (["X-Relayd-Expire: 31d"], "leaves no life"),
        (["X-Relayd-Expire: 2026-06-30T08:00:00Z"], "leaves no life"),
        (["X-Relayd-Expire: 2026-06-30T10:00:00Z", "X-Relayd-Send-At: 1782813600"], "leaves no life"),
        (["X-Relayd-Expire: 6h", "X-Relayd-Window: Wed 09:00-18:00"], "would expire before its X-Relayd-Window opens"),
    ],
)
def test_what_is_no_end_of_a_life(lines: list[str], says: str) -> None:
    assert refusal(*lines).startswith("X-Relayd-Expire: ") and says in refusal(*lines)


def test_the_life_by_the_streams_rules_begins_when_the_message_may_first_go() -> None:
    later = steer("X-Relayd-Send-At: 2026-07-10T00:00:00Z")
    closed = steer("X-Relayd-Window: Wed 09:00-18:00")
    both = steer("X-Relayd-Send-At: 2026-07-01T20:00:00Z", "X-Relayd-Window: Wed 09:00-18:00")
    assert ends(UNSTEERED, NOW, HOUR) == NOW + HOUR
    assert ends(later, NOW, HOUR) == later.send_at + HOUR
    assert (starts(closed, NOW), ends(closed, NOW, HOUR)) == (NOW + DAY, NOW + DAY + HOUR)
    assert starts(both, NOW) == NOW + 8 * DAY
    assert ends(steer("X-Relayd-Expire: 6h"), NOW, HOUR) == NOW + HOUR


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("X-Relayd-Stream: a/b", "'a/b' is not a name"),
        ("X-Relayd-Window: at night", "is no window"),
        ("X-Relayd-Track: yes", "'yes' is none of none, opens, clicks, all"),
        ("X-Relayd-Idempotency-Key: a b", "no spaces"),
        ("X-Relayd-Idempotency-Key: ключ", "visible ASCII"),
        ("X-Relayd-Meta: order=17", "is no JSON object of texts"),
        ('X-Relayd-Meta: {"order": 17}', "is no JSON object of texts"),
        ('X-Relayd-Meta: ["order"]', "is no JSON object of texts"),
        ("X-Relayd-Meta: " + "[" * 4000, "is no JSON object of texts"),
        (f"X-Relayd-Meta: { ({str(n): 'x' for n in range(PAIRS + 1)}) }".replace("'", '"'), "has 21 pairs, at most 20"),
    ],
)
def test_the_sentence_says_what_is_taken(line: str, says: str) -> None:
    assert refusal(line).startswith(line.partition(":")[0] + ": ") and says in refusal(line)


VALUES = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(str.encode),
    st.datetimes().map(lambda moment: moment.isoformat().encode() + b"Z"),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3)).map(lambda d: repr(d).replace("'", '"').encode()),
    st.sampled_from(
        [b"6h", b"Mon\x0b 09:00-18:00", b"opens", b"1782813600", b"9999999999", b"x" * 5000, b"Sun 02:00-03:00"]
    ),
)


def tame(text: str) -> bool:
    return printable(text, 100_000) == text and "\n" not in text


@given(st.lists(st.tuples(st.sampled_from([*NAMES, b"x-relayd-x", b"x-relayd-\xff"]), VALUES), max_size=8))
def test_any_headers_are_steering_or_a_sentence_for_a_reply(fields: list[tuple[bytes, bytes]]) -> None:
    try:
        found = read(fields, NOW)
    except SteeringError as error:
        assert isinstance(error, InputError) and tame(str(error)) and len(str(error)) < 400
        return
    assert all(map(tame, [found.track_id, found.client, found.window, *found.tags, *found.meta, *found.meta.values()]))
    assert len(found.tags) <= 10 and len(found.meta) <= PAIRS
    assert found.send_at == 0 or NOW < found.send_at <= NOW + 30 * DAY
    assert found.expire == 0 or starts(found, NOW) < found.expire
