from fractions import Fraction

import numpy as np
import pytest

from hiera_video.config import load_config
from hiera_video.data.clip_sampling import UniformClipSampler
from hiera_video.streams.windows import ClipsWithin, SlidingWindows, SpreadClips, UniformClips, build_clip_planner
from hiera_video.video import FrameIndex


def make_index(num_frames, fps=10.0, pts=None, time_base=Fraction(1, 1000), duration_sec=None):
    return FrameIndex(
        num_frames, pts, time_base, duration_sec=duration_sec or (num_frames / fps if fps else 0.0), fps=fps
    )


def plan_naively(num_frames, fps, window, stride, count):
    """Windows in seconds by plain floating point, one frame at a time."""
    starts, clips = [], []
    k = 0
    while True:
        start = k * stride * fps
        starts.append(start)
        step = (window * fps - 1) / (count - 1)
        clips.append([min(int(start + i * step + 1e-9), num_frames - 1) for i in range(count)])
        k += 1
        if start + window * fps >= num_frames - 0.5 or k * stride * fps >= num_frames - 0.5:
            return np.array(clips), np.array(starts) / fps


@pytest.mark.parametrize("num_frames", [1, 3, 19, 20, 21, 25, 100, 101])
@pytest.mark.parametrize(("window", "stride"), [(2.0, 2.0), (2.0, 0.5), (1.0, 2.5), (0.7, 0.3)])
def test_windows_in_seconds_are_those_of_a_naive_loop(num_frames, window, stride):
    plan = SlidingWindows(4, window=window, stride=stride).plan(make_index(num_frames))
    frames, starts = plan_naively(num_frames, 10.0, window, stride, 4)
    assert plan.frames.tolist() == frames.tolist()
    np.testing.assert_allclose(plan.spans_sec[:, 0], starts)
    np.testing.assert_allclose(plan.spans_sec[:, 1], np.minimum(starts + window, num_frames / 10))


def test_the_last_window_is_included_on_the_same_grid():
    plan = SlidingWindows(2, window=4, stride=3, unit="frames").plan(make_index(12))
    assert plan.frames.tolist() == [[0, 3], [3, 6], [6, 9], [9, 11]]  # the last reaches past the end
    np.testing.assert_allclose(plan.spans_sec, [[0, 0.4], [0.3, 0.7], [0.6, 1.0], [0.9, 1.2]])


def test_windows_that_end_with_the_video_are_not_followed_by_an_empty_one():
    assert len(SlidingWindows(2, window=4, stride=4, unit="frames").plan(make_index(12))) == 3


def test_a_rounded_duration_makes_no_further_window():
    index = make_index(60, fps=29.97, duration_sec=60 / 29.97 + 0.001)
    assert len(SlidingWindows(2, window=1.001, stride=1.001).plan(index)) == 2


def test_every_frame_is_in_some_window_where_windows_touch():
    plan = SlidingWindows(5, window=5, stride=5, unit="frames").plan(make_index(23))
    assert set(plan.frames.ravel()) == set(range(23))


def test_uneven_frames_are_taken_by_the_moment_at_which_they_are_shown():
    # 5 frames in the first second, then 1 each second
    pts = (0, 200, 400, 600, 800, 1000, 2000, 3000)
    index = make_index(8, fps=2.0, pts=pts, duration_sec=4.0)
    plan = SlidingWindows(2, window=2.0, stride=1.0).plan(index)
    # moments 0 and 1.5 s, 1 and 2.5 s, 2 and 3.5 s
    assert plan.frames.tolist() == [[0, 5], [5, 6], [6, 7]]


def test_time_stamps_rounded_down_by_the_container_do_not_move_frames():
    pts = tuple(round(i * 1000 / 30) for i in range(90))  # 0, 33, 67, 100: some above, some below the true moment
    even = SlidingWindows(8, window=0.8, stride=0.8).plan(make_index(90, fps=30.0))
    rounded = SlidingWindows(8, window=0.8, stride=0.8).plan(make_index(90, fps=30.0, pts=pts))
    assert np.abs(rounded.frames - even.frames).max() == 0


def test_coarse_time_stamps_do_not_move_frames_by_more_than_a_quarter():
    # A tick as long as a frame: that the next frame counted as shown a tick earlier would be wrong.
    index = make_index(8, fps=2.0, pts=(0, 1, 2, 3, 4, 5, 6, 8), time_base=Fraction(1, 2), duration_sec=4.0)
    assert SlidingWindows(4, window=2.0, stride=2.0).plan(index).frames.tolist() == [[0, 1, 2, 3], [4, 5, 6, 6]]


