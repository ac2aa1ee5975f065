"""Random numbers that depend only on a key."""

import random

import numpy as np
import torch

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
