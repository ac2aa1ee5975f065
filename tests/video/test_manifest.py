"""A manifest gives the same frames as a scan, notices changed files, and keeps broken videos out of training."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from video_factory import read_number, write_video

from hiera_video.config import load_config
from hiera_video.data.loader import build_train_loader, build_val_loader
from hiera_video.inspection.inspect_video import inspect_video
from hiera_video.video import VideoReader, pyav_backend
from hiera_video.video import manifest as manifest_module
from hiera_video.video.manifest import VideoRecord, load_manifest, write_manifest

KINDS = {
    "b_frames.mp4": {},
    "uneven.mp4": {"pts": [i * 40 + i % 3 * 7 for i in range(60)]},
    "hidden.mp4": {"packet_shift": 200},
    "late.mp4": {"pts": [5000 + i * 40 for i in range(60)]},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "transport.ts": {},
}


def save(path, records, labels=None):
    splits = {video: ["train"] for video in records}
    write_manifest(path, records, splits=splits, labels=labels or dict.fromkeys(records, 0))
    return load_manifest(str(path))


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    return [str(write_video(folder / name, num_frames=60, **options)) for name, options in KINDS.items()]


@pytest.fixture(scope="module")
def manifest(kinds, tmp_path_factory):
    return save(tmp_path_factory.mktemp("manifest") / "m.parquet", {path: inspect_video(path) for path in kinds})


@pytest.fixture(scope="module")
def scanned(kinds):
    """All frames of each file, and its index, without a manifest."""
    found = {}
    for path in kinds:
        with VideoReader(path) as reader:
            found[path] = reader.index, reader.get_frames(range(len(reader)))
    return found


def test_records_come_back_as_they_were(kinds, manifest, scanned):
    assert len(manifest) == len(kinds)
    for path in kinds:
        assert manifest.get_entry(path) == inspect_video(path)
        assert manifest.get_entry(path).index == scanned[path][0]
    assert manifest.get_entry(kinds[0] + "x") is None and manifest.get_entry("") is None


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_frames_through_a_manifest_are_those_of_a_scan(kinds, manifest, scanned, data):
    path = data.draw(st.sampled_from(kinds))
    index, frames = scanned[path]
    wanted = data.draw(st.lists(st.integers(0, index.num_frames - 1), min_size=1, max_size=8))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("scan_packets", "decode_index"):
            patch.setattr(pyav_backend, name, lambda *_, **__: pytest.fail("the file was scanned"))
        with VideoReader(path, index=manifest.get_entry(path).index) as reader:
            assert torch.equal(reader.get_frames(wanted), frames[wanted])
            assert (len(reader), reader.fps, reader.times_sec) == (index.num_frames, index.fps, index.times_sec)


def test_a_manifest_of_any_paths(tmp_path):
    names = ["b", "a", "a b", "ä/ö", "日本/動画.mp4", "", "a/b", "s3://bucket/x.mp4", "Z", "a\tb", "aa"]
    manifest = save(tmp_path / "m.parquet", {name: VideoRecord("unreadable", name) for name in names})
    assert [manifest.get_entry(name).reason for name in names] == names
    assert manifest.get_entry("a ") is None and manifest.get_entry("ä") is None
    assert pickle.loads(pickle.dumps(manifest)).get_entry("ä/ö") == manifest.get_entry("ä/ö")
    assert manifest.count_known(np.array(["a", "c", "aa"])) == 2
    assert len(save(tmp_path / "none.parquet", {})) == 0


def test_a_changed_file_is_scanned_again(tmp_path, caplog):
    paths = [write_video(tmp_path / f"{i}.mp4", num_frames=30) for i in range(3)]
    manifest = save(tmp_path / "m.parquet", {str(path): inspect_video(str(path)) for path in paths})
    for path in paths[:2]:
        write_video(path, num_frames=50)
    with caplog.at_level(logging.DEBUG, logger="hiera_video"):
        entries = [manifest.get_entry(str(path)) for path in paths]
    assert entries[:2] == [None, None] and entries[2].index.num_frames == 30 and manifest.num_changed == 2
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and "0.mp4" in warnings[0] and "scanned again" in warnings[0]


def test_another_file_of_the_same_size_is_noticed(tmp_path):
    """Only decoding shows it; then the frames are counted again."""
    first = write_video(tmp_path / "a.mp4", num_frames=60)
    manifest = save(tmp_path / "m.parquet", {str(first): inspect_video(str(first))})
    other = write_video(tmp_path / "b.mp4", num_frames=40, pts=[i * 50 for i in range(40)]).read_bytes()
    spare = first.stat().st_size - len(other)
    first.write_bytes(other + spare.to_bytes(4, "big") + b"free" + bytes(spare - 8))
    entry = manifest.get_entry(str(first))
    with VideoReader(str(first), index=entry.index) as reader:
        assert [read_number(frame) for frame in reader.get_frames([3, 0, 39])] == [3, 0, 39]
        assert len(reader) == 40


@pytest.mark.parametrize("content", [b"", b"not parquet", None])
def test_what_is_no_manifest(tmp_path, content):
    path = tmp_path / "m.parquet"
    if content is None:
        pq.write_table(pa.table({"path": ["a"], "frames": [3]}), path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="m.parquet is no"):
        load_manifest(str(path))
    with pytest.raises(FileNotFoundError, match="check_dataset"):
        load_manifest(str(tmp_path / "other.parquet"))


@pytest.fixture
def data_dir(tmp_path):
    """Ten videos, three of them broken; the frames of each show numbers from 0 on."""
    names = [f"{i}.mp4" for i in range(10)]
    for name in names:
        write_video(tmp_path / name, num_frames=20)
    (tmp_path / "2.mp4").unlink()
    (tmp_path / "5.mp4").write_bytes(b"")
    (tmp_path / "7.mp4").write_bytes(b"no video" * 99)
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text("\n".join(f"{name} {i % 2}" for i, name in enumerate(names)))
    paths = [str(tmp_path / name) for name in names]
    records = {path: inspect_video(path) for path in paths}
    save(tmp_path / "m.parquet", {path: record for path, record in records.items() if not path.endswith("9.mp4")})
    return tmp_path


def make_cfg(folder, **changes):
    pairs = {
        "DATA.PATH_TO_DATA_DIR": folder,
        "DATA.MANIFEST": folder / "m.parquet",
        "DATA.NUM_FRAMES": 4,
        "DATA.SAMPLING_RATE": 2,
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TRAIN_JITTER_SCALES": [32, 40],
        "DATA_LOADER.NUM_WORKERS": 0,
        "MODEL.NUM_CLASSES": 2,
        "TRAIN.BATCH_SIZE": 2,
        "TEST.BATCH_SIZE": 5,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return load_config([], [str(word) for pair in pairs.items() for word in pair])


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that are opened, and whether their frames were known."""
    names = []

    class Noting(VideoReader):
        def __init__(self, path, **options):
            names.append((Path(path).name, options.get("index") is not None))
            super().__init__(path, **options)

    monkeypatch.setattr(manifest_module, "VideoReader", Noting)
    return names


