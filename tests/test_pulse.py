"""The pulse: what is done every so many seconds is done, whatever it runs into."""

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from relayd.pulse import pulse


class PulseTests(TestCase):
    def test_a_beat_that_fails_is_logged_and_the_next_one_comes(self) -> None:
        clock = Clock()
        beats: list[float] = []

        def beat() -> None:
            beats.append(clock.seconds())
            if len(beats) == 1:
                raise RuntimeError("a bug")

        call = pulse(clock, beat)
        call.start(1.0)
        clock.pump([1.0, 1.0])
        call.stop()
        assert beats == [0.0, 1.0, 2.0]
        assert len(self.flushLoggedErrors(RuntimeError)) == 1
