"""Pixels of a clip: from decoded frames to the views that the model sees, all in uint8.

Between the steps a clip is (T, C, H, W) with the memory of the decoder's (T, H, W, C): torchvision calls that
channels-last, and its uint8 resize is four times faster on it. Parameters are drawn once a clip, so all frames get the
same treatment, from the global generators of ``random`` and torch. No step changes its input: frames may be shared by
views. Normalisation is for the device: `normalize_video`.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from fvcore.common.config import CfgNode
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from hiera_video.utils.ptv_compat import RandAugment

Step = Callable[[torch.Tensor], torch.Tensor]

INTERPOLATIONS = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}
ERASE_MODES = ("pixel", "const")

# The grey and the spread that normalisation with the usual 0.45 and 0.225 turns into 0 and 1.
FILL_LEVEL = round(0.45 * 255)
NOISE_STD_LEVELS = 0.225 * 255

_MAX_MAGNITUDE = 10
_RAND_AUGMENT_HELP = (
    "legal is 'rand-m7-n2-mstd0.5-inc1': m magnitude in [0, 10], n number of operations in [1, 14], mstd spread of the "
    "magnitude, p chance of each operation in [0, 1] (0.5 if left out), inc1 (needed: strength grows with m)"
)


class RandAugmentSettings(NamedTuple):
    """What a RandAugment string says."""

    magnitude: float
    num_layers: int
    magnitude_std: float
    prob: float


class TrainTransform:
    """Frames of a clip -> one augmented view.

    Order: crop and resize, flip, colour jitter, RandAugment, random erasing.

    Args:
        crop: `RandomResizedCrop` or `ShortSideJitterCrop`.
        flip_prob: chance of a horizontal flip; 0 where left and right are part of the label.
        color_jitter: brightness, contrast and saturation; each factor is drawn from [max(0, 1 - x), 1 + x].
        rand_augment: such as "rand-m7-n2-mstd0.5-inc1"; "" for none.
        erasing: `RandomErasing`, or None.

    Differs: SlowFast augments whole frames before it crops; here, as in timm, the crop comes first, so that no pixel is
        worked on that the crop throws away.
    """

    def __init__(
        self,
        crop: Step,
        *,
        flip_prob: float = 0.5,
        color_jitter: Sequence[float] = (0.0, 0.0, 0.0),
        rand_augment: str = "",
        erasing: Step | None = None,
    ) -> None:
        self.steps: list[Step] = [crop]
        if flip_prob > 0:
            self.steps.append(v2.RandomHorizontalFlip(flip_prob))
        if any(color_jitter):
            brightness, contrast, saturation = color_jitter
            self.steps.append(v2.ColorJitter(brightness, contrast, saturation))
        if rand_augment:
            self.steps.append(make_rand_augment(rand_augment))
        if erasing is not None:
            self.steps.append(erasing)

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (T, H, W, C) -> uint8 (C, T, h, w), contiguous."""
        _check_frames(frames)
        clip = frames.permute(0, 3, 1, 2)  # (T, C, H, W), channels-last
        for step in self.steps:
            clip = step(clip)
        return clip.transpose(0, 1).contiguous()  # (C, T, h, w)


