"""What a test says of each video, and what follows: numbers of classes, confusions, calibration, mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

_FAILED = -1
_NUM_BINS = 15


@dataclass(frozen=True, eq=False)
class ScoredClips:
    """Tested videos.

    Attributes:
        paths: N of them.
        labels: int64 (N,), in [0, K).
        predictions: int64 (N,), in [0, K), or -1 where the video failed.
        probs: float32 (N, K); NaN where it failed.
        class_names: K of them.
    """

    paths: Sequence[str]
    labels: np.ndarray
    predictions: np.ndarray
    probs: np.ndarray
    class_names: Sequence[str]

    @classmethod
    def from_table(cls, table: pd.DataFrame, class_names: Sequence[str] = ()) -> ScoredClips:
        """Takes what a test job wrote.

        Args:
            table: columns ``path``, ``label``, ``prediction``, ``probs``.
            class_names: K names; where there are not as many as classes, their numbers are taken.

        Raises:
            KeyError: a column is missing.
            ValueError: a label or a prediction is no class.
        """
        probs = np.stack(table["probs"].tolist()).astype(np.float32) if len(table) else np.zeros((0, 0), np.float32)
        num_classes = probs.shape[1]
        labels, predictions = (table[name].to_numpy().astype(np.int64) for name in ("label", "prediction"))
        for name, values, low in (("label", labels, 0), ("prediction", predictions, _FAILED)):
            wrong = values[(values < low) | (values >= num_classes)]
            if len(wrong):
                raise ValueError(f"{name} {wrong[0]} is not in [{low}, {num_classes}), the classes of probs")
        names = list(class_names) if len(class_names) == num_classes else [f"class {i}" for i in range(num_classes)]
        return cls(table["path"].astype(str).tolist(), labels, predictions, probs, names)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def is_failed(self) -> np.ndarray:
        """bool (N,)."""
        return self.predictions == _FAILED

    @property
    def is_right(self) -> np.ndarray:
        """bool (N,): the first class is the true one; a failed video is wrong."""
        return self.predictions == self.labels

    @cached_property
    def confidences(self) -> np.ndarray:
        """float32 (N,): the highest probability of each; NaN where it failed."""
        return self.probs.max(axis=1) if self.probs.size else np.zeros(len(self), np.float32)

    @cached_property
    def confusion(self) -> np.ndarray:
        """int64 (K, K): true class, predicted class -> number of videos; failed ones are in none."""
        whole = ~self.is_failed
        counts = np.zeros((self.num_classes, self.num_classes), dtype=np.int64)
        np.add.at(counts, (self.labels[whole], self.predictions[whole]), 1)
        return counts

    def find_top(self, clip: int, count: int = 5) -> list[int]:
        """The classes of the highest probabilities of a video, the first of equal ones first; none where it failed."""
        if self.is_failed[clip]:
            return []
        return np.argsort(-self.probs[clip], kind="stable")[:count].tolist()

    def compute_in_top5(self) -> np.ndarray:
        """bool (N,): the true class is among the five highest; classes of equal probability rank by index."""
        target = np.take_along_axis(self.probs, self.labels[:, None], axis=1)  # (N, 1)
        is_before = np.arange(self.num_classes) < self.labels[:, None]  # (N, K)
        rank = ((self.probs > target) | ((self.probs == target) & is_before)).sum(axis=1)
        return (rank < 5) & ~self.is_failed

    def find_worst(self, count: int) -> list[int]:
        """Wrong videos, the most confident first."""
        wrong = np.flatnonzero(~self.is_right & ~self.is_failed)
        return wrong[np.argsort(-self.confidences[wrong], kind="stable")][:count].tolist()

    def find_least_certain(self, count: int) -> list[int]:
        """Videos, right or wrong, whose two highest probabilities are nearest to each other."""
        whole = np.flatnonzero(~self.is_failed)
        if self.num_classes < 2:
            return []
        two = np.partition(self.probs[whole], -2, axis=1)[:, -2:]  # (n, 2), the highest last
        return whole[np.argsort(two[:, 1] - two[:, 0], kind="stable")][:count].tolist()


@dataclass(frozen=True)
class ClassScores:
    """One class. Shares are in [0, 1], NaN where nothing is counted.

    Attributes:
        num_videos: that are of this class, failed ones included.
        recall: share of them that is right: the accuracy of the class.
        precision: share of the videos taken for this class that is of it.
        in_top5: share of its videos with it among the first five.
        confused_with: the class that most of its other videos were taken for; None if none were.
        num_confused: how many.
    """

    num_videos: int
    recall: float
    precision: float
    in_top5: float
    confused_with: int | None
    num_confused: int


def compute_class_scores(clips: ScoredClips) -> list[ClassScores]:
    """The numbers of each class."""
    num_videos = np.bincount(clips.labels, minlength=clips.num_classes)
    num_in_top5 = np.bincount(clips.labels, weights=clips.compute_in_top5(), minlength=clips.num_classes)
    num_taken = clips.confusion.sum(axis=0)
    wrong = clips.confusion.copy()
    np.fill_diagonal(wrong, 0)
    scores = []
    for label in range(clips.num_classes):
        num_right, other = int(clips.confusion[label, label]), int(wrong[label].argmax())
        count = int(wrong[label, other])
        scores.append(
            ClassScores(
                num_videos=int(num_videos[label]),
                recall=_divide(num_right, num_videos[label]),
                precision=_divide(num_right, num_taken[label]),
                in_top5=_divide(num_in_top5[label], num_videos[label]),
                confused_with=other if count else None,
                num_confused=count,
            )
        )
    return scores


@dataclass(frozen=True)
class Calibration:
    """How far confidence is to be trusted: videos in bins of equal width by the probability of their first class.

    Attributes:
        counts: int64 (bins,).
        confidence: float64 (bins,), mean of each bin; NaN for an empty one.
        accuracy: float64 (bins,), share that is right; likewise.
        error: expected calibration error in [0, 1]; NaN without videos.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float


