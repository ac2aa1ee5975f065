"""The demo's commands, what it makes of their results, and that it removes nobody's files."""

import json
import shlex
import subprocess
from itertools import pairwise
from types import SimpleNamespace

import pytest

from hiera_video.cli import demo as tool
from hiera_video.cli.main import COMMANDS


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """The commands that the demo starts; instead of running, each leaves the files that the demo reads."""
    monkeypatch.chdir(tmp_path)
    started = []

    def run(words):
        started.append(words[3:])
        options = dict(pairwise(words))
        folder = tmp_path / options.get("OUTPUT_DIR", ".")
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints" / "checkpoint_epoch_00001.pyth").touch()
        results = dict.fromkeys(("num_videos", "num_views", "num_ensemble_views", "num_spatial_crops", "num_failed"), 4)
        results |= {"top1": 50.0 if "scratch" in str(folder) else 75.0, "top5": 100.0, "model": "m", "checkpoint": "c"}
        (folder / "test_results.json").write_text(json.dumps(results))
        if words[3] == "make-motion-dataset":
            (tmp_path / "data/motion").mkdir(parents=True, exist_ok=True)
            (tmp_path / "data/motion/test.csv").write_text("videos/7.mp4 0\n")
        if words[3] == "probe":
            scores = [{"probe": "knn", "metric": "top-1", "value": 60.0}, {"probe": "r", "metric": "mAP", "value": 1.0}]
            (tmp_path / "output/demo/probes.json").write_text(json.dumps({"scores": scores}))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    return started


def test_commands_are_printed_and_the_last_line_is_json(commands, capsys):
    assert tool.main(["RNG_SEED", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    printed = [shlex.split(line.removeprefix("$ hiera-video ")) for line in lines if line.startswith("$ ")]
    assert printed == commands and len(commands) == 10
    assert (
        {words[0] for words in commands} == {"make-motion-dataset", "run", "report", "probe", "search"} < set(COMMANDS)
    )
    assert all(words[-2:] == ["RNG_SEED", "3"] for words in commands if words[0] == "run")
    assert "output/demo/mae/checkpoints/checkpoint_epoch_00001.pyth" in commands[4]
    assert commands[-1][2:4] == ["--path", "data/motion/videos/7.mp4"]
    summary = json.loads(lines[-1])
    assert list(summary) == ["top1", "top5", "num_videos", "num_views", "few_labels_top1", "probes", "seconds"]
    assert summary["few_labels_top1"] == {"mae": 75.0, "scratch": 50.0} and summary["probes"] == {"knn": 60.0}


def test_an_earlier_demo_is_removed_and_nothing_else(commands, tmp_path, capsys):
    old = tmp_path / "output" / "demo" / "old.txt"
    old.parent.mkdir(parents=True)
    old.touch()
    assert tool.main([]) == 1 and old.exists() and not commands
    assert "output/demo is not empty and holds no results of a demo" in capsys.readouterr().err
    (old.parent / "stdout.log").touch()  # any training job leaves one
    assert tool.main([]) == 1 and old.exists()
    old.unlink()
    (old.parent / "stdout.log").unlink()
    assert tool.main([]) == 0
    old.touch()
    assert tool.main([]) == 0 and not old.exists(), "what a demo made, the next one removes"


def test_a_command_that_fails_ends_the_demo_with_its_status(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda words: SimpleNamespace(returncode=3))
    with pytest.raises(SystemExit) as stop:
        tool.main([])
    assert stop.value.code == 3


def test_the_demo_of_pictures_is_asked_for_by_a_word():
    args = tool.parse_args(["images", "--mae", "RNG_SEED", "1"])
    assert args.kind == "images" and args.mae and args.opts == ["RNG_SEED", "1"] and args.data_dir == "data/shapes"
    plain = tool.parse_args(["RNG_SEED", "1"])
    assert plain.kind == "videos" and plain.opts == ["RNG_SEED", "1"] and plain.output_dir == "output/demo"
    actions = tool.parse_args(["actions", "RNG_SEED", "1"])
    assert (actions.kind, actions.opts) == ("actions", ["RNG_SEED", "1"]) and actions.data_dir == "data/motion_ava"
    with pytest.raises(SystemExit):
        tool.parse_args(["--mae"])
