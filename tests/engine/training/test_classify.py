"""The training job end to end, on real files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import simplejson
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch._dynamo.utils import counters
from waiting import NoWaiting

from hiera_video.config import config_from_text
from hiera_video.data.build_lists import build_video_list
from hiera_video.data.loader import build_train_loader
from hiera_video.engine.checkpoint import (
    find_last_checkpoint,
    get_best_path,
    get_checkpoint_path,
    list_checkpoints,
    save_checkpoint,
)
from hiera_video.engine.evaluate import test as run_test
from hiera_video.engine.launch import launch
from hiera_video.engine.training import classify as classify_module
from hiera_video.engine.training.bad_step import compute_grad_norm
from hiera_video.engine.training.classify import train
from hiera_video.engine.training.loop import _update_weights
from hiera_video.engine.training.resume import start_or_resume
from hiera_video.engine.training.state import build_state
from hiera_video.models.build import build_compiled, build_model_from_cfg
from hiera_video.models.checkpoint_file import read_checkpoint_file
from hiera_video.models.weights import load_weights


def run(cfg):
    launch([train], cfg)
    return read_checkpoint_file(find_last_checkpoint(cfg.OUTPUT_DIR))


def read_metrics(cfg, kind):
    lines = (Path(cfg.OUTPUT_DIR) / "metrics.jsonl").read_text().splitlines()
    return [stats for stats in map(simplejson.loads, lines) if stats["_type"] == kind]


def assert_same_weights(first, second, **tolerances):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], msg=f"{name} differs", **tolerances)


def largest_change(first, second):
    return max((first[name] - second[name]).abs().max().item() for name in first)


def test_a_run_writes_what_it_promises(make_cfg):
    cfg = make_cfg({"MODEL.DROP_PATH_RATE": 0.1, "MIXUP.ENABLE": True, "AUG.AA_TYPE": "rand-m7-n2-mstd0.5-inc1"})
    content = run(cfg)
    assert (content.kind, content.epoch) == ("training", 2) and config_from_text(content.config) == cfg
    assert (Path(cfg.OUTPUT_DIR) / "config.yaml").read_text() == content.config
    lines = read_metrics(cfg, "train_iter")
    assert [(line["epoch"], line["iter"]) for line in lines] == [
        (f"{epoch}/2", f"{step}/3") for epoch in (1, 2) for step in (1, 2, 3)
    ]
    wanted = {"loss", "top1", "top5", "lr", "clips_per_sec", "data_time_sec", "step_time_sec", "peak_memory_gb", "eta"}
    assert all(wanted <= line.keys() for line in lines)
    assert lines[0]["lr"] == pytest.approx(cfg.SOLVER.WARMUP_START_LR)
    assert [line["num_videos"] for line in read_metrics(cfg, "val_epoch")] == [8, 8]
    assert "json_stats: {" in (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()


@pytest.mark.slow
def test_training_fits_a_few_clips(make_cfg):
    """The loss must go down for real: ten clips of two epochs' worth of noise would not do that by chance."""
    cfg = make_cfg(
        {
            "SOLVER.MAX_EPOCH": 30,
            "SOLVER.BASE_LR": 2e-3,
            "TRAIN.EVAL_PERIOD": 0,
            "HIERA.HEAD_INIT_SCALE": 1,
            "HIERA.EMBED_DIM": 16,
        }
    )
    run(cfg)
    losses = [line["loss"] for line in read_metrics(cfg, "train_iter")]
    assert sum(losses[-3:]) < 0.65 * sum(losses[:3])


