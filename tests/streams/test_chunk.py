"""A higher attempt makes earlier chunks void: the rule, and what processes hand to each other."""

import multiprocessing

import numpy as np
import pytest
import torch

from hiera_video.streams.chunk import Chunk, Failure, OpenVideos


def make_chunk(index=0, attempt=0, *, is_last=False):
    views = torch.arange(24, dtype=torch.uint8).view(1, 3, 2, 2, 2)
    return Chunk(index, attempt, 4, 0, views, np.array([[0.0, 1.0]]), is_last, (1.0, 2.0))


def test_chunks_of_an_attempt_belong_together():
    videos = OpenVideos(lambda index: [index])
    state = videos.find(5, 0)
    assert state == [5] and videos.find(5, 0) is state and videos.find(6, 0) == [6]


def test_a_higher_attempt_starts_over():
    videos = OpenVideos(lambda index: [])
    videos.find(5, 1).append("void")
    other = videos.find(6, 1)
    assert videos.find(5, 3) == [] and videos.find(6, 1) is other


def test_a_lower_attempt_is_void():
    videos = OpenVideos(lambda index: [])
    state = videos.find(5, 3)
    assert videos.find(5, 2) is None and videos.find(5, 3) is state


def test_a_video_that_has_ended_is_forgotten():
    videos = OpenVideos(lambda index: [])
    state = videos.find(5, 3)
    videos.close(5)
    videos.close(8)  # a failure may come before any chunk
    assert videos.find(5, 0) is not state


def test_following_chunks_leaves_the_void_ones_out():
    videos = OpenVideos(lambda index: [])
    attempts = [0, 0, 1, 0, 1]
    followed = [(state, chunk.attempt) for state, chunk in videos.follow(make_chunk(attempt=k) for k in attempts)]
    assert [attempt for _, attempt in followed] == [0, 0, 1, 1]
    assert followed[0][0] is followed[1][0] is not followed[2][0] is followed[3][0]


def send(queue, is_done):
    for item in (make_chunk(7, 2, is_last=True), Failure(3, 0, "damaged", (1.0, 2.0))):
        queue.put(item)
    is_done.wait(60)


def test_chunks_cross_processes_in_shared_memory():
    context = torch.multiprocessing.get_context("fork")
    queue, is_done = context.Queue(), multiprocessing.Event()
    process = context.Process(target=send, args=(queue, is_done))
    process.start()
    chunk, failure = queue.get(timeout=60), queue.get(timeout=60)
    is_done.set()
    process.join(timeout=120)
    expected = make_chunk(7, 2, is_last=True)
    assert chunk.views.is_shared() and torch.equal(chunk.views, expected.views)
    assert np.array_equal(chunk.spans_sec, expected.spans_sec) and (chunk.index, chunk.attempt) == (7, 2)
    assert failure == Failure(3, 0, "damaged", (1.0, 2.0)) and failure.is_last


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_chunk_goes_to_pinned_memory():
    chunk = make_chunk(7, 2)
    pinned = chunk.pin_memory()
    assert pinned.views.is_pinned() and torch.equal(pinned.views, chunk.views)
    assert (pinned.index, pinned.attempt, pinned.spans_sec) == (7, 2, chunk.spans_sec)
