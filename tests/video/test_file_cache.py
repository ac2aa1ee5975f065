"""Remote files on a local disk: found again, bounded, safe for many processes and for those that are killed."""

import errno
import fcntl
import io
import multiprocessing
import os
import random
import signal
import threading
import time

import fsspec
import pytest
import torch
from PIL import Image
from tar_factory import write_tar

from hiera_video.config import load_config
from hiera_video.video import VideoReader, file_cache, remote, shards
from hiera_video.video.file_cache import FileCache, build_file_cache
from hiera_video.video.shards import find_member, index_shard
from hiera_video.video.source import LocalSource, RemoteSource, find_source

KB = 1000


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "indexes"))
    monkeypatch.setattr(remote, "_WAITS_SEC", (0.0, 0.0))
    for known in (file_cache._versions, file_cache._warned, shards._remote_facts, shards._warned):
        known.clear()


class Counting(fsspec.AbstractFileSystem):
    """Remote files in memory, which count what is read of them."""

    protocol = "counting"
    cachable = False
    contents = {}  # noqa: RUF012
    etags = {}  # noqa: RUF012
    reads = []  # noqa: RUF012
    is_away = False

    def info(self, path, **_):
        if self.is_away:
            raise ConnectionResetError("away")
        if path not in self.contents:
            raise FileNotFoundError(path)
        return {"name": path, "size": len(self.contents[path]), "type": "file", "ETag": self.etags.get(path, "1")}

    def cat_file(self, path, start=None, end=None, **_):
        if self.is_away:
            raise ConnectionResetError("away")
        self.reads.append((path, start, end))
        return self.contents[path][start:end]


@pytest.fixture
def files(monkeypatch):
    """``files(name, content)`` makes a remote file and gives its URL."""
    fsspec.register_implementation("counting", Counting, clobber=True)
    monkeypatch.setattr(Counting, "is_away", False)
    for things in (Counting.contents, Counting.etags, Counting.reads):
        things.clear()

    def make(name, content):
        Counting.contents[name] = content
        return f"counting://{name}"

    return make


@pytest.fixture
def cache(tmp_path):
    return FileCache(str(tmp_path / "kept"), 100 * KB)


def read(kept):
    with open(kept.path, "rb") as file:
        return file.read()


def list_kept_names(cache):
    return [name for _, _, names in os.walk(cache.folder) for name in names]


def measure(cache):
    """Bytes of all files in the folder, and the sum that the cache keeps of them."""
    total = 0
    for folder, _, names in os.walk(cache.folder):
        for name in names:
            if name != "lock":
                try:
                    total += os.path.getsize(os.path.join(folder, name))
                except FileNotFoundError:
                    continue  # another process removes or renames it just now
    with open(os.path.join(cache.folder, "lock"), "rb") as file:
        return total, int(file.read() or 0)


def test_a_file_is_fetched_once(files, cache):
    url = files("a", bytes(range(256)) * 10)
    first = cache.fetch_file(url)
    assert read(first) == Counting.contents["a"] and len(Counting.reads) == 1
    first.close()
    second = FileCache(cache.folder, cache.size_bytes).fetch_file(url)
    assert second.path == first.path and len(Counting.reads) == 1
    assert measure(cache) == (2560, 2560)


def test_long_files_come_in_several_requests(files, cache, monkeypatch):
    monkeypatch.setattr(file_cache, "_REQUEST_BYTES", 1000)
    url = files("a", random.Random(0).randbytes(4321))
    assert read(cache.fetch_file(url)) == Counting.contents["a"]
    assert len(Counting.reads) == 5


def test_a_changed_file_is_fetched_again(files, cache, monkeypatch):
    url = files("a", b"old")
    assert read(cache.fetch_file(url)) == b"old"
    files("a", b"new")
    Counting.etags["a"] = "2"
    assert read(cache.fetch_file(url)) == b"old", "a server is not asked for each sample"
    monkeypatch.setattr(file_cache, "_ASK_AGAIN_SEC", 0.0)
    assert read(cache.fetch_file(url)) == b"new", "of the same size; its ETag tells"
    files("a", b"longer")
    assert read(cache.fetch_file(url)) == b"longer"


