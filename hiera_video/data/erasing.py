"""Random erasing on a batch, on the device, after normalization."""

from __future__ import annotations

import math
import random

import torch
from fvcore.common.config import CfgNode

ERASE_MODES = ("pixel", "const")


class RandomErasing:
    """Covers boxes, the same in all frames of a clip, with noise or with the mean.

    Boxes are drawn for each clip from the global generator of ``random``, noise from torch's generator of the device.

    Args:
        prob: chance that a clip is erased.
        mode: "pixel": standard normal noise, new in each frame; "const": 0.
        count: number of boxes; the area is divided among them.
        area_range: range of the erased share of the picture.
        min_aspect: height / width of a box is drawn log-uniformly from [min_aspect, 1 / min_aspect].

    Raises:
        ValueError: an argument is out of range.

    Follows: timm's RandomErasing as SlowFast uses it on clips ("cube").
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
        if not 0 <= prob <= 1:
            raise ValueError(f"prob of random erasing is {prob}; it must be in [0, 1]")
        if mode not in ERASE_MODES:
            raise ValueError(f"mode of random erasing is {mode!r}; legal are {ERASE_MODES}")
        if count < 1:
            raise ValueError(f"count of random erasing is {count}; it must be at least 1")
        self.prob = prob
        self.mode = mode
        self.count = count
        self.area_range = area_range
        self.min_aspect = min_aspect

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        """Erases in place, to spare the memory of a second batch.

        Args:
            video: normalized float (N, C, T, H, W).

        Returns:
            The video.
        """
        for clip in video:
            if random.random() < self.prob:
                for _ in range(self.count):
                    self._erase(clip)
        return video

    def _erase(self, clip: torch.Tensor) -> None:
        box = self._draw_box(*clip.shape[-2:])
        if box is None:
            return
        top, left, height, width = box
        area = clip[..., top : top + height, left : left + width]  # (C, T, h, w)
        if self.mode == "pixel":
            area.normal_()
        else:
            area.zero_()

    def _draw_box(self, height: int, width: int) -> tuple[int, int, int, int] | None:
        for _ in range(10):
            area = random.uniform(*self.area_range) * height * width / self.count
            aspect = math.exp(random.uniform(math.log(self.min_aspect), -math.log(self.min_aspect)))
            box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < box_height < height and 0 < box_width < width:
                top, left = random.randint(0, height - box_height), random.randint(0, width - box_width)
                return top, left, box_height, box_width
        return None


def build_erasing(cfg: CfgNode) -> RandomErasing | None:
    """The erasing that AUG asks for; None where it is off."""
    aug = cfg.AUG
    return RandomErasing(aug.RE_PROB, mode=aug.RE_MODE, count=aug.RE_COUNT) if aug.RE_PROB else None
