"""Embeddings of labeled videos, in the form that probes take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from hiera_video.embeddings.reading import Embeddings, check_finite


@dataclass(frozen=True, eq=False)
class LabeledVideos:
    """Windows of some videos, one video after the other.

    Attributes:
        windows: float32 (R, D), the embeddings of all windows.
        counts: int64 (n,), how many of them each video has, at least 1; they sum up to R.
        labels: int64 (n,), the class of each video, in [0, K); -1: a class that the training videos lack.
    """

    windows: torch.Tensor
    counts: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.counts)

    def compute_means(self) -> torch.Tensor:
        """Float32 (n, D): the mean over each video's windows."""
        video = torch.arange(len(self)).repeat_interleave(self.counts)  # (R,)
        return torch.zeros(len(self), self.windows.shape[1]).index_add_(0, video, self.windows) / self.counts[:, None]

    def pad(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All windows of the given videos: float32 (B, W, D), and bool (B, W), True where there is a window."""
        counts = self.counts[rows]
        starts = self.counts.cumsum(0)[rows] - counts
        position = torch.arange(int(counts.max()))  # (W,)
        is_window = position < counts[:, None]  # (B, W)
        return self.windows[(starts[:, None] + position).where(is_window, starts[:, None])], is_window


def group_by_video(embeddings: Embeddings, classes: Sequence[Any]) -> LabeledVideos:
    """Videos in the order in which their paths first come; a video's label is that of its first row.

    Args:
        embeddings: of labeled videos; the column ``label`` may hold anything that can be compared.
        classes: the labels of the training videos, each once; the position is the class.

    Raises:
        ValueError: an embedding holds NaN or infinity.
    """
    check_finite(embeddings)
    codes, _ = pd.factorize(embeddings.table["path"])
    labels = embeddings.table["label"][~embeddings.table["path"].duplicated()]
    return LabeledVideos(
        windows=embeddings.vectors[torch.from_numpy(np.argsort(codes, kind="stable"))],
        counts=torch.from_numpy(np.bincount(codes)),
        labels=torch.from_numpy(pd.Index(classes).get_indexer(pd.Index(labels.tolist())).astype(np.int64)),
    )


def hold_out(labels: torch.Tensor, *, seed: int, fraction: float = 0.2) -> torch.Tensor:
    """Chooses training videos by which the probes' settings are chosen: the same share of each class.

    Args:
        labels: int64 (n,).
        seed: of the draw.
        fraction: share; of each class at least one, and never all: a class of one video is not held out.

    Returns:
        bool (n,), True: held out.
    """
    draw = np.random.default_rng(seed)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0].numpy()
        count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        held_out[torch.from_numpy(draw.permutation(rows)[:count])] = True
    return held_out


def compute_scaling(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (D,) of each of D features; the latter is 1 where a feature is constant."""
    std, mean = torch.std_mean(features, dim=0, correction=0)
    is_constant = std <= 1e-6 * mean.abs()  # but for rounding
    return mean, std.masked_fill(is_constant, 1.0)
