"""Numbers of all clips together, each as its fold predicted it."""

import numpy as np
import pandas as pd
import pytest
import simplejson
from sklearn.metrics import average_precision_score

from hiera_video.data.label_sets import LabelSets
from hiera_video.data.lists import VideoList, make_list
from hiera_video.engine.crossval import Plan
from hiera_video.engine.crossval_results import format_results, pool, write_results
from hiera_video.engine.metrics import compute_interval


def make_plan_of(videos):
    return Plan(videos, np.arange(len(videos)) % 2, np.zeros((2, len(videos)), dtype=bool), None)


def test_all_clips_count_and_one_that_failed_is_wrong():
    videos = make_list(list("abcd"), [0, 1, 1, 0], None)
    probs = [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [np.nan, np.nan]]
    table = pd.DataFrame({"probs": probs, "failure": ["", "", "", "broken"]})
    pooled = pool(make_plan_of(videos), table)
    assert pooled["top1"] == 50.0 and pooled["top1_interval"] == compute_interval(2, 4)


def test_of_several_classes_it_is_the_mean_average_precision_of_scikit_learn():
    rng = np.random.default_rng(0)
    rows = [[0], [1], [0, 1], [], [1], [0]]
    videos = VideoList(np.array(list("abcdef")), np.full(6, -1), None, LabelSets.from_lists(rows, num_classes=2))
    probs = rng.random((6, 2)).astype(np.float32)
    pooled = pool(make_plan_of(videos), pd.DataFrame({"probs": list(probs), "failure": [""] * 6}))
    targets = np.array([[k in row for k in range(2)] for row in rows])
    assert pooled["map"] == pytest.approx(100 * average_precision_score(targets, probs, average="macro"))
    low, high = pooled["map_interval"]
    assert low <= pooled["map"] <= high


def test_the_table_says_how_far_folds_differ_and_what_all_clips_give():
    counts = {"num_train": 6, "num_val": 2, "num_test": 2}
    folds = [{"fold": n + 1, **counts, "top1": v, "top1_interval": [9.0, 91.0]} for n, v in enumerate((50.0, 100.0))]
    pooled = {"top1": 75.0, "top1_interval": [30.1, 95.4]}
    shares = {"folds": folds, "mean": {"top1": 75.0}, "std": {"top1": 35.36}, "pooled": pooled}
    text = format_results({"num_folds": 2, "num_clips": 4, "num_groups": 3, "num_failed": 1, **shares})
    lines = [line.split() for line in text.splitlines()]
    assert lines[1] == ["1", "6", "2", "2", "50.00", "[9.0,", "91.0]"]
    assert lines[3] == ["all", "clips", "4", "75.00", "[30.1,", "95.4]"]
    assert "over 2 folds: mean 75.00 %, standard deviation 35.36" in text
    assert "3 groups, none of them on both sides" in text and "1 clips could not be decoded" in text


def test_a_fold_without_any_class_has_no_number_and_the_others_count(make_cfg, tmp_path):
    videos = VideoList(np.array(list("ab")), np.full(2, -1), None, LabelSets.from_lists([[0], []], num_classes=2))
    for fold, (path, value) in enumerate((("a", 100.0), ("b", None)), start=1):
        (tmp_path / f"fold_{fold}").mkdir()
        table = pd.DataFrame({"path": [path], "failure": [""], "probs": [np.float32([0.9, 0.2])]})
        table.to_parquet(tmp_path / f"fold_{fold}" / "test_predictions.parquet")
        found = {"map": value, "map_interval": [value] * 2, "f1_micro": value, "f1_macro": value}
        text = simplejson.dumps(found | {"num_failed": 0, "checkpoint": "best"})
        (tmp_path / f"fold_{fold}" / "test_results.json").write_text(text)
    results = write_results(make_cfg({"OUTPUT_DIR": tmp_path, "MODEL.LOSS_FUNC": "bce_logit"}), make_plan_of(videos))
    assert results["mean"]["map"] == 100.0 and "100.00  [100.0, 100.0]" in format_results(results)
    assert simplejson.loads((tmp_path / "crossval.json").read_text())["folds"][1]["map"] is None
