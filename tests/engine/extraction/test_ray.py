"""The Ray pipeline, on a Ray of this machine: the same rows as the job's, failures named, and a resume."""

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

pytest.importorskip("ray")
ROOT = Path(__file__).resolve().parents[3]


def test_rows_are_those_of_the_job(tmp_path):
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
