"""Where the videos of lists of boxes lie, when they begin, and what becomes of those that are not there."""

import logging

import fsspec
import pytest
import torch
from ava_factory import make_config, write_ava, write_lines
from PIL import Image

from hiera_video.data.box_lists import build_key_frames
from hiera_video.data.box_loaders import build_box_eval_loader
from hiera_video.data.box_videos import build_facts, build_good_videos, build_video_paths
from hiera_video.inspection.inspect_video import inspect_video
from hiera_video.video.manifest import load_manifest, write_manifest

TRUTH_ALONE = ("AVA.TEST_PREDICT_BOX_LISTS", "[]")


@pytest.fixture
def folder(tmp_path):
    return write_ava(tmp_path / "data")


def write_manifest_of(folder, paths):
    records = {str(path): inspect_video(str(path)) for path in paths}
    path, splits = folder / "m.parquet", {key: ["train"] for key in records}
    write_manifest(path, records, splits=splits, labels=dict.fromkeys(records, 0))
    return str(path)


def test_whole_films_and_a_given_start(folder, tmp_path, caplog):
    whole = write_ava(tmp_path / "whole", num_frames=30)
    for name in ("train", "val"):
        path = whole / f"ava_{name}_v2.2.csv"
        path.write_text(path.read_text().replace(",90", ",0"))  # seconds 1 to 4
    with pytest.raises(ValueError, match=r"a.mp4: it lasts 1.0 s, and the lists name second 2 .*AVA.START_SEC"):
        build_key_frames(make_config(whole, *TRUTH_ALONE), "test")
    assert set(build_key_frames(make_config(whole, "AVA.START_SEC", "1"), "train").start_secs) == {1.0}
    with caplog.at_level(logging.INFO, logger="hiera_video"):
        assert set(build_key_frames(make_config(folder), "train").start_secs) == {900.0}
    assert "a.mp4 lasts 5 s: files are taken to begin at second 900" in caplog.text


def test_a_manifest_says_how_long_a_video_is(folder):
    manifest = write_manifest_of(folder, (folder / "videos").iterdir())
    found = build_key_frames(make_config(folder, "DATA.MANIFEST", manifest), "train")
    assert set(found.start_secs) == {900.0}


def test_videos_that_are_not_there(folder, caplog):
    """Training does without them; in a test their boxes stay, and are not predicted."""
    (folder / "videos" / "b.mkv").unlink()
    with caplog.at_level(logging.WARNING, logger="hiera_video"):
        assert set(build_key_frames(make_config(folder), "train").videos) == {"a"}
    assert "left out of training: 1 of 2 videos" in caplog.text
    assert set(build_key_frames(make_config(folder), "test").videos) == {"a", "b"}
    with pytest.raises(ValueError, match=r"1 of 2 videos to train on are missing or broken, more than DATA.MAX_BAD"):
        build_key_frames(make_config(folder, "DATA.MAX_BAD_VIDEOS", "0"), "train")
    (folder / "videos" / "a.mp4").unlink()
    with pytest.raises(FileNotFoundError, match=r"none of the 2 videos .*a; DATA.PATH_PREFIX"):
        build_key_frames(make_config(folder), "train")


def test_videos_that_a_manifest_calls_broken(folder):
    (folder / "videos" / "b.mkv").write_bytes(b"")
    cfg = make_config(folder, "DATA.MANIFEST", write_manifest_of(folder, (folder / "videos").iterdir()))
    paths = build_video_paths(cfg, "train", ["a", "b"])
    assert build_good_videos(cfg, paths, load_manifest(cfg.DATA.MANIFEST)) == ["a"]


def test_videos_in_a_folder_of_their_own(folder, tmp_path):
    (tmp_path / "films").mkdir()
    for path in (folder / "videos").iterdir():
        path.rename(tmp_path / "films" / path.name)
    (folder / "videos").rmdir()
    cfg = make_config(folder, "DATA.PATH_PREFIX", str(tmp_path / "films"))
    assert build_video_paths(cfg, "train", ["b"]) == {"b": str(tmp_path / "films" / "b.mkv")}


@pytest.mark.parametrize("has_lists", [False, True])
def test_extracted_frames(folder, tmp_path, has_lists):
    """At 30 a second, from 900 s on; a picture's level is its number."""
    header, lines = "original_vido_id video_id frame_id path labels", []
    for video in ("a", "b"):
        (tmp_path / "frames" / video).mkdir(parents=True)
        for number in range(150):
            name = f"{video}/{video}_{number + 1:06d}.png"
            Image.new("RGB", (40, 32), (number,) * 3).save(tmp_path / "frames" / name)
            lines.append(f'{video} 0 {number} {name} ""')
    pairs = ["AVA.FRAME_DIR", str(tmp_path / "frames"), *TRUTH_ALONE]
    if has_lists:
        write_lines(tmp_path / "val.csv", [header, *lines])
        pairs += ["AVA.FRAME_LIST_DIR", str(tmp_path)]
    loader = build_box_eval_loader(make_config(folder, *pairs), "test")
    assert loader.dataset.videos.paths[0] == f"{tmp_path}/frames/a/a_%06d.png#1-150"
    (batch,) = loader
    assert batch["video"][:, 0, 0, :, 16, 16].tolist() == [[52, 56, 60, 64], [112, 116, 120, 124]]


def test_videos_at_a_url_give_the_same_samples(folder):
    files = fsspec.filesystem("memory")
    for path in (folder / "videos").iterdir():
        files.pipe(f"/ava_films/{path.name}", path.read_bytes())
    cfg = make_config(folder, "DATA.PATH_PREFIX", "memory://ava_films")
    (remote,), (local,) = build_box_eval_loader(cfg, "test"), build_box_eval_loader(make_config(folder), "test")
    assert not remote["bad"] and all(torch.equal(remote[key], local[key]) for key in ("video", "boxes", "rows"))


def test_facts_of_videos(folder):
    for pairs in ((), ("DATA.MANIFEST", write_manifest_of(folder, (folder / "videos").iterdir()))):
        facts = build_facts(make_config(folder, *pairs))
        assert facts.get_size("b") == (64, 64) and facts.get_time_sec("a", 45) == pytest.approx(1.5)
        with pytest.raises(ValueError, match=r"a.mp4: frame 150 has boxes; legal are 0 to 149"):
            facts.get_time_sec("a", 150)
    with pytest.raises(ValueError, match=r"size of .*gone is needed, as its boxes are in pixels"):
        facts.get_size("gone")
