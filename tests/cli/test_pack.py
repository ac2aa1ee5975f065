"""`hiera-video pack`: lists, manifest and config of a packed data set lead to the same videos, wherever it lies."""

import json
import tarfile

import pandas as pd
import pytest
import torch
from tar_factory import write_tar
from video_factory import write_video

from hiera_video.cli import pack as tool
from hiera_video.config import load_config
from hiera_video.data.build_lists import build_video_list
from hiera_video.data.loader import build_manifest, build_val_loader
from hiera_video.video import shards
from hiera_video.video.manifest import VideoRecord, load_manifest, write_manifest


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path_factory.mktemp("indexes")))
    shards._remote_facts.clear()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of two classes, in which one video is missing and one is none."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(6):
        write_video(folder / f"{number}.mp4", num_frames=20 + number)
    (folder / "page.mp4").write_bytes(b"<html>404</html>" * 50)
    (folder / "train.csv").write_text("0.mp4 0\n1.mp4 1\n2.mp4 0\nnone.mp4 1\npage.mp4 1\n")
    (folder / "val.csv").write_text("3.mp4 1\n4.mp4 0\n5.mp4 1\n")
    return folder


def make_words(folder, **changes):
    pairs = {
        "DATA.PATH_TO_DATA_DIR": folder,
        "DATA.NUM_FRAMES": 4,
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TRAIN_JITTER_SCALES": [32, 40],
        "DATA_LOADER.NUM_WORKERS": 0,
        "MODEL.NUM_CLASSES": 2,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return [str(word) for pair in pairs.items() for word in pair]


@pytest.fixture(scope="module")
def packed(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    words = ["--output-dir", str(folder), "--shard-gb", "0.00003", "--workers", "1"]
    assert tool.main([*words, *make_words(data)]) == 1, "a video is left out"
    return folder


def read_clips(cfg):
    return torch.cat([batch["video"] for batch in build_val_loader(cfg)])


def test_the_lists_lead_to_the_same_clips(data, packed, capsys):
    cfg = load_config([str(packed / "packed.yaml")], make_words(packed))
    assert torch.equal(read_clips(cfg), read_clips(load_config([], make_words(data))))
    videos = build_video_list(cfg, "train")
    assert videos.labels.tolist() == [0, 1, 0, 1, 1]
    assert videos.paths[3] == str(data / "none.mp4") and "train-00000" in videos.paths[4]
    failures = pd.read_parquet(packed / "failures.parquet").to_dict("records")
    assert failures == [{"path": str(data / "none.mp4"), "list": "train", "reason": "no such file"}]


def test_the_manifest_knows_every_member(packed):
    cfg = load_config([str(packed / "packed.yaml")], make_words(packed))
    paths = build_video_list(cfg, "train").paths
    manifest = build_manifest(cfg, paths)
    assert [manifest.get_entry(str(path)).status for path in paths] == ["ok", "ok", "ok", "missing", "unreadable"]
    entry = manifest.get_entry(str(paths[2]))
    assert entry.index.num_frames == 22 and entry.size_bytes == shards.find_member(str(paths[2])).size_bytes
    assert set(manifest.find_broken(paths)) == {3, 4}


def test_the_folder_can_be_moved_behind_a_server(data, packed, serve):
    pytest.importorskip("aiohttp")
    address = serve(packed).address
    cfg = load_config([], make_words(address, DATA__MANIFEST=f"{address}/manifest.parquet"))
    paths = build_video_list(cfg, "val").paths
    assert build_manifest(cfg, paths).count_known(paths) == 3
    assert torch.equal(read_clips(cfg), read_clips(load_config([], make_words(data))))
    kept = load_config([], [*make_words(address), "DATA.CACHE_DIR", str(packed / "kept")])
    assert torch.equal(read_clips(kept), read_clips(cfg))
    assert len([path for path in (packed / "kept").rglob("*") if path.is_file()]) == 4  # three videos, and the lock


def test_what_a_manifest_knows_is_not_looked_at_again(data, tmp_path, monkeypatch):
    record = VideoRecord("damaged", "known", size_bytes=(data / "3.mp4").stat().st_size)
    path = str(data / "3.mp4")
    write_manifest(tmp_path / "m.parquet", {path: record}, splits={path: ["val"]}, labels={path: 1})
    (tmp_path / "list.csv").write_text(f"{data / '3.mp4'} 1\n{data / '4.mp4'} 0\n")
    words = ["--output-dir", str(tmp_path / "out"), "--workers", "1", "DATA.MANIFEST", str(tmp_path / "m.parquet")]
    assert tool.main([str(tmp_path / "list.csv"), *words]) == 0
    manifest = load_manifest(str(tmp_path / "out" / "manifest.parquet"))
    statuses = [manifest.get_entry(f"{tmp_path}/out/videos-000000.tar#{name}.mp4").status for name in "34"]
    assert statuses == ["damaged", "ok"]


def test_errors_say_what_to_do(data, packed, tmp_path, capsys):
    words = ["--output-dir", str(packed), "--shard-gb", "1", *make_words(data)]
    assert tool.main(words) == 1
    assert "packed otherwise (shard_bytes: 30000 there, 1000000000 now)" in capsys.readouterr().err
    assert tool.main(["--output-dir", str(tmp_path)]) == 1
    assert "what is to be packed? Name VIDEOS" in capsys.readouterr().err
    assert tool.main(["--index", str(tmp_path / "*.tar")]) == 1
    assert "there is no such tar file" in capsys.readouterr().err


def test_indexes_alone(tmp_path, capsys):
    shard = write_tar(tmp_path / "s.tar", {"a": b"1", "b": b"2"})
    assert tool.main(["--index", f"{tmp_path}/*.tar"]) == 0
    assert "2 members" in capsys.readouterr().out and shard.with_name("s.tar.index").is_file()
    assert list(shards.list_members(str(shard))) == ["a", "b"]


def test_videos_with_several_classes_and_a_list_that_serves_twice(data, tmp_path):
    (tmp_path / "in").mkdir()
    lines = f"{data}/3.mp4 0,1\n{data}/4.mp4 -\n"
    for name in ("val", "test"):
        (tmp_path / "in" / f"{name}.csv").write_text(lines)
    words = make_words(tmp_path / "in", MODEL__LOSS_FUNC="bce_logit")
    assert tool.main(["--output-dir", str(tmp_path / "out"), "--workers", "1", *words]) == 0
    cfg = load_config(
        [str(tmp_path / "out" / "packed.yaml")], make_words(tmp_path / "out", MODEL__LOSS_FUNC="bce_logit")
    )
    for split in ("val", "test"):
        videos = build_video_list(cfg, split)
        assert [videos.label_sets.get(i).tolist() for i in range(2)] == [[0, 1], []]
        assert [path.split("/")[-1] for path in videos.paths] == ["val-000000.tar#3.mp4", "val-000000.tar#4.mp4"]
    with tarfile.open(tmp_path / "out" / "val-000000.tar") as archive:
        assert json.load(archive.extractfile("3.json"))["labels"] == [0, 1] and "3.cls" not in archive.getnames()
