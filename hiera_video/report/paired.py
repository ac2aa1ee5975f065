"""Two tests of the same videos: which is better, how surely, and which videos changed sides."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm

from hiera_video.report.scored_clips import ScoredClips


@dataclass(frozen=True, eq=False)
class Pairs:
    """The videos that two tests share.

    Attributes:
        first: int64 (n,), their positions in the first test.
        second: likewise, in the second.
        num_only_first: videos that only the first one has.
        num_only_second: likewise.
    """

    first: np.ndarray
    second: np.ndarray
    num_only_first: int
    num_only_second: int

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class Difference:
    """The accuracy of a second test minus that of a first one, on the same videos.

    Attributes:
        num_videos: that were compared.
        num_both: both are right.
        num_lost: only the first one is right.
        num_won: only the second one is right.
        difference: of the accuracies, in percent points.
        interval: its 95 % interval, in percent points.
        p_value: of McNemar's exact test that both are equally good.
    """

    num_videos: int
    num_both: int
    num_lost: int
    num_won: int
    difference: float
    interval: tuple[float, float]
    p_value: float

    @property
    def num_neither(self) -> int:
        """How many both have wrong."""
        return self.num_videos - self.num_both - self.num_lost - self.num_won


def pair_clips(first: ScoredClips, second: ScoredClips) -> Pairs:
    """Finds the videos that both tests have, by path; of a path that comes several times the n-th with the n-th.

    Raises:
        ValueError: a video has a different label in each: the tests are not of the same classes.
    """
    places = {key: place for place, key in enumerate(_number(second.paths))}
    pairs = [(place, places[key]) for place, key in enumerate(_number(first.paths)) if key in places]
    one, two = (np.array(column, dtype=np.int64) for column in (zip(*pairs, strict=True) if pairs else ((), ())))
    for a, b in pairs:
        name, other = first.class_names[first.labels[a]], second.class_names[second.labels[b]]
        if first.labels[a] != second.labels[b]:
            raise ValueError(
                f"{first.paths[a]} is of class {first.labels[a]} ({name}) in one test and of class "
                f"{second.labels[b]} ({other}) in the other: they are not of the same classes"
            )
    return Pairs(one, two, len(first) - len(one), len(second) - len(two))


def compare_rights(first: np.ndarray, second: np.ndarray) -> Difference:
    """Compares two tests of the same videos; bool (n,) each: which are right.

    Raises:
        ValueError: there are no videos.
    """
    num_videos = len(first)
    if not num_videos:
        raise ValueError("there are no videos to compare")
    num_lost, num_won = int((first & ~second).sum()), int((second & ~first).sum())
    return Difference(
        num_videos=num_videos,
        num_both=int((first & second).sum()),
        num_lost=num_lost,
        num_won=num_won,
        difference=100.0 * (num_won - num_lost) / num_videos,
        interval=compute_paired_interval(num_lost, num_won, num_videos),
        p_value=compute_mcnemar(num_lost, num_won),
    )


def compute_mcnemar(num_lost: int, num_won: int) -> float:
    """McNemar's exact test, two-sided: how often, were both tests equally good, as one-sided a change would come.

    Of the videos that changed sides, each would go either way with probability 1/2.
    """
    if num_lost + num_won == 0:
        return 1.0
    return float(binomtest(num_won, num_lost + num_won, 0.5).pvalue)


def compute_paired_interval(num_lost: int, num_won: int, num_videos: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two accuracies on the same videos, in percent points.

    Follows: Agresti and Min, Simple improved confidence intervals for comparing matched proportions, Statistics in
    Medicine 24 (2005): Wald's interval after half a video was added to each of the four counts.
    """
    lost, won, total = num_lost + 0.5, num_won + 0.5, num_videos + 2
    middle = (won - lost) / total
    half = float(norm.ppf(0.975)) * math.sqrt(won + lost - (won - lost) ** 2 / total) / total
    return 100.0 * max(middle - half, -1.0), 100.0 * min(middle + half, 1.0)


def _number(paths: Sequence[str]) -> list[tuple[str, int]]:
    """Each path with how many times it came before."""
    seen: Counter[str] = Counter()
    numbered = []
    for path in paths:
        numbered.append((path, seen[path]))
        seen[path] += 1
    return numbered
