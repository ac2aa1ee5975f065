"""`hiera-video prepare` prints what it forecast and what it did, and says what is legal where it is asked wrongly."""

import importlib.util

import pytest
from video_factory import write_video

from hiera_video.cli import prepare as tool
from hiera_video.video import VideoReader


def test_what_is_printed(tmp_path, capsys):
    for split, name in (("train", "a"), ("train", "b"), ("val", "a")):
        path = tmp_path / "data" / split / "kind" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, num_frames=20, width=192, height=128)
    pairs = ["DATA.FORMAT", "folders", "DATA.PATH_TO_DATA_DIR", str(tmp_path / "data"), "DATA.NUM_FRAMES", "4"]
    words = ["--output-dir", str(tmp_path / "out"), "--short-side", "64", "--key-frames", "5", "--workers", "1"]
    assert tool.main([*pairs, *words, "--splits", "train", "--forecast-sec", "0.01", "--range-sec", "0", "0.4"]) == 0
    shown = capsys.readouterr()
    assert "forecast from 1 of 2 videos to prepare" in shown.err and "clips/s per core then" in shown.err
    assert f"{tmp_path}/out: 2 of 2 videos are prepared, 2 of them by this start" in shown.out
    assert "PSNR" in shown.out and "20, each where it was" in shown.out and "DATA.MANIFEST" in shown.out
    with VideoReader(tmp_path / "out" / "train" / "kind" / "b.mp4") as reader:
        assert (len(reader), reader.height, [key.position for key in reader.index.keys]) == (10, 64, [0, 5])
    assert not (tmp_path / "out" / "val").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--crf", "52"], "--crf is 52; legal are 0 to 51"),
        (["--short-side", "8"], "--short-side is 8; legal are 64 to 8192"),
        (["--range-sec", "3", "2"], "--range-sec is 3 2; legal is 0 <= FIRST < END"),
        (["DATA.PATH_TO_DATA_DIR", "/no/such"], "/no/such: there is no such folder"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, words, message):
    assert tool.main(["DATA.PATH_TO_DATA_DIR", str(tmp_path), "--output-dir", str(tmp_path / "out"), *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_ray_the_message_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert tool.main(["--ray"]) == 1
    assert capsys.readouterr().err == "error: --ray needs the package ray: pip install 'hiera_video[ray]'\n"