def test_a_file_that_changes_while_it_is_fetched_is_not_kept(files, cache, monkeypatch):
    monkeypatch.setattr(file_cache, "_REQUEST_BYTES", 2)
    url = files("a", b"abcd")
    cat_file = Counting.cat_file

    def change(self, path, start=None, end=None, **_):
        Counting.etags["a"] = "2"
        return cat_file(self, path, start, end)

    monkeypatch.setattr(Counting, "cat_file", change)
    assert cache.fetch_file(url) is None
    assert measure(cache) == (0, 0)


def test_what_was_used_least_recently_goes_first(files, cache):
    urls = [files(f"{i}", bytes(21 * KB)) for i in range(5)]
    paths = []
    for url in urls[:4]:
        kept = cache.fetch_file(url)
        paths.append(kept.path)
        kept.close()
        time.sleep(0.01)
    cache.fetch_file(urls[0]).close()  # used again
    held = cache.fetch_file(urls[1])  # used again, and being read
    time.sleep(0.01)
    cache.fetch_file(urls[2]).close()
    os.utime(held.path, (0, 0))  # would be the first to go
    paths.append(cache.fetch_file(urls[4]).path)
    assert [os.path.exists(path) for path in paths] == [True, True, True, False, True]
    assert measure(cache) == (84 * KB, 84 * KB)


def test_files_of_others_in_the_folder_stay(files, cache):
    others = [
        os.path.join(cache.folder, *parts) for parts in (("mine.mp4",), ("videos", "a.mp4"), ("ab", "b.mp4"), ("cd",))
    ]
    for other in others:
        os.makedirs(os.path.dirname(other), exist_ok=True)
        with open(other, "wb") as file:
            file.write(bytes(90 * KB))
        os.utime(other, (0, 0))
    for number in range(4):
        cache.fetch_file(files(f"{number}", bytes(40 * KB))).close()
    assert all(map(os.path.exists, others)), "they are older than all that the cache holds"
    assert measure(cache) == (80 * KB + 360 * KB, 80 * KB)


def test_what_does_not_fit_is_read_remotely(files, cache, caplog):
    assert cache.fetch_file(files("big", bytes(101 * KB))) is None
    held = [cache.fetch_file(files(f"{i}", bytes(40 * KB))) for i in range(2)]
    assert None not in held
    assert cache.fetch_file(files("2", bytes(40 * KB))) is None, "all others are being read"
    assert measure(cache) == (80 * KB, 80 * KB)
    held.pop().close()
    assert cache.fetch_file(files("2", bytes(40 * KB))) is not None
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert "more than the cache may take" in caplog.text


def test_a_full_disk_costs_one_warning(files, cache, monkeypatch, caplog, painted_video):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    for name in ("a", "b"):
        assert cache.fetch_file(files(name, b"xyz")) is None
        assert measure(cache) == (0, 0)
    assert [record.levelname for record in caplog.records].count("WARNING") == 1 and "No space left" in caplog.text


def test_a_disk_that_fills_while_a_file_is_written(files, cache, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_cache, "_write", fail)
    assert cache.fetch_file(files("a", b"xyz")) is None
    assert measure(cache) == (0, 0)


def test_a_server_that_is_away(files, cache, caplog):
    url = files("a", b"xyz")
    cache.fetch_file(url).close()
    file_cache._versions.clear()
    Counting.is_away = True
    assert read(cache.fetch_file(url)) == b"xyz"
    assert "the server does not answer" in caplog.text
    with pytest.raises(remote.UnreachableError):
        cache.fetch_file(files("b", b"xyz"))
    with pytest.raises(FileNotFoundError, match="counting://none"):
        Counting.is_away = False
        cache.fetch_file("counting://none")
    assert sorted(list_kept_names(cache))[1:] == ["lock"]


def test_who_waits_for_a_file_gets_it_while_another_still_reads_it(files, cache, monkeypatch):
    url, cat_file = files("a", b"xyz"), Counting.cat_file
    is_asked, may_answer = threading.Event(), threading.Event()

    def answer_late(self, *args, **options):
        is_asked.set()
        may_answer.wait(60)
        return cat_file(self, *args, **options)

    monkeypatch.setattr(Counting, "cat_file", answer_late)
    monkeypatch.setattr(time, "sleep", lambda _: may_answer.set())  # the second one waits
    held, threads = [], []
    for _ in range(2):
        threads.append(threading.Thread(target=lambda: held.append(cache.fetch_file(url)), daemon=True))
        threads[-1].start()
        assert is_asked.wait(60)
    for thread in threads:
        thread.join(30)
    assert len(held) == 2 and len(Counting.reads) == 1
    assert [read(kept) for kept in held] == [b"xyz"] * 2
    for kept in held:
        kept.close()


