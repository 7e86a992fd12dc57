"""Balances through real sessions: exact whatever is killed in between, and used up to the last unit."""

import asyncio
import base64
import contextlib
import random
import smtplib
import ssl
from typing import Any

from .conftest import Stage
from .relay import LOGIN, PASSWORD, SENDER, Relay, message, queue_id, until

CREDIT = 100_000
ROUNDS = 6
NAMED, TWO_STREAMS = 6, 2  # sessions: of the named client, and of a login that has two streams
ON_ALL, ON_MARKETING = "all@stopped.example", "marketing@stopped.example"

_STREAMS = "[stream.transactional]\n[stream.marketing]\n"


def prepaid(relay: Relay, units: int, account: str = "crm") -> None:
    for words in ("plan add prepaid", f"balance set-plan {account} prepaid", f"balance credit {account} {units}"):
        code, said = relay.ctl(*words.split())
        assert code == 0, said


def balance(relay: Relay, account: str = "crm") -> Any:
    return relay.ask("/v1/balance/show", account=account)


class Books:
    """What the clients know: the units of each message with a 250, by its id, and of each whose 250 did not come."""

    def __init__(self) -> None:
        self.accepted: dict[str, int] = {}
        self.unanswered: dict[str, int] = {}
        self.refused = 0
        self.repeated = 0
        self.aborted = 0


class Client:
    """One that sends all kinds of messages, one after another, until the relay is gone; then again, in a new session.

    ``login``: with it by the login's two streams, of which the message says which."""

    def __init__(self, number: int, books: Books, login: str = "") -> None:
        self.number = number
        self._books = books
        self._login = login
        self._rng = random.Random(number)
        self._sent = 0
        self._again: tuple[str, list[str], str] | None = None  # a message with a key whose 250 did not come

    async def run(self, relay: Relay) -> None:
        context = ssl.create_default_context(cafile=str(relay.home / f"{relay.certificate}.pem"))
        way = {"port": relay.submissions, "ssl": context} if self._login else {"port": relay.relay}
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", **way)
            await self._hello()
            while True:
                await self._one()
        self._writer.close()

    async def _hello(self) -> None:
        await self._reply(b"220")
        await self._ask("EHLO client.example")
        if self._login:
            proof = base64.b64encode(f"\0{self._login}\0{PASSWORD}".encode()).decode()
            await self._ask(f"AUTH PLAIN {proof}", b"235")

    async def _one(self) -> None:
        if self._again is not None:
            await self._send(*self._again)
            return
        self._sent += 1
        test = f"c{self.number}-{self._sent}"
        to = [f"{test}-{n}@example.net" for n in range(self._rng.choice((1, 1, 1, 2, 5)))]
        kind = self._rng.random()
        if kind < 0.15:
            await self._abort(to)
        elif kind < 0.3:
            self._again = (test, to, f"X-Relayd-Idempotency-Key: {test}\r\n")
            first = await self._send(*self._again)
            assert await self._send(test, to, f"X-Relayd-Idempotency-Key: {test}\r\n") == first
            self._books.repeated += 1
        elif self._login:
            stream = self._rng.choice(("transactional", "marketing"))
            held = [ON_ALL] + ([ON_MARKETING] if stream == "marketing" else [])
            others = [ON_MARKETING] if stream == "transactional" else []
            await self._send(test, to + others, f"X-Relayd-Stream: {stream}\r\n", held)
        else:
            await self._send(test, to)

    async def _abort(self, to: list[str]) -> None:
        """A transaction that comes to nothing: taken back, or with nobody left who may be mailed."""
        self._books.aborted += 1
        await self._envelope(to)
        if not self._login:
            await self._ask(f"RCPT TO:<{ON_ALL}>", b"550")
        await self._ask("RSET")
        if self._login:
            await self._envelope([ON_ALL])
            await self._ask("DATA", b"354")
            self._writer.write(b"From: <%s>\r\n\r\nHello.\r\n.\r\n" % SENDER.encode())
            await self._reply(b"550")

    async def _envelope(self, to: list[str]) -> None:
        await self._ask(f"MAIL FROM:<{SENDER}>")
        for recipient in to:
            await self._ask(f"RCPT TO:<{recipient}>")

    async def _send(self, test: str, to: list[str], extra: str = "", held: list[str] | None = None) -> str:
        """One message; gives its id.  ``held``: recipients that get no copy and cost nothing."""
        books = self._books
        await self._envelope([*to, *(held or ())])
        await self._ask("DATA", b"354")
        body = "A line of the body.\r\n" * self._rng.choice((1, 100, 5000))
        books.unanswered.setdefault(test, len(to))
        self._writer.write(f"From: <{SENDER}>\r\nX-Test: {test}\r\n{extra}\r\n{body}.\r\n".encode())
        identity = queue_id(await self._reply(b"250"))
        books.unanswered.pop(test, None)
        self._again = None
        assert books.accepted.setdefault(identity, len(to)) == len(to)
        return identity

    async def _ask(self, line: str, wanted: bytes = b"250") -> None:
        self._writer.write(line.encode() + b"\r\n")
        await self._reply(wanted)

    async def _reply(self, wanted: bytes) -> bytes:
        while (line := await self._reader.readuntil(b"\n"))[3:4] == b"-":
            pass
        assert line.startswith(wanted), line
        return line