class TestTransform:
    """Frames of a clip -> its spatial crops; see `TestCrops` for the arguments."""

    __test__ = False  # the name is not for pytest

    def __init__(
        self, *, num_crops: int, short_side_px: int, crop_size_px: int, interpolation: str = "bilinear"
    ) -> None:
        self.crops = TestCrops(
            num_crops=num_crops, short_side_px=short_side_px, crop_size_px=crop_size_px, interpolation=interpolation
        )

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (T, H, W, C) -> uint8 (num_crops, C, T, crop_size_px, crop_size_px), contiguous."""
        _check_frames(frames)
        crops = self.crops(frames.permute(0, 3, 1, 2))  # each (T, C, h, w)
        return torch.stack([crop.transpose(0, 1) for crop in crops])  # (num_crops, C, T, h, w)


class TestCrops:
    """Resizes the short side, then cuts square crops at even places along the long side.

    Args:
        num_crops: 1 (centre) or 3 (left, centre, right; of upright videos top, centre, bottom).
        short_side_px: the short side after resizing.
        crop_size_px: side of a crop, at most `short_side_px`.
        interpolation: "bilinear" or "bicubic", without antialiasing.

    Follows: SlowFast's ``uniform_crop``: a centre offset is rounded up.
    """

    __test__ = False  # the name is not for pytest

    def __init__(
        self, *, num_crops: int, short_side_px: int, crop_size_px: int, interpolation: str = "bilinear"
    ) -> None:
        if num_crops not in (1, 3):
            raise ValueError(f"num_crops is {num_crops}; legal are 1 (centre) and 3 (left, centre, right)")
        _check_crop_fits("short_side_px", short_side_px, crop_size_px)
        self.num_crops = num_crops
        self.short_side_px = short_side_px
        self.crop_size_px = crop_size_px
        self.interpolation = _get_interpolation(interpolation)

    def __call__(self, clip: torch.Tensor) -> list[torch.Tensor]:
        """uint8 (T, C, H, W) -> `num_crops` views (T, C, crop_size_px, crop_size_px) of one resized clip."""
        clip = _resize_short_side(clip, self.short_side_px, self.interpolation)
        size = self.crop_size_px
        spare_h, spare_w = clip.shape[-2] - size, clip.shape[-1] - size
        centre_h, centre_w = (spare_h + 1) // 2, (spare_w + 1) // 2
        if self.num_crops == 1:
            corners = [(centre_h, centre_w)]
        elif spare_h > spare_w:
            corners = [(0, centre_w), (centre_h, centre_w), (spare_h, centre_w)]
        else:
            corners = [(centre_h, 0), (centre_h, centre_w), (centre_h, spare_w)]
        return [clip[..., top : top + size, left : left + size] for top, left in corners]


class RandomResizedCrop:
    """A box of random area and aspect ratio, resized to a square.

    Args:
        size_px: side of the result.
        scale: range of the box's area, relative to the frame's (DATA.TRAIN_JITTER_SCALES_RELATIVE).
        ratio: range of its width / height, drawn log-uniformly (DATA.TRAIN_JITTER_ASPECT_RELATIVE).
        interpolation: "bilinear" or "bicubic".

    Follows: SlowFast's ``random_resized_crop``, which is torchvision's; without antialiasing, as there.
    """

    def __init__(
        self,
        size_px: int,
        *,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: str = "bilinear",
    ) -> None:
        for name, (low, high), limit in (("scale", scale, 1.0), ("ratio", ratio, math.inf)):
            if not 0 < low <= high <= limit:
                raise ValueError(f"{name} is {(low, high)}; legal are 0 < low <= high" + (" <= 1" * (limit == 1)))
        self._crop = v2.RandomResizedCrop(
            size_px, tuple(scale), tuple(ratio), interpolation=_get_interpolation(interpolation), antialias=False
        )

    def __call__(self, clip: torch.Tensor) -> torch.Tensor:
        """uint8 (T, C, H, W) -> uint8 (T, C, size_px, size_px)."""
        return self._crop(clip)


class ShortSideJitterCrop:
    """The short side resized to a random length, then a square at a random place.

    Args:
        min_short_side_px: shortest length, at least `size_px`.
        max_short_side_px: longest length, included (both are DATA.TRAIN_JITTER_SCALES).
        size_px: side of the crop.
        interpolation: "bilinear" or "bicubic".

    Follows: SlowFast's ``random_short_side_scale_jitter`` and ``random_crop``.
    Differs: only the crop's own pixels are resized, so its corner falls on a whole pixel of the original.
    """

    def __init__(
        self, min_short_side_px: int, max_short_side_px: int, size_px: int, *, interpolation: str = "bilinear"
    ) -> None:
        _check_crop_fits("min_short_side_px", min_short_side_px, size_px)
        if max_short_side_px < min_short_side_px:
            raise ValueError(
                f"max_short_side_px is {max_short_side_px}; it must be at least min_short_side_px, {min_short_side_px}"
            )
        self.short_side_range_px = (min_short_side_px, max_short_side_px)
        self.size_px = size_px
        self.interpolation = _get_interpolation(interpolation)

    def __call__(self, clip: torch.Tensor) -> torch.Tensor:
        """uint8 (T, C, H, W) -> uint8 (T, C, size_px, size_px)."""
        height, width = clip.shape[-2:]
        short_side = random.randint(*self.short_side_range_px)
        side = max(1, round(self.size_px * min(height, width) / short_side))
        top, left = random.randint(0, height - side), random.randint(0, width - side)
        return F.resized_crop(
            clip, top, left, side, side, [self.size_px] * 2, interpolation=self.interpolation, antialias=False
        )


class RandomErasing:
    """Covers boxes, the same in all frames, with noise or grey.

    Args:
        prob: chance that a clip is erased.
        mode: "pixel": noise, new in each frame; "const": grey.
        count: number of boxes; the area is divided among them.
        area_range: range of the erased share of the picture.
        min_aspect: height / width of a box is drawn log-uniformly from [min_aspect, 1 / min_aspect].

    Follows: timm's RandomErasing as SlowFast uses it on clips ("cube").
    Differs: works before normalisation, on uint8. With mean 0.45 and std 0.225 the noise is there normal with mean 0
        and deviation 1, but cut off where pixels end, at -2 and 2.4; the grey is 0.
    """

    def __init__(
        self,
        prob: float,
        *,
        mode: str = "pixel",
        count: int = 1,
        area_range: tuple[float, float] = (0.02, 1 / 3),
        min_aspect: float = 0.3,
    ) -> None:
        if mode not in ERASE_MODES:
            raise ValueError(f"mode of random erasing is {mode!r}; legal are {ERASE_MODES}")
        if count < 1:
            raise ValueError(f"count of random erasing is {count}; it must be at least 1")
        self.prob = prob
        self.mode = mode
        self.count = count
        self.area_range = area_range
        self.min_aspect = min_aspect

    def __call__(self, clip: torch.Tensor) -> torch.Tensor:
        """uint8 (T, C, H, W) -> the same, or a changed copy."""
        if random.random() >= self.prob:
            return clip
        clip = clip.clone()
        for _ in range(self.count):
            box = self._draw_box(*clip.shape[-2:])
            if box is not None:
                top, left, height, width = box
                area = clip[..., top : top + height, left : left + width]
                area.copy_(self._make_fill(area))
        return clip

    def _draw_box(self, height: int, width: int) -> tuple[int, int, int, int] | None:
        for _ in range(10):
            area = random.uniform(*self.area_range) * height * width / self.count
            aspect = math.exp(random.uniform(math.log(self.min_aspect), -math.log(self.min_aspect)))
            box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < box_height < height and 0 < box_width < width:
                top, left = random.randint(0, height - box_height), random.randint(0, width - box_width)
                return top, left, box_height, box_width
        return None

    def _make_fill(self, area: torch.Tensor) -> torch.Tensor:
        if self.mode == "const":
            return torch.full_like(area, FILL_LEVEL)
        noise = torch.empty(area.shape).normal_(FILL_LEVEL, NOISE_STD_LEVELS)
        return noise.round_().clamp_(0, 255)


def parse_rand_augment(text: str) -> RandAugmentSettings:
    """Reads timm's notation, such as "rand-m7-n2-mstd0.5-inc1" (the paper's "RandAug (7, 0.5)").

    Raises:
        ValueError: the text is not of this form, or asks for what PyTorchVideo's RandAugment cannot do.
    """
    head, *parts = text.split("-")
    values: dict[str, str] = {}
    for part in parts:
        match = re.fullmatch(r"(mstd|inc|m|n|p)(\d+(?:\.\d+)?)", part)
        if match is None or match[1] in values:
            raise ValueError(f"RandAugment {text!r}: part {part!r} is not understood; {_RAND_AUGMENT_HELP}")
        values[match[1]] = match[2]
    if head != "rand" or "m" not in values or values.pop("inc", "0") != "1" or "." in values.get("n", ""):
        raise ValueError(f"RandAugment {text!r}: {_RAND_AUGMENT_HELP}")
    settings = RandAugmentSettings(
        magnitude=float(values["m"]),
        num_layers=int(values.get("n", 2)),
        magnitude_std=float(values.get("mstd", 0.0)),
        prob=float(values.get("p", 0.5)),
    )
    if settings.magnitude > _MAX_MAGNITUDE or not 1 <= settings.num_layers <= 14 or settings.prob > 1:
        raise ValueError(f"RandAugment {text!r}: {_RAND_AUGMENT_HELP}")
    return settings


def make_rand_augment(text: str) -> RandAugment:
    """PyTorchVideo's RandAugment on uint8 (T, C, H, W); places that a shift or rotation leaves empty become grey.

    Follows: timm's increasing set, whose strengths PyTorchVideo's agree with.
    Differs: 14 operations, not 15 (no SolarizeAdd), and those of one clip are all different.
    """
    settings = parse_rand_augment(text)
    return RandAugment(
        magnitude=settings.magnitude,
        num_layers=settings.num_layers,
        prob=settings.prob,
        transform_hparas={"fill": (FILL_LEVEL,) * 3},
        sampling_hparas={"sampling_std": settings.magnitude_std},
    )


def normalize_video(
    video: torch.Tensor, *, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """(video / 255 - mean) / std, as one multiply-add in place in fp32, on the video's device.

    Args:
        video: uint8 (N, C, T, H, W).
        mean: of each channel, for pixels in [0, 1].
        std: of each channel.
        dtype: of the result.
    """
    mean_, std_ = (torch.tensor(x, dtype=torch.float64)[:, None, None, None] for x in (mean, std))  # (C, 1, 1, 1)
    scale, shift = (x.to(video.device, torch.float32) for x in (1 / (255 * std_), -mean_ / std_))
    result = video.to(torch.float32)
    return torch.addcmul(shift, result, scale, out=result).to(dtype)


def _resize_short_side(clip: torch.Tensor, short_side_px: int, interpolation: v2.InterpolationMode) -> torch.Tensor:
    height, width = clip.shape[-2:]
    short = min(height, width)
    size = [height * short_side_px // short, width * short_side_px // short]
    return F.resize(clip, size, interpolation=interpolation, antialias=False)


def _get_interpolation(name: str) -> v2.InterpolationMode:
    if name not in INTERPOLATIONS:
        raise ValueError(f"interpolation is {name!r}; legal are {sorted(INTERPOLATIONS)}")
    return INTERPOLATIONS[name]


def _check_crop_fits(name: str, short_side_px: int, crop_size_px: int) -> None:
    if not 0 < crop_size_px <= short_side_px:
        raise ValueError(
            f"{name} is {short_side_px}; it must be at least the crop's side, {crop_size_px}, which is > 0"
        )


def _check_frames(frames: torch.Tensor) -> None:
    if frames.dtype != torch.uint8 or frames.ndim != 4:
        raise ValueError(f"frames are {frames.dtype} {tuple(frames.shape)}; expected uint8 (T, H, W, C)")


def build_train_transform(cfg: CfgNode) -> TrainTransform:
    """The augmentation that DATA and AUG ask for."""
    data, aug = cfg.DATA, cfg.AUG
    if data.TRAIN_JITTER_SCALES_RELATIVE:
        crop: Step = RandomResizedCrop(
            data.TRAIN_CROP_SIZE,
            scale=tuple(data.TRAIN_JITTER_SCALES_RELATIVE),
            ratio=tuple(data.TRAIN_JITTER_ASPECT_RELATIVE or (1.0, 1.0)),
            interpolation=data.INTERPOLATION,
        )
    else:
        crop = ShortSideJitterCrop(*data.TRAIN_JITTER_SCALES, data.TRAIN_CROP_SIZE, interpolation=data.INTERPOLATION)
    return TrainTransform(
        crop,
        flip_prob=0.5 if data.RANDOM_FLIP else 0.0,
        color_jitter=(aug.COLOR_JITTER,) * 3,
        rand_augment=aug.AA_TYPE,
        erasing=RandomErasing(aug.RE_PROB, mode=aug.RE_MODE, count=aug.RE_COUNT) if aug.RE_PROB else None,
    )


def build_test_transform(cfg: CfgNode, *, num_crops: int, crop_size_px: int) -> TestTransform:
    """Crops of a test clip: several from the tightest resize that holds them, a single one with some margin."""
    margin_px = cfg.DATA.TRAIN_JITTER_SCALES[0]
    return TestTransform(
        num_crops=num_crops,
        short_side_px=margin_px if num_crops == 1 else crop_size_px,
        crop_size_px=crop_size_px,
        interpolation=cfg.DATA.INTERPOLATION,
    )
