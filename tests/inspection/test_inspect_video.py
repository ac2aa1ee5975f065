"""What inspection finds out about a file in any state, and that no file stops the inspection of the others."""

import os
import signal
from pathlib import Path

import faulty_inspection
import fsspec
import pytest
from PIL import Image
from video_factory import cut_file, write_video

from hiera_video.inspection import inspect_video as inspect_module
from hiera_video.inspection import pool as pool_module
from hiera_video.inspection.inspect_video import compute_content_hash, inspect_video
from hiera_video.inspection.pool import WorkFailedError, map_paths
from hiera_video.video.integrity import count_missing_bytes

KINDS = {
    "h264.mp4": {},
    "first.mp4": {"container_options": {"movflags": "faststart"}},
    "parts.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "hidden.mp4": {"packet_shift": 200},
    "turned.mov": {"rotation": 90},
    "h264.mkv": {},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "shown_longer.avi": {},  # a list of 3600 ticks for 90 frames
    "odd_times.mp4": {"pts": [i * 40 + i % 3 * 7 for i in range(90)]},
}
CUT_READABLE = ["first.mp4", "parts.mp4", "h264.mkv", "vp9.webm", "mpeg4.avi"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    return {name: write_video(folder / name, num_frames=90, **options) for name, options in KINDS.items()}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("full_decode", [False, True])
def test_whole_files_are_fine(videos, name, full_decode):
    record = inspect_video(str(videos[name]), full_decode=full_decode)
    assert (record.status, record.reason, record.is_broken) == ("ok", "", False)
    assert (record.width, record.height) == (96, 64) and record.index.num_frames == (85 if name == "hidden.mp4" else 90)
    assert record.size_bytes == videos[name].stat().st_size and record.mtime_sec == videos[name].stat().st_mtime


@pytest.mark.parametrize("name", CUT_READABLE)
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_cut_files_are_truncated(videos, tmp_path, name, share):
    num_bytes = int(videos[name].stat().st_size * share)
    record = inspect_video(str(cut_file(videos[name], tmp_path / name, num_bytes=num_bytes)))
    assert record.status == "truncated" and not record.is_broken and "bytes too early" in record.reason
    assert 0 < record.index.num_frames < 90


def test_a_file_cut_before_its_header_cannot_be_read(videos, tmp_path):
    """The header of an MP4 file comes last unless its writer chose otherwise; the reason still says what happened."""
    record = inspect_video(str(cut_file(videos["h264.mp4"], tmp_path / "a.mp4", num_bytes=2000)))
    assert record.status == "unreadable" and record.is_broken and record.index is None
    assert "bytes too early" in record.reason and record.size_bytes == 2000


def test_missing_bytes_are_exact(videos, tmp_path):
    for name in ("h264.mp4", "first.mp4", "h264.mkv", "vp9.webm", "mpeg4.avi"):
        size = videos[name].stat().st_size
        assert count_missing_bytes(videos[name]) == 0, name
        cut = cut_file(videos[name], tmp_path / name, num_bytes=size - 100)
        if name != "h264.mp4":  # its last box loses bytes, too
            assert count_missing_bytes(cut) == 100, name
        cut.write_bytes(videos[name].read_bytes() + b"junk" * 10)
        assert count_missing_bytes(cut) == 0, f"{name}: what follows does not matter"


@pytest.mark.parametrize("name", ["first.mp4", "h264.mkv"])
def test_damage_inside_is_found_by_decoding(videos, tmp_path, name):
    data = bytearray(videos[name].read_bytes())
    middle = len(data) // 2
    data[middle : middle + 256] = bytes(range(256))
    (tmp_path / name).write_bytes(data)
    record = inspect_video(str(tmp_path / name), full_decode=True)
    assert record.status == "damaged" and not record.is_broken and "frames decode" in record.reason
    assert 0 < record.index.num_frames < 90, "the frames that really come out"


def test_a_container_that_promises_more_frames_than_it_holds(videos, tmp_path):
    """Nothing is cut off, but the index lists frames that are not there: their place in the file is overwritten."""
    data = bytearray(videos["mpeg4.avi"].read_bytes())
    start = data.index(b"00dc", len(data) // 2)
    data[start : start + 1500] = bytes(1500)
    (tmp_path / "a.avi").write_bytes(data)
    record = inspect_video(str(tmp_path / "a.avi"))
    assert record.status == "truncated" and "the container lists 90 frames" in record.reason


@pytest.mark.parametrize(
    ("name", "content", "status", "reason"),
    [
        ("missing.mp4", None, "missing", "no such file"),
        ("empty.mp4", b"", "empty", "0 bytes"),
        ("page.mp4", b"<html>404</html>" * 50, "unreadable", "cannot be opened"),
    ],
)
def test_what_is_no_video(tmp_path, name, content, status, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    record = inspect_video(str(tmp_path / name))
    assert record.status == status and record.is_broken and reason in record.reason
    assert str(tmp_path) not in record.reason, "reports show the path beside the reason"


def test_any_error_of_a_library_becomes_the_reason(videos, monkeypatch):
    def explode(*_, **__):
        raise ZeroDivisionError("by a frame rate of 0")

    monkeypatch.setattr(inspect_module, "VideoReader", explode)
    record = inspect_video(str(videos["h264.mp4"]))
    assert (record.status, record.reason) == ("unreadable", "ZeroDivisionError: by a frame rate of 0")


def test_what_lies_elsewhere(videos):
    """Only what the reader needs is read from a remote file, so its record has no size and no hash."""
    memory = fsspec.filesystem("memory")
    for name in ("h264.mp4", "vp9.webm"):
        memory.pipe(f"/{name}", videos[name].read_bytes())
    memory.pipe("/page.mp4", b"<html>404</html>" * 50)
    for name in ("h264.mp4", "vp9.webm"):
        record, local = inspect_video(f"memory://{name}"), inspect_video(str(videos[name]))
        assert (record.status, record.size_bytes, record.content_hash) == ("ok", None, None)
        assert (record.index.pts, record.width, record.codec) == (local.index.pts, local.width, local.codec)
    assert inspect_video("memory://page.mp4").status == "unreadable"
    assert inspect_video("memory://other.mp4").status == "missing"
    assert inspect_video(f"file://{videos['h264.mp4']}") == inspect_video(str(videos["h264.mp4"]))


def test_pictures(tmp_path):
    assert inspect_video(str(tmp_path)).status == "unreadable", "a folder without pictures"
    for i in range(1, 6):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{i:03d}.jpg")
    record = inspect_video(str(tmp_path))
    assert (record.status, record.codec, record.index.num_frames, record.height) == ("ok", "pictures", 5, 30)
    assert inspect_video(f"{tmp_path}/%03d.jpg#1-5", full_decode=True).status == "ok"
    record = inspect_video(f"{tmp_path}/%03d.jpg#1-6")
    assert record.status == "damaged" and "006.jpg" in record.reason, "the last picture is read"
    (tmp_path / "003.jpg").write_bytes(b"no picture")
    assert inspect_video(str(tmp_path)).status == "ok"
    assert inspect_video(str(tmp_path), full_decode=True).status == "damaged"


def test_content_hashes(tmp_path, monkeypatch):
    monkeypatch.setattr(inspect_module, "WHOLE_BYTES", 100)
    monkeypatch.setattr(inspect_module, "BLOCK_BYTES", 10)
    data = {
        "a": bytes(100),
        "b": bytes(101),
        "c": bytes(102),
        "d": bytes(30) + b"x" + bytes(71),
        "e": b"y" + bytes(101),
    }
    paths = {name: tmp_path / name for name in data}
    for name, content in data.items():
        paths[name].write_bytes(content)
    hashes = {name: compute_content_hash(str(path)) for name, path in paths.items()}
    assert len(hashes["a"]) == 32 and all(hashes[name].startswith("blocks:") for name in "bcde")
    assert hashes["c"] == hashes["d"], "they differ between the blocks"
    assert len(set(hashes.values())) == 4
    whole = {compute_content_hash(str(path), whole=True) for path in paths.values()}
    assert len(whole) == 5 and hashes["a"] in whole


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_decoder_that_takes_its_process_down(videos, tmp_path, num_workers):
    names = ["1.mp4", "segfault.mp4", "2.mp4", "endless.mp4", "exit.mp4", "segfault_2.mp4", "3.mp4"]
    for name in names:
        os.link(videos["h264.mp4"], tmp_path / name)
    paths = [str(tmp_path / name) for name in names]
    results = dict(map_paths(faulty_inspection.inspect, paths, num_workers=num_workers, timeout_sec=5))
    assert sorted(results) == sorted(paths)
    by_name = {Path(path).name: result for path, result in results.items()}
    assert all(by_name[f"{i}.mp4"].status == "ok" for i in (1, 2, 3))
    failed = {name: (r.status, str(r)) for name, r in by_name.items() if isinstance(r, WorkFailedError)}
    assert failed == {
        "segfault.mp4": ("crashed", "its process was ended by SIGSEGV"),
        "segfault_2.mp4": ("crashed", "its process was ended by SIGSEGV"),
        "exit.mp4": ("crashed", "its process ended with status 3"),
        "endless.mp4": ("stuck", "not done after 5 s"),
    }


def test_processes_that_cannot_start_are_not_the_videos_fault(monkeypatch):
    monkeypatch.setattr(pool_module, "_serve", faulty_inspection.cannot_start)
    with pytest.raises(RuntimeError, match="no process can be started: its process ended with status 1"):
        list(map_paths(faulty_inspection.inspect, ["a.mp4"], num_workers=1, timeout_sec=5))


def test_no_work_needs_no_process():
    assert list(map_paths(faulty_inspection.inspect, [], num_workers=1, timeout_sec=1)) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_to_the_whole_group_are_the_parents_to_handle(number):
    """As batch systems end a job: its workers go on until the parent ends them, and blame no video."""
    paths = map_paths(
        faulty_inspection.signal_itself, [f"{number.value}:{i}" for i in range(3)], num_workers=1, timeout_sec=9
    )
    assert dict(paths) == {f"{number.value}:{i}": "alive" for i in range(3)}
