"""What lies in a folder of embeddings, after whatever happened to the process that wrote it."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from hiera_video.embeddings.per_video import write_npy_files, write_safetensors_files
from hiera_video.embeddings.reading import read_embeddings
from hiera_video.embeddings.store import (
    ShardWriter,
    VideoInfo,
    check_settings,
    find_complete,
    list_shards,
    prepare_folder,
    read_ids,
    write_failures,
    write_side_car,
)


@pytest.fixture
def folder(tmp_path):
    write_side_car(tmp_path, {"settings": {"stride": 1.0}, "shape": [3]})
    prepare_folder(tmp_path)
    return tmp_path


def add(writer, name, numbers, *, first_view=0, label=None):
    """Rows of a video whose embeddings are the numbers, three times each."""
    values = np.repeat(np.array(numbers, dtype=np.float32)[:, None], 3, axis=1)
    spans_sec = np.stack([np.arange(len(numbers)), np.arange(len(numbers)) + 1], axis=1).astype(float)
    info = VideoInfo(f"videos/{name}.mp4", name, label)
    writer.add(info, first_view=first_view, spans_sec=spans_sec + first_view, embeddings=values)
    return info.path


def test_rows_come_back_as_they_were(folder):
    writer = ShardWriter(folder, dim=3)
    for name, numbers, label in (("b", [1, 2], 4), ("a", [3], None)):
        writer.complete(add(writer, name, numbers, label=label))
    writer.flush()
    found = read_embeddings(folder)
    assert found.table["path"].tolist() == ["videos/a.mp4", "videos/b.mp4", "videos/b.mp4"]
    assert found.table["label"].isna().tolist() == [True, False, False] and found.table["label"][1] == 4
    assert found.table["view"].tolist() == [0, 0, 1] and found.table["end_sec"].tolist() == [1.0, 1.0, 2.0]
    assert found.vectors.tolist() == [[3.0] * 3, [1.0] * 3, [2.0] * 3]
    assert found.info["settings"] == {"stride": 1.0}
    frame = pd.read_parquet(folder / "embeddings")
    assert frame["embedding"].iloc[0].tolist() == [1.0] * 3 and frame["video_id"].tolist() == ["b", "b", "a"]


def test_half_precision_and_unknown_times(folder):
    writer = ShardWriter(folder, dim=3, dtype="float16")
    writer.add(VideoInfo("a", "a"), first_view=0, spans_sec=np.full((1, 2), np.nan), embeddings=np.full((1, 3), 0.1))
    writer.complete("a")
    writer.flush()
    assert pq.read_schema(list_shards(folder)[0]).field("embedding").type.value_type == "halffloat"
    found = read_embeddings(folder)
    assert found.vectors.dtype == torch.float32 and found.vectors[0, 0] == np.float16(0.1)
    assert np.isnan(found.table["start_sec"][0])


def test_means_are_by_video(folder):
    writer = ShardWriter(folder, dim=3)
    for name, numbers in (("a", [1, 2, 6]), ("b", [5])):
        writer.complete(add(writer, name, numbers, label=1))
    writer.flush()
    mean = read_embeddings(folder).mean_by_video()
    assert mean.vectors[:, 0].tolist() == [3.0, 5.0] and mean.table["end_sec"].tolist() == [3.0, 1.0]
    taken = read_embeddings(folder).take([3, 0])
    assert taken.table["video_id"].tolist() == ["b", "a"] and taken.vectors[:, 0].tolist() == [5.0, 1.0]
    assert list(taken.to_pandas()["embedding"].iloc[0]) == [5.0] * 3


def test_a_video_that_was_not_completed_is_not_there_and_its_rows_get_removed(folder):
    writer = ShardWriter(folder, dim=3, shard_bytes=1)  # every row goes to disk at once
    writer.complete(add(writer, "a", [1]))
    add(writer, "b", [2, 3])
    assert len(pq.read_table(folder / "embeddings")) == 3  # what another reader would see at this moment
    assert read_embeddings(folder).table["video_id"].tolist() == ["a"]
    (folder / "embeddings" / "shard-00000-000009.parquet.partial").write_bytes(b"half a file")
    assert prepare_folder(folder) == {"videos/a.mp4"}  # the process was killed; a new one begins
    assert len(pq.read_table(folder / "embeddings")) == 1 and not list(folder.rglob("*.partial"))
    writer = ShardWriter(folder, dim=3)
    writer.complete(add(writer, "b", [2, 3]))
    writer.flush()
    assert read_embeddings(folder).table["video_id"].tolist() == ["a", "b", "b"]


def test_a_long_video_is_spread_over_shards_and_can_be_discarded(folder):
    writer = ShardWriter(folder, dim=3, shard_bytes=100)
    path = ""
    for part in range(5):
        path = add(writer, "long", range(10 * part, 10 * part + 10), first_view=10 * part)
    assert len(list_shards(folder)) == 5 and find_complete(list_shards(folder)) == set()
    writer.discard(path)
    assert list_shards(folder) == []
    add(writer, "long", range(30))
    writer.complete(path)
    writer.flush()
    assert read_embeddings(folder).vectors[:, 0].tolist() == list(range(30))


def test_processes_write_beside_each_other_and_after_each_other(folder):
    for rank in (0, 1, 0):
        writer = ShardWriter(folder, dim=3, rank=rank)
        writer.complete(add(writer, f"v{len(list_shards(folder))}", [1]))
        writer.flush()
        writer.flush()  # nothing new
    names = [path.name for path in list_shards(folder)]
    assert names == ["shard-00000-000000.parquet", "shard-00000-000001.parquet", "shard-00001-000000.parquet"]
    assert read_embeddings(folder).table["video_id"].tolist() == ["v0", "v1", "v2"]


def test_shards_are_written_when_they_are_large_or_old(folder):
    writer = ShardWriter(folder, dim=3, shard_bytes=20)  # a row has 12 bytes
    counts = []
    for name in "abcd":
        writer.complete(add(writer, name, [1]))
        counts.append(len(list_shards(folder)))
    assert counts == [0, 1, 1, 2] and len(read_embeddings(folder)) == 4
    writer = ShardWriter(folder, dim=3, flush_sec=-1.0)
    writer.complete(add(writer, "e", [1]))
    assert len(list_shards(folder)) == 3


def test_a_video_without_clips_counts_as_done(folder):
    writer = ShardWriter(folder, dim=3)
    writer.complete("videos/empty.mp4")
    writer.flush()
    assert prepare_folder(folder) == {"videos/empty.mp4"} and len(read_embeddings(folder)) == 0


def test_other_settings_are_refused_by_name(folder):
    check_settings(folder, {"stride": 1.0})
    with pytest.raises(ValueError, match=r"stride: 1.0 there, 2.0 now; window: None there, 3 now"):
        check_settings(folder, {"stride": 2.0, "window": 3})


def test_embeddings_without_a_side_car_are_refused(folder):
    writer = ShardWriter(folder, dim=3)
    writer.complete(add(writer, "a", [1]))
    writer.flush()
    (folder / "extraction.json").write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        check_settings(folder, {})
    (folder / "extraction.json").unlink()
    for check in (lambda: check_settings(folder, {}), lambda: read_embeddings(folder)):
        with pytest.raises(ValueError, match="side-car|extraction.json"):
            check()
    with pytest.raises(FileNotFoundError, match="holds no embeddings"):
        read_embeddings(folder / "nowhere")


def test_failures_are_a_table(folder):
    write_failures(folder, {"b.mp4": "damaged", "a.mp4": "missing"})
    assert pd.read_parquet(folder / "failures.parquet").to_dict("list") == {
        "path": ["a.mp4", "b.mp4"],
        "reason": ["missing", "damaged"],
    }
    writer = ShardWriter(folder, dim=3)
    writer.complete("a.mp4")
    writer.flush()
    write_failures(folder, {"b.mp4": "gone", "c.mp4": "empty"})  # an extraction of other videos
    assert pd.read_parquet(folder / "failures.parquet").to_dict("list") == {
        "path": ["b.mp4", "c.mp4"],
        "reason": ["gone", "empty"],
    }


def test_a_row_of_an_unfinished_shard_list_is_not_taken_for_a_whole_video(folder, monkeypatch):
    writer = ShardWriter(folder, dim=3, shard_bytes=1)
    path = add(writer, "a", [1, 2])
    listed = list_shards(folder)
    add(writer, "a", [3], first_view=2)
    writer.complete(path)
    writer.flush()
    monkeypatch.setattr("hiera_video.embeddings.store.list_shards", lambda folder: listed.copy())
    first = find_complete(listed)
    assert first == set() and len(read_embeddings(folder)) == 0  # listed before its last shard was written


def test_names_in_use_are_known(folder):
    writer = ShardWriter(folder, dim=3, shard_bytes=1)
    for name in ("a", "b"):
        writer.complete(add(writer, name, [1, 2]))
    assert read_ids(folder) == {"a": "videos/a.mp4", "b": "videos/b.mp4"}


def test_files_for_each_video_hold_its_rows_in_order(folder):
    from safetensors.numpy import load_file

    write_side_car(folder, {"settings": {}, "shape": [1, 3]})
    writer = ShardWriter(folder, dim=3, shard_bytes=100)
    for part in range(3):
        add(writer, "x/long", [part * 2, part * 2 + 1], first_view=2 * part)
    writer.complete("videos/x/long.mp4")
    writer.complete(add(writer, "short", [9]))
    add(writer, "unfinished", [7, 7, 7, 7, 7])
    writer.flush()
    write_npy_files(folder)
    write_safetensors_files(folder)
    values = np.load(folder / "npy" / "x" / "long.npy")
    assert values.shape == (6, 1, 3) and values[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    stored = load_file(folder / "safetensors" / "short.safetensors")
    assert stored["embeddings"].tolist() == [[[9.0] * 3]] and stored["spans_sec"].tolist() == [[0.0, 1.0]]
    assert sorted(path.stem for path in (folder / "npy").rglob("*.npy")) == ["long", "short"]
    (folder / "npy" / "short.npy").write_bytes(b"done before")
    write_npy_files(folder)
    assert (folder / "npy" / "short.npy").read_bytes() == b"done before"