@pytest.mark.slow
def test_a_resumed_run_is_the_same_run(make_cfg, tmp_path):
    changes = {
        "SOLVER.MAX_EPOCH": 4,
        "MODEL.DROP_PATH_RATE": 0.2,
        "MODEL.DROPOUT_RATE": 0.2,
        "MIXUP.ENABLE": True,
        "AUG.RE_PROB": 0.5,
        "AUG.NUM_SAMPLE": 2,
        "SOLVER.EMA_DECAY": 0.9,
        "TRAIN.EVAL_PERIOD": 2,
        "TRAIN.CHECKPOINT_KEEP_LAST": 0,
    }
    whole = make_cfg({**changes, "OUTPUT_DIR": tmp_path / "whole"})
    straight = run(whole)
    stopped = make_cfg({**changes, "OUTPUT_DIR": tmp_path / "stopped"})
    half = list_checkpoints(whole.OUTPUT_DIR)[1]
    target = tmp_path / "stopped" / "checkpoints" / half.name
    target.parent.mkdir(parents=True)
    target.write_bytes(half.read_bytes())
    resumed = run(stopped)
    assert read_checkpoint_file(half).epoch == 2 and resumed.epoch == straight.epoch == 4
    assert_same_weights(straight.weights, resumed.weights, rtol=0, atol=0)
    assert_same_weights(
        straight.training["trained_model_state"], resumed.training["trained_model_state"], rtol=0, atol=0
    )
    assert resumed.training["best_score"] == straight.training["best_score"]
    assert largest_change(read_checkpoint_file(half).weights, resumed.weights) > 1e-5


