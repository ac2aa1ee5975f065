"""Views of a clip, against plain float references and arithmetic by hand."""

import random

import pytest
import torch
import torch.nn.functional as nnf
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from hiera_video.data import transforms
from hiera_video.data.transforms import (
    EvalTransform,
    RandomResizedCrop,
    ShortSideJitterCrop,
    TrainTransform,
    normalize_video,
)
from hiera_video.utils.rng import seeded

RAND_AUGMENT = "rand-m7-n2-mstd0.5-inc1"


def make_frames(t=3, h=48, w=64, seed=0):
    """Smooth pictures with noise, uint8 (T, H, W, 3)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(t, 3, 6, 8, generator=generator)
    smooth = nnf.interpolate(coarse, size=(h, w), mode="bilinear") * 235
    noise = torch.rand(t, 3, h, w, generator=generator) * 20
    return (smooth + noise).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def make_still(t=5, **kwargs):
    return make_frames(1, **kwargs).expand(t, -1, -1, -1).contiguous()


def resize_in_float(frames, size, mode="bilinear"):
    """(T, H, W, C) uint8 -> (T, C, h, w) float: what SlowFast does."""
    return nnf.interpolate(frames.permute(0, 3, 1, 2).float(), size=size, mode=mode, align_corners=False)


def assert_within_a_level(actual, expected, levels=1.0):
    assert actual.shape == expected.shape
    assert (actual.float() - expected.round().clamp(0, 255)).abs().max() <= levels


@pytest.mark.parametrize(
    ("height", "width", "resized"), [(48, 64, (32, 42)), (64, 48, (42, 32)), (33, 71, (32, 68)), (20, 31, (32, 49))]
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_three_crops(height, width, resized, interpolation):
    frames = make_frames(h=height, w=width)
    crops = EvalTransform(num_crops=3, short_side_px=32, crop_size_px=32, interpolation=interpolation)(frames)
    assert crops.shape == (3, 3, 3, 32, 32) and crops.dtype == torch.uint8 and crops.is_contiguous()
    whole = resize_in_float(frames, resized, interpolation).transpose(0, 1)  # (C, T, h, w)
    spare = max(resized) - 32
    for crop, start in zip(crops, (0, (spare + 1) // 2, spare), strict=True):
        window = slice(start, start + 32)
        expected = whole[..., :, window] if width >= height else whole[..., window, :]
        assert_within_a_level(crop, expected, 1.0 if interpolation == "bilinear" else 2.0)


def test_center_crop_of_a_larger_short_side():
    frames = make_frames(h=60, w=81)
    crop = EvalTransform(num_crops=1, short_side_px=40, crop_size_px=32)(frames)
    assert crop.shape == (1, 3, 3, 32, 32)
    # 60 x 81 -> 40 x 54: offsets 4 and 11.
    whole = resize_in_float(frames, (40, 54)).transpose(0, 1)
    assert_within_a_level(crop[0], whole[..., 4:36, 11:43])


def test_crops_need_no_resize_when_sizes_agree():
    frames = make_frames(h=48, w=49)
    crops = EvalTransform(num_crops=3, short_side_px=48, crop_size_px=48)(frames)
    video = frames.permute(3, 0, 1, 2)
    # One spare pixel: the center's offset is rounded up, as in SlowFast.
    for crop, left in zip(crops, (0, 1, 1), strict=True):
        assert torch.equal(crop, video[..., left : left + 48])
    upright = EvalTransform(num_crops=3, short_side_px=48, crop_size_px=48)(frames.transpose(1, 2))
    assert torch.equal(upright, crops.transpose(-1, -2))


def test_crops_spread_along_the_longer_side_also_below_the_short_side():
    frames = make_frames(h=64, w=40)
    crops = EvalTransform(num_crops=3, short_side_px=40, crop_size_px=30)(frames)
    for crop, top in zip(crops, (0, 17, 34), strict=True):
        assert torch.equal(crop, frames.permute(3, 0, 1, 2)[..., top : top + 30, 5:35])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_frames_prepared_once_give_the_views_of_clips_alone(interpolation):
    """Clips that share frames, against the plain way: resize every clip, cut, stack."""
    frames = make_frames(t=7, h=50, w=71)
    transform = EvalTransform(num_crops=3, short_side_px=40, crop_size_px=32, interpolation=interpolation)
    prepared = transform.prepare(frames).unbind()
    assert prepared[0].shape == (40, 56, 3)
    for clip in ([0, 1, 2, 3], [3, 4, 5, 6], [2, 2, 6, 0]):
        views = torch.zeros(3, 3, 4, 32, 32, dtype=torch.uint8)
        transform.write_views([prepared[place] for place in clip], views)
        resized = F.resize(
            frames[clip].permute(0, 3, 1, 2), [40, 56], transforms.INTERPOLATIONS[interpolation], antialias=False
        )
        plain = [resized[..., 4:36, left : left + 32].transpose(0, 1) for left in (0, 12, 24)]
        assert torch.equal(views, torch.stack(plain))


def test_preparing_copies_nothing_without_need():
    frames = make_frames(h=40, w=60)
    prepared = EvalTransform(num_crops=1, short_side_px=40, crop_size_px=32).prepare(frames)
    assert torch.equal(prepared, frames) and prepared.data_ptr() == frames.data_ptr()
    assert TrainTransform(RandomResizedCrop(32)).prepare(frames) is frames


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(37, 53), (64, 40), (5, 7)])
def test_a_training_view_is_what_torchvision_makes(size, interpolation):
    """The draws and the pixels of torchvision's crop and flip, in another memory."""
    frames = make_frames(h=size[0], w=size[1])
    transform = TrainTransform(RandomResizedCrop(32, scale=(0.3, 1.0), interpolation=interpolation))
    plain = v2.Compose(
        [
            v2.RandomResizedCrop(
                32, (0.3, 1.0), interpolation=transforms.INTERPOLATIONS[interpolation], antialias=False
            ),
            v2.RandomHorizontalFlip(),
        ]
    )
    for seed in range(10):
        with seeded(seed):
            view = transform(frames)
        with seeded(seed):
            expected = plain(frames.permute(0, 3, 1, 2)).transpose(0, 1)
        assert torch.equal(view[0], expected)


