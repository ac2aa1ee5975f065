"""What a test says of videos that may have several classes each: the surest wrong classes, and the missed ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hiera_video.report.page import Bar


@dataclass(frozen=True, eq=False)
class ScoredLabelSets:
    """Tested videos.

    Attributes:
        paths: N of them.
        targets: bool (N, K), the classes of each.
        probs: float32 (N, K), of each class by itself; NaN where the video failed.
        classes: a row for each class, as ``test_classes.csv``: ``class``, ``num_videos``, ``ap``, ``threshold``, ...
    """

    paths: Sequence[str]
    targets: np.ndarray
    probs: np.ndarray
    classes: pd.DataFrame

    @classmethod
    def from_tables(cls, table: pd.DataFrame, classes: pd.DataFrame) -> ScoredLabelSets:
        """Takes what a test job wrote.

        Args:
            table: columns ``path``, ``labels`` and ``probs``.
            classes: see above.

        Raises:
            KeyError: a column is missing.
            ValueError: the tables are not of the same classes.
        """
        probs = np.stack(table["probs"].tolist()).astype(np.float32)
        if probs.shape[1] != len(classes):
            raise ValueError(f"probs are of {probs.shape[1]} classes, the table of classes names {len(classes)}")
        targets = np.zeros(probs.shape, dtype=bool)
        for row, labels in enumerate(table["labels"]):
            targets[row, np.asarray(labels, dtype=np.int64)] = True
        return cls(table["path"].astype(str).tolist(), targets, probs, classes)

    @property
    def names(self) -> list[str]:
        """Of the K classes."""
        return self.classes["class"].astype(str).tolist()

    def find_wrong(self, count: int) -> list[int]:
        """Videos with the highest probability of a class that they do not have, the highest first."""
        return self._sort(np.where(self.targets, -np.inf, self.probs).max(axis=1), count)

    def find_missed(self, count: int) -> list[int]:
        """Videos with the lowest probability of a class that they have, the lowest first."""
        return self._sort(-np.where(self.targets, self.probs, np.inf).min(axis=1), count)

    def make_bars(self, video: int, count: int = 5) -> list[Bar]:
        """The likeliest classes of a video, and its own where they are not among them."""
        order = np.argsort(-self.probs[video], kind="stable")
        shown = [*order[:count].tolist(), *(label for label in order[count:].tolist() if self.targets[video, label])]
        thresholds = self.classes["threshold"].to_numpy()
        bars = []
        for label in shown:
            share = float(self.probs[video, label])
            kind = "right" if self.targets[video, label] else "wrong" if share >= thresholds[label] else ""
            bars.append(Bar(self.names[label], share, f"{100 * share:.1f} %", kind))
        return bars

    def name_labels(self, video: int) -> str:
        """The names of a video's classes, with commas between them."""
        return ", ".join(self.names[label] for label in np.flatnonzero(self.targets[video])) or "no class"

    def _sort(self, scores: np.ndarray, count: int) -> list[int]:
        known = np.flatnonzero(np.isfinite(scores))
        return known[np.argsort(-scores[known], kind="stable")][:count].tolist()
