"""Average precision of actions: against mmaction2's function, a plain loop, and cases computed by hand."""

import importlib.util
import itertools
import multiprocessing
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hiera_video.engine.action_ap import PROTOCOLS, Protocol, compute_action_ap

SORTED = Protocol(is_sorted=True, frames="all")
COLUMNS = ["video", "time_sec", "x1", "y1", "x2", "y2"]
LEFT, RIGHT, SHIFTED = (0.0, 0.0, 0.4, 0.8), (0.5, 0.0, 0.9, 0.8), (0.05, 0.0, 0.45, 0.8)  # IoU with LEFT 7 / 9


def make_truth(rows):
    """From (video, second, box, label)."""
    return pd.DataFrame(
        [(video, float(sec), *box, label) for video, sec, box, label in rows], columns=[*COLUMNS, "label"]
    )


def make_detections(rows, num_classes):
    """From (video, second, box, label, score): a row of boxes and of scores for each."""
    boxes = pd.DataFrame([(video, float(sec), *box) for video, sec, box, _, _ in rows], columns=COLUMNS)
    scores = np.full((len(rows), num_classes), np.nan)
    for row, (*_, label, score) in enumerate(rows):
        scores[row, label] = score
    return boxes, scores


def compute(truth, detections, *, protocol=PROTOCOLS["SlowFast"], num_classes=2, excluded=(), classes=None):
    boxes, scores = make_detections(detections, num_classes)
    classes = range(num_classes) if classes is None else classes
    return compute_action_ap(
        make_truth(truth), boxes, scores, classes=list(classes), protocol=protocol, excluded=excluded
    )


def test_a_case_computed_by_hand():
    """Hits at ranks 1 and 3 of 4, of three truths: precisions 1 and 2/3, each for a third of the recall."""
    truth = [("a", 1, LEFT, 0), ("a", 2, LEFT, 0), ("b", 1, LEFT, 0), ("a", 1, LEFT, 1)]
    found = [("a", 1, LEFT, 0, 0.9), ("a", 1, RIGHT, 0, 0.8), ("b", 1, SHIFTED, 0, 0.7), ("b", 1, RIGHT, 0, 0.6)]
    result = compute(truth, found)
    np.testing.assert_allclose(result.ap, [(1 + 2 / 3) / 3, 0.0])
    assert result.mean == pytest.approx((1 + 2 / 3) / 6)
    assert result.num_truths.tolist() == [3, 1] and result.num_detections == 4


def test_the_envelope_lifts_a_precision_to_the_best_one_after_it():
    """Wrong, hit, hit: precisions 1/2 and 2/3, and the first of them counts as 2/3 too."""
    truth = [("a", 1, LEFT, 0), ("a", 2, LEFT, 0)]
    found = [("a", 1, RIGHT, 0, 0.9), ("a", 1, LEFT, 0, 0.8), ("a", 2, LEFT, 0, 0.7)]
    assert compute(truth, found).ap[0] == pytest.approx(2 / 3)


def test_input_order_and_score_order_differ_where_boxes_repeat():
    """The worse score comes first: in input order it is the hit, at rank 2 of 2; sorted, the hit is at rank 1."""
    truth, found = [("a", 1, LEFT, 0)], [("a", 1, SHIFTED, 0, 0.3), ("a", 1, LEFT, 0, 0.9)]
    assert compute(truth, found).ap[0] == 0.5
    assert compute(truth, found, protocol=SORTED).ap[0] == 1.0


