"""Pixels of a clip: from decoded frames to the views that the model sees, all in uint8.

Frames have the decoder's memory, (H, W, C): torchvision calls a stack of them channels-last, and its uint8 resize is
four times faster on it. What is cut from them is copied once, into the sample's own memory, (C, T, H, W), where
augmentation changes it in place. Parameters are drawn once a clip, so all frames get the same treatment, from the
global generators of ``random`` and torch. Frames may be shared by views and are never changed. Normalization is for the
device: `normalize_video`; so is random erasing, see erasing.py.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from fvcore.common.config import CfgNode
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from hiera_video.data.rand_augment import (
    RandAugment,
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    parse_rand_augment,
)

INTERPOLATIONS = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}


class Window(NamedTuple):
    """The part of a frame that a view shows, in whole pixels, and whether the view shows it flipped left to right."""

    top: int
    left: int
    height: int
    width: int
    is_flipped: bool = False


class ClipTransform(ABC):
    """Frames of a video -> views of its clips: `prepare` once a video, `write_views` once a clip.

    Attributes:
        num_crops: views of a clip.
        size_px: side of a view.
    """

    num_crops = 1
    size_px: int

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """What clips have in common, done once for each frame: uint8 (N, H, W, C) -> uint8 (N, h, w, C)."""
        return frames

    @abstractmethod
    def write_views(self, frames: Sequence[torch.Tensor], views: torch.Tensor) -> None:
        """Draws the parameters of one clip and overwrites `views`.

        Args:
            frames: T prepared ones, uint8 (h, w, C), not changed.
            views: uint8 (num_crops, C, T, size_px, size_px), contiguous.
        """

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """The views of a single clip: uint8 (T, H, W, C) -> uint8 (num_crops, C, T, size_px, size_px), contiguous."""
        frames = self.prepare(frames)
        num_frames, _, _, channels = frames.shape
        views = torch.empty((self.num_crops, channels, num_frames, self.size_px, self.size_px), dtype=torch.uint8)
        self.write_views(frames.unbind(), views)
        return views


class TrainTransform(ClipTransform):
    """Frames of a clip -> one augmented view.

    Order: crop and resize, flip, color jitter, RandAugment.

    Args:
        crop: `RandomResizedCrop` or `ShortSideJitterCrop`.
        flip_prob: chance of a horizontal flip; 0 where left and right are part of the label.
        color_jitter: brightness, contrast and saturation; each factor is drawn from [max(0, 1 - x), 1 + x].
        rand_augment: such as "rand-m7-n2-mstd0.5-inc1"; "" for none.
        like: "slowfast", or "timm", as pictures are augmented: resized with antialiasing, timm's RandAugment.

    Differs: SlowFast augments whole frames before it crops; here, as in timm, the crop comes first, so that no pixel is
        worked on that the crop throws away.
    """

    def __init__(
        self,
        crop: RandomResizedCrop | ShortSideJitterCrop,
        *,
        flip_prob: float = 0.5,
        color_jitter: Sequence[float] = (0.0, 0.0, 0.0),
        rand_augment: str = "",
        like: str = "slowfast",
    ) -> None:
        self.antialias = like == "timm"
        self.crop = crop
        self.size_px = crop.size_px
        self.flip_prob = flip_prob
        self.color_jitter = v2.ColorJitter(*color_jitter) if any(color_jitter) else None
        self.rand_augment = RandAugment(parse_rand_augment(rand_augment), like=like) if rand_augment else None

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """The frames as they are: each clip is cut and resized in its own way."""
        _check_frames(frames)
        return frames

    def write_views(self, frames: Sequence[torch.Tensor], views: torch.Tensor) -> None:
        """Writes the view of one clip, see `ClipTransform`."""
        self.write_window(frames, views[0], self.draw_window(*frames[0].shape[:2]))

    def draw_window(self, height: int, width: int) -> Window:
        """Draws what a view shows of frames of this size."""
        box = self.crop.draw_box(height, width)
        return Window(*box, is_flipped=self.flip_prob > 0 and bool(torch.rand(1) < self.flip_prob))

    def write_window(self, frames: Sequence[torch.Tensor], view: torch.Tensor, window: Window) -> None:
        """Writes a view, uint8 (C, T, size_px, size_px), that shows this window; draws what is left to draw."""
        clip = view.transpose(0, 1)  # (T, C, h, w)
        clip.copy_(self._cut(frames, window))
        if window.is_flipped:
            clip.copy_(clip.flip(-1))
        if self.color_jitter:
            _jitter_colors(clip, self.color_jitter)
        if self.rand_augment:
            self.rand_augment(clip)

    def _cut(self, frames: Sequence[torch.Tensor], window: Window) -> torch.Tensor:
        top, left, height, width, _ = window
        box = torch.stack([frame[top : top + height, left : left + width] for frame in frames])  # (T, h, w, C)
        box = box.permute(0, 3, 1, 2)  # (T, C, h, w), channels-last
        return F.resize(box, [self.size_px] * 2, interpolation=self.crop.interpolation, antialias=self.antialias)


class EvalTransform(ClipTransform):
    """Resizes the short side, then cuts square crops at even places along the long side.

    Args:
        num_crops: 1 (center) or 3 (left, center, right; of upright videos top, center, bottom).
        short_side_px: the short side after resizing.
        crop_size_px: side of a crop, at most `short_side_px`.
        interpolation: "bilinear" or "bicubic".
        like: "slowfast": without antialiasing, a center offset is rounded up, as in its ``uniform_crop``; "timm", for
            pictures: with antialiasing, half an offset is rounded to even, as in torchvision's ``CenterCrop``.
    """

    __test__ = False  # the name is not for pytest

    def __init__(
        self,
        *,
        num_crops: int,
        short_side_px: int,
        crop_size_px: int,
        interpolation: str = "bilinear",
        like: str = "slowfast",
    ) -> None:
        if num_crops not in (1, 3):
            raise ValueError(f"num_crops is {num_crops}; legal are 1 (center) and 3 (left, center, right)")
        _check_crop_fits("short_side_px", short_side_px, crop_size_px)
        self.num_crops = num_crops
        self.antialias = like == "timm"
        self.short_side_px = short_side_px
        self.size_px = crop_size_px
        self.interpolation = _get_interpolation(interpolation)

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """Resizes frames, uint8 (N, H, W, C); the same memory where their size is right already."""
        _check_frames(frames)
        height, width = frames.shape[1:3]
        short = min(height, width)
        size = [height * self.short_side_px // short, width * self.short_side_px // short]
        channels_last = frames.permute(0, 3, 1, 2)  # (N, C, H, W)
        resized = F.resize(channels_last, size, interpolation=self.interpolation, antialias=self.antialias)
        return resized.permute(0, 2, 3, 1)  # (N, h, w, C)

    def write_views(self, frames: Sequence[torch.Tensor], views: torch.Tensor) -> None:
        """Writes the crops of one clip, see `ClipTransform`."""
        corners = self.find_corners(*frames[0].shape[:2])
        for t, frame in enumerate(frames):
            for view, (top, left) in zip(views, corners, strict=True):
                crop = frame[top : top + self.size_px, left : left + self.size_px]
                view[:, t].copy_(crop.permute(2, 0, 1))  # (C, h, w)

    def find_corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top and left of each crop of prepared frames of this size."""
        spare_h, spare_w = height - self.size_px, width - self.size_px
        center_h, center_w = (round(x / 2) if self.antialias else (x + 1) // 2 for x in (spare_h, spare_w))
        if self.num_crops == 1:
            return [(center_h, center_w)]
        if spare_h > spare_w:
            return [(0, center_w), (center_h, center_w), (spare_h, center_w)]
        return [(center_h, 0), (center_h, center_w), (center_h, spare_w)]


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
        self.size_px = size_px
        self.interpolation = _get_interpolation(interpolation)
        self._crop = v2.RandomResizedCrop(size_px, tuple(scale), tuple(ratio))

    def draw_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of a box in frames of this size."""
        params = self._crop.make_params([torch.empty(0, height, width)])
        return params["top"], params["left"], params["height"], params["width"]


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

    def draw_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of a box in frames of this size."""
        short_side = random.randint(*self.short_side_range_px)
        side = max(1, round(self.size_px * min(height, width) / short_side))
        top, left = random.randint(0, height - side), random.randint(0, width - side)
        return top, left, side, side


def normalize_video(
    video: torch.Tensor, *, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """(video / 255 - mean) / std, multiplied and added in place in fp32, on the video's device.

    Args:
        video: uint8 (N, C, T, H, W).
        mean: of each channel, for pixels in [0, 1].
        std: of each channel.
        dtype: of the result.
    """
    mean_, std_ = (torch.tensor(x, dtype=torch.float64)[:, None, None, None] for x in (mean, std))  # (C, 1, 1, 1)
    wanted = (1 / (255 * std_), -mean_ / std_)
    scale, shift = (x.to(video.device, torch.float32, non_blocking=True) for x in wanted)
    result = video.to(torch.float32)
    if result.is_cpu:  # where one kernel for both is slower than two: it does not vectorize
        return result.mul_(scale).add_(shift).to(dtype)
    return torch.addcmul(shift, result, scale, out=result).to(dtype)


def _get_interpolation(name: str) -> v2.InterpolationMode:
    if name not in INTERPOLATIONS:
        raise ValueError(f"interpolation is {name!r}; legal are {sorted(INTERPOLATIONS)}")
    return INTERPOLATIONS[name]


def _jitter_colors(clip: torch.Tensor, jitter: v2.ColorJitter) -> None:
    """Changes a clip (T, C, h, w) in place: each of three adjustments once, in the order that torchvision draws."""
    params = jitter.make_params([])
    adjustments = (
        (adjust_brightness, params["brightness_factor"]),
        (adjust_contrast, params["contrast_factor"]),
        (adjust_saturation, params["saturation_factor"]),
    )
    for number in params["fn_idx"].tolist():
        if number < len(adjustments):  # the fourth would be hue, which is never asked for
            adjust, factor = adjustments[number]
            if factor is not None:
                adjust(clip, factor)


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
        crop: RandomResizedCrop | ShortSideJitterCrop = RandomResizedCrop(
            data.TRAIN_CROP_SIZE,
            scale=tuple(data.TRAIN_JITTER_SCALES_RELATIVE),
            ratio=tuple(data.TRAIN_JITTER_ASPECT_RELATIVE or (1.0, 1.0)),
            interpolation=data.INTERPOLATION,
        )
    else:
        crop = ShortSideJitterCrop(
            data.TRAIN_JITTER_SCALES[0],
            data.TRAIN_JITTER_SCALES[1],
            data.TRAIN_CROP_SIZE,
            interpolation=data.INTERPOLATION,
        )
    return TrainTransform(
        crop,
        flip_prob=0.5 if data.RANDOM_FLIP else 0.0,
        color_jitter=(aug.COLOR_JITTER,) * 3,
        rand_augment=aug.AA_TYPE,
        like=data.TRANSFORMS,
    )


def build_eval_transform(cfg: CfgNode, *, num_crops: int, crop_size_px: int) -> EvalTransform:
    """Crops of a test clip: several from the tightest resize that holds them, a single one with some margin."""
    margin_px = cfg.DATA.TRAIN_JITTER_SCALES[0]
    return EvalTransform(
        num_crops=num_crops,
        short_side_px=margin_px if num_crops == 1 else crop_size_px,
        crop_size_px=crop_size_px,
        interpolation=cfg.DATA.INTERPOLATION,
        like=cfg.DATA.TRANSFORMS,
    )
