"""Where a page finds the clips that a cell lists."""

import os

import numpy as np

from hiera_video.report.clip_table import make_clip_data
from hiera_video.report.scored_clips import ScoredClips


def make_data(paths, page_dir):
    labels = np.zeros(len(paths), np.int64)
    probs = np.full((len(paths), 2), [0.75, 0.25], np.float32)
    probs[-1] = np.nan
    return make_clip_data(ScoredClips(paths, labels, labels, probs, ["a", "b"]), page_dir)


def test_local_paths_are_relative_to_their_common_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = make_data(["videos/a/1.mp4", f"{tmp_path}/videos/b/2 #.mp4", "https://host/c/3.mp4"], tmp_path / "pages")
    assert data["folder"] == f"{tmp_path}/videos/" and data["url"] == "../videos/"
    assert data["paths"] == ["a/1.mp4", "b/2 #.mp4", "https://host/c/3.mp4"]
    assert data["confidences"] == [75.0, 75.0, None] and data["closed"] == [] and data["names"] == ["a", "b"]


def test_one_folder_beside_the_page(tmp_path):
    data = make_data([f"{tmp_path}/1.mp4", f"{tmp_path}/2.mp4"], tmp_path)
    assert data["paths"] == ["1.mp4", "2.mp4"] and data["url"] == "./"


def test_remote_videos_alone_have_no_folder(tmp_path):
    data = make_data(["s3://bucket/a.mp4", "https://host/b.mp4"], tmp_path)
    assert data["paths"] == ["s3://bucket/a.mp4", "https://host/b.mp4"] and data["folder"] == data["url"] == ""


def test_members_of_tar_files_and_pictures_are_not_opened(tmp_path):
    paths = [f"{tmp_path}/a.tar#1.mp4", f"{tmp_path}/2.mp4", os.path.join(tmp_path, "frames", "%03d.jpg#0-9")]
    assert make_data(paths, tmp_path)["closed"] == [0, 2]
