"""Clips are those that whole decoding and the test transform give; damage starts a video over."""

import weakref
from fractions import Fraction
from functools import partial

import fsspec
import numpy as np
import pytest
import torch
from video_factory import decode_plainly, write_video

from hiera_video.config import load_config
from hiera_video.data.transforms import ClipTransform, EvalTransform
from hiera_video.streams.clip_reader import ClipReader, build_clip_reader
from hiera_video.streams.windows import ClipPlan, SlidingWindows
from hiera_video.video import FrameIndex, FramesChangedError, VideoDecodeError, VideoReader
from hiera_video.video.manifest import open_video

CROP = EvalTransform(num_crops=3, short_side_px=40, crop_size_px=32)


def read(path, *, windows, clips_per_chunk=3, open_reader=open_video):
    return list(ClipReader(windows, CROP, clips_per_chunk, open_reader).read(str(path), index=7))


@pytest.mark.parametrize("clips_per_chunk", [1, 3, 100])
@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_clips_equal_those_of_a_whole_decode(tmp_path, clips_per_chunk, backend):
    path = write_video(tmp_path / "a.mp4", num_frames=53)
    windows = SlidingWindows(4, window=0.9, stride=0.35)
    opener = partial(open_video, backend=backend)
    chunks = read(path, windows=windows, clips_per_chunk=clips_per_chunk, open_reader=opener)
    frames = torch.from_numpy(np.stack(decode_plainly(path)))
    with VideoReader(path) as reader:
        plan = windows.plan(reader.index)
    expected = torch.cat([CROP(frames[clip]) for clip in plan.frames])
    assert torch.equal(torch.cat([chunk.views for chunk in chunks]), expected)
    np.testing.assert_array_equal(np.concatenate([chunk.spans_sec for chunk in chunks]), plan.spans_sec)
    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [chunk.first_clip for chunk in chunks] == list(range(0, len(plan), clips_per_chunk))
    assert {(chunk.index, chunk.attempt, chunk.num_clips) for chunk in chunks} == {(7, 0, len(plan))}
    times = [moment for chunk in chunks for moment in chunk.busy_sec]
    assert times == sorted(times)


class Plan:
    """Always the same clips."""

    def __init__(self, frames):
        self.frames = np.array(frames)

    def plan(self, index):
        return ClipPlan(self.frames, np.zeros((len(self.frames), 2)))


def test_clips_may_overlap_in_any_way(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=12)
    clips = [[9, 3], [0, 9], [2, 5], [11, 11]]
    found = torch.cat([chunk.views for chunk in read(path, windows=Plan(clips), clips_per_chunk=1)])
    frames = torch.from_numpy(np.stack(decode_plainly(path)))
    assert torch.equal(found, torch.cat([CROP(frames[clip]) for clip in clips]))


class AsTheyAre(ClipTransform):
    """Views are the frames' upper left corners, without a copy on the way."""

    size_px = 8

    def write_views(self, frames, views):
        views[0] = torch.stack([frame[:8, :8] for frame in frames]).permute(3, 0, 1, 2)  # (T, H, W, C) -> (C, T, H, W)


def test_only_frames_of_unfinished_clips_are_kept():
    alive = weakref.WeakSet()

    class Picture(np.ndarray):
        """An array that a set can hold."""

        __hash__ = object.__hash__

    class Reader:
        index = FrameIndex(200, None, Fraction(1), duration_sec=8.0, fps=25.0)

        def iterate_frames(self, positions):
            for position in positions:
                picture = np.zeros((8, 8, 3), np.uint8).view(Picture)
                alive.add(picture)
                yield position, torch.from_numpy(picture)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    windows = SlidingWindows(4, window=4, stride=2, unit="frames")
    reader = ClipReader(windows, AsTheyAre(), clips_per_chunk=1, open_reader=lambda path: Reader())
    counts = [len(alive) for _ in reader.read("a")]
    assert len(counts) == 99 and 0 < max(counts) <= 5


class ChangingReader:
    """A reader whose first pass ends in the discovery that there are other frames."""

    def __init__(self, path, changes):
        self.reader, self.changes = VideoReader(path), changes

    @property
    def index(self):
        return self.reader.index

    def iterate_frames(self, indices):
        for number, item in enumerate(self.reader.iterate_frames(indices)):
            if self.changes and number == 12:
                self.changes -= 1
                raise FramesChangedError
            yield item

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reader.close()


def test_a_video_whose_frames_change_is_started_over(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=40)
    windows = SlidingWindows(4, window=0.4, stride=0.4)
    chunks = read(path, windows=windows, clips_per_chunk=1, open_reader=lambda p: ChangingReader(p, 1))
    assert {chunk.attempt for chunk in chunks} == {0, 1}
    again = [chunk for chunk in chunks if chunk.attempt == 1]
    expected = read(path, windows=windows, clips_per_chunk=1)
    assert all(torch.equal(a.views, b.views) for a, b in zip(again, expected, strict=True))
    with pytest.raises(VideoDecodeError, match="change each time"):
        read(path, windows=windows, open_reader=lambda p: ChangingReader(p, 9))


@pytest.mark.parametrize(("num_crops", "views_per_chunk", "expected"), [(1, 8, 8), (3, 8, 2), (3, 1, 1), (1, 5, 5)])
def test_a_chunk_has_as_many_clips_as_its_views_allow(num_crops, views_per_chunk, expected):
    windows = SlidingWindows(4, window=1, stride=1)
    cfg = load_config([], ["TRAIN.ENABLE", "False", "DATA.TEST_CROP_SIZE", "64", "DATA.MAX_SHORT_SIDE", "300"])
    reader = build_clip_reader(cfg, windows, num_crops=num_crops, views_per_chunk=views_per_chunk)
    assert (reader.clips_per_chunk, reader.transform.num_crops, reader.transform.size_px) == (expected, num_crops, 64)
    expected_options = {"manifest": None, "backend": "pyav", "max_short_side_px": 300, "cache": None}
    assert reader.open_reader.keywords == expected_options
    with pytest.raises(ValueError, match="num_crops is 0"):
        build_clip_reader(cfg, windows, num_crops=0)


def test_key_frames_that_turn_out_unclean_start_no_remote_video_over(tmp_path):
    # No picture of an intra refresh resets the decoder; a remote file's header does not tell.
    refresh = {"crf": "20", "preset": "veryfast", "x264-params": "scenecut=0:bframes=0:keyint=20:intra-refresh=1"}
    path = write_video(tmp_path / "a.mp4", num_frames=300, options=refresh)
    fsspec.filesystem("memory").pipe("/clip_stream/a.mp4", path.read_bytes())
    with VideoReader("memory://clip_stream/a.mp4") as reader:
        found = {position: frame for position, frame in reader.iterate_frames(range(0, 300, 50))}
    with VideoReader(path) as reader:
        assert torch.equal(torch.stack(list(found.values())), reader.get_frames(list(found)))


def test_iterating_frames_checks_its_positions_and_notices_changes(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", num_frames=10)
    with VideoReader(path) as reader:
        for wrong in ([0, 10], [3, 3], [2, 1], [-1]):
            with pytest.raises(ValueError, match="increase strictly within 0 to 9"):
                list(reader.iterate_frames(wrong))
        decode = reader._main.decode
        monkeypatch.setattr(reader._main, "decode", lambda positions: [*decode([0, 1]), *decode([0, 1, 2])])
        with pytest.raises(FramesChangedError):
            list(reader.iterate_frames([0, 1, 2]))
    with pytest.raises(ValueError, match="closed"):
        list(reader.iterate_frames([0]))
