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


def seed_cpu(*key: int) -> None:
    """Seeds Python's, NumPy's and torch's (CPU) global generators from ``key``."""
    seed = compute_seed(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def seed_everything(*key: int) -> None:
    """As `seed_cpu`, and torch's generators of the GPUs too."""
    seed_cpu(*key)
    torch.manual_seed(compute_seed(*key))


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Puts the states of Python's, NumPy's and torch's (CPU) global generators back afterwards.

    It takes far longer than `seed_cpu` alone: several seeds belong into one such block.
    """
    states = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seeds Python's, NumPy's and torch's (CPU) global generators from ``key``, and puts their states back afterwards.

    The global generators are used on purpose: PyTorchVideo's clip samplers draw from ``random``, its transforms from
    torch and NumPy, so code that is plugged in becomes reproducible too.
    """
    with kept_generators():
        seed_cpu(*key)
        yield
