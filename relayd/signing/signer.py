"""The signer: DKIM signatures of messages, made once.

In: header sections as they will go out, body hashes, keys.  Out: signature fields, through ``post`` from up to
``workers`` threads (RSA releases the GIL) that each take what waits; or here and now for what was not signed when it
came in: a message that waited for its key, or one converted for a peer without 8BITMIME.

A signature's time is the message's reception, and RSA (PKCS #1 1.5) and Ed25519 (RFC 8032) have no dice: the same
message and keys give the same bytes at every attempt, after every restart.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import partial

from relayd.address import domain_of
from relayd.envelope import Message
from relayd.message.dkim import BodyHash, Key, ToSign, finish, prepare
from relayd.message.headers import survey
from relayd.message.render import header
from relayd.signing.keyring import Keyring

WORKERS = 2
PENDING = 2000  # messages waiting for their signature; above it no more are begun
_TOGETHER = 8  # signatures told of in one call to the main thread
_REMEMBERED = 1000  # late signatures kept for a message's other recipients

Done = Callable[[bytes, str], None]  # (signature fields, what went wrong or "")


class NoKey(Exception):
    """The message may not go without a signature that cannot be made now; the text says why."""


def _at_once(work: Callable[[], None]) -> None:
    work()


class Signer:
    """``submit`` runs a function in some thread, ``post`` brings one back to the main thread, where all else is called.
    Without them everything happens at once."""

    def __init__(
        self,
        keyring: Keyring | None = None,
        submit: Callable[[Callable[[], None]], object] = _at_once,
        post: Callable[[Callable[[], None]], object] = _at_once,
        *,
        workers: int = WORKERS,
    ) -> None:
        self.keyring = keyring or Keyring()
        self.pending = 0
        self.fault = ""  # the last that went wrong at the arithmetic itself
        self._submit = submit
        self._post = post
        self._workers = workers
        self._working = 0
        self._jobs: deque[tuple[list[ToSign], Done]] = deque()
        self._late: OrderedDict[tuple[int, bytes], bytes] = OrderedDict()

    @property
    def full(self) -> bool:
        """More waits than should: take no new mail for now."""
        return self.pending >= PENDING

    def sign(self, head: bytes, body_hash: bytes, keys: Sequence[Key], now: float, done: Done) -> None:
        """Calls ``done`` once, on the main thread.  A key that fails is left out and is the fault."""
        self._jobs.append((prepare(head, {"relaxed": body_hash}, keys, int(now)), done))
        self.pending += 1
        self._hire()

    def _hire(self) -> None:
        if self._working < self._workers:
            self._working += 1
            self._submit(self._work)

    def _work(self) -> None:
        """In a thread: until nothing waits."""
        made: list[tuple[Done, bytes, str]] = []
        while True:
            try:
                to_sign, done = self._jobs.popleft()
            except IndexError:
                break
            made.append((done, *_fields(to_sign)))
            if len(made) == _TOGETHER:
                self._post(partial(self._tell, made))
                made = []
        self._post(partial(self._rest, made))

    def _rest(self, made: list[tuple[Done, bytes, str]]) -> None:
        self._working -= 1
        if self._jobs:  # came in after the worker's last look
            self._hire()
        self._tell(made)

    def _tell(self, made: list[tuple[Done, bytes, str]]) -> None:
        faults: list[Exception] = []
        for done, fields, fault in made:
            self.pending -= 1
            self.fault = fault or self.fault
            try:
                done(fields, fault)
            except Exception as error:  # one that fails keeps no other from being told
                faults.append(error)
        if faults:
            raise ExceptionGroup("after signing", faults)

    def late(self, message: Message, unsubscribe: bytes = b"") -> bytes:
        """The signature of a message that was kept with its body's hash: it waited for a key, or each of its recipients
        has an ``unsubscribe`` of its own.  Raises NoKey while there is no key and the stream still wants one."""
        known = message.id, unsubscribe
        fields = self._late.get(known)
        if fields is None:
            edits = message.edits
            fields = self._now(message, header(message.head, edits, unsubscribe), edits.unsigned, must=True)
            if fields:
                self._late[known] = fields
                if len(self._late) > _REMEMBERED:
                    self._late.popitem(last=False)
        return fields

    def anew(self, message: Message, head: bytes, body: bytes) -> bytes:
        """The signature of a message in another form than it came in.  Raises NoKey like ``late`` where the message
        has a signature in its first form, or waited for one."""
        hashing = BodyHash()
        hashing.feed(body)
        return self._now(message, head, hashing.digest(), must=bool(message.edits.signature or message.edits.unsigned))

    def _now(self, message: Message, head: bytes, body_hash: bytes, *, must: bool) -> bytes:
        must = must and self.keyring.defers(message.account, message.stream)
        found = self.keyring.find(message.account, from_domain(survey(head).froms))
        if found.fault and must:
            raise NoKey(found.fault)
        fields, fault = _fields(prepare(head, {"relaxed": body_hash}, found.keys, int(message.received)))
        if fault and must:
            raise NoKey(fault)
        return fields


def from_domain(froms: Sequence[str]) -> str:
    """The domain that signatures align with: of the first author (RFC 7489 section 6.6.1)."""
    return domain_of(froms[0]) if froms else ""


def _fields(to_sign: Sequence[ToSign]) -> tuple[bytes, str]:
    made, signatures, fault = [], [], ""
    for item in to_sign:
        try:
            signatures.append(item.sign())
        except Exception as error:  # whatever a damaged key makes of OpenSSL: the other keys still sign
            key = item.key
            fault = f"the DKIM key s={key.selector} of d={key.domain} cannot sign: {error or type(error).__name__}"
        else:
            made.append(item)
    return finish(made, signatures), fault
