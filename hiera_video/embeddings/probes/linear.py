"""What a linear classifier makes of a frozen model's embeddings."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from hiera_video.embeddings.probes.labeled import compute_scaling
from hiera_video.utils.logging import get_logger

STRENGTHS = tuple(10.0**power for power in range(-6, 3))  # C of scikit-learn: the smaller, the stronger
_DEFAULT_STRENGTH = 1.0
_MAX_STEPS = 500
_logger = get_logger(__name__)


def classify_linear(
    train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, *, held_out: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Logistic regression on standardized features.

    Args:
        train: float32 (n, D), one row for each video.
        labels: int64 (n,), of at least 2 classes.
        test: float32 (m, D). It takes no part in any choice.
        held_out: bool (n,): videos by which C is chosen (most hits; of equal ones the best likelihood), after fits to
            the others. Then all training videos are fitted. Where it is all False, C is 1.

    Returns:
        classes int64 (m,), and C.
    """
    strength = _DEFAULT_STRENGTH
    if held_out.any():
        fitted, others = _standardize(train[~held_out], train[held_out])
        targets = labels[held_out].numpy()
        models = {c: _fit(fitted, labels[~held_out].numpy(), c) for c in STRENGTHS}
        strength = max(STRENGTHS, key=lambda c: _judge(models[c], others, targets))
    fitted, others = _standardize(train, test)
    model = _fit(fitted, labels.numpy(), strength)
    if model.n_iter_.max() >= _MAX_STEPS:
        _logger.warning("The linear probe with C = %g has not converged after %d steps", strength, _MAX_STEPS)
    return torch.from_numpy(model.predict(others).astype(np.int64)), strength


def _standardize(fitted: torch.Tensor, others: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    mean, std = compute_scaling(fitted)
    return ((fitted - mean) / std).numpy(), ((others - mean) / std).numpy()


def _fit(features: np.ndarray, labels: np.ndarray, strength: float) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=_MAX_STEPS).fit(features, labels)


def _judge(model: LogisticRegression, features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Share of hits and mean log-likelihood; the model knows each of the labels."""
    with np.errstate(divide="ignore"):  # a probability that rounds to 0: infinitely unlikely, as it should be
        log_likelihood = model.predict_log_proba(features)
    columns = np.searchsorted(model.classes_, labels)
    is_hit = log_likelihood.argmax(axis=1) == columns
    return is_hit.mean(), log_likelihood[np.arange(len(labels)), columns].mean()
