"""Accuracies, counted over videos, and how far they can be trusted."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import binomtest


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


def compute_confusion(predicted: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """How often a video of each class was taken for each class.

    Args:
        predicted: int64 (N,), in [0, K), or -1 where a video failed.
        labels: int64 (N,), in [0, K).

    Returns:
        int64 (K, K + 1): a row for each class, a column for each prediction, and the last one for failures.
    """
    columns = torch.where(predicted < 0, num_classes, predicted)
    counts = torch.bincount(labels * (num_classes + 1) + columns, minlength=num_classes * (num_classes + 1))
    return counts.view(num_classes, num_classes + 1)  # (K * (K + 1),) -> (K, K + 1)


def compute_mean_class_accuracy(confusion: torch.Tensor) -> float:
    """The mean over classes of the share of their videos that is right, in percent.

    Classes without videos are left out.

    Args:
        confusion: from `compute_confusion`.
    """
    sizes = confusion.sum(dim=1).double()
    shares = confusion.diagonal().double()[sizes > 0] / sizes[sizes > 0]
    return 100.0 * shares.mean().item()


def compute_interval(num_hits: int, num_videos: int) -> list[float]:
    """The 95 % interval of an accuracy, in percent: the Wilson score interval of ``num_hits`` of ``num_videos``.

    It tells of the choice of test videos alone, not of that of training videos or of random seeds.
    """
    interval = binomtest(num_hits, num_videos).proportion_ci(0.95, method="wilson")
    return [100.0 * interval.low, 100.0 * interval.high]


def compute_mean_class_interval(confusion: torch.Tensor, *, num_resamples: int = 10_000) -> list[float]:
    """The 95 % interval of `compute_mean_class_accuracy`, in percent, by drawing the videos of each class anew.

    Drawing n videos with replacement, of which a share p is right, gives a binomial number of right ones.
    """
    sizes = confusion.sum(dim=1).numpy()
    hits = confusion.diagonal().numpy()[sizes > 0]
    sizes = sizes[sizes > 0]
    drawn = np.random.default_rng(0).binomial(sizes, hits / sizes, size=(num_resamples, len(sizes))) / sizes
    return (100.0 * np.quantile(drawn.mean(axis=1), [0.025, 0.975])).tolist()
