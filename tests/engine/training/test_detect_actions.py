"""The job that trains detectors of actions, end to end on real files."""

from pathlib import Path

import numpy as np
import pytest
import simplejson
import torch
import torch.nn.functional as F
from tiny_checkpoint import write_tiny_checkpoint

import hiera_video as hv
from hiera_video.config import config_from_text
from hiera_video.data.box_loaders import build_box_eval_loader
from hiera_video.engine import action_test
from hiera_video.engine.checkpoint import find_last_checkpoint, get_best_path, list_checkpoints
from hiera_video.engine.convert import ConversionError, convert_weights
from hiera_video.engine.export import export_model
from hiera_video.engine.launch import launch
from hiera_video.engine.trained import load_trained
from hiera_video.engine.training.detect_actions import build_action_detection, compute_box_loss, train_actions
from hiera_video.models.action_detector import HieraActionDetector
from hiera_video.models.checkpoint_file import read_checkpoint_file


def run(cfg):
    launch([train_actions], cfg)
    return read_checkpoint_file(find_last_checkpoint(cfg.OUTPUT_DIR))


def read_metrics(folder, kind):
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [stats for stats in map(simplejson.loads, lines) if stats["_type"] == kind]


def assert_same_weights(first, second, **tolerances):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], msg=f"{name} differs", **tolerances)


def test_the_loss_is_the_mean_over_boxes_and_classes():
    logits, targets = torch.randn(7, 80), (torch.rand(7, 80) > 0.9).float()
    expected = -(targets * logits.sigmoid().log() + (1 - targets) * (1 - logits.sigmoid()).log()).mean()
    torch.testing.assert_close(compute_box_loss(logits, targets), expected)
    torch.testing.assert_close(compute_box_loss(logits, targets), F.binary_cross_entropy_with_logits(logits, targets))


def test_extreme_logits_of_half_precision_have_a_finite_loss():
    """A sigmoid of bfloat16 is 1 from about 6 on, and its cross entropy with 0 infinite."""
    logits = torch.tensor([[30.0, -30.0]], dtype=torch.bfloat16)
    torch.testing.assert_close(compute_box_loss(logits, torch.tensor([[0.0, 1.0]])), torch.tensor(30.0))


def test_without_boxes_the_loss_is_zero_and_has_gradients():
    logits = torch.zeros(0, 80, requires_grad=True)
    loss = compute_box_loss(logits, torch.zeros(0, 80))
    loss.backward()
    assert loss == 0.0 and logits.grad.shape == (0, 80)


def test_the_loss_of_a_batch_is_that_of_its_boxes(make_action_cfg):
    """The job's way through bytes, boxes and targets, against one box after the other."""
    cfg = make_action_cfg({"HIERA.HEAD_INIT_SCALE": 20.0, "AVA.TEST_PREDICT_BOX_LISTS": "[]"})
    model, compute_loss = build_action_detection(cfg)
    batch = next(iter(build_box_eval_loader(cfg, "val")))
    loss, report = compute_loss(model.eval(), batch)
    clips = (batch["video"][:, 0].float() / 255 - 0.45) / 0.225
    losses = []
    for (clip, *corners), target in zip(batch["boxes"], batch["targets"], strict=True):
        box = torch.tensor([[0.0, *corners]])
        losses.append(F.binary_cross_entropy_with_logits(model(clips[int(clip)][None], box)[0], target))
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    assert batch["targets"].any() and report["boxes_per_clip"] == 2.0


