"""What a frozen model's embeddings tell of several classes of each video."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from hiera_video.embeddings.probes.labeled import LabeledVideos, compute_scaling
from hiera_video.embeddings.probes.linear import STRENGTHS
from hiera_video.embeddings.probes.neighbors import vote
from hiera_video.embeddings.probes.run import ProbeReport, Score
from hiera_video.utils.label_metrics import compute_intervals, compute_mean_average_precision

PROBES = ("knn", "linear")
_MAX_STEPS = 500


def run_multilabel_probes(
    train: LabeledVideos,
    test: LabeledVideos,
    *,
    targets: torch.Tensor,
    probes: Sequence[str] = PROBES,
    seed: int = 0,
    num_neighbors: int = 20,
    num_resamples: int = 1000,
) -> ProbeReport:
    """Mean average precision of probes, over the classes that test videos have. A video is the mean over its windows.

    Args:
        train: its ``labels`` are rows of ``targets``.
        test: likewise.
        targets: bool (S, K), the classes of each distinct set of labels.
        probes: "knn": the share of the nearest training videos that have a class, weighted as `classify_knn` has it;
            "linear": logistic regression for each class, with one strength, chosen on a fifth of the training videos.
        seed: of that fifth and of the intervals.
        num_neighbors: of "knn".
        num_resamples: for the intervals.

    Raises:
        ValueError: an unknown probe, or no class that both sides have.
    """
    unknown = [name for name in probes if name not in PROBES]
    if unknown or not probes:
        raise ValueError(f"probes = {list(probes)}; with several classes legal are {', '.join(PROBES)}")
    of_train, of_test = targets[train.labels].numpy(), targets[test.labels].numpy()
    if not (of_train.any(axis=0) & of_test.any(axis=0)).any():
        raise ValueError("no class has both training and test videos")
    train_means, test_means = train.compute_means(), test.compute_means()
    scores: dict[str, np.ndarray] = {}
    settings: dict[str, dict[str, Any]] = {}
    if "knn" in probes:
        scores["knn"] = vote(train_means, torch.from_numpy(of_train).double(), test_means, num_neighbors=num_neighbors)
        settings["knn"] = {"num_neighbors": min(num_neighbors, len(train))}
    if "linear" in probes:
        held_out = np.random.default_rng(seed).permutation(len(train)) < len(train) // 5
        scores["linear"], strength = _score_linear(train_means, of_train, test_means, held_out)
        settings["linear"] = {"C": strength, "num_held_out": int(held_out.sum())}
    chance = 100.0 * float(of_test.mean(axis=0)[of_test.any(axis=0)].mean())  # of scores that tell nothing
    rows = []
    for name, found in scores.items():
        low, high = compute_intervals(found, of_test, seed=seed, num_resamples=num_resamples)[0]
        rows.append(Score(name, "mAP", compute_mean_average_precision(found, of_test), low, high, chance))
    return ProbeReport(tuple(rows), {}, settings)


def _score_linear(
    train: torch.Tensor, targets: np.ndarray, test: torch.Tensor, held_out: np.ndarray
) -> tuple[np.ndarray, float]:
    """Probabilities (m, K) of the test videos, and the strength C of the highest mAP on the videos held out."""
    strength = 1.0
    if held_out.any() and targets[held_out].any():
        kept = torch.from_numpy(~held_out)
        found = {
            c: compute_mean_average_precision(
                _fit_and_score(train[kept], targets[~held_out], train[~kept], c), targets[held_out]
            )
            for c in STRENGTHS
        }
        strength = max(STRENGTHS, key=lambda c: found[c])
    return _fit_and_score(train, targets, test, strength), strength


def _fit_and_score(train: torch.Tensor, targets: np.ndarray, test: torch.Tensor, strength: float) -> np.ndarray:
    mean, std = compute_scaling(train)
    fitted, others = ((train - mean) / std).numpy(), ((test - mean) / std).numpy()
    scores = np.tile(targets.mean(axis=0), (len(others), 1))  # where all, or none, of the videos have a class
    for k in np.flatnonzero(targets.any(axis=0) & ~targets.all(axis=0)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=strength, max_iter=_MAX_STEPS).fit(fitted, targets[:, k])
        scores[:, k] = model.predict_proba(others)[:, 1]
    return scores
