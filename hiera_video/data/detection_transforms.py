"""Pictures with boxes and masks as a detector sees them: a square of one size, padded at the lower right.

A picture is uint8 (H, W, 3), masks are uint8 (n, H, W) of zeros and ones, and a box is x1, y1, x2, y2 in px, where a
mask's box reaches from the near edge of its first pixel to the far edge of its last. Parameters are drawn from torch's
global generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor
from torchvision.ops import masks_to_boxes
from torchvision.transforms.v2 import functional as V


class Placement(NamedTuple):
    """Where a picture of ``height`` x ``width`` px lies in a square: scaled to (h, w), cut at (top, left), flipped.

    Attributes:
        size: the picture's own height and width, px.
        scaled: height and width after scaling, px.
        top: rows of the scaled picture that are cut off.
        left: columns of it that are cut off.
        is_flipped: left to right, before scaling.
    """

    size: tuple[int, int]
    scaled: tuple[int, int]
    top: int = 0
    left: int = 0
    is_flipped: bool = False


def fit_placement(size: tuple[int, int], size_px: int) -> Placement:
    """The whole picture, its longer side scaled to ``size_px``."""
    return Placement(size, _scale(size, size_px / max(size)))


def draw_placement(size: tuple[int, int], size_px: int, *, scales: Sequence[float], flip_prob: float) -> Placement:
    """Large-scale jitter: the longer side becomes ``size_px`` times a factor, and a part in a random place is kept.

    Args:
        size: height and width, px.
        size_px: side of the square.
        scales: [min, max] of the factor.
        flip_prob: chance of a flip.

    Follows: Ghiasi et al. (arXiv 2012.07177) as in ViTDet's recipe: scale, then crop, then pad.
    """
    factor, flip, *where = torch.rand(4).tolist()
    low, high = scales
    scaled = _scale(size, (low + factor * (high - low)) * size_px / max(size))
    top, left = (int(u * (max(side - size_px, 0) + 1)) for u, side in zip(where, scaled, strict=True))
    return Placement(size, scaled, top, left, flip < flip_prob)


def place_picture(picture: Tensor, placement: Placement, size_px: int, fill: Sequence[int]) -> Tensor:
    """Puts a picture into its square.

    Args:
        picture: uint8 (H, W, 3).
        placement: where.
        size_px: side of the square.
        fill: color of the padding, as the mean of pictures, so that it is 0 after normalization.

    Returns:
        uint8 (3, size_px, size_px).
    """
    height, width = kept_size(placement, size_px)
    pixels = picture.flip(1) if placement.is_flipped else picture
    scaled = V.resize_image(pixels.movedim(-1, 0), list(placement.scaled), antialias=True)  # (3, h, w)
    square = torch.tensor(fill, dtype=torch.uint8)[:, None, None].repeat(1, size_px, size_px)
    square[:, :height, :width] = scaled[:, placement.top :, placement.left :][:, :height, :width]
    return square


def place_masks(masks: Tensor, placement: Placement, size_px: int) -> Tensor:
    """Puts masks where `place_picture` puts their picture: each pixel of the square takes the nearest one's value.

    Args:
        masks: uint8 (n, H, W).
        placement: where.
        size_px: side of the square.

    Returns:
        uint8 (n, size_px, size_px), zero in the padding.
    """
    height, width = kept_size(placement, size_px)
    rows = _find_nearest(placement.top, height, placement.size[0] / placement.scaled[0], placement.size[0])
    columns = _find_nearest(placement.left, width, placement.size[1] / placement.scaled[1], placement.size[1])
    columns = placement.size[1] - 1 - columns if placement.is_flipped else columns
    kept = masks[:, rows][:, :, columns]  # (n, height, width)
    return F.pad(kept, (0, size_px - width, 0, size_px - height))


def kept_size(placement: Placement, size_px: int) -> tuple[int, int]:
    """Height and width of what is picture, and no padding, in the square."""
    height = min(placement.scaled[0] - placement.top, size_px)
    return height, min(placement.scaled[1] - placement.left, size_px)


def compute_boxes(masks: Tensor) -> Tensor:
    """The boxes of masks that are not empty: uint8 (n, H, W) -> float32 (n, 4).

    torchvision's own boxes end at the near edge of the last pixel.
    """
    if not len(masks):
        return torch.zeros(0, 4)
    boxes = masks_to_boxes(masks)
    boxes[:, 2:] += 1
    return boxes


def map_boxes_back(boxes: Tensor, placement: Placement) -> Tensor:
    """Boxes in the square of `fit_placement` -> boxes in the picture itself, cut at its edges: float (n, 4)."""
    height, width = placement.size
    ratio = boxes.new_tensor([width / placement.scaled[1], height / placement.scaled[0]]).repeat(2)
    limit = boxes.new_tensor([width, height]).repeat(2)
    return torch.minimum((boxes * ratio).clamp(min=0), limit)


class DetectionTransform:
    """What a data set does with a picture and its masks.

    Args:
        size_px: side of the square.
        fill: color of the padding.
        jitter_scales: of `draw_placement`, in training; () for the whole picture as it is.
        flip_prob: chance of a flip, with jitter_scales.
    """

    def __init__(
        self, size_px: int, *, fill: Sequence[int], jitter_scales: Sequence[float] = (), flip_prob: float = 0.0
    ) -> None:
        self.size_px, self.fill = size_px, tuple(fill)
        self.jitter_scales, self.flip_prob = tuple(jitter_scales), flip_prob

    def choose_placement(self, size: tuple[int, int]) -> Placement:
        """Where a picture of this height and width goes."""
        if self.jitter_scales:
            return draw_placement(size, self.size_px, scales=self.jitter_scales, flip_prob=self.flip_prob)
        return fit_placement(size, self.size_px)

    def place(self, picture: Tensor, placement: Placement) -> Tensor:
        """A picture, uint8 (H, W, 3), in its square, uint8 (3, size_px, size_px)."""
        return place_picture(picture, placement, self.size_px, self.fill)

    def make_target(self, masks: Tensor, labels: Tensor, placement: Placement) -> dict[str, Tensor]:
        """What training learns from: things of which something is left, with boxes of what is left.

        Args:
            masks: uint8 (n, H, W).
            labels: int64 (n,).
            placement: of their picture.

        Returns:
            ``boxes`` float32 (m, 4), ``labels`` int64 (m,), ``masks`` uint8 (m, size_px, size_px).
        """
        placed = place_masks(masks, placement, self.size_px)
        is_left = placed.flatten(1).any(dim=1).bool()
        placed = placed[is_left]
        return {"boxes": compute_boxes(placed), "labels": labels[is_left], "masks": placed}


def build_detection_transform(cfg: CfgNode, *, size_px: int, is_training: bool = False) -> DetectionTransform:
    """The transform of training, with large-scale jitter, or of testing."""
    return DetectionTransform(
        size_px,
        fill=[round(255 * value) for value in cfg.DATA.MEAN],
        jitter_scales=cfg.DETECTOR.JITTER_SCALES if is_training else (),
        flip_prob=0.5 if is_training and cfg.DATA.RANDOM_FLIP else 0.0,
    )


def _scale(size: tuple[int, int], factor: float) -> tuple[int, int]:
    height, width = (max(round(side * factor), 1) for side in size)
    return height, width


def _find_nearest(start: int, count: int, ratio: float, length: int) -> Tensor:
    """For pixels start ... start + count - 1 of a scaled line, the pixels of the line that lie nearest: int64."""
    centers = (torch.arange(start, start + count, dtype=torch.float64) + 0.5) * ratio
    return centers.floor().long().clamp(0, length - 1)
