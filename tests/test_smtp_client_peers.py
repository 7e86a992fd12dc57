"""The client machine against peers of every character: whatever they answer, each transaction has one honest result."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.envelope import Recipient
from relayd.smtp.client import (
    BodyWanted,
    ClientSession,
    ClientSettings,
    Event,
    Finished,
    Ready,
    Returned,
    SessionEnded,
    StartTLS,
    Transaction,
)

ANSWERS = {"MAIL": 250, "RCPT": 250, "DATA": 354, "RSET": 250, "QUIT": 221, ".": 250}


class Peer:
    """A server that reads what it is sent for real, and answers by its moods: None = as it should, else that code."""

    def __init__(self, pipelining: bool, moods: list[int | None]) -> None:
        self.offer = b"250-mx.example\r\n250 PIPELINING\r\n" if pipelining else b"250 mx.example\r\n"
        self.pipelining = pipelining
        self.moods = iter(moods)
        self.accepted: list[tuple[str, bytes]] = []
        self.received_dots = 0
        self._buffer = b""
        self._in_data = self._has_mail = False
        self._recipient = ""

    def read(self, data: bytes) -> bytes:
        """The answers to what came."""
        self._buffer += data
        answers = b""
        while True:
            end = self._find_end()
            if end < 0:
                return answers
            piece, self._buffer = self._buffer[:end], self._buffer[end:]
            # A client that does not pipeline must have waited for each answer.
            assert self.pipelining or not self._buffer or self._in_data
            answers += self._content(piece) if self._in_data else self._command(piece.decode())

    def _find_end(self) -> int:
        if not self._in_data:
            return self._buffer.find(b"\r\n") + 2 if b"\r\n" in self._buffer else -1
        match = re.search(rb"(?:\A|\r\n)\.\r\n", self._buffer)
        return match.end() if match else -1

    def _answer(self, code: int) -> bytes:
        return b"%d said\r\n" % (next(self.moods, None) or code)

    def _command(self, line: str) -> bytes:
        verb = line[:4]
        if verb == "EHLO":
            return self.offer
        in_order = {"MAIL": not self._has_mail, "RCPT": self._has_mail, "DATA": bool(self._recipient)}.get(verb, True)
        answer = self._answer(ANSWERS[verb] if in_order else 503)
        positive = answer[:1] in b"23"
        if verb == "MAIL":
            assert in_order, "MAIL within a transaction: RSET is missing"
            self._has_mail = positive
        elif verb == "RCPT" and positive:
            self._recipient = line[9:].rstrip(">\r\n")
        elif verb == "DATA":
            self._in_data = answer[:1] == b"3"
        elif verb == "RSET":
            self._has_mail, self._recipient = False, ""
        return answer

    def _content(self, piece: bytes) -> bytes:
        self.received_dots += 1
        answer = self._answer(250)
        if answer[:1] == b"2" and self._recipient:
            self.accepted.append((self._recipient, piece[:-3].replace(b"\r\n.", b"\r\n")))
        self._in_data, self._has_mail, self._recipient = False, False, ""
        return answer


def transaction(n: int, streamed: bool) -> Transaction:
    return Transaction("a@crm.example", Recipient(f"r{n}@site.example"), content=None if streamed else content(n))


def content(n: int) -> bytes:
    return b"line\r\n" * n + b"number %d\r\n" % n


def served(
    peer: Peer, todo: list[Transaction], cut: int, lost_after: int | None
) -> tuple[list[Event], list[Transaction]]:
    """Runs a session with the peer until nothing moves: its answers arrive in pieces of ``cut`` bytes, and the
    connection is lost after ``lost_after`` of them.  Gives the events and what was sent."""
    machine = ClientSession(ClientSettings(ehlo="relay.example"))
    seen: list[Event] = []
    sent: list[Transaction] = []
    inbound = b"220 mx.example\r\n"
    while inbound and not machine.ended:
        if lost_after is not None and (lost_after := lost_after - cut) < 0:
            machine.eof()
        machine.receive_data(inbound[:cut])
        inbound = inbound[cut:]
        while (event := machine.next_event()) is not None:
            seen.append(event)
            if isinstance(event, BodyWanted):
                whole = content(
                    int(event.transaction.recipient.address[1 : event.transaction.recipient.address.index("@")])
                )
                for i in range(0, len(whole), 5):
                    machine.body(whole[i : i + 5])
                machine.end_body()
            while todo and machine.can_take_next:
                sent.append(todo[0])
                machine.send(todo.pop(0))
        if not todo and machine.idle:
            machine.quit()
        inbound += peer.read(machine.data_to_send())
    machine.eof()
    seen.extend(iter(machine.next_event, None))
    return seen, sent


MOODS = st.lists(st.sampled_from([None] * 12 + [250, 354, 421, 450, 451, 550, 554, 503]), max_size=30)


@settings(max_examples=300)
@given(st.booleans(), MOODS, st.lists(st.booleans(), max_size=6), st.integers(1, 60), st.none() | st.integers(0, 300))
def test_every_transaction_has_one_honest_result(
    pipelining: bool, moods: list[int | None], streamed: list[bool], cut: int, lost_after: int | None
) -> None:
    peer = Peer(pipelining, moods)
    todo = [transaction(n, flag) for n, flag in enumerate(streamed)]
    seen, sent = served(peer, list(todo), cut, lost_after)

    assert [event for event in seen if isinstance(event, SessionEnded)] == seen[-1:]
    results = [event for event in seen if isinstance(event, Finished | Returned)]
    assert [result.transaction for result in results] == sent

    accepted = dict(peer.accepted)
    assert len(accepted) == len(peer.accepted)
    for result in results:
        address = result.transaction.recipient.address
        if isinstance(result, Returned):
            assert address not in accepted
        elif result.unknown:
            assert result.stage == "dot" and result.reply is None and result.error
        elif result.reply and result.reply.code < 300:
            assert result.stage == "dot" and address in accepted
        else:
            assert address not in accepted and (result.reply or result.error)
    for address, body in accepted.items():
        assert body == content(int(address[1 : address.index("@")]))


@given(st.booleans(), st.lists(st.booleans(), min_size=1, max_size=6), st.integers(1, 60))
def test_a_good_peer_gets_every_message_whole(pipelining: bool, streamed: list[bool], cut: int) -> None:
    peer = Peer(pipelining, [])
    seen, sent = served(peer, [transaction(n, flag) for n, flag in enumerate(streamed)], cut, None)
    assert len(peer.accepted) == len(sent) == len(streamed)
    assert isinstance(seen[-1], SessionEnded) and not seen[-1].fault and isinstance(seen[0], Ready)


@given(
    st.lists(
        st.binary(max_size=100) | st.sampled_from([b"220 hi\r\n", b"250 x\r\n", b"250-AUTH PLAIN\r\n", b"354 go\r\n"])
    )
)
def test_garbage_never_raises_nor_grows(pieces: list[bytes]) -> None:
    machine = ClientSession(ClientSettings(ehlo="relay.example", login="crm", password="sesame", auth_without_tls=True))
    learnt: list[Event] = []
    for piece in pieces:
        machine.receive_data(piece)
        for event in iter(machine.next_event, None):
            learnt.append(event)
            if isinstance(event, StartTLS):
                machine.tls_started()
        if machine.can_take_next:
            machine.send(transaction(1, False))
        assert len(machine.data_to_send()) < 1000
        assert len(machine._owed) <= 7
    machine.eof()
    learnt.extend(iter(machine.next_event, None))
    assert isinstance(learnt[-1], SessionEnded)


CONVERSATION = [
    (b"220-mx.example\r\n220 hi\r\n", b"EHLO relay.example\r\n"),
    (b"250-mx.example\r\n250-SIZE 1000\r\n250 PIPELINING\r\n", b""),
    (b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go\r\n", b"number 0\r\n.\r\n"),
    (b"250-2.0.0 queued\r\n250 2.0.0 as 1\r\n", b""),
]


@given(st.lists(st.integers(1, 20), min_size=1))
def test_where_the_answers_are_cut_makes_no_difference(lengths: list[int]) -> None:
    machine = ClientSession(ClientSettings(ehlo="relay.example"))
    learnt: list[Event] = []
    for received, written in CONVERSATION:
        sent = b""
        for length in lengths * len(received):
            machine.receive_data(received[:length])
            received = received[length:]
            learnt.extend(iter(machine.next_event, None))
            sent += machine.data_to_send()
        assert sent == written
        if machine.idle and len(learnt) == 1:
            machine.send(transaction(0, False))
            machine.data_to_send()
    ready, finished = learnt
    assert isinstance(ready, Ready) and isinstance(finished, Finished)
    assert finished.reply and finished.reply.enhanced == "2.0.0" and finished.reply.text == "queued\nas 1"
