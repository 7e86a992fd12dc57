"""The recorded bounces and complaints of other projects, where they are present: what is found in them, and that
nothing made of them raises.  They are not ours and are not copied: ``RELAYD_CORPORA`` names the folder."""

import json
import os
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest

from relayd.classify import shipped
from relayd.feedback import Report, explain, read
from relayd.reply import Reply
from tests.test_feedback_explain import Verdict

CORPORA = Path(os.environ.get("RELAYD_CORPORA") or Path(__file__).parents[2] / "shared" / "corpora")
pytestmark = pytest.mark.skipif(not CORPORA.is_dir(), reason=f"there are no corpora in {CORPORA} (RELAYD_CORPORA)")

# Labelled by its file's name, but a Postfix bounce by every byte of it.
NO_COMPLAINT = "CwsMailBounceHandler/fbl_hotmail_002.eml"

Sample = dict[str, Any]


def samples(name: str) -> list[tuple[Sample, bytes]]:
    folder = CORPORA / name
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text("utf-8").splitlines()]
    return [(row, (folder / row["file"]).read_bytes()) for row in rows if row["confidence"] != "none"]


def unclassified(reply: Reply, provider: str, stage: str) -> Verdict:
    return Verdict("unknown", {}, "")


def explained(content: bytes) -> dict[str, dict[str, Any]]:
    answer = explain(content, unclassified, lambda clues: "")
    return {one["recipient"].lower(): one for one in answer["recipients"]}


def test_recipients_of_recorded_bounces_are_found() -> None:
    total, missed = 0, []
    for row, content in samples("bounces"):
        wanted = {one["recipient"].lower().strip("<>") for one in row["expect"] if one.get("recipient")}
        if wanted:
            total += 1
            missed += [] if wanted <= set(explained(content)) else [row["id"]]
    assert len(missed) <= 0.01 * total, missed


def test_status_codes_that_recorded_bounces_carry_are_found() -> None:
    total, missed = 0, []
    for row, content in samples("bounces"):
        found = explained(content)
        for number, one in enumerate(row["expect"]):
            if row["kind"] != "bounce" or not one.get("status") or one["status"].encode() not in content:
                continue
            total += 1
            told = found.get(one.get("recipient", "").lower()) or next(iter(list(found.values())[number:]), {})
            right = {one["status"], *(other.get("status") for other in row.get("also_accept", [])[number : number + 1])}
            missed += [] if told.get("status") in right else [(row["id"], one["status"], told.get("status"))]
    assert len(missed) <= 0.02 * total, missed


def test_recorded_bounces_mean_what_their_labels_say_and_are_hard_where_they_are() -> None:
    right: dict[str, list[bool]] = {"category": [], "hard": []}
    wrong = []
    for row, content in samples("bounces"):
        if row["kind"] != "bounce" or not row["confidence"].startswith("recorded"):
            continue
        answer = explain(content, shipped().classify, lambda clues: "")["recipients"]
        named = {one["recipient"].lower(): one for one in answer}
        for number, one in enumerate(row["expect"]):
            told = named.get(one.get("recipient", "").lower()) or next(iter(answer[number:]), None)
            for key, results in right.items():
                if told and one.get(key) not in (None, "unknown", "complaint", "auto_reply", "delivered"):
                    results.append(told[key] == one[key])
                    wrong += [] if results[-1] else [(row["id"], key, one[key], told[key])]
    assert len(right["category"]) > 300 and len(right["hard"]) > 300
    assert right["category"].count(False) <= 0.042 * len(right["category"]), wrong
    assert right["hard"].count(False) <= 0.03 * len(right["hard"]), wrong


def test_no_automatic_answer_and_no_delay_is_a_hard_bounce() -> None:
    for row, content in samples("bounces"):
        if (row["kind"] == "auto-reply" and row["confidence"] == "recorded") or DELAYED.search(content):
            answer = explain(content, shipped().classify, lambda clues: "")
            assert not any(one["hard"] for one in answer["recipients"]), row["id"]


def test_complaints_are_known_all_with_their_fields() -> None:
    for row, content in samples("arf"):
        if row["id"] == NO_COMPLAINT:
            assert read(content).kind == "bounce"
            continue
        found = read(content)
        assert found.kind in ("complaint", "unsubscribe"), row["id"]
        for name, attribute in FIELDS.items():
            if name in row["fields"]:
                assert found.complaint is not None
                assert row["fields"][name].strip("<>").lower() in str(getattr(found.complaint, attribute)).lower(), row[
                    "id"
                ]


FIELDS = {
    "Feedback-Type": "type",
    "User-Agent": "user_agent",
    "Source-IP": "source_ip",
    "Reported-Domain": "domains",
    "Original-Mail-From": "mail_from",
    "Original-Rcpt-To": "recipients",
}


def test_no_automatic_answer_and_no_delay_is_a_bounce() -> None:
    for row, content in samples("bounces"):
        if row["kind"] == "auto-reply" and row["confidence"] == "recorded":
            assert read(content).kind == "auto-reply", row["id"]
        if DELAYED.search(content):
            assert read(content).kind == "delay", row["id"]


# What a delay notice says of itself; the labels call a failure that came after long retries "delayed" as well.
DELAYED = re.compile(
    rb"^(?:action: delayed|subject: [^\n]*(?:\(delay\)|delayed|could not send message for past))", re.I | re.M
)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A piece cut out, doubled, moved or filled with noise."""
    at, length = rng.randrange(len(content) + 1), rng.randrange(1, 400)
    piece = content[at : at + length]
    filling = rng.choice(
        [b"", piece * 2, rng.randbytes(8), b"\n\n", b"--", b"\x00", b"=", b"<" * 50, b"@" * 50, piece.upper()]
    )
    return content[:at] + filling + content[at + length :]


def test_mutations_of_what_was_recorded_are_read_without_a_fault() -> None:
    rng = random.Random(7)
    slowest = 0.0
    for _, content in samples("bounces") + samples("arf"):
        for _ in range(5):
            content = mutated(content, rng)
            started = time.process_time()
            found = read(content)
            slowest = max(slowest, time.process_time() - started)
            assert isinstance(found, Report)
    assert slowest < 1.0
