"""Views of a clip, against plain float references and arithmetic by hand."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

from hiera_video.data import transforms
from hiera_video.data.transforms import (
    RandomErasing,
    RandomResizedCrop,
    ShortSideJitterCrop,
    TestCrops,
    TestTransform,
    TrainTransform,
    make_rand_augment,
    normalize_video,
    parse_rand_augment,
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
    crops = TestTransform(num_crops=3, short_side_px=32, crop_size_px=32, interpolation=interpolation)(frames)
    assert crops.shape == (3, 3, 3, 32, 32) and crops.dtype == torch.uint8 and crops.is_contiguous()
    whole = resize_in_float(frames, resized, interpolation).transpose(0, 1)  # (C, T, h, w)
    spare = max(resized) - 32
    for crop, start in zip(crops, (0, (spare + 1) // 2, spare), strict=True):
        window = slice(start, start + 32)
        expected = whole[..., :, window] if width >= height else whole[..., window, :]
        assert_within_a_level(crop, expected, 1.0 if interpolation == "bilinear" else 2.0)


def test_centre_crop_of_a_larger_short_side():
    frames = make_frames(h=60, w=81)
    crop = TestTransform(num_crops=1, short_side_px=40, crop_size_px=32)(frames)
    assert crop.shape == (1, 3, 3, 32, 32)
    # 60 x 81 -> 40 x 54: offsets 4 and 11.
    whole = resize_in_float(frames, (40, 54)).transpose(0, 1)
    assert_within_a_level(crop[0], whole[..., 4:36, 11:43])


def test_crops_need_no_resize_when_sizes_agree():
    frames = make_frames(h=48, w=49)
    crops = TestTransform(num_crops=3, short_side_px=48, crop_size_px=48)(frames)
    video = frames.permute(3, 0, 1, 2)
    # One spare pixel: the centre's offset is rounded up, as in SlowFast.
    for crop, left in zip(crops, (0, 1, 1), strict=True):
        assert torch.equal(crop, video[..., left : left + 48])


def test_crops_spread_along_the_longer_side_also_below_the_short_side():
    frames = make_frames(h=64, w=40)
    crops = TestCrops(num_crops=3, short_side_px=40, crop_size_px=30)(frames.permute(0, 3, 1, 2))
    for crop, top in zip(crops, (0, 17, 34), strict=True):
        assert torch.equal(crop, frames.permute(0, 3, 1, 2)[..., top : top + 30, 5:35])


@pytest.mark.parametrize("size", [(37, 53), (8, 9), (256, 340)])
def test_random_resized_crop_resizes_a_box_of_the_frame(size, monkeypatch):
    frames = make_frames(h=size[0], w=size[1])
    boxes = []
    crop = RandomResizedCrop(32, scale=(0.2, 1.0))
    make_params = crop._crop.make_params
    monkeypatch.setattr(crop._crop, "make_params", lambda inputs: boxes.append(make_params(inputs)) or boxes[-1])
    for seed in range(8):
        with seeded(seed):
            view = TrainTransform(crop, flip_prob=0)(frames)
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
    crop = RandomResizedCrop(64, scale=(0.3, 0.6), ratio=(0.75, 1.25))
    for seed in range(60):
        with seeded(seed):
            view = crop(frames.permute(0, 3, 1, 2)).float()[0]  # (C, h, w)
        height, width = (view[0, -1, 0] - view[0, 0, 0]) * 64 / 63, (view[1, 0, -1] - view[1, 0, 0]) * 64 / 63
        areas.append((height * width / (h * w)).item())
        aspects.append((width / height).item())
    assert 0.28 < min(areas) < 0.35 and 0.55 < max(areas) < 0.63
    assert 0.72 < min(aspects) < 0.82 and 1.15 < max(aspects) < 1.29


def test_short_side_jitter_crop():
    frames = make_frames(h=60, w=90)
    # The short side becomes 40, so a crop of 32 is 48 pixels of the original.
    with seeded(4):
        view = TrainTransform(ShortSideJitterCrop(40, 40, 32), flip_prob=0)(frames)
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
        assert view.shape == (3, 3, 32, 32)
    views = TestTransform(num_crops=3, short_side_px=40, crop_size_px=32)(make_frames(h=size[0], w=size[1]))
    assert views.shape == (3, 3, 3, 32, 32)


def test_flip():
    frames = make_frames(h=32, w=32)
    crop = ShortSideJitterCrop(32, 32, 32)
    plain = frames.permute(3, 0, 1, 2)
    assert torch.equal(TrainTransform(crop, flip_prob=0)(frames), plain)
    assert torch.equal(TrainTransform(crop, flip_prob=1)(frames), plain.flip(-1))
    flipped = 0
    for seed in range(200):
        with seeded(seed):
            view = TrainTransform(crop, flip_prob=0.3)(frames)
        flipped += torch.equal(view, plain.flip(-1))
    assert 35 < flipped < 90  # 60, standard error 6.5


FULL = dict(flip_prob=0.5, color_jitter=(0.4, 0.4, 0.4), rand_augment="rand-m9-n3-mstd0.5-p1-inc1")


def test_all_frames_get_the_same_treatment():
    frames = make_still()
    transform = TrainTransform(RandomResizedCrop(32), erasing=RandomErasing(1.0, mode="const"), **FULL)
    for seed in range(20):
        with seeded(seed):
            view = transform(frames)
        assert torch.equal(view, view[:, :1].expand_as(view))


def test_a_view_depends_on_the_seed_alone():
    frames, copy = make_frames(), make_frames()
    transform = TrainTransform(RandomResizedCrop(32), erasing=RandomErasing(0.5), **FULL)
    views = []
    for seed in (1, 2, 1):
        with seeded(seed):
            views.append(transform(frames))
        torch.rand(3), random.random()
    assert torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[1])
    assert torch.equal(frames, copy)  # the input is not changed


def test_color_jitter_draws_one_factor_a_clip():
    frames = make_still(h=16, w=16)
    crop = ShortSideJitterCrop(16, 16, 16)
    with seeded(3):
        view = TrainTransform(crop, flip_prob=0, color_jitter=(0.4, 0, 0))(frames)
    original = frames.permute(3, 0, 1, 2).float()
    dark = original < 180  # below any clipping
    factor = (view.float()[dark].sum() / original[dark].sum()).item()
    assert 0.6 <= factor <= 1.4 and abs(factor - 1) > 0.02
    assert_within_a_level(view, original * factor, 2.0)


@pytest.mark.parametrize("mode", ["pixel", "const"])
def test_random_erasing(mode):
    frames = make_still(t=4, h=40, w=50).clamp(max=250)
    clip = frames.permute(0, 3, 1, 2)
    shares = []
    for seed in range(40):
        with seeded(seed):
            erased = RandomErasing(1.0, mode=mode)(clip)
        changed = (erased != clip).any(1)  # (T, H, W)
        rows, columns = changed[0].any(1).nonzero().ravel(), changed[0].any(0).nonzero().ravel()
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        box = erased[:, :, top:bottom, left:right].float()
        shares.append(changed.float().mean().item())
        if mode == "const":
            assert (box == 115).all()
        elif box.numel() > 1500:
            assert abs(box.mean() - 115) < 8 and 45 < box.std() < 60
            assert not torch.equal(box[0], box[1])  # noise is new in each frame
    assert min(shares) > 0.01 and max(shares) < 0.36
    assert max(shares) > 0.2
    with seeded(0):
        assert RandomErasing(0.0)(clip) is clip


def test_random_erasing_divides_its_area_among_boxes():
    clip = torch.zeros(1, 3, 100, 100, dtype=torch.uint8)
    with seeded(2):
        shares = [(RandomErasing(1.0, mode="const", count=4)(clip) > 0).float().mean().item() for _ in range(50)]
    assert max(shares) < 0.34


def test_rand_augment_notation():
    assert parse_rand_augment(RAND_AUGMENT) == (7.0, 2, 0.5, 0.5)
    assert parse_rand_augment("rand-m9-n3-mstd0-p0.7-inc1") == (9.0, 3, 0.0, 0.7)
    assert parse_rand_augment("rand-m7.5-inc1") == (7.5, 2, 0.0, 0.5)


@pytest.mark.parametrize(
    "text",
    ["", "rand", "rand-m7", "rand-m7-n2-inc0", "augmix-m3-inc1", "rand-m11-inc1", "rand-m7-n0-inc1", "rand-m7-n15-inc1",
     "rand-m7-n2-mstd-inc1", "rand-m7-x3-inc1", "rand-m7-m8-inc1", "rand-m7-n1.5-inc1", "rand-m7-p1.1-inc1", "rand_m7"],
)  # fmt: skip
def test_wrong_rand_augment_says_what_is_legal(text):
    with pytest.raises(ValueError, match=r"rand-m7-n2-mstd0\.5-inc1"):
        parse_rand_augment(text)


def get_operation(name, magnitude=7.0, std=0.0):
    """One operation of the step, always applied."""
    step = make_rand_augment(f"rand-m{magnitude}-mstd{std}-p1-inc1")
    (operation,) = [op for op in step.randaug_fn.transforms_list if op.transform_name == name]
    return operation


def test_rand_augment_uses_every_operation():
    names = [op.transform_name for op in make_rand_augment(RAND_AUGMENT).randaug_fn.transforms_list]
    assert len(set(names)) == 14
    clip = make_still(t=2, h=32, w=32).permute(0, 3, 1, 2)
    for name in names:
        with seeded(1):
            out = get_operation(name)(clip)
        assert out.dtype == torch.uint8 and out.shape == clip.shape
        assert torch.equal(out[0], out[1])
        assert not torch.equal(out, clip)


def test_rand_augment_is_right_on_uint8():
    clip = make_still(t=2, h=40, w=40).permute(0, 3, 1, 2)
    assert torch.equal(get_operation("Invert")(clip), 255 - clip)
    # Magnitude 7 of 10: 4 - int(2.8) = 2 bits; everything from 0.3 * 255 is inverted.
    assert torch.equal(get_operation("Posterize")(clip), clip // 64 * 64)
    assert torch.equal(get_operation("Solarize")(clip), torch.where(clip >= 76, 255 - clip, clip))
    with seeded(0):
        bright = get_operation("AdjustBrightness")(clip).float()
    ratios = [(bright - (clip.float() * factor).clamp(0, 255)).abs().max() for factor in (1.63, 0.37)]
    assert min(ratios) <= 1
    # Shift by 0.45 * 0.7 * 40 = 12.6 pixels, and grey where nothing comes in.
    with seeded(0):
        shifted = get_operation("TranslateX")(clip)
    if (shifted[..., 0] == 115).all():
        shifted, clip = shifted.flip(-1), clip.flip(-1)
    assert (shifted[..., -12:] == 115).all()
    expected = 0.4 * clip[..., 12:-1].float() + 0.6 * clip[..., 13:].float()
    assert (shifted[..., :27].float() - expected[..., :27]).abs().max() <= 1


def test_rand_augment_spread_of_the_magnitude():
    with seeded(0):
        exact = {get_operation("Rotate", 7.0, 0.0)._get_magnitude() for _ in range(5)}
        drawn = [get_operation("Rotate", 7.0, 0.5)._get_magnitude() for _ in range(400)]
    assert exact == {7.0}
    assert abs(np.mean(drawn) - 7) < 0.1 and 0.4 < np.std(drawn) < 0.6


def test_rand_augment_chance_and_number_of_operations():
    clip = make_still(t=1, h=8, w=8).permute(0, 3, 1, 2)
    step = make_rand_augment("rand-m7-n2-p0.25-inc1")
    applied = []
    for operation in step.randaug_fn.transforms_list:
        operation.transform_fn = lambda video, *_, name=operation.transform_name, **__: applied.append(name) or video
    with seeded(0):
        for _ in range(1000):
            step(clip)
    assert abs(len(applied) - 500) < 80  # standard error 19
    assert len(set(applied)) == 14


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
        (lambda: TestTransform(num_crops=2, short_side_px=32, crop_size_px=32), "num_crops is 2"),
        (lambda: TestTransform(num_crops=1, short_side_px=30, crop_size_px=32), "short_side_px is 30"),
        (lambda: ShortSideJitterCrop(30, 40, 32), "min_short_side_px is 30"),
        (lambda: ShortSideJitterCrop(40, 36, 32), "max_short_side_px is 36"),
        (lambda: RandomResizedCrop(32, scale=(0.5, 1.5)), r"scale is \(0.5, 1.5\)"),
        (lambda: RandomResizedCrop(32, ratio=(2, 1)), r"ratio is \(2, 1\)"),
        (lambda: RandomResizedCrop(32, interpolation="nearest"), "'bicubic', 'bilinear'"),
        (lambda: RandomErasing(0.5, mode="rand"), "'pixel', 'const'"),
        (lambda: RandomErasing(0.5, count=0), "count of random erasing is 0"),
        (lambda: TrainTransform(RandomResizedCrop(32))(torch.zeros(3, 4, 8, 8)), r"float32 \(3, 4, 8, 8\)"),
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
    TestTransform(num_crops=1, short_side_px=32, crop_size_px=32)(make_frames())
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
