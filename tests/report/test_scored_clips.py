"""The numbers of the report against loops that say what they mean, and against scikit-learn."""

import numpy as np
import pytest
from run_folders import make_predictions
from sklearn.metrics import precision_score, recall_score

from hiera_video.data.lists import VideoList
from hiera_video.engine.evaluate import make_prediction_table
from hiera_video.engine.metrics import compute_topk_hits
from hiera_video.report.scored_clips import (
    ScoredClips,
    compute_calibration,
    compute_class_scores,
    order_classes,
)


def make_clips(labels, predicted, *, num_classes, failed=(), class_names=()):
    predictions = make_predictions(labels, predicted, num_classes=num_classes, failed=failed)
    videos = VideoList(np.array([f"{i}.mp4" for i in range(len(labels))]), np.asarray(labels))
    return ScoredClips.from_table(make_prediction_table(videos, predictions), class_names)


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 400)
    labels[labels == 5] = 4  # a class without videos
    return make_clips(labels, rng.integers(0, 6, 400), num_classes=7, failed=[3, 50])  # nothing is taken for class 6


def compute_naive_calibration_error(confidences, rights, num_bins):
    total = 0.0
    for number in range(num_bins):
        inside = [i for i, c in enumerate(confidences) if number / num_bins < c <= (number + 1) / num_bins]
        if inside:
            accuracy = sum(rights[i] for i in inside) / len(inside)
            confidence = sum(confidences[i] for i in inside) / len(inside)
            total += len(inside) / len(confidences) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("num_bins", [1, 4, 15])
def test_the_calibration_error_is_that_of_a_plain_loop(clips, num_bins):
    whole = [i for i in range(len(clips)) if not clips.is_failed[i]]
    confidences = [float(clips.probs[i].max()) for i in whole]
    rights = [bool(clips.predictions[i] == clips.labels[i]) for i in whole]
    found = compute_calibration(clips, num_bins=num_bins)
    assert found.error == pytest.approx(compute_naive_calibration_error(confidences, rights, num_bins), rel=1e-9)
    assert found.counts.sum() == 398 and found.error > 0.01


def test_calibration_by_hand():
    probs = np.array([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.5, 0.5], [np.nan, np.nan]], dtype=np.float32)
    clips = ScoredClips("abcde", np.array([0, 0, 0, 0, 0]), np.array([0, 0, 1, 0, -1]), probs, ["x", "y"])
    found = compute_calibration(clips, num_bins=2)
    assert found.counts.tolist() == [1, 3]  # 0.5 belongs to the first bin, (0, 0.5]
    assert found.confidence.tolist() == pytest.approx([0.5, (0.9 + 0.7 + 0.6) / 3])
    assert found.accuracy.tolist() == pytest.approx([1, 2 / 3])
    assert found.error == pytest.approx((1 * 0.5 + 3 * abs(2 / 3 - 2.2 / 3)) / 4)


def test_nothing_decoded_has_no_calibration():
    clips = make_clips([0, 1], [0, 1], num_classes=2, failed=[0, 1])
    assert np.isnan(compute_calibration(clips).error)
    assert clips.find_worst(5) == clips.find_least_certain(5) == [] and clips.confusion.sum() == 0


def test_numbers_of_classes_are_those_of_scikit_learn(clips):
    scores = compute_class_scores(clips)
    options = {"labels": range(7), "average": None, "zero_division": np.nan}
    precision = precision_score(clips.labels, clips.predictions, **options)
    recall = recall_score(clips.labels, clips.predictions, **options)
    assert [each.precision for each in scores] == pytest.approx(precision.tolist(), nan_ok=True)
    assert [each.recall for each in scores] == pytest.approx(recall.tolist(), nan_ok=True)
    assert scores[5].num_videos == 0 and np.isnan(scores[5].recall) and np.isnan(scores[6].precision)
    for label, each in enumerate(scores):
        taken = clips.predictions[clips.labels == label].tolist()
        others = [other for other in taken if other not in (label, -1)]
        if others:
            assert each.num_confused == others.count(each.confused_with) == max(map(others.count, others))
        else:
            assert each.confused_with is None


def test_the_first_five_are_those_of_the_test_job(clips):
    import torch

    hits = compute_topk_hits(torch.from_numpy(clips.probs), torch.from_numpy(clips.labels), (5,))[0]
    assert (clips.compute_in_top5() == hits.numpy()).all() and 0 < hits.sum() < len(clips)
    equal = ScoredClips("a", np.array([5]), np.array([0]), np.full((1, 6), 1 / 6, np.float32), list("uvwxyz"))
    assert equal.find_top(0) == [0, 1, 2, 3, 4] and not equal.compute_in_top5()[0]


def test_worst_and_least_certain_clips():
    probs = np.array([[0.1, 0.9, 0], [0.65, 0.35, 0], [0.3, 0.5, 0.2], [0.34, 0.33, 0.33], [0.05, 0.95, 0]], np.float32)
    clips = ScoredClips("abcde", np.array([0, 0, 0, 0, 1]), np.array([1, 0, 1, 0, 1]), probs, list("xyz"))
    assert clips.find_worst(9) == [0, 2] and clips.find_worst(1) == [0]
    assert clips.find_least_certain(3) == [3, 2, 1]  # 0.01, 0.2, 0.3
    assert clips.find_top(0) == [1, 0, 2]


def test_confused_classes_stand_together():
    groups = [{0, 7}, {1, 4, 9}, {2, 3}, {5, 6, 8}]
    confusion = 50 * np.eye(10, dtype=np.int64)
    for group in groups:
        for a in group:
            for b in group - {a}:
                confusion[a, b] = 20
    order = order_classes(confusion).tolist()
    assert sorted(order) == list(range(10))
    for group in groups:
        places = [order.index(label) for label in group]
        assert max(places) - min(places) == len(group) - 1
    assert order_classes(np.zeros((2, 2), int)).tolist() == [0, 1]
    assert sorted(order_classes(np.zeros((5, 5), int)).tolist()) == list(range(5))  # nothing decoded


@pytest.mark.parametrize(("column", "value"), [("label", 3), ("label", -1), ("prediction", 3), ("prediction", -2)])
def test_a_class_that_is_none_is_refused(column, value):
    predictions = make_predictions([0, 1, 2], [0, 1, 2], num_classes=3)
    table = make_prediction_table(VideoList(np.array(["a", "b", "c"]), np.arange(3)), predictions)
    table.loc[1, column] = value
    with pytest.raises(ValueError, match=f"{column} {value} is not in"):
        ScoredClips.from_table(table)


def test_classes_without_names_have_numbers():
    assert list(make_clips([0, 1], [0, 1], num_classes=2, class_names=["a"]).class_names) == ["class 0", "class 1"]
    assert list(make_clips([0, 1], [0, 1], num_classes=2, class_names=["a", "b"]).class_names) == ["a", "b"]
