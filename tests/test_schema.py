"""docs/events.md and the JSON schema are what events are."""

import json
from pathlib import Path
from typing import get_args

import msgspec

from relayd import schema
from relayd.classify.classes import Class
from relayd.events import NAMES, Event, encode
from relayd.schema import FIELDS

ROOT = Path(__file__).parent.parent


def test_every_field_says_what_it_is() -> None:
    for kind, meanings in FIELDS.items():
        assert list(meanings) == [field.encode_name for field in msgspec.structs.fields(kind)]


def test_the_page_shows_the_types_as_they_are() -> None:
    assert (ROOT / "docs" / "events.md").read_text("utf-8") == schema.page(), "make docs writes it anew"


def test_the_schema_has_every_name_and_a_meaning_for_every_field() -> None:
    made = schema.schema()
    json.dumps(made)
    assert made["$defs"]["Event"]["properties"]["event"]["enum"] == sorted(NAMES)
    assert all(field["description"] for part in made["$defs"].values() for field in part["properties"].values())
    assert set(made["$defs"]) == {kind.__name__ for kind in FIELDS}


def test_examples_are_events_and_of_classes_that_exist() -> None:
    for event in schema.examples():
        assert msgspec.json.decode(encode(event), type=Event) == event
        assert event.attempt is None or event.attempt.cls in ("", *get_args(Class))
