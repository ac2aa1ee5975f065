import os

import numpy as np
import pandas as pd
import pytest
from tar_factory import write_tar

from hiera_video.config import load_config
from hiera_video.streams.collect import Collection, build_collection, collect_paths, collect_videos


@pytest.fixture
def folder(tmp_path):
    for name in ("a/1.mp4", "b/1.mp4", "b/2.MKV", "b/2.avi", "notes.txt", "c/7.webm"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "videos"


def test_a_folder_is_searched_to_its_depths(folder):
    found = collect_videos(str(folder))
    assert [path[len(str(folder)) + 1 :] for path in found.paths] == [
        "a/1.mp4",
        "b/1.mp4",
        "b/2.MKV",
        "b/2.avi",
        "c/7.webm",
    ]
    assert found.make_ids() == ["a/1", "b/1", "b/2.MKV", "b/2.avi", "c/7"]
    assert (found.labels == -1).all()


def test_a_glob_names_videos_alone(folder):
    (folder / "b" / "poster.jpg").write_bytes(b"x")
    found = collect_videos(f"{folder}/b/*")
    assert found.make_ids() == ["1", "2.MKV", "2.avi"]
    assert collect_videos(f"{folder}/**/1.mp4").make_ids() == ["a/1", "b/1"]
    assert collect_videos(f"{folder.parent}/**/7.webm").make_ids() == ["videos/c/7"]


def test_a_list_may_have_labels_and_repeats_count_once(folder, tmp_path):
    list_file = tmp_path / "list.csv"
    list_file.write_text("a/1.mp4 3\nb/1.mp4\na/1.mp4 3\n")
    found = collect_videos(str(list_file), path_prefix=str(folder))
    assert found.labels.tolist() == [3, -1] and found.make_ids() == ["a/1", "b/1"]


def test_a_manifest_is_a_list_too(folder, tmp_path):
    paths = [f"{folder}/a/1.mp4", f"{folder}/b/1.mp4"]
    labels = pd.array([1, None], dtype="Int64")
    pd.DataFrame({"path": paths, "label": labels}).to_parquet(tmp_path / "manifest.parquet")
    found = collect_videos(str(tmp_path / "manifest.parquet"))
    assert found.paths.tolist() == paths and found.labels.tolist() == [1, -1] and found.make_ids() == ["a/1", "b/1"]
    pd.DataFrame({"file": paths}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="no column 'path'; it has file"):
        collect_videos(str(tmp_path / "other.parquet"))


def test_the_lists_of_a_data_set_are_told_apart(tmp_path):
    (tmp_path / "train.csv").write_text("b.mp4 1\na.mp4 0\n")
    (tmp_path / "val.csv").write_text("a.mp4 0\nc.mp4 2\n")  # a.mp4 is in both, and there is no test list
    words = ["EXTRACT.ENABLE", "True", "TRAIN.ENABLE", "False", "DATA.PATH_TO_DATA_DIR", str(tmp_path)]

    def build(split):
        return build_collection(load_config([], [*words, "EXTRACT.SPLIT", split]))

    found = build("all")
    assert found.make_ids() == ["b", "a", "c"] and found.labels.tolist() == [1, 0, 2]
    assert found.splits.tolist() == ["train", "train", "val"]
    assert build("val").make_ids() == ["a", "c"]
    with pytest.raises(FileNotFoundError, match="test"):
        build("test")


def test_several_sources_are_joined(folder):
    found = collect_paths([folder / "c", folder / "a" / "1.mp4", folder / "c" / "7.webm"])
    assert found.make_ids() == ["c/7", "a/1"]
    assert collect_paths(str(folder / "a" / "1.mp4")).make_ids() == ["1"]


def test_names_never_leave_a_folder():
    found = collect_paths(["https://host/x/../a.mp4", "s3://bucket/b.mp4"])
    assert found.make_ids() == ["host/x/a", "bucket/b"]
    assert isinstance(found.paths, np.ndarray)


def test_names_are_unique_and_stay_where_they_are_put():
    def name(paths, root="", taken=None):
        return Collection(np.array(paths), np.full(len(paths), -1), None, root).make_ids(taken)

    assert name(["../a.mp4", "a.mp4", "b.mp4"]) == ["a.mp4", "a.mp4-2", "b"]
    assert name(["a.mp4", "a.avi", "a.mp4.mkv"]) == ["a.mp4", "a.avi", "a.mp4.mkv"]
    assert name(["/data/videos/../../etc/x.mp4"], "/data/videos") == ["etc/x"]
    assert ".." not in name(["....//x.mp4"])[0].split("/")
    assert name(["c.mp4", "d.mp4"], taken={"c": "sub/c.mp4", "d": "d.mp4"}) == ["c.mp4", "d"]


def test_names_that_no_table_can_hold_are_refused_at_once(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"x")
    with pytest.raises(ValueError, match="not UTF-8"):
        collect_videos(str(tmp_path))


def test_unusual_names_are_names(tmp_path):
    names = ["a b.mp4", "line\nbreak.mp4", "ü 日本.mp4"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    assert [path.rsplit("/", 1)[1] for path in collect_videos(str(tmp_path)).paths] == sorted(names)


def test_a_series_of_pictures_is_a_video():
    assert collect_videos("frames/%03d.png#1-9").paths.tolist() == ["frames/%03d.png#1-9"]


@pytest.mark.parametrize("source", ["nowhere", "nowhere/*.mp4", "nowhere.csv"])
def test_what_is_not_there_is_named(source, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        collect_videos(str(tmp_path / source))
    with pytest.raises(FileNotFoundError, match="no videos are named"):
        collect_paths([])


def test_pictures_are_taken_where_there_are_no_videos(folder, tmp_path):
    (tmp_path / "pictures").mkdir()
    for name in ("b.PNG", "a.jpg", "notes.txt"):
        (tmp_path / "pictures" / name).touch()
    found = collect_videos(str(tmp_path / "pictures"))
    assert [path.rsplit("/", 1)[1] for path in found.paths] == ["a.jpg", "b.PNG"]
    (tmp_path / "pictures" / "clip.mp4").touch()
    assert len(collect_videos(str(tmp_path / "pictures")).paths) == 1, "beside videos, pictures are their thumbnails"


def test_tar_files_name_their_members(tmp_path):
    shards = [write_tar(tmp_path / f"{i}.tar", {f"{i}/b.mp4": b"1", f"{i}/b.cls": b"1"}) for i in range(2)]
    expected = [f"{shards[0]}#0/b.mp4", f"{shards[1]}#1/b.mp4"]
    assert collect_videos(str(shards[1])).paths.tolist() == expected[1:]
    assert collect_videos(f"{tmp_path}/*.tar").paths.tolist() == expected
    assert collect_videos(str(tmp_path)).paths.tolist() == expected
    assert collect_videos(expected[0]).paths.tolist() == expected[:1]
    (tmp_path / "single.mp4").write_bytes(b"x")
    assert collect_videos(str(tmp_path)).paths.tolist() == [str(tmp_path / "single.mp4")]
