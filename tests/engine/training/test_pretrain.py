"""MAE pre-training end to end, and from there to fine-tuning."""

from pathlib import Path

import pytest
import simplejson
import torch
from waiting import NoWaiting, WaitsForDevice

from hiera_video.data.loader import build_train_loader, build_val_loader
from hiera_video.embeddings.probes.neighbors import classify_knn
from hiera_video.engine.checkpoint import find_last_checkpoint
from hiera_video.engine.launch import launch
from hiera_video.engine.training import pretrain as pretrain_module
from hiera_video.engine.training.bad_step import compute_grad_norm
from hiera_video.engine.training.classify import train
from hiera_video.engine.training.loop import _update_weights
from hiera_video.engine.training.pretrain import pretrain
from hiera_video.engine.training.state import build_state
from hiera_video.models.checkpoint_file import read_checkpoint_file
from hiera_video.models.mask_units import draw_mask

MAE = {
    "TASK": "pretrain",
    "MODEL.MODEL_NAME": "mae_hiera_tiny_16x224",
    "MAE.MASK_RATIO": 0.5,
    "MAE.DECODER_EMBED_DIM": 32,
    "MAE.DECODER_DEPTH": 1,
    "MAE.DECODER_NUM_HEADS": 2,
    "MAE.PROBE_PERIOD": 2,
    "MAE.PROBE_NEIGHBORS": 3,
    "DATA.TRAIN_JITTER_SCALES_RELATIVE": [0.5, 1.0],
    "DATA.TRAIN_CROP_SIZE": 64,
    "DATA.TRAIN_JITTER_SCALES": [64, 64],
    "AUG.NUM_SAMPLE": 2,
}


def run(cfg):
    launch([pretrain], cfg)
    return read_checkpoint_file(find_last_checkpoint(cfg.OUTPUT_DIR))


def read_metrics(cfg, kind):
    lines = (Path(cfg.OUTPUT_DIR) / "metrics.jsonl").read_text().splitlines()
    return [stats for stats in map(simplejson.loads, lines) if stats["_type"] == kind]


@pytest.mark.slow
def test_the_loss_goes_down_and_the_probe_is_logged(make_cfg):
    cfg = make_cfg({**MAE, "SOLVER.MAX_EPOCH": 8, "SOLVER.BASE_LR": 3e-3})
    content = run(cfg)
    losses = [line["loss"] for line in read_metrics(cfg, "train_iter")]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    probes = read_metrics(cfg, "val_epoch")
    assert [probe["epoch"] for probe in probes] == ["2/8", "4/8", "6/8", "8/8"]
    assert all(0 <= probe["knn_top1"] <= 100 and probe["num_videos"] == 8 for probe in probes)
    assert "decoder_pred.weight" in content.weights and "head.projection.weight" not in content.weights


@pytest.mark.parametrize(
    "changes",
    [
        {"MAE.TARGET": "hog"},
        {"MAE.MASK_TYPE": "tube"},
        {"MAE.DECODER_KEEP_RATIO": 0.5},
        {"MAE.CONTRASTIVE_WEIGHT": 0.1, "MAE.NORM_TARGET": False},
    ],
)
def test_every_choice_changes_the_loss(make_cfg, tmp_path, changes):
    one = {**MAE, "SOLVER.MAX_EPOCH": 1, "MAE.PROBE_PERIOD": 0}
    plain, other = make_cfg({**one, "OUTPUT_DIR": tmp_path / "a"}), make_cfg({**one, **changes})
    run(plain), run(other)
    assert read_metrics(plain, "train_iter")[0]["loss"] != read_metrics(other, "train_iter")[0]["loss"]


@pytest.mark.slow
def test_a_resumed_pre_training_is_the_same_run(make_cfg, tmp_path):
    changes = {
        **MAE,
        "SOLVER.MAX_EPOCH": 3,
        "MODEL.DROP_PATH_RATE": 0.2,
        "MAE.DECODER_KEEP_RATIO": 0.5,
        "TRAIN.CHECKPOINT_KEEP_LAST": 0,
    }
    straight = run(make_cfg({**changes, "OUTPUT_DIR": tmp_path / "a"}))
    target = tmp_path / "b" / "checkpoints" / "checkpoint_epoch_00001.pyth"
    target.parent.mkdir(parents=True)
    target.write_bytes((tmp_path / "a" / "checkpoints" / target.name).read_bytes())
    resumed = run(make_cfg({**changes, "OUTPUT_DIR": tmp_path / "b"}))
    for name, value in straight.weights.items():
        assert torch.equal(value, resumed.weights[name]), name


def test_masks_come_from_the_samples_own_random_stream(make_cfg):
    """The same with workers; as many units in each sample; other ones in each view and epoch."""

    def load(**changes):
        loader = build_train_loader(make_cfg({**MAE, **changes}), make_mask=lambda: torch.rand(16).argsort() < 4)
        batches = []
        for epoch in (0, 2):
            loader.sampler.set_epoch(epoch)
            batches += [(batch["index"], batch["mask"]) for batch in loader]
        return torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])

    index, mask = load()
    workers_index, workers_mask = load(**{"DATA_LOADER.NUM_WORKERS": 2})
    assert torch.equal(index, workers_index) and torch.equal(mask, workers_mask)
    assert mask.shape == (24, 2, 16) and (mask.sum(dim=2) == 4).all()
    assert len({tuple(row.tolist()) for row in mask.flatten(0, 1)}) > 40


