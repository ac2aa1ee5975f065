"""Nearest neighbors by cosine: how well they tell a class, and how well videos of a class are retrieved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

RECALLS = (1, 5, 10)
_CHUNK = 2**24  # similarities in memory at a time


def classify_knn(
    train: torch.Tensor,
    train_labels: torch.Tensor,
    test: torch.Tensor | None = None,
    *,
    num_neighbors: int = 20,
    temperature: float = 0.07,
) -> torch.Tensor:
    """The class with the most votes among each video's nearest training videos.

    Args:
        train: float (n, D), one row for each video. A row with a value that is not finite is nobody's neighbor.
        train_labels: int64 (n,), in [0, K).
        test: float (m, D); None: the training videos themselves, each classified by all the others.
        num_neighbors: how many vote; all, where there are fewer.
        temperature: a neighbor's vote weighs exp(cosine / temperature).

    Returns:
        int64 (m,), or (n,) without test; -1 for a row with a value that is not finite, and where nobody votes. Of
        equally similar neighbors the earlier row votes; of classes with equal votes the lower one wins.

    Follows: DINO (arXiv 2104.14294, appendix F.1): its weights, and 20 neighbors, its best number.
    """
    queries = train if test is None else test
    is_train, is_query = (rows.isfinite().all(dim=1) for rows in (train, queries))
    predicted, start = [], 0
    for similarity in _compute_similarity(queries, train):
        similarity[:, ~is_train] = -torch.inf
        similarity[~is_query[start : start + len(similarity)]] = -torch.inf
        if test is None:
            similarity.diagonal(start).fill_(-torch.inf)  # nobody votes for itself
        start += len(similarity)
        values, rows = _take_nearest(similarity, num_neighbors)  # (c, k)
        weights = ((values.double() - 1) / temperature).exp()
        votes = torch.zeros(len(rows), int(train_labels.max()) + 1, dtype=torch.float64)
        votes.scatter_add_(1, train_labels[rows], weights)
        predicted.append(votes.argmax(dim=1).where(weights.sum(dim=1) > 0, -1))
    return torch.cat(predicted)


def vote(
    train: torch.Tensor,
    targets: torch.Tensor,
    test: torch.Tensor,
    *,
    num_neighbors: int = 20,
    temperature: float = 0.07,
) -> np.ndarray:
    """The weighted share of each video's nearest training videos that have each class; weights as in `classify_knn`.

    Args:
        train: float (n, D), finite.
        targets: float64 (n, K), 1 where a video has a class.
        test: float (m, D), finite.

    Returns:
        float64 (m, K), in [0, 1].
    """
    shares = []
    for similarity in _compute_similarity(test, train):
        values, rows = _take_nearest(similarity, num_neighbors)  # (c, k)
        shares.append(weigh_votes(values, targets[rows], temperature=temperature))
    return torch.cat(shares).numpy()


def find_neighbors(vectors: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows most similar to each row, itself left out.

    Args:
        vectors: float (n, D), finite, n at least 2.
        count: how many; all others, where there are fewer.

    Returns:
        falling cosines (n, k), and int64 rows (n, k); of equally similar rows the earlier comes first.
    """
    found, start = [], 0
    for similarity in _compute_similarity(vectors, vectors):
        similarity.diagonal(start).fill_(-torch.inf)
        start += len(similarity)
        found.append(_take_nearest(similarity, min(count, len(vectors) - 1)))
    cosines, rows = zip(*found, strict=True)
    return torch.cat(cosines), torch.cat(rows)


def weigh_votes(cosines: torch.Tensor, targets: torch.Tensor, *, temperature: float = 0.07) -> torch.Tensor:
    """The share of each class among neighbors whose vote weighs exp(cosine / temperature).

    Args:
        cosines: float (n, k).
        targets: float64 (n, k, K), 1 where a neighbor has a class.

    Returns:
        float64 (n, K), in [0, 1].
    """
    weights = ((cosines.double() - 1) / temperature).exp()
    return torch.einsum("ck,ckl->cl", weights / weights.sum(dim=1, keepdim=True), targets)