@pytest.mark.slow
def test_accumulation_equals_one_large_batch(make_cfg, tmp_path):
    # SGD: Adam's first step is a sign, which turns rounding into a difference of a whole learning rate.
    changes = {"SOLVER.OPTIMIZING_METHOD": "sgd", "SOLVER.BASE_LR": 0.1, "TRAIN.EVAL_PERIOD": 0}
    once = run(make_cfg({**changes, "OUTPUT_DIR": tmp_path / "a"}))
    parts = run(make_cfg({**changes, "OUTPUT_DIR": tmp_path / "b", "TRAIN.GRAD_ACCUM_STEPS": 4}))
    assert_same_weights(once.weights, parts.weights, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_like_one(run_net, make_cfg, tmp_path):
    changes = {"SOLVER.OPTIMIZING_METHOD": "sgd", "SOLVER.BASE_LR": 0.1, "OUTPUT_DIR": tmp_path / "two"}
    finished = run_net(changes, processes=2)
    assert finished.returncode == 0, finished.stderr
    two = read_checkpoint_file(find_last_checkpoint(tmp_path / "two"))
    one_cfg = make_cfg({**changes, "OUTPUT_DIR": tmp_path / "one"})
    one = run(one_cfg)
    assert_same_weights(one.weights, two.weights, rtol=1e-4, atol=1e-6)
    two_val = read_metrics(make_cfg(changes), "val_epoch")
    assert [(line["top1"], line["num_videos"]) for line in two_val] == [
        (line["top1"], line["num_videos"]) for line in read_metrics(one_cfg, "val_epoch")
    ]


@pytest.mark.slow
def test_checkpoints_are_kept_as_asked(make_cfg):
    cfg = make_cfg({"SOLVER.MAX_EPOCH": 5, "TRAIN.CHECKPOINT_PERIOD": 2, "TRAIN.CHECKPOINT_KEEP_LAST": 2})
    run(cfg)
    names = [path.name for path in list_checkpoints(cfg.OUTPUT_DIR)]
    assert names == ["checkpoint_epoch_00004.pyth", "checkpoint_epoch_00005.pyth"]
    validated = read_metrics(cfg, "val_epoch")
    best = read_checkpoint_file(get_best_path(cfg.OUTPUT_DIR))
    first_best = max(range(len(validated)), key=lambda i: (validated[i]["top1"], -i))
    assert best.epoch == first_best + 1 and best.training["best_score"] == validated[first_best]["top1"]
    assert not list(Path(cfg.OUTPUT_DIR).rglob("*.partial"))


def test_ema_is_the_average_of_the_weights(make_cfg):
    """One step an epoch, all checkpoints kept: the average can be computed by hand from them."""
    cfg = make_cfg(
        {
            "SOLVER.EMA_DECAY": 0.75,
            "TRAIN.BATCH_SIZE": 24,
            "SOLVER.MAX_EPOCH": 3,
            "TRAIN.EVAL_PERIOD": 0,
            "TRAIN.CHECKPOINT_KEEP_LAST": 0,
        }
    )
    run(cfg)
    steps = [read_checkpoint_file(path) for path in list_checkpoints(cfg.OUTPUT_DIR)]
    name = "blocks.0.attn.qkv.weight"
    average = steps[0].training["trained_model_state"][name]  # the first update copies
    for step in steps[1:]:
        average = 0.75 * average + 0.25 * step.training["trained_model_state"][name]
    torch.testing.assert_close(steps[-1].weights[name], average)
    assert not torch.equal(steps[-1].training["trained_model_state"][name], average)


def test_a_broken_video_is_replaced_counted_and_named(make_cfg, broken_dir):
    cfg = make_cfg({"DATA.PATH_TO_DATA_DIR": broken_dir})
    run(cfg)
    assert read_metrics(cfg, "train_iter")[-1]["bad_videos"] == 1
    val = read_metrics(cfg, "val_epoch")[-1]
    assert (val["num_videos"], val["num_failed"]) == (8, 1)
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    path = (broken_dir / "train.csv").read_text().splitlines()[3].rsplit(" ", 1)[0]
    assert f"bad video 1: {broken_dir}/{path}" in log


def test_too_many_broken_videos_stop_the_job(make_cfg, broken_dir):
    with pytest.raises(RuntimeError, match=r"1 videos could not be decoded, more than DATA.MAX_BAD_VIDEOS = 0"):
        run(make_cfg({"DATA.PATH_TO_DATA_DIR": broken_dir, "DATA.MAX_BAD_VIDEOS": 0}))


def test_a_loss_that_is_not_finite_stops_the_job(make_cfg):
    cfg = make_cfg({"SOLVER.OPTIMIZING_METHOD": "sgd", "SOLVER.BASE_LR": 1e30, "SOLVER.WARMUP_EPOCHS": 0})
    with pytest.raises(
        FloatingPointError, match=r"the loss is (nan|inf) .* at epoch 1/2, step 2, .*mp4.*SOLVER.BASE_LR"
    ):
        run(cfg)
    assert find_last_checkpoint(cfg.OUTPUT_DIR) is None


def test_fine_tuning_starts_from_given_weights(make_cfg, tmp_path):
    source = make_cfg({"OUTPUT_DIR": tmp_path / "source"})
    run(source)
    start = {"OUTPUT_DIR": tmp_path / "tuned", "TRAIN.CHECKPOINT_FILE_PATH": find_last_checkpoint(source.OUTPUT_DIR)}
    tuned = run(
        make_cfg(
            {
                **start,
                "SOLVER.BASE_LR": 1e-12,
                "SOLVER.COSINE_END_LR": 0,
                "SOLVER.WARMUP_START_LR": 0,
                "MODEL.NUM_CLASSES": 9,
            }
        )
    ).weights
    weights = read_checkpoint_file(find_last_checkpoint(source.OUTPUT_DIR)).weights
    torch.testing.assert_close(tuned["blocks.3.mlp.fc1.weight"], weights["blocks.3.mlp.fc1.weight"])
    assert tuned["head.projection.weight"].shape == (9, 64)


@pytest.mark.parametrize("changes", [{"TRAIN.PRECISION": "bf16"}, {"MODEL.ACT_CHECKPOINT": True}])
def test_memory_savers_train_nearly_the_same(make_cfg, tmp_path, changes):
    plain = run(make_cfg({"OUTPUT_DIR": tmp_path / "a", "SOLVER.MAX_EPOCH": 1})).weights
    saver = run(make_cfg({"OUTPUT_DIR": tmp_path / "b", "SOLVER.MAX_EPOCH": 1, **changes})).weights
    difference = largest_change(plain, saver)
    assert difference < 3e-3 if "TRAIN.PRECISION" in changes else difference < 1e-6
    assert ("TRAIN.PRECISION" in changes) == (difference > 0), "bf16 rounds; checkpointing computes the same again"


def test_a_checkpoint_of_ours_fills_the_whole_model(make_cfg):
    cfg = make_cfg({"SOLVER.MAX_EPOCH": 1})
    content = run(cfg)
    model = build_model_from_cfg(cfg, crop_size=32)
    report = load_weights(model, str(find_last_checkpoint(cfg.OUTPUT_DIR)))
    assert not report.missing
    assert_same_weights(dict(model.state_dict()), content.weights, rtol=0, atol=0)


def test_a_damaged_checkpoint_is_named(make_cfg):
    cfg = make_cfg()
    run(cfg)
    older, newest = list_checkpoints(cfg.OUTPUT_DIR)
    newest.write_bytes(newest.read_bytes()[:1000])
    assert run(cfg).epoch == 2
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert "a checkpoint is damaged, and the one before it is taken" in log and newest.name in log
    for path in (older, newest):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=older.name):
        run(cfg)
    assert [path.stat().st_size for path in (older, newest)] == [1000, 1000], "nothing is overwritten"


