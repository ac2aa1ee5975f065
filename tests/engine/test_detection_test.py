"""The test of a detector: every picture once, results whole, and going on where it was stopped."""

import shutil
from pathlib import Path

import pytest
import simplejson
import torch

from hiera_video.data.coco_lists import build_detection_list
from hiera_video.engine import detection_test
from hiera_video.engine.checkpoint import save_checkpoint
from hiera_video.engine.coco_metrics import compute_coco_metrics
from hiera_video.engine.detection_test import run_detection_test
from hiera_video.engine.launch import launch
from hiera_video.models.build import build_detector_from_cfg
from hiera_video.utils.interrupt import Interrupted


@pytest.fixture
def checkpoint(make_detection_cfg, tmp_path):
    """A detector with random weights that is less sure of the background, so that it finds things."""
    torch.manual_seed(0)
    model = build_detector_from_cfg(make_detection_cfg(), crop_size=64)
    with torch.no_grad():
        model.heads.roi_heads.box_predictor.cls_score.weight.mul_(20)
    path = tmp_path / "detector.pth"
    save_checkpoint(path, {"model_state": model.state_dict()})
    return path


def read_json(cfg, name):
    return simplejson.loads((Path(cfg.OUTPUT_DIR) / name).read_text())


def test_results_are_whole_and_follow_from_the_detections(make_detection_cfg, checkpoint):
    cfg = make_detection_cfg({"TEST.CHECKPOINT_FILE_PATH": checkpoint})
    launch([run_detection_test], cfg)
    results, detections = read_json(cfg, "test_results.json"), read_json(cfg, "test_detections.json")
    assert (results["num_pictures"], results["num_evaluated"], results["num_failed"]) == (5, 5, 0)
    assert results["num_detections"] == len(detections) > 0
    videos = build_detection_list(cfg, "val")
    assert results["num_instances"] == len(videos.make_truth()["annotations"])
    metrics = compute_coco_metrics(videos.make_truth(), detections)
    assert results["box_ap"] == metrics["box_ap"] and results["mask_ap50"] == metrics["mask_ap50"]
    assert set(results["per_class"]) == {"circle", "cross", "square", "triangle"}
    assert {row["image_id"] for row in detections} <= {1, 2, 3, 4, 5}
    assert not (Path(cfg.OUTPUT_DIR) / "test_parts").exists()


def test_a_broken_picture_is_named_and_counts_as_nothing_found(make_detection_cfg, checkpoint, scenes_dir, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(scenes_dir, folder)
    data = (folder / "val2017/000002.png").read_bytes()
    (folder / "val2017/000002.png").write_bytes(data[: len(data) // 2])
    cfg = make_detection_cfg({"TEST.CHECKPOINT_FILE_PATH": checkpoint, "DATA.PATH_TO_DATA_DIR": folder})
    launch([run_detection_test], cfg)
    results = read_json(cfg, "test_results.json")
    assert (results["num_pictures"], results["num_evaluated"], results["num_failed"]) == (5, 4, 1)
    assert results["failed"][0]["path"].endswith("000002.png") and results["failed"][0]["reason"]
    assert 3 not in {row["image_id"] for row in read_json(cfg, "test_detections.json")}


def test_a_test_that_was_stopped_goes_on_with_the_rest(make_detection_cfg, checkpoint, tmp_path, monkeypatch):
    whole = make_detection_cfg({"TEST.CHECKPOINT_FILE_PATH": checkpoint, "OUTPUT_DIR": tmp_path / "whole"})
    launch([run_detection_test], whole)
    cfg = make_detection_cfg({"TEST.CHECKPOINT_FILE_PATH": checkpoint})
    seen, compute = [], detection_test.compute_detections

    def note(cfg, model, batch, *, device):
        seen.append(batch["index"].tolist())
        return compute(cfg, model, batch, device=device)

    monkeypatch.setattr(detection_test, "compute_detections", note)
    with monkeypatch.context() as patch:
        patch.setattr("hiera_video.engine.scoring.get_stop_reason", lambda: "a test")
        with pytest.raises(Interrupted, match="2 of 5 videos are scored"):
            run_detection_test(cfg)
    launch([run_detection_test], cfg)
    assert seen == [[0, 1], [2, 3], [4]]
    assert read_json(cfg, "test_detections.json") == read_json(whole, "test_detections.json")


def test_weights_of_a_classifier_are_refused(make_detection_cfg, tmp_path):
    from hiera_video.models import build_model

    model = build_model("hiera_tiny_224", embed_dim=8, stages=(1, 1, 1, 1), input_size=(64, 64))
    torch.save({"model_state": model.state_dict()}, tmp_path / "classifier.pth")
    with pytest.raises(ValueError, match="does not hold the whole of hiera_tiny_224 .* missing heads"):
        run_detection_test(make_detection_cfg({"TEST.CHECKPOINT_FILE_PATH": tmp_path / "classifier.pth"}))
