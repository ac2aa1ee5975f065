"""Boxes go where their pixels go: painted boxes and painted coordinates, through every transform and back."""

import random

import numpy as np
import pytest
import torch

from hiera_video.data.box_transforms import BoxEvalTransform, BoxTrainTransform, ViewMap, clip_boxes
from hiera_video.data.transforms import EvalTransform, RandomResizedCrop, ShortSideJitterCrop, TrainTransform
from hiera_video.utils.rng import seeded

SIZES = [(48, 64), (64, 48), (57, 113), (120, 80), (64, 64)]
JITTER = ShortSideJitterCrop(36, 56, 32)
RESIZED = RandomResizedCrop(32, scale=(0.2, 1.0), ratio=(0.6, 1.6))
WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


def make_transforms():
    return {
        "jitter": BoxTrainTransform(TrainTransform(JITTER, flip_prob=0.0)),
        "jitter, flipped": BoxTrainTransform(TrainTransform(JITTER, flip_prob=1.0)),
        "resized crop": BoxTrainTransform(TrainTransform(RESIZED, flip_prob=0.0)),
        "resized crop, flipped": BoxTrainTransform(TrainTransform(RESIZED, flip_prob=1.0)),
        "center": BoxEvalTransform(32),
        "center, antialiased": BoxEvalTransform(32, like="timm"),
    }


def apply(name, frames, boxes, seed=0):
    with seeded(5, seed):
        return make_transforms()[name](frames, boxes)


def paint_box(height, width, box):
    x1, y1, x2, y2 = box
    frame = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    frame[:, y1:y2, x1:x2] = 255
    return frame


def find_box(view):
    """Corners of what is bright in a view (C, T, S, S), or None."""
    rows, columns = np.nonzero(view[0, 0].numpy() > 127)
    return None if not len(rows) else (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("name", make_transforms())
def test_a_painted_box_and_the_box_arrive_at_the_same_place(name, height, width):
    num_seen = 0
    for seed in range(30):
        draw = random.Random(seed)
        x1, y1 = draw.randrange(width - 12), draw.randrange(height - 12)
        box = x1, y1, draw.randrange(x1 + 8, width + 1), draw.randrange(y1 + 8, height + 1)
        view, view_map = apply(name, paint_box(height, width, box), torch.tensor([box]).float(), seed)
        moved, is_outside = clip_boxes(view_map.to_view(torch.tensor([box]).float()), 32)
        found = find_box(view)
        if found is None:
            x1, y1, x2, y2 = moved[0].tolist()
            assert is_outside[0] or min(x2 - x1, y2 - y1) < 1, "less than a pixel of it is seen"
        else:
            num_seen += 1
            assert not is_outside[0] and abs(moved[0] - torch.tensor(found)).max() <= 0.76
    assert num_seen > 15


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("name", ["jitter", "jitter, flipped", "resized crop", "resized crop, flipped", "center"])
def test_every_pixel_comes_from_where_the_map_says(name, height, width):
    """Frames whose levels are coordinates: bilinear resizing keeps them linear, up to rounding to whole levels."""
    x, y = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")  # (H, W)
    frames = torch.stack([2 * x, 2 * y, 0 * x], dim=-1)[None].to(torch.uint8)
    view, view_map = apply(name, frames, WHOLE * max(height, width), seed=3)
    assert width <= 127 and height <= 127 and view.shape == (3, 1, 32, 32)
    j, i = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(32) + 0.5, indexing="xy")
    points = torch.stack([j, i, j, i], dim=-1).flatten(0, 1)  # (1024, 4)
    places = view_map.to_frame(points)[:, :2].reshape(32, 32, 2)
    inner = ((places > 1) & (places < torch.tensor([width - 1, height - 1]))).all(dim=-1)
    seen = view[:2, 0].permute(1, 2, 0).float() / 2 + 0.5  # (32, 32, 2)
    assert inner.float().mean() > 0.7 and abs(seen - places)[inner].max() <= 0.51


@pytest.mark.parametrize("is_flipped", [False, True])
def test_there_and_back(is_flipped):
    view_map = ViewMap(left=3.25, top=-1.5, width=100.0, height=60.0, size_px=224, is_flipped=is_flipped)
    corners = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) * 100
    boxes = torch.cat([torch.minimum(corners[:, :2], corners[:, 2:]), torch.maximum(corners[:, :2], corners[:, 2:])], 1)
    moved = view_map.to_view(boxes)
    assert moved.dtype == torch.float32 and (moved[:, 2:] >= moved[:, :2]).all()
    torch.testing.assert_close(view_map.to_frame(moved), boxes, atol=1e-4, rtol=0)
    x1 = moved[:, 2] if is_flipped else moved[:, 0]
    by_hand = (boxes[:, 0] - 3.25) * 2.24
    torch.testing.assert_close(x1, 224 - by_hand if is_flipped else by_hand, atol=1e-4, rtol=0)


def test_clipping_by_hand():
    boxes = torch.tensor([[-5.0, 2, 10, 40], [1, 1, 2, 2], [32, 0, 40, 8], [-9, -9, 0, 5], [30, 30, 90, 90]])
    clipped, is_outside = clip_boxes(boxes, 32)
    assert is_outside.tolist() == [False, False, True, True, False]
    assert clipped.tolist() == [[0, 2, 10, 32], [1, 1, 2, 2], [32, 0, 40, 8], [-9, -9, 0, 5], [30, 30, 32, 32]]


def test_pixels_are_those_of_the_transform_without_boxes():
    frames = torch.randint(0, 256, (4, 57, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = TrainTransform(JITTER, color_jitter=(0.4, 0.4, 0.4))
    with seeded(1):
        expected = plain(frames)[0]
    with seeded(1):
        view, _ = BoxTrainTransform(plain)(frames, torch.tensor([[0.0, 0, 80, 57]]))
    assert torch.equal(view, expected)
    center = EvalTransform(num_crops=1, short_side_px=32, crop_size_px=32)(frames)[0]
    assert torch.equal(BoxEvalTransform(32)(frames, torch.zeros(1, 4))[0], center)


def test_training_always_sees_a_box():
    """Small boxes in a wide frame: most random windows miss them."""
    transform = BoxTrainTransform(TrainTransform(ShortSideJitterCrop(64, 96, 32)))
    num_missed = 0
    for seed in range(100):
        draw = random.Random(seed)
        x1, y1 = draw.uniform(0, 396), draw.uniform(0, 96)
        boxes = torch.tensor([[x1, y1, x1 + 3, y1 + 3]])
        with seeded(seed):
            window = transform.transform.draw_window(100, 400)
            num_missed += bool(clip_boxes(transform._map(window).to_view(boxes), 32)[1].all())
        with seeded(seed):
            _, view_map = transform(torch.zeros(1, 100, 400, 3, dtype=torch.uint8), boxes)
        assert not clip_boxes(view_map.to_view(boxes), 32)[1].any()
        assert view_map.left >= 0 and view_map.left + view_map.width <= 400 and view_map.top + view_map.height <= 100
    assert num_missed > 75


def test_augmentation_that_would_leave_boxes_behind_is_refused():
    with pytest.raises(ValueError, match="AUG.AA_TYPE"):
        BoxTrainTransform(TrainTransform(JITTER, rand_augment="rand-m7-n2-mstd0.5-inc1"))
