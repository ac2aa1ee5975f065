"""The same commands on real files of awkward kinds; skipped where ../shared/videos is missing."""

import pandas as pd
import pytest
import simplejson
import torch

import hiera_video as hv
from hiera_video.video import VideoReader


@pytest.mark.slow
def test_train_a_step_and_test_fifteen_views_on_real_clips(run_net, shared_videos, tmp_path):
    clips = sorted(path for path in shared_videos.iterdir() if path.suffix != ".md")
    assert len(clips) == 15
    lines = [f"{path} {i % 3}" for i, path in enumerate(clips)]
    for split, chosen in (("train", lines[:2]), ("val", lines[:1]), ("test", lines)):
        (tmp_path / f"{split}.csv").write_text("\n".join(chosen))
    size = {"DATA.TRAIN_CROP_SIZE": 224, "DATA.TEST_CROP_SIZE": 224, "DATA.TRAIN_JITTER_SCALES": [256, 320]}
    finished = run_net(
        {
            **size,
            "DATA.PATH_TO_DATA_DIR": tmp_path,
            "DATA.NUM_FRAMES": 16,
            "DATA.SAMPLING_RATE": 4,
            "MODEL.MODEL_NAME": "hiera_tiny_16x224",
            "MODEL.NUM_CLASSES": 3,
            "HIERA.EMBED_DIM": 24,
            "HIERA.STAGES": [1, 1, 2, 1],
            "SOLVER.MAX_EPOCH": 1,
            "TRAIN.BATCH_SIZE": 2,
            "TRAIN.EVAL_PERIOD": 0,
            "TEST.ENABLE": True,
            "TEST.NUM_ENSEMBLE_VIEWS": 5,
            "TEST.NUM_SPATIAL_CROPS": 3,
            "TEST.BATCH_SIZE": 15,
        }
    )
    assert finished.returncode == 0, finished.stderr
    results = simplejson.loads((tmp_path / "out" / "test_results.json").read_text())
    table = pd.read_parquet(tmp_path / "out" / "test_predictions.parquet")
    assert (results["num_videos"], results["num_failed"], results["num_views"]) == (15, 0, 15)
    assert table.path.tolist() == [str(path) for path in clips]
    assert all(abs(probs.sum() - 1) < 1e-5 for probs in table.probs)
    assert len({tuple(probs) for probs in table.probs}) == 15, "different clips, different probabilities"
    for path, probs in zip(clips, table.probs, strict=True):
        with VideoReader(str(path)) as reader:
            print(f"{path.name:32s} {len(reader):4d} frames  " + "  ".join(f"{prob:.4f}" for prob in probs))


@pytest.mark.slow
def test_windows_of_all_real_clips_cover_them(shared_videos):
    torch.manual_seed(0)
    model = hv.build_model("hiera_tiny_16x224", embed_dim=8, stages=(1, 1, 1, 1), input_size=(4, 32, 32))
    found = hv.embed(shared_videos, model=model, window_sec=1.0, stride_sec=0.5, num_workers=1)
    clips = sorted(path for path in shared_videos.iterdir() if path.suffix != ".md")
    assert found.table["path"].unique().tolist() == [str(path) for path in clips]
    assert found.vectors.isfinite().all()
    for path, rows in found.table.groupby("path"):
        with VideoReader(path) as reader:
            assert rows["end_sec"].max() == pytest.approx(reader.duration_sec), path
        assert rows["start_sec"].diff().dropna().tolist() == pytest.approx([0.5] * (len(rows) - 1))