def fetch_many(cache, names, seed, seconds, failures):
    """Fetches and reads random files until the time is over."""
    draw = random.Random(seed)
    fsspec.register_implementation("counting", Counting, clobber=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        name = draw.choice(names)
        kept = cache.fetch_file(f"counting://{name}")
        if kept is None:
            continue
        if not os.path.exists(kept.path) or read(kept) != Counting.contents[name]:
            failures.put(name)
        kept.close()


def test_many_processes_share_a_cache_and_some_are_killed(files, cache):
    """Every file read is right, and the bound is never exceeded, whoever dies at whatever moment."""
    names = [f"{i}" for i in range(40)]
    for name in names:
        files(name, random.Random(name).randbytes(random.Random(name).randrange(1, 20 * KB)))
    cache.check()
    context = multiprocessing.get_context("fork")
    failures = context.SimpleQueue()
    draw = random.Random(0)

    def start(seed, seconds):
        process = context.Process(target=fetch_many, args=(cache, names, seed, seconds, failures))
        process.start()
        return process

    staying = [start(seed, 3.0) for seed in range(3)]
    end = time.monotonic() + 2.5
    num_killed = 0
    while time.monotonic() < end or num_killed <= 5:  # a slow machine takes longer
        victim = start(100 + num_killed, 10.0)
        time.sleep(draw.uniform(0.01, 0.08))
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        num_killed += 1
        with cache._lock_sum():  # else a file that goes and one that comes meanwhile might both be counted
            total, _ = measure(cache)
        assert total <= cache.size_bytes
    for process in staying:
        process.join()
        assert process.exitcode == 0
    assert failures.empty() and num_killed > 5
    total, counted = measure(cache)
    assert total <= counted <= cache.size_bytes, "the sum is never too small"
    for name in names:  # whatever the killed ones left does not stay, and nothing else breaks
        kept = cache.fetch_file(f"counting://{name}")
        assert read(kept) == Counting.contents[name]
        kept.close()
    with cache._lock_sum():
        assert cache._evict(0, but=file_cache.Path("none")) == measure(cache)[0]
    assert not [path for path in list_kept_names(cache) if path.endswith(".partial")]


def test_what_a_killed_process_left_is_taken_over(files, cache):
    url = files("a", b"xyz" * 1000)
    path = cache._get_path(url, file_cache._ask_version(url)[1])
    path.parent.mkdir(parents=True)
    cache.check()
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(b"?" * 3000)
    other = partial.with_name(f"{'0' * 32}-{'0' * 16}.partial")
    other.write_bytes(b"?" * 10)
    with cache._lock_sum() as file:
        cache._write_sum(file, 3010)
    assert read(cache.fetch_file(url)) == b"xyz" * 1000
    assert not partial.exists() and measure(cache) == (3010, 3010)
    cache.fetch_file(files("b", bytes(98 * KB)))
    assert measure(cache) == (98 * KB, 98 * KB), "room is made: what nobody fetches any more goes first"


def wait_in_write(cache, url, ready, go):
    fsspec.register_implementation("counting", Counting, clobber=True)
    write = file_cache._write

    def write_slowly(*args):
        ready.set()
        go.wait(60)
        write(*args)

    file_cache._write = write_slowly
    cache.fetch_file(url).close()


def test_who_wants_a_file_that_is_being_fetched_waits_for_it(files, cache):
    url = files("a", b"xyz")
    context = multiprocessing.get_context("fork")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=wait_in_write, args=(cache, url, ready, go))
    other.start()
    assert ready.wait(60)
    (partial,) = [name for name in list_kept_names(cache) if name != "lock"]
    assert partial.endswith(".partial")
    go.set()
    assert read(cache.fetch_file(url)) == b"xyz" and Counting.reads == []
    other.join()