def test_frames_without_truth_count_as_the_protocol_says():
    """A wrong detection of the highest score: in a frame that no truth lists, or that lists another class only."""
    truth = [("a", 1, LEFT, 0), ("a", 2, LEFT, 1)]
    hit = ("a", 1, LEFT, 0, 0.5)
    values = {
        (name, sec): compute(truth, [hit, ("a", sec, LEFT, 0, 0.9)], protocol=protocol, classes=[0]).ap[0]
        for (name, protocol), sec in itertools.product(PROTOCOLS.items(), (2, 3))
    }
    assert values == {
        ("SlowFast", 2): 0.5,
        ("SlowFast", 3): 0.5,
        ("ActivityNet", 2): 0.5,
        ("ActivityNet", 3): 1.0,
        ("mmaction2", 2): 1.0,
        ("mmaction2", 3): 1.0,
    }


def test_activitynet_keeps_the_fifty_highest_rows_of_a_frame_over_all_scored_classes():
    truth = [("a", 1, LEFT, 0)]
    others = [("a", 1, RIGHT, 1, 0.5 + i / 1000) for i in range(50)]
    found = [("a", 1, LEFT, 0, 0.1), *others]
    assert compute(truth, found, protocol=PROTOCOLS["ActivityNet"]).ap[0] == 0.0
    assert compute(truth, found[:-1], protocol=PROTOCOLS["ActivityNet"]).ap[0] == 1.0
    assert compute(truth, found, protocol=PROTOCOLS["ActivityNet"], classes=[0]).ap[0] == 1.0  # class 1 is not scored
    assert compute(truth, found).ap[0] == 1.0


def test_a_detection_has_no_second_choice():
    """It overlaps two truths; the better one is taken already, and the other stays missed."""
    truth = [("a", 1, LEFT, 0), ("a", 1, SHIFTED, 0)]
    close = (0.01, 0.0, 0.41, 0.8)
    result = compute(truth, [("a", 1, LEFT, 0, 0.9), ("a", 1, close, 0, 0.8)])
    assert result.ap[0] == 0.5


def test_excluded_frames_leave_both_sides():
    truth = [("a", 1, LEFT, 0), ("a", 2, LEFT, 0)]
    found = [("a", 1, LEFT, 0, 0.5), ("a", 2, RIGHT, 0, 0.9)]
    assert compute(truth, found).ap[0] == pytest.approx(1 / 4)
    result = compute(truth, found, excluded=[("a", 2.0)])
    assert result.ap[0] == 1.0 and result.num_excluded == 2 and result.num_truths[0] == 1


def test_boxes_without_area_are_left_out_and_counted():
    flat, reversed_box = (0.2, 0.2, 0.2, 0.6), (0.6, 0.2, 0.3, 0.6)
    truth = [("a", 1, LEFT, 0), ("a", 1, flat, 0)]
    result = compute(truth, [("a", 1, LEFT, 0, 0.5), ("a", 1, reversed_box, 0, 0.9)])
    assert result.ap[0] == 1.0 and result.num_invalid == 2


def test_a_class_without_truth_is_not_averaged_and_one_without_detections_is_zero():
    result = compute(
        [("a", 1, LEFT, 0), ("a", 1, LEFT, 1)], [("a", 1, LEFT, 0, 0.5), ("a", 1, LEFT, 2, 0.9)], num_classes=3
    )
    assert result.ap[:2].tolist() == [1.0, 0.0] and np.isnan(result.ap[2]) and result.mean == 0.5


def test_nothing_at_all_has_no_average():
    result = compute([], [])
    assert np.isnan(result.mean) and np.isnan(result.compute_interval()).all()


@pytest.mark.parametrize(("classes", "num_rows"), [([], 1), ([2], 1), ([-1], 1), ([0], 2)])
def test_arguments_that_do_not_fit_are_refused(classes, num_rows):
    boxes, _ = make_detections([("a", 1, LEFT, 0, 0.5)], 2)
    with pytest.raises(ValueError, match=r"scores of shape \(\d, 2\) do not fit 1 boxes"):
        compute_action_ap(make_truth([]), boxes, np.zeros((num_rows, 2)), classes=classes)


