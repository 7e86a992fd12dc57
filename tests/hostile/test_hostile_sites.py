"""Peers that lie, tire, or cannot be reached: what they offer and do not keep, sessions over several mails, bodies half
taken, dead hosts beside live ones.  For every row nothing is left behind."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from relayd.delivery.routing import Policy, StaticRoute
from relayd.queue.reasons import why
from relayd.shaping.limits import Limits, Terms
from tests.hostile.peer import Session, both, close, in_turn, silent
from tests.hostile.relay import HEAD, STAGE, Relay

EIGHTBIT = "grüße\r\n".encode()
BIG = b"x" * 998 + b"\r\n"


def kinds(relay: Relay, deliveries) -> list[str]:
    return [relay.last(delivery).kind for delivery in deliveries]


# EHLO, true and false.


def test_a_peer_that_knows_no_ehlo_gets_helo_and_plain_mail(relay: Relay):
    host = relay.host("x.example", says={"EHLO": "502 5.5.1 what?"})
    (delivery,) = relay.send("b@x.example", envid="E1", ret="HDRS", notify="FAILURE")
    relay.settled()
    assert relay.last(delivery).kind == "Delivery"
    assert host.seen[0].heard[:4] == [
        "EHLO s1.relay.example",
        "HELO s1.relay.example",
        "MAIL FROM:<a@crm.example>",
        "RCPT TO:<b@x.example>",
    ]


@pytest.mark.parametrize("helo", ["421 4.3.2 no", "451 no", "554 5.7.1 no", "hello"])
def test_a_peer_that_refuses_helo_too_is_left(relay: Relay, helo: str):
    host = relay.host("x.example", says={"EHLO": "502 what?", "HELO": helo})
    (delivery,) = relay.send("b@x.example")
    relay.settled()
    assert relay.last(delivery).kind == "TransientFailure" and relay.last(delivery).evidence.stage == "ehlo"
    assert host.heard("MAIL") == []


def test_keywords_in_any_case_and_with_junk_between_are_understood(relay: Relay):
    host = relay.host("x.example", offers=("pipelining", "", "  ", "size", "X-Junk \x1b[31m", "8bitmime", "Dsn"))
    (delivery,) = relay.send("b@x.example", body=EIGHTBIT, notify="NEVER")
    relay.settled()
    assert relay.last(delivery).kind == "Delivery"
    assert "BODY=8BITMIME" in host.heard("MAIL")[0] and host.heard("RCPT")[0].endswith(" NOTIFY=NEVER")


@pytest.mark.parametrize("offer", ["SIZE 10", "SIZE 10 20", "size=10"])
def test_a_message_larger_than_the_peer_takes_is_refused_before_mail(relay: Relay, offer: str):
    host = relay.host("x.example", offers=(offer,))
    (delivery,) = relay.send("b@x.example")
    relay.settled()
    seen = relay.last(delivery)
    assert seen.kind == "Bounce" and seen.evidence.error.startswith("5.3.4 ") and host.heard("MAIL") == []


@pytest.mark.parametrize("offer", ["SIZE", "SIZE 0", "SIZE -1", "SIZE 99999999999999999999999", "SIZE lots"])
def test_a_size_that_says_nothing_limits_nothing(relay: Relay, offer: str):
    relay.host("x.example", offers=(offer,))
    (delivery,) = relay.send("b@x.example")
    relay.settled()
    assert relay.last(delivery).kind == "Delivery"


def test_mail_that_needs_smtputf8_is_refused_where_it_is_not_offered(relay: Relay):
    host = relay.host("x.example")
    (delivery,) = relay.send("ü@x.example", smtputf8=True)
    relay.settled()
    seen = relay.last(delivery)
    assert seen.kind == "Bounce" and seen.evidence.error.startswith("5.6.7 ") and host.heard("MAIL") == []


def test_8_bit_content_is_converted_for_a_peer_that_takes_none(relay: Relay):
    host = relay.host("x.example", offers=("PIPELINING",))
    (delivery,) = relay.send("b@x.example", body=EIGHTBIT)
    relay.settled()
    ((_, _, content),) = host.got
    assert relay.last(delivery).kind == "Delivery" and content.isascii()
    assert b"gr=C3=BC=C3=9Fe" in content and "BODY" not in host.heard("MAIL")[0]


def test_8_bit_content_goes_as_it_is_where_it_is_taken(relay: Relay):
    host = relay.host("x.example", offers=("8BITMIME",))
    relay.send("b@x.example", body=EIGHTBIT)
    relay.settled()
    assert host.got[0][2] == HEAD + EIGHTBIT and host.heard("MAIL")[0].endswith(" BODY=8BITMIME")


@pytest.mark.parametrize(
    ("offers", "mail", "rcpt"),
    [
        (("DSN",), " RET=HDRS ENVID=E+2B1", " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b+2Bc@x.example"),
        ((), "", ""),
    ],
)
def test_what_the_sender_wants_to_be_told_is_passed_on_where_it_is_understood(relay: Relay, offers, mail, rcpt):
    host = relay.host("x.example", offers=offers)
    asks = {"notify": "SUCCESS,FAILURE", "orcpt": "rfc822;b+c@x.example", "ret": "HDRS", "envid": "E+1"}
    relay.send("b@x.example", **asks)
    relay.settled()
    assert host.heard("MAIL")[0] == "MAIL FROM:<a@crm.example>" + mail
    assert host.heard("RCPT")[0] == "RCPT TO:<b@x.example>" + rcpt


# Pipelining, true and false.


def test_a_peer_that_answers_a_group_out_of_order_delivers_nothing(relay: Relay):
    host = relay.host("x.example", offers=("PIPELINING",))
    host.says = {"MAIL": lambda session: None, "RCPT": lambda session: None}
    host.says["DATA"] = b"354 go on\r\n250 rcpt\r\n250 mail\r\n"
    (delivery,) = relay.send("b@x.example")
    relay.settled()
    seen = relay.last(delivery)
    assert (seen.kind, seen.evidence.stage) == ("TransientFailure", "mail")
    assert seen.evidence.error == "the peer answered MAIL with 354 go on" and host.got == []


def test_a_peer_that_answers_a_whole_group_late_is_waited_for(relay: Relay):
    host = relay.host("x.example", offers=("PIPELINING",), says={"MAIL": silent})
    (delivery,) = relay.send("b@x.example")
    relay.loop.until(lambda: host.seen and host.seen[0].heard[-1:] and host.seen[0].dead)
    relay.loop.wait(STAGE - 2)
    host.seen[0].go_on("250 ok")
    relay.settled()
    assert relay.last(delivery).kind == "Delivery" and len(host.seen) == 1


def test_data_accepted_behind_a_refused_recipient_sends_nothing_and_spoils_nothing(relay: Relay):
    host = relay.host("x.example", offers=("PIPELINING",), policy=Policy("may", Terms(Limits(1))))
    host.says["RCPT"] = in_turn("550 5.1.1 unknown", "250 ok")
    made = relay.send("b@x.example", 2)
    relay.settled()
    assert kinds(relay, made) == ["Bounce", "Delivery"]
    assert [content for _, _, content in host.got] == [b"", HEAD + b"hello\r\n"]


def test_data_accepted_behind_refused_mail_ends_the_session_without_a_dot(relay: Relay):
    host = relay.host("x.example", offers=("PIPELINING",), says={"MAIL": "550 5.7.1 not you"})
    (delivery,) = relay.send("b@x.example")
    relay.settled()
    seen = relay.last(delivery)
    assert (seen.kind, seen.evidence.stage, seen.evidence.words()) == ("Bounce", "mail", "550 5.7.1 not you")
    assert host.got == []


@pytest.mark.parametrize("offers", [(), ("PIPELINING",)])
@pytest.mark.parametrize("data", ["554 5.7.1 no", "452 4.3.1 full"])
def test_data_refused_behind_an_accepted_recipient_is_the_outcome(relay: Relay, offers, data: str):
    host = relay.host("x.example", offers=offers, says={"DATA": data})
    (delivery,) = relay.send("b@x.example")
    relay.settled()
    seen = relay.last(delivery)
    assert (seen.kind, seen.evidence.stage) == ("Bounce" if data[0] == "5" else "TransientFailure", "data")
    assert seen.evidence.words() == data and host.got == []


@pytest.mark.parametrize("offers", [(), ("PIPELINING",)])
@pytest.mark.parametrize("rset", [silent, close, "421 4.3.2 bye", "500 what?", "354 what?", "nonsense"])
def test_a_peer_that_takes_no_rset_costs_the_next_delivery_a_session_and_no_attempt(relay: Relay, offers, rset):
    host = relay.host("x.example", offers=offers, says={"RSET": rset}, policy=Policy("may", Terms(Limits(1))))
    host.says["RCPT"] = in_turn("550 5.1.1 unknown", "250 ok")

    def data(session: Session) -> None:
        refused = session.host.heard("RCPT")[0] == session.heard[-2] and len(session.host.heard("DATA")) == 1
        session.write(b"503 no recipients\r\n" if refused else b"354 go on\r\n")
        session._content = not refused

    host.says["DATA"] = data
    made = [*relay.send("b@x.example"), *relay.send("c@x.example")]
    relay.settled()
    assert kinds(relay, made) == ["Bounce", "Delivery"]
    assert relay.last(made[1]).attempts == 1 and len(host.seen) == 2


@pytest.mark.parametrize("quit", [silent, close, "500 what?", "421 bye", "nonsense", b"\0" * 5000])
def test_a_quit_that_is_not_answered_well_is_nobodys_matter(relay: Relay, quit):
    host = relay.host("x.example", says={"QUIT": quit})
    (delivery,) = relay.send("b@x.example")
    relay.settled()
    assert [record.kind for record in relay.records(delivery)] == ["Delivery"]
    relay.loop.wait(10)
    assert host.sessions == []


@pytest.mark.parametrize("offers", [(), ("PIPELINING",)])
@pytest.mark.parametrize("goodbye", [close, "421 4.3.2 enough for one session"])
def test_a_peer_that_tires_after_two_mails_gets_the_rest_by_other_sessions(relay: Relay, offers, goodbye):
    host = relay.host("x.example", offers=offers, policy=Policy("may", Terms(Limits(1))))

    def mail(session: Session) -> None:
        tired = sum(line.startswith("MAIL") for line in session.heard) > 2
        session._answer("MAIL", goodbye if tired else "250 ok")
        session.dead = session.dead or tired

    host.says["MAIL"] = mail
    made = relay.send("b@x.example", 7)
    relay.settled()
    assert kinds(relay, made) == ["Delivery"] * 7 and len(host.got) == 7
    assert {record.attempts for record in map(relay.last, made)} == {1}
    assert len(host.seen) >= 4


def test_chatter_in_an_idle_session_ends_it_and_harms_no_mail(relay: Relay):
    host = relay.host("x.example")
    (first,) = relay.send("b@x.example")
    relay.loop.until(lambda: host.got)
    relay.loop.rest()
    host.seen[0].write(b"250 by the way\r\n")
    (second,) = relay.send("b@x.example")
    relay.settled()
    assert kinds(relay, [first, second]) == ["Delivery"] * 2
    assert relay.last(second).attempts == 1 and len(host.got) == 2


# The content.


@pytest.mark.parametrize("in_file", [False, True])
def test_a_peer_that_stops_reading_the_content_is_left_in_time(relay: Relay, in_file: bool):
    def stop(session: Session) -> None:
        session.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        session.write(b"354 go on\r\n")
        session.transport.pauseProducing()

    host = relay.host("x.example", says={"DATA": stop})
    (delivery,) = relay.send("b@x.example", body=BIG * 16_000, in_file=in_file)
    relay.passes_good_mail()
    relay.loop.until(lambda: relay.records(delivery), within=10 * STAGE)
    seen = relay.last(delivery)
    assert seen.kind in ("TransientFailure", "Unknown") and seen.evidence.error == "no answer within 20 s"
    assert host.got == []
    if in_file:
        assert (seen.kind, seen.evidence.stage) == ("TransientFailure", "data")  # the dot was never written
    for session in list(host.sessions):
        session.transport.resumeProducing()


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("how", ["closes", "resets", "421", "552"])
def test_a_peer_that_ends_it_in_the_middle_of_the_content(relay: Relay, how: str, in_file: bool):
    def some(session: Session) -> None:
        session.write(b"354 go on\r\n")
        session._content = True
        read = session._read

        def enough(data: bytes) -> None:
            read(data)
            if sum(map(len, session.reads)) > 200_000 and not session.dead:
                if how in ("421", "552"):
                    session.write(b"421 4.3.2 enough\r\n" if how == "421" else b"552 5.3.4 too big\r\n")
                    session.dead = True
                elif how == "closes":
                    session.close()
                else:
                    session.reset()

        session._read = enough  # type: ignore[method-assign]

    host = relay.host("x.example", says={"DATA": some})
    (delivery,) = relay.send("b@x.example", body=BIG * 16_000, in_file=in_file)
    relay.passes_good_mail()
    relay.settled()
    seen = relay.last(delivery)
    assert host.got == []
    if how == "552":
        assert (seen.kind, seen.evidence.words()) == ("Bounce", "552 5.3.4 too big")
    elif how == "421":
        assert (seen.kind, seen.evidence.reply.code) == ("TransientFailure", 421)
    elif in_file:
        assert (seen.kind, seen.evidence.stage) == ("TransientFailure", "data")


def test_a_peer_that_takes_a_large_body_slowly_gets_all_of_it(relay: Relay):
    def slowly(session: Session) -> None:
        session.write(b"354 go on\r\n")
        session._content = True
        session.transport.pauseProducing()

        def pulse() -> None:
            session.transport.resumeProducing()
            session.later(1, pause)

        def pause() -> None:
            session.transport.pauseProducing()
            session.later(STAGE / 2, pulse)

        pulse()

    host = relay.host("x.example", says={"DATA": slowly})
    body = BIG * 4_000
    (delivery,) = relay.send("b@x.example", body=body, in_file=True)
    relay.settled(within=100 * STAGE)
    assert relay.last(delivery).kind == "Delivery" and host.got[0][2] == HEAD + body


# Trying again.


def test_a_greylisting_peer_gets_the_same_source_again_after_the_time_it_named(tmp_path):
    relay = Relay(tmp_path / "spool", sources={"s1": "127.0.0.1", "s2": "127.0.0.2"})
    host = relay.host("x.example")
    host.says["RCPT"] = in_turn("450 4.7.1 Greylisted, try again in 60 seconds", "250 2.1.5 ok")
    (delivery,) = relay.send("b@x.example")
    relay.settled()
    first = relay.last(delivery)
    assert first.kind == "TransientFailure" and 60 <= first.due - first.time <= 72
    relay.loop.until(lambda: host.got, within=200)
    relay.settled()
    last = relay.last(delivery)
    assert (last.kind, last.attempts, last.evidence.source) == ("Delivery", 2, first.evidence.source)
    assert len({session.transport.getPeer().host for session in host.seen}) == 1
    assert last.time >= first.due
    relay.assert_nothing_left()
    relay.close()


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        ("451 4.7.1 try again in 300 seconds", 300, 345),
        ("451 4.7.1 please retry in 00:10:00", 600, 690),
        ("451 4.7.1 try again in 1 second", 30, 35),
        ("451 4.7.1 try again in 99999 hours", 14400, 16560),
        ("451 4.3.0 no", 255, 345),
    ],
)
def test_a_time_named_is_kept_within_bounds(relay: Relay, said: str, least: float, most: float):
    relay.host("x.example", says={"RCPT": said})
    (delivery,) = relay.send("b@x.example")
    relay.settled()
    seen = relay.last(delivery)
    assert least <= seen.due - seen.time <= most


def test_a_refusal_after_a_refusal_counts_its_attempts(relay: Relay):
    host = relay.host("x.example")
    host.says["DOT"] = in_turn("451 4.3.0 one", "452 4.3.1 two", "250 ok")
    (delivery,) = relay.send("b@x.example")
    relay.loop.until(lambda: len(host.got) == 3, within=2000)
    relay.settled()
    told = [(record.kind, record.attempts) for record in relay.records(delivery)]
    assert told == [("TransientFailure", 1), ("TransientFailure", 2), ("Delivery", 3)]


# Connecting.


@contextmanager
def black_hole(relay: Relay, address: str) -> Iterator[None]:
    """An address where connections are neither accepted nor refused."""
    listening = socket.socket()
    listening.bind((address, relay.port))
    listening.listen(0)
    waiting = [socket.socket() for _ in range(4)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex((address, relay.port))
    relay.loop.rest()
    try:
        yield
    finally:
        for one in (*waiting, listening):
            one.close()


def test_a_host_that_refuses_connections_is_named(relay: Relay):
    relay.known("x.example", "mx1.x.example", "127.77.0.1")
    (delivery,) = relay.send("b@x.example")
    relay.passes_good_mail()
    relay.settled()
    seen = relay.last(delivery)
    assert (seen.kind, seen.evidence.stage, seen.evidence.mx) == ("TransientFailure", "connect", "mx1.x.example")
    assert "refused" in seen.evidence.error and seen.evidence.peer == f"127.77.0.1:{relay.port}"


def test_a_host_that_swallows_connections_is_given_up_in_time(relay: Relay):
    relay.known("x.example", "mx1.x.example", "127.77.0.2")
    with black_hole(relay, "127.77.0.2"):
        (delivery,) = relay.send("b@x.example")
        relay.passes_good_mail()
        relay.settled()
        seen = relay.last(delivery)
    assert seen.time - seen.received <= 16
    assert (seen.kind, seen.evidence.stage) == ("TransientFailure", "connect")
    assert "timed out" in seen.evidence.error.lower() or "timeout" in seen.evidence.error.lower()


def test_a_site_that_cannot_be_reached_is_left_alone_for_a_while(relay: Relay):
    relay.known("x.example", "mx1.x.example", "127.77.0.3")
    made = relay.send("b@x.example", 50)
    relay.settled()
    tries = relay.courier._sessions_made
    (late,) = relay.send("c@x.example")
    relay.loop.wait(30)
    assert relay.courier._sessions_made - tries <= 1  # the session to the good host is none
    assert "rests" in why(relay.scheduler, late.queue, relay.loop.seconds())
    # What the disk had taken before the site was found silent has met that; what came a commit later waits unharmed.
    met = [records[-1] for records in map(relay.records, made) if records]
    assert met and all(record.evidence.stage == "connect" for record in met)
    host = relay.host("x.example")
    relay.routes["x.example"] = StaticRoute(host.address, relay.port)
    relay.loop.until(lambda: len(host.got) == 51, within=8000, patience=60)
    relay.settled()


@pytest.mark.parametrize("dead", ["refuses", "swallows"])
def test_one_dead_host_of_two_is_not_tried_first_again(relay: Relay, dead: str):
    relay.known("x.example", "mx1.x.example", "127.77.1.1", preference=5)
    live = relay.host("x.example", preference=10)
    with black_hole(relay, "127.77.1.1" if dead == "swallows" else "127.77.1.2"):
        (first,) = relay.send("b@x.example")
        relay.settled()
        assert relay.last(first).evidence.mx == "mx2.x.example" and len(live.got) == 1
        for _ in range(5):
            (delivery,) = relay.send("b@x.example")
            relay.settled()
            record = relay.last(delivery)
            assert record.time - record.received < 2
        assert len(live.seen) == 6
    relay.settled()


def test_one_dead_host_of_four_slows_nobody(relay: Relay):
    hosts = [relay.host("x.example") for _ in range(3)]
    relay.known("x.example", "mx4.x.example", "127.77.2.1")
    with black_hole(relay, "127.77.2.1"):
        made = relay.send("b@x.example", 60)
        relay.loop.until(lambda: sum(len(host.got) for host in hosts) == 60)  # and no time passes
        relay.settled()
    assert kinds(relay, made) == ["Delivery"] * 60


def test_equal_hosts_share_the_sessions_and_worse_ones_have_none(relay: Relay):
    hosts = [relay.host("x.example", preference=10) for _ in range(3)]
    worse = relay.host("x.example", preference=20)
    relay.send("b@x.example", 20)
    relay.loop.until(lambda: sum(len(host.got) for host in hosts) == 20)  # the site is known to bear as many
    for host in hosts:
        host.says["MAIL"] = silent
    relay.send("b@x.example", 20)
    relay.loop.until(lambda: sum(len(host.sessions) for host in hosts) == 19)  # the last one is for priority mail
    assert all(len(host.sessions) >= 2 for host in hosts) and not worse.seen
    for session in [session for host in hosts for session in list(host.sessions)]:
        session.go_on("250 ok")
    relay.settled(within=2000)


@pytest.mark.parametrize("fault", ["BANNER", "EHLO"])
@pytest.mark.parametrize("how", [silent, close, "421 4.3.2 busy", "554 5.3.2 no", "nonsense"])
def test_a_host_that_does_not_greet_is_passed_over_for_the_next(relay: Relay, fault: str, how):
    bad = relay.host("x.example", preference=5, says={fault: how, "HELO": "502 no"})
    live = relay.host("x.example", preference=10)
    (delivery,) = relay.send("b@x.example")
    relay.passes_good_mail()
    relay.settled()
    assert [record.kind for record in relay.records(delivery)] == ["Delivery"]
    assert len(bad.seen) == len(live.seen) == 1


def test_sessions_refused_beyond_a_number_lower_the_cap_and_rest_nothing(relay: Relay):
    host = relay.host("x.example", room=5, policy=Policy("may", Terms(Limits(61))))
    relay.send("b@x.example", 60)
    relay.loop.until(lambda: len(host.got) == 60)
    seen = len(host.seen)
    host.says["MAIL"] = silent
    made = relay.send("b@x.example", 60)
    relay.loop.until(lambda: len(host.seen) > seen and len(host.sessions) == 5)
    relay.loop.rest()
    assert len(host.sessions) == 5
    host.says["MAIL"] = "250 ok"
    for session in list(host.sessions):
        session.go_on("250 ok")
    relay.settled(within=100)
    assert kinds(relay, made) == ["Delivery"] * 60
    assert {record.attempts for record in map(relay.last, made)} == {1}
    assert len(host.seen) <= 75  # it is not asked for a session too many again and again


def test_a_banner_of_many_lines_and_a_slow_one_are_waited_for(relay: Relay):
    host = relay.host("x.example", says={"BANNER": b"220-welcome\r\n220-to\r\n220 mx.example\r\n"})
    slow = relay.host("y.example", says={"BANNER": silent})
    made = [*relay.send("b@x.example"), *relay.send("b@y.example")]
    relay.loop.until(lambda: host.got and slow.seen)
    relay.loop.wait(STAGE - 2)
    slow.seen[0].go_on(both(b"220 at last\r\n", lambda session: None))
    relay.settled()
    assert kinds(relay, made) == ["Delivery", "Delivery"]
