"""What is measured, and the arithmetic of it, by clocks that the tests set."""

import pytest
import torch

from hiera_video.engine import bench
from hiera_video.engine.bench import compute_mean_bytes, compute_rates, run_bench, time_rounds
from hiera_video.utils.interrupt import Interrupted, request_stop, stop_on_signals


def test_rates_by_hand():
    rates = compute_rates([1.0, 2.0, 4.0], 8)
    assert rates.median == 4.0 and rates.spread == pytest.approx((2.4, 7.2))


def test_rates_of_bursts_are_those_of_parts():
    """Two processes bring two batches at once: one comes after 2 s, the next in no time."""
    rates = compute_rates([2.0, 1e-6] * 4 + [4.0, 1e-6], 8, num_together=2)
    assert rates.median == pytest.approx(8.0) and rates.spread[0] == pytest.approx(5.6)
    assert compute_rates([2.0, 1e-6, 1.0], 8, num_together=4).median == pytest.approx(8.0), "less than one part"


@pytest.mark.parametrize(("seconds", "expected"), [(1.0, 3), (10.0, 5), (11.0, 6)])
def test_rounds_take_the_time_that_is_asked_for(seconds, expected):
    clock = {"now": 0.0, "calls": 0}

    def do():
        clock["calls"] += 1
        clock["now"] += 50.0 if clock["calls"] <= 2 else 2.0  # the warm-up does not count

    times = time_rounds(do, seconds=seconds, num_warm_up=2, clock=lambda: clock["now"])
    assert times == [2.0] * expected and clock["calls"] == expected + 2


def test_a_request_to_stop_ends_the_rounds():
    with stop_on_signals(), pytest.raises(Interrupted, match="nothing is kept of a measurement"):
        request_stop("a test")
        time_rounds(lambda: None, seconds=1e9, num_warm_up=0)
    with stop_on_signals():
        pass  # forgets the request


def test_bytes_are_those_of_files_here(tmp_path):
    (tmp_path / "a").write_bytes(b"1" * 10)
    (tmp_path / "b").write_bytes(b"1" * 30)
    assert compute_mean_bytes([str(tmp_path / "a"), f"file://{tmp_path}/b", "s3://bucket/c"]) == 20
    assert compute_mean_bytes(["s3://bucket/c"]) is None


def test_a_group_of_processes_is_refused(make_cfg, monkeypatch):
    monkeypatch.setattr(bench, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="this is a group of 2"):
        run_bench(make_cfg(), seconds=0.1, is_synthetic=True)


def test_the_weights_stay_as_they_are(make_cfg, monkeypatch):
    models = []
    build = bench.build_classification

    def keep(cfg):
        model, compute_loss = build(cfg)
        models.append((model, {name: value.clone() for name, value in model.state_dict().items()}))
        return model, compute_loss

    monkeypatch.setattr(bench, "build_classification", keep)
    run_bench(make_cfg(), seconds=0.01, is_synthetic=True)
    [(model, before)] = models
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_detectors_are_measured_too(make_detection_cfg):
    result = run_bench(make_detection_cfg(), seconds=0.01, is_synthetic=False)
    assert result["task"] == "detect" and result["both"]["clips_per_sec"] > 0 and result["data"]["num_bad"] == 0