def draw(rng, *, num_classes=4, num_videos=4, num_secs=5, num_truths=40, num_found=160):
    """Truth and detections that often overlap, with repeats, frames without truth, and a class that is rare."""

    def draw_box():
        x, y = rng.choice([0.1, 0.15, 0.2, 0.5, 0.55], 2) + rng.uniform(0, 0.02, 2)
        w, h = rng.uniform(0.2, 0.4, 2)
        return x, y, x + w, y + h

    def draw_place(secs):
        return f"v{rng.integers(num_videos)}", int(rng.integers(902, 902 + secs))

    truth = [(*draw_place(num_secs), draw_box(), int(rng.integers(num_classes))) for _ in range(num_truths)]
    found = [
        (*draw_place(num_secs + 2), draw_box(), int(rng.integers(num_classes)), float(score))
        for score in rng.permutation(num_found) / num_found
    ]
    copies = [(*truth[i][:3], truth[i][3], float(rng.random())) for i in rng.integers(num_truths, size=40)]
    found = [*found, *copies, *copies[:10]]
    return truth, [(*row[:4], row[4] + i * 1e-7) for i, row in enumerate(found)]  # no two scores are equal


def compute_naively(truth, found, label, *, is_sorted):
    """One class, all frames: loops over detections, as the protocol is told."""
    wanted = [row for row in truth if row[3] == label]
    mine = [row for row in found if row[3] == label]
    mine = sorted(mine, key=lambda row: -row[4]) if is_sorted else mine
    taken, marks = set(), []
    for video, sec, box, _, score in mine:
        ious = [(iou_of(box, row[2]), -i) for i, row in enumerate(wanted) if row[:2] == (video, sec)]
        best, position = max(ious, default=(0.0, 0))
        marks.append((score, best >= 0.5 and position not in taken))
        taken |= {position} if best >= 0.5 else set()
    right, points = 0, []
    for rank, (_, is_hit) in enumerate(sorted(marks, key=lambda mark: -mark[0]), 1):
        right += is_hit
        points.append((right / len(wanted), right / rank))
    steps = sorted({recall for recall, _ in points if recall})
    return sum(
        (recall - before) * max(p for r, p in points if r >= recall)
        for before, recall in zip([0.0, *steps], steps, strict=False)
    )


