"""Findings and dismissals: the values, and how a finding is put in words."""

from typing import Literal

import msgspec

from relayd.suspicion.score import Part

Kind = Literal["client", "connection", "account"]


class Key(msgspec.Struct, frozen=True, order=True):
    """Of whom: a client behind an account, a connection, or an account as a whole (``name`` "")."""

    account: str
    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} of account {self.account}" if self.name else f"account {self.account}"


class Finding(msgspec.Struct, frozen=True):
    """A sender under suspicion.  ``score`` is that of now, ``worst`` the highest, with its ``parts``; ``leaders``:
    connections by which a client sends, clients by which the others do; ``since``, ``last`` (when it was not calm) and
    ``noticed`` (when its customer was told) are unix seconds."""

    key: Key
    score: int
    worst: int
    parts: tuple[Part, ...]
    leaders: tuple[str, ...]
    since: float
    last: float
    noticed: float = 0.0

    def words(self) -> str:
        """One line."""
        return f"{self.key}{self.by()} scores {self.score}: {'; '.join(part.words for part in self.parts)}"

    def by(self) -> str:
        """ " by connection crm-1" or ", mostly client shop17", "" where nothing is known."""
        if not self.leaders:
            return ""
        names = ", ".join(self.leaders)
        return f" by connection {names}" if self.key.kind == "client" else f", mostly client {names}"


class Dismissal(msgspec.Struct, frozen=True):
    """Nothing is found of an account, or with ``client`` of that one alone, until then."""

    account: str
    client: str
    reason: str
    by: str
    since: float
    until: float