def score_retrieval(
    gallery: torch.Tensor,
    gallery_labels: torch.Tensor,
    queries: torch.Tensor,
    query_labels: torch.Tensor,
    *,
    recalls: Sequence[int] = RECALLS,
) -> dict[str, torch.Tensor]:
    """How early videos of a query's class come when the gallery is sorted by similarity to the query.

    Args:
        gallery: float (n, D).
        gallery_labels: int64 (n,).
        queries: float (m, D).
        query_labels: int64 (m,); a query whose class the gallery lacks scores 0.
        recalls: the k of ``recall@k``.

    Returns:
        float64 (m,) for ``recall@k``: 1 where at least one of the first k is of the query's class; and for ``mAP``:
        the average precision, the mean over the videos of the class of the share of the class among all up to them.
        Equally similar videos come in the order of their rows.
    """
    scores: dict[str, list[torch.Tensor]] = {name: [] for name in (*(f"recall@{k}" for k in recalls), "mAP")}
    start = 0
    for _, rows in _rank(queries, gallery):
        same = gallery_labels[rows] == query_labels[start : start + len(rows), None]  # (c, n)
        start += len(rows)
        for k in recalls:
            scores[f"recall@{k}"].append(same[:, :k].any(dim=1).double())
        precision = same.cumsum(dim=1) / torch.arange(1, same.shape[1] + 1, dtype=torch.float64)  # (c, n)
        scores["mAP"].append((precision * same).sum(dim=1) / same.sum(dim=1).clamp(min=1))
    return {name: torch.cat(chunks) for name, chunks in scores.items()}


def expect_random_retrieval(
    gallery_labels: torch.Tensor, query_labels: torch.Tensor, *, recalls: Sequence[int] = RECALLS
) -> dict[str, torch.Tensor]:
    """What `score_retrieval` gives on average when each query gets the gallery in a random order: float64 (m,) each.

    Of n videos in the gallery, p are of the query's class. Recall is hypergeometric: none of the p is among the first k
    with probability C(n - p, k) / C(n, k). The precision at a video of the class in place i counts the video itself and
    each of the i - 1 before it with probability (p - 1) / (n - 1), divided by i. A video's place is uniform, so the
    expected average precision is (H + (p - 1) / (n - 1) * (n - H)) / n with H = 1 + 1/2 + ... + 1/n.
    """
    n = len(gallery_labels)
    classes, counts = gallery_labels.unique(return_counts=True)
    p = ((query_labels[:, None] == classes) * counts).sum(dim=1).double()  # (m,)
    expected = {}
    for k in recalls:
        drawn_before = torch.arange(min(k, n), dtype=torch.float64)
        is_other = (n - p[:, None] - drawn_before).clamp(min=0) / (n - drawn_before)  # (m, k)
        expected[f"recall@{k}"] = 1 - is_other.prod(dim=1)
    harmonic = (1 / torch.arange(1, n + 1, dtype=torch.float64)).sum()
    mean_precision = (harmonic + (p - 1) / max(n - 1, 1) * (n - harmonic)) / n
    return expected | {"mAP": mean_precision.where(p > 0, 0.0)}


def _rank(queries: torch.Tensor, gallery: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For some queries at a time: falling cosines (c, n), and the rows of the gallery (c, n) that they belong to."""
    for similarity in _compute_similarity(queries, gallery):
        yield torch.sort(similarity, dim=1, descending=True, stable=True)


def _compute_similarity(queries: torch.Tensor, gallery: torch.Tensor) -> Iterator[torch.Tensor]:
    """Cosines (c, n) of some queries at a time."""
    directions = torch.nn.functional.normalize(gallery, dim=1)
    for chunk in queries.split(max(_CHUNK // len(gallery), 1)):
        yield torch.nn.functional.normalize(chunk, dim=1) @ directions.T


def _take_nearest(similarity: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first columns of `_rank` without sorting whole rows: values and rows, (c, count), (c, n) where n is less."""
    found = similarity.topk(min(count + 1, similarity.shape[1]), dim=1)
    rows = found.indices[:, :count].sort(dim=1).values
    values, order = similarity.gather(1, rows).sort(dim=1, descending=True, stable=True)
    rows = rows.gather(1, order)
    if similarity.shape[1] > count:
        # The last one taken equals the first one left out: topk may have taken any of several equal ones.
        is_open = found.values[:, count - 1] == found.values[:, count]
        ranked = torch.sort(similarity[is_open], dim=1, descending=True, stable=True)
        values[is_open], rows[is_open] = ranked.values[:, :count], ranked.indices[:, :count]
    return values, rows
