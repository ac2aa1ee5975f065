"""The detection job end to end, on made pictures."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import simplejson
import torch

from hiera_video.cli.make_shape_dataset import main as make_shape_dataset
from hiera_video.config import config_from_text
from hiera_video.engine.checkpoint import find_last_checkpoint, get_best_path, get_checkpoint_path
from hiera_video.engine.detection_test import run_detection_test
from hiera_video.engine.launch import launch
from hiera_video.engine.training.detect import train_detector
from hiera_video.models.checkpoint_file import read_checkpoint_file
from hiera_video.models.mask_rcnn import LOSSES

ROOT = Path(__file__).resolve().parents[3]


def run(cfg):
    launch([train_detector], cfg)
    return read_checkpoint_file(find_last_checkpoint(cfg.OUTPUT_DIR))


def read_metrics(cfg, kind):
    lines = (Path(cfg.OUTPUT_DIR) / "metrics.jsonl").read_text().splitlines()
    return [stats for stats in map(simplejson.loads, lines) if stats["_type"] == kind]


def test_a_run_writes_what_it_promises_and_resumes_to_the_same_bits(make_detection_cfg, tmp_path):
    """With EMA, drop path and layer decay; the second run is stopped after the first epoch and started again."""
    changes = {"MODEL.DROP_PATH_RATE": 0.2, "SOLVER.EMA_DECAY": 0.9, "SOLVER.LAYER_DECAY": 0.7}
    changes |= {"SOLVER.LR_POLICY": "steps_with_relative_lrs", "SOLVER.STEPS": [0, 1.5], "SOLVER.LRS": [1.0, 0.1]}
    cfg = make_detection_cfg(changes)
    content = run(cfg)
    assert config_from_text(content.config) == cfg and "trained_model_state" in content.training
    assert content.class_names == ("circle", "cross", "square", "triangle")
    lines = read_metrics(cfg, "train_iter")
    assert [(line["epoch"], line["iter"]) for line in lines] == [
        (f"{epoch}/2", f"{step}/2") for epoch in (1, 2) for step in (1, 2)
    ]
    for line in lines:
        assert line["loss"] == pytest.approx(sum(line[name] for name in LOSSES), rel=1e-5)
    validations = read_metrics(cfg, "val_epoch")
    assert [line["num_pictures"] for line in validations] == [5, 5]
    assert all({"box_ap", "mask_ap", "box_ap50", "best_mask_ap"} <= line.keys() for line in validations)
    assert get_best_path(cfg.OUTPUT_DIR).exists()
    second = make_detection_cfg({**changes, "OUTPUT_DIR": tmp_path / "second"})
    path = get_checkpoint_path(second.OUTPUT_DIR, 1, 0)
    path.parent.mkdir(parents=True)
    shutil.copy(get_checkpoint_path(cfg.OUTPUT_DIR, 1, 0), path)
    again = run(second)
    for name, value in content.weights.items():
        assert torch.equal(value, again.weights[name]), name
    for name, value in content.training["trained_model_state"].items():
        assert torch.equal(value, again.training["trained_model_state"][name]), name


def test_bf16_trains(make_detection_cfg):
    cfg = make_detection_cfg({"TRAIN.PRECISION": "bf16", "SOLVER.MAX_EPOCH": 1, "TRAIN.EVAL_PERIOD": 0})
    assert all(value.isfinite().all() for value in run(cfg).weights.values())


def test_a_task_and_its_data_go_together(make_detection_cfg):
    for changes, reason in (
        ({"DATA.FORMAT": "folders"}, "detect takes coco"),
        ({"TASK": "classify"}, "detect takes coco"),
        ({"MIXUP.ENABLE": True}, "MIXUP.ENABLE = True has no meaning with TASK = detect"),
        ({"AUG.NUM_SAMPLE": 2}, "AUG.NUM_SAMPLE = 2: TASK = detect takes each picture once"),
    ):
        with pytest.raises(ValueError, match=reason):
            make_detection_cfg(changes)
    with pytest.raises(ValueError, match="TASK = detect takes a model of images: hiera_tiny_224"):
        train_detector(make_detection_cfg({"MODEL.MODEL_NAME": "hiera_tiny_16x224"}))


@pytest.mark.slow
def test_two_processes_train_and_test_as_one(detection_options, tmp_path):
    """Both see the same pictures; together they test each once."""
    results = []
    for processes in (1, 2):
        pairs = {**detection_options, "OUTPUT_DIR": str(tmp_path / str(processes)), "SOLVER.MAX_EPOCH": "1"}
        pairs |= {"TEST.ENABLE": "True", "SOLVER.BASE_LR": "1e-4"}
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        words = [sys.executable, *(launcher if processes > 1 else []), "tools/run_net.py"]
        words += [word for pair in pairs.items() for word in pair]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr[-3000:]
        content = simplejson.loads((tmp_path / str(processes) / "test_results.json").read_text())
        assert (content["num_pictures"], content["num_evaluated"]) == (5, 5)
        results.append(read_checkpoint_file(find_last_checkpoint(tmp_path / str(processes))).weights)
    # Each process draws its proposals for itself, so that the runs are alike, not equal.
    for name, value in results[0].items():
        assert (value - results[1][name]).abs().max() < 2e-3, name


@pytest.mark.slow
def test_eight_pictures_are_learned_by_heart(make_detection_cfg, tmp_path):
    folder = tmp_path / "eight"
    words = ["--task", "coco", "--output-dir", str(folder), "--train", "8", "--val", "1", "--size", "128"]
    assert make_shape_dataset(words) == 0
    cfg = make_detection_cfg(
        {
            "DATA.PATH_TO_DATA_DIR": folder,
            "DATA.TRAIN_CROP_SIZE": 128,
            "DATA.TEST_CROP_SIZE": 128,
            "DATA.RANDOM_FLIP": False,
            "DETECTOR.JITTER_SCALES": [1.0, 1.0],
            "DETECTOR.ANCHOR_SIZES": [16, 32, 64, 96, 128],
            "DETECTOR.CHANNELS": 48,
            "DETECTOR.HIDDEN_DIM": 256,
            "DETECTOR.NUM_PROPOSALS": 100,
            "DETECTOR.NUM_ROIS": 64,
            "HIERA.EMBED_DIM": 24,
            "HIERA.STAGES": [1, 1, 2, 1],
            "SOLVER.BASE_LR": 1e-3,
            "SOLVER.CLIP_GRAD_L2NORM": 1.0,
            "SOLVER.WEIGHT_DECAY": 0.0,
            "SOLVER.WARMUP_EPOCHS": 10,
            "SOLVER.MAX_EPOCH": 200,
            "TRAIN.EVAL_PERIOD": 0,
            "TRAIN.CHECKPOINT_PERIOD": 200,
            "TRAIN.BATCH_SIZE": 2,
            "LOG_PERIOD": 100,
            "TEST.SPLIT": "train",
        }
    )
    launch([train_detector, run_detection_test], cfg)
    results = simplejson.loads((Path(cfg.OUTPUT_DIR) / "test_results.json").read_text())
    print({name: value for name, value in results.items() if "_ap" in name})
    assert results["box_ap"] >= 95 and results["mask_ap"] >= 85
