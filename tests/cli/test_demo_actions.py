"""The demo of actions: its commands, and that swapping leaves boxes and labels but not which has which."""

import json
import shlex
import subprocess
from collections import Counter
from types import SimpleNamespace

import pytest

from hiera_video.cli import demo
from hiera_video.cli.demo_actions import swap_labels

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
    assert any("14.00 %   (chance: about 12.5 %)" in line for line in lines)
