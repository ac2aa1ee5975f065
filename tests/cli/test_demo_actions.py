"""The demo of actions: its commands, and that swapping leaves boxes and labels but not which has which."""

import json
import shlex
import subprocess
from collections import Counter
from types import SimpleNamespace

import action_fixtures
import numpy as np
import pandas as pd
import pytest

from hiera_video.cli import demo, demo_actions
from hiera_video.cli.demo_actions import swap_labels
from hiera_video.config import dump_config
from hiera_video.data.box_lists import build_truth
from hiera_video.engine.action_ap import compute_action_ap

TRUTH = """\
a,0901,0.1,0.1,0.2,0.2,1,0
a,0901,0.1,0.1,0.2,0.2,3,0
a,0901,0.5,0.5,0.7,0.7,2,1
b,0901,0,0,1,1,5,0
b,0901,0,0,0.4,1,6,4
"""


def test_swapped_boxes_have_the_labels_of_others_at_the_same_moment():
    swapped = swap_labels(TRUTH).splitlines()
    assert swapped == [
        "a,0901,0.1,0.1,0.2,0.2,2,0",
        "a,0901,0.5,0.5,0.7,0.7,1,1",
        "a,0901,0.5,0.5,0.7,0.7,3,1",
        "b,0901,0,0,1,1,6,0",
        "b,0901,0,0,0.4,1,5,4",
    ]
    labels = [Counter(line.split(",")[6] for line in lines) for lines in (swapped, TRUTH.splitlines())]
    assert labels[0] == labels[1] and not set(swapped) & set(TRUTH.splitlines())


def test_a_box_alone_cannot_be_swapped():
    with pytest.raises(ValueError, match="a at second 0901 has a single box"):
        swap_labels("a,0901,0.1,0.1,0.2,0.2,1,0\n")


def test_it_tests_twice_and_prints_both(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    started = []

    def run(words):
        words = words[3:]
        started.append(words)
        if words[0] == "make-motion-dataset":
            (tmp_path / "data/motion_ava").mkdir(parents=True)
            (tmp_path / "data/motion_ava/ava_val_v2.2.csv").write_text(TRUTH)
            return SimpleNamespace(returncode=0)
        options = dict(zip(words[3::2], words[4::2], strict=True))
        folder = tmp_path / options["OUTPUT_DIR"]
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints" / "checkpoint_epoch_00001.pyth").touch()
        results = dict.fromkeys(("num_boxes", "num_key_frames", "num_failed", "num_outside"), 4)
        results |= {
            "map": 14.0 if folder.name == "swapped" else 95.0,
            "map_interval": [1.0, 2.0],
            "protocol": "SlowFast",
        }
        results |= {"map_by_protocol": {"SlowFast": {"map": 95.0}}, "num_classes_scored": 8}
        results |= {"model": "m", "checkpoint": "c"}
        (folder / "test_results.json").write_text(json.dumps(results))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    top1 = {"demo_actions": 99.0, "swapped": 12.0}
    monkeypatch.setattr(
        demo_actions, "measure_boxes", lambda folder: {"top1": top1[folder.name], "map_of_frames": 40.0}
    )
    assert demo.main(["actions", "RNG_SEED", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    printed = [shlex.split(line.removeprefix("$ hiera-video ")) for line in lines if line.startswith("$ ")]
    assert printed == started and [words[0] for words in started] == ["make-motion-dataset", "run", "run", "run"]
    weights = "output/demo_actions/checkpoints/checkpoint_epoch_00001.pyth"
    assert all(weights in words and "RNG_SEED" in words for words in started[2:])
    swapped = started[3][started[3].index("AVA.GROUNDTRUTH_FILE") + 1]
    assert swapped == str(tmp_path / "output/demo_actions/swapped_truth.csv")
    assert (tmp_path / swapped).read_text() == swap_labels(TRUTH)
    summary = json.loads(lines[-1])
    assert (summary["map"], summary["map_swapped"]) == (95.0, 14.0)
    assert (summary["top1"], summary["top1_swapped"], summary["map_box_unknown"]) == (99.0, 12.0, 40.0)
    assert any(line.startswith("boxes swapped  12.00 %") and line.endswith("mAP 14.00 %") for line in lines)


def test_boxes_are_measured_against_a_case_by_hand(make_action_cfg, tmp_path):
    """Every box says class 0 of the left and of the right half: right on the left alone. Knowing the frame is half."""
    cfg = make_action_cfg({"AVA.EXCLUSION_FILE": ""})
    (tmp_path / "test_config.yaml").write_text(dump_config(cfg))
    rows = [
        (video, float(sec), *box, [0.9, 0.1 + 0.2 * place, 0.2, 0.3])
        for video in action_fixtures.VIDEOS["val"]
        for sec in action_fixtures.SECONDS
        for place, box in enumerate(action_fixtures.HALVES)
    ]
    table = pd.DataFrame(rows, columns=["video", "time_sec", "x1", "y1", "x2", "y2", "probs"])
    table.to_parquet(tmp_path / "test_detections.parquet")
    measured = demo_actions.measure_boxes(tmp_path)
    assert measured["top1"] == 50.0
    means = [[0.9, 0.2, 0.2, 0.3]] * len(table)
    truth = build_truth(cfg, "val")
    expected = compute_action_ap(truth.boxes, table, np.array(means), classes=[0, 1, 3])
    assert measured["map_of_frames"] == pytest.approx(100 * expected.mean)
