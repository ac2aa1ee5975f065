"""Pictures, masks and boxes move together, and find their way back."""

import numpy as np
import pytest
import torch

from hiera_video.data.detection_transforms import (
    DetectionTransform,
    Placement,
    compute_boxes,
    draw_placement,
    fit_placement,
    kept_size,
    map_boxes_back,
    place_masks,
    place_picture,
)

FILL = (10, 20, 30)


def make_scene(height, width, seed=0):
    """Rectangles in random places: masks, and a picture that is 255 inside the first and 0 outside it."""
    rng = np.random.default_rng(seed)
    masks = torch.zeros(3, height, width, dtype=torch.uint8)
    for mask in masks:
        top, left = int(rng.integers(height // 2)), int(rng.integers(width // 2))
        mask[top : top + int(rng.integers(4, height // 2)), left : left + int(rng.integers(4, width // 2))] = 1
    picture = (masks[0] * 255)[:, :, None].repeat(1, 1, 3)
    return picture, masks


def find_box_naively(mask):
    rows, columns = np.nonzero(mask.numpy())
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_boxes_reach_to_the_far_edge():
    masks = torch.zeros(2, 8, 8, dtype=torch.uint8)
    masks[0, 2:5, 1:7], masks[1, 7, 7] = 1, 1
    assert compute_boxes(masks).tolist() == [[1, 2, 7, 5], [7, 7, 8, 8]]
    assert compute_boxes(masks[:0]).shape == (0, 4)


@pytest.mark.parametrize("seed", range(12))
def test_after_jitter_boxes_are_those_of_the_jittered_masks_and_masks_lie_on_their_things(seed):
    torch.manual_seed(seed)
    height, width = int(torch.randint(40, 90, ())), int(torch.randint(40, 90, ()))
    picture, masks = make_scene(height, width, seed)
    transform = DetectionTransform(64, fill=FILL, jitter_scales=(0.1, 2.0), flip_prob=0.5)
    placement = transform.choose_placement((height, width))
    target = transform.make_target(masks, torch.tensor([4, 5, 6]), placement)
    placed = transform.place(picture, placement)
    assert placed.shape == (3, 64, 64) and placed.dtype == torch.uint8
    assert target["boxes"].tolist() == [find_box_naively(mask) for mask in target["masks"]]
    left = place_masks(masks, placement, 64).flatten(1).sum(dim=1) > 0
    assert target["labels"].tolist() == torch.tensor([4, 5, 6])[left].tolist()
    kept_h, kept_w = kept_size(placement, 64)
    inside = place_masks(masks, placement, 64)[0, :kept_h, :kept_w].bool()
    if min(placement.scaled) > 30:  # below that a rectangle may be thinner than a pixel
        disagree = ((placed[0, :kept_h, :kept_w] >= 128) != inside).float().mean()
        assert disagree < 0.02, "the resized picture and the resized mask differ at most in edge pixels"
    padding = torch.ones(64, 64, dtype=torch.bool)
    padding[:kept_h, :kept_w] = False
    assert (placed[:, padding] == torch.tensor(FILL)[:, None]).all()
    assert not target["masks"][:, padding].any()


def test_jitter_covers_its_range_and_crops_in_random_places():
    torch.manual_seed(0)
    drawn = [draw_placement((30, 60), 64, scales=(0.1, 2.0), flip_prob=0.5) for _ in range(2000)]
    factors = np.array([placement.scaled[1] / 64 for placement in drawn])
    assert factors.min() < 0.12 and factors.max() > 1.98 and abs(factors.mean() - 1.05) < 0.05
    assert 0.45 < np.mean([placement.is_flipped for placement in drawn]) < 0.55
    assert all(placement.left + min(64, placement.scaled[1]) <= placement.scaled[1] for placement in drawn)
    wide = [placement.left for placement in drawn if placement.scaled[1] > 120]
    assert min(wide) < 5 and max(wide) > 50
    assert not any(placement.top for placement in drawn if placement.scaled[0] <= 64)


def test_a_flip_is_a_flip():
    picture, masks = make_scene(40, 50)
    plain = Placement((40, 50), (40, 50))
    flipped = plain._replace(is_flipped=True)
    assert torch.equal(
        place_picture(picture, flipped, 50, FILL)[:, :40], place_picture(picture, plain, 50, FILL)[:, :40].flip(-1)
    )
    assert torch.equal(place_masks(masks, flipped, 50)[:, :40], masks.flip(-1))


@pytest.mark.parametrize("size", [(40, 80), (100, 30), (64, 64), (513, 77)])
def test_boxes_find_their_way_back(size):
    placement = fit_placement(size, 64)
    assert max(placement.scaled) == 64
    picture, masks = make_scene(*size)
    boxes = compute_boxes(place_masks(masks, placement, 64))
    back, wanted = map_boxes_back(boxes, placement), compute_boxes(masks)
    pixel = max(size) / 64
    assert (back - wanted).abs().max() <= pixel, "as near as a pixel of the square allows"
    scale = torch.tensor([placement.scaled[1] / size[1], placement.scaled[0] / size[0]]).repeat(2)
    torch.testing.assert_close(map_boxes_back(wanted * scale, placement), wanted)
    outside = map_boxes_back(torch.tensor([[-5.0, -5, 500, 500]]), placement)
    assert outside.tolist() == [[0, 0, size[1], size[0]]]
    assert place_picture(picture, placement, 64, FILL).shape == (3, 64, 64)
