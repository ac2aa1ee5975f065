"""Clips of a stream are those that whole decoding and the test transform give; damage starts a video over."""

import io
import weakref
from fractions import Fraction
from functools import partial
from types import SimpleNamespace

import fsspec
import fsspec.implementations.memory
import numpy as np
import pytest
import torch
from video_factory import decode_plainly, write_video

from hiera_video.data.transforms import ClipTransform, EvalTransform
from hiera_video.streams.clip_loader import open_queue
from hiera_video.streams.clip_stream import ClipStream, WorkQueue, stream_clips
from hiera_video.streams.windows import ClipPlan, SlidingWindows
from hiera_video.video import FrameIndex, FramesChangedError, VideoDecodeError, VideoReader
from hiera_video.video.manifest import open_video

CROP = EvalTransform(num_crops=3, short_side_px=40, crop_size_px=32)


def stream(path, *, windows, clips_per_chunk=3, **options):
    return list(stream_clips(str(path), planner=windows, transform=CROP, clips_per_chunk=clips_per_chunk, **options))


@pytest.mark.parametrize("clips_per_chunk", [1, 3, 100])
@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_clips_equal_those_of_a_whole_decode(tmp_path, clips_per_chunk, backend):
    path = write_video(tmp_path / "a.mp4", num_frames=53)
    windows = SlidingWindows(4, window=0.9, stride=0.35)
    opener = partial(open_video, backend=backend)
    chunks = stream(path, windows=windows, clips_per_chunk=clips_per_chunk, open_reader=opener)
    frames = torch.from_numpy(np.stack(decode_plainly(path)))
    with VideoReader(path) as reader:
        plan = windows.plan(reader.index)
    expected = torch.cat([CROP(frames[clip]) for clip in plan.frames])
    assert torch.equal(torch.cat([chunk["views"] for chunk in chunks]), expected)
    np.testing.assert_array_equal(np.concatenate([chunk["spans_sec"] for chunk in chunks]), plan.spans_sec)
    assert [chunk["is_last"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [chunk["first_clip"] for chunk in chunks] == list(range(0, len(plan), clips_per_chunk))


class Plan:
    """Always the same clips."""

    def __init__(self, frames):
        self.frames = np.array(frames)

    def plan(self, index):
        return ClipPlan(self.frames, np.zeros((len(self.frames), 2)))


def test_clips_may_overlap_in_any_way(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=12)
    clips = [[9, 3], [0, 9], [2, 5], [11, 11]]
    found = torch.cat([chunk["views"] for chunk in stream(path, windows=Plan(clips), clips_per_chunk=1)])
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
    chunks = stream_clips(
        "a", planner=windows, transform=AsTheyAre(), clips_per_chunk=1, open_reader=lambda path: Reader()
    )
    counts = [len(alive) for _ in chunks]
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
    chunks = stream(path, windows=windows, clips_per_chunk=1, open_reader=lambda p: ChangingReader(p, 1))
    assert {chunk["attempt"] for chunk in chunks} == {0, 1}
    again = [chunk for chunk in chunks if chunk["attempt"] == 1]
    expected = stream(path, windows=windows, clips_per_chunk=1)
    assert all(torch.equal(a["views"], b["views"]) for a, b in zip(again, expected, strict=True))
    with pytest.raises(VideoDecodeError, match="change each time"):
        stream(path, windows=windows, open_reader=lambda p: ChangingReader(p, 9))


def test_a_failure_after_a_new_start_belongs_to_the_last_attempt(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=40)
    stream_of_one = ClipStream(
        np.array([str(path)]),
        queue=[0],
        planner=SlidingWindows(4, window=0.4, stride=0.4),
        transform=CROP,
        clips_per_chunk=1,
        open_reader=lambda p: ChangingReader(p, 9),
    )
    chunks = list(stream_of_one)
    assert chunks[-1]["failure"] and chunks[-1]["attempt"] == max(chunk["attempt"] for chunk in chunks) == 2


def test_key_frames_that_turn_out_unclean_start_no_remote_video_over(tmp_path):
    # No picture of an intra refresh resets the decoder; a remote file's header does not tell.
    refresh = {"crf": "20", "preset": "veryfast", "x264-params": "scenecut=0:bframes=0:keyint=20:intra-refresh=1"}
    path = write_video(tmp_path / "a.mp4", num_frames=300, options=refresh)
    fsspec.filesystem("memory").pipe("/clip_stream/a.mp4", path.read_bytes())
    with VideoReader("memory://clip_stream/a.mp4") as reader:
        found = {position: frame for position, frame in reader.iterate_frames(range(0, 300, 50))}
    with VideoReader(path) as reader:
        assert torch.equal(torch.stack(list(found.values())), reader.get_frames(list(found)))


class BrokenLine(io.BytesIO):
    """A remote file whose line breaks."""

    def read(self, size=-1):
        raise LookupError("line is down")  # no OSError, as those of aiohttp are none


@pytest.mark.parametrize("is_broken_at_once", [True, False])
def test_errors_of_a_remote_file_system_fail_its_video_alone(monkeypatch, is_broken_at_once):
    def open_remote(*_, **__):
        if is_broken_at_once:
            raise LookupError("line is down")
        return BrokenLine(b"x" * 5000)

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "open", open_remote)
    windows = SlidingWindows(4, window=0.4, stride=0.4)
    remote = ClipStream(
        np.array(["memory://a.mp4"]),
        queue=[0],
        planner=windows,
        transform=CROP,
        clips_per_chunk=1,
        open_reader=open_video,
    )
    assert [chunk["failure"].endswith("line is down") for chunk in remote] == [True]


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


def test_each_video_is_given_out_once_and_failures_are_told(tmp_path):
    paths = [str(write_video(tmp_path / f"{i}.mp4", num_frames=12)) for i in range(3)] + [str(tmp_path / "none.mp4")]
    queue, _ = open_queue(np.array([2, 0, 3, 1]))
    options = {"planner": SlidingWindows(4, window=0.4, stride=0.4), "transform": CROP, "clips_per_chunk": 8}
    first = ClipStream(np.array(paths), queue=queue, open_reader=open_video, **options)
    second = ClipStream(
        np.array(paths), queue=WorkQueue(queue.order, queue.host, queue.port), open_reader=open_video, **options
    )
    one, other = iter(first), iter(second)
    indices = [next(one)["index"], next(other)["index"]]
    rest = [*one, *other]
    assert indices == [2, 0] and sorted(chunk["index"] for chunk in rest if chunk["is_last"]) == [1, 3]
    failure = next(chunk for chunk in rest if chunk["index"] == 3)
    assert "none.mp4" in failure["failure"] and "no such file" in failure["failure"]


def test_unfinished_work_comes_first(tmp_path):
    queue, _ = open_queue(np.array([1]))
    assert list(WorkQueue(queue.order, queue.host, queue.port, redo=[5, 6])) == [5, 6, 1]


def test_unfinished_work_is_done_by_one_process(monkeypatch):
    queue, _store = open_queue(np.array([1]))
    queue.redo = [5, 6, 7]
    for number, expected in ((0, [5, 7, 1]), (1, [6])):
        info = SimpleNamespace(id=number, num_workers=2)
        monkeypatch.setattr("hiera_video.streams.clip_stream.get_worker_info", lambda info=info: info)
        assert list(queue) == expected
