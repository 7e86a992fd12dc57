"""By which addresses a sender domain's mail is seen to leave."""

from pathlib import Path

import pytest

from relayd import subjects
from tests.test_assembly import loaded, streams_of

SOURCES = """
[source.s2]
address = ["192.0.2.12", "2001:db8::12"]
[source.s3]
address = "10.0.0.3"
public = "192.0.2.13"
[pool.p]
sources = { s2 = 1, s1 = 1 }
[pool.q]
sources = { s3 = 1 }
[pool.default]
sources = { s1 = 1 }
[stream.news]
pool = "p"
[stream.third]
pool = "q"
"""


@pytest.mark.parametrize(
    ("stream", "seen"),
    [
        ("news", [("s2", "192.0.2.12", "mx1.relay.example"), ("s2", "2001:db8::12", "mx1.relay.example")]),
        ("third", [("s3", "192.0.2.13", "mx1.relay.example")]),
        ("bulk", []),
        ("unknown", []),
    ],
)
def test_senders_are_seen_by_the_public_addresses_of_their_streams_pools(tmp_path: Path, stream, seen):
    with streams_of(loaded(tmp_path, SOURCES)) as streams:
        made = subjects.sender_sources(loaded(tmp_path, SOURCES), {streams.scheduling("crm", stream).pool})
    assert [(source.name, source.address, source.ehlo) for source in made] == seen
