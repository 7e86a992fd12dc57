"""The page of all verbs is what relayctl has."""

from pathlib import Path

from relayd.ctl import COMMANDS
from relayd.reference import page

PAGE = Path(__file__).parent.parent / "docs" / "verbs.md"


def test_the_page_is_written_from_the_table() -> None:
    assert PAGE.read_text("utf-8") == page(COMMANDS), "make docs"


def test_every_verb_is_on_it_with_its_arguments() -> None:
    text = page(COMMANDS)
    for verb in COMMANDS:
        assert f"| `{verb.name}` |" in text
