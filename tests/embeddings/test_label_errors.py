"""Labels that are probably wrong: a ranking by hand, a naive loop, changed labels among made clusters, other files."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from hiera_video.embeddings.label_errors import (
    CROSSVAL,
    Evidence,
    gather_evidence,
    load_crossval,
    predict_out_of_fold,
    rank_suspects,
)


def make_clusters(num_changed=20, num_rows=400, num_classes=5, seed=0):
    """Rows around the axes of their classes; some labels are changed."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, num_classes, num_rows)
    rows = np.eye(12)[true] + rng.normal(0, 0.25, (num_rows, 12))
    labels, changed = true.copy(), rng.permutation(num_rows)[:num_changed]
    labels[changed] = (labels[changed] + rng.integers(1, num_classes, num_changed)) % num_classes
    return torch.from_numpy(rows).float(), labels, changed, true


def test_a_ranking_by_hand():
    probabilities = np.array(
        [
            [0.9, 0.1, 0.0],  # label 0: right
            [0.2, 0.7, 0.1],  # label 0: margin -0.5
            [0.0, 0.5, 0.5],  # label 1: a tie, no suspect
            [0.6, 0.3, 0.1],  # label 1: margin -0.3
            [0.1, 0.1, 0.8],  # label 2: right
            [0.5, 0.0, 0.5],  # label 2: a tie
            [0.45, 0.5, 0.05],  # label 0: margin -0.05
            [0.9, 0.1, 0.0],  # label 2: margin -0.9
        ]
    )
    labels = np.array([0, 0, 1, 1, 2, 2, 0, 2])
    found = rank_suspects(probabilities, labels)
    assert found.rows.tolist() == [7, 1, 3, 6] and found.suggested.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(found.margins, [-0.9, -0.5, -0.3, -0.05])
    # Thresholds are the means of the label's probability: 0.517, 0.4, 0.433. Of row 6 only class 1 reaches its own.
    assert found.is_confident.tolist() == [True, True, True, True]
    unsure = probabilities.copy()
    unsure[6] = [0.34, 0.36, 0.3]  # no class reaches its threshold, now 0.48, 0.4, 0.433
    found = rank_suspects(unsure, labels)
    assert found.rows.tolist() == [7, 1, 3, 6] and found.is_confident.tolist() == [True, True, True, False]
    assert len(found.take(2)) == 2 and found.take(2).rows.tolist() == [7, 1]


def test_nothing_is_suspected_where_all_agrees():
    assert len(rank_suspects(np.eye(3), np.arange(3))) == 0


def test_changed_labels_come_first():
    rows, labels, changed, true = make_clusters()
    evidence = gather_evidence(rows, labels, num_classes=5)
    for probabilities in (evidence.neighbor_shares, evidence.predicted, evidence.combine()):
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
        found = rank_suspects(probabilities, labels)
        assert np.isin(found.rows[:20], changed).mean() > 0.9
        is_changed = np.isin(found.rows, changed)
        assert (found.suggested == true[found.rows])[is_changed].mean() > 0.9


def test_a_clips_own_label_has_no_vote():
    rows, labels, *_ = make_clusters(num_rows=60)
    other = labels.copy()
    other[7] = (other[7] + 1) % 5
    before, after = (gather_evidence(rows, each, num_classes=5).neighbor_shares for each in (labels, other))
    np.testing.assert_array_equal(before[7], after[7])
    assert not np.array_equal(before, after)  # but its neighbors hear it


def test_neighbors_vote_by_their_similarity():
    angles = np.deg2rad([0, 10, 25, 180])
    rows = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], axis=1)).float()
    labels = np.array([0, 1, 0, 1])
    predicted = np.full((4, 2), 0.5)
    evidence = gather_evidence(rows, labels, num_classes=2, num_neighbors=2, predicted=predicted)
    assert evidence.neighbors.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]
    weights = np.exp((np.cos(np.deg2rad([10, 25])) - 1) / 0.07)
    np.testing.assert_allclose(
        evidence.neighbor_shares[0], [weights[1] / weights.sum(), weights[0] / weights.sum()], 1e-5
    )
    np.testing.assert_allclose(evidence.combine()[0], (evidence.neighbor_shares[0] + 0.5) / 2)


