"""`hiera-video prepare` prints what it forecast and what it did, and says what is legal where it is asked wrongly."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from video_factory import write_video
from waiting_files import wait_for_lines, wait_for_path

from hiera_video.cli import prepare as tool
from hiera_video.config import load_config
from hiera_video.data.build_lists import build_video_list
from hiera_video.data.loader import build_manifest, build_train_dataset
from hiera_video.inspection import run
from hiera_video.video import VideoReader

ROOT = Path(__file__).resolve().parents[2]


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


SMALL = {
    "MODEL.NUM_CLASSES": "3",
    "DATA.NUM_FRAMES": "4",
    "DATA.SAMPLING_RATE": "2",
    "DATA.TRAIN_CROP_SIZE": "32",
    "DATA.TRAIN_JITTER_SCALES": "32,40",
}
TAR = ["--short-side", "64", "--preset", "veryfast", "--workers", "1", "--forecast-sec", "0"]
TAR += ["--tar", "--shard-gb", "0.00003"]


def make_words(folder, output):
    pairs = {"DATA.PATH_TO_DATA_DIR": str(folder), **SMALL}
    return [*(word for pair in pairs.items() for word in pair), "--output-dir", str(output), *TAR]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six videos and one that is none, which keeps its line."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(6):
        write_video(folder / f"{number}.mkv", num_frames=20 + number, width=192, height=128)
    (folder / "page.mkv").write_text("<html>" * 50)
    (folder / "train.csv").write_text("0.mkv 0\n1.mkv 1\npage.mkv 1\n2.mkv 2\n3.mkv 0\n")
    (folder / "val.csv").write_text("4.mkv 0\n5.mkv 1\n")
    return folder


def load(output, name):
    cfg = load_config([str(output / name)], [word for pair in SMALL.items() for word in pair])
    return cfg, {split: build_video_list(cfg, split) for split in ("train", "val")}


def test_tar_files_hold_the_same_samples(data, tmp_path, capsys, monkeypatch):
    inspected = []
    monkeypatch.setattr(run, "map_paths", lambda function, paths, **_: inspected.extend(paths) or iter(()))
    assert tool.main(make_words(data, tmp_path / "out")) == 0
    shown = capsys.readouterr().out
    assert inspected == [], "the manifest of the preparation knows all of them"
    assert f"{tmp_path}/out/shards:\ntrain: 4 of 5 videos in 2 shards" in shown
    assert shown.endswith(f"To train with them: hiera-video run --cfg YOURS.yaml {tmp_path}/out/shards/packed.yaml\n")
    (one_cfg, one), (other_cfg, other) = (
        load(tmp_path / "out", name) for name in ("prepared.yaml", "shards/packed.yaml")
    )
    for split in ("train", "val"):
        paths = other[split].paths
        assert other[split].labels.tolist() == one[split].labels.tolist()
        manifest = build_manifest(other_cfg, paths)
        assert manifest.count_known(paths) == len(paths)
        assert {i: record.status for i, record in manifest.find_broken(paths).items()} == (
            {2: "unreadable"} if split == "train" else {}
        )
        sets = [
            build_train_dataset(cfg, lists[split], manifest=build_manifest(cfg, lists[split].paths))
            for cfg, lists in ((one_cfg, one), (other_cfg, other))
        ]
        for index, path in enumerate(paths.tolist()):
            if "page" in path:
                continue
            assert ".tar#" in path
            first, second = (videos[0, index] for videos in sets)
            assert torch.equal(first["video"], second["video"]) and not first["bad"] and not second["bad"]
            with VideoReader(one[split].paths[index]) as file, VideoReader(path) as member:
                assert torch.equal(file.get_frames(range(len(file))), member.get_frames(range(len(file))))


def snapshot(output):
    """The bytes of everything that training reads; manifests without the times of changes."""
    names = [path for path in output.rglob("*") if path.suffix in (".mp4", ".csv", ".tar", ".yaml", ".index")]
    tables = [
        pd.read_parquet(path).drop(columns="mtime_sec").to_json() for path in sorted(output.rglob("man*.parquet"))
    ]
    return {str(path.relative_to(output)): path.read_bytes() for path in names}, tables


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """The folder of a job that nothing disturbed, and what was in it: shards hold the paths of their videos."""
    output = tmp_path_factory.mktemp("straight") / "out"
    assert tool.main(make_words(data, output)) == 0
    return output, snapshot(output)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["prepare", "pack"])
def test_killed_in_either_part_it_goes_on(data, straight, part):
    output, expected = straight
    shutil.rmtree(output)
    code = f"import sys, faulty_preparation\nfaulty_preparation.slow_down({part!r})\n"
    code += "from hiera_video.cli.prepare import main\nsys.exit(main(sys.argv[1:]))"
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *make_words(data, output)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=env)
    if part == "prepare":
        wait_for_lines(output / "prepared.jsonl", 3, process)
    else:
        wait_for_path(output / "shards" / "train-000000.tar", process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=180) == -9
    time.sleep(0.5)  # a process that outlived its parent may finish the video that it is at
    shards = sorted(path.name for path in output.rglob("*.tar"))
    assert shards == ([] if part == "prepare" else ["train-000000.tar"]) and not list(output.rglob("packed.yaml"))
    written = {path: path.stat().st_mtime_ns for path in output.rglob("*.tar")}
    assert tool.main(make_words(data, output)) == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    files, tables = snapshot(output)
    assert tables == expected[1] and files.keys() == expected[0].keys()
    assert [name for name, content in files.items() if content != expected[0][name]] == []
