"""Boxes, masks and labels on a picture."""

import numpy as np

from hiera_video.report.detection_overlay import draw_detections, get_color


def test_masks_boxes_and_labels_are_where_they_belong():
    picture = np.full((120, 160, 3), 60, dtype=np.uint8)
    masks = np.zeros((2, 120, 160), dtype=np.uint8)
    masks[0, 60:80, 50:70], masks[1, 4:20, 90:120] = 1, 1
    boxes = np.array([[40.0, 50, 80, 90], [85, 0, 125, 24]], dtype=np.float32)
    before = picture.copy()
    drawn = draw_detections(picture, boxes, masks, ["dog 97%", "cat 51%"], [0, 1])
    assert np.array_equal(picture, before) and drawn.shape == picture.shape and drawn.dtype == np.uint8
    assert tuple(drawn[90, 60]) == get_color(0) and tuple(drawn[70, 40]) == get_color(0), "the box's edges"
    wanted = 0.55 * 60 + 0.45 * np.array(get_color(0))
    assert np.abs(drawn[70, 60] - wanted).max() <= 1, "inside the mask"
    assert tuple(drawn[85, 60]) == (60, 60, 60), "inside the box, outside the mask, below the label"
    plate = drawn[36:50, 40:80].reshape(-1, 3)
    assert (plate == get_color(0)).all(axis=1).mean() > 0.3 and (plate < 50).all(axis=1).any(), "a plate with ink on it"
    assert (drawn[0:12, 85:125].reshape(-1, 3) == get_color(1)).all(axis=1).mean() > 0.3, "at the upper edge, inside"
    assert tuple(drawn[110, 10]) == (60, 60, 60)


def test_without_things_a_picture_stays_as_it_is():
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    drawn = draw_detections(picture, np.zeros((0, 4), np.float32), np.zeros((0, 20, 30), np.uint8), [], [])
    assert np.array_equal(drawn, picture) and drawn is not picture


def test_colors_of_classes_lie_apart():
    colors = np.array([get_color(number) for number in range(8)], dtype=float)
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=2) + 1000 * np.eye(8)
    assert distances.min() > 60
