"""Groups of similar embeddings, and what the labels of a group have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans, MiniBatchKMeans

_MAX_EXACT_ROWS = 10_000  # beyond, mini-batches: much faster, and nearly as tight
_BATCH_ROWS = 4096
_NUM_STARTS = 3
_MAX_DEFAULT = 20


@dataclass(frozen=True)
class Group:
    """What a cluster is of.

    Attributes:
        size: number of its rows.
        label: the label that most of its labeled rows have, of equally frequent ones the first; None where it has none.
        share: of its labeled rows that have it, in [0, 1]; 0 without.
    """

    size: int
    label: Any
    share: float


def choose_num_clusters(num_rows: int, num_classes: int) -> int:
    """As many clusters as classes; without classes the root of half the rows, and at most 20."""
    wanted = num_classes if num_classes > 1 else min(_MAX_DEFAULT, round((num_rows / 2) ** 0.5))
    return min(max(wanted, 2), num_rows)


def cluster(vectors: np.ndarray, num_clusters: int, *, seed: int = 0) -> np.ndarray:
    """k-means, the best of three starts; the same rows and seed give the same clusters.

    Args:
        vectors: float (N, D), finite.
        num_clusters: at least 1, at most N.
        seed: of the starts.

    Returns:
        int64 (N,), the cluster of each row; cluster 0 is the largest, and so on. Where rows repeat there may be fewer.

    Raises:
        ValueError: the number of clusters does not fit.
    """
    if not 1 <= num_clusters <= len(vectors):
        raise ValueError(
            f"the number of clusters is {num_clusters}; it must be 1 to {len(vectors)}, the number of rows"
        )
    distinct = len(np.unique(vectors, axis=0)) if num_clusters > len(vectors) // 2 else len(vectors)
    options = {"n_clusters": min(num_clusters, distinct), "n_init": _NUM_STARTS, "random_state": seed}
    is_large = len(vectors) > _MAX_EXACT_ROWS
    model = MiniBatchKMeans(batch_size=_BATCH_ROWS, **options) if is_large else KMeans(**options)
    codes = model.fit_predict(np.ascontiguousarray(vectors, np.float32))
    sizes = np.bincount(codes, minlength=options["n_clusters"])
    rank = np.empty(len(sizes), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return rank[codes]


def describe_clusters(codes: np.ndarray, labels: Sequence[Any] | pd.Series) -> list[Group]:
    """What each cluster is of.

    Args:
        codes: int64 (N,), the cluster of each row.
        labels: (N,), missing where unknown.
    """
    found = []
    for number in range(int(codes.max()) + 1 if len(codes) else 0):
        own = pd.Series(labels)[codes == number].dropna()
        counts = own.value_counts().sort_index().sort_values(ascending=False, kind="stable")
        label, share = (counts.index.tolist()[0], float(counts.iloc[0] / len(own))) if len(own) else (None, 0.0)
        found.append(Group(int((codes == number).sum()), label, share))
    return found
