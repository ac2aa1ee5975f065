"""Packed videos: nothing lost, the same samples, as WebDataset reads them, and gone on with after a crash."""

import io
import json
import re
import tarfile
from pathlib import Path

import pytest
import torch
from tar_factory import write_tar
from video_factory import write_video

from hiera_video.config import load_config
from hiera_video.data import pack as pack_module
from hiera_video.data.lists import VideoList
from hiera_video.data.loader import build_train_dataset
from hiera_video.data.pack import pack
from hiera_video.utils import files as files_module
from hiera_video.video import remote, shards

KEY = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")  # WebDataset's rule: up to the first dot of the last part


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path_factory.mktemp("indexes")))
    shards._remote_facts.clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven small videos in two classes, some with names that are hard to make keys of."""
    folder = tmp_path_factory.mktemp("videos")
    names = ("a/x.mp4", "a/x.webm", "a/my.video.v2.mp4", "b/x y.mp4", "b/.h.mp4", "b/1", "b/ü#.mp4")
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        suffix, codec = (".webm", "libvpx-vp9") if name.endswith("webm") else (".mp4", "libx264")
        write_video(path.with_name(f"made{suffix}"), num_frames=20 + number, codec=codec).rename(path)
    return folder


def list_videos(folder):
    paths = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    return paths, [int("/b/" in path) for path in paths]


def read_samples(shard):
    """The samples as WebDataset groups them: neighbors with equal keys."""
    samples = []
    with tarfile.open(shard) as archive:
        for info in archive:
            key, ending = KEY.fullmatch(info.name).groups()
            if not samples or samples[-1]["__key__"] != key:
                samples.append({"__key__": key})
            assert ending not in samples[-1]
            samples[-1][ending] = archive.extractfile(info).read()
    assert len({sample["__key__"] for sample in samples}) == len(samples)
    return samples


def test_webdataset_finds_every_video_with_its_label(folder, tmp_path):
    paths, labels = list_videos(folder)
    packed = pack(paths, labels, output_dir=tmp_path, prefix="train", class_names=["ay", "bee"], shard_bytes=40_000)
    found = [sample for path in sorted(tmp_path.glob("*.tar")) for sample in read_samples(path)]
    assert packed.failures == {} and packed.num_shards == len(list(tmp_path.glob("train-*.tar"))) > 1
    assert all(path.stat().st_size <= 40_000 for path in tmp_path.glob("*.tar"))
    contents = {}
    for sample in found:
        facts = json.loads(sample["json"])
        assert set(sample) - {"__key__", "cls", "json"} <= {"mp4", "webm", "video"}
        assert facts["label"] == int(sample["cls"]) and facts["class"] == ["ay", "bee"][facts["label"]]
        (video,) = (data for name, data in sample.items() if name not in ("__key__", "cls", "json"))
        contents[facts["path"]] = (facts["label"], video)
    assert contents == {path: (label, Path(path).read_bytes()) for path, label in zip(paths, labels, strict=True)}
    order = [json.loads(sample["json"])["path"] for sample in found]
    assert sorted(order) == paths and order != paths, "drawn, for those who read from front to back"


def make_dataset(folder, paths, labels):
    pairs = {
        "DATA.PATH_TO_DATA_DIR": folder,
        "DATA.NUM_FRAMES": 4,
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TRAIN_JITTER_SCALES": [32, 40],
        "AUG.NUM_SAMPLE": 2,
        "MODEL.NUM_CLASSES": 2,
    }
    cfg = load_config([], [str(word) for pair in pairs.items() for word in pair])
    return build_train_dataset(cfg, VideoList(paths, labels))


def test_samples_are_the_same_bit_for_bit(folder, tmp_path):
    paths, labels = list_videos(folder)
    packed = pack(paths, labels, output_dir=tmp_path, shard_bytes=40_000)
    single = make_dataset(folder, paths, labels)
    members = make_dataset(folder, [str(tmp_path / member) for member in packed.members], labels)
    for epoch in range(2):
        for index in range(len(paths)):
            expected, found = single[epoch, index], members[epoch, index]
            assert found["bad"] == [] and found["label"] == expected["label"]
            assert torch.equal(found["video"], expected["video"])


def test_what_cannot_be_packed_is_named(folder, tmp_path):
    paths, labels = list_videos(folder)
    (tmp_path / "frames").mkdir()
    lost = {str(tmp_path / "none.mp4"): "no such file", str(tmp_path / "frames"): "a folder or series of pictures"}
    packed = pack([*lost, *paths], [0, 0, *labels], output_dir=tmp_path / "out")
    assert packed.members[:2] == [None, None] and None not in packed.members[2:]
    assert list(packed.failures) == list(lost)
    assert all(reason in packed.failures[path] for path, reason in lost.items())
    with pytest.raises(FileNotFoundError, match=r"none of 1 videos can be packed; .*none\.mp4: no such file"):
        pack([str(tmp_path / "none.mp4")], [0], output_dir=tmp_path / "nothing")


def test_a_video_that_shrinks_meanwhile_is_named_also_later(folder, tmp_path, monkeypatch):
    paths, labels = list_videos(folder)
    find_source = pack_module.find_source

    def find_shrunk(path):
        source = find_source(path)
        if path == paths[2] and len(seen) >= len(paths):
            source.open_bytes = io.BytesIO
        seen.append(path)
        return source

    seen = []
    monkeypatch.setattr(pack_module, "find_source", find_shrunk)
    packed = pack(paths, labels, output_dir=tmp_path)
    assert list(packed.failures) == [paths[2]] and "too early" in packed.failures[paths[2]]
    assert packed.members[2] is None and packed.members.count(None) == 1
    samples = read_samples(tmp_path / "shard-000000.tar")
    assert len(samples) == len(paths) - 1
    monkeypatch.setattr(pack_module, "find_source", find_source)
    assert pack(paths, labels, output_dir=tmp_path) == packed


def test_an_interrupted_packing_goes_on(folder, tmp_path, monkeypatch):
    paths, labels = list_videos(folder)
    options = {"output_dir": tmp_path / "out", "shard_bytes": 40_000}
    expected = pack(paths, labels, output_dir=tmp_path / "whole", shard_bytes=40_000)
    replace, count = files_module.os.replace, 0

    def die(source, target):
        nonlocal count
        count += str(target).endswith(".tar")
        if count == 2:
            raise KeyboardInterrupt  # where a second shard was about to get its name
        replace(source, target)

    monkeypatch.setattr(files_module.os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        pack(paths, labels, **options)
    monkeypatch.undo()
    (first,) = (tmp_path / "out").glob("*.tar")
    written_at = first.stat().st_mtime_ns
    first.with_name(first.name + ".index").unlink()  # as if killed between the shard and its index
    assert pack(paths, labels, **options) == expected
    assert first.stat().st_mtime_ns == written_at, "not written again"
    for path in (tmp_path / "whole").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    assert not list((tmp_path / "out").glob("*.partial"))


def test_other_settings_and_other_videos_are_refused(folder, tmp_path):
    paths, labels = list_videos(folder)
    pack(paths, labels, output_dir=tmp_path)
    with pytest.raises(ValueError, match=r"packed otherwise \(shard_bytes: 1000000000 there, 5 now\)"):
        pack(paths, labels, output_dir=tmp_path, shard_bytes=5)
    with pytest.raises(ValueError, match="the paths, labels or sizes of the videos are others now"):
        pack(paths, labels[::-1], output_dir=tmp_path)
    write_tar(tmp_path / "val-000000.tar", {"a": b"1"})
    with pytest.raises(ValueError, match=r"val-000000\.tar is there, but not val\.packing\.json"):
        pack(paths, labels, output_dir=tmp_path, prefix="val")


def test_members_and_remote_videos_are_packed_again(folder, tmp_path, serve):
    pytest.importorskip("aiohttp")
    paths, labels = list_videos(folder)
    first = pack(paths, labels, output_dir=tmp_path / "first", seed=None)
    address = serve(tmp_path).address
    sources = [f"{address}/first/{member}" for member in first.members]
    second = pack(sources, labels, output_dir=tmp_path / "second", seed=None)
    samples = [read_samples(tmp_path / name / "shard-000000.tar") for name in ("first", "second")]
    for before, after in zip(*samples, strict=True):
        del before["json"], after["json"]  # they name their sources
        assert before == after
    assert second.failures == {} and remote.get_facts(sources[0].partition("#")[0]) is not None
