"""Accuracy, counted by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from hiera_video.engine.evaluate import Predictions
from hiera_video.engine.metrics import (
    compute_confusion,
    compute_interval,
    compute_mean_class_accuracy,
    compute_mean_class_interval,
    compute_topk_accuracy,
    compute_topk_hits,
)


def test_hits_by_hand():
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    hits = compute_topk_hits(scores, torch.tensor([1, 1, 0]), (1, 2, 5))
    assert hits.tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_ties_rank_by_class_so_that_constant_scores_do_not_look_right():
    hits = compute_topk_hits(torch.zeros(4, 4), torch.arange(4), (1, 2))
    assert hits.tolist() == [[True, False, False, False], [True, True, False, False]]


def test_a_failed_video_is_wrong_even_at_top5():
    scores = torch.tensor([[float("nan")] * 3, [1.0, 0.0, 0.0]])
    assert compute_topk_hits(scores, torch.tensor([0, 0])).tolist() == [[False, True], [False, True]]
    assert compute_topk_accuracy(scores, torch.tensor([0, 0]), 1) == 50.0


def test_agrees_with_topk():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(200, 17, generator=generator), torch.randint(0, 17, (200,), generator=generator)
    naive = [label in scores[i].topk(5).indices.tolist() for i, label in enumerate(labels.tolist())]
    assert compute_topk_accuracy(scores, labels, 5) == pytest.approx(100 * sum(naive) / 200)


@pytest.mark.parametrize("seed", range(5))
def test_every_accuracy_is_scikit_learns(seed):
    """Random scores, classes without videos, failed videos. No ties: there scikit-learn's top k has another rule."""
    draw = np.random.default_rng(seed)
    num_videos, num_classes = 300, 12
    probs = draw.dirichlet(np.ones(num_classes), size=num_videos).astype(np.float32)
    labels = draw.choice([0, 1, 3, 4, 5, 6, 7, 10], size=num_videos)  # four classes have no video
    labels[:200] = np.where(draw.random(200) < 0.5, probs[:200].argmax(1), labels[:200])
    labels[np.isin(labels, [2, 8, 9, 11])] = 0
    failed = {3: "x", 250: "y"}
    with_failures = probs.copy()
    with_failures[list(failed)] = np.nan
    found = Predictions(torch.from_numpy(with_failures), torch.from_numpy(labels), failed)
    accuracy = found.compute_accuracy()
    predicted = np.where(np.isin(np.arange(num_videos), list(failed)), -1, probs.argmax(1))
    assert found.compute_predicted().tolist() == predicted.tolist()
    assert accuracy["top1"] == pytest.approx(100 * accuracy_score(labels, predicted))
    worst = probs.copy()
    worst[list(failed), labels[list(failed)]] = -1.0  # a failed video never hits
    expected = top_k_accuracy_score(labels, worst, k=5, labels=np.arange(num_classes))
    assert accuracy["top5"] == pytest.approx(100 * expected)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert accuracy["mean_class_accuracy"] == pytest.approx(100 * balanced_accuracy_score(labels, predicted))
    matrix = confusion_matrix(labels, predicted, labels=[*range(num_classes), -1])
    assert np.array_equal(found.compute_confusion().numpy(), matrix[:num_classes])
    for name in ("top1", "top5", "mean_class_accuracy"):
        low, high = accuracy[f"{name}_interval"]
        assert 0 <= low < accuracy[name] < high <= 100


def test_ties_are_decided_the_same_way_everywhere():
    """Rounded scores are full of ties: the first of equal classes is predicted, and ranks first."""
    draw = np.random.default_rng(0)
    probs = torch.from_numpy(draw.integers(0, 3, size=(500, 7)).astype(np.float32))
    labels = torch.from_numpy(draw.integers(0, 7, size=500))
    found = Predictions(probs, labels, {})
    order = np.argsort(-probs.numpy(), axis=1, kind="stable")
    for name, k in (("top1", 1), ("top5", 5)):
        naive = np.mean([label in row[:k] for label, row in zip(labels.tolist(), order, strict=True)])
        assert found.compute_accuracy()[name] == pytest.approx(100 * naive)
    assert found.compute_predicted().tolist() == order[:, 0].tolist()
    confusion = found.compute_confusion()
    assert confusion.diagonal().sum() / 500 * 100 == pytest.approx(found.compute_accuracy()["top1"])


def test_confusion_and_class_mean_by_hand():
    confusion = compute_confusion(torch.tensor([0, 1, 1, -1, 0]), torch.tensor([0, 0, 1, 1, 3]), 4)
    assert confusion.tolist() == [[1, 1, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert compute_mean_class_accuracy(confusion) == pytest.approx(100 * (1 / 2 + 1 / 2 + 0) / 3)


def test_an_interval_by_hand():
    """Wilson: z = 1.96, (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)."""
    z, n, p = 1.959964, 50, 0.8
    half = z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    expected = [100 * (p + z**2 / (2 * n) + sign * half) / (1 + z**2 / n) for sign in (-1, 1)]
    assert compute_interval(40, 50) == pytest.approx(expected, abs=1e-3)
    assert compute_interval(0, 10)[0] == pytest.approx(0, abs=1e-9)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of many test sets of the same classifier, about 95 in 100 intervals hold its true accuracy."""
    draw = np.random.default_rng(1)
    truth = np.array([0.9, 0.6, 0.3, 0.8])
    held = {"top1": 0, "class": 0}
    for _ in range(300):
        hits = draw.binomial(60, truth)
        confusion = torch.zeros(4, 5, dtype=torch.int64)
        confusion[range(4), range(4)] = torch.from_numpy(hits)
        confusion[:, 4] = 60 - torch.from_numpy(hits)
        low, high = compute_interval(int(hits.sum()), 240)
        held["top1"] += low <= 100 * truth.mean() <= high
        low, high = compute_mean_class_interval(confusion, num_resamples=500)
        held["class"] += low <= 100 * truth.mean() <= high
    assert all(0.90 <= count / 300 <= 0.99 for count in held.values()), held
