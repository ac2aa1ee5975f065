"""Which frames a clip around a key frame takes, against SlowFast's rule and a plain search for the nearest frame."""

from fractions import Fraction

import numpy as np
import pytest

from hiera_video.data.key_frame_clips import KeyFrameSampler, find_start_sec
from hiera_video.video import VideoReader
from hiera_video.video.index import FrameIndex

AVA = KeyFrameSampler(num_frames=16, sampling_rate=4, target_fps=30)


def pictures(num_frames):
    return FrameIndex(num_frames, None, Fraction(1), duration_sec=0.0, fps=0.0)


def find_nearest(times, wanted):
    return min(range(len(times)), key=lambda i: (round(abs(times[i] - wanted), 6), i))


@pytest.mark.parametrize("second", [900, 901, 902, 1200, 1798, 1801])
def test_pictures_at_30_a_second_are_taken_as_slowfast_does(second):
    center, num_frames = (second - 900) * 30, 27030
    expected = np.clip(np.arange(center - 32, center + 32, 4), 0, num_frames - 1)
    found = AVA.get_frame_indices(pictures(num_frames), second - 900)
    assert found.dtype == np.int64 and found.tolist() == expected.tolist()
    assert found[8] == min(center, num_frames - 1)


@pytest.mark.parametrize("fps", [24, 25, 30, 50, 60])
def test_videos_of_any_rate_give_the_nearest_frames(painted_video, fps):
    path = painted_video(f"key_{fps}.mp4", num_frames=4 * fps, fps=fps)
    with VideoReader(path) as reader:
        for time_sec in (0.0, 1.0, 1.99, 2.0, 3.9):
            wanted = [time_sec + (i - 32) / 30 for i in range(0, 64, 4)]
            expected = [find_nearest(reader.times_sec, moment) for moment in wanted]
            assert AVA.get_frame_indices(reader.index, time_sec).tolist() == expected


def test_a_changing_rate_goes_by_times(painted_video):
    stamps = [0, 40, 80, 300, 900, 930, 960, 1700, 1740, 1800]
    with VideoReader(painted_video("key_vfr.mp4", num_frames=10, pts=stamps)) as reader:
        sampler = KeyFrameSampler(num_frames=4, sampling_rate=15, target_fps=30)
        assert sampler.get_frame_indices(reader.index, Fraction(9, 10)).tolist() == [0, 3, 4, 7]


def test_halves_go_to_the_earlier_frame():
    even = FrameIndex(100, range(0, 1000, 10), Fraction(1, 100), duration_sec=10.0, fps=10.0)  # a frame each 0.1 s
    sampler = KeyFrameSampler(num_frames=2, sampling_rate=3, target_fps=20)  # 0.15 s from one to the next
    assert sampler.get_frame_indices(even, 1.0).tolist() == [8, 10]
    assert sampler.get_frame_indices(pictures(100), 0.525).tolist() == [7, 10]  # 7.5 and 10.5 at 20 a second


@pytest.mark.parametrize("num_frames", [1, 2, 3, 8, 9, 16])
def test_the_key_frame_is_among_the_frames(num_frames):
    sampler = KeyFrameSampler(num_frames=num_frames, sampling_rate=3, target_fps=30)
    assert sampler.get_frame_indices(pictures(1000), 10)[num_frames // 2] == 300


@pytest.mark.parametrize("time_sec", [-1.5, 11.5])
def test_moments_that_the_file_does_not_have(time_sec):
    with pytest.raises(ValueError, match=f"due {time_sec} s after the first frame of 10.0 s"):
        AVA.get_frame_indices(pictures(300), time_sec)


@pytest.mark.parametrize(
    ("duration_sec", "last_sec", "start_sec"),
    [
        (901.0, 1798, 900),
        (900.97, 1798, 900),
        (5400.0, 1798, 0),
        (1798.2, 1798, 0),
        (5.0, 904, 900),
        (901.0, 902, 900),
        (20.0, 3, 0),
    ],
)
def test_whole_films_and_cut_ones_are_told_apart(duration_sec, last_sec, start_sec):
    assert find_start_sec(duration_sec, last_sec) == start_sec


def test_files_that_are_neither():
    with pytest.raises(ValueError, match=r"lasts 300.0 s.*second 1798.*AVA.START_SEC"):
        find_start_sec(300.0, 1798)
