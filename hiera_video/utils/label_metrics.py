"""Metrics of videos with several classes each: every class is a question of its own."""

from __future__ import annotations

import numpy as np

_CHUNK = 2**24  # values in memory at a time


def compute_average_precision(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Average precision of each class: the sum over distinct scores of precision times the recall gained there.

    Args:
        scores: float (N, K); a row with a NaN is of a video that nothing is known of: none of its classes is ever
            found, and it is never found wrongly.
        targets: bool (N, K).
        weights: float (R, N), how often each video counts, for R samples of them; None: once.

    Returns:
        float64 (K,), or (R, K) with weights, in [0, 1]; NaN for a class without videos.

    Follows: scikit-learn's `average_precision_score`, where no row is NaN.
    """
    drawn = np.ones((1, len(scores))) if weights is None else weights
    precisions = [_compute_class(scores[:, k], targets[:, k], drawn) for k in range(scores.shape[1])]
    result = np.stack(precisions, axis=1)  # (R, K)
    return result[0] if weights is None else result


def _compute_class(scores: np.ndarray, is_positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float64 (R,): average precision of one class."""
    totals = weights @ is_positive.astype(np.float64)  # (R,)
    known = np.flatnonzero(~np.isnan(scores))
    order = known[np.argsort(-scores[known], kind="stable")]
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if len(order) else order  # of equal scores
    parts = []
    for rows in np.array_split(weights, max(1, weights.size // _CHUNK)):
        drawn = rows[:, order]
        found = (drawn * is_positive[order]).cumsum(axis=1)[:, ends]  # (r, distinct scores)
        counted = drawn.cumsum(axis=1)[:, ends]
        precision = found / np.maximum(counted, 1e-300)
        parts.append((np.diff(found, axis=1, prepend=0.0) * precision).sum(axis=1))
    with np.errstate(invalid="ignore"):
        return np.concatenate(parts) / totals


def compute_mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """The mean of `compute_average_precision` over the classes that have videos, in percent; NaN where none has."""
    precisions = compute_average_precision(scores, targets)
    return 100.0 * float(np.nanmean(precisions)) if targets.any() else float("nan")


def compute_intervals(
    scores: np.ndarray, targets: np.ndarray, *, seed: int = 0, num_resamples: int = 1000
) -> tuple[list[float], np.ndarray]:
    """95 % percentile intervals, in percent: of the mean average precision, and (K, 2) of each class.

    Videos are drawn with replacement, as many as there are. Where a draw has no video of a class, that class is left
    out of its mean. The intervals tell of the choice of test videos alone.

    Args:
        scores: see `compute_average_precision`.
        targets: bool (N, K).
        seed: of the draws, rows of ``default_rng(seed).integers(N, size=(num_resamples, N))``.
        num_resamples: how often.
    """
    num_videos = len(scores)
    drawn = np.random.default_rng(seed).integers(num_videos, size=(num_resamples, num_videos))
    weights = np.stack([np.bincount(row, minlength=num_videos) for row in drawn]).astype(np.float64)
    precisions = 100.0 * compute_average_precision(scores, targets, weights)  # (R, K)
    has_any = ~np.isnan(precisions)
    counts = has_any.sum(axis=1)
    means = np.where(has_any, precisions, 0.0).sum(axis=1)[counts > 0] / counts[counts > 0]
    of_mean = np.quantile(means, [0.025, 0.975]).tolist() if len(means) else [float("nan")] * 2
    of_classes = np.full((precisions.shape[1], 2), np.nan)
    for k in np.flatnonzero(has_any.any(axis=0)):
        of_classes[k] = np.quantile(precisions[has_any[:, k], k], [0.025, 0.975])
    return of_mean, of_classes


def choose_thresholds(scores: np.ndarray, targets: np.ndarray, *, default: float = 0.5) -> np.ndarray:
    """For each class the score from which on saying yes gives the highest F1; of equally good ones the highest.

    Args:
        scores: float (N, K); rows with NaN are left out.
        targets: bool (N, K).
        default: for a class without videos.

    Returns:
        float64 (K,): half-way from the lowest score that counts as yes to the next one below it.
    """
    known = ~np.isnan(scores).any(axis=1)
    scores, targets = scores[known].astype(np.float64), targets[known]
    thresholds = np.full(scores.shape[1], default)
    for k in np.flatnonzero(targets.any(axis=0)):
        order = np.argsort(-scores[:, k], kind="stable")
        ranked = scores[order, k]
        found = targets[order, k].cumsum()
        f1 = 2 * found / (np.arange(1, len(order) + 1) + targets[:, k].sum())
        f1[np.append(ranked[1:] == ranked[:-1], False)] = -1.0  # equal scores are all yes, or all no
        best = int(f1.argmax())
        below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
        thresholds[k] = (ranked[best] + below) / 2
    return thresholds


def compute_decisions(scores: np.ndarray, targets: np.ndarray, thresholds: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of each class, in percent, where a score at or above its threshold says yes.

    Args:
        scores: float (N, K); rows with NaN say no to everything.
        targets: bool (N, K).
        thresholds: (K,).

    Returns:
        ``precision``, ``recall`` and ``f1``, float64 (K,), NaN where nothing is divided by nothing; and ``found``,
        ``said`` and ``true``, int64 (K,), the counts that they come from.
    """
    said = np.nan_to_num(scores, nan=-np.inf) >= thresholds
    counts = {"found": (said & targets).sum(axis=0), "said": said.sum(axis=0), "true": targets.sum(axis=0)}
    return compute_ratios(**counts) | counts


def compute_ratios(found: np.ndarray, said: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1, in percent, of counts of what was found, what was said and what is true."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"precision": 100 * found / said, "recall": 100 * found / true, "f1": 200 * found / (said + true)}
