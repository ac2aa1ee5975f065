"""One video: a file that is right, or a reason, and never a part of a file."""

import dataclasses

import av
import numpy as np
import pytest
from tar_factory import write_tar
from video_factory import cut_file, write_video

from hiera_video.inspection.inspect_video import inspect_video
from hiera_video.preparation import prepare_video as module
from hiera_video.preparation.prepare_video import Settings, Work, prepare_video
from hiera_video.video.reencode import Encoding

SETTINGS = Settings(Encoding(short_side_px=48, key_distance_frames=8, preset="veryfast"))


def test_what_is_known_of_the_new_file(tmp_path):
    source = write_video(tmp_path / "a.mp4", num_frames=20, width=192, height=128)
    found = prepare_video(Work(str(source), str(tmp_path / "new" / "a.mp4")), SETTINGS)
    scanned = inspect_video(str(tmp_path / "new" / "a.mp4"), full_decode=True)
    assert dataclasses.replace(found.record, mtime_sec=0) == dataclasses.replace(scanned, mtime_sec=0)
    assert found.record.status == "ok" and (found.record.width, found.record.height) == (72, 48)
    assert found.source_bytes == source.stat().st_size and found.cpu_sec > 0 and found.note == ""
    assert found.psnr_db > 25 and 0.9 < found.ssim < 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.mp4"]


def test_a_member_of_a_tar_file(tmp_path):
    source = write_video(tmp_path / "a.mp4", num_frames=20)
    shard = write_tar(tmp_path / "s.tar", {"b/a.mp4": source.read_bytes()})
    found = prepare_video(Work(f"{shard}#b/a.mp4", str(tmp_path / "new.mp4")), SETTINGS)
    assert found.record.status == "ok" and found.source_bytes == source.stat().st_size


def test_the_rate_is_that_of_the_source(tmp_path):
    """Matroska rounds times to milliseconds, so a scan of the new file finds 29.99 frames a second."""
    source = write_video(tmp_path / "a.mkv", num_frames=40, fps=30)
    found = prepare_video(Work(str(source), str(tmp_path / "b.mp4")), SETTINGS)
    assert found.record.index.fps == 30


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("none.mp4", "missing", "no such file"),
        ("empty.mp4", "empty", "the file is empty (0 bytes)"),
        ("page.mp4", "unreadable", "cannot be opened as a video: Invalid data found when processing input"),
        ("sound.mp4", "unreadable", "no video stream"),
    ],
)
def test_reasons(tmp_path, name, status, reason):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "page.mp4").write_text("<html>" * 100)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 6400), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux([*stream.encode(sound), *stream.encode()])
    found = prepare_video(Work(str(tmp_path / name), str(tmp_path / "new.mp4")), SETTINGS)
    assert (found.record.status, found.record.reason) == (status, reason)
    assert not (tmp_path / "new.mp4").exists() and not list(tmp_path.glob(".*"))


def test_a_cut_source_is_prepared_and_noted(tmp_path):
    whole = write_video(tmp_path / "a.mkv", num_frames=60)
    cut = cut_file(whole, tmp_path / "b.mkv", num_bytes=whole.stat().st_size // 2)
    found = prepare_video(Work(str(cut), str(tmp_path / "c.mp4")), SETTINGS)
    assert found.record.status == "ok" and 0 < found.record.index.num_frames < 60
    assert found.note.endswith("bytes too early")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_frames": 19}, "the new file has 20 frames instead of 19"),
        ({"ticks": tuple(range(20))}, "the frames of the new file have other times than those of the source"),
    ],
)
def test_a_new_file_that_is_wrong_does_not_count(tmp_path, monkeypatch, changes, reason):
    source = write_video(tmp_path / "a.mp4", num_frames=20)
    reencode = module.reencode
    monkeypatch.setattr(
        module, "reencode", lambda *args, **options: dataclasses.replace(reencode(*args, **options), **changes)
    )
    found = prepare_video(Work(str(source), str(tmp_path / "b.mp4")), SETTINGS)
    assert (found.record.status, found.record.reason) == ("unreadable", reason)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]


def test_key_frames_that_are_missing_are_noticed(tmp_path, monkeypatch):
    source = write_video(tmp_path / "a.mp4", num_frames=20)
    reencode, other = module.reencode, Encoding(short_side_px=48, key_distance_frames=10, preset="veryfast")
    monkeypatch.setattr(module, "reencode", lambda path, target, _, **options: reencode(path, target, other, **options))
    found = prepare_video(Work(str(source), str(tmp_path / "b.mp4")), SETTINGS)
    assert found.record.reason == "the new file has key frames at [0, 10], ..."