def iou_of(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("is_sorted", [False, True])
def test_it_equals_a_plain_loop(seed, is_sorted):
    truth, found = draw(np.random.default_rng(seed))
    result = compute(truth, found, num_classes=4, protocol=Protocol(is_sorted=is_sorted, frames="all"))
    expected = [compute_naively(truth, found, label, is_sorted=is_sorted) for label in range(4)]
    np.testing.assert_allclose(result.ap, expected, rtol=1e-12)


def test_the_order_of_frames_does_not_matter_where_detections_are_sorted():
    truth, found = draw(np.random.default_rng(7))
    first = compute(truth, found, num_classes=4, protocol=SORTED)
    second = compute(truth[::-1], found[::-1], num_classes=4, protocol=SORTED)
    np.testing.assert_allclose(first.ap, second.ap, rtol=1e-12)
    assert first.compute_interval(num_resamples=20) == pytest.approx(second.compute_interval(num_resamples=20))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_interval_is_that_of_lists_with_repeated_videos(name):
    """Each draw once more as a list of its own, in which a video that was drawn twice has two names."""
    truth, found = draw(np.random.default_rng(3))
    result = compute(truth, found, num_classes=4, protocol=PROTOCOLS[name])
    means = []
    for drawn in np.random.default_rng(5).integers(4, size=(30, 4)):
        parts = [(number, f"v{video}") for number, video in enumerate(drawn)]
        again = [
            [(f"{number}", *row[1:]) for number, video in parts for row in rows if row[0] == video]
            for rows in (truth, found)
        ]
        means.append(compute(*again, num_classes=4, protocol=PROTOCOLS[name]).mean)
    interval = result.compute_interval(seed=5, num_resamples=30)
    np.testing.assert_allclose(interval, np.quantile(means, [0.025, 0.975]), rtol=1e-9)
    assert interval[0] < result.mean < interval[1]


class _NoPool:
    """Instead of 32 processes."""

    def __init__(self, *_):
        self.map = lambda function, tasks: [function(task) for task in tasks]


@pytest.fixture(scope="module")
def mmaction2():
    """Its module `ava_utils`, loaded as a file with its three neighbors: the package itself needs mmcv and others."""
    spec = importlib.util.find_spec("mmaction")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("mmaction2 is not installed: pip install --no-deps mmaction2==1.2.0")
    folder = Path(spec.submodule_search_locations[0]) / "evaluation" / "functional"
    np.NAN = np.nan  # numpy 2 has no such name
    for name, path in (("mmaction_ava", folder), ("mmaction_ava.ava_evaluation", folder / "ava_evaluation")):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package
    yield importlib.import_module("mmaction_ava.ava_utils")
    for name in [name for name in sys.modules if name.startswith("mmaction_ava")]:
        del sys.modules[name]
    del np.NAN


def write_csv(path, rows):
    """AVA's form: labels count from 1; a detection has its score in the eighth column."""
    lines = [
        ",".join(map(str, (video, sec, *map(float, box), label + 1, *map(repr, score))))
        for video, sec, box, label, *score in rows
    ]
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("ignores_empty_frames", [True, False])
def test_fifty_random_sets_equal_mmaction2(mmaction2, tmp_path, monkeypatch, capsys, ignores_empty_frames):
    """By default it ignores frames without truth. Its other way takes all frames that have detections."""
    monkeypatch.setattr(multiprocessing, "Pool", _NoPool)
    label_map = tmp_path / "labels.pbtxt"
    label_map.write_text("".join(f'item {{\n  name: "c{i}"\n  id: {i}\n}}\n' for i in range(1, 5)))
    protocol = PROTOCOLS["mmaction2"] if ignores_empty_frames else SORTED
    values = []
    for seed in range(50):
        truth, found = draw(np.random.default_rng(seed))
        write_csv(tmp_path / "truth.csv", truth)
        write_csv(tmp_path / "found.csv", found)
        files = (tmp_path / "found.csv", "mAP", label_map, tmp_path / "truth.csv", None)
        theirs = mmaction2.ava_eval(*files, verbose=False, ignore_empty_frames=ignores_empty_frames)
        ours = compute(truth, found, num_classes=4, protocol=protocol)
        assert ours.mean == pytest.approx(theirs["overall"], rel=1e-9)
        values.append(ours.mean)
    assert len({round(value, 6) for value in values}) == 50 and 0.02 < np.mean(values) < 0.9
    capsys.readouterr()


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_excluded_frames_equal_mmaction2_without_their_truth(mmaction2, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(multiprocessing, "Pool", _NoPool)
    label_map, excluded = tmp_path / "labels.pbtxt", tmp_path / "excluded.csv"
    label_map.write_text("".join(f'item {{\n  name: "c{i}"\n  label_id: {i}\n}}\n' for i in range(1, 5)))
    excluded.write_text("v0,0902\nv1,0903\nv3,0905\n")
    frames = [("v0", 902.0), ("v1", 903.0), ("v3", 905.0)]
    truth, found = draw(np.random.default_rng(11))
    write_csv(tmp_path / "truth.csv", [row for row in truth if (row[0], float(row[1])) not in frames])
    write_csv(tmp_path / "found.csv", found)
    theirs = mmaction2.ava_eval(
        tmp_path / "found.csv", "mAP", label_map, tmp_path / "truth.csv", excluded, verbose=False
    )
    ours = compute(truth, found, num_classes=4, protocol=PROTOCOLS["mmaction2"], excluded=frames)
    assert ours.mean == pytest.approx(theirs["overall"], rel=1e-9)
    assert ours.num_excluded > 5
    capsys.readouterr()
