"""Boxes, masks and labels drawn on a picture."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from hiera_video.report.overlay import load_font

_MASK_OPACITY = 0.45
_GOLDEN = 0.618034  # hues at multiples of it lie far apart
_LINES_IN_SIDE = 28  # how many lines of text would fill the shorter side
_MIN_SIZE_PX = 11
_PADDING_PX = 2


def get_color(number: int) -> tuple[int, int, int]:
    """A bright color for each class: red, green, blue in [0, 255]."""
    hue = (0.02 + number * _GOLDEN) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_detections(
    picture: np.ndarray,
    boxes: np.ndarray,
    masks: np.ndarray,
    names: Sequence[str],
    colors: Sequence[int],
    *,
    font_path: str = "",
) -> np.ndarray:
    """A copy of a picture with what was found on it.

    Args:
        picture: uint8 (H, W, 3).
        boxes: (n, 4) as x1, y1, x2, y2 in px.
        masks: (n, H, W) of zeros and ones.
        names: n labels, each on a plate in the color of its box, above the box or, at the upper edge, inside it.
        colors: of each thing, a number for `get_color`.
        font_path: a font file to use before those of the system.

    Returns:
        uint8 (H, W, 3).
    """
    if not len(boxes):
        return picture.copy()
    palette = [get_color(color) for color in colors]
    pixels = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))  # (3, H, W)
    pixels = draw_segmentation_masks(pixels, torch.from_numpy(masks).bool(), alpha=_MASK_OPACITY, colors=list(palette))
    height, width = picture.shape[:2]
    line = max(round(min(height, width) / 240), 1)
    pixels = draw_bounding_boxes(pixels, torch.from_numpy(boxes), colors=list(palette), width=line)
    drawn = Image.fromarray(pixels.numpy().transpose(1, 2, 0))
    pen = ImageDraw.Draw(drawn)
    font = load_font(max(_MIN_SIZE_PX, min(height, width) // _LINES_IN_SIDE), "".join(names), font_path=font_path)
    for box, name, color in zip(boxes.tolist(), names, palette, strict=True):
        left, top, right, bottom = pen.textbbox((0, 0), name, font=font)
        plate_w, plate_h = right - left + 2 * _PADDING_PX, bottom - top + 2 * _PADDING_PX
        x = min(max(box[0], 0), max(width - plate_w, 0))
        y = box[1] - plate_h if box[1] >= plate_h else max(box[1], 0)
        pen.rectangle([x, y, x + plate_w, y + plate_h], fill=color)
        ink = (0, 0, 0) if np.dot(color, (0.299, 0.587, 0.114)) > 110 else (255, 255, 255)
        pen.text((x + _PADDING_PX - left, y + _PADDING_PX - top), name, fill=ink, font=font)
    return np.asarray(drawn)
