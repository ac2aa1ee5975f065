"""Boxes of noise or of the mean in a normalized batch."""

import random

import pytest
import torch

from hiera_video.data.erasing import RandomErasing
from hiera_video.utils.rng import seed_everything, seeded


def make_batch(n=40, t=4, h=40, w=50, dtype=torch.float32):
    return torch.full((n, 3, t, h, w), 9.0, dtype=dtype)  # no noise comes near 9


def find_box(changed):
    """(top, bottom, left, right) of what has changed, bool (H, W)."""
    rows, columns = changed.any(1).nonzero().ravel(), changed.any(0).nonzero().ravel()
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["pixel", "const"])
def test_one_box_a_clip_in_all_its_frames(mode, dtype):
    video = make_batch(dtype=dtype)
    with seeded(0):
        erased = RandomErasing(1.0, mode=mode)(video)
    assert erased is video and video.dtype == dtype
    boxes, shares = set(), []
    for clip in video:
        changed = clip != 9
        assert torch.equal(changed, changed[:1, :1].expand_as(changed)), "the same pixels in all channels and frames"
        top, bottom, left, right = find_box(changed[0, 0])
        assert changed[0, 0, top:bottom, left:right].all(), "a box without holes"
        boxes.add((top.item(), bottom.item(), left.item(), right.item()))
        shares.append(changed[0, 0].float().mean().item())
        area = clip[:, :, top:bottom, left:right].float()
        if mode == "const":
            assert not area.any()
        else:
            assert not torch.equal(area[:, 0], area[:, 1]), "noise is new in each frame"
            assert not torch.equal(area[0], area[1]), "and in each channel"
    assert len(boxes) > 35
    assert 0.01 < min(shares) < 0.1 and 0.2 < max(shares) < 0.36


def test_noise_is_standard_normal_and_not_cut():
    video = make_batch(n=60)
    with seeded(1):
        RandomErasing(1.0)(video)
    noise = video[video != 9]
    assert len(noise) > 100_000
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert noise.min() < -3.5 and noise.max() > 3.5  # pixels end at -2 and 2.4


def test_the_chance_and_what_is_left_alone():
    video = make_batch(n=400, t=1, h=16, w=16)
    with seeded(2):
        RandomErasing(0.25, mode="const")(video)
    changed = (video != 9).flatten(1).any(1).sum()
    assert 70 < changed < 130  # 100, standard error 8.7
    untouched = make_batch()
    assert (RandomErasing(0.0)(untouched) == 9).all()


def test_boxes_have_the_aspects_asked_for():
    video = make_batch(n=200, t=1, h=100, w=100)
    with seeded(3):
        RandomErasing(1.0, mode="const", min_aspect=0.5)(video)
    boxes = [find_box(clip[0, 0] != 9) for clip in video]
    aspects = [((bottom - top) / (right - left)).item() for top, bottom, left, right in boxes]
    assert 0.45 < min(aspects) < 0.6 and 1.7 < max(aspects) < 2.2


def test_boxes_divide_the_area_among_them():
    video = make_batch(n=50, t=1, h=100, w=100)
    with seeded(2):
        RandomErasing(1.0, mode="const", count=4)(video)
    shares = (video[:, 0, 0] == 0).float().mean(dim=(1, 2))
    assert 0.2 < shares.max() < 0.34


def test_the_seed_of_an_epoch_gives_the_same_erasing():
    """The loop seeds the global generators at the start of each epoch, which is where a stopped run goes on."""
    results = []
    for seed in (1, 2, 1):
        seed_everything(seed)
        results.append(RandomErasing(0.5)(make_batch(n=8)))
        torch.rand(3), random.random()
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[1])


@pytest.mark.parametrize("size", [(1, 1), (2, 60), (3, 3)])
def test_any_size_goes_through(size):
    video = make_batch(n=20, h=size[0], w=size[1])
    RandomErasing(1.0, count=2)(video)
    assert video.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prob": 0.5, "mode": "rand"}, "'pixel', 'const'"),
        ({"prob": 0.5, "count": 0}, "count of random erasing is 0"),
        ({"prob": 1.5}, "prob of random erasing is 1.5"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomErasing(**arguments)
