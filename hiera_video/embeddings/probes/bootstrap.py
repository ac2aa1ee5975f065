"""How far a mean over videos would move with other videos."""

from __future__ import annotations

import numpy as np

_CHUNK = 2**22  # draws in memory at a time


def compute_bootstrap_intervals(
    values: np.ndarray, *, seed: int, num_resamples: int = 1000, confidence: float = 0.95
) -> np.ndarray:
    """Percentile intervals of means over videos: videos are drawn with replacement, as many as there are.

    It tells of the choice of test videos alone, not of training ones. Where all values agree it has no width.

    Args:
        values: float (n, M): a row for each video, a column for each measure. All measures see the same draws.
        seed: of the draws; rows of the draws ``default_rng(seed).integers(n, size=(num_resamples, n))``.
        num_resamples: how often n videos are drawn.
        confidence: share of the resampled means between the ends.

    Returns:
        float64 (M, 2), lower and upper end.

    Raises:
        ValueError: there is no video.
    """
    num_videos = len(values)
    if num_videos == 0:
        raise ValueError("values has 0 rows; an interval needs at least 1 video")
    draw = np.random.default_rng(seed)
    at_a_time = max(_CHUNK // num_videos, 1)
    means = []
    for start in range(0, num_resamples, at_a_time):
        rows = min(at_a_time, num_resamples - start)
        drawn = draw.integers(num_videos, size=(rows, num_videos))
        drawn += num_videos * np.arange(rows)[:, None]  # each resample counts its own videos
        counts = np.bincount(drawn.reshape(-1), minlength=rows * num_videos)  # (rows, n) -> (rows * n,)
        means.append(counts.reshape(rows, num_videos) @ np.asarray(values, np.float64) / num_videos)  # -> (rows, M)
    tail = (1 - confidence) / 2
    return np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0).T
