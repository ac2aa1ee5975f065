"""RandAugment against PyTorchVideo's own, operation by operation and as a whole, and against plain arithmetic."""

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

from hiera_video.data import rand_augment
from hiera_video.data.rand_augment import FILL_LEVEL, OPERATIONS, RandAugment, parse_rand_augment
from hiera_video.utils.ptv_compat import RandAugment as PytorchVideoRandAugment
from hiera_video.utils.rng import seeded

WARPS = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


def make_clip(t=3, h=40, w=56, seed=0):
    """Smooth pictures with noise, each frame of another brightness: uint8 (T, C, H, W) in memory (C, T, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    smooth = nnf.interpolate(torch.rand(3, t, 5, 7, generator=generator), size=(h, w), mode="bilinear")
    levels = 230 * smooth * torch.linspace(0.5, 1, t)[:, None, None] + 25 * torch.rand(3, t, h, w, generator=generator)
    return levels.to(torch.uint8).transpose(0, 1)


def make_oracle(magnitude=7.0, std=0.0, num_layers=2, prob=1.0):
    return PytorchVideoRandAugment(
        magnitude=magnitude,
        num_layers=num_layers,
        prob=prob,
        transform_hparas={"fill": (FILL_LEVEL,) * 3},
        sampling_hparas={"sampling_std": std},
    )


def apply_both(name, clip, magnitude, seed):
    """The clip after our operation and after PyTorchVideo's, of the same draw."""
    (oracle,) = [op for op in make_oracle(magnitude).randaug_fn.transforms_list if op.transform_name == name]
    with seeded(seed):
        expected = oracle(clip.clone())
    ours = clip.clone()
    with seeded(seed):
        torch.rand(1), torch.normal(magnitude, 0.0, size=(1,))  # whether, and how strongly
        OPERATIONS[name].apply(ours, *OPERATIONS[name].draw_arguments(magnitude / 10))
    return ours.int(), expected.int()


def find_inside(name, clip, magnitude, seed):
    """Pixels that come from within the picture: where PyTorchVideo's operation leaves white white beside black."""
    white = torch.full_like(clip, 255)
    (oracle,) = [op for op in make_oracle(magnitude).randaug_fn.transforms_list if op.transform_name == name]
    oracle.transform_hparas = {"fill": (0, 0, 0)}
    with seeded(seed):
        return oracle(white) == 255


