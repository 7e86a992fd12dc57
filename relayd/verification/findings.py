"""What is checked of a sender domain, and what is found: words that checks, directory and verbs share."""

from typing import Literal

import msgspec

from relayd.message.dkim import Key, txt_strings

Check = Literal["dkim", "spf", "dmarc", "return path", "white label", "dns"]
# warn: mail can go, but it could be better; unknown: the DNS did not say.
Result = Literal["pass", "warn", "fail", "unknown"]


class Publish(msgspec.Struct, frozen=True):
    """A DNS record that somebody should publish.  ``name`` and names in ``value`` have no final dot."""

    name: str
    type: Literal["TXT", "MX", "A", "AAAA", "CNAME"]
    value: str

    @property
    def line(self) -> str:
        """The record as a line for a zone file."""
        if self.type == "TXT":
            strings = (part.replace("\\", "\\\\").replace('"', '\\"') for part in txt_strings(self.value))
            quoted = " ".join(f'"{part}"' for part in strings)
            return f"{self.name}. IN TXT ( {quoted} )"
        return f"{self.name}. IN {self.type} {self.value}{'.' if self.type in ('MX', 'CNAME') else ''}"


class Finding(msgspec.Struct, frozen=True):
    """What one check found: a sentence, and what to publish so that it passes."""

    check: Check
    result: Result
    text: str
    publish: tuple[Publish, ...] = ()


class Source(msgspec.Struct, frozen=True):
    """One address, as the world sees it, that the domain's mail is sent from; ``name`` of the source, its EHLO name."""

    name: str
    address: str
    ehlo: str = ""


class Subject(msgspec.Struct, frozen=True):
    """A sender domain and all that the DNS has to agree with.

    ``keys`` sign its mail, of the domain or one above; ``node`` is this relay's name, where bounces to a white label
    go; ``spf`` is the name of the relay's own SPF record that customers include ("": they list our addresses);
    ``zone`` is the account's white-label zone ("": none), ``links`` the host that its links lead to ("": the node);
    ``returns`` is the relay's own domain of return paths, for mail without a zone ("": none, the sender's stays).
    """

    domain: str
    node: str
    keys: tuple[Key, ...] = ()
    sources: tuple[Source, ...] = ()
    spf: str = ""
    zone: str = ""
    links: str = ""
    returns: str = ""
