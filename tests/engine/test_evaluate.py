"""Multi-view testing: what is counted, and what is written."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import simplejson
import torch

from hiera_video.config import dump_config
from hiera_video.data.loader import build_test_loader
from hiera_video.engine import evaluate as test_module
from hiera_video.engine import scoring
from hiera_video.engine.checkpoint import save_checkpoint
from hiera_video.engine.launch import launch
from hiera_video.models.build import build_model_from_cfg

NO_TRAINING = {"TRAIN.ENABLE": False, "TEST.ENABLE": True}


@pytest.fixture
def checkpoint(make_cfg, tmp_path):
    """Random weights with a head that gives clearly different classes."""
    torch.manual_seed(0)
    cfg = make_cfg({"HIERA.HEAD_INIT_SCALE": 20.0})
    path = tmp_path / "weights.pyth"
    save_checkpoint(path, {"model_state": build_model_from_cfg(cfg, crop_size=32).state_dict()})
    return path


def run(cfg):
    launch([test_module.test], cfg)
    return read(cfg.OUTPUT_DIR)


def read(folder):
    results = simplejson.loads((Path(folder) / "test_results.json").read_text())
    return results, pd.read_parquet(f"{folder}/test_predictions.parquet")


@pytest.mark.slow
def test_results_against_a_naive_loop(make_cfg, checkpoint, motion_dir):
    cfg = make_cfg({**NO_TRAINING, "TEST.CHECKPOINT_FILE_PATH": checkpoint})
    results, table = run(cfg)
    model = build_model_from_cfg(cfg, crop_size=32).eval()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model_state"])
    dataset = build_test_loader(cfg).dataset
    hits = []
    for i in range(len(dataset)):
        views = (dataset[i]["video"].float() / 255 - 0.45) / 0.225  # (V, C, T, H, W)
        assert views.shape == (6, 3, 4, 32, 32)
        with torch.no_grad():
            probs = torch.stack([model(view[None])[0].softmax(0) for view in views]).mean(0)
        np.testing.assert_allclose(table.probs[i], probs.numpy(), rtol=1e-4, atol=1e-6)
        hits.append(dataset[i]["label"] in probs.topk(5).indices.tolist())
        assert table.prediction[i] == probs.argmax() and table.label[i] == dataset[i]["label"]
    assert len(table) == results["num_videos"] == 11 and results["num_failed"] == 0
    assert results["top1"] == pytest.approx(100 * (table.prediction == table.label).mean())
    assert results["top5"] == pytest.approx(100 * np.mean(hits))
    assert (results["num_views"], results["num_ensemble_views"], results["num_spatial_crops"]) == (6, 2, 3)
    assert results["config_digest"] == hashlib.sha256(dump_config(cfg).encode()).hexdigest()
    assert table.path[0] == f"{motion_dir}/" + (motion_dir / "test.csv").read_text().split(" ")[0]


def test_a_broken_video_counts_as_wrong_and_is_named(make_cfg, checkpoint, broken_dir):
    cfg = make_cfg({**NO_TRAINING, "TEST.CHECKPOINT_FILE_PATH": checkpoint, "DATA.PATH_TO_DATA_DIR": broken_dir})
    results, table = run(cfg)
    assert (results["num_videos"], results["num_failed"]) == (11, 1)
    assert results["failed"][0]["path"] == table.path[4] and table.path[4] in results["failed"][0]["reason"]
    assert table.prediction[4] == -1 and np.isnan(table.probs[4]).all() and table.failure[4]
    assert (table.failure.drop(4) == "").all() and not np.isnan(np.stack(table.probs.drop(4))).any()
    assert results["top1"] == pytest.approx(100 * (table.prediction == table.label).sum() / 11)


def test_too_many_broken_videos_stop_the_test(make_cfg, checkpoint, broken_dir):
    changes = {"TEST.CHECKPOINT_FILE_PATH": checkpoint, "DATA.PATH_TO_DATA_DIR": broken_dir, "DATA.MAX_BAD_VIDEOS": 0}
    with pytest.raises(RuntimeError, match="DATA.MAX_BAD_VIDEOS = 0"):
        run(make_cfg({**NO_TRAINING, **changes}))


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_give_the_numbers_of_one(run_net, make_cfg, checkpoint, broken_dir, tmp_path):
    """Eleven videos over two ranks, one of them broken: nobody may be padded, dropped or counted twice."""
    changes = {**NO_TRAINING, "TEST.CHECKPOINT_FILE_PATH": checkpoint, "DATA.PATH_TO_DATA_DIR": broken_dir}
    finished = run_net({**changes, "OUTPUT_DIR": tmp_path / "two"}, processes=2)
    assert finished.returncode == 0, finished.stderr
    two, two_table = read(tmp_path / "two")
    one, one_table = run(make_cfg({**changes, "OUTPUT_DIR": tmp_path / "one"}))
    for name in ("top1", "top5", "num_videos", "num_failed", "failed"):
        assert one[name] == two[name], name
    np.testing.assert_allclose(np.stack(one_table.probs), np.stack(two_table.probs), rtol=1e-4, atol=1e-6)
    assert one_table.path.tolist() == two_table.path.tolist()


def test_without_weights_there_is_no_test(make_cfg):
    with pytest.raises(FileNotFoundError, match="TEST.CHECKPOINT_FILE_PATH is empty"):
        run(make_cfg(NO_TRAINING))


def test_weights_that_leave_a_part_random_are_refused(make_cfg, checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"does not hold the whole.*head.projection.weight"):
        run(make_cfg({**NO_TRAINING, "TEST.CHECKPOINT_FILE_PATH": checkpoint, "MODEL.NUM_CLASSES": 9}))
    content = torch.load(checkpoint, weights_only=True)
    del content["model_state"]["norm.bias"]
    save_checkpoint(tmp_path / "partial.pyth", content)
    with pytest.raises(ValueError, match=r"norm.bias"):
        run(make_cfg({**NO_TRAINING, "TEST.CHECKPOINT_FILE_PATH": tmp_path / "partial.pyth"}))


def test_a_video_counted_twice_is_noticed():
    rows = [(position, torch.zeros(8)) for position in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9)]
    with pytest.raises(RuntimeError, match="11 videos, but 11 predictions of 10 of them"):
        scoring._gather(11, rows, {}, ([], {}))


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.skipif(torch.cuda.is_available(), reason="pretends to have two GPUs")
def test_one_process_per_gpu_gives_the_numbers_of_one(make_cfg, checkpoint, tmp_path, monkeypatch):
    """NUM_GPUS starts the processes itself; without a GPU in them they meet over gloo."""
    changes = {**NO_TRAINING, "TEST.CHECKPOINT_FILE_PATH": checkpoint}
    one, _ = run(make_cfg({**changes, "OUTPUT_DIR": tmp_path / "one", "NUM_GPUS": 0}))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    two, table = run(make_cfg({**changes, "OUTPUT_DIR": tmp_path / "two", "NUM_GPUS": 2}))
    assert (one["top1"], one["top5"], one["num_videos"]) == (two["top1"], two["top5"], two["num_videos"])
    assert len(table) == 11
