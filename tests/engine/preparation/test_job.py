"""The whole job: every video in or out with a reason, killed or not, and never twice."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import faulty_preparation
import numpy as np
import pandas as pd
import pytest
from video_factory import cut_file, write_video
from waiting_files import wait_for_lines

from hiera_video.config import load_config
from hiera_video.data.build_lists import build_video_list
from hiera_video.data.loader import build_train_dataset
from hiera_video.engine.preparation import job
from hiera_video.preparation.prepare_video import Settings
from hiera_video.video import VideoReader
from hiera_video.video.manifest import load_manifest, open_video
from hiera_video.video.reencode import Encoding

ROOT = Path(__file__).resolve().parents[3]
ENCODING = Encoding(short_side_px=64, key_distance_frames=8, preset="veryfast")
SETTINGS = Settings(ENCODING, pictures_fps=25.0)
SMALL = {
    "MODEL.NUM_CLASSES": 3,
    "DATA.NUM_FRAMES": 4,
    "DATA.SAMPLING_RATE": 2,
    "DATA.TARGET_FPS": 25,
    "DATA.TRAIN_CROP_SIZE": 32,
    "DATA.TRAIN_JITTER_SCALES": [32, 40],
}
OPTIONS = ["--short-side", "64", "--key-frames", "8", "--preset", "veryfast", "--workers", "1"]


def make_config(folder, **keys):
    pairs = {"DATA.PATH_TO_DATA_DIR": folder, **SMALL, **keys}
    return load_config([], [str(word) for pair in pairs.items() for word in pair])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten videos in subfolders; one is no video, one is cut off."""
    folder = tmp_path_factory.mktemp("data")
    names = [f"{place}/{number}.mkv" for place in ("a b", "ü") for number in range(5)]
    for position, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        write_video(folder / name, num_frames=20 + position)
    (folder / names[3]).write_text("<html>" * 50)
    whole = write_video(folder / "whole.mkv", num_frames=60)
    cut_file(whole, folder / names[7], num_bytes=whole.stat().st_size // 2)
    (folder / "train.csv").write_text("".join(f"{name} {i % 3}\n" for i, name in enumerate(names)))
    (folder / "val.csv").write_text(f"{names[0]} 0\n{names[3]} 0\n")
    return folder


def prepare(data, output, **options):
    options = {"num_workers": 2, "forecast_sec": 0, **options}
    return job.prepare(make_config(data), SETTINGS, output_dir=str(output), **options)


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """The output folder and the report of a job that nothing disturbed."""
    output = tmp_path_factory.mktemp("straight")
    return output, prepare(data, output, forecast_sec=0.01)


def test_every_video_is_in_or_out_with_its_reason(data, straight):
    output, report = straight
    failures = pd.read_parquet(output / "failures.parquet")
    assert failures.to_dict("records") == [
        {
            "path": f"{data}/a b/3.mkv",
            "status": "unreadable",
            "reason": "cannot be opened as a video: Invalid data found when processing input",
        }
    ]
    assert sorted(str(path.relative_to(output)) for path in output.rglob("*.mp4")) == [
        *(f"videos/a b/{number}.mp4" for number in (0, 1, 2, 4)),
        *(f"videos/ü/{number}.mp4" for number in range(5)),
    ]
    result = report["result"]
    assert (result["num_prepared"], result["num_failed"], result["num_damaged"]) == (9, 1, 1)
    assert result["psnr_db"] > 20 and report["rates"]["now"] > 0 and report["forecast"]["num_sampled"] == 2
    assert json.loads((output / "prepare_report.json").read_text())["result"]["num_prepared"] == 9


def test_a_job_reads_lists_and_manifest(data, straight):
    """With the written config alone: the same lines, without a scan, and the broken video is known as such."""
    output, _ = straight
    pairs = [str(word) for pair in SMALL.items() for word in pair]
    cfg = load_config([str(output / "prepared.yaml")], pairs)
    old, new = build_video_list(make_config(data), "train"), build_video_list(cfg, "train")
    assert new.labels.tolist() == old.labels.tolist()
    manifest = load_manifest(cfg.DATA.MANIFEST)
    assert manifest.count_known(new.paths) == 10 and list(manifest.find_broken(new.paths)) == [3]
    for before, after in zip(old.paths.tolist(), new.paths.tolist(), strict=True):
        if "a b/3" not in before:
            with VideoReader(before) as one, open_video(after, manifest) as other:
                assert len(one) == len(other) and one.fps == other.fps
                assert one.times_sec == pytest.approx(other.times_sec, abs=1e-9)
    sample = build_train_dataset(cfg, new, manifest=manifest)[0, 5]
    assert sample["video"].shape == (1, 3, 4, 32, 32) and not sample["bad"]


def snapshot(output):
    """The bytes of all videos and lists, and the manifest but for times of changes."""
    files = {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*") if p.suffix in (".mp4", ".csv")}
    manifest = pd.read_parquet(output / "manifest.parquet").drop(columns="mtime_sec")
    manifest["path"] = [os.path.relpath(path, output) for path in manifest["path"]]
    return files, manifest.to_json()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_job_goes_on(data, straight, tmp_path, number):
    """A real signal after some videos; the next start does the others alone, and the result is the same."""
    code = "import sys\nimport faulty_preparation\nfrom hiera_video.engine.preparation import job\n"
    code += "job.prepare_video = faulty_preparation.prepare_slowly\nfrom hiera_video.cli.prepare import main\n"
    code += "sys.exit(main(sys.argv[1:]))"
    pairs = [str(word) for pair in ({"DATA.PATH_TO_DATA_DIR": data} | SMALL).items() for word in pair]
    words = [*pairs, "--output-dir", str(tmp_path), "--forecast-sec", "0", *OPTIONS]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *words]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, env=env, text=True)
    wait_for_lines(tmp_path / "prepared.jsonl", 3, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=180)
    assert process.returncode == (-9 if number == signal.SIGKILL else 75), stderr
    time.sleep(0.5)  # a process that outlived its parent may finish the video that it is at
    done = [json.loads(line) for line in (tmp_path / "prepared.jsonl").read_text().splitlines()]
    assert 3 <= len(done) < 10 and not (tmp_path / "manifest.parquet").exists()
    (tmp_path / "videos" / ".1-2.partial").write_bytes(b"left")
    report = prepare(data, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "prepared.jsonl").read_text().splitlines()]
    again = [line["source"] for line in lines[len(done) :]]
    assert not {line["source"] for line in done if line["row"]["status"] == "ok"} & set(again)
    assert report["num_new"] == 9 - sum(line["row"]["status"] == "ok" for line in done)
    assert snapshot(tmp_path) == snapshot(straight[0]) and not list(tmp_path.rglob("*.partial"))


