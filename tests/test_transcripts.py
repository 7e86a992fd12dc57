"""Transcripts of failed attempts: bounded, the newest stay."""

from relayd.delivery.transcripts import _OF_ONE, KEPT, Failed, Transcripts
from relayd.reply import Reply
from tests.harness import Delivering


def failed(at: float) -> Failed:
    return Failed(
        at, "o1", "mx.example", 0.0, (0.5, b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n", ("mail", Reply(450, "", str(at))))
    )


def test_the_last_ones_are_kept_and_of_one_delivery_only_a_few():
    kept = Transcripts()
    for n in range(2 * KEPT):
        kept.keep(n, failed(float(n)))
    assert len(kept._kept) == len(kept._of) == KEPT
    assert kept.of(0, "b@x") == [] and kept.of(2 * KEPT - 1, "b@x")[0]["lines"][-1].endswith(f"S: 450 {2 * KEPT - 1}.0")
    for n in range(_OF_ONE + 3):
        kept.keep(7, failed(float(n)))
    assert [row["time"] for row in kept.of(7, "b@x")] == [3.0, 4.0, 5.0, 6.0, 7.0]
    assert len(kept._kept) <= KEPT


def test_a_refused_attempt_and_one_that_never_became_a_session_are_kept_a_good_one_is_not():
    relay = Delivering()
    mx = relay.mx
    relay.send()
    assert relay.courier.transcripts._kept == {}
    mx.says["RCPT"] = "450 4.2.1 slow down"
    (delivery,) = relay.send()
    (found,) = relay.courier.transcripts.of(delivery.id, "b@x.example")
    assert any(line.endswith("S: 450 4.2.1 slow down") for line in found["lines"]), found
    other = relay.host("y.example", "203.0.113.2")
    other.says["BANNER"] = "554 5.7.1 go away"
    (delivery,) = relay.send(to="b@y.example")
    (found,) = relay.courier.transcripts.of(delivery.id, "b@y.example")
    assert found["lines"][-1].endswith("S: 554 5.7.1 go away")
