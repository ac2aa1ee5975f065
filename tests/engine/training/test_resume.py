"""A run that was stopped and is started again is the same run, to the last bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import simplejson

from hiera_video.engine.checkpoint import compute_digest, find_last_checkpoint, list_checkpoints
from hiera_video.engine.launch import launch
from hiera_video.engine.training import classify, loop
from hiera_video.engine.training.classify import train
from hiera_video.models.checkpoint_file import read_checkpoint_file
from hiera_video.utils.interrupt import Interrupted

ROOT = Path(__file__).resolve().parents[3]
TIMES = {"goodput", "clips_per_sec", "step_time_sec", "data_time_sec", "peak_memory_gb", "eta", "seconds"}
# Everything that draws random numbers or keeps a state.
ALL = {
    "TRAIN.GRAD_ACCUM_STEPS": 2,
    "MIXUP.ENABLE": True,
    "MODEL.DROP_PATH_RATE": 0.2,
    "MODEL.DROPOUT_RATE": 0.2,
    "AUG.RE_PROB": 0.5,
    "AUG.NUM_SAMPLE": 2,
    "SOLVER.EMA_DECAY": 0.9,
    "SOLVER.MAX_EPOCH": 3,
    "TRAIN.BATCH_SIZE": 8,
    "LOG_PERIOD": 2,
}
# Mixing needs two videos in each process's part of a step.
ACCUMULATING = {**ALL, "AUG.NUM_SAMPLE": 1}
REPEATING = {**ALL, "TRAIN.GRAD_ACCUM_STEPS": 1}
PRETRAIN = {
    "TASK": "pretrain",
    "MODEL.MODEL_NAME": "mae_hiera_tiny_16x224",
    "MAE.DECODER_EMBED_DIM": 16,
    "MAE.DECODER_DEPTH": 1,
    "MAE.DECODER_NUM_HEADS": 2,
    "MAE.MASK_RATIO": 0.5,
    "MAE.PROBE_PERIOD": 1,
    "MAE.PROBE_NEIGHBORS": 3,
    "DATA.NUM_FRAMES": 4,
    "TRAIN.GRAD_ACCUM_STEPS": 2,
    "AUG.NUM_SAMPLE": 2,
    "SOLVER.EMA_DECAY": 0.9,
    "SOLVER.MAX_EPOCH": 3,
    "LOG_PERIOD": 2,
}


def read_content(output_dir):
    file = read_checkpoint_file(find_last_checkpoint(output_dir), part="all")
    content = {**file.training, "model_state": file.weights, "epoch": file.epoch}
    return {"digest": compute_digest(content), **content}  # a folder has digests of its files


def read_metrics(output_dir):
    """All lines without what depends on the clock."""
    lines = map(simplejson.loads, (Path(output_dir) / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


@pytest.fixture
def run_damaged(options):
    """Runs tests/stop_training.py; returns the finished process."""

    def run(what, place, changes, *, rank=0, processes=1):
        pairs = {**options, **{key: str(value) for key, value in changes.items()}}
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        words = [sys.executable, *(launcher if processes > 1 else []), "tests/stop_training.py"]
        words += [what, *map(str, place), str(rank), *(word for pair in pairs.items() for word in pair)]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)

    return run


def assert_same_run(first, second):
    one, two = read_content(first), read_content(second)
    assert one["digest"] == compute_digest(one) == two["digest"] == compute_digest(two)
    for key in ("best_score", "first_loss", "num_bad_steps", "bad_videos", "log_rows", "epoch"):
        assert one[key] == two[key], key
    assert read_metrics(first) == read_metrics(second)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "processes", "workers", "places"),
    [
        (ALL, 1, 0, [(0, 1), (0, 3), (2, 2)]),
        (ALL, 1, 2, [(0, 2), (1, 3)]),
        (ACCUMULATING, 2, 0, [(1, 1)]),
        (REPEATING, 2, 2, [(0, 3), (2, 1)]),
        (PRETRAIN, 1, 2, [(0, 3), (2, 1)]),
        (PRETRAIN, 2, 0, [(1, 2)]),
        ({**ACCUMULATING, "TRAIN.SHARDING": "zero3"}, 2, 0, [(1, 1)]),
    ],
    ids=["one", "workers", "two processes", "two processes and workers", "pretrain", "pretrain in two", "sharded"],
)
def test_stopped_at_any_step_it_goes_on_as_if_nothing_had_been(
    run_net, run_damaged, changes, processes, workers, places, tmp_path
):
    changes = {**changes, "DATA_LOADER.NUM_WORKERS": workers}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finished = run_net({**changes, "OUTPUT_DIR": whole}, processes=processes)
    assert finished.returncode == 0, finished.stderr
    for number, place in enumerate(places):
        name = ("SIGTERM", "SIGINT", "SIGUSR1")[number]
        finished = run_damaged(name, place, {**changes, "OUTPUT_DIR": stopped}, rank=processes - 1, processes=processes)
        assert finished.returncode == (75 if processes == 1 else 1), finished.stderr  # torchrun has its own status
        assert f"stopped by {name} after" in finished.stderr
        # The request is seen after the step that follows, and after an epoch's last step in the validation.
        content = read_content(stopped)
        assert (content["epoch"], content["step"]) == ((place[0] + 1, 0) if place[1] == 3 else (place[0], place[1] + 1))
    finished = run_net({**changes, "OUTPUT_DIR": stopped}, processes=processes)
    assert finished.returncode == 0, finished.stderr
    assert "resumed from" in finished.stderr
    assert_same_run(whole, stopped)


@pytest.mark.slow
def test_workers_change_no_bit(run_net, tmp_path):
    for workers in (0, 1, 4):
        finished = run_net({**ALL, "DATA_LOADER.NUM_WORKERS": workers, "OUTPUT_DIR": tmp_path / str(workers)})
        assert finished.returncode == 0, finished.stderr
    for workers in ("1", "4"):
        assert_same_run(tmp_path / "0", tmp_path / workers)


def test_the_settings_of_the_optimizer_are_those_of_the_config(make_cfg):
    """Weight decay and betas once stayed those of the checkpoint, and another LAYER_DECAY stopped with a riddle."""
    launch([train], make_cfg({"SOLVER.MAX_EPOCH": 1}))
    changes = {"SOLVER.WEIGHT_DECAY": 0.3, "SOLVER.BETAS": [0.8, 0.9], "SOLVER.LAYER_DECAY": 0.5, "SOLVER.MAX_EPOCH": 2}
    cfg = make_cfg(changes)
    first = read_content(cfg.OUTPUT_DIR)
    launch([train], cfg)
    groups = read_content(cfg.OUTPUT_DIR)["optimizer_state"]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.0, 0.3}
    assert {tuple(group["betas"]) for group in groups} == {(0.8, 0.9)}
    assert len({group["lr_scale"] for group in groups}) > 2
    steps = {moments["step"].item() for moments in read_content(cfg.OUTPUT_DIR)["optimizer_state"]["state"].values()}
    assert steps == {6.0} and first["optimizer_state"]["state"], "the moments went on"
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert "SOLVER.WEIGHT_DECAY: 0.05 -> 0.3" in log and "SOLVER.LAYER_DECAY: 1.0 -> 0.5" in log


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"SOLVER.OPTIMIZING_METHOD": "sgd"}, "SOLVER.OPTIMIZING_METHOD: adamw -> sgd"),
        ({"HIERA.EMBED_DIM": 16}, "HIERA.EMBED_DIM: 8 -> 16"),
        ({"MODEL.NUM_CLASSES": 9}, "MODEL.NUM_CLASSES: 8 -> 9"),
        ({"DATA.NUM_FRAMES": 8}, "DATA.NUM_FRAMES: 4 -> 8"),
        ({"MODEL.HEAD": "attentive"}, "MODEL.HEAD: mean -> attentive"),
        ({"MODEL.FREEZE_STAGES": 1}, "MODEL.FREEZE_STAGES: 0 -> 1"),
        ({"SOLVER.EMA_DECAY": 0.9}, "SOLVER.EMA_DECAY is set, but .* written without EMA"),
    ],
)
def test_what_cannot_change_within_a_run_is_refused_by_name(make_cfg, changes, named):
    launch([train], make_cfg({"SOLVER.MAX_EPOCH": 1}))
    with pytest.raises(ValueError, match=named):
        launch([train], make_cfg(changes))


def test_a_flipped_bit_in_the_newest_checkpoint_is_found(make_cfg):
    cfg = make_cfg()
    launch([train], cfg)
    newest = list_checkpoints(cfg.OUTPUT_DIR)[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    launch([train], cfg)
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert f"{newest} has changed since it was written" in log and "after 1 epochs of 2" in log


def test_a_finished_run_does_nothing_more(make_cfg):
    cfg = make_cfg()
    launch([train], cfg)
    before = (Path(cfg.OUTPUT_DIR) / "metrics.jsonl").read_text()
    launch([train], cfg)
    assert (Path(cfg.OUTPUT_DIR) / "metrics.jsonl").read_text() == before
    record = Path(cfg.OUTPUT_DIR) / "checkpoints" / "last_validation.json"
    record.unlink()
    launch([train], cfg)
    assert [line for line in read_metrics(cfg.OUTPUT_DIR)] == [
        {key: value for key, value in simplejson.loads(line).items() if key not in TIMES}
        for line in before.splitlines()
    ], "without the record the last epoch is validated again, with the same result"
    assert record.exists()


@pytest.mark.slow
@pytest.mark.distributed
def test_with_node_local_folders_all_ranks_go_on_from_what_rank_0_has(options, make_cfg, run_net, tmp_path):
    """Rank 1 sees another OUTPUT_DIR, as on a cluster without shared disk: it used to begin at epoch 0."""
    changes = {"SOLVER.MAX_EPOCH": 1, "OUTPUT_DIR": tmp_path / "node0"}
    assert run_net(changes, processes=2).returncode == 0
    code = "import os, sys\nfrom hiera_video.cli.run import main\n"
    code += f"where = {str(tmp_path)!r} + '/node' + os.environ['RANK']\n"
    code += "sys.exit(main([*sys.argv[1:], 'OUTPUT_DIR', where]))"
    (tmp_path / "node.py").write_text(code)
    pairs = {**options, "SOLVER.MAX_EPOCH": "2"}
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words += [str(tmp_path / "node.py"), *(word for pair in pairs.items() for word in pair)]
    finished = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    straight = run_net({**changes, "SOLVER.MAX_EPOCH": 2, "OUTPUT_DIR": tmp_path / "shared"}, processes=2)
    assert straight.returncode == 0
    assert read_content(tmp_path / "node0")["epoch"] == 2 and not list_checkpoints(tmp_path / "node1")
    assert [line for line in read_metrics(tmp_path / "node0") if line["epoch"].startswith("2")]


def test_processes_in_different_states_are_stopped(make_cfg, monkeypatch):
    from hiera_video.engine.training import resume

    monkeypatch.setattr(resume, "all_gather_objects", lambda digest: [digest, digest, "another"])
    with pytest.raises(RuntimeError, match="do not start from the same weights.*rank 2 differs from rank 0"):
        launch([train], make_cfg())


@pytest.mark.slow
@pytest.mark.distributed
def test_another_number_of_processes_goes_on_and_is_said(run_net, tmp_path):
    """Without random draws of the model the numbers stay the same but for rounding."""
    changes = {"SOLVER.OPTIMIZING_METHOD": "sgd", "SOLVER.BASE_LR": 0.1, "OUTPUT_DIR": tmp_path / "mixed"}
    assert run_net({**changes, "SOLVER.MAX_EPOCH": 2}, processes=2).returncode == 0
    finished = run_net({**changes, "SOLVER.MAX_EPOCH": 2, "OUTPUT_DIR": tmp_path / "one"})
    assert finished.returncode == 0
    newest = list_checkpoints(tmp_path / "mixed")[-1]
    newest.unlink()
    finished = run_net({**changes, "SOLVER.MAX_EPOCH": 2})
    assert finished.returncode == 0 and "resuming with 1 processes what 2 have begun" in finished.stderr
    one, mixed = (read_metrics(tmp_path / name) for name in ("one", "mixed"))
    for first, second in zip(one, mixed, strict=True):
        if first["_type"] == "train_iter":  # the loss curve of one process and of two, at the same total batch
            assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)


def test_mixing_needs_pairs_of_videos(make_cfg):
    for changes, named in (
        ({"TRAIN.BATCH_SIZE": 6, "AUG.NUM_SAMPLE": 2}, "give a batch of 3 videos.*multiple of 4"),
        ({"TRAIN.BATCH_SIZE": 8, "TRAIN.GRAD_ACCUM_STEPS": 8}, "MIXUP.ENABLE mixes"),
    ):
        with pytest.raises(ValueError, match=named):
            launch([train], make_cfg({"MIXUP.ENABLE": True, **changes}))


EARLY = {"SOLVER.MAX_EPOCH": 7, "TRAIN.EARLY_STOP_VALIDATIONS": 2, "TRAIN.CHECKPOINT_PERIOD": 3}
SCORES = (
    10.0,
    30.0,
    20.0,
    30.0,
    50.0,
    60.0,
    70.0,
)  # after each epoch: two in a row that are not better than the second


@pytest.fixture
def scored(monkeypatch):
    """Validations find `SCORES`."""
    validate = classify.validate

    def find(cfg, loader, state):
        return {**validate(cfg, loader, state), "top1": SCORES[state.epoch - 1]}

    monkeypatch.setattr(classify, "validate", find)


def count_epochs(output_dir):
    return [line["epoch"] for line in read_metrics(output_dir) if line["_type"] == "val_epoch"]


def test_training_ends_early_after_validations_that_were_not_better(make_cfg, scored):
    cfg = make_cfg(EARLY)
    launch([train], cfg)
    assert count_epochs(cfg.OUTPUT_DIR) == ["1/7", "2/7", "3/7", "4/7"]
    last = find_last_checkpoint(cfg.OUTPUT_DIR)
    assert last.name == "checkpoint_epoch_00004.pyth", "although CHECKPOINT_PERIOD is 3"
    assert read_checkpoint_file(last.with_name("checkpoint_best.pyth")).epoch == 2
    log = Path(cfg.OUTPUT_DIR, "stdout.log")
    said = (
        "training ends after 4 epochs of 7: TRAIN.EARLY_STOP_VALIDATIONS = 2 validations in a row were not better than"
    )
    assert log.read_text().count(f"{said} the best one, with 30.00 %") == 1
    before = last.read_bytes()
    launch([train], cfg)
    assert log.read_text().count(said) == 2, "a run that has ended early ends at once, and says so"
    assert find_last_checkpoint(cfg.OUTPUT_DIR).read_bytes() == before
    launch([train], make_cfg({**EARLY, "TRAIN.EARLY_STOP_VALIDATIONS": 3}))
    assert count_epochs(cfg.OUTPUT_DIR)[-1] == "7/7", "with more patience it goes on, and here gets better"


@pytest.mark.parametrize("place", [(2, 1), (3, 0), (3, 2)], ids=str)
def test_stopped_at_any_step_it_ends_early_at_the_same_epoch(make_cfg, scored, monkeypatch, place, tmp_path):
    """Place (3, 2) is the last step: the stop is seen in the validation that decides."""
    whole, stopped = (make_cfg({**EARLY, "OUTPUT_DIR": tmp_path / name}) for name in ("whole", "stopped"))
    launch([train], whole)
    take_step = loop.take_step

    def stop_here(run, batches, meters, lr):
        is_here = (run.state.epoch, run.state.step) == place
        values = take_step(run, batches, meters, lr)
        if is_here:
            os.kill(os.getpid(), signal.SIGTERM)
        return values

    monkeypatch.setattr(loop, "take_step", stop_here)
    with pytest.raises(Interrupted):
        launch([train], stopped)
    monkeypatch.setattr(loop, "take_step", take_step)
    launch([train], stopped)
    assert_same_run(whole.OUTPUT_DIR, stopped.OUTPUT_DIR)
    assert read_content(stopped.OUTPUT_DIR)["num_worse"] == 1, "the checkpoint is from before the last validation"