def test_labels_are_not_needed(make_cfg, motion_dir, tmp_path):
    paths = [line.rsplit(" ", 1)[0] for line in (motion_dir / "train.csv").read_text().splitlines()]
    (tmp_path / "train.csv").write_text("\n".join(f"{motion_dir}/{path}" for path in paths))
    cfg = make_cfg({**MAE, "SOLVER.MAX_EPOCH": 1, "MAE.PROBE_PERIOD": 0, "DATA.PATH_TO_DATA_DIR": tmp_path})
    assert run(cfg).epoch == 1
    with pytest.raises(ValueError, match=r"train.csv:1: .* is not a path and an integer label"):
        launch([train], make_cfg({"DATA.PATH_TO_DATA_DIR": tmp_path, "OUTPUT_DIR": tmp_path / "classify"}))


@pytest.mark.slow
def test_fine_tuning_from_pre_training(make_cfg, tmp_path):
    """The encoder comes over, decoder and head do not; layer-wise decay works from there."""
    mae = run(make_cfg({**MAE, "SOLVER.MAX_EPOCH": 1, "MAE.PROBE_PERIOD": 0, "OUTPUT_DIR": tmp_path / "mae"}))
    tune = make_cfg(
        {
            "TRAIN.CHECKPOINT_FILE_PATH": find_last_checkpoint(tmp_path / "mae"),
            "DATA.TRAIN_CROP_SIZE": 64,
            "DATA.TRAIN_JITTER_SCALES": [64, 64],
            "SOLVER.LAYER_DECAY": 0.5,
            "SOLVER.BASE_LR": 1e-12,
            "SOLVER.WARMUP_START_LR": 0,
            "SOLVER.MAX_EPOCH": 1,
        }
    )
    launch([train], tune)
    tuned = read_checkpoint_file(find_last_checkpoint(tune.OUTPUT_DIR)).weights
    shared = [name for name in tuned if name in mae.weights]
    assert {name for name in tuned if name not in shared} == {
        "norm.weight",
        "norm.bias",
        "head.projection.weight",
        "head.projection.bias",
    }
    for name in shared:
        torch.testing.assert_close(tuned[name], mae.weights[name], msg=name)
    log = (Path(tune.OUTPUT_DIR) / "stdout.log").read_text()
    assert "tensors of the MAE decoder" in log and "missing: norm.weight" in log


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_measure_what_one_does(make_cfg, run_net, tmp_path):
    # SGD: Adam's first step is a sign, which turns rounding into a difference of a whole learning rate.
    changes = {**MAE, "MAE.PROBE_PERIOD": 1, "SOLVER.OPTIMIZING_METHOD": "sgd", "AUG.NUM_SAMPLE": 1}
    finished = run_net({**changes, "OUTPUT_DIR": tmp_path / "two"}, processes=2)
    assert finished.returncode == 0, finished.stderr
    one, two = (make_cfg({**changes, "OUTPUT_DIR": tmp_path / name}) for name in ("one", "two"))
    run(one)
    lines = [
        [(line["epoch"], line["knn_top1"], line["num_videos"]) for line in read_metrics(cfg, "val_epoch")]
        for cfg in (one, two)
    ]
    assert lines[0] == lines[1] and len(lines[0]) == 2


@pytest.mark.slow
def test_the_main_process_alone_looks_for_neighbors(make_cfg, monkeypatch):
    cfg = make_cfg({**MAE, "SOLVER.MAX_EPOCH": 2})
    monkeypatch.setattr(pretrain_module, "is_main_process", lambda: False)
    monkeypatch.setattr(pretrain_module, "classify_knn", None)
    assert run(cfg).epoch == 2
    assert all("knn_top1" not in line for line in read_metrics(cfg, "val_epoch"))


def test_the_probe_is_the_one_for_embeddings_with_failed_videos_wrong(make_cfg, monkeypatch):
    cfg = make_cfg({**MAE, "SOLVER.MAX_EPOCH": 2})
    features = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    features[2] = torch.nan  # as `compute_per_video` marks a video that could not be decoded
    monkeypatch.setattr(pretrain_module, "compute_per_video", lambda *_, **__: (features, {2: "broken"}))
    run(cfg)
    labels = torch.from_numpy(build_val_loader(cfg).dataset.videos.labels)
    hits = classify_knn(features, labels, num_neighbors=3) == labels
    (line,) = read_metrics(cfg, "val_epoch")
    assert line["knn_top1"] == pytest.approx(100 * hits.double().mean().item()) and not hits[2]
    assert (line["num_videos"], line["num_failed"]) == (8, 1)


@pytest.mark.parametrize("keep_ratio", [1.0, 0.5])
def test_a_step_never_waits_for_the_device(make_cfg, monkeypatch, keep_ratio):
    """From the loader's batch to the updated weights, but for the one look at what all processes report."""
    changes = {"SOLVER.CLIP_GRAD_L2NORM": 1, "SOLVER.EMA_DECAY": 0.9, "SOLVER.FUSED": False}
    cfg = make_cfg({**MAE, **changes, "MAE.DECODER_KEEP_RATIO": keep_ratio, "MODEL.DROP_PATH_RATE": 0.2})
    monkeypatch.setattr(pretrain_module, "get_device", lambda: torch.device("meta"))
    model, compute_loss = pretrain_module.build_pretraining(cfg)
    state = build_state(cfg, model)
    batch = {"video": torch.zeros(2, 2, 3, 4, 64, 64, dtype=torch.uint8)}
    batch["mask"] = torch.stack([draw_mask(model.mask_units_grid, 0.5) for _ in range(4)]).view(2, 2, -1)
    with NoWaiting():
        for _ in range(2):  # the first update of the average and of the optimizer is another than the second
            loss, _ = compute_loss(model, batch)
            loss.backward()
            _update_weights(cfg, state, compute_grad_norm(model))
            state.optimizer.zero_grad(set_to_none=True)
        with pytest.raises(WaitsForDevice):
            loss.item()
    assert loss.is_meta and state.ema.n_averaged == 2 and state.optimizer.state
