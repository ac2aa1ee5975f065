"""Forecasts and results are sums and shares that can be computed by hand."""

from fractions import Fraction

import pytest

from hiera_video.preparation.forecast import (
    choose_sample,
    compute_forecast,
    compute_result,
    format_forecast,
    format_result,
)
from hiera_video.preparation.prepare_video import Outcome
from hiera_video.video.index import FrameIndex
from hiera_video.video.manifest import VideoRecord

INDEX = FrameIndex(30, range(30), Fraction(1, 30), 1.0, 30.0)


def make_outcome(name, source_bytes, size_bytes, cpu_sec, *, ssim=0.9, note=""):
    record = VideoRecord("ok", index=INDEX, size_bytes=size_bytes)
    return Outcome(name, f"out/{name}", record, note, source_bytes, cpu_sec, psnr_db=40 * ssim, ssim=ssim)


GOOD = [make_outcome("a", 1000, 300, 36), make_outcome("b", 3000, 500, 108, ssim=0.7, note="cut off")]
FAILED = Outcome("c", "out/c", VideoRecord("stuck", "not done after 5 s"), source_bytes=1000)


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 1), (3, 1), (20, 5), (1000, 8)])
def test_the_sample_is_small(count, expected):
    sample = choose_sample(count, num_workers=2)
    assert len(set(sample)) == expected and all(0 <= i < count for i in sample)
    assert len(choose_sample(10_000, num_workers=64)) == 64


def test_a_forecast_by_bytes():
    found = compute_forecast([*GOOD, FAILED], [1000, 3000, 1000, 10_000, 35_000], num_cores=2)
    assert found == {
        "num_videos": 5,
        "num_sampled": 3,
        "num_failed": 1,
        "core_hours": pytest.approx(144 * 10 / 3600),
        "hours": pytest.approx(144 * 10 / 3600 / 2),
        "bytes": 50_000,
        "bytes_now": 8_000,
    }


def test_a_forecast_by_number_where_sizes_are_unknown():
    found = compute_forecast(GOOD, [1000, 3000, 0, 0, 0, 0], num_cores=1)
    assert found["core_hours"] == pytest.approx(144 * 3 / 3600) and found["bytes_now"] == 2400


def test_nothing_can_be_said_where_nothing_was_prepared():
    found = compute_forecast([FAILED], [1000, 1000], num_cores=1)
    assert found["hours"] is None
    assert format_forecast(found, {}) == "forecast from 1 of 2 videos to prepare: none of them could be prepared"


def test_the_result():
    found = compute_result([*GOOD, FAILED])
    assert (found["num_videos"], found["num_prepared"], found["num_failed"], found["num_damaged"]) == (3, 2, 1, 1)
    assert (found["bytes"], found["bytes_now"], found["frames"]) == (4000, 800, 60)
    assert found["core_hours"] == pytest.approx(0.04) and found["ssim"] == pytest.approx(0.8)
    assert found["psnr_db"] == pytest.approx(32) and found["worst"]["source"] == "b"
    assert found["failed"] == ["c: stuck: not done after 5 s"] and found["damaged"] == ["b: cut off"]


def test_what_is_shown():
    result = compute_result([*GOOD, FAILED])
    report = {
        "output_dir": "out",
        "num_new": 1,
        "seconds": 70.0,
        "result": result,
        "rates": {"then": 10.0, "now": 42.0},
        "config": "out/prepared.yaml",
        "keys": {"DATA.FORMAT": "kinetics", "DATA.PATH_PREFIX": ""},
    }
    text = format_result(report)
    assert "out: 2 of 3 videos are prepared, 1 of them by this start in 70.0 s; 1 could not be" in text
    assert "4.0 kB then, 800 B now (0.20x)" in text and "10.0 clips/s per core then, 42.0 now (4.2x)" in text
    assert "2.4 min of one core" in text and "least like its source: b (28.0 dB, 0.7000)" in text
    nothing = format_result({**report, "result": compute_result([FAILED]), "rates": {}})
    assert "0 of 1 videos are prepared" in nothing and "PSNR" not in nothing
    shown = format_forecast(compute_forecast(GOOD, [1000, 3000, 36_000], num_cores=2), report["rates"])
    assert shown.splitlines()[1].split() == ["time", "12.0", "min", "(24.0", "min", "of", "one", "core)"]
