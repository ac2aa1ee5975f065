"""Top-k accuracy, counted over videos."""

from __future__ import annotations

import torch


def compute_topk_hits(scores: torch.Tensor, labels: torch.Tensor, ks: tuple[int, ...] = (1, 5)) -> torch.Tensor:
    """Which samples have their label among the k highest scores.

    Args:
        scores: (N, K) logits or probabilities. A row with a NaN never hits.
        labels: (N,) class indices.
        ks: a k above K is taken as K.

    Returns:
        bool (len(ks), N). Classes of equal score rank by index, so that the result does not depend on the device.
    """
    target = scores.gather(1, labels[:, None])  # (N, 1)
    before = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]  # (N, K)
    rank = ((scores > target) | ((scores == target) & before)).sum(dim=1)  # (N,) classes ranked above the label
    valid = ~scores.isnan().any(dim=1)
    return torch.stack([(rank < k) & valid for k in ks])


def compute_topk_accuracy(scores: torch.Tensor, labels: torch.Tensor, k: int) -> float:
    """Share of samples with a hit, in percent; NaN without samples."""
    return 100.0 * compute_topk_hits(scores, labels, (k,))[0].double().mean().item()


def compute_knn_accuracy(features: torch.Tensor, labels: torch.Tensor, num_neighbors: int) -> float:
    """Share in percent of samples whose label most of their nearest neighbours have, each sample left out of its own.

    Args:
        features: float (N, D). A row with a NaN is nobody's neighbour, and wrong.
        labels: int64 (N,), at least 0.
        num_neighbors: how many vote; the similarity, cosine, decides between classes of equally many votes.

    Follows: the monitor that DINO made common (arXiv 2104.14294), with plain votes.
    """
    valid = ~features.isnan().any(dim=1)
    directions = torch.nn.functional.normalize(features.nan_to_num(0.0).double(), dim=1)
    similarity = directions @ directions.T  # (N, N)
    similarity.fill_diagonal_(-torch.inf)
    similarity[:, ~valid] = -torch.inf
    values, neighbors = similarity.topk(min(num_neighbors, len(labels) - 1), dim=1)  # (N, k)
    votes = torch.zeros(len(labels), int(labels.max()) + 1, dtype=torch.float64)
    weights = torch.where(values.isfinite(), 1.0 + 1e-6 * values.nan_to_num(0.0), 0.0)
    votes.scatter_add_(1, labels[neighbors], weights)
    return 100.0 * ((votes.argmax(dim=1) == labels) & valid).double().mean().item()
