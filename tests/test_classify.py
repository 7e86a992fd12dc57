"""Classification: the class and the decision of a refusal, the table of rules, and the command that shows them."""

import io
import json
import os
import re
import shlex
import textwrap
import time
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from classify_kit import SAMPLES
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd import ctl
from relayd.classify import BLAMES, CLASSES, NATURES, Classifier, Verdict, decide, load, names, text
from relayd.errors import InputError
from relayd.outcome import Stage
from relayd.reply import Reply

CORPORA = Path(os.environ.get("RELAYD_CORPORA", Path(__file__).parents[2] / "shared" / "corpora"))
CLASSIFIER = Classifier(load())


def judged(code: int, enhanced: str, words: str, provider: str = "", stage: Stage | None = None) -> Verdict:
    return CLASSIFIER.classify(Reply(code, enhanced, words), provider, stage or "")


# Classes.


@pytest.mark.parametrize(
    ("cls", "sample"),
    [(cls, one) for cls, several in SAMPLES.items() for one in several],
    ids=lambda one: str(one)[:60],
)
def test_a_refusal_is_taken_for_what_it_means(cls: str, sample: tuple[int, str, str, str]) -> None:
    assert judged(*sample).cls == cls


def test_every_class_has_samples_and_names() -> None:
    assert set(SAMPLES) == set(CLASSES) == set(NATURES)
    assert all(len(names(cls)) == 4 for cls in CLASSES)


def test_words_count_more_than_the_enhanced_code_and_that_more_than_the_bare_one() -> None:
    assert judged(550, "5.1.1", "your mail was blocked as spam").cls == "content_spam"
    assert judged(550, "5.1.1", "no, thank you").cls == "recipient_unknown"
    assert judged(552, "5.7.25", "no, thank you").cls == "ip_ptr"
    assert judged(552, "", "no, thank you").cls == "mailbox_full"


def test_an_enhanced_code_of_another_class_than_the_code_is_read_without_its_class() -> None:
    verdict = judged(450, "5.2.2", "")
    assert verdict.cls == "mailbox_full"
    assert verdict.decision.retry


def test_an_enhanced_code_is_found_in_the_words() -> None:
    assert judged(554, "", "delivery failed (#5.2.2)").cls == "mailbox_full"


def test_a_reply_without_codes_is_transient_and_one_with_an_enhanced_code_as_severe_as_that() -> None:
    assert judged(0, "", "user unknown").decision.retry
    assert judged(0, "5.1.1", "user unknown").decision.suppress == "at_once"


def test_an_unknown_user_that_is_only_heard_of_after_the_content_is_a_filter() -> None:
    assert judged(550, "5.1.1", "user unknown", stage="rcpt").cls == "recipient_unknown"
    assert judged(550, "5.2.1", "user unknown", stage="rcpt").cls == "recipient_unknown"
    assert judged(550, "", "user unknown", stage="dot").cls == "recipient_filtered"
    assert judged(550, "5.1.1", "user unknown", stage="dot").cls == "recipient_unknown"


def test_a_bare_550_is_an_unknown_user_only_as_an_answer_to_rcpt() -> None:
    assert judged(550, "", "zzz", stage="rcpt").cls == "recipient_unknown"
    assert judged(550, "", "zzz", stage="dot").cls == "unknown"


def test_what_an_address_or_a_host_is_called_says_nothing() -> None:
    for words in ("<spam.virus.full@blocked.example>: user unknown", "user unknown: mailbox-full@dest.example"):
        assert judged(550, "5.1.1", words).cls == "recipient_unknown"


def test_a_provider_is_known_by_its_names_and_its_mx_hosts() -> None:
    table = load()
    assert table.provider("Gmail") == table.provider("gmail-smtp-in.l.google.com.") == "google"
    assert table.provider("mx.yandex.ru") == table.provider("yandex") == "yandex"
    assert table.provider("mx.dest.example") == table.provider("") == ""


# Decisions.


