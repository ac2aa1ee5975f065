"""A test that is interrupted goes on, and ends with the results of one that is not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import simplejson
import torch

from hiera_video.engine import evaluate, scored_parts
from hiera_video.engine.checkpoint import save_checkpoint
from hiera_video.engine.launch import launch
from hiera_video.models.build import build_model_from_cfg
from hiera_video.utils.interrupt import Interrupted, request_stop

ROOT = Path(__file__).resolve().parents[2]
OTHER_EVERY_TIME = {"test_seconds"}


@pytest.fixture
def changes(make_cfg, tmp_path, broken_dir, monkeypatch):
    torch.manual_seed(0)
    cfg = make_cfg({"HIERA.HEAD_INIT_SCALE": 20.0})
    path = tmp_path / "weights.pyth"
    save_checkpoint(path, {"model_state": build_model_from_cfg(cfg, crop_size=32).state_dict()})
    monkeypatch.setattr(scored_parts, "_PERIOD_SEC", 0.0)  # a part for each batch
    return {
        "TRAIN.ENABLE": False,
        "TEST.ENABLE": True,
        "TEST.CHECKPOINT_FILE_PATH": path,
        "DATA.PATH_TO_DATA_DIR": broken_dir,
        "OUTPUT_DIR": tmp_path / "out",
    }


def read(folder):
    results = simplejson.loads((Path(folder) / "test_results.json").read_text())
    table = pd.read_parquet(f"{folder}/test_predictions.parquet")
    return {key: value for key, value in results.items() if key not in OTHER_EVERY_TIME}, table


def assert_same_results(first, second, *, tolerance=0.0):
    (one, one_table), (two, two_table) = read(first), read(second)
    one.pop("config_digest"), two.pop("config_digest")  # of OUTPUT_DIR too
    assert one == two
    probs = [np.stack(table.pop("probs")) for table in (one_table, two_table)]
    np.testing.assert_allclose(*probs, rtol=tolerance, atol=tolerance)
    pd.testing.assert_frame_equal(one_table, two_table)


def test_stopped_between_any_two_batches_it_ends_with_the_same_results(make_cfg, changes, tmp_path, monkeypatch):
    launch([evaluate.test], make_cfg({**changes, "OUTPUT_DIR": tmp_path / "whole"}))
    add, cfg = scored_parts.ScoredParts.add, make_cfg(changes)
    num_stops = []

    def add_and_stop(self, *args):
        add(self, *args)
        num_stops.append(1)
        request_stop("a test")

    monkeypatch.setattr(scored_parts.ScoredParts, "add", add_and_stop)
    for number in range(1, 6):
        with pytest.raises(Interrupted, match=rf"{2 * number} of 11 videos are scored"):
            launch([evaluate.test], cfg)
    monkeypatch.setattr(scored_parts.ScoredParts, "add", add)
    launch([evaluate.test], cfg)
    assert len(num_stops) == 5 and not (tmp_path / "out" / "test_parts").exists()
    assert_same_results(tmp_path / "whole", tmp_path / "out")


def stop_after(cfg, monkeypatch, num_batches):
    add, count = scored_parts.ScoredParts.add, []

    def counted(self, *args):
        add(self, *args)
        count.append(1)
        if len(count) == num_batches:
            request_stop("a test")

    monkeypatch.setattr(scored_parts.ScoredParts, "add", counted)
    with pytest.raises(Interrupted):
        launch([evaluate.test], cfg)
    monkeypatch.setattr(scored_parts.ScoredParts, "add", add)


def test_a_damaged_part_is_named_and_scored_again(make_cfg, changes, tmp_path, monkeypatch):
    launch([evaluate.test], make_cfg({**changes, "OUTPUT_DIR": tmp_path / "whole"}))
    cfg = make_cfg(changes)
    stop_after(cfg, monkeypatch, 3)
    parts = sorted((tmp_path / "out" / "test_parts").glob("part_*"))
    assert len(parts) == 3
    content = torch.load(parts[1], weights_only=True)
    content["values"][0][0] += 1e-6
    torch.save(content, parts[1])
    parts[2].write_bytes(parts[2].read_bytes()[:100])
    launch([evaluate.test], cfg)
    log = (tmp_path / "out" / "stdout.log").read_text()
    assert all(f"{path} is damaged, and its videos are scored again" in log for path in parts[1:])
    assert "2 of 11 videos are scored already" in log
    assert_same_results(tmp_path / "whole", tmp_path / "out")


def test_other_settings_are_refused_with_the_difference(make_cfg, changes, monkeypatch):
    stop_after(make_cfg(changes), monkeypatch, 2)
    with pytest.raises(ValueError, match=r"test_parts holds an unfinished test .*TEST.NUM_ENSEMBLE_VIEWS: 2 -> 3"):
        launch([evaluate.test], make_cfg({**changes, "TEST.NUM_ENSEMBLE_VIEWS": 3}))
    path = Path(changes["TEST.CHECKPOINT_FILE_PATH"])
    content = torch.load(path, weights_only=True)
    content["model_state"]["norm.bias"] += 1
    save_checkpoint(path, content)
    with pytest.raises(ValueError, match="weights: .*SHA-256"):
        launch([evaluate.test], make_cfg(changes))


def test_a_full_disk_loses_no_score(make_cfg, changes, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    launch([evaluate.test], make_cfg({**changes, "OUTPUT_DIR": tmp_path / "whole"}))
    monkeypatch.setattr(scored_parts, "save_checkpoint", fail)
    launch([evaluate.test], make_cfg(changes))
    assert "are not on disk yet" in (tmp_path / "out" / "stdout.log").read_text()
    assert_same_results(tmp_path / "whole", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.distributed
def test_numbers_are_the_same_for_one_two_and_three_processes(run_net, changes, tmp_path, broken_dir):
    """Seven videos, one of them broken, one listed twice."""
    lines = (broken_dir / "test.csv").read_text().splitlines()
    (broken_dir / "test.csv").write_text("\n".join([*lines[:6], lines[1]]) + "\n")
    for count in (1, 2, 3):
        finished = run_net({**changes, "OUTPUT_DIR": tmp_path / str(count)}, processes=count)
        assert finished.returncode == 0, finished.stderr
        assert_same_results(tmp_path / "1", tmp_path / str(count), tolerance=1e-5)
    results, _ = read(tmp_path / "3")
    counts = ("num_videos", "num_evaluated", "num_failed", "num_repeated_paths")
    assert [results[name] for name in counts] == [7, 6, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_at_random_moments_it_ends_with_the_same_results(run_net, changes, options, tmp_path, number):
    finished = run_net({**changes, "OUTPUT_DIR": tmp_path / "whole"})
    assert finished.returncode == 0, finished.stderr
    pairs = {**options, **{key: str(value) for key, value in changes.items()}}
    code = "import sys, time\nfrom hiera_video.engine import evaluate, scored_parts\nscored_parts._PERIOD_SEC = 0\n"
    code += "add = scored_parts.ScoredParts.add\n"
    code += "scored_parts.ScoredParts.add = lambda *a: (add(*a), time.sleep(0.15))\n"
    code += "from hiera_video.cli.run import main\nsys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, *(word for pair in pairs.items() for word in pair)]
    parts = tmp_path / "out" / "test_parts"
    for wait_for in (1, 3, 4):  # parts on disk when it is hit
        process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 180
        while len(list(parts.glob("part_*.pth"))) < wait_for and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.02)
        os.kill(process.pid, number)
        _, stderr = process.communicate(timeout=180)
        assert process.returncode == (-9 if number == signal.SIGKILL else 75), stderr
    finished = run_net(changes)
    assert finished.returncode == 0 and "videos are scored already" in finished.stderr, finished.stderr
    assert_same_results(tmp_path / "whole", tmp_path / "out")
