"""The Ray pipeline: its parts without Ray; and whole, on a Ray of this machine, the same rows as the job's."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from video_factory import write_video

import hiera_video as hv
from hiera_video.config import dump_config, load_config
from hiera_video.engine.extraction.ray import Assembler, Decoder
from hiera_video.streams.chunk import Failure

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_rows_are_those_of_the_job(tmp_path):
    pytest.importorskip("ray")
    videos = tmp_path / "videos"
    videos.mkdir()
    for i in range(6):
        write_video(videos / f"{i}.mp4", num_frames=10 + 9 * i, width=48, height=48)
    (videos / "broken.mp4").write_bytes(b"")
    torch.manual_seed(0)
    model = hv.build_model("hiera_tiny_16x224", embed_dim=8, stages=(1, 1, 1, 1), input_size=(4, 32, 32))
    torch.save(model.state_dict(), tmp_path / "tiny.pth")
    keys = {
        "EXTRACT.VIDEOS": videos,
        "EXTRACT.CHECKPOINT_FILE_PATH": tmp_path / "tiny.pth",
        "EXTRACT.STRIDE": 0.2,
        "EXTRACT.NUM_CROPS": 3,
        "EXTRACT.BATCH_SIZE": 4,
        "MODEL.MODEL_NAME": "hiera_tiny_16x224",
        "HIERA.EMBED_DIM": 8,
        "HIERA.STAGES": [1, 1, 1, 1],
        "DATA.NUM_FRAMES": 4,
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TEST_CROP_SIZE": 32,
    }

    def run(tool, output, **more):
        pairs = {**keys, "OUTPUT_DIR": tmp_path / output, **more}
        words = [str(word) for pair in pairs.items() for word in pair]
        env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        finished = subprocess.run(
            [sys.executable, tool, *words], cwd=ROOT, capture_output=True, text=True, timeout=400, env=env
        )
        assert finished.returncode == 0, finished.stderr
        return hv.read_embeddings(tmp_path / output), finished.stderr

    expected, _ = run("tools/run_net.py", "job", **{"TRAIN.ENABLE": False, "EXTRACT.ENABLE": True})
    run("tools/extract_ray.py", "ray", **{"EXTRACT.VIDEOS": f"{videos}/[0-2].mp4"})
    found, log = run("tools/extract_ray.py", "ray")
    assert "4 videos to embed, 3 are done already" in log
    columns = ["path", "view", "start_sec", "end_sec"]
    pd.testing.assert_frame_equal(found.table[columns], expected.table[columns])
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-6)
    failures = pd.read_parquet(tmp_path / "ray" / "failures.parquet")
    assert failures["path"].tolist() == [str(videos / "broken.mp4")] and "empty" in failures["reason"][0]


class Received:
    """Stands for `VideoRows`."""

    def __init__(self):
        self.items = []

    def add(self, item):
        self.items.append(item)


def make_row(index, view, *, attempt=0, num_views=4, failure=""):
    row = {"index": index, "attempt": attempt, "num_views": num_views, "failure": failure, "view": view}
    spans = {"start_sec": view // 2, "end_sec": view // 2 + 1.5}
    features = np.array([[100.0 * attempt + view]], dtype=np.float32)
    return {**{name: np.array([value]) for name, value in {**row, **spans}.items()}, "features": features}


def assemble(rows):
    received = Received()
    assembler = Assembler(received, num_crops=2)
    for row in rows:
        assembler.add(row)
    return received.items, assembler.ended


def test_rows_in_any_order_become_one_chunk_of_the_whole_video():
    rows = [make_row(7, view) for view in (3, 0, 2)]
    assert assemble(rows) == ([], set())
    (item,), ended = assemble([*rows, make_row(7, 1), make_row(7, 1)])  # Ray may do a task again
    assert ended == {7} and (item.index, item.is_last) == (7, True)
    assert item.features.tolist() == [[0], [1], [2], [3]]
    assert item.spans_sec.tolist() == [[0, 1.5], [1, 2.5]]  # of its two clips


def test_rows_of_lower_attempts_are_void():
    rows = [make_row(7, 0), make_row(7, 1), make_row(7, 3, attempt=2), make_row(7, 2)]
    (item,), _ = assemble([*rows, *(make_row(7, view, attempt=2) for view in (0, 1, 2))])
    assert item.features.tolist() == [[200], [201], [202], [203]] and item.attempt == 2


def test_a_failure_ends_its_video_alone():
    rows = [make_row(7, 0), make_row(8, 0, num_views=1), make_row(7, 0, failure="damaged"), make_row(7, 1)]
    items, ended = assemble(rows)
    assert ended == {7, 8} and items[0].index == 8 and items[1] == Failure(7, 0, "damaged")


def test_views_become_rows(painted_video, tmp_path):
    path = str(painted_video("ray.mp4", num_frames=50))
    sizes = ["DATA.NUM_FRAMES", "4", "DATA.TEST_CROP_SIZE", "32", "DATA.TRAIN_CROP_SIZE", "32"]
    cfg = load_config([], ["TRAIN.ENABLE", "False", "EXTRACT.NUM_CROPS", "3", "EXTRACT.STRIDE", "0.3", *sizes])
    decoder = Decoder(dump_config(cfg), np.array([path, str(tmp_path / "none.mp4")]))
    *batches, failure = decoder({"index": np.array([0, 1])})
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    num_clips = len(rows["view"]) // 3
    assert num_clips == 6 and rows["view"].tolist() == list(range(18)) and set(rows["num_views"]) == {18}
    np.testing.assert_allclose(rows["start_sec"], np.repeat(0.3 * np.arange(6), 3))
    assert rows["pixels"].shape == (18, 3, 4, 32, 32) and rows["pixels"].dtype == np.uint8
    assert failure.keys() == rows.keys() and failure["index"].tolist() == [1]
    assert "none.mp4: no such file" in failure["failure"][0] and torch.tensor(failure["pixels"]).max() == 0
