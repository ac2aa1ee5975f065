"""Videos that are not local files: remote ones, which are fetched in part, and folders of pictures."""

import io
import random
import typing

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from video_factory import decode_plainly, paint_number, read_number, write_video

from hiera_video.utils.pathmgr import pathmgr
from hiera_video.video import VideoDecodeError, VideoReader, remote

BLOCK_BYTES = 4096
SMALL_GROUPS = {"crf": "1", "preset": "ultrafast", "x264-params": "scenecut=0:bframes=2:keyint=10:min-keyint=10"}


@pytest.fixture(scope="module")
def long_video(painted_video):
    """300 frames, 30 groups of pictures."""
    return painted_video("long_remote.mp4", num_frames=300, width=640, height=480, options=SMALL_GROUPS)


@pytest.mark.parametrize("name", ["long_remote.mp4", "long_remote.mkv"])
def test_only_what_the_frames_need_is_fetched(painted_video, long_video, serve, monkeypatch, name):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(remote, "BLOCK_BYTES", BLOCK_BYTES)
    path = (
        long_video
        if name.endswith("mp4")
        else painted_video(name, num_frames=300, width=640, height=480, options=SMALL_GROUPS)
    )
    size = path.stat().st_size
    assert size > 40 * BLOCK_BYTES
    server = serve(path.parent)
    with VideoReader(path) as local, VideoReader(f"{server.address}/{name}", index=local.index) as reader:
        assert len(reader) == 300
        indices = [141, 143, 145, 150]
        assert torch.equal(reader.get_frames(indices), local.get_frames(indices))
        assert 0 < server.num_bytes < size / 4
    server.num_bytes = 0
    with VideoReader(f"{server.address}/{name}") as reader:
        assert len(reader) == 300
        opened = server.num_bytes
        assert (opened < size / 4) == name.endswith("mp4")  # only MP4 lists its frames in one place
        assert [read_number(frame) for frame in reader.get_frames([7, 250])] == [7, 250]


def test_any_frames_of_a_remote_file_equal_a_full_decode(long_video, serve):
    pytest.importorskip("aiohttp")
    server = serve(long_video.parent)
    expected = np.stack(decode_plainly(long_video))
    with VideoReader(f"{server.address}/{long_video.name}") as reader:
        for seed in range(5):
            indices = random.Random(seed).choices(range(300), k=6)
            assert np.array_equal(reader.get_frames(indices), expected[indices])
        with VideoReader(f"{server.address}/{long_video.name}") as second:  # two readers of one file
            assert read_number(second.get_frames([99])[0]) == 99
        assert read_number(reader.get_frames([100])[0]) == 100


def test_a_server_without_ranges_and_a_missing_file(painted_video, serve):
    path = painted_video("h264.mp4")
    server = serve(path.parent, has_ranges=False)
    with VideoReader(f"{server.address}/{path.name}") as reader:
        assert [read_number(frame) for frame in reader.get_frames([21, 3])] == [21, 3]
    with pytest.raises(FileNotFoundError, match=f"{server.address}/none.mp4"):
        VideoReader(f"{server.address}/none.mp4")


def test_without_fsspec_for_a_protocol_iopath_fetches_a_copy(painted_video, serve, monkeypatch):
    path = painted_video("h264.mp4")
    server = serve(path.parent)

    def refuse(_):
        raise ImportError("no package for http")

    monkeypatch.setattr(fsspec, "url_to_fs", refuse)
    with VideoReader(f"{server.address}/{path.name}") as reader:
        assert read_number(reader.get_frames([21])[0]) == 21
    assert server.num_bytes == path.stat().st_size


def test_urls_of_local_files_and_of_unknown_protocols(painted_video):
    path = painted_video("h264.mp4")
    with VideoReader(f"file://{path}") as reader:
        assert read_number(reader.get_frames([21])[0]) == 21
    with pytest.raises(FileNotFoundError, match=r"xyz://bucket/a\.mp4: nothing here opens xyz:// paths; pip install"):
        VideoReader("xyz://bucket/a.mp4")
    assert pathmgr.get_local_path(str(path)) == str(path)


