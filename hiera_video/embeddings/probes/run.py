"""How much a frozen model's embeddings tell of the class: all probes, with intervals and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hiera_video.embeddings.probes.attentive import classify_attentive
from hiera_video.embeddings.probes.bootstrap import compute_bootstrap_intervals
from hiera_video.embeddings.probes.labeled import LabeledVideos, hold_out
from hiera_video.embeddings.probes.linear import classify_linear
from hiera_video.embeddings.probes.neighbors import classify_knn, expect_random_retrieval, score_retrieval

PROBES = ("knn", "linear", "attentive", "retrieval")


@dataclass(frozen=True)
class Score:
    """A number, in percent.

    Attributes:
        probe: one of `PROBES`.
        metric: "top-1" (accuracy), "recall@k" or "mAP".
        value: mean over the test videos.
        low: lower end of its 95 % bootstrap interval over test videos.
        high: upper end.
        baseline: the value without embeddings. Of an accuracy: by naming the most frequent class of the training
            videos (of equally frequent ones the first) for every test video. Of retrieval: the expectation over random
            orders of the gallery, exact (`expect_random_retrieval`).
    """

    probe: str
    metric: str
    value: float
    low: float
    high: float
    baseline: float


@dataclass(frozen=True, eq=False)
class ProbeReport:
    """Scores; the class (position, int64 (m,)) that each probe but retrieval gives to each test video; and settings.

    ``settings`` names for each probe what it was run with, and what it chose by the training videos held out.
    """

    scores: tuple[Score, ...]
    predicted: dict[str, torch.Tensor]
    settings: dict[str, dict[str, Any]]


def run_probes(
    train: LabeledVideos,
    test: LabeledVideos,
    *,
    num_classes: int,
    probes: Sequence[str] = PROBES,
    seed: int = 0,
    num_neighbors: int = 20,
    num_resamples: int = 1000,
) -> ProbeReport:
    """Runs probes. All but the attentive one see a video as the mean over its windows.

    Test videos of a class that the training videos lack (label -1) count as wrong, and score 0 in retrieval.

    Args:
        train: at least one video of each of the K classes.
        test: videos to be judged by.
        num_classes: K, at least 2.
        probes: which, of `PROBES`.
        seed: of the part of train that is held out, of the attentive probe, and of the intervals.
        num_neighbors: of "knn".
        num_resamples: for the intervals.

    Raises:
        ValueError: an unknown probe, no test video, or training videos of fewer than 2 classes.
    """
    _check(test, num_classes, probes)
    held_out = hold_out(train.labels, seed=seed)
    train_means, test_means = train.compute_means(), test.compute_means()
    predicted: dict[str, torch.Tensor] = {}
    settings: dict[str, dict[str, float]] = {}
    if "knn" in probes:
        predicted["knn"] = classify_knn(train_means, train.labels, test_means, num_neighbors=num_neighbors)
        settings["knn"] = {"num_neighbors": min(num_neighbors, len(train))}
    if "linear" in probes:
        predicted["linear"], strength = classify_linear(train_means, train.labels, test_means, held_out=held_out)
        settings["linear"] = {"C": strength, "num_held_out": int(held_out.sum())}
    if "attentive" in probes:
        result = classify_attentive(train, test, num_classes=num_classes, held_out=held_out, seed=seed)
        predicted["attentive"] = result.predicted
        chosen = {"weight_decay": result.weight_decay, "num_epochs": result.num_epochs}
        settings["attentive"] = chosen | {"num_held_out": int(held_out.sum())}
    majority = (test.labels == train.labels.bincount().argmax()).double()
    measures = [(name, "top-1", classes == test.labels, majority) for name, classes in predicted.items()]
    if "retrieval" in probes:
        found = score_retrieval(train_means, train.labels, test_means, test.labels)
        by_chance = expect_random_retrieval(train.labels, test.labels)
        measures += [("retrieval", metric, values, by_chance[metric]) for metric, values in found.items()]
    return ProbeReport(_make_scores(measures, seed=seed, num_resamples=num_resamples), predicted, settings)


def _make_scores(
    measures: Sequence[tuple[str, str, torch.Tensor, torch.Tensor]], *, seed: int, num_resamples: int
) -> tuple[Score, ...]:
    """Scores from probe, metric, values of the test videos (m,), and the baseline's values (m,)."""
    values = np.stack([100.0 * measure[2].double().numpy() for measure in measures], axis=1)  # (m, M)
    intervals = compute_bootstrap_intervals(values, seed=seed, num_resamples=num_resamples)
    return tuple(
        Score(probe, metric, float(mean), float(low), float(high), 100.0 * float(baseline.mean()))
        for (probe, metric, _, baseline), mean, (low, high) in zip(
            measures, values.mean(axis=0), intervals, strict=True
        )
    )


def _check(test: LabeledVideos, num_classes: int, probes: Sequence[str]) -> None:
    unknown = [name for name in probes if name not in PROBES]
    if unknown or not probes:
        raise ValueError(f"probes = {list(probes)}; each must be one of {', '.join(PROBES)}, and there must be one")
    if len(test) == 0:
        raise ValueError("there is no test video")
    if num_classes < 2:
        raise ValueError(f"the training videos are of {num_classes} class; a probe needs at least 2")