def test_a_classifier_never_sees_the_fold_it_judges():
    rows, labels, *_ = make_clusters(num_rows=80)
    features = rows.numpy()
    wanted = np.empty((80, 5))
    for train, test in StratifiedKFold(4, shuffle=True, random_state=3).split(features, labels):
        scaler = StandardScaler().fit(features[train])
        model = LogisticRegression(C=0.1, max_iter=500).fit(scaler.transform(features[train]), labels[train])
        wanted[test] = model.predict_proba(scaler.transform(features[test]))
    np.testing.assert_allclose(predict_out_of_fold(features, labels, 5, num_folds=4, seed=3), wanted, atol=1e-6)


def test_a_class_of_two_clips_has_two_folds():
    features, labels = np.random.default_rng(0).normal(size=(12, 3)), np.array([0] * 10 + [1] * 2)
    assert predict_out_of_fold(features, labels, 2, num_folds=5).shape == (12, 2)


@pytest.fixture
def crossval(tmp_path):
    table = pd.DataFrame(
        {
            "path": [f"/data/v/{i}.mp4" for i in range(3)],
            "label": [0, 2, 2],
            "prediction": [0, 2, 0],
            "probs": [[0.8, 0.0, 0.2], [0.1, 0.0, 0.9], [0.7, 0.1, 0.2]],
            "fold": [0, 1, 0],
        }
    )
    table.to_parquet(tmp_path / CROSSVAL)
    return tmp_path


def test_a_cross_validation_of_the_whole_model_is_read(crossval):
    paths, labels = ["/data/v/2.mp4", "v/0.mp4"], np.array([1, 0])
    for place in (crossval, crossval / CROSSVAL):
        np.testing.assert_allclose(load_crossval(place, paths, labels, [0, 2]), [[0.7, 0.2], [0.8, 0.2]])


@pytest.mark.parametrize(
    ("paths", "labels", "classes", "message"),
    [
        (["/data/v/9.mp4"], [0], [0, 2], "1 of 1 embedded videos are not there, first /data/v/9.mp4"),
        (["/data/v/0.mp4"], [1], [0, 2], "1 videos have other labels than the embeddings, first /data/v/0.mp4"),
        (["/data/v/0.mp4"], [0], [0, 3], r"probabilities of 3 classes, the labels here are \[0, 3\]"),
        (["/data/v/0.mp4"], [0], ["a", "b"], "probabilities of 3 classes"),
    ],
)
def test_what_does_not_belong_together_is_said(crossval, paths, labels, classes, message):
    with pytest.raises(ValueError, match=message):
        load_crossval(crossval, paths, np.array(labels), classes)


def test_files_that_are_none(crossval, tmp_path):
    with pytest.raises(FileNotFoundError, match="crossval_predictions.parquet is missing; `hiera-video crossval`"):
        load_crossval(crossval / "..", ["a"], np.zeros(1), [0])
    pd.DataFrame({"path": ["a"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has no column label, probs; it has path"):
        load_crossval(tmp_path / "a.parquet", ["a"], np.zeros(1, np.int64), [0])


def test_both_kinds_of_evidence_count_the_same():
    evidence = Evidence(np.array([[1.0, 0.0]]), np.zeros((1, 1)), np.zeros((1, 1)), np.array([[0.2, 0.8]]))
    np.testing.assert_allclose(evidence.combine(), [[0.6, 0.4]])


def test_where_a_classifier_failed_the_neighbors_speak_alone():
    rows, labels, *_ = make_clusters(num_rows=40)
    predicted = np.full((40, 5), 0.2)
    predicted[3], predicted[5] = np.nan, 0.0
    evidence = gather_evidence(rows, labels, num_classes=5, predicted=predicted)
    np.testing.assert_array_equal(evidence.predicted[[3, 5]], evidence.neighbor_shares[[3, 5]])
    np.testing.assert_array_equal(evidence.predicted[4], predicted[4])
