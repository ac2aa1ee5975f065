"""Processes that decode may die or stand still: that costs the video that they were at, and no other."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
from video_factory import write_video

from hiera_video.data.transforms import EvalTransform
from hiera_video.streams.chunk import Chunk, Failure
from hiera_video.streams.clip_loader import ClipLoader
from hiera_video.streams.clip_reader import ClipReader
from hiera_video.streams.windows import SlidingWindows
from hiera_video.streams.work_queue import WorkQueue
from hiera_video.video.manifest import open_video

LENGTHS = {"a": 61, "b": 12, "sub/c": 30, "sub/d": 5}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, num_frames in LENGTHS.items():
        path = folder / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_video(path, num_frames=num_frames)
    return folder


def sabotage(path):
    """Opens videos; two of them bring the process down, or to a halt."""
    if path.endswith("b.mp4"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.endswith("d.mp4"):
        time.sleep(1000)
    return open_video(path)


def make_loader(paths, open_reader, **options):
    transform = EvalTransform(num_crops=1, short_side_px=32, crop_size_px=32)
    windows = SlidingWindows(4, window=16, stride=8, unit="frames")
    reader = ClipReader(windows, transform, clips_per_chunk=1, open_reader=open_reader)
    return ClipLoader(np.array(paths), reader=reader, queue=WorkQueue.open(np.arange(len(paths))), **options)


def get_reason(item):
    return item.reason if isinstance(item, Failure) else None


def test_a_death_is_noticed_long_before_a_standstill(videos, monkeypatch):
    monkeypatch.setattr("hiera_video.streams.clip_loader._POLL_SEC", 0.2)
    paths = [str(videos / "b.mp4"), str(videos / "a.mp4")]
    items = list(make_loader(paths, sabotage, num_workers=1, timeout_sec=10**6))
    assert {item.index: isinstance(item, Failure) for item in items if item.is_last} == {0: True, 1: False}


def test_slow_videos_are_waited_for(videos, monkeypatch):
    monkeypatch.setattr("hiera_video.streams.clip_loader._POLL_SEC", 0.1)

    def open_slowly(path):
        time.sleep(0.5)
        return open_video(path)

    chunks = list(make_loader([str(videos / "a.mp4")], open_slowly, num_workers=1, timeout_sec=60))
    assert all(isinstance(chunk, Chunk) for chunk in chunks) and [chunk.attempt for chunk in chunks] == [0] * 7


def test_a_process_that_dies_after_its_video_fails_none(videos, monkeypatch):
    monkeypatch.setattr("hiera_video.streams.clip_loader._POLL_SEC", 0.2)
    paths = [str(videos / "sub/d.mp4"), str(videos / "a.mp4")]
    loader = make_loader(paths, open_video, num_workers=1, chunks_ahead=1)
    ends = []
    for item in loader:
        if item.is_last:
            ends.append((item.index, get_reason(item)))
        if len(ends) == 1 and item.is_last:
            while not loader._is_started[1]:
                time.sleep(0.01)
            loader._board.positions.fill_(0)  # as if it were at the first one still, which has been delivered
            for process in multiprocessing.active_children():
                process.kill()
    assert ends == [(0, None), (1, None)]


def test_a_process_that_somebody_ends_fails_no_video(videos, tmp_path, monkeypatch):
    monkeypatch.setattr("hiera_video.streams.clip_loader._POLL_SEC", 0.2)

    def end_once(path):
        if path.endswith("b.mp4") and not (tmp_path / "mark").exists():
            (tmp_path / "mark").touch()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1000)
        return open_video(path)

    items = list(make_loader([str(videos / "b.mp4"), str(videos / "a.mp4")], end_once, num_workers=1, timeout_sec=60))
    assert {item.index: get_reason(item) for item in items if item.is_last} == {0: None, 1: None}
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("names", [["a", "b", "sub/c"], ["sub/d", "a", "sub/c"]])
def test_a_video_that_brings_a_decoding_process_down_fails_alone(videos, names):
    paths = [str(videos / f"{name}.mp4") for name in names]
    items = list(make_loader(paths, sabotage, num_workers=2, timeout_sec=4))
    ends = {item.index: get_reason(item) for item in items if item.is_last}
    assert ends.keys() == {0, 1, 2}
    failed = [reason for reason in ends.values() if reason]
    assert len(failed) == 1 and ("SIGSEGV" in failed[0] or "nothing for 4 s" in failed[0])
    for index, path in enumerate(paths):
        if ends[index] is None:
            last = max(item.attempt for item in items if item.index == index)
            clips = [item.first_clip for item in items if (item.index, item.attempt) == (index, last)]
            assert clips == list(range(max(-(-(LENGTHS[names[index]] - 16) // 8), 0) + 1)), path


def test_chunks_of_one_process_and_of_this_one_are_the_same(videos):
    paths = [str(videos / f"{name}.mp4") for name in LENGTHS]
    here, there = (list(make_loader(paths, open_video, num_workers=count)) for count in (0, 1))
    assert [(chunk.index, chunk.first_clip) for chunk in here] == [(chunk.index, chunk.first_clip) for chunk in there]
    assert all(np.array_equal(one.views, other.views) for one, other in zip(here, there, strict=True))
