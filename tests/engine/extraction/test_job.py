"""Embeddings are those of a naive loop, whatever the batches, the processes, the interruptions and the broken files."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_words import to_words
from video_factory import decode_plainly, write_video

import hiera_video as hv
from hiera_video.config import load_config
from hiera_video.data.transforms import EvalTransform, normalize_video
from hiera_video.engine.extraction.batching import build_compute
from hiera_video.engine.trained import load_model
from hiera_video.models.features import compute_features
from hiera_video.streams.clip_loader import ClipLoader

ROOT = Path(__file__).resolve().parents[3]
NAMES = ["a", "b", "sub/c", "sub/d"]


def start(options, *launcher):
    return subprocess.Popen(
        [sys.executable, *launcher, "tools/run_net.py", *to_words(options)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def run(options, *launcher):
    process = start(options, *launcher)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def embed_naively(options, path, *, num_crops=1, layer="pooled"):
    """Features (windows * crops, D) of a video: all of it decoded, one window after the other, one clip a time."""
    cfg = load_config([], to_words({**options, "EXTRACT.ENABLE": "False"}))
    model = load_model(cfg, options["EXTRACT.CHECKPOINT_FILE_PATH"]).eval()
    frames = torch.from_numpy(np.stack(decode_plainly(path)))
    transform = EvalTransform(num_crops=num_crops, short_side_px=36 if num_crops == 1 else 32, crop_size_px=32)
    features = []
    begin = 0
    while True:
        places = [min(begin + i * 15 // 3, len(frames) - 1) for i in range(4)]  # 16 frames: 0, 5, 10, 15
        for view in transform(frames[places]):
            clip = normalize_video(view[None], mean=cfg.DATA.MEAN, std=cfg.DATA.STD)
            with torch.no_grad():
                features.append(compute_features(model, clip, layer)[0].flatten())
        if begin + 16 >= len(frames):
            return torch.stack(features)
        begin += 8


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_are_those_of_a_naive_loop(options, videos, run_job, workers):
    run_job({**options, "DATA_LOADER.NUM_WORKERS": str(workers)})
    found = hv.read_embeddings(options["OUTPUT_DIR"])
    expected = {name: embed_naively(options, videos / f"{name}.mp4") for name in NAMES}
    assert found.table["video_id"].tolist() == [name for name in NAMES for _ in expected[name]]
    torch.testing.assert_close(found.vectors, torch.cat([expected[name] for name in NAMES]), atol=1e-5, rtol=0)
    assert found.table["start_sec"][:3].tolist() == pytest.approx([0, 0.32, 0.64])
    assert found.table["end_sec"].max() == pytest.approx(61 / 25)
    assert found.table.groupby("video_id")["view"].max().add(1).tolist() == [len(expected[n]) for n in NAMES]


@pytest.mark.parametrize("average", ["none", "crops", "video"])
@pytest.mark.parametrize("l2_normalize", [False, True])
def test_averages_and_lengths(options, videos, run_job, average, l2_normalize):
    changes = {"EXTRACT.NUM_CROPS": "3", "EXTRACT.AVERAGE": average, "EXTRACT.L2_NORMALIZE": str(l2_normalize)}
    run_job({**options, **changes, "EXTRACT.VIDEOS": str(videos / "a.mp4")})
    views = embed_naively(options, videos / "a.mp4", num_crops=3)
    clips = views.unflatten(0, (-1, 3)).mean(dim=1)
    expected = {"none": views, "crops": clips, "video": views.mean(dim=0, keepdim=True)}[average]
    if l2_normalize:
        expected = expected / expected.norm(dim=1, keepdim=True)
    found = hv.read_embeddings(options["OUTPUT_DIR"])
    torch.testing.assert_close(found.vectors, expected, atol=1e-5, rtol=0)
    assert found.table["end_sec"].iloc[-1] == pytest.approx(61 / 25)
    assert found.table["view"].tolist() == list(range(len(expected)))
    if average == "none":
        assert found.table["start_sec"][:4].tolist() == pytest.approx([0, 0, 0, 0.32])


def test_maps_lie_in_spatial_order_and_as_files(options, videos, run_job):
    changes = {"EXTRACT.LAYER": "map3", "EXTRACT.DTYPE": "float16", "EXTRACT.WRITE_NPY": "True"}
    run_job({**options, **changes, "EXTRACT.WRITE_SAFETENSORS": "True"})
    found = hv.read_embeddings(options["OUTPUT_DIR"])
    assert found.info["shape"] == [2, 2, 2, 32]
    expected = embed_naively(options, videos / "sub" / "c.mp4", layer="map3")
    stored = np.load(Path(options["OUTPUT_DIR"]) / "npy" / "sub" / "c.npy")
    assert stored.dtype == np.float16 and stored.shape == (len(expected), 2, 2, 2, 32)
    np.testing.assert_allclose(stored.reshape(len(expected), -1), expected.numpy(), atol=3e-3)
    assert (Path(options["OUTPUT_DIR"]) / "safetensors" / "a.safetensors").is_file()


def test_batches_reach_over_videos(options, videos):
    cfg = load_config([], to_words({**options, "EXTRACT.ENABLE": "False"}))
    model = load_model(cfg, options["EXTRACT.CHECKPOINT_FILE_PATH"]).eval()
    sizes = []
    original = model.forward_features
    model.forward_features = lambda video: sizes.append(len(video)) or original(video)
    build_compute(cfg, model)(torch.zeros(3, 3, 4, 32, 32, dtype=torch.uint8))
    assert sizes.pop() == 3
    found = hv.embed(videos, model=model, batch_size=4, window_frames=16, stride_frames=8, num_workers=1)
    assert sizes == [4] * (len(found) // 4) + ([len(found) % 4] if len(found) % 4 else [])


def test_the_side_car_says_everything(options, run_job):
    run_job(options)
    info = hv.read_embeddings(options["OUTPUT_DIR"]).info
    digest = hashlib.sha256(Path(options["EXTRACT.CHECKPOINT_FILE_PATH"]).read_bytes()).hexdigest()
    assert info["settings"]["weights_sha256"] == digest
    assert info["settings"]["EXTRACT.STRIDE"] == 0.32 and info["settings"]["DATA.TARGET_FPS"] == 30
    assert info["clips"] == {
        "kind": "sliding windows",
        "window": 0.64,
        "stride": 0.32,
        "unit": "sec",
        "num_frames": 4,
        "frames": "first to last, evenly",
    }
    assert info["decoder"].startswith("pyav ") and "libavcodec" in info["decoder"]
    assert info["shape"] == [64] and info["runs"][0]["versions"]["torch"] == version("torch")
    assert "EXTRACT:" in info["config"]


def test_broken_videos_are_named_and_the_others_done(options, videos, tmp_path, run_job):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("not a video" * 100)
    listed = [videos / "a.mp4", tmp_path / "empty.mp4", tmp_path / "none.mp4", tmp_path / "text.mp4", videos / "b.mp4"]
    list_file = tmp_path / "list.txt"
    list_file.write_text("".join(f"{path} {i}\n" for i, path in enumerate(listed)))
    run_job({**options, "EXTRACT.VIDEOS": str(list_file)})
    found = hv.read_embeddings(options["OUTPUT_DIR"])
    assert found.table.groupby("path")["label"].first().to_dict() == {str(listed[0]): 0, str(listed[4]): 4}
    failures = pd.read_parquet(Path(options["OUTPUT_DIR"]) / "failures.parquet").set_index("path")["reason"]
    assert set(failures.index) == {str(path) for path in listed[1:4]}
    assert "empty (0 bytes)" in failures[str(listed[1])] and "no such file" in failures[str(listed[2])]


def test_what_is_done_is_not_done_again(options, videos, run_job):
    run_job({**options, "EXTRACT.VIDEOS": str(videos / "sub")})
    before = {path: path.stat().st_mtime_ns for path in Path(options["OUTPUT_DIR"]).rglob("*.parquet")}
    run_job(options)
    output = Path(options["OUTPUT_DIR"]) / "stdout.log"
    assert "2 videos to embed, 2 are done already" in output.read_text()
    assert all(path.stat().st_mtime_ns == old for path, old in before.items() if path.name.startswith("shard"))
    found = hv.read_embeddings(options["OUTPUT_DIR"])
    assert sorted(found.table["path"].unique()) == [str(videos / f"{name}.mp4") for name in NAMES]
    assert len(found.info["runs"]) == 2


def test_a_resume_warns_of_other_versions(options, videos, run_job):
    run_job({**options, "EXTRACT.VIDEOS": str(videos / "sub")})
    side_car = Path(options["OUTPUT_DIR"]) / "extraction.json"
    content = json.loads(side_car.read_text())
    content["runs"][0]["versions"]["torch"] = "1.0"
    side_car.write_text(json.dumps(content))
    run_job(options)
    log = (Path(options["OUTPUT_DIR"]) / "stdout.log").read_text()
    assert f"made with other versions: torch 1.0 -> {version('torch')}" in log


def test_other_settings_in_the_same_folder_are_refused(options, run_job):
    run_job(options)
    message = run_job({**options, "EXTRACT.STRIDE": "0.5", "EXTRACT.LAYER": "stage3"})
    assert "EXTRACT.LAYER: 'pooled' there, 'stage3' now; EXTRACT.STRIDE: 0.32 there, 0.5 now" in message
    assert run_job({**options, "EXTRACT.BATCH_SIZE": "2", "RNG_SEED": "7"}) is None


def test_wrong_weights_and_no_videos_are_refused(options, run_job, tmp_path):
    assert "no weights: EXTRACT.CHECKPOINT_FILE_PATH is empty" in run_job(
        {**options, "EXTRACT.CHECKPOINT_FILE_PATH": "", "OUTPUT_DIR": str(tmp_path / "new")}
    )
    weights = torch.load(options["EXTRACT.CHECKPOINT_FILE_PATH"])["model_state"]
    kept = {name: value for name, value in weights.items() if not name.startswith("blocks.0.")}
    torch.save({"model_state": kept}, tmp_path / "hollow.pth")
    message = run_job({**options, "EXTRACT.CHECKPOINT_FILE_PATH": str(tmp_path / "hollow.pth")})
    assert "missing" in message and "blocks.0." in message
    assert "no video there" in run_job({**options, "EXTRACT.VIDEOS": str(tmp_path)})


def write_many(folder, count):
    folder.mkdir()
    for i in range(count):
        write_video(folder / f"{i:02d}.mp4", num_frames=20 + 7 * (i % 5), width=48, height=48)
    return folder


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_rows(options, tmp_path):
    videos = write_many(tmp_path / "many", 40)
    slow = {**options, "EXTRACT.VIDEOS": str(videos), "EXTRACT.STRIDE": "0.04", "EXTRACT.BATCH_SIZE": "1"}
    run({**slow, "OUTPUT_DIR": str(tmp_path / "whole")})
    expected = hv.read_embeddings(tmp_path / "whole")
    generator = random.Random(0)
    num_killed_at_work = 0
    for _ in range(2):
        process = start(slow)
        shards = Path(slow["OUTPUT_DIR"]) / "embeddings"
        deadline = time.monotonic() + 180
        while not shards.is_dir() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(generator.uniform(0.0, 1.0))
        num_killed_at_work += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert num_killed_at_work > 0
    run(slow)
    found = hv.read_embeddings(slow["OUTPUT_DIR"])
    assert found.table.equals(expected.table)
    torch.testing.assert_close(found.vectors, expected.vectors, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.distributed
def test_several_processes_share_the_videos(options, videos, run_job, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    run({**options, "OUTPUT_DIR": str(tmp_path / "two")}, *launcher)
    run_job(options)
    one, two = hv.read_embeddings(options["OUTPUT_DIR"]), hv.read_embeddings(tmp_path / "two")
    assert two.table.equals(one.table) and two.info["runs"][0]["num_processes"] == 2
    torch.testing.assert_close(two.vectors, one.vectors, atol=1e-6, rtol=0)


def test_a_second_extraction_takes_no_name_that_is_in_use(options, videos, run_job, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    for name in ("a", "c"):  # c is the name of sub/c.mp4 where sub alone is embedded
        write_video(again / f"{name}.mp4", num_frames=9)
    run_job({**options, "EXTRACT.VIDEOS": str(videos / "sub"), "EXTRACT.WRITE_NPY": "True"})
    run_job({**options, "EXTRACT.VIDEOS": str(again), "EXTRACT.WRITE_NPY": "True"})
    names = {path.name for path in (Path(options["OUTPUT_DIR"]) / "npy").iterdir()}
    assert names == {"c.npy", "d.npy", "a.npy", "c.mp4.npy"}


def test_an_interrupted_run_keeps_what_is_complete(options, videos, monkeypatch):
    def interrupt(chunks_of_one):
        for chunk in chunks_of_one:
            yield chunk
            if chunk.is_last:
                raise KeyboardInterrupt

    original = ClipLoader.__iter__
    monkeypatch.setattr(ClipLoader, "__iter__", lambda self: interrupt(original(self)))
    model = hv.build_model("hiera_tiny_16x224", embed_dim=8, stages=(1, 1, 1, 1), input_size=(4, 32, 32))
    with pytest.raises(KeyboardInterrupt):
        hv.embed(videos / "b.mp4", model=model, output_dir=options["OUTPUT_DIR"], num_workers=0, batch_size=1)
    assert set(hv.read_embeddings(options["OUTPUT_DIR"]).table["video_id"]) == {"b"} and model.training