@pytest.mark.parametrize("size", [(37, 53), (8, 9), (256, 340)])
def test_random_resized_crop_resizes_a_box_of_the_frame(size, monkeypatch):
    frames = make_frames(h=size[0], w=size[1])
    boxes = []
    crop = RandomResizedCrop(32, scale=(0.2, 1.0))
    make_params = crop._crop.make_params
    monkeypatch.setattr(crop._crop, "make_params", lambda inputs: boxes.append(make_params(inputs)) or boxes[-1])
    for seed in range(8):
        with seeded(seed):
            view = TrainTransform(crop, flip_prob=0)(frames)[0]
        top, left, height, width = (boxes[-1][key] for key in ("top", "left", "height", "width"))
        box = frames[:, top : top + height, left : left + width]
        assert box.shape[1:3] == (height, width)
        assert_within_a_level(view, resize_in_float(box, (32, 32)).transpose(0, 1))
        assert view.is_contiguous() and view.dtype == torch.uint8
    assert len({str(box) for box in boxes}) > 4


def test_random_resized_crop_draws_within_its_ranges():
    # Each pixel holds its own place, so a view tells its box.
    h, w = 200, 250
    places = torch.stack([torch.arange(h)[:, None].expand(h, w), torch.arange(w).expand(h, w), torch.zeros(h, w)], -1)
    frames = places.to(torch.uint8)[None]
    areas, aspects = [], []
    transform = TrainTransform(RandomResizedCrop(64, scale=(0.3, 0.6), ratio=(0.75, 1.25)), flip_prob=0)
    for seed in range(60):
        with seeded(seed):
            view = transform(frames).float()[0, :, 0]  # (C, h, w)
        height, width = (view[0, -1, 0] - view[0, 0, 0]) * 64 / 63, (view[1, 0, -1] - view[1, 0, 0]) * 64 / 63
        areas.append((height * width / (h * w)).item())
        aspects.append((width / height).item())
    assert 0.28 < min(areas) < 0.35 and 0.55 < max(areas) < 0.63
    assert 0.72 < min(aspects) < 0.82 and 1.15 < max(aspects) < 1.29


def test_short_side_jitter_crop():
    frames = make_frames(h=60, w=90)
    # The short side becomes 40, so a crop of 32 is 48 pixels of the original.
    with seeded(4):
        view = TrainTransform(ShortSideJitterCrop(40, 40, 32), flip_prob=0)(frames)[0]
    with seeded(4):
        assert random.randint(40, 40) == 40
        top, left = random.randint(0, 12), random.randint(0, 42)
    box = frames[:, top : top + 48, left : left + 48]
    assert_within_a_level(view, resize_in_float(box, (32, 32)).transpose(0, 1))


@pytest.mark.parametrize("size", [(1, 1), (7, 200), (31, 16)])
@pytest.mark.parametrize("crop", [ShortSideJitterCrop(32, 40, 32), RandomResizedCrop(32)], ids=["jitter", "relative"])
def test_any_frame_size_gives_a_view(size, crop):
    for seed in range(5):
        with seeded(seed):
            view = TrainTransform(crop, rand_augment=RAND_AUGMENT)(make_frames(h=size[0], w=size[1]))
        assert view.shape == (1, 3, 3, 32, 32)
    views = EvalTransform(num_crops=3, short_side_px=40, crop_size_px=32)(make_frames(h=size[0], w=size[1]))
    assert views.shape == (3, 3, 3, 32, 32)


