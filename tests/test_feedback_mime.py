"""What a forged report may cost: nothing in it raises, and the work is bounded whatever it is made of."""

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relayd.feedback import read
from relayd.feedback.mime import MAX_DEPTH, MAX_FIELDS, MAX_PARTS, MAX_SIZE, decoded, parts, words
from relayd.feedback.statuses import MAX_RECIPIENTS

MIB = 1 << 20
HEAD = b"Return-Path: <>\nFrom: MAILER-DAEMON@x.example\nSubject: Undeliverable\n"


def nested(depth: int) -> bytes:
    levels = (b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (level, level) for level in range(depth))
    return b"".join(levels) + b"\n<a@one.example>: 550 5.1.1 gone\n"


PATHOLOGICAL = {
    "nested multiparts": nested(10_000),
    "boundaries": b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n" * (MIB // 4),
    "headers": b"".join(b"X-%d: y\n" % n for n in range(100_000)) + b"\nbody",
    "one long header": b"Subject: " + b"x" * MIB + b"\n\n",
    "continued headers": b"Subject: x\n" + b" y\n" * (MIB // 3) + b"\n",
    "encoded words": b"Subject: " + b"=?utf-8?q?a?= " * 70_000 + b"\n\n",
    "parameters": b"Content-Type: multipart/x;" + b" boundary" * 100_000 + b"\n\n",
    "addresses in a line": HEAD + b"\n" + b"a@b.c " * (MIB // 6),
    "addresses in lines": HEAD + b"\n" + b"".join(b"<u%d@one.example>: 550 no\n" % n for n in range(40_000)),
    "one address again and again": HEAD + b"\n" + b"<<< <a@one.example>\n<<< <b@one.example>\n" * 25_000,
    "no address": HEAD + b"\n" + b"a" * MIB,
    "half an address": HEAD + b"\n" + b"a" * (MIB // 2) + b"@" + b"a." * (MIB // 4),
    "empty lines": HEAD + b"\n" + b"\n" * MIB,
    "spaces": HEAD + b"\n" + b" " * MIB,
    "lines of spaces": b" \n" * (MIB // 2),
    "quotes": HEAD + b"\n" + b"> " * (MIB // 2),
    "codes": HEAD + b"\n" + b"550 5.1.1 " * (MIB // 10),
    "dots": HEAD + b"\n" + b"5.1." * (MIB // 4),
    "header lines": HEAD + b"\n" + b"Subject: x\n" * (MIB // 11),
    "almost words": HEAD + b"\n" + b"could not be user recipient delivery " * (MIB // 37),
    "open tags": HEAD + b"Content-Type: text/html\n\n" + b"<style" * (MIB // 6),
    "angles": HEAD + b"Content-Type: text/html\n\n" + b"<" * MIB,
    "entities": HEAD + b"Content-Type: text/html\n\n" + b"&" * MIB,
    "recipients": HEAD
    + b"Content-Type: message/delivery-status\n\n"
    + b"Final-Recipient: rfc822; a@b.example\nAction: failed\nStatus: 5.1.1\n\n" * 15_000,
    "a diagnostic without an end": HEAD
    + b"Content-Type: message/delivery-status\n\nDiagnostic-Code: "
    + b"x y\n" * (MIB // 4),
    "a slow codec": HEAD + b"Content-Type: text/plain; charset=punycode\n\n" + b"a" * MIB,
    "base64": HEAD + b"Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\n" + b"A" * (MIB - 1),
}


@pytest.mark.parametrize("name", PATHOLOGICAL)
def test_a_report_made_to_be_slow_is_read_in_bounded_time(name: str) -> None:
    started = time.process_time()
    found = read(PATHOLOGICAL[name])
    assert (
        time.process_time() - started < 2.0
    )  # of this process; a tenth of it is usual here, seconds to hours if quadratic
    assert len(found.recipients) <= MAX_RECIPIENTS
    assert len(found.clues) <= 32


@pytest.mark.parametrize("name", ["addresses in lines", "one address again and again", "header lines", "almost words"])
def test_work_ends_at_the_limits_however_large_the_message(name: str) -> None:
    content = PATHOLOGICAL[name]
    started = time.process_time()
    assert read(content * 20).cut
    assert time.process_time() - started < 2.0


def test_the_limits_are_kept_and_told() -> None:
    _, leaves, cut = parts(nested(MAX_DEPTH - 1))
    assert (len(leaves), cut) == (1, False)
    _, leaves, cut = parts(nested(MAX_DEPTH + 2))
    assert (len(leaves), cut) == (0, True)
    many = b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * (MAX_PARTS + 5)
    _, leaves, cut = parts(many)
    assert (len(leaves), cut) == (MAX_PARTS, True)
    head, _, _ = parts(b"X: y\n" * (MAX_FIELDS + 5) + b"\n")
    assert len(head) == MAX_FIELDS
    assert read(HEAD + b"\n" + b"x" * MAX_SIZE).cut


def test_a_delimiter_that_never_comes_leaves_the_text_readable() -> None:
    found = read(HEAD + b"Content-Type: multipart/report; boundary=missing\n\n<a@one.example>: 550 5.1.1 gone\n")
    assert [one.final for one in found.recipients] == ["a@one.example"]


def test_charsets_that_are_none_or_not_kept_to_still_give_text() -> None:
    assert decoded("почта".encode("koi8-r"), "koi8-r") == "почта"
    assert decoded("почта".encode(), "x-unknown") == "почта"
    assert decoded(b"caf\xe9", "utf-8") == "caf\ufffd"
    assert decoded(b"caf\xe9", "") == "café"
    assert decoded("配信".encode("iso-2022-jp"), "") == "配信"
    assert decoded(b"abc", "unicode_escape") == "abc"
    assert words("=?utf-8?b?0L/QvtGH0YLQsA==?=") == "почта"
    assert words("=?utf-8?b?0") == "=?utf-8?b?0"


# Whatever steers the reading, to be put together at random.
_PIECES = r"""
\n|\r\n|\n\n| |--b\n|--b--\n|=?utf-8?b?=?=|<|>|@|=\n|\xff|\x1b$B|\x00|> |<<< |:\n name\n|<style>|Recipient:|Reason:
Content-Type: multipart/report; boundary=b\n|Content-Type: text/html; charset=gbk\n\n|Content-Type: message/rfc822\n\n
Content-Type: message/delivery-status\n\n|Content-Type: message/feedback-report\n\n|Content-Transfer-Encoding: base64\n
Final-Recipient: rfc822; |Action: failed\n|Status: 5.1.1\n|Diagnostic-Code: |a@one.example|550 5.1.1|\\x{D800}
Feedback-Type: abuse\n|Incidents: |Subject: failure notice\n|From: MAILER-DAEMON\n|Received: from x\n
----- Original message -----\n|could not be delivered
"""
_WORDS = st.sampled_from(
    [piece.encode("latin-1").decode("unicode_escape").encode("latin-1") for piece in re.split(r"[|\n]", _PIECES)]
)


@given(st.lists(_WORDS, max_size=60).map(b"".join) | st.binary(max_size=400))
@settings(max_examples=400, deadline=None)
@example(b"")
@example(b"Content-Type: multipart/mixed; boundary=\n\n--\n")
def test_anything_at_all_can_be_read(content: bytes) -> None:
    found = read(content)
    assert all(text.isprintable() for one in found.recipients for text in (one.final, one.original, one.remote_mta))
