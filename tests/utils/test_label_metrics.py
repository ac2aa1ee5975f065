"""Metrics of several classes for each video, against scikit-learn and cases computed by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, precision_score, recall_score

from hiera_video.utils.label_metrics import (
    choose_thresholds,
    compute_average_precision,
    compute_decisions,
    compute_intervals,
    compute_mean_average_precision,
)


def draw(seed, *, num_videos=40, num_classes=6, digits=2):
    """Scores with ties, and targets that go with them."""
    rng = np.random.default_rng(seed)
    scores = rng.random((num_videos, num_classes)).round(digits).astype(np.float32)
    targets = rng.random((num_videos, num_classes)) < 0.15 + 0.3 * scores
    targets[0] = True
    return scores, targets


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_equals_scikit_learns(seed):
    scores, targets = draw(seed, digits=1 if seed % 2 else 6)
    expected = average_precision_score(targets, scores, average=None)
    np.testing.assert_allclose(compute_average_precision(scores, targets), expected, rtol=1e-12)
    macro = average_precision_score(targets, scores, average="macro")
    assert compute_mean_average_precision(scores, targets) == pytest.approx(100 * macro)


def test_weighted_average_precision_equals_scikit_learns():
    scores, targets = draw(3, digits=1)
    weights = np.random.default_rng(0).integers(0, 4, size=(5, len(scores))).astype(float)
    found = compute_average_precision(scores, targets, weights)
    for row, weight in zip(found, weights, strict=True):
        kept = weight > 0
        expected = average_precision_score(targets[kept], scores[kept], average=None, sample_weight=weight[kept])
        np.testing.assert_allclose(row, expected, rtol=1e-12)


def test_a_failed_video_is_never_found_and_takes_nothing_from_others():
    scores = np.array([[0.9], [np.nan], [0.8], [0.7], [np.nan]])
    targets = np.array([[True], [True], [False], [True], [False]])
    assert compute_average_precision(scores, targets) == pytest.approx([(1 + 2 / 3) / 3])


def test_classes_without_videos_have_no_precision_and_stay_out_of_the_mean():
    scores, targets = np.array([[0.9, 0.5], [0.1, 0.5]]), np.array([[True, False], [False, False]])
    found = compute_average_precision(scores, targets)
    assert found[0] == 1 and np.isnan(found[1]) and compute_mean_average_precision(scores, targets) == 100
    assert np.isnan(compute_mean_average_precision(scores, np.zeros((2, 2), bool)))


def test_intervals_are_those_of_a_naive_loop():
    scores, targets = draw(5, num_videos=12, num_classes=3)
    targets[1:, 2] = False  # some draws have no video of this class
    of_mean, of_classes = compute_intervals(scores, targets, seed=4, num_resamples=60)
    draws = np.random.default_rng(4).integers(12, size=(60, 12))
    rows = []
    for drawn in draws:
        has = targets[drawn].any(axis=0)
        row = [average_precision_score(targets[drawn, k], scores[drawn, k]) if has[k] else np.nan for k in range(3)]
        rows.append(row)
    expected = 100 * np.array(rows)
    np.testing.assert_allclose(of_mean, np.quantile(np.nanmean(expected, axis=1), [0.025, 0.975]))
    np.testing.assert_allclose(of_classes, np.nanquantile(expected, [0.025, 0.975], axis=0).T)
    assert np.isnan(expected[:, 2]).any()


@pytest.mark.parametrize("seed", range(10))
def test_thresholds_give_the_highest_f1_that_any_threshold_gives(seed):
    scores, targets = draw(seed, digits=1 if seed % 2 else 6)
    thresholds = choose_thresholds(scores, targets)
    for k in range(scores.shape[1]):
        precision, recall, _ = precision_recall_curve(targets[:, k], scores[:, k])
        best = (2 * precision * recall / np.maximum(precision + recall, 1e-9)).max()
        assert f1_score(targets[:, k], scores[:, k] >= thresholds[k]) == pytest.approx(best)


def test_a_threshold_by_hand():
    """Yes to 0.9 and 0.8 finds both with one error less than yes to all; it lies half-way to 0.4."""
    scores, targets = np.array([[0.9], [0.8], [0.4], [np.nan]]), np.array([[True], [True], [False], [True]])
    assert choose_thresholds(scores, targets) == pytest.approx([0.6])
    assert choose_thresholds(scores, np.zeros((4, 1), bool)).tolist() == [0.5]


def test_decisions_equal_scikit_learns_and_failed_videos_say_no():
    scores, targets = draw(8)
    thresholds = np.linspace(0.3, 0.7, scores.shape[1])
    scores[3] = np.nan
    found = compute_decisions(scores, targets, thresholds)
    said = np.nan_to_num(scores, nan=0.0) >= thresholds
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        np.testing.assert_allclose(found[name], 100 * score(targets, said, average=None))
    assert np.array_equal(found["true"], targets.sum(axis=0))