def test_a_run_writes_what_it_promises_and_can_be_tested(make_action_cfg):
    cfg = make_action_cfg({"MODEL.DROP_PATH_RATE": 0.1, "MODEL.DROPOUT_RATE": 0.5, "SOLVER.LAYER_DECAY": 0.9})
    content = run(cfg)
    assert (content.kind, content.epoch) == ("training", 2) and config_from_text(content.config) == cfg
    lines = read_metrics(cfg.OUTPUT_DIR, "train_iter")
    assert [(line["epoch"], line["iter"]) for line in lines] == [
        (f"{epoch}/2", f"{step}/3") for epoch in (1, 2) for step in (1, 2, 3)
    ]
    assert all(line["loss"] > 0 and 1 <= line["boxes_per_clip"] <= 2 for line in lines)
    validated = read_metrics(cfg.OUTPUT_DIR, "val_epoch")
    counts = [(line["num_key_frames"], line["num_boxes"], line["num_outside"]) for line in validated]
    assert counts == [(12, 36, 12)] * 2 and all(line["map"] >= 0 for line in validated)
    best = max(range(2), key=lambda i: (validated[i]["map"], -i))
    assert read_checkpoint_file(get_best_path(cfg.OUTPUT_DIR)).epoch == best + 1
    assert "map" in (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    launch([action_test.run_action_test], make_action_cfg({"TRAIN.ENABLE": False, "TEST.ENABLE": True}))
    results = simplejson.loads((Path(cfg.OUTPUT_DIR) / "test_results.json").read_text())
    assert results["map"] == pytest.approx(validated[-1]["map"])


def test_a_resumed_run_is_the_same_run(make_action_cfg, tmp_path):
    changes = {
        "SOLVER.MAX_EPOCH": 3,
        "MODEL.DROP_PATH_RATE": 0.2,
        "MODEL.DROPOUT_RATE": 0.2,
        "AUG.RE_PROB": 0.5,
        "SOLVER.EMA_DECAY": 0.9,
        "TRAIN.CHECKPOINT_KEEP_LAST": 0,
    }
    whole = make_action_cfg({**changes, "OUTPUT_DIR": tmp_path / "whole"})
    straight = run(whole)
    first = list_checkpoints(whole.OUTPUT_DIR)[0]
    target = tmp_path / "stopped" / "checkpoints" / first.name
    target.parent.mkdir(parents=True)
    target.write_bytes(first.read_bytes())
    resumed = run(make_action_cfg({**changes, "OUTPUT_DIR": tmp_path / "stopped"}))
    assert_same_weights(straight.weights, resumed.weights, rtol=0, atol=0)
    trained = "trained_model_state"
    assert_same_weights(straight.training[trained], resumed.training[trained], rtol=0, atol=0)
    # With EMA the average is what validation sees.
    moved = [(straight.weights[k] - straight.training[trained][k]).abs().max().item() for k in straight.weights]
    assert max(moved) > 1e-6


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_like_one_also_with_unequal_numbers_of_boxes(
    make_action_cfg, run_net, action_options, tmp_path
):
    changes = {"SOLVER.OPTIMIZING_METHOD": "sgd", "SOLVER.BASE_LR": 0.1, "OUTPUT_DIR": tmp_path / "two"}
    changes |= {"DATA.TRAIN_JITTER_SCALES": [40, 64]}  # crops often lose a box
    finished = run_net({**action_options, **changes}, processes=2)
    assert finished.returncode == 0, finished.stderr
    two = read_checkpoint_file(find_last_checkpoint(tmp_path / "two"))
    one = run(make_action_cfg({**changes, "OUTPUT_DIR": tmp_path / "one"}))
    assert_same_weights(one.weights, two.weights, rtol=1e-4, atol=1e-6)
    lines = [read_metrics(tmp_path / name, "train_iter") for name in ("one", "two")]
    np.testing.assert_allclose(*[[line["loss"] for line in each] for each in lines], rtol=1e-4)
    assert len({line["boxes_per_clip"] for line in lines[0]}) > 1
    maps = [[line["map"] for line in read_metrics(tmp_path / name, "val_epoch")] for name in ("one", "two")]
    np.testing.assert_allclose(*maps, rtol=1e-3)


def test_it_starts_from_a_classifiers_weights(make_action_cfg, tmp_path):
    """All but the head are taken; bf16 works."""
    cfg = make_action_cfg()
    detector = build_action_detection(cfg)[0]
    assert isinstance(detector, HieraActionDetector)
    classifier = {name: torch.randn_like(value) / 10 for name, value in detector.state_dict().items()}
    classifier["head.projection.weight"] = torch.randn(400, detector.widths[-1])
    classifier["head.projection.bias"] = torch.randn(400)
    torch.save({"model_state": classifier}, tmp_path / "k400.pth")
    changes = {"TRAIN.CHECKPOINT_FILE_PATH": tmp_path / "k400.pth", "SOLVER.BASE_LR": 0.0, "TRAIN.EVAL_PERIOD": 0}
    changes |= {"SOLVER.WARMUP_START_LR": 0.0, "TRAIN.PRECISION": "bf16"}
    weights = run(make_action_cfg(changes)).weights
    heads = [name for name in weights if name.startswith("head.")]
    assert_same_weights(*({k: v for k, v in w.items() if k not in heads} for w in (weights, classifier)))
    assert weights["head.projection.weight"].shape == (4, detector.widths[-1])


def test_the_backbone_goes_elsewhere(action_dir, tmp_path):
    """Its features are embedded and exported, a classifier starts from it; what would need its head says so."""
    changes = {"TASK": "detect_actions", "DATA__FORMAT": "ava", "DATA__TARGET_FPS": 10}
    path = write_tiny_checkpoint(tmp_path / "tiny.pyth", **changes)
    model = load_trained(path).model
    found = hv.embed(action_dir / "videos" / "e.mp4", checkpoint=path, num_clips=2, num_workers=0)
    same = write_tiny_checkpoint(tmp_path / "classifier.pyth", DATA__TARGET_FPS=10)  # the same seed, the same weights
    again = hv.embed(action_dir / "videos" / "e.mp4", checkpoint=same, num_clips=2, num_workers=0)
    assert found.vectors.shape == (2, model.widths[-1])
    torch.testing.assert_close(found.vectors, again.vectors)
    classifier = hv.build_model(
        "hiera_tiny_16x224", embed_dim=8, stages=(1, 1, 1, 1), input_size=(4, 32, 32), num_classes=9
    )
    assert hv.load_weights(classifier, path).dropped == ["head.projection.weight", "head.projection.bias"]
    video = torch.randn(1, 3, 4, 32, 32)
    torch.testing.assert_close(classifier.eval().forward_features(video), model.forward_features(video))
    with pytest.raises(
        ValueError, match=r"has no classifier of whole clips \(TASK detect_actions\): export its features"
    ):
        export_model(load_trained(path), output_dir=tmp_path / "out", formats=["torch"])
    (result,) = export_model(
        load_trained(path), output_dir=tmp_path / "out", output="features", formats=["torch"], num_clips=3
    )
    assert result.max_difference <= result.allowed
    with pytest.raises(ConversionError, match=r"is a detector's \(TASK detect_actions\), whose head no other package"):
        convert_weights(path, str(tmp_path / "converted.pth"), target="released")
