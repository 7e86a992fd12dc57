"""How far a webhook has come, how it fares, and what an answer to it means.

In: answers, and the time.  Out: what is kept of it across restarts; when to try again; whether to go on at all.
"""

import random
from email.utils import parsedate_to_datetime

import msgspec

from relayd.history import Hit
from relayd.reply import printable

FIRST, LONGEST = 5.0, 900.0  # seconds until the first try again, and at most
ASKED = 3600.0  # seconds that a server may ask us to wait (Retry-After)
SILENT = 3600.0  # seconds of nothing but failures, then its owner is told
ANSWER = 2048  # characters of an answer that are kept for people


class Place(msgspec.Struct):
    """Where a lane stands: everything up to ``hit`` was taken.  ``tries`` that failed since the last that did not, the
    first of them at ``since``; ``oldest``: when the first event happened that waits, 0.0 if none is known to."""

    hit: Hit
    tries: int = 0
    since: float = 0.0
    oldest: float = 0.0


class Replay(msgspec.Struct):
    """History sent again: behind ``place``, up to ``end``.  ``since`` and ``until``: what was asked for, and by whom,
    when; ``sent``: events so far, ``at``: when the last batch of them happened; ``done``: when it was over, 0.0 while
    it is not."""

    place: Place
    end: Hit
    since: float
    until: float
    by: str
    began: float
    sent: int = 0
    at: float = 0.0
    done: float = 0.0


class Standing(msgspec.Struct):
    """``made`` tells webhooks of one name apart.  ``success`` and ``failure``: when the last ones were; ``words`` of
    the last failure; ``answer``: the last body, for people; ``sent``: events that were taken; ``told``: its owner knows
    that it fails."""

    made: float
    places: list[Place]
    replay: Replay | None = None
    success: float = 0.0
    failure: float = 0.0
    words: str = ""
    answer: str = ""
    sent: int = 0
    told: bool = False

    def all(self) -> list[Place]:
        """Of all lanes that have something to do."""
        return self.places + ([self.replay.place] if self.replay and not self.replay.done else [])

    def since(self) -> float:
        """When the lane began to fail that has failed the longest; 0.0 if none fails."""
        return min((place.since for place in self.all() if place.tries), default=0.0)

    def spread(self, lanes: int) -> None:
        """Over so many lanes: where their number changes all begin where the last of them stood."""
        if len(self.places) != lanes:
            first = min(place.hit for place in self.places)
            self.places = [Place(first) for _ in range(lanes)]

    def move(self, hit: Hit) -> None:
        """All lanes to this place."""
        self.places = [Place(hit) for _ in self.places]

    def forgive(self) -> None:
        """From now on nothing counts that failed before."""
        for place in self.all():
            place.tries, place.since = 0, 0.0
        self.told = False

    def wake(self, now: float) -> None:
        """Time in which relayd did not run is nobody's failure."""
        for place in (place for place in self.all() if place.tries):
            place.since = max(place.since, now - LONGEST - max(0.0, self.failure - place.since))

    def failed(self, place: Place, words: str, answer: str, now: float) -> None:
        place.tries += 1
        place.since = place.since or now
        self.failure, self.words, self.answer = now, words, answer

    def took(self, place: Place, to: Hit, events: int, answer: str, now: float) -> None:
        place.hit, place.tries, place.since, place.oldest = to, 0, 0.0, 0.0
        self.success, self.answer = now, answer
        self.sent += events
        self.told = self.told and bool(self.since())


class Verdict(msgspec.Struct, frozen=True):
    """``words`` "": it was taken.  ``wait``: seconds that the server asks for; ``gone``: it wants no more at all."""

    words: str = ""
    wait: float = 0.0
    gone: bool = False


def judge(status: int, location: str, retry_after: str, now: float) -> Verdict:
    """What a status means, with the headers of these names."""
    if 200 <= status < 300:
        return Verdict()
    if status == 410:
        return Verdict("it answers 410 Gone: it wants no more events", gone=True)
    if 300 <= status < 400:
        where = f" to {printable(location, 200)}" if location else ""
        return Verdict(f"it answers {status}, a redirect{where}: none is followed, set the right URL")
    return Verdict(f"it answers {status}", _asked(retry_after, now))


def _asked(text: str, now: float) -> float:
    """Seconds that a Retry-After stands for (RFC 9110 section 10.2.3), within bounds."""
    if text.isascii() and text.isdigit():
        seconds = float(text[:10])
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            seconds = 0.0
    return min(ASKED, max(0.0, seconds))


def pause(tries: int, wait: float, rng: random.Random) -> float:
    """Seconds until the next try after so many failed: twice as long each time, a random part of the last half off."""
    longest = min(LONGEST, FIRST * 2.0 ** min(tries - 1, 20))
    return max(wait, longest * rng.uniform(0.5, 1.0))
