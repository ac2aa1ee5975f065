"""Tracks: cases computed by hand, and things that pass each other."""

import itertools

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from hiera_video.engine.tracks import TrackSettings, compute_ious, interpolate_boxes, link_boxes


def make_box(x, y=0.5, side=0.2):
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def test_overlaps_are_torchvisions():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.5, (2, 9, 2))
    first, second = np.concatenate([corners, corners + rng.uniform(0.1, 0.5, (2, 9, 2))], axis=2)
    expected = box_iou(torch.from_numpy(first), torch.from_numpy(second[:7])).numpy()
    np.testing.assert_allclose(compute_ious(first, second[:7]), expected)
    assert (compute_ious(np.zeros((1, 4)), np.zeros((1, 4))) == 0).all()


def test_two_things_keep_their_numbers_in_whatever_order_they_come():
    times, boxes, things = [], [], []
    for step, order in zip(range(6), itertools.cycle([(0, 1), (1, 0)]), strict=False):
        for thing in order:
            times.append(step / 5)
            boxes.append(make_box(0.2 + 0.05 * step, 0.3 + 0.4 * thing))
            things.append(thing)
    tracks = link_boxes(times, boxes)
    assert [track - 1 for track in tracks] == things


def test_the_pairs_together_overlap_most():
    """Each box alone would take the first track; paired, both continue."""
    boxes = [make_box(0.50), make_box(0.58), make_box(0.55), make_box(0.47)]
    assert link_boxes([0, 0, 1, 1], boxes).tolist() == [1, 2, 2, 1]


def test_a_box_too_far_or_too_late_begins_a_track():
    settings = TrackSettings(min_iou=0.3, max_gap_sec=1.0)
    far = link_boxes([0, 0.5], [make_box(0.2), make_box(0.33)], settings)  # IoU 0.21
    near = link_boxes([0, 0.5], [make_box(0.2), make_box(0.3)], settings)  # IoU 1 / 3
    assert far.tolist() == [1, 2] and near.tolist() == [1, 1]
    assert link_boxes([0, 1.0], [make_box(0.2)] * 2, settings).tolist() == [1, 1]
    assert link_boxes([0, 1.1], [make_box(0.2)] * 2, settings).tolist() == [1, 2]


def test_a_track_survives_a_moment_without_its_box():
    boxes = [make_box(0.2), make_box(0.8), make_box(0.8), make_box(0.2), make_box(0.8)]
    assert link_boxes([0, 0, 0.5, 1.0, 1.0], boxes).tolist() == [1, 2, 2, 1, 2]


def test_no_boxes_make_no_tracks():
    assert link_boxes(np.zeros(0), np.zeros((0, 4))).tolist() == []


@pytest.mark.parametrize("times", [[1.0, 0.0], [0.0]])
def test_times_must_fit(times):
    with pytest.raises(ValueError, match="times_sec must ascend and be as many as the 2 boxes"):
        link_boxes(times, [make_box(0.2)] * 2)


@pytest.mark.parametrize(
    ("at_sec", "x"),
    [
        *((1.0, 0.2), (1.25, 0.3), (2.0, 0.6), (0.8, 0.2), (0.7, None), (2.2, 0.6), (2.3, None), (3.7, None)),
        *((3.8, 0.8), (4.0, 0.8), (4.2, 0.8), (4.3, None)),
    ],
)
def test_a_box_between_two_boxes_is_on_their_line(at_sec, x):
    times, boxes = np.array([1.0, 2.0, 4.0]), np.array([make_box(0.2), make_box(0.6), make_box(0.8)])
    box = interpolate_boxes(times, boxes, at_sec, max_gap_sec=1.0, stay_sec=0.2)
    assert (box is None) == (x is None)
    if x is not None:
        np.testing.assert_allclose(box, make_box(x))