def test_tensorboard_events_are_written(make_cfg):
    cfg = make_cfg({"TENSORBOARD.ENABLE": True, "SOLVER.MAX_EPOCH": 1})
    run(cfg)
    events = EventAccumulator(str(Path(cfg.OUTPUT_DIR) / "tensorboard")).Reload()
    losses = [stats["loss"] for stats in read_metrics(cfg, "train_iter")]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses)
    assert events.Scalars("val/top1")[0].value == pytest.approx(read_metrics(cfg, "val_epoch")[0]["top1"])


def test_a_checkpoint_without_training_state_cannot_be_resumed_from(make_cfg):
    cfg = make_cfg()
    weights = build_model_from_cfg(cfg, crop_size=32).state_dict()
    path = get_checkpoint_path(cfg.OUTPUT_DIR, 1)
    save_checkpoint(path, {"model_state": weights})
    with pytest.raises(ValueError, match=rf"{path.name} is not a checkpoint of a training job.*no optimizer_state"):
        run(cfg)


def test_after_a_resume_nothing_depends_on_the_checkpoint_file(make_cfg):
    """A CPU's optimizer would keep the mapped tensors of the file, which may be overwritten while training goes on."""
    cfg = make_cfg({"SOLVER.MAX_EPOCH": 1})
    run(cfg)
    path = find_last_checkpoint(cfg.OUTPUT_DIR)
    state = start_or_resume(cfg, build_model_from_cfg(cfg, crop_size=32), num_videos=24)
    assert state.epoch == 1 and state.optimizer.state
    assert str(path) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("alphas", [{"MIXUP.ALPHA": 0}, {"MIXUP.CUTMIX_ALPHA": 0}, {"MIXUP.ENABLE": False}])
def test_a_step_never_waits_for_the_device(make_cfg, monkeypatch, alphas):
    """From the loader's batch to the updated weights, but for the one look at what all processes report."""
    changes = {"SOLVER.CLIP_GRAD_L2NORM": 1, "SOLVER.EMA_DECAY": 0.9, "SOLVER.FUSED": False, "AUG.RE_PROB": 1.0}
    changes |= {"MODEL.DROP_PATH_RATE": 0.2, "MODEL.DROPOUT_RATE": 0.2, "MODEL.ACT_CHECKPOINT": True}
    cfg = make_cfg({**changes, "MIXUP.ENABLE": True, **alphas})
    monkeypatch.setattr(classify_module, "get_device", lambda: torch.device("meta"))
    model, compute_loss = classify_module.build_classification(cfg)
    state = build_state(cfg, model)
    batch = {"video": torch.zeros(4, 1, 3, 4, 32, 32, dtype=torch.uint8), "label": torch.tensor([0, 7, 3, 1])}
    with NoWaiting():
        for _ in range(2):
            loss, report = compute_loss(model, batch)
            loss.backward()
            assert all(value.is_meta for value in report.values())
            _update_weights(cfg, state, compute_grad_norm(model))
            state.optimizer.zero_grad(set_to_none=True)