@pytest.mark.parametrize("blame", [None, *BLAMES])
@pytest.mark.parametrize("cls", CLASSES)
def test_class_and_decision_never_disagree(cls: str, blame: str | None) -> None:
    transient, permanent = decide(cls, False, blame), decide(cls, True, blame)  # type: ignore[arg-type]
    assert transient.retry
    for decision in (transient, permanent):
        assert not (decision.retry and decision.suppress != "no")
        assert decision.suppress == "no" or decision.blame == "recipient"
        assert decision.hold == (decision.blame == "ip")
        assert decision.blame == blame or blame is None
    if cls in ("ip_blocked", "ip_ptr", "rate_limited", "reputation", "greylist"):
        assert permanent.retry
    else:
        assert not permanent.retry


@pytest.mark.parametrize("cls", SAMPLES)
def test_every_verdict_has_the_decision_of_its_class_and_severity(cls: str) -> None:
    rules = {rule.name: rule for rule in CLASSIFIER.rules}
    for code, enhanced, words, provider in SAMPLES[cls]:  # type: ignore[index]
        verdict = judged(code, enhanced, words, provider)
        blame = rules[verdict.rule].blame if verdict.rule else None
        assert verdict.decision == decide(verdict.cls, code >= 500 or (not code and enhanced.startswith("5")), blame)


def test_an_unknown_user_is_suppressed_at_once_a_full_mailbox_for_a_time_and_a_blocked_ip_nobody() -> None:
    assert judged(550, "5.1.1", "user unknown").decision.suppress == "at_once"
    assert judged(552, "5.2.2", "mailbox full").decision.suppress == "for_a_time"
    assert judged(550, "5.2.1", "account disabled").decision.suppress == "after_n"
    blocked = judged(550, "5.7.1", "client host blocked using zen.spamhaus.org").decision
    assert (blocked.retry, blocked.suppress, blocked.hold) == (True, "no", True)


def test_a_recipient_that_gets_too_much_mail_does_not_rest_the_path() -> None:
    decision = judged(450, "4.2.1", "The user you are trying to contact is receiving mail too quickly").decision
    assert (decision.blame, decision.hold, decision.suppress) == ("recipient", False, "no")


# Text.


@given(st.text(max_size=3000), st.integers(0, 999), st.text(max_size=12), st.text(max_size=40), st.text(max_size=8))
@settings(max_examples=300, deadline=None)
def test_any_reply_gets_a_verdict(words: str, code: int, enhanced: str, provider: str, stage: str) -> None:
    verdict = CLASSIFIER.classify(Reply(code, enhanced, words), provider, stage)
    assert verdict.cls in CLASSES
    verdict.why.encode()


_WORDS = sorted({word for several in SAMPLES.values() for one in several for word in one[2].split()})


@given(st.lists(st.sampled_from(_WORDS), max_size=150).map(" ".join), st.sampled_from([421, 450, 550, 554]))
@settings(max_examples=200, deadline=None)
def test_a_long_text_of_the_words_that_matter_takes_bounded_time(words: str, code: int) -> None:
    start = time.process_time()
    CLASSIFIER.classify(Reply(code, "", words))
    assert time.process_time() - start < 0.1


@pytest.mark.parametrize(
    "words", ["user " * 400, "a@" * 900, "1." * 900, "-" * 2000, ":" * 2000, "a" * 5000, "exceed " * 300]
)
def test_a_hostile_text_takes_bounded_time(words: str) -> None:
    start = time.process_time()
    judged(550, "5.1.1", words)
    assert time.process_time() - start < 0.1


def test_what_differs_from_message_to_message_is_gone_from_the_normal_form() -> None:
    one = text.normal(
        "550-5.7.1 [192.0.2.7]\n 550 5.7.1 Boîte pleine: <a.b@dest.example> qa9-20020a0564020c2900b0056b9a8b7d3e"
    )
    other = text.normal("[203.0.113.99] boite PLEINE: <someone@else.example> 7d3e-20020a0564020c2900b0056b9a8b7daa")
    assert one == other == "[ip#] boite pleine: <@> #"
    assert text.normal("[2001:db8::7] at 10:11:12") == "[ip#] at 10:11:12"
    assert text.normal(r"bo\xeete pleine") == "boite pleine"


def test_the_literals_that_spare_a_search_stand_in_all_that_matches() -> None:
    """Each rule finds by the index what it finds without."""
    for several in SAMPLES.values():
        for _, _, words, _ in several:
            normal = text.normal(words)
            likely = list(CLASSIFIER._candidates(normal))
            found = [one for one in CLASSIFIER._patterns if one[1].search(normal)]
            assert [one for one in likely if one[1].search(normal)] == found


