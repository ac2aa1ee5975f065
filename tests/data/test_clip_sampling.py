"""Frames of a clip, against numbers worked out by hand and an independent naive version."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorchvideo.data.clip_sampling import (
    ClipSampler,
    ConstantClipsPerVideoSampler,
    RandomMultiClipSampler,
)
from pytorchvideo.data.clip_sampling import RandomClipSampler as PtvRandomClipSampler
from pytorchvideo.data.clip_sampling import UniformClipSampler as PtvUniformClipSampler

from hiera_video.data.clip_sampling import (
    PytorchVideoClipSampler,
    RandomClipSampler,
    SegmentClipSampler,
    UniformClipSampler,
    compute_clip_indices,
    compute_clip_length_frames,
    compute_clip_start_frames,
)
from hiera_video.utils.rng import seeded


def naive_uniform(num_video_frames, fps, num_frames, rate, target_fps, num_clips, use_offset):
    """The definition in floats; the small number makes up for rounding."""
    length = max(num_frames * rate * fps / target_fps, 1.0)
    delta = max(num_video_frames - length, 0.0)
    clips = []
    for k in range(num_clips):
        if not use_offset:
            start = delta * k / num_clips
        elif num_clips == 1:
            start = math.floor(delta / 2 + 1e-9)
        else:
            start = k * math.floor(delta / (num_clips - 1) + 1e-9)
        places = np.linspace(start, start + length - 1, num_frames)
        clips.append(np.floor(np.clip(places, 0, num_video_frames - 1) + 1e-7).astype(np.int64))
    return np.stack(clips)


@pytest.mark.parametrize(
    ("fps", "expected"),
    [(30, 64), (15, 32), (60, 128), (0, 64), (float("nan"), 64), (30000 / 1001, Fraction(64000, 1001))],
)
def test_clip_length_follows_the_frame_rate(fps, expected):
    length = compute_clip_length_frames(num_frames=16, sampling_rate=4, fps=fps, target_fps=30)
    assert length == expected


def test_clip_length_is_at_least_a_frame():
    assert compute_clip_length_frames(num_frames=8, sampling_rate=1, fps=2, target_fps=30) == 1


def test_uniform_clips_with_offset_sampling():
    # 300 frames, clips of 64: delta 236, 59 apart. Within a clip 63 / 15 = 4.2 frames apart.
    sampler = UniformClipSampler(16, 4, 30, num_clips=5, use_offset_sampling=True)
    first = [0, 4, 8, 12, 16, 21, 25, 29, 33, 37, 42, 46, 50, 54, 58, 63]
    expected = [[start + frame for frame in first] for start in (0, 59, 118, 177, 236)]
    assert sampler.get_frame_indices(300, 30).tolist() == expected


def test_uniform_clips_without_offset_sampling():
    # delta = 100 - 16 = 84; starts 0, 28, 56; within a clip 15 / 7 = 2.142857 frames apart.
    sampler = UniformClipSampler(8, 2, 30, num_clips=3, use_offset_sampling=False)
    first = [0, 2, 4, 6, 8, 10, 12, 15]
    assert sampler.get_frame_indices(100, 30).tolist() == [[start + frame for frame in first] for start in (0, 28, 56)]


def test_one_uniform_clip_is_the_center():
    # delta = 33 - 16 = 17, its half 8.5 is floored, as in SlowFast.
    sampler = UniformClipSampler(8, 2, 30, num_clips=1)
    assert sampler.get_frame_indices(33, 30).tolist() == [[8, 10, 12, 14, 16, 18, 20, 23]]


def test_uniform_clips_start_on_whole_frames_with_offset_sampling():
    # delta = 50 - 16 = 34; floor(34 / 4) = 8.
    starts = UniformClipSampler(8, 2, 30, num_clips=5).get_frame_indices(50, 30)[:, 0]
    assert starts.tolist() == [0, 8, 16, 24, 32]


def test_half_frame_rate_takes_half_the_frames():
    # 15 fps: a clip of 4 x 4 at 30 lasts 8 frames: 0, 7/3, 14/3, 7.
    sampler = UniformClipSampler(4, 4, 30, num_clips=1, use_offset_sampling=False)
    assert sampler.get_frame_indices(40, 15).tolist() == [[0, 2, 4, 7]]


def test_short_videos_repeat_their_last_frame():
    sampler = UniformClipSampler(8, 2, 30, num_clips=2)
    # Clip length 16 on 6 frames: 15 / 7 apart, clamped.
    assert sampler.get_frame_indices(6, 30).tolist() == [[0, 2, 4, 5, 5, 5, 5, 5]] * 2
    assert sampler.get_frame_indices(1, 30).tolist() == [[0] * 8] * 2


def test_no_rounding_error_moves_a_frame():
    # 8 x 2 at 50 fps is 26 2/3 frames, from floor(84 1/3 / 2) = 42 in steps of 3 2/3: the seventh is exactly 64, which
    # floats (SlowFast, torch.linspace) make 63.99999.
    sampler = UniformClipSampler(8, 2, 30, num_clips=1)
    assert sampler.get_frame_indices(111, 50).tolist() == [[42, 45, 49, 53, 56, 60, 64, 67]]
    # Steps of exactly 3 frames, at frame rates that no float can hold.
    length = compute_clip_length_frames(
        num_frames=11, sampling_rate=3, fps=30000 / 1001, target_fps=Fraction(33 * 30000, 31 * 1001)
    )
    clip = compute_clip_indices(start_frames=0, clip_length_frames=length, num_frames=11, num_video_frames=99)
    assert clip.tolist() == list(range(0, 33, 3))


def test_test_clip_starts():
    def starts(delta, num_clips, use_offset):
        return [
            compute_clip_start_frames(
                delta_frames=delta, clip_index=k, num_clips=num_clips, use_offset_sampling=use_offset
            )
            for k in range(num_clips)
        ]

    assert starts(Fraction(41, 2), 3, True) == [0, 10, 20]
    assert starts(Fraction(41, 2), 1, True) == [10]
    assert starts(Fraction(41, 2), 3, False) == [0, Fraction(41, 6), Fraction(41, 3)]
    assert starts(0, 4, True) == [0, 0, 0, 0]


@settings(max_examples=300, deadline=None)
@given(
    num_video_frames=st.integers(1, 400),
    fps=st.sampled_from([12, 15, 24, 25, 28, 29.97, 30, 30000 / 1001, 50, 60]),
    num_frames=st.integers(1, 32),
    rate=st.integers(1, 8),
    num_clips=st.integers(1, 10),
    use_offset=st.booleans(),
)
def test_uniform_sampler_equals_the_naive_version(num_video_frames, fps, num_frames, rate, num_clips, use_offset):
    sampler = UniformClipSampler(num_frames, rate, 30, num_clips=num_clips, use_offset_sampling=use_offset)
    expected = naive_uniform(num_video_frames, fps, num_frames, rate, 30, num_clips, use_offset)
    np.testing.assert_array_equal(sampler.get_frame_indices(num_video_frames, fps), expected)


def make_samplers(num_frames, num_clips):
    return [
        RandomClipSampler(num_frames, 3, 30, num_clips=num_clips),
        UniformClipSampler(num_frames, 3, 30, num_clips=num_clips),
        SegmentClipSampler(num_frames, num_clips=num_clips, random=True),
        SegmentClipSampler(num_frames, num_clips=num_clips, random=False),
        PytorchVideoClipSampler(PtvRandomClipSampler(0.7), num_frames, max_clips=num_clips),
        PytorchVideoClipSampler(PtvUniformClipSampler(Fraction(1, 3)), num_frames, max_clips=num_clips),
    ]


@settings(max_examples=200, deadline=None)
@given(
    which=st.integers(0, 5),
    num_video_frames=st.integers(1, 300),
    fps=st.one_of(st.just(0.0), st.floats(0.5, 120)),
    num_frames=st.integers(1, 32),
    num_clips=st.integers(1, 5),
    seed=st.integers(0, 2**20),
)
def test_indices_are_frames_of_the_video_in_order(which, num_video_frames, fps, num_frames, num_clips, seed):
    sampler = make_samplers(num_frames, num_clips)[which]
    with seeded(seed):
        indices = sampler.get_frame_indices(num_video_frames, fps)
    assert indices.dtype == np.int64
    assert indices.shape == (num_clips, num_frames)
    assert indices.min() >= 0
    assert indices.max() < num_video_frames
    assert (np.diff(indices, axis=1) >= 0).all()


def test_random_clips_are_uniform_over_the_video_and_repeatable():
    sampler = RandomClipSampler(4, 5, 30, num_clips=2000)
    with seeded(1, 2, 3):
        indices = sampler.get_frame_indices(60, 30)
    with seeded(1, 2, 3):
        again = sampler.get_frame_indices(60, 30)
    np.testing.assert_array_equal(indices, again)
    starts = indices[:, 0]  # floor of a uniform draw from [0, 40]
    assert (starts.min(), starts.max()) == (0, 39)
    assert abs(starts.mean() - 19.5) < 1.0  # standard error 0.26
    assert set((indices[:, 3] - starts).tolist()) == {19}


def test_random_clip_of_a_short_video_is_the_whole_video():
    assert RandomClipSampler(4, 5, 30).get_frame_indices(10, 30).tolist() == [[0, 6, 9, 9]]


def test_segment_clips_of_a_test_differ():
    # Parts of 10 frames; clip k of 2 takes places 2.5 and 7.5.
    clips = SegmentClipSampler(4, num_clips=2).get_frame_indices(40, 12)
    assert clips.tolist() == [[2, 12, 22, 32], [7, 17, 27, 37]]
    # An SSv2 clip of 46 frames in 16 parts of 2.875: places 1.4375 + 2.875 i for one clip.
    one = [1, 4, 7, 10, 12, 15, 18, 21, 24, 27, 30, 33, 35, 38, 41, 44]
    assert SegmentClipSampler(16).get_frame_indices(46, 12).tolist() == [one]
    three = SegmentClipSampler(16, num_clips=3).get_frame_indices(46, 12)
    assert three[1].tolist() == one
    assert all((three[a] != three[b]).any() for a, b in [(0, 1), (0, 2), (1, 2)])
    assert (three[0] <= three[1]).all() and (three[1] <= three[2]).all()


def test_random_segments_take_one_frame_of_each_part():
    with seeded(5):
        clips = SegmentClipSampler(5, num_clips=500, random=True).get_frame_indices(50, 12)
    assert (clips // 10 == np.arange(5)).all()
    assert set((clips % 10).ravel().tolist()) == set(range(10))
    # Each part draws for itself.
    assert len(np.unique(clips[:, 0] - clips[:, 1] % 10)) > 10


def test_segments_of_a_video_with_fewer_frames_than_parts():
    assert SegmentClipSampler(8).get_frame_indices(3, 12).tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    assert SegmentClipSampler(4).get_frame_indices(1, 12).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("sampler", make_samplers(4, 2)[:4], ids=lambda sampler: type(sampler).__name__)
def test_pytorchvideo_can_drive_our_samplers(sampler):
    assert isinstance(sampler, ClipSampler)
    for _ in range(2):  # two videos in a row
        first = sampler(None, 10.0, {})
        second = sampler(first.clip_end_sec, 10.0, {})
        assert (first.clip_index, first.aug_index, first.is_last_clip) == (0, 0, False)
        assert (second.clip_index, second.aug_index, second.is_last_clip) == (1, 0, True)
        for clip in (first, second):
            assert 0 <= clip.clip_start_sec < clip.clip_end_sec <= 10
    sampler(None, 10.0, {})
    sampler.reset()
    assert sampler(None, 10.0, {}).clip_index == 0


def test_uniform_sampler_gives_pytorchvideo_the_same_clips_in_seconds():
    sampler = UniformClipSampler(16, 4, 30, num_clips=3)
    clips = [sampler(0.0, 10.0, {}) for _ in range(3)]
    assert [clip.clip_start_sec for clip in clips] == [0, Fraction(118, 30), Fraction(236, 30)]
    assert all(clip.clip_end_sec - clip.clip_start_sec == Fraction(64, 30) for clip in clips)
    frames = PytorchVideoClipSampler(sampler, 16, max_clips=3).get_frame_indices(300, 30)
    np.testing.assert_array_equal(frames, sampler.get_frame_indices(300, 30))


def test_pytorchvideos_samplers_choose_frames():
    # Four clips of one second from 10 s: starts 0, 2.25, 4.5, 6.75 s; frame ceil(67.5) = 68 is the first at or after.
    sampler = PytorchVideoClipSampler(ConstantClipsPerVideoSampler(1, 4), num_frames=4, max_clips=4)
    expected = [[0, 9, 19, 29], [68, 77, 87, 97], [135, 144, 154, 164], [203, 212, 222, 232]]
    assert sampler.get_frame_indices(300, 30).tolist() == expected
    # Clips are repeated in turn up to max_clips, and left out beyond.
    sampler = PytorchVideoClipSampler(PtvUniformClipSampler(1), num_frames=2, max_clips=3)
    assert sampler.get_frame_indices(60, 30).tolist() == [[0, 29], [30, 59], [0, 29]]
    assert sampler.get_frame_indices(300, 30).tolist() == [[0, 29], [30, 59], [60, 89]]


def test_pytorchvideos_list_samplers_choose_frames():
    sampler = PytorchVideoClipSampler(RandomMultiClipSampler(1, 3), num_frames=2, max_clips=2)
    with seeded(3):
        first, second = (Fraction(random.uniform(0, 9)) for _ in range(2))
    with seeded(3):
        frames = sampler.get_frame_indices(300, 30)
    assert frames[:, 0].tolist() == [math.ceil(first * 30), math.ceil(second * 30)]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: RandomClipSampler(0, 4, 30), "num_frames"),
        (lambda: UniformClipSampler(16, 0, 30), "sampling_rate"),
        (lambda: UniformClipSampler(16, 4, 0), "target_fps"),
        (lambda: SegmentClipSampler(8, num_clips=0), "num_clips"),
        (lambda: UniformClipSampler(16, 4, 30).get_frame_indices(0, 30), "num_video_frames"),
    ],
)
def test_wrong_arguments_are_named(make, name):
    with pytest.raises(ValueError, match=name):
        make()
