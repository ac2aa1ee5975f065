"""Several classes for each clip, from training to use."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import simplejson
import torch
from sklearn.metrics import average_precision_score

import hiera_video as hv
from hiera_video.config import config_from_text
from hiera_video.data.build_lists import build_video_list
from hiera_video.engine.checkpoint import find_last_checkpoint, get_best_path
from hiera_video.engine.evaluate import test as run_test
from hiera_video.engine.export import export_model
from hiera_video.engine.launch import launch
from hiera_video.engine.trained import load_thresholds, load_trained
from hiera_video.engine.training import classify as classify_module
from hiera_video.engine.training.classify import train
from hiera_video.engine.training.resume import start_or_resume
from hiera_video.models.build import build_model_from_cfg
from hiera_video.models.checkpoint_file import read_checkpoint_file
from hiera_video.report.run_files import read_run
from hiera_video.report.run_page import render_run_page


@pytest.fixture
def multi_cfg(make_cfg, motion_dir, tmp_path):
    """The motion data set with the class of each clip, whether its number is even (8), and class 9, which none has."""
    folder = tmp_path / "lists"
    folder.mkdir()
    for split in ("train", "val", "test"):
        videos = build_video_list(make_cfg(), split)
        rows = [
            f"{path} {label}{',8' if label % 2 == 0 else ''}"
            for path, label in zip(videos.paths, videos.labels.tolist(), strict=True)
        ]
        (folder / f"{split}.csv").write_text("\n".join([*rows[1:], f"{videos.paths[0]} -"]))
    changes = {"DATA.PATH_TO_DATA_DIR": folder, "MODEL.LOSS_FUNC": "bce_logit", "MODEL.NUM_CLASSES": 10}
    return lambda **more: make_cfg(changes | more)


def read_lines(cfg, kind):
    lines = (Path(cfg.OUTPUT_DIR) / "metrics.jsonl").read_text().splitlines()
    return [stats for stats in map(simplejson.loads, lines) if stats["_type"] == kind]


def test_training_test_and_use(multi_cfg, tmp_path):
    cfg = multi_cfg(**{"TRAIN.CLASS_WEIGHTING": 0.5, "TEST.ENABLE": True})
    launch([train, run_test], cfg)
    (*_, last) = read_lines(cfg, "val_epoch")
    assert 0 < last["map"] <= 100 and last["best_map"] >= last["map"] and "top1" not in last
    assert "thresholds" not in last and all("top1" not in line for line in read_lines(cfg, "train_iter"))

    results = simplejson.loads((Path(cfg.OUTPUT_DIR) / "test_results.json").read_text())
    table = pd.read_parquet(Path(cfg.OUTPUT_DIR) / "test_predictions.parquet")
    videos = build_video_list(cfg, "test")
    targets, probs = videos.label_sets.make_targets().numpy(), np.stack(table["probs"])
    assert [labels.tolist() for labels in table["labels"]] == [np.flatnonzero(row).tolist() for row in targets]
    has_any = targets.any(axis=0)
    expected = 100 * average_precision_score(targets[:, has_any], probs[:, has_any], average="macro")
    assert results["map"] == pytest.approx(expected) and results["num_empty_classes"] == int((~has_any).sum()) >= 1
    low, high = results["map_interval"]
    assert low <= results["map"] <= high

    newest, best = find_last_checkpoint(cfg.OUTPUT_DIR), get_best_path(cfg.OUTPUT_DIR)
    thresholds = load_thresholds(read_checkpoint_file(newest))
    assert len(thresholds) == 10 and len(load_thresholds(read_checkpoint_file(best))) == 10
    classes = pd.read_csv(Path(cfg.OUTPUT_DIR) / "test_classes.csv")
    assert classes["threshold"].tolist() == pytest.approx(thresholds) and classes["num_videos"].sum() == targets.sum()
    said = probs >= np.array(thresholds)
    assert [row.tolist() for row in table["predictions"]] == [np.flatnonzero(row).tolist() for row in said]

    prediction = hv.predict(str(videos.paths[0]), checkpoint=str(newest), top_k=10)
    by_class = dict(zip(prediction.classes, prediction.probabilities, strict=True))
    present = {str(k) for k in range(10) if by_class[str(k)] >= thresholds[k]}
    assert set(prediction.present) == present and simplejson.loads(prediction.to_json())["present"] is not None
    assert sum(prediction.probabilities) != pytest.approx(1, abs=1e-3), "each class is a question of its own"

    export_model(load_trained(str(newest)), output_dir=tmp_path, formats=["torch"], num_clips=3)
    side_car = simplejson.loads((tmp_path / "model.pt2.json").read_text())
    assert side_car["activation"] == "sigmoid" and side_car["thresholds"] == pytest.approx(thresholds)


def test_the_loss_is_that_of_each_class_by_itself(multi_cfg):
    model, compute_loss = classify_module.build_classification(multi_cfg())
    batch = {"video": torch.randint(256, (3, 2, 3, 4, 32, 32), dtype=torch.uint8)}
    batch["label"] = torch.tensor([[1.0, 0, 1] + [0] * 7, [0.0] * 10, [0.0] * 9 + [1]])
    model.eval()
    seen = []
    loss, report = compute_loss(lambda clips: seen.append(model(clips)) or seen[0], batch)
    probs, target = seen[0].double().sigmoid(), batch["label"].repeat_interleave(2, dim=0)
    expected = -(target * probs.log() + (1 - target) * (1 - probs).log()).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5) and report == {}


def test_views_can_be_joined_by_their_largest_probability(multi_cfg, tmp_path):
    launch([train], multi_cfg())
    tables = {}
    for name in ("mean", "max"):
        weights = str(find_last_checkpoint(multi_cfg().OUTPUT_DIR))
        changes = {"TEST.ENSEMBLE_METHOD": name, "OUTPUT_DIR": tmp_path / name, "TEST.CHECKPOINT_FILE_PATH": weights}
        run_test(multi_cfg(**changes))
        tables[name] = np.stack(pd.read_parquet(tmp_path / name / "test_predictions.parquet")["probs"])
    assert (tables["max"] >= tables["mean"]).all() and (tables["max"] > tables["mean"]).any()


def test_a_video_that_fails_is_found_for_none_of_its_classes(multi_cfg, tmp_path):
    launch([train], multi_cfg())
    lines = (Path(multi_cfg().DATA.PATH_TO_DATA_DIR) / "test.csv").read_text().splitlines()
    (tmp_path / "empty.mp4").touch()
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "test.csv").write_text("\n".join([f"{tmp_path}/empty.mp4 3,8", *lines[1:]]))
    weights = str(find_last_checkpoint(multi_cfg().OUTPUT_DIR))
    changes = {"DATA.PATH_TO_DATA_DIR": folder, "OUTPUT_DIR": tmp_path / "o", "TEST.CHECKPOINT_FILE_PATH": weights}
    run_test(multi_cfg(**changes))
    results = simplejson.loads((tmp_path / "o" / "test_results.json").read_text())
    table = pd.read_parquet(tmp_path / "o" / "test_predictions.parquet")
    assert results["num_failed"] == 1 and results["num_videos"] == len(lines) and np.isfinite(results["map"])
    assert table["predictions"][0].tolist() == [] and "empty.mp4" in table["failure"][0]


def test_a_list_without_any_class_has_results_without_numbers(multi_cfg, tmp_path):
    launch([train], multi_cfg())
    lines = (Path(multi_cfg().DATA.PATH_TO_DATA_DIR) / "test.csv").read_text().splitlines()
    folder = tmp_path / "without"
    folder.mkdir()
    (folder / "test.csv").write_text("".join(f"{line.rpartition(' ')[0]} -\n" for line in lines))
    weights = str(find_last_checkpoint(multi_cfg().OUTPUT_DIR))
    changes = {"DATA.PATH_TO_DATA_DIR": folder, "OUTPUT_DIR": tmp_path / "o", "TEST.CHECKPOINT_FILE_PATH": weights}
    run_test(multi_cfg(**changes))
    results = simplejson.loads((tmp_path / "o" / "test_results.json").read_text())
    assert results["map"] is None and results["map_interval"] == [None, None] and results["num_empty_classes"] == 10
    page = render_run_page(read_run(tmp_path / "o"), page_dir=tmp_path, num_shown=0)
    assert "Videos tested" in page and "<dt>mAP</dt>" not in page


def test_a_run_with_another_loss_is_another_run(multi_cfg):
    launch([train], multi_cfg())
    stored = read_checkpoint_file(find_last_checkpoint(multi_cfg().OUTPUT_DIR)).config
    assert config_from_text(stored).MODEL.LOSS_FUNC == "bce_logit"
    with pytest.raises(ValueError, match="MODEL.LOSS_FUNC: bce_logit -> cross_entropy"):
        model = build_model_from_cfg(multi_cfg(), crop_size=32)
        start_or_resume(multi_cfg(**{"MODEL.LOSS_FUNC": "cross_entropy"}), model, num_videos=24)
