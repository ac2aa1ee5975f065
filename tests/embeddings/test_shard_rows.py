"""Rows of shards that are read where they lie, against the whole table."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from vector_factory import draw, draw_folder

from hiera_video.embeddings import store
from hiera_video.embeddings.shard_rows import ShardRows
from hiera_video.embeddings.store import ShardWriter, VideoInfo, list_shards, write_side_car


@pytest.fixture(params=["small groups", "one group"])
def folder(request, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_GROUP_ROWS", 7 if request.param == "small groups" else 1000)
    return draw_folder(tmp_path, draw(100), num_shards=3)


def read_plainly(folder):
    return pa.concat_tables(pq.read_table(shard).replace_schema_metadata(None) for shard in list_shards(folder))


def test_all_rows_in_blocks(folder):
    rows, vectors = ShardRows(folder), draw(100)
    starts, blocks = zip(*rows.iterate_vectors(10), strict=True)
    assert len(rows) == 100 and rows.dim == 16 and torch.equal(torch.cat(blocks), vectors)
    assert max(map(len, blocks)) <= 10 and list(starts) == np.cumsum([0, *map(len, blocks[:-1])]).tolist()
    (start, *_), later = zip(*rows.iterate_vectors(1000, first_shard=2), strict=True)
    assert start == rows.starts[2] and torch.equal(torch.cat(later), vectors[start:])


@pytest.mark.parametrize("wanted", [[0], [99, 0, 50, 33, 34, 50], list(range(99, -1, -1)), []])
def test_some_rows_in_any_order(folder, wanted):
    rows = ShardRows(folder)
    assert torch.equal(rows.read_vectors(np.array(wanted, int)), draw(100)[wanted])
    expected = read_plainly(folder).drop_columns(["embedding"]).take(pa.array(wanted, pa.int64()))
    assert rows.read_table(np.array(wanted, int)).to_pylist() == expected.to_pylist()


def test_only_the_groups_that_hold_wanted_rows_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_GROUP_ROWS", 7)
    rows = ShardRows(draw_folder(tmp_path, draw(100), num_shards=3))
    read, read_group = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, g, **o: read.append(g) or read_group(self, g, **o)
    )
    rows.read_vectors(np.array([40, 8, 9, 41]))
    assert read == [1, 0, 1], "rows 8 and 9 share a group, and 40 and 41 lie in two of the second shard's"


def test_the_rows_of_a_video(folder):
    rows, paths = ShardRows(folder), np.array(read_plainly(folder)["path"].to_pylist())
    for name in (paths[0], paths[50], paths[99]):
        expected = np.flatnonzero(paths == name).tolist()
        assert rows.find_rows([name]).tolist() == expected
        assert rows.find_rows([name.removesuffix(".mp4")], "video_id").tolist() == expected
    assert rows.find_rows(["x.mp4"]).tolist() == rows.find_rows([]).tolist() == []
    assert set(rows.iterate_paths()) == set(paths) and rows.count_videos() == len(set(paths))


def test_videos_that_no_shard_completes_are_named(tmp_path):
    folder = draw_folder(tmp_path, draw(8), num_shards=1)
    span = np.zeros((1, 2))
    for name, is_whole in (("spilled.mp4", True), ("cut.mp4", False)):
        writer = ShardWriter(folder, dim=16, rank=5)
        for view in range(2):
            writer.add(VideoInfo(name, name), first_view=view, spans_sec=span, embeddings=draw(1).numpy())
            writer.flush(with_open=True)
        if is_whole:
            writer.complete(name)
            writer.flush()
    assert ShardRows(folder).find_incomplete() == {"cut.mp4"}


def test_half_precision_becomes_single(tmp_path):
    (tmp_path / "embeddings").mkdir()
    writer = ShardWriter(tmp_path, dim=16, dtype="float16")
    writer.add(VideoInfo("a", "a"), first_view=0, spans_sec=np.zeros((3, 2)), embeddings=draw(3).numpy())
    writer.complete("a")
    writer.flush()
    write_side_car(tmp_path, {"settings": {}, "shape": [16]})
    assert torch.equal(ShardRows(tmp_path).read_vectors(np.arange(3)), draw(3).half().float())


def test_folders_that_cannot_be_searched_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no embeddings"):
        ShardRows(tmp_path)
    folder = draw_folder(tmp_path, draw(3), num_shards=1)
    write_side_car(folder, {"settings": {}, "shape": [4, 2, 2]})
    with pytest.raises(ValueError, match=r"maps of shape \(4, 2, 2\)"):
        ShardRows(folder)
    (folder / store.SIDE_CAR).unlink()
    with pytest.raises(ValueError, match="no side-car"):
        ShardRows(folder)
