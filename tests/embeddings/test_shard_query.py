"""Queries among shards against the same queries among rows in memory."""

import numpy as np
import pytest
import torch
from vector_factory import draw_clusters, draw_folder

from hiera_video.embeddings.disk_index import open_index
from hiera_video.embeddings.query import query_video, search
from hiera_video.embeddings.reading import read_vectors
from hiera_video.embeddings.shard_query import query_shard_row, query_shard_video, search_shards
from hiera_video.embeddings.store import ShardWriter, VideoInfo

pytest.importorskip("faiss")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("rows"), draw_clusters(640), num_shards=4)


@pytest.fixture(scope="module")
def index(folder):
    return open_index(folder, memory_bytes=2**30)


def list_found(hits, table):
    return list(zip(table["path"], table["view"], hits.scores[0].tolist(), strict=True))


@pytest.mark.parametrize("name", ["clip-0.mp4", "clip-300", "clip-596.mp4"])
@pytest.mark.parametrize("options", [{}, {"exclude_same_video": True}, {"group_by_video": True}])
def test_results_are_those_of_exact_search(folder, index, name, options):
    """The few lists of this little index are all looked into."""
    embeddings = read_vectors(folder)
    expected, _ = search(embeddings, query_video(embeddings, name), top_k=12, index="exact", **options)
    query = query_shard_video(index.rows, name)
    hits, table, method = search_shards(index, query, top_k=12, **options)
    table_there = embeddings.table.iloc[expected.rows[0].numpy()]
    assert list_found(hits, table) == list_found(expected, table_there)
    assert hits.rows[0].tolist() == table.index.tolist() and method["index"] == "ivf, float16 codes"
    assert method["recall"] > 0.9 and method["recall_queries"] == 100


def test_a_time_range_and_a_row_are_the_same_rows(index):
    query = query_shard_video(index.rows, "clip-300", start_sec=1, end_sec=3)
    assert query.rows.tolist() == [301, 302] and (query.start_sec, query.end_sec) == (1, 3)
    rows = index.rows.read_vectors(np.array([301, 302]))
    torch.testing.assert_close(query.vector, rows.mean(dim=0))
    one = query_shard_row(index.rows, 301)
    assert torch.equal(one.vector, rows[0]) and one.path == "clip-300.mp4" and one.rows.tolist() == [301]


def test_more_is_asked_for_until_enough_is_left(index):
    hits, table, _ = search_shards(index, query_shard_row(index.rows, 3), top_k=120, group_by_video=True)
    assert hits.rows.shape == (1, 120) and table["path"].is_unique


def test_what_is_not_there_is_named(index):
    with pytest.raises(ValueError, match="there is no row 640; legal values: 0 to 639"):
        query_shard_row(index.rows, 640)
    with pytest.raises(ValueError, match=r"'/x/clip-30.mp' is none of the 160 videos there; similar: 'clip-"):
        query_shard_video(index.rows, "/x/clip-30.mp")


def test_rows_of_videos_that_were_not_completed_are_not_found(tmp_path):
    vectors = draw_clusters(40)
    folder = draw_folder(tmp_path, vectors, num_shards=1)
    writer = ShardWriter(folder, dim=32, rank=9)
    writer.add(VideoInfo("cut.mp4", "cut"), first_view=0, spans_sec=np.zeros((1, 2)), embeddings=vectors[:1].numpy())
    writer.flush(with_open=True)
    index = open_index(folder, memory_bytes=2**30)
    _, table, _ = search_shards(index, query_shard_row(index.rows, 0), top_k=50)
    assert len(index.rows) == 41 and len(table) == 39 and "cut.mp4" not in set(table["path"])
