"""Posting to customers' servers: only where it is allowed, with whose answer is judged.

In: a URL, a signed body.  Out: what the answer means, and its beginning for people.  Which addresses a name has is
asked once for each connection, all of them are checked, and the connection goes to one of these: so a name that says
something else a moment later (DNS rebinding) leads nowhere new.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.web.http_headers import Headers

import relayd
from relayd.errors import InputError
from relayd.reply import printable
from relayd.resolver import LookupFailed, ResolveError
from relayd.webclient import NoAnswer, WebClient
from relayd.webhooks import standing
from relayd.webhooks.standing import Verdict
from relayd.webhooks.target import Target, is_address, parse_url, refusal

_KEPT = 4  # seconds that a connection is kept: Node's servers end theirs after 5
_SPARE = 8  # connections to a server


class Settings(msgspec.Struct, frozen=True):
    """``allow``: networks besides the public Internet; ``timeout``: seconds for an answer; ``give_up``: seconds of
    failures, then a webhook is parked."""

    allow: tuple[str, ...] = ()
    timeout: float = 10.0
    give_up: float = 3 * 86400.0


class Answer(msgspec.Struct, frozen=True):
    status: int
    verdict: Verdict
    text: str


class Postman:
    """``find(host)``: its addresses, awaited."""

    def __init__(self, reactor: Any, find: Callable[[str], Any], settings: Settings, trust: Any) -> None:
        self._reactor = reactor
        self._find = find
        self.configure(settings, trust)

    def configure(self, settings: Settings, trust: Any) -> None:
        """What holds from now on."""
        self.settings = settings
        self._web = WebClient(self._reactor, settings.timeout, trust, spare=_SPARE, kept=_KEPT, find=self.addresses)

    def close(self) -> None:
        self._web.close()  # not waited for: that would be for the other side to say when

    async def addresses(self, host: str, secure: bool) -> tuple[str, ...]:
        """The addresses of a host, if all of them may be posted to.  Raises NoAnswer, ResolveError."""
        if is_address(host):
            found: tuple[str, ...] = (host,)
        elif host == "localhost":
            found = ("127.0.0.1",)  # RFC 6761: nobody has to be asked
        else:
            found = await self._find(host)
        if why := refusal(Target("", host, 0, secure), found, self.settings.allow):
            raise NoAnswer(why)
        return found

    async def judged(self, url: str) -> str:
        """A URL to which webhooks may go, as far as can be known now.  Raises InputError."""
        try:
            target = parse_url(url)
            await self.addresses(target.host, target.secure)
        except (ValueError, NoAnswer) as error:
            raise InputError("url", str(error)) from None
        except ResolveError as error:
            if not isinstance(error, LookupFailed):  # what does not answer now may do so later
                raise InputError("url", str(error)) from None
        return url

    async def post(self, url: str, signed: tuple[tuple[str, str], ...], body: bytes, now: float) -> Answer:
        """Raises whatever keeps the answer from coming (``webclient.words``)."""
        headers = Headers({"Content-Type": ["application/json"], "User-Agent": [f"relayd/{relayd.__version__}"]})
        for name, value in signed:
            headers.addRawHeader(name, value)
        sent = await self._web.tell(url.encode("ascii"), headers, body)

        def header(name: str) -> str:
            return (sent.headers.getRawHeaders(name) or [""])[-1]

        verdict = standing.judge(sent.status, header("Location"), header("Retry-After"), now)
        return Answer(sent.status, verdict, printable(sent.body, standing.ANSWER))
