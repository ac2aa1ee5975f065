"""Tests of videos that have several classes: what is wrongly found, what is missed, and the page of it."""

import json

import numpy as np
import pytest
import torch

from hiera_video.data.label_sets import LabelSets
from hiera_video.data.lists import VideoList
from hiera_video.engine.multilabel import MultiLabelPredictions
from hiera_video.report.page import write_page
from hiera_video.report.run_files import read_run
from hiera_video.report.run_page import render_run_page

NAMES = ("NA", "b<i>", "c", "d")
PROBS = [[0.9, 0.2, 0.1, 0.3], [0.8, 0.7, 0.05, 0.1], [0.2, 0.6, 0.3, 0.1], [np.nan] * 4, [0.1, 0.1, 0.4, 0.1]]
LABELS = [[0], [1, 2], [], [1], [2]]


@pytest.fixture
def folder(tmp_path):
    sets = LabelSets.from_lists(LABELS, num_classes=4)
    paths = np.array([f"{i}.mp4" for i in range(5)])
    videos = VideoList(paths, np.zeros(5, np.int64), NAMES, label_sets=sets)
    thresholds = np.array([0.5, 0.5, 0.5, 0.5])
    predictions = MultiLabelPredictions(torch.tensor(PROBS), sets.make_targets(), {3: "broken"}, thresholds)
    predictions.write_tables(videos, tmp_path)
    failed = [{"path": "3.mp4", "reason": "broken"}]
    results = {**predictions.compute_accuracy(), "num_videos": 5, "num_failed": 1, "failed": failed}
    (tmp_path / "test_results.json").write_text(json.dumps(results))
    return tmp_path


def test_wrong_and_missed_videos(folder):
    videos = read_run(folder).label_sets
    assert videos.names == list(NAMES)
    assert videos.find_wrong(9) == [1, 2, 0, 4]  # 0.8, 0.6, 0.3, 0.1
    assert videos.find_missed(9) == [1, 4, 0]  # 0.05, 0.4, 0.9; of no class nothing is missed
    assert videos.find_wrong(1) == [1]
    bars = videos.make_bars(1, count=2)
    assert [(bar.name, bar.kind) for bar in bars] == [("NA", "wrong"), ("b<i>", "right"), ("c", "right")]
    assert [bar.kind for bar in videos.make_bars(0)] == ["right", "", "", ""]
    assert videos.name_labels(1) == "b<i>, c" and videos.name_labels(2) == "no class"


def test_the_page_of_several_classes(folder, browser, tmp_path):
    write_page(tmp_path / "page.html", render_run_page(read_run(folder), page_dir=tmp_path))
    browser.open(tmp_path / "page.html")
    assert {"mAP", "F1 over all answers"} <= set(browser.read(".tile dt"))
    rows = browser.read("#class-table tbody tr")
    assert [row.split()[:2] for row in rows][-1] == ["d", "0"] and len(rows) == 4
    assert [row.split()[0] for row in rows][:3] == ["b<i>", "c", "NA"]  # the worst first
    assert browser.read("#missed .chip") == ["b<i>, c", "c", "NA"]
    browser.check()


def test_tables_that_do_not_fit_are_refused(folder):
    lines = (folder / "test_classes.csv").read_text().splitlines()
    (folder / "test_classes.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match="probs are of 4 classes, the table of classes names 3"):
        read_run(folder)