def test_segments_of_uneven_frames_give_the_frames_shown_in_their_middle():
    pts = (0, 200, 400, 600, 800, 1000, 2000, 3000)
    index = make_index(8, fps=2.0, pts=pts, duration_sec=4.0)
    # parts of a second, whose middles are at 0.5 and 1.5, 2.5 and 3.5 s
    assert SlidingWindows(2, window=2.0, stride=2.0, is_segment=True).plan(index).frames.tolist() == [[2, 5], [6, 7]]


def test_a_window_shorter_than_a_frame_is_a_frame():
    plan = SlidingWindows(3, window=0.01, stride=0.2).plan(make_index(5))
    assert plan.frames.tolist() == [[0] * 3, [2] * 3, [4] * 3]
    np.testing.assert_allclose(plan.spans_sec, [[0, 0.1], [0.2, 0.3], [0.4, 0.5]])


def test_segments_of_a_window_give_their_middle_frames():
    plan = SlidingWindows(4, window=8, stride=8, unit="frames", is_segment=True).plan(make_index(16))
    assert plan.frames.tolist() == [[1, 3, 5, 7], [9, 11, 13, 15]]


def test_pictures_have_windows_in_frames_alone():
    plan = SlidingWindows(2, window=4, stride=4, unit="frames").plan(make_index(8, fps=0.0))
    assert plan.frames.tolist() == [[0, 3], [4, 7]] and np.isnan(plan.spans_sec).all()
    with pytest.raises(ValueError, match="frame rate is unknown"):
        SlidingWindows(2, window=4, stride=4).plan(make_index(8, fps=0.0))


@pytest.mark.parametrize(
    "wrong", [{"window": 0}, {"stride": -1}, {"stride": 1e-7}, {"unit": "hours"}, {"window": float("inf")}]
)
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SlidingWindows(2, **{"window": 1.0, "stride": 1.0, **wrong})


def test_the_config_chooses_the_clips():
    def describe(*words):
        return build_clip_planner(load_config([], ["TRAIN.ENABLE", "False", *words])).describe()

    plain = describe("DATA.NUM_FRAMES", "8", "DATA.SAMPLING_RATE", "3", "DATA.TARGET_FPS", "30")
    assert plain["window"] == plain["stride"] == 0.8 and plain["frames"] == "first to last, evenly"
    segment = describe("DATA.SAMPLING", "segment", "EXTRACT.WINDOW", "9", "EXTRACT.UNIT", "frames")
    assert segment["window"] == segment["stride"] == 9 and segment["frames"] == "middles of equal parts"
    assert describe("EXTRACT.CLIPS", "uniform", "EXTRACT.NUM_CLIPS", "7")["num_clips"] == 7


def test_uniform_clips_are_those_of_testing_with_their_times():
    sampler = UniformClipSampler(4, 2, 10, 3)
    plan = UniformClips(sampler).plan(make_index(40))
    assert plan.frames.tolist() == sampler.get_frame_indices(40, 10.0).tolist()
    np.testing.assert_allclose(plan.spans_sec[0], [0, (plan.frames[0, -1] + 1) / 10])


def test_a_part_of_a_video_takes_the_windows_that_lie_in_it():
    windows = SlidingWindows(2, window=1.0, stride=0.5)
    index = make_index(100)
    plan = ClipsWithin(windows, start_sec=2.0, end_sec=3.5).plan(index)
    np.testing.assert_allclose(plan.spans_sec[:, 0], [1.5, 2.0, 2.5, 3.0])  # half of the first and the last is in it
    np.testing.assert_allclose(ClipsWithin(windows, start_sec=2.2, end_sec=2.3).plan(index).spans_sec, [[1.5, 2.5]])
    with pytest.raises(ValueError, match="10 s long"):
        ClipsWithin(windows, start_sec=10.0, end_sec=12.0).plan(index)
    with pytest.raises(ValueError, match="empty"):
        ClipsWithin(windows, start_sec=3.0, end_sec=3.0)


def test_some_windows_are_spread_over_a_video():
    windows = SlidingWindows(2, window=1.0, stride=1.0)
    index = make_index(100)  # ten windows
    whole = windows.plan(index)
    for count, chosen in ((1, [4]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, range(10)), (20, range(10))):
        plan = SpreadClips(windows, count).plan(index)
        assert plan.spans_sec.tolist() == whole.spans_sec[list(chosen)].tolist()
        assert plan.frames.tolist() == whole.frames[list(chosen)].tolist()
    assert SpreadClips(windows, 3).describe()["max_clips"] == 3
    with pytest.raises(ValueError, match="max_clips is 0"):
        SpreadClips(windows, 0)


def test_a_picture_is_one_window_whatever_the_unit():
    for unit in ("sec", "frames"):
        plan = SlidingWindows(1, window=2, stride=1, unit=unit).plan(make_index(1, fps=0.0, duration_sec=0.0))
        assert plan.frames.tolist() == [[0]] and np.isnan(plan.spans_sec).all()
