"""A crew runs everything it is given, in threads, and stops when all is done."""

import threading

from relayd.signing.crew import Crew


def test_everything_submitted_before_the_stop_is_done_in_other_threads() -> None:
    crew = Crew(3, "test")
    done: list[tuple[int, int]] = []
    for n in range(1000):
        crew.submit(lambda n=n: done.append((n, threading.get_ident())))  # type: ignore[misc]
    crew.stop()
    assert sorted(n for n, _ in done) == list(range(1000))
    assert threading.get_ident() not in {thread for _, thread in done}


def test_functions_run_beside_each_other() -> None:
    crew = Crew(2, "test")
    meeting = threading.Barrier(3, timeout=10)
    crew.submit(lambda: meeting.wait() and None)
    crew.submit(lambda: meeting.wait() and None)
    meeting.wait()
    crew.stop()