def write_pictures(folder, numbers, name="img_{}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(paint_number(number)).save(folder / name.format(number))
    return folder


def test_a_folder_of_pictures_is_a_video(tmp_path):
    folder = write_pictures(tmp_path / "7", range(1, 13))  # by name, 10 would come before 2
    (folder / "notes.txt").write_text("no picture")
    with VideoReader(folder) as reader:
        assert (len(reader), reader.height, reader.width, reader.fps, reader.backend) == (12, 64, 96, 0, "pictures")
        assert [read_number(frame) for frame in reader.get_frames([11, 0, 1, 1])] == [12, 1, 2, 2]
        with pytest.raises(ValueError, match="without a frame rate"):
            _ = reader.times_sec


def test_a_numbered_series_is_a_video(tmp_path):
    folder = write_pictures(tmp_path / "7", range(1, 13), name="7_{:06d}.jpg")
    with VideoReader(f"{folder}/7_%06d.jpg#3-12") as reader:
        assert len(reader) == 10
        assert [read_number(frame) for frame in reader.get_frames([9, 0])] == [12, 3]
    with VideoReader(f"{folder}/7_%06d.jpg#3-13") as reader, pytest.raises(VideoDecodeError, match=r"7_000013\.jpg"):
        reader.get_frames([10])


def test_pictures_that_are_none(tmp_path):
    with pytest.raises(VideoDecodeError, match=f"{tmp_path}: the folder has no picture"):
        VideoReader(tmp_path)
    folder = write_pictures(tmp_path / "7", range(2))
    (folder / "img_1.png").write_bytes(b"no picture")
    Image.fromarray(paint_number(2, width=48)).save(folder / "img_2.png")
    with VideoReader(folder) as reader:
        with pytest.raises(VideoDecodeError, match=r"img_1\.png does not decode"):
            reader.get_frames([0, 1])
        with pytest.raises(VideoDecodeError, match=r"img_2\.png has the size"):
            reader.get_frames([0, 2])


class Flaky(fsspec.AbstractFileSystem):
    """Files behind a network that is away for some requests."""

    protocol = "flaky"
    contents: typing.ClassVar[dict] = {}
    opened: typing.ClassVar[list] = []
    failures = 0

    def _open(self, path, *args, **options):
        file = io.BytesIO(self.contents[path])
        read = file.read

        def read_flaky(*count):
            if Flaky.failures:
                Flaky.failures -= 1
                raise ConnectionResetError("connection reset by peer")
            return read(*count)

        file.read = read_flaky
        Flaky.opened.append(file)
        return file


@pytest.fixture
def flaky(tmp_path, monkeypatch):
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(remote, "_WAITS_SEC", (0.0, 0.0))
    Flaky.opened.clear()
    Flaky.failures = 0
    Flaky.contents.update(
        {"a.mp4": write_video(tmp_path / "a.mp4", num_frames=12).read_bytes(), "bad.mp4": b"no video"}
    )
    return "flaky://a.mp4"


def test_requests_that_fail_for_a_while_are_made_again(flaky, tmp_path):
    Flaky.failures = 2
    with VideoReader(flaky) as reader:
        Flaky.failures = 2
        frames = reader.get_frames([0, 11])
    assert torch.equal(frames, VideoReader(str(tmp_path / "a.mp4")).get_frames([0, 11]))


def test_a_network_that_stays_away_is_told_apart_from_a_bad_file(flaky):
    Flaky.failures = 10**6
    with pytest.raises((VideoDecodeError, OSError), match="cannot be reached, in 3 tries") as caught:
        VideoReader(flaky)
    assert remote.is_unreachable(caught.value) and flaky in str(caught.value)
    Flaky.failures = 0
    with pytest.raises(VideoDecodeError) as caught:
        VideoReader("flaky://bad.mp4")
    assert not remote.is_unreachable(caught.value)


@pytest.mark.parametrize(
    ("error", "is_passing"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError(5, "Input/output error"), True),
        (OSError(116, "Stale file handle"), True),
        (OSError(36, "File name too long"), False),
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (ValueError(), False),
    ],
)
def test_which_errors_may_pass(error, is_passing):
    assert remote._is_passing(error) == is_passing
    error.status = 503
    assert remote._is_passing(error)
    error.status = 404
    assert not remote._is_passing(error)


def test_remote_files_are_closed(flaky):
    with VideoReader(flaky) as reader:
        assert not Flaky.opened[-1].closed
    assert len(reader) == 12 and all(file.closed for file in Flaky.opened)
    with pytest.raises(VideoDecodeError):
        VideoReader("flaky://bad.mp4")
    assert all(file.closed for file in Flaky.opened)