def test_training_leaves_out_broken_videos(data_dir, opened, caplog):
    with caplog.at_level(logging.INFO, logger="hiera_video"):
        loader = build_train_loader(make_cfg(data_dir))
    assert "left out of training: 3 of 10 videos (1 missing, 1 empty, 1 unreadable)" in caplog.text
    assert "knows 9 of 10 videos" in caplog.text
    videos = loader.dataset.videos
    assert [Path(path).name for path in videos.paths] == [f"{i}.mp4" for i in (0, 1, 3, 4, 6, 8, 9)]
    assert videos.labels.tolist() == [0, 1, 1, 0, 0, 0, 1]
    batches = list(loader)
    assert len(batches) == 3 and not any(batch["bad"] for batch in batches)
    loader.dataset[0, 6]
    assert ("9.mp4", False) in opened and set(opened) - {("9.mp4", False)} <= {(f"{i}.mp4", True) for i in range(9)}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_are_the_same_with_and_without(data_dir, num_workers):
    known = build_val_loader(make_cfg(data_dir, DATA_LOADER__NUM_WORKERS=num_workers))
    scanned = build_val_loader(make_cfg(data_dir, DATA__MANIFEST="", DATA_LOADER__NUM_WORKERS=num_workers))
    for first, second in zip(known, scanned, strict=True):
        assert torch.equal(first["video"], second["video"]) and torch.equal(first["index"], second["index"])
        assert [entry[:2] for entry in first["bad"]] == [entry[:2] for entry in second["bad"]]


def test_tests_name_broken_videos_without_opening_them(data_dir, opened):
    batches = list(build_val_loader(make_cfg(data_dir)))
    bad = [entry for batch in batches for entry in batch["bad"]]
    assert [entry.position for entry in bad] == [2, 5, 7]
    reasons = [entry.reason.replace(str(data_dir), "") for entry in bad]
    assert reasons[0] == "/2.mp4: missing when the data set was checked (no such file); not opened"
    assert "empty when" in reasons[1] and "unreadable when" in reasons[2]
    assert {name for name, _ in opened} == {f"{i}.mp4" for i in (0, 1, 3, 4, 6, 8, 9)}
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(10)), "each counts"


def test_repaired_videos_are_taken_again(data_dir, opened):
    write_video(data_dir / "2.mp4", num_frames=20)
    loader = build_train_loader(make_cfg(data_dir))
    assert str(data_dir / "2.mp4") in loader.dataset.videos.paths
    position = loader.dataset.videos.paths.tolist().index(str(data_dir / "2.mp4"))
    assert loader.dataset[0, position]["bad"] == [] and opened == [("2.mp4", False)]


def test_too_many_broken_videos_stop_training(data_dir):
    with pytest.raises(ValueError, match=r"3 videos .*1 missing, 1 empty, 1 unreadable.*DATA.MAX_BAD_VIDEOS = 2"):
        build_train_loader(make_cfg(data_dir, DATA__MAX_BAD_VIDEOS=2))
    build_train_loader(make_cfg(data_dir, DATA__MAX_BAD_VIDEOS=3))


def test_a_manifest_of_other_videos(data_dir):
    save(data_dir / "m.parquet", {"/elsewhere/0.mp4": VideoRecord("missing", "no such file")})
    for build in (build_train_loader, build_val_loader):
        with pytest.raises(ValueError, match=r"knows none of the 10 videos of the list.*0.mp4.*PATH_PREFIX"):
            build(make_cfg(data_dir))