@pytest.mark.parametrize("magnitude", [0.0, 3.0, 7.0, 10.0])
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in (*WARPS, "AdjustSharpness")])
def test_levels_equal_pytorchvideos(name, magnitude):
    for seed in range(4):
        ours, expected = apply_both(name, make_clip(seed=seed), magnitude, seed)
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("magnitude", [0.0, 3.0, 7.0, 10.0])
def test_sharpness_is_within_a_level_of_pytorchvideos(magnitude):
    for seed in range(4):
        ours, expected = apply_both("AdjustSharpness", make_clip(seed=seed), magnitude, seed)
        assert torch.equal(ours[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
        # PyTorchVideo blends the border with itself and rounds down; we leave it alone.
        assert (ours - expected).abs().max() <= 1


@pytest.mark.parametrize("size", [(40, 56), (33, 21)])
@pytest.mark.parametrize("magnitude", [0.0, 3.0, 7.0, 10.0])
@pytest.mark.parametrize("name", WARPS)
def test_warps_are_within_a_level_of_pytorchvideos(name, magnitude, size):
    for seed in range(4):
        clip = make_clip(h=size[0], w=size[1], seed=seed)
        ours, expected = apply_both(name, clip, magnitude, seed)
        inside = find_inside(name, clip, magnitude, seed)
        assert inside.float().mean() > 0.3
        assert (ours - expected)[inside].abs().max() <= 1
        if magnitude:
            # Beyond one pixel from the border all is gray, as there.
            outside = (expected == FILL_LEVEL) & (ours == FILL_LEVEL) & ~inside
            near = nnf.max_pool2d(inside.float(), 5, stride=1, padding=2) > 0
            assert (outside | near).all()


def warp_naively(clip, find_source):
    """Bilinear, pixel by pixel, of pictures that go on in gray; find_source takes and gives pixels from the center."""
    height, width = clip.shape[-2:]
    padded = nnf.pad(clip.double(), (width, width, height, height), value=FILL_LEVEL)
    result = torch.full(clip.shape, float(FILL_LEVEL), dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            x, y = find_source(column - (width - 1) / 2, row - (height - 1) / 2)
            x, y = x + (width - 1) / 2 + width, y + (height - 1) / 2 + height  # places in the padded picture
            left, top = int(np.floor(x)), int(np.floor(y))
            if not (0 <= left < 3 * width - 1 and 0 <= top < 3 * height - 1):
                continue
            box = padded[..., top : top + 2, left : left + 2]
            weights = torch.tensor([[(1 - y + top) * (1 - x + left), (1 - y + top) * (x - left)],
                                    [(y - top) * (1 - x + left), (y - top) * (x - left)]])  # fmt: skip
            result[..., row, column] = (box * weights).sum((-2, -1))
    return result


@pytest.mark.parametrize(
    ("warp", "argument", "find_source"),
    [
        (rand_augment.rotate, 90.0, lambda x, y: (-y, x)),  # counter-clockwise: the right side goes to the top
        (rand_augment.rotate, -23.0, lambda x, y: (0.920505 * x + 0.390731 * y, -0.390731 * x + 0.920505 * y)),
        (rand_augment.shear_x, 0.21, lambda x, y: (x + 0.21 * (y + 10), y)),
        (rand_augment.shear_y, -0.3, lambda x, y: (x, y - 0.3 * (x + 13))),
        (rand_augment.translate_x, 0.315, lambda x, y: (x + 0.315 * 26, y)),
        (rand_augment.translate_y, -0.4, lambda x, y: (x, y - 0.4 * 20)),
    ],
)
def test_warps_blend_with_grey_at_the_border(warp, argument, find_source):
    clip = make_clip(t=2, h=20, w=26)
    expected = warp_naively(clip, find_source)
    warp(clip, argument)
    assert (clip - expected).abs().max() <= 0.51


@pytest.mark.parametrize("num_layers", [1, 3, 14])
def test_the_whole_draws_what_pytorchvideo_draws(num_layers):
    """Same seed, same operations with the same strengths; what is left is rounding, and the border of warps."""
    clip = make_clip(h=64, w=64)
    ours = RandAugment(parse_rand_augment(f"rand-m7-n{num_layers}-mstd0.5-inc1"))
    oracle = make_oracle(std=0.5, num_layers=num_layers, prob=0.5)
    num_changed = 0
    for seed in range(30):
        with seeded(seed):
            expected = oracle(clip.clone())
            next_of_oracle = torch.rand(1)
        changed = clip.clone()
        with seeded(seed):
            assert ours(changed) is None
            assert torch.equal(torch.rand(1), next_of_oracle), "as many numbers were drawn"
        if num_layers == 1:
            assert ((changed.int() - expected.int()).abs() <= 1).float().mean() > 0.94
        num_changed += not torch.equal(changed, clip)
    assert num_changed >= 10


def test_the_chance_and_number_of_operations():
    applied = []
    operations = {
        name: op._replace(apply=lambda clip, *arguments, name=name: applied.append(name))
        for name, op in OPERATIONS.items()
    }
    with seeded(0), pytest.MonkeyPatch.context() as patch:
        patch.setattr(rand_augment, "OPERATIONS", operations)
        step = RandAugment(parse_rand_augment("rand-m7-n2-p0.25-inc1"))
        for _ in range(1000):
            step(make_clip(t=1, h=4, w=4))
    assert abs(len(applied) - 500) < 80  # standard error 19
    assert len(set(applied)) == 14


def test_timms_set_has_one_more_operation_and_may_repeat_one():
    step = RandAugment(parse_rand_augment("rand-m9-n2-mstd0.5-inc1"), like="timm")
    applied = []
    step.operations = [
        op._replace(apply=lambda clip, *arguments, i=i: applied.append(i)) for i, op in enumerate(step.operations)
    ]
    pairs = []
    with seeded(0):
        for _ in range(3000):
            step(make_clip(t=1, h=4, w=4))
            pairs += [tuple(applied)] if len(applied) == 2 else []
            applied.clear()
    assert set(sum(pairs, ())) == set(range(15))
    assert abs(len(pairs) / 3000 - 0.25) < 0.03, "each of the two with a chance of one half"
    assert abs(sum(a == b for a, b in pairs) / len(pairs) - 1 / 15) < 0.03, (
        "drawn with replacement, as numpy.random.choice"
    )


@pytest.mark.parametrize("level", [0.0, 3.0, 9.0, 9.9])
def test_timms_operations_change_the_same_pixels(level):
    """Those that draw no sign and warp nothing; warps and their strengths are compared with PyTorchVideo's."""
    timm = pytest.importorskip("timm.data.auto_augment")
    from PIL import Image

    clip = make_clip(t=1, h=30, w=24)
    pairs = {
        "PosterizeIncreasing": OPERATIONS["Posterize"],
        "SolarizeIncreasing": OPERATIONS["Solarize"],
        "SolarizeAdd": RandAugment(parse_rand_augment("rand-m9-inc1"), like="timm").operations[-1],
        "AutoContrast": OPERATIONS["AutoContrast"],
        "Equalize": OPERATIONS["Equalize"],
        "Invert": OPERATIONS["Invert"],
    }
    picture = Image.fromarray(clip[0].permute(1, 2, 0).numpy())
    for name, operation in pairs.items():
        to_arguments = timm.LEVEL_TO_ARG[name]
        arguments = to_arguments(level, {}) if to_arguments else ()
        expected = torch.from_numpy(np.array(timm.NAME_TO_OP[name](picture, *arguments))).permute(2, 0, 1)
        changed = clip.clone()
        operation.apply(changed, *operation.draw_arguments(level / 10))
        share = ((changed[0].int() - expected.int()).abs() <= 1).float().mean()
        assert share == 1 or (name == "SolarizeIncreasing" and share > 0.97), (name, level, share)


def test_the_spread_of_the_magnitude():
    exact, spread = (RandAugment(parse_rand_augment(text)) for text in ("rand-m7-inc1", "rand-m7-mstd0.5-inc1"))
    with seeded(0):
        assert {exact._draw_strength() for _ in range(5)} == {0.7}
        drawn = [spread._draw_strength() for _ in range(400)]
        high = [RandAugment(parse_rand_augment("rand-m10-mstd2-inc1"))._draw_strength() for _ in range(50)]
    assert abs(np.mean(drawn) - 0.7) < 0.01 and 0.04 < np.std(drawn) < 0.06
    assert max(high) == 1.0 and min(high) > 0


@pytest.mark.parametrize("name", OPERATIONS)
def test_any_memory_gives_the_same_pixels_and_frames_are_treated_alike(name):
    clip = make_clip()
    with seeded(3):
        arguments = OPERATIONS[name].draw_arguments(0.7)
    results = []
    for memory in (
        clip.clone(),
        clip.contiguous(),
        clip.contiguous(memory_format=torch.channels_last),
        clip.repeat_interleave(2, dim=-1)[..., ::2],
    ):
        assert torch.equal(memory, clip)
        OPERATIONS[name].apply(memory, *arguments)
        results.append(memory)
    assert all(torch.equal(result, results[0]) for result in results) and not torch.equal(results[0], clip)
    still = clip[1:2].repeat(3, 1, 1, 1)
    OPERATIONS[name].apply(still, *arguments)
    assert torch.equal(still, results[0][1:2].expand_as(still)), "a frame's pixels depend on no other frame"


def test_levels_by_hand():
    clip = make_clip()
    for change, expected in (
        (rand_augment.invert, 255 - clip),
        (lambda x: rand_augment.posterize(x, 2), clip // 64 * 64),
        (lambda x: rand_augment.posterize(x, 0), torch.zeros_like(clip)),
        (lambda x: rand_augment.solarize(x, 0.3), torch.where(clip >= 76, 255 - clip, clip)),
        (lambda x: rand_augment.adjust_brightness(x, 0.5), clip // 2),
    ):
        changed = clip.clone()
        change(changed)
        assert torch.equal(changed, expected)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (9, 2), (1, 30)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_pictures_of_any_size_and_of_one_level(name, size):
    for clip in (make_clip(h=size[0], w=size[1]), torch.full((2, 3, *size), 77, dtype=torch.uint8)):
        before = clip.clone()
        with seeded(0):
            OPERATIONS[name].apply(clip, *OPERATIONS[name].draw_arguments(0.7))
        if name in ("AutoContrast", "Equalize") and (before == 77).all():
            assert torch.equal(clip, before)


def test_notation():
    assert parse_rand_augment("rand-m7-n2-mstd0.5-inc1") == (7.0, 2, 0.5, 0.5)
    assert parse_rand_augment("rand-m9-n3-mstd0-p0.7-inc1") == (9.0, 3, 0.0, 0.7)
    assert parse_rand_augment("rand-m7.5-inc1") == (7.5, 2, 0.0, 0.5)


@pytest.mark.parametrize(
    "text",
    ["", "rand", "rand-m7", "rand-m7-n2-inc0", "augmix-m3-inc1", "rand-m11-inc1", "rand-m7-n0-inc1", "rand-m7-n15-inc1",
     "rand-m7-n2-mstd-inc1", "rand-m7-x3-inc1", "rand-m7-m8-inc1", "rand-m7-n1.5-inc1", "rand-m7-p1.1-inc1", "rand_m7"],
)  # fmt: skip
def test_wrong_notation_says_what_is_legal(text):
    with pytest.raises(ValueError, match=r"rand-m7-n2-mstd0\.5-inc1"):
        parse_rand_augment(text)
