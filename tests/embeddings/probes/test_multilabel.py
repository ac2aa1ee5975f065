"""Probes of several classes for each video."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from hiera_video.embeddings.probes.labeled import LabeledVideos
from hiera_video.embeddings.probes.multilabel import run_multilabel_probes
from hiera_video.embeddings.probes.neighbors import vote


def make_sides(seed=0, num_train=60, num_test=40, dim=5):
    rng = np.random.default_rng(seed)
    targets = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 1]]).bool()
    sides = []
    for count in (num_train, num_test):
        labels = torch.from_numpy(rng.integers(0, 5, count))
        features = torch.randn(count, dim, generator=torch.Generator().manual_seed(count))
        features[:, :3] += 1.5 * targets[labels].float()
        sides.append(LabeledVideos(features, torch.ones(count, dtype=torch.int64), labels))
    return (*sides, targets)


def test_the_linear_probe_is_scikit_learns_of_each_class():
    train, test, targets = make_sides()
    report = run_multilabel_probes(train, test, targets=targets, probes=["linear"], num_resamples=20)
    scaler = StandardScaler().fit(train.windows)
    expected = []
    for k in range(3):
        model = LogisticRegression(C=report.settings["linear"]["C"], max_iter=500)
        model.fit(scaler.transform(train.windows), targets[train.labels][:, k])
        scores = model.predict_proba(scaler.transform(test.windows))[:, 1]
        expected.append(average_precision_score(targets[test.labels][:, k], scores))
    assert (
        report.scores[0].value == pytest.approx(100 * np.mean(expected), abs=0.5) and report.scores[0].metric == "mAP"
    )
    assert report.scores[0].baseline == pytest.approx(100 * targets[test.labels].float().mean().item(), abs=1e-3)


def test_votes_are_shares_of_a_naive_loop():
    train, test, targets = make_sides(1)
    has = targets[train.labels].double()
    found = vote(train.windows, has, test.windows, num_neighbors=7)
    unit = torch.nn.functional.normalize
    similarity = unit(test.windows, dim=1) @ unit(train.windows, dim=1).T
    for row, values in zip(found, similarity, strict=True):
        nearest = values.argsort(descending=True)[:7]
        weights = (values[nearest].double() / 0.07).exp()
        np.testing.assert_allclose(row, (weights @ has[nearest] / weights.sum()).numpy(), rtol=1e-3, atol=1e-9)


def test_sides_without_a_common_class_are_refused():
    train, test, _ = make_sides()
    only = torch.tensor([[True, False], [False, True]])
    train = LabeledVideos(train.windows, train.counts, torch.zeros_like(train.labels))
    test = LabeledVideos(test.windows, test.counts, torch.ones_like(test.labels))
    with pytest.raises(ValueError, match="no class has both training and test videos"):
        run_multilabel_probes(train, test, targets=only)
    with pytest.raises(ValueError, match="with several classes legal are knn, linear"):
        run_multilabel_probes(train, test, targets=only, probes=["retrieval"])
