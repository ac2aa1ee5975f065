"""Names of lists lead to files, whatever their endings."""

import fsspec
import pytest

from hiera_video.data.video_folder import VideoFolder, is_there


def test_endings_are_found(tmp_path):
    for name in ("a.mp4", "b.mkv", "c.d.webm", "a.txt", "clip.avi"):
        (tmp_path / name).touch()
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "a.mov").touch()
    folder = VideoFolder(str(tmp_path))
    for name, file in {
        "a": "a.mp4",
        "b": "b.mkv",
        "c.d": "c.d.webm",
        "clip.avi": "clip.avi",
        "frames": "frames",
    }.items():
        assert folder.find(name) == str(tmp_path / file) and is_there(folder.find(name))
    assert folder.find("gone") == str(tmp_path / "gone") and not is_there(folder.find("gone"))
    assert folder.find("/elsewhere/x.mp4") == "/elsewhere/x.mp4"
    assert folder.find("s3://bucket/x.mp4") == "s3://bucket/x.mp4"


def test_two_files_of_a_name(tmp_path):
    for name in ("a.mp4", "a.mkv"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"holds both a.mkv and a.mp4"):
        VideoFolder(str(tmp_path)).find("a")
    assert VideoFolder(str(tmp_path)).find("a.mp4") == str(tmp_path / "a.mp4")


def test_a_folder_at_a_url_is_listed():
    files = fsspec.filesystem("memory")
    files.pipe("/ava_folder/x.mkv", b"1")
    assert VideoFolder("memory://ava_folder").find("x") == "memory://ava_folder/x.mkv"


def test_a_list_of_names_spares_the_listing():
    folder = VideoFolder("https://nowhere.invalid/ava", file_names=["x.mkv", "y.webm"])
    assert folder.find("y") == "https://nowhere.invalid/ava/y.webm"


def test_a_url_that_cannot_be_listed():
    with pytest.raises(ValueError, match=r"nowhere://x cannot be listed .*ava_file_names_trainval_v2.1.txt"):
        VideoFolder("nowhere://x").find("a")
