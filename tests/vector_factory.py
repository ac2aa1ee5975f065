"""Rows to search among, and the search done plainly in float64."""

import numpy as np
import torch

from hiera_video.embeddings.store import ShardWriter, VideoInfo, prepare_folder, write_side_car

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


def draw_folder(folder, vectors, *, num_shards, rank=None, prefix="clip", replace=None, rows_per_video=4):
    """A folder of an extraction with these rows, in several shards; ``<prefix>-<number>.mp4`` are its videos."""
    prepare_folder(folder)
    for number, part in enumerate(vectors.chunk(num_shards)):
        writer = ShardWriter(folder, dim=vectors.shape[1], rank=number if rank is None else rank)
        if replace:
            (folder / "embeddings" / replace).unlink()
            writer._next_name = lambda: folder / "embeddings" / replace
        for place in range(0, len(part), rows_per_video):
            rows = part[place : place + rows_per_video].numpy()
            name = f"{prefix}-{number * len(part) + place}.mp4"
            times = np.stack([np.arange(len(rows)), np.arange(len(rows)) + 1], axis=1).astype(float)
            writer.add(VideoInfo(name, name.removesuffix(".mp4")), first_view=0, spans_sec=times, embeddings=rows)
            writer.complete(name)
        writer.flush()
    write_side_car(folder, {"settings": {}, "shape": [vectors.shape[1]]})
    return folder
