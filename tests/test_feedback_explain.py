"""What a report means, and how it is told at a shell prompt."""

import json

import msgspec

from relayd.feedback import Clue, explain, judged, read
from relayd.reply import Reply


class Verdict(msgspec.Struct, frozen=True):
    cls: str
    decision: dict[str, str]
    rule: str


def classify(reply: Reply, provider: str, stage: str) -> Verdict:
    classes = {"nobody": "recipient_unknown", "full": "mailbox_full", "waited": "expired"}
    cls = next((cls for word, cls in classes.items() if word in reply.text), "unknown")
    return Verdict(cls, {"suppress": "at_once"}, f"{reply.code}-{reply.enhanced}-{provider}-{stage}")


def verify(clues: tuple[Clue, ...]) -> str:
    return "valid" if Clue("to", "b-token@bounce.example") in clues else "none"


def bounce(words: str, subject: str = "failure notice") -> bytes:
    head = "From: MAILER-DAEMON@x.example\nTo: b-token@bounce.example\n"
    return f"{head}Subject: {subject}\n\nThis was not delivered:\n\n<a@one.example>:\n{words}\n".encode()


def test_a_bounce_is_hard_only_if_it_is_final_and_about_the_recipient() -> None:
    hard = {
        words: judged(read(bounce(words)), classify)[0].hard for words in ("550 nobody", "450 nobody", "552 full", "no")
    }
    assert hard == {"550 nobody": True, "450 nobody": False, "552 full": False, "no": False}
    assert not judged(read(bounce("550 nobody", "Warning: message delayed 4 hours")), classify)[0].hard


def test_a_status_that_the_report_does_not_give_follows_from_what_it_means() -> None:
    told = ("550 nobody", "nobody", "452 full", "waited", "something", "550 5.7.9 nobody")
    statuses = {words: judged(read(bounce(words)), classify)[0].status for words in told}
    assert list(statuses.values()) == ["5.1.1", "5.1.1", "4.2.2", "5.4.7", "5.0.0", "5.7.9"]


def test_the_classifier_hears_the_reply_who_gave_it_and_when() -> None:
    answer = judged(read(bounce("host mx.one.example said: 550 5.1.1 nobody (in reply to RCPT TO)")), classify)[0]
    assert answer.verdict.rule == "550-5.1.1-mx.one.example-rcpt"
    # The recipient's domain stands for a server that nobody names, the content for a command that nobody tells.
    assert judged(read(bounce("something went wrong")), classify)[0].verdict.rule == "0-5.0.0-one.example-dot"
    assert judged(read(bounce("550 5.1.1 nobody")), classify)[0].verdict.rule == "550-5.1.1-one.example-"


def test_an_explanation_names_kind_recipients_meaning_and_token() -> None:
    answer = json.loads(json.dumps(explain(bounce("550 5.1.1 nobody"), classify, verify)))
    one = answer["recipients"][0]
    assert (answer["kind"], answer["report"], answer["token"]) == ("bounce", "bounce", "valid")
    assert (one["recipient"], one["status"], one["hard"]) == ("a@one.example", "5.1.1", True)
    assert (one["class"], one["decision"]) == ("recipient_unknown", {"suppress": "at_once"})


def test_what_is_no_failure_is_explained_without_a_verdict() -> None:
    away = explain(b"From: a@one.example\nSubject: Out of office\n\nAway.\n", classify, verify)
    assert (away["kind"], away["recipients"], away["token"]) == ("auto-reply", [], "none")
    assert explain(b"", classify, verify)["kind"] == "not-bounce"
    leaving = explain(b"From: a@one.example\nSubject: unsubscribe\n\n", classify, verify)
    assert (leaving["kind"], leaving["report"]) == ("arf", "unsubscribe")
    assert leaving["recipients"][0]["recipient"] == "a@one.example"
