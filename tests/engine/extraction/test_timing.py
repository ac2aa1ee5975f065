import pytest

from hiera_video.engine.extraction.timing import BusyTime, WorkTimes


def test_busy_time_is_a_union():
    busy = BusyTime()
    for began, ended in ((0, 2), (5, 6), (1, 3), (5.5, 5.6)):
        busy.add(began, ended)
    assert busy.compute_sec() == 4
    many = BusyTime()
    for i in range(10_000):
        many.add(i, i + 0.5)
    assert many.compute_sec() == pytest.approx(5000)


def test_work_times_tell_who_was_busy():
    times = WorkTimes()
    times.add_decoding(0, 4)
    times.add_decoding(1, 3)  # another process
    times.add_batch(8, 3, 5)
    times.add_batch(2, 8, 9)
    assert times.summarize(10) == {
        "views_per_sec_per_process": 1.0,
        "decoder_busy_percent": 40.0,
        "model_busy_percent": 30.0,
        "both_idle_percent": 40.0,
    }
