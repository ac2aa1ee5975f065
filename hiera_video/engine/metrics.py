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