def test_members_of_shards_are_kept_one_by_one(cache, serve, tmp_path, painted_video):
    pytest.importorskip("aiohttp")
    videos = {f"{i}.mp4": painted_video(f"kept{i}.mp4", num_frames=20 + i) for i in range(3)}
    (tmp_path / "there").mkdir()
    shard = write_tar(tmp_path / "there" / "s.tar", {name: path.read_bytes() for name, path in videos.items()})
    index_shard(str(shard))
    server = serve(shard.parent)
    path = f"{server.address}/s.tar#1.mp4"
    find_member(path)
    server.num_bytes, server.requests[:] = 0, []
    for _ in range(2):
        with VideoReader(path, cache=cache) as kept, VideoReader(videos["1.mp4"]) as single:
            assert isinstance(kept._main._source, LocalSource) and kept.index == single.index
            assert torch.equal(kept.get_frames([7, 3]), single.get_frames([7, 3]))
    assert server.num_bytes == 512 + videos["1.mp4"].stat().st_size, "the member alone, and once"
    assert len(server.requests) == 1
    write_tar(shard, {name: path.read_bytes() for name, path in reversed(videos.items())})
    shards._remote_facts.clear()
    with VideoReader(path, cache=cache) as kept:
        assert kept.index == single.index
    with VideoReader(f"{server.address}/s.tar#1.mp4") as plain:
        assert isinstance(plain._main._source, RemoteSource)


def test_a_reader_holds_its_file(files, cache, painted_video):
    content = painted_video("h264.mp4").read_bytes()
    url = files("a.mp4", content)
    with VideoReader(url, cache=cache) as reader:
        path = reader._main._source.path
        assert not file_cache._remove_unused(path)
        assert reader.get_frames([21, 3]).shape[0] == 2
    assert file_cache._remove_unused(path)


def test_remote_pictures_are_kept_too(files, cache):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (10, 20, 30)).save(buffer, "PNG")
    url = files("a.png", buffer.getvalue())
    for _ in range(2):
        with VideoReader(url, cache=cache) as reader:
            assert reader.get_frames([0])[0, 0, 0].tolist() == [10, 20, 30]
    assert len(Counting.reads) == 1
    assert find_source(url, cache).path.startswith(cache.folder)


def test_the_config_names_the_cache(tmp_path):
    assert build_file_cache(load_config([], [], is_complete=False)) is None
    pairs = ["DATA.CACHE_DIR", str(tmp_path / "kept"), "DATA.CACHE_SIZE_GB", "0.5"]
    assert build_file_cache(load_config([], pairs, is_complete=False)) == FileCache(str(tmp_path / "kept"), 5 * 10**8)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"DATA.CACHE_DIR = .*file.*: files cannot be written there"):
        build_file_cache(load_config([], ["DATA.CACHE_DIR", str(tmp_path / "file")], is_complete=False))
    with pytest.raises(ValueError, match=r"DATA\.CACHE_SIZE_GB"):
        load_config([], ["DATA.CACHE_SIZE_GB", "0"], is_complete=False)


def test_a_locked_file_is_not_removed(files, cache):
    kept = cache.fetch_file(files("a", b"xyz"))
    with open(kept.path, "rb") as other:
        kept.close()
        fcntl.flock(other, fcntl.LOCK_SH)
        assert not file_cache._remove_unused(kept.path)
    assert file_cache._remove_unused(kept.path)


def test_a_partial_file_that_another_process_made_anew_is_left_to_it(files, cache, monkeypatch):
    """While a process waits for the lock, the file is removed and made again: it has another one open then."""
    url = files("a", b"xyz")
    flock, replaced = fcntl.flock, []

    def replace_meanwhile(file, operation):
        partials = list(cache_folder.rglob("*.partial"))
        if operation == fcntl.LOCK_EX | fcntl.LOCK_NB and partials and not replaced:
            replaced.extend(partials)
            partials[0].rename(partials[0].with_name("old"))
            partials[0].write_bytes(b"")
        flock(file, operation)

    cache_folder = file_cache.Path(cache.folder)
    monkeypatch.setattr(file_cache.fcntl, "flock", replace_meanwhile)
    assert read(cache.fetch_file(url)) == b"xyz" and len(replaced) == 1
    assert not replaced[0].exists()
