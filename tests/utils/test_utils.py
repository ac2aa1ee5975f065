"""Plumbing: random keys, logs, and PyTorchVideo's import."""

import random
import subprocess
import sys

import numpy as np
import simplejson
import torch

from hiera_video.utils.logging import get_logger, log_json_stats, setup_logging
from hiera_video.utils.rng import compute_seed, seed_everything, seeded


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def test_seeded_depends_on_the_key_alone_and_restores_the_generators():
    seed_everything(0)
    expected = [draw(), draw()]
    seed_everything(0)
    first = draw()
    with seeded(3, 1, 4):
        inside = draw()
    assert [first, draw()] == expected
    with seeded(3, 1, 4):
        assert draw() == inside
    with seeded(3, 4, 1):
        assert all(a != b for a, b in zip(draw(), inside, strict=True))


def test_seeds_of_neighboring_keys_differ():
    seeds = {compute_seed(0, epoch, index, view) for epoch in range(5) for index in range(50) for view in range(4)}
    assert len(seeds) == 1000 and all(0 <= seed < 2**63 for seed in seeds)


def test_json_stats_are_read_back(tmp_path):
    setup_logging(tmp_path)
    log_json_stats({"loss": float("nan"), "top1": 1.5}, output_dir=tmp_path)
    log_json_stats({"loss": 2.0}, output_dir=tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [simplejson.loads(line) for line in lines] == [{"loss": None, "top1": 1.5}, {"loss": 2.0}]
    assert (tmp_path / "stdout.log").read_text().splitlines()[1].endswith('json_stats: {"loss": 2.0}')


def test_other_ranks_write_no_file(tmp_path, capsys):
    setup_logging(tmp_path, is_main=False)
    get_logger("hiera_video.x").info("not for rank 1")
    get_logger("hiera_video.x").warning("for everybody")
    assert not list(tmp_path.iterdir())
    assert "for everybody" in capsys.readouterr().err


def test_pytorchvideo_transforms_import_without_a_warning():
    """In a new process, as this one already has the alias."""
    code = "from hiera_video.utils.ptv_compat import RandAugment; print(RandAugment.__module__)"
    finished = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert finished.stdout.strip() == "pytorchvideo.transforms.rand_augment", finished.stderr
