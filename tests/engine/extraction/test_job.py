"""Embeddings are those of a naive loop, whatever the batches, the processes, the interruptions and the broken files."""

import hashlib
import json
import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from video_factory import decode_plainly, write_video

import hiera_video as hv
from hiera_video.config import load_config
from hiera_video.data.transforms import EvalTransform, normalize_video
from hiera_video.embeddings.store import ShardWriter, VideoInfo, list_shards, prepare_folder, write_side_car
from hiera_video.engine.extraction.embed import embed_query
from hiera_video.engine.extraction.job import build_compute
from hiera_video.engine.extraction.rows import BusyTime, EmbeddingRun
from hiera_video.engine.trained import load_model
from hiera_video.models.features import compute_features
from hiera_video.streams.clip_loader import ClipLoader, open_queue, order_by_size
from hiera_video.streams.clip_stream import ClipStream, stream_clips
from hiera_video.streams.windows import SlidingWindows
from hiera_video.video.manifest import open_video

ROOT = Path(__file__).resolve().parents[3]
LENGTHS = {"a": 61, "b": 12, "sub/c": 30, "sub/d": 5}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, num_frames in LENGTHS.items():
        path = folder / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_video(path, num_frames=num_frames)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = hv.build_model("hiera_tiny_16x224", embed_dim=8, stages=(1, 1, 1, 1), input_size=(4, 32, 32), num_classes=5)
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"model_state": model.state_dict()}, path)
    return str(path)


@pytest.fixture
def options(videos, checkpoint, tmp_path):
    """Key -> value of an extraction: windows of 16 frames, 8 apart, at 25 frames a second."""
    return {
        "OUTPUT_DIR": str(tmp_path / "out"),
        "TRAIN.ENABLE": "False",
        "EXTRACT.ENABLE": "True",
        "EXTRACT.VIDEOS": str(videos),
        "EXTRACT.CHECKPOINT_FILE_PATH": checkpoint,
        "EXTRACT.WINDOW": "0.64",
        "EXTRACT.STRIDE": "0.32",
        "EXTRACT.BATCH_SIZE": "4",
        "MODEL.MODEL_NAME": "hiera_tiny_16x224",
        "MODEL.NUM_CLASSES": "5",
        "HIERA.EMBED_DIM": "8",
        "HIERA.STAGES": "[1, 1, 1, 1]",
        "DATA.NUM_FRAMES": "4",
        "DATA.TRAIN_JITTER_SCALES": "[36, 40]",
        "DATA.TRAIN_CROP_SIZE": "32",
        "DATA.TEST_CROP_SIZE": "32",
        "DATA_LOADER.NUM_WORKERS": "1",
    }


def to_words(options):
    return [word for pair in options.items() for word in pair]


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
    expected = {name: embed_naively(options, videos / f"{name}.mp4") for name in LENGTHS}
    assert found.table["video_id"].tolist() == [name for name in sorted(LENGTHS) for _ in expected[name]]
    torch.testing.assert_close(
        found.vectors, torch.cat([expected[name] for name in sorted(LENGTHS)]), atol=1e-5, rtol=0
    )
    assert found.table["start_sec"][:3].tolist() == pytest.approx([0, 0.32, 0.64])
    assert found.table["end_sec"].max() == pytest.approx(61 / 25)
    assert found.table.groupby("video_id")["view"].max().add(1).tolist() == [len(expected[n]) for n in sorted(LENGTHS)]


@pytest.fixture
def run_job(monkeypatch):
    """Runs the job in this process."""

    def run_here(options):
        monkeypatch.setattr(sys, "argv", ["run_net.py", *to_words(options)])
        try:
            runpy.run_path(str(ROOT / "tools" / "run_net.py"), run_name="__main__")
        except SystemExit as stop:
            return stop.code
        return None

    return run_here


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


def test_the_side_car_tells_everything(options, run_job):
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
    assert sorted(found.table["path"].unique()) == [str(videos / f"{name}.mp4") for name in sorted(LENGTHS)]
    assert len(found.info["runs"]) == 2