@pytest.mark.filterwarnings("ignore::FutureWarning")
@given(st.text("ab(c|d)?*+[]{}2,.^$\\P<>:=!i", max_size=12), st.text("abcd2.,", max_size=8))
def test_needed_literals_are_right_for_any_regular_expression(source: str, words: str) -> None:
    try:
        compiled = re.compile(source)
    except (re.error, OverflowError):
        return
    literals = text.needed(source)
    if literals and compiled.search(words):
        assert any(literal in words for literal in literals)


def test_two_parts_with_a_tilde_are_found_in_either_order_when_they_are_near() -> None:
    near = text.pattern("Boîte|casella ~ full", {})
    assert near.search("full casella") and near.search("boite is full")
    assert not near.search("boite" + " " * 70 + "full")


# The table.


def own(tmp_path: Path, content: str) -> str:
    file = tmp_path / "own.toml"
    file.write_text(content, "utf-8")
    return str(file)


RULE = '[[rule]]\nname = "{}"\nclass = "policy"\norigin = "ours"\ntext = ["{}"]\n'


def test_a_file_of_ones_own_goes_before_what_is_shipped(tmp_path: Path) -> None:
    path = own(tmp_path, RULE.format("odd", "user unknown on tuesdays"))
    assert Classifier(load([path])).classify(Reply(550, "5.1.1", "user unknown on Tuesdays")).rule == "odd"
    assert Classifier(load([path])).classify(Reply(550, "5.1.1", "user unknown")).cls == "recipient_unknown"


def test_a_rule_of_a_shipped_name_takes_its_place(tmp_path: Path) -> None:
    table = load([own(tmp_path, RULE.format("mailbox-full", "zzz"))])
    assert [rule.text for rule in table.rules if rule.name == "mailbox-full"] == [("zzz",)]
    assert len(table.rules) == len(load().rules)


def test_own_words_and_providers_join_the_shipped_ones(tmp_path: Path) -> None:
    path = own(
        tmp_path,
        '[words]\nzilch = ["nada", "zip"]\n[providers]\nours = ["*.mx.example"]\n'
        + RULE.format("odd", "{zilch} here")
        + 'provider = ["ours"]\n',
    )
    classifier = Classifier(load([path]))
    assert classifier.classify(Reply(550, "", "nada here"), "a.mx.example").rule == "odd"
    assert classifier.classify(Reply(550, "", "nada here"), "b.example").rule != "odd"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("rule = [", "not TOML"),
        ("[[rules]]", 'did you mean "rule"?'),
        ("rule = 3", "write [[rule]]"),
        ("[words]\nx = 3", "$[...]"),
        (RULE.format("x", "user").replace("policy", "spam"), "rule x"),
        (RULE.format("x", "user") + "colour = 1\n", "colour"),
        (RULE.format("x", "(user"), "not a regular expression"),
        (RULE.format("x", "{nobody}"), "no words called 'nobody'"),
        (RULE.format("x", "a ~ b ~ c"), "two parts"),
        (RULE.format("x", "user") + 'code = ["55"]\n', "code is '55'"),
        (RULE.format("x", "user") + 'enhanced = ["5.1"]\n', "enhanced is '5.1'"),
        (RULE.format("x", "user") + 'provider = ["gogle"]\n', 'did you mean "google"?'),
        (RULE.format("x", "user") + 'stage = ["lunch"]\n', "lunch"),
        ('[[rule]]\nname = "x"\nclass = "policy"\norigin = "ours"\n', "nothing says what it matches"),
    ],
)
def test_a_faulty_file_is_refused_with_file_and_key(tmp_path: Path, content: str, said: str) -> None:
    path = own(tmp_path, content)
    with pytest.raises(InputError) as caught:
        load([path])
    assert path in str(caught.value)
    assert said in str(caught.value)


def test_a_file_that_is_missing_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="nowhere"):
        load(["/nowhere.toml"])


def test_every_shipped_rule_has_an_origin_and_a_name_of_its_own() -> None:
    rules = load().rules
    assert all(rule.origin for rule in rules)
    assert max(Counter(rule.name for rule in rules).values()) == 1


