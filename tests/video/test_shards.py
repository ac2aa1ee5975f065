"""Members of tar files as paths: found, read as single files are, and told apart from other names."""

import gc
import io
import os
import tarfile
import weakref

import pyarrow as pa
import pytest
import torch
from PIL import Image
from tar_factory import write_tar
from video_factory import cut_file, paint_number, read_number

from hiera_video.video import VideoDecodeError, VideoReader, remote, shards
from hiera_video.video.image_backend import is_image_path
from hiera_video.video.shard_index import INDEX_SUFFIX, ShardError, load_index
from hiera_video.video.shard_writer import END_BYTES, ReadError, ShardWriter, make_key
from hiera_video.video.shards import find_member, index_shard, list_members, split_member
from hiera_video.video.source import RemoteSource, find_local_source, find_source

LONG_NAME = "a/" + "long " * 40 + "ü.mp4"


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    """Indexes are kept in an empty folder, and nothing is known from another test."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    shards._remote_facts.clear()
    shards._warned.clear()


@pytest.fixture(scope="module")
def videos(painted_video):
    return {
        "b/h264.mp4": painted_video("h264.mp4"),
        "b/vp9.webm": painted_video("vp9.webm", codec="libvpx-vp9"),
        "b/mpeg4.avi": painted_video("mpeg4.avi", codec="mpeg4"),
        LONG_NAME: painted_video("other.mp4", num_frames=41),
    }


@pytest.fixture
def shard(tmp_path, videos):
    return write_tar(tmp_path / "s.tar", {name: path.read_bytes() for name, path in videos.items()})


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_members_have_the_frames_of_single_files(shard, videos, backend):
    if backend == "decord":
        pytest.importorskip("decord")
    for name, path in videos.items():
        with VideoReader(path, backend) as single, VideoReader(f"{shard}#{name}", backend) as member:
            assert (member.backend, member.codec) == (single.backend, single.codec)
            assert member.index == single.index
            assert torch.equal(member.get_frames(range(len(single))), single.get_frames(range(len(single))))
    with VideoReader(f"file://{shard}#b/h264.mp4") as reader:
        assert read_number(reader.get_frames([21])[0]) == 21


def test_real_videos_have_the_frames_of_single_files(shared_videos, tmp_path):
    paths = sorted(path for path in shared_videos.iterdir() if path.suffix != ".md")
    shard = write_tar(tmp_path / "real.tar", {path.name: path.read_bytes() for path in paths})
    for path in paths:
        with VideoReader(path) as single, VideoReader(f"{shard}#{path.name}") as member:
            assert member.index == single.index
            positions = [0, len(single) // 2, len(single) - 1]
            assert torch.equal(member.get_frames(positions), single.get_frames(positions))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s.tar#a.mp4", ("s.tar", "a.mp4")),
        ("/x/s.tar#a/b#c.tar#d.mp4", ("/x/s.tar", "a/b#c.tar#d.mp4")),
        ("https://h/s.tar?sig=a.b#a.mp4", ("https://h/s.tar?sig=a.b", "a.mp4")),
        ("s3://b/s.tar#a.mp4", ("s3://b/s.tar", "a.mp4")),
        ("s.tar", None),
        ("s.tar#", None),
        ("s.tar.gz#a.mp4", None),
        ("a#b.mp4", None),
        ("7/%06d.jpg#1-117", None),
        ("train.tar::n01/x.JPEG@1536+13697", None),
        ("train.tar::n01/x.tar#y.JPEG@1536+13697", None),
    ],
)
def test_which_paths_name_members(path, expected):
    assert split_member(path) == expected


def test_a_file_whose_name_reads_like_a_member_is_that_file(shard, videos):
    path = shard.with_name("s.tar#b")
    path.mkdir()
    (path / "h264.mp4").write_bytes(videos["b/vp9.webm"].read_bytes())
    assert split_member(str(path / "h264.mp4")) is None
    with VideoReader(path / "h264.mp4") as reader:
        assert reader.codec == "vp9"


def test_pictures_lie_in_tar_files_too(tmp_path):
    contents = {}
    for number in range(1, 4):
        buffer = io.BytesIO()
        Image.fromarray(paint_number(number)).save(buffer, "PNG")
        contents[f"7/{number:03}.png"] = buffer.getvalue()
    shard = write_tar(tmp_path / "%02d.tar", contents)  # a name that reads like that of a series
    with VideoReader(f"{shard}#7/002.png") as reader:
        assert read_number(reader.get_frames([0])[0]) == 2
    with VideoReader(f"{shard}#7/%03d.png#1-3") as reader:
        assert [read_number(frame) for frame in reader.get_frames([2, 0])] == [3, 1]
    assert split_member(f"{shard}#1-3") == (str(shard), "1-3")
    assert is_image_path("train.tar::a@1+2") and not is_image_path(f"{shard}#a::b.mp4")


def test_an_index_is_made_once_and_mapped(shard, tmp_path, monkeypatch):
    with tarfile.open(shard) as archive:
        expected = {info.name: (info.offset_data, info.size) for info in archive}
    for name, place in expected.items():
        member = find_member(f"{shard}#{name}")
        assert (member.start, member.size_bytes) == place
    assert not os.path.exists(f"{shard}{INDEX_SUFFIX}"), "nothing is written beside the data unasked"
    monkeypatch.setattr(shards, "scan_shard", None)
    shards._find_local_index.cache_clear()
    assert list(list_members(str(shard))) == sorted(expected)
    (kept,) = (tmp_path / "cache" / "shard_indexes").iterdir()
    before = pa.total_allocated_bytes()
    index = load_index(kept, size_bytes=shard.stat().st_size)
    assert all(index.find(name)[:2] == place for name, place in expected.items())
    assert pa.total_allocated_bytes() == before, "the index lies in the file, not in the memory of each process"


def test_an_index_beside_the_shard_is_used(shard, monkeypatch, tmp_path):
    assert index_shard(str(shard)) == 4
    monkeypatch.setattr(shards, "scan_shard", None)
    assert find_member(f"{shard}#b/h264.mp4").size_bytes > 0
    assert not list((tmp_path / "cache").rglob("*.index"))


def test_a_stale_index_is_noticed(shard, videos, caplog):
    index_shard(str(shard))
    old = find_member(f"{shard}#b/vp9.webm")
    contents = {name: path.read_bytes() for name, path in reversed(videos.items())}
    size = shard.stat().st_size
    write_tar(shard, contents)
    assert shard.stat().st_size == size, "the size does not tell"
    with VideoReader(f"{shard}#b/vp9.webm") as reader, VideoReader(videos["b/vp9.webm"]) as single:
        assert reader.index == single.index
    assert find_member(f"{shard}#b/vp9.webm").start != old.start
    assert caplog.text.count("is not of this tar file") == 1
    write_tar(shard, {**contents, "new.mp4": b"x" * 20000})
    assert find_member(f"{shard}#new.mp4").size_bytes == 20000
    assert "hiera-video pack --index" in caplog.text


def test_broken_indexes_are_not_used(shard, caplog):
    path = shard.with_name(shard.name + INDEX_SUFFIX)
    for content in (b"", b"no index", bytes(4096)):
        path.write_bytes(content)
        shards._find_local_index.cache_clear()
        assert find_member(f"{shard}#b/h264.mp4").size_bytes > 0
    assert "is no index of a tar file" in caplog.text


@pytest.mark.parametrize("place", ["here", "there"])
def test_what_is_not_there(shard, place, serve):
    pytest.importorskip("aiohttp")
    root = str(shard.parent) if place == "here" else serve(shard.parent).address
    with pytest.raises(FileNotFoundError, match=r"s\.tar#b/h265\.mp4: .* no such member; did you mean b/h264\.mp4\?"):
        VideoReader(f"{root}/s.tar#b/h265.mp4")
    with pytest.raises(FileNotFoundError, match=r"did you mean b/h264\.mp4\?"):
        VideoReader(f"{root}/s.tar#quite/another/folder/h264.mp4")
    with pytest.raises(FileNotFoundError, match=r"none\.tar"):
        VideoReader(f"{root}/none.tar#b/h264.mp4")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "the tar file is cut off at byte"),
        (lambda data: b"", "the file is empty"),
        (lambda data: b"no tar file" * 100, "is no tar file, or damaged"),
        (lambda data: b"\x1f\x8b" + data, "is compressed"),
        (lambda data: spoil_header(data, b"b/vp9.webm"), "there is no header of a member at byte"),
    ],
)
@pytest.mark.parametrize("place", ["here", "there"])
def test_damaged_tar_files(shard, serve, damage, message, place):
    pytest.importorskip("aiohttp")
    shard.write_bytes(damage(shard.read_bytes()))
    root = str(shard.parent) if place == "here" else serve(shard.parent).address
    with pytest.raises(ShardError, match=rf"s\.tar: .*{message}"):
        VideoReader(f"{root}/s.tar#b/h264.mp4")


def spoil_header(data, name):
    place = data.index(name)
    return data[:place] + b"?" + data[place + 1 :]


def test_a_cut_off_video_in_a_whole_tar_file(shard, videos):
    cut = cut_file(videos["b/h264.mp4"], shard.with_name("cut.mp4"), num_bytes=200)
    write_tar(shard, {"cut.mp4": cut.read_bytes()})
    with pytest.raises(VideoDecodeError, match=r"s\.tar#cut\.mp4: "):
        VideoReader(f"{shard}#cut.mp4")
    with find_local_source(f"{shard}#cut.mp4").open_bytes() as file:
        assert file.read() == cut.read_bytes()
        file.seek(-3, os.SEEK_END)
        assert file.read(10) == cut.read_bytes()[-3:]


def test_remote_members_are_fetched_in_part(videos, shard, serve, monkeypatch):
    pytest.importorskip("aiohttp")
    index_shard(str(shard))
    server = serve(shard.parent)
    for name, path in videos.items():
        with VideoReader(path) as single, VideoReader(f"{server.address}/s.tar#{name}") as member:
            assert isinstance(member._main._source, RemoteSource)
            assert member.index.pts == single.index.pts
            assert torch.equal(member.get_frames([20, 3]), single.get_frames([20, 3]))
    size = videos["b/h264.mp4"].stat().st_size
    server.num_bytes, server.requests[:] = 0, []
    with VideoReader(f"{server.address}/s.tar#b/h264.mp4") as member:
        member.get_frames([20])
    assert server.num_bytes == 512 + size, "its header, itself, and nothing of its neighbors"
    assert [method for method, *_ in server.requests] == ["GET"], "its size is known from the index"


def test_of_a_long_remote_member_only_the_needed_blocks_are_fetched(tmp_path, painted_video, serve, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(remote, "BLOCK_BYTES", 4096)
    options = {"crf": "1", "preset": "ultrafast", "x264-params": "scenecut=0:bframes=2:keyint=10:min-keyint=10"}
    path = painted_video("long_remote.mp4", num_frames=300, width=640, height=480, options=options)
    shard = write_tar(tmp_path / "s.tar", {"first": b"x" * 1000, "long.mp4": path.read_bytes()})
    index_shard(str(shard))
    server = serve(tmp_path)
    with VideoReader(f"{server.address}/s.tar#long.mp4") as reader:
        assert [read_number(frame) for frame in reader.get_frames([70, 75])] == [70, 75]
        assert 0 < server.num_bytes < path.stat().st_size / 3


def test_a_remote_shard_without_an_index_is_scanned_once(tmp_path, serve, painted_video):
    pytest.importorskip("aiohttp")
    data = painted_video("h264.mp4").read_bytes()
    contents = {f"{i}.mp4": data + bytes(100_000) for i in range(8)}
    shard = write_tar(tmp_path / "s.tar", contents)
    server = serve(tmp_path)
    member = find_member(f"{server.address}/s.tar#5.mp4")
    with tarfile.open(shard) as archive:
        assert member.start == archive.getmember("5.mp4").offset_data
    assert server.num_bytes < shard.stat().st_size / 10, "headers alone"
    shards._find_remote_index.cache_clear()
    server.num_bytes = 0
    assert find_member(f"{server.address}/s.tar#6.mp4") and server.num_bytes == 0, "kept on this machine"


def test_a_remote_shard_that_changed(shard, videos, serve, monkeypatch, caplog):
    pytest.importorskip("aiohttp")
    index_shard(str(shard))
    server = serve(shard.parent)
    path = f"{server.address}/s.tar#b/vp9.webm"
    find_member(path)
    write_tar(shard, {name: path.read_bytes() for name, path in reversed(videos.items())})  # and its index is stale
    with VideoReader(path) as reader, VideoReader(videos["b/vp9.webm"]) as single:
        assert torch.equal(reader.get_frames([7]), single.get_frames([7]))
    assert caplog.text.count("is not of this tar file") == 1


def test_blocks_go_with_the_file_that_fetched_them(shard):
    gc.disable()  # no collection of garbage is needed
    try:
        file = remote.RangeFile(str(shard), start=0, size_bytes=1024)
        assert file.read() == shard.read_bytes()[:1024]
        gone = weakref.ref(file)
        del file
        assert gone() is None
    finally:
        gc.enable()


def test_a_server_without_ranges_says_so(shard, serve):
    pytest.importorskip("aiohttp")
    server = serve(shard.parent, has_ranges=False)
    with pytest.raises(OSError, match="serves no parts of files"):
        VideoReader(f"{server.address}/s.tar#b/h264.mp4")


def test_a_writer_leaves_out_what_ends_early(tmp_path):
    path = tmp_path / "w.tar"
    with open(path, "wb") as file:
        writer = ShardWriter(file)
        writer.add_bytes("a", b"1234")
        with pytest.raises(ReadError, match="2 bytes too early"):
            writer.add("b", io.BytesIO(b"12"), 4)
        writer.add_bytes(LONG_NAME, b"5" * 513)
        written = writer.finish("w.tar")
    with tarfile.open(path) as archive:
        assert {info.name: archive.extractfile(info).read() for info in archive} == {
            "a": b"1234",
            LONG_NAME: b"5" * 513,
        }
    index_shard(str(path))
    scanned = load_index(tmp_path / "w.tar.index", size_bytes=path.stat().st_size)
    assert [written.find(name) for name in written.names] == [scanned.find(name) for name in scanned.names]


def test_no_more_than_it_counts_on_follows_the_last_member():
    added = []
    for num_blocks in range(tarfile.RECORDSIZE // tarfile.BLOCKSIZE):
        file = io.BytesIO()
        writer = ShardWriter(file)
        writer.add_bytes("a", bytes(num_blocks * tarfile.BLOCKSIZE))
        last = file.tell()
        writer.finish("s.tar")
        added.append(file.tell() - last)
    assert max(added) == END_BYTES


@pytest.mark.parametrize(
    ("name", "key"),
    [("a/b.c.d", "a/b_c_d"), ("../x.y/b", "x_y/b"), (".hidden", "_hidden"), ("a#b\n'ü'", "a_b__ü_"), ("", "_")],
)
def test_keys_end_where_webdataset_looks_for_their_end(name, key):
    assert make_key(name) == key


def test_equal_names_and_odd_bytes(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name, data in (("a", b"old"), ("a", b"new!"), ("\udcff", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        archive.add(tmp_path, "folder", recursive=False)
    assert sorted(list_members(str(tmp_path / "s.tar"))) == ["a", "\udcff"]
    with find_source(f"{tmp_path}/s.tar#a").open_bytes() as file:
        assert file.read() == b"new!", "as tar unpacks it"
    assert find_member(f"{tmp_path}/s.tar#\udcff").size_bytes == 1
