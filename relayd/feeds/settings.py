"""What a feed is made with.  Frozen values: a feed whose settings are another value is another feed from there on."""

import msgspec

from relayd.events import Name


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``events`` and ``accounts``: only these, () is all; ``begin``: where a new one begins, "now" or "beginning"."""

    events: tuple[Name, ...] = ()
    accounts: tuple[str, ...] = ()
    begin: str = "now"


class FileSettings(Settings, frozen=True, kw_only=True):
    """``rotate`` bytes or ``every`` seconds, whichever is first, make a file old; ``keep`` of those stay."""

    path: str
    rotate: int
    every: float
    compress: str
    keep: int


class RedisSettings(Settings, frozen=True, kw_only=True):
    """``password_file`` and ``authorities`` may be "": no password, the system's authorities.  ``maxlen``: about how
    many entries the stream keeps; ``timeout``: seconds for each answer."""

    url: str
    password_file: str
    authorities: str
    stream: str
    maxlen: int
    timeout: float
