"""Many videos as one stream: each once, the failures named."""

import io
from dataclasses import replace

import fsspec
import fsspec.implementations.memory
import numpy as np
import pytest
import torch
from video_factory import write_video

from hiera_video.data.transforms import EvalTransform
from hiera_video.streams.chunk import Failure
from hiera_video.streams.clip_reader import ClipReader
from hiera_video.streams.clip_stream import ClipStream
from hiera_video.streams.windows import SlidingWindows
from hiera_video.streams.work_queue import WorkQueue
from hiera_video.utils.board import NOTHING, Board
from hiera_video.video import FramesChangedError, VideoReader
from hiera_video.video.manifest import open_video


def make_stream(paths, queue, open_reader=open_video):
    transform = EvalTransform(num_crops=1, short_side_px=40, crop_size_px=32)
    reader = ClipReader(SlidingWindows(4, window=0.4, stride=0.4), transform, 8, open_reader)
    return ClipStream(np.array(paths), queue=queue, reader=reader)


class Changing:
    """A video whose frames change after each clip."""

    def __init__(self, path):
        self.reader = VideoReader(path)
        self.index = self.reader.index

    def iterate_frames(self, indices):
        frames = self.reader.iterate_frames(indices)
        for _, item in zip(range(35), frames, strict=False):
            yield item
        raise FramesChangedError

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reader.close()


def test_a_failure_after_a_new_start_belongs_to_the_last_attempt(tmp_path):
    path = str(write_video(tmp_path / "a.mp4", num_frames=100))
    *chunks, failure = make_stream([path], [0], Changing)
    assert [chunk.attempt for chunk in chunks] == [0, 1, 2] and isinstance(failure, Failure)
    assert (failure.index, failure.attempt, failure.is_last) == (0, 2, True)
    assert failure.reason == f"{path}: its frames change each time that it is decoded"
    assert chunks[-1].busy_sec[1] <= failure.busy_sec[0] <= failure.busy_sec[1]


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
    assert [failure.reason.endswith("line is down") for failure in make_stream(["memory://a.mp4"], [0])] == [True]


def test_each_video_is_given_out_once_and_failures_are_named(tmp_path):
    paths = [str(write_video(tmp_path / f"{i}.mp4", num_frames=12)) for i in range(3)] + [str(tmp_path / "none.mp4")]
    queue = WorkQueue.open(np.array([2, 0, 3, 1]))
    one, other = iter(make_stream(paths, queue)), iter(make_stream(paths, queue.copy()))
    indices = [next(one).index, next(other).index]
    rest = [*one, *other]
    assert indices == [2, 0] and sorted(item.index for item in rest if item.is_last) == [1, 3]
    failure = next(item for item in rest if item.index == 3)
    assert isinstance(failure, Failure) and "none.mp4: no such file" in failure.reason


def test_a_stream_says_what_it_is_at(tmp_path):
    paths = [str(write_video(tmp_path / f"{i}.mp4", num_frames=12)) for i in range(3)]
    stream = make_stream(paths, [2, 1])
    stream.board, stream.is_started = Board(0), torch.zeros(3, dtype=torch.bool)
    seen, open_reader = [], stream.reader.open_reader

    def spy(path):
        seen.append((paths.index(path), int(stream.board.positions[0])))
        return open_reader(path)

    stream.reader = replace(stream.reader, open_reader=spy)
    waiting = [int(stream.board.positions[0]) for _ in stream]
    assert seen == [(2, 2), (1, 1)] and set(waiting) == {NOTHING}, "between two pieces it is at nothing"
    assert stream.board.positions.tolist() == [NOTHING] and stream.is_started.tolist() == [False, True, True]
