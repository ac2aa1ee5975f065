import numpy as np
import pandas as pd
import pytest

from hiera_video.data.collect import collect_paths, collect_videos


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
    found = collect_videos(f"{folder}/b/*")
    assert found.make_ids() == ["1", "2.MKV", "2.avi"]
    assert collect_videos(f"{folder}/**/1.mp4").make_ids() == ["a/1", "b/1"]


def test_a_list_may_have_labels_and_repeats_count_once(folder, tmp_path):
    list_file = tmp_path / "list.csv"
    list_file.write_text("a/1.mp4 3\nb/1.mp4\na/1.mp4 3\n")
    found = collect_videos(str(list_file), path_prefix=str(folder))
    assert found.labels.tolist() == [3, -1] and found.make_ids() == ["a/1", "b/1"]


def test_a_manifest_is_a_list_too(folder, tmp_path):
    paths = [f"{folder}/a/1.mp4", f"{folder}/b/1.mp4"]
    pd.DataFrame({"path": paths, "label": [1, 0]}).to_parquet(tmp_path / "manifest.parquet")
    found = collect_videos(str(tmp_path / "manifest.parquet"))
    assert found.paths.tolist() == paths and found.labels.tolist() == [1, 0] and found.make_ids() == ["a/1", "b/1"]
    pd.DataFrame({"file": paths}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="no column 'path'; it has file"):
        collect_videos(str(tmp_path / "other.parquet"))


def test_several_sources_are_joined(folder):
    found = collect_paths([folder / "c", folder / "a" / "1.mp4", folder / "c" / "7.webm"])
    assert found.make_ids() == ["c/7", "a/1"]
    assert collect_paths(str(folder / "a" / "1.mp4")).make_ids() == ["1"]


def test_names_never_leave_a_folder():
    found = collect_paths(["https://host/x/../a.mp4", "s3://bucket/b.mp4"])
    assert found.make_ids() == ["host/x/a", "bucket/b"]
    assert isinstance(found.paths, np.ndarray)


@pytest.mark.parametrize("source", ["nowhere", "nowhere/*.mp4", "nowhere.csv"])
def test_what_is_not_there_is_named(source, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        collect_videos(str(tmp_path / source))
    with pytest.raises(FileNotFoundError, match="no videos are named"):
        collect_paths([])
