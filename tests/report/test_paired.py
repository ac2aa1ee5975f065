"""Paired statistics, by hand and by counting all that can happen."""

import math
from itertools import product

import numpy as np
import pytest

from hiera_video.report.paired import compare_rights, compute_mcnemar, compute_paired_interval, pair_clips
from hiera_video.report.scored_clips import ScoredClips


def make_clips(paths, labels, names=("x", "y")):
    labels = np.array(labels)
    probs = np.eye(2, dtype=np.float32)[labels]
    return ScoredClips(list(paths), labels, labels, probs, list(names))


@pytest.mark.parametrize(
    ("lost", "won", "by_hand"),
    [
        (0, 0, 1.0),
        (0, 5, 2 / 2**5),  # (all go one way) twice
        (1, 5, 2 * (1 + 6) / 2**6),  # C(6,0) + C(6,1)
        (2, 8, 2 * (1 + 10 + 45) / 2**10),
        (3, 3, 1.0),
    ],
)
def test_mcnemars_exact_test_by_hand(lost, won, by_hand):
    assert compute_mcnemar(lost, won) == pytest.approx(by_hand, rel=1e-12)
    assert compute_mcnemar(won, lost) == pytest.approx(by_hand, rel=1e-12)


def test_the_interval_by_hand():
    # 100 videos, 5 lost, 15 won: with half a video in each cell 5.5 and 15.5 of 102.
    middle = 10 / 102
    half = 1.959964 * math.sqrt(21 - 100 / 102) / 102
    assert compute_paired_interval(5, 15, 100) == pytest.approx(
        (100 * (middle - half), 100 * (middle + half)), rel=1e-6
    )
    low, high = compute_paired_interval(0, 0, 10)
    assert low == pytest.approx(-high) and 0 < high < 20
    assert compute_paired_interval(0, 2, 2)[1] <= 100


@pytest.mark.parametrize(("p_lost", "p_won"), [(0.05, 0.15), (0.1, 0.1), (0.02, 0.3)])
def test_the_interval_holds_the_truth_as_often_as_it_says(p_lost, p_won):
    """Over all counts of 60 videos, with their probabilities."""
    n, covered = 60, 0.0
    for lost, won in product(range(n + 1), repeat=2):
        if lost + won <= n:
            low, high = compute_paired_interval(lost, won, n)
            if low <= 100 * (p_won - p_lost) <= high:
                rest = n - lost - won
                ways = math.comb(n, lost) * math.comb(n - lost, won)
                covered += ways * p_lost**lost * p_won**won * (1 - p_lost - p_won) ** rest
    assert 0.93 <= covered <= 0.985


def test_two_tests_of_the_same_videos():
    first = np.array([1, 1, 1, 0, 0, 0, 0, 1], dtype=bool)
    second = np.array([1, 1, 0, 1, 1, 1, 0, 1], dtype=bool)
    found = compare_rights(first, second)
    assert (found.num_both, found.num_lost, found.num_won, found.num_neither) == (3, 1, 3, 1)
    assert found.difference == pytest.approx(25.0)
    assert found.p_value == pytest.approx(2 * (1 + 4) / 16)
    assert found.interval[0] < 0 < found.interval[1]
    with pytest.raises(ValueError, match="no videos"):
        compare_rights(first[:0], second[:0])


def test_videos_are_paired_by_path_also_where_one_comes_twice():
    first = make_clips(["a", "b", "b", "c", "d"], [0, 1, 1, 0, 0])
    second = make_clips(["b", "e", "d", "b", "b", "a"], [1, 1, 0, 1, 1, 0])
    pairs = pair_clips(first, second)
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(0, 5), (1, 0), (2, 3), (4, 2)]
    assert (pairs.num_only_first, pairs.num_only_second) == (1, 2)
    assert len(pair_clips(first, make_clips("x", [0]))) == 0


def test_tests_of_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"b is of class 1 \(y\) in one test and of class 0 \(u\) in the other"):
        pair_clips(make_clips("ab", [0, 1]), make_clips("ab", [0, 0], names=("u", "v")))
