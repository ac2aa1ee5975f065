"""The share of time in which the device worked, by a clock that the test sets."""

import pytest

from hiera_video.engine.meters import Goodput


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_goodput_is_the_time_of_the_steps_over_all_time():
    clock = Clock()
    goodput = Goodput(clock)
    for wait, work in ((3.0, 1.0), (0.5, 2.0)):
        clock.now += wait
        with goodput.working():
            clock.now += work
    clock.now += 1.5  # a log line, a validation
    assert goodput.lap() == pytest.approx(3.0 / 8.0)
    with goodput.working():
        clock.now += 2.0
    assert goodput.lap() == 1.0, "each lap begins anew"
    clock.now += 1.0
    assert goodput.lap() == 0.0


def test_no_time_at_all_is_no_error():
    assert Goodput(Clock()).lap() == 0.0