def test_classes_of_unequal_size_are_evened_out_in_what_is_drawn_and_in_the_loss(make_cfg, tmp_path):
    videos = build_video_list(make_cfg(), "train")
    once = [int(np.flatnonzero(videos.labels == label)[0]) for label in range(1, 8)]
    kept = [*np.flatnonzero(videos.labels == 0), *once]  # three videos of class 0, one of each other
    labels = videos.labels[kept]
    assert len(kept) == 10
    for split in ("train", "val"):
        lines = [f"{videos.paths[i]} {videos.labels[i]}\n" for i in kept]
        (tmp_path / f"{split}.csv").write_text("".join(lines))
    changes = {"TRAIN.BATCH_SIZE": 5, "DATA.PATH_TO_DATA_DIR": tmp_path}
    loader = build_train_loader(make_cfg(changes | {"TRAIN.CLASS_SAMPLING": 1.0}))
    assert sorted(np.bincount(labels[[index for _, index in loader.sampler]])) == [1] * 6 + [2] * 2

    cfg = make_cfg(changes | {"TRAIN.CLASS_WEIGHTING": 1.0})
    (model, compute_loss), (_, compute_plain) = (classify_module.build_classification(c) for c in (cfg, make_cfg()))
    batch = {"video": torch.randint(256, (10, 1, 3, 4, 32, 32), dtype=torch.uint8), "label": torch.tensor(labels)}
    model.eval()
    single = [compute_plain(model, {k: v[i : i + 1] for k, v in batch.items()})[0].item() for i in range(10)]
    of_classes = [np.mean(np.array(single)[labels == label]) for label in range(8)]
    assert compute_loss(model, batch)[0].item() == pytest.approx(np.mean(of_classes), rel=1e-5)


@pytest.mark.parametrize("task", ["classify", "detect"])
def test_a_job_compiles_its_model_as_one_graph(make_cfg, monkeypatch, task):
    """Detectors alone, whose shapes depend on boxes, may be several graphs."""
    calls = []

    def compile_model(model, **options):
        calls.append(options)
        return model

    monkeypatch.setattr(torch, "compile", compile_model)
    cfg = make_cfg({"MODEL.COMPILE": True})
    cfg.defrost()
    cfg.TASK = task
    model = torch.nn.Linear(2, 2)
    assert build_compiled(cfg, model) is model and calls == [{"fullgraph": task == "classify"}]
    cfg.MODEL.COMPILE = False
    assert build_compiled(cfg, model) is model and len(calls) == 1


@pytest.mark.slow
def test_a_compiled_run_trains_and_tests_like_a_plain_one(make_cfg, tmp_path, monkeypatch):
    """Train, validate, the average of the weights, a test with a partial last batch: the same but for rounding."""
    compile_model = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **options: compile_model(*a, backend="aot_eager", **options))
    changes = {"SOLVER.OPTIMIZING_METHOD": "sgd", "SOLVER.BASE_LR": 0.1, "SOLVER.EMA_DECAY": 0.5}
    cfgs = [make_cfg({**changes, "OUTPUT_DIR": tmp_path / str(on), "MODEL.COMPILE": on}) for on in (False, True)]
    torch.compiler.reset()
    counters.clear()
    plain, compiled = (run(cfg) for cfg in cfgs)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    assert_same_weights(plain.weights, compiled.weights, rtol=1e-4, atol=1e-6)
    for cfg in cfgs:
        launch([run_test], cfg)
    assert 1 < counters["stats"]["unique_graphs"] <= 4 and not counters["graph_break"]
    tables = [pd.read_parquet(Path(cfg.OUTPUT_DIR) / "test_predictions.parquet") for cfg in cfgs]
    torch.testing.assert_close(*(torch.tensor(np.stack(table["probs"])) for table in tables), rtol=1e-4, atol=1e-5)
