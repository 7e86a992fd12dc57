"""What one sender does of late, and what it usually does.

In: what was received of it and refused to it, at times.  Out: counts that fade over WINDOW, and its habits: the most of
a day, remembered for weeks.  Habits are learnt when a day is over, and never of a day on which it was under suspicion:
so nobody makes a habit of what he began an hour ago.
"""

from math import exp

import msgspec

from relayd.identity import DAY
from relayd.suspicion.text import different

WINDOW = 900.0  # seconds: counts of so long ago weigh a third
FORGETS = 14.0  # days after which the most that was seen weighs half
LEADERS = 8
_MINUTE = 60.0
_HOUR = 3600.0
_LEARNS = 0.2  # the share of a new day in what is usual

# What is counted.
RECIPIENTS, ASKED, NEW, SUPPRESSED, FAULTY, SPOOFED, TEXTS, SHARED = COUNTS = range(8)


class Usual(msgspec.Struct, array_like=True):
    """Habits: the most recipients in a window, the most links and senders in an hour, the usual share of recipients
    that are new.  ``since``: unix seconds at which it was first seen."""

    since: float
    recipients: float = 0.0
    links: float = 0.0
    senders: float = 0.0
    new: float = 0.0
    days: int = 0


class Habits:
    """Of one sender.  ``counts`` are of the window, ``links`` and ``senders`` of the hour (``text.bit``).  ``leaders``:
    who sends most of it lately, the connections of a client, the clients of others, with their recipients."""

    __slots__ = (
        "_day",
        "_minute",
        "_most",
        "_news",
        "counts",
        "leaders",
        "links",
        "read",
        "senders",
        "suspected",
        "usual",
    )

    def __init__(self, now: float, usual: Usual | None = None) -> None:
        self.usual = usual or Usual(now)
        self.counts = [0.0] * len(COUNTS)
        self.links = 0
        self.senders = 0
        self.leaders: dict[str, float] = {}
        self.suspected = False
        self.read = 0.0  # when a text of it was read last
        self._minute = int(now // _MINUTE)
        self._day = int(now // DAY)
        self._most = [0.0, 0.0, 0.0]  # of the day: recipients, links, senders
        self._news = [0.0, 0.0]  # of the day: recipients that were asked about, and new ones

    def turn(self, now: float) -> None:
        """Brings the counts to the present.  Cheap to call at every message."""
        minute = int(now // _MINUTE)
        if minute <= self._minute:
            return
        counts = self.counts
        here = (counts[RECIPIENTS], different(self.links), different(self.senders))
        self._most = list(map(max, self._most, here))
        if minute * _MINUTE // DAY > self._day:
            self._learn(int(minute * _MINUTE // DAY))
        fade = exp((self._minute - minute) * _MINUTE / WINDOW)
        self.counts = [count * fade for count in counts]
        self.leaders = {name: count * fade for name, count in self.leaders.items() if count * fade >= 0.5}
        if minute * _MINUTE // _HOUR > self._minute * _MINUTE // _HOUR:
            self.links = self.senders = 0
        self._minute = minute

    def lead(self, name: str, recipients: int) -> None:
        """So many were written to by this name.  Whoever sends more than a LEADERS'th of all is among the leaders."""
        leaders = self.leaders
        leaders[name] = leaders.get(name, 0.0) + recipients
        if len(leaders) > LEADERS:
            least = min(leaders.values())
            self.leaders = {name: count - least for name, count in leaders.items() if count > least}

    def news(self, asked: int, new: int) -> None:
        """So many recipients were looked up, so many were new to the account."""
        self.counts[ASKED] += asked
        self.counts[NEW] += new
        self._news[0] += asked
        self._news[1] += new

    def _learn(self, day: int) -> None:
        usual = self.usual
        if not self.suspected:
            keep = 0.5 ** ((day - self._day) / FORGETS)
            most = self._most
            usual.recipients = max(usual.recipients * keep, most[0])
            usual.links = max(usual.links * keep, most[1])
            usual.senders = max(usual.senders * keep, most[2])
            # Of its first day all recipients are new, whoever they are.
            if self._news[0] and usual.since < self._day * DAY:
                share = self._news[1] / self._news[0]
                usual.new += (share - usual.new) * (_LEARNS if usual.days else 1.0)
                usual.days += 1
        self._most = [0.0, 0.0, 0.0]
        self._news = [0.0, 0.0]
        self._day = day
