"""Heat laid over the frames of a clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

_SMALLEST_PX = 224  # of a shown frame's shorter side
_DIM = 0.6  # how bright the frames below the heat are
_WARM, _WARMEST, _COLD = np.array([232.0, 80, 20]), np.array([255.0, 222, 80]), np.array([40.0, 120, 255])
_MOST_OPAQUE = 0.75


def enlarge(frames: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, 3) with each pixel repeated until the shorter side has at least 224 px."""
    times = -(-_SMALLEST_PX // min(frames.shape[1:3]))
    return frames.repeat(times, axis=1).repeat(times, axis=2)


def spread(heat: np.ndarray, size: Sequence[int], *, smoothly: bool = False) -> np.ndarray:
    """A map (t, h, w) in the size of a clip (T, H, W), float32: in blocks, or with smooth transitions."""
    grid = torch.from_numpy(np.ascontiguousarray(heat, dtype=np.float32))[None, None]
    if smoothly:
        return F.interpolate(grid, size=tuple(size), mode="trilinear", align_corners=False)[0, 0].numpy()
    return F.interpolate(grid, size=tuple(size), mode="nearest-exact")[0, 0].numpy()


def paint_heat(frames: np.ndarray, heat: np.ndarray, *, limit: float) -> np.ndarray:
    """Lays heat over dimmed gray frames.

    Args:
        frames: uint8 (T, H, W, 3).
        heat: float (T, H, W): above 0 orange to yellow, below 0 blue, at 0 nothing.
        limit: from which value on, or below its negative, the color is strongest; 0 paints nothing.

    Returns:
        uint8 (T, H, W, 3).
    """
    gray = frames.mean(axis=-1, keepdims=True, dtype=np.float32) * _DIM  # (T, H, W, 1)
    strength = np.clip(heat / limit if limit > 0 else np.zeros_like(heat), -1, 1)[..., None]  # (T, H, W, 1)
    warm = _WARM + (_WARMEST - _WARM) * np.maximum(strength, 0)
    opacity = np.abs(strength) * _MOST_OPAQUE
    color = np.where(strength >= 0, warm, _COLD)
    return np.rint(gray * (1 - opacity) + color * opacity).astype(np.uint8)


def draw_box(frame: np.ndarray, box: Sequence[int]) -> np.ndarray:
    """A copy of a frame, uint8 (H, W, 3), with a white line on a black one around [top, left, bottom, right)."""
    top, left, bottom, right = box
    drawn = frame.copy()
    for color, inset in ((0, 0), (255, 2)):
        for line in range(inset, inset + 2):
            inside = drawn[top + line : bottom - line, left + line : right - line]
            if inside.size:
                inside[[0, -1]] = color
                inside[:, [0, -1]] = color
    return drawn