def test_a_second_start_does_what_failed_alone(data, straight):
    output, _ = straight
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.mp4")}
    report = prepare(data, output)
    assert report["num_new"] == 0 and report["result"]["num_prepared"] == 9
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.mp4")} == before


def test_other_settings_are_refused(data, straight, tmp_path):
    output, _ = straight
    other = Settings(dataclasses.replace(ENCODING, key_distance_frames=4), range_sec=(0, 1), pictures_fps=25.0)
    message = r"settings \(key_distance_frames: 8 there, 4 now; range_sec: None there, \[0, 1\] now\); take another"
    with pytest.raises(ValueError, match=message):
        job.prepare(make_config(data), other, output_dir=str(output))
    (tmp_path / "train.csv").write_text("a.mp4 0\n")
    with pytest.raises(ValueError, match=r"DATA.PATH_TO_DATA_DIR: .* there, .* now"):
        job.prepare(make_config(tmp_path), SETTINGS, output_dir=str(output))


def test_a_folder_whose_settings_are_unknown_is_refused(data, tmp_path):
    (tmp_path / "prepared.jsonl").touch()
    with pytest.raises(ValueError, match=r"has prepared videos but no prepare.json"):
        prepare(data, tmp_path)


@pytest.mark.slow
def test_files_that_kill_or_hang_their_process(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "prepare_video", faulty_preparation.prepare)
    for name in ("segfault", "endless", "fine"):
        write_video(tmp_path / f"{name}.mp4", num_frames=10)
    (tmp_path / "train.csv").write_text("segfault.mp4 0\nendless.mp4 1\nfine.mp4 2\n")
    report = prepare(tmp_path, tmp_path / "out", timeout_sec=10)
    failures = pd.read_parquet(tmp_path / "out" / "failures.parquet").set_index("path")
    assert failures["reason"].to_dict() == {
        f"{tmp_path}/segfault.mp4": "its process was ended by SIGSEGV",
        f"{tmp_path}/endless.mp4": "not done after 10 s",
    }
    assert not list((tmp_path / "out").rglob("*.partial")), "what they had begun is gone"
    assert failures["status"].tolist() == ["crashed", "stuck"] and report["result"]["num_prepared"] == 1
    manifest = load_manifest(str(tmp_path / "out" / "manifest.parquet"))
    paths = np.array([f"{tmp_path}/out/videos/{name}.mp4" for name in ("segfault", "endless", "fine")])
    assert {i: record.status for i, record in manifest.find_broken(paths).items()} == {0: "crashed", 1: "stuck"}