def test_other_versions_are_told_on_a_resume(options, videos, run_job):
    run_job({**options, "EXTRACT.VIDEOS": str(videos / "sub")})
    side_car = Path(options["OUTPUT_DIR"]) / "extraction.json"
    content = json.loads(side_car.read_text())
    content["runs"][0]["versions"]["torch"] = "1.0"
    side_car.write_text(json.dumps(content))
    run_job(options)
    told = (Path(options["OUTPUT_DIR"]) / "stdout.log").read_text()
    assert f"made with other versions: torch 1.0 -> {version('torch')}" in told


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
    told = run_job({**options, "EXTRACT.CHECKPOINT_FILE_PATH": str(tmp_path / "hollow.pth")})
    assert "missing" in told and "blocks.0." in told
    assert "no video there" in run_job({**options, "EXTRACT.VIDEOS": str(tmp_path)})


def write_many(folder, count):
    folder.mkdir()
    for i in range(count):
        write_video(folder / f"{i:02d}.mp4", num_frames=20 + 7 * (i % 5), width=48, height=48)
    return folder


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
        deadline = time.monotonic() + 60
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


def test_several_processes_share_the_videos(options, videos, run_job, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    run({**options, "OUTPUT_DIR": str(tmp_path / "two")}, *launcher)
    run_job(options)
    one, two = hv.read_embeddings(options["OUTPUT_DIR"]), hv.read_embeddings(tmp_path / "two")
    assert two.table.equals(one.table) and two.info["runs"][0]["num_processes"] == 2
    torch.testing.assert_close(two.vectors, one.vectors, atol=1e-6, rtol=0)


def sabotage(path):
    """Opens videos; two of them bring the process down, or to a halt."""
    if path.endswith("b.mp4"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.endswith("d.mp4"):
        time.sleep(1000)
    return open_video(path)


def make_loader(paths, open_reader, **options):
    queue, store = open_queue(np.arange(len(paths)))

    def make_stream(**given):
        transform = EvalTransform(num_crops=1, short_side_px=32, crop_size_px=32)
        windows = SlidingWindows(4, window=16, stride=8, unit="frames")
        return ClipStream(
            np.array(paths), planner=windows, transform=transform, clips_per_chunk=1, open_reader=open_reader, **given
        )

    loader = ClipLoader(make_stream, num_videos=len(paths), queue=queue, **options)
    loader.store = store  # the queue ends with its server
    return loader


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
            if chunk["is_last"]:
                raise KeyboardInterrupt

    original = ClipLoader.__iter__
    monkeypatch.setattr(ClipLoader, "__iter__", lambda self: interrupt(original(self)))
    model = hv.build_model("hiera_tiny_16x224", embed_dim=8, stages=(1, 1, 1, 1), input_size=(4, 32, 32))
    with pytest.raises(KeyboardInterrupt):
        hv.embed(videos / "b.mp4", model=model, output_dir=options["OUTPUT_DIR"], num_workers=0, batch_size=1)
    assert set(hv.read_embeddings(options["OUTPUT_DIR"]).table["video_id"]) == {"b"} and model.training


def test_a_death_is_noticed_long_before_a_standstill(videos, monkeypatch):
    monkeypatch.setattr("hiera_video.streams.clip_loader._POLL_SEC", 0.2)
    paths = [str(videos / "b.mp4"), str(videos / "a.mp4")]
    chunks = list(make_loader(paths, sabotage, num_workers=1, timeout_sec=10**6))
    assert {chunk["index"]: bool(chunk["failure"]) for chunk in chunks if chunk["is_last"]} == {0: True, 1: False}


def test_slow_videos_are_waited_for(videos, monkeypatch):
    monkeypatch.setattr("hiera_video.streams.clip_loader._POLL_SEC", 0.1)

    def open_slowly(path):
        time.sleep(0.5)
        return open_video(path)

    chunks = list(make_loader([str(videos / "a.mp4")], open_slowly, num_workers=1, timeout_sec=60))
    assert [chunk["failure"] for chunk in chunks] == [None] * 7 and chunks[-1]["attempt"] == 0


def test_a_process_that_dies_after_its_video_fails_none(videos, monkeypatch):
    monkeypatch.setattr("hiera_video.streams.clip_loader._POLL_SEC", 0.2)
    paths = [str(videos / "sub/d.mp4"), str(videos / "a.mp4")]
    loader = make_loader(paths, open_video, num_workers=1, chunks_ahead=1)
    ends = []
    for chunk in loader:
        if chunk["is_last"]:
            ends.append((chunk["index"], chunk["failure"]))
        if len(ends) == 1 and chunk["is_last"]:
            while not loader._is_started[1]:
                time.sleep(0.01)
            loader._progress.fill_(0)  # as if it were at the first one still, which has been delivered
            for process in multiprocessing.active_children():
                process.kill()
    assert ends == [(0, None), (1, None)]


@pytest.mark.parametrize("names", [["a", "b", "sub/c"], ["sub/d", "a", "sub/c"]])
def test_a_video_that_brings_a_decoding_process_down_fails_alone(videos, names):
    paths = [str(videos / f"{name}.mp4") for name in names]
    chunks = list(make_loader(paths, sabotage, num_workers=2, timeout_sec=4))
    ends = {int(chunk["index"]): chunk["failure"] for chunk in chunks if chunk["is_last"]}
    assert ends.keys() == {0, 1, 2}
    failed = [reason for reason in ends.values() if reason]
    assert len(failed) == 1 and ("SIGSEGV" in failed[0] or "nothing for 4 s" in failed[0])
    for index, path in enumerate(paths):
        if ends[index] is None:
            last = max(chunk["attempt"] for chunk in chunks if chunk["index"] == index)
            clips = [c["first_clip"] for c in chunks if c["index"] == index and c["attempt"] == last]
            assert clips == list(range(max(-(-(LENGTHS[names[index]] - 16) // 8), 0) + 1)), path


def test_a_failure_after_a_new_start_is_a_failure(tmp_path):
    prepare_folder(tmp_path)
    write_side_car(tmp_path, {"settings": {}, "shape": [3]})
    writer = ShardWriter(tmp_path, dim=3, shard_bytes=1)
    run = EmbeddingRun(
        lambda views: torch.ones(len(views), 3),
        writer,
        [VideoInfo(f"{name}.mp4", name) for name in "abc"],
        batch_size=4,
        num_crops=1,
        average="none",
        l2_normalize=False,
    )

    def make_chunk(index, attempt, first_clip, *, is_last=False, failure=None):
        views = torch.zeros((0 if failure else 1), 3, 2, 4, 4, dtype=torch.uint8)
        same = {"index": index, "attempt": attempt, "is_last": is_last, "failure": failure, "views": views}
        return {**same, "first_clip": first_clip, "spans_sec": np.array([[first_clip, first_clip + 1.0]])}

    chunks = [
        make_chunk(0, 0, 0),
        make_chunk(0, 1000, 0),
        make_chunk(1, 0, 0),
        make_chunk(0, 1000, 1),
        make_chunk(1, 1, 0),
        make_chunk(1, 1, 1, is_last=True),
        make_chunk(2, 1000, 0),
        make_chunk(2, 0, 7),  # late
        make_chunk(2, 1000, 1, is_last=True),
        make_chunk(0, 1000, 2, is_last=True, failure="damaged"),
    ]
    run.embed(chunks)
    assert run.failures == {"a.mp4": "damaged"} and (run.num_done, run.num_rows) == (2, 4)
    found = hv.read_embeddings(tmp_path)
    assert found.table["path"].tolist() == ["b.mp4"] * 2 + ["c.mp4"] * 2
    assert found.table["view"].tolist() == [0, 1] * 2 and found.table["start_sec"].tolist() == [0, 1] * 2
    assert not any((pq.read_table(shard)["path"].to_numpy() == "a.mp4").any() for shard in list_shards(tmp_path))


def test_embedding_from_python(videos, checkpoint):
    sizes = {"DATA.NUM_FRAMES": 4, "DATA.TEST_CROP_SIZE": 32, "DATA.TRAIN_CROP_SIZE": 32, "HIERA.EMBED_DIM": 8}
    opts = [
        *to_words(sizes),
        "DATA.TRAIN_JITTER_SCALES",
        [36, 40],
        "HIERA.STAGES",
        [1, 1, 1, 1],
        "MODEL.NUM_CLASSES",
        5,
    ]
    paths = [videos / "a.mp4", videos / "sub"]
    settings = {"window_sec": 0.64, "stride_sec": 0.32, "opts": opts, "num_workers": 0}
    found = hv.embed(paths, model="hiera_tiny_16x224", checkpoint=checkpoint, **settings)
    assert found.table["video_id"].unique().tolist() == ["a", "sub/c", "sub/d"]
    model = hv.build_model("hiera_tiny_16x224", embed_dim=8, stages=(1, 1, 1, 1), input_size=(4, 32, 32), num_classes=5)
    hv.load_weights(model, checkpoint)
    again = hv.embed(str(videos), model=model, window_sec=0.64, stride_sec=0.32, num_workers=0)
    rows = again.table["video_id"].isin(["a", "sub/c", "sub/d"]).tolist()
    torch.testing.assert_close(again.vectors[rows], found.vectors, atol=1e-5, rtol=0)
    assert model.training
    uniform = hv.embed(videos / "a.mp4", model=model, num_clips=3, num_workers=0)
    assert len(uniform) == 3 and uniform.info["clips"]["kind"] == "uniform clips"


def test_wrong_use_from_python_is_explained(videos, checkpoint):
    with pytest.raises(ValueError, match="'windw_sec' is no setting of embed; legal are window_sec"):
        hv.embed(videos, checkpoint=checkpoint, windw_sec=2)
    with pytest.raises(ValueError, match="checkpoint is missing"):
        hv.embed(videos, model="hiera_tiny_16x224")
    image_model = hv.build_model("hiera_tiny_224")
    with pytest.raises(ValueError, match=r"input_size is \(224, 224\)"):
        hv.embed(videos, model=image_model)


def test_a_query_is_the_mean_of_its_windows(options, videos, run_job, tmp_path):
    run_job(options)
    found = hv.read_embeddings(options["OUTPUT_DIR"])
    rows = (found.table["video_id"] == "a").tolist()
    path = str(videos / "a.mp4")
    torch.testing.assert_close(embed_query(found.info, path), found.vectors[rows].mean(dim=0), atol=1e-5, rtol=0)
    part = embed_query(found.info, path, start_sec=0.3, end_sec=1.0)
    torch.testing.assert_close(
        part, found.vectors[rows][:3].mean(dim=0), atol=1e-5, rtol=0
    )  # more than half of 0 and 2
    other = hv.build_model("hiera_tiny_16x224", embed_dim=8, stages=(1, 1, 1, 1), input_size=(4, 32, 32), num_classes=5)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="were made with weights of"):
        embed_query(found.info, path, checkpoint=str(tmp_path / "other.pth"))


def test_a_query_forgets_clips_of_an_attempt_that_was_given_up(options, videos, run_job, monkeypatch):
    run_job(options)
    info, path = hv.read_embeddings(options["OUTPUT_DIR"]).info, str(videos / "a.mp4")
    expected = embed_query(info, path)

    def stream_with_a_false_start(path, **given):
        yield {"attempt": 0, "views": torch.full((2, 3, 4, 32, 32), 200, dtype=torch.uint8)}
        yield from ({**chunk, "attempt": 1} for chunk in stream_clips(path, **given))

    monkeypatch.setattr("hiera_video.engine.extraction.embed.stream_clips", stream_with_a_false_start)
    torch.testing.assert_close(embed_query(info, path), expected)


def test_long_work_comes_first():
    assert order_by_size([5, None, 9, 5, None]).tolist() == [2, 0, 3, 1, 4]


def test_busy_time_is_a_union():
    busy = BusyTime()
    for began, ended in ((0, 2), (5, 6), (1, 3), (5.5, 5.6)):
        busy.add(began, ended)
    assert busy.compute_sec() == 4
    many = BusyTime()
    for i in range(10_000):
        many.add(i, i + 0.5)
    assert many.compute_sec() == pytest.approx(5000)
