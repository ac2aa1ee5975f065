"""The test of a detector of actions: what is counted, what is written, and that it goes on after a stop."""

import itertools
import shutil
from pathlib import Path

import action_fixtures
import numpy as np
import pandas as pd
import pytest
import simplejson
import torch

from hiera_video.data.box_lists import build_truth
from hiera_video.data.box_loaders import build_box_eval_loader
from hiera_video.engine import action_test, scored_parts
from hiera_video.engine.action_ap import PROTOCOLS, compute_action_ap
from hiera_video.engine.checkpoint import save_checkpoint
from hiera_video.engine.launch import launch
from hiera_video.models.build import build_model_from_cfg
from hiera_video.utils.interrupt import Interrupted, request_stop

OTHER_EVERY_TIME = {"test_seconds", "config_digest"}


@pytest.fixture
def changes(make_action_cfg, tmp_path):
    torch.manual_seed(0)
    cfg = make_action_cfg({"HIERA.HEAD_INIT_SCALE": 20.0})
    path = tmp_path / "weights.pyth"
    save_checkpoint(path, {"model_state": build_model_from_cfg(cfg, crop_size=32).state_dict()})
    return {"TRAIN.ENABLE": False, "TEST.ENABLE": True, "TEST.CHECKPOINT_FILE_PATH": path}


@pytest.fixture
def broken_actions(action_dir, tmp_path):
    """The same with one of three videos emptied."""
    folder = tmp_path / "broken"
    shutil.copytree(action_dir, folder)
    (folder / "videos" / "f.mp4").write_bytes(b"")
    return folder


def run(cfg):
    launch([action_test.run_action_test], cfg)
    return read(cfg.OUTPUT_DIR)


def read(folder):
    results = simplejson.loads((Path(folder) / "test_results.json").read_text())
    return results, pd.read_parquet(f"{folder}/test_detections.parquet")


def test_results_against_a_naive_loop(make_action_cfg, changes, action_dir):
    cfg = make_action_cfg(changes)
    results, table = run(cfg)
    model = build_model_from_cfg(cfg, crop_size=32).eval()
    model.load_state_dict(torch.load(changes["TEST.CHECKPOINT_FILE_PATH"], weights_only=True)["model_state"])
    dataset = build_box_eval_loader(cfg, "val").dataset
    probs = []
    for i in range(len(dataset)):
        sample = dataset[i]
        video = (sample["video"].float() / 255 - 0.45) / 0.225  # (1, C, T, H, W)
        for box, is_outside in zip(sample["boxes"], sample["is_outside"], strict=True):
            place = torch.zeros(1, 5)
            if not is_outside:
                place[0, 1:] = box
            with torch.no_grad():
                probs.append(model(video, place)[0].sigmoid().numpy())
    np.testing.assert_allclose(np.stack(table.probs), probs, rtol=1e-4, atol=1e-6)
    assert len(table) == results["num_boxes"] == 36 and results["num_key_frames"] == 12 == results["num_evaluated"]
    assert results["num_outside"] == table.is_outside.sum() == 12 and (table.x2[table.is_outside] < 0.22).all()
    assert results["boxes"] == "predicted" and results["num_failed"] == 0 and results["num_invalid"] == 0
    truth = pd.read_csv(
        action_dir / action_fixtures.TRUTH, names=["video", "time_sec", "x1", "y1", "x2", "y2", "action", "person"]
    )
    truth["label"] = truth.pop("action") - 1
    expected = {
        name: 100 * compute_action_ap(
            truth, table, np.stack(table.probs), classes=[0, 1, 3], excluded=[("f", 2)], protocol=protocol
        ).mean
        for name, protocol in PROTOCOLS.items()
    }  # fmt: skip
    assert {name: each["map"] for name, each in results["map_by_protocol"].items()} == pytest.approx(expected)
    assert results["protocol"] == "SlowFast" and results["map"] == pytest.approx(expected["SlowFast"])
    assert len(set(np.round(list(expected.values()), 6))) > 1  # second 4 has no truth
    low, high = results["map_interval"]
    assert low <= results["map"] <= high and low < high
    assert results["num_excluded"] == 3 + (truth.eval("video == 'f' and time_sec == 2")).sum()
    assert [row["name"] for row in results["classes"]] == list(action_fixtures.SCORED.values())
    assert results["num_truths"] == sum(row["num_truths"] for row in results["classes"])


def test_the_csv_has_avas_form_and_gives_the_same_number(make_action_cfg, changes, action_dir):
    cfg = make_action_cfg(changes)
    results, table = run(cfg)
    rows = [line.split(",") for line in (Path(cfg.OUTPUT_DIR) / "test_detections.csv").read_text().splitlines()]
    assert len(rows) == 36 * 3 and {len(row) for row in rows} == {8}
    assert {row[1] for row in rows} == {"0001", "0002", "0003", "0004"} and {row[6] for row in rows} == {"1", "2", "4"}
    assert float(rows[2][7]) == pytest.approx(table.probs[0][3], rel=1e-5)
    boxes = pd.DataFrame(
        [(row[0], float(row[1]), *map(float, row[2:6])) for row in rows],
        columns=["video", "time_sec", "x1", "y1", "x2", "y2"],
    )
    scores = np.full((len(rows), 4), np.nan)
    scores[np.arange(len(rows)), [int(row[6]) - 1 for row in rows]] = [float(row[7]) for row in rows]
    truth = build_truth(cfg, "val")
    again = compute_action_ap(truth.boxes, boxes, scores, classes=[0, 1, 3], excluded=truth.excluded)
    assert 100 * again.mean == pytest.approx(results["map"])


