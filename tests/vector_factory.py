"""Rows to search among, and the search done plainly in float64."""

import numpy as np
import torch

STEP = 2.0**-40  # cosines nearer than this are ties
FLOAT32 = 1e-6


def draw(num_rows, dim=16, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(num_rows, dim)).astype(np.float32))


def compute_cosines(queries, vectors):
    """(Q, N), 0 for zero vectors."""
    a, b = queries.double().numpy(), vectors.double().numpy()
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    return np.divide(a @ b.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)


def rank_plainly(cosines, k):
    """Rows by cosine, then by number: (Q, k)."""
    steps = np.round(cosines / STEP)
    return np.stack([np.lexsort((np.arange(len(row)), -row))[:k] for row in steps])


def draw_clusters(num_rows, dim=32):
    centers = draw(40, dim, seed=5)
    return centers[torch.arange(num_rows) % 40] + 0.7 * draw(num_rows, dim, seed=6)
