"""RandAugment of a clip: PyTorchVideo's operations and draws, on bytes and in place.

An operation changes a uint8 clip (T, C, H, W) in place, all frames by the same parameters. Any strides are right; the
fast ones are those where rows of a picture are whole, as in a view of (C, T, H, W) memory. Two things make it fast:
what has no simple formula is a table of 256, and what needs floats takes a frame or a few at a time, which stay in the
cache. Floats become bytes by way of int16, as torch's own way from float to uint8 takes three times as long.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

# The gray that normalization with the usual mean of 0.45 turns into 0: what surrounds a picture.
FILL_LEVEL = round(0.45 * 255)

_LEVELS = torch.arange(256)
_GREY_WEIGHTS = (0.2989, 0.587, 0.114)
_MAX_MAGNITUDE = 10
_FRAMES_PER_WARP = 2
_NOTATION = (
    "legal is 'rand-m7-n2-mstd0.5-inc1': m magnitude in [0, 10], n number of operations in [1, 14], mstd spread of the "
    "magnitude, p chance of each operation in [0, 1] (0.5 if left out), inc1 (needed: strength grows with m)"
)


class RandAugmentSettings(NamedTuple):
    """What a RandAugment string says."""

    magnitude: float
    num_layers: int
    magnitude_std: float
    prob: float


class RandAugment:
    """Changes a clip by some of 14 operations, drawn once for all of its frames from torch's global generator.

    Args:
        settings: see `parse_rand_augment`.
        like: "timm": its 15 operations, with SolarizeAdd, of which one may come twice in a clip; else the 14 below.

    Follows: PyTorchVideo's RandAugment: the same draws in the same order, the same strengths, and the same pixels to
        within a level. Its strengths agree with those of timm's increasing set.
    Differs: at the border of a picture that was rotated, sheared or shifted, pixels are blended with gray once, where
        PyTorchVideo weights them twice and so draws a dark line. Of timm's: warps are always bilinear, where timm
        draws bilinear or bicubic, and what surrounds a picture is gray.
    """

    def __init__(self, settings: RandAugmentSettings, *, like: str = "slowfast") -> None:
        self.settings = settings
        self.with_repeats = like == "timm"
        self.operations = [*OPERATIONS.values(), *([_SOLARIZE_ADD] if like == "timm" else [])]

    def __call__(self, clip: torch.Tensor) -> None:
        """Changes the uint8 clip (T, 3, H, W) in place."""
        weights = torch.ones(len(self.operations))
        chosen = torch.multinomial(weights, self.settings.num_layers, replacement=self.with_repeats)
        for index in chosen.tolist():
            if torch.rand(1).item() <= self.settings.prob:
                operation = self.operations[index]
                operation.apply(clip, *operation.draw_arguments(self._draw_strength()))

    def _draw_strength(self) -> float:
        magnitude = torch.normal(self.settings.magnitude, self.settings.magnitude_std, size=(1,)).item()
        return max(0.0, min(_MAX_MAGNITUDE, magnitude)) / _MAX_MAGNITUDE


def parse_rand_augment(text: str) -> RandAugmentSettings:
    """Reads timm's notation, such as "rand-m7-n2-mstd0.5-inc1" (the paper's "RandAug (7, 0.5)").

    Raises:
        ValueError: the text is not of this form, or asks for what `RandAugment` cannot do.
    """
    head, *parts = text.split("-")
    values: dict[str, str] = {}
    for part in parts:
        match = re.fullmatch(r"(mstd|inc|m|n|p)(\d+(?:\.\d+)?)", part)
        if match is None or match[1] in values:
            raise ValueError(f"RandAugment {text!r}: part {part!r} is not understood; {_NOTATION}")
        values[match[1]] = match[2]
    if head != "rand" or "m" not in values or values.pop("inc", "0") != "1" or "." in values.get("n", ""):
        raise ValueError(f"RandAugment {text!r}: {_NOTATION}")
    settings = RandAugmentSettings(
        magnitude=float(values["m"]),
        num_layers=int(values.get("n", 2)),
        magnitude_std=float(values.get("mstd", 0.0)),
        prob=float(values.get("p", 0.5)),
    )
    if settings.magnitude > _MAX_MAGNITUDE or not 1 <= settings.num_layers <= len(OPERATIONS) or settings.prob > 1:
        raise ValueError(f"RandAugment {text!r}: {_NOTATION}")
    return settings


def invert(clip: torch.Tensor) -> None:
    """255 - level."""
    clip.bitwise_not_()


def posterize(clip: torch.Tensor, num_bits: int) -> None:
    """Keeps the upper `num_bits` of the 8 of each level."""
    clip.bitwise_and_(256 - 2 ** (8 - num_bits))


def solarize(clip: torch.Tensor, threshold: float) -> None:
    """Inverts the levels from `threshold` on, a share of 255 that is rounded down."""
    for frame in clip:
        darkness = frame.to(torch.int16).neg_().add_(int(threshold * 255) - 1)  # negative from the threshold on
        # Of an int16, a shift by 15 leaves 0 or -1; -1 is the byte 255, which inverts. Faster than a comparison.
        frame.bitwise_xor_(darkness.bitwise_right_shift_(15).to(torch.uint8))


def solarize_add(clip: torch.Tensor, amount: int) -> None:
    """Adds to the levels of the darker half, up to 255."""
    _map_levels(clip, torch.where(_LEVELS < 128, _LEVELS + amount, _LEVELS))


def adjust_brightness(clip: torch.Tensor, factor: float) -> None:
    """Levels times `factor`; 0 is black."""
    for frame in clip:
        _write_levels(frame, frame.float().mul_(factor))


def adjust_contrast(clip: torch.Tensor, factor: float) -> None:
    """Levels away from (factor > 1) or towards (< 1) the mean gray of their frame."""
    for frame in clip:
        levels = frame.float()
        mean = _compute_gray(levels).mean()
        _write_levels(frame, levels.mul_(factor).add_((1 - factor) * mean))


def adjust_saturation(clip: torch.Tensor, factor: float) -> None:
    """Pixels away from (factor > 1) or towards (< 1) their own gray."""
    for frame in clip:
        levels = frame.float()
        gray = _compute_gray(levels).mul_(1 - factor)  # (H, W)
        _write_levels(frame, levels.mul_(factor).add_(gray))


def adjust_sharpness(clip: torch.Tensor, factor: float) -> None:
    """Pixels away from (factor > 1) or towards (< 1) a mean of 3 x 3, where the center counts five times.

    The outermost pixels stay, and so do pictures of less than 3 x 3.
    """
    if min(clip.shape[-2:]) < 3:
        return
    for frame in clip:
        levels = frame.to(torch.int16)
        columns = levels[:, :-2] + levels[:, 1:-1] + levels[:, 2:]  # (C, H - 2, W)
        total = columns[..., :-2] + columns[..., 1:-1] + columns[..., 2:]  # (C, H - 2, W - 2)
        inner = levels[:, 1:-1, 1:-1]
        smooth = total.add_(inner, alpha=4).float().div_(13).round_()
        _write_levels(frame[:, 1:-1, 1:-1], smooth.mul_(1 - factor).add_(inner.float().mul_(factor)))


def autocontrast(clip: torch.Tensor) -> None:
    """Stretches the levels of each channel of a frame to the whole range; a channel of one level stays."""
    low, high = (x(dim=(-2, -1), keepdim=True).float() for x in (clip.amin, clip.amax))  # (T, C, 1, 1)
    is_flat = low == high
    scale = torch.where(is_flat, 1.0, 255 / (high - low))
    for frame, frame_low, frame_scale in zip(clip, low.masked_fill(is_flat, 0), scale, strict=True):
        _write_levels(frame, frame.float().sub_(frame_low).mul_(frame_scale))


def equalize(clip: torch.Tensor) -> None:
    """Spreads the levels of each channel of a frame so that each has about the same number of pixels.

    Follows: PIL's scheme with a step of whole pixels; a channel whose step is 0, such as one of a single level, stays.
    """
    planes = [plane.reshape(-1) for frame in clip for plane in frame]  # T*C times (H*W,)
    counts = torch.stack([torch.bincount(plane, minlength=256) for plane in planes]).unflatten(0, clip.shape[:2])
    highest = clip.amax(dim=(-2, -1)).long()[..., None]  # (T, C, 1)
    step = (planes[0].numel() - counts.gather(-1, highest)) // 255
    below = counts.cumsum(-1) - counts  # (T, C, 256)
    _map_levels(clip, torch.where(step == 0, _LEVELS, (below + step // 2) // step.clamp(min=1)))


def rotate(clip: torch.Tensor, angle_deg: float) -> None:
    """Turns the picture counter-clockwise around its center."""
    sin, cos = math.sin(math.radians(angle_deg)), math.cos(math.radians(angle_deg))
    _warp(clip, ((cos, -sin, 0.0), (sin, cos, 0.0)))


def shear_x(clip: torch.Tensor, factor: float) -> None:
    """Shifts row y to the left by factor * y; the top row stays."""
    _warp(clip, ((1.0, factor, factor * clip.shape[-2] / 2), (0.0, 1.0, 0.0)))


def shear_y(clip: torch.Tensor, factor: float) -> None:
    """Shifts column x upwards by factor * x; the leftmost column stays."""
    _warp(clip, ((1.0, 0.0, 0.0), (factor, 1.0, factor * clip.shape[-1] / 2)))


def translate_x(clip: torch.Tensor, share: float) -> None:
    """Shifts the picture to the left by a share of its width."""
    _warp(clip, ((1.0, 0.0, share * clip.shape[-1]), (0.0, 1.0, 0.0)))


def translate_y(clip: torch.Tensor, share: float) -> None:
    """Shifts the picture upwards by a share of its height."""
    _warp(clip, ((1.0, 0.0, 0.0), (0.0, 1.0, share * clip.shape[-2])))


def _map_levels(clip: torch.Tensor, tables: torch.Tensor) -> None:
    """Replaces each level by its entry, cut to [0, 255] and rounded down, in a table that broadcasts to (T, C, 256)."""
    tables = tables.clamp(0, 255).to(torch.uint8).expand(*clip.shape[:2], 256)
    for frame, frame_tables in zip(clip, tables, strict=True):
        for plane, table in zip(frame, frame_tables, strict=True):  # (H, W), (256,)
            plane.copy_(table.index_select(0, plane.reshape(-1).int()).view_as(plane))


def _write_levels(target: torch.Tensor, levels: torch.Tensor) -> None:
    """Writes float levels into uint8 of the same shape, cut to [0, 255] and rounded down; `levels` are used up."""
    target.copy_(levels.clamp_(0, 255).to(torch.int16))


def _compute_gray(levels: torch.Tensor) -> torch.Tensor:
    """float (3, H, W) -> float (H, W), whole levels."""
    red, green, blue = (channel * weight for channel, weight in zip(levels, _GREY_WEIGHTS, strict=True))
    return red.add_(green).add_(blue).floor_()


def _warp(clip: torch.Tensor, source: tuple[tuple[float, float, float], ...]) -> None:
    """Fetches pixels from ``source @ (x, y, 1)``, in pixels from the center, bilinearly; around the picture is gray."""
    height, width = clip.shape[-2:]
    (xx, xy, x1), (yx, yy, y1) = source
    # torch counts from -1 to 1 over the width and over the height; sums that broadcast, as F.affine_grid is slow.
    x = torch.arange(1 - width, width, 2) / width  # (W,)
    y = (torch.arange(1 - height, height, 2) / height)[:, None]  # (H, 1)
    grid = torch.empty(1, height, width, 2)
    torch.add(x * xx, y * (xy * height / width) + 2 * x1 / width, out=grid[0, ..., 0])
    torch.add(x * (yx * width / height), y * yy + 2 * y1 / height, out=grid[0, ..., 1])
    for frames in clip.transpose(0, 1).split(_FRAMES_PER_WARP, dim=1):  # (C, t, H, W)
        # Zeros come in from outside, so that gray must be zero meanwhile. As channels, frames share the grid's weights.
        levels = frames.float().sub_(FILL_LEVEL).reshape(1, -1, height, width)  # (1, C*t, H, W)
        warped = F.grid_sample(levels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        _write_levels(frames, warped.add_(FILL_LEVEL).round_().view(frames.shape))  # (C, t, H, W)


class Operation(NamedTuple):
    """One of RandAugment's operations.

    Attributes:
        apply: changes a clip in place, by arguments.
        draw_arguments: of a strength in [0, 1].
    """

    apply: Callable[..., None]
    draw_arguments: Callable[[float], tuple[float, ...]]


def _no_arguments(strength: float) -> tuple[float, ...]:
    return ()


def _either_way(most: float, base: float = 0.0) -> Callable[[float], tuple[float, ...]]:
    """From `base` up or down, by up to `most`."""
    return lambda strength: (base + strength * most * (1 if torch.rand(1).item() > 0.5 else -1),)


# In PyTorchVideo's order, so that the same draw chooses the same operation.
OPERATIONS = {
    "AdjustBrightness": Operation(adjust_brightness, _either_way(0.9, base=1.0)),
    "AdjustContrast": Operation(adjust_contrast, _either_way(0.9, base=1.0)),
    "AdjustSaturation": Operation(adjust_saturation, _either_way(0.9, base=1.0)),
    "AdjustSharpness": Operation(adjust_sharpness, _either_way(0.9, base=1.0)),
    "AutoContrast": Operation(autocontrast, _no_arguments),
    "Equalize": Operation(equalize, _no_arguments),
    "Invert": Operation(invert, _no_arguments),
    "Rotate": Operation(rotate, _either_way(30.0)),
    "Posterize": Operation(posterize, lambda strength: (4 - int(strength * 4),)),
    "Solarize": Operation(solarize, lambda strength: (1 - strength,)),
    "ShearX": Operation(shear_x, _either_way(0.3)),
    "ShearY": Operation(shear_y, _either_way(0.3)),
    "TranslateX": Operation(translate_x, _either_way(0.45)),
    "TranslateY": Operation(translate_y, _either_way(0.45)),
}
_SOLARIZE_ADD = Operation(solarize_add, lambda strength: (min(128, int(strength * 110)),))
