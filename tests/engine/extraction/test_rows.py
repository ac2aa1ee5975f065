"""Rows of videos that come in pieces, interleaved, and start over: the files hold each video once, and no void row."""

from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import hiera_video as hv
from hiera_video.embeddings.store import ShardWriter, VideoInfo, list_shards, prepare_folder, write_side_car
from hiera_video.engine.extraction.averaging import Averager
from hiera_video.engine.extraction.batching import ChunkFeatures
from hiera_video.engine.extraction.rows import VideoRows
from hiera_video.streams.chunk import Failure


@pytest.fixture
def make_rows(tmp_path):
    prepare_folder(tmp_path)
    write_side_car(tmp_path, {"settings": {}, "shape": [3]})

    def make(average="none", *, shard_bytes=1):
        writer = ShardWriter(tmp_path, dim=3, shard_bytes=shard_bytes)
        videos = [VideoInfo(f"{name}.mp4", name) for name in "abc"]
        return VideoRows(writer, videos, make_averager=partial(Averager, average, num_crops=1))

    return make


def make_chunk(index, attempt, first_clip, *, is_last=False):
    spans_sec = np.array([[first_clip, first_clip + 1.0]])
    return ChunkFeatures(index, attempt, spans_sec, is_last, torch.full((1, 3), 1000.0 * attempt + first_clip))


def test_no_row_of_a_void_attempt_stays(make_rows, tmp_path):
    rows = make_rows()  # each row goes to a shard at once
    for item in (
        make_chunk(0, 0, 0),
        make_chunk(0, 1000, 0),
        make_chunk(1, 0, 0),
        make_chunk(0, 1000, 1),
        make_chunk(1, 1, 0),
        make_chunk(1, 1, 1, is_last=True),
        make_chunk(2, 1000, 0),
        make_chunk(2, 0, 7),  # late
        make_chunk(2, 1000, 1, is_last=True),
        Failure(0, 1000, "damaged"),
    ):
        rows.add(item)
    rows.finish()
    assert rows.failures == {"a.mp4": "damaged"} and (rows.num_done, rows.num_rows, rows.num_ended) == (2, 4, 3)
    found = hv.read_embeddings(tmp_path)
    assert found.table["path"].tolist() == ["b.mp4"] * 2 + ["c.mp4"] * 2
    assert found.table["view"].tolist() == [0, 1] * 2 and found.table["start_sec"].tolist() == [0, 1] * 2
    assert found.vectors[:, 0].tolist() == [1000, 1001, 1000000, 1000001]
    assert not any((pq.read_table(shard)["path"].to_numpy() == "a.mp4").any() for shard in list_shards(tmp_path))


def test_a_mean_that_starts_over_forgets_what_it_had(make_rows, tmp_path):
    rows = make_rows("video", shard_bytes=2**20)
    for item in (make_chunk(0, 0, 5), make_chunk(0, 1, 1), make_chunk(0, 0, 9), make_chunk(0, 1, 2, is_last=True)):
        rows.add(item)
    rows.finish()
    found = hv.read_embeddings(tmp_path)
    assert found.vectors.tolist() == [[1001.5] * 3]
    assert found.table[["start_sec", "end_sec"]].to_numpy().tolist() == [[1, 3]]


def test_a_video_that_did_not_end_has_no_rows(make_rows, tmp_path):
    rows = make_rows(shard_bytes=2**20)
    rows.add(make_chunk(0, 0, 0))
    rows.add(make_chunk(1, 0, 0, is_last=True))
    rows.finish()
    assert hv.read_embeddings(tmp_path).table["path"].tolist() == ["b.mp4"] and rows.num_ended == 1
