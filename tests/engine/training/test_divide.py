"""Runs whose model is divided over processes: the same losses, and checkpoints for any number of processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import simplejson
import torch
from sharded_jobs import copy_checkpoint

from hiera_video.engine.checkpoint import compute_digest, get_best_path, list_checkpoints
from hiera_video.engine.launch import launch
from hiera_video.engine.sharded_checkpoint import join_checkpoint
from hiera_video.engine.training.classify import train
from hiera_video.models.checkpoint_file import read_checkpoint_file

ROOT = Path(__file__).resolve().parents[3]
# Everything that a step consists of. Steps of SGD turn rounding into rounding.
ALL = {
    "SOLVER.OPTIMIZING_METHOD": "sgd",
    "SOLVER.BASE_LR": 0.1,
    "SOLVER.EMA_DECAY": 0.5,
    "SOLVER.CLIP_GRAD_L2NORM": 1.0,
    "SOLVER.LAYER_DECAY": 0.7,
    "MODEL.FREEZE_STAGES": 1,
    "HIERA.HEAD_INIT_SCALE": 1.0,
    "TRAIN.GRAD_ACCUM_STEPS": 2,
    "TRAIN.BATCH_SIZE": 12,
    "TRAIN.CHECKPOINT_KEEP_LAST": 0,
}


@pytest.fixture
def run_jobs(tmp_path):
    """Runs jobs by tests/sharded_jobs.py in so many processes."""

    def run(jobs, *, processes):
        path = tmp_path / f"jobs_{processes}.json"
        path.write_text(json.dumps(jobs))
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        words += ["tests/sharded_jobs.py", str(path)]
        finished = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert finished.returncode == 0, finished.stderr
        return finished

    return run


def read_lines(output_dir, kind, *names):
    lines = map(simplejson.loads, (Path(output_dir) / "metrics.jsonl").read_text().splitlines())
    return [[line[name] for name in names] for line in lines if line["_type"] == kind]


def read_steps(output_dir, epoch=None):
    rows = read_lines(output_dir, "train_iter", "epoch", "loss", "grad_norm")
    return [value for name, *values in rows if epoch in (None, int(name[0])) for value in values]


def read_content(path):
    file = read_checkpoint_file(path, part="all")
    return {**file.training, "model_state": file.weights, "epoch": file.epoch}


@pytest.mark.slow
@pytest.mark.distributed
def test_a_divided_run_is_the_whole_one_and_goes_on_in_any_number_of_processes(options, make_cfg, run_jobs, tmp_path):
    def make_job(name, sharding="none", start=None, **changes):
        pairs = {**options, **ALL, "TRAIN.SHARDING": sharding, "OUTPUT_DIR": tmp_path / name, **changes}
        job = {"options": {key: str(value) for key, value in pairs.items()}}
        return {**job, "from": str(start)} if start else job

    def get_first(name, suffix=".dcp"):
        return tmp_path / name / "checkpoints" / f"checkpoint_epoch_00001{suffix}"

    in_two = [
        make_job("none"),
        make_job("zero3", "zero3"),
        make_job("zero2", "zero2", **{"MODEL.ACT_CHECKPOINT": True}),
        make_job("again", "zero3", get_first("zero3")),
        make_job("none to zero3", "zero3", get_first("none", ".pyth")),
        make_job("zero3 to none", "none", get_first("zero3")),
    ]
    run_jobs(in_two, processes=2)
    run_jobs([make_job("in three", "zero2", get_first("zero3"))], processes=3)
    copy_checkpoint(get_first("zero3"), tmp_path / "in one")
    launch([train], make_cfg({**ALL, "TRAIN.SHARDING": "zero3", "OUTPUT_DIR": tmp_path / "in one"}))

    expected = read_steps(tmp_path / "none")
    assert len(set(expected)) == 8
    for name in ("zero3", "zero2"):
        assert read_steps(tmp_path / name) == pytest.approx(expected, rel=1e-5), name
        assert read_lines(tmp_path / name, "val_epoch", "top1", "num_videos", "best_top1") == read_lines(
            tmp_path / "none", "val_epoch", "top1", "num_videos", "best_top1"
        )
    for name in ("again", "none to zero3", "zero3 to none", "in three", "in one"):
        assert read_steps(tmp_path / name) == pytest.approx(read_steps(tmp_path / "none", epoch=2), rel=1e-5), name
        assert "resumed from" in (tmp_path / name / "stdout.log").read_text()

    # The run that went on is the same run, to the last bit; others are but for rounding.
    whole = read_content(list_checkpoints(tmp_path / "zero3")[-1])
    assert compute_digest(whole) == compute_digest(read_content(list_checkpoints(tmp_path / "again")[-1]))
    names = {name: [path.name for path in list_checkpoints(tmp_path / name)] for name in ("none", "zero3", "in one")}
    assert names["none"] == ["checkpoint_epoch_00001.pyth", "checkpoint_epoch_00002.pyth"]
    assert names["zero3"] == ["checkpoint_epoch_00001.dcp", "checkpoint_epoch_00002.dcp"]
    assert names["in one"] == ["checkpoint_epoch_00001.dcp", "checkpoint_epoch_00002.pyth"], "nothing to divide"
    for name in ("none", "zero2", "in three", "in one", "zero3 to none", "none to zero3"):
        other = read_content(list_checkpoints(tmp_path / name)[-1])
        for key in ("model_state", "trained_model_state"):
            for parameter, value in whole[key].items():
                torch.testing.assert_close(
                    value, other[key][parameter], rtol=1e-4, atol=1e-5, msg=f"{name} {parameter}"
                )
        assert other["optimizer_state"]["state"].keys() == whole["optimizer_state"]["state"].keys()

    # The best weights are one file, and so is what `convert` makes of a folder; training goes on from that.
    best = read_checkpoint_file(get_best_path(tmp_path / "zero3"))
    assert best.weights.keys() == whole["model_state"].keys() and best.config
    assert best.training["optimizer_state"] == {}
    with pytest.raises(ValueError, match="checkpoint_best.pyth is no checkpoint of a training job"):
        join_checkpoint(best.source, tmp_path / "best.pyth")
    digest = join_checkpoint(str(list_checkpoints(tmp_path / "zero3")[-1]), tmp_path / "whole.pyth")
    joined = read_checkpoint_file(tmp_path / "whole.pyth")
    assert digest == joined.training["digest"] == compute_digest(whole)
    assert joined.kind == "training" and all(torch.equal(v, whole["model_state"][k]) for k, v in joined.weights.items())
    with pytest.raises(ValueError, match="whole.pyth exists already"):
        join_checkpoint(str(tmp_path / "whole.pyth"), tmp_path / "whole.pyth")


@pytest.mark.slow
@pytest.mark.distributed
def test_every_task_can_be_divided(options, action_options, detection_options, run_jobs, tmp_path):
    """Also with a probe, whose number only the main process has, and in bf16."""
    pretraining = {
        **options,
        "TASK": "pretrain",
        "MODEL.MODEL_NAME": "mae_hiera_tiny_16x224",
        "MAE.DECODER_EMBED_DIM": "16",
        "MAE.DECODER_DEPTH": "1",
        "MAE.DECODER_NUM_HEADS": "2",
        "MAE.MASK_RATIO": "0.5",
        "MAE.PROBE_PERIOD": "1",
        "MAE.PROBE_NEIGHBORS": "3",
        "TRAIN.PRECISION": "bf16",
    }
    tasks = {"pretrain": pretraining, "detect_actions": action_options, "detect": detection_options}
    common = {"SOLVER.OPTIMIZING_METHOD": "sgd", "SOLVER.BASE_LR": "0.01", "SOLVER.MAX_EPOCH": "1"}
    jobs = [
        {"options": {**pairs, **common, "TRAIN.SHARDING": sharding, "OUTPUT_DIR": str(tmp_path / task / sharding)}}
        for task, pairs in tasks.items()
        for sharding in ("none", "zero3")
    ]
    run_jobs(jobs, processes=2)
    for task, score in (("pretrain", "knn_top1"), ("detect_actions", "map"), ("detect", "mask_ap")):
        whole, divided = (tmp_path / task / sharding for sharding in ("none", "zero3"))
        assert read_steps(divided) == pytest.approx(read_steps(whole), rel=1e-4), task
        assert len(read_steps(whole)) >= 4
        scores = [read_lines(folder, "val_epoch", score) for folder in (whole, divided)]
        assert len(scores[0]) == 1 and scores[0][0] == pytest.approx(scores[1][0]), task
        assert get_best_path(divided).exists() == get_best_path(whole).exists() == (task != "pretrain"), task


@pytest.mark.slow
@pytest.mark.distributed
def test_steps_that_cannot_be_taken_are_left_out_together(options, run_jobs, tmp_path):
    """A learning rate without measure makes weights that are not finite sooner or later: the job stops in all ranks."""
    pairs = {**options, "SOLVER.BASE_LR": "1e30", "SOLVER.MAX_BAD_STEPS": "2", "SOLVER.WARMUP_EPOCHS": "0"}
    pairs |= {"TRAIN.SHARDING": "zero3", "SOLVER.OPTIMIZING_METHOD": "sgd", "OUTPUT_DIR": str(tmp_path / "bad")}
    with pytest.raises(AssertionError, match="FloatingPointError"):
        run_jobs([{"options": pairs}], processes=2)
    folders = sorted((tmp_path / "bad" / "bad_steps").iterdir())
    assert len(folders) == 3 and {path.name for path in folders[0].iterdir()} == {
        *("rank_0.pth", "rank_1.pth", "weights.pth"),
    }
    weights = torch.load(folders[0] / "weights.pth", weights_only=True)["model_state"]
    assert all(type(value) is torch.Tensor for value in weights.values())
    assert weights["patch_embed.proj.weight"].shape[0] == 8
