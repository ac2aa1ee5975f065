"""The clips of the motion data set: a shape that moves along one axis of a torus, drawn and written as H.264."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

X_AXIS, Y_AXIS, TURN_AXIS, SIZE_AXIS = range(4)

# Label -> name, axis of the torus, direction. Names are Something-Something templates without their brackets.
CLASSES = (
    ("Moving something left", X_AXIS, -1),
    ("Moving something right", X_AXIS, 1),
    ("Moving something up", Y_AXIS, -1),
    ("Moving something down", Y_AXIS, 1),
    ("Growing something", SIZE_AXIS, 1),
    ("Shrinking something", SIZE_AXIS, -1),
    ("Turning something clockwise", TURN_AXIS, 1),
    ("Turning something counter-clockwise", TURN_AXIS, -1),
)
SPEED_RANGE = (0.015, 0.03)  # of an axis a frame
SIZE_RANGE = (0.16, 0.36)  # reach of the shape from its center, of the picture's side
NOISE_RANGE = (1.0, 8.0)  # standard deviation of the pixels' noise, in levels
# In levels. Shapes are always brighter than their background: were some darker, a model would first have to learn that
# an edge may have either sign, and that takes many times more clips.
BACKGROUND_RANGE = (20, 110)
SHAPE_RANGE = (150, 255)
MASK_PX = 96


def draw_states(rng: np.random.Generator, *, label: int, num_frames: int) -> np.ndarray:
    """Places on the torus, float64 (num_frames, 4) in [0, 1): x, y, turn (clockwise), logarithm of size.

    Each row alone is uniform, whatever the label.
    """
    _, axis, direction = CLASSES[label]
    start = rng.random(4)
    velocity = np.zeros(4)
    velocity[axis] = direction * rng.uniform(*SPEED_RANGE)
    return (start + np.arange(num_frames)[:, None] * velocity) % 1.0


def render_clip(rng: np.random.Generator, states: np.ndarray, *, size_px: int) -> np.ndarray:
    """Pictures of a shape in these states, uint8 (T, H, W, 3)."""
    background = draw_background(rng, size_px)  # (3, H, W)
    color = rng.uniform(*SHAPE_RANGE, size=(3, 1, 1)).astype(np.float32)
    difference = color - background
    mask = draw_shape(rng)
    noise_levels = np.float32(rng.uniform(*NOISE_RANGE))
    pictures = np.empty((len(states), 3, size_px, size_px), np.uint8)
    for picture, state in zip(pictures, states, strict=True):  # one at a time stays in the processor's cache
        noise = rng.standard_normal((size_px, size_px), dtype=np.float32) * noise_levels
        levels = background + noise + difference * sample_mask(mask, state, size_px=size_px)
        picture[:] = np.clip(levels, 0, 255, out=levels)
    return pictures.transpose(0, 2, 3, 1)  # (T, H, W, 3)


def sample_mask(mask: np.ndarray, state: np.ndarray, *, size_px: int) -> np.ndarray:
    """How much each pixel is covered by the shape, float32 (H, W) in [0, 1]; the shape wraps around the borders."""
    x, y, turn, log_size = state.tolist()
    grid = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px
    dx = (grid - x + 0.5) % 1.0 - 0.5  # (W,), to the nearest copy of the center
    dy = (grid - y + 0.5) % 1.0 - 0.5  # (H,)
    smallest, largest = SIZE_RANGE
    scale = MASK_PX / 2 / (smallest * (largest / smallest) ** log_size)
    cos, sin = scale * math.cos(2 * math.pi * turn), scale * math.sin(2 * math.pi * turn)
    # y points down, so this undoes a clockwise turn.
    columns = (MASK_PX / 2 + cos * dx) + (sin * dy)[:, None]  # (H, W)
    rows = (MASK_PX / 2 - sin * dx) + (cos * dy)[:, None]
    # The mask's margin is empty, so places beyond it can be clamped.
    columns, rows = (np.clip(places, 0, MASK_PX - 1).astype(np.intp) for places in (columns, rows))
    return mask.ravel().take(rows * MASK_PX + columns)


def draw_shape(rng: np.random.Generator) -> np.ndarray:
    """A soft-edged pinwheel, float32 (MASK_PX, MASK_PX) in [0, 1]: a regular polygon with one to three blades.

    A blade is brightest at its clockwise edge and fades out behind it. So a small part of two pictures shows which way
    it turns, as it does for a shape that grows; turning shapes without such edges take a model many times more clips.
    """
    grid = (np.arange(MASK_PX, dtype=np.float32) + 0.5) / (MASK_PX / 2) - 1
    x, y = grid[None, :], grid[:, None]
    corners, blades, start = rng.integers(3, 9), rng.integers(1, 4), rng.random()
    angle = np.arctan2(y, x) % (2 * np.pi)  # y points down, so it grows clockwise
    sector = 2 * np.pi / corners
    rim = 0.9 * np.cos(sector / 2) / np.cos(angle % sector - sector / 2)
    inside = np.clip(0.5 + (rim - np.hypot(x, y)) / 0.08, 0.0, 1.0)
    brightness = 0.2 + 0.8 * ((blades * angle / (2 * np.pi) + start) % 1.0)
    return (inside * brightness).astype(np.float32)


def draw_background(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """A still picture of soft color patches, float32 (3, H, W)."""
    cells = int(rng.integers(2, 7))
    base, contrast = rng.uniform(*BACKGROUND_RANGE, size=(3, 1, 1)), rng.uniform(3, 30)
    patches = (base + contrast * rng.standard_normal((3, cells, cells))).astype(np.float32)
    weights = _make_interpolation(cells, size_px)  # (size_px, cells)
    return np.clip(weights @ patches @ weights.T, 0, 255)


def _make_interpolation(cells: int, size_px: int) -> np.ndarray:
    places = np.linspace(0, cells - 1, size_px, dtype=np.float32)
    return np.maximum(0, 1 - abs(places[:, None] - np.arange(cells, dtype=np.float32)))


def write_video(path: Path, pictures: np.ndarray, *, fps: int) -> None:
    """Writes uint8 (T, H, W, 3) as H.264 in MP4; the file appears when it is complete."""
    height, width = pictures.shape[1:3]
    part = path.with_suffix(".part.mp4")
    # x264's mbtree reads memory that it has not set, so the same pictures would give other bytes now and then.
    options = {"preset": "veryfast", "crf": "23", "threads": "1", "x264-params": "mbtree=0"}
    with av.open(str(part), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    os.replace(part, path)