def test_shipped_patterns_are_in_the_normal_form_already() -> None:
    for rule in load().rules:
        for source in rule.text + rule.but:
            assert source == source.lower() or "\\" in source, (rule.name, source)
            assert not any(unicodedata.combining(c) for c in unicodedata.normalize("NFKD", source) if ord(c) < 0x250)


# The command.


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = ctl.main(["classify", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_tells_class_decision_and_rule(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(
        capsys, "--code", "550", "--enhanced", "5.7.1", "--provider", "gmail", "message is likely unsolicited mail"
    )
    assert code == 0
    assert "content_spam" in out and "gmail-suspicious" in out and "retry" in out


def test_the_command_answers_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = told(capsys, "--json", "--code", "552", "mailbox full")
    answer = json.loads(out)
    assert answer["class"] == "mailbox_full"
    assert answer["decision"] == {"retry": False, "suppress": "for_a_time", "hold": False, "blame": "recipient"}
    assert answer["names"]["kumomta"] == "QuotaIssues"


def test_the_command_answers_at_least_2000_rows_a_second(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [one for several in SAMPLES.values() for one in several]
    rows = [
        {"id": n, "code": code, "enhanced": enhanced, "text": f"{words} x{n}y", "provider": provider}
        for n, (code, enhanced, words, provider) in enumerate(samples * (4000 // len(samples) + 1))
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(json.dumps(row) + "\n" for row in rows)))
    start = time.process_time()
    code, out, _ = told(capsys, "--jsonl")
    spent = time.process_time() - start
    assert code == 0
    assert [json.loads(line)["id"] for line in out.splitlines()] == [row["id"] for row in rows]
    assert len(rows) / spent > 2000


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "line 2"),
        ('{"code": "abc"}', "'abc' is not a reply code"),
        ('{"text": 3}', "$.text"),
        ("\udcff", "surrogates"),
    ],
)
def test_the_command_names_the_line_that_is_no_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"code": 550}\n' + line + "\n"))
    code, out, err = told(capsys, "--jsonl")
    assert code == 1
    assert len(out.splitlines()) == 1
    assert "line 2" in err and said in err


def test_the_command_refuses_a_faulty_file_of_rules(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = told(capsys, "--rules", own(tmp_path, "[[rules]]"), "x")
    assert code == 1
    assert "own.toml" in err


# Other people's replies.


def test_at_least_95_in_100_of_the_corpus_are_classified_as_their_labels_say() -> None:
    path = CORPORA / "replies.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there: set RELAYD_CORPORA to the folder of corpora")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    wrong, counted = [], 0
    for row in rows:
        if row["label_confidence"] in ("high", "good") and row.get("category"):
            counted += 1
            verdict = judged(int(row["code"]), row.get("enhanced") or "", row["text"], row.get("provider") or "")
            if verdict.cls != row["category"]:
                wrong.append((row["id"], row["category"], verdict.cls))
    assert counted > 200
    assert len(wrong) <= counted * 0.045, wrong


# The manual.

MANUAL = (Path(__file__).parents[1] / "docs" / "feedback.md").read_text("utf-8")
_BLOCKS = [textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", MANUAL, re.MULTILINE)]


def test_the_manual_shows_what_the_commands_print(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (rules,) = (block for block in _BLOCKS if "[[rule]]" in block)
    monkeypatch.chdir(tmp_path)
    Path("own.toml").write_text(rules, "utf-8")
    shown = [block.strip().partition("\n") for block in _BLOCKS if block.lstrip().startswith("$ ")]
    assert len(shown) == 3
    for line, _, printed in shown:
        words = shlex.split(line.removeprefix("$ "))
        if words[0] == "printf":
            monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(words[2 : words.index("|")])))
        code, out, _ = told(capsys, *words[words.index("relayctl") + 2 :])
        assert (code, out.strip()) == (0, printed)


def test_the_manual_has_the_decision_of_every_class() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (yes|no) \| ([\w ]+) \| (\w+) \|", MANUAL, re.MULTILINE)
    assert [
        (cls, "yes" if decision.retry else "no", decision.suppress.replace("_", " "), decision.blame)
        for cls, decision in ((cls, decide(cls, True)) for cls, *_ in rows)  # type: ignore[arg-type]
    ] == rows
    assert {cls for cls, *_ in rows} == set(CLASSES)
