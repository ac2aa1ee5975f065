"""Several classes of each video, in arrays that decoding processes go on sharing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class LabelSets:
    """The classes of each video of a list.

    Attributes:
        values: int64, the labels of all videos, one video after the other.
        ends: int64 (n,), where each video's labels end in ``values``.
        num_classes: K.
    """

    values: np.ndarray
    ends: np.ndarray
    num_classes: int

    @classmethod
    def from_lists(cls, labels: Iterable[Sequence[int]], *, num_classes: int) -> LabelSets:
        """The same from the labels of each video, in any order, repeats allowed."""
        sets = [sorted(set(row)) for row in labels]
        ends = np.cumsum([len(row) for row in sets], dtype=np.int64)
        return cls(np.array([label for row in sets for label in row], dtype=np.int64), ends, num_classes)

    def __len__(self) -> int:
        return len(self.ends)

    def get(self, index: int) -> np.ndarray:
        """The labels of a video, ascending; int64, maybe none."""
        return self.values[self.ends[index - 1] if index else 0 : self.ends[index]]

    def make_target(self, index: int) -> torch.Tensor:
        """Float32 (K,): 1 for each class of a video, 0 for the others."""
        target = torch.zeros(self.num_classes)
        target[torch.from_numpy(self.get(index))] = 1.0
        return target

    def make_targets(self) -> torch.Tensor:
        """Bool (n, K): the classes of each video."""
        targets = torch.zeros(len(self), self.num_classes, dtype=torch.bool)
        rows = np.repeat(np.arange(len(self)), np.diff(self.ends, prepend=0))
        targets[torch.from_numpy(rows), torch.from_numpy(self.values)] = True
        return targets

    def count_videos(self) -> np.ndarray:
        """int64 (K,): how many videos have each class."""
        return np.bincount(self.values, minlength=self.num_classes)

    def select(self, is_kept: np.ndarray) -> LabelSets:
        """The videos where the mask, bool (n,), is True."""
        kept = [self.get(int(index)).tolist() for index in np.flatnonzero(is_kept)]
        return LabelSets.from_lists(kept, num_classes=self.num_classes)
