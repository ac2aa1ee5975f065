"""Accuracy, counted by hand."""

import pytest
import torch

from hiera_video.engine.metrics import compute_topk_accuracy, compute_topk_hits


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