async def under_load(relay: Relay, clients: list[Client], books: Books, seconds: float) -> None:
    """Kills the relay in the middle of it."""
    running = [asyncio.create_task(client.run(relay)) for client in clients]
    before, deadline = len(books.accepted), asyncio.get_running_loop().time() + 20
    while len(books.accepted) < before + 20 and asyncio.get_running_loop().time() < deadline:
        await asyncio.wait(running, timeout=0.01)
    await asyncio.wait(running, timeout=seconds)
    assert not any(task.done() for task in running), "a client gave up before the crash"
    await asyncio.to_thread(relay.kill)
    await asyncio.gather(*running)


def test_a_balance_is_exact_after_kills_under_load(stage: Stage) -> None:
    rng = random.Random(5)
    sink = stage.sink()
    relay = stage.relay(f'{_STREAMS}[[route]]\ndomain = "*"\nvia = "{sink.via}"', node='min_free = "1M"').start()
    prepaid(relay, CREDIT)
    relay.connection(LOGIN, stream=["transactional", "marketing"])
    for name, address in (("all", ON_ALL), ("account:crm/marketing", ON_MARKETING)):
        relay.ask("/v1/list/add", list=name)
        assert relay.ask("/v1/suppression/add", list=name, value=[address])["added"] == 1
    books = Books()
    clients = [Client(n, books) for n in range(NAMED)] + [Client(NAMED + n, books, LOGIN) for n in range(TWO_STREAMS)]
    for _ in range(ROUNDS):
        asyncio.run(under_load(relay, clients, books, rng.uniform(0.1, 0.6)))
        relay.start()
        relay.audited()
    until(lambda: not relay.queued(), 40, "the queue empties")
    relay.audited()
    assert relay.stop() == 0
    relay.start()

    now, accepted = balance(relay), sum(books.accepted.values())
    arrived = {(m["test"], recipient) for m in sink.messages() for recipient in m["recipients"]}
    print(
        f"\n{ROUNDS} kills: {len(books.accepted)} messages, {accepted} units accepted, {now['used']} charged, "
        f"{len(books.unanswered)} messages unanswered, {books.repeated} sent twice, {books.aborted} came to nothing"
    )
    assert accepted <= now["used"] <= accepted + sum(books.unanswered.values())
    assert len(books.unanswered) <= ROUNDS * len(clients)
    assert now["used"] == len(arrived)  # a copy a unit: those that nobody was told of as well
    assert now["left"] + now["used"] == CREDIT and now["leased"] == 0
    assert not any(recipient == ON_ALL for _, recipient in arrived)
    assert len(books.accepted) > 20 * ROUNDS and books.repeated > ROUNDS and books.aborted > ROUNDS
    relay.audited()


UNITS = 250  # more than are leased at once


def test_a_balance_is_used_up_to_its_last_unit_and_never_one_more(stage: Stage) -> None:
    sink = stage.sink()
    relay = stage.relay(f'[[route]]\ndomain = "*"\nvia = "{sink.via}"').start()
    prepaid(relay, UNITS)
    refusals = asyncio.run(spend(relay))
    assert refusals == [b"450 4.7.1 Balance not enough"] * len(refusals) and len(refusals) == 8
    until(lambda: len(sink.messages()) >= UNITS, 20, "the mail arrives")
    assert balance(relay)["left"] == 0 and balance(relay)["used"] == UNITS

    assert relay.ctl("balance", "credit", "crm", "2")[0] == 0
    with relay.client() as client:
        assert together(client, 3) == (450, b"4.7.1 Balance not enough")
        assert together(client, 2)[0] == 250  # nothing of the three was taken
        assert together(client, 1) == (450, b"4.7.1 Balance not enough")
    until(lambda: not relay.queued(), 20, "the queue empties")
    assert len(sink.messages()) in (UNITS + 1, UNITS + 2)  # one or two transactions for the last two copies
    assert balance(relay)["left"] == 0 and balance(relay)["used"] == UNITS + 2
    relay.audited()


async def spend(relay: Relay) -> list[bytes]:
    """Eight clients, each with a recipient at a time, until it is refused; what each is refused with."""

    async def client(number: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.relay)
        content = b"From: <%s>\r\n\r\nHello.\r\n.\r\n" % SENDER.encode()
        envelope = "MAIL FROM:<{}>\r\nRCPT TO:<u{}-{}@example.net>\r\nDATA\r\n"
        await reader.readuntil(b"\n")
        writer.write(b"HELO client.example\r\n")
        await reader.readuntil(b"\n")
        for sent in range(UNITS + 1):
            writer.write(envelope.format(SENDER, number, sent).encode())
            assert [(await reader.readuntil(b"\n"))[:3] for _ in range(2)] == [b"250", b"250"]
            reply = await reader.readuntil(b"\n")
            if reply.startswith(b"354"):
                writer.write(content)
                reply = await reader.readuntil(b"\n")
            if not reply.startswith(b"250"):
                writer.close()
                return reply.strip()
        raise AssertionError("more was taken than there is")

    return list(await asyncio.gather(*map(client, range(8))))


def together(client: smtplib.SMTP, recipients: int) -> tuple[int, bytes]:
    """One message for so many; the reply that ends it."""
    client.mail(SENDER)
    for number in range(recipients):
        assert client.rcpt(f"together{number}@example.net")[0] == 250
    try:
        return client.data(message())
    except smtplib.SMTPDataError as refused:
        client.rset()
        return refused.smtp_code, refused.smtp_error
