"""What a run says of its health."""

import math
from pathlib import Path

import pytest
import simplejson
import torch

from hiera_video.engine.launch import launch
from hiera_video.engine.training import classify, loop
from hiera_video.engine.training.bad_step import replay_bad_step
from hiera_video.engine.training.classify import build_classification, train
from hiera_video.engine.training.health import OutOfGpuMemory


@pytest.fixture
def poison(monkeypatch):
    """A function: steps with these numbers, from 0, get a loss that is not a number."""

    def plant(*steps):
        build, seen = build_classification, []

        def build_poisoned(cfg):
            model, compute_loss = build(cfg)

            def compute(forward, batch):
                loss, report = compute_loss(forward, batch)
                seen.append(loss.item())
                return (loss * math.nan if len(seen) - 1 in steps else loss), report

            return model, compute

        monkeypatch.setattr(classify, "build_classification", build_poisoned)

    return plant


def read_lines(cfg):
    lines = map(simplejson.loads, (Path(cfg.OUTPUT_DIR) / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["_type"] == "train_iter"]


def test_every_log_line_has_the_norm_of_the_gradient(make_cfg):
    """With plain SGD and one step, the norm is how far the weights move, over the learning rate."""
    cfg = make_cfg(
        {
            "SOLVER.OPTIMIZING_METHOD": "sgd",
            "SOLVER.MOMENTUM": 0.0,
            "SOLVER.WEIGHT_DECAY": 0.0,
            "SOLVER.WARMUP_EPOCHS": 0,
            "SOLVER.MAX_EPOCH": 1,
            "TRAIN.BATCH_SIZE": 24,
        }
    )
    before = build_classification(cfg)[0].state_dict()
    launch([train], cfg)
    from hiera_video.engine.checkpoint import find_last_checkpoint
    from hiera_video.models.checkpoint_file import read_checkpoint_file

    after = read_checkpoint_file(find_last_checkpoint(cfg.OUTPUT_DIR)).weights
    moved = math.sqrt(sum((after[name] - before[name]).double().square().sum().item() for name in before))
    (line,) = read_lines(cfg)
    assert line["grad_norm"] == pytest.approx(moved / line["lr"], rel=1e-3)


def test_bad_steps_are_left_out_counted_and_written_down(make_cfg, poison):
    poison(1, 4)
    cfg = make_cfg({"SOLVER.MAX_BAD_STEPS": 2})
    launch([train], cfg)
    lines = read_lines(cfg)
    assert [line["bad_steps"] for line in lines] == [0, 1, 1, 1, 2, 2]
    assert [line["loss"] is None for line in lines] == [False, True, False, False, True, False]
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert "This step is left out, number 2 of at most 2" in log and ".mp4" in log
    folders = sorted((Path(cfg.OUTPUT_DIR) / "bad_steps").iterdir())
    assert [folder.name for folder in folders] == ["epoch_00001_step_0000002", "epoch_00002_step_0000002"]


def test_one_bad_step_too_many_stops_and_can_be_replayed(make_cfg, poison):
    poison(1, 2)
    cfg = make_cfg({"SOLVER.MAX_BAD_STEPS": 1, "MODEL.DROPOUT_RATE": 0.5})
    with pytest.raises(FloatingPointError, match=r"step 3, learning rate .*SOLVER.MAX_BAD_STEPS = 1 such steps"):
        launch([train], cfg)
    folder = Path(cfg.OUTPUT_DIR) / "bad_steps" / "epoch_00001_step_0000003"
    loss, norm = replay_bad_step(folder, classify.build_classification)  # the third call of the poisoned loss is over
    again, norm_again = replay_bad_step(folder, classify.build_classification)
    assert (loss, norm) == (again, norm_again) and math.isfinite(loss) and norm > 0


def test_the_replay_of_a_step_is_the_step(make_cfg, poison, monkeypatch):
    """What the poisoned loss was before it was poisoned comes out again: same weights, clips, dropout."""
    losses = []
    leave_out = loop.leave_out_step
    monkeypatch.setattr(loop, "leave_out_step", lambda *a, **k: (losses.append(k["loss"]), leave_out(*a, **k)))
    poison(2)
    cfg = make_cfg({"SOLVER.MAX_BAD_STEPS": 1, "MODEL.DROPOUT_RATE": 0.5, "MIXUP.ENABLE": True})
    true_losses = []
    cross_entropy = torch.nn.functional.cross_entropy

    def spy(*args, **options):
        losses_of_clips = cross_entropy(*args, **options)
        true_losses.append(losses_of_clips.mean().item())
        return losses_of_clips

    monkeypatch.setattr(classify.F, "cross_entropy", spy)
    launch([train], cfg)
    assert len(losses) == 1 and math.isnan(losses[0])
    (folder,) = (Path(cfg.OUTPUT_DIR) / "bad_steps").iterdir()
    assert replay_bad_step(folder, build_classification)[0] == true_losses[2]


def test_a_loss_that_explodes_is_said_and_stops_where_asked(make_cfg):
    # One huge step: the loss stays finite, and is far above that of the first step.
    changes = {"SOLVER.OPTIMIZING_METHOD": "sgd", "SOLVER.BASE_LR": 300.0, "SOLVER.WARMUP_EPOCHS": 0}
    cfg = make_cfg({**changes, "SOLVER.MAX_BAD_STEPS": 9})
    launch([train], cfg)
    assert "times that of the first log line" in (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    cfg = make_cfg({**changes, "SOLVER.MAX_LOSS_RISE": 4.0, "OUTPUT_DIR": cfg.OUTPUT_DIR + "2"})
    with pytest.raises(FloatingPointError, match=r"SOLVER.MAX_LOSS_RISE = 4.0 stops the job"):
        launch([train], cfg)


def test_out_of_gpu_memory_names_the_keys(make_cfg, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(loop, "take_step", fail)
    with pytest.raises(
        OutOfGpuMemory, match=r"BATCH_SIZE = 8 .*GRAD_ACCUM_STEPS 2.*PRECISION bf16.*ACT_CHECKPOINT True"
    ):
        launch([train], make_cfg())


def test_the_heartbeat_says_how_far_the_job_is(make_cfg):
    cfg = make_cfg({"SOLVER.MAX_EPOCH": 1})
    launch([train], cfg)
    heartbeat = simplejson.loads((Path(cfg.OUTPUT_DIR) / "heartbeat.json").read_text())
    assert heartbeat["doing"] == "training" and heartbeat["epoch"] == 0 and heartbeat["step"] == 1
    assert heartbeat["unix_time"] > 1.7e9