def compute_calibration(clips: ScoredClips, *, num_bins: int = _NUM_BINS) -> Calibration:
    """The reliability diagram of a test and its expected calibration error.

    The error is the mean over videos of the distance of confidence and accuracy in their bin. Bin m of M holds
    confidences in ((m - 1) / M, m / M]. Failed videos have no confidence and are left out.

    Follows: Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599), equations 2 and 3.
    """
    whole = ~clips.is_failed
    confidences, is_right = clips.confidences[whole].astype(np.float64), clips.is_right[whole]
    edges = np.arange(1, num_bins + 1) / num_bins
    bins = np.minimum(np.searchsorted(edges, confidences, side="left"), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(bins, weights=confidences, minlength=num_bins) / counts
        accuracy = np.bincount(bins, weights=is_right, minlength=num_bins) / counts
    used = counts > 0
    gaps = np.abs(accuracy - confidence)[used] * counts[used]
    error = float(gaps.sum() / counts.sum()) if used.any() else float("nan")
    return Calibration(counts, confidence, accuracy, error)


def order_classes(confusion: np.ndarray) -> np.ndarray:
    """An order of the classes in which those that are taken for each other stand together.

    Classes are clustered by average linkage; two are near when a large share of the videos of one is taken for the
    other. The order of the leaves is the one with the smallest steps.

    Args:
        confusion: int (K, K), see `ScoredClips`.

    Returns:
        int64 (K,): the class at each place.
    """
    num_classes = len(confusion)
    if num_classes < 3:
        return np.arange(num_classes)
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    distance = 1.0 - (shares + shares.T) / 2
    np.fill_diagonal(distance, 0.0)
    condensed = squareform(distance, checks=False)
    tree = optimal_leaf_ordering(linkage(condensed, method="average"), condensed)
    return leaves_list(tree).astype(np.int64)


def _divide(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")
