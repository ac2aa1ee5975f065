"""Random numbers that depend only on a key, not on who asks for them or when."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def compute_seed(*key: int) -> int:
    """A 63-bit seed from a key of non-negative integers; different keys give unrelated seeds.

    Follows: numpy's ``SeedSequence``, whose hash is stable over versions and platforms.
    """
    high, low = np.random.SeedSequence(key).generate_state(2, np.uint32).tolist()
    return (high << 31) ^ low


def seed_everything(*key: int) -> None:
    """Seeds Python's, NumPy's and torch's (CPU and GPU) global generators from ``key``."""
    seed = compute_seed(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seeds Python's, NumPy's and torch's (CPU) global generators from ``key``, and puts their states back afterwards.

    The global generators are used on purpose: PyTorchVideo's clip samplers draw from ``random``, its transforms from
    torch and NumPy, so code that is plugged in becomes reproducible too.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = compute_seed(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