def test_flip():
    frames = make_frames(h=32, w=32)
    crop = ShortSideJitterCrop(32, 32, 32)
    plain = frames.permute(3, 0, 1, 2)
    assert torch.equal(TrainTransform(crop, flip_prob=0)(frames)[0], plain)
    assert torch.equal(TrainTransform(crop, flip_prob=1)(frames)[0], plain.flip(-1))
    flipped = 0
    for seed in range(200):
        with seeded(seed):
            view = TrainTransform(crop, flip_prob=0.3)(frames)[0]
        flipped += torch.equal(view, plain.flip(-1))
    assert 35 < flipped < 90  # 60, standard error 6.5


FULL = dict(flip_prob=0.5, color_jitter=(0.4, 0.4, 0.4), rand_augment="rand-m9-n3-mstd0.5-p1-inc1")


def test_all_frames_get_the_same_treatment():
    frames = make_still()
    transform = TrainTransform(RandomResizedCrop(32), **FULL)
    for seed in range(20):
        with seeded(seed):
            view = transform(frames)[0]
        assert torch.equal(view, view[:, :1].expand_as(view))


def test_a_view_depends_on_the_seed_alone():
    frames, copy = make_frames(), make_frames()
    transform = TrainTransform(RandomResizedCrop(32), **FULL)
    views = []
    for seed in (1, 2, 1):
        with seeded(seed):
            views.append(transform(frames))
        torch.rand(3), random.random()
    assert torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[1])
    assert torch.equal(frames, copy)  # the input is not changed


@pytest.mark.parametrize("strengths", [(0.4, 0, 0), (0, 0.4, 0), (0, 0, 0.4), (0.4, 0.4, 0.4)])
def test_color_jitter_is_torchvisions(strengths):
    frames = make_frames(h=16, w=16)
    transform = TrainTransform(ShortSideJitterCrop(16, 16, 16), flip_prob=0, color_jitter=strengths)
    for seed in range(10):
        with seeded(seed):
            view = transform(frames)[0].float()
        with seeded(seed):
            expected = v2.ColorJitter(*strengths)(frames.permute(0, 3, 1, 2)).transpose(0, 1)
        assert not torch.equal(view, frames.permute(3, 0, 1, 2))
        assert_within_a_level(view, expected.float(), sum(map(bool, strengths)))  # each step may round differently


def test_normalize_video():
    video = torch.randint(0, 256, (2, 3, 4, 5, 6), dtype=torch.uint8)
    mean, std = (0.45, 0.4, 0.5), (0.225, 0.25, 0.2)
    shape = (3, 1, 1, 1)
    expected = (video.double() / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)  # (C, 1, 1, 1)
    result = normalize_video(video, mean=mean, std=std)
    assert result.dtype == torch.float32 and result.is_contiguous()
    torch.testing.assert_close(result.double(), expected, atol=1e-6, rtol=0)
    half = normalize_video(video, mean=mean, std=std, dtype=torch.bfloat16)
    assert torch.equal(half, result.bfloat16())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EvalTransform(num_crops=2, short_side_px=32, crop_size_px=32), "num_crops is 2"),
        (lambda: EvalTransform(num_crops=1, short_side_px=30, crop_size_px=32), "short_side_px is 30"),
        (lambda: ShortSideJitterCrop(30, 40, 32), "min_short_side_px is 30"),
        (lambda: ShortSideJitterCrop(40, 36, 32), "max_short_side_px is 36"),
        (lambda: RandomResizedCrop(32, scale=(0.5, 1.5)), r"scale is \(0.5, 1.5\)"),
        (lambda: RandomResizedCrop(32, ratio=(2, 1)), r"ratio is \(2, 1\)"),
        (lambda: RandomResizedCrop(32, interpolation="nearest"), "'bicubic', 'bilinear'"),
        (lambda: TrainTransform(RandomResizedCrop(32))(torch.zeros(3, 4, 8, 8)), r"float32 \(3, 4, 8, 8\)"),
        (lambda: EvalTransform(num_crops=1, short_side_px=32, crop_size_px=32)(torch.zeros(3)), r"float32 \(3,\)"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_resizing_takes_the_fast_path(monkeypatch):
    """The clip reaches torchvision with the decoder's memory: contiguous it would be several times slower."""
    seen = []
    resize = transforms.F.resize
    monkeypatch.setattr(transforms.F, "resize", lambda clip, *a, **k: seen.append(clip) or resize(clip, *a, **k))
    EvalTransform(num_crops=1, short_side_px=32, crop_size_px=32)(make_frames())
    TrainTransform(RandomResizedCrop(32))(make_frames())
    assert len(seen) == 2
    assert all(clip.is_contiguous(memory_format=torch.channels_last) for clip in seen)