def test_a_broken_video_is_no_detection_and_is_named(make_action_cfg, changes, broken_actions):
    results, table = run(make_action_cfg({**changes, "DATA.PATH_TO_DATA_DIR": broken_actions}))
    assert (results["num_key_frames"], results["num_failed"], results["num_evaluated"]) == (12, 4, 8)
    assert {row["path"] for row in results["failed"]} == {str(broken_actions / "videos" / "f.mp4")}
    is_broken = (table.video == "f").to_numpy()
    assert np.isnan(np.stack(table.probs[is_broken])).all() and (table.failure[is_broken] != "").all()
    assert not np.isnan(np.stack(table.probs[~is_broken])).any() and (table.failure[~is_broken] == "").all()
    assert results["map_by_protocol"]["SlowFast"]["num_detections"] == 24 * 3
    whole, _ = run(make_action_cfg({**changes, "OUTPUT_DIR": f"{broken_actions}/whole"}))
    assert results["num_truths"] == whole["num_truths"] and results["map"] < whole["map"]


def test_boxes_of_the_truth_are_named_as_such(make_action_cfg, changes):
    results, _ = run(make_action_cfg({**changes, "AVA.TEST_PREDICT_BOX_LISTS": "[]"}))
    assert results["boxes"] == "of the truth" and results["num_boxes"] == 18


def assert_same_results(first, second, *, tolerance=0.0):
    (one, one_table), (two, two_table) = read(first), read(second)
    assert one.pop("map") == pytest.approx(two.pop("map"), rel=tolerance)
    for key in () if tolerance else one.keys() - OTHER_EVERY_TIME:
        assert one[key] == two[key], key
    probs = [np.stack(table.pop("probs")) for table in (one_table, two_table)]
    np.testing.assert_allclose(*probs, rtol=tolerance, atol=tolerance)
    pd.testing.assert_frame_equal(one_table, two_table)


def test_stopped_after_any_batch_it_ends_with_the_same_results(
    make_action_cfg, changes, broken_actions, tmp_path, monkeypatch
):
    changes = {**changes, "DATA.PATH_TO_DATA_DIR": broken_actions, "OUTPUT_DIR": tmp_path / "stopped"}
    run(make_action_cfg({**changes, "OUTPUT_DIR": tmp_path / "whole"}))
    add, cfg = scored_parts.ScoredParts.add, make_action_cfg(changes)

    def stop_after(self, rows, failed):
        add(self, rows, failed)
        request_stop("the test")

    with monkeypatch.context() as patch:
        patch.setattr(scored_parts.ScoredParts, "add", stop_after)
        for num_scored in (5, 10):
            with pytest.raises(Interrupted, match=f"{num_scored} of 12 videos are scored"):
                launch([action_test.run_action_test], cfg)
    run(cfg)
    assert_same_results(tmp_path / "whole", tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "test_parts").exists()


def test_an_unfinished_test_does_not_go_on_with_other_boxes(make_action_cfg, changes, broken_actions, monkeypatch):
    cfg = make_action_cfg({**changes, "DATA.PATH_TO_DATA_DIR": broken_actions})
    monkeypatch.setattr(scored_parts.ScoredParts, "remove", lambda self: None)
    run(cfg)
    persons = broken_actions / action_fixtures.PERSONS
    persons.write_text(persons.read_text().replace("0.1", "0.12"))
    with pytest.raises(ValueError, match=r"other settings: boxes: 36 boxes, SHA-256"):
        run(cfg)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_test_like_one(make_action_cfg, changes, tmp_path, run_net, action_options):
    changes = {**action_options, **changes}
    run(make_action_cfg({**changes, "OUTPUT_DIR": tmp_path / "one"}))
    finished = run_net({**changes, "OUTPUT_DIR": tmp_path / "two"}, processes=2)
    assert finished.returncode == 0, finished.stderr
    assert_same_results(tmp_path / "one", tmp_path / "two", tolerance=1e-5)


def test_bf16_comes_close(make_action_cfg, changes, tmp_path):
    _, whole = run(make_action_cfg(changes))
    _, half = run(make_action_cfg({**changes, "TRAIN.PRECISION": "bf16", "OUTPUT_DIR": tmp_path / "half"}))
    pairs = itertools.chain.from_iterable(zip(a, b, strict=True) for a, b in zip(whole.probs, half.probs, strict=True))
    assert 0 < max(abs(a - b) for a, b in pairs) < 0.05
