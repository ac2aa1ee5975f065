"""What the loop itself logs: goodput, by a clock that only the test moves."""

from pathlib import Path

import pytest
import simplejson

from hiera_video.engine.launch import launch
from hiera_video.engine.meters import Goodput, TrainMeters
from hiera_video.engine.training import classify, loop


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def train_by_clock(make_cfg, monkeypatch):
    """Trains two epochs of three steps, a log line each; waits for data, steps and validations take what is asked."""

    def train(*, data_sec, step_sec, validation_sec):
        clock = Clock()
        monkeypatch.setattr(Goodput.__init__, "__defaults__", (clock,))
        get_data, compute_norm, validate = TrainMeters.time_data, loop.compute_grad_norm, classify.validate

        def after(seconds, function):
            def run(*args):
                clock.now += seconds
                return function(*args)

            return run

        monkeypatch.setattr(TrainMeters, "time_data", after(data_sec, get_data))
        monkeypatch.setattr(loop, "compute_grad_norm", after(step_sec, compute_norm))
        monkeypatch.setattr(classify, "validate", after(validation_sec, validate))
        cfg = make_cfg({"LOG_PERIOD": 3})
        launch([classify.train], cfg)
        lines = map(simplejson.loads, (Path(cfg.OUTPUT_DIR) / "metrics.jsonl").read_text().splitlines())
        return [line["goodput"] for line in lines if line["_type"] == "train_iter"]

    return train


def test_goodput_falls_with_a_slow_loader_and_with_validation(train_by_clock):
    # The second line's time holds the first epoch's validation.
    assert train_by_clock(data_sec=3.0, step_sec=1.0, validation_sec=6.0) == [0.25, round(3 / 18, 4)]


def test_goodput_is_1_where_nothing_but_steps_takes_time(train_by_clock):
    assert train_by_clock(data_sec=0.0, step_sec=1.0, validation_sec=0.0) == [1.0, 1.0]


def test_goodput_is_that_of_the_process_that_waited_longest(train_by_clock, monkeypatch):
    """The others wait for it in their collectives, which looks like work."""
    monkeypatch.setattr(loop, "all_gather_objects", lambda value: [value, 0.125, 1.0])
    assert train_by_clock(data_sec=1.0, step_sec=1.0, validation_sec=0.0) == [0.125, 0.125]
