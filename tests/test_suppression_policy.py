"""What puts a recipient on a list: by its stream's policy, at once, after a while, for a time."""

from typing import Any

import pytest

from relayd.classify import decide
from relayd.echoes import Event
from relayd.suppression import Policy, finding, parse_policy
from relayd.suppression.policy import shown

AT = 1_700_000_000.0
DAY = 86400


def event(kind: Any, cls: Any = "unknown", words: str = "550 5.1.1 no", **more: Any) -> Event:
    decision = decide(cls, kind == "bounced") if kind in ("bounced", "expired", "deferred") else None
    base = Event(kind, AT, 0xABC, "Bob@X.example", "crm", "login", "", "news", "crm.example")
    told = {"cls": cls, "decision": decision, "words": words, **more}
    return Event(**{**{name: getattr(base, name) for name in base.__struct_fields__}, **told})


def found(policy: Policy, *args: Any, **more: Any) -> tuple[str, str, int, int] | None:
    """(list, reason, how many it takes, seconds it lasts)."""
    made = finding(policy, event(*args, **more), "account:crm/all", "account:crm/news")
    lasts = made.entry.expires and int(made.entry.expires - AT) if made else 0
    return made and (made.entry.list, made.entry.reason, made.need, lasts)


@pytest.mark.parametrize(
    ("said", "follows"),
    [
        (("bounced", "recipient_unknown"), ("account:crm/all", "bounce", 1, 0)),
        (("bounced", "mailbox_disabled"), ("account:crm/all", "bounce", 3, 0)),
        (("bounced", "mailbox_full"), ("account:crm/all", "full", 3, 7 * DAY)),
        (("expired", "mailbox_full"), ("account:crm/all", "full", 3, 7 * DAY)),
        (("complaint",), ("account:crm/news", "complaint", 1, 0)),
        (("unsubscribe",), ("account:crm/news", "unsubscribe", 1, 0)),
        (("bounced", "content_spam"), None),
        (("bounced", "ip_blocked"), None),
        (("bounced", "unknown"), None),
        (("expired", "recipient_unknown"), None),
        (("deferred", "mailbox_full"), None),
    ],
)
def test_by_default_it_takes_so_many_for_so_long(said, follows):
    assert found(Policy(), *said) == follows


def test_a_policy_says_otherwise():
    policy = parse_policy({"unknown": 2, "hard": 0, "full": 1, "full_for": "1d", "complaint": False})
    assert found(policy, "bounced", "recipient_unknown") == ("account:crm/all", "bounce", 2, 0)
    assert found(policy, "bounced", "mailbox_disabled") is None
    assert found(policy, "bounced", "mailbox_full") == ("account:crm/all", "full", 1, DAY)
    assert found(policy, "complaint") is None and found(policy, "unsubscribe")
    assert shown(policy, "all")["full_for"] == "1d" and parse_policy(shown(policy, "all")).list == "all"


def test_an_entry_has_its_evidence():
    made = finding(Policy(), event("bounced", "recipient_unknown", "550 5.1.1 who\x1b[2J?", late=True), "a", "b")
    assert made is not None and made.late
    assert made.entry.value == "bob@x.example" and made.entry.by == "relayd" and made.entry.added == AT
    assert made.entry.evidence == (
        "2023-11-14T22:13:20Z delivery 0000000000000abc, recipient_unknown: 550 5.1.1 who\\x1b[2J?"
    )


def test_an_address_that_no_list_can_name_is_left_alone():
    assert finding(Policy(), event("complaint", recipient="postmaster"), "a", "b") is None


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("all", "is not a table"),
        ({"hard": -1}, "hard: -1 is not a whole number"),
        ({"full_for": "soon"}, "full_for: "),
        ({"complaint": 1}, "complaint: 1 is neither true nor false"),
        ({"list": "a/b"}, "list: 'a/b' is not a name"),
        ({"hart": 1}, "there is no key 'hart' (did you mean \"hard\"?)"),
    ],
)
def test_a_faulty_policy_is_refused_with_its_key(raw, words):
    with pytest.raises(ValueError) as raised:
        parse_policy(raw)
    assert words in str(raised.value)
